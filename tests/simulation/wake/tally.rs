//! What came of all calls of some days.

use std::collections::BTreeMap;
use std::time::Duration;

use super::cause::Cause;
use super::day::Day;

/// A call by its seed and number.
pub(crate) type Which = (u64, usize);

#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) calls: usize,
    pub(crate) deliverable: usize,
    pub(crate) delivered: usize,
    /// Calls that could have been delivered if each push could be repeated: to iPhones, and to others.
    reachable: [usize; 2],
    delivered_to: [usize; 2],
    pub(crate) pushes: usize,
    /// Calls whose caller got no final response.
    pub(crate) without_final: Vec<Which>,
    /// Calls that their phones neither got nor were told of, though they came back.
    pub(crate) untold: Vec<Which>,
    /// The same, by phones whose token was dead, and which came back with another one.
    pub(crate) untold_of_dead_token: Vec<Which>,
    pub(crate) told_twice: Vec<Which>,
    /// From the INVITE to the phone, of each that was delivered.
    rang_after: Vec<Duration>,
    /// Calls that could have been delivered, and were not.
    pub(crate) lost: BTreeMap<Cause, Vec<Which>>,
}

impl Tally {
    pub(crate) fn of(seed: u64, day: &Day) -> Self {
        let mut tally = Self { calls: day.calls.len(), pushes: day.pushes(), ..Self::default() };
        for number in 0..day.calls.len() {
            let verdict = day.verdict(number);
            let which = (seed, number);
            tally.deliverable += usize::from(verdict.is_deliverable);
            let kind = usize::from(!verdict.is_iphone);
            tally.reachable[kind] += usize::from(verdict.is_reachable);
            tally.delivered_to[kind] += usize::from(verdict.rang_after.is_some());
            match verdict.rang_after {
                Some(after) => {
                    tally.delivered += 1;
                    tally.rang_after.push(after);
                }
                None if verdict.is_deliverable => tally.lost.entry(day.cause(number)).or_default().push(which),
                None => {}
            }
            for (has_fault, faults) in [
                (!verdict.has_final, &mut tally.without_final),
                (verdict.is_untold && !verdict.had_dead_token, &mut tally.untold),
                (verdict.is_untold && verdict.had_dead_token, &mut tally.untold_of_dead_token),
                (verdict.is_told_twice, &mut tally.told_twice),
            ] {
                faults.extend(has_fault.then_some(which));
            }
        }
        tally
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.calls += other.calls;
        self.deliverable += other.deliverable;
        self.delivered += other.delivered;
        self.pushes += other.pushes;
        for kind in 0..2 {
            self.reachable[kind] += other.reachable[kind];
            self.delivered_to[kind] += other.delivered_to[kind];
        }
        self.without_final.extend(other.without_final);
        self.untold.extend(other.untold);
        self.untold_of_dead_token.extend(other.untold_of_dead_token);
        self.told_twice.extend(other.told_twice);
        self.rang_after.extend(other.rang_after);
        for (cause, calls) in other.lost {
            self.lost.entry(cause).or_default().extend(calls);
        }
    }

    /// Delivered of deliverable, in percent.
    pub(crate) fn share(&self) -> f64 {
        100.0 * self.delivered as f64 / self.deliverable.max(1) as f64
    }

    /// Delivered of reachable, in percent: to iPhones, and to others.
    pub(crate) fn shares(&self) -> [f64; 2] {
        [0, 1].map(|kind| 100.0 * self.delivered_to[kind] as f64 / self.reachable[kind].max(1) as f64)
    }

    /// From the INVITE to the phone.
    pub(crate) fn rings(&mut self, percent: usize) -> Duration {
        self.rang_after.sort_unstable();
        let index = self.rang_after.len().saturating_sub(1) * percent / 100;
        self.rang_after.get(index).copied().unwrap_or_default()
    }
}
