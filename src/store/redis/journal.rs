//! The journal: changes acknowledged while Redis is away, on this machine's disk until Redis has them.
//!
//! ```text
//!   node.data_dir/
//!     lock         held by the process that uses the folder
//!     journal/     the embedded engine's files, with torn ends and checksums as its business
//! ```
//!
//! | keyspace  | key                                    | value                                        |
//! |-----------|----------------------------------------|----------------------------------------------|
//! | `changes` | generation and number, 8 bytes each    | version byte, time of the change, the change |
//! | `meta`    | `schema`                               | version byte                                 |
//! | `meta`    | `epoch`                                | 8 random bytes                               |
//! | `meta`    | `generation`                           | 8 bytes: starts on this journal              |
//! | `meta`    | `secret`                               | 32 bytes: what all nodes of the Redis share   |
//!
//! A record that Redis has is removed without a sync: one that comes back after a crash is known by its [`Position`].

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::super::change::Change;
use super::super::disk::{create_folder, lock, open_error, text};
use super::super::{OpenError, schema};
use super::record::Position;
use crate::clock::UnixMillis;

/// What the records may take on the disk, by their own size. Over it changes are refused as busy.
pub(super) const JOURNAL_BYTES_MAX: u64 = 1 << 30;

/// A change with what it needs to be done later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Late {
    pub(in super::super) position: Position,
    pub(in super::super) made_at: UnixMillis,
    pub(in super::super) change: Change,
}

/// Why records were not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) enum JournalError {
    Full,
    Disk(String),
}

pub(super) struct Journal {
    folder: PathBuf,
    /// `None` after a failed commit, until it can be opened again.
    engine: Option<Engine>,
    /// Records that a failed commit may have left on the disk though they were refused.
    doubtful: Vec<Position>,
    epoch: u64,
    sizes: BTreeMap<Position, u64>,
    bytes: u64,
    bytes_max: u64,
    /// Released last, when the engine is closed.
    _lock: File,
}

struct Engine {
    database: Database,
    changes: Keyspace,
    meta: Keyspace,
}

/// What is in the journal at a start.
pub(super) struct Found {
    /// In their order.
    pub(super) changes: Vec<Late>,
    /// Before the first change of this start.
    pub(super) position: Position,
    /// `None`: never been connected to a Redis.
    pub(super) secret: Option<[u8; 32]>,
}

impl Journal {
    /// Opens or creates the journal in `data_dir`.
    ///
    /// # Errors
    /// Each names the path, what is wrong with it and what would be right.
    pub(super) fn open(data_dir: &Path, bytes_max: u64) -> Result<(Self, Found), OpenError> {
        create_folder(data_dir).map_err(|error| OpenError::Folder { path: data_dir.into(), error })?;
        let lock = lock(data_dir)?;
        let folder = data_dir.join("journal");
        let in_folder = |error| OpenError::Folder { path: folder.clone(), error };
        if !folder.try_exists().map_err(in_folder)? {
            create(data_dir, &folder)?;
        }
        let engine = Engine::open(&folder).map_err(|error| open_error(&folder, &error))?;
        let (epoch, generation, secret) = engine.start(&folder)?;
        let mut journal = Self {
            folder,
            engine: None,
            doubtful: Vec::new(),
            epoch,
            sizes: BTreeMap::new(),
            bytes: 0,
            bytes_max,
            _lock: lock,
        };
        let changes =
            journal.read(&engine).map_err(|what| OpenError::Damaged { path: journal.folder.clone(), what })?;
        journal.engine = Some(engine);
        let position = Position { epoch, generation, number: 0 };
        Ok((journal, Found { changes, position, secret }))
    }

    /// Keeps the secret of the Redis for starts without it.
    pub(super) fn keep_secret(&mut self, secret: &[u8; 32]) -> Result<(), String> {
        let engine = self.engine()?;
        let mut batch = engine.database.batch().durability(Some(PersistMode::SyncAll));
        batch.insert(&engine.meta, "secret", *secret);
        batch.commit().map_err(|error| text(&error))
    }

    /// Makes changes durable, all or none, and drops records that Redis has.
    pub(super) fn commit(&mut self, changes: &[Late], done: &[Position]) -> Result<(), JournalError> {
        let mut rows = Vec::with_capacity(changes.len());
        for Late { position, made_at, change } in changes {
            let value = schema::encode(&(made_at, change)).map_err(|error| JournalError::Disk(error.to_string()))?;
            rows.push((*position, value));
        }
        let added: u64 = rows.iter().map(|(_, value)| size(value.len())).sum();
        if !rows.is_empty() && self.bytes.saturating_add(added) > self.bytes_max {
            return Err(JournalError::Full);
        }
        self.write(&rows, done).map_err(JournalError::Disk)?;
        for position in done {
            self.bytes = self.bytes.saturating_sub(self.sizes.remove(position).unwrap_or_default());
        }
        for (position, value) in rows {
            self.bytes = self.bytes.saturating_add(size(value.len()));
            self.sizes.insert(position, size(value.len()));
        }
        Ok(())
    }

