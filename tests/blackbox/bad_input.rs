//! Bad input: answered as RFC 4475 says, or dropped and counted; the server lives on and serves others.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;

use sip_push_proxy::sip::Transport::{Tcp, Udp};

use crate::peer::{DEADLINE, Peer, eventually, options};
use crate::phone::{Phone, Push};
use crate::sip::Sip;
use crate::world::{Mode, World};

/// Where bad input comes from: not from the softswitch, nor from phones.
const TORTURER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 45, 11, 8));

/// Files of a directory of torture messages, with their bytes.
fn torture(directory: &str) -> Vec<(String, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("sip-fixtures/torture").join(directory);
    let files = std::fs::read_dir(folder).expect("a directory").map(|file| file.expect("a file").path());
    let mut messages: Vec<_> = files
        .filter(|file| file.extension().is_some_and(|extension| extension == "sip"))
        .map(|file| (file.display().to_string(), std::fs::read(&file).expect("readable")))
        .collect();
    messages.sort();
    assert!(!messages.is_empty());
    messages
}

/// The port in the first Via, where a response goes that may not go back to its source (RFC 3261 §18.2.2).
fn via_port(message: &[u8]) -> u16 {
    let text = String::from_utf8_lossy(message);
    let via = text.split("\r\n").find(|line| line.to_lowercase().starts_with("via") || line.starts_with("v:"));
    let sent_by = via.and_then(|via| via.split(';').next()).and_then(|via| via.split_whitespace().last());
    let port = sent_by.and_then(|sent_by| sent_by.rsplit_once(':')).and_then(|(_, port)| port.parse().ok());
    port.unwrap_or(5060)
}

/// Status of the answer to one datagram; `None` for none. An OPTIONS follows it on the same path, so there is no wait.
///
/// It comes from the port that its Via names, 5060 mostly, so each test needs an address of its own, 127.45.11.`host`.
fn answer_to(datagram: &[u8], server: SocketAddr, host: u8) -> Option<u16> {
    let ip = Ipv4Addr::new(127, 45, 11, host);
    // Whoever takes the port on all addresses has it for a moment only.
    let socket = eventually("the port to be free", || UdpSocket::bind((ip, via_port(datagram))).ok());
    socket.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    socket.send_to(datagram, server).expect("sent");
    let address = socket.local_addr().expect("an address");
    let fence = format!(
        "OPTIONS sip:{server} SIP/2.0\r\nVia: SIP/2.0/UDP {address};rport;branch={}\r\nFrom: <sip:t@{address}>;tag=t\r\n\
         To: <sip:{server}>\r\nCall-ID: fence\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n",
        crate::sip::unique("z9hG4bK")
    );
    socket.send_to(fence.as_bytes(), server).expect("sent");
    let mut buffer = [0; 65_536];
    let mut status = None;
    loop {
        let (length, _) = socket.recv_from(&mut buffer).expect("an answer");
        let response = Sip::read(&buffer[..length]);
        match response.status() {
            200 if response.header("Call-ID") == "fence" => return status,
            100 => {}
            other => status = Some(other),
        }
    }
}

/// Nothing is sent again while these tests run, and nothing is too much.
const AT_EASE: &str = "sip.t1_ms = 60000\nlimits.source_requests_per_s = 0";

#[test]
fn torture_messages_get_their_answers() {
    let world = World::with(Mode::Open, Udp, AT_EASE);
    for status in ["400", "416", "420", "483", "501", "505"] {
        for (name, message) in torture(status) {
            assert_eq!(answer_to(&message, world.sip(Udp), 1), status.parse().ok(), "{name}");
        }
    }
    for (name, message) in torture("drop") {
        // A STUN request is no SIP, and has an answer of its own (RFC 5626 §3.5.2).
        if !name.contains("stun") {
            assert_eq!(answer_to(&message, world.sip(Udp), 1), None, "{name}");
        }
    }
    world.admin.expect_healthy();
}

#[test]
fn odd_but_legal_messages_are_not_refused_for_their_form() {
    for mode in [Mode::Open, Mode::Alias] {
        let world = World::with(mode, Udp, AT_EASE);
        for (name, message) in torture("valid") {
            let status = answer_to(&message, world.sip(Udp), 2);
            // A registrar has no use for an AOR that is no SIP URI (RFC 4475 §3.3.4).
            let is_register = message.starts_with(b"REGISTER ") && status == Some(400);
            assert!(is_register || !matches!(status, Some(400 | 416 | 505 | 500)), "{name}: {status:?}");
        }
        world.admin.expect_healthy();
    }
}

/// Torn messages, noise, and everything that a generator with a fixed seed comes up with.
#[test]
fn datagrams_without_sense_are_dropped_and_counted() {
    let mut world = World::with(Mode::Open, Udp, AT_EASE);
    let mut phone = Phone::new("alice", Push::Fcm, Udp);
    phone.register(&mut world);
    let (peer, link) = Peer::connected(Udp, TORTURER, world.sip(Udp));
    let mut seed = 1u64;
    let mut draw = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for _ in 0..200 {
        let length = usize::try_from(draw() % 300 + 4).expect("small");
        // 0x80 keeps clear of STUN, keep-alives and anything that could be SIP.
        let noise: Vec<u8> = (0..length).map(|_| draw().to_le_bytes()[0] | 0x80).collect();
        link.send(noise);
    }
    let whole = options(&peer, world.sip(Udp));
    let first_line = whole.find("\r\n").expect("a line");
    for torn in 1..first_line {
        link.send(&whole[..torn]);
    }
    // The largest that there can be.
    link.send(vec![b'x'; 65_507]);
    peer.expect_nothing_more(&link, world.sip(Udp));
    let dropped = world.admin.metric("sip_dropped_total{reason=\"unparsable\"}");
    assert!(dropped >= 201.0, "{dropped} were counted");
    phone.expect_nothing_more(&world);
    world.admin.expect_healthy();
}

