//! Phones that change their network, or lose their connection, in the middle of something.

use sip_push_proxy::sip::Transport::{self, Tcp, Udp};

use crate::phone::{Phone, Push};
use crate::sip::{Sip, unique};
use crate::switch::Call;
use crate::world::{Mode, World};

const TRANSPORTS: [Transport; 2] = [Udp, Tcp];

/// A phone that has come for a call. The INVITE as it got it.
#[track_caller]
fn called(world: &mut World, transport: Transport) -> (Phone, Call, Sip) {
    let mut phone = Phone::new("alice", Push::Fcm, transport);
    phone.register(world);
    phone.sleep();
    let call = world.call(&phone);
    world.switch.queued();
    world.pushed_invite(&phone, 28);
    phone.register(world);
    let invite = phone.peer().request("INVITE").0;
    (phone, call, invite)
}

#[test]
fn a_cancel_follows_a_phone_that_has_moved() {
    for transport in TRANSPORTS {
        let mut world = World::start(Mode::Alias, Udp);
        let (mut phone, call, invite) = called(&mut world, transport);
        phone.link().send(invite.answer(180, "Ringing", "uas", ""));
        world.switch.response(180, "INVITE");
        // From another port; its former socket closes.
        phone.register(&mut world);
        // A repetition, unless the app was killed meanwhile; its transaction answers it again (RFC 3261 §17.2.1).
        let again = phone.invited();
        assert_eq!(again.invite.header("Via"), invite.header("Via"));
        phone.link().send(invite.answer(180, "Ringing", "uas", ""));
        world.switch.response(180, "INVITE");
        call.cancel("");
        world.switch.response(200, "CANCEL");
        let (cancel, link) = phone.peer().request("CANCEL");
        assert_eq!(cancel.header("Via"), invite.header("Via"));
        link.send(cancel.answer(200, "OK", "uas", ""));
        link.send(invite.answer(487, "Request Terminated", "uas", ""));
        call.ack(&world.switch.response(487, "INVITE"));
        phone.peer().request("ACK");
    }
}

#[test]
fn a_cancel_reaches_a_phone_that_was_away_when_it_came() {
    let mut world = World::start(Mode::Alias, Udp);
    let (mut phone, call, invite) = called(&mut world, Tcp);
    phone.link().send(invite.answer(180, "Ringing", "uas", ""));
    world.switch.response(180, "INVITE");
    // Its former connection stays half open.
    let (before, _) = phone.walk_away();
    call.cancel("");
    world.switch.response(200, "CANCEL");
    before.request("CANCEL");
    phone.register(&mut world);
    let (cancel, link) = phone.peer().request("CANCEL");
    assert_eq!(cancel.header("Via"), invite.header("Via"));
    link.send(cancel.answer(200, "OK", "uas", ""));
    link.send(invite.answer(487, "Request Terminated", "uas", ""));
    call.ack(&world.switch.response(487, "INVITE"));
}

#[test]
fn an_answer_finds_the_phone_that_asked_where_it_is() {
    for transport in TRANSPORTS {
        for method in ["INVITE", "MESSAGE"] {
            let mut world = World::start(Mode::Alias, Udp);
            let mut phone = Phone::new("alice", Push::Fcm, transport);
            phone.register(&mut world);
            let contact =
                if method == "INVITE" { format!("Contact: <{}>\r\n", phone.contact()) } else { String::new() };
            phone.link().send(format!(
                "{method} sip:103@example.org SIP/2.0\r\n{}From: <sip:alice@example.org>;tag=a\r\n\
                 To: <sip:103@example.org>\r\nCall-ID: {}\r\nCSeq: 1 {method}\r\nMax-Forwards: 70\r\n{contact}\
                 Content-Length: 0\r\n\r\n",
                phone.peer().via(),
                unique("call-"),
            ));
            let (request, link) = world.switch.peer.request(method);
            phone.register(&mut world);
            let contact = format!("Contact: <sip:103@{}>\r\n", world.switch.peer.address);
            link.send(request.answer(200, "OK", "b", &contact));
            phone.peer().response(200, method);
        }
    }
}

#[test]
fn a_request_in_a_dialog_wakes_its_phone_and_waits_for_it() {
    for method in ["INFO", "INVITE"] {
        let mut world = World::start(Mode::Alias, Udp);
        let (mut phone, call, invite) = called(&mut world, Tcp);
        let contact = format!("Contact: <sip:alice@{};transport=tcp>\r\n", phone.peer().address);
        phone.link().send(invite.answer(200, "OK", "uas", &contact));
        let ok = world.switch.final_response();
        call.confirm(&ok);
        phone.peer().request("ACK");
        phone.sleep();
        call.within(method, 2, &ok);
        if method == "INVITE" {
            world.switch.response(100, "INVITE");
        }
        let push = world.pushed(&phone);
        assert!(String::from_utf8_lossy(&push.body).contains("\"message\""), "{push:?}");
        phone.register(&mut world);
        let (request, link) = phone.peer().request(method);
        assert_eq!(request.to_tag(), "uas");
        link.send(request.answer(200, "OK", "uas", &contact));
        let answer = world.switch.final_response();
        assert_eq!((answer.status(), answer.method()), (200, method), "{answer:?}");
    }
}

#[test]
fn a_bye_waits_for_its_phone_and_wakes_nobody() {
    // What the softswitch sends and what the phone sends may be different workers' affairs.
    for workers in [1, 4] {
        let mut world = World::with(Mode::Alias, Udp, &format!("sip.workers = {workers}\n"));
        let (mut phone, call, invite) = called(&mut world, Tcp);
        let contact = format!("Contact: <sip:alice@{};transport=tcp>\r\n", phone.peer().address);
        phone.link().send(invite.answer(200, "OK", "uas", &contact));
        let ok = world.switch.final_response();
        call.confirm(&ok);
        phone.peer().request("ACK");
        phone.sleep();
        call.bye(&ok);
        phone.register(&mut world);
        let (bye, link) = phone.peer().request("BYE");
        link.send(bye.answer(200, "OK", "uas", ""));
        world.switch.response(200, "BYE");
        assert_eq!(world.pushes(), 1);
    }
}
