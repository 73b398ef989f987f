//! Where devices were a moment ago: a phone that has changed its address may take its old Contact out by a REGISTER of its
//! own, which must not take the phone out.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use parking_lot::Mutex;

use crate::binding::{Binding, DeviceId};
use crate::clock::UnixMillis;
use crate::sip::Uri;

/// How long after the new registration a REGISTER about the old Contact may come: as long as a request that is no INVITE
/// may take twice (64*T1, RFC 3261 §17.1.2.2), for the challenge and for the answer to it. Later it is the word of a phone
/// that is there again and logs out.
const MEMORY: Duration = Duration::from_secs(64);

/// The Contacts that devices had before their present ones. Only the writer of the table notes any, and lets go of those
/// that are too old.
#[derive(Debug, Default)]
pub(super) struct FormerContacts {
    left: DashMap<DeviceId, Left>,
    /// In the order in which they were left.
    order: Mutex<VecDeque<(UnixMillis, DeviceId)>>,
}

#[derive(Debug)]
struct Left {
    binding: Arc<Binding>,
    at: UnixMillis,
}

impl FormerContacts {
    /// The device had `earlier` and has `present` now.
    pub(super) fn note(&self, earlier: &Arc<Binding>, present: &Binding) {
        if earlier.contact == present.contact || is_at_same(&earlier.contact, &present.contact) {
            return;
        }
        let (device, at) = (present.device, present.registered_at);
        self.left.insert(device, Left { binding: Arc::clone(earlier), at });
        let mut order = self.order.lock();
        order.push_back((at, device));
        while let Some((left_at, device)) = order.front().copied().filter(|(left_at, _)| at.since(*left_at) > MEMORY) {
            order.pop_front();
            self.left.remove_if(&device, |_, left| left.at == left_at);
        }
    }

    pub(super) fn has_left(&self, device: DeviceId, contact: &Uri<'_>, now: UnixMillis) -> bool {
        self.left.get(&device).is_some_and(|left| {
            let is_there = Uri::parse(&left.binding.contact).is_ok_and(|known| known.is_at_same(contact));
            is_there && now.since(left.at) <= MEMORY
        })
    }
}

fn is_at_same(contact: &[u8], other: &[u8]) -> bool {
    Uri::parse(contact).is_ok_and(|contact| Uri::parse(other).is_ok_and(|other| contact.is_at_same(&other)))
}
