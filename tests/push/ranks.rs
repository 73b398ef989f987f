//! Phones with several services: the next one is asked when one does not take the push.

use std::time::Duration;

use sip_push_proxy::binding::{Provider, PushTarget};
use sip_push_proxy::demo::apns_double::ApnsDouble;
use sip_push_proxy::demo::fcm_double::{self, FcmDouble};
use sip_push_proxy::demo::rustore_double::{self, PROJECT_ID, refusal};
use sip_push_proxy::demo::service_double::{Answer, ServiceDouble};
use sip_push_proxy::push::{BreakerSettings, Limits, Outcome, Push, Settings, TokenHash, rustore};
use tempfile::TempDir;

use crate::bench::*;

/// RuStore first, then FCM.
fn target() -> PushTarget {
    PushTarget { provider: Provider::RuStore, others: [fcm_target("of-fcm")].into(), ..fcm_target("of-rustore") }
}

async fn both() -> (ServiceDouble, FcmDouble, [TempDir; 2], Settings) {
    let (rustore, fcm) = (rustore_double::start().await.unwrap(), FcmDouble::start().await.unwrap());
    let (of_fcm, settings) = fcm_settings(&fcm);
    let folder = tempfile::tempdir().unwrap();
    let account = rustore::Settings {
        project_id: PROJECT_ID.to_owned(),
        token_file: rustore_double::write_credentials(folder.path()).unwrap(),
        endpoint: rustore.url(),
        ..rustore::Settings::default()
    };
    (rustore, fcm, [folder, of_fcm], Settings { rustore: vec![account], per_token_per_min: 0, ..settings })
}

#[tokio::test]
async fn the_best_service_is_asked_and_no_other() {
    let (rustore, fcm, _folders, settings) = both().await;
    let reply = send(&open(&settings), invite(target())).await;
    assert_eq!((reply.outcome, reply.provider), (Outcome::Accepted, Provider::RuStore));
    assert_eq!((reply.push_id, reply.repeatable), (None, true));
    assert_eq!(soon(rustore.next()).await.token, "of-rustore");
    assert_eq!((rustore.requests(), fcm.requests()), (1, 0));
}

#[tokio::test]
async fn the_next_one_is_asked_when_a_token_is_dead_or_a_service_fails() {
    let (rustore, fcm, _folders, settings) = both().await;
    // Enough for the service that answers, and soon over for the one that does not.
    let pushers = open(&Settings { timeout: Duration::from_secs(3), ..settings });
    for answer in [
        refusal(404, "UNREGISTERED", ""),
        refusal(404, "NOT_FOUND", ""),
        refusal(403, "PERMISSION_DENIED", ""),
        refusal(400, "INVALID_ARGUMENT", ""),
        refusal(503, "UNAVAILABLE", ""),
        Answer::Hang,
        Answer::Disconnect,
    ] {
        rustore.script("of-rustore", [answer.clone()]);
        let reply = send(&pushers, invite(target())).await;
        assert_eq!((reply.outcome, reply.provider), (Outcome::Accepted, Provider::Fcm), "{answer:?}");
        let named = reply.push_id.as_ref().is_some_and(|id| id.starts_with("projects/demo-project/messages/"));
        assert!(named && reply.repeatable, "{answer:?}: it is the word of the one that took it");
        assert_eq!(reply.token, TokenHash::of(&fcm_target("of-fcm").prid));
        let replaced: Vec<_> = reply.replaced.iter().map(|other| other.provider).collect();
        assert_eq!(replaced, [Provider::RuStore], "{answer:?}");
        assert_ne!(reply.replaced[0].outcome, Outcome::Accepted, "{answer:?}");
        assert_eq!(soon(fcm.next()).await.token, "of-fcm");
    }
    assert_eq!(rustore.requests(), fcm.requests());
}

