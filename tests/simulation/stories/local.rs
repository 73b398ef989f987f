//! REGISTER in local mode: we are the registrar.

use std::sync::Arc;

use sip_push_proxy::proxy::policy::{Auth, Mode};
use sip_push_proxy::push::{Outcome, Trouble};
use sip_push_proxy::sip::{HeaderName, Transport};
use sip_push_proxy::store::Change;

use crate::agent::Answer;
use crate::digest;
use crate::sim::{Sim, ms, s};
use crate::text;

fn with_digest() -> Sim {
    Sim::local(|policy| policy.registrar.auth = Auth::Digest(Arc::new(digest::credentials("alice", "secret"))))
}

#[test]
fn both_algorithms_let_a_phone_in() {
    for algorithm in ["MD5", "SHA-256"] {
        let sim = with_digest();
        let alice = sim.phone("alice");
        alice.change(|agent| agent.device.password = Some(("secret".into(), algorithm)));
        let register = alice.registers();
        assert!(register.header(HeaderName::Contact).contains("pn-prid=token-alice"));
        assert_eq!(register.header(HeaderName::FeatureCaps), "*;+sip.pns=\"fcm\"");
        assert!(sim.switch().got("REGISTER").is_empty());
    }
}

/// RFC 8760 §2.3 wants the strongest first, but older phones answer the first challenge or none: both are offered, each in a
/// header line of its own, in the order that the operator says (`register.digest_algorithms`), and by default MD5 first.
#[test]
fn older_phones_find_md5_first_and_others_find_both() {
    let sim = with_digest();
    let challenged = sim.phone("alice").tries_to_register().response();
    let lines: Vec<_> = challenged.fields(HeaderName::WwwAuthenticate).collect();
    let offers = lines.iter().map(|field| text::text(challenged.slice(field.value())));
    let algorithms: Vec<_> = offers.map(|offer| offer.split("algorithm=").nth(1).unwrap().to_owned()).collect();
    assert!(algorithms.len() == 2 && algorithms[0].starts_with("MD5"), "{algorithms:?}");
    assert!(algorithms[1].starts_with("SHA-256"), "{algorithms:?}");
}

#[test]
fn a_wrong_password_and_no_password_do_not() {
    let sim = with_digest();
    let alice = sim.phone("alice");
    assert_eq!(alice.tries_to_register().status(), Some(401));
    assert!(sim.world().auth_failures.is_empty(), "no password is no wrong one");
    alice.change(|agent| agent.device.password = Some(("wrong".into(), "MD5")));
    assert_eq!(alice.tries_to_register().status(), Some(403));
    assert_eq!(alice.bindings(), 0);
    let failures = sim.world().auth_failures.clone();
    assert_eq!(failures.len(), 1, "{failures:?}");
}

#[test]
fn before_authentication_known_and_unknown_users_look_the_same() {
    let sim = Sim::local(|policy| {
        policy.registrar.contacts_per_aor_max = 1;
        policy.registrar.auth = Auth::Digest(Arc::new(digest::credentials("alice", "secret")));
    });
    let (alice, thief, nobody) =
        (sim.phone("alice"), sim.device("alice", "thief", Transport::Udp), sim.phone("nobody"));
    alice.change(|agent| agent.device.password = Some(("secret".into(), "MD5")));
    alice.registers();
    assert_eq!(thief.tries_to_register().statuses(), [401]);
    assert_eq!(nobody.tries_to_register().statuses(), [401]);
}

#[test]
fn without_authentication_only_open_networks_get_in() {
    let sim = Sim::local(|policy| policy.registrar.auth = Auth::None(vec!["198.51.100.0/31".parse().unwrap()]));
    let (alice, bob) = (sim.phone("alice"), sim.phone("bob"));
    assert_eq!(alice.tries_to_register().status(), Some(200));
    assert_eq!(bob.tries_to_register().status(), Some(403));
}

