//! The last hour in numbers: how far calls that were held came, what the push services said, how fast phones woke.
//!
//! A ring of minutes in memory, of one size whatever happens; what is older falls out of it.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;

use crate::binding::Provider;
use crate::clock::UnixMillis;
use crate::metrics::{Outcome, PushResult};
use crate::timeline::{Call, Step, cut};

/// Minutes that are looked back, the present one among them.
const MINUTES: u64 = 60;
/// Milliseconds; more than the longest wait. What is longer counts as this.
const LONGEST_MS: u64 = (1 << 18) - 1;

/// Shared between those who count and the operator's view.
#[derive(Debug)]
pub struct Summary {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// By minute, modulo their number.
    slots: Vec<Slot>,
    last_refusals: BTreeMap<Provider, Refusal>,
}

#[derive(Debug, Clone)]
struct Slot {
    minute: u64,
    calls: Calls,
    providers: [Pushes; Provider::ALL.len()],
}

impl Slot {
    fn new(minute: u64) -> Self {
        Self { minute, calls: Calls::default(), providers: Default::default() }
    }
}

/// Calls that were held and have ended, by how far they came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Calls {
    pub held: u64,
    /// A push service took a push for them.
    pub push_accepted: u64,
    /// A phone came back while they waited.
    pub woken: u64,
    pub answered: u64,
}

/// What came of pushes of one kind of push service, and of the phones that they were to wake.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pushes {
    pub accepted: u64,
    /// Attempts that did not get through, for whatever reason.
    pub refused: u64,
    wakes: Wakes,
}

/// Why a push did not get through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub at: UnixMillis,
    pub result: PushResult,
    /// In the push service's words, or ours.
    pub reason: Box<str>,
}

/// The last hour, up to the minute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hour {
    pub calls: Calls,
    /// In the order of [`Provider::ALL`], with the last refusal, however long ago.
    pub providers: Vec<(Provider, Pushes, Option<Refusal>)>,
}

impl Default for Summary {
    fn default() -> Self {
        let slots = (0..MINUTES).map(Slot::new).collect();
        Self { state: Mutex::new(State { slots, last_refusals: BTreeMap::new() }) }
    }
}

impl Summary {
    /// What the window spans.
    pub const SPAN: Duration = Duration::from_secs(MINUTES * 60);

    /// A call ended, and this is its story. It counts if it was held.
    pub fn ended(&self, call: &Call, now: UnixMillis) {
        // A call that comes again under the same call_ref begins with a step of its own.
        let start = call.events.iter().rposition(|event| event.step == Step::Received).unwrap_or_default();
        let has = |step| call.events.iter().skip(start).any(|event| event.step == step);
        // One that was taken up after a restart is pushed again, and was held before.
        if !has(Step::Held) && !has(Step::PushSent) {
            return;
        }
        self.count(now, |slot| {
            slot.calls.add(Calls {
                held: 1,
                push_accepted: has(Step::PushAccepted).into(),
                woken: has(Step::Registered).into(),
                answered: (call.outcome == Some(Outcome::Answered)).into(),
            });
        });
    }

    /// A push came to this. One that was called off is no news of its push service.
    pub fn pushed(&self, provider: Provider, result: PushResult, reason: &str, now: UnixMillis) {
        match result {
            PushResult::Withdrawn => {}
            PushResult::Accepted => self.count_pushes(provider, now, |pushes| pushes.accepted += 1),
            PushResult::TokenDead
            | PushResult::TryAgain
            | PushResult::Refused
            | PushResult::Limited
            | PushResult::Busy
            | PushResult::Skipped => {
                self.count_pushes(provider, now, |pushes| pushes.refused += 1);
                let refusal = Refusal { at: now, result, reason: cut(reason).into() };
                self.state.lock().last_refusals.insert(provider, refusal);
            }
        }
    }

    /// A phone registered `after` its push had been accepted.
    pub fn woken(&self, provider: Provider, after: Duration, now: UnixMillis) {
        self.count_pushes(provider, now, |pushes| pushes.wakes.add(after));
    }

