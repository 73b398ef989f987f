//! Calls to phones: which devices get the request at once, which are pushed first, and who joins when (RFC 8599 §5.6.2).

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use super::caller::Caller;
use super::context::{Context, Purpose};
use super::event::{Contacts, Effect, Outcome};
use super::held_call::{Deed, DeviceInput, DeviceState, HeldCall, HeldDevice};
use super::policy::PushWhen;
use super::request::{call_ref, keeps_dialog};
use super::response_context::{BranchState, Hop, RecordRoute};
use super::secret::FlowToken;
use super::unread::is_for_nobody;
use super::{BUSY_RETRY_AFTER_S, Proxy, Reject, Timer, forward};
use crate::binding::{Aor, Binding, DeviceId};
use crate::clock::Now;
use crate::push::NoticeKind;
use crate::sip::response::reason_phrase;
use crate::sip::{HeaderName, Message, Method, scan};
use crate::store::{Change, Settlement};
use crate::timeline::{Reason, Step, Why};
use crate::transaction::ServerId;

/// A non-INVITE must be answered before its client gives up after 64*T1 (RFC 8599 §5.6.2).
pub(super) const NON_INVITE_WAIT_MAX: Duration = Duration::from_secs(25);
/// Other proxies' Timer C is kept from firing (RFC 3261 §13.3.1.1).
const PROVISIONAL_EVERY: Duration = Duration::from_secs(60);

/// What is known of a device before the call is tried.
pub(super) enum Reach {
    /// It gets the request, and no push.
    Now,
    /// It gets the request before any push, and a push if it stays silent.
    Probe,
    /// It is pushed; one whose registration has not expired registered so long ago.
    Asleep(Option<Duration>),
    /// Neither reachable nor to be woken, and why.
    Never(Why),
}

impl Proxy {
    /// A request for phones.
    pub(super) fn call_phones(
        &mut self,
        context: &mut Context,
        aor: Aor,
        bindings: &[Arc<Binding>],
        only: Option<DeviceId>,
        contacts: &dyn Contacts,
        now: Now,
    ) {
        let request = context.request.clone();
        let bindings = &*self.with_tokens(&request, &aor, bindings, only, contacts);
        if request.method() == Method::OPTIONS && bindings.iter().any(|binding| binding.push.is_some()) {
            // A softswitch that asks whether its contact is alive would take a sleeping phone for a dead one.
            return self.answer_options(context, now);
        }
        let holds = request.to_tag().is_none()
            && self.policy.hold.holds(request.method(), request.method_text())
            && !is_for_nobody(&request);
        if !holds {
            return self.forward_to_reachable(context, bindings, contacts, now);
        }
        let asked = bindings.len();
        let (bindings, leader) = self.not_forked(&request, &aor, bindings.to_vec());
        if let Some(leader) = leader.filter(|_| bindings.is_empty()) {
            return self.follow(context, leader, aor, now);
        }
        if self.is_draining || self.held_calls >= self.policy.held_calls_max {
            let call_ref = call_ref(&request, &self.policy.missed.call_ref_header);
            self.effects.push_back(Effect::CallEnded { call_ref, outcome: Outcome::Overload });
            return self.reject(context, &Reject::busy(BUSY_RETRY_AFTER_S), now);
        }
        self.watch(&aor, contacts);
        let mut call = self.new_call(context, aor, only, now);
        if only.is_some() {
            call.others = contacts.of_aor(&call.aor).iter().map(|binding| binding.device).collect();
        }
        self.waiting.entry(call.aor.clone()).or_default().push(context.server);
        self.held_calls += 1;
        let call_ref = call.call_ref.clone();
        let detail = format!("{} to {}, {} device(s)", call.caller.number, call.aor, bindings.len());
        let call_id = scan::text(request.call_id());
        self.effects.push_back(Effect::CallBegan { call_ref: call_ref.clone(), call_id, aor: call.aor.clone() });
        self.step(&call_ref, Step::Received, None, detail);
        context.purpose = Purpose::Call(Box::new(call));
        // Until the call is durable, its caller is to repeat the INVITE if this process dies.
        let is_withheld = self.transactions.withhold(context.server);
        if let Some(call) = context.call_mut() {
            call.owes_trying = is_withheld;
        }
        if asked > bindings.len() {
            self.step_why(&call_ref, Step::DeviceSkipped, None, "", Reason::ForkMerged);
        }
        for binding in &bindings {
            self.take_device(context, binding, contacts, now);
        }
        if !context.call().is_some_and(HeldCall::is_to_be_recorded) {
            self.send_trying(context, now);
        }
        self.record(context, now);
        if let Some(call) = context.call() {
            self.timers.set(Timer::Hold(context.server), call.until);
        }
        self.conclude(context, contacts, now);
    }

