//! Durability: the embedded engine (fjall) in a folder of its own, one synced batch for each draft.
//!
//! ```text
//!   node.data_dir/
//!     lock         held by the process that uses the folder
//!     store/       the engine's files; there only once it is complete
//!     store.new/   one that is being created
//! ```

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::draft::{Draft, Key};
use super::table::{Held, Table};
use super::{Limits, schema};
use crate::binding::Binding;

/// A process that ends may hold its lock a moment longer than it does anything: so does one that it was starting just
/// then, between fork and exec.
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// Why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{path}: {error}; node.data_dir must name a folder that this user may read and write, or create")]
    Folder { path: PathBuf, error: io::Error },
    #[error("{path}: in use by another process; each process needs a node.data_dir of its own")]
    InUse { path: PathBuf },
    #[error(
        "{path}: has schema version {found}, this program reads version {known}; start the program version that \
         wrote it, or give this one another node.data_dir"
    )]
    Schema { path: PathBuf, found: String, known: u8 },
    #[error(
        "{path}: damaged: {what}; restore it from a backup, or move it away to start empty (phones come back as they \
         register)"
    )]
    Damaged { path: PathBuf, what: String },
    #[error("no random bytes from the operating system: {0}")]
    Random(getrandom::Error),
    #[error(
        "Redis: {0}; store.url must name one that takes writes (a node that was connected to it before starts without \
         it, too)"
    )]
    Redis(String),
    #[error("cannot start the store's writer: {0}")]
    Writer(io::Error),
}

/// The folder, held for this process, and the engine in it.
pub(super) struct Disk {
    folder: PathBuf,
    /// `None` after a failed commit, until it can be opened again.
    engine: Option<Engine>,
    /// Rows of the batch that failed. Whether the disk has it is not known until they are written again.
    doubtful: BTreeSet<Key>,
    /// Released last, when the engine is closed.
    _lock: File,
}

struct Engine {
    database: Database,
    bindings: Keyspace,
    entries: Keyspace,
    calls: Keyspace,
    messages: Keyspace,
    meta: Keyspace,
}

impl Disk {
    /// Opens or creates the store in `data_dir` and fills the empty `table`. The second value is the node's secret.
    pub(super) fn open(data_dir: &Path, table: &Table) -> Result<(Self, [u8; 32]), OpenError> {
        create_folder(data_dir).map_err(|error| OpenError::Folder { path: data_dir.into(), error })?;
        let lock = lock(data_dir)?;
        let folder = data_dir.join("store");
        let in_folder = |error| OpenError::Folder { path: folder.clone(), error };
        if !folder.try_exists().map_err(in_folder)? {
            create(data_dir, &folder)?;
        }
        let engine = Engine::open(&folder).map_err(|error| open_error(&folder, &error))?;
        let secret = engine.read_meta(&folder)?;
        engine.load(table).map_err(|what| OpenError::Damaged { path: folder.clone(), what })?;
        Ok((Self { folder, engine: Some(engine), doubtful: BTreeSet::new(), _lock: lock }, secret))
    }

    /// Makes the draft durable: on `Ok` it is on the disk, on `Err` it is not to be shown.
    ///
    /// The engine takes no batch after a failed one, so it is closed then and opened again for the next draft. What
    /// the failed batch would have changed is first written as the table has it: the batch may have reached the disk,
    /// and was refused.
    pub(super) fn commit(&mut self, draft: &Draft<'_>, table: &Table, limits: Limits) -> Result<(), String> {
        if draft.touched().is_empty() {
            return Ok(());
        }
        let engine = match self.engine.take() {
            Some(engine) => engine,
            None => self.reopen(table, limits)?,
        };
        match engine.write(draft) {
            Ok(()) => {
                self.engine = Some(engine);
                Ok(())
            }
            Err(error) => {
                self.doubtful = draft.touched().clone();
                Err(error)
            }
        }
    }

    /// Whether the last commit left the engine in use.
    pub(super) fn is_well(&self) -> bool {
        self.engine.is_some()
    }

    fn reopen(&mut self, table: &Table, limits: Limits) -> Result<Engine, String> {
        let engine = Engine::open(&self.folder).map_err(|error| text(&error))?;
        let mut draft = Draft::new(table, limits);
        draft.touch(self.doubtful.iter().cloned());
        engine.write(&draft)?;
        self.doubtful.clear();
        tracing::info!("the store can write again");
        Ok(engine)
    }

