//! How many clients there may be: so many that are connected, and a few that have not said who they are.
//!
//! Those few keep nobody out: the one that has been here the longest makes room for the next.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Clients that have not said who they are.
const STRANGERS: usize = 32;

#[derive(Debug)]
pub(super) struct Places {
    most: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    connected: usize,
    /// The one that came first is in front. A sender that is dropped tells its client.
    strangers: VecDeque<(u64, oneshot::Sender<()>)>,
    numbers: u64,
}

/// One client's, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    number: u64,
    /// `None`: the client is connected.
    wanted: Option<oneshot::Receiver<()>>,
}

impl Places {
    /// `most` clients may be connected.
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, taken: Mutex::default() })
    }

    /// For somebody who comes.
    pub(super) fn take(self: &Arc<Self>) -> Place {
        let mut taken = self.taken.lock();
        if taken.strangers.len() >= STRANGERS {
            taken.strangers.pop_front();
        }
        let (sender, wanted) = oneshot::channel();
        let number = taken.numbers;
        taken.numbers = number.wrapping_add(1);
        taken.strangers.push_back((number, sender));
        Place { places: Arc::clone(self), number, wanted: Some(wanted) }
    }
}

impl Place {
    /// Keeps it for a client that is connected; `false` when as many are as there may be.
    pub(super) fn keep(&mut self) -> bool {
        let mut taken = self.places.taken.lock();
        let has_room = taken.connected < self.places.most;
        if has_room && self.wanted.take().is_some() {
            taken.connected += 1;
            taken.strangers.retain(|(number, _)| *number != self.number);
        }
        has_room
    }

    /// Ends when the place goes to somebody else. Safe to drop while waiting.
    pub(super) async fn is_wanted(&mut self) {
        match &mut self.wanted {
            Some(wanted) => drop(wanted.await),
            None => std::future::pending().await,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock();
        match self.wanted {
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
    fn who_does_not_say_who_it_is_makes_room() {
        let places = Places::new(1);
        let mut strangers: Vec<_> = (0..STRANGERS).map(|_| places.take()).collect();
        assert!(strangers.iter_mut().all(|place| place.is_wanted().now_or_never().is_none()));
        let mut last = places.take();
        let wanted: Vec<_> = strangers.iter_mut().map(|place| place.is_wanted().now_or_never().is_some()).collect();
        assert_eq!((wanted[0], wanted[1..].contains(&true)), (true, false));
        assert!(last.keep());
        assert!(last.is_wanted().now_or_never().is_none());
        assert!(!strangers[1].keep(), "one may be connected");
        drop(last);
        assert!(strangers[1].keep());
        drop(strangers);
        let taken = places.taken.lock();
        assert_eq!((taken.connected, taken.strangers.len()), (0, 0));
    }
}
