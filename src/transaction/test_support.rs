//! What the tests of this module share.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::Settings;
use crate::sip::Message;

/// The defaults of RFC 3261 §17.1.1.1.
pub(super) fn settings() -> Settings {
    Settings {
        t1: Duration::from_millis(500),
        t2: Duration::from_secs(4),
        t4: Duration::from_secs(5),
        transactions_max: 1_000,
        worker: 7,
    }
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
