//! Reminding sleeping devices to register (`push.refresh`, RFC 8599 §5.5): a push of type `register` before the softswitch
//! forgets them.
//!
//! ```text
//!   plan ──► Input::Remind ──► push ──┬─ taken, or refused ──► the end; the plan may have one more turn for the device
//!                                ▲    └─ passing trouble ──┐
//!                                └──────── later ◄─────────┘  while the registration lasts
//! ```

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::call_push::sent_at;
use super::event::Contacts;
use super::held_call::retry_pause;
use super::{Proxy, PushPurpose, Timer};
use crate::binding::{Binding, DeviceId};
use crate::clock::{Now, UnixMillis};
use crate::push::{self, Notice, NoticeKind, Outcome, Push};
use crate::store::Reminders;

/// Reminders under way at once: a push service that answers slowly is asked slowly, and has room for calls.
const UNDER_WAY_MAX: usize = 256;
/// The shortest pause after a push that was not sent because its account is left alone.
const SKIPPED_MIN: Duration = Duration::from_secs(1);

/// Devices that are being reminded.
#[derive(Debug, Default)]
pub(super) struct Reminding(HashMap<DeviceId, Reminder>);

#[derive(Debug)]
struct Reminder {
    binding: Arc<Binding>,
    attempts: u8,
}

impl Reminding {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Proxy {
    /// How many more reminders may begin.
    pub fn reminder_room(&self) -> usize {
        // A server that is stopping leaves them to whoever comes after it.
        if self.is_draining { 0 } else { UNDER_WAY_MAX.saturating_sub(self.reminding.0.len()) }
    }

    /// It is a device's turn. For one that is still being reminded this is no other reminder.
    pub(super) fn remind(&mut self, binding: Arc<Binding>, contacts: &dyn Contacts, now: Now) {
        let device = binding.device;
        if self.reminder_room() > 0 && !self.reminding.0.contains_key(&device) {
            self.send_reminder(Reminder { binding, attempts: 0 }, contacts, now);
        }
    }

    fn send_reminder(&mut self, reminder: Reminder, contacts: &dyn Contacts, now: Now) {
        let Reminder { binding, attempts } = reminder;
        let Some(Reminders { last, end, .. }) = self.reminders_of(&binding) else { return };
        if end <= now.unix || !self.is_worth_reminding(&binding, contacts) {
            return;
        }
        let Some(target) = binding.push.clone() else { return };
        let notice = Notice::Register { is_urgent: last <= now.unix };
        let push = Push::to(&binding, target, notice, end.since(now.unix), now.unix);
        self.submit(PushPurpose::Remind(binding.device), push);
        self.reminding.0.insert(binding.device, Reminder { attempts: attempts.saturating_add(1), binding });
    }

    /// By the operator's rule.
    fn reminders_of(&self, binding: &Binding) -> Option<Reminders> {
        Reminders::of(binding, self.policy.push_refresh?)
    }

    /// Not a device that has registered meanwhile, or that no such push can reach.
    fn is_worth_reminding(&self, binding: &Binding, contacts: &dyn Contacts) -> bool {
        let is_present = contacts.of_device(binding.device).is_some_and(|known| known.is_same_registration(binding));
        let is_supported = |target| self.policy.push.supports(target, NoticeKind::Register).is_ok();
        is_present
            && binding.push.as_ref().is_some_and(is_supported)
            && contacts.fits(binding).is_ok()
            && self.admits(binding, contacts).is_ok()
    }

    pub(super) fn reminder_pushed(&mut self, device: DeviceId, reply: &push::Reply, contacts: &dyn Contacts, now: Now) {
        self.learn_of_token(device, reply, sent_at(reply, now), contacts);
        let Some(reminder) = self.reminding.0.get(&device) else { return };
        let after = match &reply.outcome {
            Outcome::TryAgain { after, .. } => *after,
            Outcome::Skipped { after, .. } => Some((*after).max(SKIPPED_MIN)),
            Outcome::Accepted
            | Outcome::TokenDead { .. }
            | Outcome::Refused { .. }
            | Outcome::Locked { .. }
            | Outcome::Misfit { .. }
            | Outcome::Doubted { .. }
            | Outcome::Limited
            | Outcome::Withdrawn => return drop(self.reminding.0.remove(&device)),
        };
        let (pause, end) = (retry_pause(reminder.attempts, after, self.random.draw()), self.end_of(device));
        if end.is_some_and(|end| now.unix.after(pause) < end) {
            self.timers.set(Timer::Remind(device), now.instant + pause);
        } else {
            self.reminding.0.remove(&device);
        }
    }

    fn end_of(&self, device: DeviceId) -> Option<UnixMillis> {
        let reminder = self.reminding.0.get(&device)?;
        Some(self.reminders_of(&reminder.binding)?.end)
    }

    /// What a push service had trouble with is tried again.
    pub(super) fn reminder_due(&mut self, device: DeviceId, contacts: &dyn Contacts, now: Now) {
        if let Some(reminder) = self.reminding.0.remove(&device).filter(|_| !self.is_draining) {
            self.send_reminder(reminder, contacts, now);
        }
    }
}
