//! What outlives a call and a crash: bindings, push buckets, held calls (design: store).
//!
//! Reads are answered from memory ([`Table`]); a [`Change`] is durable before its [`Reply`] is sent, and the memory
//! shows it from the moment it is durable. One writer applies all changes in order, many at a time (group commit).
//!
//! ```text
//!   workers ── submit(change) ──► bounded queue ──► Draft: what the change means, over the Table (pure)
//!      ▲                                              │ rows that differ
//!      │                                              ▼
//!      └── Reply ◄── Table (dashmap) ◄── publish ◄── Disk: one synced commit for all that was queued
//! ```
//!
//! What a change means is in `draft` and `bucket` alone; how it survives is in `disk` and `embedded` alone.

mod bucket;
mod change;
mod disk;
mod draft;
mod embedded;
mod memory;
mod schema;
mod table;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

pub use change::{
    Applied, BucketEntry, Change, EntryState, HeldCall, HeldCallId, Removal, Reply, Settlement, StoreError, Ticket,
};
pub use embedded::{Embedded, Loaded, OpenError};
pub use memory::Memory;
pub use table::{Bindings, Table};

use crate::clock::UnixMillis;

/// How much a store may keep and queue.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Entries in one device's bucket (`missed_calls.entries_max`). Over it the oldest goes, a live one last.
    pub entries_per_device: usize,
    /// How long an entry is kept, from its INVITE on (`missed_calls.ttl_s`).
    pub entry_ttl: Duration,
    /// Changes waiting for the writer. Over it: [`StoreError::Busy`].
    pub queue: usize,
}

/// The stores that there are.
#[derive(Debug)]
pub enum Store {
    Embedded(Embedded),
    Memory(Memory),
}

impl Store {
    /// The memory that answers reads.
    pub fn table(&self) -> &Arc<Table> {
        match self {
            Self::Embedded(store) => store.table(),
            Self::Memory(store) => store.table(),
        }
    }

    /// Hands a change to the writer and never waits. Unless this is an error, exactly one [`Reply`] follows on
    /// `reply_to`, in the order of submission.
    ///
    /// # Errors
    /// `Busy` when the queue is full, `Broken` after [`Store::shutdown`].
    pub fn submit(&self, ticket: Ticket, change: Change, reply_to: &mpsc::Sender<Reply>) -> Result<(), StoreError> {
        match self {
            Self::Embedded(store) => store.submit(ticket, change, reply_to),
            Self::Memory(store) => store.submit(ticket, change, reply_to),
        }
    }

    /// Ends bindings without push target whose Expires is over, and entries past their time. For the server to call
    /// once a minute; until then readers still see them, see [`crate::binding::Binding::is_over`].
    pub fn sweep(&self, now: UnixMillis) {
        match self {
            Self::Embedded(store) => store.sweep(now),
            Self::Memory(store) => store.sweep(now),
        }
    }

    /// Makes everything submitted durable and stops. Blocks until then; receivers of replies must be read or dropped.
    pub fn shutdown(&self) {
        match self {
            Self::Embedded(store) => store.shutdown(),
            Self::Memory(_) => {}
        }
    }
}
