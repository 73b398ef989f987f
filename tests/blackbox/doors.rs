//! Limits of each source: who sends too much, tries passwords or scans gets nothing, and everybody else all the same.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};

use serde_json::Value;
use sip_push_proxy::sip::Transport::{Tcp, Udp};
use socket2::{Domain, Socket, Type};

use crate::held_call::{answered, asleep};
use crate::peer::{DEADLINE, Peer, eventually, options};
use crate::phone::{PHONE_IP, Phone, Push};
use crate::world::{Mode, World};

/// Neither the softswitch's address nor that of phones.
pub(crate) const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9));
const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 10));

fn dropped(world: &World, reason: &str) -> f64 {
    world.admin.metric(&format!("sip_dropped_total{{reason=\"{reason}\"}}"))
}

#[track_caller]
fn expect_dropped(world: &World, reason: &str, count: f64) {
    world.admin.expect_metric(&format!("sip_dropped_total{{reason=\"{reason}\"}}"), count);
}

/// A phone that sleeps is called, woken and answers; the caller hangs up.
#[track_caller]
pub(crate) fn a_call_goes_through(world: &mut World, phone: &mut Phone) {
    let call = world.call(phone);
    world.switch.queued();
    world.pushed(phone);
    phone.register(world);
    let ok = answered(world, phone, &call);
    call.bye(&ok);
    let (bye, link) = phone.peer().request("BYE");
    link.send(bye.answer(200, "OK", "", ""));
    world.switch.response(200, "BYE");
}

/// Nothing has come that was not received yet.
#[track_caller]
fn expect_silence(peer: &Peer) {
    assert!(peer.hear(std::time::Duration::ZERO).is_none(), "there is an answer");
}

fn connect_from(ip: IpAddr, server: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::new(ip, 0).into()).expect("a port");
    socket.connect(&server.into()).expect("a connection");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    stream
}

#[test]
fn who_sends_too_much_is_dropped_and_counted() {
    // So little that the flood is over it on the slowest machine.
    let mut world = World::with(Mode::Alias, Udp, "limits.source_requests_per_s = 20");
    let mut phone = asleep(&mut world, Push::Fcm);
    let (flood, link) = Peer::connected(Udp, STRANGER, world.sip(Udp));
    let (fence, fence_link) = Peer::connected(Udp, OTHER, world.sip(Udp));
    const BURSTS: u32 = 15;
    for _ in 0..BURSTS {
        (0..100).for_each(|_| link.send(options(&flood, world.sip(Udp))));
        // The server's buffer is empty again.
        fence.expect_nothing_more(&fence_link, world.sip(Udp));
    }
    let over = dropped(&world, "source_rate");
    let received = world.admin.metric("sip_messages_total{direction=\"in\",transport=\"udp\",kind=\"OPTIONS\"}");
    assert!(over >= 1.0, "{over} were over");
    assert_eq!(over + received, f64::from(BURSTS * 101), "{over} were over");
    a_call_goes_through(&mut world, &mut phone);
    assert_eq!(dropped(&world, "source_rate"), over);
}

#[test]
fn a_source_has_only_so_much_kept() {
    let mut world = World::with(Mode::Alias, Udp, "limits.source_bytes = 65536");
    let (stranger, link) = Peer::connected(Udp, STRANGER, world.sip(Udp));
    // The softswitch answers none of them, so all that are let in are kept.
    let body = "x".repeat(1000);
    for _ in 0..80 {
        let message = options(&stranger, world.sip(Udp)).replace("OPTIONS", "MESSAGE");
        let message = message.replace(&format!("sip:{}", world.sip(Udp)), "sip:bob@example.org");
        link.send(message.replace("Content-Length: 0\r\n\r\n", &format!("Content-Length: 1000\r\n\r\n{body}")));
    }
    let refused = stranger.response(503, "MESSAGE");
    assert_eq!(refused.header("Retry-After"), "5");
    assert!(dropped(&world, "source_bytes") >= 1.0);
    let (other, other_link) = Peer::connected(Udp, OTHER, world.sip(Udp));
    other.expect_nothing_more(&other_link, world.sip(Udp));
    let mut phone = Phone::new("alice", Push::None, Udp);
    phone.wake(&world);
    phone.send_register();
    let (register, back) = loop {
        let (request, back) = world.switch.peer.receive();
        if request.method() == "REGISTER" {
            break (request, back);
        }
    };
    world.switch.answer_register(&register, &back, "alice@example.org");
    phone.peer().response(200, "REGISTER");
}

