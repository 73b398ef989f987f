//! When sleeping devices are pushed so that they register again (`push.refresh`, RFC 8599 §5.5): ordered by it, so that a
//! look costs what is due and not what there is.
//!
//! Nothing is kept but the order: which of its turns a device has had follows from its binding and from how far the
//! order has been worked off.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::binding::{Binding, DeviceId};
use crate::clock::UnixMillis;

/// Which devices are reminded, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReminderRule {
    /// The last reminder of a registration comes so long before its end. One that was granted for less than twice that time
    /// is too short to be kept alive by pushes (RFC 8599 §5.6.1.1).
    pub before: Duration,
    /// Whether devices are refreshed in their sleep, so that only those are reminded for which the softswitch refuses that.
    pub are_refreshed: bool,
}

/// When a device that does not register is reminded, by its present registration upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reminders {
    /// Between 80 and 90 % of the time that ends `before` the end, so that a device that is awake comes first; the next one
    /// follows a tenth later. `None` for a device that can wake itself.
    pub first: Option<UnixMillis>,
    pub last: UnixMillis,
    /// Of the registration. After it nobody is pushed for it (RFC 8599 §5.5).
    pub end: UnixMillis,
}

impl Reminders {
    /// `None`: never, because nothing could wake the device, because it is refreshed in its sleep, or because it was granted
    /// too little. Each device has a place of its own, so that those that registered together are not pushed together.
    pub fn of(binding: &Binding, rule: ReminderRule) -> Option<Self> {
        let is_refused = binding.upstream.as_ref().is_some_and(|upstream| upstream.refused.is_some());
        if binding.push.is_none() || binding.is_token_device() || rule.are_refreshed && !is_refused {
            return None;
        }
        let (since, end) = binding.known_upstream();
        let before = u64::try_from(rule.before.as_millis()).unwrap_or(u64::MAX);
        let granted = end.0.saturating_sub(since.0);
        if granted == 0 || granted < before.saturating_mul(2) {
            return None;
        }
        if wakes_itself(binding) {
            let last = UnixMillis(end.0 - before + binding.device.place_in(before / 2));
            return Some(Self { first: None, last, end });
        }
        let tenth = (granted - before) / 10;
        let first = since.0 + tenth * 8 + binding.device.place_in(tenth);
        Some(Self { first: Some(UnixMillis(first)), last: UnixMillis(first + tenth), end })
    }
}

/// Whether it registers by itself at the time that `+sip.pnsreg` names in its 2xx (RFC 8599 §4.1.4): such a device is pushed
/// only when it has not.
fn wakes_itself(binding: &Binding) -> bool {
    let mut params = binding.contact_params.split(|byte| *byte == b';');
    params.any(|param| param.trim_ascii().to_ascii_lowercase().starts_with(b"+sip.pnsreg"))
}

/// Nothing is kept, and nothing costs, without a rule.
#[derive(Debug, Default)]
pub(super) struct Plan(Mutex<Option<Agenda>>);

#[derive(Debug)]
struct Agenda {
    rule: ReminderRule,
    /// A device stands here once, at its next turn.
    turns: BTreeSet<(UnixMillis, DeviceId)>,
    /// First turns up to here are over.
    first_until: UnixMillis,
    /// And last ones.
    last_until: UnixMillis,
}

impl Agenda {
    /// The turn that a device has not had yet.
    fn next(&self, binding: &Binding) -> Option<UnixMillis> {
        let Reminders { first, last, .. } = Reminders::of(binding, self.rule)?;
        let first = first.filter(|first| *first > self.first_until);
        first.or_else(|| Some(last).filter(|last| *last > self.last_until))
    }

    fn is_done_until(&mut self, turn: UnixMillis) {
        self.first_until = self.first_until.max(turn);
        self.last_until = self.last_until.max(turn);
    }

    fn insert(&mut self, binding: &Binding) {
        if let Some(turn) = self.next(binding) {
            self.turns.insert((turn, binding.device));
        }
    }

    fn remove(&mut self, binding: &Binding) {
        if let Some(Reminders { first, last, .. }) = Reminders::of(binding, self.rule) {
            for turn in first.into_iter().chain([last]) {
                self.turns.remove(&(turn, binding.device));
            }
        }
    }
}

impl Plan {
    /// From here on devices have turns by this rule, or none. What fell due before is not made up for: a first turn because
    /// the last one is to come; a last one only if anybody has been registered since, as then the run before this one,
    /// or another node, has seen to it.
    pub(super) fn follow(&self, rule: Option<ReminderRule>, now: UnixMillis, bindings: impl Fn() -> Vec<Arc<Binding>>) {
        let mut plan = self.0.lock();
        let Some(rule) = rule else { return *plan = None };
        if plan.as_ref().is_some_and(|agenda| agenda.rule == rule) {
            return;
        }
        let bindings = bindings();
        let (first_until, last_until) = match &*plan {
            Some(agenda) => (agenda.first_until, agenda.last_until),
            None => (now, last_heard(&bindings, now)),
        };
        let mut agenda = Agenda { rule, turns: BTreeSet::new(), first_until, last_until };
        bindings.iter().for_each(|binding| agenda.insert(binding));
        *plan = Some(agenda);
    }

    pub(super) fn insert(&self, binding: &Binding) {
        if let Some(agenda) = &mut *self.0.lock() {
            agenda.insert(binding);
        }
    }

    pub(super) fn remove(&self, binding: &Binding) {
        if let Some(agenda) = &mut *self.0.lock() {
            agenda.remove(binding);
        }
    }

    /// How many devices have a turn to come, and when the first has it.
    pub(super) fn outlook(&self) -> Option<(usize, UnixMillis)> {
        let plan = self.0.lock();
        let turns = &plan.as_ref()?.turns;
        Some((turns.len(), turns.first()?.0))
    }

    /// When a device has its next turn, if it does not register before.
    pub(super) fn next(&self, binding: &Binding) -> Option<UnixMillis> {
        self.0.lock().as_ref()?.next(binding)
    }

    /// Up to `most` devices whose turn it is, those first that have waited longest. Their turn is over then, whatever comes of
    /// it.
    pub(super) fn take(
        &self,
        now: UnixMillis,
        most: usize,
        look: impl Fn(DeviceId) -> Option<Arc<Binding>>,
    ) -> Vec<Arc<Binding>> {
        let mut plan = self.0.lock();
        let Some(agenda) = &mut *plan else { return Vec::new() };
        let mut taken = Vec::new();
        while taken.len() < most {
            let Some((turn, device)) = agenda.turns.first().copied().filter(|(turn, _)| *turn <= now) else {
                agenda.is_done_until(now);
                break;
            };
            agenda.turns.remove(&(turn, device));
            agenda.is_done_until(turn);
            let Some(binding) = look(device) else { continue };
            let Some(reminders) = Reminders::of(&binding, agenda.rule) else { continue };
            // What was read while the plan was made may have changed since; then it stands at another place as well.
            let is_its = Some(turn) == reminders.first || turn == reminders.last;
            if turn < reminders.last && now < reminders.last {
                agenda.turns.insert((reminders.last, device));
            }
            if is_its && now < reminders.end {
                taken.push(binding);
            }
        }
        taken
    }
}

/// When somebody was registered last: till then the service went on.
fn last_heard(bindings: &[Arc<Binding>], now: UnixMillis) -> UnixMillis {
    let heard = bindings.iter().map(|binding| binding.registered_at.max(binding.known_upstream().0));
    heard.filter(|heard| *heard <= now).max().unwrap_or_default()
}

#[cfg(test)]
mod tests;
