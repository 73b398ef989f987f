//! What all workers of a node share, and what the server sees of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use hickory_resolver::TokioResolver;
use parking_lot::RwLock;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::Door;
use super::board::Board;
use super::now;
use crate::binding::DeviceId;
use crate::clock::UnixMillis;
use crate::events::Events;
use crate::hep;
use crate::metrics::Metrics;
use crate::proxy::bars::Bars;
use crate::push::Pushers;
use crate::readiness::{Part, Readiness};
use crate::sip::peek;
use crate::spans::Traces;
use crate::store::{self, Applied, Change, HeldCall, News, Store, StoreError};
use crate::summary::Summary;
use crate::timeline::Timeline;
use crate::transport::{Connections, Event};

/// How long a call that was taken up may ring after its wait: Timer C and some more.
const RINGING_MAX: Duration = Duration::from_secs(300);

/// What all workers share.
pub struct Shared {
    pub store: Store,
    pub metrics: Arc<Metrics>,
    pub timeline: Arc<Timeline>,
    pub summary: Arc<Summary>,
    pub events: Arc<Events>,
    /// `None`: nothing is exported.
    pub hep: Option<hep::Tap>,
    pub traces: Option<Traces>,
    pub readiness: Arc<Readiness>,
    pub connections: Connections,
    pub door: Arc<Door>,
    pub headers_max: usize,
    /// `None` where the system has no resolver configuration; then only addresses work.
    pub resolver: Option<TokioResolver>,
    /// Where look-ups run.
    pub runtime: Handle,
    /// Devices that are not pushed for what their provider says of their token.
    pub bars: RwLock<Bars>,
    store_is_up: AtomicBool,
    pub(super) inboxes: Vec<mpsc::Sender<Event>>,
    /// Calls that were taken up: what their callers send may arrive at another worker.
    pub(super) resumed: Resumed,
    pub(super) boards: Vec<Board>,
    /// Devices whose REGISTER is about to be accepted: another node that hears of it sooner must not reach the phone
    /// before the 2xx does.
    pub(super) registering: DashMap<DeviceId, usize>,
    /// Held calls of each worker.
    pub(super) held: Vec<AtomicUsize>,
}

