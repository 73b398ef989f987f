//! `push.call_ended`: a phone that was pushed and has not come is told that its call is over.

use sip_push_proxy::push::{EndReason, Notice, Outcome};
use sip_push_proxy::sip::Transport;

use crate::agent::Answer;
use crate::sim::{Phone, Sim, ms, s};

fn sim() -> Sim {
    Sim::with(|policy| policy.push_call_ended = true)
}

fn asleep(sim: &Sim, name: &str) -> Phone {
    let phone = sim.device("alice", name, Transport::Udp);
    phone.registers();
    phone.sleeps();
    phone
}

/// Whom the push service was told that a call is over, and why.
fn told(sim: &Sim) -> Vec<(String, EndReason)> {
    let world = sim.world();
    let told = world.pushes.sent.iter().filter_map(|push| match &push.notice {
        Notice::CallEnded { reason, .. } => Some((push.target.prid.reveal().to_owned(), *reason)),
        Notice::Invite { .. } | Notice::Message | Notice::MissedCalls(_) => None,
        Notice::Register { .. } | Notice::Test | Notice::Text { .. } => None,
    });
    told.collect()
}

#[test]
fn a_caller_who_gives_up_and_a_wait_that_ends_are_told() {
    for (waits, reason) in [(s(2), EndReason::Cancelled), (s(40), EndReason::Timeout)] {
        let sim = sim();
        let alice = asleep(&sim, "alice");
        let call = sim.switch().invites("alice");
        sim.run_for(waits);
        if reason == EndReason::Cancelled {
            call.cancels("");
        }
        sim.run_for(s(1));
        assert_eq!(told(&sim), [("token-alice".to_owned(), reason)]);
        // It is told of the missed call as ever.
        alice.registers();
        sim.run_for(ms(100));
        assert_eq!(sim.push().reported(), [call.call_ref()]);
    }
}

#[test]
fn what_another_phone_answers_is_told_to_those_that_have_not_come() {
    let sim = sim();
    let (one, _other) = (asleep(&sim, "one"), asleep(&sim, "other"));
    one.wakes_on_push(s(1)).does(Answer::Answers(s(1)));
    let call = sim.switch().asks("INVITE", "sip:alice@example.org", |draft| draft);
    sim.run_for(s(5));
    assert_eq!(call.status(), Some(200));
    assert_eq!(told(&sim), [("token-other".to_owned(), EndReason::AnsweredElsewhere)]);
}

#[test]
fn who_has_come_or_was_never_told_of_the_call_is_not_told_of_its_end() {
    let sim = sim();
    let alice = asleep(&sim, "alice");
    alice.wakes_on_push(s(1));
    let call = sim.switch().invites("alice");
    sim.run_for(s(3));
    call.cancels("");
    sim.run_for(s(1));
    assert_eq!(told(&sim), []);

    sim.push().next("alice", Outcome::Refused { reason: "no".into() });
    alice.sleeps();
    sim.switch().invites("alice");
    sim.run_for(s(3));
    assert_eq!(told(&sim), []);
}

#[test]
fn an_iphone_is_told_by_its_remote_token_alone() {
    for (prid, param, is_told) in [("aa:voip&bb:remote", "voip&remote", true), ("aa", "voip", false)] {
        let sim = sim();
        let alice = sim.phone("alice");
        let push = format!(";pn-provider=apns;pn-param=DEF123GHIJ.org.example.{param};pn-prid={prid}");
        alice.change(|agent| agent.device.push = push);
        alice.registers();
        alice.sleeps();
        let call = sim.switch().invites("alice");
        sim.run_for(s(1));
        call.cancels("");
        sim.run_for(s(1));
        assert_eq!(told(&sim).len(), usize::from(is_told), "{param}");
    }
}
