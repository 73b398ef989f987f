//! What a provider says of one phone's pushes says nothing of the other phones: their pushes go on.

use std::time::Duration;

use serde_json::json;
use sip_push_proxy::binding::{Provider, PushTarget};
use sip_push_proxy::demo::apns_double::{self, ApnsDouble};
use sip_push_proxy::demo::callback_double::{self, CallbackDouble};
use sip_push_proxy::demo::fcm_double::{self, FcmDouble};
use sip_push_proxy::demo::webpush_double::{self, WebPushDouble};

use sip_push_proxy::push::{BreakerSettings, Limits, Outcome, Pushers, Settings};

use crate::bench::*;
use crate::{callback, webpush};

/// With a breaker that does not close again while a test runs.
fn open_with_breaker(settings: Settings) -> Pushers {
    let breaker = BreakerSettings { pause: Duration::from_secs(60), ..BreakerSettings::default() };
    open(&Settings { per_token_per_min: 0, limits: Limits { breaker, ..Limits::default() }, ..settings })
}

/// One phone is called thirty times, and twelve others after it.
async fn only_one_is_refused(pushers: &Pushers, target: impl Fn(&str) -> PushTarget) {
    for _ in 0..30 {
        let outcome = outcome(pushers, invite(target("bad"))).await;
        assert!(matches!(outcome, Outcome::TryAgain { .. } | Outcome::Refused { .. }), "{outcome:?}");
    }
    for number in 0..12 {
        assert_eq!(outcome(pushers, invite(target(&format!("good-{number}")))).await, Outcome::Accepted);
    }
    assert_eq!(pushers.troubles(), []);
}

/// The headers of an answer that asks for five minutes of peace.
fn five_minutes() -> Vec<(hyper::header::HeaderName, hyper::header::HeaderValue)> {
    vec![(hyper::header::RETRY_AFTER, "300".parse().unwrap())]
}

#[tokio::test]
async fn a_token_that_fcm_fails_or_limits_is_left_to_itself() {
    let error = |status: u16, name: &str, details: serde_json::Value| {
        let body = json!({"error": {"code": status, "status": name, "details": details}}).to_string();
        fcm_double::Answer::Raw { status, headers: five_minutes(), body }
    };
    let of_fcm =
        |code: &str| json!({"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code});
    let of_device = json!({
        "@type": "type.googleapis.com/google.rpc.QuotaFailure",
        "violations": [{"subject": "device:bad", "description": "Device message rate exceeded"}],
    });
    for answer in [
        error(500, "INTERNAL", json!([of_fcm("INTERNAL")])),
        error(503, "UNAVAILABLE", json!([of_fcm("UNAVAILABLE")])),
        error(429, "RESOURCE_EXHAUSTED", json!([of_fcm("QUOTA_EXCEEDED"), of_device])),
        fcm_double::Answer::QuotaExceeded { retry_after_s: Some(300) },
        fcm_double::Answer::Internal,
    ] {
        let double = FcmDouble::start().await.unwrap();
        let (_folder, settings) = fcm_settings(&double);
        double.script("bad", std::iter::repeat_n(answer, 30));
        only_one_is_refused(&open_with_breaker(settings), fcm_target).await;
    }
}

#[tokio::test]
async fn a_token_that_apns_fails_or_limits_is_left_to_itself() {
    for (status, reason) in [(500, "InternalServerError"), (429, "TooManyRequests")] {
        let double = ApnsDouble::start().await.unwrap();
        let (_folder, settings) = apns_settings(&double);
        double.script("bad", std::iter::repeat_n(apns_double::Answer::Reason { status, reason }, 30));
        only_one_is_refused(&open_with_breaker(settings), |token| apns_target(Some(token), None)).await;
    }
}

#[tokio::test]
async fn a_topic_without_subscriber_and_a_subscription_for_another_key_are_left_to_themselves() {
    for (status, body) in [
        (507, r#"{"code":50701,"error":"cannot publish to UnifiedPush topic without previously active subscriber"}"#),
        (429, ""),
        (500, ""),
        // The very first push since the start, too.
        (403, "the subscription is for another key"),
    ] {
        let double = WebPushDouble::start().await.unwrap();
        let (_folder, settings) = webpush::settings(&[&double]);
        let answer = webpush_double::Answer::Raw { status, headers: five_minutes(), body: body.to_owned() };
        double.script("bad", std::iter::repeat_n(answer, 31));
        let target = |token: &str| webpush::target(&double.subscription(token));
        let pushers = open_with_breaker(settings);
        let first = outcome(&pushers, invite(target("bad"))).await;
        assert!(pushers.troubles().is_empty(), "{first:?}: {:?}", pushers.troubles());
        only_one_is_refused(&pushers, target).await;
    }
}

#[tokio::test]
async fn a_device_that_the_operators_gateway_limits_or_fails_is_left_to_itself() {
    for status in [429, 500] {
        let double = CallbackDouble::start().await.unwrap();
        let (_folder, settings) = callback::settings(&double);
        let answer = callback_double::Answer::Raw { status, headers: five_minutes(), body: String::new() };
        double.script("bad", std::iter::repeat_n(answer, 30));
        only_one_is_refused(&open_with_breaker(settings), callback::target).await;
    }
}

#[tokio::test]
async fn apples_sandbox_is_apart_from_production() {
    let double = ApnsDouble::start().await.unwrap();
    let (_folder, mut settings) = apns_settings(&double);
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    settings.apns[0].sandbox_endpoint = format!("http://{closed}");
    let pushers = open_with_breaker(settings);
    let in_development = || PushTarget { provider: Provider::ApnsDev, ..apns_target(Some("bad"), None) };
    for _ in 0..10 {
        trouble(&outcome(&pushers, invite(in_development())).await);
    }
    let skipped = outcome(&pushers, invite(in_development())).await;
    assert!(matches!(skipped, Outcome::Skipped { .. }), "{skipped:?}");
    for number in 0..12 {
        let target = apns_target(Some(&format!("{number}")), None);
        assert_eq!(outcome(&pushers, invite(target)).await, Outcome::Accepted);
    }
    let troubles = pushers.troubles();
    let [(Provider::ApnsDev, told)] = troubles.as_slice() else { panic!("{troubles:?}") };
    assert!(told.starts_with("apns sandbox team DEF123GHIJ: fails: no connection"), "{told}");
}
