//! Sources that are shut out for a while, because they tried to log in too often in vain.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::RwLock;

use super::Source;
use crate::clock::{Now, UnixMillis};

/// Failures of a source count together for so long after the first of them.
const WINDOW: Duration = Duration::from_secs(60);
/// Sources whose failures are counted at one time; beyond that, those that failed first are forgotten.
const FAILING_MAX: usize = 65_536;
/// Bans at one time; beyond that, those that end first do so early.
const BANS_MAX: usize = 65_536;

/// A source that is shut out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ban {
    pub source: Source,
    /// What its last failure was.
    pub reason: &'static str,
    pub since: UnixMillis,
    pub until: UnixMillis,
    /// Those before the ban, and since.
    pub failures: u32,
}

/// Shared by all workers. While nobody is banned, asking costs one load.
#[derive(Debug, Default)]
pub(super) struct Bans {
    active: AtomicUsize,
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    failing: HashMap<Source, Failing>,
    /// In the order of their first failure; may name what `failing` no longer has.
    first_failed: VecDeque<(Source, Instant)>,
    banned: HashMap<Source, (Instant, Ban)>,
    /// Those of `banned`, by their end.
    ends: BTreeSet<(Instant, Source)>,
}

#[derive(Debug)]
struct Failing {
    first: Instant,
    failures: u32,
}

impl Bans {
    /// A failure more. The ban that it leads to, if it is the `failures_max`-th within a minute.
    pub(super) fn failed(
        &self,
        source: Source,
        reason: &'static str,
        failures_max: u32,
        length: Duration,
        now: Now,
    ) -> Option<Ban> {
        let mut state = self.state.write();
        state.expire(now.instant);
        let ban = state.failed(source, reason, failures_max, now).map(|failures| {
            let ban = Ban { source, reason, since: now.unix, until: now.unix.after(length), failures };
            state.ban(ban.clone(), now.instant + length);
            ban
        });
        self.active.store(state.banned.len(), Ordering::Relaxed);
        ban
    }

    /// So many failures were none. A ban that they led to stays.
    pub(super) fn take_back(&self, source: Source, failures: u32) {
        let mut state = self.state.write();
        if let Some(failing) = state.failing.get_mut(&source) {
            failing.failures = failing.failures.saturating_sub(failures);
        }
    }

    pub(super) fn is_banned(&self, source: Source, now: Instant) -> bool {
        self.active.load(Ordering::Relaxed) > 0
            && self.state.read().banned.get(&source).is_some_and(|(until, _)| now < *until)
    }

    /// Those that hold, the oldest first.
    pub(super) fn list(&self, now: Instant) -> Vec<Ban> {
        let state = self.state.read();
        let mut bans: Vec<_> = state
            .ends
            .iter()
            .filter(|(until, _)| now < *until)
            .filter_map(|(_, source)| state.ban_of(*source))
            .collect();
        bans.sort_by_key(|ban| (ban.since, ban.source));
        bans
    }

    pub(super) fn len(&self, now: Instant) -> usize {
        self.state.read().ends.iter().rev().take_while(|(until, _)| now < *until).count()
    }

    /// Lets a source in again, with a clean slate; false when it was not banned.
    pub(super) fn remove(&self, source: Source, now: Instant) -> bool {
        let mut state = self.state.write();
        state.expire(now);
        state.failing.remove(&source);
        let is_removed = state.lift(source);
        self.active.store(state.banned.len(), Ordering::Relaxed);
        is_removed
    }

    /// Forgets what is over, so that asking costs one load again. To be called now and then.
    pub(super) fn expire(&self, now: Instant) {
        if self.active.load(Ordering::Relaxed) > 0 {
            let mut state = self.state.write();
            state.expire(now);
            self.active.store(state.banned.len(), Ordering::Relaxed);
        }
    }
}

impl State {
    /// How many failures are one too many, if they are.
    fn failed(&mut self, source: Source, reason: &'static str, failures_max: u32, now: Now) -> Option<u32> {
        if let Some((_, ban)) = self.banned.get_mut(&source) {
            ban.failures = ban.failures.saturating_add(1);
            ban.reason = reason;
            return None;
        }
        let failing = self.failing.entry(source).or_insert_with(|| {
            self.first_failed.push_back((source, now.instant));
            Failing { first: now.instant, failures: 0 }
        });
        failing.failures = failing.failures.saturating_add(1);
        let failures = failing.failures;
        if self.first_failed.len() > FAILING_MAX {
            self.forget_first();
        }
        if failures < failures_max {
            return None;
        }
        self.failing.remove(&source);
        Some(failures)
    }

    fn ban(&mut self, ban: Ban, until: Instant) {
        if self.banned.len() >= BANS_MAX
            && let Some((_, source)) = self.ends.pop_first()
        {
            self.banned.remove(&source);
        }
        self.ends.insert((until, ban.source));
        self.banned.insert(ban.source, (until, ban));
    }

    fn lift(&mut self, source: Source) -> bool {
        let Some((until, _)) = self.banned.remove(&source) else { return false };
        self.ends.remove(&(until, source))
    }

