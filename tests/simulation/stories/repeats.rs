//! `push.repeat_s`: what a provider took may be lost, or late.

use std::time::Duration;

use sip_push_proxy::binding::Provider;
use sip_push_proxy::push::{Outcome, Trouble};
use sip_push_proxy::sip::Transport;

use crate::agent::Answer;
use crate::sim::{Phone, PushDouble, Request, Sim, ms, s};

fn sim() -> Sim {
    Sim::with(|policy| policy.push_repeat = [s(3), s(8)].into())
}

/// Alice, who sleeps, and a call to her.
fn called(sim: &Sim) -> (Phone, Request, PushDouble) {
    let alice = sim.phone("alice");
    alice.registers();
    alice.sleeps();
    let push = sim.push();
    (alice, sim.switch().invites("alice"), push)
}

fn trouble(after: Option<Duration>) -> Outcome {
    Outcome::TryAgain { trouble: Trouble::Failing, after, reason: "503".into() }
}

#[test]
fn a_push_that_brought_nobody_is_repeated() {
    let sim = sim();
    let (alice, call, mut push) = called(&sim);
    sim.run_for(ms(2900));
    push.expects(1);
    sim.run_for(ms(300));
    push.expects(1);
    sim.run_for(s(5));
    push.expects(1);
    sim.run_for(s(15));
    push.expects(0);
    alice.does(Answer::Answers(s(1)));
    alice.registers();
    sim.run_for(s(2));
    assert_eq!(call.status(), Some(200));
    let names: Vec<_> = sim.world().pushes.sent.iter().map(|push| push.is_repeat).collect();
    assert_eq!(names, [false, true, true]);
}

#[test]
fn a_phone_that_has_come_is_not_pushed_again() {
    let sim = sim();
    let (alice, call, mut push) = called(&sim);
    sim.run_for(s(1));
    push.expects(1);
    alice.registers();
    sim.run_for(s(20));
    push.expects(0);
    call.cancels("");
}

#[test]
fn a_call_that_is_over_is_not_pushed_again() {
    let sim = sim();
    let (_alice, call, mut push) = called(&sim);
    sim.run_for(s(1));
    call.cancels("");
    sim.run_for(s(20));
    push.expects(1);
}

#[test]
fn repetitions_count_from_the_push_that_was_taken() {
    let sim = sim();
    sim.push().next("alice", trouble(Some(s(2))));
    let (_alice, call, mut push) = called(&sim);
    sim.run_for(s(3));
    push.expects(2);
    sim.run_for(s(1));
    push.expects(0);
    sim.run_for(s(2));
    push.expects(1);
    call.cancels("");
}

#[test]
fn whatever_becomes_of_a_repetition_the_phone_is_waited_for() {
    let outcomes = [
        Outcome::TokenDead { since: None, reason: "UNREGISTERED".into() },
        Outcome::Refused { reason: "no".into() },
        Outcome::Limited,
        trouble(None),
        trouble(Some(s(60))),
        Outcome::Skipped { after: s(100), reason: "not asked for a moment".into() },
    ];
    for outcome in outcomes {
        let sim = sim();
        let (alice, call, _push) = called(&sim);
        sim.run_for(s(1));
        sim.push().next("alice", outcome.clone());
        sim.run_for(s(20));
        assert_eq!(call.status(), None, "{outcome:?}");
        alice.does(Answer::Answers(s(1)));
        alice.registers();
        sim.run_for(s(2));
        assert_eq!(call.status(), Some(200), "{outcome:?}");
    }
}

#[test]
fn trouble_with_a_repetition_is_tried_again() {
    let sim = sim();
    let (_alice, call, mut push) = called(&sim);
    sim.run_for(s(1));
    push.expects(1);
    sim.push().next("alice", trouble(Some(s(1))));
    sim.run_for(s(5));
    push.expects(2);
    call.cancels("");
}

/// As iPhones are: what was to be tried again before the phone came, and lost its connection, is no repetition.
#[test]
fn a_retry_that_is_out_of_date_repeats_nothing() {
    let sim = sim();
    sim.world().pushes.not_repeatable = vec![Provider::Fcm];
    let alice = sim.device("alice", "alice", Transport::Tcp);
    alice.registers();
    alice.sleeps();
    sim.push().next("alice", trouble(Some(s(2))));
    let call = sim.switch().invites("alice");
    sim.run_for(ms(500));
    // It comes by itself, its connection breaks before it has the INVITE, and it is waited for.
    alice.is_back();
    let contact = sim.world().agents[alice.agent].contact();
    alice.sends_register(Some(contact));
    sim.run_for(ms(4));
    alice.sleeps();
    sim.run_for(s(20));
    assert_eq!(sim.push().kinds().len(), 1);
    call.cancels("");
}

#[test]
fn a_push_that_may_not_be_repeated_is_not() {
    let sim = sim();
    sim.world().pushes.not_repeatable = vec![Provider::Fcm];
    let (_alice, call, mut push) = called(&sim);
    sim.run_for(s(20));
    push.expects(1);
    call.cancels("");
}

/// The phone has no token any more, and its connection is open.
#[test]
fn a_phone_that_no_push_reaches_is_called_on_its_connection() {
    let dead = Outcome::TokenDead { since: None, reason: "UNREGISTERED".into() };
    for outcome in
        [dead, Outcome::Misfit { reason: "SENDER_ID_MISMATCH".into() }, Outcome::Refused { reason: "no".into() }]
    {
        for is_awake in [true, false] {
            let sim = sim();
            let alice = sim.device("alice", "alice", Transport::Tcp);
            alice.registers();
            alice.does(Answer::Answers(s(1)));
            if !is_awake {
                alice.sleeps();
            }
            sim.push().next("alice", outcome.clone());
            let call = sim.switch().invites("alice");
            sim.run_for(s(3));
            assert_eq!(call.status(), Some(if is_awake { 200 } else { 480 }), "{outcome:?}");
            assert_eq!(sim.push().kinds().len(), 1);
        }
    }
}

/// A call finds its token dead, and it goes on being called for as long as it is there.
#[test]
fn a_dead_token_does_not_end_a_phone_whose_connection_is_open() {
    let sim = sim();
    let alice = sim.device("alice", "alice", Transport::Tcp);
    alice.registers();
    alice.does(Answer::Answers(s(1)));
    // It is called without a REGISTER in between.
    sim.world().ledger.is_lenient = true;
    sim.world().pushes.dead.insert("token-alice".into());
    for _ in 0..3 {
        let call = sim.switch().invites("alice");
        sim.run_for(s(5));
        assert_eq!((call.status(), alice.bindings()), (Some(200), 1));
    }
    assert_eq!(sim.push().kinds().len(), 1);
    alice.sleeps();
    let call = sim.switch().invites("alice");
    sim.run_for(s(3));
    assert_eq!((call.status(), alice.bindings()), (Some(480), 0));
    assert_eq!(sim.push().kinds().len(), 1);
}
