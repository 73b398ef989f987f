//! Timers (RFC 3261 Annex A table 4, RFC 6026 §7) and the queue that they wait in.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasherDefault, Hash};
use std::time::{Duration, Instant};

use siphasher::sip::SipHasher13;

use super::Settings;

/// Maps of numbers that we gave out ourselves (or hashed with a key), so that no peer can make them collide.
pub(super) type OwnNumbers = BuildHasherDefault<SipHasher13>;

/// The timers of RFC 3261 and RFC 6026 by their letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Timer {
    /// INVITE client: send again.
    A,
    /// INVITE client: no response at all; after a CANCEL: no final response (RFC 3261 §9.1).
    B,
    /// A proxy's limit for an INVITE. It belongs to the transaction user, which knows how long it is.
    C,
    /// INVITE client: repeated 300-699 may still come.
    D,
    /// Non-INVITE client: send again.
    E,
    /// Non-INVITE client: no final response.
    F,
    /// INVITE server: send the 300-699 again.
    G,
    /// INVITE server: no ACK.
    H,
    /// INVITE server: repeated ACKs may still come.
    I,
    /// Non-INVITE server: repeated requests may still come.
    J,
    /// Non-INVITE client: repeated responses may still come.
    K,
    /// INVITE server: repeated INVITEs and further 2xx may still come.
    L,
    /// INVITE client: further 2xx may still come.
    M,
}

impl Timer {
    /// How long the timer runs, after `doublings` runs before. `None`: it is not used over a reliable transport.
    pub(super) fn duration(self, settings: &Settings, reliable: bool, doublings: u8) -> Option<Duration> {
        let repeats = |longest: Duration| {
            let factor = 1u32.checked_shl(u32::from(doublings)).unwrap_or(u32::MAX);
            // A T1 of zero must not send for ever within one instant.
            (!reliable).then(|| settings.t1.saturating_mul(factor).min(longest).max(Duration::from_millis(1)))
        };
        let absorbs = |wait: Duration| Some(if reliable { Duration::ZERO } else { wait });
        match self {
            Self::A => repeats(Duration::MAX),
            Self::E | Self::G => repeats(settings.t2),
            Self::B | Self::F | Self::H | Self::L | Self::M => Some(settings.patience()),
            Self::D | Self::J => absorbs(settings.patience()),
            Self::I | Self::K => absorbs(settings.t4),
            Self::C => None,
        }
    }
}

/// Deadlines, each known by its key; setting one again moves it. All operations take O(log n), amortised, and
/// deadlines of the same instant expire in the order they were set in.
///
/// Keys must be numbers of our own making: their hash is not keyed.
#[derive(Debug, Clone)]
pub struct TimerQueue<K> {
    /// Earliest first. Entries that were moved or cancelled stay here until they come up or outnumber the others.
    heap: BinaryHeap<Reverse<Entry<K>>>,
    /// The one entry of each key that counts.
    live: HashMap<K, u64, OwnNumbers>,
    /// Number of the last entry made.
    last: u64,
}

#[derive(Debug, Clone)]
struct Entry<K> {
    at: Instant,
    number: u64,
    key: K,
}

/// Cancelled entries that are not worth a clean-up.
const CANCELLED_MIN: usize = 64;

impl<K: Copy + Eq + Hash> TimerQueue<K> {
    pub fn new() -> Self {
        Self { heap: BinaryHeap::new(), live: HashMap::default(), last: 0 }
    }

    /// Sets the deadline of `key` to `at`, in the place of an earlier one.
    pub fn set(&mut self, key: K, at: Instant) {
        self.last += 1;
        self.live.insert(key, self.last);
        self.heap.push(Reverse(Entry { at, number: self.last, key }));
        self.clean_up();
    }

    /// Takes the deadline of `key` away; false if it had none.
    pub fn cancel(&mut self, key: &K) -> bool {
        let was_set = self.live.remove(key).is_some();
        self.clean_up();
        was_set
    }

    /// The earliest deadline.
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        loop {
            let Reverse(first) = self.heap.peek()?;
            if self.live.get(&first.key) == Some(&first.number) {
                return Some(first.at);
            }
            self.heap.pop();
        }
    }

    /// Takes out the key whose deadline came first, if that is not after `now`. To be called until `None`.
    pub fn expire(&mut self, now: Instant) -> Option<K> {
        if self.poll_timeout()? > now {
            return None;
        }
        let Reverse(entry) = self.heap.pop()?;
        self.live.remove(&entry.key);
        Some(entry.key)
    }

    pub fn contains(&self, key: &K) -> bool {
        self.live.contains_key(key)
    }

    pub fn len(&self) -> usize {
        self.live.len()
    }

    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    /// Keeps the heap at most twice as long as needed.
    fn clean_up(&mut self) {
        if self.heap.len() > 2 * self.live.len() + CANCELLED_MIN {
            let live = &self.live;
            self.heap.retain(|Reverse(entry)| live.get(&entry.key) == Some(&entry.number));
        }
    }
}

