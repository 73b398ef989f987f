//! Pushes: what wakes a phone, and what came of it.
//!
//! One [`Push`] is one attempt. Whether to try again is decided by the held call (or the missed_calls report) that
//! wanted it, because only they know how much of its wait is left. [`Pushers`] makes the attempts.

mod alert;
pub mod apns;
mod apns_answer;
mod breaker;
pub mod callback;
mod client;
mod client_credentials;
mod connection;
mod connections;
mod deaths;
mod dial;
mod encryption;
mod external_account;
pub mod fcm;
mod fcm_answer;
mod gate;
mod google;
mod happy_eyeballs;
pub mod harmony;
pub mod hms;
mod http;
mod huawei_answer;
mod identity;
mod jwt;
mod metadata;
mod no_proxy;
mod oauth;
mod oauth_answer;
mod outside;
pub mod payload;
mod project;
mod provider_token;
mod pushers;
mod ranks;
pub mod rustore;
mod self_signed;
pub mod webpush;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use sha2::{Digest, Sha256};

use crate::binding::{Aor, Binding, Provider, PushTarget, PushToken, Tokens};
use crate::clock::{Now, UnixMillis};
use crate::store::BucketEntry;

pub use alert::{Alerts, Text as AlertText};
pub use breaker::{Breaker, Cause, Pass, Settings as BreakerSettings};
pub use dial::{Hosts, HttpsProxy};
pub use gate::Limits;
pub use no_proxy::NoProxy;
pub use pushers::{Pushers, Settings};

/// How long a missed_calls push may still be delivered (ECSS: `time_to_live` 120).
pub const MISSED_CALLS_TTL: Duration = Duration::from_secs(120);

/// One attempt to wake one device.
#[derive(Debug, Clone)]
pub struct Push {
    pub ticket: Ticket,
    /// Whose device it is.
    pub aor: Aor,
    pub target: PushTarget,
    pub notice: Notice,
    /// When it is sent, by our wall clock.
    pub date: UnixMillis,
    /// How long it may still be delivered: what is left of the wait, or [`MISSED_CALLS_TTL`].
    pub ttl: Duration,
    /// Of the phone's user (BCP 47); `None`: as configured.
    pub language: Option<Box<str>>,
    /// Whether the provider has accepted an earlier push of the same call to this device.
    pub is_repeat: bool,
    /// Looked at right before each request.
    pub purpose: Purpose,
}

impl Push {
    /// A first push to one of a device's targets, which nothing makes needless; its ticket is that of the only one.
    pub fn to(binding: &Binding, target: PushTarget, notice: Notice, ttl: Duration, date: UnixMillis) -> Self {
        Self {
            ticket: Ticket(0),
            aor: binding.aor.clone(),
            target,
            notice,
            date,
            ttl,
            language: binding.app.locale.clone(),
            is_repeat: false,
            purpose: Purpose::default(),
        }
    }
}

/// Whether a push is still wanted: shared by who asked for it and who sends it, because a call may end while its push
/// waits for its turn, and a call screen for a call that is over is worse than none.
#[derive(Debug, Clone, Default)]
pub struct Purpose(Arc<AtomicBool>);

impl Purpose {
    /// The call is over, or the phone has come by itself.
    pub fn end(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub fn is_over(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// What the phone is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    Invite {
        /// The caller's bare number; `anonymous` when the caller hides it.
        number: Box<str>,
        /// Empty when there is none or the caller hides it.
        display_name: Box<str>,
        call_ref: Box<str>,
    },
    /// A held MESSAGE (or other request that is no call).
    Message,
    /// Oldest first.
    MissedCalls(Vec<BucketEntry>),
    /// The call of an earlier push is over, and the phone has not come for it.
    CallEnded { call_ref: Box<str>, reason: EndReason },
    /// The phone is to register again before the softswitch forgets it (RFC 8599 §5.5). `is_urgent`: it has been told
    /// before, or has no time to sleep on.
    Register { is_urgent: bool },
    /// Whether a push would be taken, without anything to see for the phone's user.
    Test,
    /// Words for the phone's user, already in their language and short: shown as they are.
    Text { title: Box<str>, body: Box<str> },
}

impl Notice {
    pub fn kind(&self) -> NoticeKind {
        match self {
            Self::Invite { .. } => NoticeKind::Invite,
            Self::Message => NoticeKind::Message,
            Self::MissedCalls(_) => NoticeKind::MissedCalls,
            Self::CallEnded { .. } => NoticeKind::CallEnded,
            Self::Register { .. } => NoticeKind::Register,
            Self::Test => NoticeKind::Test,
            Self::Text { .. } => NoticeKind::Text,
        }
    }