    /// From here on this worker hears of each REGISTER of the user.
    pub(super) fn watch(&self, aor: &Aor, contacts: &dyn Contacts) {
        contacts.watch(aor);
        if let Some(present) = self.policy.later_name(aor) {
            contacts.watch(&present);
        }
    }

    /// The opposite, once for each [`Proxy::watch`].
    pub(super) fn unwatch(&self, aor: &Aor, contacts: &dyn Contacts) {
        contacts.unwatch(aor);
        if let Some(present) = self.policy.later_name(aor) {
            contacts.unwatch(&present);
        }
    }

    fn new_call(&mut self, context: &Context, aor: Aor, only: Option<DeviceId>, now: Now) -> HeldCall {
        let request = &context.request;
        let wait =
            if context.is_invite() { self.policy.hold.wait } else { self.policy.hold.wait.min(NON_INVITE_WAIT_MAX) };
        let expires = request.number(HeaderName::Expires).filter(|_| context.is_invite()).map(Duration::from_secs);
        let ends_by_expires = expires.is_some_and(|expires| expires < wait);
        HeldCall {
            id: self.keys.held_call(request, self.policy.home, self.worker),
            call_ref: call_ref(request, &self.policy.missed.call_ref_header),
            aor,
            caller: Caller::of(request),
            only,
            others: [].into(),
            since: now,
            until: now.instant + expires.map_or(wait, |expires| expires.min(wait)),
            ends_by_expires,
            is_open: true,
            is_recorded: false,
            owes_trying: false,
            is_let_go: false,
            taken_by: None,
            store_failed: false,
            devices: SmallVec::new(),
            forks: Vec::new(),
            unread: SmallVec::new(),
        }
    }

    /// The caller gets its 100, if that was withheld.
    pub(super) fn send_trying(&mut self, context: &mut Context, now: Now) {
        if context.call_mut().is_some_and(|call| std::mem::take(&mut call.owes_trying)) {
            self.transactions.trying(context.server, now.instant);
        }
    }

    /// Sends the request to a device that is awake, or notes that it must be woken.
    fn take_device(&mut self, context: &mut Context, binding: &Arc<Binding>, contacts: &dyn Contacts, now: Now) {
        let is_reachable = self.is_reachable(binding, contacts, now);
        let reach = self.reach(binding, &context.request, is_reachable, contacts, now);
        let Some(call) = context.call_mut() else { return };
        let call_ref = call.call_ref.clone();
        let device = binding.device;
        let state = match &reach {
            Reach::Now | Reach::Probe => DeviceState::Noting,
            Reach::Asleep(_) => DeviceState::Recording,
            Reach::Never(_) => DeviceState::Unwakeable,
        };
        let is_only_called = matches!(reach, Reach::Now);
        call.devices.push(HeldDevice { is_only_called, ..HeldDevice::new(Arc::clone(binding), state) });
        match reach {
            Reach::Now | Reach::Probe => {}
            Reach::Asleep(age) => {
                let provider = provider_of(binding);
                let is_taken = binding.is_reachable(now.unix) && !contacts.holds_flow(binding);
                let detail = match age {
                    Some(age) => format!("{provider}, registered {} s ago", age.as_secs()).into(),
                    None if is_taken => format!("{provider}, another device has its flow").into(),
                    None => Cow::Borrowed(provider),
                };
                self.step(&call_ref, Step::DeviceFound, Some(device), detail);
            }
            Reach::Never(why) => self.skip(&call_ref, binding, why, now),
        }
    }