#[tokio::test]
async fn whether_a_push_may_be_repeated_is_the_word_of_the_service_that_took_it() {
    let (rustore, _fcm, _folders, settings) = both().await;
    let apns = ApnsDouble::start().await.unwrap();
    let (_folder, of_apns) = apns_settings(&apns);
    let pushers = open(&Settings { apns: of_apns.apns, ..settings });
    let target = || PushTarget { others: [apns_target(Some("00fc13"), None)].into(), ..target() };
    assert!(send(&pushers, invite(target())).await.repeatable);
    rustore.script("of-rustore", [refusal(404, "UNREGISTERED", "")]);
    let reply = send(&pushers, invite(target())).await;
    assert_eq!((reply.outcome, reply.provider), (Outcome::Accepted, Provider::Apns));
    assert!(!reply.repeatable, "each VoIP push is a call on the screen");
    assert_eq!(reply.push_id.as_deref(), Some(soon(apns.next()).await.header("apns-id")));
}

#[tokio::test]
async fn a_service_that_is_left_alone_costs_no_time() {
    let (rustore, fcm, _folders, settings) = both().await;
    let breaker = BreakerSettings { failures: 3, pause: Duration::from_secs(60) };
    let pushers = open(&Settings { limits: Limits { breaker, ..Limits::default() }, ..settings });
    let of = |token: &str| PushTarget { provider: Provider::RuStore, ..fcm_target(token) };
    for token in ["a", "b", "c"] {
        rustore.script(token, [refusal(503, "UNAVAILABLE", "")]);
        assert_eq!(outcome(&pushers, invite(of(token))).await, try_again(None, "503 UNAVAILABLE"));
    }
    let reply = send(&pushers, invite(target())).await;
    assert_eq!((reply.outcome, reply.provider), (Outcome::Accepted, Provider::Fcm));
    assert_eq!((rustore.requests(), fcm.requests()), (3, 1));
}

#[tokio::test]
async fn what_none_takes_is_told_of_each() {
    let (rustore, fcm, _folders, settings) = both().await;
    let pushers = open(&settings);
    let both_say = |of_rustore: Answer, of_fcm: fcm_double::Answer| {
        rustore.script("of-rustore", [of_rustore]);
        fcm.script("of-fcm", [of_fcm]);
    };
    both_say(refusal(404, "UNREGISTERED", ""), fcm_double::Answer::Unregistered);
    let told = outcome(&pushers, invite(target())).await;
    assert_eq!(told, dead("rustore: 404 UNREGISTERED, fcm: 404 UNREGISTERED"));
    // One that may work again keeps the device.
    both_say(refusal(404, "UNREGISTERED", ""), fcm_double::Answer::Unavailable { retry_after_s: Some(3) });
    let told = outcome(&pushers, invite(target())).await;
    assert_eq!(told, try_again(Some(3), "rustore: 404 UNREGISTERED, fcm: 503 UNAVAILABLE"));
    both_say(refusal(404, "UNREGISTERED", ""), fcm_double::Answer::SenderIdMismatch);
    let told = outcome(&pushers, invite(target())).await;
    assert_eq!(told, misfit("rustore: 404 UNREGISTERED, fcm: 403 SENDER_ID_MISMATCH"));
}

#[tokio::test]
async fn a_service_without_an_account_is_passed_over() {
    let (_rustore, fcm, _folders, settings) = both().await;
    let pushers = open(&Settings { rustore: Vec::new(), ..settings });
    assert_eq!(pushers.supports(&target()), Ok(()));
    assert!(pushers.preview(&invite(target())).unwrap().url.starts_with(&fcm.url()));
    assert_eq!(outcome(&pushers, invite(target())).await, Outcome::Accepted);
    let hms = || PushTarget { provider: Provider::Hms, ..fcm_target("a") };
    let neither = PushTarget { others: [hms()].into(), ..hms() };
    assert_eq!(pushers.supports(&neither), Err("provider hms is switched off".to_owned()));
}

#[tokio::test]
async fn a_call_that_ends_is_pushed_by_no_other_service() {
    let (rustore, fcm, _folders, settings) = both().await;
    let pushers = open(&settings);
    let push = Push { ttl: Duration::from_millis(300), ..invite(target()) };
    rustore.script("of-rustore", [Answer::Hang]);
    let told = outcome(&pushers, push).await;
    assert!(trouble(&told).starts_with("no answer within "), "{told:?}");
    let push = invite(target());
    push.purpose.end();
    assert_eq!(outcome(&pushers, push).await, Outcome::Withdrawn);
    assert_eq!(fcm.requests(), 0);
}
