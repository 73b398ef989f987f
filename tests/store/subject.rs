//! A store of each kind, asked in the same words.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sip_push_proxy::clock::UnixMillis;
use sip_push_proxy::store::{
    Applied, Change, Embedded, HeldCall, Limits, Loaded, Memory, RedisSettings, RedisStore, Reply, Store, StoreError,
    Table, Ticket,
};
use tokio::sync::mpsc;

use crate::rows::*;
use crate::server::{Server, wait_for};

const DEADLINE: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Memory,
    Embedded,
    Redis,
}

/// Has each of these functions run as a test of each of these kinds.
macro_rules! on_each {
    ($($kind:ident as $module:ident),+: $tests:tt) => {
        $(on_each!(@module $kind, $module, $tests);)+
    };
    (@module $kind:ident, $module:ident, [$($test:ident),+ $(,)?]) => {
        mod $module {
            $(#[test]
            fn $test() {
                super::$test($crate::subject::Kind::$kind);
            })+
        }
    };
}
pub(crate) use on_each;

/// One who asks a store and waits for the answers.
pub(crate) struct Asker {
    pub(crate) store: Arc<Store>,
    pub(crate) loaded: Loaded,
    runtime: tokio::runtime::Runtime,
    reply_to: mpsc::Sender<Reply>,
    replies: mpsc::Receiver<Reply>,
    next: u64,
}

impl Asker {
    pub(crate) fn new(store: Store, loaded: Loaded, replies: usize) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let (reply_to, replies) = mpsc::channel(replies);
        Self { store: Arc::new(store), loaded, runtime, reply_to, replies, next: 0 }
    }

    /// A node on a Redis.
    pub(crate) fn node(settings: &RedisSettings, folder: &Path) -> Self {
        Self::node_with(settings, folder, LIMITS, 10_000)
    }

    pub(crate) fn node_with(settings: &RedisSettings, folder: &Path, limits: Limits, replies: usize) -> Self {
        let (store, loaded) = RedisStore::open(settings, folder, limits).unwrap();
        Self::new(Store::Redis(store), loaded, replies)
    }

    pub(crate) fn table(&self) -> &Arc<Table> {
        self.store.table()
    }

    pub(crate) fn redis(&self) -> &RedisStore {
        let Store::Redis(store) = &*self.store else { panic!("{:?}", self.store) };
        store
    }

    pub(crate) fn submit(&mut self, change: Change) -> Result<Ticket, StoreError> {
        let ticket = Ticket(self.next);
        self.store.submit(ticket, change, &self.reply_to)?;
        self.next += 1;
        Ok(ticket)
    }

    pub(crate) fn reply(&mut self) -> Reply {
        let Self { runtime, replies, .. } = self;
        runtime.block_on(async { tokio::time::timeout(DEADLINE, replies.recv()).await }).unwrap().unwrap()
    }

    pub(crate) fn apply(&mut self, change: Change) -> Result<Applied, StoreError> {
        let ticket = self.submit(change)?;
        let reply = self.reply();
        assert_eq!(reply.ticket, ticket);
        reply.result
    }

    pub(crate) fn block_on<T>(&mut self, what: impl Future<Output = T>) -> T {
        self.runtime.block_on(what)
    }
}

/// A store and where it lives.
pub(crate) struct Subject {
    kind: Kind,
    asker: Option<Asker>,
    folder: tempfile::TempDir,
    server: Option<Server>,
    limits: Limits,
    replies: usize,
}

impl Subject {
    pub(crate) fn open(kind: Kind) -> Self {
        Self::with(kind, LIMITS, 10_000)
    }

    pub(crate) fn with(kind: Kind, limits: Limits, replies: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = (kind == Kind::Redis).then(Server::start);
        let mut subject = Self { kind, asker: None, folder, server, limits, replies };
        subject.reopen(NOW);
        subject
    }

    fn reopen(&mut self, now: UnixMillis) {
        drop(self.asker.take());
        let folder = self.folder.path();
        let asker = match &self.server {
            None if self.kind == Kind::Memory => {
                let loaded = Loaded { held: vec![], bindings: 0, entries: 0, secret: [0; 32] };
                Asker::new(Store::Memory(Memory::new(self.limits)), loaded, self.replies)
            }
            None => {
                let (store, loaded) = Embedded::open(folder, self.limits, now).unwrap();
                Asker::new(Store::Embedded(store), loaded, self.replies)
            }
            Some(server) => {
                let asker = Asker::node_with(&settings(server, "node-1"), folder, self.limits, self.replies);
                wait_for("all of Redis is in memory", || asker.redis().is_loaded());
                asker
            }
        };
        self.asker = Some(asker);
    }

    /// Ends the process, as it were, and starts it again.
    pub(crate) fn restart(&mut self, now: UnixMillis) -> Vec<HeldCall> {
        if let Some(Store::Memory(memory)) = self.asker.as_ref().map(|asker| &*asker.store) {
            return memory.restart(now);
        }
        self.reopen(now);
        std::mem::take(&mut self.asker.as_mut().unwrap().loaded.held)
    }

    /// Sweeps, and waits until it has been done.
    pub(crate) fn sweep(&mut self, now: UnixMillis) {
        self.store.sweep(now);
        // What time has ended is ended before a change that comes later, but only where that is about the same AOR.
        if self.kind != Kind::Memory {
            self.apply(unregister(1, 998, None)).unwrap();
        }
    }
}

impl std::ops::Deref for Subject {
    type Target = Asker;

    fn deref(&self) -> &Asker {
        self.asker.as_ref().unwrap()
    }
}

impl std::ops::DerefMut for Subject {
    fn deref_mut(&mut self) -> &mut Asker {
        self.asker.as_mut().unwrap()
    }
}

pub(crate) fn settings(server: &Server, node: &str) -> RedisSettings {
    RedisSettings {
        url: server.url(),
        timeout: Duration::from_millis(500),
        node: node.to_owned(),
        lease: Duration::from_secs(10),
        home: None,
    }
}
