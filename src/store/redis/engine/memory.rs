//! Memory: the rows that readers see, and what is known of them beyond that.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::super::change::HeldCallId;
use super::super::super::draft::{Key, Row, Value};
use super::Engine;
use super::effect::Effect;
use crate::binding::{Aor, DeviceId};

/// What memory knows of an AOR beyond its rows.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    pub(super) version: u64,
    /// The resynchronisation that met it last.
    pub(super) pass: u32,
    pub(super) calls: Vec<HeldCallId>,
    /// Former names of devices.
    pub(super) names: Vec<DeviceId>,
}

impl Engine {
    pub(super) fn version(&self, aor: &Aor) -> u64 {
        self.known.get(aor).map_or(0, |known| known.version)
    }

    pub(super) fn has_rows(&self, aor: &Aor) -> bool {
        let has_more = |known: &Known| !known.calls.is_empty() || !known.names.is_empty();
        !self.table.lookup(aor).is_empty() || self.known.get(aor).is_some_and(has_more)
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
                Key::Binding(..) | Key::Entry(..) | Key::Claim(_) => {}
            }
        }
    }

    pub(super) fn met(&mut self, aor: &Aor, version: u64) {
        let known = self.known.entry(aor.clone()).or_default();
        known.version = version;
        known.pass = self.pass;
    }

    /// Of an AOR without rows nothing need be known while nothing is under way for it.
    pub(super) fn rest(&mut self, aor: &Aor) {
        if !self.has_rows(aor) && self.is_idle(aor) {
            self.known.remove(aor);
        }
    }

    pub(super) fn wake(&mut self, rows: &[Row]) {
        let woken = rows.iter().filter_map(|(_, value)| match value {
            Some(Value::Binding(binding)) => Some(Effect::Woken(Arc::clone(binding))),
            _ => None,
        });
        self.effects.extend(woken);
    }
}

/// What makes rows `from` into rows `to`.
pub(super) fn difference(from: &BTreeMap<Key, Value>, to: &BTreeMap<Key, Value>) -> Vec<Row> {
    let gone = from.keys().filter(|key| !to.contains_key(*key)).map(|key| (key.clone(), None));
    let come = to.iter().filter(|(key, value)| from.get(*key) != Some(*value));
    gone.chain(come.map(|(key, value)| (key.clone(), Some(value.clone())))).collect()
}
