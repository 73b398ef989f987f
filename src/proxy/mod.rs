//! The proxy core (RFC 3261 §16, RFC 8599 §5): a pure value. A message goes in as [`Input`] with the present time,
//! what is to be done comes out as [`Effect`]s.

mod answered;
mod awaited;
pub mod bars;
mod branches;
mod call_end;
mod call_push;
mod caller;
mod cancel;
mod contact;
mod context;
mod dialog;
mod dialog_wait;
mod digest;
mod earlier;
mod early_dialog;
pub mod event;
mod fetch;
mod followers;
mod forks;
mod former_contact;
mod forward;
mod given_up;
mod held_call;
mod hold;
mod keep;
mod late_wake;
mod location;
mod missed_calls;
mod outgoing;
pub mod policy;
mod privacy;
mod random;
mod refresh;
mod register;
mod registrar;
mod relay;
mod remind;
mod request;
mod response_context;
mod resume;
mod route;
pub mod secret;
mod strange_switch;
mod streams;
mod token_device;
mod unread;
mod validate;

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

pub use event::{
    CallStep, Contacts, DropReason, Effect, FetchTicket, Input, Outcome, PushSupport, RefreshResult, ResolveTicket,
    Warning,
};
pub use policy::Policy;

use context::Context;
use random::Random;
use secret::Keys;

use crate::binding::{Aor, DeviceId};
use crate::clock::Now;
use crate::push;
use crate::sip::response::{self, reason_phrase};
use crate::sip::validity::response_is_sound;
use crate::sip::{Flow, Message, Method, repair};
use crate::store;
use crate::timeline::{Step, Why};
use crate::transaction::{Branch, ClientId, Event, SendTag, ServerId, Settings, TimerQueue, Transactions};

/// One worker's share of all calls.
pub struct Proxy {
    policy: Arc<Policy>,
    keys: Keys,
    transactions: Transactions,
    contexts: HashMap<ServerId, Box<Context>>,
    /// Which branch of which request a client transaction serves.
    clients: HashMap<ClientId, (ServerId, usize)>,
    /// Open calls by the AOR that they wait for.
    waiting: HashMap<Aor, SmallVec<[ServerId; 1]>>,
    timers: TimerQueue<Timer>,
    saves: HashMap<store::Ticket, SavePurpose>,
    /// Changes that the store refused and that will be written again.
    refused: HashMap<u64, Box<keep::Kept>>,
    pushes: HashMap<push::Ticket, PushPurpose>,
    resolutions: HashMap<ResolveTicket, (ServerId, usize)>,
    fetches: HashMap<FetchTicket, ServerId>,
    missed: missed_calls::Reports,
    refreshes: refresh::Refreshes,
    answered: answered::AnsweredCalls,
    awaited: awaited::AwaitedConnections,
    reminding: remind::Reminding,
    late: late_wake::LateCalls,
    given_up: given_up::GivenUp,
    early: early_dialog::EarlyDialogs,
    strange_calls: strange_switch::StrangeCalls,
    followers: followers::Followers,
    /// Requests within dialogs that wait for devices.
    dialog_waits: usize,
    streams: streams::Streams,
    /// What `softswitch.uri` came to last, where it is a name; the best address first.
    next_hops: SmallVec<[SocketAddr; 2]>,
    /// The least time that the softswitch has said it takes, where that was more than `register.expires_upstream_s`.
    brief_upstream: u32,
    nonces: digest::Nonces,
    guesses: digest::Guesses,
    held_calls: usize,
    is_draining: bool,
    tickets: u64,
    worker: u8,
    /// How long a request that is no INVITE may go without any response.
    slow_after: Duration,
    random: Random,
    effects: VecDeque<Effect>,
}

