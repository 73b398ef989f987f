//! A push service with a script: what becomes of each token's pushes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::time::{Duration, Instant};

use sip_push_proxy::binding::{Provider, PushTarget, Tokens};
use sip_push_proxy::push::{Breaker, Cause, Notice, NoticeKind, Outcome, Pass, Push, TokenHash, Trouble};

/// What it was asked for, and what it will say.
#[derive(Debug)]
pub(crate) struct PushService {
    /// Everything sent, in order.
    pub(crate) sent: Vec<Push>,
    /// Those of them that it took, whether or not the proxy lives to hear of it.
    pub(crate) taken: Vec<Push>,
    /// Outcomes to come, by PRID; then `Accepted`.
    pub(crate) script: BTreeMap<String, VecDeque<Outcome>>,
    /// Whose call pushes must not be repeated.
    pub(crate) not_repeatable: Vec<Provider>,
    /// From asking to its answer.
    pub(crate) delay: Duration,
    /// Chance of passing trouble, per thousand.
    pub(crate) failures: usize,
    /// What stands before it, as before a real one, where a story is about that.
    pub(crate) breaker: Option<Breaker>,
    /// It has trouble with every push that it gets in these times.
    pub(crate) outages: Vec<Range<Instant>>,
    /// What it then says of when to come again.
    pub(crate) retry_after: Option<Duration>,
    /// It has trouble with each push to these, by PRID.
    pub(crate) bad: Vec<String>,
    /// Tokens that it does not know any more, by PRID.
    pub(crate) dead: BTreeSet<String>,
    /// Call_refs in missed_calls pushes that were accepted, with the PRID.
    pub(crate) reported: Vec<(String, String)>,
}

impl PushService {
    pub(crate) fn new() -> Self {
        Self {
            sent: Vec::new(),
            taken: Vec::new(),
            script: BTreeMap::new(),
            not_repeatable: Vec::new(),
            delay: Duration::from_millis(20),
            failures: 0,
            breaker: None,
            outages: Vec::new(),
            retry_after: None,
            bad: Vec::new(),
            dead: BTreeSet::new(),
            reported: Vec::new(),
        }
    }

    /// By the best of the phone's services that takes it; what came of it there, as [`Self::outcome`] says.
    pub(crate) fn deliver(&mut self, push: Push, roll: usize, now: Instant) -> (Push, Outcome, Option<Pass>) {
        let services: Vec<_> = push.target.ranked().cloned().collect();
        let mut tried = None;
        for target in services {
            let push = Push { target: PushTarget { others: Box::default(), ..target }, ..push.clone() };
            let (outcome, pass) = self.outcome(&push, roll, now);
            self.sent.push(push.clone());
            let is_taken = outcome == Outcome::Accepted;
            if is_taken {
                self.taken.push(push.clone());
            }
            tried = Some((push, outcome, pass));
            if is_taken {
                break;
            }
        }
        tried.unwrap_or((push, Outcome::Withdrawn, None))
    }

    /// What comes of a push, and the breaker's leave with which it was sent.
    pub(crate) fn outcome(&mut self, push: &Push, roll: usize, now: Instant) -> (Outcome, Option<Pass>) {
        let is_for_calls_only = matches!(push.target.tokens, Tokens::Apple { remote: None, .. });
        if is_for_calls_only && push.notice.kind() != NoticeKind::Invite {
            return (Outcome::Refused { reason: "a voip token takes calls only".into() }, None);
        }
        let Some(breaker) = &mut self.breaker else { return (self.answer(push, roll), None) };
        let pass = match breaker.admit(TokenHash::of(&push.target.prid), now + push.ttl, now) {
            Ok(pass) => pass,
            Err(after) => return (Outcome::Skipped { after, reason: "not asked for a moment".into() }, None),
        };
        let has_trouble = self.outages.iter().any(|outage| outage.contains(&now))
            || self.bad.iter().any(|bad| bad == push.target.prid.reveal());
        let after = self.retry_after;
        let trouble = || Outcome::TryAgain { trouble: Trouble::Failing, after, reason: "503".into() };
        (if has_trouble { trouble() } else { self.answer(push, roll) }, Some(pass))
    }

    fn answer(&mut self, push: &Push, roll: usize) -> Outcome {
        let prid = push.target.prid.reveal();
        if self.dead.contains(prid) {
            return Outcome::TokenDead { since: None, reason: "unregistered".into() };
        }
        let scripted = self.script.get_mut(prid).and_then(VecDeque::pop_front);
        scripted.unwrap_or_else(|| match roll < self.failures {
            true => Outcome::TryAgain { trouble: Trouble::Failing, after: None, reason: "busy".into() },
            false => Outcome::Accepted,
        })
    }

    /// The breaker learns what came of it.
    pub(crate) fn answered(&mut self, outcome: &Outcome, pass: Option<Pass>, now: Instant) {
        let (Some(breaker), Some(pass)) = (&mut self.breaker, pass) else { return };
        if let Outcome::TryAgain { after, .. } = outcome {
            breaker.failed(pass, Cause::Answer, *after, now);
        } else {
            breaker.succeeded();
        }
    }

    /// The provider took it.
    pub(crate) fn accepted(&mut self, push: &Push) {
        if let Notice::MissedCalls(entries) = &push.notice {
            let prid = push.target.prid.reveal();
            self.reported.extend(entries.iter().map(|entry| (prid.to_owned(), entry.call_ref.to_string())));
        }
    }
}