    /// A device can neither be reached nor woken. One whose token is dead has kept its binding for its connection alone.
    fn skip(&mut self, call_ref: &str, binding: &Binding, why: Why, now: Now) {
        if why.reason == Reason::TokenDead {
            self.end_dead(binding, now);
        }
        self.step_why(call_ref, Step::DeviceSkipped, Some(binding.device), "", why);
    }

    /// How a request that comes at `now` gets to a device.
    pub(super) fn reach(
        &self,
        binding: &Binding,
        request: &Message,
        is_reachable: bool,
        contacts: &dyn Contacts,
        now: Now,
    ) -> Reach {
        let Some(target) = &binding.push else {
            return match &binding.push_refused {
                _ if is_reachable => Reach::Now,
                Some(wrong) => {
                    let reason = Reason::PushParametersUnusable;
                    Reach::Never(Why::new(reason, format!("{}: {wrong}", reason.meaning())))
                }
                None => Reach::Never(Reason::NoPushParameters.into()),
            };
        };
        let age = now.unix.since(binding.registered_at);
        let is_fresh = age < self.policy.hold.fresh;
        let is_pushable = self
            .policy
            .push
            .supports(target, NoticeKind::Invite)
            .map_err(|wrong| Why::new(Reason::ProviderOff, String::from(wrong)))
            .and_then(|()| self.can_be_told_of(target, request.method()))
            .and_then(|()| contacts.fits(binding))
            .and_then(|()| self.admits(binding, contacts));
        let is_tried_first = is_fresh || self.policy.hold.push_when == PushWhen::Unreachable;
        match is_pushable {
            Err(_) if is_reachable => Reach::Now,
            Err(why) => Reach::Never(why),
            Ok(()) if is_reachable && is_tried_first => Reach::Probe,
            Ok(()) => Reach::Asleep(is_reachable.then_some(age)),
        }
    }

    /// Requests that are not held go to devices whose registration has not expired.
    pub(super) fn forward_to_reachable(
        &mut self,
        context: &mut Context,
        bindings: &[Arc<Binding>],
        contacts: &dyn Contacts,
        now: Now,
    ) {
        let reachable: Vec<_> = bindings.iter().filter(|binding| self.is_reachable(binding, contacts, now)).collect();
        if let ([], [only], true) = (&*reachable, bindings, context.request.to_tag().is_some()) {
            self.wait_in_dialog(context, only.device, contacts, now);
            if context.dialog_wait().is_none() && !context.responses.is_final {
                return self.reject(context, &Reject::of(480), now);
            }
            return self.conclude(context, contacts, now);
        }
        if reachable.is_empty() {
            return self.reject(context, &Reject::of(480), now);
        }
        for binding in reachable {
            let hop = self.hop_to(context, binding, now);
            self.start_branch(context, hop, now);
        }
        self.conclude(context, contacts, now);
    }

    fn hop_to(&mut self, context: &Context, binding: &Binding, now: Now) -> Hop {
        let way = self.way_to(&context.request, context.flow, binding.device, (binding.flow, binding.home));
        // The node that has the flow stays on the dialog's path; this one need not.
        let stays = keeps_dialog(&context.request) && way.is_direct();
        let routes = way.routes_to(binding);
        let mut destinations = vec![way.destination];
        self.prefer_stream(&context.request, &mut destinations, now);
        Hop {
            uri: Some(forward::request_uri(&binding.contact).into()),
            routes,
            record_route: stays.then(|| {
                let phone = FlowToken { device: binding.device, flow: binding.flow };
                RecordRoute::ToPhone(self.dialog_with(phone, &context.request, context.flow))
            }),
            destinations,
            device: Some(binding.device),
            flow: Some(way.flow),
        }
    }