/// What this layer waits for. Transactions have their own timers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Timer {
    /// RFC 3261 §16.6 step 11.
    C(ServerId, usize),
    /// The wait for devices is over.
    Hold(ServerId),
    /// Our provisional response is due again (RFC 3261 §13.3.1.1).
    Provisional(ServerId),
    /// A device with a live flow was silent for `hold.probe_ms`.
    Probe(ServerId, DeviceId),
    /// A call that another node has need not be known any more.
    Forget(ServerId),
    /// The client of a request that is no INVITE repeats it rarely by now (RFC 4320 §4.1).
    Slow(ServerId),
    /// A request within a dialog has waited long enough for its device.
    InDialog(ServerId),
    /// A request of another node waits for the 2xx of the device's REGISTER.
    AfterRegister(ServerId),
    /// A refused push of a call is due again.
    Retry(ServerId, DeviceId),
    /// A push of a call that was taken is to be repeated.
    Repeat(ServerId, DeviceId),
    /// A refused missed_calls push is due again.
    Report(DeviceId),
    /// A reminder that could not be sent is due again.
    Remind(DeviceId),
    /// A refused change is due again.
    Again(u64),
    /// The ACK of an answered call has not come by.
    Acknowledged(u64),
    /// A device that did not come is no longer told that its call is over.
    Late(DeviceId),
    /// The call that a fork has waited for was cancelled, or is not known yet.
    Fork(ServerId),
}

/// Who waits for a change to be durable.
#[derive(Debug)]
enum SavePurpose {
    /// The 2xx of a REGISTER.
    Registration(ServerId),
    /// The pushes of a call, to these devices.
    Hold(ServerId, SmallVec<[DeviceId; 1]>),
    /// The 100 of a fork that waits for another one.
    Fork(ServerId),
    /// A missed_calls push.
    Claim(Aor, DeviceId),
    /// What came of a refresh upstream.
    Refresh(DeviceId),
    /// Nobody, but it must not be lost.
    Keep(Box<keep::Kept>),
}

/// Who waits for a push.
#[derive(Debug)]
enum PushPurpose {
    Call(ServerId, DeviceId),
    InDialog(ServerId, DeviceId),
    Missed(DeviceId),
    /// Nobody waits for it: it told a device that a call is over.
    Ended(DeviceId),
    /// A device that is to register again.
    Remind(DeviceId),
}

/// A request that we answer ourselves with a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    pub status: u16,
    /// Reason phrase; says nothing of our insides.
    pub reason: Cow<'static, str>,
    /// Whole header lines.
    pub headers: Vec<u8>,
}

impl Reject {
    pub fn new(status: u16, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { status, reason: reason.into(), headers: Vec::new() }
    }

    pub fn of(status: u16) -> Self {
        Self::new(status, reason_phrase(status))
    }

    /// 503: try again in `seconds` (RFC 3261 §21.5.4).
    pub fn busy(seconds: u32) -> Self {
        let mut reject = Self::of(503);
        response::header(&mut reject.headers, "Retry-After", seconds.to_string().as_bytes());
        reject
    }
}

/// Addresses of a softswitch that goes by a name.
const NEXT_HOPS_MAX: usize = 16;
/// Seconds in the Retry-After of a 503.
const BUSY_RETRY_AFTER_S: u32 = 5;

