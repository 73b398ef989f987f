//! How a call ends: what the caller is told, and what stays in the buckets (design: push bucket and missed_calls).

use std::time::Duration;

use super::call_push::millis;
use super::context::Context;
use super::event::{Contacts, Effect, Outcome};
use super::held_call::{DeviceState, HeldCall, HeldDevice};
use super::keep::Kept;
use super::{BUSY_RETRY_AFTER_S, Proxy, PushPurpose, Reject, Timer};
use crate::binding::{Aor, Home, PushTarget};
use crate::clock::Now;
use crate::push::{EndReason, Notice, NoticeKind, Push};
use crate::store::{Change, Settlement};
use crate::timeline::{Reason, Step};
use crate::transaction::ServerId;

/// How long a phone may still be told that a call is over: by then it has gone from its screen.
const END_TTL: Duration = Duration::from_secs(60);

/// How a call ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Answered,
    /// A device said no.
    Rejected,
    /// `seen`: it was taken or declined elsewhere.
    Cancelled {
        seen: bool,
    },
    /// `came_back`: a device was there, but did not answer.
    NoReturn {
        came_back: bool,
    },
    Expired,
    PushFailed,
    Overload,
}

impl Proxy {
    /// A 2xx went back. One that crossed with a CANCEL takes back what the CANCEL left in the buckets; one to a call that
    /// another node has says there that it is seen.
    pub(super) fn call_answered(&mut self, context: &mut Context, contacts: &dyn Contacts, now: Now) {
        let is_cancelled = context.responses.is_cancelled;
        let was_over = context.call().is_some_and(|call| call.is_recorded && (is_cancelled || call.is_let_go));
        if let Some(call) = context.call().filter(|_| was_over) {
            let devices = call.devices.iter().map(|held| (held.binding.device, Settlement::Seen)).collect();
            let (aor, id, call_ref) = (call.aor.clone(), call.id, call.call_ref.clone());
            self.keep(Change::Settle { aor, id, call_ref, devices, ended: true });
        }
        self.end_call(context, Ending::Answered, contacts, now);
    }

    /// A final failure of a device went back.
    pub(super) fn call_failed(
        &mut self,
        context: &mut Context,
        status: Option<u16>,
        contacts: &dyn Contacts,
        now: Now,
    ) {
        let ending = match status {
            Some(408) => Ending::NoReturn { came_back: true },
            Some(487) => Ending::Cancelled { seen: false },
            Some(_) | None => Ending::Rejected,
        };
        self.end_call(context, ending, contacts, now);
    }

    /// No device brought a response: our own final says why.
    pub(super) fn call_unanswered(&mut self, context: &mut Context, contacts: &dyn Contacts, now: Now) {
        let Some(call) = context.call() else { return };
        let is_over = now.instant >= call.until;
        let came_back = call.devices.iter().any(|held| held.has_come) || context.responses.is_heard();
        let is_silent = context.responses.branches.iter().any(|branch| branch.failure == Some(408));
        let (ending, reject) = match (context.responses.is_cancelled, is_over) {
            (true, _) => (Ending::Cancelled { seen: false }, Reject::of(487)),
            (false, true) if call.ends_by_expires => (Ending::Expired, Reject::of(487)),
            (false, true) => (Ending::NoReturn { came_back }, Reject::of(self.policy.hold.no_return_status)),
            (false, false) if context.responses.is_overloaded => (Ending::Overload, Reject::busy(BUSY_RETRY_AFTER_S)),
            (false, false) if is_silent || came_back => {
                let status = if context.is_invite() && is_silent { 408 } else { 480 };
                (Ending::NoReturn { came_back }, Reject::of(status))
            }
            (false, false) if call.store_failed => (Ending::Overload, Reject::busy(BUSY_RETRY_AFTER_S)),
            (false, false) => (Ending::PushFailed, Reject::of(480)),
        };
        self.reject(context, &reject, now);
        self.end_call(context, ending, contacts, now);
    }

