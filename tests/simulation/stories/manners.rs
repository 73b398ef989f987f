//! What peers get wrong, or do in their own way, and what we owe them all the same.

use sip_push_proxy::sip::{Destination, HeaderName, Message, Transport};

use crate::agent::Answer;
use crate::sim::{Sim, ms, s};
use crate::text::{self, Draft};

#[test]
fn display_names_without_quotes_are_repaired() {
    let sim = Sim::new();
    sim.world().ledger.is_lenient = true;
    let (alice, switch) = (sim.phone("alice"), sim.switch());
    switch.answers(Answer::Answers(ms(100)));
    for (given, repaired) in
        [("Bell, Alexander", "\"Bell, Alexander\""), ("alice@home", "\"alice@home\""), ("a@b, c\\d", "\"a@b, c\\\\d\"")]
    {
        let call = alice.asks("INVITE", "sip:bob@example.org", |draft| {
            let from = format!("{given} <sip:alice@example.org>;tag={}", draft.cseq);
            let mut draft = Draft { from, to: format!("{given}<sip:bob@example.org>"), ..draft };
            draft.headers[0] = format!("Contact: {given} <sip:alice@198.51.100.1:40001>;x=1");
            draft
        });
        sim.run_for(s(1));
        call.expects(&[100, 180, 200]);
        let invite = switch.got("INVITE").pop().expect("an INVITE");
        let tag = text::text(invite.from_tag().expect("a tag"));
        assert_eq!(text::first(&invite, HeaderName::From), format!("{repaired} <sip:alice@example.org>;tag={tag}"));
        assert_eq!(text::first(&invite, HeaderName::To), format!("{repaired} <sip:bob@example.org>"));
        assert_eq!(text::first(&invite, HeaderName::Contact), format!("{repaired} <sip:alice@198.51.100.1:40001>;x=1"));
        let acks = switch.acks();
        assert!(acks > 0, "the ACK arrives");
    }
    for bad in ["sip:x@y, Bell", "Bell \"A", "tel:1, 2"] {
        let call = alice.asks("INVITE", "sip:bob@example.org", |draft| Draft {
            from: format!("{bad} <sip:alice@example.org>;tag=1"),
            ..draft
        });
        sim.run_for(s(1));
        assert_eq!(call.status(), Some(400), "{bad}");
    }
}

#[test]
fn a_phone_whose_name_has_a_comma_registers() {
    let sim = Sim::new();
    sim.world().ledger.is_lenient = true;
    let alice = sim.phone("alice");
    let contact = alice.contact_of(&sim);
    let register = alice.registers_as(Some(format!("Doe, Alice {contact}")));
    assert_eq!(register.status(), Some(200));
    assert_eq!(alice.bindings(), 1);
}

#[test]
fn privacy_is_an_extension_that_passes() {
    let sim = Sim::new();
    let (alice, switch) = (sim.phone("alice"), sim.switch());
    let call = alice
        .asks("MESSAGE", "sip:bob@example.org", |draft| draft.header("Proxy-Require: Privacy").header("Privacy: id"));
    let gold = alice.asks("MESSAGE", "sip:bob@example.org", |draft| draft.header("Proxy-Require: privacy, gold"));
    sim.run_for(s(1));
    call.expects(&[200]);
    assert_eq!(switch.got("MESSAGE").len(), 1);
    gold.expects(&[420]);
    assert!(text::text(gold.response().bytes()).contains("\r\nUnsupported: gold\r\n"));
}

#[test]
fn timer_c_cancels_a_phone_that_only_said_100() {
    let sim = Sim::with(|policy| policy.timer_c = s(30));
    let alice = sim.phone("alice");
    alice.does(Answer::Trying).wakes_on_push(ms(100));
    alice.registers();
    let call = sim.switch().invites("alice");
    sim.run_for(s(32));
    assert_eq!(alice.got("CANCEL").len(), 1);
    sim.run_for(s(2));
    assert_eq!(call.status(), Some(487));
}

fn answers_of<'a>(left: &'a [(Destination, Message)], method: &str) -> Vec<&'a (Destination, Message)> {
    let is_answer = |(_, message): &&(Destination, Message)| {
        message.status().is_some() && message.method_text() == method.as_bytes()
    };
    left.iter().filter(is_answer).collect()
}

#[test]
fn a_response_has_a_content_length_where_it_goes_on_by_a_stream() {
    let sim = Sim::new();
    sim.world().ledger.is_lenient = true;
    let (alice, switch) = (sim.device("alice", "alice", Transport::Tcp), sim.switch());
    switch.answers(Answer::Silent);
    alice.registers();
    let call = alice.asks("INVITE", "sip:bob@example.org", |draft| draft);
    sim.run_for(ms(100));
    let invite = switch.got("INVITE").pop().expect("an INVITE");
    let respond = |status: &str, body: &str| {
        let vias: String = text::values(&invite, HeaderName::Via).iter().map(|via| format!("Via: {via}\r\n")).collect();
        let bytes = format!(
            "SIP/2.0 {status}\r\n{vias}From: {}\r\nTo: {};tag=t\r\nCall-ID: {}\r\nCSeq: {} INVITE\r\n\r\n{body}",
            text::first(&invite, HeaderName::From),
            text::first(&invite, HeaderName::To),
            text::text(invite.call_id()),
            invite.cseq().unwrap().number,
        );
        sim.world().send_raw(0, bytes.into());
        sim.run_for(ms(100));
    };
    respond("183 Session Progress", "v=0\r\n");
    respond("486 Busy Here", "");
    call.expects(&[100, 183, 486]);
    let world = sim.world();
    let lengths: Vec<_> = answers_of(&world.left, "INVITE")
        .into_iter()
        .filter(|(_, message)| message.status() > Some(100))
        .map(|(_, message)| message.number(HeaderName::ContentLength))
        .collect();
    assert_eq!(lengths, [Some(5), Some(0)]);
}

#[test]
fn a_slow_request_gets_100_once_its_client_would_repeat_it_rarely() {
    let sim = Sim::new();
    let (alice, switch) = (sim.phone("alice"), sim.switch());
    alice.registers();
    alice.sleeps();
    let message = switch.sends("MESSAGE", "alice", |draft| draft);
    sim.run_for(ms(3400));
    message.expects(&[]);
    sim.run_for(ms(300));
    message.expects(&[100]);
    sim.run_for(s(2));
    alice.registers();
    sim.run_for(s(1));
    message.expects(&[100, 200]);
    let quick = alice.asks("MESSAGE", "sip:bob@example.org", |draft| draft);
    sim.run_for(s(10));
    quick.expects(&[200]);
}

#[test]
fn a_register_that_the_softswitch_is_slow_with_gets_100_too() {
    for transport in [Transport::Udp, Transport::Tcp] {
        let sim = Sim::new();
        let alice = sim.device("alice", "alice", transport);
        sim.switch().registrar(crate::agent::Registrar::Silent);
        let contact = alice.contact_of(&sim);
        let register = alice.sends_register(Some(contact));
        sim.run_for(s(4));
        register.expects(&[100]);
        sim.run_for(s(60));
        register.expects(&[100]);
    }
}
