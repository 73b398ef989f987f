//! The embedded store: one writer thread that makes queued changes durable together (group commit), then visible,
//! then answers them.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::mpsc;

use super::Limits;
use super::change::{Applied, Change, HeldCall, Reply, StoreError, Ticket};
use super::disk::Disk;
use super::draft::Draft;
use super::table::Table;
use crate::clock::UnixMillis;

pub use super::disk::OpenError;

/// Changes in one commit at most: what a sync of a few milliseconds is shared by, without making the first wait long.
const COMMIT_CHANGES_MAX: usize = 512;
/// Bindings and buckets that one step of a sweep ends at most, so that it delays nobody for long.
const SWEEP_STEP_MAX: usize = 512;
/// How long a disk that failed is left alone before it is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// A store in a folder of this machine.
#[derive(Debug)]
pub struct Embedded {
    table: Arc<Table>,
    /// `None` once it is shut down.
    queue: RwLock<Option<mpsc::Sender<Job>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    commits: Arc<AtomicU64>,
}

/// What a start found.
#[derive(Debug)]
pub struct Loaded {
    /// Calls that were held when the last process ended, oldest first. They stay in the store until they are settled.
    pub held: Vec<HeldCall>,
    pub bindings: usize,
    pub entries: usize,
    /// Made at the first start of this folder and the same ever after. Device names and flow tokens are keyed by it.
    pub secret: [u8; 32],
}

#[derive(Debug)]
enum Job {
    Change { ticket: Ticket, change: Box<Change>, reply_to: mpsc::Sender<Reply> },
    Sweep(UnixMillis),
}

impl Embedded {
    /// Opens the store in the folder `data_dir`, creates it if it is not there, and reads it into memory.
    ///
    /// # Errors
    /// Each names the path, what is wrong with it and what would be right.
    pub fn open(data_dir: &Path, limits: Limits, now: UnixMillis) -> Result<(Self, Loaded), OpenError> {
        let table = Arc::new(Table::default());
        let (mut disk, secret) = Disk::open(data_dir, &table)?;
        let held = restart(&mut disk, &table, limits, now)
            .map_err(|error| OpenError::Folder { path: data_dir.into(), error: std::io::Error::other(error) })?;
        let loaded = Loaded { held, bindings: table.binding_count(), entries: table.entry_count(), secret };
        let (queue, jobs) = mpsc::channel(limits.queue.max(1));
        let commits = Arc::new(AtomicU64::new(0));
        let writer =
            Writer { jobs, disk, table: Arc::clone(&table), limits, sweeping: None, commits: Arc::clone(&commits) };
        let thread = std::thread::Builder::new().name("store".to_owned()).spawn(move || writer.run());
        let thread = thread.map_err(OpenError::Writer)?;
        let store = Self { table, queue: RwLock::new(Some(queue)), writer: Mutex::new(Some(thread)), commits };
        Ok((store, loaded))
    }

    /// The memory that answers reads.
    pub fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// See [`super::Store::submit`].
    ///
    /// # Errors
    /// `Busy` when the queue is full, `Broken` after [`Embedded::shutdown`].
    pub fn submit(&self, ticket: Ticket, change: Change, reply_to: &mpsc::Sender<Reply>) -> Result<(), StoreError> {
        self.queue(Job::Change { ticket, change: Box::new(change), reply_to: reply_to.clone() })
    }

    /// See [`super::Store::sweep`]. Without room in the queue the next one does its work.
    pub fn sweep(&self, now: UnixMillis) {
        if let Err(error) = self.queue(Job::Sweep(now)) {
            tracing::debug!(%error, "sweep left to the next one");
        }
    }

    /// Commits since the start; each of them made one or more changes durable.
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// See [`super::Store::shutdown`].
    pub fn shutdown(&self) {
        drop(self.queue.write().take());
        if let Some(writer) = self.writer.lock().take()
            && writer.join().is_err()
        {
            tracing::error!("the store's writer ended by a fault of ours");
        }
    }

    fn queue(&self, job: Job) -> Result<(), StoreError> {
        let queue = self.queue.read();
        let Some(queue) = &*queue else {
            return Err(StoreError::Broken("it is shut down".to_owned()));
        };
        queue.try_send(job).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => StoreError::Busy,
            mpsc::error::TrySendError::Closed(_) => StoreError::Broken("its writer ended".to_owned()),
        })
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.shutdown();
    }
}

/// What the rows of a process that died mean to this one.
fn restart(disk: &mut Disk, table: &Table, limits: Limits, now: UnixMillis) -> Result<Vec<HeldCall>, String> {
    let mut draft = Draft::new(table, limits);
    let held = draft.restart(now);
    disk.commit(&draft, table, limits)?;
    draft.publish();
    Ok(held)
}

/// The thread that owns the disk and alone writes the table.
struct Writer {
    jobs: mpsc::Receiver<Job>,
    disk: Disk,
    table: Arc<Table>,
    limits: Limits,
    /// A sweep that has more to end.
    sweeping: Option<UnixMillis>,
    commits: Arc<AtomicU64>,
}

impl Writer {
    fn run(mut self) {
        let mut jobs = Vec::with_capacity(COMMIT_CHANGES_MAX);
        loop {
            // While a sweep is under way there is work without a job to wait for.
            if self.sweeping.is_none() || !self.jobs.is_empty() {
                let count = self.jobs.blocking_recv_many(&mut jobs, COMMIT_CHANGES_MAX);
                if count == 0 {
                    break;
                }
            }
            self.write(&mut jobs);
            if !self.disk.is_well() {
                std::thread::sleep(RETRY_AFTER);
            }
        }
        self.disk.close();
    }

    /// Law: durable, then visible, then answered.
    fn write(&mut self, jobs: &mut Vec<Job>) {
        let mut draft = Draft::new(&self.table, self.limits);
        let mut answers = Vec::with_capacity(jobs.len());
        for job in jobs.drain(..) {
            match job {
                Job::Change { ticket, change, reply_to } => answers.push((ticket, draft.apply(*change), reply_to)),
                Job::Sweep(now) => self.sweeping = Some(now),
            }
        }
        self.sweeping = self.sweeping.filter(|now| draft.sweep(*now, SWEEP_STEP_MAX));
        match self.disk.commit(&draft, &self.table, self.limits) {
            Ok(()) => {
                self.commits.fetch_add(u64::from(!draft.touched().is_empty()), Ordering::Relaxed);
                draft.publish();
                for (ticket, applied, reply_to) in answers {
                    answer(&reply_to, ticket, Ok(applied));
                }
            }
            Err(error) => {
                tracing::warn!(error, changes = answers.len(), "the store cannot write");
                self.sweeping = None;
                for (ticket, _, reply_to) in answers {
                    answer(&reply_to, ticket, Err(StoreError::Broken(error.clone())));
                }
            }
        }
    }
}

/// Waits for room, which keeps replies in order. One whose asker is gone is for nobody.
fn answer(reply_to: &mpsc::Sender<Reply>, ticket: Ticket, result: Result<Applied, StoreError>) {
    if reply_to.blocking_send(Reply { ticket, result }).is_err() {
        tracing::trace!(?ticket, "nobody waits for this reply");
    }
}
