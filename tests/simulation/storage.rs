//! The memory store behind delays and failures, and the contact table as the core reads it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sip_push_proxy::binding::{Aor, Binding, DeviceId};
use sip_push_proxy::clock::UnixMillis;
use sip_push_proxy::proxy::Contacts;
use sip_push_proxy::proxy::bars::Bars;
use sip_push_proxy::sip::{Flow, Transport, Uri};
use sip_push_proxy::store::{Change, EntryState, HeldCall, Limits, Memory, Reply, StoreError, Table, Ticket};
use sip_push_proxy::timeline::Why;
use smallvec::SmallVec;

use crate::random::Random;

/// The store of one run.
#[derive(Debug)]
pub(crate) struct Storage {
    memory: Memory,
    /// How long a change takes.
    pub(crate) delay: Duration,
    /// Chance of a refused change, per thousand.
    pub(crate) failures: usize,
    /// Which changes fail, whatever the chance.
    pub(crate) refuses: fn(&Change) -> bool,
    /// Nothing is in memory yet: it has to be fetched first.
    pub(crate) is_cold: bool,
    /// And there is nowhere to fetch it from.
    pub(crate) is_away: bool,
    /// What pushes have shown of devices.
    pub(crate) bars: Bars,
    /// Connections up to this number went with an earlier process.
    pub(crate) gone_connections: u64,
    /// Those of which the proxy has heard that they have ended.
    pub(crate) closed: BTreeSet<u64>,
    pub(crate) watched: RefCell<BTreeMap<Aor, usize>>,
    /// Changes are applied in the order of their submission.
    last: Option<Instant>,
}

impl Storage {
    pub(crate) fn new() -> Self {
        let limits = Limits { entries_per_device: 50, entry_ttl: Duration::from_secs(604_800), queue: 10_000 };
        Self {
            memory: Memory::new(limits),
            delay: Duration::from_millis(2),
            failures: 0,
            refuses: |_| false,
            is_cold: false,
            is_away: false,
            bars: Bars::default(),
            gone_connections: 0,
            closed: BTreeSet::new(),
            watched: RefCell::default(),
            last: None,
        }
    }

    pub(crate) fn table(&self) -> &Arc<Table> {
        self.memory.table()
    }

    /// When a change submitted at `now` is durable.
    pub(crate) fn due(&mut self, now: Instant, random: &mut Random) -> Instant {
        let jitter = Duration::from_millis(random.below(2) as u64);
        let due = self.last.map_or(now, |last| last.max(now)).max(now + self.delay + jitter);
        self.last = Some(due);
        due
    }

    pub(crate) fn apply(&self, ticket: Ticket, change: Change, random: &mut Random) -> Reply {
        if (self.refuses)(&change) || random.below(1000) < self.failures {
            return Reply { ticket, result: Err(StoreError::Broken("disk full".to_owned())) };
        }
        Reply { ticket, result: Ok(self.memory.apply(change)) }
    }

    /// Whether this very call is still held.
    pub(crate) fn is_held(&self, call: &HeldCall) -> bool {
        self.table().calls().iter().any(|held| held.id == call.id && held.held_at == call.held_at)
    }

    /// What a new process finds: the held calls of the one before it.
    pub(crate) fn restart(&self, now: UnixMillis) -> Vec<HeldCall> {
        self.memory.restart(now)
    }

    pub(crate) fn bindings(&self) -> Vec<Arc<Binding>> {
        self.table().page(None, "", usize::MAX)
    }
}

/// The view of the core at one moment.
pub(crate) struct View<'a> {
    pub(crate) storage: &'a Storage,
    pub(crate) now: UnixMillis,
}

impl Contacts for View<'_> {
    fn of_aor(&self, aor: &Aor) -> Vec<Arc<Binding>> {
        let bindings = self.storage.table().lookup(aor).into_iter();
        bindings.filter(|binding| !self.storage.is_cold && !binding.is_over(self.now)).collect()
    }

    fn aors_of_user(&self, user: &str) -> SmallVec<[Aor; 1]> {
        self.storage.table().aors_of_user(user)
    }

    fn of_device(&self, device: DeviceId) -> Option<Arc<Binding>> {
        let binding = self.storage.table().by_device(device);
        binding.filter(|binding| !self.storage.is_cold && !binding.is_over(self.now))
    }

    fn on_flow(&self, transport: Transport, remote: SocketAddr) -> Option<DeviceId> {
        self.storage.table().device_on(transport, remote, self.now)
    }

    fn holds_flow(&self, binding: &Binding) -> bool {
        self.storage.table().holds_flow(binding)
    }

    fn has_left(&self, device: DeviceId, contact: &Uri<'_>) -> bool {
        self.storage.table().has_left(device, contact, self.now)
    }

    fn is_open(&self, flow: Flow) -> bool {
        let connection = flow.connection.0;
        let is_gone = connection <= self.storage.gone_connections || self.storage.closed.contains(&connection);
        !flow.transport.is_reliable() || !is_gone
    }

    fn has_too_many_aors(&self, binding: &Binding, most: usize) -> bool {
        self.storage.table().has_too_many_aors(binding, most)
    }

    fn fits(&self, binding: &Binding) -> Result<(), Why> {
        self.storage.bars.check(binding)
    }

    fn has_missed(&self, device: DeviceId) -> bool {
        self.storage.table().entries(&device).iter().any(|entry| entry.state == EntryState::Missed)
    }

    fn is_loaded(&self) -> bool {
        !self.storage.is_cold
    }

    fn watch(&self, aor: &Aor) {
        *self.storage.watched.borrow_mut().entry(aor.clone()).or_default() += 1;
    }

    fn unwatch(&self, aor: &Aor) {
        let mut watched = self.storage.watched.borrow_mut();
        let count = watched.get_mut(aor).expect("unwatch follows watch");
        *count -= 1;
        if *count == 0 {
            watched.remove(aor);
        }
    }
}