#[test]
fn the_softswitch_may_send_as_much_as_it_likes() {
    let mut world = World::with(Mode::Alias, Udp, "limits.source_requests_per_s = 1\nlimits.source_bytes = 65536");
    for _ in 0..200 {
        world.switch.expect_nothing_more();
    }
    assert_eq!((dropped(&world, "source_rate"), dropped(&world, "source_bytes")), (0.0, 0.0));
    // Responses and keep-alives are no requests.
    let mut phone = Phone::new("alice", Push::None, Udp);
    phone.register(&mut world);
    for _ in 0..20 {
        phone.link().send("\r\n\r\n");
        phone.link().send("SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 127.0.0.1;branch=z9hG4bKx\r\n\r\n");
    }
    eventually("all responses", || (dropped(&world, "stray_response") >= 20.0).then_some(()));
    assert_eq!(dropped(&world, "source_rate"), 0.0);
}

#[test]
fn a_message_on_a_connection_counts_as_well() {
    let world = World::with(Mode::Open, Tcp, "limits.source_requests_per_s = 20");
    let (flood, link) = Peer::connected(Tcp, STRANGER, world.sip(Tcp));
    (0..1500).for_each(|_| link.send(options(&flood, world.sip(Tcp))));
    // All of them are read in the end, and each is one or the other.
    eventually("all to be read", || {
        let received = world.admin.metric("sip_messages_total{direction=\"in\",transport=\"tcp\",kind=\"OPTIONS\"}");
        let over = dropped(&world, "source_rate");
        (over >= 1.0 && over + received == 1500.0).then_some(())
    });
    let (other, other_link) = Peer::connected(Tcp, OTHER, world.sip(Tcp));
    other.expect_nothing_more(&other_link, world.sip(Tcp));
}

