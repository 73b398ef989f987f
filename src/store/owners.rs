//! Who has a push token: one may serve several AORs (the accounts of an app), but not any number of them.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;

use parking_lot::RwLock;
use smallvec::SmallVec;

use crate::binding::{Aor, Binding, DeviceId, PushTarget};
use crate::clock::UnixMillis;

/// Parts that are locked each by itself: each REGISTER changes one.
const SHARDS: usize = 64;

/// Devices by the hashes of their tokens, so that a look at one token costs those that have it and not those that there
/// are. The tokens themselves are in the bindings; two that have one hash are told apart there.
#[derive(Debug)]
pub(super) struct Owners {
    hasher: RandomState,
    shards: Box<[RwLock<BTreeSet<Place>>]>,
}

impl Default for Owners {
    fn default() -> Self {
        let shards = std::iter::repeat_with(RwLock::default).take(SHARDS);
        Self { hasher: RandomState::default(), shards: shards.collect() }
    }
}

/// Kept small, there may be a million. Of one token the registration that is newest comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    token: u64,
    registered_at: Reverse<UnixMillis>,
    device: DeviceId,
}

impl Owners {
    pub(super) fn insert(&self, binding: &Binding) {
        let Some(target) = &binding.push else { return };
        for place in self.places_of(target, binding) {
            if let Some(shard) = self.shard(&place) {
                shard.write().insert(place);
            }
        }
    }

    pub(super) fn remove(&self, binding: &Binding) {
        let Some(target) = &binding.push else { return };
        for place in self.places_of(target, binding) {
            if let Some(shard) = self.shard(&place) {
                shard.write().remove(&place);
            }
        }
    }

    /// Whether `most` other AORs have registered a token of the binding later than its own AOR has. `device` leads from a
    /// device to its binding.
    pub(super) fn has_too_many(
        &self,
        binding: &Binding,
        most: usize,
        device: impl Fn(DeviceId) -> Option<Arc<Binding>>,
    ) -> bool {
        let Some(target) = &binding.push else { return false };
        let mut others: SmallVec<[Aor; 8]> = SmallVec::new();
        for own in self.places_of(target, binding) {
            let Some(places) = self.shard(&own).map(|shard| shard.read()) else { continue };
            let first = Place { registered_at: Reverse(UnixMillis(u64::MAX)), device: DeviceId([0; 10]), ..own };
            // Nothing after its own place is newer, whether the place is there or, for this moment, is not.
            for place in places.range(first..own) {
                let Some(other) = device(place.device) else { continue };
                if !other.shares_token(binding) {
                    continue;
                }
                if other.aor == binding.aor {
                    break;
                }
                if !others.contains(&other.aor) {
                    others.push(other.aor.clone());
                }
                if others.len() >= most {
                    return true;
                }
            }
        }
        false
    }

    fn shard(&self, place: &Place) -> Option<&RwLock<BTreeSet<Place>>> {
        self.shards.get(usize::try_from(place.token).unwrap_or_default() % SHARDS)
    }

    fn places_of(&self, target: &PushTarget, binding: &Binding) -> impl Iterator<Item = Place> {
        let (registered_at, device) = (Reverse(binding.registered_at), binding.device);
        let tokens = target.ranked().flat_map(|target| target.each().map(|token| (target.provider, token)));
        tokens.map(move |token| Place { token: self.hasher.hash_one(token), registered_at, device })
    }
}
