//! REGISTER in relay mode: the softswitch is the registrar.

use sip_push_proxy::proxy::policy::UpstreamContact;
use sip_push_proxy::sip::{HeaderName, Transport};
use sip_push_proxy::store::Change;

use crate::agent::{Answer, Registrar};
use crate::sim::{Sim, ms, s};
use crate::text;

#[test]
fn the_softswitch_sees_an_alias_and_the_phone_its_own_contact() {
    let sim = Sim::new();
    let (alice, switch) = (sim.phone("alice"), sim.switch());
    let register = alice.registers();
    let contacts = switch.contacts("alice");
    assert_eq!(contacts.len(), 1);
    assert!(contacts[0].0.ends_with("@192.0.2.10:5060") && !contacts[0].0.contains("pn-"), "{contacts:?}");
    assert!(register.header(HeaderName::Contact).contains("pn-prid=token-alice"));
    assert_eq!(register.header(HeaderName::FeatureCaps), "*;+sip.pns=\"fcm\"");
}

#[test]
fn the_alias_stays_the_same_when_the_phone_moves() {
    let sim = Sim::new();
    let (alice, switch) = (sim.phone("alice"), sim.switch());
    alice.registers();
    let before = switch.contacts("alice");
    alice.moves();
    alice.change(|agent| agent.device.push = ";pn-provider=fcm;pn-param=project;pn-prid=token-other".into());
    alice.registers();
    assert_eq!(switch.contacts("alice"), before);
    assert_eq!(alice.bindings(), 1);
}

#[test]
fn with_path_the_contact_is_the_phones_without_push_and_calls_come_by_the_flow_token() {
    let sim = Sim::with(|policy| policy.upstream_contact = UpstreamContact::Path);
    let (alice, switch, mut push) = (sim.phone("alice"), sim.switch(), sim.push());
    alice.does(Answer::Answers(s(1)));
    alice.registers();
    let (contact, path) = switch.contacts("alice")[0].clone();
    assert_eq!(contact, "sip:alice@198.51.100.1:40001");
    assert!(path.unwrap().ends_with("@192.0.2.10:5060;lr>"));
    assert!(switch.got("REGISTER")[0].has_option(HeaderName::Supported, "path"));
    let call = switch.invites("alice");
    sim.run_for(ms(100));
    push.expects(1);
    alice.registers();
    sim.run_for(s(2));
    call.expects(&[100, 182, 180, 200]);
    assert!(text::text(alice.got("INVITE")[0].uri()).contains("pn-prid"));
}

#[test]
fn a_call_through_the_path_of_a_phone_that_has_unregistered_goes_nowhere() {
    let sim = Sim::with(|policy| policy.upstream_contact = UpstreamContact::Path);
    let (alice, switch) = (sim.phone("alice"), sim.switch());
    alice.registers();
    let (contact, path) = switch.contacts("alice")[0].clone();
    alice.change(|agent| agent.device.expires = Some(0));
    alice.registers();
    let call = switch.asks("INVITE", &contact, |draft| draft.header(format!("Route: {}", path.unwrap())));
    sim.run_for(s(1));
    call.expects(&[100, 430]);
    alice.expects_invites(0);
}

#[test]
fn a_challenged_register_wakes_nothing() {
    let sim = Sim::new();
    let (alice, switch) = (sim.phone("alice"), sim.switch());
    alice.change(|agent| agent.device.password = Some(("secret".into(), "MD5")));
    alice.registers();
    alice.sleeps();
    switch.registrar(Registrar::Challenges);
    alice.change(|agent| agent.device.password = None);
    let call = switch.invites("alice");
    sim.run_for(ms(100));
    assert_eq!(alice.tries_to_register().status(), Some(401));
    alice.expects_invites(0);
    alice.change(|agent| agent.device.password = Some(("secret".into(), "SHA-256")));
    alice.registers();
    alice.expects_invites(1);
    call.cancels("");
}

