//! The pushes of a call: first the bucket entry, then the push, then what the provider says (RFC 8599 §5.6.2).

use std::borrow::Cow;
use std::time::Duration;

use smallvec::SmallVec;

use super::bars::{Barred, Finding};
use super::context::Context;
use super::event::{Contacts, Effect};
use super::held_call::{DeviceInput, DeviceState, paused, try_again};
use super::{Proxy, PushPurpose, SavePurpose, Timer};
use crate::binding::{Binding, DeviceId, PushTarget, Tokens};
use crate::clock::{Now, UnixMillis};
use crate::push::{self, Notice, NoticeKind, Push};
use crate::sip::Method;
use crate::store::{self, Applied, BucketEntry, Change, EntryState, StoreError};
use crate::timeline::{Reason, Step, Why};
use crate::transaction::ServerId;

impl Proxy {
    /// Makes the call durable for the devices that have, or are about to have, anything to do with it: a later run finds
    /// them by it. Those with push parameters get a bucket entry; what waits for that goes on when it is there.
    pub(super) fn record(&mut self, context: &mut Context, now: Now) {
        let is_invite = context.is_invite();
        let (server, flow) = (context.server, context.flow);
        let (invite, to_tag) = (context.request.bytes().clone(), context.to_tag.clone());
        let Some(call) = context.call_mut().filter(|call| call.is_open) else { return };
        let devices: SmallVec<[DeviceId; 1]> =
            call.devices.iter().filter(|held| held.is_to_be_noted()).map(|held| held.binding.device).collect();
        if devices.is_empty() {
            return;
        }
        if !is_invite {
            // No call, no entry (design: life of a held call).
            return self.tell_all(context, &devices, DeviceInput::Recorded, now);
        }
        let wait = call.until.saturating_duration_since(call.since.instant);
        let change = Change::Hold {
            call: store::HeldCall {
                id: call.id,
                call_ref: call.call_ref.clone(),
                aor: call.aor.clone(),
                invite,
                flow,
                to_tag,
                held_at: call.since.unix,
                until: call.since.unix.after(wait),
                devices: devices.to_vec(),
            },
            entry: BucketEntry {
                call_ref: call.call_ref.clone(),
                remote_uri: call.caller.number.clone(),
                display_name: call.caller.display_name.clone(),
                anonymous: call.caller.anonymous,
                invited_at: call.since.unix,
                state: EntryState::Live,
            },
        };
        call.is_recorded = true;
        for held in call.devices.iter_mut().filter(|held| devices.contains(&held.binding.device)) {
            held.is_noted = true;
            held.has_entry = held.binding.push.is_some();
        }
        self.save(change, SavePurpose::Hold(server, devices));
    }

    pub(super) fn hold_saved(
        &mut self,
        server: ServerId,
        devices: &[DeviceId],
        result: Result<Applied, StoreError>,
        contacts: &dyn Contacts,
        now: Now,
    ) {
        self.with_context(server, |proxy, context| {
            proxy.send_trying(context, now);
            let input = match &result {
                Ok(_) => DeviceInput::Recorded,
                Err(_) => DeviceInput::Unrecorded,
            };
            let Some(call) = context.call_mut().filter(|call| call.is_open) else { return };
            let call_ref = call.call_ref.clone();
            for held in call.devices.iter_mut().filter(|held| devices.contains(&held.binding.device)) {
                held.is_noted &= result.is_ok();
                held.has_entry &= result.is_ok();
                held.is_durable = result.is_ok() && held.binding.push.is_some();
                match (&result, held.state) {
                    (Ok(_), DeviceState::Recording) => {
                        proxy.step(&call_ref, Step::Held, Some(held.binding.device), "");
                    }
                    (Err(error), DeviceState::Recording | DeviceState::Noting) => {
                        call.store_failed |= held.state == DeviceState::Recording;
                        let why = Why::new(Reason::StoreFailed, error.to_string());
                        proxy.step_why(&call_ref, Step::Failed, Some(held.binding.device), "", why);
                    }
                    (Ok(_) | Err(_), _) => {}
                }
            }
            devices.iter().for_each(|device| proxy.note_left(context, *device, contacts));
            proxy.tell_all(context, devices, input, now);
            proxy.conclude(context, contacts, now);
        });
    }

