//! Names and numbers: what phones dial that is no SIP URI, what trunks call, and the names of this proxy.

use sip_push_proxy::proxy::Warning;
use sip_push_proxy::sip::{HeaderName, Transport};

use crate::agent::Answer;
use crate::sim::{Sim, ms, s};
use crate::text;

const NUMBER: &str = "+79991234567";
const NUMBER_URI: &str = "tel:+79990000001";

#[test]
fn emergency_calls_and_telephone_numbers_of_phones_reach_the_softswitch_untouched() {
    let sim = Sim::new();
    let (alice, switch) = (sim.phone("alice"), sim.switch());
    switch.answers(Answer::Answers(ms(100)));
    alice.registers();
    let uris = [
        "urn:service:sos",
        "URN:service:sos.fire",
        "tel:+7-999-123-45-67",
        "tel:112;phone-context=+7",
        "tel:863-1234;x=y",
    ];
    for uri in uris {
        let own = "P-Preferred-Identity: <tel:+79990000001>";
        let call = alice.asks("INVITE", uri, |draft| {
            text::Draft { from: format!("<{NUMBER_URI}>;tag=f{uri}"), ..draft }.header(own)
        });
        sim.run_for(s(1));
        call.expects(&[100, 180, 200]);
        let invite = switch.got("INVITE").pop().expect("an INVITE");
        assert_eq!(text::text(invite.uri()), uri);
        assert_eq!(text::first(&invite, HeaderName::To), format!("<{uri}>"));
        let bye = call.sends("BYE");
        sim.run_for(s(1));
        bye.expects(&[200]);
    }
    for method in ["MESSAGE", "SUBSCRIBE", "OPTIONS", "PUBLISH"] {
        let request = alice.asks(method, "tel:112", |draft| draft);
        sim.run_for(ms(100));
        request.expects(&[200]);
        assert_eq!(text::text(switch.got(method)[0].uri()), "tel:112");
    }
    assert_eq!(switch.acks(), uris.len());
}

#[test]
fn a_caller_cancels_an_emergency_call() {
    let sim = Sim::new();
    let (alice, switch) = (sim.phone("alice"), sim.switch());
    switch.answers(Answer::Rings);
    let call = alice.asks("INVITE", "urn:service:sos", |draft| draft);
    sim.run_for(s(1));
    call.cancels("");
    sim.run_for(s(1));
    call.expects(&[100, 180, 487]);
}

#[test]
fn other_schemes_are_416_and_phones_are_not_reached_by_urns() {
    let sim = Sim::new();
    let (alice, switch) = (sim.phone("alice"), sim.switch());
    let strange = alice.asks("INVITE", "http://example.org/", |draft| draft);
    let service = alice.asks("INVITE", "urn:ietf:rfc:3261", |draft| draft);
    let sos = switch.asks("INVITE", "urn:service:sos", |draft| draft);
    let register = alice.asks("REGISTER", "tel:112", |draft| draft);
    sim.run_for(s(1));
    register.expects(&[416]);
    for refused in [strange, service, sos] {
        refused.expects(&[100, 416]);
    }
}

#[test]
fn a_trunk_reaches_a_number_whatever_parameters_it_has() {
    let sim = Sim::new();
    let (alice, switch) = (sim.phone(NUMBER), sim.switch());
    alice.does(Answer::Rings).wakes_on_push(ms(100));
    alice.registers();
    for uri in [
        "sip:+79991234567@192.0.2.10",
        "sip:+79991234567@192.0.2.10;user=phone",
        "sip:%2B79991234567@example.org:5060;user=phone;transport=udp",
        "sip:+79991234567;npdi@192.0.2.10",
        "sip:+79991234567;npdi;rn=+79990000000@192.0.2.10;user=phone",
        "sip:+79991234567;phone-context=+7@example.org;user=phone",
        "sip:+79991234567;phone-context=example.org;npdi=yes:x@192.0.2.10",
        "tel:+79991234567",
        "tel:+7-999-123.45(67);npdi;rn=+79990000000",
    ] {
        let call = switch.asks("INVITE", uri, |draft| draft);
        sim.run_for(s(1));
        assert_eq!(call.statuses(), [100, 182, 180], "{uri}");
        call.cancels("");
        sim.run_for(s(1));
    }
    for other in ["sip:79991234567@192.0.2.10", "sip:89991234567@192.0.2.10", "tel:89991234567"] {
        let call = switch.asks("INVITE", other, |draft| draft);
        sim.run_for(s(1));
        assert_eq!(call.statuses(), [100, 404], "{other}");
    }
}

