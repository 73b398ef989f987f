//! REGISTER in relay mode: the softswitch is the registrar.

use sip_push_proxy::sip::HeaderName;

use crate::sim::Sim;

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
