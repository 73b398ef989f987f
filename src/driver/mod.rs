//! The one loop of a worker: an [`Input`] to the proxy, its [`Effect`]s to the world, one sleep.

mod board;
mod resolve;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use hickory_resolver::TokioResolver;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use board::Board;

use crate::binding::{Aor, Binding, DeviceId};
use crate::clock::{Now, UnixMillis};
use crate::metrics::{Direction, DropReason, Kind, Metrics, PushKind, PushResult, StoreOp};
use crate::proxy::event::{CallStep, FetchTicket, ResolveTicket, Sought};
use crate::proxy::{self, Contacts, Effect, Input, Proxy};
use crate::push::{self, NoticeKind, Outcome, Pushers};
use crate::readiness::{Part, Readiness};
use crate::sip::message::{Message, NotSip};
use crate::sip::{Flow, Transport as TransportKind};
use crate::store::{self, Change, EntryState, HeldCall, Store, StoreError, Table};
use crate::timeline::{Step, Timeline};
use crate::transaction::{Branch, SendTag};
use crate::transport::{self, Connections, Event, Inbound, Transport, WorkerSockets};

/// Messages of connections, and of other workers' sockets, that wait for a worker.
pub const INBOX: usize = 4096;
/// Answers of the store, the providers and the resolver that wait for a worker.
const REPLIES: usize = 4096;
/// Inputs taken in one turn before the network is looked at again.
const TURN: usize = 256;

/// What all workers share.
pub struct Shared {
    pub store: Store,
    pub metrics: Arc<Metrics>,
    pub timeline: Arc<Timeline>,
    pub readiness: Arc<Readiness>,
    pub connections: Connections,
    pub headers_max: usize,
    /// `None` where the system has no resolver configuration; then only addresses work.
    pub resolver: Option<TokioResolver>,
    /// Where look-ups run.
    pub runtime: Handle,
    store_is_up: AtomicBool,
    inboxes: Vec<mpsc::Sender<Event>>,
    /// Which worker has taken up the call with this branch: what its caller sends may arrive at another one.
    resumed: HashMap<Box<[u8]>, usize>,
    boards: Vec<Board>,
    /// Held calls of each worker.
    held: Vec<AtomicUsize>,
}

/// What [`Shared`] is made of, beyond the workers' own.
pub struct Parts {
    pub store: Store,
    pub metrics: Arc<Metrics>,
    pub timeline: Arc<Timeline>,
    pub readiness: Arc<Readiness>,
    pub connections: Connections,
    pub headers_max: usize,
    pub runtime: Handle,
    /// Calls that an earlier run held.
    pub held: Vec<HeldCall>,
}

impl Shared {
    /// For as many workers as there are inboxes.
    pub fn new(parts: Parts, inboxes: Vec<mpsc::Sender<Event>>) -> Self {
        let resolver = TokioResolver::builder_tokio().and_then(|builder| builder.build());
        let workers = inboxes.len();
        let resumed = parts.held.iter().filter_map(|call| Some((branch_of(call)?, worker_of(call, workers)))).collect();
        Self {
            store: parts.store,
            metrics: parts.metrics,
            timeline: parts.timeline,
            readiness: parts.readiness,
            connections: parts.connections,
            headers_max: parts.headers_max,
            resolver: resolver.inspect_err(|error| tracing::warn!(%error, "no resolver: host names do not work")).ok(),
            runtime: parts.runtime,
            store_is_up: AtomicBool::new(true),
            inboxes,
            resumed,
            boards: (0..workers).map(|_| Board::default()).collect(),
            held: (0..workers).map(|_| AtomicUsize::new(0)).collect(),
        }
    }

    /// Lets the operator see whether the store works; once for each time that this changes.
    fn store_said(&self, result: &Result<store::Applied, StoreError>) {
        let is_up = result.is_ok();
        if self.store_is_up.swap(is_up, Ordering::Relaxed) == is_up {
            return;
        }
        match result {
            Ok(_) => tracing::info!("the store writes again"),
            Err(error) => {
                tracing::error!(%error, "the store does not write: registrations and held calls are answered 503");
            }
        }
        self.look_at_store();
    }

