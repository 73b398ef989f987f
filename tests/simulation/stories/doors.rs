//! What a stranger may try, and what must not come of it: no address, no identity and no call is his to choose.

use sip_push_proxy::proxy::policy::CallsFrom;
use sip_push_proxy::sip::{Destination, HeaderName, Message, Transport};

use crate::agent::Answer;
use crate::options::{SWITCH, socket};
use crate::sim::{Phone, Request, Sim, ms, s};
use crate::text::{self, Draft};
use crate::world::SOFTSWITCH;

/// Requests that left the proxy for anything but a phone, with where they went.
fn outward(sim: &Sim) -> Vec<(Destination, Message)> {
    let world = sim.world();
    let is_outward = |(to, message): &&(Destination, Message)| {
        message.is_request() && !to.remote().ip().to_string().starts_with("198.51.")
    };
    world.left.iter().filter(is_outward).cloned().collect()
}

#[track_caller]
fn only_the_softswitch_was_reached(sim: &Sim) {
    for (to, message) in outward(sim) {
        let at = (to.transport(), to.remote());
        assert_eq!(at, (Transport::Udp, socket(SWITCH)), "{}", text::summary(&message));
    }
}

/// A phone's whole call: pushed, answered, hung up by the phone.
#[track_caller]
fn is_served(sim: &Sim, phone: &Phone, user: &str) {
    phone.does(Answer::Answers(ms(100))).wakes_on_push(ms(100));
    phone.sleeps();
    let call = sim.switch().invites(user);
    sim.run_for(s(2));
    assert_eq!(call.status(), Some(200));
    let bye = phone.within_last("BYE");
    sim.run_for(s(1));
    bye.expects(&[200]);
}

/// An answered call of the softswitch to alice, whose INVITE has this Contact.
fn called_with(sim: &Sim, contact: &str) -> (Phone, Request) {
    let alice = sim.phone("alice");
    alice.does(Answer::Answers(ms(100))).wakes_on_push(ms(100));
    alice.registers();
    alice.sleeps();
    let contact = format!("Contact: <{contact}>");
    let call = sim.switch().sends("INVITE", "alice", |mut draft| {
        draft.headers.retain(|line| !line.starts_with("Contact"));
        draft.header(contact)
    });
    sim.run_for(s(2));
    assert_eq!(call.status(), Some(200));
    (alice, call)
}

#[test]
fn a_phone_chooses_no_address() {
    let sim = Sim::with(|policy| policy.trusted.push("192.0.2.0/24".parse().unwrap()));
    let (alice, stranger) = (sim.phone("alice"), sim.phone("stranger"));
    alice.registers();
    for uri in [
        "sip:x@192.0.2.20:6379;transport=tcp",
        "sip:x@192.0.2.20:6379",
        "sip:192.0.2.21:5060",
        "sip:x@192.0.2.21;maddr=192.0.2.22;transport=tcp",
        "sip:x@example.org;maddr=192.0.2.22",
    ] {
        for route in ["", "Route: <sip:192.0.2.23:25;transport=tcp;lr>", "Route: <sip:192.0.2.20:6379;transport=tcp>"] {
            for who in [&alice, &stranger] {
                for method in ["OPTIONS", "MESSAGE"] {
                    who.asks(method, uri, |draft| {
                        let draft = draft.body("FLUSHALL\r\n");
                        if route.is_empty() { draft } else { draft.header(route) }
                    });
                }
            }
        }
    }
    sim.run_for(s(2));
    assert_eq!(outward(&sim).iter().filter(|(_, message)| message.method_text() != b"REGISTER").count(), 60);
    only_the_softswitch_was_reached(&sim);
    is_served(&sim, &alice, "alice");
}