    /// Records that Redis does not have yet.
    pub(super) fn len(&self) -> usize {
        self.sizes.len()
    }

    /// Everything that the operating system has of it goes to the disk.
    pub(super) fn close(self) {
        if let Some(engine) = &self.engine
            && let Err(error) = engine.database.persist(PersistMode::SyncAll)
        {
            tracing::warn!(error = text(&error), "the journal's last sync failed; every record was synced before it");
        }
    }

    fn write(&mut self, rows: &[(Position, Vec<u8>)], done: &[Position]) -> Result<(), String> {
        let doubtful = std::mem::take(&mut self.doubtful);
        let engine = match self.engine() {
            Ok(engine) => engine,
            Err(error) => {
                self.doubtful = doubtful;
                return Err(error);
            }
        };
        // Only what is to survive is worth a sync.
        let is_kept = rows.is_empty() && doubtful.is_empty();
        let durability = if is_kept { PersistMode::Buffer } else { PersistMode::SyncData };
        let mut batch = engine.database.batch().durability(Some(durability));
        for position in doubtful.iter().chain(done) {
            batch.remove(&engine.changes, key(position));
        }
        for (position, value) in rows {
            batch.insert(&engine.changes, key(position), value.as_slice());
        }
        if let Err(error) = batch.commit() {
            self.engine = None;
            self.doubtful = doubtful.into_iter().chain(rows.iter().map(|(position, _)| *position)).collect();
            return Err(text(&error));
        }
        Ok(())
    }

    /// The engine takes nothing after a failed commit, so it is opened again.
    fn engine(&mut self) -> Result<&Engine, String> {
        let engine = match self.engine.take() {
            Some(engine) => engine,
            None => Engine::open(&self.folder).map_err(|error| text(&error))?,
        };
        Ok(self.engine.insert(engine))
    }

    fn read(&mut self, engine: &Engine) -> Result<Vec<Late>, String> {
        let mut changes = Vec::new();
        for pair in engine.changes.iter() {
            let (key, value) = pair.into_inner().map_err(|error| text(&error))?;
            let wrong = |what: String| format!("changes, row {}: {what}", key.escape_ascii());
            let position = position(self.epoch, &key).ok_or_else(|| wrong("is not a position".to_owned()))?;
            let (made_at, change) = schema::decode(&value).map_err(wrong)?;
            self.sizes.insert(position, size(value.len()));
            self.bytes = self.bytes.saturating_add(size(value.len()));
            changes.push(Late { position, made_at, change });
        }
        Ok(changes)
    }
}

impl Engine {
    fn open(folder: &Path) -> fjall::Result<Self> {
        let database = Database::builder(folder).cache_size(8 << 20).worker_threads(1).open()?;
        let keyspace = |name| database.keyspace(name, KeyspaceCreateOptions::default);
        Ok(Self { changes: keyspace("changes")?, meta: keyspace("meta")?, database })
    }

    /// Begins a generation: its number must be durable before anything bears it. Gives epoch, generation and secret.
    fn start(&self, folder: &Path) -> Result<(u64, u64, Option<[u8; 32]>), OpenError> {
        let read = |key| self.meta.get(key).map_err(|error| open_error(folder, &error));
        let damaged = |what: &str| OpenError::Damaged { path: folder.into(), what: what.to_owned() };
        let version = read("schema")?;
        if version.as_deref() != Some(&[schema::VERSION]) {
            let found = version.as_deref().and_then(<[u8]>::first).map_or_else(|| "none".to_owned(), u8::to_string);
            return Err(OpenError::Schema { path: folder.into(), found, known: schema::VERSION });
        }
        let number = |key| -> Result<u64, OpenError> {
            let value = read(key)?.and_then(|value| <[u8; 8]>::try_from(&*value).ok());
            value.map(u64::from_be_bytes).ok_or_else(|| damaged(&format!("its {key} is not there")))
        };
        let (epoch, generation) = (number("epoch")?, number("generation")?.saturating_add(1));
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
        batch.insert(&self.meta, "generation", generation.to_be_bytes());
        batch.commit().map_err(|error| open_error(folder, &error))?;
        let secret = match read("secret")? {
            Some(secret) => Some(secret.as_ref().try_into().map_err(|_| damaged("its secret is not 32 bytes long"))?),
            None => None,
        };
        Ok((epoch, generation, secret))
    }
}

