//! What every push by one endpoint of an account passes: its queue, its breaker, and what the operator learns of its trouble.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::breaker::{self, Breaker, Cause, Pass};
use super::{Outcome, Push, Sent, Sign, TokenHash, Trouble, clock};

/// The same complaint is logged once in this time.
const LOG_PAUSE: Duration = Duration::from_secs(60);
/// Who did not even have this long to answer, because the call's wait was nearly over, has not failed.
const PATIENCE_MIN: Duration = Duration::from_secs(1);

/// What one account may do at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Pushes that may wait for an answer of the provider.
    pub in_flight: usize,
    /// Those and the ones that wait for their turn. A provider that hangs must leave room for the others.
    pub queue: usize,
    pub breaker: breaker::Settings,
}

impl Default for Limits {
    fn default() -> Self {
        Self { in_flight: 1000, queue: 5000, breaker: breaker::Settings::default() }
    }
}

/// One for each account, or for each of its endpoints.
#[derive(Debug)]
pub(super) struct Gate {
    /// `fcm project demo-project`.
    name: Box<str>,
    /// Whether pushes go to hosts that the tokens name, so that one that does not answer says nothing of the others.
    has_many_hosts: bool,
    queue: Semaphore,
    in_flight: Semaphore,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    breaker: Breaker,
    /// Why the account is in trouble: what the last failure said.
    complaint: Box<str>,
    /// Whether the provider refuses our credentials.
    is_locked: bool,
    logged: Option<(Box<str>, Instant)>,
}

impl Gate {
    pub(super) fn new(name: String, limits: Limits) -> Self {
        let state =
            State { breaker: Breaker::new(limits.breaker), complaint: "".into(), is_locked: false, logged: None };
        Self {
            name: name.into(),
            has_many_hosts: false,
            queue: Semaphore::new(limits.queue.min(Semaphore::MAX_PERMITS)),
            in_flight: Semaphore::new(limits.in_flight.min(Semaphore::MAX_PERMITS)),
            state: Mutex::new(state),
        }
    }