    /// Everything that the operating system has of it, metadata too, goes to the disk.
    pub(super) fn close(self) {
        if let Some(engine) = &self.engine
            && let Err(error) = engine.database.persist(PersistMode::SyncAll)
        {
            tracing::warn!(error = text(&error), "the store's last sync failed; every change was synced before it");
        }
    }
}

impl Engine {
    fn open(folder: &Path) -> fjall::Result<Self> {
        // Reads are answered by the table; the engine reads only at a start and for its own compaction.
        let database = Database::builder(folder).cache_size(8 << 20).worker_threads(2).open()?;
        let keyspace = |name| database.keyspace(name, KeyspaceCreateOptions::default);
        Ok(Self {
            bindings: keyspace("bindings")?,
            entries: keyspace("entries")?,
            calls: keyspace("calls")?,
            messages: keyspace("messages")?,
            meta: keyspace("meta")?,
            database,
        })
    }

    fn write(&self, draft: &Draft<'_>) -> Result<(), String> {
        // fdatasync suffices: it also makes durable the length of the file, which is all that reading back needs.
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncData));
        for key in draft.touched() {
            let keyspace = match key {
                Key::Binding(..) => &self.bindings,
                Key::Entry(..) => &self.entries,
                Key::Call(_) => &self.calls,
                Key::Messages(_) => &self.messages,
                // A node alone has nobody to tell.
                Key::Claim(_) | Key::Heir(_) => continue,
            };
            match draft.value(key) {
                Some(value) => {
                    let value = schema::value(&value).map_err(|error| error.to_string())?;
                    batch.insert(keyspace, schema::key(key), value);
                }
                None => batch.remove(keyspace, schema::key(key)),
            }
        }
        batch.commit().map_err(|error| text(&error))
    }

    /// Checks the schema version, then gives the secret.
    fn read_meta(&self, folder: &Path) -> Result<[u8; 32], OpenError> {
        let read = |key| self.meta.get(key).map_err(|error| open_error(folder, &error));
        let version = read("schema")?;
        if version.as_deref() != Some(&[schema::VERSION]) {
            let found = match version.as_deref() {
                Some([version]) => version.to_string(),
                Some(_) | None => "none".to_owned(),
            };
            return Err(OpenError::Schema { path: folder.into(), found, known: schema::VERSION });
        }
        let secret = read("secret")?;
        secret.and_then(|secret| <[u8; 32]>::try_from(&*secret).ok()).ok_or_else(|| OpenError::Damaged {
            path: folder.into(),
            what: "the node's secret is not there".to_owned(),
        })
    }

    fn load(&self, table: &Table) -> Result<(), String> {
        each(&self.bindings, "bindings", |_, value| {
            table.load_binding(schema::decode::<Binding>(value)?);
            Ok(())
        })?;
        each(&self.entries, "entries", |key, value| {
            let device = schema::device_of(key).ok_or("the key is too short")?;
            table.load_entry(device, schema::decode(value)?);
            Ok(())
        })?;
        each(&self.messages, "messages", |key, value| {
            let device = schema::device_of(key).ok_or("the key is too short")?;
            table.set_messages(device, schema::decode(value)?);
            Ok(())
        })?;
        each(&self.calls, "calls", |_, value| {
            let call: super::HeldCall = schema::decode(value)?;
            table.set_call(call.id, Some(Held { call: call.into(), owner: None, run: 0 }));
            Ok(())
        })
    }
}

/// Reads all rows of a keyspace. The error names the row.
fn each(
    keyspace: &Keyspace,
    name: &str,
    mut row: impl FnMut(&[u8], &[u8]) -> Result<(), String>,
) -> Result<(), String> {
    for pair in keyspace.iter() {
        let (key, value) = pair.into_inner().map_err(|error| text(&error))?;
        row(&key, &value).map_err(|what| format!("{name}, row {}: {what}", key.escape_ascii()))?;
    }
    Ok(())
}

