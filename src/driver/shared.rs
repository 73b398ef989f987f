//! What all workers of a node share, and what the server sees of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use hickory_resolver::TokioResolver;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::board::Board;
use crate::binding::Binding;
use crate::metrics::Metrics;
use crate::push::Pushers;
use crate::readiness::{Part, Readiness};
use crate::sip::Message;
use crate::store::{self, HeldCall, Store, StoreError};
use crate::timeline::Timeline;
use crate::transport::{Connections, Event};

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
    pub(super) inboxes: Vec<mpsc::Sender<Event>>,
    /// Which worker has taken up the call with this branch: what its caller sends may arrive at another one.
    pub(super) resumed: HashMap<Box<[u8]>, usize>,
    pub(super) boards: Vec<Board>,
    /// Held calls of each worker.
    pub(super) held: Vec<AtomicUsize>,
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
    pub(super) fn store_said(&self, result: &Result<store::Applied, StoreError>) {
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

    /// Brings what the pushing side says of its accounts to where it is seen. To be called now and then.
    pub fn look_at_push(&self, pushers: &Pushers) {
        let troubles = pushers.troubles();
        self.metrics.push_accounts_failing(troubles.iter().map(|(provider, _)| *provider));
        if troubles.is_empty() {
            self.readiness.well(Part::Push);
        } else {
            let reasons: Vec<_> = troubles.into_iter().map(|(_, reason)| reason).collect();
            self.readiness.degraded(Part::Push, reasons.join("; "));
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