    /// The call is over: nobody may join, its entries are settled, and the story gets its end.
    pub(super) fn end_call(&mut self, context: &mut Context, ending: Ending, contacts: &dyn Contacts, now: Now) {
        let seen = matches!(ending, Ending::Answered | Ending::Cancelled { seen: true });
        let waits = |call: &HeldCall| self.waiting.get(&call.aor).is_some_and(|calls| calls.contains(&context.server));
        if context.call().is_some_and(waits) {
            // Before the AOR is unwatched, so that no REGISTER falls between the two.
            self.keep_for_late(context, seen, contacts, now);
        }
        if !self.close_call(context, contacts) {
            return;
        }
        let Some(call) = context.call_mut() else { return };
        let call_ref = call.call_ref.clone();
        let (outcome, step, reason) = match ending {
            Ending::Answered => (Outcome::Answered, Step::Answered, None),
            Ending::Rejected => (Outcome::Rejected, Step::Rejected, Some(Reason::PhoneRejected)),
            Ending::Cancelled { seen: false } => (Outcome::Cancelled, Step::Cancelled, Some(Reason::CallerGaveUp)),
            Ending::Cancelled { seen: true } => (Outcome::Cancelled, Step::Cancelled, Some(Reason::TakenElsewhere)),
            Ending::NoReturn { came_back: false } => (Outcome::NoReturn, Step::NoReturn, Some(Reason::NotBackInTime)),
            Ending::NoReturn { came_back: true } => (Outcome::NoReturn, Step::NoReturn, Some(Reason::NotAnswered)),
            Ending::Expired => (Outcome::Expired, Step::Expired, Some(Reason::InviteExpired)),
            Ending::PushFailed => (Outcome::PushFailed, Step::Failed, Some(Reason::NothingToWake)),
            Ending::Overload => (Outcome::Overload, Step::Failed, Some(Reason::NoRoom)),
        };
        let detail = format!("after {} ms", millis(now.instant.saturating_duration_since(call.since.instant)));
        let settlement = if seen { Settlement::Seen } else { Settlement::Missed };
        let (mut settled, mut unaware) = (Vec::new(), Vec::new());
        let since = call.since.unix;
        for held in &mut call.devices {
            if std::mem::take(&mut held.has_entry) {
                settled.push((held.binding.device, settlement));
                if !seen && held.state != DeviceState::Joined {
                    unaware.push(held.binding.device);
                }
            }
        }
        for device in std::mem::take(&mut call.unread) {
            settled.push((device, settlement));
            if !seen {
                unaware.push(device);
            }
        }
        let (aor, id, is_recorded) = (call.aor.clone(), call.id, call.is_recorded);
        match reason {
            Some(reason) => self.step_why(&call_ref, step, None, detail, reason),
            None => self.step(&call_ref, step, None, detail),
        }
        for (device, settlement) in &settled {
            if *settlement == Settlement::Missed {
                self.step(&call_ref, Step::Missed, Some(*device), "");
            }
        }
        if seen {
            // The other devices of the AOR may have entries of the same call from a request of its own.
            let others = contacts.of_aor(&aor).into_iter().map(|binding| (binding.device, Settlement::Seen));
            let fresh: Vec<_> = others.filter(|(device, _)| settled.iter().all(|(other, _)| other != device)).collect();
            settled.extend(fresh);
        }
        // Another request of the same call may have left entries where this one left none.
        if is_recorded || !settled.is_empty() {
            let call_ref = call_ref.clone();
            let change = Change::Settle { aor, id, call_ref, devices: settled, ended: true };
            let kept = Kept { change, unaware, since };
            match ending == Ending::Answered && is_recorded {
                true => self.settle_when_acknowledged(context.request.call_id(), kept, now),
                false => self.keep_all(kept),
            }
        }
        self.tell_of_end(context, ending, contacts, now);
        let forks = context.call_mut().map(|call| std::mem::take(&mut call.forks)).unwrap_or_default();
        self.end_forks(forks, ending, context.responses.sent, now);
        self.effects.push_back(Effect::CallEnded { call_ref, outcome });
    }

