//! What the caller hears while the phone sleeps.

use crate::agent::Answer;
use crate::sim::{Sim, ms, s};
use crate::text;

#[test]
fn the_status_is_the_operators_choice() {
    for status in [180, 182, 183, 0] {
        let sim = Sim::with(|policy| policy.hold.provisional = status);
        let alice = sim.phone("alice");
        alice.registers();
        alice.sleeps();
        let call = sim.switch().invites("alice");
        sim.run_for(ms(200));
        let expected = if status == 0 { vec![100] } else { vec![100, status] };
        call.expects(&expected);
        call.cancels("");
    }
}

#[test]
fn a_caller_that_requires_100rel_hears_100_only() {
    let sim = Sim::new();
    let alice = sim.phone("alice");
    alice.registers();
    alice.sleeps();
    let call = sim.switch().sends("INVITE", "alice", |draft| draft.header("Require: timer, 100rel"));
    sim.run_for(ms(200));
    call.expects(&[100]);
    call.cancels("");
}

#[test]
fn it_is_repeated_each_minute_with_the_same_tag_until_the_phone_rings() {
    let sim = Sim::with(|policy| policy.hold.wait = s(150));
    let alice = sim.phone("alice");
    alice.registers();
    alice.sleeps();
    let call = sim.switch().invites("alice");
    sim.run_for(s(130));
    let queued: Vec<_> =
        call.responses().iter().filter(|response| response.status() == Some(182)).map(text::to_tag).collect();
    assert_eq!(queued.len(), 3);
    assert!(queued.iter().all(|tag| *tag == queued[0]));
    alice.does(Answer::Rings);
    alice.registers();
    sim.run_for(s(100));
    call.expects(&[100, 182, 180]);
    call.cancels("");
}