#[test]
fn a_route_of_ours_serves_its_own_dialog_and_phone_alone() {
    for mut sim in [Sim::new(), Sim::local(|_| {}), Sim::local(|policy| policy.softswitch = None)] {
        let (alice, call) = called(&mut sim);
        let stranger = sim.phone("stranger");
        let invite = alice.got("INVITE").remove(0);
        let route = text::values(&invite, HeaderName::RecordRoute).remove(0);
        let call_id = call.call_ref();
        let to = text::first(&invite, HeaderName::From);
        let is_local = sim.world().policy.softswitch.is_none()
            || sim.world().policy.mode == sip_push_proxy::proxy::policy::Mode::Local;
        let before = outward(&sim).len();
        let of_dialog = |draft: Draft| Draft { to: to.clone(), call_id: call_id.clone(), ..draft };
        let with_route = |draft: Draft| draft.header(format!("Route: {route}"));
        // No dialog, another one, and the right one from somebody else.
        let tries = [
            stranger.asks("INVITE", "sip:900@192.0.2.20", with_route),
            alice.asks("INVITE", "sip:900@192.0.2.20", with_route),
            stranger.asks("BYE", "sip:900@192.0.2.20", |draft| with_route(Draft { to: to.clone(), ..draft })),
            stranger.asks("BYE", "sip:900@192.0.2.20", |draft| with_route(of_dialog(draft))),
        ];
        sim.run_for(s(1));
        if is_local {
            assert_eq!(outward(&sim).len(), before, "nothing of it leaves");
            for request in &tries {
                assert_eq!(request.status(), Some(403));
            }
        }
        only_the_softswitch_was_reached(&sim);
        tries.iter().take(2).for_each(|request| request.cancels(""));
        let bye = alice.within_last("BYE");
        sim.run_for(s(1));
        bye.expects(&[200]);
    }
}

/// An answered call, in either mode.
fn called(sim: &mut Sim) -> (Phone, Request) {
    called_with(sim, &format!("sip:switch@{SWITCH}"))
}

#[test]
fn a_dialog_goes_back_to_the_softswitch_whatever_its_contact_says() {
    for make in [Sim::new as fn() -> Sim, || Sim::local(|policy| policy.softswitch = None)] {
        for (contact, reached) in [
            ("sip:pbx@pbx.example.net", SWITCH),
            ("sip:pbx@pbx.example.net:5070;transport=tcp", SWITCH),
            ("sip:pbx@203.0.113.5:5060", SWITCH),
            ("sip:pbx@192.0.2.20", SWITCH),
            ("sip:pbx@192.0.2.20:5070", "192.0.2.20:5070"),
        ] {
            let sim = make();
            let (alice, call) = called_with(&sim, contact);
            sim.world().addresses.insert(socket("192.0.2.20:5070"), SOFTSWITCH);
            let info = call.sends("INFO");
            sim.run_for(s(1));
            info.expects(&[200]);
            sim.switch().answers(Answer::Answers(ms(10)));
            let refresh = alice.within_last("INVITE");
            let bye = alice.within_last("BYE");
            sim.run_for(s(1));
            let sent = outward(&sim);
            for method in [&b"INVITE"[..], b"BYE"] {
                let (to, message) = sent.iter().rfind(|(_, message)| message.method_text() == method).expect("it left");
                assert_eq!((to.transport(), to.remote()), (Transport::Udp, socket(reached)), "{contact}");
                assert_eq!(text::text(message.uri()), contact);
            }
            if reached == SWITCH {
                assert_eq!((refresh.status(), sim.switch().acks()), (Some(200), 1));
                bye.expects(&[200]);
            }
        }
    }
}

/// The Contact of a request that others have passed on may be any phone's word.
#[test]
fn a_contact_at_second_hand_chooses_no_port() {
    for line in
        ["Via: SIP/2.0/UDP 203.0.113.7;branch=z9hG4bKfar", "Record-Route: <sip:192.0.2.20:6379;transport=tcp;lr>"]
    {
        let sim = Sim::new();
        sim.world().ledger.is_lenient = true;
        let alice = sim.phone("alice");
        alice.does(Answer::Answers(ms(100))).wakes_on_push(ms(100));
        alice.registers();
        let call = sim.switch().sends("INVITE", "alice", |mut draft| {
            draft.headers.retain(|line| !line.starts_with("Contact"));
            draft.header("Contact: <sip:evil@192.0.2.20:6379;transport=tcp>").header(line)
        });
        sim.run_for(s(2));
        assert_eq!(call.status(), Some(200));
        alice.within_last("BYE");
        sim.run_for(s(1));
        assert!(outward(&sim).iter().any(|(_, message)| message.method_text() == b"BYE"));
        only_the_softswitch_was_reached(&sim);
    }
}