impl<K: Copy + Eq + Hash> Default for TimerQueue<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K> Ord for Entry<K> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

impl<K> PartialOrd for Entry<K> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<K> PartialEq for Entry<K> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<K> Eq for Entry<K> {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transaction::test_support::{settings, start};

    fn after(ms: u64) -> Instant {
        start() + Duration::from_millis(ms)
    }

    #[test]
    fn deadlines_expire_in_order_and_equal_ones_as_they_were_set() {
        let mut queue = TimerQueue::new();
        for (key, ms) in [(1, 30), (2, 10), (3, 20), (4, 10), (5, 10)] {
            queue.set(key, after(ms));
        }
        queue.set(2, after(10));
        assert_eq!(queue.poll_timeout(), Some(after(10)));
        assert_eq!(queue.expire(after(9)), None);
        let expired: Vec<_> = std::iter::from_fn(|| queue.expire(after(20))).collect();
        assert_eq!(expired, [4, 5, 2, 3]);
        assert_eq!((queue.len(), queue.poll_timeout()), (1, Some(after(30))));
    }

    #[test]
    fn a_moved_or_cancelled_deadline_does_not_expire() {
        let mut queue = TimerQueue::new();
        queue.set("moved", after(1));
        queue.set("cancelled", after(2));
        queue.set("moved", after(5));
        assert!(queue.cancel(&"cancelled"));
        assert!(!queue.cancel(&"cancelled"));
        assert!(queue.contains(&"moved"));
        assert_eq!(queue.poll_timeout(), Some(after(5)));
        assert_eq!(queue.expire(after(9)), Some("moved"));
        assert_eq!(queue.expire(after(9)), None);
        assert!(queue.is_empty());
    }

    #[test]
    fn what_was_cancelled_does_not_pile_up() {
        let mut queue = TimerQueue::new();
        queue.set(0, after(1));
        for round in 0..10_000 {
            queue.set(1 + round % 2, after(1_000 + round));
            if round % 3 == 0 {
                queue.cancel(&1);
            }
        }
        assert!(queue.heap.len() <= 2 * 3 + CANCELLED_MIN, "{}", queue.heap.len());
        assert_eq!(queue.expire(after(1)), Some(0));
    }

    /// RFC 3261 Annex A table 4, with the default T1, T2 and T4; in milliseconds.
    #[test]
    fn durations_are_those_of_the_table() {
        let settings = settings();
        for (timer, udp, tcp) in [
            (Timer::A, Some(500), None),
            (Timer::B, Some(32_000), Some(32_000)),
            (Timer::C, None, None),
            (Timer::D, Some(32_000), Some(0)),
            (Timer::E, Some(500), None),
            (Timer::F, Some(32_000), Some(32_000)),
            (Timer::G, Some(500), None),
            (Timer::H, Some(32_000), Some(32_000)),
            (Timer::I, Some(5_000), Some(0)),
            (Timer::J, Some(32_000), Some(0)),
            (Timer::K, Some(5_000), Some(0)),
            (Timer::L, Some(32_000), Some(32_000)),
            (Timer::M, Some(32_000), Some(32_000)),
        ] {
            assert_eq!(timer.duration(&settings, false, 0), udp.map(Duration::from_millis), "{timer:?} UDP");
            assert_eq!(timer.duration(&settings, true, 0), tcp.map(Duration::from_millis), "{timer:?} TCP");
        }
    }

    #[test]
    fn repetitions_double_up_to_t2_where_there_is_such_a_limit() {
        let runs = |timer: Timer| -> Vec<u128> {
            (0..6).map(|doublings| timer.duration(&settings(), false, doublings).unwrap().as_millis()).collect()
        };
        assert_eq!(runs(Timer::A), [500, 1_000, 2_000, 4_000, 8_000, 16_000]);
        assert_eq!(runs(Timer::E), [500, 1_000, 2_000, 4_000, 4_000, 4_000]);
        assert_eq!(runs(Timer::G), runs(Timer::E));
        let zero = Settings { t1: Duration::ZERO, ..settings() };
        assert!(Timer::A.duration(&zero, false, 255).unwrap() > Duration::ZERO);
    }
}
