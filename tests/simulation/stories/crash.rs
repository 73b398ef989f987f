//! `kill -9` while a phone that is awake has the call: probed, ringing, or about to be answered.

use std::time::Duration;

use sip_push_proxy::proxy::policy::PushWhen;
use sip_push_proxy::push::NoticeKind;
use sip_push_proxy::sip::Transport;
use sip_push_proxy::store::{EntryState, HeldCall};

use crate::agent::Answer;
use crate::request::Request;
use crate::sim::{Phone, Sim, ms, s};

/// Alice, who is awake; a phone without push parameters is called at once.
fn awake(sim: &Sim, transport: Transport, is_pushable: bool) -> Phone {
    let alice = sim.device("alice", "alice", transport);
    if !is_pushable {
        alice.change(|agent| agent.device.push.clear());
    }
    alice.registers();
    alice
}

fn dies_for(sim: &Sim, time: Duration) {
    sim.world().ledger.is_lenient = true;
    sim.world().dies();
    sim.run_for(time);
    sim.world().starts();
}

/// A connection ends with the process; the phone notices it, and comes back.
fn comes_back(phone: &Phone) {
    phone.sleeps();
    phone.is_back();
}

#[test]
fn what_a_ringing_phone_answers_reaches_the_caller() {
    for ringing in [s(1), s(40), s(100)] {
        let sim = Sim::new();
        let alice = awake(&sim, Transport::Udp, false);
        let call = sim.switch().invites("alice");
        sim.run_for(ringing);
        dies_for(&sim, s(1));
        sim.run_for(s(1));
        alice.picks_up();
        sim.run_for(s(1));
        assert_eq!(call.status(), Some(200), "{ringing:?}");
        alice.expects_invites(1);
        assert_eq!(alice.acks(), 1);
        assert_eq!(sim.world().storage.table().call_count(), 0);
    }
}

#[test]
fn what_a_phone_that_was_woken_answers_reaches_the_caller_after_the_wait() {
    let sim = Sim::new();
    let alice = awake(&sim, Transport::Udp, true);
    alice.sleeps();
    let call = sim.switch().invites("alice");
    sim.run_for(s(2));
    alice.registers();
    sim.run_for(s(40));
    dies_for(&sim, s(1));
    sim.run_for(s(1));
    alice.picks_up();
    sim.run_for(s(1));
    assert_eq!(call.status(), Some(200));
}

#[test]
fn an_answer_that_nobody_heard_reaches_the_caller() {
    let sim = Sim::new();
    let alice = awake(&sim, Transport::Udp, false);
    let call = sim.switch().invites("alice");
    sim.run_for(s(3));
    sim.world().ledger.is_lenient = true;
    sim.world().dies();
    alice.picks_up();
    sim.run_for(s(1));
    sim.world().starts();
    sim.run_for(s(10));
    assert_eq!(call.status(), Some(200));
    assert!(alice.acks() > 0);
}

/// The caller does not get the 2xx that goes back, and the process dies before the phone repeats it.
#[test]
fn an_answer_that_is_lost_on_its_way_reaches_the_caller() {
    for is_pushable in [false, true] {
        let sim = Sim::with(|policy| policy.hold.push_when = PushWhen::Unreachable);
        let alice = awake(&sim, Transport::Udp, is_pushable);
        let call = sim.switch().invites("alice");
        sim.run_for(s(3));
        alice.picks_up();
        sim.run_for(Duration::ZERO);
        sim.world().network.loss = 1000;
        sim.run_for(ms(10));
        sim.world().network.loss = 0;
        assert_eq!(call.status(), None);
        dies_for(&sim, s(1));
        sim.run_for(s(5));
        assert_eq!(call.status(), Some(200), "{is_pushable}");
        assert!(alice.acks() > 0);
        alice.expects_invites(1);
        assert_eq!(sim.push().kinds().len(), 0);
        assert_eq!(sim.world().storage.table().call_count(), 0);
    }
}

#[test]
fn a_phone_whose_connection_is_gone_is_waited_for() {
    for is_pushable in [false, true] {
        for ringing in [s(1), s(40)] {
            let sim = Sim::with(|policy| policy.hold.push_when = PushWhen::Unreachable);
            let alice = awake(&sim, Transport::Tcp, is_pushable);
            alice.change(|agent| agent.answers_by_any_connection = true);
            let call = sim.switch().invites("alice");
            sim.run_for(ringing);
            assert_eq!(call.statuses().last(), Some(&180));
            dies_for(&sim, s(1));
            sim.run_for(s(5));
            assert_eq!(call.status(), None);
            comes_back(&alice);
            alice.does(Answer::Answers(s(1)));
            alice.registers();
            sim.run_for(s(3));
            alice.picks_up();
            sim.run_for(s(1));
            assert_eq!(call.status(), Some(200), "{is_pushable} {ringing:?}");
            assert_eq!(sim.push().kinds().len(), usize::from(is_pushable));
        }
    }
}

