//! What happened to the last calls, step by step with reasons: why a phone did or did not ring.
//!
//! Kept in memory only and bounded on all sides, so that it can be written to on every call.

mod reason;
mod written;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::binding::{Aor, DeviceId};
use crate::clock::UnixMillis;
use crate::metrics::Outcome;

pub use reason::{Reason, Why};

/// Something that happened to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    Received,
    DeviceFound,
    DeviceSkipped,
    Held,
    PushSent,
    PushAccepted,
    PushRefused,
    PushRetried,
    Registered,
    Forwarded,
    Ringing,
    Answered,
    Rejected,
    Cancelled,
    NoReturn,
    Expired,
    Failed,
    Missed,
    MissedReported,
}

impl Step {
    const ALL: [Self; 19] = [
        Self::Received,
        Self::DeviceFound,
        Self::DeviceSkipped,
        Self::Held,
        Self::PushSent,
        Self::PushAccepted,
        Self::PushRefused,
        Self::PushRetried,
        Self::Registered,
        Self::Forwarded,
        Self::Ringing,
        Self::Answered,
        Self::Rejected,
        Self::Cancelled,
        Self::NoReturn,
        Self::Expired,
        Self::Failed,
        Self::Missed,
        Self::MissedReported,
    ];

    /// The step with this name.
    fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|step| step.name() == name)
    }

    /// As in the operator's view.
    pub fn name(self) -> &'static str {
        match self {
            Self::Received => "received",
            Self::DeviceFound => "device_found",
            Self::DeviceSkipped => "device_skipped",
            Self::Held => "held",
            Self::PushSent => "push_sent",
            Self::PushAccepted => "push_accepted",
            Self::PushRefused => "push_refused",
            Self::PushRetried => "push_retried",
            Self::Registered => "registered",
            Self::Forwarded => "forwarded",
            Self::Ringing => "ringing",
            Self::Answered => "answered",
            Self::Rejected => "rejected",
            Self::Cancelled => "cancelled",
            Self::NoReturn => "no_return",
            Self::Expired => "expired",
            Self::Failed => "failed",
            Self::Missed => "missed",
            Self::MissedReported => "missed_reported",
        }
    }
}

/// A [`Step`] with its circumstances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub at: UnixMillis,
    pub step: Step,
    pub device: Option<DeviceId>,
    pub detail: Box<str>,
    pub why: Option<Why>,
    /// What the push service calls the push that this is about: its support can say what became of it.
    pub push_id: Option<Box<str>>,
    /// Which node it happened on; `None`: this one.
    pub node: Option<Arc<str>>,
}

/// What there is to say of a [`Step`] beside whom it is about.
#[derive(Debug, Clone, Copy, Default)]
pub struct Detail<'a> {
    pub text: &'a str,
    /// As in [`Event`].
    pub push_id: Option<&'a str>,
}

impl<'a> From<&'a str> for Detail<'a> {
    fn from(text: &'a str) -> Self {
        Self { text, push_id: None }
    }
}

/// One call's story so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    pub call_ref: Arc<str>,
    /// Call-ID of its messages, where that is not its call_ref.
    pub call_id: Option<Box<str>>,
    /// Whom it is for; `None` where only its end was heard of.
    pub aor: Option<Aor>,
    /// `None`: it goes on.
    pub outcome: Option<Outcome>,
    /// Oldest first.
    pub events: Vec<Event>,
    /// Events from the middle that are not kept.
    pub left_out: u32,
}

/// The last calls, by call_ref.
#[derive(Debug)]
pub struct Timeline {
    calls: Mutex<Calls>,
    capacity: usize,
}

#[derive(Debug, Default)]
struct Calls {
    /// Shared, so that whoever shows them holds the lock only for a moment.
    by_ref: HashMap<Arc<str>, Arc<Call>>,
    /// Oldest first.
    order: VecDeque<Arc<str>>,
    changed: Changed,
}

/// Calls of which the store does not have the last word: each once, those that have waited longest first.
#[derive(Debug, Default)]
struct Changed {
    waiting: HashSet<Arc<str>>,
    order: VecDeque<Arc<str>>,
    /// With more of them than that the oldest are not written any more. 0: nobody writes.
    most: usize,
}