impl Proxy {
    /// `seed` must be unguessable in production; a test's own number makes its run repeatable.
    pub fn new(policy: Arc<Policy>, settings: Settings, seed: [u64; 2]) -> Self {
        let mut random = Random::new(seed);
        Self {
            keys: Keys::new(&policy.secret),
            nonces: digest::Nonces::new(&policy.secret, random.draw_wide()),
            guesses: digest::Guesses::new([random.draw(), random.draw()]),
            transactions: Transactions::new(settings, random.draw()),
            policy,
            streams: streams::Streams::default(),
            next_hops: SmallVec::new(),
            brief_upstream: 0,
            contexts: HashMap::new(),
            clients: HashMap::new(),
            waiting: HashMap::new(),
            timers: TimerQueue::new(),
            saves: HashMap::new(),
            refused: HashMap::new(),
            pushes: HashMap::new(),
            resolutions: HashMap::new(),
            fetches: HashMap::new(),
            missed: missed_calls::Reports::default(),
            refreshes: refresh::Refreshes::default(),
            answered: answered::AnsweredCalls::default(),
            awaited: awaited::AwaitedConnections::default(),
            reminding: remind::Reminding::default(),
            late: late_wake::LateCalls::default(),
            given_up: given_up::GivenUp::default(),
            early: early_dialog::EarlyDialogs::default(),
            strange_calls: strange_switch::StrangeCalls::default(),
            followers: followers::Followers::default(),
            dialog_waits: 0,
            held_calls: 0,
            is_draining: false,
            tickets: 0,
            worker: settings.worker,
            slow_after: settings.until_t2(),
            random,
            effects: VecDeque::new(),
        }
    }

    /// Takes new settings for what comes from now on. Listeners and secret must be the same.
    pub fn reload(&mut self, policy: Arc<Policy>) {
        self.policy = policy;
    }

    /// From here on no new call is taken.
    pub fn drain(&mut self) {
        self.is_draining = true;
        self.settle_all_answered();
    }

    /// Something happened.
    pub fn handle(&mut self, input: Input, contacts: &dyn Contacts, now: Now) {
        match input {
            Input::Received { flow, message } if message.is_request() => {
                self.receive_request(message, flow, contacts, now);
            }
            Input::Received { message, .. } => self.receive_response(message, contacts, now),
            Input::SendFailed { tag } => self.send_failed(tag, contacts, now),
            Input::ConnectFailed { tag } => self.connect_failed(tag, contacts, now),
            Input::Closed { flow } => {
                for tag in self.transactions.unheard_on(flow) {
                    self.send_failed(tag, contacts, now);
                }
            }
            Input::Heard { flow } => self.heard_on(flow, contacts, now),
            Input::Saved(reply) => self.saved(reply, contacts, now),
            Input::Pushed(reply) => self.pushed(reply, contacts, now),
            Input::Resolved { ticket, addresses } => {
                if !addresses.is_empty() {
                    self.next_hops = addresses.iter().map(|(_, address)| *address).take(NEXT_HOPS_MAX).collect();
                }
                match self.refreshes.resolved(ticket) {
                    Some(device) => self.refresh_resolved(device, &addresses, now),
                    None => self.resolved(ticket, &addresses, contacts, now),
                }
            }
            Input::Fetched { ticket, is_known } => self.fetched(ticket, is_known, contacts, now),
            Input::Woken(binding) => self.wake(&binding, contacts, now),
            Input::Resume(left) => self.resume(&left, contacts, now),
            Input::TakenOver { aor, id, by } => self.taken_over(&aor, id, by, contacts, now),
            Input::Refresh(binding) => self.refresh(binding, now),
            Input::Remind(binding) => self.remind(binding, contacts, now),
        }
        self.settle_followers(contacts, now);
        self.collect_sends();
    }