    /// Devices that a push has told of the call, and that have not come for it, are told that it is over
    /// (`push.call_ended`).
    fn tell_of_end(&mut self, context: &Context, ending: Ending, contacts: &dyn Contacts, now: Now) {
        let Some(call) = context.call().filter(|_| self.policy.push_call_ended && context.is_invite()) else { return };
        let reason = match ending {
            Ending::Answered | Ending::Cancelled { seen: true } => EndReason::AnsweredElsewhere,
            Ending::Rejected | Ending::Cancelled { seen: false } => EndReason::Cancelled,
            Ending::NoReturn { .. } | Ending::Expired | Ending::PushFailed | Ending::Overload => EndReason::Timeout,
        };
        // A phone that has logged out is told nothing any more.
        let is_bound = |held: &HeldDevice| !contacts.is_loaded() || contacts.of_device(held.binding.device).is_some();
        let waits =
            |held: &&HeldDevice| held.accepted_at.is_some() && held.state != DeviceState::Joined && is_bound(held);
        for held in call.devices.iter().filter(waits) {
            let can_be_told = |target: &PushTarget| self.policy.push.supports(target, NoticeKind::CallEnded).is_ok();
            let Some(target) = held.target().filter(can_be_told) else { continue };
            let notice = Notice::CallEnded { call_ref: call.call_ref.clone(), reason };
            let push = Push::to(&held.binding, target, notice, END_TTL, now.unix);
            self.submit(PushPurpose::Ended(held.binding.device), push);
        }
    }

    /// The call is no more this node's: it ends here without a word to anybody.
    pub(super) fn let_go(&mut self, context: &mut Context, by: Option<Home>, contacts: &dyn Contacts, now: Now) {
        if !self.close_call(context, contacts) {
            return;
        }
        let Some(call) = context.call_mut() else { return };
        call.devices.iter_mut().for_each(|held| held.has_entry = false);
        call.unread.clear();
        (call.is_let_go, call.taken_by) = (true, by);
        let (call_ref, forks) = (call.call_ref.clone(), std::mem::take(&mut call.forks));
        self.end_forks(forks, Ending::Answered, 0, now);
        self.step_why(&call_ref, Step::Failed, None, "", Reason::TakenOver);
    }

    /// Nobody may join any more, nothing is due, and no push is wanted. False if that was so already.
    fn close_call(&mut self, context: &mut Context, contacts: &dyn Contacts) -> bool {
        let server = context.server;
        let Some(call) = context.call_mut() else { return false };
        if !self.leave_waiting(&call.aor, server) {
            return false;
        }
        call.is_open = false;
        let aor = call.aor.clone();
        self.unwatch(&aor, contacts);
        let Some(call) = context.call() else { return false };
        self.timers.cancel(&Timer::Hold(server));
        self.timers.cancel(&Timer::Provisional(server));
        for held in &call.devices {
            held.purpose.end();
            if let Some(connection) = held.awaits {
                self.awaited.forget(connection, server);
            }
            self.timers.cancel(&Timer::Probe(server, held.binding.device));
            self.timers.cancel(&Timer::Retry(server, held.binding.device));
            self.timers.cancel(&Timer::Repeat(server, held.binding.device));
        }
        for device in &call.unread {
            self.timers.cancel(&Timer::Retry(server, *device));
        }
        true
    }

    /// Takes a call out of those that wait; false if it was out already.
    fn leave_waiting(&mut self, aor: &Aor, server: ServerId) -> bool {
        let Some(calls) = self.waiting.get_mut(aor) else { return false };
        let before = calls.len();
        calls.retain(|call| *call != server);
        let left = calls.len() < before;
        if calls.is_empty() {
            self.waiting.remove(aor);
        }
        self.held_calls -= usize::from(left);
        left
    }
}
