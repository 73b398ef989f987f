//! What strangers try with raw sockets: other addresses, other people's dialogs, the softswitch's name. After each of it a
//! good phone's whole call is served.

use std::io::ErrorKind;
use std::net::TcpListener;

use sip_push_proxy::sip::Transport::{Tcp, Udp};

use crate::doors::{STRANGER, a_call_goes_through};
use crate::held_call::asleep;
use crate::peer::{Peer, options};
use crate::phone::{Phone, Push};
use crate::sip::{Sip, unique};
use crate::switch::Call;
use crate::world::{Mode, World};

/// A service beside the softswitch on the same machine, which nobody may reach by way of the proxy.
struct Beside(TcpListener);

impl Beside {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a listener");
        Self(listener)
    }

    fn uri(&self) -> String {
        format!("sip:x@{};transport=tcp", self.0.local_addr().expect("its address"))
    }

    #[track_caller]
    fn is_alone(&self) {
        assert_eq!(self.0.accept().expect_err("nobody").kind(), ErrorKind::WouldBlock);
    }
}

#[test]
fn nothing_that_a_stranger_says_chooses_an_address() {
    let mut world = World::start(Mode::Alias, Udp);
    let beside = Beside::new();
    let (stranger, link) = Peer::connected(Udp, STRANGER, world.sip(Udp));
    let body = "FLUSHALL\r\n";
    let template = options(&stranger, world.sip(Udp))
        .replace("Content-Length: 0\r\n\r\n", &format!("Content-Length: {}\r\n\r\n{body}", body.len()));
    let target = format!("OPTIONS sip:{} SIP/2.0", world.sip(Udp));
    for (uri, route) in [
        (beside.uri(), String::new()),
        ("sip:bob@example.org".to_owned(), format!("Route: <{};lr>\r\n", beside.uri())),
        (format!("sip:bob@example.org;maddr={}", beside.uri().trim_start_matches("sip:x@")), String::new()),
    ] {
        let request = template.replace(&target, &format!("OPTIONS {uri} SIP/2.0"));
        let branch = unique("z9hG4bK");
        let request = request.replace("Max-Forwards", &format!("{route}Max-Forwards"));
        let old =
            request.split("branch=").nth(1).and_then(|rest| rest.split("\r\n").next()).expect("a branch").to_owned();
        link.send(request.replace(&old, &branch));
        let (got, back) = world.switch.peer.request("OPTIONS");
        back.send(got.answer(404, "Not Found", "t", ""));
        stranger.response(404, "OPTIONS");
    }
    beside.is_alone();
    let mut phone = asleep(&mut world, Push::Fcm);
    a_call_goes_through(&mut world, &mut phone);
    beside.is_alone();
}

/// An answered call, and the INVITE as the phone got it.
#[track_caller]
fn called(world: &mut World, contact: &str) -> (Phone, Call, Sip) {
    let mut phone = asleep(world, Push::Fcm);
    let call = world.switch.call_with_contact(&phone.aor(), contact);
    world.switch.queued();
    world.pushed(&phone);
    phone.register(world);
    let incoming = phone.invited();
    let invite = incoming.invite.clone();
    incoming.answer(200, "OK");
    let ok = world.switch.final_response();
    call.confirm(&ok);
    incoming.confirmed();
    (phone, call, invite)
}

/// In local mode, where a phone's request goes nowhere but back into its dialog.
#[test]
fn a_route_that_was_overheard_serves_nobody_else() {
    let mut world = World::with(Mode::Open, Udp, "softswitch.uri = ''");
    let address = world.switch.peer.address;
    let (phone, _call, invite) = called(&mut world, &format!("sip:switch@{address}"));
    let (stranger, link) = Peer::connected(Udp, STRANGER, world.sip(Udp));
    let route = format!("Route: {}\r\n", invite.header("Record-Route"));
    let request = |method: &str, to: &str, call_id: &str| {
        format!(
            "{method} sip:900@{address} SIP/2.0\r\n{}{route}From: <sip:x@example.org>;tag=x\r\nTo: {to}\r\nCall-ID: {call_id}\r\n\
             CSeq: 7 {method}\r\nMax-Forwards: 70\r\nContact: <sip:x@{}>\r\nContent-Length: 0\r\n\r\n",
            stranger.via(),
            stranger.address,
        )
    };
    let caller = invite.header("From");
    for (method, to, call_id) in [
        ("MESSAGE", "<sip:900@example.org>", "other"),
        ("MESSAGE", caller, "other"),
        ("BYE", caller, invite.header("Call-ID")),
        ("MESSAGE", "<sip:900@example.org>", invite.header("Call-ID")),
    ] {
        link.send(request(method, to, call_id));
        stranger.response(403, method);
    }
    world.switch.expect_nothing_more();
    drop(phone);
    let mut phone = asleep(&mut world, Push::Fcm);
    a_call_goes_through(&mut world, &mut phone);
}

