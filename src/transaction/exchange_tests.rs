//! A client's and a server's transactions talk over a network that loses and repeats messages, in virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::test_support::{answer, parse, settings, start, trusted};
use super::*;
use crate::sip::{ConnectionId, Transport};

/// Delivers after 5 to 84 ms; over UDP it loses and repeats, each so many times in a hundred.
struct Network {
    transport: Transport,
    lost: u64,
    repeated: u64,
    under_way: BTreeMap<(Instant, u64), (Side, Bytes)>,
    count: u64,
    random: Random,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Client,
    Server,
}

/// splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % limit
    }
}

impl Network {
    fn send(&mut self, to: Side, bytes: Bytes, now: Instant) {
        let is_datagram = self.transport == Transport::Udp;
        if is_datagram && self.random.below(100) < self.lost {
            return;
        }
        let copies = if is_datagram && self.random.below(100) < self.repeated { 2 } else { 1 };
        for _ in 0..copies {
            // A stream keeps its order.
            let delay = if is_datagram { 5 + self.random.below(80) } else { 20 };
            self.count += 1;
            self.under_way.insert((now + Duration::from_millis(delay), self.count), (to, bytes.clone()));
        }
    }
}

/// What happened to one request.
#[derive(Debug, Default, PartialEq, Eq)]
struct Course {
    finals: Vec<u16>,
    timeouts: usize,
    /// Seen by the server's user as a request of its own.
    taken: usize,
    /// An ACK has found its INVITE transaction.
    acknowledged: bool,
    /// An ACK for a 2xx has reached the server's user.
    ack_passed: bool,
    server_ended: usize,
    client_ended: usize,
}

struct Exchange {
    now: Instant,
    network: Network,
    client: Transactions,
    server: Transactions,
    requests: BTreeMap<ClientId, (u32, Message)>,
    served: BTreeMap<ServerId, u32>,
    courses: BTreeMap<u32, Course>,
    /// When the server's user says what: the first final response, and its 2xx until the ACK comes (RFC 3261
    /// §13.3.1.4).
    answers: BTreeMap<(Instant, u32), (ServerId, Message, u16)>,
}

impl Exchange {
    fn new(transport: Transport, seed: u64, lost: u64, repeated: u64) -> Self {
        Self {
            now: start(),
            network: Network { transport, lost, repeated, under_way: BTreeMap::new(), count: 0, random: Random(seed) },
            client: Transactions::new(settings(), seed),
            server: Transactions::new(settings(), seed + 1),
            requests: BTreeMap::new(),
            served: BTreeMap::new(),
            courses: BTreeMap::new(),
            answers: BTreeMap::new(),
        }
    }

    fn flow(&self) -> Flow {
        let remote: SocketAddr = "192.0.2.2:5060".parse().unwrap();
        Flow { transport: self.network.transport, listener: 0, connection: ConnectionId(1), remote }
    }

    fn request(&mut self, number: u32, method: &str) {
        let branch = self.client.new_branch(0);
        let request = test_support::message(&format!(
            "{method} sip:a@h SIP/2.0\nVia: SIP/2.0/UDP 192.0.2.2;rport;branch={branch}\nFrom: <sip:b@h>;tag=f\n\
             To: <sip:a@h>\nCall-ID: {number}\nCSeq: {number} {method}\nContent-Length: 0\n\n"
        ));
        let destination = Destination::Flow(self.flow());
        let id = self.client.send(request.clone(), branch, destination, self.now).unwrap();
        self.requests.insert(id, (number, request));
        self.courses.insert(number, Course::default());
        self.flush();
    }

    fn course(&mut self, number: u32) -> &mut Course {
        self.courses.get_mut(&number).unwrap()
    }

    fn flush(&mut self) {
        while let Some(outgoing) = self.client.poll_send() {
            self.network.send(Side::Server, outgoing.bytes, self.now);
        }
        while let Some(outgoing) = self.server.poll_send() {
            self.network.send(Side::Client, outgoing.bytes, self.now);
        }
    }

