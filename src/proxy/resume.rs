//! Held calls of a run that died, or of a node that is gone, taken up as if it had never gone.
//!
//! The caller's server transaction is made anew from the stored INVITE, with the To tag that the caller knows. A device
//! that registered meanwhile, or that was called at once, gets the INVITE, which it takes for a repetition if it had it
//! before, because the branch is the same: what it answers has a transaction again. One whose connection went with the
//! process is waited for. The others are pushed once more, as soon as memory has their bindings. What ran out is answered,
//! and missed.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use super::caller::Caller;
use super::context::{Context, Purpose};
use super::event::{Contacts, Effect};
use super::held_call::{DeviceInput, DeviceState, HeldCall, HeldDevice};
use super::hold::Reach;
use super::keep::Kept;
use super::request::Target;
use super::{Proxy, Timer, route, validate};
use crate::binding::{Aor, Binding, DeviceId, Home};
use crate::clock::Now;
use crate::sip::{Flow, HeaderName, Message, response, scan};
use crate::store::{self, Change, HeldCallId, Settlement};
use crate::timeline::{Reason, Step};
use crate::transaction::{Incoming, ServerId, Standing};

/// How long a call that another node has may be cancelled here: its wait, and the time that it rings.
const TAKEN_OVER_KNOWN: Duration = Duration::from_secs(360);
/// So long a phone that a push has woken stays awake without a call, at least.
const STAYS_AWAKE: Duration = Duration::from_secs(5);
/// How often memory is looked at for a device that it did not have at a start without Redis.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl Proxy {
    pub(super) fn resume(&mut self, left: &store::LeftCall, contacts: &dyn Contacts, now: Now) {
        let stored = &left.call;
        let flow = self.own_flow(stored.flow);
        let Ok(request) = Message::parse(stored.invite.clone(), usize::MAX) else {
            return self.give_up(stored, Step::Failed, Reason::NotTakenUp);
        };
        // It was let in once, and has to go on.
        let trusted = || Standing::Trusted;
        let Incoming::Request(server) = self.transactions.receive_request(&request, flow, trusted, now.instant) else {
            // The same INVITE is held under another record, or there are too many transactions.
            return self.give_up(stored, Step::Failed, Reason::NotTakenUp);
        };
        if self.transactions.is_cancelled(&request) {
            // Its caller gave up while the call was nobody's.
            let tag = Some(&*stored.to_tag);
            let bytes = response::build(&request, flow.remote, 487, response::reason_phrase(487), tag, |_| ());
            self.transactions.respond(server, 487, bytes, now.instant);
            return self.give_up(stored, Step::Cancelled, Reason::CallerGaveUp);
        }
        if stored.devices.is_empty() {
            return self.resume_fork(server, request, flow, stored, now);
        }
        self.watch(&stored.aor, contacts);
        self.waiting.entry(stored.aor.clone()).or_default().push(server);
        self.held_calls += 1;
        let call = HeldCall { only: self.only(&request, flow, contacts), ..held_call(stored, &request, now) };
        self.timers.set(Timer::Hold(server), call.until);
        let mut context = Box::new(Context {
            purpose: Purpose::Call(Box::new(call)),
            ..self.left_context(server, request, flow, stored)
        });
        let detail = match &left.from {
            None => "taken up after a restart".into(),
            Some(node) => format!("taken over from {node}, which is gone"),
        };
        let call_id = scan::text(context.request.call_id());
        self.effects.push_back(Effect::CallBegan {
            call_ref: stored.call_ref.clone(),
            call_id,
            aor: stored.aor.clone(),
        });
        self.step(&stored.call_ref, Step::Received, None, detail);
        self.resume_devices(&mut context, stored, contacts, now);
        self.conclude(&mut context, contacts, now);
        self.put_back(context);
    }

    /// Of a request of an earlier run.
    pub(super) fn left_context(
        &self,
        server: ServerId,
        request: Message,
        flow: Flow,
        stored: &store::HeldCall,
    ) -> Context {
        let loop_hash = validate::loop_hash(&request, flow.remote, &self.policy.secret);
        let context = Context::new(server, request, flow, loop_hash, stored.to_tag.clone());
        Context { is_fetched: true, ..context }
    }

    fn resume_devices(&mut self, context: &mut Context, stored: &store::HeldCall, contacts: &dyn Contacts, now: Now) {
        // Who has the INVITE may have rung before.
        let known = stored.devices.iter().filter_map(|device| contacts.of_device(*device));
        context.responses.has_rung = known.into_iter().any(|binding| self.has_invite(context, &binding, contacts, now));
        for device in &stored.devices {
            self.resume_device(context, *device, contacts, now);
        }
        if now.unix < stored.until {
            self.begin_provisional(context, now);
        }
    }

    /// The caller's flow as one of this node: another node's listeners may be others.
    fn own_flow(&self, flow: Flow) -> Flow {
        let is_same = |listener: &super::policy::Listener| listener.transport == flow.transport;
        if self.policy.listener(flow.listener).is_some_and(is_same) {
            return flow;
        }
        let listener = self.policy.listener_for(flow.transport, flow.remote.ip()).unwrap_or(flow.listener);
        Flow { listener, ..flow }
    }

    /// Another node has the call now. Nothing is answered and nothing settled here any more; a device that has the INVITE
    /// from here may still answer it, and a CANCEL that still comes here goes on to that node.
    pub(super) fn taken_over(
        &mut self,
        aor: &Aor,
        id: HeldCallId,
        by: Option<Home>,
        contacts: &dyn Contacts,
        now: Now,
    ) {
        let waiting = self.waiting.get(aor).cloned().unwrap_or_default();
        let held = |server: &ServerId| {
            self.contexts.get(server).and_then(|context| context.call()).is_some_and(|call| call.id == id)
        };
        let Some(server) = waiting.into_iter().find(held) else { return };
        self.timers.set(Timer::Forget(server), now.instant + TAKEN_OVER_KNOWN);
        self.with_context(server, |proxy, context| proxy.let_go(context, by, contacts, now));
    }

    /// The call has ended at the other node by now.
    pub(super) fn forget_taken_over(&mut self, server: ServerId) {
        let is_silent = |context: &Context| context.responses.all_ended() && !context.responses.is_final;
        if self.contexts.get(&server).is_some_and(|context| is_silent(context)) {
            if let Some(context) = self.contexts.remove(&server) {
                self.early.end(&context.to_tag);
            }
            self.transactions.abandon_server(server);
        }
    }

    /// What the caller cancels, or ends by BYE, is ended where it is held, too. It answers the INVITE as well; one answer is as good
    /// as two.
    pub(super) fn pass_cancel_on(&mut self, invite: &Context, cancel: &Message) {
        let by = invite.call().and_then(|call| call.taken_by);
        if let Some(destination) = by.and_then(|home| self.address(home.transport, home.address)) {
            self.send_stateless(destination, cancel.bytes().clone());
        }
    }

    /// Pushes a device once more, or gives it the INVITE if it has woken. One that memory does not have yet is looked for
    /// again later, unless it registers before.
    pub(super) fn resume_device(&mut self, context: &mut Context, device: DeviceId, contacts: &dyn Contacts, now: Now) {
        let server = context.server;
        let Some(call) = context.call_mut() else { return };
        let Some(binding) = contacts.of_device(device) else {
            // It may be there and not read yet; or it has unregistered, and is about to register anew.
            call.unread.push(device);
            if !contacts.is_loaded() {
                self.timers.set(Timer::Retry(server, device), now.instant + LOOK_EVERY);
            }
            return;
        };
        self.resume_binding(context, binding, contacts, now);
    }

    /// Whether a device has had the INVITE in an earlier run, and may ring.
    fn has_invite(&self, context: &Context, binding: &Binding, contacts: &dyn Contacts, now: Now) -> bool {
        let Some(since) = context.call().map(|call| call.since) else { return false };
        let has_come = binding.registered_at > since.unix;
        let was_reachable = binding.is_reachable(since.unix);
        let was_called = || {
            let first = self.reach(binding, &context.request, was_reachable, contacts, since);
            matches!(first, Reach::Now | Reach::Probe)
        };
        // An older call has been given up by its caller, whatever became of its phones.
        now.unix.since(since.unix) < self.policy.timer_c && (has_come || was_called())
    }

    pub(super) fn resume_binding(
        &mut self,
        context: &mut Context,
        binding: Arc<Binding>,
        contacts: &dyn Contacts,
        now: Now,
    ) {
        let server = context.server;
        let Some((since, call_ref)) = context.call().map(|call| (call.since, call.call_ref.clone())) else { return };
        let has_come = binding.registered_at > since.unix;
        let has_it = self.has_invite(context, &binding, contacts, now);
        let may_sleep = !has_come || now.unix.since(binding.registered_at) >= STAYS_AWAKE;
        let is_reachable = self.is_reachable(&binding, contacts, now);
        let wake = self.reach(&binding, &context.request, false, contacts, now);

        let wait = self.policy.hold.wait;
        let Some(call) = context.call_mut() else { return };
        if has_it && !is_reachable && !call.ends_by_expires {
            // It rang, as long as it may, and comes back when it finds its connection gone.
            call.until = call.until.max(now.instant + wait);
            self.timers.set(Timer::Hold(server), call.until);
        }
        let is_over = call.left(now.instant).is_zero();
        let (state, input, why) = match wake {
            Reach::Asleep(_) if has_it && is_reachable && may_sleep => {
                (DeviceState::Noting, Some(DeviceInput::Recorded), None)
            }
            _ if has_it && is_reachable => (DeviceState::Unwakeable, Some(DeviceInput::Woke), None),
            _ if is_over => (DeviceState::Unwakeable, None, None),
            Reach::Asleep(_) => (DeviceState::Recording, Some(DeviceInput::Recorded), None),
            Reach::Never(why) if !has_it => (DeviceState::Unwakeable, None, Some(why)),
            Reach::Never(_) | Reach::Now | Reach::Probe => (DeviceState::Waiting, None, None),
        };
        let (device, has_entry) = (binding.device, binding.push.is_some());
        let held = HeldDevice::new(binding, state);
        call.devices.push(HeldDevice { has_come, is_noted: true, has_entry, is_durable: has_entry, ..held });
        if let Some(why) = why {
            self.step_why(&call_ref, Step::DeviceSkipped, Some(device), "", why);
        }
        if let Some(input) = input {
            self.tell(context, device, input, now);
        }
    }

    /// The one device that the INVITE named, by an alias or a Path.
    fn only(&self, request: &Message, flow: Flow, contacts: &dyn Contacts) -> Option<DeviceId> {
        let routed = route::preprocess(request, &self.policy, &self.keys);
        match self.target(request, &routed, flow, contacts) {
            Ok(Target::Phones { only, .. }) => only,
            Ok(Target::Softswitch | Target::SoftswitchFor(_))
            | Ok(Target::Flow(_) | Target::Hop(_) | Target::OtherSide(_) | Target::Ourselves)
            | Err(_) => None,
        }
    }

    /// The caller cannot be answered; what the devices did not see they are told of.
    fn give_up(&mut self, stored: &store::HeldCall, step: Step, why: Reason) {
        self.step_why(&stored.call_ref, step, None, "", why);
        let change = Change::Settle {
            aor: stored.aor.clone(),
            id: stored.id,
            call_ref: stored.call_ref.clone(),
            devices: stored.devices.iter().map(|device| (*device, Settlement::Missed)).collect(),
            ended: true,
        };
        self.keep_all(Kept { change, unaware: stored.devices.clone(), since: stored.held_at });
    }
}

/// The call as it was, but for its devices.
fn held_call(stored: &store::HeldCall, request: &Message, now: Now) -> HeldCall {
    let wait = stored.until.since(stored.held_at);
    let waited = now.unix.since(stored.held_at);
    let expires = request.number(HeaderName::Expires).map(Duration::from_secs);
    HeldCall {
        id: stored.id,
        call_ref: stored.call_ref.clone(),
        aor: stored.aor.clone(),
        caller: Caller::of(request),
        only: None,
        others: [].into(),
        since: Now { instant: now.instant.checked_sub(waited).unwrap_or(now.instant), unix: stored.held_at },
        until: now.instant + stored.until.since(now.unix),
        ends_by_expires: expires.is_some_and(|expires| expires <= wait),
        is_open: true,
        is_recorded: true,
        owes_trying: false,
        is_let_go: false,
        taken_by: None,
        store_failed: false,
        devices: SmallVec::new(),
        forks: Vec::new(),
        unread: SmallVec::new(),
    }
}
