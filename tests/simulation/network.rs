//! What the network does to messages, by the run's seed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sip_push_proxy::sip::Transport;

use crate::random::Random;

/// Chances are per thousand. A stream loses and reorders nothing.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    pub(crate) loss: usize,
    pub(crate) duplicates: usize,
    /// In milliseconds, both ends included; what differs reorders.
    pub(crate) delay: (usize, usize),
    /// When each connection's last message arrives, by direction.
    last: BTreeMap<(u64, bool), Instant>,
}

impl Network {
    pub(crate) fn calm() -> Self {
        Self { loss: 0, duplicates: 0, delay: (1, 1), last: BTreeMap::new() }
    }

    /// As between most phones and a server.
    pub(crate) fn fair() -> Self {
        Self { loss: 5, duplicates: 1, delay: (10, 60), last: BTreeMap::new() }
    }

    pub(crate) fn rough(random: &mut Random) -> Self {
        let loss = random.below(200);
        let duplicates = random.below(150);
        let slowest = 1 + random.below(400);
        Self { loss, duplicates, delay: (1, slowest), last: BTreeMap::new() }
    }

    /// When the copies of a message arrive.
    pub(crate) fn arrivals(
        &mut self,
        transport: Transport,
        connection: u64,
        inward: bool,
        now: Instant,
        random: &mut Random,
    ) -> Vec<Instant> {
        let mut delay = || {
            let (least, most) = self.delay;
            now + Duration::from_millis((least + random.below(most - least + 1)) as u64)
        };
        if transport.is_reliable() {
            let next = delay();
            let at = self.last.get(&(connection, inward)).map_or(next, |last| next.max(*last));
            self.last.insert((connection, inward), at);
            return vec![at];
        }
        let first = delay();
        let second = delay();
        let mut arrivals = Vec::new();
        if random.below(1000) >= self.loss {
            arrivals.push(first);
        }
        if random.below(1000) < self.duplicates {
            arrivals.push(second);
        }
        arrivals
    }
}
