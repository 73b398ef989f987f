//! The present, handed to the pure modules as a value.

use std::time::{Duration, Instant};

use jiff::Timestamp;
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

    /// As in RFC 3339, in UTC with milliseconds; a time beyond all calendars as the number it is.
    pub fn to_rfc3339(self) -> String {
        let timestamp = i64::try_from(self.0).ok().and_then(|millis| Timestamp::from_millisecond(millis).ok());
        timestamp.map_or_else(|| self.0.to_string(), |timestamp| format!("{timestamp:.3}"))
    }

    /// Time from `earlier` to `self`; zero when the clock went backwards in between.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_have_milliseconds() {
        for (millis, expected) in [
            (1_625_158_716_005, "2021-07-01T16:58:36.005Z"),
            (0, "1970-01-01T00:00:00.000Z"),
            (u64::MAX, "18446744073709551615"),
        ] {
            assert_eq!(UnixMillis(millis).to_rfc3339(), expected);
        }
    }
}