    /// When [`Proxy::expire`] is due next.
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        match (self.timers.poll_timeout(), self.transactions.poll_timeout()) {
            (Some(own), Some(transactions)) => Some(own.min(transactions)),
            (own, transactions) => own.or(transactions),
        }
    }

    /// Lets everything happen that was due by `now`.
    pub fn expire(&mut self, contacts: &dyn Contacts, now: Now) {
        while let Some(event) = self.transactions.expire(now.instant) {
            self.transaction_event(event, contacts, now);
        }
        while let Some(timer) = self.timers.expire(now.instant) {
            match timer {
                Timer::C(server, branch) => self.timer_c(server, branch, contacts, now),
                Timer::Hold(server) => self.hold_over(server, contacts, now),
                Timer::Provisional(server) => self.repeat_provisional(server, now),
                Timer::Probe(server, device) => self.probe_over(server, device, contacts, now),
                Timer::Forget(server) => self.forget_taken_over(server),
                Timer::InDialog(server) => self.dialog_wait_over(server, contacts, now),
                Timer::Slow(server) => self.answer_slow(server, now),
                Timer::AfterRegister(server) => self.registered_for_node(server, contacts, now),
                Timer::Retry(server, device) => self.retry_due(server, device, contacts, now),
                Timer::Repeat(server, device) => self.repeat_due(server, device, contacts, now),
                Timer::Report(device) => self.report_due(device, contacts),
                Timer::Remind(device) => self.reminder_due(device, contacts, now),
                Timer::Again(number) => self.keep_again(number),
                Timer::Acknowledged(call) => self.settle_answered(call),
                Timer::Late(device) => self.late_over(device, contacts, now),
                Timer::Fork(server) => self.fork_alone(server, contacts, now),
            }
        }
        self.settle_followers(contacts, now);
        self.collect_sends();
    }

    /// The next thing to be done.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Calls that wait for a device.
    pub fn held_calls(&self) -> usize {
        self.held_calls
    }

    /// Whether nothing is left: no transaction, call, timer or outstanding answer.
    pub fn is_idle(&mut self) -> bool {
        self.transactions.is_empty()
            && self.contexts.is_empty()
            && self.clients.is_empty()
            && self.waiting.is_empty()
            && self.saves.is_empty()
            && self.refused.is_empty()
            && self.pushes.is_empty()
            && self.resolutions.is_empty()
            && self.fetches.is_empty()
            && self.refreshes.is_empty()
            && self.answered.is_empty()
            && self.awaited.is_empty()
            && self.reminding.is_empty()
            && self.late.is_empty()
            && self.given_up.is_empty()
            && self.early.is_empty()
            && self.followers.is_empty()
            && self.dialog_waits == 0
            && self.effects.is_empty()
            && self.poll_timeout().is_none()
    }

    fn receive_response(&mut self, response: Message, contacts: &dyn Contacts, now: Now) {
        let Some(response) = sound(response) else {
            self.effects.push_back(Effect::Dropped(DropReason::Response));
            return;
        };
        let stray = self.transactions.stray();
        if let Some(event) = self.transactions.receive_response(response, now.instant) {
            self.transaction_event(event, contacts, now);
        } else if self.transactions.stray() > stray {
            self.effects.push_back(Effect::Dropped(DropReason::Response));
        }
    }

    fn send_failed(&mut self, tag: SendTag, contacts: &dyn Contacts, now: Now) {
        if self.response_lost(tag, contacts) {
            return;
        }
        if let Some(event) = self.transactions.send_failed(tag, now.instant) {
            self.transaction_event(event, contacts, now);
        }
    }

    fn transaction_event(&mut self, event: Event, contacts: &dyn Contacts, now: Now) {
        let Some(event) = self.refresh_event(event, contacts, now) else { return };
        if let Some(client) = ended_client(&event) {
            self.followers.remove_cancel(client);
        }
        match event {
            Event::Response { client, response } if self.given_up.has(client) => {
                self.given_up_response(client, &response, now);
            }
            Event::Timeout { client } | Event::SendFailed { client } | Event::ClientEnded { client }
                if self.given_up.has(client) =>
            {
                self.given_up.end(client);
            }
            Event::Response { client, response } => self.branch_response(client, &response, contacts, now),
            Event::Timeout { client } => self.branch_failed(client, 408, contacts, now),
            Event::SendFailed { client } => self.branch_failed(client, 503, contacts, now),
            Event::ClientEnded { client } => {
                self.clients.remove(&client);
            }
            Event::ServerEnded { server } => self.forget(server, contacts, now),
        }
    }

    fn saved(&mut self, reply: store::Reply, contacts: &dyn Contacts, now: Now) {
        match self.saves.remove(&reply.ticket) {
            Some(SavePurpose::Registration(server)) => self.registration_saved(server, reply.result, contacts, now),
            Some(SavePurpose::Hold(server, devices)) => {
                self.hold_saved(server, &devices, reply.result, contacts, now);
            }
            Some(SavePurpose::Fork(server)) => self.fork_saved(server, now),
            Some(SavePurpose::Claim(aor, device)) => self.claimed((&aor, device), reply.result, contacts, now),
            Some(SavePurpose::Refresh(device)) => self.refresh_saved(device),
            Some(SavePurpose::Keep(kept)) => self.kept(kept, &reply.result, contacts, now),
            None => {}
        }
    }

    fn pushed(&mut self, reply: push::Reply, contacts: &dyn Contacts, now: Now) {
        match self.pushes.remove(&reply.ticket) {
            Some(PushPurpose::Call(server, device)) => self.call_pushed(server, device, reply, contacts, now),
            Some(PushPurpose::InDialog(server, device)) => self.dialog_pushed(server, device, &reply, contacts, now),
            Some(PushPurpose::Missed(device)) => self.report_pushed(device, reply, contacts, now),
            Some(PushPurpose::Ended(device)) => {
                self.learn_of_token(device, &reply, call_push::sent_at(&reply, now), contacts);
            }
            Some(PushPurpose::Remind(device)) => self.reminder_pushed(device, &reply, contacts, now),
            None => {}
        }
    }

    /// Takes a context out of the table for the time of `work`, and puts it back.
    fn with_context(&mut self, server: ServerId, work: impl FnOnce(&mut Self, &mut Context)) {
        if let Some(mut context) = self.contexts.remove(&server) {
            work(self, &mut context);
            self.put_back(context);
        }
    }

    fn put_back(&mut self, context: Box<Context>) {
        if !context.is_done() {
            self.contexts.insert(context.server, context);
        } else if !context.is_invite() {
            self.timers.cancel(&Timer::Slow(context.server));
        }
    }

    /// A request that is no INVITE and whose client has no final response yet gets its 100 now, and not before.
    fn answer_slow(&mut self, server: ServerId, now: Now) {
        self.with_context(server, |proxy, context| {
            if !context.responses.is_final {
                proxy.respond(context, 100, reason_phrase(100), &[], now);
            }
        });
    }

    /// The server transaction is gone, and with it the reason for everything done for the request.
    fn forget(&mut self, server: ServerId, contacts: &dyn Contacts, now: Now) {
        let Some(mut context) = self.contexts.remove(&server) else { return };
        self.early.end(&context.to_tag);
        self.stop_waiting(&mut context);
        if let Some(device) = context.sender {
            self.followers.remove_response(device, server);
        }
        if !context.responses.is_final {
            self.end_call(&mut context, call_end::Ending::Cancelled { seen: false }, contacts, now);
        }
        self.fork_over(&mut context);
        for index in 0..context.responses.branches.len() {
            self.drop_branch(&mut context, index);
        }
    }

    /// Answers a request with a response of our own.
    fn respond(&mut self, context: &Context, status: u16, reason: &str, headers: &[u8], now: Now) {
        let tag = (status > 100).then_some(&*context.to_tag);
        let bytes = response::build(&context.request, context.flow.remote, status, reason, tag, |out| {
            out.extend_from_slice(headers);
        });
        self.transactions.respond(context.server, status, bytes, now.instant);
    }

    fn reject(&mut self, context: &mut Context, reject: &Reject, now: Now) {
        context.responses.is_final = true;
        context.responses.sent = reject.status;
        self.respond(context, reject.status, &reject.reason, &reject.headers, now);
    }

    /// An answer without a transaction: to what cannot have one.
    fn respond_stateless(&mut self, request: &Message, flow: Flow, reject: &Reject) {
        if request.method() == Method::ACK || request.top_via().is_none() {
            self.effects.push_back(Effect::Dropped(DropReason::Request));
            return;
        }
        let tag = self.random.tag();
        let bytes = response::build(request, flow.remote, reject.status, &reject.reason, Some(&tag), |out| {
            out.extend_from_slice(&reject.headers);
        });
        self.send_stateless(crate::sip::Destination::Flow(flow), bytes);
    }

    fn send_stateless(&mut self, destination: crate::sip::Destination, bytes: bytes::Bytes) {
        self.effects.push_back(Effect::Send { destination, bytes, tag: None });
    }

    /// Brings what the transactions want sent into the order of effects.
    fn collect_sends(&mut self) {
        while let Some(send) = self.transactions.poll_send() {
            self.effects.push_back(Effect::Send {
                destination: send.destination,
                bytes: send.bytes,
                tag: Some(send.tag),
            });
        }
    }

    /// Has a push sent; the answer to it is `asked_by`'s.
    fn submit(&mut self, asked_by: PushPurpose, push: push::Push) {
        self.tickets += 1;
        let ticket = push::Ticket(self.tickets);
        self.pushes.insert(ticket, asked_by);
        self.effects.push_back(Effect::Push(push::Push { ticket, ..push }));
    }

    fn save(&mut self, change: store::Change, purpose: SavePurpose) {
        // What was queued to be sent before must be sent before: a REGISTER's 2xx before what follows from it.
        self.collect_sends();
        self.tickets += 1;
        let ticket = store::Ticket(self.tickets);
        self.saves.insert(ticket, purpose);
        self.effects.push_back(Effect::Save { ticket, change });
    }

    fn step(&mut self, call_ref: &str, step: Step, device: Option<DeviceId>, detail: impl Into<Cow<'static, str>>) {
        self.effects.push_back(Effect::Step(CallStep {
            call_ref: call_ref.into(),
            step,
            device,
            detail: detail.into(),
            why: None,
            push_id: None,
        }));
    }

    /// The same with a reason.
    fn step_why(
        &mut self,
        call_ref: &str,
        step: Step,
        device: Option<DeviceId>,
        detail: impl Into<Cow<'static, str>>,
        why: impl Into<Why>,
    ) {
        self.effects.push_back(Effect::Step(CallStep {
            call_ref: call_ref.into(),
            step,
            device,
            detail: detail.into(),
            why: Some(why.into()),
            push_id: None,
        }));
    }

    /// The step that a provider's answer was; `detail` has the time that it took.
    fn step_pushed(
        &mut self,
        call_ref: &str,
        step: Step,
        device: DeviceId,
        detail: String,
        push_id: Option<Box<str>>,
        why: Option<Why>,
    ) {
        let (call_ref, device, detail) = (call_ref.into(), Some(device), detail.into());
        self.effects.push_back(Effect::Step(CallStep { call_ref, step, device, detail, why, push_id }));
    }

    /// The branch for a request to `device`, or to the softswitch.
    fn branch(&mut self, context: &Context, device: Option<DeviceId>) -> Branch {
        match context.call().zip(device) {
            Some((call, device)) => {
                self.transactions.branch(self.keys.branch_number(call.id, device), context.loop_hash)
            }
            None => self.transactions.new_branch(context.loop_hash),
        }
    }
}

/// The client transaction that has its final response, or gets none.
fn ended_client(event: &Event) -> Option<ClientId> {
    match event {
        Event::Response { client, response } if response.status() >= Some(200) => Some(*client),
        Event::Timeout { client } | Event::SendFailed { client } | Event::ClientEnded { client } => Some(*client),
        Event::Response { .. } | Event::ServerEnded { .. } => None,
    }
}

/// A response that may be processed, mended where that can be.
fn sound(response: Message) -> Option<Message> {
    if response_is_sound(&response) {
        return Some(response);
    }
    repair::display_names(&response).filter(response_is_sound)
}