    /// Brings what the store says of itself to where it is seen, and calls that it found late to their workers. To be
    /// called now and then.
    pub fn look_at_store(&self) {
        let waiting = self.store.journal_entries();
        if !self.store_is_up() {
            self.readiness.failed(Part::Store, "it does not write");
        } else if self.store.is_degraded() {
            let reason = format!("Redis is away: {waiting} changes wait in the journal");
            self.readiness.degraded(Part::Store, reason);
        } else if !self.store.is_loaded() {
            let bindings = self.store.table().binding_count();
            self.readiness.degraded(Part::Store, format!("{bindings} bindings are in memory, more are being read"));
        } else {
            self.readiness.well(Part::Store);
        }
        for call in self.store.take_held() {
            if let Some(board) = self.boards.get(worker_of(&call, self.boards.len())) {
                board.put_call(call);
            }
        }
    }

    /// Another node accepted a REGISTER.
    pub fn wake(&self, binding: &Arc<Binding>) {
        self.boards.iter().for_each(|board| board.put(binding));
    }

    pub fn store_is_up(&self) -> bool {
        self.store_is_up.load(Ordering::Relaxed)
    }

    /// Calls that wait for a device, in all workers.
    pub fn held_calls(&self) -> usize {
        self.held.iter().map(|held| held.load(Ordering::Relaxed)).sum()
    }
}

/// Which worker takes a call up: the one that held it, so that its branches are the same.
pub fn worker_of(call: &HeldCall, workers: usize) -> usize {
    Some(usize::from(call.id.worker())).filter(|worker| *worker < workers).unwrap_or(0)
}

/// The branch of the caller's own Via.
fn branch_of(call: &HeldCall) -> Option<Box<[u8]>> {
    let invite = Message::parse(call.invite.clone(), usize::MAX).ok()?;
    invite.top_via()?.branch().map(Into::into)
}

/// Which worker a response from a stream belongs to: the one that made its branch.
pub fn worker_of_response(bytes: &bytes::Bytes, _remote: SocketAddr) -> usize {
    let message = Message::parse(bytes.clone(), usize::MAX).ok();
    let worker = message.as_ref().and_then(|message| Branch::worker_of(message.top_via()?.branch()?));
    worker.map_or(0, usize::from)
}

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
}

