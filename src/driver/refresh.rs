//! The pace of refreshes upstream, and of reminders to register: which devices have their turn on this node, when, and how
//! many at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::{Worker, now};
use crate::binding::{Binding, DeviceId, Home};
use crate::clock::Now;
use crate::metrics::RefreshResult;
use crate::proxy::Input;
use crate::store::{ReminderRule, Table};

/// How often devices that are due get their turn. What falls into one of these goes out together.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const LOOKS_PER_SECOND: usize = 10;
/// How often it is looked whether there is anything at all.
const IDLE_LOOK_EVERY: Duration = Duration::from_secs(1);
/// Turns in a second: what the smallest softswitch takes from phones that all come back at once.
const PER_SECOND_MIN: usize = 100;
/// Or so many that all devices could have their turn in this time, as with an Expires of ten minutes phones that are
/// awake would: who has a million of them has a softswitch for it. One that is slow all the same is asked more slowly,
/// see [`crate::proxy::Proxy::refresh_room`]; so is a push service ([`crate::proxy::Proxy::reminder_room`]).
const ROUND_S: usize = 500;
/// Steps in which one turn passes over devices of other nodes.
const STEPS_MAX: usize = 16;

/// What devices have their turn for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// `register.upstream_refresh`.
    Refresh,
    /// `push.refresh`.
    Reminder,
}

/// Only one worker of a node has it.
#[derive(Debug)]
pub struct Pace {
    turn: Turn,
    next: Instant,
    /// Whether the operator knows that the softswitch refuses.
    has_warned: bool,
}

impl Pace {
    pub fn new(turn: Turn, now: Instant) -> Self {
        Self { turn, next: now, has_warned: false }
    }

    /// When [`Pace::take`] is to be called.
    pub fn poll_timeout(&self) -> Instant {
        self.next
    }

    /// The devices whose turn it is, `room` at most. After a start there may be many that are overdue: they have their
    /// turn at the same pace.
    pub fn take(
        &mut self,
        table: &Table,
        is_ours: impl Fn(&Binding) -> bool,
        room: usize,
        now: Now,
    ) -> Vec<Arc<Binding>> {
        if now.instant < self.next {
            return Vec::new();
        }
        let outlook = match self.turn {
            Turn::Refresh => table.refresh_outlook(),
            Turn::Reminder => table.reminder_outlook(),
        };
        let (count, wait) = match outlook {
            Some((count, first)) => (count, first.since(now.unix)),
            None => (0, IDLE_LOOK_EVERY),
        };
        self.next = now.instant + wait.clamp(LOOK_EVERY, IDLE_LOOK_EVERY);
        let in_a_second = PER_SECOND_MIN.max(count / ROUND_S);
        let most = room.min(in_a_second / LOOKS_PER_SECOND);
        let mut ours = Vec::new();
        for _ in 0..STEPS_MAX {
            let left = most.saturating_sub(ours.len());
            let due = match self.turn {
                Turn::Refresh => table.take_refreshes(now.unix, left),
                Turn::Reminder => table.take_reminders(now.unix, left),
            };
            if due.is_empty() {
                break;
            }
            ours.extend(due.into_iter().filter(|binding| is_ours(binding)));
        }
        ours
    }
}

/// Whether this node, at `own`, is the one that refreshes or reminds a device: the node that has its flow, and when that is
/// gone one of the `others`, the same for all who see the same nodes. A device that is passed over comes up again: to be
/// refreshed sooner at first and at least every ten minutes, to be reminded at its next turn.
pub fn is_ours_to_refresh(binding: &Binding, own: Option<Home>, others: &[Home]) -> bool {
    match (binding.home, own) {
        (None, _) | (_, None) => true,
        (Some(home), Some(own)) if home == own => true,
        (Some(home), Some(_)) if others.contains(&home) => false,
        (Some(_), Some(own)) => {
            let rank =
                |home: &Home| Sha256::new().chain_update(home.to_string()).chain_update(binding.device.0).finalize();
            others.iter().all(|other| rank(&own) < rank(other))
        }
    }
}

impl Worker {
    /// Gives the devices whose turn it is to the proxy.
    pub(super) fn give_turns(&mut self) {
        for binding in self.whose_turn(Turn::Refresh) {
            self.handle(Input::Refresh(binding));
        }
        for binding in self.whose_turn(Turn::Reminder) {
            self.handle(Input::Remind(binding));
        }
    }

    fn whose_turn(&mut self, turn: Turn) -> Vec<Arc<Binding>> {
        let (pace, room) = match turn {
            Turn::Refresh => (&mut self.pace, self.proxy.refresh_room()),
            Turn::Reminder => (&mut self.reminders, self.proxy.reminder_room()),
        };
        let Some(pace) = pace else { return Vec::new() };
        let now = now();
        if now.instant < pace.poll_timeout() {
            return Vec::new();
        }
        let own = self.guidance.borrow().policy.home;
        let others = self.shared.store.homes();
        let is_ours = |binding: &Binding| is_ours_to_refresh(binding, own, &others);
        pace.take(self.shared.store.table(), is_ours, room, now)
    }

    /// The first worker keeps the pace of reminders while there are any.
    pub(super) fn pace_reminders(&mut self, rule: Option<ReminderRule>) {
        match rule {
            Some(_) if self.index == 0 => {
                self.reminders.get_or_insert_with(|| Pace::new(Turn::Reminder, now().instant));
            }
            Some(_) | None => self.reminders = None,
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
                        "the softswitch refuses what register.upstream_refresh sends: let it take REGISTERs without a \
                         password from the address of register.refresh_from alone, or give register.refresh_user an account \
                         there that may register for all users, or keep registrations longer than phones sleep"
                    );
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::board::tests::binding;
    use super::*;
    use crate::sip::Transport;

    #[test]
    fn device_of_a_node_that_is_gone_is_refreshed_by_one_of_the_others() {
        let home = |port: u16| Home { transport: Transport::Udp, address: ([192, 0, 2, 1], port).into() };
        let nodes = [home(1), home(2), home(3)];
        let who = |binding: &Binding| -> Vec<usize> {
            let others = |own: usize| nodes.iter().copied().filter(|home| *home != nodes[own]).collect::<Vec<_>>();
            (0..3).filter(|own| is_ours_to_refresh(binding, Some(nodes[*own]), &others(*own))).collect()
        };
        let mut shares = [0; 3];
        for number in 0..300 {
            let mut device = Binding::clone(&binding("a", number));
            device.device.0[..2].copy_from_slice(&u16::try_from(number).unwrap().to_be_bytes());
            device.home = Some(nodes[1]);
            assert_eq!(who(&device), [1], "its own node");
            device.home = Some(home(9));
            let [taker] = who(&device)[..] else { panic!("{:?}", who(&device)) };
            shares[taker] += 1;
            device.home = None;
            assert_eq!(who(&device), [0, 1, 2], "a store of one node has no others");
        }
        assert!(shares.iter().all(|share| *share > 50), "{shares:?}");
    }
}