impl Changed {
    fn add(&mut self, call_ref: &Arc<str>) {
        if self.most == 0 {
            return;
        }
        if self.waiting.insert(Arc::clone(call_ref)) {
            self.order.push_back(Arc::clone(call_ref));
        }
        if self.order.len() > self.most
            && let Some(oldest) = self.order.pop_front()
        {
            self.waiting.remove(&oldest);
        }
    }

    fn take(&mut self) -> Option<Arc<str>> {
        let call_ref = self.order.pop_front()?;
        self.waiting.remove(&call_ref);
        Some(call_ref)
    }
}

impl Default for Timeline {
    fn default() -> Self {
        Self::new(Self::CALLS)
    }
}

impl Timeline {
    /// Calls that are remembered unless configured otherwise.
    pub const CALLS: usize = 10_000;
    /// Events of one call; from the middle of longer stories some are left out.
    pub const EVENTS_PER_CALL: usize = 64;
    /// Bytes of a call_ref, a detail or a reason; more is cut off.
    const TEXT_BYTES: usize = 256;

    /// Remembers the last `capacity` calls.
    pub fn new(capacity: usize) -> Self {
        Self { calls: Mutex::default(), capacity: capacity.max(1) }
    }

    /// The same for one whose changes are written to a store ([`Timeline::take_changed`]).
    #[must_use]
    pub fn kept(self) -> Self {
        // Those that are to be written, and those that are to be forgotten.
        self.calls.lock().changed.most = self.capacity.saturating_mul(2);
        self
    }

    /// Up to `limit` calls that have changed since they were last taken; `None` for one that is not remembered any more.
    pub fn take_changed(&self, limit: usize) -> Vec<(Arc<str>, Option<Arc<Call>>)> {
        let mut calls = self.calls.lock();
        let taken: Vec<_> = std::iter::from_fn(|| calls.changed.take()).take(limit).collect();
        let now = |call_ref: Arc<str>| (Arc::clone(&call_ref), calls.by_ref.get(&call_ref).cloned());
        taken.into_iter().map(now).collect()
    }

    /// These could not be written.
    pub fn change_again(&self, call_refs: impl IntoIterator<Item = Arc<str>>) {
        let mut calls = self.calls.lock();
        call_refs.into_iter().for_each(|call_ref| calls.changed.add(&call_ref));
    }

    /// Remembers a call of an earlier start.
    pub fn put(&self, call: Call) {
        let mut calls = self.calls.lock();
        if calls.order.len() < self.capacity {
            calls.order.push_back(Arc::clone(&call.call_ref));
            calls.by_ref.insert(Arc::clone(&call.call_ref), Arc::new(call));
        }
    }

    /// A call for a user comes. One of the same call_ref that is over goes on.
    pub fn begin(&self, call_ref: &str, call_id: &str, aor: &Aor) {
        self.with_call(call_ref, |call| {
            call.call_id = (call_id != call_ref).then(|| cut(call_id).into());
            call.aor = Some(aor.clone());
            call.outcome = None;
        });
    }