/// One worker: a thread, its sockets, its proxy.
pub struct Worker {
    index: usize,
    proxy: Proxy,
    pushers: Pushers,
    guidance: watch::Receiver<Guidance>,
    transport: Transport,
    shared: Arc<Shared>,
    inbox: mpsc::Receiver<Event>,
    saved: (mpsc::Sender<store::Reply>, mpsc::Receiver<store::Reply>),
    pushed: (mpsc::Sender<push::Reply>, mpsc::Receiver<push::Reply>),
    resolved: (mpsc::Sender<Resolved>, mpsc::Receiver<Resolved>),
    fetched: (mpsc::Sender<FetchTicket>, mpsc::Receiver<FetchTicket>),
    /// Changes that are with the store, for the histogram.
    saving: HashMap<store::Ticket, (StoreOp, Instant)>,
    /// Answers that were known at once.
    pending: VecDeque<Input>,
    received: Vec<Inbound>,
    failed: Vec<Event>,
    /// Accepted registrations that the other workers are to hear of once the 2xx is sent: a call that one of them holds
    /// must not reach the phone before it.
    woken: Vec<Arc<Binding>>,
    stop: watch::Receiver<Phase>,
}

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
        let pushers = guidance.borrow().pushers.clone();
        Ok(Self {
            index,
            proxy,
            pushers,
            guidance,
            transport: Transport::new(index, sockets, shared.connections.clone())?,
            shared,
            inbox,
            saved: mpsc::channel(REPLIES),
            pushed: mpsc::channel(REPLIES),
            resolved: mpsc::channel(REPLIES),
            fetched: mpsc::channel(REPLIES),
            saving: HashMap::new(),
            pending: VecDeque::new(),
            received: Vec::new(),
            failed: Vec::new(),
            woken: Vec::new(),
            stop,
        })
    }

    /// Takes up the calls of an earlier run, and works until [`Phase::Stopped`].
    pub async fn run(mut self, held: Vec<HeldCall>) {
        for call in held {
            self.handle(Input::Resume(Box::new(call)));
        }
        self.flush();
        while self.turn().await {}
    }

    /// Waits for something to happen, and deals with it and with what came along. False when it is time to stop.
    async fn turn(&mut self) -> bool {
        let shared = Arc::clone(&self.shared);
        let Some(board) = shared.boards.get(self.index) else { return false };
        let due = self.proxy.poll_timeout();
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
            Some(ticket) = self.fetched.1.recv() => self.handle(Input::Fetched { ticket }),
            Some((ticket, addresses)) = self.resolved.1.recv() => self.handle(Input::Resolved { ticket, addresses }),
            () = board.changed() => {
                for call in board.take_calls() {
                    self.handle(Input::Resume(Box::new(call)));
                }
                for binding in board.take() {
                    self.handle(Input::Woken(binding));
                }
            }
            () = sleep => {}
            Ok(()) = self.guidance.changed() => {
                let Guidance { policy, pushers } = self.guidance.borrow_and_update().clone();
                self.proxy.reload(policy);
                self.pushers = pushers;
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
        self.flush();
        self.tell_others();
        if let Some(held) = self.shared.held.get(self.index) {
            held.store(self.proxy.held_calls(), Ordering::Relaxed);
        }
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
            self.message(inbound);
        }
        self.received = received;
    }

    fn transport_event(&mut self, event: Event) {
        match event {
            Event::Received(inbound) => self.message(inbound),
            Event::SendFailed { tag, error } => {
                tracing::debug!(%error, "a message could not be sent");
                if let Some(tag) = SendTag::from_bits(tag) {
                    self.handle(Input::SendFailed { tag });
                }
            }
            // What is sent on a closed flow fails; nobody has to be told before.
            Event::Closed { flow } => tracing::trace!(%flow, "closed"),
        }
    }

    fn message(&mut self, inbound: Inbound) {
        let Inbound { flow, bytes } = inbound;
        let message = match Message::parse(bytes.clone(), self.shared.headers_max) {
            Ok(message) => message,
            Err(error) => return self.not_sip(flow, error),
        };
        if self.hand_over(&message, flow, bytes) {
            return;
        }
        let kind = match message.status() {
            Some(status) => Kind::of_status(status),
            None => Kind::of_method(message.method_text()),
        };
        self.shared.metrics.message(Direction::In, flow.transport, kind);
        tracing::trace!(%flow, kind = kind.name(), "received");
        self.handle(Input::Received { flow, message });
    }

    fn not_sip(&self, flow: Flow, error: NotSip) {
        let reason = if error == NotSip::TooLarge { DropReason::TooLarge } else { DropReason::Unparsable };
        self.shared.metrics.dropped(reason);
        tracing::debug!(%flow, %error, "dropped");
    }

    /// Gives a response to the worker that made its branch, and a request of a call that was taken up to the worker that
    /// did. What finds no place there is lost like a datagram.
    fn hand_over(&self, message: &Message, flow: Flow, bytes: bytes::Bytes) -> bool {
        if message.is_request() && self.shared.resumed.is_empty() {
            return false;
        }
        let Some(branch) = message.top_via().and_then(|via| via.branch()) else { return false };
        let owner = if message.is_request() {
            self.shared.resumed.get(branch).copied()
        } else {
            Branch::worker_of(branch).map(usize::from)
        };
        let Some(owner) = owner else { return false };
        if owner == self.index {
            return false;
        }
        let Some(inbox) = self.shared.inboxes.get(owner) else { return false };
        if inbox.try_send(Event::Received(Inbound { flow, bytes })).is_err() {
            self.shared.metrics.dropped(DropReason::QueueFull);
        }
        true
    }

    fn store_reply(&mut self, reply: store::Reply) {
        if let Some((op, since)) = self.saving.remove(&reply.ticket) {
            self.shared.metrics.store(op, now().instant.saturating_duration_since(since));
        }
        self.shared.store_said(&reply.result);
        self.handle(Input::Saved(reply));
    }

    fn push_reply(&mut self, reply: push::Reply) {
        let (kind, result) = (push_kind(reply.notice), push_result(&reply.outcome));
        self.shared.metrics.push(reply.provider, kind, result, reply.took);
        match &reply.outcome {
            Outcome::Refused { reason } => {
                tracing::warn!(provider = %reply.provider, %reason, "a push was refused for a fault of ours");
            }
            outcome @ (Outcome::Accepted | Outcome::TokenDead { .. } | Outcome::TryAgain { .. } | Outcome::Limited) => {
                tracing::debug!(provider = %reply.provider, ?outcome, "push");
            }
        }
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
                    self.transport.send(destination, bytes, tag.map_or(0, SendTag::to_bits));
                }
                Effect::Save { ticket, change } => self.save(ticket, change, now),
                Effect::Push(push) => self.push(push),
                Effect::Resolve { ticket, host, port, transport } => self.resolve(ticket, host, port, transport),
                Effect::Fetch { ticket, sought } => self.fetch(ticket, sought),
                Effect::Woken(binding) => self.woken.push(binding),
                Effect::Step(step) => self.step(&step, now),
                Effect::CallEnded { call_ref, outcome } => {
                    self.shared.metrics.call(outcome);
                    self.shared.timeline.end(&call_ref, outcome);
                }
                Effect::WakeSeen { provider, after } => self.shared.metrics.wake(provider, after),
                Effect::Dropped(reason) => self.shared.metrics.dropped(match reason {
                    proxy::DropReason::Response => DropReason::StrayResponse,
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
        if let Err(error) = self.shared.store.submit(ticket, change, &self.saved.0) {
            self.saving.remove(&ticket);
            let result = Err(error);
            self.shared.store_said(&result);
            self.pending.push_back(Input::Saved(store::Reply { ticket, result }));
        }
    }

    fn push(&mut self, push: push::Push) {
        let (ticket, provider, notice) = (push.ticket, push.target.provider, push.notice.kind());
        if self.pushers.submit(push, self.pushed.0.clone()).is_err() {
            let took = std::time::Duration::ZERO;
            self.shared.metrics.push(provider, push_kind(notice), PushResult::Busy, took);
            let outcome = Outcome::TryAgain { after: None, reason: "too many pushes are under way".into() };
            self.pending.push_back(Input::Pushed(push::Reply { ticket, outcome, took, provider, notice, left_out: 0 }));
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

    fn fetch(&self, ticket: FetchTicket, sought: Sought) {
        let shared = Arc::clone(&self.shared);
        let reply_to = self.fetched.0.clone();
        self.shared.runtime.spawn(async move {
            let is_known = match sought {
                Sought::Aor(aor) => shared.store.fetch(&aor).await,
                Sought::Device(device) => shared.store.fetch_device(device).await,
            };
            tracing::debug!(is_known, "fetched");
            // A worker that has stopped needs no answer.
            let _ = reply_to.send(ticket).await;
        });
    }

    fn step(&self, step: &CallStep, now: Now) {
        let CallStep { call_ref, step, device, detail, reason } = step;
        self.shared.timeline.record(call_ref, now.unix, *step, *device, detail, reason);
        let device = device.map(tracing::field::display);
        let name = step.name();
        let is_detail =
            matches!(step, Step::Received | Step::DeviceFound | Step::PushSent | Step::Forwarded | Step::Ringing);
        if is_detail {
            tracing::debug!(call_ref, step = name, device, %reason, %detail);
        } else {
            tracing::info!(call_ref, step = name, device, %reason);
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
        for binding in self.woken.drain(..) {
            for (_, board) in self.shared.boards.iter().enumerate().filter(|(index, _)| *index != self.index) {
                board.put(&binding);
            }
        }
    }
}

/// The contact table as a worker's proxy sees it.
struct View<'a> {
    shared: &'a Shared,
    worker: usize,
    now: UnixMillis,
}

impl View<'_> {
    fn table(&self) -> &Table {
        self.shared.store.table()
    }

    fn board(&self) -> Option<&Board> {
        // One worker alone hears of all wakes directly.
        self.shared.boards.get(self.worker).filter(|_| self.shared.boards.len() > 1 || self.shared.store.is_shared())
    }
}

impl Contacts for View<'_> {
    fn of_aor(&self, aor: &Aor) -> Vec<Arc<Binding>> {
        self.table().lookup(aor).into_iter().filter(|binding| !binding.is_over(self.now)).collect()
    }

    fn of_device(&self, device: DeviceId) -> Option<Arc<Binding>> {
        self.table().by_device(device).filter(|binding| !binding.is_over(self.now))
    }

    fn on_flow(&self, transport: TransportKind, remote: SocketAddr) -> Option<DeviceId> {
        self.table().device_on(transport, remote, self.now)
    }

    fn has_missed(&self, device: DeviceId) -> bool {
        self.table().entries(&device).iter().any(|entry| entry.state == EntryState::Missed)
    }

    fn is_loaded(&self) -> bool {
        self.shared.store.is_loaded()
    }

    fn watch(&self, aor: &Aor) {
        if let Some(board) = self.board() {
            board.watch(aor);
        }
    }

    fn unwatch(&self, aor: &Aor) {
        if let Some(board) = self.board() {
            board.unwatch(aor);
        }
    }
}