/// A store half created is not a store: it gets its name when it is complete, so that a crash before that leaves
/// nothing which a later start would stumble over.
fn create(data_dir: &Path, folder: &Path) -> Result<(), OpenError> {
    let unfinished = data_dir.join("store.new");
    let in_folder = |error| OpenError::Folder { path: unfinished.clone(), error };
    match std::fs::remove_dir_all(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(in_folder(error)),
        _ => {}
    }
    create_folder(&unfinished).map_err(in_folder)?;
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(OpenError::Random)?;
    let fill = || {
        let engine = Engine::open(&unfinished)?;
        let mut batch = engine.database.batch().durability(Some(PersistMode::SyncAll));
        batch.insert(&engine.meta, "schema", [schema::VERSION]);
        batch.insert(&engine.meta, "secret", secret);
        batch.commit()
    };
    fill().map_err(|error| open_error(&unfinished, &error))?;
    std::fs::rename(&unfinished, folder).map_err(in_folder)?;
    File::open(data_dir).and_then(|folder| folder.sync_all()).map_err(in_folder)
}

/// Not for other users: it holds push tokens and who calls whom.
pub(super) fn create_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

pub(super) fn lock(data_dir: &Path) -> Result<File, OpenError> {
    let path = data_dir.join("lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|error| OpenError::Folder { path: path.clone(), error })?;
    for _ in 0..LOCK_TRIES {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
            Err(TryLockError::Error(error)) => return Err(OpenError::Folder { path, error }),
        }
    }
    Err(OpenError::InUse { path: data_dir.into() })
}

pub(super) fn open_error(folder: &Path, error: &fjall::Error) -> OpenError {
    let path = folder.to_path_buf();
    if let fjall::Error::Io(error) = error {
        return OpenError::Folder { path, error: io::Error::new(error.kind(), error.to_string()) };
    }
    if matches!(error, fjall::Error::Locked) {
        return OpenError::InUse { path };
    }
    OpenError::Damaged { path, what: text(error) }
}

pub(super) fn text(error: &fjall::Error) -> String {
    // The engine's own text of these is their Debug form.
    if let fjall::Error::Io(error) = error {
        return error.to_string();
    }
    if matches!(error, fjall::Error::Poisoned) {
        return "an earlier write failed".to_owned();
    }
    if matches!(error, fjall::Error::InvalidVersion(_)) {
        return "its format is not known".to_owned();
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::binding::Aor;
    use crate::clock::UnixMillis;
    use crate::sip::flow::{ConnectionId, Flow, Transport};
    use crate::store::{BucketEntry, Change, EntryState, HeldCall, HeldCallId};

    const LIMITS: Limits = Limits { entries_per_device: 1, entry_ttl: Duration::from_secs(1), queue: 1 };

    fn hold(id: u128) -> Change {
        let call = HeldCall {
            id: HeldCallId(id),
            call_ref: "call".into(),
            aor: Aor::new("alice", "example.org"),
            invite: bytes::Bytes::new(),
            flow: Flow {
                transport: Transport::Udp,
                listener: 0,
                connection: ConnectionId::NONE,
                remote: ([192, 0, 2, 1], 5060).into(),
            },
            to_tag: "tag".into(),
            held_at: UnixMillis(0),
            until: UnixMillis(0),
            devices: vec![],
        };
        let entry = BucketEntry {
            call_ref: "call".into(),
            remote_uri: "2001".into(),
            display_name: "".into(),
            anonymous: false,
            invited_at: UnixMillis(0),
            state: EntryState::Live,
        };
        Change::Hold { call, entry }
    }

    #[test]
    fn a_batch_that_failed_after_it_reached_the_disk_is_undone() {
        let folder = tempfile::tempdir().unwrap();
        let table = Table::default();
        let (mut disk, _) = Disk::open(folder.path(), &table).unwrap();

        let mut refused = Draft::new(&table, LIMITS);
        refused.apply(hold(1));
        disk.engine.take().unwrap().write(&refused).unwrap();
        disk.doubtful = refused.touched().clone();

        let mut accepted = Draft::new(&table, LIMITS);
        accepted.apply(hold(2));
        disk.commit(&accepted, &table, LIMITS).unwrap();
        disk.close();

        let table = Table::default();
        let (_disk, _) = Disk::open(folder.path(), &table).unwrap();
        assert_eq!(table.calls().iter().map(|call| call.id).collect::<Vec<_>>(), [HeldCallId(2)]);
    }
}
