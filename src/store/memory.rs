//! A store that forgets: the same changes with the same meaning, for the simulation of the core and its benches.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::Limits;
use super::change::{Applied, Change, HeldCall, Reply, StoreError, Ticket};
use super::draft::Draft;
use super::table::Table;
use crate::clock::UnixMillis;

/// Applies each change at once. Delays and failures are its user's to add.
#[derive(Debug)]
pub struct Memory {
    table: Arc<Table>,
    limits: Limits,
    /// One change at a time: the table has one writer.
    turn: Mutex<()>,
}

impl Memory {
    /// An empty store.
    pub fn new(limits: Limits) -> Self {
        Self { table: Arc::default(), limits, turn: Mutex::new(()) }
    }

    /// The memory that answers reads.
    pub fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// Applies a change; the table shows it on return.
    pub fn apply(&self, change: Change) -> Applied {
        self.write(|draft| draft.apply(change))
    }

    /// See [`super::Store::sweep`].
    pub fn sweep(&self, now: UnixMillis) {
        self.write(|draft| draft.sweep(now, usize::MAX));
    }

    /// What a crash and a start make of the rows that were durable: see [`super::Loaded`]. The held calls that died.
    pub fn restart(&self, now: UnixMillis) -> Vec<HeldCall> {
        self.write(|draft| draft.restart(now))
    }

    /// See [`super::Store::submit`]. The reply is sent before this returns.
    ///
    /// # Errors
    /// `Busy` when `reply_to` has no room, `Broken` when nobody listens to it.
    pub fn submit(&self, ticket: Ticket, change: Change, reply_to: &mpsc::Sender<Reply>) -> Result<(), StoreError> {
        let permit = reply_to.try_reserve().map_err(|error| match error {
            mpsc::error::TrySendError::Full(()) => StoreError::Busy,
            mpsc::error::TrySendError::Closed(()) => StoreError::Broken("nobody waits for the reply".to_owned()),
        })?;
        permit.send(Reply { ticket, result: Ok(self.apply(change)) });
        Ok(())
    }

    fn write<T>(&self, change: impl FnOnce(&mut Draft<'_>) -> T) -> T {
        let _turn = self.turn.lock();
        let mut draft = Draft::new(&self.table, self.limits);
        let result = change(&mut draft);
        draft.publish();
        result
    }
}
