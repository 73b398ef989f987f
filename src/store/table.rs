//! The memory that answers reads: bindings (RFC 3261 §10), push buckets and held calls, shared by all workers.
//!
//! Written by the store's one writer only, a whole row at a time: a reader sees an AOR's bindings, or a bucket, before
//! or after a change and never in between.

use std::collections::{BTreeSet, BinaryHeap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::bucket::Bucket;
use super::change::{BucketEntry, HeldCall, HeldCallId};
use crate::binding::{Aor, Binding, DeviceId};
use crate::clock::UnixMillis;
use crate::sip::flow::Transport;

/// The bindings of one AOR. Most users have one phone, some two.
pub type Bindings = SmallVec<[Arc<Binding>; 2]>;

/// All that the store knows. See the module's text for who writes it.
#[derive(Debug, Default)]
pub struct Table {
    bindings: DashMap<Aor, Bindings>,
    devices: DashMap<DeviceId, Arc<Binding>>,
    peers: DashMap<Peer, Presence>,
    buckets: DashMap<DeviceId, Bucket>,
    /// Former name of a device to its present one, while calls are settled under the former.
    heirs: DashMap<DeviceId, DeviceId>,
    calls: DashMap<HeldCallId, Arc<HeldCall>>,
    /// Only the writer locks it.
    agenda: Mutex<Agenda>,
    entry_count: AtomicUsize,
}

/// What time alone ends, ordered by it, so that a sweep looks only at what is due.
#[derive(Debug, Default)]
struct Agenda {
    /// Bindings without push target, by the end of their Expires.
    bindings: BTreeSet<(UnixMillis, DeviceId)>,
    /// Buckets, by the INVITE of their oldest entry.
    buckets: BTreeSet<(UnixMillis, DeviceId)>,
}

/// Whom a flow leads to: address and transport, whatever the connection. Kept small, there may be a million.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Peer {
    address: [u8; 16],
    port: u16,
    transport: Transport,
}

impl Peer {
    fn of(transport: Transport, remote: SocketAddr) -> Self {
        let address = match remote.ip() {
            IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
            IpAddr::V6(address) => address.octets(),
        };
        Self { address, port: remote.port(), transport }
    }
}

/// The bindings that came from one peer.
#[derive(Debug)]
struct Presence {
    bindings: u32,
    /// The latest end of their Expires.
    until: UnixMillis,
    /// The one that came last.
    device: DeviceId,
}

impl Table {
    /// The bindings of an AOR; empty for one that has none.
    pub fn lookup(&self, aor: &Aor) -> Bindings {
        self.bindings.get(aor).map(|row| row.clone()).unwrap_or_default()
    }

    /// The binding of a device, by the user part of its alias Contact.
    pub fn by_device(&self, device: DeviceId) -> Option<Arc<Binding>> {
        self.devices.get(&device).map(|binding| Arc::clone(&binding))
    }

    /// The device that registered from this address and transport, by whichever connection, if its Expires is not
    /// over: tells a phone from a softswitch that shares its address.
    pub fn device_on(&self, transport: Transport, remote: SocketAddr, now: UnixMillis) -> Option<DeviceId> {
        let presence = self.peers.get(&Peer::of(transport, remote))?;
        (now < presence.until).then_some(presence.device)
    }

    /// The bindings of the first `limit` AORs after `after`, ordered by AOR. The last one's AOR leads to the next
    /// page; an empty page is the end.
    pub fn page(&self, after: Option<&Aor>, limit: usize) -> Vec<Arc<Binding>> {
        let mut first: BinaryHeap<Aor> = BinaryHeap::new();
        for row in &self.bindings {
            let aor = row.key();
            if after.is_some_and(|after| aor <= after) {
                continue;
            }
            first.push(aor.clone());
            if first.len() > limit {
                first.pop();
            }
        }
        first.into_sorted_vec().iter().flat_map(|aor| self.lookup(aor)).collect()
    }

    /// A device's bucket, oldest first.
    pub fn entries(&self, device: &DeviceId) -> Vec<Arc<BucketEntry>> {
        self.buckets.get(device).map(|bucket| bucket.entries().to_vec()).unwrap_or_default()
    }

    /// A held call.
    pub fn call(&self, id: HeldCallId) -> Option<Arc<HeldCall>> {
        self.calls.get(&id).map(|call| Arc::clone(&call))
    }

    /// All held calls, oldest first.
    pub fn calls(&self) -> Vec<Arc<HeldCall>> {
        let mut calls: Vec<_> = self.calls.iter().map(|call| Arc::clone(&call)).collect();
        calls.sort_unstable_by_key(|call| (call.held_at, call.id));
        calls
    }

    /// Number of bindings.
    pub fn binding_count(&self) -> usize {
        self.devices.len()
    }

    /// Number of entries in all buckets.
    pub fn entry_count(&self) -> usize {
        self.entry_count.load(Ordering::Relaxed)
    }

    /// Number of held calls.
    pub fn call_count(&self) -> usize {
        self.calls.len()
    }
}

