//! What each [`Change`] means: bindings by RFC 3261 §10.3 and RFC 8599 §4, buckets and held calls by the design.
//!
//! Pure: rows are read from the [`Table`] once, changed in the draft, and seen by nobody until [`Draft::publish`]. The
//! writer makes the difference durable in between; a draft that could not be made durable is dropped.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use super::Limits;
use super::bucket::{Bucket, Claim, Claimer};
use super::change::{Applied, BucketEntry, Change, EntryState, HeldCall, HeldCallId, Removal, Settlement};
use super::messages::{self, Messages};
use super::table::{Bindings, Held, Table, contains};
use crate::binding::{Aor, Binding, DeviceId, PushToken, Tokens, Upstream};
use crate::clock::UnixMillis;

/// Names one durable row.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Binding(Aor, DeviceId),
    Entry(DeviceId, Box<str>),
    Call(HeldCallId),
    /// The open claim on a device's bucket. Between nodes only.
    Claim(DeviceId),
    /// The present name of the device that had this one. Between nodes only.
    Heir(DeviceId),
    /// The texts that wait for a device.
    Messages(DeviceId),
}

/// A row and what it is to hold; `None`: it is to go.
pub(super) type Row = (Key, Option<Value>);

/// What a row holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Binding(Arc<Binding>),
    Entry(Arc<BucketEntry>),
    Call(Held),
    Claim(Claim),
    Heir(DeviceId),
    Messages(Messages),
}

/// Changes on top of the table.
pub(super) struct Draft<'t> {
    table: &'t Table,
    limits: Limits,
    bindings: BTreeMap<Aor, Bindings>,
    buckets: BTreeMap<DeviceId, Bucket>,
    heirs: BTreeMap<DeviceId, Option<DeviceId>>,
    calls: BTreeMap<HeldCallId, Option<Held>>,
    messages: BTreeMap<DeviceId, Messages>,
    /// Rows that differ from the table, or are to be written again all the same. A row changed twice is written once,
    /// as it is at last.
    touched: BTreeSet<Key>,
    claimer: Claimer,
    /// Whether other nodes are to see claims and heirs.
    is_shared: bool,
    /// When the changes were made, if that was before other nodes may have made theirs.
    made_at: Option<UnixMillis>,
}

impl<'t> Draft<'t> {
    pub(super) fn new(table: &'t Table, limits: Limits) -> Self {
        Self {
            table,
            limits,
            bindings: BTreeMap::new(),
            buckets: BTreeMap::new(),
            heirs: BTreeMap::new(),
            calls: BTreeMap::new(),
            messages: BTreeMap::new(),
            touched: BTreeSet::new(),
            claimer: Claimer::alone(),
            is_shared: false,
            made_at: None,
        }
    }

    /// For rows that several nodes share.
    pub(super) fn shared(table: &'t Table, limits: Limits, claimer: Claimer) -> Self {
        Self { claimer, is_shared: true, ..Self::new(table, limits) }
    }

    /// Has the changes to come made by somebody else.
    pub(super) fn set_claimer(&mut self, claimer: Claimer) {
        self.claimer = claimer;
    }

    /// Applies a change that was made then and has not reached the other nodes since: what they have bound later
    /// stands.
    pub(super) fn apply_late(&mut self, change: Change, made_at: UnixMillis) -> Applied {
        self.made_at = Some(made_at);
        let applied = self.apply(change);
        self.made_at = None;
        applied
    }

