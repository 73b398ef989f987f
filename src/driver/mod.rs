//! The one loop of a worker: an [`Input`] to the proxy, its [`Effect`]s to the world, one sleep.

mod board;
mod door;
mod fetch;
mod label;
mod leaving;
mod owner;
mod pulse;
mod refresh;
mod resolve;
mod shared;
mod tap;
mod view;
mod warnings;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, watch};

pub use door::Door;
use label::{kind_of, store_op};
pub use label::{push_kind, push_result, transport_drop};
use leaving::Leaving;
pub use owner::worker_of_message;
pub use refresh::{Pace, Turn, is_ours_to_refresh};
pub use shared::{Parts, Shared, worker_of};
use view::View;
use warnings::Warnings;

use crate::binding::{Binding, DeviceId};
use crate::clock::{Now, UnixMillis};
use crate::events::What;
use crate::guard::{Ban, Rules};
use crate::metrics::{Direction, DropReason, Kind, PushResult, StoreOp};
use crate::proxy::event::{CallStep, FetchTicket, ResolveTicket};
use crate::proxy::{self, Effect, Input, Proxy};
use crate::push::{self, NoticeKind, Outcome, Pushers, TokenHash};
use crate::sip::message::{Defect, Message, NotSip};
use crate::sip::{Flow, HeaderName, Transport as TransportKind};
use crate::store::{self, Change, HeldCall, LeftCall};
use crate::timeline::{Detail, Step, Why};
use crate::transaction::SendTag;
use crate::transport::{Event, Inbound, SendError, Transport, WorkerSockets};

/// Messages of connections, and of other workers' sockets, that wait for a worker.
pub const INBOX: usize = 4096;
/// Answers of the store, the providers and the resolver that wait for a worker.
const REPLIES: usize = 4096;
/// Inputs taken in one turn before the network is looked at again.
const TURN: usize = 256;
/// The present, by both clocks.
#[expect(clippy::disallowed_methods, reason = "here the clock is read for all pure modules")]
pub fn now() -> Now {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now { instant: Instant::now(), unix: UnixMillis(u64::try_from(unix.as_millis()).unwrap_or(u64::MAX)) }
}

/// What guides a worker and may change while it works.
#[derive(Clone)]
pub struct Guidance {
    pub policy: Arc<proxy::Policy>,
    pub pushers: Pushers,
    pub rules: Arc<Rules>,
}

/// One worker: a thread, its sockets, its proxy.
pub struct Worker {
    index: usize,
    proxy: Proxy,
    rules: Arc<Rules>,
    guidance: watch::Receiver<Guidance>,
    transport: Transport,
    shared: Arc<Shared>,
    inbox: mpsc::Receiver<Event>,
    saved: (mpsc::Sender<store::Reply>, mpsc::Receiver<store::Reply>),
    pushed: (mpsc::Sender<push::Reply>, mpsc::Receiver<push::Reply>),
    resolved: (mpsc::Sender<Resolved>, mpsc::Receiver<Resolved>),
    fetched: (mpsc::Sender<Fetched>, mpsc::Receiver<Fetched>),
    /// Changes that are with the store, for the histogram.
    saving: HashMap<store::Ticket, (StoreOp, Instant)>,
    /// Which of them are registrations that other nodes hear of, and of which devices.
    registering: HashMap<store::Ticket, Vec<DeviceId>>,
    /// Which of them take devices away, for those who watch events.
    leaving: HashMap<store::Ticket, Leaving>,
    /// Devices whose REGISTER has been answered in this turn.
    registered: Vec<DeviceId>,
    /// Answers that were known at once.
    pending: VecDeque<Input>,
    received: Vec<Inbound>,
    failed: Vec<Event>,
    /// Accepted registrations that the other workers are to hear of once the 2xx is sent: a call that one of them holds
    /// must not reach the phone before it.
    woken: Vec<Arc<Binding>>,
    /// The first worker's: when devices have their turn to be refreshed upstream.
    pace: Option<Pace>,
    /// And when to be reminded to register.
    reminders: Option<Pace>,
    warnings: Warnings,
    stop: watch::Receiver<Phase>,
}

/// What was asked for, and whether the store could tell.
type Fetched = (FetchTicket, bool);
type Resolved = (ResolveTicket, Vec<(TransportKind, SocketAddr)>);

/// How far the end of the process has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Running,
    /// New calls are refused; those that are held go on.
    Draining,
    Stopped,
}

