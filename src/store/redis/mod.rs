//! A store that several nodes share: Redis or Valkey (design: store).
//!
//! ```text
//!   workers ── submit ──► bounded queue ──► Engine ──► Link: one script per AOR ──► Redis ──► notices to all nodes
//!      ▲                                     │  ▲                                                │
//!      └── Reply ◄── Table ◄── shown ◄───────┘  └──────────────── rows of other nodes ◄──────────┘
//!                                            │
//!                                            └──► Journal, while Redis is away
//! ```
//!
//! What is written and when is in `engine` alone; how it looks in Redis is in `record`.

mod engine;
mod journal;
mod link;
mod record;
mod stories;
mod stream;
mod task;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::{mpsc, oneshot};

use super::change::{Change, Reply, StoreError, Ticket};
use super::table::Table;
use super::{LeftCall, Limits, Loaded, News, OpenError};
use crate::binding::{Aor, DeviceId, Home};
use crate::clock::UnixMillis;
use crate::config;
use engine::{Engine, Homes};
use journal::{JOURNAL_BYTES_MAX, Journal};
use link::Connector;
use record::Identity;
pub use stories::RedisStories;
pub use stream::RedisStream;
use task::{Job, Opened, Task};

/// Signs of life in `node.lease_s`: some may be late.
const BEATS_PER_LEASE: u32 = 3;
/// How often at least, and at most, a sign of life is given and looked for. It shows that Redis is there, too.
const BEAT_EVERY_MAX: Duration = Duration::from_secs(1);
const BEAT_EVERY_MIN: Duration = Duration::from_millis(10);

/// What this node is to Redis, and Redis to it.
#[derive(Debug, Clone)]
pub struct RedisSettings {
    /// `store.url`.
    pub url: config::Redis,
    /// `store.timeout_ms`: how long a change waits for Redis before it goes to the journal.
    pub timeout: Duration,
    /// `node.id`: each node of a Redis has its own.
    pub node: String,
    /// `node.lease_s`: how long after its last sign of life a node counts as there.
    pub lease: Duration,
    /// Where other nodes reach this one.
    pub home: Option<Home>,
}

type OnNews = Box<dyn Fn(News) + Send + Sync>;

/// What the loop tells of itself.
#[derive(Default)]
struct Status {
    is_open: AtomicBool,
    is_up: AtomicBool,
    is_loaded: AtomicBool,
    scanned: AtomicUsize,
    journaled: AtomicUsize,
    conflict: Mutex<Option<&'static str>>,
    nodes: AtomicUsize,
    homes: RwLock<Homes>,
    leftovers: Mutex<Vec<LeftCall>>,
    on_news: OnceLock<OnNews>,
}

/// A store in Redis, with a journal in a folder of this machine.
pub struct RedisStore {
    table: Arc<Table>,
    /// `None` once it is shut down.
    queue: RwLock<Option<mpsc::Sender<Job>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    status: Arc<Status>,
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore").field("table", &self.table).finish_non_exhaustive()
    }
}

impl RedisStore {
    /// Opens the journal in the folder `data_dir`, connects, and takes up what this node left. Everything else is read
    /// into memory afterwards, see [`RedisStore::is_loaded`]. Starts without Redis, too, if this node was connected to
    /// it before.
    ///
    /// # Errors
    /// Each names what is wrong and what would be right.
    pub fn open(settings: &RedisSettings, data_dir: &Path, limits: Limits) -> Result<(Self, Loaded), OpenError> {
        let (journal, found) = Journal::open(data_dir, JOURNAL_BYTES_MAX)?;
        let table = Arc::new(Table::default());
        let status = Arc::new(Status::default());
        let identity = Identity {
            node: settings.node.as_str().into(),
            run: getrandom::u64().map_err(OpenError::Random)?,
            home: settings.home,
        };
        let (queue, jobs) = mpsc::channel(limits.queue.max(1));
        // One for each AOR at most, and each has a change that counts in the queue.
        let (errands, errands_out) = mpsc::channel(limits.queue.saturating_mul(2).saturating_add(1024));
        let (appended_in, appended) = mpsc::channel(limits.queue.saturating_mul(2).saturating_add(1024));
        let beat_every = (settings.lease / BEATS_PER_LEASE).clamp(BEAT_EVERY_MIN, BEAT_EVERY_MAX);
        let patience = settings.lease.as_millis().div_ceil(beat_every.as_millis().max(1));
        let patience = u32::try_from(patience).unwrap_or(u32::MAX).saturating_add(1);
        let task = Task::new(task::Parts {
            engine: Engine::new(Arc::clone(&table), limits, identity.clone(), found.position, found.changes, patience),
            connector: Connector { url: settings.url.clone(), timeout: settings.timeout, identity },
            beat_every,
            status: Arc::clone(&status),
            jobs,
            jobs_max: limits.queue.max(1),
            errands,
            appended,
            secret: found.secret,
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(OpenError::Writer)?;
        let (opened_in, opened) = std::sync::mpsc::sync_channel(1);
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.to_owned()).spawn(work).map_err(OpenError::Writer)
        };
        let journal_thread =
            spawn("journal", Box::new(move || task::keep_journal(journal, errands_out, &appended_in)))?;
        let store_thread = spawn("store", Box::new(move || runtime.block_on(task.run(opened_in))))?;
        let store = Self {
            table,
            queue: RwLock::new(Some(queue)),
            threads: Mutex::new(vec![store_thread, journal_thread]),
            status,
        };
        let opened = opened.recv().map_err(|_| OpenError::Redis("its loop ended".to_owned()))?;
        let Opened { held, secret } = opened?;
        let held: Vec<_> = held.into_iter().map(|left| left.call).collect();
        store.status.is_open.store(true, Ordering::Relaxed);
        let loaded = Loaded { held, bindings: store.table.binding_count(), entries: store.table.entry_count(), secret };
        Ok((store, loaded))
    }