    /// Steps from one wake-up to the next until nothing is left to happen.
    fn run(&mut self) {
        while let Some(at) = self.next() {
            self.now = at;
            while self.network.under_way.first_key_value().is_some_and(|((at, _), _)| *at <= self.now) {
                let (_, (side, bytes)) = self.network.under_way.pop_first().unwrap();
                match side {
                    Side::Client => self.client_receives(parse(bytes)),
                    Side::Server => self.server_receives(parse(bytes)),
                }
            }
            while self.answers.first_key_value().is_some_and(|((at, _), _)| *at <= self.now) {
                let ((_, number), (id, request, status)) = self.answers.pop_first().unwrap();
                self.answer(number, id, request, status);
            }
            while let Some(event) = self.client.expire(self.now) {
                self.client_event(event);
            }
            while let Some(event) = self.server.expire(self.now) {
                self.server_event(event);
            }
            self.flush();
        }
    }

    fn next(&mut self) -> Option<Instant> {
        let arrival = self.network.under_way.first_key_value().map(|((at, _), _)| *at);
        let answer = self.answers.first_key_value().map(|((at, _), _)| *at);
        [arrival, answer, self.client.poll_timeout(), self.server.poll_timeout()].into_iter().flatten().min()
    }

    fn answer(&mut self, number: u32, id: ServerId, request: Message, status: u16) {
        if self.course(number).ack_passed {
            return;
        }
        self.server.respond(id, status, answer(&request, status), self.now);
        if status == 200 && request.method() == Method::INVITE && self.served.contains_key(&id) {
            self.answers.insert((self.now + Duration::from_millis(500), number), (id, request, status));
        }
    }

    fn server_receives(&mut self, request: Message) {
        let number = request.cseq().unwrap().number;
        match self.server.receive_request(&request, self.flow(), trusted, self.now) {
            Incoming::Request(id) => {
                self.served.insert(id, number);
                self.course(number).taken += 1;
                let status = [200, 302, 486, 603][number as usize % 4];
                let delay = Duration::from_millis(self.network.random.below(6_000));
                self.answers.insert((self.now + delay, number), (id, request, status));
            }
            Incoming::Absorbed if request.method() == Method::ACK => self.course(number).acknowledged = true,
            Incoming::Ack => self.course(number).ack_passed = true,
            Incoming::Absorbed => {}
            other @ (Incoming::Cancel { .. } | Incoming::Full | Incoming::SourceFull) => panic!("{other:?}"),
        }
    }

    fn client_receives(&mut self, response: Message) {
        if let Some(event) = self.client.receive_response(response, self.now) {
            self.client_event(event);
        }
    }

    fn client_event(&mut self, event: Event) {
        match event {
            Event::Response { client, response } => {
                let (number, request) = self.requests[&client].clone();
                let status = response.status().unwrap();
                if status < 200 {
                    return;
                }
                self.course(number).finals.push(status);
                if status < 300 && request.method() == Method::INVITE {
                    let ack = format!(
                        "ACK sip:a@h SIP/2.0\nVia: SIP/2.0/UDP 192.0.2.2;branch=z9hG4bKack{number}\nCSeq: {number} ACK\n\n"
                    );
                    self.network.send(Side::Server, test_support::message(&ack).bytes().clone(), self.now);
                }
            }
            Event::Timeout { client } => {
                let number = self.requests[&client].0;
                self.course(number).timeouts += 1;
            }
            Event::ClientEnded { client } => {
                let number = self.requests[&client].0;
                self.course(number).client_ended += 1;
            }
            other @ (Event::SendFailed { .. } | Event::ServerEnded { .. }) => panic!("{other:?}"),
        }
    }

    fn server_event(&mut self, event: Event) {
        let Event::ServerEnded { server } = event else { panic!("{event:?}") };
        let number = self.served.remove(&server).unwrap();
        self.course(number).server_ended += 1;
    }
}

