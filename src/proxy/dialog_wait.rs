//! Requests within a dialog whose device is asleep: they wait for it, and wake it (RFC 8599 §6).
//!
//! Nothing of this is durable: after a crash their senders repeat them, or give up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::call_push::sent_at;
use super::context::{Context, Purpose};
use super::event::Contacts;
use super::held_call::retry_pause;
use super::hold::NON_INVITE_WAIT_MAX;
use super::unread::is_for_nobody;
use super::{BUSY_RETRY_AFTER_S, Proxy, PushPurpose, Reject, Timer};
use crate::binding::{Binding, DeviceId};
use crate::clock::Now;
use crate::push::{self, Notice, NoticeKind, Push};
use crate::sip::{Destination, Message, Method};
use crate::transaction::ServerId;

/// Nobody is woken to hear that a call is over.
const BYE_WAIT: Duration = Duration::from_secs(8);
/// Requests that wait for one device.
const PER_DEVICE_MAX: usize = 16;

/// A request that waits for its device.
#[derive(Debug)]
pub(super) struct DialogWait {
    pub device: DeviceId,
    /// As it was found asleep.
    binding: Arc<Binding>,
    pub until: Instant,
    /// Whether it waits; else it has gone to the device, and may have to wait again.
    pub is_open: bool,
    /// Pushes sent.
    attempts: u8,
    /// Of its pushes.
    purpose: push::Purpose,
}

impl DialogWait {
    fn new(binding: Arc<Binding>, until: Instant) -> Self {
        let (device, purpose) = (binding.device, push::Purpose::default());
        Self { device, binding, until, is_open: false, attempts: 0, purpose }
    }
}

impl Proxy {
    /// The device of a request within a dialog cannot be reached: it is waited for, if that can be. Else nothing changes.
    pub(super) fn wait_in_dialog(
        &mut self,
        context: &mut Context,
        device: DeviceId,
        contacts: &dyn Contacts,
        now: Now,
    ) {
        let is_of_node = matches!(context.purpose, Purpose::ForNode(_) | Purpose::Registration(_) | Purpose::Call(_));
        let is_over = context.responses.is_final || context.responses.is_cancelled || context.responses.is_overloaded;
        if context.request.to_tag().is_none() || is_of_node || is_over {
            return;
        }
        let Some(binding) = contacts.of_device(device) else { return };
        if context.dialog_wait().is_none() {
            if self.is_draining {
                return;
            }
            if self.has_no_room_to_wait(device) {
                return self.reject(context, &Reject::busy(BUSY_RETRY_AFTER_S), now);
            }
            let until = now.instant + patience(&context.request, self.policy.hold.wait);
            context.purpose = Purpose::InDialog(Box::new(DialogWait::new(Arc::clone(&binding), until)));
        }
        let Purpose::InDialog(wait) = &mut context.purpose else { return };
        let until = wait.until;
        if until <= now.instant {
            return;
        }
        self.dialog_waits += usize::from(!wait.is_open);
        wait.is_open = true;
        wait.binding = Arc::clone(&binding);
        self.timers.set(Timer::InDialog(context.server), until);
        self.push_in_dialog(context, &binding, contacts, now);
        self.followers.add_request(device, context.server);
    }

    fn has_no_room_to_wait(&self, device: DeviceId) -> bool {
        self.held_calls + self.dialog_waits >= self.policy.held_calls_max
            || self.followers.requests_for(device).len() >= PER_DEVICE_MAX
    }

    /// One push at a time wakes a device for all that waits for it.
    fn push_in_dialog(&mut self, context: &mut Context, binding: &Binding, contacts: &dyn Contacts, now: Now) {
        let Some(target) = binding.push.clone().filter(|_| is_worth_a_push(&context.request)) else { return };
        let is_pushed = |server: &ServerId| {
            let wait = self.contexts.get(server).and_then(|context| context.dialog_wait());
            wait.is_some_and(|wait| wait.is_open && wait.attempts > 0)
        };
        let is_on_its_way = self.followers.requests_for(binding.device).iter().any(is_pushed);
        let can_be_told = self.policy.push.supports(&target, NoticeKind::Message).is_ok()
            && contacts.fits(binding).is_ok()
            && self.admits(binding, contacts).is_ok();
        if is_on_its_way || !can_be_told {
            return;
        }
        let server = context.server;
        let Purpose::InDialog(wait) = &mut context.purpose else { return };
        if wait.purpose.is_over() {
            wait.purpose = push::Purpose::default();
        }
        wait.attempts = wait.attempts.saturating_add(1);
        let ttl = wait.until.saturating_duration_since(now.instant);
        let push = Push::to(binding, target, Notice::Message, ttl, now.unix);
        let push = Push { purpose: wait.purpose.clone(), ..push };
        self.submit(PushPurpose::InDialog(server, binding.device), push);
    }

    /// The provider answered.
    pub(super) fn dialog_pushed(
        &mut self,
        server: ServerId,
        device: DeviceId,
        reply: &push::Reply,
        contacts: &dyn Contacts,
        now: Now,
    ) {
        self.learn_of_token(device, reply, sent_at(reply, now), contacts);
        let after = match &reply.outcome {
            push::Outcome::TryAgain { after, .. } => *after,
            push::Outcome::Skipped { after, .. } => Some(*after),
            push::Outcome::Accepted | push::Outcome::Limited | push::Outcome::Withdrawn => return,
            push::Outcome::TokenDead { .. } | push::Outcome::Refused { .. } | push::Outcome::Locked { .. } => return,
            push::Outcome::Misfit { .. } | push::Outcome::Doubted { .. } => return,
        };
        let chance = self.random.draw();
        let Some(wait) = self.contexts.get(&server).and_then(|context| context.dialog_wait()) else { return };
        let due = now.instant + retry_pause(wait.attempts, after, chance);
        if wait.is_open && due < wait.until {
            self.timers.set(Timer::Retry(server, device), due);
        }
    }