    /// The hour that ends `now`.
    pub fn hour(&self, now: UnixMillis) -> Hour {
        let state = self.state.lock();
        let minute = minute(now);
        let mut sum = Slot::new(minute);
        // A clock that was set back leaves slots of the future; they are no part of the last hour.
        for slot in state.slots.iter().filter(|slot| slot.minute <= minute && minute - slot.minute < MINUTES) {
            sum.calls.add(slot.calls);
            for (sum, pushes) in sum.providers.iter_mut().zip(&slot.providers) {
                sum.accepted += pushes.accepted;
                sum.refused += pushes.refused;
                sum.wakes.merge(&pushes.wakes);
            }
        }
        let providers = Provider::ALL.into_iter().zip(sum.providers);
        let with_refusal = |(provider, pushes)| (provider, pushes, state.last_refusals.get(&provider).cloned());
        Hour { calls: sum.calls, providers: providers.map(with_refusal).collect() }
    }

    fn count_pushes(&self, provider: Provider, now: UnixMillis, count: impl FnOnce(&mut Pushes)) {
        self.count(now, |slot| {
            if let Some(pushes) = slot.providers.get_mut(provider as usize) {
                count(pushes);
            }
        });
    }

    fn count(&self, now: UnixMillis, count: impl FnOnce(&mut Slot)) {
        let minute = minute(now);
        let mut state = self.state.lock();
        let index = usize::try_from(minute % MINUTES).unwrap_or_default();
        let Some(slot) = state.slots.get_mut(index) else { return };
        if slot.minute != minute {
            *slot = Slot::new(minute);
        }
        count(slot);
    }
}

impl Calls {
    fn add(&mut self, other: Self) {
        self.held += other.held;
        self.push_accepted += other.push_accepted;
        self.woken += other.woken;
        self.answered += other.answered;
    }
}

impl Pushes {
    /// How many phones woke.
    pub fn wakes(&self) -> u64 {
        self.wakes.0.values().sum()
    }

    /// The time in which `percent` of the phones woke, at most an eighth too long; `None` when none did.
    pub fn wake_time(&self, percent: u64) -> Option<Duration> {
        let rank = (self.wakes() * percent).div_ceil(100).max(1);
        let mut counted = 0;
        let reached = self.wakes.0.iter().find(|(_, count)| {
            counted += **count;
            counted >= rank
        });
        reached.map(|(bucket, _)| Duration::from_millis(bucket_end(*bucket)))
    }
}

/// How many phones woke in which time, by [`bucket`]: 128 at most, and most minutes see few of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Wakes(BTreeMap<u32, u64>);

impl Wakes {
    fn add(&mut self, after: Duration) {
        let millis = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        *self.0.entry(bucket(millis)).or_default() += 1;
    }

    fn merge(&mut self, other: &Self) {
        for (bucket, count) in &other.0 {
            *self.0.entry(*bucket).or_default() += count;
        }
    }
}

fn minute(now: UnixMillis) -> u64 {
    now.seconds() / 60
}

/// Times below 16 ms have a bucket each; above, the four leading bits decide.
fn bucket(millis: u64) -> u32 {
    let millis = millis.min(LONGEST_MS);
    let shift = (u64::BITS - millis.leading_zeros()).saturating_sub(4);
    let leading = u32::try_from(millis >> shift).unwrap_or_default();
    shift * 8 + leading
}

