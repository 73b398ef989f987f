//! How long it takes to read a message, with `rsip` beside it for the ratio.
//!
//! `invite` and `register` are what a softswitch and a phone send; `forward` is parse and the edits of one hop.

use std::fs;
use std::hint::black_box;
use std::path::Path;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sip_push_proxy::sip::push_param::PushParams;
use sip_push_proxy::sip::validity::request_fault;
use sip_push_proxy::sip::{Edits, HeaderName, Message, NameAddr};

const HEADERS_MAX: usize = 128;

#[expect(clippy::unwrap_used, reason = "there is nothing to measure without the message")]
fn fixture(name: &str) -> Bytes {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("sip-fixtures").join(name)).unwrap().into()
}

fn parse(criterion: &mut Criterion) {
    for (name, file) in [("invite", "flows/call/1-invite.sip"), ("register", "devices/linphone-ios-two-tokens.sip")] {
        let bytes = fixture(file);
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function("parse", |bencher| {
            bencher.iter(|| Message::parse(black_box(bytes.clone()), HEADERS_MAX));
        });
        group.bench_function("parse and judge", |bencher| {
            bencher
                .iter(|| Message::parse(black_box(bytes.clone()), HEADERS_MAX).map(|message| request_fault(&message)));
        });
        group.bench_function("rsip", |bencher| {
            bencher.iter(|| rsip::SipMessage::try_from(black_box(&bytes[..])));
        });
        group.finish();
    }
}

fn forward(criterion: &mut Criterion) {
    let bytes = fixture("flows/call/1-invite.sip");
    criterion.bench_function("invite/forward", |bencher| {
        bencher.iter(|| Message::parse(black_box(bytes.clone()), HEADERS_MAX).map(|message| one_hop(&message)));
    });
}

/// A Via on top, one hop less, another Request-URI (RFC 3261 §16.6).
fn one_hop(message: &Message) -> Bytes {
    let mut edits = Edits::new();
    edits.replace(message.uri_span(), |text| text.extend_from_slice(b"sip:1001@10.20.30.40:51444;transport=tcp"));
    if let Some(via) = message.fields(HeaderName::Via).next() {
        edits.insert(via.line().start, |text| {
            text.extend_from_slice(b"Via: SIP/2.0/TCP 192.0.2.10:5060;branch=z9hG4bKbench\r\n");
        });
    }
    if let Some(hops) = message.fields(HeaderName::MaxForwards).next() {
        edits.replace(hops.value(), |text| text.extend_from_slice(b"69"));
    }
    edits.apply(message.bytes())
}

fn push_params(criterion: &mut Criterion) {
    let message = Message::parse(fixture("devices/linphone-ios-two-tokens.sip"), HEADERS_MAX).ok();
    let contact = message.as_ref().and_then(|message| NameAddr::parse(message.first(HeaderName::Contact)?));
    criterion.bench_function("register/push parameters", |bencher| {
        bencher.iter(|| black_box(contact)?.parse_uri().ok().map(|uri| PushParams::read(&uri, b"")));
    });
}

criterion_group!(benches, parse, forward, push_params);
criterion_main!(benches);