#[test]
fn a_user_that_is_taken_out_is_not_told_of_calls_until_it_is_put_back() {
    let users = |user: &str| Auth::Digest(Arc::new(digest::credentials(user, "secret")));
    let reload = |sim: &Sim, user: &str| {
        sim.reloads(|policy| (policy.mode, policy.registrar.auth) = (Mode::Local, users(user)));
    };
    let sim = with_digest();
    let (alice, mut push) = (sim.phone("alice"), sim.push());
    alice.change(|agent| agent.device.password = Some(("secret".into(), "MD5")));
    let calls_alice = || {
        let call = sim.switch().asks("INVITE", "sip:alice@example.org", |draft| draft);
        sim.run_for(ms(100));
        call
    };
    alice.registers();
    let alias = format!("sip:{}@192.0.2.10", sim.bindings()[0].device);
    reload(&sim, "bob");
    // Awake, by its user and by its alias.
    assert_eq!(calls_alice().status(), Some(404));
    let by_alias = sim.switch().asks("INVITE", &alias, |draft| draft);
    sim.run_for(ms(100));
    assert_eq!(by_alias.status(), Some(404));
    alice.expects_invites(0);
    alice.sleeps();
    assert_eq!(calls_alice().status(), Some(404));
    push.expects(0);
    assert_eq!((alice.bindings(), alice.bucket()), (1, vec![]));

    reload(&sim, "alice");
    let missed = calls_alice();
    push.expects(1);
    // What waits already goes on.
    reload(&sim, "bob");
    missed.cancels("");
    sim.run_for(s(1));
    missed.expects(&[100, 182, 487]);

    reload(&sim, "alice");
    push.next("alice", Outcome::TryAgain { trouble: Trouble::Failing, after: None, reason: "503".into() });
    alice.registers();
    sim.run_for(s(1));
    push.expects(1);
    reload(&sim, "bob");
    sim.run_for(s(600));
    push.expects(0);
    reload(&sim, "alice");
    alice.registers();
    sim.run_for(s(1));
    push.expects(1);
    assert_eq!(push.reported(), [missed.call_ref()]);
}

#[test]
fn a_call_by_aor_wakes_the_phone() {
    let sim = Sim::local(|_| {});
    let (alice, switch, mut push) = (sim.phone("alice"), sim.switch(), sim.push());
    alice.does(Answer::Answers(s(1)));
    alice.registers();
    alice.sleeps();
    let call = switch.asks("INVITE", "sip:alice@example.org", |draft| draft);
    sim.run_for(ms(100));
    push.expects(1);
    alice.registers();
    sim.run_for(s(2));
    call.expects(&[100, 182, 180, 200]);
}

#[test]
fn intervals_are_kept_within_their_limits() {
    let sim = Sim::local(|_| {});
    let alice = sim.phone("alice");
    alice.change(|agent| agent.device.expires = Some(30));
    let brief = alice.tries_to_register();
    assert_eq!((brief.status(), brief.header(HeaderName::MinExpires)), (Some(423), "60".to_owned()));
    alice.change(|agent| agent.device.expires = Some(1_000_000));
    assert!(alice.registers().header(HeaderName::Contact).ends_with(";expires=86400"));
    alice.change(|agent| agent.device.expires = None);
    assert!(alice.registers().header(HeaderName::Contact).ends_with(";expires=3600"));
}

#[test]
fn an_old_register_that_comes_late_changes_nothing() {
    let sim = Sim::local(|_| {});
    let alice = sim.phone("alice");
    alice.registers();
    let before = sim.bindings();
    alice.change(|agent| agent.cseq = 0);
    assert_eq!(alice.tries_to_register().status(), Some(500));
    assert_eq!(sim.bindings(), before);
}

#[test]
fn a_store_that_fails_is_503() {
    let sim = Sim::local(|_| {});
    let alice = sim.phone("alice");
    sim.world().storage.refuses = |change| matches!(change, Change::Register { .. });
    assert_eq!(alice.tries_to_register().status(), Some(503));
}

#[test]
fn an_unknown_extension_is_420_and_a_foreign_domain_403() {
    let sim = Sim::local(|_| {});
    let (alice, bob) = (sim.phone("alice"), sim.phone("bob"));
    alice.change(|agent| agent.device.headers = vec!["Require: path, gold".into()]);
    let register = alice.tries_to_register();
    assert_eq!(register.status(), Some(420));
    assert!(text::text(register.response().bytes()).contains("\r\nUnsupported: gold\r\n"));
    bob.change(|agent| agent.aor = "sip:bob@elsewhere.example".into());
    assert_eq!(bob.tries_to_register().status(), Some(403));
}