    pub(super) fn dialog_push_due(&mut self, context: &mut Context, contacts: &dyn Contacts, now: Now) {
        let Some(device) = context.dialog_wait().filter(|wait| wait.is_open).map(|wait| wait.device) else { return };
        if let Some(binding) = contacts.of_device(device) {
            self.push_in_dialog(context, &binding, contacts, now);
        }
    }

    /// A datagram to a device that may be asleep had no response for `hold.probe_ms`.
    pub(super) fn silent_in_dialog(
        &mut self,
        context: &mut Context,
        device: DeviceId,
        contacts: &dyn Contacts,
        now: Now,
    ) {
        if !context.responses.is_heard() && context.responses.branch_to(device).is_some() {
            self.wait_in_dialog(context, device, contacts, now);
        }
    }

    /// The device has come. What it was sent in vain goes again as the same transaction, if it can.
    pub(super) fn request_follows(
        &mut self,
        server: ServerId,
        binding: &Arc<Binding>,
        contacts: &dyn Contacts,
        now: Now,
    ) {
        self.with_context(server, |proxy, context| {
            let is_news = |wait: &DialogWait| wait.is_open && !wait.binding.is_same_registration(binding);
            if !context.dialog_wait().is_some_and(is_news) {
                return;
            }
            proxy.stop_waiting(context);
            let pending = context.responses.branch_to(binding.device);
            let client = pending.and_then(|index| context.responses.branches.get(index)?.client);
            let destination = Destination::Flow(binding.flow);
            let known = client.and_then(|client| proxy.transactions.destination(client));
            if let (Some(index), Some(client), Some(known)) = (pending, client, known) {
                let is_same_kind =
                    known.transport() == destination.transport() && known.listener() == destination.listener();
                if is_same_kind && proxy.elsewhere(binding.home).is_none() {
                    if let Some(branch) = context.responses.branches.get_mut(index) {
                        branch.hop.flow = Some((binding.flow, None));
                    }
                    proxy.transactions.redirect(client, destination);
                    return proxy.transactions.send_again(client);
                }
                proxy.drop_branch(context, index);
                context.responses.end(index, 503);
            }
            proxy.forward_again(context, contacts, now);
        });
    }

    /// The device has answered, or nobody wants it to any more.
    pub(super) fn stop_waiting(&mut self, context: &mut Context) {
        let server = context.server;
        let Purpose::InDialog(wait) = &mut context.purpose else { return };
        if !std::mem::replace(&mut wait.is_open, false) {
            return;
        }
        wait.purpose.end();
        let device = wait.device;
        self.dialog_waits -= 1;
        self.timers.cancel(&Timer::InDialog(server));
        self.timers.cancel(&Timer::Retry(server, device));
        self.followers.remove_request(device, server);
    }

    /// The device has not come in time (RFC 5626 §5.3).
    pub(super) fn dialog_wait_over(&mut self, server: ServerId, contacts: &dyn Contacts, now: Now) {
        self.with_context(server, |proxy, context| {
            let Some(device) = context.dialog_wait().filter(|wait| wait.is_open).map(|wait| wait.device) else {
                return;
            };
            proxy.stop_waiting(context);
            for index in 0..context.responses.branches.len() {
                proxy.drop_branch(context, index);
                context.responses.end_if_pending(index, 503);
            }
            proxy.conclude(context, contacts, now);
            if context.request.method() == Method::BYE {
                proxy.dialog_is_over(&context.request, device, now);
            }
        });
    }

    /// A BYE has ended a dialog: what waits in it for the device is not wanted any more (RFC 3261 §15.1.2).
    pub(super) fn dialog_is_over(&mut self, bye: &Message, device: DeviceId, now: Now) {
        for server in self.followers.requests_for(device) {
            let context = self.contexts.get(&server);
            if !context.is_some_and(|context| is_same_dialog(&context.request, bye)) {
                continue;
            }
            self.with_context(server, |proxy, context| {
                proxy.stop_waiting(context);
                for index in 0..context.responses.branches.len() {
                    proxy.drop_branch(context, index);
                    context.responses.end_if_pending(index, 487);
                }
                let status = if context.is_invite() { 487 } else { 481 };
                proxy.reject(context, &Reject::of(status), now);
            });
        }
    }
}

/// How long a request waits for its device.
fn patience(request: &Message, hold: Duration) -> Duration {
    match request.method() {
        Method::INVITE => hold,
        Method::BYE => BYE_WAIT,
        Method::Known(_) | Method::Extension => hold.min(NON_INVITE_WAIT_MAX),
    }
}

fn is_worth_a_push(request: &Message) -> bool {
    request.method() != Method::BYE && !is_for_nobody(request)
}

/// Whichever of both sides has sent them.
fn is_same_dialog(one: &Message, other: &Message) -> bool {
    let tags = |message: &Message| (message.from_tag().map(<[u8]>::to_vec), message.to_tag().map(<[u8]>::to_vec));
    let (from, to) = tags(other);
    one.call_id() == other.call_id() && (tags(one) == (from.clone(), to.clone()) || tags(one) == (to, from))
}