/// For the writer.
impl Table {
    pub(super) fn bucket(&self, device: &DeviceId) -> Bucket {
        self.buckets.get(device).map(|bucket| bucket.clone()).unwrap_or_default()
    }

    /// In the order of their names, so that a seed reproduces a run.
    pub(super) fn devices_with_bucket(&self) -> Vec<DeviceId> {
        let mut devices: Vec<_> = self.buckets.iter().map(|row| *row.key()).collect();
        devices.sort_unstable();
        devices
    }

    pub(super) fn heir(&self, device: &DeviceId) -> Option<DeviceId> {
        self.heirs.get(device).map(|heir| *heir)
    }

    /// Up to `most` bindings without push target whose Expires is over, those first that ended first.
    pub(super) fn over(&self, now: UnixMillis, most: usize) -> Vec<DeviceId> {
        until(&self.agenda.lock().bindings, now, most)
    }

    /// Up to `most` buckets with entries of `cutoff` or earlier.
    pub(super) fn aged(&self, cutoff: UnixMillis, most: usize) -> Vec<DeviceId> {
        until(&self.agenda.lock().buckets, cutoff, most)
    }

    /// One binding as the disk has it.
    pub(super) fn load_binding(&self, binding: Binding) {
        let binding = Arc::new(binding);
        self.index(&binding);
        self.bindings.entry(binding.aor.clone()).or_default().push(binding);
    }

    /// One entry as the disk has it.
    pub(super) fn load_entry(&self, device: DeviceId, entry: BucketEntry) {
        let mut bucket = self.bucket(&device);
        bucket.load(Arc::new(entry));
        self.set_bucket(device, bucket);
    }

    pub(super) fn set_bindings(&self, aor: Aor, row: Bindings) {
        let before = self.lookup(&aor);
        if row.is_empty() {
            self.bindings.remove(&aor);
        } else {
            self.bindings.insert(aor, row.clone());
        }
        for binding in before.iter().filter(|binding| !contains(&row, binding)) {
            self.unindex(binding);
            if !row.iter().any(|other| other.device == binding.device) {
                self.devices.remove(&binding.device);
            }
        }
        for binding in row.iter().filter(|binding| !contains(&before, binding)) {
            self.index(binding);
        }
    }

    pub(super) fn set_bucket(&self, device: DeviceId, bucket: Bucket) {
        let after = (bucket.entries().len(), bucket.oldest());
        let before = if bucket.is_empty() {
            self.buckets.remove(&device).map(|(_, before)| before)
        } else {
            self.buckets.insert(device, bucket)
        };
        let before = before.unwrap_or_default();
        self.entry_count.fetch_add(after.0, Ordering::Relaxed);
        self.entry_count.fetch_sub(before.entries().len(), Ordering::Relaxed);
        if before.oldest() != after.1 {
            let mut agenda = self.agenda.lock();
            before.oldest().map(|oldest| agenda.buckets.remove(&(oldest, device)));
            after.1.map(|oldest| agenda.buckets.insert((oldest, device)));
        }
    }

    pub(super) fn set_heir(&self, device: DeviceId, heir: Option<DeviceId>) {
        match heir {
            Some(heir) => self.heirs.insert(device, heir),
            None => self.heirs.remove(&device).map(|(_, heir)| heir),
        };
    }

    pub(super) fn set_call(&self, id: HeldCallId, call: Option<Arc<HeldCall>>) {
        match call {
            Some(call) => self.calls.insert(id, call),
            None => self.calls.remove(&id).map(|(_, call)| call),
        };
    }

    fn index(&self, binding: &Arc<Binding>) {
        self.devices.insert(binding.device, Arc::clone(binding));
        let peer = Peer::of(binding.flow.transport, binding.flow.remote);
        let mut presence = self.peers.entry(peer).or_insert(Presence {
            bindings: 0,
            until: UnixMillis::default(),
            device: binding.device,
        });
        presence.bindings = presence.bindings.saturating_add(1);
        presence.until = presence.until.max(binding.expires_at);
        presence.device = binding.device;
        drop(presence);
        if binding.push.is_none() {
            self.agenda.lock().bindings.insert((binding.expires_at, binding.device));
        }
    }

    fn unindex(&self, binding: &Binding) {
        let peer = Peer::of(binding.flow.transport, binding.flow.remote);
        if let Some(mut presence) = self.peers.get_mut(&peer) {
            presence.bindings = presence.bindings.saturating_sub(1);
        }
        self.peers.remove_if(&peer, |_, presence| presence.bindings == 0);
        if binding.push.is_none() {
            self.agenda.lock().bindings.remove(&(binding.expires_at, binding.device));
        }
    }
}

fn until(agenda: &BTreeSet<(UnixMillis, DeviceId)>, end: UnixMillis, most: usize) -> Vec<DeviceId> {
    agenda.iter().take_while(|(due, _)| *due <= end).take(most).map(|(_, device)| *device).collect()
}

/// Whether the row has this very binding, not only one of the same device.
pub(super) fn contains(row: &[Arc<Binding>], binding: &Arc<Binding>) -> bool {
    row.iter().any(|other| Arc::ptr_eq(other, binding))
}