    /// Title and body of a text.
    fn text(&self) -> Option<(&str, &str)> {
        match self {
            Self::Text { title, body } => Some((title, body)),
            Self::Invite { .. } | Self::Message | Self::MissedCalls(_) => None,
            Self::CallEnded { .. } | Self::Register { .. } | Self::Test => None,
        }
    }

    fn calls(&self) -> &[BucketEntry] {
        match self {
            Self::Invite { .. } | Self::Message | Self::CallEnded { .. } | Self::Register { .. } => &[],
            Self::Test | Self::Text { .. } => &[],
            Self::MissedCalls(entries) => entries,
        }
    }
}

/// Why a call is over, as its phone is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// The caller gave up, or somebody declined.
    Cancelled,
    AnsweredElsewhere,
    /// The wait, or the INVITE's own time, is over; or nothing else could be done for it.
    Timeout,
}

impl EndReason {
    /// As in the `reason` of a payload.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cancelled => "cancelled",
            Self::AnsweredElsewhere => "answered_elsewhere",
            Self::Timeout => "timeout",
        }
    }
}

/// A [`Notice`] without its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NoticeKind {
    Invite,
    Message,
    MissedCalls,
    CallEnded,
    Register,
    Test,
    Text,
}

impl NoticeKind {
    /// Which of a target's tokens it goes to. The system kills apps that get a VoIP push without a call to show.
    pub fn token(self, target: &PushTarget) -> &PushToken {
        match (&target.tokens, self) {
            (
                Tokens::Apple { remote: Some(remote), .. },
                Self::MissedCalls | Self::CallEnded | Self::Register | Self::Message | Self::Text,
            ) => remote,
            (Tokens::Apple { .. } | Tokens::Single | Tokens::Subscription(_), _) => &target.prid,
        }
    }

    /// As in the `type` of a payload.
    pub fn name(self) -> &'static str {
        match self {
            Self::Invite => "invite",
            Self::Message => "message",
            Self::MissedCalls => "missed_calls",
            Self::CallEnded => "call_ended",
            Self::Register => "register",
            Self::Test => "test",
            Self::Text => "text",
        }
    }
}

impl fmt::Display for NoticeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What would be sent where, for people: no token is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preview {
    /// `fcm project demo-project`.
    pub account: String,
    pub token: TokenHash,
    pub url: String,
    /// What APNs is told beside the body.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

/// Names a push to the one who asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// Sent once for each submitted push.
#[derive(Debug)]
pub struct Reply {
    pub ticket: Ticket,
    pub provider: Provider,
    /// Of the service that this is the answer of.
    pub token: TokenHash,
    pub notice: NoticeKind,
    pub outcome: Outcome,
    /// What the push service calls this push, if it said so: for asking it what became of it.
    pub push_id: Option<Box<str>>,
    /// Whether the same push may be sent again once it was accepted: the app takes another one for the same call.
    pub repeatable: bool,
    /// The oldest calls of a missed_calls push that did not fit in and were not told to the phone.
    pub left_out: usize,
    /// From submission to the provider's answer, with what the others took.
    pub took: Duration,
    /// The attempts by other services of the phone, which this one stands in for.
    pub replaced: Vec<Replaced>,
}

impl Reply {
    /// What came of it by each service that was asked, and how long that took; the deciding one last.
    pub fn attempts(&self) -> impl Iterator<Item = (Provider, &Outcome, Duration)> {
        let others = self.replaced.iter().map(|other| (other.provider, &other.outcome, other.took));
        let took = self.replaced.iter().fold(self.took, |took, other| took.saturating_sub(other.took));
        others.chain([(self.provider, &self.outcome, took)])
    }
}

/// An attempt by one of several services of a phone, that did not decide what the push came to.
#[derive(Debug)]
pub struct Replaced {
    pub provider: Provider,
    pub outcome: Outcome,
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
    TryAgain { trouble: Trouble, after: Option<Duration>, reason: Box<str> },
    /// It would fail again: our request or our configuration is wrong. The token may be good.
    Refused { reason: Box<str> },
    /// The provider does not take our credentials, or they lack a right. So it will be for every push of the account.
    Locked { reason: Box<str> },
    /// The token is not for what it is used for: another app's or project's, of another environment, or voip and remote
    /// mixed up. It will be so until the phone registers anew or the account is another one.
    Misfit { reason: Box<str> },
    /// The provider says that the token is dead, as it does of more tokens of the account than can be
    /// (`push.dead_per_min`): rather a useless push than a lost phone.
    Doubted { reason: Box<str> },
    /// Not sent, because `push.per_token_per_min` pushes went to this token in the last minute. An earlier one may
    /// still wake the phone.
    Limited,
    /// Not sent, because the account has failed for several phones in a row and is asked only now and then: the next time
    /// in `after` at the soonest. Zero: it is being asked.
    Skipped { after: Duration, reason: Box<str> },
    /// Not sent, because what it was for is over ([`Purpose::end`]).
    Withdrawn,
}

/// What is in the way of a push that may succeed later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The provider says that it has trouble, or cannot be reached.
    Failing,
    /// No answer in time.
    Silent,
    /// The provider takes no more for this token for a while.
    TokenLimit,
    /// There is no room for it here.
    Busy,
}

