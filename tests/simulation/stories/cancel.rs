//! The caller gives up.

use sip_push_proxy::proxy::Outcome;
use sip_push_proxy::push::NoticeKind;
use sip_push_proxy::sip::HeaderName;
use sip_push_proxy::store::EntryState;

use crate::agent::Answer;
use crate::sim::{Sim, ms, s};

const ELSEWHERE: &str = "Reason: SIP;cause=200;text=\"Call completed elsewhere\"\r\n";

#[test]
fn while_held_it_is_487_and_a_missed_call() {
    let sim = Sim::new();
    let (alice, switch, mut push) = (sim.phone("alice"), sim.switch(), sim.push());
    alice.registers();
    alice.sleeps();
    let call = switch.invites("alice");
    sim.run_for(s(2));
    call.cancels("");
    sim.run_for(ms(100));
    call.expects(&[100, 182, 487]);
    assert_eq!(alice.bucket(), [(call.call_ref(), EntryState::Missed)]);
    push.expects(1);
    alice.registers();
    sim.run_for(ms(100));
    alice.expects_invites(0);
    push.expects(1);
    assert_eq!(push.reported(), [call.call_ref()]);
    assert_eq!(alice.bucket(), []);
    assert_eq!(sim.world().ledger.outcomes, [Outcome::Cancelled]);
}

#[test]
fn taken_elsewhere_it_is_no_missed_call() {
    let sim = Sim::new();
    let (alice, switch, push) = (sim.phone("alice"), sim.switch(), sim.push());
    alice.registers();
    alice.sleeps();
    let call = switch.invites("alice");
    sim.run_for(s(2));
    call.cancels(ELSEWHERE);
    sim.run_for(ms(100));
    assert_eq!(alice.bucket(), []);
    alice.registers();
    sim.run_for(ms(100));
    assert_eq!(push.kinds(), [NoticeKind::Invite]);
}

#[test]
fn while_ringing_the_phone_is_cancelled_with_the_callers_reason() {
    let sim = Sim::new();
    let (alice, switch) = (sim.phone("alice"), sim.switch());
    alice.wakes_on_push(ms(500));
    alice.registers();
    alice.sleeps();
    let call = switch.invites("alice");
    sim.run_for(s(2));
    call.cancels(ELSEWHERE);
    sim.run_for(ms(100));
    call.expects(&[100, 182, 180, 487]);
    let cancel = &alice.got("CANCEL")[0];
    assert_eq!(cancel.first(HeaderName::Reason), Some(&ELSEWHERE.trim().as_bytes()[8..]));
    assert_eq!(alice.acks(), 0, "the ACK of a 487 is the transaction's");
}

/// CANCEL and REGISTER in all orders, some milliseconds apart.
#[test]
fn a_race_with_the_wake_ends_well_either_way() {
    for lead in 0..40 {
        let sim = Sim::new();
        let (alice, switch, mut push) = (sim.phone("alice"), sim.switch(), sim.push());
        alice.registers();
        alice.sleeps();
        let call = switch.invites("alice");
        sim.run_for(ms(100));
        alice.is_back();
        let contact = sim.world().agents[alice.agent].contact();
        if lead < 20 {
            alice.sends_register(Some(contact));
            sim.run_for(ms(lead));
            call.cancels("");
        } else {
            call.cancels("");
            sim.run_for(ms(lead - 20));
            alice.sends_register(Some(contact));
        }
        sim.run_for(s(1));
        assert_eq!(call.status(), Some(487), "{lead}");
        let is_told = alice.got("INVITE").len() == 1 || push.reported().len() == 1;
        assert!(is_told, "either the phone saw the call or it is told of it ({lead})");
        assert_eq!(alice.got("INVITE").len(), alice.got("CANCEL").len(), "{lead}");
        push.expects(1 + push.reported().len());
    }
}

#[test]
fn a_race_with_the_answer_ends_well_either_way() {
    for lead in 0..12 {
        let sim = Sim::new();
        let (alice, switch) = (sim.phone("alice"), sim.switch());
        alice.wakes_on_push(ms(50));
        alice.registers();
        alice.sleeps();
        let call = switch.invites("alice");
        sim.run_for(s(1));
        if lead < 6 {
            alice.picks_up();
            sim.run_for(ms(lead));
            call.cancels("");
        } else {
            call.cancels("");
            sim.run_for(ms(lead - 6));
            alice.picks_up();
        }
        sim.run_for(s(2));
        assert!(matches!(call.status(), Some(200 | 487)), "{lead}");
        assert_eq!(alice.acks(), usize::from(call.status() == Some(200)), "{lead}");
        assert_eq!(alice.bucket(), [], "{lead}");
    }
}

#[test]
fn a_phone_that_never_heard_the_invite_does_not_keep_the_caller_waiting_for_ever() {
    let sim = Sim::new();
    let (alice, switch) = (sim.phone("alice"), sim.switch());
    alice.registers();
    alice.sleeps();
    let call = switch.invites("alice");
    sim.run_for(ms(100));
    alice.does(Answer::Silent);
    alice.registers();
    call.cancels("");
    sim.run_for(s(40));
    assert_eq!(call.status(), Some(487));
    assert_eq!(alice.bucket(), [(call.call_ref(), EntryState::Missed)]);
}

#[test]
fn of_nothing_known_it_is_481() {
    let sim = Sim::new();
    let switch = sim.switch();
    let cancel = switch.asks("CANCEL", "sip:alice@example.org", |draft| draft);
    sim.run_for(ms(100));
    cancel.expects(&[481]);
}
