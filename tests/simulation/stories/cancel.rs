//! The caller gives up.

use sip_push_proxy::proxy::Outcome;
use sip_push_proxy::push::NoticeKind;
use sip_push_proxy::sip::{HeaderName, Transport};
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
fn while_the_phone_has_said_nothing_it_is_487_at_once_and_the_invite_is_not_repeated() {
    let sim = Sim::new();
    let (alice, switch, mut push) = (sim.phone("alice"), sim.switch(), sim.push());
    alice.registers();
    alice.sleeps();
    let call = switch.invites("alice");
    sim.run_for(ms(100));
    alice.does(Answer::Silent);
    alice.registers();
    alice.sleeps();
    call.cancels("");
    sim.run_for(ms(100));
    call.expects(&[100, 182, 487]);
    assert_eq!(alice.bucket(), [(call.call_ref(), EntryState::Missed)]);
    push.expects(1);
    // It hears what comes from here on, and nothing does but the report.
    alice.does(Answer::Rings);
    alice.is_back();
    sim.run_for(s(40));
    alice.expects_invites(1);
    assert_eq!(alice.got("CANCEL").len(), 0);
    alice.registers();
    sim.run_for(s(10));
    alice.expects_invites(1);
    assert_eq!(push.reported(), [call.call_ref()]);
}

#[test]
fn a_phone_that_says_something_after_it_is_cancelled_then() {
    let sim = Sim::new();
    let (alice, switch) = (sim.phone("alice"), sim.switch());
    alice.wakes_on_push(ms(500));
    alice.registers();
    alice.sleeps();
    let call = switch.invites("alice");
    sim.run_for(ms(100));
    // Each message takes a second from here on: it has the INVITE, and its 180 is on the way.
    sim.world().network.delay = (1000, 1000);
    let mut waited = 0;
    while alice.got("INVITE").is_empty() && waited < 10_000 {
        sim.run_for(ms(1));
        waited += 1;
    }
    sim.world().network.delay = (1, 1);
    call.cancels(ELSEWHERE);
    sim.run_for(s(5));
    assert_eq!(call.status(), Some(487));
    let cancels = alice.got("CANCEL");
    assert_eq!(cancels.len(), alice.got("INVITE").len());
    assert_eq!(cancels[0].first(HeaderName::Reason), Some(&ELSEWHERE.trim().as_bytes()[8..]));
}

#[test]
fn a_silent_softswitch_does_not_keep_a_phone_from_hanging_up() {
    let sim = Sim::new();
    let alice = sim.phone("alice");
    alice.registers();
    sim.switch().answers(Answer::Silent);
    let call = alice.calls("bob");
    sim.run_for(ms(100));
    call.cancels("");
    sim.run_for(ms(100));
    call.expects(&[100, 487]);
    sim.run_for(s(40));
    assert_eq!(sim.switch().got("INVITE").len(), 1);
}

#[test]
fn an_answer_that_crosses_with_the_487_is_hung_up() {
    for transport in [Transport::Udp, Transport::Tcp] {
        let sim = Sim::new();
        let (alice, switch) = (sim.device("alice", "alice", transport), sim.switch());
        alice.registers();
        alice.sleeps();
        let call = switch.invites("alice");
        sim.run_for(ms(100));
        alice.is_back();
        alice.does(Answer::Answers(ms(0)));
        let contact = sim.world().agents[alice.agent].contact();
        alice.sends_register(Some(contact));
        sim.run_for(ms(3));
        // Its 180 and 200 are slower than the CANCEL.
        sim.world().network.delay = (1000, 1000);
        let mut waited = 0;
        while alice.got("INVITE").is_empty() && waited < 10_000 {
            sim.run_for(ms(1));
            waited += 1;
        }
        sim.run_for(ms(1));
        sim.world().network.delay = (1, 1);
        call.cancels("");
        sim.run_for(s(5));
        assert_eq!(call.status(), Some(487), "{transport:?}");
        assert!(alice.acks() >= 1, "each 200 is acknowledged ({transport:?})");
        assert_eq!(alice.got("BYE").len(), 1, "{transport:?}");
    }
}

#[test]
fn what_another_phone_answers_is_not_repeated_to_a_silent_one() {
    let sim = Sim::new();
    let (desk, mobile) = (sim.device("alice", "desk", Transport::Udp), sim.device("alice", "mobile", Transport::Udp));
    for phone in [&desk, &mobile] {
        phone.registers();
        phone.sleeps();
    }
    let call = sim.switch().asks("INVITE", "sip:alice@example.org", |draft| draft);
    sim.run_for(ms(100));
    mobile.does(Answer::Silent);
    mobile.registers();
    mobile.sleeps();
    desk.does(Answer::Answers(ms(200)));
    desk.registers();
    sim.run_for(s(1));
    assert_eq!(call.status(), Some(200));
    mobile.does(Answer::Rings);
    mobile.is_back();
    sim.run_for(s(40));
    mobile.expects_invites(1);
}

#[test]
fn of_nothing_known_it_is_481() {
    let sim = Sim::new();
    let switch = sim.switch();
    let cancel = switch.asks("CANCEL", "sip:alice@example.org", |draft| draft);
    sim.run_for(ms(100));
    cancel.expects(&[481]);
}
