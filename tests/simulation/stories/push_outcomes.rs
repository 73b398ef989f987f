//! What the provider says, and what becomes of the call.

use std::sync::Arc;
use std::time::Duration;

use sip_push_proxy::binding::{Provider, Tokens};
use sip_push_proxy::proxy;
use sip_push_proxy::push::{Outcome, Trouble};
use sip_push_proxy::store::{Change, EntryState};
use sip_push_proxy::timeline::Step;

use crate::agent::Answer;
use crate::sim::{Phone, Request, Sim, ms, s};
use crate::support::Support;

fn call(sim: &Sim, outcome: Outcome) -> (Phone, Request) {
    let alice = sim.phone("alice");
    alice.registers();
    alice.sleeps();
    sim.push().next("alice", outcome);
    let call = sim.switch().invites("alice");
    sim.run_for(ms(500));
    (alice, call)
}

#[test]
fn a_dead_token_of_the_only_device_ends_call_and_binding_at_once() {
    let sim = Sim::new();
    let (alice, call) = call(&sim, Outcome::TokenDead { since: None, reason: "UNREGISTERED".into() });
    call.expects(&[100, 182, 480]);
    assert_eq!(alice.bindings(), 0);
    assert_eq!(sim.world().ledger.outcomes, [proxy::Outcome::PushFailed]);
}

#[test]
fn the_call_that_found_a_token_dead_is_told_when_the_phone_comes_with_another() {
    for has_restarted in [false, true] {
        let sim = Sim::new();
        let (alice, call) = call(&sim, Outcome::TokenDead { since: None, reason: "UNREGISTERED".into() });
        assert_eq!(alice.bindings(), 0);
        if has_restarted {
            sim.world().restart();
        }
        alice.change(|agent| agent.device.push = agent.device.push.replace("token-alice", "token-alice-2"));
        alice.registers();
        sim.run_for(s(1));
        assert_eq!(sim.push().reported(), [call.call_ref()]);
        assert_eq!(alice.bucket(), []);
    }
}

#[test]
fn a_report_that_found_a_token_dead_is_made_to_the_next_token() {
    let sim = Sim::new();
    let alice = sim.phone("alice");
    alice.registers();
    alice.sleeps();
    let call = sim.switch().invites("alice");
    sim.run_for(s(30));
    sim.push().next("alice", Outcome::TokenDead { since: None, reason: "UNREGISTERED".into() });
    alice.registers();
    sim.run_for(s(1));
    assert_eq!(alice.bindings(), 0);
    alice.change(|agent| agent.device.push = agent.device.push.replace("token-alice", "token-alice-2"));
    alice.registers();
    sim.run_for(s(1));
    assert_eq!(sim.push().reported(), [call.call_ref()]);
}

#[test]
fn a_token_that_died_before_the_last_register_ends_nothing() {
    let sim = Sim::new();
    let since = Some(sip_push_proxy::clock::UnixMillis(1));
    let (alice, call) = call(&sim, Outcome::TokenDead { since, reason: "Unregistered".into() });
    assert_eq!((call.status(), alice.bindings()), (Some(480), 1));
}

#[test]
fn a_phone_that_registers_while_its_push_is_refused_keeps_its_binding_and_the_call() {
    let sim = Sim::new();
    sim.push().takes(s(1));
    let (alice, call) = call(&sim, Outcome::TokenDead { since: None, reason: "UNREGISTERED".into() });
    alice.does(Answer::Answers(s(2)));
    alice.registers();
    sim.run_for(s(4));
    assert_eq!((call.status(), alice.bindings()), (Some(200), 1));
}

#[test]
fn refused_for_good_is_480_at_once() {
    let sim = Sim::new();
    let (alice, call) = call(&sim, Outcome::Refused { reason: "BadTopic".into() });
    call.expects(&[100, 182, 480]);
    assert_eq!((alice.bindings(), alice.bucket()), (1, vec![(call.call_ref(), EntryState::Missed)]));
}