impl Worker {
    /// To be called on the worker's own thread, within its runtime.
    pub fn new(
        index: usize,
        proxy: Proxy,
        sockets: WorkerSockets,
        inbox: mpsc::Receiver<Event>,
        shared: Arc<Shared>,
        guidance: watch::Receiver<Guidance>,
        stop: watch::Receiver<Phase>,
    ) -> io::Result<Self> {
        let rules = Arc::clone(&guidance.borrow().rules);
        let keeps_pace = index == 0 && shared.store.table().keeps_refreshes();
        let reminds = guidance.borrow().policy.push_refresh;
        let mut worker = Self {
            index,
            proxy,
            rules,
            guidance,
            transport: Transport::new(index, sockets, shared.connections.clone())?,
            shared,
            inbox,
            saved: mpsc::channel(REPLIES),
            pushed: mpsc::channel(REPLIES),
            resolved: mpsc::channel(REPLIES),
            fetched: mpsc::channel(REPLIES),
            saving: HashMap::new(),
            registering: HashMap::new(),
            leaving: HashMap::new(),
            registered: Vec::new(),
            pending: VecDeque::new(),
            received: Vec::new(),
            failed: Vec::new(),
            woken: Vec::new(),
            pace: keeps_pace.then(|| Pace::new(Turn::Refresh, now().instant)),
            reminders: None,
            warnings: Warnings::default(),
            stop,
        };
        worker.pace_reminders(reminds);
        Ok(worker)
    }

    /// Takes up the calls of an earlier run, and works until [`Phase::Stopped`].
    pub async fn run(mut self, held: Vec<HeldCall>) {
        for call in held {
            self.handle(Input::Resume(Box::new(LeftCall { call, from: None })));
        }
        self.flush();
        while self.turn().await {}
    }

