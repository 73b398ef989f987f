//! Calls of phones in local mode: by way of the softswitch, for those who prove who they are.

use std::sync::Arc;

use sip_push_proxy::proxy::policy::Auth;
use sip_push_proxy::sip::HeaderName;

use crate::agent::Answer;
use crate::digest;
use crate::sim::{Phone, Request, Sim, ms, s};
use crate::text::{self, Draft};

fn with_digest() -> Sim {
    let sim =
        Sim::local(|policy| policy.registrar.auth = Auth::Digest(Arc::new(digest::credentials("alice", "secret"))));
    // Credentials for us go no further than us.
    sim.world().ledger.is_lenient = true;
    sim
}

fn registered(sim: &Sim) -> Phone {
    let alice = sim.phone("alice");
    alice.change(|agent| agent.device.password = Some(("secret".into(), "MD5")));
    alice.registers();
    alice
}

/// The same request once more with credentials, as the next in its sequence.
fn proves(sim: &Sim, alice: &Phone, refused: &Request, password: &str) -> Request {
    let challenge = refused.response();
    let draft = refused.sent().draft.clone();
    let line = digest::proxy_authorization(&challenge, (&draft.method, &draft.uri), ("alice", password));
    let mut world = sim.world();
    world.agents[alice.agent].cseq += 1;
    let cseq = world.agents[alice.agent].cseq;
    let number = world.request(alice.agent, Draft { cseq, ..draft }.header(line));
    Request { world: std::rc::Rc::clone(&refused.world), agent: alice.agent, number }
}

#[test]
fn a_registered_phone_calls_out_with_its_password() {
    let sim = with_digest();
    let (alice, switch) = (registered(&sim), sim.switch());
    switch.answers(Answer::Answers(ms(100)));
    for uri in ["sip:103@example.net", "tel:+79990000000", "urn:service:sos"] {
        let first = alice.asks("INVITE", uri, |draft| draft);
        sim.run_for(ms(100));
        first.expects(&[100, 407]);
        let lines = text::values(&first.response(), HeaderName::ProxyAuthenticate).join(", ");
        assert!(lines.contains("realm=\"example.org\""), "{lines}");
        let call = proves(&sim, &alice, &first, "secret");
        sim.run_for(s(1));
        call.expects(&[100, 180, 200]);
        let invite = switch.got("INVITE").pop().expect("an INVITE");
        assert_eq!(text::text(invite.uri()), uri);
        assert_eq!(invite.fields(HeaderName::ProxyAuthorization).count(), 0);
        let bye = call.sends("BYE");
        sim.run_for(s(1));
        bye.expects(&[200]);
        let from_switch = switch.got("BYE");
        assert!(!from_switch.is_empty());
    }
    assert_eq!(switch.acks(), 3);
    assert!(sim.world().auth_failures.is_empty());
}

#[test]
fn other_requests_and_cancel_as_well() {
    let sim = with_digest();
    let (alice, switch) = (registered(&sim), sim.switch());
    switch.answers(Answer::Rings);
    let message = alice.asks("MESSAGE", "sip:103@example.org", |draft| draft);
    let call = alice.calls("103");
    sim.run_for(ms(100));
    message.expects(&[407]);
    let (message, call) = (proves(&sim, &alice, &message, "secret"), proves(&sim, &alice, &call, "secret"));
    sim.run_for(s(1));
    message.expects(&[200]);
    call.cancels("");
    sim.run_for(s(1));
    call.expects(&[100, 180, 487]);
    assert_eq!(switch.got("CANCEL").len(), 1);
}

#[test]
fn a_wrong_password_is_403_and_counts() {
    let sim = with_digest();
    let alice = registered(&sim);
    let first = alice.calls("103");
    sim.run_for(ms(100));
    let call = proves(&sim, &alice, &first, "guess");
    sim.run_for(ms(100));
    call.expects(&[100, 403]);
    assert_eq!(sim.world().auth_failures.len(), 1);
    assert!(sim.switch().got("INVITE").is_empty());
}

#[test]
fn nobody_calls_in_the_name_of_another_or_unregistered() {
    let sim = with_digest();
    let (alice, mallory) = (registered(&sim), sim.phone("mallory"));
    let as_bob = alice
        .asks("INVITE", "sip:103@example.org", |draft| Draft { from: "<sip:bob@example.org>;tag=1".into(), ..draft });
    let as_alice = mallory
        .asks("INVITE", "sip:103@example.org", |draft| Draft { from: "<sip:alice@example.org>;tag=1".into(), ..draft });
    let hidden = alice.asks("INVITE", "sip:103@example.org", |draft| Draft {
        from: "\"Anonymous\" <sip:anonymous@anonymous.invalid>;tag=1".into(),
        ..draft
    });
    sim.run_for(ms(100));
    as_bob.expects(&[100, 403]);
    as_alice.expects(&[100, 403]);
    hidden.expects(&[100, 407]);
    sim.run_for(s(3700));
    let expired = alice.calls("103");
    sim.run_for(ms(100));
    expired.expects(&[100, 403]);
}

#[test]
fn without_a_softswitch_or_without_passwords_it_is_403() {
    let sim = Sim::local(|policy| {
        policy.registrar.auth = Auth::Digest(Arc::new(digest::credentials("alice", "secret")));
        policy.softswitch = None;
    });
    let alone = registered(&sim);
    let call = alone.calls("103");
    sim.run_for(ms(100));
    call.expects(&[100, 403]);
    let open = Sim::local(|_| {});
    let alice = open.phone("alice");
    alice.registers();
    let call = alice.calls("103");
    open.run_for(ms(100));
    call.expects(&[100, 403]);
}
