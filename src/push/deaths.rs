//! How many tokens of one account have died lately, and whether that can be true (`push.dead_per_min`).
//!
//! A provider that calls a great many tokens dead at once says that something is wrong with what it is asked by: another
//! project's key, a gateway with an empty table. Bindings that end by it do not come back before their phones register.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// In which so many may die.
const WINDOW: Duration = Duration::from_secs(60);
/// How long the operator is told of it after the last one that was not believed.
const ALARM: Duration = Duration::from_secs(600);

/// Of one account.
#[derive(Debug, Default)]
pub(super) struct Deaths {
    /// The newest of the last minute, believed or not; as many as may be.
    lately: VecDeque<Instant>,
    /// When one was not believed last.
    doubted: Option<Instant>,
}

/// What to think of a token that is said to be dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Belief {
    Believed,
    Doubted {
        /// Whether the operator has not been told yet.
        is_news: bool,
    },
}

impl Deaths {
    /// One more token is said to be dead. `most`: how many may be in a minute; 0 for any number.
    pub(super) fn died(&mut self, most: usize, now: Instant) -> Belief {
        if most == 0 {
            return Belief::Believed;
        }
        self.lately.retain(|at| now.saturating_duration_since(*at) < WINDOW);
        let is_full = self.lately.len() >= most;
        if is_full {
            self.lately.pop_front();
        }
        // Those that are not believed count, too: as long as they come, no binding is to end.
        self.lately.push_back(now);
        if !is_full {
            return Belief::Believed;
        }
        let is_news = !self.is_alarming(now);
        self.doubted = Some(now);
        Belief::Doubted { is_news }
    }

    /// Whether bindings have been kept for it, lately.
    pub(super) fn is_alarming(&self, now: Instant) -> bool {
        self.doubted.is_some_and(|at| now.saturating_duration_since(at) < ALARM)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "the only way to have an Instant at all")]
    fn start() -> Instant {
        Instant::now()
    }

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn so_many_in_a_minute_are_believed_and_no_more() {
        let (mut deaths, now) = (Deaths::default(), start());
        for _ in 0..3 {
            assert_eq!(deaths.died(3, now), Belief::Believed);
        }
        assert!(!deaths.is_alarming(now));
        assert_eq!(deaths.died(3, now + s(1)), Belief::Doubted { is_news: true });
        assert_eq!(deaths.died(3, now + s(2)), Belief::Doubted { is_news: false }, "it is told once");
        assert!(deaths.is_alarming(now + s(2)));
    }

    #[test]
    fn while_they_die_so_fast_none_is_believed() {
        let (mut deaths, now) = (Deaths::default(), start());
        let believed = (0..600).filter(|second| deaths.died(30, now + s(*second)) == Belief::Believed).count();
        assert_eq!(believed, 30);
        assert_eq!(deaths.lately.len(), 30);
    }

    #[test]
    fn one_now_and_then_is_always_believed() {
        let (mut deaths, now) = (Deaths::default(), start());
        assert!((0..100).all(|number| deaths.died(3, now + s(20 * number)) == Belief::Believed));
    }

    #[test]
    fn the_alarm_ends_some_time_after_the_last_one() {
        let (mut deaths, now) = (Deaths::default(), start());
        deaths.died(1, now);
        deaths.died(1, now + s(1));
        assert!(deaths.is_alarming(now + s(600)) && !deaths.is_alarming(now + s(601)));
        assert_eq!(deaths.died(1, now + s(700)), Belief::Believed);
        assert_eq!(deaths.died(1, now + s(701)), Belief::Doubted { is_news: true });
    }

    #[test]
    fn without_a_limit_all_are_believed() {
        let (mut deaths, now) = (Deaths::default(), start());
        assert!((0..1000).all(|_| deaths.died(0, now) == Belief::Believed));
        assert!(deaths.lately.is_empty());
    }
}
