//! Several services of one phone, in the order of its preference: what came of each, and what it comes to.

use std::time::Duration;

use super::{Outcome, Replaced, Sent, TokenHash};
use crate::binding::{Provider, PushTarget};
use crate::clock::UnixMillis;

/// Whether there is an account for a push, and whether the same may follow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Routed {
    Nowhere,
    Once,
    Repeatable,
}

/// An attempt by one service.
pub(super) struct Try {
    pub(super) provider: Provider,
    pub(super) token: TokenHash,
    pub(super) route: Routed,
    pub(super) took: Duration,
    pub(super) sent: Sent,
}

/// The services that a push was tried by.
#[derive(Default)]
pub(super) struct Tried(Vec<Try>);

impl Tried {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the next service is not to be tried any more: the push was taken, or it is not to be sent at all.
    pub(super) fn add(&mut self, one: Try) -> bool {
        let is_over = matches!(one.sent.outcome, Outcome::Accepted | Outcome::Withdrawn | Outcome::Limited);
        self.0.push(one);
        is_over
    }

    /// Why each of them did not take it, in their order.
    pub(super) fn reasons(&self) -> String {
        let reasons = self.0.iter().filter_map(|one| Some((one.provider, one.sent.outcome.reason()?)));
        reasons.map(|(provider, reason)| format!("{provider}: {reason}")).collect::<Vec<_>>().join(", ")
    }

    /// What the push came to, and by which service: the outcome that leaves most to be hoped for; with what was tried by
    /// others. `target`: whose first service it is that nothing was tried by.
    pub(super) fn result(mut self, target: &PushTarget) -> (Try, Vec<Replaced>) {
        let reasons = (self.0.len() > 1).then(|| self.reasons());
        let since = self.0.iter().filter_map(|one| dead_since(&one.sent.outcome)).min();
        // Of two that are alike the first.
        let best = self.0.iter().enumerate().rev().max_by_key(|(_, one)| hope(&one.sent.outcome));
        let Some(place) = best.map(|(place, _)| place) else {
            let (provider, token) = (target.provider, TokenHash::of(&target.prid));
            let (sent, took) = (Sent::unsent(Outcome::Withdrawn), Duration::ZERO);
            return (Try { provider, token, route: Routed::Nowhere, took, sent }, Vec::new());
        };
        let mut decisive = self.0.remove(place);
        if let Some(all) = reasons {
            decisive.sent.outcome = in_words(decisive.sent.outcome, all.into(), since);
        }
        let others = self.0.into_iter().filter(|one| one.route != Routed::Nowhere);
        let replaced = |one: Try| Replaced { provider: one.provider, outcome: one.sent.outcome, took: one.took };
        (decisive, others.map(replaced).collect())
    }
}

fn dead_since(outcome: &Outcome) -> Option<UnixMillis> {
    if let Outcome::TokenDead { since, .. } = outcome { *since } else { None }
}

/// A token is dead only when all are.
fn hope(outcome: &Outcome) -> u8 {
    match outcome {
        Outcome::Accepted => 9,
        Outcome::Withdrawn => 8,
        Outcome::Limited => 7,
        Outcome::TryAgain { .. } => 6,
        Outcome::Skipped { .. } => 5,
        Outcome::Locked { .. } => 4,
        Outcome::Refused { .. } => 3,
        Outcome::Misfit { .. } => 2,
        Outcome::Doubted { .. } => 1,
        Outcome::TokenDead { .. } => 0,
    }
}

