//! How many requests a source sends, in memory that does not grow with the number of sources.
//!
//! Generic Cell Rate Algorithm: a slot holds the time at which all that came so far would be due at the allowed rate; a
//! request that would be due more than a second ahead is over. A source has a slot in each of two tables, found by a
//! hash with a secret key, and is over only when both say so: two sources that share one slot by chance do not share the
//! other, and nobody can choose whom to share it with.

use std::hash::Hasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use siphasher::sip::SipHasher13;

use super::Source;

/// Slots of each table: half a MiB. A power of two.
const SLOTS: usize = 1 << 16;
/// How much may come at once: what a second brings.
const BURST: u64 = 1_000_000_000;

/// See the module's text. Shared by all who receive; never locked.
#[derive(Debug)]
pub(super) struct RateLimiter {
    hasher: SipHasher13,
    began: Instant,
    /// Nanoseconds since `began`.
    tables: [Box<[AtomicU64]>; 2],
}

impl RateLimiter {
    pub(super) fn new(keys: [u64; 2], now: Instant) -> Self {
        let table = || std::iter::repeat_with(|| AtomicU64::new(0)).take(SLOTS).collect();
        Self { hasher: SipHasher13::new_with_keys(keys[0], keys[1]), began: now, tables: [table(), table()] }
    }

    /// Counts one request; false when it is one too many.
    pub(super) fn admits(&self, source: Source, per_s: u32, now: Instant) -> bool {
        let Some(interval) = BURST.checked_div(per_s.into()) else { return true };
        let now = nanos(now.saturating_duration_since(self.began));
        let mut hasher = self.hasher;
        hasher.write(&source.octets());
        let hash = hasher.finish();
        let slots = self.tables.iter().zip([hash, hash >> 32]).filter_map(|(table, hash)| {
            let index = usize::try_from(hash & u64::from(u32::MAX)).unwrap_or_default();
            table.get(index % SLOTS)
        });
        // Both count it, whatever the first one says.
        slots.filter(|slot| take(slot, interval, now)).count() > 0
    }
}

fn take(slot: &AtomicU64, interval: u64, now: u64) -> bool {
    let next = |due: u64| {
        let next = due.max(now).saturating_add(interval);
        (next - now <= BURST).then_some(next)
    };
    slot.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{source, start};
    use super::*;

    #[test]
    fn a_source_gets_its_rate_and_one_second_of_it_at_once() {
        let limiter = RateLimiter::new([1, 2], start());
        let admitted = |ms: u64, sent: usize| {
            let now = start() + Duration::from_millis(ms);
            (0..sent).filter(|_| limiter.admits(source(1), 100, now)).count()
        };
        assert_eq!(admitted(0, 150), 100);
        assert_eq!(admitted(10, 5), 1);
        assert_eq!(admitted(500, 100), 49);
        assert_eq!(admitted(60_000, 150), 100);
    }

    #[test]
    fn zero_is_no_limit() {
        let limiter = RateLimiter::new([1, 2], start());
        assert!((0..100_000).all(|_| limiter.admits(source(1), 0, start())));
    }

    #[test]
    fn a_source_is_not_held_back_by_others() {
        let limiter = RateLimiter::new([1, 2], start());
        // As many as leave a slot of one table taken with a chance of one in seven, and one of each with one in fifty.
        for number in 0..10_000 {
            while limiter.admits(source(number), 10, start()) {}
        }
        let is_well = |number: &u32| (0..10).all(|_| limiter.admits(source(*number), 10, start()));
        let well = (1_000_000..1_001_000).filter(is_well).count();
        assert!(well > 950, "{well} of 1000");
    }

    #[test]
    fn which_slots_a_source_has_is_secret() {
        let slots = |keys| {
            let limiter = RateLimiter::new(keys, start());
            limiter.admits(source(1), 1, start());
            limiter.tables.map(|table| table.iter().position(|slot| slot.load(Ordering::Relaxed) > 0))
        };
        assert_eq!(slots([1, 2]), slots([1, 2]));
        assert_ne!(slots([1, 2]), slots([1, 3]));
    }
}