/// What [`Shared`] is made of, beyond the workers' own.
pub struct Parts {
    pub store: Store,
    pub metrics: Arc<Metrics>,
    pub timeline: Arc<Timeline>,
    pub summary: Arc<Summary>,
    pub events: Arc<Events>,
    /// `None`: nothing is exported.
    pub hep: Option<hep::Tap>,
    pub traces: Option<Traces>,
    pub readiness: Arc<Readiness>,
    pub connections: Connections,
    pub door: Arc<Door>,
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
        let resumed = Resumed::default();
        parts.held.iter().for_each(|call| resumed.add(call, worker_of(call, workers)));
        Self {
            store: parts.store,
            metrics: parts.metrics,
            timeline: parts.timeline,
            summary: parts.summary,
            events: parts.events,
            hep: parts.hep,
            traces: parts.traces,
            readiness: parts.readiness,
            connections: parts.connections,
            door: parts.door,
            headers_max: parts.headers_max,
            resolver: resolver.inspect_err(|error| tracing::warn!(%error, "no resolver: host names do not work")).ok(),
            runtime: parts.runtime,
            bars: RwLock::default(),
            store_is_up: AtomicBool::new(true),
            inboxes,
            resumed,
            registering: DashMap::new(),
            boards: (0..workers).map(|_| Board::default()).collect(),
            held: (0..workers).map(|_| AtomicUsize::new(0)).collect(),
        }
    }

    /// Lets the operator see whether the store works; once for each time that this changes.
    pub(super) fn store_said(&self, result: &Result<Applied, StoreError>) {
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
        } else if let Some(conflict) = self.store.conflict() {
            self.readiness.degraded(Part::Store, conflict);
        } else if !self.store.is_loaded() {
            let bindings = self.store.table().binding_count();
            self.readiness.degraded(Part::Store, format!("{bindings} bindings are in memory, more are being read"));
        } else {
            self.readiness.well(Part::Store);
        }
        let homes = self.store.homes().into_iter();
        self.door.guard.set_nodes(homes.map(|home| home.address.ip().to_canonical()).collect());
        for left in self.store.take_held() {
            let worker = worker_of(&left.call, self.boards.len());
            self.resumed.add(&left.call, worker);
            if let Some(board) = self.boards.get(worker) {
                board.put_call(left);
            }
        }
        self.resumed.expire(now().unix);
    }

    /// What another node did.
    pub fn hear(&self, news: News) {
        match news {
            News::Woken(binding) => self.boards.iter().for_each(|board| board.put(&binding)),
            // The worker that took it up need not be the one whose number is in the id.
            News::TakenOver { aor, id, by } => {
                self.boards.iter().for_each(|board| board.put_taken_over((aor.clone(), id, by)));
            }
        }
    }

    pub(super) fn begins_to_register(&self, device: DeviceId) {
        *self.registering.entry(device).or_default() += 1;
    }

    pub(super) fn has_registered(&self, device: DeviceId) {
        self.registering.remove_if_mut(&device, |_, count| {
            *count = count.saturating_sub(1);
            *count == 0
        });
    }

    /// Brings what the pushing side says of its accounts to where it is seen. To be called now and then.
    pub fn look_at_push(&self, pushers: &Pushers) {
        let (troubles, alarms) = (pushers.troubles(), pushers.alarms());
        self.metrics.push_accounts_failing(troubles.iter().map(|(provider, _)| *provider));
        self.metrics.push_accounts_doubted(alarms.iter().map(|(provider, _)| *provider));
        let reasons: Vec<_> = troubles.into_iter().chain(alarms).map(|(_, reason)| reason).collect();
        if reasons.is_empty() {
            self.readiness.well(Part::Push);
        } else {
            self.readiness.degraded(Part::Push, reasons.join("; "));
        }
    }

    /// Asks each worker whether it still takes its turns; false when one has not for as many looks as `patience`. To be
    /// called now and then.
    pub fn look_at_workers(&self, patience: u32) -> bool {
        // All are asked, also behind one that is stuck. Nothing is logged: a log that takes no more lines may be the reason.
        let stuck: Vec<_> =
            self.boards.iter().map(Board::ask).enumerate().filter(|(_, asked)| *asked >= patience).collect();
        match stuck.first() {
            Some((worker, _)) => self.readiness.failed(Part::Sip, format!("worker {worker} does not go on")),
            None => self.readiness.well(Part::Sip),
        }
        stuck.is_empty()
    }

    /// Makes a change and waits until it is durable.
    ///
    /// # Errors
    /// As [`Store::submit`].
    pub async fn change(&self, change: Change) -> Result<Applied, StoreError> {
        let (reply_to, mut replies) = mpsc::channel(1);
        self.store.submit(store::Ticket(0), change, &reply_to)?;
        replies.recv().await.ok_or(StoreError::Busy)?.result
    }

    pub fn store_is_up(&self) -> bool {
        self.store_is_up.load(Ordering::Relaxed)
    }

    /// Calls that wait for a device, in all workers.
    pub fn held_calls(&self) -> usize {
        self.held.iter().map(|held| held.load(Ordering::Relaxed)).sum()
    }
}

/// Which worker has taken up the call with this Call-ID.
#[derive(Debug, Default)]
pub(super) struct Resumed {
    /// Asked for each message, and mostly there is none.
    is_used: AtomicBool,
    workers: RwLock<HashMap<Box<[u8]>, TakenUp>>,
}

/// By which worker, and until when its caller may send something.
type TakenUp = (usize, UnixMillis);

impl Resumed {
    pub(super) fn worker(&self, call_id: &[u8]) -> Option<usize> {
        self.workers.read().get(call_id).map(|(worker, _)| *worker)
    }

    pub(super) fn is_used(&self) -> bool {
        self.is_used.load(Ordering::Relaxed)
    }

    fn add(&self, call: &HeldCall, worker: usize) {
        if let Some(call_id) = call_id_of(call) {
            self.workers.write().insert(call_id, (worker, call.until.after(RINGING_MAX)));
            self.is_used.store(true, Ordering::Relaxed);
        }
    }

    fn expire(&self, now: UnixMillis) {
        if self.is_used() {
            let mut workers = self.workers.write();
            workers.retain(|_, (_, until)| now < *until);
            self.is_used.store(!workers.is_empty(), Ordering::Relaxed);
        }
    }
}

/// Which worker takes a call up: the one that held it, so that its branches are the same.
pub fn worker_of(call: &HeldCall, workers: usize) -> usize {
    Some(usize::from(call.id.worker())).filter(|worker| *worker < workers).unwrap_or(0)
}

fn call_id_of(call: &HeldCall) -> Option<Box<[u8]>> {
    peek::header(&call.invite, "Call-ID", b'i').map(Into::into)
}
