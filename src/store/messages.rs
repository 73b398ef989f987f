//! Texts that wait here until a browser fetches them: one row for each device, oldest first.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::clock::UnixMillis;

/// How long a text waits.
pub const MESSAGE_TTL: Duration = Duration::from_secs(24 * 3600);
/// How many wait for one device. Over it the oldest goes.
pub const MESSAGES_MAX: usize = 20;

/// A text whose push was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub id: MessageId,
    pub title: Box<str>,
    pub body: Box<str>,
    /// When the push was made.
    pub sent_at: UnixMillis,
}

/// Names a text, so that none is kept twice, and none is shown twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MessageId(pub u64);

impl MessageId {
    /// Of a text and the moment of its push, so that the body of the push can name it, too.
    pub fn of(title: &str, body: &str, sent_at: UnixMillis) -> Self {
        let mut digest = Sha256::new();
        for part in [title, body] {
            digest.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            digest.update(part);
        }
        digest.update(sent_at.0.to_be_bytes());
        Self(digest.finalize().first_chunk().map_or(0, |start| u64::from_be_bytes(*start)))
    }
}

impl fmt::Display for MessageId {
    /// 16 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The texts of a device.
pub(super) type Messages = Arc<[Message]>;

/// What either has, as far as there is room.
pub(super) fn united(ones: &[Message], others: &[Message]) -> Messages {
    let mut all = ones.to_vec();
    all.extend(others.iter().filter(|other| ones.iter().all(|one| one.id != other.id)).cloned());
    all.sort_by_key(|message| (message.sent_at, message.id));
    all.split_off(all.len().saturating_sub(MESSAGES_MAX)).into()
}

/// Without those of `cutoff` or earlier.
pub(super) fn fresh(messages: &[Message], cutoff: UnixMillis) -> Messages {
    messages.iter().filter(|message| message.sent_at > cutoff).cloned().collect()
}

/// What is of this moment or earlier has waited long enough; nothing is while the clock has not run that long.
pub(super) fn cutoff(now: UnixMillis) -> Option<UnixMillis> {
    let ttl = u64::try_from(MESSAGE_TTL.as_millis()).unwrap_or(u64::MAX);
    now.0.checked_sub(ttl).map(UnixMillis)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(number: u64) -> Message {
        Message { id: MessageId(number), title: "".into(), body: "".into(), sent_at: UnixMillis(number) }
    }

    fn numbers(messages: &[Message]) -> Vec<u64> {
        messages.iter().map(|message| message.id.0).collect()
    }

    #[test]
    fn the_newest_are_kept_once_each_and_in_order() {
        let max = u64::try_from(MESSAGES_MAX).unwrap();
        let all = [3, 1, 2, 3].into_iter().fold(Messages::default(), |all, number| united(&all, &[message(number)]));
        assert_eq!(numbers(&all), [1, 2, 3]);
        let many = (1..=max + 5).fold(Messages::default(), |all, number| united(&all, &[message(number)]));
        assert_eq!(numbers(&many), (6..=max + 5).collect::<Vec<_>>());
        assert_eq!(numbers(&united(&all, &[message(2), message(9)])), [1, 2, 3, 9]);
        assert_eq!(numbers(&fresh(&all, UnixMillis(2))), [3]);
        assert_eq!(cutoff(UnixMillis(1000)), None);
        assert_eq!(cutoff(UnixMillis(1000).after(MESSAGE_TTL)), Some(UnixMillis(1000)));
    }
}
