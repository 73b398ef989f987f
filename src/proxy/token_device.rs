//! Token devices in calls: push tokens of an AOR whose phones register without one.
//!
//! A token device is pushed, and waited for, as a phone that sleeps. It has no contact, so it never gets a request
//! itself: the AOR's phone that registers without a token comes for it, and whatever becomes of that phone becomes of
//! the token device, too.

use std::sync::Arc;

use super::Proxy;
use super::context::Context;
use super::event::Contacts;
use super::held_call::{DeviceInput, DeviceState, HeldCall};
use super::request::call_ref;
use crate::binding::{Aor, Binding, DeviceId};
use crate::clock::{Now, UnixMillis};
use crate::sip::Message;
use crate::store::Settlement;

impl Proxy {
    /// Who is to be told of a request: the devices that it is for, and token devices of their AOR. No token is pushed
    /// twice for one call: not beside a phone that registered with it, and not for each branch of a softswitch that
    /// forks to several contacts.
    pub(super) fn with_tokens(
        &self,
        request: &Message,
        aor: &Aor,
        bindings: &[Arc<Binding>],
        only: Option<DeviceId>,
        contacts: &dyn Contacts,
    ) -> Vec<Arc<Binding>> {
        let (tokens, mut devices): (Vec<_>, Vec<_>) =
            bindings.iter().cloned().partition(|binding| binding.is_token_device());
        let tokens = match only {
            None => tokens,
            // The one device that is asked for has a token of its own.
            Some(_) if devices.iter().any(|binding| binding.push.is_some()) => Vec::new(),
            Some(_) => contacts.of_aor(aor).into_iter().filter(|binding| binding.is_token_device()).collect(),
        };
        if tokens.is_empty() {
            return devices;
        }
        let call_ref = call_ref(request, &self.policy.missed.call_ref_header);
        let calls = self.waiting.get(aor).map(|calls| &**calls).unwrap_or_default();
        let has_been_told = |token: &Binding| {
            let calls = calls.iter().filter_map(|server| self.contexts.get(server)?.call());
            calls.filter(|call| call.call_ref == call_ref).any(|call| call.has(token.device))
        };
        let is_new =
            |token: &Arc<Binding>| !devices.iter().any(|device| device.shares_token(token)) && !has_been_told(token);
        let new: Vec<_> = tokens.into_iter().filter(is_new).collect();
        devices.extend(new);
        devices
    }

    /// A phone has come, or its flow is gone again: so it is for the token devices that it comes for.
    pub(super) fn tell_tokens(&mut self, context: &mut Context, phone: &Binding, input: DeviceInput, now: Now) {
        let Some(call) = context.call_mut() else { return };
        let mut told = Vec::new();
        for held in call.devices.iter_mut().filter(|held| phone.comes_for(&held.binding)) {
            told.push(held.binding.device);
            if input == DeviceInput::Woke {
                self.effects.extend(held.wake_seen(now.instant));
            }
        }
        self.tell_all(context, &told, input, now);
    }

    /// Token devices that the phone comes for, whatever call they wait for.
    pub(super) fn tokens_of(&self, phone: &Binding, contacts: &dyn Contacts) -> Vec<Arc<Binding>> {
        let bindings = contacts.of_aor(&phone.aor);
        bindings.into_iter().filter(|binding| phone.comes_for(binding)).collect()
    }

    /// Whether a device has been here since: by a REGISTER of its own, or of a phone that comes for it.
    pub(super) fn has_come_since(&self, binding: &Binding, since: UnixMillis, contacts: &dyn Contacts) -> bool {
        if !binding.is_token_device() {
            return binding.registered_at > since;
        }
        let phones = contacts.of_aor(&binding.aor);
        phones.iter().any(|phone| phone.comes_for(binding) && phone.registered_at > since)
    }
}

impl HeldCall {
    pub(super) fn has(&self, device: DeviceId) -> bool {
        self.devices.iter().any(|held| held.binding.device == device)
    }

    /// Whether a device that registers may have the call. One that is for a single device is also for a phone that nobody
    /// knew when it came, if a token was pushed: without an instance it has a new name whenever its address is new.
    pub(super) fn admits(&self, phone: &Binding) -> bool {
        let comes_for_token = || self.devices.iter().any(|held| phone.comes_for(&held.binding));
        self.only.is_none_or(|only| only == phone.device || !self.others.contains(&phone.device) && comes_for_token())
    }

    /// Entries of token devices that are done with because a phone that came for them has seen the call.
    pub(super) fn tokens_seen_by(&mut self, phone: DeviceId) -> Vec<(DeviceId, Settlement)> {
        let Some(phone) = self.device(phone).map(|held| Arc::clone(&held.binding)) else { return Vec::new() };
        let tokens = self.devices.iter_mut().filter(|held| phone.comes_for(&held.binding));
        let seen = tokens.filter(|held| held.state == DeviceState::Joined && held.has_entry);
        seen.map(|held| {
            held.has_entry = false;
            (held.binding.device, Settlement::Seen)
        })
        .collect()
    }
}