    /// Sees whether a device is still bound before anything is sent to it: it may have unregistered since the call came. The
    /// call waits for it all the same, because an app may clean up its old registration before it registers.
    pub(super) fn note_left(&mut self, context: &mut Context, device: DeviceId, contacts: &dyn Contacts) {
        if !contacts.is_loaded() || contacts.of_device(device).is_some() {
            return;
        }
        let Some(call) = context.call_mut() else { return };
        let call_ref = call.call_ref.clone();
        let Some(held) = call.device(device).filter(|held| !held.has_left) else { return };
        held.has_left = true;
        if held.state != DeviceState::Unwakeable {
            self.step_why(&call_ref, Step::DeviceSkipped, Some(device), "", Reason::Unregistered);
        }
    }

    pub(super) fn push(&mut self, context: &mut Context, device: DeviceId, now: Now) {
        let is_invite = context.is_invite();
        let server = context.server;
        let Some(call) = context.call_mut() else { return };
        let (ttl, call_ref) = (call.left(now.instant), call.call_ref.clone());
        let notice = if is_invite {
            Notice::Invite {
                number: call.caller.number.clone(),
                display_name: call.caller.display_name.clone(),
                call_ref: call_ref.clone(),
            }
        } else {
            Notice::Message
        };
        let Some(held) = call.device(device) else { return };
        let Some(target) = held.target() else { return };
        held.attempts = held.attempts.saturating_add(1);
        if held.purpose.is_over() {
            // It had joined, and its flow was lost.
            held.purpose = push::Purpose::default();
        }
        let (purpose, is_repeat) = (held.purpose.clone(), held.accepted_at.is_some());
        let step = if held.attempts == 1 { Step::PushSent } else { Step::PushRetried };
        let provider = target.provider.name();
        let detail = if is_repeat { format!("{provider}, no REGISTER yet").into() } else { Cow::Borrowed(provider) };
        let push = Push { is_repeat, purpose, ..Push::to(&held.binding, target, notice, ttl, now.unix) };
        if !held.is_paused {
            self.step(&call_ref, step, Some(device), detail);
        }
        self.submit(PushPurpose::Call(server, device), push);
        self.begin_provisional(context, now);
    }