/// What bytes of our own making are, for the counters.
fn kind_of(bytes: &[u8]) -> Kind {
    let mut words = bytes.split(|byte| *byte == b' ');
    match (words.next(), words.next()) {
        (Some(b"SIP/2.0"), Some(status)) => {
            Kind::of_status(crate::sip::scan::number(status).and_then(|status| u16::try_from(status).ok()).unwrap_or(0))
        }
        (method, _) => Kind::of_method(method.unwrap_or_default()),
    }
}

fn store_op(change: &Change) -> StoreOp {
    match change {
        Change::Register { .. } => StoreOp::Register,
        Change::TokenDead { .. } => StoreOp::TokenDead,
        Change::Remove { .. } => StoreOp::Remove,
        Change::Hold { .. } => StoreOp::Hold,
        Change::Settle { .. } => StoreOp::Settle,
        Change::Claim { .. } => StoreOp::Claim,
        Change::Reported { .. } => StoreOp::Reported,
        Change::Release { .. } => StoreOp::Release,
    }
}

fn push_kind(notice: NoticeKind) -> PushKind {
    match notice {
        NoticeKind::Invite => PushKind::Invite,
        NoticeKind::Message => PushKind::Message,
        NoticeKind::MissedCalls => PushKind::MissedCalls,
    }
}

fn push_result(outcome: &Outcome) -> PushResult {
    match outcome {
        Outcome::Accepted => PushResult::Accepted,
        Outcome::TokenDead { .. } => PushResult::TokenDead,
        Outcome::TryAgain { .. } => PushResult::TryAgain,
        Outcome::Refused { .. } => PushResult::Refused,
        Outcome::Limited => PushResult::Limited,
    }
}

/// The transport's drops under the names of the metrics.
pub fn transport_drop(reason: transport::DropReason) -> Option<DropReason> {
    DropReason::ALL.iter().copied().find(|known| known.name() == reason.name())
}
