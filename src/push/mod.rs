//! Pushes: what wakes a phone, and what came of it.
//! To be written.
//! One [`Push`] is one attempt. Whether to try again is decided by the held call (or the missed_calls report) that
//! wanted it, because only they know whether it still has a purpose.

use std::time::Duration;

use crate::binding::PushTarget;
use crate::clock::UnixMillis;
use crate::store::BucketEntry;

/// One attempt to wake one device.
#[derive(Debug, Clone)]
pub struct Push {
    pub ticket: Ticket,
    pub target: PushTarget,
    pub notice: Notice,
    /// When it is sent, by our wall clock.
    pub date: UnixMillis,
    /// How long it may still be delivered: what is left of the wait.
    pub ttl: Duration,
}

/// What the phone is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    Invite {
        /// The caller's bare number; `anonymous` when the caller hides it.
        number: Box<str>,
        /// Empty when there is none or the caller hides it.
        display_name: Box<str>,
    },
    /// A held MESSAGE (or other request that is no call).
    Message,
    /// Oldest first.
    MissedCalls(Vec<BucketEntry>),
}

/// Names a push to the one who asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// Sent once for each submitted push.
#[derive(Debug)]
pub struct Reply {
    pub ticket: Ticket,
    pub outcome: Outcome,
    /// From submission to the provider's answer.
    pub took: Duration,
}

/// What came of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The provider took it. Not: the phone has it.
    Accepted,
    /// No push will ever reach this token. `since` is the provider's word on when it died, where it gives one.
    TokenDead { since: Option<UnixMillis>, reason: Box<str> },
    /// Passing trouble: the same push may succeed after `after` (or after a short back-off).
    TryAgain { after: Option<Duration>, reason: Box<str> },
    /// It would fail again: our request, our credentials or our configuration are wrong. The token may be good.
    Refused { reason: Box<str> },
    /// Not sent, because `push.per_token_per_min` pushes went to this token in the last minute. An earlier one may
    /// still wake the phone.
    Limited,
}
