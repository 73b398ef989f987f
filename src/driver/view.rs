//! The contact table as a worker's proxy sees it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use super::board::Board;
use super::shared::Shared;
use crate::binding::{Aor, Binding, DeviceId};
use crate::clock::UnixMillis;
use crate::proxy::Contacts;
use crate::sip::{Flow, Transport, Uri};
use crate::store::{EntryState, Table};
use crate::timeline::Why;

/// A node is known by its signs of life not later than this after it first accepted a REGISTER: some seconds, and what
/// two clocks may differ.
const NEW_NODE: Duration = Duration::from_secs(10);

/// The contact table as a worker's proxy sees it.
pub(super) struct View<'a> {
    pub(super) shared: &'a Shared,
    pub(super) worker: usize,
    pub(super) now: UnixMillis,
}

impl View<'_> {
    fn table(&self) -> &Table {
        self.shared.store.table()
    }

    fn board(&self) -> Option<&Board> {
        // One worker alone hears of all wakes directly.
        self.shared.boards.get(self.worker).filter(|_| self.shared.boards.len() > 1 || self.shared.store.is_shared())
    }
}

impl Contacts for View<'_> {
    fn of_aor(&self, aor: &Aor) -> Vec<Arc<Binding>> {
        self.table().lookup(aor).into_iter().filter(|binding| !binding.is_over(self.now)).collect()
    }

    fn aors_of_user(&self, user: &str) -> SmallVec<[Aor; 1]> {
        self.table().aors_of_user(user)
    }

    fn of_device(&self, device: DeviceId) -> Option<Arc<Binding>> {
        self.table().by_device(device).filter(|binding| !binding.is_over(self.now))
    }

    fn on_flow(&self, transport: Transport, remote: SocketAddr) -> Option<DeviceId> {
        self.table().device_on(transport, remote, self.now)
    }

    fn holds_flow(&self, binding: &Binding) -> bool {
        self.table().holds_flow(binding)
    }

    fn has_left(&self, device: DeviceId, contact: &Uri<'_>) -> bool {
        self.table().has_left(device, contact, self.now)
    }

    fn has_home(&self, binding: &Binding) -> bool {
        let Some(home) = binding.home else { return true };
        // A node that has just come may be known by its bindings before it is known by itself.
        let is_new = || self.now.since(binding.registered_at) < NEW_NODE;
        self.shared.store.knows_node(home).unwrap_or_else(is_new)
    }

    fn is_open(&self, flow: Flow) -> bool {
        !flow.transport.is_reliable() || self.shared.connections.is_open(flow.connection)
    }

    fn is_node(&self, peer: IpAddr) -> bool {
        self.shared.door.guard.is_node(peer)
    }

    fn is_registering(&self, device: DeviceId) -> bool {
        self.shared.registering.contains_key(&device)
    }

    fn has_too_many_aors(&self, binding: &Binding, most: usize) -> bool {
        self.table().has_too_many_aors(binding, most)
    }

    fn fits(&self, binding: &Binding) -> Result<(), Why> {
        self.shared.bars.read().check(binding)
    }

    fn has_missed(&self, device: DeviceId) -> bool {
        self.table().entries(&device).iter().any(|entry| entry.state == EntryState::Missed)
    }

    fn is_loaded(&self) -> bool {
        self.shared.store.is_loaded()
    }

    fn watch(&self, aor: &Aor) {
        if let Some(board) = self.board() {
            board.watch(aor);
        }
    }

    fn unwatch(&self, aor: &Aor) {
        if let Some(board) = self.board() {
            board.unwatch(aor);
        }
    }
}