#[test]
fn a_phones_call_is_acknowledged_where_it_went_when_the_softswitch_goes_by_a_name() {
    let sim = Sim::with(|policy| {
        let uri = sip_push_proxy::sip::Uri::parse(b"sip:pbx.example.net").unwrap();
        policy.softswitch = sip_push_proxy::proxy::policy::Softswitch::of(&uri);
    });
    let (alice, switch) = (sim.phone("alice"), sim.switch());
    sim.world().agents[SOFTSWITCH].device.name = Some("pbx.example.net".into());
    alice.registers();
    switch.answers(Answer::Answers(ms(100)));
    let call = alice.calls("bob");
    sim.run_for(s(1));
    call.expects(&[100, 180, 200]);
    assert_eq!(switch.acks(), 1);
    let bye = call.sends("BYE");
    sim.run_for(s(1));
    bye.expects(&[200]);
}

/// A REGISTER whose source is the softswitch's very address.
fn registers_in_its_name(sim: &Sim) -> Request {
    let forged = sim.switch().asks("REGISTER", "sip:example.org", |draft| {
        draft.header("Contact: <sip:mallory@192.0.2.20:5060>").header("Expires: 3600")
    });
    sim.run_for(s(1));
    forged
}

#[test]
fn a_register_in_the_softswitchs_name_leaves_it_the_softswitch() {
    for make in [Sim::new as fn() -> Sim, || Sim::local(|_| {})] {
        let sim = make();
        sim.world().policy_with(|policy| {
            policy.registrar.auth = sip_push_proxy::proxy::policy::Auth::None(vec!["0.0.0.0/0".parse().unwrap()]);
        });
        let alice = sim.phone("alice");
        alice.registers();
        let forged = registers_in_its_name(&sim);
        assert_eq!(forged.status(), Some(403));
        assert_eq!(sim.bindings().len(), 1);
        is_served(&sim, &alice, "alice");
    }
}

#[test]
fn where_phones_share_the_softswitchs_address_its_own_port_stays_its_own() {
    for name in [&b"sip:192.0.2.20:5060"[..], b"sip:pbx.example.net"] {
        let sim = Sim::with(|policy| {
            policy.phones_behind_trusted = true;
            let uri = sip_push_proxy::sip::Uri::parse(name).unwrap();
            policy.softswitch = sip_push_proxy::proxy::policy::Softswitch::of(&uri);
        });
        let alice = sim.phone("alice");
        alice.registers();
        let forged = registers_in_its_name(&sim);
        assert_eq!(forged.status(), Some(403));
        is_served(&sim, &alice, "alice");
    }
}

#[test]
fn only_registered_phones_call_where_the_operator_wants_that() {
    let sim = Sim::with(|policy| policy.calls_from = CallsFrom::Registered);
    let (alice, stranger) = (sim.phone("alice"), sim.phone("stranger"));
    alice.registers();
    let before = outward(&sim).len();
    for (method, uri) in
        [("INVITE", "sip:bob@example.org"), ("MESSAGE", "sip:bob@example.org"), ("OPTIONS", "sip:192.0.2.10")]
    {
        let request = stranger.asks(method, uri, |draft| draft);
        sim.run_for(s(1));
        assert_eq!(request.status(), Some(403), "{method}");
    }
    assert_eq!(outward(&sim).len(), before);
    let own = alice.asks("MESSAGE", "sip:bob@example.org", |draft| draft);
    sim.run_for(s(1));
    own.expects(&[200]);
    is_served(&sim, &alice, "alice");
}

#[test]
fn identities_that_a_phone_asserts_stay_outside() {
    let sim = Sim::new();
    sim.world().ledger.is_lenient = true;
    let stranger = sim.phone("stranger");
    stranger.change(|agent| agent.device.headers = vec!["P-Asserted-Identity: <sip:boss@example.org>".into()]);
    stranger.registers();
    let call = stranger.asks("INVITE", "sip:bob@example.org", |draft| {
        draft
            .header("P-Asserted-Identity: <sip:boss@example.org>")
            .header("remote-party-id: <sip:boss@example.org>")
            .header("Diversion: <sip:boss@example.org>")
            .header("History-Info: <sip:boss@example.org>;index=1")
            .header("X-Kept: yes")
    });
    sim.run_for(s(1));
    for (_, message) in outward(&sim) {
        assert!(!text::text(message.bytes()).contains("boss"), "{}", text::text(message.bytes()));
    }
    assert!(text::text(sim.switch().got("INVITE")[0].bytes()).contains("X-Kept: yes\r\n"));
    call.cancels("");
}