/// RFC 3261 §10.3 step 8: what is not listed is not bound. What is known already stays.
#[test]
fn a_2xx_that_does_not_list_the_contact_binds_nothing() {
    for contact in [UpstreamContact::Alias, UpstreamContact::Path] {
        let sim = Sim::with(|policy| policy.upstream_contact = contact);
        sim.world().ledger.is_lenient = true;
        let (alice, bob, switch) = (sim.phone("alice"), sim.phone("bob"), sim.switch());
        alice.registers();
        let before = sim.bindings();
        switch.registrar(Registrar::ListsNothing);
        alice.moves();
        alice.registers();
        bob.registers();
        assert_eq!(sim.bindings(), before);
        alice.change(|agent| agent.device.expires = Some(0));
        alice.registers();
        assert_eq!(sim.bindings().len(), 0, "what ends is listed nowhere");
    }
}

#[test]
fn what_the_softswitch_refuses_is_refused_and_nothing_is_kept() {
    for (upstream, downstream) in [(403, 403), (404, 404), (500, 500), (503, 500), (603, 603)] {
        let sim = Sim::new();
        let alice = sim.phone("alice");
        sim.switch().registrar(Registrar::Refuses(upstream));
        assert_eq!(alice.tries_to_register().status(), Some(downstream));
        assert_eq!(alice.bindings(), 0);
    }
}

#[test]
fn a_softswitch_that_is_silent_gives_no_answer_and_no_binding() {
    let sim = Sim::new();
    let alice = sim.phone("alice");
    sim.switch().registrar(Registrar::Silent);
    assert_eq!(alice.tries_to_register().status(), None);
    assert_eq!(alice.bindings(), 0);
}

#[test]
fn a_store_that_fails_is_503_with_retry_after_and_the_phone_can_try_again() {
    let sim = Sim::new();
    let alice = sim.phone("alice");
    sim.world().storage.refuses = |change| matches!(change, Change::Register { .. });
    let register = alice.tries_to_register();
    assert_eq!(register.status(), Some(503));
    assert_eq!(register.header(HeaderName::RetryAfter), "5");
    sim.world().storage.refuses = |_| false;
    alice.registers();
    assert_eq!(alice.bindings(), 1);
}

#[test]
fn a_2xx_shows_other_devices_without_what_wakes_them() {
    let sim = Sim::new();
    let (desk, mobile) = (sim.device("alice", "desk", Transport::Udp), sim.device("alice", "mobile", Transport::Udp));
    desk.registers();
    let register = mobile.registers();
    let contacts = text::values(&register.response(), HeaderName::Contact);
    assert_eq!(contacts.len(), 2);
    let others: Vec<_> = contacts.iter().filter(|contact| contact.contains("40001")).collect();
    assert!(others.len() == 1 && !others[0].contains("pn-"), "{contacts:?}");
    assert!(contacts.iter().any(|contact| contact.contains("pn-prid=token-mobile")));
}

#[test]
fn a_fetch_of_bindings_changes_nothing() {
    let sim = Sim::new();
    let alice = sim.phone("alice");
    alice.registers();
    let before = sim.bindings();
    sim.world().storage.refuses = |_| true;
    let fetch = alice.registers_as(None);
    assert_eq!(fetch.status(), Some(200));
    assert!(
        fetch.header(HeaderName::Contact).contains("pn-prid=token-alice")
            || !fetch.header(HeaderName::Contact).contains("pn-")
    );
    assert_eq!(sim.bindings(), before);
}

/// The softswitch calls the alias, which is at our address: a Path would lead it past us.
#[test]
fn with_an_alias_the_path_of_a_proxy_before_us_is_kept_and_not_told() {
    let sim = Sim::new();
    let (alice, switch) = (sim.phone("alice"), sim.switch());
    alice.change(|agent| agent.device.headers = vec!["Path: <sip:edge.example;lr>".into(), "Supported: path".into()]);
    alice.registers();
    assert_eq!(text::values(&switch.got("REGISTER")[0], HeaderName::Path), [""; 0]);
    let call = switch.invites("alice");
    sim.run_for(ms(100));
    alice.registers();
    assert_eq!(text::values(&alice.got("INVITE")[0], HeaderName::Route), ["<sip:edge.example;lr>"]);
    call.cancels("");
}

#[test]
fn the_granted_expires_is_the_softswitchs() {
    let sim = Sim::new();
    let alice = sim.phone("alice");
    sim.switch().registrar(Registrar::Accepts(120));
    let register = alice.registers();
    assert!(register.header(HeaderName::Contact).ends_with(";expires=120"));
    let binding = &sim.bindings()[0];
    assert_eq!(binding.expires_at.since(binding.registered_at), s(120));
}
