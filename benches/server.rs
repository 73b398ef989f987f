//! The whole server in its own process on real sockets, on the embedded store and on Redis: durable REGISTERs a second,
//! what a binding and a held call take of memory, and what a start takes after `kill -9`.
//!
//! `cargo bench --bench server [-- BINDINGS]`, 1,000,000 unless it says otherwise; needs redis-server. It prints and
//! does not judge, and says only how one machine compares with itself: client, server and Redis share it.

#![expect(clippy::print_stdout, clippy::expect_used, clippy::unwrap_used, reason = "a program that measures")]
#![expect(clippy::disallowed_methods, reason = "it measures real time")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use sip_push_proxy::demo::fcm_double::FcmDouble;
use socket2::SockRef;

#[expect(dead_code, reason = "as the tests of the store have it, for all that they need")]
#[path = "../tests/store/server.rs"]
mod redis_server;

const FIRST: usize = 100_000;
const CALLS: usize = 10_000;
const DEADLINE: Duration = Duration::from_secs(300);
/// A datagram that nobody answered is sent again.
const T1: Duration = Duration::from_millis(500);
const SOCKET_BUFFER: usize = 4 << 20;

/// A running server and what it logs.
struct Program {
    child: Child,
    started: Instant,
    log: mpsc::Receiver<(Instant, serde_json::Value)>,
    sip: SocketAddr,
    admin: SocketAddr,
}

