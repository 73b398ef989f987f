//! RFC 3261 §16.3-16.6 at the edges: loops, hops, extensions, strict routers.

use sip_push_proxy::sip::HeaderName;

use crate::agent::Answer;
use crate::sim::{Sim, ms, s};
use crate::text::{self, Draft};

#[test]
fn no_hops_left_is_483_and_an_unknown_extension_420() {
    let sim = Sim::new();
    let alice = sim.phone("alice");
    alice.registers();
    let hops = sim.switch().sends("INVITE", "alice", |draft| Draft { max_forwards: 0, ..draft });
    let extension = sim.switch().sends("INVITE", "alice", |draft| draft.header("Proxy-Require: gold, silver"));
    sim.run_for(s(1));
    hops.expects(&[100, 483]);
    extension.expects(&[100, 420]);
    assert!(text::text(extension.response().bytes()).contains("\r\nUnsupported: gold, silver\r\n"));
}

#[test]
fn what_comes_back_as_it_was_sent_is_a_loop() {
    let sim = Sim::new();
    let (alice, switch) = (sim.phone("alice"), sim.switch());
    let call = alice.calls("bob");
    sim.run_for(s(1));
    let forwarded = text::text(switch.got("INVITE")[0].bytes());
    let via = "Via: SIP/2.0/UDP 198.51.100.1:40001;rport;branch=z9hG4bKagain\r\nVia: ";
    sim.world().send_raw(alice.agent, forwarded.replacen("Via: ", via, 1).into());
    sim.run_for(s(1));
    let looped = |message: &sip_push_proxy::sip::Message| message.status() == Some(482);
    assert!(sim.world().left.iter().any(|(_, message)| looped(message)));
    call.cancels("");
}

#[test]
fn a_softswitch_that_sends_a_phones_call_back_for_another_phone_makes_no_loop() {
    let sim = Sim::new();
    let (alice, bob, switch) = (sim.phone("alice"), sim.phone("bob"), sim.switch());
    bob.does(Answer::Rings);
    alice.registers();
    bob.registers();
    bob.sleeps();
    let call = alice.calls("bob");
    sim.run_for(s(1));
    // A softswitch that is a proxy leaves the Request-URI as it is.
    let invite = text::text(switch.got("INVITE")[0].bytes());
    let via = "Via: SIP/2.0/UDP 192.0.2.20:5060;branch=z9hG4bKswitch\r\nVia: ";
    let spiral = invite.replacen("Via: ", via, 1).replace("Max-Forwards: 69", "Max-Forwards: 68");
    sim.world().send_raw(0, spiral.into());
    sim.run_for(s(1));
    sim.push().expects(1);
    call.cancels("");
    let cancel = Draft::new("CANCEL", "sip:bob@example.org", "<sip:x@y>;tag=a", "<sip:z@y>", "alice-2", 2);
    let bytes = cancel.write(sip_push_proxy::sip::Transport::Udp, "192.0.2.20:5060".parse().unwrap(), "z9hG4bKswitch");
    sim.world().send_raw(0, bytes);
}

#[test]
fn a_strict_router_before_us_is_understood() {
    let sim = Sim::new();
    let (alice, switch) = (sim.phone("alice"), sim.switch());
    alice.does(Answer::Answers(ms(100))).wakes_on_push(ms(100));
    alice.registers();
    let call = switch.invites("alice");
    sim.run_for(s(2));
    let answer = call.response();
    let route = text::values(&answer, HeaderName::RecordRoute).remove(0);
    let ours = route.trim_matches(|letter| letter == '<' || letter == '>');
    let to = text::first(&answer, HeaderName::To);
    let call_id = call.call_ref();
    let bye = switch.asks("BYE", ours, |draft| {
        Draft { to, call_id, ..draft }.header(format!("Route: <{}>", text::contact_uri(&answer)))
    });
    sim.run_for(s(1));
    bye.expects(&[200]);
    let got = &alice.got("BYE")[0];
    assert_eq!(text::text(got.uri()), text::contact_uri(&answer));
    assert_eq!(text::values(got, HeaderName::Route), [""; 0]);
}

#[test]
fn a_strict_router_after_us_is_served() {
    let sim = Sim::new();
    let alice = sim.phone("alice");
    let request = alice.asks("MESSAGE", "sip:bob@example.org", |draft| {
        draft.header("Route: <sip:192.0.2.10;lr>, <sip:192.0.2.20>").header("Route: <sip:192.0.2.21;lr>")
    });
    sim.run_for(s(1));
    request.expects(&[200]);
    let got = &sim.switch().got("MESSAGE")[0];
    assert_eq!(text::text(got.uri()), "sip:192.0.2.20");
    assert_eq!(text::values(got, HeaderName::Route), ["<sip:192.0.2.21;lr>", "<sip:bob@example.org>"]);
}

#[test]
fn headers_in_a_registered_contact_are_not_put_into_a_request_uri() {
    let sim = Sim::new();
    let alice = sim.phone("alice");
    alice.change(|agent| agent.device.push.push_str("?Route=%3Csip:203.0.113.1%3E"));
    alice.change(|agent| agent.device.instance = Some("urn:uuid:alice".into()));
    alice.registers();
    let call = sim.switch().invites("alice");
    sim.run_for(ms(100));
    alice.registers();
    let uri = text::text(alice.got("INVITE")[0].uri());
    assert!(!uri.contains('?') && uri.contains("pn-prid=token-alice"), "{uri}");
    call.cancels("");
}

/// Asterisk's `rewrite_contact` puts the address that a message came from into our Record-Route, and so into its route set: with
/// TCP that is a port of ours that nobody listens at.
#[test]
fn a_route_with_our_token_is_ours_whatever_address_it_names() {
    for rewritten in ["198.51.100.77:43210;transport=tcp", "[2001:db8::7]:43210", "nat.example", "192.0.2.20:5060"] {
        let sim = Sim::new();
        let (alice, switch) = (sim.phone("alice"), sim.switch());
        alice.does(Answer::Answers(ms(100))).wakes_on_push(ms(100));
        alice.registers();
        let call = switch.invites("alice");
        sim.run_for(s(2));
        assert_eq!(call.status(), Some(200));
        let sends = |method: &str| {
            let world = &mut *sim.world();
            let mut draft = world.agents[call.agent].within_sent(call.number, method);
            for line in draft.headers.iter_mut().filter(|line| line.starts_with("Route: ")) {
                let (token, params) = line.split_once("@192.0.2.10:5060").expect("our Record-Route");
                *line = format!("{token}@{rewritten}{params}");
            }
            draft
        };
        let acks = alice.acks();
        let ack =
            sends("ACK").write(sip_push_proxy::sip::Transport::Udp, "192.0.2.20:5060".parse().unwrap(), "z9hG4bKa");
        sim.world().send_raw(call.agent, ack);
        let invite = sends("INVITE");
        let invite = sim.world().request(call.agent, invite);
        sim.run_for(s(1));
        let bye = sends("BYE");
        let bye = sim.world().request(call.agent, bye);
        sim.run_for(s(1));
        let statuses = [invite, bye].map(|sent| sim.world().agents[call.agent].sent[sent].finals());
        assert_eq!(statuses, [vec![200], vec![200]], "{rewritten}");
        assert!(alice.acks() > acks, "{rewritten}");
        assert_eq!(text::values(&alice.got("BYE")[0], HeaderName::Route), [""; 0], "{rewritten}");
    }
}
