//! What outlives a call and a crash: bindings, push buckets, held calls, texts to be fetched (design: store).
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
mod former_contacts;
mod memory;
mod messages;
mod orphans;
mod owners;
mod redis;
mod refreshes;
mod reminders;
mod schema;
mod stories;
mod table;
mod users;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

pub use change::{
    Applied, BucketEntry, Change, EntryState, HeldCall, HeldCallId, Removal, Reply, Settlement, StoreError, Ticket,
};
pub use embedded::{Embedded, Loaded, OpenError};
pub use memory::Memory;
pub use messages::{MESSAGE_TTL, MESSAGES_MAX, Message, MessageId};
pub use redis::{RedisSettings, RedisStore, RedisStories, RedisStream};
pub use reminders::{ReminderRule, Reminders};
pub use stories::DiskStories;
pub use table::{Bindings, Table};

use crate::binding::{Aor, Binding, DeviceId, Home};
use crate::clock::UnixMillis;

/// A held call whose holder is no more: an earlier run of this node, or another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftCall {
    pub call: HeldCall,
    /// The node that held it; `None`: this one.
    pub from: Option<Arc<str>>,
}

/// What other nodes do that concerns the calls of this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// Another node accepted a REGISTER.
    Woken(Arc<Binding>),
    /// Another node took this one for gone and has the call now; `by` is where it is reached, if it still has it.
    TakenOver { aor: Aor, id: HeldCallId, by: Option<Home> },
}

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
    Redis(RedisStore),
    Memory(Memory),
}

impl Store {
    /// The memory that answers reads.
    pub fn table(&self) -> &Arc<Table> {
        match self {
            Self::Embedded(store) => store.table(),
            Self::Redis(store) => store.table(),
            Self::Memory(store) => store.table(),
        }
    }

    /// Hands a change to the writer and never waits. Unless this is an error, exactly one [`Reply`] follows on
    /// `reply_to`, for changes of the same AOR in the order of submission.
    ///
    /// # Errors
    /// `Busy` when the queue is full, `Broken` after [`Store::shutdown`].
    pub fn submit(&self, ticket: Ticket, change: Change, reply_to: &mpsc::Sender<Reply>) -> Result<(), StoreError> {
        match self {
            Self::Embedded(store) => store.submit(ticket, change, reply_to),
            Self::Redis(store) => store.submit(ticket, change, reply_to),
            Self::Memory(store) => store.submit(ticket, change, reply_to),
        }
    }

    /// Ends bindings without push target whose Expires is over, and entries and texts past their time. For the server to call
    /// once a minute; until then readers still see them, see [`crate::binding::Binding::is_over`].
    pub fn sweep(&self, now: UnixMillis) {
        match self {
            Self::Embedded(store) => store.sweep(now),
            Self::Redis(store) => store.sweep(now),
            Self::Memory(store) => store.sweep(now),
        }
    }

    /// Whether what memory does not have is nowhere. A Redis with much in it is read while calls go on.
    pub fn is_loaded(&self) -> bool {
        match self {
            Self::Redis(store) => store.is_loaded(),
            Self::Embedded(_) | Self::Memory(_) => true,
        }
    }

    /// Whether the store does its work, but not as it should: changes are kept for a Redis that is away.
    pub fn is_degraded(&self) -> bool {
        match self {
            Self::Redis(store) => store.is_degraded(),
            Self::Embedded(_) | Self::Memory(_) => false,
        }
    }

    /// Acknowledged changes that Redis does not have yet.
    pub fn journal_entries(&self) -> usize {
        match self {
            Self::Redis(store) => store.journal_entries(),
            Self::Embedded(_) | Self::Memory(_) => 0,
        }
    }

    /// Makes memory right about one AOR. False when it may still be wrong.
    pub async fn fetch(&self, aor: &Aor) -> bool {
        match self {
            Self::Redis(store) => store.fetch(aor).await,
            Self::Embedded(_) | Self::Memory(_) => true,
        }
    }

    /// Makes memory right about the AOR of one device. False when it may still be wrong.
    pub async fn fetch_device(&self, device: DeviceId) -> bool {
        match self {
            Self::Redis(store) => store.fetch_device(device).await,
            Self::Embedded(_) | Self::Memory(_) => true,
        }
    }

    /// Whether memory is right about an AOR, after a look at what a store that is still being read may have.
    pub async fn knows(&self, aor: &Aor) -> bool {
        self.is_loaded() || self.fetch(aor).await
    }

    /// As [`Store::knows`], of the AOR of one device.
    pub async fn knows_device(&self, device: DeviceId) -> bool {
        self.is_loaded() || self.fetch_device(device).await
    }

    /// Has `on_news` called for what other nodes do.
    pub fn on_news(&self, on_news: impl Fn(News) + Send + Sync + 'static) {
        match self {
            Self::Redis(store) => store.on_news(on_news),
            Self::Embedded(_) | Self::Memory(_) => {}
        }
    }

    /// Calls found after the start whose holder is no more: see [`Loaded::held`].
    pub fn take_held(&self) -> Vec<LeftCall> {
        match self {
            Self::Redis(store) => store.take_held(),
            Self::Embedded(_) | Self::Memory(_) => Vec::new(),
        }
    }

    /// Whether other nodes have it, too.
    pub fn is_shared(&self) -> bool {
        matches!(self, Self::Redis(_))
    }

    /// Whether another node, known by where it is reached, is there; `None` for one that was never heard of.
    pub fn knows_node(&self, home: Home) -> Option<bool> {
        match self {
            Self::Redis(store) => store.knows_node(home),
            Self::Embedded(_) | Self::Memory(_) => None,
        }
    }

    /// Where the other nodes that are there can be reached.
    pub fn homes(&self) -> Vec<Home> {
        match self {
            Self::Redis(store) => store.homes(),
            Self::Embedded(_) | Self::Memory(_) => Vec::new(),
        }
    }

    /// How many nodes work on it, this one among them.
    pub fn nodes(&self) -> usize {
        match self {
            Self::Redis(store) => store.nodes(),
            Self::Embedded(_) | Self::Memory(_) => 1,
        }
    }

    /// What another node has that only this one should: each would take the other's calls, or phones, for its own.
    pub fn conflict(&self) -> Option<&'static str> {
        match self {
            Self::Redis(store) => store.conflict(),
            Self::Embedded(_) | Self::Memory(_) => None,
        }
    }

    /// Makes everything submitted durable and stops. Blocks until then; receivers of replies must be read or dropped.
    pub fn shutdown(&self) {
        match self {
            Self::Embedded(store) => store.shutdown(),
            Self::Redis(store) => store.shutdown(),
            Self::Memory(_) => {}
        }
    }
}
