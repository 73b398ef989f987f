//! Messages per second through the core: a phone's request within a dialog, an INVITE to an awake device with its
//! answers, and a REGISTER in local mode; and what timelines and metrics cost. Parsing is part of it, sockets and disk are not.

#[path = "../tests/core/mod.rs"]
mod core;

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use sip_push_proxy::clock::UnixMillis;
use sip_push_proxy::metrics::{Direction, Kind, Metrics};
use sip_push_proxy::proxy::{CallStep, Effect, Input};
use sip_push_proxy::sip::Flow;
use sip_push_proxy::store::Reply;
use sip_push_proxy::timeline::Timeline;

use crate::core::{Core, invite, phone, register, switch};

/// Requests in one turn of the bench, each in its own transaction.
const REQUESTS: u32 = 2_000;
const PHONES: u32 = 1_000;

fn awake() -> Core {
    Core::new(PHONES, |policy| policy.hold.fresh = Duration::from_secs(86_400))
}

/// An INFO by Route with the token that the phone got in `invite`.
fn info(invite: &[u8], number: u32, request: u32) -> Bytes {
    let text = String::from_utf8_lossy(invite);
    let route = text.lines().find_map(|line| line.strip_prefix("Record-Route: ")).unwrap_or_default();
    let address = phone(number).remote;
    format!(
        "INFO sip:2001@192.0.2.20:5060 SIP/2.0\r\nVia: SIP/2.0/UDP {address};rport;branch=z9hG4bKn{request}\r\n\
         Max-Forwards: 70\r\nRoute: {route}\r\nFrom: <sip:user{number}@example.org>;tag=a\r\n\
         To: <sip:2001@example.org>;tag=f\r\nCall-ID: {number:08}@192.0.2.20\r\nCSeq: {request} INFO\r\n\
         User-Agent: phone/1.0\r\nContent-Length: 0\r\n\r\n"
    )
    .into()
}

/// Hands the core back, so that its end is not measured.
fn run(mut core: Core, requests: Vec<(Flow, Bytes)>) -> Core {
    for (flow, bytes) in requests {
        core.receive(flow, bytes);
        black_box(core.settle());
    }
    core
}

/// What the driver does for operators with each message and step: counts, and tells the timeline.
struct Observer {
    timeline: Timeline,
    metrics: Metrics,
}

impl Observer {
    fn see(&self, effect: &Effect, now: UnixMillis) {
        match effect {
            Effect::Send { destination, bytes, .. } => {
                let kind = if bytes.starts_with(b"SIP/2.0 1") { Kind::Status1xx } else { Kind::Invite };
                self.metrics.message(Direction::Out, destination.transport(), kind);
            }
            Effect::CallBegan { call_ref, call_id, aor } => self.timeline.begin(call_ref, call_id, aor),
            Effect::Step(CallStep { call_ref, step, device, detail, why, push_id: _ }) => {
                self.timeline.record(call_ref, now, *step, *device, &**detail, why.as_ref());
            }
            Effect::CallEnded { call_ref, outcome } => {
                self.metrics.call(*outcome);
                self.timeline.end(call_ref, *outcome);
            }
            Effect::Save { .. }
            | Effect::Push(_)
            | Effect::Resolve { .. }
            | Effect::Await { .. }
            | Effect::Fetch { .. }
            | Effect::Woken(_)
            | Effect::Found(_)
            | Effect::WakeSeen { .. }
            | Effect::Refreshed { .. }
            | Effect::AuthFailed { .. }
            | Effect::AuthProven { .. }
            | Effect::Warning(_)
            | Effect::Dropped(_)
            | Effect::Fault(_) => {}
        }
    }
}

/// The same as [`run`], seen by an observer.
fn run_observed(mut core: Core, requests: Vec<(Flow, Bytes)>, observer: &Observer) -> Core {
    for (flow, bytes) in requests {
        observer.metrics.message(Direction::In, flow.transport, Kind::Invite);
        core.receive(flow, bytes);
        let mut sent = Vec::new();
        while let Some(effect) = core.proxy.poll_effect() {
            observer.see(&effect, core.now.unix);
            if let Some((ticket, change)) = core.perform(effect, &mut sent) {
                let result = Ok(core.memory.apply(change));
                core.input(Input::Saved(Reply { ticket, result }));
            }
        }
        black_box(sent);
    }
    core
}

/// INVITEs to phones that are awake, or to such that are held for a push: with timeline and metrics, and without.
fn observed(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("observed");
    group.throughput(Throughput::Elements(u64::from(REQUESTS))).sample_size(10);
    let asleep = || Core::new(PHONES, |policy| policy.hold.fresh = Duration::ZERO);
    for (name, new) in [("awake", awake as fn() -> Core), ("held", asleep)] {
        let setup = || (new(), (0..REQUESTS).map(|call| (switch(), invite(call % PHONES, call))).collect::<Vec<_>>());
        group.bench_function(format!("{name}_off"), |bencher| {
            bencher.iter_batched(setup, |(core, requests)| run(core, requests), BatchSize::PerIteration);
        });
        group.bench_function(format!("{name}_on"), |bencher| {
            // As full as it gets, so that calls are forgotten, too.
            let observer = Observer { timeline: Timeline::default().kept(), metrics: Metrics::new() };
            bencher.iter_batched(
                setup,
                |(core, requests)| run_observed(core, requests, &observer),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

fn core(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("core");
    group.throughput(Throughput::Elements(u64::from(REQUESTS))).sample_size(10);
    group.bench_function("request_within_a_dialog", |bencher| {
        bencher.iter_batched(
            || {
                let mut core = awake();
                core.receive(switch(), invite(0, 0));
                let sent = core.settle();
                let forwarded = sent.iter().find(|bytes| bytes.starts_with(b"INVITE")).cloned().unwrap_or_default();
                let requests = (1..=REQUESTS).map(|number| (phone(0), info(&forwarded, 0, number))).collect();
                (core, requests)
            },
            |(core, requests)| run(core, requests),
            BatchSize::PerIteration,
        );
    });
    group.bench_function("invite_to_an_awake_device", |bencher| {
        bencher.iter_batched(
            || (awake(), (0..REQUESTS).map(|call| (switch(), invite(call % PHONES, call))).collect()),
            |(core, requests)| run(core, requests),
            BatchSize::PerIteration,
        );
    });
    group.bench_function("register_local", |bencher| {
        bencher.iter_batched(
            || {
                (
                    awake(),
                    (0..REQUESTS)
                        .map(|number| (phone(number % PHONES), register(number % PHONES, 2 + number)))
                        .collect(),
                )
            },
            |(core, requests)| run(core, requests),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, core, observed);
criterion_main!(benches);
