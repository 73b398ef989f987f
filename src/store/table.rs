//! The memory that answers reads: bindings (RFC 3261 §10), push buckets, held calls and texts, shared by all workers.
//!
//! Written by the store's one writer only, a whole row at a time: a reader sees an AOR's bindings, or a bucket, before
//! or after a change and never in between.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::hash::BuildHasher;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::bucket::Bucket;
use super::change::{BucketEntry, HeldCall, HeldCallId};
use super::draft::{Key, Row, Value};
use super::former_contacts::FormerContacts;
use super::messages::Messages;
use super::orphans::Orphans;
use super::owners::Owners;
use super::refreshes::Refreshes;
use super::reminders::{self, ReminderRule};
use super::users::Users;
use crate::binding::{Aor, Binding, DeviceId};
use crate::clock::UnixMillis;
use crate::sip::Uri;
use crate::sip::flow::Transport;

/// The bindings of one AOR. Most users have one phone, some two.
pub type Bindings = SmallVec<[Arc<Binding>; 2]>;

/// All that the store knows. See the module's text for who writes it.
#[derive(Debug, Default)]
pub struct Table {
    bindings: DashMap<Aor, Bindings>,
    devices: DashMap<DeviceId, Arc<Binding>>,
    peers: DashMap<Peer, Presence>,
    /// Tells the ways behind a peer apart.
    ways: RandomState,
    former: FormerContacts,
    owners: Owners,
    users: Users,
    buckets: DashMap<DeviceId, Bucket>,
    orphans: Orphans,
    /// Former name of a device to its present one, while calls are settled under the former.
    heirs: DashMap<DeviceId, DeviceId>,
    calls: DashMap<HeldCallId, Held>,
    /// Texts to be fetched; no row is empty.
    messages: DashMap<DeviceId, Messages>,
    /// Only the writer locks it.
    agenda: Mutex<Agenda>,
    refreshes: Refreshes,
    reminders: reminders::Plan,
    entry_count: AtomicUsize,
}

/// A held call and who holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) call: Arc<HeldCall>,
    /// The node that holds it; `None`: this one.
    pub(super) owner: Option<Arc<str>>,
    /// Which start of that node took it.
    pub(super) run: u64,
}

/// What time alone ends, ordered by it, so that a sweep looks only at what is due.
#[derive(Debug, Default)]
struct Agenda {
    /// Bindings without push target, by the end of their Expires.
    bindings: BTreeSet<(UnixMillis, DeviceId)>,
    /// Buckets, by the INVITE of their oldest entry.
    buckets: BTreeSet<(UnixMillis, DeviceId)>,
    /// Texts to be fetched, by the oldest of a device.
    messages: BTreeSet<(UnixMillis, DeviceId)>,
}

/// Whom a flow leads to: address and transport, whatever the connection. Kept small, there may be a million.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Peer {
    address: [u8; 16],
    port: u16,
    transport: Transport,
    /// Behind another proxy: a hash of the Path, and of the address in the Contact, which that proxy may go by. 0: all that
    /// came from the peer.
    way: u64,
}

impl Peer {
    fn of(transport: Transport, remote: SocketAddr) -> Self {
        let address = match remote.ip() {
            IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
            IpAddr::V6(address) => address.octets(),
        };
        Self { address, port: remote.port(), transport, way: 0 }
    }
}

/// The bindings that came from one peer.
#[derive(Debug)]
struct Presence {
    bindings: u32,
    /// The latest end of their Expires.
    until: UnixMillis,
    /// The one that came last; it may have gone since, and the flow is its device's still.
    last: Arc<Binding>,
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

    /// Whether so many other AORs have registered a push token of this binding later than its own AOR has.
    pub fn has_too_many_aors(&self, binding: &Binding, most: usize) -> bool {
        self.owners.has_too_many(binding, most, |device| self.by_device(device))
    }

