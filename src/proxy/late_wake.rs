//! A phone that comes when its call is over: INVITE followed by CANCEL (design: `hold.late_wake`).
//!
//! A VoIP push makes an iOS app show a call at once. When the call ends before the app has registered, only an INVITE
//! and its CANCEL tell it so in its own language: CallKit closes its screen, and the call is in the phone's own log.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use smallvec::SmallVec;

use super::branches::ANSWERED_ELSEWHERE;
use super::context::Context;
use super::event::{Contacts, Effect};
use super::given_up::{Invite, Told};
use super::held_call::{DeviceState, HeldDevice};
use super::policy::LateWake;
use super::privacy::Towards;
use super::request::Way;
use super::secret::FlowToken;
use super::{Proxy, Timer, forward, route};
use crate::binding::{Aor, Binding, DeviceId, Tokens};
use crate::clock::Now;
use crate::sip::{Flow, Message};
use crate::store::HeldCallId;
use crate::timeline::{Reason, Step};
use crate::transaction::Branch;

/// How long after its call's end a pushed phone may still come: its screen is closed by its user before that.
const MEMORY: Duration = Duration::from_secs(60);
/// Calls that one phone may have missed meanwhile; the oldest goes.
const PER_DEVICE_MAX: usize = 4;
/// How long the device may take to say that it has seen the call before it is told of it by a push.
const REPORT_PAUSE: Duration = Duration::from_secs(5);

/// Calls that are over, by the pushed devices that have not come yet.
#[derive(Debug, Default)]
pub(super) struct LateCalls {
    waiting: HashMap<DeviceId, Vec<LateCall>>,
}

#[derive(Debug, Clone)]
struct LateCall {
    aor: Aor,
    id: HeldCallId,
    call_ref: Box<str>,
    request: Message,
    flow: Flow,
    loop_hash: u64,
    /// Header lines of the CANCEL.
    reason: &'static [u8],
    until: Instant,
}

impl LateCalls {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

impl Proxy {
    /// A call ends: keeps it for the devices that a VoIP push has told of it and that have not come.
    pub(super) fn keep_for_late(&mut self, context: &Context, was_answered: bool, contacts: &dyn Contacts, now: Now) {
        if self.policy.hold.late_wake == LateWake::MissedCalls || !context.is_invite() {
            return;
        }
        let Some(call) = context.call() else { return };
        let may_be_late = |held: &&HeldDevice| shows_a_call(held) && self.may_be_invited_late(held);
        let devices: SmallVec<[DeviceId; 1]> =
            call.devices.iter().filter(may_be_late).map(|held| held.binding.device).collect();
        for device in devices {
            let late = LateCall {
                aor: call.aor.clone(),
                id: call.id,
                call_ref: call.call_ref.clone(),
                request: context.request.clone(),
                flow: context.flow,
                loop_hash: context.loop_hash,
                reason: if was_answered { ANSWERED_ELSEWHERE } else { b"" },
                until: now.instant + MEMORY,
            };
            if !self.late.waiting.contains_key(&device) && self.late.waiting.len() >= self.policy.held_calls_max {
                // Its screen stays until its user or the app closes it.
                continue;
            }
            // The REGISTER may come to another worker.
            contacts.watch(&late.aor);
            let calls = self.late.waiting.entry(device).or_default();
            calls.push(late);
            if calls.len() > PER_DEVICE_MAX {
                let oldest = calls.remove(0);
                contacts.unwatch(&oldest.aor);
            }
            self.timers.set(Timer::Late(device), now.instant + MEMORY);
        }
    }

    /// Unless the operator says so, only a device whose app knows a call again: another one would take the INVITE for a second
    /// call and ring once more.
    fn may_be_invited_late(&self, held: &HeldDevice) -> bool {
        match self.policy.hold.late_wake {
            LateWake::MissedCalls => false,
            LateWake::InviteCancel => true,
            LateWake::ByPlatform => held.told_by().is_some_and(|target| self.policy.push.knows_calls_again(target)),
        }
    }

