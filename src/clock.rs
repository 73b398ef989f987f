//! The present, handed to the pure modules as a value.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// One reading of both clocks, taken by the driver (or by a test) before each input.
///
/// Timers run on `instant`; what is stored or shown to people is `unix`, because an `Instant` means nothing
/// after a restart.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    pub instant: Instant,
    pub unix: UnixMillis,
}

impl Now {
    /// The same moment on both clocks, `later` afterwards.
    pub fn after(self, later: Duration) -> Self {
        Self { instant: self.instant + later, unix: self.unix.after(later) }
    }
}

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct UnixMillis(pub u64);

impl UnixMillis {
    pub fn seconds(self) -> u64 {
        self.0 / 1000
    }

    pub fn after(self, later: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(later.as_millis()).unwrap_or(u64::MAX)))
    }

    /// Time from `earlier` to `self`; zero when the clock went backwards in between.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}
