//! Phones that answer their push by the connection that they have, without a REGISTER.

use sip_push_proxy::push::{Outcome, Trouble};
use sip_push_proxy::sip::Transport;

use crate::agent::Answer;
use crate::sim::{Phone, Request, Sim, ms, s};

/// A call to a phone that has registered by its connection, a moment later.
fn called(sim: &Sim) -> (Phone, Request) {
    let alice = sim.device("alice", "alice", Transport::Tcp);
    alice.does(Answer::Answers(s(1))).registers();
    let call = sim.switch().invites("alice");
    sim.run_for(ms(100));
    (alice, call)
}

#[test]
fn a_keep_alive_after_the_push_brings_the_invite() {
    let sim = Sim::with(|policy| policy.push_repeat = [s(3)].into());
    let (alice, call) = called(&sim);
    sim.run_for(s(1));
    alice.expects_invites(0);
    alice.keeps_alive();
    sim.run_for(s(1));
    alice.keeps_alive();
    alice.expects_invites(1);
    sim.run_for(s(5));
    call.expects(&[100, 182, 180, 200]);
    sim.push().expects(1);
}

#[test]
fn so_does_a_request() {
    let sim = Sim::new();
    let (alice, call) = called(&sim);
    alice.asks("OPTIONS", "sip:192.0.2.10", |draft| draft);
    sim.run_for(s(3));
    alice.expects_invites(1);
    call.expects(&[100, 182, 180, 200]);
}

#[test]
fn an_open_connection_alone_is_no_sign_nor_is_what_came_before_the_push() {
    let sim = Sim::new();
    sim.push().takes(s(5));
    let (alice, call) = called(&sim);
    alice.keeps_alive();
    sim.run_for(s(4));
    alice.expects_invites(0);
    sim.run_for(s(10));
    alice.expects_invites(0);
    alice.keeps_alive();
    sim.run_for(s(3));
    assert_eq!(call.status(), Some(200));
}

/// A REGISTER that is challenged wakes nobody; the accepted one brings the INVITE after its 2xx, and once.
#[test]
fn a_register_goes_its_own_way() {
    let sim = Sim::new();
    let (alice, call) = called(&sim);
    sim.switch().registrar(crate::agent::Registrar::Challenges);
    assert_eq!(alice.tries_to_register().status(), Some(401));
    alice.expects_invites(0);
    alice.change(|agent| agent.device.password = Some(("secret".into(), "MD5")));
    alice.registers();
    alice.expects_invites(1);
    alice.keeps_alive();
    sim.run_for(s(3));
    alice.expects_invites(1);
    assert_eq!(call.status(), Some(200));
}

/// What was sent may have been its system's doing.
#[test]
fn a_phone_that_says_nothing_to_the_invite_is_waited_for_and_pushed_again() {
    let sim = Sim::with(|policy| policy.push_repeat = [s(3)].into());
    let (alice, call) = called(&sim);
    alice.does(Answer::Silent);
    alice.keeps_alive();
    sim.run_for(s(5));
    alice.expects_invites(1);
    sim.push().expects(2);
    alice.moves();
    alice.does(Answer::Answers(s(1))).registers();
    sim.run_for(s(3));
    assert_eq!(call.status(), Some(200));
}

#[test]
fn a_call_ends_with_its_wait_all_the_same() {
    let sim = Sim::new();
    let (alice, call) = called(&sim);
    alice.does(Answer::Silent);
    alice.keeps_alive();
    sim.run_for(s(40));
    assert_eq!(call.status(), Some(480));
    assert_eq!(alice.bucket().len(), 1);
}

#[test]
fn a_call_that_is_over_or_of_a_phone_that_has_left_is_brought_to_nobody() {
    let sim = Sim::new();
    let (alice, call) = called(&sim);
    call.cancels("");
    sim.run_for(ms(100));
    alice.keeps_alive();
    sim.run_for(s(1));
    alice.expects_invites(0);

    let (alice, call) = called(&sim);
    let expires = alice.expires();
    alice.change(|agent| agent.device.expires = Some(0));
    alice.registers();
    alice.change(|agent| agent.device.expires = expires);
    alice.keeps_alive();
    sim.run_for(s(1));
    alice.expects_invites(0);
    call.cancels("");
}

#[test]
fn behind_another_proxy_a_connection_is_not_the_phones() {
    let sim = Sim::new();
    let alice = sim.device("alice", "alice", Transport::Tcp);
    alice.change(|agent| agent.device.headers = vec!["Path: <sip:edge.example;lr>".into(), "Supported: path".into()]);
    alice.registers();
    let call = sim.switch().invites("alice");
    sim.run_for(ms(100));
    alice.keeps_alive();
    sim.run_for(s(1));
    alice.expects_invites(0);
    call.cancels("");
}

#[test]
fn a_push_that_comes_through_at_last_counts_from_then_on() {
    let sim = Sim::new();
    let push = sim.push();
    push.next("alice", Outcome::TryAgain { trouble: Trouble::Failing, after: Some(s(2)), reason: "503".into() });
    let (alice, call) = called(&sim);
    alice.keeps_alive();
    alice.expects_invites(0);
    sim.run_for(s(4));
    alice.keeps_alive();
    sim.run_for(s(3));
    assert_eq!(call.status(), Some(200));
}