    /// Adds a step to a call, which begins with its first one.
    pub fn record<'a>(
        &self,
        call_ref: &str,
        at: UnixMillis,
        step: Step,
        device: Option<DeviceId>,
        detail: impl Into<Detail<'a>>,
        why: Option<&Why>,
    ) {
        let Detail { text, push_id } = detail.into();
        let why = why.map(|Why { reason, words }| Why::new(*reason, cut(words).to_owned()));
        let push_id = push_id.map(|id| cut(id).into());
        let event = Event { at, step, device, detail: cut(text).into(), why, push_id, node: None };
        self.with_call(call_ref, |call| {
            if call.events.len() >= Self::EVENTS_PER_CALL {
                call.events.remove(Self::EVENTS_PER_CALL / 2);
                call.left_out = call.left_out.saturating_add(1);
            }
            call.events.push(event);
        });
    }

    /// Forgets calls of which nothing was heard since `before`.
    pub fn forget(&self, before: UnixMillis) {
        let mut calls = self.calls.lock();
        let Calls { by_ref, order, changed } = &mut *calls;
        let is_old = |call: &Arc<Call>| call.events.last().is_none_or(|event| event.at < before);
        // By their beginnings: one that was heard of lately keeps those after it a little longer.
        while order.front().is_some_and(|call_ref| by_ref.get(call_ref).is_none_or(is_old)) {
            let Some(call_ref) = order.pop_front() else { break };
            by_ref.remove(&call_ref);
            changed.add(&call_ref);
        }
    }

    /// Says how a call ended.
    pub fn end(&self, call_ref: &str, outcome: Outcome) {
        self.with_call(call_ref, |call| call.outcome = Some(outcome));
    }

    /// One call; `None` when it is not remembered.
    pub fn call(&self, call_ref: &str) -> Option<Arc<Call>> {
        self.calls.lock().by_ref.get(cut(call_ref)).cloned()
    }

    /// Call-ID of a call's messages; `None`: as its call_ref, or not remembered.
    pub fn call_id(&self, call_ref: &str) -> Option<Box<str>> {
        self.calls.lock().by_ref.get(cut(call_ref))?.call_id.clone()
    }

    /// The last `limit` calls, newest first.
    pub fn calls(&self, limit: usize) -> Vec<Arc<Call>> {
        let calls = self.calls.lock();
        calls.order.iter().rev().take(limit).filter_map(|call_ref| calls.by_ref.get(call_ref).cloned()).collect()
    }

    /// The last `limit` calls for a user, newest first.
    pub fn calls_for(&self, aor: &Aor, limit: usize) -> Vec<Arc<Call>> {
        let calls = self.calls.lock();
        let newest = calls.order.iter().rev().filter_map(|call_ref| calls.by_ref.get(call_ref));
        newest.filter(|call| call.aor.as_ref() == Some(aor)).take(limit).cloned().collect()
    }

    fn with_call(&self, call_ref: &str, change: impl FnOnce(&mut Call)) {
        let call_ref = cut(call_ref);
        let mut calls = self.calls.lock();
        let Calls { by_ref, order, changed } = &mut *calls;
        if let Some(call) = by_ref.get_mut(call_ref) {
            changed.add(&call.call_ref);
            return change(Arc::make_mut(call));
        }
        if order.len() >= self.capacity
            && let Some(oldest) = order.pop_front()
        {
            by_ref.remove(&oldest);
            changed.add(&oldest);
        }
        let call_ref: Arc<str> = call_ref.into();
        let mut call = Call {
            call_ref: Arc::clone(&call_ref),
            call_id: None,
            aor: None,
            outcome: None,
            events: Vec::new(),
            left_out: 0,
        };
        change(&mut call);
        changed.add(&call_ref);
        order.push_back(Arc::clone(&call_ref));
        by_ref.insert(call_ref, Arc::new(call));
    }
}