    /// Waits for something to happen, and deals with it and with what came along. False when it is time to stop.
    async fn turn(&mut self) -> bool {
        let shared = Arc::clone(&self.shared);
        let Some(board) = shared.boards.get(self.index) else { return false };
        let paces = self.pace.iter().chain(&self.reminders).map(Pace::poll_timeout);
        let due = self.proxy.poll_timeout().into_iter().chain(paces).min();
        let sleep = async {
            match due {
                Some(due) => tokio::time::sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.transport.readable() => self.receive(),
            Some(event) = self.inbox.recv() => self.transport_event(event),
            Some(reply) = self.saved.1.recv() => self.store_reply(reply),
            Some(reply) = self.pushed.1.recv() => self.push_reply(reply),
            Some((ticket, is_known)) = self.fetched.1.recv() => self.handle(Input::Fetched { ticket, is_known }),
            Some((ticket, addresses)) = self.resolved.1.recv() => self.handle(Input::Resolved { ticket, addresses }),
            () = board.changed() => {
                for call in board.take_calls() {
                    self.handle(Input::Resume(Box::new(call)));
                }
                for (aor, id, by) in board.take_taken_over() {
                    self.handle(Input::TakenOver { aor, id, by });
                }
                for binding in board.take() {
                    self.handle(Input::Woken(binding));
                }
            }
            () = sleep => {}
            Ok(()) = self.guidance.changed() => {
                let Guidance { policy, rules, .. } = self.guidance.borrow_and_update().clone();
                self.pace_reminders(policy.push_refresh);
                self.proxy.reload(policy);
                self.rules = rules;
            }
            changed = self.stop.changed() => {
                let phase = *self.stop.borrow();
                if changed.is_err() || phase == Phase::Stopped {
                    return false;
                }
                self.proxy.drain();
            }
        }
        self.take_waiting();
        self.expire();
        self.give_turns();
        self.flush();
        self.tell_others();
        if let Some(held) = self.shared.held.get(self.index) {
            held.store(self.proxy.held_calls(), Ordering::Relaxed);
        }
        board.pulse.answer();
        true
    }

    /// Takes more of what has arrived meanwhile, so that datagrams leave in batches.
    fn take_waiting(&mut self) {
        for _ in 0..TURN {
            let mut idle = true;
            if let Ok(event) = self.inbox.try_recv() {
                self.transport_event(event);
                idle = false;
            }
            if let Ok(reply) = self.saved.1.try_recv() {
                self.store_reply(reply);
                idle = false;
            }
            if let Ok(reply) = self.pushed.1.try_recv() {
                self.push_reply(reply);
                idle = false;
            }
            if idle {
                return;
            }
        }
    }

    fn receive(&mut self) {
        let mut received = std::mem::take(&mut self.received);
        self.transport.receive(&mut received);
        for inbound in received.drain(..) {
            match self.shared.door.admits(&self.rules, &inbound.flow, &inbound.bytes) {
                Ok(()) => self.message(inbound),
                Err(reason) => self.shared.connections.drops().count(reason),
            }
        }
        self.received = received;
    }

    fn transport_event(&mut self, event: Event) {
        match event {
            Event::Received(inbound) => self.message(inbound),
            Event::SendFailed { tag, error } => {
                tracing::debug!(%error, "a message could not be sent");
                if let Some(tag) = SendTag::from_bits(tag) {
                    let is_unopened = error == SendError::ConnectFailed;
                    self.handle(if is_unopened { Input::ConnectFailed { tag } } else { Input::SendFailed { tag } });
                }
            }
            Event::Heard { flow } => self.handle(Input::Heard { flow }),
            Event::Closed { flow } => {
                tracing::trace!(%flow, "closed");
                self.handle(Input::Closed { flow });
            }
        }
    }

    fn message(&mut self, inbound: Inbound) {
        if self.hand_over(&inbound) {
            return;
        }
        let Inbound { flow, bytes } = inbound;
        let message = match Message::parse(bytes, self.shared.headers_max) {
            Ok(message) => message,
            Err(error) => return self.not_sip(flow, error),
        };
        if message.defect() == Some(Defect::TooManyHeaders) {
            self.shared.metrics.dropped(DropReason::TooManyHeaders);
        }
        if self.is_of_scanner(&message, flow) {
            return self.shared.metrics.dropped(DropReason::Scanner);
        }
        let kind = match message.status() {
            Some(status) => Kind::of_status(status),
            None => Kind::of_method(message.method_text()),
        };
        self.shared.metrics.message(Direction::In, flow.transport, kind);
        tracing::trace!(%flow, kind = kind.name(), "received");
        if let Some(tap) = &self.shared.hep {
            self.tap_received(tap, flow, message.bytes());
        }
        self.handle(Input::Received { flow, message });
    }

    fn is_of_scanner(&self, message: &Message, flow: Flow) -> bool {
        message.is_request()
            && !self.shared.door.guard.is_trusted(&self.rules, flow.remote.ip())
            && message.first(HeaderName::UserAgent).is_some_and(|name| self.rules.scanners.is_one(name))
    }

    /// One line for each ban, which fail2ban reads (packaging/fail2ban).
    fn auth_failed(&self, peer: IpAddr, reason: &'static str, now: Now) {
        if let Some(ban) = self.shared.door.guard.auth_failed(&self.rules, peer, reason, now) {
            let Ban { source, failures, .. } = ban;
            tracing::warn!(target: "security", %source, reason, ban_s = self.rules.ban.as_secs(), failures, "banned");
        }
    }

    fn not_sip(&self, flow: Flow, error: NotSip) {
        let reason = if error == NotSip::TooLarge { DropReason::TooLarge } else { DropReason::Unparsable };
        self.shared.metrics.dropped(reason);
        tracing::debug!(%flow, %error, "dropped");
    }

    fn store_reply(&mut self, reply: store::Reply) {
        if let Some((op, since)) = self.saving.remove(&reply.ticket) {
            self.shared.metrics.store(op, now().instant.saturating_duration_since(since));
        }
        self.shared.store_said(&reply.result);
        self.registered.extend(self.registering.remove(&reply.ticket).unwrap_or_default());
        if let Some(leaving) = self.leaving.remove(&reply.ticket)
            && matches!(reply.result, Ok(store::Applied::Done | store::Applied::Ended(true)))
        {
            leaving.publish(&self.shared.events);
        }
        self.handle(Input::Saved(reply));
    }

    fn push_reply(&mut self, reply: push::Reply) {
        for (provider, outcome, took) in reply.attempts() {
            let (kind, result) = (push_kind(reply.notice), push_result(outcome));
            self.shared.metrics.push(provider, kind, result, took);
            self.shared.summary.pushed(provider, result, outcome.reason().unwrap_or_default(), now().unix);
        }
        tracing::debug!(provider = %reply.provider, outcome = ?reply.outcome, "push");
        if reply.left_out > 0 {
            tracing::info!(
                calls = reply.left_out,
                "a missed_calls push was too small for all calls; the oldest are left out"
            );
        }
        self.handle(Input::Pushed(reply));
    }

    /// Gives an input to the proxy and does what follows from it, at once.
    fn handle(&mut self, input: Input) {
        let mut next = Some(input);
        while let Some(input) = next {
            let now = now();
            let view = View { shared: &self.shared, worker: self.index, now: now.unix };
            self.proxy.handle(input, &view, now);
            self.perform(now);
            next = self.pending.pop_front();
        }
    }

    fn expire(&mut self) {
        let now = now();
        if self.proxy.poll_timeout().is_some_and(|due| due <= now.instant) {
            let view = View { shared: &self.shared, worker: self.index, now: now.unix };
            self.proxy.expire(&view, now);
            self.perform(now);
            if let Some(input) = self.pending.pop_front() {
                self.handle(input);
            }
        }
    }

    fn perform(&mut self, now: Now) {
        while let Some(effect) = self.proxy.poll_effect() {
            match effect {
                Effect::Send { destination, bytes, tag } => {
                    self.shared.metrics.message(Direction::Out, destination.transport(), kind_of(&bytes));
                    let tapped = self.shared.hep.as_ref().map(|_| bytes.clone());
                    self.transport.send(destination, bytes, tag.map_or(0, SendTag::to_bits));
                    if let (Some(tap), Some(bytes)) = (&self.shared.hep, tapped) {
                        self.tap_sent(tap, &destination, bytes);
                    }
                }
                Effect::Save { ticket, change } => self.save(ticket, change, now),
                Effect::Await { flow } => self.shared.connections.expect(flow.connection),
                Effect::Push(push) => self.push(push),
                Effect::Resolve { ticket, host, port, transport } => self.resolve(ticket, host, port, transport),
                Effect::Fetch { ticket, sought } => self.fetch(ticket, sought),
                Effect::Woken(binding) => {
                    self.shared
                        .events
                        .publish(now.unix, || What::ClientOnline { aor: binding.aor.clone(), device: binding.device });
                    self.woken.push(binding);
                }
                Effect::Step(step) => self.step(&step, now),
                Effect::CallBegan { call_ref, call_id, aor } => self.shared.timeline.begin(&call_ref, &call_id, &aor),
                Effect::CallEnded { call_ref, outcome } => {
                    self.shared.metrics.call(outcome);
                    self.shared.timeline.end(&call_ref, outcome);
                    if let Some(call) = self.shared.timeline.call(&call_ref) {
                        self.shared.summary.ended(&call, now.unix);
                        if let Some(traces) = &self.shared.traces {
                            traces.take(call);
                        }
                    }
                }
                Effect::Found(finding) => self.shared.bars.write().learn(finding),
                Effect::WakeSeen { provider, after } => {
                    self.shared.metrics.wake(provider, after);
                    self.shared.summary.woken(provider, after, now.unix);
                }
                Effect::Refreshed { device, result, reason } => self.refreshed(device, result, &reason),
                Effect::AuthFailed { source, reason } => self.auth_failed(source, reason, now),
                Effect::AuthProven { source, failures } => self.shared.door.guard.auth_proven(source, failures),
                Effect::Warning(warning) => self.warnings.tell(&warning, now.instant),
                Effect::Dropped(reason) => self.shared.metrics.dropped(match reason {
                    proxy::DropReason::Response => DropReason::StrayResponse,
                    proxy::DropReason::StrangeSwitch => DropReason::StrangeSwitch,
                    proxy::DropReason::SourceBytes => DropReason::SourceBytes,
                    proxy::DropReason::Overload => DropReason::Overload,
                    proxy::DropReason::Ack | proxy::DropReason::Request => DropReason::Unparsable,
                }),
                Effect::Fault(fault) => {
                    tracing::error!(fault, "a fault of our own");
                    self.shared.metrics.dropped(DropReason::Fault);
                }
            }
        }
    }

    fn save(&mut self, ticket: store::Ticket, change: Change, now: Now) {
        self.saving.insert(ticket, (store_op(&change), now.instant));
        if self.shared.events.is_watched() {
            self.leaving.extend(Leaving::of(&change, now.unix).map(|leaving| (ticket, leaving)));
        }
        if let Change::Register { put, .. } = &change
            && self.shared.store.is_shared()
        {
            let devices: Vec<_> = put.iter().map(|binding| binding.device).collect();
            devices.iter().for_each(|device| self.shared.begins_to_register(*device));
            self.registering.insert(ticket, devices);
        }
        if let Err(error) = self.shared.store.submit(ticket, change, &self.saved.0) {
            self.saving.remove(&ticket);
            self.leaving.remove(&ticket);
            self.registered.extend(self.registering.remove(&ticket).unwrap_or_default());
            let result = Err(error);
            self.shared.store_said(&result);
            self.pending.push_back(Input::Saved(store::Reply { ticket, result }));
        }
    }

    fn push(&mut self, push: push::Push) {
        let (ticket, provider, notice) = (push.ticket, push.target.provider, push.notice.kind());
        let token = TokenHash::of(&push.target.prid);
        if notice == NoticeKind::Register {
            tracing::debug!(aor = %push.aor, %provider, ends_in_s = push.ttl.as_secs(), "pushed so that it registers");
        }
        // Nothing is sent by the accounts of before once a reload has ended, also before this worker has heard of it.
        let pushers = self.guidance.borrow().pushers.clone();
        if pushers.submit(push, self.pushed.0.clone()).is_err() {
            let took = Duration::ZERO;
            let outcome = Outcome::busy();
            self.shared.metrics.push(provider, push_kind(notice), PushResult::Busy, took);
            let reason = outcome.reason().unwrap_or_default();
            self.shared.summary.pushed(provider, PushResult::Busy, reason, now().unix);
            self.pending.push_back(Input::Pushed(push::Reply {
                ticket,
                provider,
                token,
                notice,
                outcome,
                push_id: None,
                repeatable: false,
                left_out: 0,
                took,
                replaced: Vec::new(),
            }));
        }
    }

    fn resolve(&mut self, ticket: ResolveTicket, host: Box<str>, port: Option<u16>, transport: Option<TransportKind>) {
        let shared = Arc::clone(&self.shared);
        let reply_to = self.resolved.0.clone();
        self.shared.runtime.spawn(async move {
            let addresses = match &shared.resolver {
                Some(resolver) => resolve::addresses(resolver, &host, port, transport).await,
                None => Vec::new(),
            };
            // A worker that has stopped needs no answer.
            let _ = reply_to.send((ticket, addresses)).await;
        });
    }

    fn step(&self, call_step: &CallStep, now: Now) {
        let CallStep { call_ref, step, device, detail, why, push_id } = call_step;
        let told = Detail { text: detail, push_id: push_id.as_deref() };
        self.shared.timeline.record(call_ref, now.unix, *step, *device, told, why.as_ref());
        self.shared.events.publish(now.unix, || What::Call {
            call_ref: call_ref.clone(),
            step: *step,
            device: *device,
            detail: (&**detail).into(),
            why: why.clone(),
        });
        if let Some(tap) = &self.shared.hep {
            self.tap_step(tap, call_step);
        }
        let device = device.map(tracing::field::display);
        let (name, reason) = (step.name(), why.as_ref().map_or("", Why::text));
        match step {
            // Its detail says who calls whom, which a log need not keep; `why` tells it.
            Step::Received => tracing::debug!(call_ref, step = name, device, %reason),
            Step::DeviceFound | Step::PushSent | Step::Forwarded | Step::Ringing => {
                tracing::debug!(call_ref, step = name, device, %reason, %detail);
            }
            Step::DeviceSkipped
            | Step::Held
            | Step::PushAccepted
            | Step::PushRefused
            | Step::PushRetried
            | Step::Registered
            | Step::Answered
            | Step::Rejected
            | Step::Cancelled
            | Step::NoReturn
            | Step::Expired
            | Step::Failed
            | Step::Missed
            | Step::MissedReported => tracing::info!(call_ref, step = name, device, %reason),
        }
    }

    fn flush(&mut self) {
        let mut failed = std::mem::take(&mut self.failed);
        self.transport.flush(&mut failed);
        while !failed.is_empty() {
            for event in failed.drain(..) {
                self.transport_event(event);
            }
            self.transport.flush(&mut failed);
        }
        self.failed = failed;
    }

    fn tell_others(&mut self) {
        self.registered.drain(..).for_each(|device| self.shared.has_registered(device));
        for binding in self.woken.drain(..) {
            for (_, board) in self.shared.boards.iter().enumerate().filter(|(index, _)| *index != self.index) {
                board.put(&binding);
            }
        }
    }
}
