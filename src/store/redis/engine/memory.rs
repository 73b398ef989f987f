//! Memory: the rows that readers see, and what is known of them beyond that.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::super::change::{EntryState, HeldCall, HeldCallId};
use super::super::super::draft::{Key, Row, Value};
use super::super::super::messages;
use super::super::super::table::Held;
use super::super::super::{LeftCall, News};
use super::super::record::{Position, Record, Version};
use super::Engine;
use super::effect::Effect;
use crate::binding::{Aor, DeviceId};
use crate::clock::UnixMillis;

/// What memory knows of an AOR beyond its rows.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    pub(super) version: Version,
    /// This node's last change that Redis said it has. A hash without it has lost it.
    pub(super) mark: Option<Position>,
    /// The resynchronisation that met it last.
    pub(super) pass: u32,
    pub(super) calls: Vec<HeldCallId>,
    /// Former names of devices.
    pub(super) names: Vec<DeviceId>,
}

impl Engine {
    pub(super) fn version(&self, aor: &Aor) -> Version {
        self.known.get(aor).map(|known| known.version).unwrap_or_default()
    }

    pub(super) fn has_rows(&self, aor: &Aor) -> bool {
        let has_more = |known: &Known| !known.calls.is_empty() || !known.names.is_empty();
        let has_bindings = !self.table.lookup(aor).is_empty() || !self.table.orphans_of(aor).is_empty();
        has_bindings || self.known.get(aor).is_some_and(has_more)
    }

    pub(super) fn rows(&self, aor: &Aor) -> BTreeMap<Key, Value> {
        let known = self.known.get(aor);
        let (calls, names) = known.map(|known| (&*known.calls, &*known.names)).unwrap_or_default();
        self.table.rows(aor, calls, names)
    }

    pub(super) fn show(&mut self, aor: &Aor, rows: &[Row]) {
        if rows.is_empty() {
            return;
        }
        self.table.apply(aor, rows);
        let known = self.known.entry(aor.clone()).or_default();
        known.pass = self.pass;
        for (key, value) in rows {
            match key {
                Key::Call(id) => {
                    known.calls.retain(|other| other != id);
                    known.calls.extend(value.is_some().then_some(*id));
                }
                Key::Heir(name) => {
                    known.names.retain(|other| other != name);
                    known.names.extend(value.is_some().then_some(*name));
                }
                Key::Binding(..) | Key::Entry(..) | Key::Claim(_) | Key::Messages(_) => {}
            }
        }
    }

    pub(super) fn met(&mut self, aor: &Aor, version: Version) {
        let known = self.known.entry(aor.clone()).or_default();
        known.version = version;
        known.pass = self.pass;
        self.unread.remove(aor);
    }

    /// Redis has this node's changes up to here.
    pub(super) fn has_mark(&mut self, aor: &Aor, mark: Position) {
        self.known.entry(aor.clone()).or_default().mark = Some(mark);
    }

    /// Whether Redis once had what is not in the record.
    pub(super) fn is_loss(&self, aor: &Aor, record: &Record) -> bool {
        let Some(known) = self.known.get(aor) else { return false };
        let has_lost_ours = known.mark.is_some_and(|mark| !record.mark.is_some_and(|done| done.covers(&mark)));
        has_lost_ours || (record.version.number < known.version.number && self.has_rows(aor))
    }

