//! Token devices: pushed as phones that sleep, and the AOR's phones come for them.

use sip_push_proxy::push::{NoticeKind, Outcome};
use sip_push_proxy::sip::Transport;
use sip_push_proxy::store::EntryState;
use sip_push_proxy::timeline::Step;

use crate::agent::Answer;
use crate::sim::{Phone, Request, Sim, ms, s};

/// A phone of alice's that says nothing of push, and whose name is its address.
fn plain(sim: &Sim, name: &str) -> Phone {
    let phone = sim.device("alice", name, Transport::Udp);
    phone.change(|agent| {
        agent.device.push.clear();
        agent.device.instance = None;
    });
    phone
}

fn calls_alice(sim: &Sim) -> Request {
    let call = sim.switch().asks("INVITE", "sip:alice@example.org", |draft| draft);
    sim.run_for(ms(100));
    call
}

fn in_both_modes(story: impl Fn(&Sim)) {
    story(&Sim::new());
    story(&Sim::local(|_| {}));
}

#[test]
fn a_call_goes_to_the_phone_that_registers_on_the_push() {
    in_both_modes(|sim| {
        let (alice, mut push) = (plain(sim, "alice"), sim.push());
        let token = sim.binds_token("alice", "token", "ru");
        let call = calls_alice(sim);
        push.expects(1);
        assert_eq!(sim.world().pushes.sent[0].language.as_deref(), Some("ru"));
        assert_eq!(token.bucket(), [(call.call_ref(), EntryState::Live)]);
        alice.does(Answer::Answers(s(1))).registers();
        alice.expects_invites(1);
        sim.run_for(s(2));
        call.expects(&[100, 182, 180, 200]);
        assert_eq!(token.bucket(), []);
        push.expects(0);
    });
}

#[test]
fn without_a_phone_the_wait_ends_as_ever_and_the_call_is_missed() {
    in_both_modes(|sim| {
        let mut push = sim.push();
        let token = sim.binds_token("alice", "token", "ru");
        let call = calls_alice(sim);
        sim.run_for(s(30));
        call.expects(&[100, 182, 480]);
        assert_eq!(token.bucket(), [(call.call_ref(), EntryState::Missed)]);
        push.expects(1);
        let alice = plain(sim, "alice");
        alice.registers();
        sim.run_for(s(1));
        push.expects(1);
        assert_eq!(push.kinds()[1], NoticeKind::MissedCalls);
        assert_eq!(sim.world().pushes.sent[1].language.as_deref(), Some("ru"));
        assert_eq!((push.reported(), token.bucket()), (vec![call.call_ref()], vec![]));
        alice.expects_invites(0);
        alice.registers();
        sim.run_for(s(1));
        push.expects(0);
    });
}

#[test]
fn a_dead_token_ends_and_so_does_a_call_for_it_alone() {
    let sim = Sim::new();
    let token = sim.binds_token("alice", "token", "en");
    let dead = Outcome::TokenDead { since: None, reason: "UNREGISTERED".into() };
    sim.world().pushes.script.entry("token".into()).or_default().push_back(dead);
    let call = calls_alice(&sim);
    sim.run_for(s(1));
    call.expects(&[100, 182, 480]);
    assert!(!token.is_bound());
}

#[test]
fn the_phone_that_came_declines_for_its_token_too() {
    let sim = Sim::local(|_| {});
    let (alice, mut push) = (plain(&sim, "alice"), sim.push());
    let token = sim.binds_token("alice", "token", "en");
    let call = calls_alice(&sim);
    alice.does(Answer::Refuses(486)).registers();
    sim.run_for(s(1));
    call.expects(&[100, 182, 486]);
    assert_eq!(token.bucket(), [], "the phone has seen the call");
    push.expects(1);
}

#[test]
fn a_phone_that_rang_has_seen_the_call_for_its_token() {
    let sim = Sim::local(|_| {});
    let alice = plain(&sim, "alice");
    let token = sim.binds_token("alice", "token", "en");
    let call = calls_alice(&sim);
    alice.registers();
    sim.run_for(s(1));
    call.cancels("");
    sim.run_for(s(1));
    call.expects(&[100, 182, 180, 487]);
    assert_eq!(token.bucket(), []);
}

#[test]
fn a_silent_phone_leaves_the_call_missed() {
    let sim = Sim::local(|_| {});
    let alice = plain(&sim, "alice");
    let token = sim.binds_token("alice", "token", "en");
    let call = calls_alice(&sim);
    alice.does(Answer::Silent).registers();
    sim.run_for(s(5));
    call.cancels("");
    sim.run_for(s(1));
    assert_eq!(token.bucket(), [(call.call_ref(), EntryState::Missed)]);
}

#[test]
fn a_desk_phone_that_rings_keeps_no_token_from_its_push() {
    let sim = Sim::local(|_| {});
    let desk = plain(&sim, "desk");
    desk.registers();
    let token = sim.binds_token("alice", "token", "en");
    let call = calls_alice(&sim);
    sim.run_for(s(1));
    sim.push().expects(1);
    assert_eq!(token.bucket(), [(call.call_ref(), EntryState::Live)]);
    let mobile = plain(&sim, "mobile");
    mobile.does(Answer::Answers(ms(100))).registers();
    sim.run_for(s(1));
    assert_eq!(call.status(), Some(200));
    assert_eq!(token.bucket(), []);
    desk.expects_invites(1);
}