impl Outcome {
    fn dead(since: Option<UnixMillis>, reason: impl Into<Box<str>>) -> Self {
        Self::TokenDead { since, reason: reason.into() }
    }

    fn try_again(trouble: Trouble, after: Option<Duration>, reason: impl Into<Box<str>>) -> Self {
        Self::TryAgain { trouble, after, reason: reason.into() }
    }

    /// There is no room for it in a queue of ours.
    pub fn busy() -> Self {
        Self::try_again(Trouble::Busy, None, "too many pushes are under way")
    }

    fn refused(reason: impl Into<Box<str>>) -> Self {
        Self::Refused { reason: reason.into() }
    }

    fn misfit(reason: impl Into<Box<str>>) -> Self {
        Self::Misfit { reason: reason.into() }
    }

    /// Why, in the provider's words or ours; nothing for what says all by its name.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::TokenDead { reason, .. }
            | Self::TryAgain { reason, .. }
            | Self::Refused { reason }
            | Self::Locked { reason }
            | Self::Misfit { reason }
            | Self::Doubted { reason }
            | Self::Skipped { reason, .. } => Some(reason),
            Self::Accepted | Self::Limited | Self::Withdrawn => None,
        }
    }

    /// A word for logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::TokenDead { .. } => "token_dead",
            Self::TryAgain { .. } => "try_again",
            Self::Refused { .. } | Self::Locked { .. } => "refused",
            Self::Misfit { .. } => "misfit",
            Self::Doubted { .. } => "doubted",
            Self::Limited => "limited",
            Self::Skipped { .. } => "skipped",
            Self::Withdrawn => "withdrawn",
        }
    }
}

/// Not taken, because `limits.push_queue` pushes are under way already. There will be no [`Reply`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the push queue is full")]
pub struct Busy;

/// A setting, or a file it names, with which no push can be sent. It is for people, at start-up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// What the key's value should be.
    #[error("{key}: {problem}")]
    Value { key: String, problem: String },
    /// What the named file should be.
    #[error("{key} = {file:?}: {problem}")]
    File { key: String, file: PathBuf, problem: String },
}

impl SettingsError {
    fn value(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Value { key: key.into(), problem: problem.into() }
    }

    fn file(key: impl Into<String>, file: &Path, problem: impl Into<String>) -> Self {
        Self::File { key: key.into(), file: file.to_owned(), problem: problem.into() }
    }
}

/// How a push token is shown to people: whoever reads a log must not be able to wake the phone.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenHash([u8; 8]);

impl TokenHash {
    pub fn of(token: &PushToken) -> Self {
        let digest = Sha256::digest(token.reveal().as_bytes());
        let mut start = [0; 8];
        start.iter_mut().zip(digest).for_each(|(place, byte)| *place = byte);
        Self(start)
    }
}