    /// Applies one change on top of those before.
    pub(super) fn apply(&mut self, change: Change) -> Applied {
        match change {
            Change::Register { aor, put, remove } => {
                self.register(&aor, put, &remove);
                Applied::Done
            }
            Change::TokenDead { aor, device, token, sent_at, dead_since } => {
                let newest = dead_since.map_or(sent_at, |since| since.min(sent_at));
                Applied::Ended(self.token_dead(&aor, device, &token, newest))
            }
            Change::Remove { aor, device } => Applied::Ended(self.end(&aor, device)),
            Change::Hold { call, entry } => {
                self.hold(call, entry);
                Applied::Done
            }
            Change::Settle { aor: _, id, call_ref, devices, ended } => {
                // Of a call that another node has taken over, only that node knows when it is missed.
                let is_ours = self.call(id).is_none_or(|held| held.owner.is_none());
                for (device, settlement) in devices {
                    if is_ours || settlement == Settlement::Seen {
                        self.settle(device, &call_ref, settlement);
                    }
                }
                if ended && is_ours {
                    self.set_call(id, None);
                }
                Applied::Done
            }
            Change::Claim { aor: _, device } => {
                let claimer = self.claimer.clone();
                Applied::Claimed(self.change_bucket(device, |bucket| bucket.claim(&claimer)))
            }
            Change::Reported { aor: _, device, call_refs } => {
                let claimer = self.claimer.clone();
                self.change_bucket(device, |bucket| bucket.reported(&call_refs, &claimer));
                Applied::Done
            }
            Change::Release { aor: _, device } => {
                let claimer = self.claimer.clone();
                self.change_bucket(device, |bucket| bucket.release(&claimer));
                Applied::Done
            }
            Change::Refreshed { aor, device, registered_at, upstream } => {
                self.refreshed(&aor, device, registered_at, upstream);
                Applied::Done
            }
            Change::BindToken { binding, most } => Applied::Bound(self.bind_token(*binding, most)),
            Change::Message { aor, device, message } => {
                if self.is_bound(&aor, device) {
                    self.set_messages(device, messages::united(&self.messages(device), &[message]));
                }
                Applied::Done
            }
            Change::GiveBack { aor, device, messages, pick_up: _ } => {
                if self.is_bound(&aor, device) {
                    self.set_messages(device, messages::united(&self.messages(device), &messages));
                }
                Applied::Done
            }
            Change::PickUp { aor, device } => {
                let mut found = Messages::default();
                if self.is_bound(&aor, device) {
                    found = self.messages(device);
                    self.set_messages(device, Messages::default());
                }
                Applied::PickedUp(found)
            }
        }
    }

    fn register(&mut self, aor: &Aor, mut put: Vec<Binding>, remove: &[Removal]) {
        let made_at = self.made_at;
        let is_later = |binding: &Binding| made_at.is_some_and(|made_at| made_at < binding.registered_at);
        let before = self.bindings(aor);
        let mut remove = remove.to_vec();
        for binding in &mut put {
            debug_assert_eq!(&binding.aor, aor, "a REGISTER is for one AOR");
            let heir = Some(binding.device);
            // The phone says itself now which token it has.
            let tokens = before.iter().filter(|other| other.is_token_device() && binding.shares_token(other));
            remove.extend(tokens.map(|token| Removal { device: token.device, heir }));
            for earlier in &before {
                let removal = remove.iter().find(|removal| removal.device == earlier.device);
                if earlier.device == binding.device || removal.is_some_and(|removal| removal.heir == heir) {
                    binding.learn_from(earlier);
                }
            }
        }
        self.change_bindings(aor, |row| {
            row.retain(|binding| is_later(binding) || !remove.iter().any(|removal| removal.device == binding.device));
            for binding in put {
                match row.iter_mut().find(|other| other.device == binding.device) {
                    Some(other) if is_later(other) => {}
                    // The same again is no difference to be written.
                    Some(other) if **other == binding => {}
                    Some(other) => *other = Arc::new(binding),
                    None => row.push(Arc::new(binding)),
                }
            }
        });
        for removal in remove.iter().filter(|removal| !self.is_bound(aor, removal.device)).collect::<Vec<_>>() {
            if let Some(heir) = removal.heir.filter(|heir| self.is_bound(aor, *heir)) {
                self.inherit(removal.device, heir);
            }
            self.set_messages(removal.device, Messages::default());
        }
    }

    /// The device that has the token then; `None`: the AOR has as many token devices as it may.
    fn bind_token(&mut self, token: Binding, most: usize) -> Option<DeviceId> {
        let mut bound = Some(token.device);
        let made_at = self.made_at.unwrap_or(token.registered_at);
        self.change_bindings(&token.aor.clone(), |row| {
            let count = row.iter().filter(|other| other.is_token_device()).count();
            let is_registered = |other: &Binding| !other.is_token_device() && other.shares_token(&token);
            match row.iter_mut().find(|other| is_registered(other) || other.device == token.device) {
                Some(other) if is_registered(other) => {
                    let mut taught = Binding::clone(other);
                    taught.app.locale.clone_from(&token.app.locale);
                    if let (Some(own), Some(new)) = (&mut taught.push, &token.push) {
                        own.learn_keys(new, true);
                    }
                    bound = Some(other.device);
                    *other = Arc::new(taught);
                }
                Some(other) if made_at < other.registered_at => {}
                Some(other) => *other = Arc::new(token),
                None if count >= most => bound = None,
                None => row.push(Arc::new(token)),
            }
        });
        bound
    }

