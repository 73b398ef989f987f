//! A call to a sleeping phone, from the INVITE to the BYE.

use sip_push_proxy::proxy::Outcome;
use sip_push_proxy::push::NoticeKind;
use sip_push_proxy::sip::Transport;
use sip_push_proxy::timeline::Step;

use crate::agent::Answer;
use crate::sim::{Sim, ms, s};

#[test]
fn a_sleeping_phone_is_pushed_wakes_rings_and_answers() {
    let sim = Sim::new();
    let (alice, switch, mut push) = (sim.phone("alice"), sim.switch(), sim.push());
    alice.does(Answer::Answers(s(3)));
    alice.registers();
    alice.sleeps();
    let call = switch.invites("alice");
    sim.run_for(ms(100));
    call.expects(&[100, 182]);
    push.expects(1);
    assert_eq!(push.kinds(), [NoticeKind::Invite]);
    alice.expects_invites(0);
    alice.registers();
    alice.expects_invites(1);
    sim.run_for(s(4));
    call.expects(&[100, 182, 180, 200]);
    assert_eq!(alice.acks(), 1);
    assert_eq!(alice.bucket(), []);
    let bye = call.sends("BYE");
    sim.run_for(ms(100));
    bye.expects(&[200]);
    assert_eq!(alice.got("BYE").len(), 1);
    push.expects(0);
    assert_eq!(sim.world().ledger.outcomes, [Outcome::Answered]);
    assert_eq!(
        call.story(),
        [
            Step::Received,
            Step::DeviceFound,
            Step::Held,
            Step::PushSent,
            Step::PushAccepted,
            Step::Registered,
            Step::Forwarded,
            Step::Ringing,
            Step::Answered
        ]
    );
}

#[test]
fn a_call_that_comes_before_the_store_is_read_waits_for_it() {
    let sim = Sim::new();
    let (alice, switch, mut push) = (sim.phone("alice"), sim.switch(), sim.push());
    alice.registers();
    alice.sleeps();
    sim.world().storage.is_cold = true;
    let call = switch.invites("alice");
    sim.run_for(ms(3));
    call.expects(&[100]);
    sim.run_for(ms(100));
    call.expects(&[100, 182]);
    push.expects(1);
    sim.world().storage.is_cold = true;
    alice.registers();
    alice.expects_invites(1);
    sim.world().storage.is_cold = true;
    let given_up = switch.invites("alice");
    given_up.cancels("");
    sim.run_for(ms(100));
    given_up.expects(&[100, 487]);
    push.expects(0);
}

#[test]
fn nobody_is_called_unknown_while_the_store_is_away() {
    let sim = Sim::new();
    let (alice, switch) = (sim.phone("alice"), sim.switch());
    sim.world().storage.is_cold = true;
    sim.world().storage.is_away = true;
    let call = switch.invites("alice");
    sim.run_for(ms(100));
    call.expects(&[100, 503]);
    alice.registers();
    assert_eq!(alice.bindings(), 1, "a phone may register all the same");
}

#[test]
fn it_goes_the_same_by_tcp() {
    let sim = Sim::new();
    let (alice, switch) = (sim.device("alice", "alice", Transport::Tcp), sim.switch());
    alice.does(Answer::Answers(s(1))).wakes_on_push(s(2));
    alice.registers();
    alice.sleeps();
    let call = switch.invites("alice");
    sim.run_for(s(5));
    call.expects(&[100, 182, 180, 200]);
    assert_eq!(alice.acks(), 1);
    let bye = alice.within_last("BYE");
    sim.run_for(s(1));
    bye.expects(&[200]);
    assert_eq!(switch.got("BYE").len(), 1);
}

#[test]
fn a_phone_that_wakes_elsewhere_gets_the_call_there() {
    let sim = Sim::new();
    let (alice, switch) = (sim.phone("alice"), sim.switch());
    alice.does(Answer::Answers(s(1))).wakes_on_push(s(2));
    alice.change(|agent| agent.moves_when_waking = true);
    alice.registers();
    alice.sleeps();
    let call = switch.invites("alice");
    sim.run_for(s(5));
    assert_eq!(call.status(), Some(200));
    alice.expects_invites(1);
}