#[test]
fn a_user_that_was_registered_with_parameters_is_found_by_them() {
    let sim = Sim::new();
    let (plain, other, switch) = (sim.phone("103"), sim.phone("103;phone-context=pbx"), sim.switch());
    for phone in [&plain, &other] {
        phone.does(Answer::Rings).wakes_on_push(ms(100));
        phone.registers();
    }
    let call = switch.asks("INVITE", "sip:103;phone-context=pbx@192.0.2.10", |draft| draft);
    sim.run_for(s(1));
    call.cancels("");
    other.expects_invites(1);
    plain.expects_invites(0);
}

#[test]
fn further_names_of_the_proxy_are_the_proxy() {
    let sim = Sim::with(|policy| policy.names = vec!["sbc.example.net".into()]);
    let (alice, switch) = (sim.phone("alice"), sim.switch());
    alice.does(Answer::Rings).wakes_on_push(ms(100));
    alice.registers();
    let trunk = switch.asks("INVITE", "sip:alice@SBC.example.net", |draft| draft);
    let routed =
        switch.asks("INVITE", "sip:alice@example.org", |draft| draft.header("Route: <sip:sbc.example.net;lr>"));
    sim.run_for(s(1));
    for call in [&trunk, &routed] {
        call.expects(&[100, 182, 180]);
        call.cancels("");
    }
    assert!(alice.got("INVITE").iter().all(|invite| text::values(invite, HeaderName::Route).is_empty()));
    let from_phone =
        alice.asks("MESSAGE", "sip:bob@example.org", |draft| draft.header("Route: <sip:sbc.example.net;lr>"));
    let alive = alice.asks("OPTIONS", "sip:sbc.example.net", |draft| draft);
    sim.run_for(s(1));
    from_phone.expects(&[200]);
    alive.expects(&[200]);
    assert_eq!(text::values(&switch.got("MESSAGE")[0], HeaderName::Route), [""; 0]);
    assert!(switch.got("OPTIONS").is_empty());
}

/// A trunk calls users by our address; which domain they are in nobody has told us.
#[test]
fn without_domains_a_user_at_our_address_is_the_one_of_that_name() {
    let sim = Sim::with(|policy| policy.domains.clear());
    sim.world().storage.table().begin_users();
    let (alice, mut push) = (sim.phone("alice"), sim.push());
    alice.registers();
    alice.sleeps();
    for uri in ["sip:alice@192.0.2.10:5060", "sip:alice;npdi@192.0.2.10"] {
        let call = sim.switch().asks("INVITE", uri, |draft| draft);
        sim.run_for(ms(100));
        push.expects(1);
        call.cancels("");
        sim.run_for(s(1));
    }
    for uri in ["sip:bob@192.0.2.10", "tel:+79991234567", "sip:alice@elsewhere.example"] {
        let call = sim.switch().asks("INVITE", uri, |draft| draft);
        sim.run_for(ms(100));
        call.expects(&[100, 404]);
    }
    let number = sim.phone("+79991234567");
    number.registers();
    number.sleeps();
    let call = sim.switch().asks("INVITE", "tel:+7(999)123-45-67", |draft| draft);
    sim.run_for(ms(100));
    push.expects(1);
    call.cancels("");
    // Another alice, in another domain.
    let other = sim.device("alice", "other", Transport::Udp);
    other.change(|agent| agent.aor = "sip:alice@example.net".into());
    other.registers();
    let call = sim.switch().asks("INVITE", "sip:alice@192.0.2.10:5060", |draft| draft);
    sim.run_for(ms(100));
    call.expects(&[100, 485]);
    assert!(sim.world().warnings.contains(&Warning::AmbiguousUser { user: "alice".into() }));
    push.expects(0);
}
