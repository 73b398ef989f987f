//! What each side sees of Contacts: what wakes a phone is for that phone alone, what the registrar says of it as well.

use sip_push_proxy::proxy::policy::UpstreamContact;
use sip_push_proxy::sip::{HeaderName, Message};

use crate::agent::{Answer, Registrar};
use crate::sim::{Phone, Request, Sim, ms};
use crate::text;

/// A REGISTER that the softswitch answers with these Contacts; `{own}` stands for the URI that it got.
fn registers(sim: &Sim, phone: &Phone, contact: String, contacts: &[&str]) -> (Request, Message) {
    sim.switch().registrar(Registrar::Silent);
    let request = phone.sends_register(Some(contact));
    sim.run_for(ms(100));
    let got = sim.switch().got("REGISTER").pop().expect("a REGISTER");
    let number = sim.world().agents[0].got_of("REGISTER").pop().expect("a REGISTER");
    let own = text::contact_uri(&got);
    let lines: Vec<String> = contacts.iter().map(|line| format!("Contact: {}", line.replace("{own}", &own))).collect();
    sim.world().agent_responds(0, number, 200, &lines, "");
    sim.run_for(ms(100));
    (request, got)
}

const GRUU: &str = ";expires=600;pub-gruu=\"sip:alice@example.org;gr=urn:uuid:alice\";temp-gruu=\"sip:t.x@example.org;gr\";\
                    temp-gruu-cookie=c;received=\"sip:192.0.2.10:5060\"";

#[test]
fn what_the_registrar_says_of_the_phones_gruu_reaches_it() {
    for form in [UpstreamContact::Alias, UpstreamContact::Path] {
        let sim = Sim::with(|policy| policy.upstream_contact = form);
        let alice = sim.phone("alice");
        let contact = alice.contact_of(&sim);
        let listed = format!("<{{own}}>;+sip.instance=\"<urn:uuid:alice>\"{GRUU}");
        let (request, _) = registers(&sim, &alice, contact.clone(), &[&listed]);
        let gruus = ";pub-gruu=\"sip:alice@example.org;gr=urn:uuid:alice\";temp-gruu=\"sip:t.x@example.org;gr\";temp-gruu-cookie=c";
        assert_eq!(request.header(HeaderName::Contact), format!("{contact}{gruus};expires=600"));
    }
}

#[test]
fn an_instance_that_the_registrar_adds_reaches_it_too() {
    let sim = Sim::with(|policy| policy.upstream_contact = UpstreamContact::Path);
    let alice = sim.phone("alice");
    alice.change(|agent| agent.device.instance = None);
    let contact = alice.contact_of(&sim);
    let (request, _) =
        registers(&sim, &alice, contact.clone(), &["<{own}>;+sip.instance=\"<urn:uuid:x>\";reg-id=1;expires=600"]);
    assert_eq!(
        request.header(HeaderName::Contact),
        format!("{contact};+sip.instance=\"<urn:uuid:x>\";reg-id=1;expires=600")
    );
}

#[test]
fn what_wakes_a_phone_goes_to_no_registrar_and_to_no_other_phone() {
    for form in [UpstreamContact::Alias, UpstreamContact::Path] {
        let sim = Sim::with(|policy| policy.upstream_contact = form);
        let alice = sim.phone("alice");
        alice.change(|agent| agent.device.params = ";pn-type=apple;pn-tok=00aa;app-id=org.example;q=0.5".into());
        let contact = alice.contact_of(&sim);
        let other = "<sip:alice@198.51.100.9;pn-provider=fcm;pn-prid=secret>;pn-tok=secret;expires=5";
        let (request, upstream) = registers(&sim, &alice, contact, &["<{own}>;expires=600", other]);
        let upstream = text::text(upstream.bytes());
        assert!(!upstream.contains("pn-") && !upstream.contains("app-id") && upstream.contains("q=0.5"), "{upstream}");
        let shown = text::values(&request.response(), HeaderName::Contact).join("\n");
        assert!(!shown.contains("secret") && shown.contains("<sip:alice@198.51.100.9>;expires=5"), "{shown}");
    }
}

#[test]
fn it_stands_in_no_contact_of_a_dialog_or_a_redirection() {
    let sim = Sim::new();
    sim.world().ledger.is_lenient = true;
    let (alice, switch) = (sim.phone("alice"), sim.switch());
    switch.answers(Answer::Rings);
    let call = alice.asks("INVITE", "sip:bob@example.org", |mut draft| {
        draft.headers[0] = "m: <sip:alice@198.51.100.1:40001;pn-prid=secret;ob>;pn-tok=secret;app-id=secret;x=y".into();
        draft
    });
    alice.does(Answer::Silent).wakes_on_push(ms(100));
    alice.registers();
    let called = switch.invites("alice");
    sim.run_for(ms(300));
    let invite = switch.got("INVITE").pop().expect("an INVITE");
    assert_eq!(text::first(&invite, HeaderName::Contact), "<sip:alice@198.51.100.1:40001;ob>;x=y");
    let got = alice.got("INVITE").pop().expect("an INVITE");
    let vias: String = text::values(&got, HeaderName::Via).iter().map(|via| format!("Via: {via}\r\n")).collect();
    let moved = format!(
        "SIP/2.0 302 Moved\r\n{vias}From: {}\r\nTo: {};tag=t\r\nCall-ID: {}\r\nCSeq: {} INVITE\r\n\
         Contact: <sip:a@h;pn-prid=secret>;pn-tok=secret;q=1, <sip:b@h>;pn-tok=secret\r\nContent-Length: 0\r\n\r\n",
        text::first(&got, HeaderName::From),
        text::first(&got, HeaderName::To),
        text::text(got.call_id()),
        got.cseq().unwrap().number,
    );
    sim.world().send_raw(alice.agent, moved.into());
    sim.run_for(ms(100));
    assert_eq!(called.status(), Some(302));
    assert_eq!(text::values(&called.response(), HeaderName::Contact), ["<sip:a@h>;q=1", "<sip:b@h>"]);
    call.cancels("");
}