#[test]
fn a_caller_that_repeats_its_invite_causes_one_push() {
    let sim = Sim::new();
    let (alice, switch, mut push) = (sim.phone("alice"), sim.switch(), sim.push());
    alice.registers();
    alice.sleeps();
    // The 100 never arrives, so the caller repeats.
    let call = switch.invites("alice");
    let invite = call.message().bytes().clone();
    for _ in 0..5 {
        sim.world().send_raw(crate::world::SOFTSWITCH, invite.clone());
        sim.run_for(ms(500));
    }
    push.expects(1);
    call.cancels("");
}

#[test]
fn a_second_call_to_the_same_sleeping_phone_is_pushed_too() {
    let sim = Sim::new();
    let (alice, switch, mut push) = (sim.phone("alice"), sim.switch(), sim.push());
    alice.registers();
    alice.sleeps();
    let calls = [switch.invites("alice"), switch.invites("alice")];
    sim.run_for(ms(100));
    push.expects(2);
    alice.registers();
    alice.expects_invites(2);
    for call in calls {
        call.cancels("");
    }
}

#[test]
fn a_device_unknown_when_the_call_came_joins_when_it_registers() {
    let sim = Sim::new();
    let (old, new) = (sim.device("alice", "old", Transport::Udp), sim.device("alice", "new", Transport::Udp));
    old.registers();
    old.sleeps();
    let call = sim.switch().asks("INVITE", "sip:alice@example.org", |draft| draft);
    sim.run_for(ms(100));
    new.does(Answer::Answers(s(1)));
    new.registers();
    sim.run_for(s(2));
    assert_eq!(call.status(), Some(200));
}

#[test]
fn a_second_register_on_the_same_flow_does_not_bring_the_invite_again() {
    let sim = Sim::new();
    let (alice, switch) = (sim.phone("alice"), sim.switch());
    alice.registers();
    alice.sleeps();
    let call = switch.invites("alice");
    sim.run_for(ms(100));
    alice.registers();
    alice.registers();
    alice.expects_invites(1);
    call.cancels("");
}

#[test]
fn a_phone_that_moves_before_it_hears_the_invite_gets_it_where_it_is() {
    let sim = Sim::new();
    let (alice, switch) = (sim.phone("alice"), sim.switch());
    alice.registers();
    alice.sleeps();
    let call = switch.invites("alice");
    sim.run_for(ms(100));
    alice.does(Answer::Silent);
    alice.registers();
    alice.moves();
    alice.does(Answer::Answers(s(1)));
    alice.registers();
    sim.run_for(s(2));
    assert_eq!(call.status(), Some(200));
}

#[test]
fn by_alias_one_device_rings_by_aor_all_and_by_number_at_our_address_as_well() {
    let sim = Sim::new();
    let (one, two) = (sim.device("alice", "one", Transport::Udp), sim.device("alice", "two", Transport::Udp));
    let mut push = sim.push();
    one.registers();
    two.registers();
    let switch = sim.switch();
    let calls = [
        (switch.invites("alice"), 1),
        (switch.asks("INVITE", "sip:alice@example.org", |draft| draft), 2),
        (switch.asks("INVITE", "sip:alice@192.0.2.10", |draft| draft), 2),
    ];
    sim.run_for(s(1));
    push.expects(5);
    for (call, devices) in &calls {
        let pushed = call.story().into_iter().filter(|step| *step == Step::PushSent).count();
        assert_eq!(pushed, *devices);
        call.cancels("");
    }
    let nobody = switch.asks("INVITE", "sip:nobody@example.org", |draft| draft);
    sim.run_for(s(1));
    nobody.expects(&[100, 404]);
}

#[test]
fn a_call_reference_header_names_the_call() {
    let sim = Sim::with(|policy| policy.missed.call_ref_header = "X-Call-Ref".into());
    let alice = sim.phone("alice");
    alice.registers();
    alice.sleeps();
    let call = sim.switch().sends("INVITE", "alice", |draft| draft.header("x-call-REF: ref-1 "));
    sim.run_for(ms(100));
    assert_eq!(alice.bucket()[0].0, "ref-1");
    call.cancels("");
}