    /// The device that registered from this address and transport, by whichever connection, if its Expires is not
    /// over: tells a phone from a softswitch that shares its address.
    pub fn device_on(&self, transport: Transport, remote: SocketAddr, now: UnixMillis) -> Option<DeviceId> {
        let presence = self.peers.get(&Peer::of(transport, remote))?;
        (now < presence.until).then_some(presence.last.device)
    }

    /// Whether the flow of a binding is its device's: nobody else has registered by it later. Behind another proxy flows
    /// are told apart by their Path.
    pub fn holds_flow(&self, binding: &Binding) -> bool {
        let Some(presence) = self.peers.get(&self.way_to(binding)) else { return true };
        let last = &presence.last;
        last.device == binding.device
            || last.path.is_empty() != binding.path.is_empty()
            || binding.shares_flow_with(last)
    }

    /// Whether the device has had this Contact until a moment ago.
    pub fn has_left(&self, device: DeviceId, contact: &Uri<'_>, now: UnixMillis) -> bool {
        self.former.has_left(device, contact, now)
    }

    fn way_to(&self, binding: &Binding) -> Peer {
        let peer = Peer::of(binding.flow.transport, binding.flow.remote);
        if binding.path.is_empty() {
            return peer;
        }
        let contact = Uri::parse(&binding.contact);
        let address = contact.as_ref().map(|uri| (uri.host, uri.port)).unwrap_or_default();
        Peer { way: self.ways.hash_one((&binding.path, address)), ..peer }
    }

    /// The bindings of the first `limit` AORs after `after` that have `part` in them, ordered by AOR. The last one's AOR
    /// leads to the next page; an empty page is the end.
    pub fn page(&self, after: Option<&Aor>, part: &str, limit: usize) -> Vec<Arc<Binding>> {
        let aors = self.bindings.iter().map(|row| row.key().clone());
        let later = aors.filter(|aor| after.is_none_or(|after| aor > after) && aor.as_str().contains(part));
        first(later, limit).iter().flat_map(|aor| self.lookup(aor)).collect()
    }

    /// From here on AORs are found by their user parts.
    pub fn begin_users(&self) {
        self.users.begin(self.bindings.iter().map(|row| row.key().clone()));
    }

    /// AORs with this user part, unescaped; none before [`Table::begin_users`].
    pub fn aors_of_user(&self, user: &str) -> SmallVec<[Aor; 1]> {
        self.users.find(user)
    }

    /// From here on it is known when each device is due to be refreshed upstream. After a restart of a test's own, once
    /// more.
    pub fn begin_refreshes(&self) {
        self.refreshes.begin(self.devices.iter().filter_map(|binding| Some((binding.refresh_due()?, binding.device))));
    }

    /// Whether they have begun.
    pub fn keeps_refreshes(&self) -> bool {
        self.refreshes.has_begun()
    }

    /// How many devices are refreshed, and when the first is due; `None` without any.
    pub fn refresh_outlook(&self) -> Option<(usize, UnixMillis)> {
        self.refreshes.outlook()
    }

    /// Takes up to `most` bindings that are due to be refreshed, those first that were due first. Each of them comes
    /// again, later each time, until a change of it says what came of it.
    pub fn take_refreshes(&self, now: UnixMillis, most: usize) -> Vec<Arc<Binding>> {
        self.refreshes.take(now, most, |device| {
            let binding = self.by_device(device)?;
            Some((binding.refresh_due()?, binding))
        })
    }

    /// From here on devices are reminded to register by this rule; `None`: they are not.
    pub fn remind_by(&self, rule: Option<ReminderRule>, now: UnixMillis) {
        self.reminders.follow(rule, now, || self.devices.iter().map(|binding| Arc::clone(&binding)).collect());
    }

    /// How many devices are to be reminded, and when the first is; `None` without any.
    pub fn reminder_outlook(&self) -> Option<(usize, UnixMillis)> {
        self.reminders.outlook()
    }

    /// When a device is reminded, should it not register before.
    pub fn next_reminder(&self, binding: &Binding) -> Option<UnixMillis> {
        self.reminders.next(binding)
    }

