//! How long callers stay who hear no phone.

/// In how many of its seconds a caller who still waits gives up, as those did who were waiting when the wait was half over.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Patience {
    gives_up_per_ms: f64,
}

impl Patience {
    /// Of callers by how long each has waited, and whether it gave up then (or heard a phone, or was sent away), with a wait
    /// of `wait` milliseconds. Nobody can be seen to wait longer than that, so it is taken that they go on as they did.
    pub(super) fn seen(callers: impl Iterator<Item = (i64, bool)>, wait: i64) -> Self {
        let (mut given_up, mut watched) = (0.0, 0.0);
        for (waited, gave_up) in callers.filter(|(waited, _)| *waited > wait / 2) {
            watched += as_f64(waited.min(wait) - wait / 2);
            given_up += f64::from(u8::from(gave_up && waited <= wait));
        }
        Self { gives_up_per_ms: if watched > 0.0 { given_up / watched } else { 0.0 } }
    }

    /// The share of those who have waited so far that is still there `more` milliseconds later.
    pub(super) fn stay(self, more: i64) -> f64 {
        (-self.gives_up_per_ms * as_f64(more.max(0))).exp()
    }
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds of a call")]
fn as_f64(millis: i64) -> f64 {
    millis as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_go_on_giving_up_as_they_did() {
        // Of four who wait from 10 s on, one gives up after 15 s, and three are there when 20 s are over.
        let callers = [(2_000, true), (15_000, true), (20_000, false), (20_000, false), (20_000, false)];
        let patience = Patience::seen(callers.into_iter(), 20_000);
        // One in 35 s of waiting.
        assert!((patience.stay(35_000) - (-1.0_f64).exp()).abs() < 1e-9, "{patience:?}");
        assert!((patience.stay(0) - 1.0).abs() < 1e-9 && patience.stay(10_000) < 1.0);
    }

    #[test]
    fn where_nobody_gives_up_all_stay() {
        for callers in [vec![], vec![(28_000, false)], vec![(3_000, true)]] {
            let patience = Patience::seen(callers.into_iter(), 28_000);
            assert!((patience.stay(100_000) - 1.0).abs() < 1e-9);
        }
    }
}
