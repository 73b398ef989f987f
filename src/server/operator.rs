//! What the operator sees and does through the admin listener.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;

use crate::admin::{Removing, Source};
use crate::binding::{Aor, Binding, DeviceId};
use crate::driver::{Shared, transport_drop};
use crate::metrics::Metrics;
use crate::store::{Applied, BucketEntry, Change, StoreError, Ticket};
use crate::transport::DropReason;

/// The running server as the admin routes see it.
pub(super) struct Operator {
    shared: Arc<Shared>,
    /// What the transport had dropped when the metrics were shown last.
    drops: Vec<AtomicU64>,
}

impl Operator {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, drops: DropReason::ALL.iter().map(|_| AtomicU64::new(0)).collect() }
    }
}

impl Source for Operator {
    fn bindings(&self, aor: &Aor) -> Vec<Arc<Binding>> {
        self.shared.store.table().lookup(aor).into_vec()
    }

    fn page(&self, after: Option<&Aor>, limit: usize) -> Vec<Arc<Binding>> {
        self.shared.store.table().page(after, limit)
    }

    fn bucket(&self, device: &DeviceId) -> Vec<Arc<BucketEntry>> {
        self.shared.store.table().entries(device)
    }

    fn remove(&self, aor: Aor, device: DeviceId) -> Removing<'_> {
        Box::pin(async move {
            let (reply_to, mut replies) = mpsc::channel(1);
            self.shared.store.submit(Ticket(0), Change::Remove { aor, device }, &reply_to)?;
            let reply = replies.recv().await.ok_or(StoreError::Busy)?;
            reply.result.map(|applied| applied == Applied::Ended(true))
        })
    }

    fn measure(&self, metrics: &Metrics) {
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let table = self.shared.store.table();
        metrics.bindings.set(gauge(table.binding_count()));
        metrics.bucket_entries.set(gauge(table.entry_count()));
        metrics.held_calls.set(gauge(self.shared.held_calls()));
        metrics.store_up.set(i64::from(self.shared.store_is_up()));
        metrics.journal_entries.set(gauge(self.shared.store.journal_entries()));
        metrics.events_lost.set(i64::try_from(self.shared.events.lost()).unwrap_or(i64::MAX));
        metrics.nodes.set(gauge(self.shared.store.nodes()));
        for (reason, shown) in DropReason::ALL.into_iter().zip(&self.drops) {
            let total = self.shared.connections.drops().total(reason);
            let new = total.saturating_sub(shown.swap(total, Ordering::Relaxed));
            if let Some(reason) = transport_drop(reason) {
                metrics.dropped_by(reason, new);
            }
        }
    }
}