#[test]
fn a_phone_that_is_probed_is_probed_again() {
    let sim = Sim::with(|policy| policy.hold.push_when = PushWhen::Unreachable);
    let alice = awake(&sim, Transport::Udp, true);
    alice.sleeps();
    let call = sim.switch().invites("alice");
    sim.run_for(ms(500));
    dies_for(&sim, ms(500));
    sim.run_for(ms(700));
    sim.push().expects(0);
    sim.run_for(ms(300));
    sim.push().expects(1);
    alice.does(Answer::Answers(s(1)));
    alice.registers();
    sim.run_for(s(2));
    assert_eq!(call.status(), Some(200));
}

#[test]
fn the_caller_of_a_phone_that_is_gone_for_good_gets_a_final_response() {
    for transport in [Transport::Udp, Transport::Tcp] {
        for is_pushable in [false, true] {
            let sim = Sim::with(|policy| policy.hold.push_when = PushWhen::Unreachable);
            let alice = awake(&sim, transport, is_pushable);
            let call = sim.switch().invites("alice");
            sim.run_for(s(1));
            alice.sleeps();
            dies_for(&sim, s(1));
            sim.run_for(s(40));
            assert!(matches!(call.status(), Some(408 | 480)), "{transport:?} {is_pushable} {:?}", call.statuses());
        }
    }
}

#[test]
fn a_call_that_its_caller_has_surely_given_up_does_not_ring_again() {
    let sim = Sim::new();
    let alice = awake(&sim, Transport::Udp, false);
    let call = sim.switch().invites("alice");
    sim.run_for(s(1));
    alice.sleeps();
    dies_for(&sim, s(600));
    alice.is_back();
    sim.run_for(s(1));
    assert_eq!(call.status(), Some(480));
    sim.run_for(s(40));
    alice.expects_invites(1);
}

#[test]
fn a_phone_that_says_nothing_is_told_of_the_call() {
    let sim = Sim::with(|policy| policy.hold.fresh = s(60));
    let alice = awake(&sim, Transport::Udp, true);
    alice.sleeps();
    let call = sim.switch().invites("alice");
    sim.run_for(ms(100));
    dies_for(&sim, s(1));
    call.cancels("");
    sim.run_for(s(1));
    assert_eq!(call.status(), Some(487));
    assert_eq!(alice.bucket(), [(call.call_ref(), EntryState::Missed)]);
    alice.registers();
    sim.run_for(s(10));
    assert_eq!(sim.push().reported(), [call.call_ref()]);
}

/// Whenever it dies in the first moments of a call: before anything is durable, before the phone has heard anything, or
/// before the caller has.
#[test]
fn whenever_it_dies_the_phone_rings_once_and_the_caller_hears_it() {
    for is_pushable in [false, true] {
        for at in 0..30 {
            let sim = Sim::with(|policy| policy.hold.push_when = PushWhen::Unreachable);
            let alice = awake(&sim, Transport::Udp, is_pushable);
            alice.does(Answer::Answers(s(3)));
            let call = sim.switch().invites("alice");
            sim.run_for(ms(at));
            dies_for(&sim, ms(200));
            sim.run_for(s(10));
            assert_eq!(call.status(), Some(200), "{is_pushable} {at}");
            alice.expects_invites(1);
        }
    }
}

/// Alice sleeps and is called, and the node is gone that held her call; another one has its address after that time, and
/// its calls only when `node.lease_s` is over.
fn nobodys_call(sim: &Sim, gap: Duration) -> (Phone, Request, Vec<HeldCall>) {
    let alice = awake(sim, Transport::Udp, true);
    alice.sleeps();
    let call = sim.switch().invites("alice");
    sim.run_for(s(2));
    sim.world().ledger.is_lenient = true;
    sim.world().dies();
    sim.run_for(gap);
    let left = sim.world().goes_on_elsewhere();
    (alice, call, left)
}

#[test]
fn what_a_caller_cancels_while_its_call_is_nobodys_does_not_ring_later() {
    let sim = Sim::new();
    let (alice, call, left) = nobodys_call(&sim, s(1));
    call.cancels("");
    sim.run_for(s(2));
    alice.registers();
    sim.run_for(s(5));
    assert_eq!(call.status(), None);
    sim.world().takes_over(left);
    sim.run_for(s(5));
    assert_eq!(call.status(), Some(487));
    alice.expects_invites(0);
    assert_eq!(sim.push().kinds(), [NoticeKind::Invite, NoticeKind::MissedCalls]);
}

#[test]
fn a_phone_that_came_and_went_to_sleep_while_nobody_had_the_call_is_pushed() {
    let sim = Sim::new();
    let (alice, call, left) = nobodys_call(&sim, Duration::ZERO);
    alice.registers();
    sim.run_for(s(1));
    alice.sleeps();
    sim.run_for(s(8));
    alice.wakes_on_push(s(1)).does(Answer::Answers(s(1)));
    sim.world().takes_over(left);
    sim.run_for(s(10));
    assert_eq!(call.status(), Some(200));
}

#[test]
fn a_phone_that_came_while_nobody_had_the_call_and_is_awake_is_not_pushed_again() {
    let sim = Sim::new();
    let (alice, call, left) = nobodys_call(&sim, Duration::ZERO);
    alice.registers();
    alice.does(Answer::Answers(s(2)));
    sim.run_for(s(8));
    sim.world().takes_over(left);
    sim.run_for(s(5));
    assert_eq!(call.status(), Some(200));
    assert_eq!(sim.push().kinds(), [NoticeKind::Invite]);
}