#[test]
fn a_token_that_does_not_fit_is_not_pushed_again_before_the_phone_registers() {
    let sim = Sim::new();
    let mut push = sim.push();
    let (alice, first) = call(&sim, Outcome::Misfit { reason: "400 DeviceTokenNotForTopic".into() });
    first.expects(&[100, 182, 480]);
    push.expects(1);
    sim.run_for(s(3600));
    let second = sim.switch().invites("alice");
    sim.run_for(s(1));
    second.expects(&[100, 480]);
    push.expects(0);
    assert!(second.story().contains(&Step::DeviceSkipped));
    alice.registers();
    alice.sleeps();
    sim.switch().invites("alice").cancels("");
    sim.run_for(s(1));
    assert!(sim.world().pushes.sent.iter().filter(|push| push.notice.kind().name() == "invite").count() > 1);
}

#[test]
fn a_token_that_does_not_fit_is_pushed_again_once_the_operator_has_mended_something() {
    let sim = Sim::new();
    let mut push = sim.push();
    let (alice, _) = call(&sim, Outcome::Misfit { reason: "403 SENDER_ID_MISMATCH".into() });
    push.expects(1);
    assert_eq!(alice.bindings(), 1);
    let now = sim.world().now.unix;
    sim.world().storage.bars.lift_all(now);
    sim.switch().invites("alice");
    sim.run_for(s(1));
    push.expects(1);
}

#[test]
fn a_push_of_before_a_reload_bars_nobody_after_it() {
    let sim = Sim::new();
    let mut push = sim.push();
    push.takes(s(2));
    let (_, call) = call(&sim, Outcome::Misfit { reason: "403 SENDER_ID_MISMATCH".into() });
    let now = sim.world().now.unix;
    sim.world().storage.bars.lift_all(now);
    sim.run_for(s(2));
    call.expects(&[100, 182, 480]);
    sim.switch().invites("alice");
    sim.run_for(s(1));
    push.expects(2);
}

#[test]
fn a_death_that_is_not_believed_keeps_the_binding_and_bars_it() {
    let sim = Sim::new();
    let mut push = sim.push();
    let (alice, first) = call(&sim, Outcome::Doubted { reason: "404 UNREGISTERED".into() });
    first.expects(&[100, 182, 480]);
    assert_eq!((alice.bindings(), alice.bucket()), (1, vec![(first.call_ref(), EntryState::Missed)]));
    sim.run_for(s(3600));
    let second = sim.switch().invites("alice");
    sim.run_for(s(1));
    second.expects(&[100, 480]);
    push.expects(1);
    alice.registers();
    alice.sleeps();
    sim.switch().invites("alice").cancels("");
    sim.run_for(s(1));
    assert!(sim.world().pushes.sent.iter().filter(|push| push.notice.kind().name() == "invite").count() > 1);
}

#[test]
fn a_dead_remote_token_does_not_end_the_binding_that_calls_reach_by_the_voip_token() {
    let sim = Sim::new();
    let (alice, mut push) = (sim.phone("alice"), sim.push());
    let prid = "aa:voip&bb:remote";
    alice.change(|agent| {
        agent.device.push = format!(";pn-provider=apns;pn-param=DEF123GHIJ.org.example.voip&remote;pn-prid={prid}");
    });
    alice.registers();
    alice.sleeps();
    let missed = sim.switch().invites("alice");
    sim.run_for(ms(500));
    missed.cancels("");
    sim.run_for(s(1));
    let dead = Outcome::TokenDead { since: None, reason: "410 Unregistered".into() };
    sim.world().pushes.script.entry(prid.into()).or_default().push_back(dead);
    alice.registers();
    sim.run_for(s(1));
    push.expects(2);
    let bindings = sim.bindings();
    let tokens = &bindings[0].push.as_ref().unwrap().tokens;
    assert!(matches!(tokens, Tokens::Apple { voip: Some(_), remote: None, .. }), "{tokens:?}");
    alice.sleeps();
    sim.switch().invites("alice").cancels("");
    sim.run_for(s(1));
    assert_eq!(alice.bucket().len(), 2);
}