    /// Takes up to `most` bindings whose devices are to be reminded by now, those first that were due first. None is taken
    /// twice for the same.
    pub fn take_reminders(&self, now: UnixMillis, most: usize) -> Vec<Arc<Binding>> {
        self.reminders.take(now, most, |device| self.by_device(device))
    }

    /// A device's bucket, oldest first.
    pub fn entries(&self, device: &DeviceId) -> Vec<Arc<BucketEntry>> {
        self.buckets.get(device).map(|bucket| bucket.entries().to_vec()).unwrap_or_default()
    }

    /// The other node that holds a call; `None` for a call of this node, and for one that is not known.
    pub fn owner(&self, id: HeldCallId) -> Option<Arc<str>> {
        self.calls.get(&id).and_then(|held| held.owner.clone())
    }

    /// Held calls of other nodes, and whose they are.
    pub(super) fn calls_of_others(&self) -> Vec<(HeldCallId, Arc<str>)> {
        let mut calls: Vec<_> = self.calls.iter().filter_map(|held| Some((*held.key(), held.owner.clone()?))).collect();
        calls.sort_unstable();
        calls
    }

    /// A held call, of whichever node.
    pub fn call(&self, id: HeldCallId) -> Option<Arc<HeldCall>> {
        self.calls.get(&id).map(|held| Arc::clone(&held.call))
    }

    /// All held calls of all nodes, oldest first.
    pub fn calls(&self) -> Vec<Arc<HeldCall>> {
        let mut calls: Vec<_> = self.calls.iter().map(|held| Arc::clone(&held.call)).collect();
        calls.sort_unstable_by_key(|call| (call.held_at, call.id));
        calls
    }

    /// How many they are, but for forks that wait for another one and have no devices.
    pub fn calls_with_devices(&self) -> usize {
        self.calls.iter().filter(|held| !held.call.devices.is_empty()).count()
    }

