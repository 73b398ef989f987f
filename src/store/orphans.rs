//! Buckets whose device has no binding at the moment: it has unregistered, or its token is dead, and may come back under
//! the same name. Their AOR is in no other place, and rows go by AOR.

use dashmap::DashMap;
use smallvec::SmallVec;

use crate::binding::{Aor, DeviceId};

/// See the module's text. Only the writer of the table changes it; a device is in it while its bucket has entries.
#[derive(Debug, Default)]
pub(super) struct Orphans {
    aors: DashMap<DeviceId, Aor>,
    devices: DashMap<Aor, SmallVec<[DeviceId; 1]>>,
}

impl Orphans {
    pub(super) fn note(&self, device: DeviceId, aor: &Aor) {
        if self.aors.insert(device, aor.clone()).is_none() {
            self.devices.entry(aor.clone()).or_default().push(device);
        }
    }

    pub(super) fn forget(&self, device: DeviceId) {
        let Some((_, aor)) = self.aors.remove(&device) else { return };
        self.devices.remove_if_mut(&aor, |_, devices| {
            devices.retain(|other| *other != device);
            devices.is_empty()
        });
    }

    pub(super) fn aor(&self, device: DeviceId) -> Option<Aor> {
        self.aors.get(&device).map(|aor| aor.clone())
    }

    pub(super) fn of_aor(&self, aor: &Aor) -> SmallVec<[DeviceId; 1]> {
        self.devices.get(aor).map(|devices| devices.clone()).unwrap_or_default()
    }
}
