//! A push service with a script: what becomes of each token's pushes.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use sip_push_proxy::push::{Notice, Outcome, Push, Trouble};

/// What it was asked for, and what it will say.
#[derive(Debug)]
pub(crate) struct PushService {
    /// Everything sent, in order.
    pub(crate) sent: Vec<Push>,
    /// Outcomes to come, by PRID; then `Accepted`.
    pub(crate) script: BTreeMap<String, VecDeque<Outcome>>,
    /// From asking to its answer.
    pub(crate) delay: Duration,
    /// Chance of passing trouble, per thousand.
    pub(crate) failures: usize,
    /// Call_refs in missed_calls pushes that were accepted, with the PRID.
    pub(crate) reported: Vec<(String, String)>,
}

impl PushService {
    pub(crate) fn new() -> Self {
        Self {
            sent: Vec::new(),
            script: BTreeMap::new(),
            delay: Duration::from_millis(20),
            failures: 0,
            reported: Vec::new(),
        }
    }

    pub(crate) fn outcome(&mut self, push: &Push, roll: usize) -> Outcome {
        let prid = push.target.prid.reveal();
        let scripted = self.script.get_mut(prid).and_then(VecDeque::pop_front);
        scripted.unwrap_or_else(|| match roll < self.failures {
            true => Outcome::TryAgain { trouble: Trouble::Failing, after: None, reason: "busy".into() },
            false => Outcome::Accepted,
        })
    }

    /// The provider took it.
    pub(crate) fn accepted(&mut self, push: &Push) {
        if let Notice::MissedCalls(entries) = &push.notice {
            let prid = push.target.prid.reveal();
            self.reported.extend(entries.iter().map(|entry| (prid.to_owned(), entry.call_ref.to_string())));
        }
    }
}