    /// Up to `most` of those, oldest first.
    pub fn oldest_calls(&self, most: usize) -> Vec<Arc<HeldCall>> {
        let calls = self.calls.iter().filter(|held| !held.call.devices.is_empty());
        let calls = calls.map(|held| (held.call.held_at, *held.key()));
        first(calls, most).into_iter().filter_map(|(_, id)| self.call(id)).collect()
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

/// The first `most` in order, without room for the others.
fn first<T: Ord>(items: impl Iterator<Item = T>, most: usize) -> Vec<T> {
    let mut first = BinaryHeap::new();
    for item in items {
        first.push(item);
        if first.len() > most {
            first.pop();
        }
    }
    first.into_sorted_vec()
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

    /// Up to `most` devices with texts of `cutoff` or earlier.
    pub(super) fn waited(&self, cutoff: UnixMillis, most: usize) -> Vec<DeviceId> {
        until(&self.agenda.lock().messages, cutoff, most)
    }

    /// The texts that wait for a device.
    pub(super) fn messages(&self, device: &DeviceId) -> Messages {
        self.messages.get(device).map(|row| Messages::clone(&row)).unwrap_or_default()
    }

    pub(super) fn set_messages(&self, device: DeviceId, messages: Messages) {
        let oldest = |row: &Messages| row.first().map(|message| message.sent_at);
        let after = oldest(&messages);
        let before = match after {
            None => self.messages.remove(&device).and_then(|(_, row)| oldest(&row)),
            Some(_) => self.messages.insert(device, messages).and_then(|row| oldest(&row)),
        };
        let mut agenda = self.agenda.lock();
        before.map(|oldest| agenda.messages.remove(&(oldest, device)));
        after.map(|oldest| agenda.messages.insert((oldest, device)));
    }

    /// One binding as the disk has it.
    pub(super) fn load_binding(&self, binding: Binding) {
        let binding = Arc::new(binding);
        self.index(&binding);
        self.users.insert(&binding.aor);
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
            self.users.remove(&aor);
        } else {
            self.users.insert(&aor);
            self.bindings.insert(aor, row.clone());
        }
        for binding in before.iter().filter(|binding| !contains(&row, binding)) {
            self.unindex(binding);
            if !row.iter().any(|other| other.device == binding.device) {
                // A token may have gone to another AOR meanwhile, and taken its name along.
                self.devices.remove_if(&binding.device, |_, present| present.aor == binding.aor);
                self.see_orphan(binding.device, &binding.aor);
            }
        }
        for binding in row.iter().filter(|binding| !contains(&before, binding)) {
            self.index(binding);
            self.orphans.forget(binding.device);
            if let Some(earlier) = before.iter().find(|earlier| earlier.device == binding.device) {
                self.former.note(earlier, binding);
            }
        }
    }

    pub(super) fn set_bucket(&self, device: DeviceId, bucket: Bucket) {
        let after = (bucket.entries().len(), bucket.oldest());
        if bucket.is_empty() {
            self.orphans.forget(device);
        }
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

    pub(super) fn held(&self, id: HeldCallId) -> Option<Held> {
        self.calls.get(&id).map(|held| held.clone())
    }

    pub(super) fn set_call(&self, id: HeldCallId, call: Option<Held>) {
        match call {
            Some(call) => self.calls.insert(id, call),
            None => self.calls.remove(&id).map(|(_, call)| call),
        };
    }

    /// Shows rows of one AOR as they are in a store outside.
    pub(super) fn apply(&self, aor: &Aor, rows: &[Row]) {
        let mut bindings = self.lookup(aor);
        let mut buckets: BTreeMap<DeviceId, Bucket> = BTreeMap::new();
        let mut bucket = |device: &DeviceId, change: &dyn Fn(&mut Bucket)| {
            change(buckets.entry(*device).or_insert_with(|| self.bucket(device)));
        };
        for (key, value) in rows {
            match (key, value) {
                (Key::Binding(_, device), Some(Value::Binding(binding))) => {
                    match bindings.iter_mut().find(|other| other.device == *device) {
                        Some(other) => *other = Arc::clone(binding),
                        None => bindings.push(Arc::clone(binding)),
                    }
                }
                (Key::Binding(_, device), _) => bindings.retain(|binding| binding.device != *device),
                (Key::Entry(device, call_ref), Some(Value::Entry(entry))) => {
                    bucket(device, &|bucket| bucket.replace(call_ref, Some(Arc::clone(entry))));
                }
                (Key::Entry(device, call_ref), _) => bucket(device, &|bucket| bucket.replace(call_ref, None)),
                (Key::Call(id), Some(Value::Call(held))) => self.set_call(*id, Some(held.clone())),
                (Key::Call(id), _) => self.set_call(*id, None),
                (Key::Claim(device), Some(Value::Claim(claim))) => {
                    bucket(device, &|bucket| bucket.load_claim(Some(claim.clone())));
                }
                (Key::Claim(device), _) => bucket(device, &|bucket| bucket.load_claim(None)),
                (Key::Messages(device), Some(Value::Messages(messages))) => {
                    self.set_messages(*device, Messages::clone(messages));
                }
                (Key::Messages(device), _) => self.set_messages(*device, Messages::default()),
                (Key::Heir(name), value) => {
                    if let Some(before) = self.heir(name) {
                        bucket(&before, &|bucket| bucket.set_former(*name, false));
                    }
                    let heir = if let Some(Value::Heir(heir)) = value { Some(*heir) } else { None };
                    if let Some(heir) = heir {
                        bucket(&heir, &|bucket| bucket.set_former(*name, true));
                    }
                    self.set_heir(*name, heir);
                }
            }
        }
        let touched: Vec<_> = buckets.keys().copied().collect();
        for (device, bucket) in buckets {
            self.set_bucket(device, bucket);
        }
        self.set_bindings(aor.clone(), bindings);
        touched.into_iter().for_each(|device| self.see_orphan(device, aor));
    }

    /// Devices of an AOR that have a bucket and no binding.
    pub(super) fn orphans_of(&self, aor: &Aor) -> SmallVec<[DeviceId; 1]> {
        self.orphans.of_aor(aor)
    }

    /// Whose a device is that has a binding or a bucket.
    pub(super) fn aor_of(&self, device: DeviceId) -> Option<Aor> {
        self.by_device(device).map(|binding| binding.aor.clone()).or_else(|| self.orphans.aor(device))
    }

    fn see_orphan(&self, device: DeviceId, aor: &Aor) {
        if !self.devices.contains_key(&device) && self.buckets.contains_key(&device) {
            self.orphans.note(device, aor);
        }
    }

    fn bucket_rows(&self, device: DeviceId, rows: &mut BTreeMap<Key, Value>) {
        let bucket = self.bucket(&device);
        let entries = bucket.entries().iter();
        rows.extend(entries.map(|entry| (Key::Entry(device, entry.call_ref.clone()), Value::Entry(entry.clone()))));
        rows.extend(bucket.open_claim().map(|claim| (Key::Claim(device), Value::Claim(claim.clone()))));
    }

    /// All rows of one AOR, of which these are the held calls and the former names.
    pub(super) fn rows(&self, aor: &Aor, calls: &[HeldCallId], names: &[DeviceId]) -> BTreeMap<Key, Value> {
        let mut rows = BTreeMap::new();
        for binding in self.lookup(aor) {
            let device = binding.device;
            self.bucket_rows(device, &mut rows);
            let messages = Some(self.messages(&device)).filter(|messages| !messages.is_empty());
            rows.extend(messages.map(|messages| (Key::Messages(device), Value::Messages(messages))));
            rows.insert(Key::Binding(aor.clone(), device), Value::Binding(binding));
        }
        self.orphans.of_aor(aor).into_iter().for_each(|device| self.bucket_rows(device, &mut rows));
        let heirs = names.iter().filter_map(|name| Some((Key::Heir(*name), Value::Heir(self.heir(name)?))));
        rows.extend(heirs);
        rows.extend(calls.iter().filter_map(|id| Some((Key::Call(*id), Value::Call(self.held(*id)?)))));
        rows
    }

    fn index(&self, binding: &Arc<Binding>) {
        self.devices.insert(binding.device, Arc::clone(binding));
        for peer in self.peers_of(binding) {
            let mut presence = self.peers.entry(peer).or_insert_with(|| Presence {
                bindings: 0,
                until: UnixMillis::default(),
                last: Arc::clone(binding),
            });
            presence.bindings = presence.bindings.saturating_add(1);
            presence.until = presence.until.max(binding.expires_at);
            // A row that is read, or noted in, is no registration.
            if presence.last.registered_at <= binding.registered_at {
                presence.last = Arc::clone(binding);
            }
        }
        if binding.push.is_none() {
            self.agenda.lock().bindings.insert((binding.expires_at, binding.device));
        }
        self.refreshes.insert(binding);
        self.reminders.insert(binding);
        self.owners.insert(binding);
    }

    /// The peer, and the way behind it where there is one.
    fn peers_of(&self, binding: &Binding) -> impl Iterator<Item = Peer> + use<> {
        let peer = Peer::of(binding.flow.transport, binding.flow.remote);
        let way = self.way_to(binding);
        std::iter::once(peer).chain((way != peer).then_some(way))
    }

    fn unindex(&self, binding: &Binding) {
        for peer in self.peers_of(binding) {
            if let Some(mut presence) = self.peers.get_mut(&peer) {
                presence.bindings = presence.bindings.saturating_sub(1);
            }
            self.peers.remove_if(&peer, |_, presence| presence.bindings == 0);
        }
        if binding.push.is_none() {
            self.agenda.lock().bindings.remove(&(binding.expires_at, binding.device));
        }
        self.refreshes.remove(binding);
        self.reminders.remove(binding);
        // A token may have gone to another AOR in the same moment, and have its place.
        let has_moved = |present: Arc<Binding>| {
            present.aor != binding.aor
                && present.registered_at == binding.registered_at
                && present.shares_token(binding)
        };
        if !self.by_device(binding.device).is_some_and(has_moved) {
            self.owners.remove(binding);
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