/// The longest time of a bucket.
fn bucket_end(bucket: u32) -> u64 {
    let shift = (bucket / 8).saturating_sub(1);
    ((u64::from(bucket - shift * 8) + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timeline::Timeline;

    const HOUR: u64 = 3_600_000;
    const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

    fn pushes(summary: &Summary, provider: Provider, now: UnixMillis) -> (Pushes, Option<Refusal>) {
        let found = summary.hour(now).providers.into_iter().find(|(each, ..)| *each == provider);
        found.map(|(_, pushes, refusal)| (pushes, refusal)).unwrap()
    }

    fn end(summary: &Summary, steps: &[Step], outcome: Outcome) {
        let timeline = Timeline::new(1);
        for step in steps {
            timeline.record("x", NOW, *step, None, "", None);
        }
        timeline.end("x", outcome);
        summary.ended(&timeline.call("x").unwrap(), NOW);
    }

    #[test]
    fn calls_count_as_far_as_they_came() {
        use Step::{Held, PushAccepted, PushSent, Received, Registered};
        let summary = Summary::default();
        end(&summary, &[Received], Outcome::Answered);
        end(&summary, &[Received, Held, PushSent], Outcome::Cancelled);
        end(&summary, &[Received, Held, PushSent, PushAccepted], Outcome::NoReturn);
        end(&summary, &[Received, Held, PushSent, PushAccepted, Registered], Outcome::Rejected);
        end(&summary, &[Received, Held, PushSent, PushAccepted, Registered], Outcome::Answered);
        // The second call of the same name.
        end(&summary, &[Received, Held, PushAccepted, Registered, Received, Held], Outcome::NoReturn);
        let expected = Calls { held: 5, push_accepted: 3, woken: 2, answered: 1 };
        assert_eq!(summary.hour(NOW).calls, expected);
    }

    #[test]
    fn what_is_older_than_an_hour_falls_out() {
        let summary = Summary::default();
        for at in [0, 59_000, HOUR / 2, HOUR + 60_000] {
            summary.pushed(Provider::Fcm, PushResult::Accepted, "", UnixMillis(NOW.0 + at));
        }
        let accepted = |at| pushes(&summary, Provider::Fcm, UnixMillis(NOW.0 + at)).0.accepted;
        assert_eq!((accepted(HOUR + 60_000), accepted(HOUR + HOUR / 2 + 60_000), accepted(3 * HOUR)), (2, 1, 0));
        // Before all of them, as after a clock was set back.
        assert_eq!(pushes(&summary, Provider::Fcm, UnixMillis(NOW.0 - HOUR)).0.accepted, 0);
    }

    #[test]
    fn last_refusal_stays() {
        let summary = Summary::default();
        summary.pushed(Provider::Apns, PushResult::TokenDead, "410 Unregistered", NOW);
        summary.pushed(Provider::Apns, PushResult::Withdrawn, "", UnixMillis(NOW.0 + 1));
        summary.pushed(Provider::Apns, PushResult::Accepted, "", UnixMillis(NOW.0 + 2));
        let refusal = Refusal { at: NOW, result: PushResult::TokenDead, reason: "410 Unregistered".into() };
        let (now, shown) = pushes(&summary, Provider::Apns, NOW);
        assert_eq!((now.accepted, now.refused, shown.as_ref()), (1, 1, Some(&refusal)));
        let (later, shown) = pushes(&summary, Provider::Apns, UnixMillis(NOW.0 + 9 * HOUR));
        assert_eq!((later.refused, shown.as_ref()), (0, Some(&refusal)));
        assert_eq!(pushes(&summary, Provider::Fcm, NOW), Default::default());
    }

    #[test]
    fn percentiles_are_at_most_an_eighth_too_long() {
        let summary = Summary::default();
        for millis in 1..=1000 {
            // In two minutes of the hour, in no order.
            let at = UnixMillis(NOW.0 + millis % 2 * 60_000);
            summary.woken(Provider::Fcm, Duration::from_millis(millis * 7 % 1001 * 10), at);
        }
        let (pushes, _) = pushes(&summary, Provider::Fcm, UnixMillis(NOW.0 + 60_000));
        assert_eq!(pushes.wakes(), 1000);
        for (percent, exact) in [(50, 5000), (90, 9000), (99, 9900)] {
            let found = u64::try_from(pushes.wake_time(percent).unwrap().as_millis()).unwrap();
            assert!((exact..=exact + exact / 8).contains(&found), "p{percent} is {found}");
        }
        assert_eq!(Pushes::default().wake_time(50), None);
    }

    #[test]
    fn every_time_is_within_its_bucket() {
        for millis in (0..5000).chain([65_535, 65_536, 170_000, LONGEST_MS]) {
            let bucket = bucket(millis);
            assert!(bucket < 128);
            let end = bucket_end(bucket);
            assert!(millis <= end && end <= millis + millis / 8, "{millis} up to {end}");
            assert_eq!(super::bucket(end), bucket);
            assert_ne!(super::bucket(end + 1), if end == LONGEST_MS { u32::MAX } else { bucket });
        }
        assert_eq!(bucket(u64::MAX), bucket(LONGEST_MS));
    }
}