    /// Gives the request to a device on its present flow. What that flow has already is not sent again, except that a
    /// silent one is reminded at once. By another flow it has the same branch, so that a phone that has it still takes it
    /// for a repetition, and one that has forgotten it for a new one.
    pub(super) fn join(&mut self, context: &mut Context, binding: &Arc<Binding>, now: Now) {
        if binding.is_token_device() {
            // The phone that came for it has the request under its own name.
            return;
        }
        let hop = self.hop_to(context, binding, now);
        if let Some(index) = context.responses.branch_to(binding.device)
            && let Some(branch) = context.responses.branches.get(index)
        {
            let Some(client) = branch.client else { return };
            let has_it = branch.hop.flow == hop.flow && branch.hop.routes == hop.routes;
            match branch.state {
                BranchState::Ringing if has_it => return,
                BranchState::Calling if has_it => return self.transactions.resend(client, now.instant),
                // Its app was killed, or it has moved: what went to its old flow nobody hears, or nobody has to hear.
                BranchState::Ringing | BranchState::Calling | BranchState::Ended => {}
            }
            self.drop_branch(context, index);
            context.responses.end(index, 487);
        }
        let tried = |branch: &super::response_context::Branch| {
            branch.hop.device == Some(binding.device) && branch.failure.is_none()
        };
        if context.responses.branches.iter().any(tried) {
            return;
        }
        if let Some(call) = context.call() {
            let call_ref = call.call_ref.clone();
            self.step(&call_ref, Step::Forwarded, Some(binding.device), binding.flow.to_string());
        }
        self.start_branch(context, hop, now);
    }

    pub(super) fn tell_all(&mut self, context: &mut Context, devices: &[DeviceId], input: DeviceInput, now: Now) {
        for device in devices {
            self.tell(context, *device, input, now);
        }
    }

    /// Tells a device's machine what happened, and does what it says.
    pub(super) fn tell(&mut self, context: &mut Context, device: DeviceId, input: DeviceInput, now: Now) {
        let Some(call) = context.call_mut().filter(|call| call.is_open) else { return };
        match call.tell(device, input, now.instant) {
            Deed::Nothing | Deed::Conclude => {}
            Deed::Record => self.record(context, now),
            Deed::Push => self.push(context, device, now),
            Deed::PushAfter(pause) => {
                let due = now.instant + pause;
                self.timers.set(Timer::Retry(context.server, device), due);
            }
            Deed::RepeatAfter(pause) => {
                let due = now.instant + pause;
                self.timers.set(Timer::Repeat(context.server, device), due);
            }
            deed @ (Deed::Probe | Deed::Join) => {
                let Some(binding) = call.device(device).map(|held| Arc::clone(&held.binding)) else { return };
                if deed == Deed::Probe {
                    let due = now.instant + self.policy.hold.probe;
                    self.timers.set(Timer::Probe(context.server, device), due);
                }
                self.join(context, &binding, now);
            }
        }
    }

    pub(super) fn probe_over(&mut self, server: ServerId, device: DeviceId, contacts: &dyn Contacts, now: Now) {
        self.with_context(server, |proxy, context| {
            if context.call().is_none() {
                proxy.silent_in_dialog(context, device, contacts, now);
            }
            proxy.tell(context, device, DeviceInput::Silent, now);
            proxy.conclude(context, contacts, now);
        });
    }

    /// A REGISTER was accepted, here or elsewhere: calls that wait for its device go on.
    pub(super) fn wake(&mut self, binding: &Arc<Binding>, contacts: &dyn Contacts, now: Now) {
        if binding.is_token_device() {
            // News of another node, but nobody has come.
            return;
        }
        self.followed(binding, contacts, now);
        self.wake_late(binding, contacts, now);
        let mut waiting = self.waiting.get(&binding.aor).cloned().unwrap_or_default();
        for other in self.policy.other_names(&binding.aor) {
            waiting.extend(self.waiting.get(&other).into_iter().flatten().copied());
        }
        for server in waiting {
            self.with_context(server, |proxy, context| {
                proxy.wake_in(context, binding, contacts, now);
                proxy.conclude(context, contacts, now);
            });
        }
    }

