//! What all transactions share: the settings, the secret, their timers, and the messages to be sent.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;

use super::key::Keys;
use super::timer::{Timer, TimerQueue};
use super::{ClientId, Outgoing, SendTag, ServerId, Settings};
use crate::sip::Destination;

/// One live transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Owner {
    Server(ServerId),
    Client(ClientId),
}

#[derive(Debug)]
pub(super) struct Common {
    pub(super) settings: Settings,
    pub(super) keys: Keys,
    pub(super) timers: TimerQueue<(Owner, Timer)>,
    /// A few for each message received and one for each timer expired; the driver empties it after each of both.
    pub(super) sends: VecDeque<Outgoing>,
}

impl Common {
    pub(super) fn new(settings: Settings, seed: u64) -> Self {
        Self { settings, keys: Keys::new(seed), timers: TimerQueue::new(), sends: VecDeque::new() }
    }

    pub(super) fn send(&mut self, destination: Destination, bytes: Bytes, tag: SendTag) {
        self.sends.push_back(Outgoing { destination, bytes, tag });
    }

    /// Starts a timer that ran `doublings` times before, unless it is not used on this transport.
    pub(super) fn start(&mut self, owner: Owner, timer: Timer, reliable: bool, doublings: u8, now: Instant) {
        if let Some(duration) = timer.duration(&self.settings, reliable, doublings) {
            self.timers.set((owner, timer), now + duration);
        }
    }

    pub(super) fn stop(&mut self, owner: Owner, timer: Timer) {
        self.timers.cancel(&(owner, timer));
    }
}
