//! Several workers on one port: which of them reads a datagram is the system's choice.

use std::net::{IpAddr, Ipv4Addr};

use sip_push_proxy::sip::Transport::Udp;

use crate::peer::{Link, Peer};
use crate::phone::{PHONE_IP, Phone, Push};
use crate::sip::unique;
use crate::switch::Call;
use crate::world::{Mode, World};

const WORKERS: &str = "sip.workers = 8";

/// Further ports of somebody, which the system gives to workers of its choice.
fn ports(world: &World, ip: IpAddr) -> Vec<(Peer, Link)> {
    (0..12).map(|_| Peer::connected(Udp, ip, world.sip(Udp))).collect()
}

fn asleep(world: &mut World) -> Phone {
    let mut phone = Phone::new("alice", Push::Fcm, Udp);
    phone.register(world);
    phone.sleep();
    phone
}

fn by(link: &Link, call: &Call, send: impl Fn(&Call)) {
    let mut call = call.clone();
    call.link = link.clone();
    send(&call);
}

#[test]
fn a_call_is_one_call_whichever_port_it_comes_from() {
    let mut world = World::with(Mode::Alias, Udp, WORKERS);
    let phone = asleep(&mut world);
    let ports = ports(&world, IpAddr::V4(Ipv4Addr::LOCALHOST));
    for (peer, other) in ports.iter().take(4) {
        let pushes = world.pushes();
        let call = world.call(&phone);
        world.switch.queued();
        world.pushed_invite(&phone, 28);
        for (_, link) in &ports {
            by(link, &call, Call::repeat);
            // Once more where the first went: it is the same INVITE.
            world.switch.response(182, "INVITE");
        }
        by(other, &call, |call| call.cancel(""));
        peer.response(200, "CANCEL");
        let ended = world.switch.response(487, "INVITE");
        by(other, &call, |call| call.ack(&ended));
        assert_eq!(world.pushes(), pushes + 1);
    }
}

#[test]
fn bye_finds_the_early_dialog_of_a_call_that_another_worker_read() {
    let mut world = World::with(Mode::Alias, Udp, WORKERS);
    let phone = asleep(&mut world);
    let ports = ports(&world, IpAddr::V4(Ipv4Addr::LOCALHOST));
    for (peer, link) in ports.iter().take(4) {
        let call = world.call(&phone);
        let queued = world.switch.queued();
        assert_eq!(queued.contact(), format!("sip:{}", world.sip(Udp)));
        link.send(format!(
            "BYE {} SIP/2.0\r\nVia: SIP/2.0/UDP {};rport;branch={}\r\nFrom: {}\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: 2 BYE\r\n\
             Max-Forwards: 70\r\nContent-Length: 0\r\n\r\n",
            queued.contact(),
            peer.address,
            unique("z9hG4bK"),
            queued.header("From"),
            queued.header("To"),
            call.call_id,
        ));
        peer.response(200, "BYE");
        let ended = world.switch.response(487, "INVITE");
        call.ack(&ended);
    }
    world.admin.expect_metric("held_calls", 0.0);
}

#[test]
fn a_phone_cancels_from_another_port() {
    let world = World::with(Mode::Alias, Udp, WORKERS);
    let caller = Peer::connected(Udp, PHONE_IP, world.sip(Udp));
    for (peer, link) in ports(&world, PHONE_IP) {
        let phone = caller.0.address;
        let request = |method: &str, branch: &str, call_id: &str| {
            format!(
                "{method} sip:bob@example.org SIP/2.0\r\nVia: SIP/2.0/UDP {phone};rport;branch={branch}\r\n\
                 From: <sip:alice@example.org>;tag=a\r\nTo: <sip:bob@example.org>\r\nCall-ID: {call_id}\r\nCSeq: 1 {method}\r\n\
                 Contact: <sip:alice@{phone}>\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
            )
        };
        let (branch, call_id) = (unique("z9hG4bK"), unique("call-"));
        caller.1.send(request("INVITE", &branch, &call_id));
        caller.0.response(100, "INVITE");
        let (invite, back) = world.switch.peer.request("INVITE");
        back.send(invite.answer(180, "Ringing", "t", ""));
        caller.0.response(180, "INVITE");
        link.send(request("CANCEL", &branch, &call_id));
        peer.response(200, "CANCEL");
        let (cancel, back) = world.switch.peer.request("CANCEL");
        back.send(cancel.answer(200, "OK", "t", ""));
        back.send(invite.answer(487, "Request Terminated", "t", ""));
        world.switch.peer.request("ACK");
        let ended = caller.0.response(487, "INVITE");
        caller.1.send(
            request("ACK", &branch, &call_id)
                .replace("To: <sip:bob@example.org>", &format!("To: {}", ended.header("To"))),
        );
    }
}

#[test]
fn forks_of_a_call_are_one_call_whichever_port_they_come_from() {
    let mut world = World::with(Mode::Path, Udp, WORKERS);
    let mut phone = asleep(&mut world);
    let ports = ports(&world, IpAddr::V4(Ipv4Addr::LOCALHOST));
    let call = world.call(&phone);
    world.switch.queued();
    world.pushed_invite(&phone, 28);
    let forks: Vec<_> = ports.iter().take(6).map(|(peer, link)| (peer, call.fork(peer, link))).collect();
    for (peer, _) in &forks {
        peer.response(100, "INVITE");
    }
    phone.register(&mut world);
    phone.invited().answer(486, "Busy Here");
    call.ack(&world.switch.response(486, "INVITE"));
    for (peer, fork) in &forks {
        fork.ack(&peer.response(486, "INVITE"));
    }
    assert_eq!(world.pushes(), 1);
    world.admin.expect_metric("calls_total{outcome=\"rejected\"}", 1.0);
}