#[test]
fn torn_requests_are_refused_or_dropped() {
    let world = World::with(Mode::Open, Udp, AT_EASE);
    let (peer, link) = Peer::connected(Udp, TORTURER, world.sip(Udp));
    let whole = options(&peer, world.sip(Udp)).replace("Content-Length: 0", "Content-Length: 9") + "some body";
    for torn in (0..whole.len()).rev().step_by(7) {
        link.send(&whole[..torn]);
        let fence = options(&peer, world.sip(Udp));
        let call_id = Sip::read(fence.as_bytes()).header("Call-ID").to_owned();
        link.send(fence);
        loop {
            let (response, _) = peer.receive();
            if response.header("Call-ID") == call_id {
                assert_eq!(response.status(), 200);
                break;
            }
            assert_eq!(response.status(), 400, "{torn} bytes: {response:?}");
        }
    }
    world.admin.expect_healthy();
}

/// What comes back until the server closes the connection.
fn until_closed(server: SocketAddr, text: &[u8]) -> String {
    let mut stream = TcpStream::connect(server).expect("a connection");
    stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    // The server may close before it has read all.
    let _ = stream.write_all(text);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("not closed: {error}"),
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn streams_that_are_not_sip_are_closed() {
    let world = World::start(Mode::Open, Tcp);
    let server = world.sip(Tcp);
    let not_sip = "sip_dropped_total{reason=\"not_sip\"}";
    assert_eq!(until_closed(server, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"), "");
    world.admin.expect_metric(not_sip, 1.0);
    assert_eq!(
        until_closed(server, &[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03, b'\r', b'\n']),
        ""
    );
    world.admin.expect_metric(not_sip, 2.0);

    let request = |length: &str| {
        format!(
            "OPTIONS sip:{server} SIP/2.0\r\nVia: SIP/2.0/TCP 127.0.0.1:9;branch=z9hG4bKx\r\nFrom: <sip:a@b>;tag=1\r\n\
             To: <sip:{server}>\r\nCall-ID: x\r\nCSeq: 1 OPTIONS\r\n{length}\r\n"
        )
    };
    for length in ["Content-Length: -1\r\n", "Content-Length: 1\r\nContent-Length: 2\r\n", "Content-Length: x\r\n", ""]
    {
        let answer = until_closed(server, request(length).as_bytes());
        assert!(answer.starts_with("SIP/2.0 400 "), "{length:?}: {answer}");
    }
    let answer = until_closed(server, request("Content-Length: 999999999\r\n").as_bytes());
    assert!(answer.starts_with("SIP/2.0 513 "), "{answer}");
    let endless = request(&format!("Subject: {}\r\n", "x".repeat(1 << 20)));
    let answer = until_closed(server, endless.as_bytes());
    assert!(answer.is_empty() || answer.starts_with("SIP/2.0 513 "), "{answer}");
    world.admin.expect_healthy();
}

#[test]
fn slow_senders_keep_nobody_waiting() {
    let mut world = World::start(Mode::Open, Tcp);
    let mut slow: Vec<_> = (0..50)
        .map(|_| {
            let mut stream = TcpStream::connect(world.sip(Tcp)).expect("a connection");
            stream.write_all(b"REGISTER sip:example.org SIP/2.0\r\nVia: SIP/2.0/TCP ").expect("sent");
            stream
        })
        .collect();
    let mut phone = Phone::new("alice", Push::Fcm, Tcp);
    phone.register(&mut world);
    for stream in &mut slow {
        stream.write_all(b"1").expect("still open");
    }
    phone.refresh(&mut world);
    world.admin.expect_healthy();
}

#[test]
fn connections_over_the_limit_are_closed() {
    let world = World::with(Mode::Open, Udp, "limits.connections = 2");
    let (first, first_link) = Peer::connected(Tcp, TORTURER, world.sip(Tcp));
    first.expect_nothing_more(&first_link, world.sip(Tcp));
    let (second, second_link) = Peer::connected(Tcp, TORTURER, world.sip(Tcp));
    second.expect_nothing_more(&second_link, world.sip(Tcp));
    let (third, _link) = Peer::connected(Tcp, TORTURER, world.sip(Tcp));
    third.closed();
    let counted = ["connection_limit", "source_limit"]
        .map(|reason| world.admin.metric(&format!("sip_dropped_total{{reason=\"{reason}\"}}")));
    assert_eq!(counted.iter().sum::<f64>(), 1.0);
    first.expect_nothing_more(&first_link, world.sip(Tcp));
    drop((second, second_link));
    // The place is free again, as soon as the server has seen the end.
    eventually("a place", || {
        let mut stream = TcpStream::connect(world.sip(Tcp)).ok()?;
        stream.set_read_timeout(Some(DEADLINE)).ok()?;
        stream.write_all(b"\r\n\r\n").ok()?;
        let mut pong = [0; 2];
        stream.read_exact(&mut pong).ok()
    });
    world.admin.expect_healthy();
}

#[test]
fn message_with_too_many_headers_is_refused() {
    let world = World::with(Mode::Open, Udp, "limits.headers = 16");
    let (peer, link) = Peer::connected(Udp, TORTURER, world.sip(Udp));
    let many =
        options(&peer, world.sip(Udp)).replace("Max-Forwards", &format!("{}Max-Forwards", "X: y\r\n".repeat(20)));
    link.send(many);
    peer.response(400, "OPTIONS");
    world.admin.expect_healthy();
}