#[test]
fn a_caller_who_asks_for_privacy_is_not_named_to_the_phone() {
    for (privacy, is_named) in [("Privacy: id", false), ("Privacy: none", true)] {
        let sim = Sim::new();
        sim.world().ledger.is_lenient = true;
        let alice = sim.phone("alice");
        alice.does(Answer::Answers(ms(100))).wakes_on_push(ms(100));
        alice.registers();
        sim.switch().sends("INVITE", "alice", |draft| {
            let draft = draft.header("P-Asserted-Identity: <sip:0987@example.org>");
            draft.header("Remote-Party-ID: <sip:0987@example.org>;party=calling").header(privacy)
        });
        sim.run_for(s(2));
        let invite = text::text(alice.got("INVITE")[0].bytes());
        assert_eq!(invite.contains("0987"), is_named, "{invite}");
    }
}

#[test]
fn push_parameters_reach_nobody_but_their_device() {
    let sim = Sim::new();
    sim.world().ledger.is_lenient = true;
    let (alice, switch) = (sim.phone("alice"), sim.switch());
    alice.registers();
    let token = ";pn-provider=fcm;pn-param=project;pn-prid=token-alice";
    let contact = format!("Contact: <sip:alice@198.51.100.1:40001{token}>");
    let as_contact = |mut draft: Draft| {
        draft.headers.retain(|line| !line.starts_with("Contact"));
        draft.header(contact.clone())
    };
    switch.answers(Answer::Answers(ms(10)));
    let call = alice.asks("INVITE", "sip:bob@example.org", as_contact);
    let subscription = alice.asks("SUBSCRIBE", "sip:bob@example.org", as_contact);
    sim.run_for(s(1));
    assert_eq!((call.status(), subscription.status()), (Some(200), Some(200)));
    let incoming = switch.invites("alice");
    sim.run_for(ms(100));
    alice.registers();
    for (status, line) in [(180, contact.clone()), (302, contact.clone())] {
        let mut world = sim.world();
        let got = *world.agents[alice.agent].got_of("INVITE").last().expect("an INVITE");
        world.agent_responds(alice.agent, got, status, &[line], "");
        world.run_for(ms(100));
    }
    assert_eq!(incoming.status(), Some(302));
    let is_of_phone =
        |response: &&Message| response.first(HeaderName::Contact).is_some() && response.status() != Some(182);
    for response in incoming.responses().iter().filter(is_of_phone) {
        assert_eq!(text::contact_uri(response), "sip:alice@198.51.100.1:40001");
    }
    let world = sim.world();
    for (to, message) in world.left.iter().filter(|(to, _)| to.remote() == socket(SWITCH)) {
        assert!(!text::text(message.bytes()).contains("pn-"), "{to:?} {}", text::text(message.bytes()));
    }
}

#[test]
fn control_characters_in_a_head_are_400_and_a_response_with_them_is_dropped() {
    let sim = Sim::new();
    sim.world().ledger.is_lenient = true;
    let (alice, stranger) = (sim.phone("alice"), sim.phone("stranger"));
    alice.registers();
    let before = outward(&sim).len();
    for bad in ["Subject: a\rTo: <sip:boss@example.org>", "Subject: a\nTo: <sip:boss@example.org>", "Subject: a\0b"] {
        for method in ["INVITE", "MESSAGE", "OPTIONS"] {
            let request = stranger.asks(method, "sip:bob@example.org", |draft| draft.header(bad));
            sim.run_for(s(1));
            assert_eq!(request.status(), Some(400), "{bad:?}");
        }
    }
    assert_eq!(outward(&sim).len(), before);
    is_served(&sim, &alice, "alice");
}