#[test]
fn who_tries_passwords_is_shut_out() {
    let config = "limits.auth_failures_per_min = 3\nlimits.ban_s = 3600\n";
    let mut world = World::with_program(Mode::Digest, Udp, config);
    let mut alice = Phone::new("alice", Push::None, Udp);
    alice.register(&mut world);
    assert_eq!(world.command(&["bans"]), ("nobody is banned\n".to_owned(), Some(0)));
    // Behind the same address as alice, on a port of its own.
    let mut mallory = Phone::new("bob", Push::None, Udp);
    mallory.wake(&world);
    (0..3).for_each(|_| mallory.is_refused_by_password());

    let log = world.folder.path().join("log");
    let line = eventually("a line for fail2ban", || {
        let log = std::fs::read_to_string(&log).expect("a log");
        let lines = log.lines().filter_map(|line| line.parse::<Value>().ok());
        let told: Vec<_> = lines.filter(|line| line["target"] == "security").collect();
        assert!(told.len() < 2, "{told:?}");
        told.into_iter().next()
    });
    assert_eq!((&line["level"], &line["source"], &line["ban_s"]), (&"WARN".into(), &"127.0.0.2".into(), &3600.into()));
    assert!(line["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{line}");
    let bans = world.admin.get("/api/v1/bans");
    let ban = &bans["bans"][0];
    assert_eq!((&ban["source"], &ban["failures"]), (&"127.0.0.2".into(), &3.into()), "{bans}");
    assert!(ban["since"].as_str() < ban["until"].as_str(), "{bans}");
    let (told, code) = world.command(&["bans"]);
    assert!(code == Some(0) && told.lines().nth(1).is_some_and(|line| line.starts_with("127.0.0.2 ")), "{told}");
    let (told, _) = world.command(&["bans", "--json"]);
    assert_eq!(told.parse::<Value>().expect("JSON"), bans);
    assert_eq!(world.admin.metric("bans"), 1.0);

    mallory.send_register();
    expect_dropped(&world, "banned", 1.0);
    expect_silence(mallory.peer());
    let (guest, _link) = Peer::connected(Tcp, PHONE_IP, world.sip(Tcp));
    guest.closed();
    expect_dropped(&world, "banned", 2.0);
    // A phone that is registered goes on: it is called, and refreshes.
    let call = world.call(&alice);
    world.switch.response(100, "INVITE");
    answered(&world, &alice, &call);
    alice.refresh(&mut world);
    let mut other = Peer::connected(Udp, STRANGER, world.sip(Udp));
    other.0.expect_nothing_more(&other.1, world.sip(Udp));

    let lifted = world.command(&["bans", "--remove", "127.0.0.2"]);
    assert_eq!(lifted, ("127.0.0.2 is let in again\n".to_owned(), Some(0)));
    mallory.expect_nothing_more(&world);
    assert_eq!(world.command(&["bans", "--remove", "127.0.0.2"]), (String::new(), Some(1)));
    assert_eq!(world.admin.delete("/api/v1/bans/nobody"), 404);
    assert_eq!(world.admin.get("/api/v1/bans"), serde_json::json!({ "bans": [] }));
    other.1 = other.0.link_to(world.sip(Udp));
    other.0.expect_nothing_more(&other.1, world.sip(Udp));
}

#[test]
fn the_connection_of_who_tries_passwords_is_closed() {
    let mut world = World::with(Mode::Digest, Udp, "limits.auth_failures_per_min = 2");
    let mut alice = Phone::new("alice", Push::None, Tcp);
    alice.register(&mut world);
    let mut mallory = Phone::new("bob", Push::None, Tcp);
    mallory.wake(&world);
    (0..2).for_each(|_| mallory.is_refused_by_password());
    mallory.send_register();
    mallory.peer().closed();
    expect_dropped(&world, "banned", 1.0);
    // The connection of a phone that is registered stays.
    alice.refresh(&mut world);
    let call = world.call(&alice);
    world.switch.response(100, "INVITE");
    answered(&world, &alice, &call);
    assert_eq!(world.admin.delete("/api/v1/bans/127.0.0.2"), 200);
    Phone::new("bob", Push::None, Tcp).register(&mut world);
    assert_eq!(dropped(&world, "banned"), 1.0);
}

#[test]
fn bans_change_with_a_reload() {
    let world = World::with_program(Mode::Digest, Udp, "limits.auth_failures_per_min = 0");
    let mut mallory = Phone::new("bob", Push::None, Udp);
    mallory.wake(&world);
    (0..3).for_each(|_| mallory.is_refused_by_password());
    assert_eq!(world.admin.metric("bans"), 0.0);
    world.rewrite_config("auth_failures_per_min = 0", "auth_failures_per_min = 1");
    let (told, code) = world.command(&["reload"]);
    assert_eq!(code, Some(0), "{told}");
    // A worker hears of the reload a moment later.
    eventually("a ban", || {
        mallory.is_refused_by_password();
        (world.admin.metric("bans") == 1.0).then_some(())
    });
}

#[test]
fn scanners_get_no_answer() {
    let mut world = World::start(Mode::Open, Udp);
    let mut phone = asleep(&mut world, Push::Fcm);
    let (scanner, link) = Peer::connected(Udp, STRANGER, world.sip(Udp));
    let probe = options(&scanner, world.sip(Udp));
    for (count, user_agent) in [(1.0, "friendly-scanner"), (2.0, "SIPVicious/0.3.4")] {
        let head = format!("User-Agent: {user_agent}\r\nMax-Forwards");
        link.send(probe.replace("Max-Forwards", &head));
        expect_dropped(&world, "scanner", count);
    }
    expect_silence(&scanner);
    a_call_goes_through(&mut world, &mut phone);
    // By its name alone, not by where it comes from.
    scanner.expect_nothing_more(&link, world.sip(Udp));
}

#[test]
fn a_source_has_so_many_connections() {
    let world = World::start(Mode::Open, Udp);
    let mut connections: Vec<_> = (0..201).map(|_| connect_from(STRANGER, world.sip(Tcp))).collect();
    let mut last = connections.pop().expect("the 201st");
    assert_eq!(last.read(&mut [0]).expect("closed"), 0);
    expect_dropped(&world, "source_limit", 1.0);
    let (other, link) = Peer::connected(Tcp, OTHER, world.sip(Tcp));
    other.expect_nothing_more(&link, world.sip(Tcp));
}

/// Connections that do nothing take files, and files are few.
#[test]
fn idle_connections_leave_files_for_everything_else() {
    let mut world = World::with_files_max(Mode::Alias, Udp, 256);
    let mut phone = asleep(&mut world, Push::Fcm);
    let sources = [STRANGER, OTHER];
    let idle: Vec<_> = (0..300).map(|number| connect_from(sources[number % 2], world.sip(Tcp))).collect();
    // A quarter of 256 is kept for everything else, and a quarter of the rest for the softswitch.
    expect_dropped(&world, "connection_limit", 300.0 - 144.0);
    world.admin.expect_ready("ready");
    a_call_goes_through(&mut world, &mut phone);
    let log = std::fs::read_to_string(world.folder.path().join("log")).unwrap_or_default();
    assert!(!log.contains("Too many open files"), "{log}");
    drop(idle);
}
