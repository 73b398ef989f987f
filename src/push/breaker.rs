//! Whether an account is worth asking: a circuit breaker.
//!
//! ```text
//!            failures in a row            pause over
//!   Closed ────────────────────► Open ───────────────► one probe under way
//!      ▲                          ▲                        │    │
//!      └────── any success ───────┼──────── success ───────┘    │
//!                                 └─ failure, a longer pause ───┘
//! ```

use std::time::{Duration, Instant};

/// Longest pause, whatever the provider asks for: until its end nobody learns that all is well again.
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// Longest pause that doubling comes to.
const DOUBLED_MAX: Duration = Duration::from_secs(60);

/// When it opens and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Failures in a row.
    pub failures: u32,
    /// The first pause; doubled after each failed probe.
    pub pause: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { failures: 10, pause: Duration::from_secs(5) }
    }
}

#[derive(Debug)]
pub(super) struct Breaker {
    settings: Settings,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed { failures: u32 },
    Open { until: Instant, pause: Duration, is_probed: bool },
}

/// Leave to send one push. Whoever has it says what came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pass {
    Regular,
    /// The one push that shows whether the account works again.
    Probe,
}

impl Breaker {
    pub(super) fn new(settings: Settings) -> Self {
        Self { settings, state: State::Closed { failures: 0 } }
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    /// Whether [`Breaker::admit`] would give a pass.
    pub(super) fn admits(&self, now: Instant) -> bool {
        match self.state {
            State::Closed { .. } => true,
            State::Open { until, is_probed, .. } => now >= until && !is_probed,
        }
    }

    pub(super) fn admit(&mut self, now: Instant) -> Option<Pass> {
        if !self.admits(now) {
            return None;
        }
        match &mut self.state {
            State::Closed { .. } => Some(Pass::Regular),
            State::Open { is_probed, .. } => {
                *is_probed = true;
                Some(Pass::Probe)
            }
        }
    }

    /// A push was not sent after all.
    pub(super) fn returned(&mut self, pass: Pass) {
        if let (State::Open { is_probed, .. }, Pass::Probe) = (&mut self.state, pass) {
            *is_probed = false;
        }
    }

    pub(super) fn succeeded(&mut self) {
        self.state = State::Closed { failures: 0 };
    }

    /// `after` is the provider's own wish.
    pub(super) fn failed(&mut self, pass: Pass, after: Option<Duration>, now: Instant) {
        let next = match (self.state, pass) {
            (State::Closed { failures }, _) if failures.saturating_add(1) < self.settings.failures => {
                self.state = State::Closed { failures: failures + 1 };
                return;
            }
            (State::Closed { .. }, _) => self.settings.pause,
            (State::Open { pause, .. }, Pass::Probe) => pause.saturating_mul(2).min(DOUBLED_MAX.max(pause)),
            // It was sent before the breaker opened, and tells nothing that is not known.
            (State::Open { .. }, Pass::Regular) => return,
        };
        let pause = after.map_or(next, |after| after.max(next)).min(PAUSE_MAX);
        self.state = State::Open { until: now + pause, pause: next, is_probed: false };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::push::clock;

    fn open(now: Instant) -> Breaker {
        let mut breaker = Breaker::new(Settings::default());
        for failures in 0..10 {
            assert!(!breaker.is_open(), "after {failures}");
            let pass = breaker.admit(now).unwrap();
            breaker.failed(pass, None, now);
        }
        assert!(breaker.is_open());
        breaker
    }

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn opens_after_ten_failures_in_a_row() {
        let now = clock().instant;
        let mut breaker = Breaker::new(Settings::default());
        for _ in 0..9 {
            breaker.failed(Pass::Regular, None, now);
        }
        breaker.succeeded();
        for _ in 0..9 {
            breaker.failed(Pass::Regular, None, now);
        }
        assert_eq!(breaker.admit(now), Some(Pass::Regular));
        breaker.failed(Pass::Regular, None, now);
        assert_eq!(breaker.admit(now), None);
    }

    #[test]
    fn one_probe_decides_and_pauses_grow() {
        let now = clock().instant;
        let mut breaker = open(now);
        assert_eq!(breaker.admit(now + 4 * S), None);
        assert_eq!(breaker.admit(now + 5 * S), Some(Pass::Probe));
        assert_eq!(breaker.admit(now + 6 * S), None, "only one at a time");
        breaker.failed(Pass::Probe, None, now + 6 * S);
        assert_eq!(breaker.admit(now + 15 * S), None);
        assert_eq!(breaker.admit(now + 16 * S), Some(Pass::Probe));
        breaker.succeeded();
        assert_eq!(breaker.admit(now + 16 * S), Some(Pass::Regular));
    }

    #[test]
    fn a_probe_that_was_not_sent_leaves_its_place_to_the_next() {
        let now = clock().instant;
        let mut breaker = open(now);
        assert_eq!(breaker.admit(now + 5 * S), Some(Pass::Probe));
        breaker.returned(Pass::Probe);
        assert_eq!(breaker.admit(now + 5 * S), Some(Pass::Probe));
    }

    #[test]
    fn late_failures_change_nothing_and_a_late_success_closes() {
        let now = clock().instant;
        let mut breaker = open(now);
        breaker.failed(Pass::Regular, None, now + 4 * S);
        assert!(breaker.admits(now + 5 * S));
        breaker.succeeded();
        assert!(!breaker.is_open());
    }

    #[test]
    fn the_providers_own_pause_counts_up_to_a_limit() {
        let now = clock().instant;
        for (after, pause) in [(1, 5), (60, 60), (100_000, 300)] {
            let mut breaker = Breaker::new(Settings { failures: 1, ..Settings::default() });
            breaker.failed(Pass::Regular, Some(after * S), now);
            assert!(!breaker.admits(now + pause * S - S / 2), "{after}");
            assert!(breaker.admits(now + pause * S), "{after}");
        }
    }

    #[test]
    fn doubling_ends_at_a_minute() {
        let mut now = clock().instant;
        let mut breaker = open(now);
        for pause in [5, 10, 20, 40, 60, 60] {
            assert!(!breaker.admits(now + pause * S - S / 2));
            now += pause * S;
            let pass = breaker.admit(now).unwrap();
            breaker.failed(pass, None, now);
        }
    }
}