/// A journal gets its name when it is complete, so that a crash before that leaves nothing to stumble over.
fn create(data_dir: &Path, folder: &Path) -> Result<(), OpenError> {
    let unfinished = data_dir.join("journal.new");
    let in_folder = |error| OpenError::Folder { path: unfinished.clone(), error };
    match std::fs::remove_dir_all(&unfinished) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(in_folder(error)),
        _ => {}
    }
    create_folder(&unfinished).map_err(in_folder)?;
    let epoch = getrandom::u64().map_err(OpenError::Random)?;
    let fill = || {
        let engine = Engine::open(&unfinished)?;
        let mut batch = engine.database.batch().durability(Some(PersistMode::SyncAll));
        batch.insert(&engine.meta, "schema", [schema::VERSION]);
        batch.insert(&engine.meta, "epoch", epoch.to_be_bytes());
        batch.insert(&engine.meta, "generation", 0_u64.to_be_bytes());
        batch.commit()
    };
    fill().map_err(|error| open_error(&unfinished, &error))?;
    std::fs::rename(&unfinished, folder).map_err(in_folder)?;
    File::open(data_dir).and_then(|folder| folder.sync_all()).map_err(in_folder)
}

fn key(position: &Position) -> Vec<u8> {
    [position.generation.to_be_bytes(), position.number.to_be_bytes()].concat()
}

fn position(epoch: u64, key: &[u8]) -> Option<Position> {
    let (generation, number) = key.split_at_checked(8)?;
    let whole = |bytes: &[u8]| bytes.try_into().ok().map(u64::from_be_bytes);
    Some(Position { epoch, generation: whole(generation)?, number: whole(number)? })
}

fn size(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX).saturating_add(64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binding::{Aor, DeviceId};

    fn late(position: Position) -> Late {
        let change = Change::Remove { aor: Aor::new("alice", "example.org"), device: DeviceId([1; 10]) };
        Late { position, made_at: UnixMillis(5), change }
    }

    fn next(position: &mut Position) -> Late {
        position.number += 1;
        late(*position)
    }

    #[test]
    fn records_come_back_in_order_and_under_a_later_generation() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, found) = Journal::open(folder.path(), 1 << 20).unwrap();
        assert_eq!((found.changes, found.secret), (vec![], None));
        let mut position = found.position;
        let first = [next(&mut position), next(&mut position)];
        journal.commit(&first, &[]).unwrap();
        journal.keep_secret(&[7; 32]).unwrap();
        drop(journal);

        let (mut journal, found) = Journal::open(folder.path(), 1 << 20).unwrap();
        assert_eq!((&found.changes[..], found.secret), (&first[..], Some([7; 32])));
        assert!(found.position > first[1].position && found.position.epoch == first[1].position.epoch);
        let mut position = found.position;
        let second = next(&mut position);
        journal.commit(std::slice::from_ref(&second), &[first[0].position]).unwrap();
        assert_eq!(journal.len(), 2);
        drop(journal);

        let (_journal, found) = Journal::open(folder.path(), 1 << 20).unwrap();
        assert_eq!(found.changes, [first[1].clone(), second]);
    }

    #[test]
    fn a_full_journal_refuses_until_records_go() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, found) = Journal::open(folder.path(), 1000).unwrap();
        let mut position = found.position;
        let mut kept = Vec::new();
        let refused = loop {
            let late = next(&mut position);
            match journal.commit(std::slice::from_ref(&late), &[]) {
                Ok(()) => kept.push(late.position),
                Err(error) => break error,
            }
        };
        assert_eq!(refused, JournalError::Full);
        assert!((5..15).contains(&kept.len()), "{}", kept.len());
        journal.commit(&[], &kept).unwrap();
        assert_eq!(journal.len(), 0);
        journal.commit(&[next(&mut position)], &[]).unwrap();
    }

    #[test]
    fn a_torn_end_is_no_record() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, found) = Journal::open(folder.path(), 1 << 20).unwrap();
        let mut position = found.position;
        let whole = next(&mut position);
        journal.commit(std::slice::from_ref(&whole), &[]).unwrap();
        let file = std::fs::read_dir(folder.path().join("journal")).unwrap().map(|entry| entry.unwrap().path());
        let file = file.filter(|path| path.extension().is_some_and(|kind| kind == "jnl")).max().unwrap();
        let length = |file: &Path| std::fs::read(file).unwrap().iter().rposition(|byte| *byte != 0).unwrap();
        let before = length(&file);
        journal.commit(&[next(&mut position)], &[]).unwrap();
        let after = length(&file);
        drop(journal);
        let cut = u64::try_from(before + (after - before) / 2).unwrap();
        File::options().write(true).open(&file).unwrap().set_len(cut).unwrap();
        let (_journal, found) = Journal::open(folder.path(), 1 << 20).unwrap();
        assert_eq!(found.changes, [whole]);
    }

    #[test]
    fn a_damaged_record_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let (journal, _) = Journal::open(folder.path(), 1 << 20).unwrap();
        let engine = journal.engine.as_ref().unwrap();
        engine.changes.insert([0; 16], [schema::VERSION, 0xff]).unwrap();
        journal.close();
        let Err(refusal) = Journal::open(folder.path(), 1 << 20) else { panic!("it opens") };
        assert!(refusal.to_string().contains("changes, row"), "{refusal}");
    }
}