#[test]
fn a_dialog_goes_back_to_the_softswitch_whatever_its_contact_says() {
    for (mode, config) in [(Mode::Alias, ""), (Mode::Open, "softswitch.uri = ''")] {
        for transport in [Udp, Tcp] {
            for contact in
                ["sip:pbx@pbx.example.net", "sip:pbx@203.0.113.5:5070", "sip:pbx@127.0.0.77:5060;transport=tcp"]
            {
                let mut world = World::with(mode, transport, config);
                let (phone, _call, invite) = called(&mut world, contact);
                for method in ["INFO", "BYE"] {
                    phone.link().send(within(&phone, &invite, method));
                    let (got, back) = world.switch.peer.request(method);
                    assert_eq!(got.uri(), contact);
                    back.send(got.answer(200, "OK", "", ""));
                    phone.peer().response(200, method);
                }
                world.stop();
            }
        }
    }
}

/// A phone's request in the dialog of an INVITE that it answered.
fn within(phone: &Phone, invite: &Sip, method: &str) -> String {
    let routes: String =
        invite.headers("Record-Route").into_iter().map(|route| format!("Route: {route}\r\n")).collect();
    format!(
        "{method} {} SIP/2.0\r\n{}{routes}From: {};tag=x\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: 9 {method}\r\nMax-Forwards: 70\r\n\
         Content-Length: 0\r\n\r\n",
        invite.contact(),
        phone.peer().via(),
        invite.header("To"),
        invite.header("From"),
        invite.header("Call-ID"),
    )
}

#[test]
fn a_register_in_the_softswitchs_name_changes_nothing() {
    for mode in [Mode::Alias, Mode::Open] {
        let mut world = World::start(mode, Udp);
        let mut phone = asleep(&mut world, Push::Fcm);
        let address = world.switch.peer.address;
        world.switch.link().send(format!(
            "REGISTER sip:example.org SIP/2.0\r\n{}From: <sip:bob@example.org>;tag=x\r\nTo: <sip:bob@example.org>\r\n\
             Call-ID: spoofed\r\nCSeq: 1 REGISTER\r\nMax-Forwards: 70\r\nContact: <sip:bob@{address}>\r\nExpires: 3600\r\n\
             Content-Length: 0\r\n\r\n",
            world.switch.peer.via(),
        ));
        world.switch.response(403, "REGISTER");
        assert!(world.admin.bindings("bob@example.org").is_empty());
        a_call_goes_through(&mut world, &mut phone);
    }
}

#[test]
fn where_phones_share_the_softswitchs_address_they_register_from_there() {
    let mut world =
        World::with(Mode::Open, Udp, "softswitch.trusted = ['127.0.0.0/8']\nregister.phones_behind_trusted = true");
    let mut phone = asleep(&mut world, Push::Fcm);
    a_call_goes_through(&mut world, &mut phone);
}

#[test]
fn what_was_overheard_of_a_registration_registers_nobody() {
    let mut world = World::with_program(Mode::Digest, Udp, "sip.workers = 4");
    let mut alice = Phone::new("alice", Push::None, Udp);
    alice.wake(&world);
    alice.send_register();
    let challenge = alice.peer().response(401, "REGISTER");
    alice.answer_challenge(&challenge);
    let overheard = alice.send_register_text();
    alice.peer().response(200, "REGISTER");
    let replay = |world: &World| {
        // Other ports, so that other workers see it.
        for _ in 0..8 {
            let (mallory, link) = Peer::connected(Udp, crate::phone::PHONE_IP, world.sip(Udp));
            let via = format!("Via: SIP/2.0/UDP {};rport;branch={}", mallory.address, unique("z9hG4bK"));
            let own = overheard.lines().find(|line| line.starts_with("Via:")).expect("a Via");
            link.send(overheard.replace(own, &via).replace(&alice.peer().address.to_string(), "127.0.0.66:6666"));
            let refused = mallory.response(401, "REGISTER");
            assert!(refused.header("WWW-Authenticate").contains("stale=true"), "{refused:?}");
        }
    };
    replay(&world);
    world.program().kill();
    world.start_program();
    replay(&world);
    let bindings = world.admin.bindings("alice@example.org");
    assert!(bindings.len() == 1 && !bindings[0].to_string().contains("127.0.0.66"), "{bindings:?}");
}