    fn wake_in(&mut self, context: &mut Context, binding: &Arc<Binding>, contacts: &dyn Contacts, now: Now) {
        let open = |call: &&mut HeldCall| call.is_open && call.admits(binding);
        let Some(call) = context.call_mut().filter(open) else { return };
        let call_ref = call.call_ref.clone();
        match call.device(binding.device) {
            // The registration that the call found: its news came late, from another worker. A device that has gone to
            // sleep since must be pushed.
            Some(held) if held.binding.is_same_registration(binding) => return,
            Some(held) => {
                self.effects.extend(held.wake_seen(now.instant));
                held.binding = Arc::clone(binding);
                (held.has_come, held.has_left) = (true, false);
            }
            // A device that nobody knew when the call came (RFC 3261 §16.5: targets may be added).
            None => {
                let has_entry = call.take_unread(binding.device);
                if has_entry && binding.registered_at <= call.since.unix {
                    // Memory has read what the device was before the call; it sleeps.
                    return self.resume_binding(context, Arc::clone(binding), contacts, now);
                }
                let held = HeldDevice::new(Arc::clone(binding), DeviceState::Unwakeable);
                let held = HeldDevice { has_come: true, is_noted: has_entry, has_entry, is_durable: has_entry, ..held };
                call.devices.push(held);
            }
        }
        self.step(&call_ref, Step::Registered, Some(binding.device), binding.flow.to_string());
        self.tell(context, binding.device, DeviceInput::Woke, now);
        self.tell_tokens(context, binding, DeviceInput::Woke, now);
        self.record(context, now);
    }

    /// From here on the caller is told that its call waits, unless it hears a device, or is told already.
    pub(super) fn begin_provisional(&mut self, context: &mut Context, now: Now) {
        if !context.responses.has_rung && !self.timers.contains(&Timer::Provisional(context.server)) {
            self.send_provisional(context, now);
        }
    }

    /// Our own provisional response, as if one branch led to a user agent in this proxy (RFC 3261 §16.7 step 6). It
    /// would have to be reliable for a caller that requires 100rel, so that one gets none.
    fn send_provisional(&mut self, context: &mut Context, now: Now) {
        let status = self.policy.hold.provisional;
        let fits = context.is_invite()
            && !context.responses.is_final
            && !context.request.has_option(HeaderName::Require, "100rel");
        if status == 0 || !fits {
            return;
        }
        let contact = self.early_contact(context);
        self.respond(context, status, reason_phrase(status), &contact, now);
        self.early.begin(&context.to_tag, context.server);
        self.timers.set(Timer::Provisional(context.server), now.instant + PROVISIONAL_EVERY);
    }

    pub(super) fn repeat_provisional(&mut self, server: ServerId, now: Now) {
        self.with_context(server, |proxy, context| {
            // The caller has heard a device, which repeats its own; when it refuses, the wait is over before Timer C is.
            if !context.responses.has_rung {
                proxy.send_provisional(context, now);
            }
        });
    }

    /// The wait is over: devices that did not come are no longer waited for.
    pub(super) fn hold_over(&mut self, server: ServerId, contacts: &dyn Contacts, now: Now) {
        self.with_context(server, |proxy, context| {
            proxy.wait_for_nobody(context);
            if !context.is_invite() {
                // Its client is about to give up; nothing that a device says later would find it.
                for index in 0..context.responses.branches.len() {
                    proxy.drop_branch(context, index);
                    context.responses.end_if_pending(index, 408);
                }
            }
            proxy.conclude(context, contacts, now);
        });
    }