    /// The provider answered.
    pub(super) fn call_pushed(
        &mut self,
        server: ServerId,
        device: DeviceId,
        reply: push::Reply,
        contacts: &dyn Contacts,
        now: Now,
    ) {
        let context = self.contexts.get(&server);
        let may_be_awake = context.is_some_and(|context| self.may_be_awake(context, device, contacts, now));
        if let (push::Outcome::TokenDead { reason, .. }, true) = (&reply.outcome, may_be_awake) {
            self.bar_dead(device, reason, contacts, now);
        } else {
            self.learn_of_token(device, &reply, sent_at(&reply, now), contacts);
        }
        let chance = self.random.draw();
        self.with_context(server, |proxy, context| {
            let Some(call) = context.call_mut() else { return };
            let call_ref = call.call_ref.clone();
            let is_skipped = matches!(reply.outcome, push::Outcome::Skipped { .. });
            let was_paused = call.device(device).is_some_and(|held| std::mem::replace(&mut held.is_paused, is_skipped));
            let took = format!("{} ms", millis(reply.took));
            let (input, reason, words) = match reply.outcome {
                push::Outcome::Accepted => {
                    let mut first = None;
                    if let Some(held) = call.device(device) {
                        held.accepted_at.get_or_insert(now.instant);
                        held.taken_by = Some(reply.token);
                        first = held.binding.push.as_ref().map(|target| target.provider);
                    }
                    // A phone with several services may have been told by another one than the first.
                    let told = if first == Some(reply.provider) { took } else { format!("{took}, {}", reply.provider) };
                    proxy.step_pushed(&call_ref, Step::PushAccepted, device, told, reply.push_id, None);
                    proxy.tell(context, device, DeviceInput::Accepted, now);
                    proxy.await_connection(context, device, contacts, now);
                    if reply.repeatable {
                        proxy.push_again_later(context, device, now);
                    }
                    return proxy.conclude(context, contacts, now);
                }
                push::Outcome::Limited => (DeviceInput::Limited, Reason::PushesLimited, "".into()),
                push::Outcome::TokenDead { reason, .. } => (DeviceInput::Dead, Reason::TokenDead, reason),
                push::Outcome::Refused { reason } => (DeviceInput::Refused, Reason::PushRefused, reason),
                push::Outcome::Locked { reason } => (DeviceInput::Refused, Reason::CredentialsRefused, reason),
                push::Outcome::Misfit { reason } => (DeviceInput::Refused, Reason::TokenMisfit, reason),
                push::Outcome::Doubted { reason } => (DeviceInput::Refused, Reason::DeathDoubted, reason),
                push::Outcome::TryAgain { trouble, after, reason } => {
                    let attempts = call.device(device).map_or(1, |held| held.attempts);
                    (try_again(attempts, after, call.left(now.instant), chance), reason_of(trouble), reason)
                }
                push::Outcome::Skipped { after, reason } => {
                    (paused(after, call.left(now.instant), chance), Reason::ProviderPaused, reason)
                }
                // The device has come, or the call is over; its machine knows that already.
                push::Outcome::Withdrawn => return,
            };
            // It is told once, however often it is looked whether the provider works again.
            if !(was_paused && is_skipped) {
                let why = Why::new(reason, String::from(words));
                proxy.step_pushed(&call_ref, Step::PushRefused, device, took, reply.push_id, Some(why));
            }
            let is_in_vain = matches!(input, DeviceInput::Dead | DeviceInput::Refused);
            let input = if is_in_vain && may_be_awake { DeviceInput::OnlyByFlow } else { input };
            proxy.tell(context, device, input, now);
            proxy.conclude(context, contacts, now);
        });
    }

    /// A push that was taken may be lost, or late: it is repeated while its device does not come (`push.repeat_s`).
    fn push_again_later(&mut self, context: &mut Context, device: DeviceId, now: Now) {
        let server = context.server;
        let Some(call) = context.call_mut() else { return };
        let until = call.until;
        let Some(held) = call.device(device).filter(|held| held.state == DeviceState::Waiting) else { return };
        let due = held.next_repeat(&self.policy.push_repeat, now.instant);
        if let Some(due) = due.filter(|due| *due < until) {
            self.timers.set(Timer::Repeat(server, device), due);
        }
    }

    pub(super) fn repeat_due(&mut self, server: ServerId, device: DeviceId, contacts: &dyn Contacts, now: Now) {
        self.with_context(server, |proxy, context| {
            proxy.note_left(context, device, contacts);
            proxy.tell(context, device, DeviceInput::RepeatDue, now);
            proxy.conclude(context, contacts, now);
        });
    }

    /// Whether a device that cannot be pushed has an open connection, and has not had the request by it. That an address can
    /// be sent to says nothing of who is there.
    pub(super) fn may_be_awake(&self, context: &Context, device: DeviceId, contacts: &dyn Contacts, now: Now) -> bool {
        let is_tried = context.responses.branches.iter().any(|branch| branch.hop.device == Some(device));
        let held = context.call().and_then(|call| call.devices.iter().find(|held| held.binding.device == device));
        let binding = held.map(|held| &held.binding).filter(|binding| !is_tried && !binding.is_token_device());
        binding.is_some_and(|binding| binding.flow.transport.is_reliable() && self.is_reachable(binding, contacts, now))
    }

