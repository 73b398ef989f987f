//! Several devices of one user.

use sip_push_proxy::push::Outcome;
use sip_push_proxy::sip::{HeaderName, Transport};
use sip_push_proxy::store::EntryState;

use crate::agent::Answer;
use crate::sim::{Phone, Request, Sim, ms, s};

/// Two sleeping phones of alice, and a call to both.
fn call(sim: &Sim) -> (Phone, Phone, Request) {
    let (one, two) = (sim.device("alice", "one", Transport::Udp), sim.device("alice", "two", Transport::Udp));
    for phone in [&one, &two] {
        phone.registers();
        phone.sleeps();
    }
    let call = sim.switch().asks("INVITE", "sip:alice@example.org", |draft| draft);
    sim.run_for(ms(100));
    (one, two, call)
}

#[test]
fn the_first_answer_wins_and_the_other_is_cancelled_with_the_reason() {
    let sim = Sim::new();
    let (one, two, call) = call(&sim);
    sim.push().expects(2);
    one.registers();
    two.registers();
    sim.run_for(s(1));
    two.picks_up();
    sim.run_for(s(1));
    call.expects(&[100, 182, 180, 200]);
    assert_eq!(
        one.got("CANCEL")[0].first(HeaderName::Reason).unwrap(),
        b"SIP;cause=200;text=\"Call completed elsewhere\""
    );
    assert_eq!((two.acks(), one.acks()), (1, 0));
    assert_eq!((one.bucket(), two.bucket()), (vec![], vec![]));
}

#[test]
fn a_device_that_still_sleeps_when_the_other_answers_misses_nothing() {
    let sim = Sim::new();
    let (one, two, call) = call(&sim);
    one.does(Answer::Answers(s(1)));
    one.registers();
    sim.run_for(s(2));
    assert_eq!(call.status(), Some(200));
    assert_eq!(two.bucket(), []);
    two.registers();
    two.expects_invites(0);
    sim.run_for(s(1));
    assert_eq!(sim.push().reported(), [""; 0]);
}

#[test]
fn a_decline_ends_the_call_for_all() {
    let sim = Sim::new();
    let (one, two, call) = call(&sim);
    two.registers();
    one.does(Answer::Refuses(603));
    one.registers();
    sim.run_for(s(1));
    call.expects(&[100, 182, 180, 603]);
    assert_eq!(two.got("CANCEL").len(), 1);
    assert_eq!((one.bucket(), two.bucket()), (vec![], vec![]));
}

#[test]
fn a_busy_one_leaves_time_for_the_other_that_sleeps() {
    let sim = Sim::new();
    let (one, two, call) = call(&sim);
    one.does(Answer::Refuses(486));
    one.registers();
    sim.run_for(s(5));
    assert_eq!(call.status(), None);
    two.does(Answer::Answers(s(1)));
    two.registers();
    sim.run_for(s(2));
    call.expects(&[100, 182, 180, 200]);
}

#[test]
fn a_busy_one_is_the_answer_when_the_other_never_comes() {
    let sim = Sim::new();
    let (one, two, call) = call(&sim);
    one.does(Answer::Refuses(486));
    one.registers();
    sim.run_for(s(30));
    call.expects(&[100, 182, 486]);
    assert_eq!(one.bucket(), []);
    assert_eq!(two.bucket(), [(call.call_ref(), EntryState::Missed)]);
}

#[test]
fn a_dead_token_of_one_does_not_hinder_the_other() {
    let sim = Sim::new();
    sim.push().next("one", Outcome::TokenDead { since: None, reason: "UNREGISTERED".into() });
    let (one, two, call) = call(&sim);
    two.does(Answer::Answers(s(1)));
    two.registers();
    sim.run_for(s(2));
    assert_eq!(call.status(), Some(200));
    assert_eq!(one.bindings(), 1);
}

#[test]
fn two_answers_at_once_both_go_to_the_caller() {
    let sim = Sim::new();
    let (one, two, call) = call(&sim);
    one.registers();
    two.registers();
    sim.run_for(s(1));
    one.picks_up();
    two.picks_up();
    sim.run_for(s(2));
    assert_eq!(call.status(), Some(200));
    assert_eq!((one.acks(), two.acks()), (1, 1), "the caller acknowledges both, and ends one of them");
}