    pub(super) fn of_many_hosts(self) -> Self {
        Self { has_many_hosts: true, ..self }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// What an operator must know of this account; `None` when all is well.
    pub(super) fn trouble(&self) -> Option<String> {
        let state = self.state.lock();
        let name = &self.name;
        match (state.is_locked, state.breaker.is_open()) {
            (true, _) => Some(format!("{name}: credentials or rights are refused: {}", state.complaint)),
            (false, true) => Some(format!("{name}: fails: {}", state.complaint)),
            (false, false) => None,
        }
    }

    /// Why a push to `token` has no need to try to pass, if that is so.
    pub(super) fn refusal(&self, push: &Push, token: TokenHash) -> Option<Outcome> {
        if push.purpose.is_over() {
            return Some(Outcome::Withdrawn);
        }
        let now = clock().instant;
        let after = self.state.lock().breaker.pause(token, now + push.ttl, now)?;
        Some(self.skipped(after))
    }

    /// Lets one push to `token` through to `send` when its turn comes, as long as it has a purpose. `send` gets the push
    /// with what is left of its time, and the time that this attempt may take.
    pub(super) async fn pass<F>(
        &self,
        mut push: Push,
        token: TokenHash,
        timeout: Duration,
        send: impl FnOnce(Push) -> F,
    ) -> Sent
    where
        F: Future<Output = Sent>,
    {
        let submitted = clock().instant;
        let Ok(_place) = self.queue.try_acquire() else {
            return Sent::unsent(Outcome::try_again(
                Trouble::Busy,
                None,
                format!("{}: too many pushes are under way", self.name),
            ));
        };
        let purpose = if push.ttl.is_zero() { timeout } else { push.ttl };
        let Ok(_turn) = tokio::time::timeout(purpose, self.in_flight.acquire()).await else {
            return Sent::unsent(Outcome::try_again(Trouble::Busy, None, "its time was over before its turn came"));
        };
        // The call may have ended, and the provider may have failed others, while it waited.
        if push.purpose.is_over() {
            return Sent::unsent(Outcome::Withdrawn);
        }
        let admitted = self.state.lock().breaker.admit(token, submitted + purpose, clock().instant);
        let pass = match admitted {
            Ok(pass) => pass,
            Err(after) => return Sent::unsent(self.skipped(after)),
        };
        let waited = clock().instant.saturating_duration_since(submitted);
        push.ttl = push.ttl.saturating_sub(waited);
        let limit = timeout.min(purpose.saturating_sub(waited));
        let sent = tokio::time::timeout(limit, send(push)).await.unwrap_or_else(|_| Sent {
            outcome: Outcome::try_again(Trouble::Silent, None, format!("no answer within {} ms", limit.as_millis())),
            sign: match limit < timeout.min(PATIENCE_MIN) {
                true => Sign::Nothing,
                false => Sign::Fails { cause: Cause::Unreached, after: None },
            },
            left_out: 0,
            push_id: None,
        });
        self.learn(pass, &sent);
        sent
    }

    fn skipped(&self, after: Duration) -> Outcome {
        let reason = format!("{} is not asked for a moment: {}", self.name, self.state.lock().complaint);
        Outcome::Skipped { after, reason: reason.into() }
    }

    /// What an attempt says of the account. Operators hear of it once, not with each push.
    fn learn(&self, pass: Pass, sent: &Sent) {
        let now = clock().instant;
        let mut state = self.state.lock();
        let was_in_trouble = state.is_locked || state.breaker.is_open();
        let reason = match &sent.outcome {
            Outcome::TryAgain { reason, .. }
            | Outcome::Refused { reason }
            | Outcome::Locked { reason }
            | Outcome::Misfit { reason } => reason.as_ref(),
            Outcome::Accepted
            | Outcome::TokenDead { .. }
            | Outcome::Doubted { .. }
            | Outcome::Limited
            | Outcome::Skipped { .. }
            | Outcome::Withdrawn => "",
        };
        match sent.sign {
            Sign::Works => {
                state.breaker.succeeded();
                state.is_locked = false;
                if was_in_trouble {
                    state.logged = None;
                    tracing::info!(account = %self.name, "pushes are taken again");
                } else if !reason.is_empty() && state.may_log(reason, now) {
                    tracing::warn!(account = %self.name, reason, "a push was not taken");
                }
            }
            Sign::Fails { cause, after } => {
                let cause = if self.has_many_hosts { Cause::Answer } else { cause };
                state.breaker.failed(pass, cause, after, now);
                state.complaint = reason.into();
                if state.breaker.is_open() && !was_in_trouble && state.may_log(reason, now) {
                    tracing::warn!(account = %self.name, reason, "the provider fails; its phones are not pushed for a moment");
                }
            }
            Sign::Locked { cause } => {
                state.breaker.failed(pass, cause, None, now);
                state.lock_out(reason);
                if state.may_log(reason, now) {
                    tracing::error!(account = %self.name, reason, "the provider refuses our credentials or rights");
                }
            }
            Sign::Suspect => {
                state.breaker.failed(pass, Cause::Answer, None, now);
                if state.breaker.has_failed_several() {
                    state.lock_out(reason);
                }
                if state.may_log(reason, now) {
                    tracing::warn!(account = %self.name, reason, "the provider refuses a push, or our credentials");
                }
            }
            Sign::Nothing => state.breaker.returned(pass),
        }
    }
}

impl State {
    fn lock_out(&mut self, complaint: &str) {
        self.complaint = complaint.into();
        self.is_locked = true;
    }

    /// Whether `complaint` was not logged a moment ago.
    fn may_log(&mut self, complaint: &str, now: Instant) -> bool {
        let is_known = self
            .logged
            .as_ref()
            .is_some_and(|(logged, at)| **logged == *complaint && now.saturating_duration_since(*at) < LOG_PAUSE);
        if !is_known {
            self.logged = Some((complaint.into(), now));
        }
        !is_known
    }
}
