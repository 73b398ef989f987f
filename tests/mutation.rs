//! Hostile input: messages with random damage are read without panic, and what comes out stays bounded.
//!
//! Mutation number `n` of a run depends on `SEED + n` alone, so a failure is reproduced by the `SEED=… MUTATIONS=1`
//! that it prints. `MUTATIONS=10000000 cargo test --release --test mutation` looks deeper than the suite does.

#![expect(clippy::unwrap_used, reason = "a thread that panicked, or a number that is none, fails the test")]

mod fixtures;
mod mutator;
mod random;

use std::env;
use std::hint::black_box;
use std::net::SocketAddr;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use mutator::mutate;
use random::Random;
use sip_push_proxy::sip::framing::{Frame, Framer, FramingLimits};
use sip_push_proxy::sip::message::NotSip;
use sip_push_proxy::sip::push_param::{PushParams, is_push_param};
use sip_push_proxy::sip::uri::is_dialled;
use sip_push_proxy::sip::validity::{request_fault, response_fault};
use sip_push_proxy::sip::{Edits, HeaderName, Message, NameAddr, Uri, Via, repair, response, scan};

const MUTATIONS_DEFAULT: u64 = 200_000;
const SEED_DEFAULT: u64 = 8599;
const HEADERS_MAX: usize = 128;

#[test]
fn damaged_messages_are_read_without_panic_and_within_bounds() {
    let (seed, mutations) = (setting("SEED", SEED_DEFAULT), setting("MUTATIONS", MUTATIONS_DEFAULT));
    let originals = fixtures::read("");
    let threads = thread::available_parallelism().map_or(1, |threads| threads.get() as u64);
    let run = |thread: u64| {
        let mut accepted = 0u64;
        for number in (thread..mutations).step_by(threads as usize) {
            let seed = seed.wrapping_add(number);
            let (original, damaged) = mutate(&mut Random::new(seed), &originals);
            let shown = damaged.clone();
            match catch_unwind(AssertUnwindSafe(|| read_everything(damaged))) {
                Ok(is_accepted) => accepted += u64::from(is_accepted),
                Err(_) => panic!("SEED={seed} MUTATIONS=1 fails, {original} as \"{}\"", shown.escape_ascii()),
            }
        }
        accepted
    };
    let accepted: u64 = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|thread| scope.spawn(move || run(thread))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    // Damage that nothing survives would test only the first check.
    assert!(mutations < 1000 || accepted > mutations / 10, "only {accepted} of {mutations} were processed");
    assert!(mutations < 1000 || accepted < mutations, "no damage was ever seen");
}

#[test]
fn a_seed_reproduces_its_message() {
    let originals = fixtures::read("flows");
    for seed in 0..100 {
        assert_eq!(mutate(&mut Random::new(seed), &originals), mutate(&mut Random::new(seed), &originals));
    }
}

