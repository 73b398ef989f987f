//! Export to a Homer: what a collector sees of a call, by a parser that shares nothing with the writer (HEP3 Network
//! Protocol Specification, rev. 37).

use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};

use serde_json::Value;
use sip_push_proxy::sip::Transport::{self, Tcp, Udp};

use crate::held_call::asleep;
use crate::peer::{DEADLINE, eventually};
use crate::phone::{Phone, Push};
use crate::sip::Sip;
use crate::switch::Call;
use crate::world::{Mode, World, unix_seconds};

/// A packet as a collector reads it.
struct Packet {
    /// Vendor and type, and the value.
    chunks: Vec<((u16, u16), Vec<u8>)>,
    length: usize,
}

impl Packet {
    fn read(bytes: &[u8]) -> Self {
        assert_eq!(&bytes[..4], b"HEP3");
        assert_eq!(usize::from(u16::from_be_bytes([bytes[4], bytes[5]])), bytes.len());
        let (mut chunks, mut rest) = (vec![], &bytes[6..]);
        while !rest.is_empty() {
            let number = |at: usize| u16::from_be_bytes([rest[at], rest[at + 1]]);
            let length = usize::from(number(4));
            chunks.push(((number(0), number(2)), rest[6..length].to_vec()));
            rest = &rest[length..];
        }
        Self { chunks, length: bytes.len() }
    }

    fn chunk(&self, kind: u16) -> Option<&[u8]> {
        let mut found = self.chunks.iter().filter(|((vendor, each), _)| (*vendor, *each) == (0, kind));
        let value = found.next().map(|(_, value)| &**value);
        assert!(found.next().is_none(), "{kind} is there twice");
        value
    }

    #[track_caller]
    fn number<const N: usize>(&self, kind: u16) -> u64 {
        let value: [u8; N] = self.chunk(kind).expect("the chunk").try_into().expect("its length");
        value.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    fn text(&self, kind: u16) -> &str {
        std::str::from_utf8(self.chunk(kind).unwrap_or_default()).expect("UTF-8")
    }

    fn payload(&self) -> &str {
        self.text(15)
    }

    fn address(&self, ip: u16, port: u16) -> SocketAddr {
        assert_eq!(self.number::<1>(1), 2, "IPv4");
        let ip: [u8; 4] = self.chunk(ip).expect("an address").try_into().expect("of IPv4");
        SocketAddr::new(IpAddr::from(ip), u16::try_from(self.number::<2>(port)).expect("a port"))
    }

    fn from(&self) -> SocketAddr {
        self.address(3, 7)
    }

    fn to(&self) -> SocketAddr {
        self.address(4, 8)
    }

    fn is_sip(&self) -> bool {
        self.number::<1>(11) == 1
    }

    /// Of a step.
    fn json(&self) -> Value {
        assert_eq!(self.number::<1>(11), 100);
        serde_json::from_str(self.payload()).expect("JSON")
    }

    /// What each packet has in common.
    fn check(&self, password: &str) {
        let (family, proto) = (self.number::<1>(1), self.number::<1>(2));
        assert!(family == 2 && matches!(proto, 6 | 17), "{family} {proto}");
        assert!(self.number::<4>(9).abs_diff(unix_seconds()) <= DEADLINE.as_secs());
        assert!(self.number::<4>(10) < 1_000_000);
        assert_eq!((self.number::<4>(12), self.text(19), self.text(14)), (77, "test", password));
        if self.is_sip() {
            assert_eq!(Sip::read(self.payload().as_bytes()).header("Call-ID"), self.text(17));
        }
    }
}

/// Where packets arrive.
enum Collector {
    Udp(UdpSocket),
    Tcp(TcpListener, Option<TcpStream>),
}

impl Collector {
    fn udp() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        socket.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        Self::Udp(socket)
    }

    fn tcp() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a listener");
        Self::Tcp(listener, None)
    }

    fn config(&self) -> String {
        let server = match self {
            Self::Udp(socket) => format!("udp:{}", socket.local_addr().expect("its address")),
            Self::Tcp(listener, _) => format!("tcp:{}", listener.local_addr().expect("its address")),
        };
        format!("hep.server = '{server}'\nhep.capture_id = 77\n")
    }

    /// Closes the connection that it has, and waits for the next one.
    #[track_caller]
    fn accept(&mut self) {
        let Self::Tcp(listener, stream) = self else { panic!("no listener") };
        *stream = None;
        let (accepted, _) = eventually("a connection", || listener.accept().ok());
        accepted.set_nonblocking(false).expect("a stream");
        accepted.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        *stream = Some(accepted);
    }

    #[track_caller]
    fn next(&mut self) -> Packet {
        match self {
            Self::Udp(socket) => {
                let mut bytes = vec![0; 65_536];
                let length = socket.recv(&mut bytes).expect("a packet in time");
                Packet::read(&bytes[..length])
            }
            Self::Tcp(_, stream) => {
                let stream = stream.as_mut().expect("accepted");
                let mut bytes = vec![0; 6];
                stream.read_exact(&mut bytes).expect("a packet in time");
                bytes.resize(u16::from_be_bytes([bytes[4], bytes[5]]).into(), 0);
                stream.read_exact(&mut bytes[6..]).expect("the rest of it");
                Packet::read(&bytes)
            }
        }
    }

    /// All packets up to the ACK that goes to the phone, and to the provider's answer, which may come at any time.
    #[track_caller]
    fn call(&mut self) -> Vec<Packet> {
        let mut packets: Vec<Packet> = vec![];
        let (mut acks, mut is_accepted) = (0, false);
        while acks < 2 || !is_accepted {
            let packet = self.next();
            acks += usize::from(packet.payload().starts_with("ACK "));
            is_accepted |= !packet.is_sip() && packet.json()["step"] == "push_accepted";
            packets.push(packet);
        }
        packets
    }
}

