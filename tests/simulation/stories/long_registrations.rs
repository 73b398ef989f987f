//! `register.expires_upstream_s`: the softswitch knows a phone for longer than the phone asks.

use std::time::Duration;

use sip_push_proxy::proxy::Warning;
use sip_push_proxy::proxy::policy::UpstreamContact;
use sip_push_proxy::sip::{HeaderName, NameAddr};

use crate::agent::Registrar;
use crate::sim::{Request, Sim, ms, s};
use crate::text;

const WEEK: u32 = 604_800;

fn sim(contact: UpstreamContact) -> Sim {
    let sim = Sim::with(|policy| {
        policy.upstream_contact = contact;
        policy.expires_upstream = WEEK;
    });
    sim.switch().registrar(Registrar::Accepts(WEEK));
    sim
}

/// The `expires` of each Contact that came upstream last.
fn asked(sim: &Sim) -> Vec<String> {
    let last = sim.switch().got("REGISTER").pop().unwrap();
    let contacts = last.values(HeaderName::Contact).map(|value| NameAddr::parse(value).unwrap());
    contacts.map(|contact| contact.param("expires").flatten().map(text::text).unwrap_or_default()).collect()
}

#[track_caller]
fn hears(register: &Request, expires: &str) {
    let listed = register.header(HeaderName::Contact);
    assert!(listed.ends_with(&format!(";expires={expires}")) && listed.contains("pn-prid"), "{listed}");
}

#[test]
fn the_softswitch_knows_a_phone_for_longer_than_it_asks_and_the_phone_hears_its_own() {
    for contact in [UpstreamContact::Alias, UpstreamContact::Path] {
        let sim = sim(contact);
        let alice = sim.phone("alice");
        alice.change(|agent| agent.device.expires = Some(120));
        hears(&alice.registers(), "120");
        assert_eq!(asked(&sim), ["604800"]);
        assert!(!text::text(sim.switch().got("REGISTER")[0].bytes()).contains("pn-"));
        let binding = &sim.bindings()[0];
        assert_eq!(binding.expires_at.since(binding.registered_at), s(120));
        let (since, until) = binding.known_upstream();
        assert_eq!(until.since(since), Duration::from_secs(WEEK.into()));
        alice.sleeps();
        sim.run_for(s(4000));
        let call = sim.switch().invites("alice");
        sim.run_for(ms(100));
        sim.push().expects(1);
        call.cancels("");
    }
}

#[test]
fn what_the_softswitch_grants_is_the_most_that_a_phone_hears() {
    let sim = sim(UpstreamContact::Alias);
    let alice = sim.phone("alice");
    sim.switch().registrar(Registrar::Accepts(300));
    hears(&alice.registers(), "300");
    alice.change(|agent| agent.device.expires = None);
    sim.switch().registrar(Registrar::Accepts(WEEK));
    hears(&alice.registers(), "3600");
}

#[test]
fn a_phone_that_unregisters_or_cannot_be_woken_is_asked_for_as_it_says() {
    for contact in [UpstreamContact::Alias, UpstreamContact::Path] {
        let sim = sim(contact);
        let (alice, desk) = (sim.phone("alice"), sim.phone("desk"));
        desk.change(|agent| agent.device.push.clear());
        desk.registers();
        assert!(asked(&sim) != ["604800"], "{:?}", asked(&sim));
        alice.registers();
        alice.change(|agent| agent.device.expires = Some(0));
        alice.registers();
        assert_eq!((sim.switch().contacts("alice").len(), alice.bindings()), (0, 0));
    }
}

#[test]
fn a_softswitch_that_wants_more_is_asked_for_that() {
    for contact in [UpstreamContact::Alias, UpstreamContact::Path] {
        let sim = sim(contact);
        let (alice, bob, switch) = (sim.phone("alice"), sim.phone("bob"), sim.switch());
        switch.registrar(Registrar::Wants(2 * WEEK));
        hears(&alice.registers(), "3600");
        assert_eq!(asked(&sim), ["1209600"]);
        assert_eq!(switch.got("REGISTER").len(), 2);
        hears(&bob.registers(), "3600");
        assert_eq!(switch.got("REGISTER").len(), 3, "it is known by now");
        let brief = |warning: &&Warning| matches!(warning, Warning::BriefUpstream { asked: WEEK, least: 1_209_600 });
        assert_eq!(sim.world().warnings.iter().filter(brief).count(), 1);
    }
}

#[test]
fn a_softswitch_that_is_never_content_is_not_asked_for_ever() {
    let sim = sim(UpstreamContact::Alias);
    let alice = sim.phone("alice");
    sim.switch().registrar(Registrar::WantsMore);
    assert_eq!(alice.tries_to_register().status(), Some(423));
    assert_eq!(sim.switch().got("REGISTER").len(), 2);
}