impl Program {
    fn start(folder: &Path) -> Self {
        let started = Instant::now();
        let mut child = Command::new(env!("CARGO_BIN_EXE_sip-push-proxy"))
            .args(["serve", "--config"])
            .arg(folder.join("config.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (sender, log) = mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let line = serde_json::from_str(&line).unwrap_or_default();
                // A log that nobody reads would stop the program.
                let _ = sender.send((Instant::now(), line));
            }
        });
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut program = Self { child, started, log, sip: nowhere, admin: nowhere };
        let address = |line: &serde_json::Value| line["address"].as_str().unwrap().parse().unwrap();
        program.sip = address(&program.logged("listening for SIP").1);
        program.admin = address(&program.logged("listening for the operator").1);
        program
    }

    /// When it said so, since its start.
    fn logged(&self, message: &str) -> (Duration, serde_json::Value) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let (at, line) = self.log.recv_timeout(left).expect("a line of the log");
            if line["message"] == message {
                return (at - self.started, line);
            }
        }
    }

    fn metric(&self, name: &str) -> f64 {
        let mut stream = TcpStream::connect(self.admin).unwrap();
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let start = format!("sip_push_proxy_{name} ");
        answer.lines().find_map(|line| line.strip_prefix(&start)).unwrap().parse().unwrap()
    }

    fn wait_for(&self, name: &str, value: f64) {
        let deadline = Instant::now() + DEADLINE;
        while self.metric(name) != value {
            assert!(Instant::now() < deadline, "{name} does not become {value}");
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// Resident memory in MiB.
    fn memory(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn socket(server: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    SockRef::from(&socket).set_recv_buffer_size(SOCKET_BUFFER).unwrap();
    socket.connect(server).unwrap();
    socket.set_read_timeout(Some(T1)).unwrap();
    socket
}

fn register(number: usize, from: SocketAddr) -> String {
    format!(
        "REGISTER sip:example.org SIP/2.0\r\nVia: SIP/2.0/UDP {from};rport;branch=z9hG4bKr{number}\r\nMax-Forwards: 70\r\n\
         From: <sip:user{number}@example.org>;tag=t{number}\r\nTo: <sip:user{number}@example.org>\r\n\
         Call-ID: {number}@phone\r\nCSeq: 1 REGISTER\r\nContact: <sip:user{number}@{from};pn-provider=fcm;\
         pn-param=demo-project;pn-prid=dXZ7Yk1QTEuF0nRk2sJv3a:APA91bHPRgkFLJu6Wq0-{number:024}-Xy9Zr4oYtTqk3LmVbNcWd>;\
         +sip.instance=\"<urn:uuid:f81d4fae-7dec-11d0-a765-{number:012}>\"\r\nExpires: 3600\r\n\
         User-Agent: Phone/1.0 (Android 14)\r\nContent-Length: 0\r\n\r\n"
    )
}

fn invite(number: usize, from: SocketAddr) -> String {
    const OFFER: &str = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
                         m=audio 40000 RTP/AVP 8 0 101\r\na=rtpmap:101 telephone-event/8000\r\na=sendrecv\r\n";
    format!(
        "INVITE sip:user{number}@example.org SIP/2.0\r\nVia: SIP/2.0/UDP {from};rport;branch=z9hG4bKi{number}\r\n\
         Max-Forwards: 70\r\nFrom: \"Ivan\" <sip:103@example.org>;tag=t{number}\r\nTo: <sip:user{number}@example.org>\r\n\
         Call-ID: {number}@switch\r\nCSeq: 1 INVITE\r\nContact: <sip:switch@{from}>\r\n\
         Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{OFFER}",
        OFFER.len()
    )
}

/// Sends requests of these numbers, so many at a time, until each has this status.
fn exchange(
    server: SocketAddr,
    numbers: std::ops::Range<usize>,
    in_flight: usize,
    status: &str,
    request: fn(usize, SocketAddr) -> String,
) {
    // The server's workers share a port by where a datagram comes from.
    let sockets = in_flight.clamp(1, 8);
    let share = numbers.len().div_ceil(sockets);
    std::thread::scope(|scope| {
        for place in 0..sockets {
            let first = numbers.start + place * share;
            let own = first.min(numbers.end)..(first + share).min(numbers.end);
            scope.spawn(move || exchange_by_one(&socket(server), own, in_flight / sockets, status, request));
        }
    });
}

fn exchange_by_one(
    socket: &UdpSocket,
    mut numbers: std::ops::Range<usize>,
    in_flight: usize,
    status: &str,
    request: fn(usize, SocketAddr) -> String,
) {
    let address = socket.local_addr().unwrap();
    let status = format!("SIP/2.0 {status} ");
    let mut waiting = std::collections::BTreeSet::new();
    let mut buffer = [0; 65_536];
    let mut last = Instant::now();
    loop {
        while waiting.len() < in_flight
            && let Some(number) = numbers.next()
        {
            waiting.insert(number);
            socket.send(request(number, address).as_bytes()).unwrap();
        }
        if waiting.is_empty() {
            return;
        }
        match socket.recv(&mut buffer) {
            Ok(length) => {
                let text = std::str::from_utf8(&buffer[..length]).unwrap();
                if text.starts_with("SIP/2.0 100 ") || text.starts_with("SIP/2.0 182 ") && !status.contains("182") {
                    continue;
                }
                // Late answers to what was asked before are nobody's.
                let call_id = text.lines().find_map(|line| line.strip_prefix("Call-ID: ")).unwrap();
                let Ok(number) = call_id.split('@').next().unwrap().parse::<usize>() else { continue };
                if waiting.contains(&number) {
                    assert!(text.starts_with(&status), "{text}");
                    waiting.remove(&number);
                    last = Instant::now();
                }
            }
            Err(_) => {
                assert!(last.elapsed() < Duration::from_secs(60), "no answer");
                waiting.iter().for_each(|number| drop(socket.send(request(*number, address).as_bytes())));
            }
        }
    }
}

/// Each REGISTER is remembered for 64*T1, in case it is repeated: at full speed more than the limit's default.
fn config(folder: &Path, fcm: &FcmDouble, store: &str) {
    fcm.write_credentials(folder).unwrap();
    let text = format!(
        "node.id = 'bench'\nsip.listen = ['udp:127.0.0.1:0']\nsoftswitch.trusted = ['127.0.0.1/32']\n\
         admin.listen = '127.0.0.1:0'\nregister.mode = 'local'\nregister.auth = 'none'\nregister.domains = ['example.org']\n\
         hold.wait_s = 60\nlimits.transactions = 4000000\nlog.format = 'json'\nstore.url = '{store}'\nnode.data_dir = 'data'\n\
         [[push.fcm]]\nservice_account = 'fcm.json'\nendpoint = '{}'\n",
        fcm.url()
    );
    std::fs::write(folder.join("config.toml"), text).unwrap();
}

/// Starts again after `kill -9`, and says how that went.
fn restart(program: Program, folder: &Path, bindings: usize, unread: usize, is_redis: bool) -> Program {
    let calls = program.metric("held_calls");
    if is_redis {
        // What is journaled when Redis is too slow for the load would be part of the next start.
        println!("  {} changes in the journal", program.metric("journal_entries"));
        program.wait_for("journal_entries", 0.0);
    }
    program.kill();
    let program = Program::start(folder);
    let (ready, _) = program.logged("ready");
    exchange(program.sip, unread..unread + 1, 1, "182", invite);
    let held = program.started.elapsed();
    println!("  start with {bindings} bindings and {calls} held calls: ready {ready:.2?}, a call held {held:.2?}");
    if is_redis {
        let (loaded, _) = program.logged("all of Redis is in memory");
        println!("    all of Redis in memory {loaded:.2?}");
    }
    program.wait_for("held_calls", calls + 1.0);
    #[expect(clippy::cast_precision_loss, reason = "a number of bindings")]
    program.wait_for("bindings", bindings as f64);
    println!("    resident {:.0} MiB", program.memory());
    program
}

fn measure(name: &str, most: usize, fcm: &FcmDouble, store: &str) {
    let is_redis = store.starts_with("redis");
    println!("{name}");
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    config(folder, fcm, store);
    let program = Program::start(folder);
    program.logged("ready");
    println!("  empty: resident {:.0} MiB", program.memory());
    let mut next = 0;
    let mut register_more = |program: &Program, to: usize, in_flight: usize| {
        let (count, start) = (to - next, Instant::now());
        exchange(program.sip, next..to, in_flight, "200", register);
        next = to;
        #[expect(clippy::cast_precision_loss, reason = "a number of REGISTERs")]
        let per_second = count as f64 / start.elapsed().as_secs_f64();
        println!("  {in_flight:4} in flight: {per_second:6.0} REGISTER/s, {count} in all");
    };
    register_more(&program, 1_000, 1);
    register_more(&program, 20_000, 100);
    register_more(&program, FIRST, 1000);
    let program = restart(program, folder, FIRST, FIRST - 1, is_redis);
    let start = Instant::now();
    exchange(program.sip, 0..CALLS, 400, "182", invite);
    println!("  {CALLS} calls held and pushed in {:.2?}, resident {:.0} MiB", start.elapsed(), program.memory());
    let program = restart(program, folder, FIRST, FIRST - 2, is_redis);
    register_more(&program, most, 1000);
    program.wait_for("held_calls", 0.0);
    let program = restart(program, folder, most, most - 1, is_redis);
    program.kill();
}

fn main() {
    // As a test it has nothing to say.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let most = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(1_000_000);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let fcm = runtime.block_on(FcmDouble::start()).unwrap();
    measure("embedded store", most, &fcm, "file:");
    let redis = redis_server::Server::durable();
    measure("Redis, appendfsync always", most, &fcm, &format!("redis://127.0.0.1:{}", redis.port));
    let memory = redis.ask(&["INFO", "memory"]);
    println!("  Redis itself: {}", memory.lines().find(|line| line.starts_with("used_memory_rss_human")).unwrap());
}
