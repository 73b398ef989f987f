//! Digest at its edges: what was used once is worth nothing, and who guesses is noticed.

use std::sync::Arc;

use sip_push_proxy::proxy::policy::Auth;
use sip_push_proxy::sip::HeaderName;

use crate::agent::Registrar;
use crate::digest;
use crate::sim::{Phone, Request, Sim, s};
use crate::text::{self, Draft};

fn with_digest() -> Sim {
    Sim::local(|policy| policy.registrar.auth = Auth::Digest(Arc::new(digest::credentials("alice", "secret"))))
}

fn registered(sim: &Sim) -> Phone {
    let alice = sim.phone("alice");
    alice.change(|agent| agent.device.password = Some(("secret".into(), "MD5")));
    alice.registers();
    alice
}

/// The Authorization line that was sent last.
fn authorization(phone: &Phone, sim: &Sim) -> String {
    let world = sim.world();
    let sent = world.agents[phone.agent].sent.last().unwrap();
    format!("Authorization: {}", text::first(&sent.message, HeaderName::Authorization))
}

/// A REGISTER of alice with that line, from somebody who wants her calls.
fn stolen(phone: &Phone, line: &str, sim: &Sim) -> Request {
    let request = phone.asks("REGISTER", "sip:example.org", |draft| {
        let to = "<sip:alice@example.org>".to_owned();
        Draft { to, ..draft }.header(line).header("Contact: <sip:mallory@198.51.100.66:6666>").header("Expires: 600")
    });
    sim.run_for(s(1));
    request
}

#[test]
fn what_was_overheard_registers_nobody() {
    let sim = with_digest();
    let (alice, mallory) = (registered(&sim), sim.phone("mallory"));
    let line = authorization(&alice, &sim);
    let before = sim.bindings();
    for request in [stolen(&alice, &line, &sim), stolen(&mallory, &line, &sim)] {
        assert_eq!(request.status(), Some(401));
        assert!(request.header(HeaderName::WwwAuthenticate).contains("stale=true"));
    }
    sim.world().restart();
    assert_eq!(stolen(&alice, &line, &sim).status(), Some(401), "used before the restart");
    assert_eq!(sim.bindings(), before);
    assert!(sim.world().auth_failures.is_empty(), "nobody guesses here");
    alice.registers();
}

#[test]
fn without_qop_too() {
    let sim = with_digest();
    let alice = sim.phone("alice");
    let challenge = alice.tries_to_register().response();
    let line = digest::authorization_without_qop(&challenge, "alice", "secret");
    assert_eq!(stolen(&alice, &line, &sim).status(), Some(200));
    assert_eq!(stolen(&alice, &line, &sim).status(), Some(401));
}

#[test]
fn a_proof_for_another_server_is_none() {
    let sim = with_digest();
    let alice = sim.phone("alice");
    let challenge = alice.tries_to_register().response();
    let line = digest::authorization_for(&challenge, "sip:evil.example", ("alice", "secret"), "MD5");
    assert_eq!(stolen(&alice, &line, &sim).status(), Some(403));
    assert!(sim.bindings().is_empty());
}

#[test]
fn each_wrong_password_is_noticed_with_its_source() {
    let sim = with_digest();
    let mallory = sim.device("alice", "mallory", sip_push_proxy::sip::Transport::Udp);
    let address = sim.world().agents[mallory.agent].address.ip();
    for word in ["1234", "password", "alice"] {
        mallory.change(|agent| agent.device.password = Some((word.into(), "MD5")));
        assert_eq!(mallory.tries_to_register().status(), Some(403));
    }
    assert_eq!(sim.world().auth_failures, [(address, "wrong user or password"); 3]);
}

#[test]
fn passwords_that_are_tried_at_the_softswitch_are_noticed_too() {
    let sim = Sim::new();
    let (alice, mallory) = (sim.phone("alice"), sim.phone("mallory"));
    sim.switch().registrar(Registrar::Challenges);
    for phone in [&alice, &mallory] {
        phone.change(|agent| agent.device.password = Some(("secret".into(), "MD5")));
    }
    alice.registers();
    assert!(sim.world().auth_failures.is_empty(), "a challenge that is answered is no failure");
    sim.switch().registrar(Registrar::Distrusts);
    for count in 1..=3 {
        assert_eq!(mallory.tries_to_register().status(), Some(401));
        assert_eq!(sim.world().auth_failures.len(), count);
    }
    // Somebody who was never challenged may be anybody.
    let forged = sim.phone("forged");
    let line = authorization(&mallory, &sim);
    assert_eq!(stolen(&forged, &line, &sim).status(), Some(401));
    assert_eq!(sim.world().auth_failures.len(), 3);
}

/// As pjsip does, which answers the last challenge that it had, at a softswitch that does not say `stale`.
#[test]
fn a_phone_that_proves_itself_at_the_second_try_has_not_guessed() {
    let sim = Sim::new();
    let alice = sim.phone("alice");
    alice.change(|agent| agent.device.password = Some(("secret".into(), "MD5")));
    sim.switch().registrar(Registrar::Distrusts);
    assert_eq!(alice.tries_to_register().status(), Some(401));
    assert_eq!(sim.world().auth_failures.len(), 1);
    sim.switch().registrar(Registrar::Challenges);
    alice.registers();
    assert!(sim.world().auth_failures.is_empty());
}
