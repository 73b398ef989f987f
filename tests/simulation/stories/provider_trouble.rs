//! A provider that has trouble, behind the breaker that it is asked through: which calls are lost by it.

use sip_push_proxy::proxy;
use sip_push_proxy::push::{Breaker, BreakerSettings};
use sip_push_proxy::timeline::{Reason, Step};

use crate::agent::Answer;
use crate::request::Request;
use crate::sim::{Phone, Sim, ms, s};

/// A provider that works, and its breaker.
fn sim() -> Sim {
    let sim = Sim::new();
    sim.world().pushes.breaker = Some(Breaker::new(BreakerSettings::default()));
    sim
}

/// A phone that sleeps, and that answers a second after a push has woken it.
fn sleeper(sim: &Sim, name: &str) -> Phone {
    let phone = sim.phone(name);
    phone.wakes_on_push(ms(100)).does(Answer::Answers(s(1)));
    phone.registers();
    phone.sleeps();
    phone
}

/// It fails whatever it gets from now on, for so long.
fn fails_for(sim: &Sim, time: std::time::Duration) {
    let world = &mut *sim.world();
    let now = world.now.instant;
    world.pushes.outages.push(now..now + time);
}

fn calls(sim: &Sim, names: &[String]) -> Vec<Request> {
    let calls = names.iter().map(|name| {
        sim.run_for(ms(200));
        sim.switch().invites(name)
    });
    calls.collect()
}

/// Whether the story of a call has a step for this reason.
fn has_reason(sim: &Sim, call: &Request, reason: Reason) -> bool {
    let call_ref = call.call_ref();
    let world = sim.world();
    let mut steps = world.ledger.steps.iter().filter(|step| *step.call_ref == *call_ref);
    steps.any(|step| step.why.as_ref().is_some_and(|why| why.reason == reason))
}

/// Those of `calls` that were not answered.
fn lost(calls: &[Request]) -> Vec<Option<u16>> {
    calls.iter().map(Request::status).filter(|status| *status != Some(200)).collect()
}

fn sleepers(sim: &Sim, name: &str, count: usize) -> Vec<String> {
    let names: Vec<_> = (0..count).map(|number| format!("{name}{number}")).collect();
    names.iter().for_each(|name| drop(sleeper(sim, name)));
    names
}

#[test]
fn a_blip_of_the_provider_is_no_outage() {
    let sim = sim();
    let names = sleepers(&sim, "user", 100);
    let mut all = calls(&sim, &names[..20]);
    fails_for(&sim, ms(1500));
    all.extend(calls(&sim, &names[20..]));
    sim.run_for(s(30));
    assert_eq!(lost(&all), [], "of {}", all.len());
    assert!(all.iter().any(|call| has_reason(&sim, call, Reason::ProviderPaused)), "the breaker was open");
}

#[test]
fn calls_that_are_to_be_tried_again_when_the_breaker_opens_go_on() {
    let sim = sim();
    let names = sleepers(&sim, "user", 10);
    fails_for(&sim, s(4));
    // Each has been refused once, and the tenth has opened the breaker, before any is tried again.
    let all: Vec<_> = names.iter().map(|name| sim.switch().invites(name)).collect();
    sim.run_for(ms(100));
    assert!(sim.world().pushes.breaker.as_ref().is_some_and(Breaker::is_open));
    sim.run_for(s(30));
    assert_eq!(lost(&all), []);
    assert!(all.iter().all(|call| has_reason(&sim, call, Reason::ProviderFailing)));
}

#[test]
fn trouble_that_ends_within_the_wait_is_outlasted() {
    let sim = sim();
    sleeper(&sim, "alice");
    fails_for(&sim, ms(26_500));
    let call = sim.switch().invites("alice");
    sim.run_for(s(27));
    call.expects(&[100, 182]);
    sim.run_for(s(3));
    assert_eq!(call.status(), Some(200));
}

#[test]
fn what_still_waits_at_the_end_of_a_long_outage_is_pushed_then() {
    let sim = sim();
    let names = sleepers(&sim, "user", 20);
    fails_for(&sim, s(300));
    calls(&sim, &sleepers(&sim, "early", 20));
    sim.run_for(s(270));
    let late = calls(&sim, &names);
    sim.run_for(s(23));
    assert!(late.iter().all(|call| call.status().is_none() && call.story().len() < 20), "{:?}", late[0].story());
    sim.run_for(s(8));
    assert_eq!(lost(&late), []);
}

/// The provider says for how long it is not to be asked.
#[test]
fn an_outage_beyond_the_wait_ends_calls_early_and_says_why() {
    let sim = sim();
    sim.world().pushes.retry_after = Some(s(60));
    fails_for(&sim, s(600));
    calls(&sim, &sleepers(&sim, "user", 50));
    sim.run_for(s(120));
    let names = sleepers(&sim, "late", 100);
    let late = calls(&sim, &names);
    sim.run_for(s(5));
    assert!(late.iter().any(|call| call.status() == Some(480) && has_reason(&sim, call, Reason::ProviderPaused)));
    sim.run_for(s(60));
    assert!(late.iter().all(|call| call.status() == Some(480)));
    let is_asked = |outcome: &proxy::Outcome| *outcome == proxy::Outcome::Answered;
    assert!(!sim.world().ledger.outcomes.iter().any(is_asked));
    // Somebody has to call, so that it is seen to work again.
    sim.run_for(s(600));
    let again = calls(&sim, &sleepers(&sim, "again", 20));
    sim.run_for(s(30));
    assert_eq!(lost(&again), []);
}

#[test]
fn one_phone_that_always_fails_closes_nothing_for_the_others() {
    let sim = sim();
    sim.world().pushes.bad.push("token-bad".into());
    sleeper(&sim, "bad");
    // Its caller dials again and again.
    let bad: Vec<_> = (0..20).map(|_| "bad".to_owned()).collect();
    let bad = calls(&sim, &bad);
    sim.run_for(s(3));
    let others = calls(&sim, &sleepers(&sim, "user", 12));
    sim.run_for(s(5));
    assert_eq!(lost(&others), []);
    assert!(!others.iter().any(|call| call.story().contains(&Step::PushRetried)), "they are pushed at once");
    sim.run_for(s(30));
    assert!(bad.iter().all(|call| call.status() == Some(480)));
}

#[test]
fn a_phone_that_always_fails_does_not_have_each_probe() {
    let sim = sim();
    sim.world().pushes.bad.push("token-bad".into());
    sleeper(&sim, "bad");
    let names = sleepers(&sim, "user", 12);
    fails_for(&sim, s(3));
    let others: Vec<_> = names.iter().map(|name| sim.switch().invites(name)).collect();
    sim.run_for(ms(100));
    // Its caller dials twice a second, so that it is there whenever a pause is over.
    let bad = (0..40).map(|_| {
        sim.run_for(ms(500));
        sim.switch().invites("bad")
    });
    let bad: Vec<_> = bad.collect();
    sim.run_for(s(10));
    assert_eq!(lost(&others), []);
    sim.run_for(s(30));
    assert!(bad.iter().all(|call| call.status() == Some(480)));
}