const REQUESTS: u32 = 24;

/// Half INVITE, half others, started over the first seconds.
fn exchange(transport: Transport, seed: u64, lost: u64, repeated: u64) -> Exchange {
    let mut exchange = Exchange::new(transport, seed, lost, repeated);
    for number in 0..REQUESTS {
        exchange.request(number, if number % 8 < 4 { "INVITE" } else { "MESSAGE" });
    }
    exchange.run();
    exchange
}

fn check(exchange: &mut Exchange, context: &str) {
    for (number, course) in &exchange.courses {
        let context = format!("{context}, request {number}: {course:?}");
        assert!(course.taken <= 1, "taken once: {context}");
        let kinds: BTreeSet<_> = course.finals.iter().collect();
        assert_eq!(usize::from(!kinds.is_empty()) + course.timeouts, 1, "one end for the user: {context}");
        let is_invite = number % 8 < 4;
        if course.finals != [200] && !(is_invite && course.finals.first() == Some(&200)) {
            assert!(course.finals.len() <= 1, "told once: {context}");
        }
        assert_eq!(course.client_ended, kinds.len(), "the end is told after the final: {context}");
        assert_eq!(course.server_ended, course.taken, "and to the server's user: {context}");
        if is_invite && course.timeouts == 0 {
            let is_2xx = course.finals[0] == 200;
            assert_eq!((course.acknowledged, course.ack_passed), (!is_2xx, is_2xx), "the ACK came: {context}");
        }
    }
    assert!(exchange.client.is_empty() && exchange.server.is_empty(), "{context}");
    assert!(exchange.client.common.timers.is_empty() && exchange.server.common.timers.is_empty(), "{context}");
    assert!(exchange.client.poll_send().is_none() && exchange.server.poll_send().is_none(), "{context}");
}

fn timeouts(exchange: &Exchange) -> usize {
    exchange.courses.values().map(|course| course.timeouts).sum()
}

#[test]
fn over_a_bad_network_each_request_ends_once_and_nothing_is_left() {
    let mut timed_out = 0;
    for seed in 0..100 {
        let mut exchange = exchange(Transport::Udp, seed, 15, 15);
        check(&mut exchange, &format!("seed {seed}"));
        timed_out += timeouts(&exchange);
    }
    assert!(timed_out <= 2, "{timed_out} of 2,400 requests: repetition makes good for the losses");
}

#[test]
fn over_a_dead_network_each_request_times_out() {
    let mut exchange = exchange(Transport::Udp, 1, 100, 0);
    check(&mut exchange, "all lost");
    assert_eq!(timeouts(&exchange), REQUESTS as usize);
}

#[test]
fn over_a_stream_nothing_is_repeated() {
    for seed in 0..10 {
        let mut exchange = exchange(Transport::Tcp, seed, 0, 0);
        check(&mut exchange, &format!("TCP, seed {seed}"));
        assert_eq!(timeouts(&exchange), 0);
        // An INVITE takes four messages (100, the final response and the ACK with it), a MESSAGE two.
        assert_eq!(exchange.network.count, u64::from(REQUESTS / 2 * 4 + REQUESTS / 2 * 2));
    }
}

#[test]
fn everything_is_over_soon_after_the_last_answer() {
    let mut exchange = exchange(Transport::Udp, 3, 0, 0);
    check(&mut exchange, "no loss");
    // Answers come within 6 s; the longest wait after one is 64·T1.
    let limit = Duration::from_secs(6) + settings().patience() + settings().t4;
    assert!(exchange.now - start() <= limit, "{:?}", exchange.now - start());
}

#[test]
fn a_seed_reproduces_a_run() {
    let (one, other) = (exchange(Transport::Udp, 42, 20, 20), exchange(Transport::Udp, 42, 20, 20));
    assert_eq!(one.courses, other.courses);
    assert_eq!((one.now, one.network.count), (other.now, other.network.count));
}
