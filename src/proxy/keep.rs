//! Changes that nobody waits for and that must not be lost: a refused one is written again.
//!
//! Without that a bucket could keep a live entry, or a claim, for ever.

use std::time::Duration;

use super::event::{Contacts, Effect};
use super::{Proxy, SavePurpose, Timer};
use crate::binding::DeviceId;
use crate::clock::{Now, UnixMillis};
use crate::store::{Applied, Change, StoreError};

/// Pause before a refused change is written again.
const AGAIN_AFTER: Duration = Duration::from_secs(5);
/// Refused changes that wait; more are given up.
const REFUSED_MAX: usize = 10_000;

/// A change until it is durable.
#[derive(Debug)]
pub(super) struct Kept {
    pub change: Change,
    /// Devices that may have registered while this change was on its way, too late for the call and too early to be
    /// told that they missed it.
    pub unaware: Vec<DeviceId>,
    /// When that call came.
    pub since: UnixMillis,
}

impl Proxy {
    pub(super) fn keep(&mut self, change: Change) {
        self.keep_all(Kept { change, unaware: Vec::new(), since: UnixMillis::default() });
    }

    pub(super) fn keep_all(&mut self, kept: Kept) {
        self.save(kept.change.clone(), SavePurpose::Keep(Box::new(kept)));
    }

    pub(super) fn kept(
        &mut self,
        kept: Box<Kept>,
        result: &Result<Applied, StoreError>,
        contacts: &dyn Contacts,
        now: Now,
    ) {
        if result.is_ok() {
            for binding in kept.unaware.iter().filter_map(|device| contacts.of_device(*device)) {
                if self.has_come_since(&binding, kept.since, contacts) {
                    // How long it was away before is not known any more.
                    self.report_missed(&binding, Duration::ZERO, contacts, now);
                }
            }
        } else if self.refused.len() < REFUSED_MAX {
            self.tickets += 1;
            self.refused.insert(self.tickets, kept);
            self.timers.set(Timer::Again(self.tickets), now.instant + AGAIN_AFTER);
        } else {
            self.effects.push_back(Effect::Fault("the store refuses too much; a change is lost"));
        }
    }

    pub(super) fn keep_again(&mut self, number: u64) {
        if let Some(kept) = self.refused.remove(&number) {
            self.save(kept.change.clone(), SavePurpose::Keep(kept));
        }
    }
}
