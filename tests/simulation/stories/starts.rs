//! Apps that begin at another address each time, and what the registrar has of them.

use sip_push_proxy::proxy::policy::UpstreamContact;
use sip_push_proxy::sip::{HeaderName, Transport};

use crate::agent::Registrar;
use crate::sim::{Phone, Sim, ms};
use crate::text;

fn by_path() -> Sim {
    Sim::with(|policy| policy.upstream_contact = UpstreamContact::Path)
}

#[track_caller]
fn starts_anew(phone: &Phone) {
    phone.moves();
    let register = phone.registers();
    let listed = text::values(&register.response(), HeaderName::Contact);
    assert!(listed.len() == 1 && listed[0].contains("pn-prid"), "{listed:?}");
}

#[test]
fn the_registrar_has_one_contact_however_often_an_app_starts() {
    let sim = by_path();
    let (alice, switch) = (sim.phone("alice"), sim.switch());
    alice.registers();
    for _ in 0..4 {
        starts_anew(&alice);
        assert_eq!(switch.contacts("alice").len(), 1);
    }
    assert_eq!(switch.contacts("alice")[0].0, "sip:alice@198.51.100.1:40005");
    let last = switch.got("REGISTER").pop().unwrap();
    let sent = text::values(&last, HeaderName::Contact);
    assert_eq!(sent[1..], ["<sip:alice@198.51.100.1:40004>;expires=0"]);
    let call = switch.invites("alice");
    sim.run_for(ms(100));
    sim.push().expects(1);
    call.cancels("");
}

#[test]
fn a_phone_that_says_so_itself_is_not_repeated() {
    let sim = by_path();
    let (alice, switch) = (sim.phone("alice"), sim.switch());
    alice.registers();
    let former = format!("<{}>;expires=0", sim.world().agents[alice.agent].contact_uri());
    alice.moves();
    let present = alice.contact_of(&sim);
    assert_eq!(alice.registers_as(Some(format!("{present}, {former}"))).status(), Some(200));
    let last = switch.got("REGISTER").pop().unwrap();
    assert_eq!(text::values(&last, HeaderName::Contact).len(), 2);
}

/// Behind two NATs phones have one address.
#[test]
fn an_address_that_is_another_devices_as_well_stays() {
    let sim = by_path();
    let (one, two) = (sim.device("alice", "one", Transport::Udp), sim.device("alice", "two", Transport::Udp));
    let contact = |name: &str, at: &str| {
        format!(
            "<sip:alice@{at};pn-provider=fcm;pn-param=project;pn-prid=token-{name}>;+sip.instance=\"<urn:uuid:{name}>\""
        )
    };
    one.registers_as(Some(contact("one", "192.168.1.2")));
    two.registers_as(Some(contact("two", "192.168.1.2")));
    one.registers_as(Some(contact("one", "192.168.1.3")));
    let contacts: Vec<_> = sim.switch().contacts("alice").into_iter().map(|(contact, _)| contact).collect();
    assert_eq!(contacts, ["sip:alice@192.168.1.2", "sip:alice@192.168.1.3"]);
}

#[test]
fn a_device_that_had_two_names_leaves_one_alias() {
    let sim = Sim::new();
    let (alice, switch) = (sim.phone("alice"), sim.switch());
    let contact = |token: &str, instance: &str| {
        format!("<sip:alice@198.51.100.1:40001;pn-provider=fcm;pn-param=project;pn-prid={token}>{instance}")
    };
    alice.registers_as(Some(contact("one", "")));
    alice.registers_as(Some(contact("two", ";+sip.instance=\"<urn:uuid:alice>\"")));
    assert_eq!(switch.contacts("alice").len(), 2);
    alice.registers_as(Some(contact("one", ";+sip.instance=\"<urn:uuid:alice>\"")));
    assert_eq!((switch.contacts("alice").len(), alice.bindings()), (1, 1));
}

#[test]
fn what_the_registrar_refuses_changes_nothing() {
    let sim = by_path();
    let (alice, switch) = (sim.phone("alice"), sim.switch());
    alice.registers();
    let before = (switch.contacts("alice"), sim.bindings());
    alice.moves();
    switch.registrar(Registrar::Refuses(403));
    assert_eq!(alice.tries_to_register().status(), Some(403));
    assert_eq!((switch.contacts("alice"), sim.bindings()), before);
}
