//! Transactions per second: INVITEs that come in, are forwarded, ring, are refused and acknowledged, through to the end
//! of both transactions. Parsing is not measured here.

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use sip_push_proxy::sip::{ConnectionId, Destination, Flow, Message, Transport};
use sip_push_proxy::transaction::{Branch, Incoming, Settings, Standing, Transactions};

const CALLS: u32 = 10_000;
const SEED: u64 = 1;

/// All messages of one call.
struct Call {
    invite: Message,
    branch: Branch,
    forwarded: Message,
    ringing: Message,
    busy: Message,
    ack: Message,
}

fn settings() -> Settings {
    Settings {
        t1: Duration::from_millis(500),
        t2: Duration::from_secs(4),
        t4: Duration::from_secs(5),
        transactions_max: 1_000_000,
        source_bytes_max: usize::MAX,
        worker: 0,
    }
}

fn flow() -> Flow {
    Flow {
        transport: Transport::Udp,
        listener: 0,
        connection: ConnectionId::NONE,
        remote: ([192, 0, 2, 1], 5060).into(),
    }
}

/// The message with `start_line` and `vias`.
fn message(start_line: &str, vias: &str, method: &str, call: u32) -> Option<Message> {
    let text = format!(
        "{start_line}\r\n{vias}Max-Forwards: 70\r\nFrom: \"Bob\" <sip:bob@example.org>;tag=f{call}\r\n\
         To: <sip:alice@example.org>\r\nCall-ID: {call}@192.0.2.1\r\nCSeq: 1 {method}\r\n\
         Contact: <sip:bob@192.0.2.1>\r\nContent-Length: 0\r\n\r\n"
    );
    Message::parse(Bytes::from(text), 128).ok()
}

fn call(number: u32, branch: Branch) -> Option<Call> {
    let theirs = format!("Via: SIP/2.0/UDP 192.0.2.1:5060;rport;branch=z9hG4bK{number}\r\n");
    let both = format!("Via: SIP/2.0/UDP 192.0.2.9;branch={branch}\r\n{theirs}");
    Some(Call {
        invite: message("INVITE sip:alice@example.org SIP/2.0", &theirs, "INVITE", number)?,
        branch,
        forwarded: message("INVITE sip:alice@192.0.2.3:5061 SIP/2.0", &both, "INVITE", number)?,
        ringing: message("SIP/2.0 180 Ringing", &both, "INVITE", number)?,
        busy: message("SIP/2.0 486 Busy Here", &both, "INVITE", number)?,
        ack: message("ACK sip:alice@example.org SIP/2.0", &theirs, "ACK", number)?,
    })
}

/// Runs all calls, a millisecond apart, then lets the last timers expire.
fn run(transactions: &mut Transactions, calls: Vec<Call>, start: Instant) {
    let mut now = start;
    for call in calls {
        now += Duration::from_millis(1);
        let Incoming::Request(server) = transactions.receive_request(&call.invite, flow(), || Standing::Trusted, now)
        else {
            continue;
        };
        let _ = black_box(transactions.send(call.forwarded, call.branch, Destination::Flow(flow()), now));
        let ringing = call.ringing.bytes().clone();
        black_box(transactions.receive_response(call.ringing, now));
        transactions.respond(server, 180, ringing, now);
        let busy = call.busy.bytes().clone();
        black_box(transactions.receive_response(call.busy, now));
        transactions.respond(server, 486, busy, now);
        black_box(transactions.receive_request(&call.ack, flow(), || Standing::Trusted, now));
        drain(transactions, now);
    }
    drain(transactions, now + Duration::from_secs(60));
    assert!(transactions.is_empty(), "all transactions have ended");
}

fn drain(transactions: &mut Transactions, now: Instant) {
    while let Some(event) = transactions.expire(now) {
        black_box(event);
    }
    while let Some(outgoing) = transactions.poll_send() {
        black_box(outgoing);
    }
}

fn invite(criterion: &mut Criterion) {
    #[expect(clippy::disallowed_methods, reason = "the only way to have an Instant at all")]
    let start = Instant::now();
    let mut group = criterion.benchmark_group("transaction");
    group.throughput(Throughput::Elements(u64::from(2 * CALLS))).sample_size(10);
    group.bench_function("invite_server_and_client", |bencher| {
        bencher.iter_batched(
            || {
                // Another table with the same seed gives out the same branches.
                let mut twin = Transactions::new(settings(), SEED);
                let calls = (0..CALLS).filter_map(|number| call(number, twin.new_branch(0))).collect();
                (Transactions::new(settings(), SEED), calls)
            },
            |(mut transactions, calls)| run(&mut transactions, calls, start),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, invite);
criterion_main!(benches);
