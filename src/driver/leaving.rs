//! Devices that a change takes away, for those who watch events.

use crate::binding::{Aor, DeviceId};
use crate::clock::UnixMillis;
use crate::events::{Events, What};
use crate::store::Change;

/// Told once the change is durable.
#[derive(Debug)]
pub(super) struct Leaving {
    aor: Aor,
    devices: Vec<DeviceId>,
    reason: &'static str,
    at: UnixMillis,
}

impl Leaving {
    pub(super) fn of(change: &Change, now: UnixMillis) -> Option<Self> {
        let (devices, reason): (Vec<_>, _) = match change {
            Change::Register { put, remove, .. } => {
                let ended = remove.iter().filter(|removal| removal.heir.is_none()).map(|removal| removal.device);
                let asleep = put.iter().filter(|binding| !binding.is_reachable(now)).map(|binding| binding.device);
                (ended.chain(asleep).collect(), "it unregistered")
            }
            Change::TokenDead { device, .. } => (vec![*device], "its push token is dead"),
            // Only the operator's side makes it, and tells of it.
            Change::Remove { .. }
            | Change::Hold { .. }
            | Change::Settle { .. }
            | Change::Claim { .. }
            | Change::Reported { .. }
            | Change::Release { .. }
            | Change::Refreshed { .. }
            | Change::BindToken { .. }
            | Change::Message { .. }
            | Change::PickUp { .. }
            | Change::GiveBack { .. } => return None,
        };
        (!devices.is_empty()).then(|| Self { aor: change.aor().clone(), devices, reason, at: now })
    }

    pub(super) fn publish(&self, events: &Events) {
        for device in &self.devices {
            let (aor, device, reason) = (self.aor.clone(), *device, self.reason);
            events.publish(self.at, || What::ClientOffline { aor, device, reason });
        }
    }
}
