//! Limits on clients: a number of connected ones, and a few that have not authenticated yet.
//!
//! Unauthenticated clients cannot block others: the oldest one is evicted when there are too many.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Unauthenticated clients at one time.
const STRANGERS: usize = 32;

#[derive(Debug)]
pub(super) struct Places {
    most: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    connected: usize,
    /// Unauthenticated clients, oldest first. Dropping the sender evicts the client.
    strangers: VecDeque<(u64, oneshot::Sender<()>)>,
    next_number: u64,
}

/// A client's place, freed when dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    number: u64,
    /// `None` once the client is connected.
    eviction: Option<oneshot::Receiver<()>>,
}

impl Places {
    /// Allows `most` connected clients.
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, taken: Mutex::default() })
    }

    /// Connected clients.
    pub(super) fn connected(&self) -> usize {
        self.taken.lock().connected
    }

    /// For a client that has not authenticated yet.
    pub(super) fn take(self: &Arc<Self>) -> Place {
        let mut taken = self.taken.lock();
        if taken.strangers.len() >= STRANGERS {
            taken.strangers.pop_front();
        }
        let (sender, eviction) = oneshot::channel();
        let number = taken.next_number;
        taken.next_number = number.wrapping_add(1);
        taken.strangers.push_back((number, sender));
        Place { places: Arc::clone(self), number, eviction: Some(eviction) }
    }
}

impl Place {
    /// Turns it into the place of a connected client; `false` if there are too many.
    pub(super) fn keep(&mut self) -> bool {
        let mut taken = self.places.taken.lock();
        let has_room = taken.connected < self.places.most;
        if has_room && self.eviction.take().is_some() {
            taken.connected += 1;
            taken.strangers.retain(|(number, _)| *number != self.number);
        }
        has_room
    }

    /// Waits until the client is evicted. Cancel-safe.
    pub(super) async fn revoked(&mut self) {
        match &mut self.eviction {
            Some(eviction) => drop(eviction.await),
            None => std::future::pending().await,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock();
        match self.eviction {
            Some(_) => taken.strangers.retain(|(number, _)| *number != self.number),
            None => taken.connected -= 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn the_oldest_unauthenticated_client_is_evicted() {
        let places = Places::new(1);
        let mut strangers: Vec<_> = (0..STRANGERS).map(|_| places.take()).collect();
        assert!(strangers.iter_mut().all(|place| place.revoked().now_or_never().is_none()));
        let mut last = places.take();
        let revoked: Vec<_> = strangers.iter_mut().map(|place| place.revoked().now_or_never().is_some()).collect();
        assert_eq!((revoked[0], revoked[1..].contains(&true)), (true, false));
        assert!(last.keep());
        assert!(last.revoked().now_or_never().is_none());
        assert!(!strangers[1].keep(), "one may be connected");
        drop(last);
        assert!(strangers[1].keep());
        drop(strangers);
        let taken = places.taken.lock();
        assert_eq!((taken.connected, taken.strangers.len()), (0, 0));
    }
}