#[test]
fn passing_trouble_is_tried_again_and_the_call_goes_on() {
    let sim = Sim::new();
    let (alice, call) = call(&sim, Outcome::TryAgain { trouble: Trouble::Failing, after: None, reason: "503".into() });
    alice.wakes_on_push(ms(100)).does(Answer::Answers(s(1)));
    sim.run_for(s(5));
    assert_eq!(call.status(), Some(200));
    sim.push().expects(2);
    assert!(call.story().contains(&Step::PushRetried));
}

#[test]
fn trouble_is_tried_again_until_the_wait_ends() {
    let sim = Sim::new();
    let trouble = || Outcome::TryAgain { trouble: Trouble::Failing, after: None, reason: "503".into() };
    (0..50).for_each(|_| sim.push().next("alice", trouble()));
    let (alice, call) = call(&sim, trouble());
    sim.run_for(s(15));
    call.expects(&[100, 182]);
    // It may come by itself at any time.
    alice.does(Answer::Answers(s(1)));
    alice.registers();
    sim.run_for(s(2));
    assert_eq!(call.status(), Some(200));
    let sent = sim.world().pushes.sent.len();
    assert!((5..=6).contains(&sent), "after 0, 0.5, 1.5, 3.5, 7.5 and 15.5 s, each a little later: {sent}");
    assert!(sim.world().pushes.sent.iter().all(|push| push.purpose.is_over()));
}

#[test]
fn a_call_is_over_when_the_next_try_would_come_after_its_wait() {
    let sim = Sim::new();
    let (_, call) = call(
        &sim,
        Outcome::TryAgain { trouble: Trouble::Failing, after: Some(s(60)), reason: "429 QUOTA_EXCEEDED".into() },
    );
    call.expects(&[100, 182, 480]);
    assert_eq!(sim.world().ledger.outcomes, [proxy::Outcome::PushFailed]);
}

fn skipped(after: Duration) -> Outcome {
    Outcome::Skipped { after, reason: "fcm project x is not asked for a moment".into() }
}

#[test]
fn an_account_that_pauses_for_longer_than_a_call_waits_ends_the_call_at_once() {
    let sim = Sim::new();
    let (alice, call) = call(&sim, skipped(s(28)));
    call.expects(&[100, 182, 480]);
    assert_eq!((alice.bindings(), alice.bucket()), (1, vec![(call.call_ref(), EntryState::Missed)]));
    assert_eq!(sim.world().ledger.outcomes, [proxy::Outcome::PushFailed]);
}

#[test]
fn a_call_waits_for_an_account_that_pauses_and_asks_it_again() {
    let sim = Sim::new();
    let (alice, call) = call(&sim, skipped(s(5)));
    alice.wakes_on_push(ms(100)).does(Answer::Answers(s(1)));
    // By then it is being asked by somebody else, and then it pauses again.
    sim.push().next("alice", skipped(s(0)));
    sim.push().next("alice", skipped(s(10)));
    sim.run_for(s(4));
    call.expects(&[100, 182]);
    sim.push().expects(1);
    sim.run_for(s(6));
    sim.push().expects(3);
    sim.run_for(s(9));
    assert_eq!((call.status(), sim.world().pushes.sent.len()), (Some(200), 4));
}

#[test]
fn a_call_that_asks_in_vain_waits_to_its_end_all_the_same() {
    let sim = Sim::new();
    (0..100).for_each(|_| sim.push().next("alice", skipped(s(0))));
    let (alice, call) = call(&sim, skipped(s(0)));
    sim.run_for(s(27));
    call.expects(&[100, 182]);
    alice.does(Answer::Answers(ms(100)));
    alice.registers();
    sim.run_for(s(1));
    assert_eq!(call.status(), Some(200));
}

