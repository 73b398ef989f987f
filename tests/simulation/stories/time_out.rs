//! The wait ends without the phone.

use sip_push_proxy::proxy::Outcome;
use sip_push_proxy::store::EntryState;

use crate::agent::Answer;
use crate::sim::{Sim, ms, s};
use crate::text;

#[test]
fn nobody_returns_within_the_wait() {
    for status in [480, 408, 404] {
        let sim = Sim::with(|policy| policy.hold.no_return_status = status);
        let (alice, switch) = (sim.phone("alice"), sim.switch());
        alice.registers();
        alice.sleeps();
        let call = switch.invites("alice");
        sim.run_for(ms(27_900));
        call.expects(&[100, 182]);
        sim.run_for(ms(200));
        call.expects(&[100, 182, status]);
        let tags: Vec<_> = call.responses().iter().skip(1).map(text::to_tag).collect();
        assert!(tags.iter().all(|tag| *tag == tags[0] && !tag.is_empty()), "{tags:?}");
        assert_eq!(alice.bucket(), [(call.call_ref(), EntryState::Missed)]);
        assert_eq!(sim.world().ledger.outcomes, [Outcome::NoReturn]);
    }
}

#[test]
fn the_invites_own_expires_comes_first() {
    let sim = Sim::new();
    let (alice, switch) = (sim.phone("alice"), sim.switch());
    alice.registers();
    alice.sleeps();
    let call = switch.sends("INVITE", "alice", |draft| draft.header("Expires: 5"));
    sim.run_for(ms(5100));
    call.expects(&[100, 182, 487]);
    assert_eq!(sim.world().ledger.outcomes, [Outcome::Expired]);
    assert_eq!(alice.bucket().len(), 1);
}

#[test]
fn a_phone_that_wakes_after_the_wait_gets_no_invite_but_is_told() {
    let sim = Sim::new();
    let (alice, switch, push) = (sim.phone("alice"), sim.switch(), sim.push());
    alice.registers();
    alice.sleeps();
    let call = switch.invites("alice");
    sim.run_for(s(30));
    assert_eq!(call.status(), Some(480));
    alice.registers();
    sim.run_for(s(1));
    alice.expects_invites(0);
    assert_eq!(push.reported(), [call.call_ref()]);
}

#[test]
fn a_phone_that_rings_longer_than_the_wait_goes_on_ringing() {
    let sim = Sim::new();
    let (alice, switch) = (sim.phone("alice"), sim.switch());
    alice.does(Answer::Answers(s(40))).wakes_on_push(s(1));
    alice.registers();
    alice.sleeps();
    let call = switch.invites("alice");
    sim.run_for(s(50));
    assert_eq!(call.status(), Some(200));
    assert_eq!(sim.world().ledger.outcomes, [Outcome::Answered]);
}

#[test]
fn a_phone_that_rings_for_ever_is_stopped_by_timer_c() {
    let sim = Sim::new();
    let (alice, switch) = (sim.phone("alice"), sim.switch());
    alice.wakes_on_push(s(1));
    alice.registers();
    alice.sleeps();
    let call = switch.invites("alice");
    sim.run_for(s(180));
    assert_eq!(call.status(), None);
    sim.run_for(s(10));
    assert_eq!(alice.got("CANCEL").len(), 1);
    assert_eq!(call.status(), Some(487));
}

#[test]
fn a_phone_that_woke_and_is_silent_is_not_waited_for_longer_than_a_transaction() {
    let sim = Sim::new();
    let (alice, switch) = (sim.phone("alice"), sim.switch());
    alice.does(Answer::Silent);
    alice.wakes_on_push(s(1));
    alice.registers();
    alice.sleeps();
    let call = switch.invites("alice");
    sim.run_for(s(35));
    assert_eq!(call.status(), Some(480));
    assert_eq!(alice.bucket().len(), 1);
}