    /// Nobody has to be told any more.
    pub(super) fn late_over(&mut self, device: DeviceId, contacts: &dyn Contacts, now: Now) {
        let Some(calls) = self.late.waiting.get_mut(&device) else { return };
        calls.retain(|call| {
            let stays = call.until > now.instant;
            if !stays {
                contacts.unwatch(&call.aor);
            }
            stays
        });
        match calls.iter().map(|call| call.until).min() {
            Some(until) => self.timers.set(Timer::Late(device), until),
            None => {
                self.late.waiting.remove(&device);
            }
        }
    }

    /// A device registered: it gets the calls that ended while its push was on the way.
    pub(super) fn wake_late(&mut self, binding: &Arc<Binding>, contacts: &dyn Contacts, now: Now) {
        let Some(calls) = self.late.waiting.remove(&binding.device) else { return };
        self.timers.cancel(&Timer::Late(binding.device));
        for call in calls {
            contacts.unwatch(&call.aor);
            self.invite_and_cancel(call, binding, now);
        }
    }

    fn invite_and_cancel(&mut self, call: LateCall, binding: &Binding, now: Now) {
        let way = self.way_to(&call.request, call.flow, binding.device, (binding.flow, binding.home));
        let destination = way.destination;
        let branch = self.transactions.new_branch(call.loop_hash);
        let Some(bytes) = self.late_invite(&call, binding, &way, &branch) else { return };
        let Ok(request) = Message::parse(bytes, usize::MAX) else {
            self.effects.push_back(Effect::Fault("a forwarded request does not parse"));
            return;
        };
        // Without a transaction to spare its screen stays open.
        let Ok(client) = self.transactions.send(request, branch, destination, now.instant) else { return };
        // It goes out when the first provisional response has come (RFC 3261 §9.1).
        self.transactions.cancel(client, call.reason, now.instant);
        let device = binding.device;
        self.step_why(&call.call_ref, Step::Registered, Some(device), binding.flow.to_string(), Reason::CallOver);
        let why = Reason::InviteAndCancel;
        self.step_why(&call.call_ref, Step::Forwarded, Some(device), binding.flow.to_string(), why);
        let told = Told { aor: call.aor, id: call.id, call_ref: call.call_ref, device };
        let routes = way.routes;
        self.given_up.keep(client, Invite::new(Some(told), call.loop_hash, destination, routes));
    }

    fn late_invite(&self, call: &LateCall, binding: &Binding, way: &Way, branch: &Branch) -> Option<Bytes> {
        let destination = way.destination;
        let phone = FlowToken { device: binding.device, flow: binding.flow };
        let token = self.dialog_with(phone, &call.request, call.flow);
        let token = self.keys.write_dialog(&token, call.request.call_id());
        let routes = way.routes_to(binding);
        let routed = route::preprocess(&call.request, &self.policy, &self.keys);
        let onward = forward::Onward {
            uri: Some(forward::request_uri(&binding.contact)),
            routes: &routes,
            record_route: way.is_direct().then_some(&*token),
            ingress: self.policy.listener(call.flow.listener)?,
            egress: self.policy.listener(destination.listener())?,
            transport: destination.transport(),
            branch,
            towards: Towards::Phone,
        };
        Some(forward::request(&call.request, call.flow.remote, &routed, &onward))
    }

    /// A device that is about to learn of a call by INVITE and CANCEL is told of the others later. Whether that is so: also
    /// when memory has its registration already and this worker has yet to hear that it is durable.
    pub(super) fn puts_off_report(&mut self, device: DeviceId, now: Now) -> bool {
        let puts_off = self.given_up.is_under_way(device) || self.late.waiting.contains_key(&device);
        if puts_off {
            self.timers.set(Timer::Report(device), now.instant + REPORT_PAUSE);
        }
        puts_off
    }
}

/// Whether an iOS device was told of the call by a VoIP push, and has not come.
fn shows_a_call(held: &HeldDevice) -> bool {
    let is_voip = held.told_by().is_some_and(|target| matches!(&target.tokens, Tokens::Apple { voip: Some(_), .. }));
    let was_pushed = held.accepted_at.is_some() || held.state == DeviceState::Pushing;
    is_voip && was_pushed && held.state != DeviceState::Joined && !held.binding.is_token_device()
}