    /// Differs from the bare word of the provider: a registration newer than `newest` proves the phone is there.
    fn token_dead(&mut self, aor: &Aor, device: DeviceId, token: &PushToken, newest: UnixMillis) -> bool {
        let row = self.bindings(aor);
        let found = row.iter().find(|binding| binding.device == device);
        let is_it = |binding: &&Arc<Binding>| has_token(binding, token) && binding.registered_at <= newest;
        let Some(binding) = found.filter(is_it) else { return false };
        match without_remote(binding, token) {
            Some(rest) => {
                self.change_bindings(aor, |row| {
                    for binding in row.iter_mut().filter(|binding| binding.device == device) {
                        *binding = Arc::new(rest.clone());
                    }
                });
                false
            }
            // Its calls are the device's, whatever token it comes back with.
            None if binding.has_own_name() => {
                self.change_bindings(aor, |row| row.retain(|binding| binding.device != device));
                self.set_messages(device, Messages::default());
                true
            }
            None => self.end(aor, device),
        }
    }

    fn refreshed(&mut self, aor: &Aor, device: DeviceId, registered_at: UnixMillis, upstream: Upstream) {
        self.change_bindings(aor, |row| {
            let is_it =
                |binding: &&mut Arc<Binding>| binding.device == device && binding.registered_at == registered_at;
            if let Some(binding) = row.iter_mut().find(is_it) {
                *binding = Arc::new(Binding { upstream: Some(upstream), ..Binding::clone(binding) });
            }
        });
    }

    /// Ends a binding and what was kept for it. Whether there was one.
    fn end(&mut self, aor: &Aor, device: DeviceId) -> bool {
        let was_bound = self.is_bound(aor, device);
        self.change_bindings(aor, |row| row.retain(|binding| binding.device != device));
        if was_bound {
            self.change_bucket(device, |bucket| *bucket = Bucket::default());
            self.set_messages(device, Messages::default());
        }
        was_bound
    }

    fn hold(&mut self, call: HeldCall, entry: BucketEntry) {
        let entry = Arc::new(BucketEntry { state: EntryState::Live, ..entry });
        let known = self.call(call.id);
        let known_devices = known.as_ref().map(|known| &*known.call.devices).unwrap_or_default();
        let added: Vec<_> = call.devices.iter().copied().filter(|device| !known_devices.contains(device)).collect();
        for device in &added {
            if self.is_pushable(&call.aor, *device) {
                let most = self.limits.entries_per_device;
                self.change_bucket(*device, |bucket| bucket.hold(Arc::clone(&entry), most));
            }
        }
        match known {
            None => {
                let held = Held { call: Arc::new(call), owner: None, run: self.claimer.run };
                self.set_call(held.call.id, Some(held));
            }
            Some(_) if added.is_empty() => {}
            Some(mut known) => {
                Arc::make_mut(&mut known.call).devices.extend(added);
                self.set_call(call.id, Some(known));
            }
        }
    }

    /// Makes a call of another node this node's. False when it is that node's no more.
    pub(super) fn take_over(&mut self, id: HeldCallId, owner: &Arc<str>) -> bool {
        let held = self.call(id).filter(|held| held.owner.as_ref() == Some(owner));
        let run = self.claimer.run;
        held.is_some_and(|held| {
            self.set_call(id, Some(Held { call: held.call, owner: None, run }));
            true
        })
    }

    fn settle(&mut self, device: DeviceId, call_ref: &str, settlement: Settlement) {
        let here = self.bucket(device).entry(call_ref).is_some();
        let device = if here { device } else { self.heir(device).unwrap_or(device) };
        self.change_bucket(device, |bucket| bucket.settle(call_ref, settlement));
    }

    /// The phone that was `name` is `heir`: its entries go there, and so do settlements of its live calls.
    fn inherit(&mut self, name: DeviceId, heir: DeviceId) {
        let old = self.change_bucket(name, std::mem::take);
        if old.is_empty() {
            return;
        }
        let most = self.limits.entries_per_device;
        self.change_bucket(heir, |bucket| bucket.inherit(old, name, most));
    }

