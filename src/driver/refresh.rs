//! The pace of refreshes upstream: which devices this node refreshes, when, and how many at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Worker, now};
use crate::binding::{Binding, DeviceId, Home};
use crate::clock::Now;
use crate::metrics::RefreshResult;
use crate::proxy::Input;
use crate::store::Table;

/// How often devices that are due get their turn. What falls into one of these goes out together.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const LOOKS_PER_SECOND: usize = 10;
/// How often it is looked whether there is anything at all.
const IDLE_LOOK_EVERY: Duration = Duration::from_secs(1);
/// Refreshes in a second: what the smallest softswitch takes from phones that all come back at once.
const PER_SECOND_MIN: usize = 100;
/// Or so many that all devices could have their turn in this time, as with an Expires of ten minutes phones that are
/// awake would: who has a million of them has a softswitch for it. One that is slow all the same is asked more slowly,
/// see [`crate::proxy::Proxy::refresh_room`].
const ROUND_S: usize = 500;
/// Steps in which one turn passes over devices of other nodes.
const STEPS_MAX: usize = 16;

/// Only one worker of a node has it.
#[derive(Debug)]
pub struct Pace {
    next: Instant,
    /// Whether the operator knows that the softswitch refuses.
    has_warned: bool,
}

impl Pace {
    pub fn new(now: Instant) -> Self {
        Self { next: now, has_warned: false }
    }

    /// When [`Pace::take`] is to be called.
    pub fn poll_timeout(&self) -> Instant {
        self.next
    }

    /// The devices whose turn it is, `room` at most. After a start there may be many that are overdue: they have their
    /// turn at the same pace.
    pub fn take(&mut self, table: &Table, home: Option<Home>, room: usize, now: Now) -> Vec<Arc<Binding>> {
        if now.instant < self.next {
            return Vec::new();
        }
        let (count, wait) = match table.refresh_outlook() {
            Some((count, first)) => (count, first.since(now.unix)),
            None => (0, IDLE_LOOK_EVERY),
        };
        self.next = now.instant + wait.clamp(LOOK_EVERY, IDLE_LOOK_EVERY);
        let in_a_second = PER_SECOND_MIN.max(count / ROUND_S);
        let most = room.min(in_a_second / LOOKS_PER_SECOND);
        let mut ours = Vec::new();
        for _ in 0..STEPS_MAX {
            let due = table.take_refreshes(now.unix, most.saturating_sub(ours.len()));
            if due.is_empty() {
                break;
            }
            ours.extend(due.into_iter().filter(|binding| is_ours_to_refresh(binding, home)));
        }
        ours
    }
}

/// Whether this node is the one that refreshes a device: the node that has its flow. A device that is passed over comes
/// up again, sooner at first and at least every ten minutes, so whoever takes over for a node that is gone need only
/// say so here.
fn is_ours_to_refresh(binding: &Binding, home: Option<Home>) -> bool {
    binding.home.is_none() || binding.home == home
}

impl Worker {
    /// Gives the devices whose turn it is to the proxy.
    pub(super) fn refresh(&mut self) {
        let Some(pace) = &mut self.pace else { return };
        let now = now();
        if now.instant < pace.poll_timeout() {
            return;
        }
        let home = self.guidance.borrow().policy.home;
        for binding in pace.take(self.shared.store.table(), home, self.proxy.refresh_room(), now) {
            self.handle(Input::Refresh(binding));
        }
    }

    pub(super) fn refreshed(&mut self, device: DeviceId, result: RefreshResult, reason: &str) {
        self.shared.metrics.refresh(result);
        match result {
            RefreshResult::Granted => tracing::debug!(%device, "refreshed upstream"),
            RefreshResult::TryAgain => tracing::debug!(%device, reason, "not refreshed upstream, later again"),
            RefreshResult::Challenged | RefreshResult::Refused => {
                tracing::info!(%device, reason, "not refreshed upstream until the phone registers");
                if let Some(pace) = self.pace.as_mut().filter(|pace| !pace.has_warned) {
                    pace.has_warned = true;
                    tracing::warn!(
                        reason,
                        "the softswitch refuses what register.upstream_refresh sends: let it take REGISTERs from this \
                         address without a password, or keep registrations longer than phones sleep"
                    );
                }
            }
        }
    }
}
