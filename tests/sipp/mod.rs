//! SIPp as the foreign peer: softswitch and phone that were written by others (Debian's `sip-tester`).

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use sip_push_proxy::sip::Transport::{self, Tcp, Udp};

use crate::peer::eventually;
use crate::phone::{Phone, Push};
use crate::sip::{Sip, unique};
use crate::world::{Mode, World};

const SWITCH_IP: &str = "127.0.0.1";
const PHONE_IP: &str = "127.0.0.2";

/// A running SIPp with one scenario. It is killed when this is dropped.
struct Sipp {
    child: Child,
    scenario: &'static str,
    errors: PathBuf,
    trace: PathBuf,
}

impl Drop for Sipp {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Sipp {
    /// Plays `tests/sipp/SCENARIO.xml` `calls` times from `ip` against `server`.
    fn start(
        folder: &Path,
        scenario: &'static str,
        (transport, ip, server): (Transport, &str, SocketAddr),
        calls: usize,
        arguments: &[&str],
    ) -> Self {
        let name = unique(scenario);
        let (errors, trace) = (folder.join(format!("{name}.errors")), folder.join(format!("{name}.messages")));
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/sipp/{scenario}.xml"));
        let child = Command::new("sipp")
            .arg(server.to_string())
            .arg("-sf")
            .arg(file)
            .args(["-t", if transport == Udp { "u1" } else { "t1" }, "-i", ip, "-bind_local", "-nostdin", "-nd"])
            .args(["-m", &calls.to_string(), "-timeout", "15", "-timeout_error", "-s", "alice"])
            .arg("-trace_err")
            .arg("-error_file")
            .arg(&errors)
            .arg("-trace_msg")
            .arg("-message_file")
            .arg(&trace)
            .args(arguments)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sipp, which tests/run installs");
        Self { child, scenario, errors, trace }
    }

    /// Waits for its end, which must be a good one. The messages that it received and sent.
    #[track_caller]
    fn finish(mut self) -> Trace {
        let status = eventually("the end of sipp", || self.child.try_wait().expect("a child"));
        let read = |file: &Path| std::fs::read_to_string(file).unwrap_or_default();
        let (errors, trace) = (read(&self.errors), read(&self.trace));
        assert_eq!(status.code(), Some(0), "{}: {errors}\n{trace}", self.scenario);
        Trace::read(&trace)
    }
}

/// What SIPp saw.
struct Trace {
    received: Vec<Sip>,
    sent: Vec<Sip>,
}

impl Trace {
    /// `-----… date`, `UDP message received [500] bytes :`, an empty line, the message.
    fn read(text: &str) -> Self {
        let (mut received, mut sent) = (Vec::new(), Vec::new());
        for entry in text.split("-----------------------------------------------").skip(1) {
            let Some((head, message)) = entry.split_once("\n\n") else { continue };
            let message = message.trim_end();
            let end = if message.contains("\r\n\r\n") { "" } else { "\r\n\r\n" };
            let message = Sip::read(format!("{message}{end}").as_bytes());
            if head.contains("received") { received.push(message) } else { sent.push(message) }
        }
        Self { received, sent }
    }