/// Who sent what to whom, of the messages with this Call-ID.
fn messages(packets: &[Packet], call_id: &str) -> Vec<(SocketAddr, SocketAddr, String)> {
    let of_call = packets.iter().filter(|packet| packet.is_sip() && packet.text(17) == call_id);
    let start = |packet: &Packet| {
        let message = Sip::read(packet.payload().as_bytes());
        if message.status() == 0 { message.method().to_owned() } else { message.status().to_string() }
    };
    of_call.map(|packet| (packet.from(), packet.to(), start(packet))).collect()
}

/// Names of the steps with this Call-ID, but for the provider's answer.
fn steps(packets: &[Packet], call_id: &str, call_ref: &str) -> Vec<String> {
    let of_call = packets.iter().filter(|packet| !packet.is_sip() && packet.text(17) == call_id);
    let told = of_call.map(|packet| {
        let told = packet.json();
        assert_eq!(told["call_ref"], call_ref);
        let keys: Vec<_> = told.as_object().expect("an object").keys().map(String::as_str).collect();
        assert_eq!(keys, ["call_ref", "step", "device", "detail", "reason", "code"]);
        told["step"].as_str().expect("a step").to_owned()
    });
    told.filter(|step| step != "push_accepted").collect()
}

const STORY: [&str; 7] = ["received", "device_found", "held", "push_sent", "registered", "forwarded", "answered"];

/// The phone comes and takes the call.
#[track_caller]
fn taken(world: &mut World, phone: &mut Phone, call: &Call) -> Sip {
    phone.register(world);
    let incoming = phone.invited();
    incoming.answer(200, "OK");
    call.confirm(&world.switch.response(200, "INVITE"));
    let invite = incoming.invite.clone();
    incoming.confirmed();
    invite
}

#[test]
fn collector_sees_a_call_with_its_pushes_and_no_secret() {
    let mut collector = Collector::udp();
    let config = collector.config() + "hep.capture_password_file = 'homer'\n";
    let mut world = World::with_files(Mode::Digest, Udp, &config, &[("homer", "myhep\n")]);
    let mut phone = Phone::new("alice", Push::Fcm, Udp);
    phone.wake(&world);
    phone.send_register();
    let challenge = phone.peer().response(401, "REGISTER");
    phone.answer_challenge(&challenge);
    let register = phone.own_register();
    phone.link().send(&register);
    phone.accepted(&mut world);
    let proof = register.split("response=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a response");
    let first_port = phone.peer().address;
    phone.sleep();
    let call = world.call(&phone);
    world.switch.queued();
    world.pushed_invite(&phone, 28);
    let invite = taken(&mut world, &mut phone, &call);
    let packets = collector.call();
    let (switch, server, now_at) = (world.switch.peer.address, world.sip(Udp), phone.peer().address);

    packets.iter().for_each(|packet| packet.check("myhep"));
    for packet in &packets {
        assert!(!packet.payload().contains(&phone.token), "{}", packet.payload());
        assert!(!packet.payload().contains(proof), "{}", packet.payload());
    }
    // Each secret byte is a star; all others are as they went over the wire.
    let registers: Vec<_> = packets.iter().filter(|packet| packet.payload().starts_with("REGISTER")).collect();
    assert_eq!((registers[1].from(), registers[1].to(), registers[1].number::<1>(2)), (first_port, server, 17));
    let masked = |text: &str, secret: &str| text.replace(secret, &"*".repeat(secret.len()));
    assert_eq!(registers[1].payload(), masked(&masked(&register, proof), &phone.token));
    let of_invite = |from: SocketAddr| {
        let mut invites = packets.iter().filter(|packet| packet.payload().starts_with("INVITE"));
        invites.find(|packet| packet.from() == from).expect("the INVITE").payload()
    };
    assert_eq!(of_invite(switch), call.invite);
    assert_eq!(of_invite(server), masked(&invite.text, &phone.token));

    let expected = [
        (switch, server, "INVITE"),
        (server, switch, "100"),
        (server, switch, "182"),
        (server, now_at, "INVITE"),
        (now_at, server, "200"),
        (server, switch, "200"),
        (switch, server, "ACK"),
        (server, now_at, "ACK"),
    ];
    assert_eq!(messages(&packets, &call.call_id), expected.map(|(from, to, start)| (from, to, start.to_owned())));
    assert_eq!(steps(&packets, &call.call_id, &call.call_id), STORY);
    let at = |is: &dyn Fn(&Packet) -> bool| packets.iter().position(is).expect("the packet");
    let pushed = at(&|packet| !packet.is_sip() && packet.json()["step"] == "push_sent");
    let forwarded = at(&|packet| packet.payload().starts_with("INVITE") && packet.from() == server);
    assert!(at(&|packet| packet.payload() == call.invite) < pushed && pushed < forwarded);
    world.admin.expect_metric("hep_packets_total{result=\"dropped\"}", 0.0);
    assert!(world.admin.metric("hep_packets_total{result=\"sent\"}") >= 20.0);
}

