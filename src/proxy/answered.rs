//! Calls that a 2xx has ended and whose ACK has not been seen. A 2xx that is lost is the phone's to repeat (RFC 3261
//! §13.3.1.4); so that a later run still knows where it belongs, the record of the call stays until then.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use super::keep::Kept;
use super::{Proxy, Timer};
use crate::clock::Now;

/// An ACK may go another way than by this proxy. By then a phone has repeated its 2xx twice.
const ACK_WAIT: Duration = Duration::from_secs(2);
/// Calls beyond it are settled at once.
const CALLS_MAX: usize = 10_000;

/// How each of them is to be settled, by a hash of its Call-ID.
#[derive(Debug, Default)]
pub(super) struct AnsweredCalls(BTreeMap<u64, Kept>);

impl AnsweredCalls {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Proxy {
    /// Settles a call that was answered, as soon as its caller has surely heard of it.
    pub(super) fn settle_when_acknowledged(&mut self, call_id: &[u8], kept: Kept, now: Now) {
        if self.is_draining || self.answered.0.len() >= CALLS_MAX {
            return self.keep_all(kept);
        }
        let key = key(call_id);
        if let Some(other) = self.answered.0.insert(key, kept) {
            // Another request of the same call.
            self.keep_all(other);
        }
        self.timers.set(Timer::Acknowledged(key), now.instant + ACK_WAIT);
    }

    /// An ACK of a 2xx came by.
    pub(super) fn acknowledged(&mut self, call_id: &[u8]) {
        if !self.answered.is_empty() {
            self.settle_answered(key(call_id));
        }
    }

    pub(super) fn settle_answered(&mut self, key: u64) {
        if let Some(kept) = self.answered.0.remove(&key) {
            self.timers.cancel(&Timer::Acknowledged(key));
            self.keep_all(kept);
        }
    }

    pub(super) fn settle_all_answered(&mut self) {
        while let Some((key, kept)) = self.answered.0.pop_first() {
            self.timers.cancel(&Timer::Acknowledged(key));
            self.keep_all(kept);
        }
    }
}

fn key(call_id: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    call_id.hash(&mut hasher);
    hasher.finish()
}
