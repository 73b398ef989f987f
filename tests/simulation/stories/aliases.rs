//! Several domains that are one (`register.domain_aliases`).

use std::sync::Arc;

use sip_push_proxy::proxy::policy::Auth;
use sip_push_proxy::store::EntryState;

use crate::agent::Answer;
use crate::digest;
use crate::sim::{Phone, Sim, ms, s};

fn sim() -> Sim {
    Sim::with(|policy| {
        policy.domains = vec!["example.org".into(), "example.net".into()];
        policy.domain_aliases = true;
    })
}

/// A phone of alice's that knows her by another domain.
fn elsewhere(sim: &Sim, name: &str) -> Phone {
    let phone = sim.device("alice", name, sip_push_proxy::sip::Transport::Udp);
    phone.change(|agent| agent.aor = "sip:alice@EXAMPLE.net".into());
    phone
}

#[test]
fn a_user_is_the_same_in_all_of_them() {
    let sim = sim();
    let (one, two) = (sim.device("alice", "one", sip_push_proxy::sip::Transport::Udp), elsewhere(&sim, "two"));
    for phone in [&one, &two] {
        phone.does(Answer::Rings).registers();
        phone.sleeps();
    }
    assert_eq!(one.bindings(), 2);
    for uri in ["sip:alice@example.org", "sip:alice@example.net", "sip:alice@192.0.2.10"] {
        let mut push = sim.push();
        let before = push.kinds().len();
        let call = sim.switch().asks("INVITE", uri, |draft| draft);
        sim.run_for(ms(100));
        push.expects(before + 2);
        assert!(
            [one.bucket(), two.bucket()].iter().all(|bucket| bucket.contains(&(call.call_ref(), EntryState::Live)))
        );
        call.cancels("");
        sim.run_for(s(1));
    }
}

#[test]
fn who_waits_in_one_wakes_in_another() {
    let sim = sim();
    let alice = sim.phone("alice");
    alice.does(Answer::Rings).registers();
    alice.sleeps();
    let call = sim.switch().asks("INVITE", "sip:alice@example.net", |draft| draft);
    sim.run_for(ms(100));
    alice.change(|agent| agent.aor = "sip:alice@example.net".into());
    alice.registers();
    sim.run_for(s(1));
    call.expects(&[100, 182, 180]);
    call.cancels("");
    assert_eq!(alice.bindings(), 1);
}

#[test]
fn an_account_in_any_of_them_proves_its_user() {
    let sim = Sim::local(|policy| {
        policy.domains = vec!["example.net".into(), "example.org".into()];
        policy.domain_aliases = true;
        policy.registrar.auth = Auth::Digest(Arc::new(digest::credentials("alice", "secret")));
    });
    let (alice, other) = (sim.phone("alice"), elsewhere(&sim, "other"));
    for phone in [&alice, &other] {
        phone.change(|agent| agent.device.password = Some(("secret".into(), "SHA-256")));
        phone.does(Answer::Rings).registers();
    }
    let call = sim.switch().asks("INVITE", "sip:alice@example.org", |draft| draft);
    sim.run_for(ms(100));
    sim.push().expects(2);
    call.cancels("");
    let nobody = sim.phone("nobody");
    nobody.change(|agent| agent.device.password = Some(("secret".into(), "MD5")));
    assert_eq!(nobody.tries_to_register().status(), Some(403));
}

#[test]
fn what_was_registered_before_is_found_until_its_phone_registers_anew() {
    let sim = Sim::with(|policy| policy.domains = vec!["example.org".into(), "example.net".into()]);
    let alice = elsewhere(&sim, "alice");
    alice.does(Answer::Rings).registers();
    alice.sleeps();
    sim.world().policy_with(|policy| {
        policy.domains = vec!["example.org".into(), "example.net".into()];
        policy.domain_aliases = true;
    });
    let call = sim.switch().asks("INVITE", "sip:alice@example.org", |draft| draft);
    sim.run_for(ms(100));
    sim.push().expects(1);
    alice.registers();
    sim.run_for(s(1));
    call.expects(&[100, 182, 180]);
    call.cancels("");
    assert_eq!(alice.bindings(), 1, "under its one name");
}

#[test]
fn otherwise_they_are_two() {
    let sim = Sim::with(|policy| policy.domains = vec!["example.org".into(), "example.net".into()]);
    let alice = sim.phone("alice");
    alice.registers();
    let call = sim.switch().asks("INVITE", "sip:alice@example.net", |draft| draft);
    sim.run_for(ms(100));
    call.expects(&[100, 404]);
}