#[test]
fn steps_have_the_calls_id_whatever_its_call_ref_is() {
    let mut collector = Collector::tcp();
    let config = collector.config() + "missed_calls.call_ref_header = 'X-Call-Ref'\n";
    let mut world = World::with(Mode::Alias, Tcp, &config);
    collector.accept();
    let mut phone = Phone::new("alice", Push::Apns, Tcp);
    phone.register(&mut world);
    phone.sleep();
    let call = world.switch.call(&phone.aor(), "X-Call-Ref: ref-1\r\n");
    world.switch.queued();
    world.pushed_invite(&phone, 28);
    taken(&mut world, &mut phone, &call);
    let packets = collector.call();
    packets.iter().for_each(|packet| packet.check(""));
    assert_eq!(steps(&packets, &call.call_id, "ref-1"), STORY);
    let server = world.sip(Tcp);
    for packet in packets.iter().filter(|packet| packet.is_sip()) {
        assert!(packet.number::<1>(2) == 6 && !packet.payload().contains(&phone.token), "{}", packet.payload());
    }
    // Whoever opens a connection does so from a port of its own.
    let from_phone: Vec<_> =
        messages(&packets, &call.call_id).into_iter().filter(|(_, _, start)| start == "200").collect();
    assert_eq!(from_phone[0], (phone.peer().address, server, "200".to_owned()));
}

#[test]
fn connection_that_ends_is_opened_again() {
    let mut collector = Collector::tcp();
    let mut world = World::with(Mode::Open, Udp, &collector.config());
    for _ in 0..2 {
        collector.accept();
        let mut phone = Phone::new("alice", Push::Fcm, Udp);
        phone.register(&mut world);
        // All of a round, so that nothing of it is left for the next connection.
        for start in ["REGISTER", "SIP/2.0 200"] {
            let packet = collector.next();
            packet.check("");
            assert!(packet.payload().starts_with(start), "{}", packet.payload());
        }
    }
    world.admin.expect_ready("ready");
}

#[test]
fn calls_go_on_while_the_collector_is_away() {
    let nowhere = |transport: Transport| {
        let port = Collector::tcp().config();
        port.replace("tcp", transport.uri_name())
    };
    for transport in [Udp, Tcp] {
        let mut world = World::with(Mode::Alias, Udp, &nowhere(transport));
        let mut phone = asleep(&mut world, Push::Fcm);
        let call = world.call(&phone);
        world.switch.queued();
        world.pushed_invite(&phone, 28);
        taken(&mut world, &mut phone, &call);
        // The provider's answer may come after the phone's.
        assert!(world.admin.story(&call.call_id, "answered").contains(&"answered".to_owned()));
        world.admin.expect_ready("ready");
        world.admin.expect_healthy();
        if transport == Udp {
            // The network says that nobody is there.
            let dropped = || world.admin.metric("hep_packets_total{result=\"dropped\"}") > 0.0;
            eventually("packets that are counted as dropped", || dropped().then_some(()));
        }
    }
}

#[test]
fn secrets_leave_where_the_operator_wants_them_to() {
    let mut collector = Collector::udp();
    let mut world = World::with(Mode::Open, Udp, &(collector.config() + "hep.send_secrets = true\n"));
    let mut phone = Phone::new("alice", Push::Fcm, Udp);
    phone.register(&mut world);
    assert!(collector.next().payload().contains(&phone.token));
}

#[test]
fn what_is_too_long_for_a_packet_is_cut() {
    let mut collector = Collector::udp();
    let mut world = World::with(Mode::Open, Tcp, &collector.config());
    let mut phone = Phone::new("alice", Push::Fcm, Tcp);
    phone.register(&mut world);
    world.switch.send("INFO", &phone.aor(), &"x".repeat(65_000));
    phone.peer().request("INFO");
    let mut long = std::iter::repeat_with(|| collector.next()).filter(|packet| packet.length > 60_000);
    let (received, sent) = (long.next().expect("it came"), long.next().expect("it went on"));
    received.check("");
    // The proxy's own header lines make it too long for a datagram of IPv4.
    assert_eq!((received.to(), sent.from(), sent.length), (world.sip(Tcp), world.sip(Tcp), 65_507));
    assert!(sent.payload().starts_with("INFO ") && sent.payload().ends_with("xxx"));
    world.admin.expect_metric("hep_packets_total{result=\"cut\"}", 1.0);
}
