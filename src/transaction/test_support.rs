//! What the tests of this module share.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Branch, Settings, Standing, Transactions};
use crate::sip::{ConnectionId, Flow, Message, Transport, response};

/// The defaults of RFC 3261 §17.1.1.1.
pub(super) fn settings() -> Settings {
    Settings {
        t1: Duration::from_millis(500),
        t2: Duration::from_secs(4),
        t4: Duration::from_secs(5),
        transactions_max: 1_000,
        source_bytes_max: 1 << 20,
        worker: 7,
    }
}

/// The softswitch's.
pub(super) fn trusted() -> Standing {
    Standing::Trusted
}

/// Some instant, always the same; tests count from it and never look at the clock.
pub(super) fn start() -> Instant {
    static START: LazyLock<Instant> = LazyLock::new(|| {
        #[expect(clippy::disallowed_methods, reason = "the only way to have an Instant at all")]
        Instant::now()
    });
    *START
}

/// A message written with LF for line ends.
pub(super) fn message(text: &str) -> Message {
    Message::parse(Bytes::from(text.replace('\n', "\r\n")), 128).unwrap()
}

pub(super) fn after(ms: u64) -> Instant {
    start() + Duration::from_millis(ms)
}

pub(super) fn flow(transport: Transport) -> Flow {
    let connection = if transport == Transport::Udp { ConnectionId::NONE } else { ConnectionId(9) };
    Flow { transport, listener: 0, connection, remote: "192.0.2.1:5070".parse().unwrap() }
}

/// A request as `method` would be sent by somebody else, over UDP with rport.
pub(super) fn request(method: &str, branch: &str) -> Message {
    message(&format!(
        "{method} sip:a@192.0.2.9 SIP/2.0\nVia: SIP/2.0/UDP 192.0.2.1:5060;rport;branch=z9hG4bK{branch}\n\
         Max-Forwards: 70\nFrom: <sip:b@h>;tag=f\nTo: <sip:a@h>\nCall-ID: {branch}\nCSeq: 1 {method}\n\
         Content-Length: 0\n\n"
    ))
}

/// A request of our own with `branch`.
pub(super) fn own_request(method: &str, branch: Branch) -> Message {
    message(&format!(
        "{method} sip:a@192.0.2.9 SIP/2.0\nVia: SIP/2.0/UDP 192.0.2.2;branch={branch}\nMax-Forwards: 70\n\
         From: <sip:b@h>;tag=f\nTo: <sip:a@h>\nCall-ID: {branch}\nCSeq: 1 {method}\nContent-Length: 0\n\n"
    ))
}

/// The answer to `request`, with a To tag above 100.
pub(super) fn answer(request: &Message, status: u16) -> Bytes {
    let tag = (status > 100).then_some("t");
    response::build(request, flow(Transport::Udp).remote, status, response::reason_phrase(status), tag, |_| {})
}

pub(super) fn parse(bytes: Bytes) -> Message {
    Message::parse(bytes, 128).unwrap()
}

/// Everything that is to be sent, by method or status.
pub(super) fn sent(transactions: &mut Transactions) -> Vec<String> {
    std::iter::from_fn(|| transactions.poll_send())
        .map(|outgoing| {
            let message = parse(outgoing.bytes);
            match message.status() {
                Some(status) => status.to_string(),
                None => String::from_utf8(message.method_text().to_vec()).unwrap(),
            }
        })
        .collect()
}