fn setting(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Reads all that anything ever reads of a message; whether the message would have been processed.
fn read_everything(bytes: Vec<u8>) -> bool {
    let length = bytes.len();
    stream_is_framed(&bytes);
    let message = match Message::parse(bytes.into(), HEADERS_MAX) {
        Ok(message) => message,
        Err(NotSip::Empty | NotSip::TooLarge | NotSip::StartLine) => return false,
    };
    assert!(message.bytes().len() <= length);
    spans_are_inside(&message);
    headers_are_read(&message);
    Message::parse(Edits::new().apply(message.bytes()), HEADERS_MAX)
        .map(|again| assert_same(&message, &again))
        .unwrap_or_else(|error| panic!("its own copy is not SIP: {error}"));
    let fault = if message.is_request() { request_fault(&message) } else { response_fault(&message) };
    if message.is_request() {
        answer_is_bounded(&message);
    }
    if let Some(repaired) = repair::display_names(&message) {
        spans_are_inside(&repaired);
        headers_are_read(&repaired);
    }
    if fault.is_none() {
        assert!(message.top_via().is_some() && message.from().is_some() && message.to().is_some());
        assert!(message.cseq().is_some() && !message.call_id().is_empty() && message.defect().is_none());
        assert!(!message.is_request() || Uri::parse(message.uri()).is_ok() || is_dialled(message.uri()));
        forwarding_changes_only_what_it_should(&message);
    }
    fault.is_none()
}

/// The same bytes as a stream: frames are of what was fed, and there is an end to them.
fn stream_is_framed(bytes: &[u8]) {
    let mut framer = Framer::new(FramingLimits::default());
    let (first, rest) = bytes.split_at(bytes.len() / 2);
    let mut framed = 0;
    for part in [first, rest, bytes] {
        framer.feed(part);
        for _ in 0..=2 * bytes.len() {
            match framer.next_frame() {
                Ok(Some(Frame::Message(message))) => framed += message.len(),
                Ok(Some(Frame::Ping)) => {}
                Ok(None) => break,
                Err(error) => {
                    assert!(error.head.len() <= 2 * bytes.len());
                    return;
                }
            }
        }
    }
    assert!(framed <= 2 * bytes.len(), "more came out than was put in");
}

fn spans_are_inside(message: &Message) {
    let inside = |span: &Range<usize>, whole: Range<usize>| {
        assert!(span.start <= span.end && whole.start <= span.start && span.end <= whole.end);
    };
    assert!(message.all_fields().len() <= HEADERS_MAX);
    let mut at = 0;
    for field in message.all_fields() {
        let line = field.line();
        inside(&line, at..message.bytes().len());
        inside(&field.name_span(), line.clone());
        inside(&field.value(), line.clone());
        assert!(!field.name_span().is_empty() && field.name_span().end <= field.value().start);
        at = line.end;
    }
    let body_start = message.bytes().len() - message.body().len();
    assert!(at <= message.headers_end() && message.headers_end() <= body_start);
    inside(&message.uri_span(), 0..message.headers_end());
}

fn headers_are_read(message: &Message) {
    black_box((message.method(), message.method_text(), message.status(), message.defect()));
    black_box((message.cseq(), message.call_id(), message.from_tag(), message.to_tag(), message.top_via()));
    uri_is_read(message.uri());
    for (name, _, _) in HeaderName::ALL {
        black_box((message.number(*name), message.has_option(*name, "100rel")));
        assert_eq!(message.first(*name).is_some(), message.fields(*name).next().is_some());
    }
    for field in message.all_fields() {
        let whole = message.slice(field.value());
        let mut at = 0;
        for value in scan::values(whole) {
            let span = scan::span_in(whole, value);
            assert!(!value.is_empty() && span.len() == value.len(), "a value is not part of its header");
            assert!(at <= span.start, "values overlap");
            at = span.end;
            value_is_read(value);
        }
        if scan::values(whole).nth(1).is_some() {
            value_is_read(whole);
        }
    }
}

/// Whatever header a value stands in, every view is tried on it.
fn value_is_read(value: &[u8]) {
    let is_part = |part: &[u8]| assert!(part.is_empty() || scan::span_in(value, part).len() == part.len());
    if let Some(address) = NameAddr::parse(value) {
        [address.display, address.uri, address.params].into_iter().for_each(is_part);
        uri_is_read(address.uri);
        black_box((address.param("tag"), address.param("expires"), address.param("+sip.instance")));
        params_are_read(address.params);
    }
    if let Some(via) = Via::parse(value) {
        [via.transport, via.host, via.params].into_iter().for_each(is_part);
        black_box((via.branch(), via.unique_branch(), via.received(), via.response_address()));
        params_are_read(via.params);
    }
    uri_is_read(value);
    params_are_read(value);
}

fn params_are_read(text: &[u8]) {
    for param in scan::params(text) {
        let value = param.value.unwrap_or_default();
        assert!(param.name.len() + value.len() <= text.len());
        assert!(scan::unquote(value).len() <= value.len());
        assert!(scan::unescape(value).len() <= value.len());
        black_box((scan::number(value), scan::text(value), is_push_param(param.name)));
    }
}

fn uri_is_read(text: &[u8]) {
    let Ok(uri) = Uri::parse(text) else { return };
    let length = uri.host.len() + uri.params.len() + uri.user.map_or(0, <[u8]>::len);
    assert!(length <= text.len() && !uri.host.is_empty());
    black_box((uri.host_ip(), uri.user_unescaped(), uri.has_param("lr")));
    if let Some(aor) = uri.aor() {
        assert!(aor.as_str().len() <= text.len());
    }
    let without_params = Uri { params: b"", ..uri };
    assert_eq!(uri.is_same(&without_params), without_params.is_same(&uri), "equality has a direction");
    assert!(uri.is_same(&uri));
    match PushParams::read(&uri, b"") {
        PushParams::Target(target) | PushParams::Half { target, .. } => {
            let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
            assert!(is_plain(target.prid.reveal()) && is_plain(&target.param));
            assert!(target.prid.reveal().len() + target.param.len() <= text.len());
        }
        // What is not UTF-8 becomes a mark of three bytes.
        PushParams::Refused { provider, reason } => {
            assert!(provider.len() <= 3 * text.len() && reason.len() < 100);
        }
        PushParams::Query(provider) => assert!(provider.is_none_or(|provider| provider.len() <= 3 * text.len())),
        PushParams::Absent => {}
    }
}

/// An answer must not be worth having sent to somebody else: it is hardly larger than what it answers.
fn answer_is_bounded(request: &Message) {
    const OWN_BYTES_MAX: usize = 256;
    let source: SocketAddr = ([203, 0, 113, 255], 65_535).into();
    let answer = response::build(request, source, 400, response::reason_phrase(400), Some("own-tag"), |_| {});
    assert!(
        answer.len() <= request.bytes().len() + OWN_BYTES_MAX,
        "an answer of {} bytes to a request of {}",
        answer.len(),
        request.bytes().len()
    );
    assert_eq!(Message::parse(answer, usize::MAX).unwrap().status(), Some(400));
}

/// What the proxy does to every request and response: a Via on top, or the top one away.
fn forwarding_changes_only_what_it_should(message: &Message) {
    let Some(first) = message.all_fields().first() else { return };
    let mut edits = Edits::new();
    edits.insert(first.line().start, |text| text.extend_from_slice(b"Via: SIP/2.0/UDP h;branch=z9hG4bKown\r\n"));
    let forwarded = Message::parse(edits.apply(message.bytes()), HEADERS_MAX + 1);
    let Ok(forwarded) = forwarded else {
        assert_eq!(forwarded.unwrap_err(), NotSip::TooLarge);
        return;
    };
    assert_eq!(forwarded.top_via().and_then(|via| via.branch()), Some(&b"z9hG4bKown"[..]));
    let mut edits = Edits::new();
    edits.remove(forwarded.fields(HeaderName::Via).next().unwrap().line());
    assert_same(message, &Message::parse(edits.apply(forwarded.bytes()), HEADERS_MAX).unwrap());
}

fn assert_same(one: &Message, other: &Message) {
    assert_eq!(one.bytes(), other.bytes());
    assert_eq!(one.defect(), other.defect());
    assert_eq!((one.method_text(), one.status()), (other.method_text(), other.status()));
    assert_eq!((one.uri(), one.body()), (other.uri(), other.body()));
    assert_eq!(one.all_fields().len(), other.all_fields().len());
    for (one_field, other_field) in one.all_fields().iter().zip(other.all_fields()) {
        assert_eq!((one_field.name, one_field.line()), (other_field.name, other_field.line()));
    }
}
