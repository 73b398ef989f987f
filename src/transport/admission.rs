//! How many connections there may be, in all and from one address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::drops::DropReason;
use crate::guard::Source;

/// Counts the open connections against their limits.
#[derive(Debug)]
pub(super) struct Admission {
    connections_max: usize,
    per_source_max: usize,
    by_source: Mutex<HashMap<Source, usize>>,
    open: watch::Sender<usize>,
}

impl Admission {
    pub(super) fn new(connections_max: usize, per_source_max: usize) -> Arc<Self> {
        let (open, _) = watch::channel(0);
        Arc::new(Self { connections_max, per_source_max, by_source: Mutex::default(), open })
    }

    /// A place for one more connection, held until the value is dropped. The last quarter of all places is for those who
    /// are trusted, and for connections that we open.
    pub(super) fn admit(self: &Arc<Self>, peer: IpAddr) -> Result<Admitted, DropReason> {
        self.admit_within(peer, self.connections_max - self.connections_max / 4, self.per_source_max)
    }

    /// A place for a connection of a peer that is trusted, or that we open: how many one peer gets of these is our own
    /// affair.
    pub(super) fn admit_trusted(self: &Arc<Self>, peer: IpAddr) -> Result<Admitted, DropReason> {
        self.admit_within(peer, self.connections_max, usize::MAX)
    }

    fn admit_within(
        self: &Arc<Self>,
        peer: IpAddr,
        connections_max: usize,
        per_source_max: usize,
    ) -> Result<Admitted, DropReason> {
        let source = Source::of(peer);
        let mut by_source = self.by_source.lock();
        let count = by_source.get(&source).copied().unwrap_or_default();
        if *self.open.borrow() >= connections_max {
            return Err(DropReason::ConnectionLimit);
        }
        if count >= per_source_max {
            return Err(DropReason::SourceLimit);
        }
        by_source.insert(source, count + 1);
        self.open.send_modify(|open| *open += 1);
        Ok(Admitted { admission: Arc::clone(self), source })
    }

    pub(super) fn open(&self) -> usize {
        *self.open.borrow()
    }

    /// Returns once no connection is left.
    pub(super) async fn empty(&self) {
        // The sender is in `self`, so waiting cannot fail.
        let _ = self.open.subscribe().wait_for(|open| *open == 0).await;
    }
}

/// One connection's place among those that are allowed.
#[derive(Debug)]
pub(super) struct Admitted {
    admission: Arc<Admission>,
    source: Source,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut by_source = self.admission.by_source.lock();
        if let Some(count) = by_source.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                by_source.remove(&self.source);
            }
        }
        self.admission.open.send_modify(|open| *open -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_hold_until_a_place_is_given_back() {
        let admission = Admission::new(3, 2);
        let (a, b): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let first = admission.admit(a).unwrap();
        let _second = admission.admit(a).unwrap();
        assert_eq!(admission.admit(a).unwrap_err(), DropReason::SourceLimit);
        let _third = admission.admit(b).unwrap();
        assert_eq!(admission.admit(b).unwrap_err(), DropReason::ConnectionLimit);
        assert_eq!(admission.open(), 3);
        drop(first);
        let _again = admission.admit(a).unwrap();
    }

    #[test]
    fn the_last_quarter_is_for_those_who_are_trusted() {
        let admission = Admission::new(8, 8);
        let (stranger, switch): (IpAddr, IpAddr) = ("198.51.100.1".parse().unwrap(), "192.0.2.20".parse().unwrap());
        let strangers: Vec<_> = (0..6).map(|_| admission.admit(stranger).unwrap()).collect();
        assert_eq!(admission.admit(stranger).unwrap_err(), DropReason::ConnectionLimit);
        let trusted: Vec<_> = (0..2).map(|_| admission.admit_trusted(switch).unwrap()).collect();
        assert_eq!(admission.admit_trusted(switch).unwrap_err(), DropReason::ConnectionLimit);
        drop((strangers, trusted));
        assert_eq!(admission.open(), 0);
    }

    #[test]
    fn an_ipv6_subscriber_is_one_source() {
        let admission = Admission::new(9, 1);
        let _first = admission.admit("2001:db8::1".parse().unwrap()).unwrap();
        assert!(admission.admit("2001:db8::ffff:2".parse().unwrap()).is_err());
        let _other = admission.admit("2001:db8:0:1::1".parse().unwrap()).unwrap();
        drop((_first, _other));
        assert!(admission.by_source.lock().is_empty());
    }
}