    fn ban_of(&self, source: Source) -> Option<Ban> {
        self.banned.get(&source).map(|(_, ban)| ban.clone())
    }

    fn expire(&mut self, now: Instant) {
        while let Some((until, source)) = self.ends.first().copied().filter(|(until, _)| *until <= now) {
            self.ends.remove(&(until, source));
            self.banned.remove(&source);
        }
        while self.first_failed.front().is_some_and(|(_, first)| now.saturating_duration_since(*first) >= WINDOW) {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        let Some((source, first)) = self.first_failed.pop_front() else { return };
        if self.failing.get(&source).is_some_and(|failing| failing.first == first) {
            self.failing.remove(&source);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{after, source};
    use super::*;

    const LENGTH: Duration = Duration::from_secs(300);

    /// A failure of source `number`, `ms` after the start; three are too many.
    fn fails(bans: &Bans, number: u32, ms: u64) -> Option<Ban> {
        bans.failed(source(number), "wrong password", 3, LENGTH, after(ms))
    }

    fn is_banned(bans: &Bans, number: u32, ms: u64) -> bool {
        bans.is_banned(source(number), after(ms).instant)
    }

    #[test]
    fn too_many_failures_within_a_minute() {
        let bans = Bans::default();
        assert_eq!((fails(&bans, 1, 0), fails(&bans, 1, 30_000), fails(&bans, 2, 30_000)), (None, None, None));
        let ban = fails(&bans, 1, 59_999).unwrap();
        let (since, until) = (after(59_999).unix, after(359_999).unix);
        assert_eq!(ban, Ban { source: source(1), reason: "wrong password", since, until, failures: 3 });
        assert!(is_banned(&bans, 1, 60_000) && !is_banned(&bans, 2, 60_000));
        assert_eq!(bans.list(after(60_000).instant), std::slice::from_ref(&ban));
        // What fails while it is banned is no second ban.
        assert_eq!(fails(&bans, 1, 61_000), None);
        assert_eq!(bans.list(after(61_000).instant), [Ban { failures: 4, ..ban }]);
    }

    #[test]
    fn failures_of_a_minute_ago_are_forgotten() {
        let bans = Bans::default();
        assert!((0..30).all(|number| fails(&bans, 1, number * 30_000).is_none()));
        assert!(bans.list(after(900_000).instant).is_empty());
    }

    #[test]
    fn what_was_no_failure_is_taken_back() {
        let bans = Bans::default();
        assert_eq!((fails(&bans, 1, 0), fails(&bans, 1, 0)), (None, None));
        bans.take_back(source(1), 1);
        bans.take_back(source(2), 1);
        assert_eq!(fails(&bans, 1, 0), None);
        assert!(fails(&bans, 1, 0).is_some());
        bans.take_back(source(1), 9);
        assert!(is_banned(&bans, 1, 0));
    }

    #[test]
    fn a_ban_ends_by_itself() {
        let bans = Bans::default();
        let ban = (0..3).find_map(|_| fails(&bans, 1, 0)).unwrap();
        assert_eq!(ban.until, after(0).unix.after(LENGTH));
        assert!(is_banned(&bans, 1, 299_999) && !is_banned(&bans, 1, 300_000));
        assert_eq!((bans.len(after(299_999).instant), bans.len(after(300_000).instant)), (1, 0));
        assert!(bans.list(after(300_000).instant).is_empty());
        bans.expire(after(300_000).instant);
        assert_eq!(bans.active.load(Ordering::Relaxed), 0);
        assert!(bans.state.read().banned.is_empty());
    }

    #[test]
    fn the_operator_lifts_a_ban_with_a_clean_slate() {
        let bans = Bans::default();
        assert_eq!((0..3).filter_map(|_| fails(&bans, 1, 0)).count(), 1);
        assert!(bans.remove(source(1), after(1).instant));
        assert!(!bans.remove(source(1), after(1).instant));
        assert!(!is_banned(&bans, 1, 1));
        assert_eq!((fails(&bans, 1, 2), fails(&bans, 1, 2)), (None, None));
        assert!(!bans.remove(source(1), after(3).instant));
        assert_eq!((fails(&bans, 1, 4), fails(&bans, 1, 4)), (None, None));
    }

    #[test]
    fn a_flood_of_sources_takes_no_more_memory() {
        let bans = Bans::default();
        let many = u32::try_from(FAILING_MAX).unwrap() + 10;
        assert!((0..many).all(|number| fails(&bans, number, 0).is_none()));
        let state = bans.state.read();
        assert_eq!((state.failing.len(), state.first_failed.len()), (FAILING_MAX, FAILING_MAX));
        drop(state);
        let ban = |number: u32| bans.failed(source(number), "x", 1, LENGTH, after(u64::from(number)));
        assert!((0..many).all(|number| ban(number).is_some()));
        let state = bans.state.read();
        assert_eq!((state.banned.len(), state.ends.len()), (BANS_MAX, BANS_MAX));
        assert!(state.first_failed.len() <= FAILING_MAX);
        drop(state);
        assert!(!is_banned(&bans, 0, 70_000) && is_banned(&bans, many - 1, 70_000));
    }
}