    /// What memory and a record that has lost something come to. Nobody can tell what was lost from what was removed,
    /// so all is kept, but for this node's own calls: of these, and of who has yet to see them, memory has the last
    /// word.
    pub(super) fn merged(&self, aor: &Aor, record: &Record) -> BTreeMap<Key, Value> {
        let known = self.rows(aor);
        let own_call = |value: &Value| match value {
            Value::Call(held) if self.is_own(held) => Some(Arc::clone(&held.call)),
            Value::Call(_)
            | Value::Binding(_)
            | Value::Entry(_)
            | Value::Claim(_)
            | Value::Heir(_)
            | Value::Messages(_) => None,
        };
        let own: Vec<_> = record.rows.values().filter_map(own_call).collect();
        let is_own = |key: &Key, value: &Value| match (key, value) {
            (Key::Call(id), _) => own.iter().any(|call| call.id == *id),
            (Key::Entry(_, call_ref), Value::Entry(entry)) if entry.state == EntryState::Live => {
                own.iter().any(|call| call.call_ref == *call_ref)
            }
            (Key::Binding(..) | Key::Entry(..) | Key::Claim(_) | Key::Heir(_) | Key::Messages(_), _) => false,
        };
        let mut rows = record.rows.clone();
        rows.retain(|key, value| known.contains_key(key) || !is_own(key, value));
        for (key, mut value) in known {
            let is_kept = match (&key, rows.get(&key), &mut value) {
                (_, Some(Value::Binding(theirs)), Value::Binding(ours)) => theirs.registered_at <= ours.registered_at,
                (_, Some(Value::Entry(_)), Value::Entry(ours)) => ours.state == EntryState::Missed,
                (_, Some(Value::Messages(theirs)), Value::Messages(ours)) => {
                    *ours = messages::united(theirs, ours);
                    true
                }
                (_, Some(_), _) => false,
                // Its node says itself whether it is still held.
                (_, None, Value::Call(held)) => held.owner.is_none() || record.version.number == 0,
                (Key::Entry(device, _) | Key::Claim(device) | Key::Messages(device), None, _) => {
                    rows.contains_key(&Key::Binding(aor.clone(), *device))
                }
                (_, None, _) => true,
            };
            if is_kept {
                rows.insert(key, value);
            }
        }
        rows
    }

    /// Whether this start of this node took the call or took it up.
    fn is_own(&self, held: &Held) -> bool {
        held.owner.is_none() && (held.run == self.identity.run || self.adopted.contains(&held.call.id))
    }

    /// Of an AOR without rows nothing need be known while nothing is under way for it.
    pub(super) fn rest(&mut self, aor: &Aor) {
        if !self.has_rows(aor) && self.is_idle(aor) {
            self.known.remove(aor);
        }
    }

    /// Shows what others did, an earlier start of this node among them, and sees to what it means for calls.
    pub(super) fn show_news(&mut self, aor: &Aor, rows: &[Row], now: UnixMillis) {
        let (mut news, mut lost, mut left) = (Vec::new(), Vec::new(), Vec::new());
        for (key, value) in rows {
            match (key, value) {
                (Key::Binding(_, device), Some(Value::Binding(binding))) => {
                    let known = self.table.by_device(*device);
                    if known.is_none_or(|known| !known.is_same_registration(binding)) {
                        news.push(News::Woken(Arc::clone(binding)));
                    }
                }
                (Key::Call(id), Some(Value::Call(held))) if held.owner.is_none() => {
                    left.extend((!self.is_holding(*id)).then(|| held.clone()));
                }
                (Key::Call(id), value) => {
                    self.taking.remove(id);
                    if self.is_holding(*id) {
                        let owner = match value {
                            Some(Value::Call(held)) => held.owner.as_ref(),
                            _ => None,
                        };
                        lost.push((*id, owner.and_then(|owner| self.nodes.home(owner))));
                    }
                }
                _ => {}
            }
        }
        self.show(aor, rows);
        for (id, by) in lost {
            // If its new node dies, too, it may come back.
            self.adopted.remove(&id);
            self.leftovers.retain(|left| left.call.id != id);
            news.push(News::TakenOver { aor: aor.clone(), id, by });
        }
        self.effects.extend(news.into_iter().map(Effect::News));
        for held in left {
            self.left_over(&held, now);
        }
    }

    /// Whether a call is this node's.
    pub(super) fn is_holding(&self, id: HeldCallId) -> bool {
        self.table.held(id).is_some_and(|held| held.owner.is_none())
    }

    /// Gives a call out to be taken up, once.
    pub(super) fn adopt(&mut self, id: HeldCallId, from: Option<Arc<str>>) {
        if let Some(call) = self.table.call(id)
            && self.adopted.insert(id)
        {
            self.leftovers.push(LeftCall { call: HeldCall::clone(&call), from });
        }
    }
}

/// What makes rows `from` into rows `to`.
pub(super) fn difference(from: &BTreeMap<Key, Value>, to: &BTreeMap<Key, Value>) -> Vec<Row> {
    let gone = from.keys().filter(|key| !to.contains_key(*key)).map(|key| (key.clone(), None));
    let come = to.iter().filter(|(key, value)| from.get(*key) != Some(*value));
    gone.chain(come.map(|(key, value)| (key.clone(), Some(value.clone())))).collect()
}
