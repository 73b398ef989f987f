//! `hold.push_when = "unreachable"`, and `hold.fresh_s`: phones that may be awake.

use sip_push_proxy::proxy::policy::PushWhen;
use sip_push_proxy::sip::Transport;

use crate::agent::Answer;
use crate::sim::{Sim, ms, s};

fn unreachable() -> Sim {
    Sim::with(|policy| policy.hold.push_when = PushWhen::Unreachable)
}

#[test]
fn a_phone_that_answers_anything_is_not_pushed() {
    for answer in [Answer::Trying, Answer::Rings, Answer::Answers(s(1)), Answer::Refuses(486)] {
        let sim = unreachable();
        let alice = sim.phone("alice");
        alice.does(answer);
        alice.registers();
        let call = sim.switch().invites("alice");
        sim.run_for(s(3));
        sim.push().expects(0);
        alice.expects_invites(1);
        assert_eq!(alice.bucket(), []);
        call.cancels("");
    }
}

#[test]
fn a_silent_phone_is_pushed_after_the_probe_and_reminded_when_it_registers() {
    let sim = unreachable();
    let (alice, mut push) = (sim.phone("alice"), sim.push());
    alice.registers();
    alice.sleeps();
    let call = sim.switch().invites("alice");
    sim.run_for(ms(700));
    push.expects(0);
    sim.run_for(ms(300));
    push.expects(1);
    call.expects(&[100, 182]);
    alice.does(Answer::Answers(s(1)));
    alice.registers();
    alice.expects_invites(1);
    sim.run_for(s(2));
    assert_eq!(call.status(), Some(200));
}

#[test]
fn a_flow_that_is_gone_is_pushed_at_once() {
    let sim = unreachable();
    let (alice, mut push) = (sim.device("alice", "alice", Transport::Tcp), sim.push());
    alice.registers();
    alice.sleeps();
    let call = sim.switch().invites("alice");
    sim.run_for(ms(100));
    push.expects(1);
    alice.is_back();
    alice.does(Answer::Answers(s(1)));
    alice.registers();
    sim.run_for(s(2));
    assert_eq!(call.status(), Some(200));
}

#[test]
fn a_registration_that_expired_is_pushed_at_once() {
    let sim = unreachable();
    let (alice, mut push) = (sim.phone("alice"), sim.push());
    alice.change(|agent| agent.device.expires = Some(60));
    alice.registers();
    sim.run_for(s(61));
    let call = sim.switch().invites("alice");
    sim.run_for(ms(100));
    push.expects(1);
    alice.expects_invites(0);
    call.cancels("");
}

#[test]
fn a_fresh_registration_is_called_at_once_and_an_older_one_pushed() {
    let sim = Sim::with(|policy| policy.hold.fresh = s(10));
    let (alice, mut push) = (sim.phone("alice"), sim.push());
    alice.does(Answer::Answers(s(1)));
    alice.registers();
    let call = sim.switch().invites("alice");
    sim.run_for(s(2));
    assert_eq!(call.status(), Some(200));
    push.expects(0);
    sim.run_for(s(10));
    let call = sim.switch().invites("alice");
    sim.run_for(s(1));
    push.expects(1);
    call.cancels("");
}

#[test]
fn a_fresh_phone_whose_connection_is_gone_is_pushed() {
    let sim = Sim::with(|policy| policy.hold.fresh = s(10));
    let (alice, mut push) = (sim.device("alice", "alice", Transport::Tcp), sim.push());
    alice.registers();
    alice.sleeps();
    let call = sim.switch().invites("alice");
    sim.run_for(ms(200));
    push.expects(1);
    alice.is_back();
    alice.does(Answer::Answers(s(1)));
    alice.registers();
    sim.run_for(s(2));
    assert_eq!(call.status(), Some(200));
}

#[test]
fn a_phone_that_woke_before_its_push_and_lost_its_connection_is_pushed() {
    let sim = Sim::new();
    let (alice, mut push) = (sim.device("alice", "alice", Transport::Tcp), sim.push());
    alice.registers();
    let contact = sim.world().agents[alice.agent].contact();
    // Its REGISTER is accepted between the INVITE and the durable entry, and the connection breaks at once.
    sim.world().storage.delay = ms(4);
    alice.sends_register(Some(contact));
    sim.run_for(ms(3));
    let call = sim.switch().invites("alice");
    sim.run_for(ms(2));
    alice.sleeps();
    sim.run_for(s(1));
    push.expects(1);
    alice.is_back();
    alice.does(Answer::Answers(s(1)));
    alice.registers();
    sim.run_for(s(2));
    assert_eq!(call.status(), Some(200));
}

#[test]
fn a_phone_that_woke_and_lost_its_connection_is_waited_for_again() {
    let sim = Sim::new();
    let (alice, mut push) = (sim.device("alice", "alice", Transport::Tcp), sim.push());
    alice.registers();
    alice.sleeps();
    let call = sim.switch().invites("alice");
    sim.run_for(ms(200));
    push.expects(1);
    alice.is_back();
    let contact = sim.world().agents[alice.agent].contact();
    alice.sends_register(Some(contact));
    sim.run_for(ms(4));
    alice.sleeps();
    sim.run_for(s(2));
    assert_eq!(call.status(), None);
    alice.is_back();
    alice.does(Answer::Answers(s(1)));
    alice.registers();
    sim.run_for(s(2));
    assert_eq!(call.status(), Some(200));
    push.expects(0);
}
