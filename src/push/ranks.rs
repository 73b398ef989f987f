//! Several services of one phone, in the order of its preference: what came of each, and what it comes to.

use super::{Outcome, Sent};
use crate::binding::Provider;
use crate::clock::UnixMillis;

/// The services that a push was tried by.
#[derive(Default)]
pub(super) struct Tried(Vec<(Provider, Sent)>);

impl Tried {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the next service is not to be tried any more: the push was taken, or it is not to be sent at all.
    pub(super) fn add(&mut self, provider: Provider, sent: Sent) -> bool {
        let is_over = matches!(sent.outcome, Outcome::Accepted | Outcome::Withdrawn | Outcome::Limited);
        self.0.push((provider, sent));
        is_over
    }

    /// Why each of them did not take it, in their order.
    pub(super) fn reasons(&self) -> String {
        let reasons = self.0.iter().filter_map(|(provider, sent)| Some((provider, sent.outcome.reason()?)));
        reasons.map(|(provider, reason)| format!("{provider}: {reason}")).collect::<Vec<_>>().join(", ")
    }

    /// What the push came to, and by which service: the outcome that leaves most to be hoped for. `first` is the service
    /// that nothing was tried by.
    pub(super) fn result(self, first: Provider) -> (Provider, Sent) {
        let reasons = (self.0.len() > 1).then(|| self.reasons());
        let since = self.0.iter().filter_map(|(_, sent)| dead_since(&sent.outcome)).min();
        // Of two that are alike the first.
        let best = self.0.into_iter().rev().max_by_key(|(_, sent)| hope(&sent.outcome));
        let Some((provider, mut sent)) = best else {
            return (first, Sent::unsent(Outcome::Withdrawn));
        };
        if let Some(all) = reasons {
            sent.outcome = in_words(sent.outcome, all.into(), since);
        }
        (provider, sent)
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
    use crate::push::Trouble;

    fn result(outcomes: impl IntoIterator<Item = Outcome>) -> (Provider, Outcome) {
        let mut tried = Tried::default();
        for (provider, outcome) in [Provider::RuStore, Provider::Fcm, Provider::Hms].into_iter().zip(outcomes) {
            tried.add(provider, Sent::unsent(outcome));
        }
        let (provider, sent) = tried.result(Provider::RuStore);
        (provider, sent.outcome)
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
        assert!(!tried.add(Provider::Fcm, Sent::unsent(dead(None))));
        assert!(!tried.add(Provider::Hms, Sent::unsent(Outcome::busy())));
        assert_eq!(tried.reasons(), "fcm: 410, hms: too many pushes are under way");
        for over in [Outcome::Accepted, Outcome::Limited, Outcome::Withdrawn] {
            assert!(tried.add(Provider::RuStore, Sent::unsent(over)));
        }
    }
}