    /// Devices that have not come are no longer waited for.
    pub(super) fn wait_for_nobody(&mut self, context: &mut Context) {
        let Some(call) = context.call_mut() else { return };
        call.is_open = call.devices.iter().any(|held| held.state == DeviceState::Joined);
        for held in &mut call.devices {
            if held.is_expected() {
                held.state = DeviceState::Unwakeable;
                held.purpose.end();
            }
        }
    }

    /// A device answered on its branch: it is awake, and it has seen the call.
    pub(super) fn device_answered(&mut self, context: &mut Context, index: usize, response: &Message, now: Now) {
        let status = response.status().unwrap_or_default();
        let Some(branch) = context.responses.branches.get(index) else { return };
        let (Some(device), BranchState::Calling | BranchState::Ringing) = (branch.hop.device, branch.state) else {
            return;
        };
        let first = branch.state == BranchState::Calling;
        let Some(call) = context.call_mut() else { return };
        let (aor, id, call_ref) = (call.aor.clone(), call.id, call.call_ref.clone());
        if status > 100 && status < 200 && first {
            self.step(&call_ref, Step::Ringing, Some(device), status.to_string());
        } else if status >= 300 {
            self.step(&call_ref, Step::Rejected, Some(device), status.to_string());
        }
        // 487 follows our own CANCEL, 408 comes of silence: neither is the device's word.
        let is_sign_of_life = status > 100 && !matches!(status, 408 | 487);
        let mut devices = if is_sign_of_life { call.tokens_seen_by(device) } else { Vec::new() };
        if let Some(held) = call.device(device).filter(|held| is_sign_of_life && held.has_entry) {
            held.has_entry = false;
            devices.push((device, Settlement::Seen));
        }
        if !devices.is_empty() {
            self.keep(Change::Settle { aor, id, call_ref, devices, ended: false });
        }
        // A 100 says that the device is awake, so that no push is needed, but not that its user will see the call.
        let is_probed = held_state(context, device) == Some(DeviceState::Probing);
        if status > 100 || is_probed {
            self.tell(context, device, DeviceInput::Answered, now);
        }
    }

    /// A device's branch failed without a response. A device that lost its connection may come back by itself, or by a
    /// push that it has not had.
    pub(super) fn device_unreachable(
        &mut self,
        context: &mut Context,
        device: DeviceId,
        status: u16,
        contacts: &dyn Contacts,
        now: Now,
    ) {
        let method = context.request.method();
        if context.call().is_none() && status == 503 {
            return self.wait_in_dialog(context, device, contacts, now);
        }
        let Some(call) = context.call_mut() else { return };
        let call_ref = call.call_ref.clone();
        let binding = call.device(device).map(|held| Arc::clone(&held.binding));
        let target = binding.as_ref().and_then(|binding| binding.push.as_ref());
        let admitted = binding.as_ref().map_or(Ok(()), |binding| {
            contacts.fits(binding)?;
            self.admits(binding, contacts)
        });
        let can_be_told = |target| self.can_be_told_of(target, method).is_ok();
        let is_pushable = target.is_some_and(can_be_told) && admitted.is_ok();
        let (input, reason) = match status {
            408 => (DeviceInput::Silent, Reason::DeviceSilent),
            _ => (DeviceInput::Lost, Reason::FlowLost),
        };
        self.step_why(&call_ref, Step::Failed, Some(device), "", reason);
        self.timers.cancel(&Timer::Probe(context.server, device));
        if context.responses.is_overloaded {
            return;
        }
        if is_pushable {
            self.note_left(context, device, contacts);
            self.tell(context, device, input, now);
        }
        if let (Err(why), Some(binding), Some(_)) = (admitted, &binding, target) {
            self.skip(&call_ref, binding, why, now);
        }
        if let Some(binding) = binding {
            self.tell_tokens(context, &binding, input, now);
        }
    }
}

fn held_state(context: &mut Context, device: DeviceId) -> Option<DeviceState> {
    context.call_mut()?.device(device).map(|held| held.state)
}

fn provider_of(binding: &Binding) -> &'static str {
    binding.push.as_ref().map_or("", |target| target.provider.name())
}