#[test]
fn a_push_has_no_purpose_once_its_call_is_over() {
    let sim = Sim::new();
    sim.push().takes(s(10));
    let (_, call) = call(&sim, Outcome::Withdrawn);
    assert!(!sim.world().pushes.sent[0].purpose.is_over());
    call.cancels("");
    sim.run_for(s(1));
    assert!(sim.world().pushes.sent[0].purpose.is_over());
    sim.run_for(s(15));
    call.expects(&[100, 182, 487]);
}

#[test]
fn a_phone_that_comes_by_itself_needs_no_push_and_gets_one_when_it_is_lost_again() {
    let sim = Sim::new();
    sim.push().takes(s(2));
    let (alice, call) = call(&sim, Outcome::Withdrawn);
    alice.does(Answer::Answers(s(5)));
    alice.registers();
    sim.run_for(s(1));
    assert!(sim.world().pushes.sent[0].purpose.is_over());
    sim.run_for(s(10));
    assert_eq!(call.status(), Some(200));
}

#[test]
fn a_retry_is_not_sent_once_the_call_is_over() {
    let sim = Sim::new();
    let (_, call) =
        call(&sim, Outcome::TryAgain { trouble: Trouble::Failing, after: Some(s(3)), reason: "503".into() });
    call.cancels("");
    sim.run_for(s(5));
    sim.push().expects(1);
}

#[test]
fn over_the_limit_of_its_token_the_call_waits_for_an_earlier_push() {
    let sim = Sim::new();
    let (alice, call) = call(&sim, Outcome::Limited);
    call.expects(&[100, 182]);
    alice.does(Answer::Answers(s(1)));
    alice.registers();
    sim.run_for(s(2));
    assert_eq!(call.status(), Some(200));
}

#[test]
fn a_provider_switched_off_since_the_register_leaves_nobody_to_wake() {
    let sim = Sim::new();
    let alice = sim.phone("alice");
    alice.change(|agent| agent.device.expires = Some(60));
    alice.registers();
    alice.sleeps();
    sim.run_for(s(61));
    let policy = {
        let mut policy = crate::options::policy();
        policy.push = Arc::new(Support { off: [Provider::Fcm].into(), ..Support::default() });
        Arc::new(policy)
    };
    sim.world().proxy.reload(policy);
    let call = sim.switch().invites("alice");
    sim.run_for(s(1));
    call.expects(&[100, 480]);
    sim.push().expects(0);
    assert!(call.story().contains(&Step::DeviceSkipped));
}

#[test]
fn a_store_that_fails_is_503_and_no_push() {
    let sim = Sim::new();
    let alice = sim.phone("alice");
    alice.registers();
    alice.sleeps();
    sim.world().storage.refuses = |change| matches!(change, Change::Hold { .. });
    let call = sim.switch().invites("alice");
    sim.run_for(s(1));
    call.expects(&[100, 503]);
    assert_eq!(call.header(sip_push_proxy::sip::HeaderName::RetryAfter), "5");
    sim.push().expects(0);
    assert_eq!(sim.world().ledger.outcomes, [proxy::Outcome::Overload]);
}

#[test]
fn the_end_of_a_call_is_stored_even_if_the_store_fails_for_a_while() {
    let sim = Sim::new();
    let (alice, call) = call(&sim, Outcome::Accepted);
    sim.world().storage.refuses = |change| matches!(change, Change::Settle { .. });
    call.cancels("");
    sim.run_for(s(10));
    assert_eq!(alice.bucket(), [(call.call_ref(), EntryState::Live)]);
    sim.world().storage.refuses = |_| false;
    sim.run_for(s(60));
    assert_eq!(alice.bucket(), [(call.call_ref(), EntryState::Missed)]);
}
