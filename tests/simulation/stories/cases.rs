//! Messages of real phones and switches that went wrong somewhere.

use sip_push_proxy::sip::{HeaderName, Transport};

use crate::agent::Answer;
use crate::sim::{Sim, ms, s};
use crate::text::{self, Draft};

#[test]
fn a_contact_without_a_host_is_400_and_goes_no_further() {
    let sim = Sim::new();
    let alice = sim.phone("alice");
    let register = alice.registers_as(Some("<sip:alice@:;transport=UDP>".into()));
    assert_eq!(register.status(), Some(400));
    assert!(sim.switch().got("REGISTER").is_empty());
}

#[test]
fn a_sips_phone_behind_a_tls_terminator_is_called() {
    let sim = Sim::new();
    let alice = sim.device("alice", "alice", Transport::Tcp);
    let (voip, remote) = ("A".repeat(64), "B".repeat(64));
    alice.change(|agent| {
        agent.aor = "sips:alice@example.org".into();
        agent.device.push = format!(
            ";pn-provider=apns;pn-param=DEF123GHIJ.org.example.phone.remote&voip;pn-prid={remote}:remote&{voip}:voip;\
             pn-call-remote-push-interval=3;pn-tok=AAAA"
        );
    });
    let contact = alice.contact_of(&sim).replace("<sip:", "<sips:").replace("transport=tcp", "transport=tls");
    alice.does(Answer::Answers(ms(100)));
    assert_eq!(alice.registers_as(Some(contact.clone())).status(), Some(200));
    let call = sim.switch().asks("INVITE", "sips:alice@example.org", |draft| draft);
    sim.run_for(ms(100));
    sim.push().expects(1);
    assert_eq!(alice.registers_as(Some(contact)).status(), Some(200));
    sim.run_for(s(1));
    call.expects(&[100, 182, 180, 200]);
    let bye = call.sends("BYE");
    sim.run_for(s(1));
    bye.expects(&[200]);
    assert_eq!((alice.acks(), alice.got("BYE").len()), (1, 1));
}

#[test]
fn a_billing_switch_with_its_own_record_route_is_served_both_ways() {
    let sim = Sim::new();
    let (alice, switch) = (sim.phone("alice"), sim.switch());
    alice.does(Answer::Answers(ms(100))).wakes_on_push(ms(100));
    alice.registers();
    let call = switch.sends("INVITE", "alice", |mut draft| {
        draft.headers[0] = "Contact: sip:192.0.2.20:5060".into();
        draft
            .header("Record-Route: <sip:192.0.2.20:5060;lr;ep>")
            .header("Via: SIP/2.0/UDP 192.0.2.20:5070;rport=5070;branch=z9hG4bK-inner1")
            .header("Expires: 300")
            .header("P-Asserted-Identity: <sip:103@192.0.2.20>")
    });
    sim.run_for(s(2));
    call.expects(&[100, 182, 180, 200]);
    // It takes itself out of the route set before it sends anything.
    let update = {
        let mut world = sim.world();
        let mut draft = world.agents[call.agent].within_sent(call.number, "UPDATE");
        draft.headers.retain(|line| !line.contains("192.0.2.20"));
        world.request(call.agent, draft)
    };
    sim.run_for(s(1));
    assert_eq!(sim.world().agents[call.agent].sent[update].finals(), [200]);
    assert_eq!(alice.got("UPDATE").len(), 1);
    let hung_up = alice.within_last("BYE");
    sim.run_for(s(1));
    hung_up.expects(&[200]);
    let bye = &switch.got("BYE")[0];
    assert_eq!(text::text(bye.uri()), "sip:192.0.2.20:5060");
    assert_eq!(text::first(bye, HeaderName::Route), "<sip:192.0.2.20:5060;lr;ep>");
}

#[test]
fn a_phone_that_has_learned_its_address_cancels_all_the_same() {
    let sim = Sim::new();
    sim.world().ledger.is_lenient = true;
    let (alice, mallory, switch) = (sim.phone("alice"), sim.phone("mallory"), sim.switch());
    switch.answers(Answer::Rings);
    alice.registers();
    let sends = |agent: usize, method: &str, via: &str, change: &dyn Fn(Draft) -> Draft| {
        let draft = Draft::new(
            method,
            "sip:103@example.org",
            "<sip:alice@example.org>;tag=a",
            "<sip:103@example.org>",
            "nat",
            1,
        );
        let bytes = change(draft).write(Transport::Udp, via.parse().unwrap(), "z9hG4bKnat");
        sim.world().send_raw(agent, bytes);
        sim.run_for(ms(100));
    };
    let invite = |draft: Draft| draft.header("Contact: <sip:alice@192.168.1.7>");
    sends(alice.agent, "INVITE", "192.168.1.7:49152", &invite);
    sends(alice.agent, "INVITE", "198.51.100.1:40001", &invite);
    assert_eq!(switch.got("INVITE").len(), 1, "the same INVITE");
    sends(mallory.agent, "CANCEL", "198.51.100.2:40002", &|draft| draft);
    sends(alice.agent, "CANCEL", "198.51.100.1:5099", &|draft| Draft { call_id: "other".into(), ..draft });
    assert!(switch.got("CANCEL").is_empty());
    sends(alice.agent, "CANCEL", "198.51.100.1:40001", &|draft| draft);
    assert_eq!(switch.got("CANCEL").len(), 1);
}

#[test]
fn an_alias_is_found_however_a_switch_decorates_it() {
    let sim = Sim::new();
    let (alice, switch) = (sim.phone("alice"), sim.switch());
    alice.does(Answer::Rings).registers();
    let alias = switch.contacts("alice")[0].0.clone();
    let mut push = sim.push();
    for decorated in [
        format!("{alias};x-ast-orig-host=10.0.0.5:5060"),
        format!("{alias};fs_nat=yes;fs_path=sip%3A192.0.2.10"),
        format!("{alias};ob"),
        format!("{alias};alias=192.0.2.10~5060~1"),
        format!("{alias};user=phone;transport=udp"),
        alias.replace('@', ";npdi@"),
    ] {
        let call = switch.asks("INVITE", &decorated, |draft| draft);
        sim.run_for(ms(100));
        push.expects(1);
        call.cancels("");
        sim.run_for(s(1));
    }
}