/// With what all of them said. `since`: when the first of the tokens died, where that is known.
fn in_words(outcome: Outcome, all: Box<str>, since: Option<UnixMillis>) -> Outcome {
    match outcome {
        Outcome::TokenDead { .. } => Outcome::TokenDead { since, reason: all },
        Outcome::TryAgain { trouble, after, .. } => Outcome::TryAgain { trouble, after, reason: all },
        Outcome::Refused { .. } => Outcome::Refused { reason: all },
        Outcome::Locked { .. } => Outcome::Locked { reason: all },
        Outcome::Misfit { .. } => Outcome::Misfit { reason: all },
        Outcome::Doubted { .. } => Outcome::Doubted { reason: all },
        Outcome::Skipped { after, .. } => Outcome::Skipped { after, reason: all },
        outcome @ (Outcome::Accepted | Outcome::Limited | Outcome::Withdrawn) => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binding::{PushToken, Tokens};
    use crate::push::Trouble;

    fn one(provider: Provider, outcome: Outcome) -> Try {
        let (token, took) = (TokenHash::of(&PushToken::new(provider.name())), Duration::from_millis(1));
        Try { provider, token, route: Routed::Once, took, sent: Sent::unsent(outcome) }
    }

    fn tried(outcomes: impl IntoIterator<Item = Outcome>) -> Tried {
        let mut tried = Tried::default();
        for (provider, outcome) in [Provider::RuStore, Provider::Fcm, Provider::Hms].into_iter().zip(outcomes) {
            tried.add(one(provider, outcome));
        }
        tried
    }

    fn target() -> PushTarget {
        let (provider, prid, tokens) = (Provider::RuStore, PushToken::new("rustore"), Tokens::Single);
        PushTarget { provider, prid, param: "".into(), tokens, others: Box::default() }
    }

    fn result(outcomes: impl IntoIterator<Item = Outcome>) -> (Provider, Outcome) {
        let (decisive, _) = tried(outcomes).result(&target());
        (decisive.provider, decisive.sent.outcome)
    }

    fn dead(since: Option<u64>) -> Outcome {
        Outcome::dead(since.map(UnixMillis), "410")
    }

    #[test]
    fn a_token_is_dead_only_when_all_are_and_since_the_first_of_them() {
        assert_eq!(result([dead(Some(7))]), (Provider::RuStore, dead(Some(7))));
        let all = Outcome::dead(Some(UnixMillis(5)), "rustore: 410, fcm: 410, hms: 410");
        assert_eq!(result([dead(Some(7)), dead(None), dead(Some(5))]), (Provider::RuStore, all));
        let misfit = Outcome::misfit("rustore: 410, fcm: 403");
        assert_eq!(result([dead(None), Outcome::misfit("403")]), (Provider::Fcm, misfit));
    }

    #[test]
    fn what_may_be_tried_again_is_and_what_was_taken_is_taken() {
        let passing = |reason: &str| Outcome::try_again(Trouble::Failing, None, reason);
        let both = passing("rustore: 503, fcm: 404");
        assert_eq!(result([passing("503"), Outcome::refused("404")]), (Provider::RuStore, both));
        assert_eq!(result([dead(None), Outcome::Accepted]), (Provider::Fcm, Outcome::Accepted));
        assert_eq!(result([dead(None), Outcome::Limited]), (Provider::Fcm, Outcome::Limited));
        assert_eq!(result([]), (Provider::RuStore, Outcome::Withdrawn));
    }

    #[test]
    fn the_next_service_is_tried_until_one_takes_it() {
        let mut tried = Tried::default();
        assert!(!tried.add(one(Provider::Fcm, dead(None))));
        assert!(!tried.add(one(Provider::Hms, Outcome::busy())));
        assert_eq!(tried.reasons(), "fcm: 410, hms: too many pushes are under way");
        for over in [Outcome::Accepted, Outcome::Limited, Outcome::Withdrawn] {
            assert!(tried.add(one(Provider::RuStore, over)));
        }
    }

    #[test]
    fn what_others_were_asked_for_is_told_with_the_one_that_decides() {
        let (decisive, replaced) = tried([dead(None), Outcome::Accepted]).result(&target());
        assert_eq!((decisive.provider, decisive.token), (Provider::Fcm, TokenHash::of(&PushToken::new("fcm"))));
        let told: Vec<_> = replaced.into_iter().map(|other| (other.provider, other.outcome)).collect();
        assert_eq!(told, [(Provider::RuStore, dead(None))]);
        // One that was never asked is no attempt.
        let mut tried = Tried::default();
        tried.add(Try { route: Routed::Nowhere, ..one(Provider::RuStore, Outcome::refused("off")) });
        tried.add(one(Provider::Fcm, Outcome::Accepted));
        assert!(tried.result(&target()).1.is_empty());
    }
}
