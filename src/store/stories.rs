//! What happened to calls, on the disk of a node that has no Redis. Not synced: what a crash of the machine takes is the
//! last seconds of what operators see, and nothing else.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use fjall::{Database, Keyspace, KeyspaceCreateOptions};

use super::disk::text;
use crate::clock::UnixMillis;
use crate::timeline::Call;

/// Stories of calls on the disk; see the module's text.
pub struct DiskStories {
    database: Database,
    calls: Keyspace,
}

impl fmt::Debug for DiskStories {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskStories").finish_non_exhaustive()
    }
}

impl DiskStories {
    /// Opens or creates them in `data_dir`, which nobody else has open.
    ///
    /// # Errors
    /// What the disk says.
    pub fn open(data_dir: &Path) -> Result<Self, String> {
        let open = || {
            let database = Database::builder(data_dir.join("stories")).cache_size(1 << 20).worker_threads(1).open()?;
            let calls = database.keyspace("calls", KeyspaceCreateOptions::default)?;
            Ok(Self { database, calls })
        };
        open().map_err(|error| text(&error))
    }

    /// Reads up to `limit` calls of which something was heard since `since`, oldest first, and forgets the others.
    ///
    /// # Errors
    /// What the disk says.
    pub fn load(&self, since: UnixMillis, limit: usize) -> Result<Vec<Call>, String> {
        let (mut calls, mut gone) = (Vec::new(), Vec::new());
        for row in self.calls.iter() {
            let (key, value) = row.into_inner().map_err(|error| text(&error))?;
            let call = Call::from_bytes(&value, None);
            match call.filter(|call| call.events.last().is_some_and(|event| event.at >= since)) {
                Some(call) => calls.push(call),
                None => gone.push((key.to_vec(), None)),
            }
        }
        calls.sort_by_key(|call| call.events.first().map(|event| event.at));
        let too_many = calls.len().saturating_sub(limit);
        gone.extend(calls.drain(..too_many).map(|call| (call.call_ref.as_bytes().to_vec(), None)));
        self.write(gone)?;
        Ok(calls)
    }

    /// Writes each call under its call_ref, or forgets it.
    ///
    /// # Errors
    /// What the disk says.
    pub fn write(&self, calls: impl IntoIterator<Item = (Vec<u8>, Option<Arc<Call>>)>) -> Result<(), String> {
        let mut batch = self.database.batch();
        for (call_ref, call) in calls {
            match call {
                Some(call) => batch.insert(&self.calls, call_ref, call.to_bytes()),
                None => batch.remove(&self.calls, call_ref),
            }
        }
        batch.commit().map_err(|error| text(&error))
    }
}