    /// The memory that answers reads. Until [`RedisStore::is_loaded`], what is not in it may still be in Redis.
    pub fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// See [`super::Store::submit`].
    ///
    /// # Errors
    /// `Busy` when the queue is full, `Broken` after [`RedisStore::shutdown`].
    pub fn submit(&self, ticket: Ticket, change: Change, reply_to: &mpsc::Sender<Reply>) -> Result<(), StoreError> {
        self.queue(Job::Change { ticket, change: Box::new(change), reply_to: reply_to.clone() })
    }

    /// See [`super::Store::sweep`]. Without room in the queue, and while Redis is away, the next one does its work.
    pub fn sweep(&self, now: UnixMillis) {
        if let Err(error) = self.queue(Job::Sweep(now)) {
            tracing::debug!(%error, "sweep left to the next one");
        }
    }

    /// Whether memory has seen everything that is in Redis once.
    pub fn is_loaded(&self) -> bool {
        self.status.is_loaded.load(Ordering::Relaxed)
    }

    /// AORs read since the last connection.
    pub fn loaded(&self) -> usize {
        self.status.scanned.load(Ordering::Relaxed)
    }

    /// Whether Redis is away, so that changes go to the journal and other nodes hear nothing.
    pub fn is_degraded(&self) -> bool {
        !self.status.is_up.load(Ordering::Relaxed)
    }

    /// Acknowledged changes that Redis does not have yet.
    pub fn journal_entries(&self) -> usize {
        self.status.journaled.load(Ordering::Relaxed)
    }

    /// Makes memory right about one AOR. False when Redis is away: then memory has what it has.
    pub async fn fetch(&self, aor: &Aor) -> bool {
        let (done, result) = oneshot::channel();
        self.queue(Job::Look { aor: aor.clone(), done }).is_ok() && result.await == Ok(true)
    }

    /// Makes memory right about the AOR of a device. False when Redis is away or does not know the device.
    pub async fn fetch_device(&self, device: DeviceId) -> bool {
        let (done, result) = oneshot::channel();
        self.queue(Job::LookForDevice { device, done }).is_ok() && result.await == Ok(true)
    }

    /// Has `on_news` called for what other nodes do. Only the first call counts. It must not block.
    pub fn on_news(&self, on_news: impl Fn(News) + Send + Sync + 'static) {
        if self.status.on_news.set(Box::new(on_news)).is_err() {
            tracing::error!("the store has somebody to tell already");
        }
    }

    /// Calls of nodes that are gone, and calls that an earlier start of this node held, if they were found after
    /// [`RedisStore::open`]: Redis was away then. As with [`Loaded::held`], they stay in the store until they are settled.
    pub fn take_held(&self) -> Vec<LeftCall> {
        std::mem::take(&mut self.status.leftovers.lock())
    }

    /// See [`super::Store::knows_node`].
    pub fn knows_node(&self, home: Home) -> Option<bool> {
        let homes = self.status.homes.read();
        let is_there = homes.there.contains(&home);
        (is_there || homes.gone.contains(&home)).then_some(is_there)
    }

    /// See [`super::Store::homes`].
    pub fn homes(&self) -> Vec<Home> {
        self.status.homes.read().there.clone()
    }

    /// See [`super::Store::nodes`].
    pub fn nodes(&self) -> usize {
        self.status.nodes.load(Ordering::Relaxed).max(1)
    }

    /// See [`super::Store::conflict`].
    pub fn conflict(&self) -> Option<&'static str> {
        *self.status.conflict.lock()
    }

    /// See [`super::Store::shutdown`].
    pub fn shutdown(&self) {
        drop(self.queue.write().take());
        for thread in self.threads.lock().drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the store ended by a fault of ours");
            }
        }
    }

    fn queue(&self, job: Job) -> Result<(), StoreError> {
        let queue = self.queue.read();
        let Some(queue) = &*queue else {
            return Err(StoreError::Broken("it is shut down".to_owned()));
        };
        queue.try_send(job).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => StoreError::Busy,
            mpsc::error::TrySendError::Closed(_) => StoreError::Broken("its loop ended".to_owned()),
        })
    }
}

impl Drop for RedisStore {
    fn drop(&mut self) {
        self.shutdown();
    }
}
