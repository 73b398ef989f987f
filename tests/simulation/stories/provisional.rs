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

/// A desk phone that is awake, and a mobile that sleeps.
fn desk_and_mobile(sim: &Sim) -> (crate::sim::Phone, crate::sim::Phone) {
    use sip_push_proxy::sip::Transport;
    let (desk, mobile) = (sim.device("alice", "desk", Transport::Udp), sim.device("alice", "mobile", Transport::Udp));
    desk.change(|agent| agent.device.push.clear());
    desk.registers();
    mobile.registers();
    mobile.sleeps();
    (desk, mobile)
}

#[test]
fn whoever_has_heard_a_phone_hears_nothing_less_of_us() {
    let sim = Sim::with(|policy| {
        policy.hold.wait = s(150);
        policy.push_repeat = [s(3), s(8)].into();
    });
    let (desk, _mobile) = desk_and_mobile(&sim);
    // The push is taken after the desk phone has rung.
    sim.push().takes(ms(500));
    desk.does(Answer::Rings);
    let call = sim.switch().asks("INVITE", "sip:alice@example.org", |draft| draft);
    sim.run_for(s(1));
    let mut heard = call.statuses();
    heard.retain(|status| *status > 100);
    let after = heard.iter().position(|status| *status == 180).expect("it rings");
    assert!(!heard[after..].contains(&182), "{heard:?}");
    // It refuses; the mobile is waited for.
    let got = sim.world().agents[desk.agent].got_of("INVITE")[0];
    sim.world().agent_responds(desk.agent, got, 486, &[], "");
    sim.run_for(s(140));
    let heard = call.statuses();
    assert_eq!(heard.last(), Some(&180), "{heard:?}");
    assert_eq!(call.status(), None);
    call.cancels("");
}

#[test]
fn after_a_crash_too() {
    let sim = Sim::new();
    let (desk, mobile) = desk_and_mobile(&sim);
    desk.does(Answer::Rings);
    let call = sim.switch().asks("INVITE", "sip:alice@example.org", |draft| draft);
    sim.run_for(s(1));
    sim.world().ledger.is_lenient = true;
    sim.world().restart();
    sim.run_for(s(5));
    let heard = call.statuses();
    let after = heard.iter().position(|status| *status == 180).expect("it rings");
    assert!(!heard[after..].contains(&182), "{heard:?}");
    mobile.does(Answer::Answers(ms(100))).registers();
    sim.run_for(s(1));
    assert_eq!(call.status(), Some(200));
}

#[test]
fn a_contact_that_nobody_is_at_does_not_stretch_the_wait() {
    let sim = Sim::new();
    let (desk, _mobile) = desk_and_mobile(&sim);
    desk.sleeps();
    let call = sim.switch().asks("INVITE", "sip:alice@example.org", |draft| draft);
    sim.run_for(ms(27_900));
    assert_eq!(call.status(), None);
    sim.run_for(ms(200));
    assert_eq!(call.status(), Some(480));
}
