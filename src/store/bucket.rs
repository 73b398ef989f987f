//! A device's push bucket: the calls it was pushed for and has not seen (design: push bucket and missed_calls).
//!
//! ```text
//!            hold                    settle Missed                claim, then reported
//!   (none) ───────► Live ──────────────────────────► Missed ────────────────────────────► (none)
//!                    └── settle Seen ──► (none) ◄── settle Seen ──┘
//! ```

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::change::{BucketEntry, EntryState, Settlement};
use crate::binding::DeviceId;
use crate::clock::UnixMillis;

/// A missed_calls push is on its way: nobody else is to send one until then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Claim {
    /// The node that sends it.
    pub(super) node: Arc<str>,
    /// Which start of that node: what a start before it claimed, nobody works on.
    pub(super) run: u64,
    /// A claim is open again then, whatever became of its node.
    pub(super) until: UnixMillis,
}

/// Who claims, and when.
#[derive(Debug, Clone)]
pub(super) struct Claimer {
    pub(super) node: Arc<str>,
    pub(super) run: u64,
    pub(super) now: UnixMillis,
    /// End of a claim made now.
    pub(super) until: UnixMillis,
}

impl Claimer {
    /// Whether somebody works on the claim, as far as can be known.
    fn must_wait_for(&self, claim: &Claim) -> bool {
        let is_left_over = claim.node == self.node && claim.run != self.run;
        !is_left_over && self.now < claim.until
    }

