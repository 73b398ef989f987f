//! What the tests share: pushers set up for a double, pushes to send, and deadlines.

use std::future::Future;
use std::time::Duration;

use sip_push_proxy::binding::{Aor, Provider, PushTarget, PushToken, Tokens};
use sip_push_proxy::clock::UnixMillis;
use sip_push_proxy::demo::apns_double::{self, ApnsDouble};
use sip_push_proxy::demo::fcm_double::FcmDouble;
use sip_push_proxy::push::{
    MISSED_CALLS_TTL, Notice, Outcome, Purpose, Push, Pushers, Reply, Settings, Ticket, Trouble, apns, fcm,
};
use sip_push_proxy::store::{BucketEntry, EntryState};
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

pub(crate) const DATE: UnixMillis = UnixMillis(1_623_753_491_000);
pub(crate) const WAIT: Duration = Duration::from_secs(28);

/// Nothing here takes so long unless it hangs.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), future).await.expect("should not take so long")
}

pub(crate) fn open(settings: &Settings) -> Pushers {
    Pushers::open(settings, Handle::current()).unwrap()
}

/// The folder has to live until the pushers are opened.
pub(crate) fn fcm_settings(double: &FcmDouble) -> (TempDir, Settings) {
    let folder = tempfile::tempdir().unwrap();
    let service_account = double.write_credentials(folder.path()).unwrap();
    let fcm = vec![fcm::Settings { service_account, endpoint: double.url(), ..fcm::Settings::default() }];
    (folder, Settings { fcm, ..Settings::default() })
}

pub(crate) fn apns_settings(double: &ApnsDouble) -> (TempDir, Settings) {
    let folder = tempfile::tempdir().unwrap();
    let key_file = double.write_credentials(folder.path()).unwrap();
    let apns = vec![apns::Settings {
        key_file,
        key_id: apns_double::KEY_ID.to_owned(),
        team_id: apns_double::TEAM_ID.to_owned(),
        endpoint: double.url(),
        sandbox_endpoint: double.url(),
        ..apns::Settings::default()
    }];
    (folder, Settings { apns, ..Settings::default() })
}

pub(crate) fn fcm_pushers(double: &FcmDouble) -> Pushers {
    let (_folder, settings) = fcm_settings(double);
    open(&settings)
}

pub(crate) fn apns_pushers(double: &ApnsDouble) -> Pushers {
    let (_folder, settings) = apns_settings(double);
    open(&settings)
}

pub(crate) fn fcm_target(token: &str) -> PushTarget {
    PushTarget {
        provider: Provider::Fcm,
        prid: PushToken::new(token),
        param: "".into(),
        tokens: Tokens::Single,
        others: Box::default(),
    }
}

pub(crate) fn apns_target(voip: Option<&str>, remote: Option<&str>) -> PushTarget {
    PushTarget {
        provider: Provider::Apns,
        prid: PushToken::new(voip.or(remote).unwrap_or_default()),
        param: "DEF123GHIJ.org.example.phone.voip&remote".into(),
        tokens: Tokens::Apple {
            team: "DEF123GHIJ".into(),
            bundle: "org.example.phone".into(),
            voip: voip.map(PushToken::new),
            remote: remote.map(PushToken::new),
        },
        others: Box::default(),
    }
}

pub(crate) fn invite(target: PushTarget) -> Push {
    let notice = Notice::Invite { number: "103".into(), display_name: "Ivan".into(), call_ref: "1".into() };
    Push {
        ticket: Ticket(7),
        aor: Aor::new("alice", "example.org"),
        target,
        notice,
        date: DATE,
        ttl: WAIT,
        language: None,
        is_repeat: false,
        purpose: Purpose::default(),
    }
}

pub(crate) fn missed_calls(target: PushTarget, count: u64) -> Push {
    let entry = |n: u64| BucketEntry {
        call_ref: n.to_string().into(),
        remote_uri: format!("{}", 100 + n).into(),
        display_name: "".into(),
        anonymous: false,
        invited_at: UnixMillis(DATE.0 + n * 1000),
        state: EntryState::Missed,
    };
    let notice = Notice::MissedCalls((0..count).map(entry).collect());
    Push {
        ticket: Ticket(8),
        aor: Aor::new("alice", "example.org"),
        target,
        notice,
        date: DATE,
        ttl: MISSED_CALLS_TTL,
        language: None,
        is_repeat: false,
        purpose: Purpose::default(),
    }
}

/// Submits one push and waits for its reply.
pub(crate) async fn send(pushers: &Pushers, push: Push) -> Reply {
    let (reply_to, mut replies) = mpsc::channel(1);
    pushers.submit(push, reply_to).unwrap();
    let reply = soon(replies.recv()).await.expect("each push has a reply");
    assert!(soon(replies.recv()).await.is_none(), "and only one");
    reply
}

pub(crate) async fn outcome(pushers: &Pushers, push: Push) -> Outcome {
    send(pushers, push).await.outcome
}

/// Submits pushes all at once; their outcomes in the order of the replies.
pub(crate) async fn send_all(pushers: &Pushers, pushes: impl Iterator<Item = Push>) -> Vec<Outcome> {
    let (reply_to, mut replies) = mpsc::channel(1);
    pushes.for_each(|push| pushers.submit(push, reply_to.clone()).unwrap());
    drop(reply_to);
    let mut outcomes = Vec::new();
    while let Some(reply) = soon(replies.recv()).await {
        outcomes.push(reply.outcome);
    }
    outcomes
}

pub(crate) fn dead(reason: &str) -> Outcome {
    Outcome::TokenDead { since: None, reason: reason.into() }
}

/// The token is not for what it is used for.
pub(crate) fn misfit(reason: &str) -> Outcome {
    Outcome::Misfit { reason: reason.into() }
}

pub(crate) fn refused(reason: &str) -> Outcome {
    Outcome::Refused { reason: reason.into() }
}

/// The account's credentials or rights are not good.
pub(crate) fn locked(reason: &str) -> Outcome {
    Outcome::Locked { reason: reason.into() }
}

/// No answer within so many milliseconds.
pub(crate) fn silent(limit_ms: u64) -> Outcome {
    let reason = format!("no answer within {limit_ms} ms").into();
    Outcome::TryAgain { trouble: Trouble::Silent, after: None, reason }
}

pub(crate) fn try_again(after_s: Option<u64>, reason: &str) -> Outcome {
    Outcome::TryAgain { trouble: Trouble::Failing, after: after_s.map(Duration::from_secs), reason: reason.into() }
}

/// The provider takes no more for this token for a while.
pub(crate) fn token_limit(after_s: Option<u64>, reason: &str) -> Outcome {
    Outcome::TryAgain { trouble: Trouble::TokenLimit, after: after_s.map(Duration::from_secs), reason: reason.into() }
}

/// The text of a passing trouble; fails on anything else.
#[track_caller]
pub(crate) fn trouble(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::TryAgain { reason, .. } => reason,
        Outcome::Accepted
        | Outcome::TokenDead { .. }
        | Outcome::Refused { .. }
        | Outcome::Locked { .. }
        | Outcome::Misfit { .. }
        | Outcome::Doubted { .. }
        | Outcome::Limited
        | Outcome::Skipped { .. }
        | Outcome::Withdrawn => {
            panic!("should be passing trouble: {outcome:?}")
        }
    }
}