impl fmt::Display for TokenHash {
    /// Eight hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(4).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What an account made of one attempt.
struct Sent {
    outcome: Outcome,
    sign: Sign,
    left_out: usize,
    /// As in [`Reply::push_id`].
    push_id: Option<Box<str>>,
}

impl Sent {
    /// Nothing went out, so nothing was learnt of the account.
    fn unsent(outcome: Outcome) -> Self {
        Self { outcome, sign: Sign::Nothing, left_out: 0, push_id: None }
    }

    /// It did not come to a push, so the token has nothing to do with it.
    fn before_any_push(mut self) -> Self {
        if let Sign::Fails { cause, .. } | Sign::Locked { cause } = &mut self.sign {
            *cause = Cause::Unreached;
        }
        self
    }
}

/// What an attempt says of the account that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    /// The provider looked at the push, whatever it thought of it.
    Works,
    /// No answer, or one that says that the provider has trouble.
    Fails {
        cause: Cause,
        after: Option<Duration>,
    },
    /// The provider does not take our credentials.
    Locked {
        cause: Cause,
    },
    /// So it seems, but the token may be to blame as well.
    Suspect,
    Nothing,
}

/// What an answer of a provider means.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    /// It is about this push alone.
    Final(Outcome),
    /// The provider has passing trouble: other pushes would not do better.
    Trouble { cause: Cause, after: Option<Duration>, reason: Box<str> },
    /// Our credentials, or the rights that go with them, are wrong: no push of this account will be taken.
    Locked(Box<str>),
    /// Our credentials are wrong, or those with which this token was made: only the other tokens can tell.
    Suspect(Box<str>),
    /// The provider does not take what the contact says of itself together with our credentials; of those it says nothing.
    Foreign(Box<str>),
    /// The token is not one of this environment; the account's other one may know it.
    Stranger(Box<str>),
    /// Our credential is out of date; the same push with a fresh one may be taken at once.
    StaleCredential(Box<str>),
    /// A shorter body may be taken at once.
    TooLarge(Box<str>),
    /// There is none, because the push lost its purpose before it was sent.
    Withdrawn,
}

impl Verdict {
    /// When nothing is left to be tried within this attempt.
    fn sent(self, left_out: usize) -> Sent {
        let (outcome, sign) = match self {
            Self::Final(outcome) => (outcome, Sign::Works),
            Self::Trouble { cause, after, reason } => {
                (Outcome::try_again(Trouble::Failing, after, reason), Sign::Fails { cause, after })
            }
            Self::Locked(reason) | Self::StaleCredential(reason) => {
                (Outcome::Locked { reason }, Sign::Locked { cause: Cause::Answer })
            }
            Self::Suspect(reason) => (Outcome::Refused { reason }, Sign::Suspect),
            Self::Foreign(reason) => (Outcome::Refused { reason }, Sign::Nothing),
            Self::Stranger(reason) => (Outcome::Misfit { reason }, Sign::Works),
            Self::TooLarge(reason) => (Outcome::Refused { reason }, Sign::Works),
            Self::Withdrawn => (Outcome::Withdrawn, Sign::Nothing),
        };
        Sent { outcome, sign, left_out, push_id: None }
    }

    /// As the answer says.
    fn trouble(after: Option<Duration>, reason: impl Into<Box<str>>) -> Self {
        Self::Trouble { cause: Cause::Answer, after, reason: reason.into() }
    }

    /// There was no answer.
    fn unreached(after: Option<Duration>, reason: impl Into<Box<str>>) -> Self {
        Self::Trouble { cause: Cause::Unreached, after, reason: reason.into() }
    }

    /// The provider takes no more for this token for a while; it serves the others.
    fn token_limit(after: Option<Duration>, reason: impl Into<Box<str>>) -> Self {
        Self::Final(Outcome::try_again(Trouble::TokenLimit, after, reason))
    }
}

#[expect(clippy::disallowed_methods, reason = "credentials are dated, and attempts timed, by the real clocks")]
fn clock() -> Now {
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Now { instant: Instant::now(), unix: UnixMillis::default().after(unix) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_hash_is_the_start_of_sha_256() {
        // printf abc | sha256sum
        assert_eq!(TokenHash::of(&PushToken::new("abc")).to_string(), "ba7816bf");
    }

    #[test]
    fn settings_errors_name_key_file_and_problem() {
        let error = SettingsError::file("push.fcm[0].service_account", Path::new("fcm.json"), "no such file");
        assert_eq!(error.to_string(), "push.fcm[0].service_account = \"fcm.json\": no such file");
    }
}
