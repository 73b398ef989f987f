//! Accounts that fail or are refused: who is asked, who is not, and what the operator learns.

use std::time::Duration;

use sip_push_proxy::binding::Provider;
use sip_push_proxy::demo::apns_double::{self, ApnsDouble};
use sip_push_proxy::demo::fcm_double::{Answer, FcmDouble};
use sip_push_proxy::push::{BreakerSettings, Limits, Outcome, Pushers, Settings};
use tokio::sync::mpsc;

use crate::bench::*;

fn unavailable() -> Answer {
    Answer::Unavailable { retry_after_s: None }
}

fn with_breaker(settings: Settings, pause: Duration) -> Settings {
    let breaker = BreakerSettings { pause, ..BreakerSettings::default() };
    Settings { per_token_per_min: 0, limits: Limits { breaker, ..Limits::default() }, ..settings }
}

/// So many pushes fail, of as many phones.
async fn fails(pushers: &Pushers, double: &FcmDouble, times: usize) {
    for number in 0..times {
        let token = format!("failing-{number}");
        double.script(&token, [unavailable()]);
        assert_eq!(outcome(pushers, invite(fcm_target(&token))).await, try_again(None, "503 UNAVAILABLE"));
    }
}

const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn after_ten_failures_in_a_row_the_account_is_left_alone_and_the_others_are_not() {
    let (fcm, apns) = (FcmDouble::start().await.unwrap(), ApnsDouble::start().await.unwrap());
    let (_fcm_folder, settings) = fcm_settings(&fcm);
    let (_apns_folder, of_apns) = apns_settings(&apns);
    let pushers = open(&with_breaker(Settings { apns: of_apns.apns, ..settings }, LONG));
    fails(&pushers, &fcm, 9).await;
    assert_eq!(outcome(&pushers, invite(fcm_target("a"))).await, Outcome::Accepted);
    fails(&pushers, &fcm, 10).await;
    let asked = fcm.requests();
    let skipped = outcome(&pushers, invite(fcm_target("b"))).await;
    let Outcome::Skipped { after, reason } = &skipped else { panic!("{skipped:?}") };
    assert_eq!(&**reason, "fcm project demo-project is not asked for a moment: 503 UNAVAILABLE");
    assert!(!after.is_zero() && *after <= LONG, "{after:?}");
    assert_eq!(fcm.requests(), asked);
    assert_eq!(pushers.troubles(), [(Provider::Fcm, "fcm project demo-project: fails: 503 UNAVAILABLE".to_owned())]);
    assert_eq!(outcome(&pushers, invite(apns_target(Some("00fc13"), None))).await, Outcome::Accepted);
}

#[tokio::test]
async fn one_push_shows_that_the_account_works_again() {
    let double = FcmDouble::start().await.unwrap();
    let (_folder, settings) = fcm_settings(&double);
    let pushers = open(&with_breaker(settings, Duration::from_millis(50)));
    fails(&pushers, &double, 10).await;
    let mut skipped = 0;
    // However slow this machine is: the first that is asked again is accepted, and so is everything after it.
    while let Outcome::Skipped { .. } = outcome(&pushers, invite(fcm_target("b"))).await {
        skipped += 1;
        tokio::task::yield_now().await;
    }
    assert_eq!(double.requests(), 11, "{skipped} were skipped");
    assert_eq!(pushers.troubles(), []);
    let outcomes = send_all(&pushers, (0..20).map(|_| invite(fcm_target("b")))).await;
    assert_eq!(outcomes, vec![Outcome::Accepted; 20]);
}

#[tokio::test]
async fn what_is_wrong_with_one_push_says_nothing_of_the_account() {
    let double = FcmDouble::start().await.unwrap();
    let (_folder, settings) = fcm_settings(&double);
    let pushers = open(&with_breaker(settings, LONG));
    for number in 0..30 {
        let token = format!("token-{number}");
        double.script(&token, [[Answer::Unregistered, Answer::InvalidToken][number % 2].clone()]);
        let outcome = outcome(&pushers, invite(fcm_target(&token))).await;
        assert!(matches!(outcome, Outcome::TokenDead { .. } | Outcome::Misfit { .. }), "{outcome:?}");
    }
    assert_eq!(pushers.troubles(), []);
}

#[tokio::test]
async fn refused_credentials_are_an_alarm_and_no_storm() {
    let double = ApnsDouble::start().await.unwrap();
    let (_folder, settings) = apns_settings(&double);
    let pushers = open(&with_breaker(settings, LONG));
    let wrong = apns_double::Answer::Reason { status: 403, reason: "InvalidProviderToken" };
    let push = |number: usize| {
        let token = format!("{number:06}");
        double.script(&token, [wrong.clone()]);
        invite(apns_target(Some(&token), None))
    };
    assert_eq!(outcome(&pushers, push(0)).await, locked("403 InvalidProviderToken"));
    let trouble = "apns team DEF123GHIJ: credentials or rights are refused: 403 InvalidProviderToken";
    assert_eq!(pushers.troubles(), [(Provider::Apns, trouble.to_owned())]);
    // One success is enough to end the alarm.
    assert_eq!(outcome(&pushers, invite(apns_target(Some("00fc14"), None))).await, Outcome::Accepted);
    assert_eq!(pushers.troubles(), []);
    for number in 0..50 {
        outcome(&pushers, push(number)).await;
    }
    assert_eq!((double.requests(), double.provider_tokens()), (12, 1));
}

#[tokio::test]
async fn a_provider_that_hangs_leaves_room_for_the_other() {
    let (fcm, apns) = (FcmDouble::start().await.unwrap(), ApnsDouble::start().await.unwrap());
    let (_fcm_folder, settings) = fcm_settings(&fcm);
    let (_apns_folder, of_apns) = apns_settings(&apns);
    let limits = Limits { in_flight: 5, queue: 20, ..Limits::default() };
    let pushers = open(&Settings { apns: of_apns.apns, per_token_per_min: 0, limits, queue: 40, ..settings });
    fcm.script("a", std::iter::repeat_n(Answer::Hang, 100));
    let (reply_to, mut replies) = mpsc::channel(40);
    for _ in 0..30 {
        pushers.submit(invite(fcm_target("a")), reply_to.clone()).unwrap();
    }
    // Ten find no place with FCM and say so at once; APNs takes all of its own.
    for _ in 0..10 {
        let outcome = soon(replies.recv()).await.unwrap().outcome;
        assert_eq!(trouble(&outcome), "fcm project demo-project: too many pushes are under way");
    }
    for _ in 0..100 {
        assert_eq!(outcome(&pushers, invite(apns_target(Some("00fc13"), None))).await, Outcome::Accepted);
    }
    assert!(fcm.requests() <= 5);
    assert_eq!(pushers.troubles(), [], "a queue that is full is not the provider's fault");
}
