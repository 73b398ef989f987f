//! When registrations upstream are due to be refreshed (`register.upstream_refresh`): ordered by it, so that a look costs
//! what is due and not what there is.

use std::collections::{BTreeSet, HashMap};
use std::sync::OnceLock;
use std::time::Duration;

use parking_lot::Mutex;

use crate::binding::{Binding, DeviceId};
use crate::clock::UnixMillis;

/// How long after an attempt the next one may follow at the least, should nothing come of it.
const AGAIN_MIN: Duration = Duration::from_secs(5);
/// And at the most: so long may the softswitch be back before it hears of a device.
const AGAIN_MAX: Duration = Duration::from_secs(600);

/// Nothing is kept, and nothing costs, until [`Refreshes::begin`].
#[derive(Debug, Default)]
pub(super) struct Refreshes(OnceLock<Mutex<Agenda>>);

#[derive(Debug, Default)]
struct Agenda {
    due: BTreeSet<(UnixMillis, DeviceId)>,
    /// Those that stand elsewhere than at [`Binding::refresh_due`], because they were tried and nothing has come of it
    /// yet.
    put_off: HashMap<DeviceId, UnixMillis>,
}

impl Refreshes {
    /// Takes these, and from here on every binding.
    pub(super) fn begin(&self, bindings: impl Iterator<Item = (UnixMillis, DeviceId)>) {
        let mut agenda = self.0.get_or_init(Mutex::default).lock();
        *agenda = Agenda::default();
        agenda.due.extend(bindings);
    }

    pub(super) fn has_begun(&self) -> bool {
        self.0.get().is_some()
    }

    pub(super) fn insert(&self, binding: &Binding) {
        if let (Some(agenda), Some(due)) = (self.0.get(), binding.refresh_due()) {
            agenda.lock().due.insert((due, binding.device));
        }
    }

    pub(super) fn remove(&self, binding: &Binding) {
        if let (Some(agenda), Some(due)) = (self.0.get(), binding.refresh_due()) {
            let mut agenda = agenda.lock();
            let place = agenda.put_off.remove(&binding.device).unwrap_or(due);
            agenda.due.remove(&(place, binding.device));
        }
    }

    /// How many there are, and when the first is due.
    pub(super) fn outlook(&self) -> Option<(usize, UnixMillis)> {
        let agenda = self.0.get()?.lock();
        let (first, _) = agenda.due.first()?;
        Some((agenda.due.len(), *first))
    }

    /// Up to `most` that are due, those first that were due first. Each comes again after as long a time as it has been
    /// due already, which is a back-off that needs no count of attempts; what is written about it meanwhile puts it
    /// where it belongs.
    pub(super) fn take<T>(
        &self,
        now: UnixMillis,
        most: usize,
        look: impl Fn(DeviceId) -> Option<(UnixMillis, T)>,
    ) -> Vec<T> {
        let Some(agenda) = self.0.get() else { return Vec::new() };
        let mut agenda = agenda.lock();
        let mut taken = Vec::new();
        while taken.len() < most {
            let Some((place, device)) = agenda.due.first().copied().filter(|(place, _)| *place <= now) else { break };
            agenda.due.remove(&(place, device));
            agenda.put_off.remove(&device);
            // What was read while the agenda began may have changed since; then it stands at another place as well.
            let Some((due, found)) = look(device).filter(|(due, _)| *due <= now) else { continue };
            let again = now.after(now.since(due).clamp(AGAIN_MIN, AGAIN_MAX));
            agenda.due.insert((again, device));
            agenda.put_off.insert(device, again);
            taken.push(found);
        }
        taken
    }
}
