//! Addresses that no connection could be opened to. What is too large for a datagram waits for a connection first
//! (RFC 3261 §18.1.1), for seconds where something swallows the attempt: so that is not tried for each request.
//!
//! Only the transport's own word counts. What is answered, or closed, may be so for what a phone has sent.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Until the first of the next attempts; each that fails doubles it.
const PAUSE: Duration = Duration::from_secs(60);
const PAUSE_MAX: Duration = Duration::from_secs(3600);
/// More than that many addresses a softswitch does not have; those that would be tried next are forgotten.
const ADDRESSES_MAX: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Streams(BTreeMap<SocketAddr, Closed>);

#[derive(Debug, Clone, Copy)]
struct Closed {
    until: Instant,
    pause: Duration,
    /// Whether an attempt has been let through.
    is_probed: bool,
}

impl Streams {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a connection to this address is worth trying. One request is the probe when a pause is over; others go on
    /// without.
    pub(super) fn may_try(&mut self, remote: SocketAddr, now: Instant) -> bool {
        let Some(closed) = self.0.get_mut(&remote) else { return true };
        if now < closed.until {
            return false;
        }
        (closed.until, closed.is_probed) = (now + closed.pause, true);
        true
    }

    /// No connection could be opened.
    pub(super) fn failed(&mut self, remote: SocketAddr, now: Instant) {
        let pause = match self.0.get(&remote) {
            None => PAUSE,
            Some(closed) if closed.is_probed => (closed.pause * 2).min(PAUSE_MAX),
            // One of those that were under way when the first failed.
            Some(_) => return,
        };
        if self.0.len() >= ADDRESSES_MAX && !self.0.contains_key(&remote) {
            let next = self.0.iter().min_by_key(|(_, closed)| closed.until).map(|(address, _)| *address);
            next.and_then(|next| self.0.remove(&next));
        }
        self.0.insert(remote, Closed { until: now + pause, pause, is_probed: false });
    }

    /// Something came by a connection to this address.
    pub(super) fn worked(&mut self, remote: SocketAddr) {
        self.0.remove(&remote);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: usize) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], 1024 + u16::try_from(number).unwrap()))
    }

    fn start() -> Instant {
        #[expect(clippy::disallowed_methods, reason = "the only way to have an Instant at all")]
        Instant::now()
    }

    #[test]
    fn one_attempt_is_let_through_when_the_pause_is_over() {
        let (mut streams, now, remote) = (Streams::default(), start(), address(1));
        assert!(streams.may_try(remote, now));
        streams.failed(remote, now);
        streams.failed(remote, now);
        assert!(!streams.may_try(remote, now + PAUSE / 2));
        assert!(streams.may_try(address(2), now));
        let later = now + PAUSE;
        assert!(streams.may_try(remote, later));
        assert!(!streams.may_try(remote, later), "one is enough");
        streams.failed(remote, later);
        assert!(!streams.may_try(remote, later + PAUSE));
        assert!(streams.may_try(remote, later + PAUSE * 2));
        streams.worked(remote);
        assert!(streams.is_empty() && streams.may_try(remote, later));
    }

    #[test]
    fn few_addresses_are_remembered() {
        let (mut streams, now) = (Streams::default(), start());
        for number in 0..2 * ADDRESSES_MAX {
            streams.failed(address(number), now + Duration::from_millis(number as u64));
        }
        assert_eq!(streams.0.len(), ADDRESSES_MAX);
        assert!(streams.may_try(address(0), now) && !streams.may_try(address(2 * ADDRESSES_MAX - 1), now));
    }
}
