//! missed_calls: one push with all the calls that a phone never saw.

use sip_push_proxy::push::{Notice, NoticeKind, Outcome, Trouble};
use sip_push_proxy::store::{Change, EntryState};

use crate::agent::Answer;
use crate::sim::{Phone, Request, Sim, ms, s};

/// Calls that the phone slept through.
fn misses(sim: &Sim, alice: &Phone, count: usize) -> Vec<Request> {
    alice.sleeps();
    let calls: Vec<_> = (0..count).map(|_| sim.switch().invites("alice")).collect();
    sim.run_for(s(1));
    for call in &calls {
        call.cancels("");
    }
    sim.run_for(s(1));
    calls
}

fn refs(calls: &[Request]) -> Vec<String> {
    calls.iter().map(Request::call_ref).collect()
}

#[test]
fn all_of_them_in_one_push_and_only_once() {
    let sim = Sim::new();
    let (alice, mut push) = (sim.phone("alice"), sim.push());
    alice.registers();
    let calls = misses(&sim, &alice, 3);
    push.expects(3);
    alice.registers();
    sim.run_for(s(1));
    push.expects(1);
    assert_eq!(push.reported(), refs(&calls));
    alice.registers();
    sim.run_for(s(1));
    push.expects(0);
}

#[test]
fn the_caller_is_told_as_the_invite_said() {
    let sim = Sim::new();
    let alice = sim.phone("alice");
    alice.registers();
    misses(&sim, &alice, 1);
    alice.registers();
    sim.run_for(s(1));
    let world = sim.world();
    let Notice::MissedCalls(entries) = &world.pushes.sent[1].notice else { panic!("missed calls") };
    assert_eq!((&*entries[0].remote_uri, &*entries[0].display_name), ("switch", "switch"));
    assert_eq!(world.pushes.sent[1].ttl, s(120));
}

#[test]
fn a_register_of_the_same_millisecond_is_no_newer_than_the_call() {
    let sim = Sim::new();
    sim.world().network.delay = (0, 0);
    sim.world().storage.delay = ms(0);
    let (alice, mut push) = (sim.phone("alice"), sim.push());
    let mut contact = None;
    alice.change(|agent| {
        agent.is_awake = true;
        contact = Some(agent.contact());
    });
    alice.sends_register(contact);
    sim.run_for(ms(0));
    let calls = misses(&sim, &alice, 1);
    push.expects(1);
    assert_eq!(alice.bucket(), [(calls[0].call_ref(), EntryState::Missed)]);
}

#[test]
fn not_to_a_phone_that_was_away_for_less_than_the_absence() {
    let sim = Sim::with(|policy| policy.missed.absence = s(60));
    let (alice, push) = (sim.phone("alice"), sim.push());
    alice.registers();
    misses(&sim, &alice, 1);
    alice.registers();
    sim.run_for(s(1));
    assert_eq!(push.reported().len(), 0);
    alice.sleeps();
    sim.run_for(s(61));
    alice.registers();
    sim.run_for(s(1));
    assert_eq!(push.reported().len(), 1);
}

#[test]
fn a_call_that_still_rings_or_waits_is_not_among_them() {
    let sim = Sim::new();
    let (alice, push) = (sim.phone("alice"), sim.push());
    alice.registers();
    let missed = misses(&sim, &alice, 1);
    let call = sim.switch().invites("alice");
    sim.run_for(ms(100));
    alice.does(Answer::Answers(s(5)));
    alice.registers();
    sim.run_for(s(1));
    assert_eq!(push.reported(), refs(&missed));
    sim.run_for(s(6));
    assert_eq!(call.status(), Some(200));
    alice.registers();
    sim.run_for(s(1));
    assert_eq!(push.reported(), refs(&missed));
}

#[test]
fn a_call_that_the_phone_showed_is_in_its_own_log() {
    let sim = Sim::new();
    let (alice, push) = (sim.phone("alice"), sim.push());
    alice.wakes_on_push(ms(100));
    alice.registers();
    alice.sleeps();
    let call = sim.switch().invites("alice");
    sim.run_for(s(2));
    call.cancels("");
    sim.run_for(s(1));
    alice.registers();
    sim.run_for(s(1));
    assert_eq!(push.kinds(), [NoticeKind::Invite]);
}

