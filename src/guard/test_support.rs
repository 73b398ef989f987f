//! What the tests of this module share.

use std::net::Ipv4Addr;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use super::Source;
use crate::clock::{Now, UnixMillis};

/// Some moment, always the same; tests count from it and never look at the clock.
static START: LazyLock<Now> = LazyLock::new(|| {
    #[expect(clippy::disallowed_methods, reason = "the only way to have an Instant at all")]
    let instant = Instant::now();
    Now { instant, unix: UnixMillis(1_700_000_000_000) }
});

pub(super) fn start() -> Instant {
    START.instant
}

pub(super) fn after(ms: u64) -> Now {
    START.after(Duration::from_millis(ms))
}

pub(super) fn source(number: u32) -> Source {
    Source::of(Ipv4Addr::from_bits(number).into())
}
