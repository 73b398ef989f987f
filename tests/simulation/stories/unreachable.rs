//! `hold.push_when = "unreachable"`, and `hold.fresh_s`: phones that may be awake.

use sip_push_proxy::proxy::policy::PushWhen;
use sip_push_proxy::proxy::{self, CallStep};
use sip_push_proxy::push::Outcome;
use sip_push_proxy::sip::Transport;
use sip_push_proxy::store::{Change, EntryState};
use sip_push_proxy::timeline::Reason;

use crate::agent::Answer;
use crate::sim::{Request, Sim, ms, s};

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
        // A 100 does not say that its user sees the call.
        let is_seen = answer != Answer::Trying;
        assert_eq!(alice.bucket().len(), usize::from(!is_seen), "{answer:?}");
        call.cancels("");
        sim.run_for(s(1));
        alice.registers();
        assert_eq!(sim.push().reported().len(), usize::from(!is_seen), "{answer:?}");
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

/// The INVITE is written to a connection that the phone has closed already, so nobody has read it.
#[test]
fn an_invite_that_a_closing_connection_took_is_as_good_as_not_sent() {
    let sim = unreachable();
    let (alice, mut push) = (sim.device("alice", "alice", Transport::Tcp), sim.push());
    alice.registers();
    alice.does(Answer::Silent);
    let call = sim.switch().invites("alice");
    sim.run_for(ms(100));
    alice.expects_invites(1);
    push.expects(0);
    alice.closes();
    sim.run_for(ms(100));
    push.expects(1);
    alice.is_back();
    alice.does(Answer::Answers(s(1)));
    alice.registers();
    sim.run_for(s(2));
    assert_eq!(call.status(), Some(200));
}

#[test]
fn a_phone_that_rang_may_answer_by_another_connection() {
    let sim = unreachable();
    let (alice, mut push) = (sim.device("alice", "alice", Transport::Tcp), sim.push());
    alice.change(|agent| agent.answers_by_any_connection = true);
    alice.registers();
    let call = sim.switch().invites("alice");
    sim.run_for(s(1));
    alice.closes();
    alice.is_back();
    alice.picks_up();
    sim.run_for(s(1));
    assert_eq!(call.status(), Some(200));
    push.expects(0);
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

#[test]
fn a_silent_fresh_phone_is_probed_pushed_and_told() {
    let sim = Sim::with(|policy| policy.hold.fresh = s(15));
    let (alice, mut push) = (sim.phone("alice"), sim.push());
    alice.registers();
    alice.sleeps();
    let call = sim.switch().invites("alice");
    sim.run_for(ms(700));
    push.expects(0);
    assert_eq!(alice.bucket(), [(call.call_ref(), EntryState::Live)]);
    sim.run_for(ms(300));
    push.expects(1);
    call.expects(&[100, 182]);
    call.cancels("");
    sim.run_for(s(1));
    assert_eq!(call.status(), Some(487));
    alice.registers();
    // It might yet answer the INVITE that it was sent.
    sim.run_for(s(6));
    assert_eq!(push.reported(), [call.call_ref()]);
}

#[test]
fn a_phone_that_may_be_awake_gets_the_invite_when_its_entry_is_durable() {
    let sim = unreachable();
    let alice = sim.phone("alice");
    alice.registers();
    sim.world().storage.delay = s(1);
    let call = sim.switch().invites("alice");
    sim.run_for(ms(900));
    alice.expects_invites(0);
    sim.run_for(ms(200));
    alice.expects_invites(1);
    call.expects(&[100, 180]);
    call.cancels("");
    sim.run_for(s(3));
}

#[test]
fn a_phone_that_may_be_awake_rings_though_the_store_is_broken() {
    let sim = unreachable();
    let alice = sim.phone("alice");
    alice.registers();
    alice.does(Answer::Answers(s(1)));
    sim.world().storage.refuses = |change| matches!(change, Change::Hold { .. });
    let call = sim.switch().invites("alice");
    sim.run_for(s(3));
    assert_eq!(call.status(), Some(200));
}

#[test]
fn with_a_dead_token_and_nobody_else_a_silent_branch_is_not_waited_for() {
    let sim = unreachable();
    let (alice, mut push) = (sim.phone("alice"), sim.push());
    alice.registers();
    alice.sleeps();
    push.next("alice", Outcome::TokenDead { since: None, reason: "UNREGISTERED".into() });
    let call = sim.switch().invites("alice");
    sim.run_for(s(1));
    push.expects(1);
    assert_eq!(call.status(), Some(480));
    // It hears nothing of it any more.
    alice.is_back();
    sim.run_for(s(40));
    alice.expects_invites(0);
    assert_eq!(sim.world().ledger.outcomes, [proxy::Outcome::PushFailed]);
}

#[test]
fn with_a_dead_token_another_phone_is_waited_for() {
    let sim = unreachable();
    let (one, other) = (sim.device("alice", "one", Transport::Udp), sim.device("alice", "other", Transport::Udp));
    for phone in [&one, &other] {
        phone.registers();
        phone.sleeps();
    }
    sim.push().next("one", Outcome::TokenDead { since: None, reason: "UNREGISTERED".into() });
    let call = sim.switch().asks("INVITE", "sip:alice@example.org", |draft| draft);
    sim.run_for(s(10));
    assert_eq!(call.status(), None);
    other.does(Answer::Answers(s(1)));
    other.registers();
    sim.run_for(s(2));
    assert_eq!(call.status(), Some(200));
}

#[test]
fn a_phone_that_stays_silent_ends_the_call_with_its_wait() {
    let sim = unreachable();
    let (alice, push) = (sim.phone("alice"), sim.push());
    alice.registers();
    alice.sleeps();
    let call = sim.switch().invites("alice");
    sim.run_for(ms(28_100));
    assert_eq!(call.status(), Some(480));
    assert_eq!(end(&sim, &call), (proxy::Outcome::NoReturn, Some(Reason::NotBackInTime)));
    alice.registers();
    sim.run_for(s(6));
    alice.expects_invites(0);
    assert_eq!(push.reported(), [call.call_ref()]);
}

#[test]
fn a_flow_that_is_gone_is_nobody_who_came_back() {
    for is_pushable in [true, false] {
        let sim = unreachable();
        let alice = sim.device("alice", "alice", Transport::Tcp);
        if !is_pushable {
            alice.change(|agent| agent.device.push.clear());
        }
        alice.registers();
        alice.sleeps();
        sim.push().next("alice", Outcome::Refused { reason: "no".into() });
        let call = sim.switch().invites("alice");
        sim.run_for(s(1));
        assert_eq!(call.status(), Some(480));
        assert_eq!(end(&sim, &call), (proxy::Outcome::PushFailed, Some(Reason::NothingToWake)));
    }
}

/// How a call ended, and what its story says of it.
fn end(sim: &Sim, call: &Request) -> (proxy::Outcome, Option<Reason>) {
    let call_ref = call.call_ref();
    let world = sim.world();
    let is_of_call = |step: &&CallStep| *step.call_ref == *call_ref && step.device.is_none() && step.why.is_some();
    let last = world.ledger.steps.iter().rfind(is_of_call);
    (*world.ledger.outcomes.last().unwrap(), last.and_then(|step| step.why.as_ref()).map(|why| why.reason))
}