    /// The token is dead, but its device has an open connection: it is called by that, and not pushed. The binding ends when
    /// a call finds the connection gone.
    fn bar_dead(&mut self, device: DeviceId, words: &str, contacts: &dyn Contacts, now: Now) {
        let Some(binding) = contacts.of_device(device) else { return };
        let words = format!("{words}; called by its open connection only, until it registers anew");
        let (registered_at, why) = (binding.registered_at, Why::new(Reason::TokenDead, words));
        let barred = Barred { device, registered_at, sent_at: now.unix, why };
        self.effects.push_back(Effect::Found(Finding::Barred(barred)));
    }

    /// A device with a dead token has no connection any more.
    pub(super) fn end_dead(&mut self, binding: &Binding, now: Now) {
        let Some(target) = &binding.push else { return };
        let token = NoticeKind::Invite.token(target).clone();
        let (aor, device, sent_at) = (binding.aor.clone(), binding.device, now.unix);
        self.keep(Change::TokenDead { aor, device, token, sent_at, dead_since: None });
    }

    /// A dead token ends the binding, unless the device has registered since. An iOS device with two tokens may lose the
    /// remote one alone, when its user wants no notifications. What else is wrong with a token bars the device.
    pub(super) fn learn_of_token(
        &mut self,
        device: DeviceId,
        reply: &push::Reply,
        sent_at: UnixMillis,
        contacts: &dyn Contacts,
    ) {
        let Some(binding) = contacts.of_device(device) else { return };
        if let (push::Outcome::TokenDead { since, .. }, Some(target)) = (&reply.outcome, &binding.push) {
            let token = reply.notice.token(target).clone();
            let aor = binding.aor.clone();
            self.keep(Change::TokenDead { aor, device, token, sent_at, dead_since: *since });
        }
        let finding = Finding::of(&binding, reply.notice, &reply.outcome, sent_at);
        let is_news = |finding: &Finding| match finding {
            Finding::Barred(_) => true,
            Finding::Works(_) => contacts.fits(&binding).is_err(),
        };
        self.effects.extend(finding.filter(is_news).map(Effect::Found));
    }

    /// Whether a device may be pushed as far as its user and the other users of its token go; else why not.
    pub(super) fn admits(&self, binding: &Binding, contacts: &dyn Contacts) -> Result<(), Why> {
        self.policy.admits(binding, |most| contacts.has_too_many_aors(binding, most))
    }

    /// Whether a device that can be told of calls can be told of such a request, by any of its services: an iOS device is told
    /// of a message by its remote token only (VoIP pushes are for calls alone).
    pub(super) fn can_be_told_of(&self, target: &PushTarget, method: Method) -> Result<(), Why> {
        if method == Method::INVITE {
            return Ok(());
        }
        self.policy.push.supports(target, NoticeKind::Message).map_err(|wrong| match &target.tokens {
            Tokens::Apple { remote: None, .. } => Reason::NoRemoteToken.into(),
            Tokens::Apple { .. } | Tokens::Single | Tokens::Subscription(_) => {
                Why::new(Reason::PushRefused, String::from(wrong))
            }
        })
    }

    pub(super) fn retry_due(&mut self, server: ServerId, device: DeviceId, contacts: &dyn Contacts, now: Now) {
        self.with_context(server, |proxy, context| {
            if context.call_mut().is_some_and(|call| call.take_unread(device)) {
                proxy.resume_device(context, device, contacts, now);
            } else if context.dialog_wait().is_some() {
                proxy.dialog_push_due(context, contacts, now);
            } else {
                proxy.note_left(context, device, contacts);
                proxy.tell(context, device, DeviceInput::RetryDue, now);
            }
            proxy.conclude(context, contacts, now);
        });
    }
}

fn reason_of(trouble: push::Trouble) -> Reason {
    match trouble {
        push::Trouble::Failing => Reason::ProviderFailing,
        push::Trouble::Silent => Reason::ProviderSilent,
        push::Trouble::TokenLimit => Reason::PushesLimited,
        push::Trouble::Busy => Reason::PushQueueFull,
    }
}

/// When the push was sent that has been answered now.
pub(super) fn sent_at(reply: &push::Reply, now: Now) -> UnixMillis {
    UnixMillis(now.unix.0.saturating_sub(millis(reply.took)))
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