    /// The only node there is: nobody else can end its claims, and none outlives it.
    pub(super) fn alone() -> Self {
        Self { node: "".into(), run: 0, now: UnixMillis(0), until: UnixMillis(u64::MAX) }
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct Bucket {
    /// Oldest first, one per call_ref.
    entries: Vec<Arc<BucketEntry>>,
    /// A missed_calls push with its missed entries is on its way. Not kept on disk: after a crash a claim is open
    /// again, because a missed call is better reported twice than never. Nodes of one Redis see each other's.
    claim: Option<Claim>,
    /// Names that the device had while calls were held which are still live here: their settlement comes under
    /// these names.
    former: Vec<DeviceId>,
}

impl Bucket {
    pub(super) fn entries(&self) -> &[Arc<BucketEntry>] {
        &self.entries
    }

    pub(super) fn entry(&self, call_ref: &str) -> Option<&Arc<BucketEntry>> {
        self.entries.iter().find(|entry| &*entry.call_ref == call_ref)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// When the oldest entry's INVITE came.
    pub(super) fn oldest(&self) -> Option<UnixMillis> {
        self.entries.first().map(|entry| entry.invited_at)
    }

    /// An entry as the disk has it, whatever the limit.
    pub(super) fn load(&mut self, entry: Arc<BucketEntry>) {
        let place = self.entries.partition_point(|other| other.invited_at <= entry.invited_at);
        self.entries.insert(place, entry);
    }

    /// A call is about to be pushed. An earlier call of the same reference that was missed rings again, so that it
    /// is not reported while it does.
    pub(super) fn hold(&mut self, entry: Arc<BucketEntry>, most: usize) {
        match self.entry(&entry.call_ref) {
            Some(known) if known.state == EntryState::Live => return,
            Some(_) => self.entries.retain(|other| other.call_ref != entry.call_ref),
            None => {}
        }
        self.load(entry);
        self.trim(most);
    }

    pub(super) fn settle(&mut self, call_ref: &str, settlement: Settlement) {
        match settlement {
            Settlement::Seen => self.entries.retain(|entry| &*entry.call_ref != call_ref),
            Settlement::Missed => self.miss(|entry| &*entry.call_ref == call_ref),
        }
    }

    /// The process is a new one: only calls that are still held are live, and no claim is open.
    pub(super) fn restart(&mut self, is_held: impl Fn(&BucketEntry) -> bool) {
        self.miss(|entry| !is_held(entry));
        self.claim = None;
    }

    fn miss(&mut self, which: impl Fn(&BucketEntry) -> bool) {
        for entry in &mut self.entries {
            if entry.state == EntryState::Live && which(entry) {
                Arc::make_mut(entry).state = EntryState::Missed;
            }
        }
    }

    /// All missed entries, oldest first; none while another claim is open.
    pub(super) fn claim(&mut self, claimer: &Claimer) -> Vec<BucketEntry> {
        if self.claim.as_ref().is_some_and(|claim| claimer.must_wait_for(claim)) {
            return Vec::new();
        }
        let missed = self.entries.iter().filter(|entry| entry.state == EntryState::Missed);
        let missed: Vec<_> = missed.map(|entry| BucketEntry::clone(entry)).collect();
        self.claim = (!missed.is_empty()).then(|| Claim {
            node: Arc::clone(&claimer.node),
            run: claimer.run,
            until: claimer.until,
        });
        missed
    }

    /// Only missed entries go: a call that rings again since the claim was not reported by it.
    pub(super) fn reported(&mut self, call_refs: &[Box<str>], claimer: &Claimer) {
        self.entries.retain(|entry| entry.state == EntryState::Live || !call_refs.contains(&entry.call_ref));
        self.release(claimer);
    }

    /// Ends the claimer's own claim; one that another node has made since its end stays.
    pub(super) fn release(&mut self, claimer: &Claimer) {
        if self.claim.as_ref().is_some_and(|claim| (&claim.node, claim.run) == (&claimer.node, claimer.run)) {
            self.claim = None;
        }
    }

    pub(super) fn open_claim(&self) -> Option<&Claim> {
        self.claim.as_ref().filter(|_| !self.is_empty())
    }

    pub(super) fn load_claim(&mut self, claim: Option<Claim>) {
        self.claim = claim;
    }

    /// Puts one entry in the place of the one with its call_ref.
    pub(super) fn replace(&mut self, call_ref: &str, entry: Option<Arc<BucketEntry>>) {
        self.entries.retain(|other| &*other.call_ref != call_ref);
        if let Some(entry) = entry {
            self.load(entry);
        }
    }

    pub(super) fn set_former(&mut self, name: DeviceId, is_former: bool) {
        self.former.retain(|other| *other != name);
        if is_former {
            self.former.push(name);
        }
    }

    /// The same phone had the bucket `other` as `name`. A claim on it stays behind: its push goes to the old token,
    /// so the entries must be open for a claim under the new one.
    pub(super) fn inherit(&mut self, other: Self, name: DeviceId, most: usize) {
        for entry in other.entries {
            if self.entry(&entry.call_ref).is_none() {
                self.load(entry);
            }
        }
        self.former.extend(other.former);
        self.former.push(name);
        self.trim(most);
    }

    /// Drops what is as old as `cutoff` or older.
    pub(super) fn expire(&mut self, cutoff: UnixMillis) {
        self.entries.retain(|entry| entry.invited_at > cutoff);
    }

    pub(super) fn former(&self) -> &[DeviceId] {
        &self.former
    }

    /// Gives up the former names once no call can be settled under them.
    pub(super) fn retire_former(&mut self) {
        if !self.entries.iter().any(|entry| entry.state == EntryState::Live) {
            self.former.clear();
        }
    }

    /// Oldest out; live ones only when there is nothing else, because what becomes of them is still open.
    fn trim(&mut self, most: usize) {
        while self.entries.len() > most {
            let place = self.entries.iter().position(|entry| entry.state == EntryState::Missed).unwrap_or_default();
            self.entries.remove(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use EntryState::{Live, Missed};

    fn entry(call_ref: &str, at: u64) -> Arc<BucketEntry> {
        Arc::new(BucketEntry {
            call_ref: call_ref.into(),
            remote_uri: "2001".into(),
            display_name: "".into(),
            anonymous: false,
            invited_at: UnixMillis(at),
            state: Live,
        })
    }

    /// A bucket of (call_ref, time, state).
    fn bucket(entries: &[(&str, u64, EntryState)]) -> Bucket {
        let mut bucket = Bucket::default();
        for (call_ref, at, state) in entries {
            bucket.load(Arc::new(BucketEntry { state: *state, ..BucketEntry::clone(&entry(call_ref, *at)) }));
        }
        bucket
    }

    fn shown(bucket: &Bucket) -> Vec<(&str, EntryState)> {
        bucket.entries.iter().map(|entry| (&*entry.call_ref, entry.state)).collect()
    }

    #[test]
    fn settle_each_state() {
        for (before, settlement, after) in [
            (Some(Live), Settlement::Seen, None),
            (Some(Live), Settlement::Missed, Some(Missed)),
            (Some(Missed), Settlement::Seen, None),
            (Some(Missed), Settlement::Missed, Some(Missed)),
            (None, Settlement::Seen, None),
            (None, Settlement::Missed, None),
        ] {
            let mut bucket = bucket(&before.map(|state| ("a", 1, state)).into_iter().collect::<Vec<_>>());
            bucket.settle("a", settlement);
            assert_eq!(bucket.entry("a").map(|entry| entry.state), after, "{before:?} {settlement:?}");
        }
    }

    #[test]
    fn settle_leaves_other_calls() {
        let mut bucket = bucket(&[("a", 1, Live), ("b", 2, Live)]);
        bucket.settle("a", Settlement::Missed);
        assert_eq!(shown(&bucket), [("a", Missed), ("b", Live)]);
    }

    #[test]
    fn over_the_limit_the_oldest_goes_but_missed_before_live() {
        let mut bucket = bucket(&[("live", 1, Live), ("old", 2, Missed), ("young", 3, Missed)]);
        bucket.hold(entry("d", 4), 3);
        assert_eq!(shown(&bucket), [("live", Live), ("young", Missed), ("d", Live)]);
        bucket.hold(entry("e", 5), 3);
        assert_eq!(shown(&bucket), [("live", Live), ("d", Live), ("e", Live)]);
        bucket.hold(entry("f", 6), 3);
        assert_eq!(shown(&bucket), [("d", Live), ("e", Live), ("f", Live)]);
    }

    #[test]
    fn a_missed_call_that_rings_again_is_live() {
        let mut bucket = bucket(&[("a", 1, Missed), ("b", 2, Missed)]);
        bucket.hold(entry("a", 3), 9);
        assert_eq!(shown(&bucket), [("b", Missed), ("a", Live)]);
    }

    #[test]
    fn a_second_claim_gets_nothing_until_the_first_is_closed() {
        let mut bucket = bucket(&[("a", 1, Missed), ("b", 2, Live), ("c", 3, Missed)]);
        let refs =
            |claim: Vec<BucketEntry>| claim.into_iter().map(|entry| entry.call_ref.into()).collect::<Vec<String>>();
        assert_eq!(refs(bucket.claim(&Claimer::alone())), ["a", "c"]);
        assert!(bucket.claim(&Claimer::alone()).is_empty());
        bucket.release(&Claimer::alone());
        assert_eq!(refs(bucket.claim(&Claimer::alone())), ["a", "c"]);
        bucket.reported(&["a".into()], &Claimer::alone());
        assert_eq!(refs(bucket.claim(&Claimer::alone())), ["c"]);
    }

    #[test]
    fn an_empty_claim_is_not_open() {
        let mut bucket = bucket(&[("a", 1, Live)]);
        assert!(bucket.claim(&Claimer::alone()).is_empty());
        bucket.settle("a", Settlement::Missed);
        assert_eq!(bucket.claim(&Claimer::alone()).len(), 1);
    }

    #[test]
    fn a_report_does_not_take_a_call_that_rings_again() {
        let mut bucket = bucket(&[("a", 1, Missed)]);
        assert_eq!(bucket.claim(&Claimer::alone()).len(), 1);
        bucket.hold(entry("a", 2), 9);
        bucket.reported(&["a".into()], &Claimer::alone());
        assert_eq!(shown(&bucket), [("a", Live)]);
    }

    #[test]
    fn inherited_entries_are_in_order_once_and_unclaimed() {
        let mut old = bucket(&[("a", 1, Missed), ("b", 3, Live)]);
        assert_eq!(old.claim(&Claimer::alone()).len(), 1);
        let mut new = bucket(&[("b", 3, Missed), ("c", 2, Missed)]);
        new.inherit(old, DeviceId([1; 10]), 9);
        assert_eq!(shown(&new), [("a", Missed), ("c", Missed), ("b", Missed)]);
        assert_eq!(new.claim(&Claimer::alone()).len(), 3);
    }

    #[test]
    fn a_claim_lapses_and_only_its_claimer_ends_it() {
        let claimer = |node: &str, now, until| Claimer {
            node: node.into(),
            run: 1,
            now: UnixMillis(now),
            until: UnixMillis(until),
        };
        let mut bucket = bucket(&[("a", 1, Missed)]);
        assert_eq!(bucket.claim(&claimer("one", 10, 20)).len(), 1);
        assert!(bucket.claim(&claimer("other", 19, 29)).is_empty());
        bucket.release(&claimer("other", 19, 29));
        assert!(bucket.claim(&claimer("other", 19, 29)).is_empty());
        assert_eq!(bucket.claim(&claimer("other", 20, 30)).len(), 1, "its time is over");
        bucket.release(&claimer("one", 20, 30));
        assert!(bucket.claim(&claimer("one", 20, 30)).is_empty(), "the claim is another's now");
        let restarted = Claimer { run: 2, ..claimer("other", 21, 31) };
        assert_eq!(bucket.claim(&restarted).len(), 1, "an earlier start's claim is with nobody");
    }
}