#[test]
fn refused_for_a_while_it_is_tried_again_by_itself() {
    for outcome in [
        Outcome::TryAgain { trouble: Trouble::Failing, after: None, reason: "503".into() },
        Outcome::Skipped { after: s(60), reason: "not asked for a moment".into() },
        Outcome::Limited,
    ] {
        let sim = Sim::new();
        let (alice, mut push) = (sim.phone("alice"), sim.push());
        alice.registers();
        let calls = misses(&sim, &alice, 1);
        push.next("alice", outcome.clone());
        push.next("alice", outcome);
        alice.registers();
        sim.run_for(s(1));
        push.expects(2);
        assert_eq!(alice.bucket().len(), 1);
        sim.run_for(s(300));
        push.expects(2);
        assert_eq!((push.reported(), alice.bucket().len()), (refs(&calls), 0));
    }
}

#[test]
fn refused_for_good_it_waits_for_the_next_register() {
    let sim = Sim::new();
    let (alice, mut push) = (sim.phone("alice"), sim.push());
    alice.registers();
    let calls = misses(&sim, &alice, 1);
    push.next("alice", Outcome::Refused { reason: "PayloadEmpty".into() });
    alice.registers();
    sim.run_for(s(1000));
    push.expects(2);
    alice.registers();
    sim.run_for(s(1));
    push.expects(1);
    assert_eq!(push.reported(), refs(&calls));
}

#[test]
fn a_dead_token_ends_the_binding_unless_it_is_new() {
    let sim = Sim::new();
    let (alice, push) = (sim.phone("alice"), sim.push());
    alice.registers();
    misses(&sim, &alice, 1);
    sim.run_for(s(1));
    push.next("alice", Outcome::TokenDead { since: None, reason: "UNREGISTERED".into() });
    alice.registers();
    sim.run_for(s(1));
    assert_eq!(alice.bindings(), 0);
}

#[test]
fn a_claim_that_the_store_refuses_is_made_again() {
    let sim = Sim::new();
    let (alice, push) = (sim.phone("alice"), sim.push());
    alice.registers();
    let calls = misses(&sim, &alice, 1);
    sim.world().storage.refuses = |change| matches!(change, Change::Claim { .. });
    alice.registers();
    sim.run_for(s(1));
    assert_eq!(alice.bucket(), [(calls[0].call_ref(), EntryState::Missed)]);
    sim.world().storage.refuses = |_| false;
    sim.run_for(s(120));
    assert_eq!(push.reported(), refs(&calls));
}

#[test]
fn a_report_that_the_store_did_not_note_does_not_close_the_bucket_for_ever() {
    let sim = Sim::new();
    let (alice, push) = (sim.phone("alice"), sim.push());
    alice.registers();
    misses(&sim, &alice, 1);
    sim.world().storage.refuses = |change| matches!(change, Change::Reported { .. } | Change::Release { .. });
    alice.registers();
    sim.run_for(s(5));
    sim.world().storage.refuses = |_| false;
    sim.run_for(s(60));
    let later = misses(&sim, &alice, 1);
    alice.registers();
    sim.run_for(s(5));
    assert!(push.reported().contains(&later[0].call_ref()));
    assert_eq!(alice.bucket(), []);
}

#[test]
fn a_phone_that_registers_just_as_the_call_ends_is_told() {
    let sim = Sim::new();
    let (alice, push) = (sim.phone("alice"), sim.push());
    alice.registers();
    alice.sleeps();
    let call = sim.switch().invites("alice");
    sim.run_for(s(1));
    sim.world().storage.delay = ms(500);
    alice.is_back();
    let contact = sim.world().agents[alice.agent].contact();
    alice.sends_register(Some(contact));
    sim.run_for(ms(100));
    call.cancels("");
    sim.run_for(s(5));
    alice.expects_invites(0);
    assert_eq!(push.reported(), [call.call_ref()]);
}

#[test]
fn a_phone_with_a_voip_token_only_cannot_be_told() {
    let sim = Sim::new();
    let (alice, push) = (sim.phone("alice"), sim.push());
    alice.change(|agent| agent.device.push = ";pn-provider=apns;pn-param=T.app.voip;pn-prid=00aa".into());
    alice.registers();
    misses(&sim, &alice, 1);
    alice.registers();
    sim.run_for(s(1));
    assert_eq!(push.kinds(), [NoticeKind::Invite]);
}

#[test]
fn nothing_is_told_where_the_operator_switched_it_off() {
    let sim = Sim::with(|policy| policy.missed.enabled = false);
    let (alice, push) = (sim.phone("alice"), sim.push());
    alice.registers();
    misses(&sim, &alice, 1);
    alice.registers();
    sim.run_for(s(1));
    assert_eq!(push.kinds(), [NoticeKind::Invite]);
}