/// Both ACK and BYE follow the INVITE, although the softswitch's Contact is a name, too.
#[test]
fn a_phones_call_by_the_softswitchs_name_is_acknowledged_and_hung_up() {
    let mut world = World::with_program(Mode::Alias, Udp, "");
    world.rewrite_config("sip:127.0.0.1:", "sip:localhost:");
    world.program().kill();
    world.start_program();
    let mut phone = Phone::new("alice", Push::None, Udp);
    phone.register(&mut world);
    let call = |method: &str, cseq: &str, to: &str, uri: &str, routes: &str| {
        format!(
            "{method} {uri} SIP/2.0\r\n{}{routes}From: <sip:alice@example.org>;tag=a\r\nTo: {to}\r\nCall-ID: out\r\n\
             CSeq: {cseq} {method}\r\nMax-Forwards: 70\r\nContact: <{}>\r\nContent-Length: 0\r\n\r\n",
            phone.peer().via(),
            phone.contact(),
        )
    };
    phone.link().send(call("INVITE", "1", "<sip:bob@example.org>", "sip:bob@example.org", ""));
    let (invite, link) = world.switch.peer.request("INVITE");
    let routes: String =
        invite.headers("Record-Route").into_iter().map(|route| format!("Record-Route: {route}\r\n")).collect();
    link.send(invite.answer(200, "OK", "b", &format!("{routes}Contact: <sip:pbx@pbx.example.net>\r\n")));
    phone.peer().response(100, "INVITE");
    let ok = phone.peer().response(200, "INVITE");
    let routes: String = ok.headers("Record-Route").into_iter().map(|route| format!("Route: {route}\r\n")).collect();
    phone.link().send(call("ACK", "1", ok.header("To"), ok.contact(), &routes));
    assert_eq!(world.switch.peer.request("ACK").0.uri(), "sip:pbx@pbx.example.net");
    phone.link().send(call("BYE", "2", ok.header("To"), ok.contact(), &routes));
    let (bye, link) = world.switch.peer.request("BYE");
    link.send(bye.answer(200, "OK", "", ""));
    phone.peer().response(200, "BYE");
}

/// The operator has forgotten one of the softswitch's addresses.
#[test]
fn a_switch_that_is_not_trusted_is_named_in_the_log() {
    let mut world = World::with_program(Mode::Alias, Udp, "");
    let mut phone = Phone::new("alice", Push::Fcm, Udp);
    phone.register(&mut world);
    let (alias, _) = world.switch.way_to(&phone.aor());
    let (peer, link) = Peer::connected(Udp, crate::phone::PHONE_IP, world.sip(Udp));
    let call_id = unique("call-");
    link.send(format!(
        "INVITE {alias} SIP/2.0\r\n{}From: <sip:103@example.org>;tag=a\r\nTo: <sip:alice@example.org>\r\nCall-ID: {call_id}\r\n\
         CSeq: 1 INVITE\r\nContact: <sip:{}>\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n",
        peer.via(),
        peer.address,
    ));
    peer.response(100, "INVITE");
    let (invite, back) = world.switch.peer.request("INVITE");
    back.send(invite.answer(404, "Not Found", "t", ""));
    world.admin.expect_metric("sip_dropped_total{reason=\"strange_switch\"}", 1.0);
    world.admin.story(&call_id, "rejected");
    let log = world.folder.path().join("log");
    crate::peer::eventually("the line in the log", || {
        let log = std::fs::read_to_string(&log).ok()?;
        let source = peer.address.to_string();
        log.lines().find(|line| line.contains("softswitch.trusted") && line.contains(&source)).map(str::to_owned)
    });
}