    /// Status and method, or method alone, of all that was received, in order.
    fn heard(&self) -> Vec<String> {
        let name = |message: &Sip| match message.status() {
            0 => message.method().to_owned(),
            status => format!("{status} {}", message.method()),
        };
        self.received.iter().map(name).collect()
    }
}

/// A port that is free for both transports. SIPp by itself takes 5060 whenever it can, and tells nobody.
pub(crate) fn free_port(ip: &str) -> String {
    loop {
        let udp = UdpSocket::bind((ip, 0)).expect("a port");
        let port = udp.local_addr().expect("an address").port();
        if TcpListener::bind((ip, port)).is_ok() {
            return port.to_string();
        }
    }
}

/// Whether somebody on the softswitch's address has this port. To ask the port itself would disturb it.
fn listens(transport: Transport, port: &str) -> bool {
    let sockets = std::fs::read_to_string(format!("/proc/net/{}", transport.uri_name())).unwrap_or_default();
    let port: u16 = port.parse().expect("a port");
    sockets.contains(&format!(" 0100007F:{port:04X} "))
}

/// A SIPp phone registers and goes; a SIPp softswitch calls it; it is pushed, comes back as another process on another
/// port, and the call goes its way until one side hangs up.
#[track_caller]
fn sipp_phone_is_called(mode: Mode, transport: Transport, (caller, phone): (&'static str, &'static str)) {
    let port = free_port(SWITCH_IP);
    let scheme = if transport == Udp { "" } else { ";transport=tcp" };
    let world = World::with(mode, transport, &format!("softswitch.uri = 'sip:{SWITCH_IP}:{port}{scheme}'"));
    let (folder, server) = (world.folder.path(), world.sip(transport));
    let switch = (transport, SWITCH_IP, server);
    let alice = Phone::new("alice", Push::Fcm, transport);
    let push = format!(";pn-provider=fcm;pn-param=demo-project;pn-prid={}", alice.token);

    let registrar = mode.is_relay().then(|| Sipp::start(folder, "registrar", switch, 2, &["-p", &port]));
    if registrar.is_some() {
        eventually("the registrar to listen", || listens(transport, &port).then_some(()));
    }
    let at_phone = (transport, PHONE_IP, server);
    let first =
        Sipp::start(folder, "phone_registers", at_phone, 1, &["-key", "push", &push, "-p", &free_port(PHONE_IP)])
            .finish();
    assert_eq!(first.received.last().map(Sip::status), Some(200));
    let first_contact = first.sent[0].contact().to_owned();

    let target = match &registrar {
        Some(registrar) => {
            let trace = Trace::read(&std::fs::read_to_string(&registrar.trace).expect("a trace"));
            trace.received[0].contact().to_owned()
        }
        None => format!("sip:{}", alice.aor()),
    };
    let call_id = unique("sipp-call-");
    let calling = Sipp::start(
        folder,
        caller,
        switch,
        1,
        &["-key", "target", &target, "-cid_str", &call_id, "-p", &free_port(SWITCH_IP)],
    );
    world.pushed_invite(&alice, 28);
    world.admin.expect_bucket(&alice.aor(), &[(&call_id, "live")]);

    let arguments = ["-key", "push", &push, "-cid_str", &call_id, "-p", &free_port(PHONE_IP)];
    let called = Sipp::start(folder, phone, at_phone, 1, &arguments).finish();
    let calling = calling.finish();
    assert_ne!(called.sent[0].contact(), first_contact);
    let goodbye = |hung_up: bool| if hung_up { "BYE" } else { "200 BYE" };
    let caller_hangs_up = caller == "caller_hangs_up";
    assert_eq!(called.heard(), ["200 REGISTER", "INVITE", "ACK", goodbye(caller_hangs_up)]);
    let expected = ["100 INVITE", "182 INVITE", "180 INVITE", "200 INVITE", goodbye(!caller_hangs_up)];
    assert_eq!(calling.heard(), expected);
    assert_eq!(called.received[1].body.trim_end(), calling.sent[0].body.trim_end());

    if let Some(registrar) = registrar {
        let relayed = registrar.finish();
        assert_eq!(relayed.heard(), ["REGISTER", "REGISTER"]);
        assert!(relayed.received.iter().all(|register| !register.text.contains("pn-")));
        assert_eq!(relayed.received[0].contact(), relayed.received[1].contact());
    }
    world.admin.expect_bucket(&alice.aor(), &[]);
    world.admin.story(&call_id, "answered");
    world.admin.expect_healthy();
    assert_eq!(world.pushes(), 1);
    world.stop();
}

const CALLER_HANGS_UP: (&str, &str) = ("caller_hangs_up", "phone_is_called");
const PHONE_HANGS_UP: (&str, &str) = ("caller_is_hung_up", "phone_hangs_up");

#[test]
fn relay_udp_caller_hangs_up() {
    sipp_phone_is_called(Mode::Alias, Udp, CALLER_HANGS_UP);
}

#[test]
fn relay_udp_phone_hangs_up() {
    sipp_phone_is_called(Mode::Alias, Udp, PHONE_HANGS_UP);
}

#[test]
fn relay_tcp_caller_hangs_up() {
    sipp_phone_is_called(Mode::Alias, Tcp, CALLER_HANGS_UP);
}

#[test]
fn relay_tcp_phone_hangs_up() {
    sipp_phone_is_called(Mode::Alias, Tcp, PHONE_HANGS_UP);
}

#[test]
fn local_udp_caller_hangs_up() {
    sipp_phone_is_called(Mode::Open, Udp, CALLER_HANGS_UP);
}

#[test]
fn local_udp_phone_hangs_up() {
    sipp_phone_is_called(Mode::Open, Udp, PHONE_HANGS_UP);
}

#[test]
fn local_tcp_caller_hangs_up() {
    sipp_phone_is_called(Mode::Open, Tcp, CALLER_HANGS_UP);
}

#[test]
fn local_tcp_phone_hangs_up() {
    sipp_phone_is_called(Mode::Open, Tcp, PHONE_HANGS_UP);
}