#[test]
fn the_softswitch_may_call_the_old_contact_of_a_phone_that_comes_with_a_new_one() {
    let sim = Sim::new();
    let (alice, mut push) = (plain(&sim, "alice"), sim.push());
    alice.registers();
    let token = sim.binds_token("alice", "token", "en");
    let other = plain(&sim, "other");
    other.registers();
    other.sleeps();
    alice.sleeps();
    let call = sim.switch().invites("alice");
    sim.run_for(ms(100));
    push.expects(1);
    other.registers();
    other.expects_invites(0);
    let again = plain(&sim, "again");
    again.does(Answer::Answers(s(1))).registers();
    again.expects_invites(1);
    sim.run_for(s(2));
    assert_eq!((call.status(), token.bucket()), (Some(200), vec![]));
}

#[test]
fn a_token_is_pushed_once_however_often_the_softswitch_forks() {
    let sim = Sim::new();
    let (one, two) = (plain(&sim, "one"), plain(&sim, "two"));
    one.registers();
    two.registers();
    sim.binds_token("alice", "token", "en");
    let contacts = sim.switch().contacts("alice");
    let branch = |uri: &str| {
        sim.switch().asks("INVITE", uri, |mut draft| {
            draft.call_id = "forked".to_owned();
            draft
        })
    };
    let (first, second) = (branch(&contacts[0].0), branch(&contacts[1].0));
    sim.run_for(ms(100));
    sim.push().expects(1);
    assert!(first.story().contains(&Step::PushSent));
    first.cancels("");
    second.cancels("");
    sim.run_for(s(1));
}

#[test]
fn a_phone_that_registers_with_the_token_is_its_heir() {
    in_both_modes(|sim| {
        let alice = sim.device("alice", "alice", Transport::Udp);
        let mut push = sim.push();
        let token = sim.binds_token("alice", "token-alice", "pt-BR");
        let call = calls_alice(sim);
        push.expects(1);
        call.cancels("");
        sim.run_for(s(1));
        alice.registers();
        sim.run_for(s(1));
        assert!(!token.is_bound());
        assert_eq!((alice.bindings(), sim.bindings()[0].app.locale.as_deref()), (1, Some("pt-BR")));
        push.expects(1);
        assert_eq!(push.reported(), [call.call_ref()]);
        // And it stays so.
        alice.registers();
        assert_eq!(sim.bindings()[0].app.locale.as_deref(), Some("pt-BR"));
        alice.sleeps();
        calls_alice(sim).cancels("");
        sim.run_for(s(1));
        push.expects(1);
        // The token bound again is news of the phone that has it.
        sim.binds_token("alice", "token-alice", "pt-PT");
        assert_eq!((alice.bindings(), sim.bindings()[0].app.locale.as_deref()), (1, Some("pt-PT")));
    });
}

#[test]
fn a_phone_that_comes_with_the_token_joins_the_call_it_was_pushed_for() {
    in_both_modes(|sim| {
        let alice = sim.device("alice", "alice", Transport::Udp);
        let mut push = sim.push();
        sim.binds_token("alice", "token-alice", "en");
        let call = calls_alice(sim);
        alice.does(Answer::Refuses(486)).registers();
        sim.run_for(s(1));
        call.expects(&[100, 182, 486]);
        assert_eq!(alice.bucket(), []);
        push.expects(1);
    });
}

#[test]
fn unregistering_everything_leaves_the_tokens() {
    in_both_modes(|sim| {
        let alice = plain(sim, "alice");
        let token = sim.binds_token("alice", "token", "en");
        alice.registers();
        alice.change(|agent| agent.device.expires = Some(0));
        assert_eq!(alice.registers_as(Some("*".to_owned())).status(), Some(200));
        assert_eq!((alice.bindings(), token.is_bound()), (1, true));
    });
}

#[test]
fn tokens_do_not_keep_a_phone_from_registering() {
    let sim = Sim::local(|policy| policy.registrar.contacts_per_aor_max = 1);
    sim.binds_token("alice", "one", "en");
    sim.binds_token("alice", "two", "en");
    plain(&sim, "alice").registers();
}

#[test]
fn a_phone_that_came_for_its_token_and_lost_its_connection_is_waited_for_again() {
    let sim = Sim::local(|_| {});
    let (alice, mut push) = (sim.device("alice", "alice", Transport::Tcp), sim.push());
    alice.change(|agent| agent.device.push.clear());
    alice.sleeps();
    let token = sim.binds_token("alice", "token", "en");
    let call = calls_alice(&sim);
    push.expects(1);
    alice.is_back();
    let contact = sim.world().agents[alice.agent].contact();
    sim.world().storage.delay = ms(200);
    alice.sends_register(Some(contact));
    sim.run_for(ms(100));
    alice.sleeps();
    sim.run_for(s(2));
    assert!(call.story().contains(&Step::Failed), "its flow is gone");
    assert_eq!((call.status(), token.bucket()), (None, vec![(call.call_ref(), EntryState::Live)]));
    alice.is_back();
    alice.does(Answer::Answers(s(1))).registers();
    sim.run_for(s(2));
    assert_eq!((call.status(), token.bucket()), (Some(200), vec![]));
    push.expects(0);
}

#[test]
fn a_phone_that_comes_while_the_call_ends_is_told() {
    let sim = Sim::local(|_| {});
    let (alice, push) = (plain(&sim, "alice"), sim.push());
    let token = sim.binds_token("alice", "token", "en");
    let call = calls_alice(&sim);
    sim.world().storage.delay = ms(200);
    let contact = sim.world().agents[alice.agent].contact();
    alice.sends_register(Some(contact));
    sim.run_for(ms(100));
    call.cancels("");
    sim.run_for(s(1));
    assert_eq!((push.reported(), token.bucket()), (vec![call.call_ref()], vec![]));
    alice.expects_invites(0);
}