/// As much of a text as is kept.
pub fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(Timeline::TEXT_BYTES)).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(timeline: &Timeline, call_ref: &str, at: u64, step: Step) {
        timeline.record(call_ref, UnixMillis(at), step, None, "", None);
    }

    #[test]
    fn tells_a_call_in_order() {
        let timeline = Timeline::default();
        record(&timeline, "a", 1, Step::Received);
        record(&timeline, "b", 2, Step::Received);
        timeline.record("a", UnixMillis(3), Step::PushRefused, Some(DeviceId([1; 10])), "fcm", None);
        timeline.end("a", Outcome::PushFailed);
        let call = timeline.call("a").unwrap();
        assert_eq!(call.events.iter().map(|event| event.step).collect::<Vec<_>>(), [Step::Received, Step::PushRefused]);
        assert_eq!(call.outcome, Some(Outcome::PushFailed));
        assert_eq!(timeline.call("c"), None);
        assert_eq!(timeline.calls(9).iter().map(|call| &*call.call_ref).collect::<Vec<_>>(), ["b", "a"]);
    }

    #[test]
    fn finds_the_calls_for_a_user() {
        let timeline = Timeline::default();
        let alice = Aor::new("alice", "h");
        for (call_ref, user) in [("a", "alice"), ("b", "bob"), ("c", "alice")] {
            timeline.begin(call_ref, "c@h", &Aor::new(user, "h"));
        }
        timeline.end("a", Outcome::NoReturn);
        timeline.begin("a", "d@h", &alice);
        assert_eq!((timeline.call_id("a").as_deref(), timeline.call_id("z")), (Some("d@h"), None));
        timeline.begin("a", "a", &alice);
        assert_eq!(timeline.call_id("a"), None);
        let refs = |limit| timeline.calls_for(&alice, limit).iter().map(|call| call.call_ref.to_string()).collect();
        assert_eq!((refs(9), refs(1)), (vec!["c".to_owned(), "a".to_owned()], vec!["c".to_owned()]));
        assert_eq!(timeline.call("a").unwrap().outcome, None, "it rings again");
    }

    #[test]
    fn what_has_changed_is_taken_once_and_what_is_forgotten_too() {
        let timeline = Timeline::new(2).kept();
        for call_ref in ["a", "b", "a", "c"] {
            record(&timeline, call_ref, 1, Step::Received);
        }
        let taken = |limit| {
            let taken = timeline.take_changed(limit);
            taken.iter().map(|(call_ref, call)| (call_ref.to_string(), call.is_some())).collect::<Vec<_>>()
        };
        let [a, b, c] = [("a", false), ("b", true), ("c", true)].map(|(name, is_kept)| (name.to_owned(), is_kept));
        assert_eq!(taken(2), [a, b.clone()]);
        timeline.change_again(["b".into()]);
        assert_eq!(taken(9), [c, b]);
        assert_eq!(taken(9), []);
        (0..9).for_each(|number| record(&timeline, &number.to_string(), 2, Step::Received));
        assert_eq!(taken(9).len(), 4, "those that have waited longest are given up");
        let nobody_writes = Timeline::new(2);
        record(&nobody_writes, "a", 1, Step::Received);
        assert_eq!(nobody_writes.take_changed(9).len(), 0);
    }

    #[test]
    fn forgets_the_oldest_call() {
        let timeline = Timeline::new(2);
        for call_ref in ["a", "b", "a", "c"] {
            record(&timeline, call_ref, 1, Step::Received);
        }
        assert_eq!(timeline.calls(9).iter().map(|call| &*call.call_ref).collect::<Vec<_>>(), ["c", "b"]);
    }

    #[test]
    fn forgets_calls_of_long_ago() {
        let timeline = Timeline::default();
        for (call_ref, at) in [("a", 1), ("b", 5), ("c", 9), ("a", 3), ("b", 8)] {
            record(&timeline, call_ref, at, Step::Received);
        }
        let refs = || timeline.calls(9).iter().map(|call| call.call_ref.to_string()).collect::<Vec<_>>();
        timeline.forget(UnixMillis(3));
        assert_eq!(refs(), ["c", "b", "a"]);
        timeline.forget(UnixMillis(8));
        assert_eq!((refs(), timeline.call("a")), (vec!["c".to_owned(), "b".to_owned()], None));
        timeline.forget(UnixMillis(10));
        assert_eq!(refs(), [""; 0]);
    }

    #[test]
    fn keeps_beginning_and_end_of_a_long_story() {
        let timeline = Timeline::new(1);
        for at in 0..100 {
            record(&timeline, "a", at, Step::PushRetried);
        }
        let call = timeline.call("a").unwrap();
        assert_eq!(call.events.len(), Timeline::EVENTS_PER_CALL);
        assert_eq!(call.left_out, 36);
        let at = |index: usize| call.events[index].at.0;
        assert_eq!((at(0), at(31), at(63)), (0, 31, 99));
    }

    #[test]
    fn cuts_long_texts_between_characters() {
        let timeline = Timeline::new(1);
        let long = "é".repeat(300);
        timeline.record(
            &long,
            UnixMillis(1),
            Step::Failed,
            None,
            &*long,
            Some(&Why::new(Reason::StoreFailed, long.clone())),
        );
        let call = timeline.call(&long).unwrap();
        let words = call.events[0].why.as_ref().unwrap().words.len();
        assert_eq!((call.call_ref.len(), call.events[0].detail.len(), words), (256, 256, 256));
    }
}