    /// Ends what time alone ends, at most `most` bindings, buckets and rows of texts. Whether there may be more.
    pub(super) fn sweep(&mut self, now: UnixMillis, most: usize) -> bool {
        let over = self.table.over(now, most);
        for device in &over {
            if let Some(binding) = self.table.by_device(*device)
                && self.bindings(&binding.aor).iter().any(|other| other.device == *device && other.is_over(now))
            {
                self.end(&binding.aor, *device);
            }
        }
        let waited = self.end_messages(now, most);
        // No entry is old enough while the clock has not run that long, as in tests that begin at zero.
        let ttl = u64::try_from(self.limits.entry_ttl.as_millis()).unwrap_or(u64::MAX);
        let Some(cutoff) = now.0.checked_sub(ttl).map(UnixMillis) else {
            return over.len() == most || waited == most;
        };
        let aged = self.table.aged(cutoff, most);
        for device in &aged {
            self.change_bucket(*device, |bucket| bucket.expire(cutoff));
        }
        over.len() == most || aged.len() == most || waited == most
    }

    /// Ends texts that nobody fetched in time. Of how many devices.
    fn end_messages(&mut self, now: UnixMillis, most: usize) -> usize {
        let Some(cutoff) = messages::cutoff(now) else { return 0 };
        let waited = self.table.waited(cutoff, most);
        for device in &waited {
            self.set_messages(*device, messages::fresh(&self.messages(*device), cutoff));
        }
        waited.len()
    }

    /// Ends what time alone ends of one AOR.
    pub(super) fn expire(&mut self, aor: &Aor, now: UnixMillis) {
        let ttl = u64::try_from(self.limits.entry_ttl.as_millis()).unwrap_or(u64::MAX);
        if let Some(cutoff) = now.0.checked_sub(ttl).map(UnixMillis) {
            for device in self.table.orphans_of(aor) {
                self.change_bucket(device, |bucket| bucket.expire(cutoff));
            }
        }
        for binding in self.bindings(aor) {
            if let Some(cutoff) = messages::cutoff(now) {
                self.set_messages(binding.device, messages::fresh(&self.messages(binding.device), cutoff));
            }
            if binding.is_over(now) {
                self.end(aor, binding.device);
            } else if let Some(cutoff) = now.0.checked_sub(ttl).map(UnixMillis) {
                self.change_bucket(binding.device, |bucket| bucket.expire(cutoff));
            }
        }
    }

    /// What a start finds: calls that were held when the process died, returned oldest first. They, and their live
    /// entries, stay until somebody settles them; a live entry without its call is a missed one.
    pub(super) fn restart(&mut self, now: UnixMillis) -> Vec<HeldCall> {
        let calls = self.table.calls();
        let held: HashSet<(DeviceId, &str)> =
            calls.iter().flat_map(|call| call.devices.iter().map(|device| (*device, &*call.call_ref))).collect();
        for device in self.table.devices_with_bucket() {
            self.change_bucket(device, |bucket| bucket.restart(|entry| held.contains(&(device, &*entry.call_ref))));
        }
        self.sweep(now, usize::MAX);
        calls.iter().map(|call| HeldCall::clone(call)).collect()
    }

    /// Has these rows written again, whether they differ or not.
    pub(super) fn touch(&mut self, keys: impl IntoIterator<Item = Key>) {
        self.touched.extend(keys);
    }

    /// The rows to be written.
    pub(super) fn touched(&self) -> &BTreeSet<Key> {
        &self.touched
    }

    /// What a row is to hold; `None` for a row that is to go.
    pub(super) fn value(&self, key: &Key) -> Option<Value> {
        match key {
            Key::Binding(aor, device) => {
                self.bindings(aor).into_iter().find(|binding| binding.device == *device).map(Value::Binding)
            }
            Key::Entry(device, call_ref) => self.bucket(*device).entry(call_ref).cloned().map(Value::Entry),
            Key::Call(id) => self.call(*id).map(Value::Call),
            Key::Claim(device) => self.bucket(*device).open_claim().cloned().map(Value::Claim),
            Key::Heir(name) => self.heir(*name).map(Value::Heir),
            Key::Messages(device) => {
                Some(self.messages(*device)).filter(|found| !found.is_empty()).map(Value::Messages)
            }
        }
    }

    /// The rows to be written, and what each is to hold.
    pub(super) fn rows(&self) -> Vec<Row> {
        self.touched.iter().map(|key| (key.clone(), self.value(key))).collect()
    }

    /// Shows the draft to the readers of the table.
    pub(super) fn publish(self) {
        for (id, call) in self.calls {
            self.table.set_call(id, call);
        }
        for (device, bucket) in self.buckets {
            self.table.set_bucket(device, bucket);
        }
        for (device, messages) in self.messages {
            self.table.set_messages(device, messages);
        }
        for (device, heir) in self.heirs {
            self.table.set_heir(device, heir);
        }
        for (aor, row) in self.bindings {
            self.table.set_bindings(aor, row);
        }
    }
}

/// Rows as the draft has them, else as the table has them; and the only places where rows change.
impl Draft<'_> {
    fn bindings(&self, aor: &Aor) -> Bindings {
        self.bindings.get(aor).cloned().unwrap_or_else(|| self.table.lookup(aor))
    }

    fn bucket(&self, device: DeviceId) -> Bucket {
        self.buckets.get(&device).cloned().unwrap_or_else(|| self.table.bucket(&device))
    }

    fn call(&self, id: HeldCallId) -> Option<Held> {
        self.calls.get(&id).cloned().unwrap_or_else(|| self.table.held(id))
    }

    fn messages(&self, device: DeviceId) -> Messages {
        self.messages.get(&device).cloned().unwrap_or_else(|| self.table.messages(&device))
    }

    fn heir(&self, name: DeviceId) -> Option<DeviceId> {
        self.heirs.get(&name).copied().unwrap_or_else(|| self.table.heir(&name))
    }

    fn is_bound(&self, aor: &Aor, device: DeviceId) -> bool {
        self.bindings(aor).iter().any(|binding| binding.device == device)
    }

    /// Whether somebody would come for an entry of the device, and can be told of it.
    fn is_pushable(&self, aor: &Aor, device: DeviceId) -> bool {
        self.bindings(aor).iter().any(|binding| binding.device == device && binding.push.is_some())
    }

    fn change_bindings(&mut self, aor: &Aor, change: impl FnOnce(&mut Bindings)) {
        let before = self.bindings(aor);
        let mut after = before.clone();
        change(&mut after);
        let gone = before.iter().filter(|binding| !contains(&after, binding));
        let come = after.iter().filter(|binding| !contains(&before, binding));
        self.touched.extend(gone.chain(come).map(|binding| Key::Binding(aor.clone(), binding.device)));
        self.bindings.insert(aor.clone(), after);
    }

    fn change_bucket<T>(&mut self, device: DeviceId, change: impl FnOnce(&mut Bucket) -> T) -> T {
        let before = self.bucket(device);
        let mut after = before.clone();
        let result = change(&mut after);
        let has = |bucket: &Bucket, entry| bucket.entries().iter().any(|other| Arc::ptr_eq(other, entry));
        let gone = before.entries().iter().filter(|entry| !has(&after, entry));
        let come = after.entries().iter().filter(|entry| !has(&before, entry));
        self.touched.extend(gone.chain(come).map(|entry| Key::Entry(device, entry.call_ref.clone())));
        after.retire_former();
        let left = before.former().iter().filter(|name| !after.former().contains(name)).map(|name| (*name, None));
        let held = after.former().iter().map(|name| (*name, Some(device)));
        let heirs: Vec<_> = left.chain(held).filter(|(name, heir)| self.heir(*name) != *heir).collect();
        if self.is_shared {
            self.touched.extend(heirs.iter().map(|(name, _)| Key::Heir(*name)));
            if before.open_claim() != after.open_claim() {
                self.touched.insert(Key::Claim(device));
            }
        }
        self.heirs.extend(heirs);
        self.buckets.insert(device, after);
        result
    }

    fn set_messages(&mut self, device: DeviceId, messages: Messages) {
        if self.messages(device) != messages {
            self.touched.insert(Key::Messages(device));
            self.messages.insert(device, messages);
        }
    }

    fn set_call(&mut self, id: HeldCallId, call: Option<Held>) {
        if call.is_some() || self.call(id).is_some() {
            self.touched.insert(Key::Call(id));
            self.calls.insert(id, call);
        }
    }
}

/// What is left of a binding without its remote token, if that is the dead one and calls reach it by another.
fn without_remote(binding: &Binding, token: &PushToken) -> Option<Binding> {
    let mut rest = binding.clone();
    let Some(Tokens::Apple { voip: Some(_), remote, .. }) = rest.push.as_mut().map(|push| &mut push.tokens) else {
        return None;
    };
    remote.take_if(|remote| remote == token).is_some().then_some(rest)
}

fn has_token(binding: &Binding, token: &PushToken) -> bool {
    binding.push.as_ref().is_some_and(|push| &push.prid == token || push.has_token(token))
}
