//! Web Push: what is sent, where it may be sent, and what each answer comes to.

use std::time::Duration;

use sip_push_proxy::binding::{Provider, PushTarget, Tokens};
use sip_push_proxy::demo::webpush_double::{Answer, PUBLIC_KEY, WebPushDouble};
use sip_push_proxy::push::payload::FcmPayload;
use sip_push_proxy::push::{BreakerSettings, Limits, Notice, NoticeKind, Outcome, Push, Settings, webpush};
use tempfile::TempDir;
use tokio::sync::mpsc;

use crate::bench::*;

/// As long as services make them.
const SUBSCRIPTION: &str = "gAAAAABh0123456789abcdefghijklmnopqrstuvwxyz";

fn raw(status: u16, body: &str) -> Answer {
    Answer::Raw { status, headers: Vec::new(), body: body.to_owned() }
}

fn retry_after(status: u16, seconds: &str) -> Answer {
    let header = (hyper::header::RETRY_AFTER, seconds.parse().unwrap());
    Answer::Raw { status, headers: vec![header], body: String::new() }
}

fn allowed(double: &WebPushDouble) -> webpush::AllowedHost {
    let host = double.host();
    let (host, port) = host.split_once(':').unwrap();
    webpush::AllowedHost { host: host.into(), is_suffix: false, port: port.parse().ok(), is_loopback: true }
}

pub(crate) fn settings(doubles: &[&WebPushDouble]) -> (TempDir, Settings) {
    let folder = tempfile::tempdir().unwrap();
    let vapid_key_file = doubles[0].write_credentials(folder.path()).unwrap();
    let allowed_hosts = doubles.iter().map(|double| allowed(double)).collect();
    let webpush = webpush::Settings {
        vapid_key_file,
        subject: "mailto:ops@example.org".to_owned(),
        allowed_hosts,
        ca_file: None,
        payload: FcmPayload::Extended,
    };
    (folder, Settings { webpush: Some(webpush), per_token_per_min: 0, ..Settings::default() })
}

pub(crate) fn target(uri: &str) -> PushTarget {
    PushTarget { provider: Provider::WebPush, ..fcm_target(uri) }
}

#[tokio::test]
async fn invite_wakes_the_browser_without_a_body() {
    let double = WebPushDouble::start().await.unwrap();
    let (_folder, settings) = settings(&[&double]);
    let pushers = open(&settings);
    assert_eq!((pushers.providers(), pushers.vapid_key()), (vec![Provider::WebPush], Some(PUBLIC_KEY)));
    let uri = double.subscription(SUBSCRIPTION);
    let reply = send(&pushers, invite(target(&uri))).await;
    assert_eq!(
        (reply.outcome, reply.provider, reply.notice),
        (Outcome::Accepted, Provider::WebPush, NoticeKind::Invite)
    );
    let push = soon(double.next()).await;
    assert_eq!((push.token.as_str(), push.body.len()), (SUBSCRIPTION, 0));
    assert_eq!((push.header("ttl"), push.header("urgency"), push.header("topic")), ("28", "high", ""));
    assert_eq!((push.header("content-length"), push.header("content-type")), ("0", ""));

    assert_eq!(outcome(&pushers, missed_calls(target(&uri), 3)).await, Outcome::Accepted);
    let report = soon(double.next()).await;
    let of_report = (report.header("ttl"), report.header("urgency"), report.header("topic"));
    assert_eq!(of_report, ("86400", "normal", "missed_calls"));
    assert_eq!(report.header("authorization"), push.header("authorization"), "the token is kept");
    let mut topics = Vec::new();
    for _ in 0..2 {
        assert_eq!(outcome(&pushers, Push { is_repeat: true, ..invite(target(&uri)) }).await, Outcome::Accepted);
        topics.push(soon(double.next()).await.header("topic").to_owned());
    }
    assert!(topics[0].len() == 32 && topics[0] == topics[1], "one takes the place of the other: {topics:?}");
    assert_eq!(double.connections(), 1, "the connection is kept");
}

/// With the keys of its subscription.
fn keyed_target(double: &WebPushDouble, token: &str) -> PushTarget {
    let (uri, keys) = double.subscribe(token).unwrap();
    PushTarget { tokens: Tokens::Subscription(keys), ..target(&uri) }
}

#[tokio::test]
async fn with_keys_the_browser_reads_what_it_is_woken_for() {
    let double = WebPushDouble::start().await.unwrap();
    let (_folder, mut settings) = settings(&[&double]);
    let target = keyed_target(&double, SUBSCRIPTION);
    let pushers = open(&settings);
    assert_eq!(outcome(&pushers, invite(target.clone())).await, Outcome::Accepted);
    let push = soon(double.next()).await;
    let coding = (push.header("content-encoding"), push.header("content-type"));
    assert_eq!(coding, ("aes128gcm", "application/octet-stream"));
    assert_eq!((push.header("ttl"), push.header("urgency")), ("28", "high"));
    let json = push.json();
    assert_eq!(
        (&json["type"], &json["number"], &json["display_name"]),
        (&"invite".into(), &"103".into(), &"Ivan".into())
    );

    assert_eq!(outcome(&pushers, missed_calls(target.clone(), 500)).await, Outcome::Accepted);
    let report = soon(double.next()).await;
    assert!(report.body.len() <= 3993 && report.body.len() > 3800, "{}", report.body.len());
    let calls: Vec<serde_json::Value> = serde_json::from_str(report.json()["calls"].as_str().unwrap()).unwrap();
    double.script(SUBSCRIPTION, [raw(413, "")]);
    let reply = send(&pushers, missed_calls(target.clone(), 500)).await;
    let shorter = soon(double.next()).await;
    assert!(shorter.body.len() < 2000, "{}", shorter.body.len());
    assert!(reply.outcome == Outcome::Accepted && reply.left_out > 500 - calls.len(), "{reply:?}");

    settings.webpush.as_mut().unwrap().payload = FcmPayload::Ecss;
    assert_eq!(outcome(&open(&settings), invite(target)).await, Outcome::Accepted);
    let json = soon(double.next()).await.json();
    assert_eq!(json.as_object().unwrap().keys().collect::<Vec<_>>(), ["type", "date"]);
}

#[tokio::test]
async fn keys_that_are_none_are_refused_and_a_preview_shows_the_plain_body() {
    let double = WebPushDouble::start().await.unwrap();
    let (_folder, settings) = settings(&[&double]);
    let pushers = open(&settings);
    let target = keyed_target(&double, SUBSCRIPTION);
    let preview = pushers.preview(&invite(target.clone())).unwrap();
    assert!(preview.body.starts_with(r#"{"type":"invite","date":""#), "{}", preview.body);
    assert!(preview.headers.contains(&("content-encoding".to_owned(), "aes128gcm".to_owned())));
    let mut keys = target.keys().unwrap().clone();
    keys.p256dh[64] ^= 1;
    let wrong = PushTarget { tokens: Tokens::Subscription(keys), ..target };
    assert_eq!(pushers.supports(&wrong), Err("the subscription's p256dh is no public key".to_owned()));
    assert_eq!(double.requests(), 0);
}

#[tokio::test]
async fn test_is_not_sent_and_a_preview_hides_the_subscription() {
    let double = WebPushDouble::start().await.unwrap();
    let (_folder, settings) = settings(&[&double]);
    let pushers = open(&settings);
    let uri = double.subscription(SUBSCRIPTION);
    let test = Push { notice: Notice::Test, ..invite(target(&uri)) };
    let reason = "Web Push knows no push that its user does not see, so it is not tested";
    assert_eq!(outcome(&pushers, test).await, refused(reason));
    let register = Push { notice: Notice::Register { is_urgent: true }, ..invite(target(&uri)) };
    let reason = "Web Push knows no push that its user does not see, so nobody is asked to register";
    assert_eq!(outcome(&pushers, register).await, refused(reason));
    assert_eq!(double.requests(), 0);
    let preview = pushers.preview(&invite(target(&uri))).unwrap();
    assert_eq!(preview.url, format!("http://{}/{}", double.host(), preview.token));
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!((preview.headers, preview.body.as_str()), (vec![header("ttl", "28"), header("urgency", "high")], ""));
}

#[tokio::test]
async fn each_answer_has_its_outcome() {
    let double = WebPushDouble::start().await.unwrap();
    let (_folder, settings) = settings(&[&double]);
    let pushers = open(&settings);
    let table = [
        (Answer::Accept, Outcome::Accepted),
        (raw(202, ""), Outcome::Accepted),
        (raw(200, ""), Outcome::Accepted),
        (raw(404, ""), dead("404")),
        (raw(410, r#"{"code":410,"errno":106,"error":"Gone"}"#), dead("410: Gone")),
        (raw(413, ""), refused("413")),
        (raw(400, "no TTL"), refused("400: no TTL")),
        (raw(401, ""), refused("401")),
        (raw(403, r#"{"reason":"BadJwtToken"}"#), locked("403: BadJwtToken")),
        (raw(429, ""), token_limit(None, "429")),
        (retry_after(429, "9"), token_limit(Some(9), "429")),
        (retry_after(503, "3"), try_again(Some(3), "503")),
        (raw(500, "<html>"), try_again(None, "500")),
        (raw(507, ""), try_again(None, "507")),
    ];
    for (number, (answer, expected)) in table.into_iter().enumerate() {
        let token = format!("subscription-{number}");
        double.script(&token, [answer.clone()]);
        assert_eq!(outcome(&pushers, invite(target(&double.subscription(&token)))).await, expected, "{answer:?}");
    }
}

#[tokio::test]
async fn only_what_is_allowed_is_contacted() {
    let (double, other) = (WebPushDouble::start().await.unwrap(), WebPushDouble::start().await.unwrap());
    let (_folder, settings) = settings(&[&double]);
    let pushers = open(&settings);
    let elsewhere = format!("push.webpush.allowed_hosts does not have \"http://{}\"", other.host());
    let no_uri = "pn-prid is not the URI of a push subscription";
    let long = format!("https://{}/", "a.".repeat(500));
    let of_long = format!("push.webpush.allowed_hosts does not have \"https://{}\"", "a.".repeat(46));
    for (uri, expected) in [
        (other.subscription(SUBSCRIPTION), elsewhere.as_str()),
        (long, of_long.as_str()),
        (SUBSCRIPTION.to_owned(), no_uri),
        ("data:,x".to_owned(), no_uri),
        (format!("http://user@{}/wpush/v2/a", double.host()), no_uri),
        (
            "http://169.254.169.254/meta".to_owned(),
            "push.webpush.allowed_hosts does not have \"http://169.254.169.254\"",
        ),
    ] {
        assert_eq!(pushers.supports(&target(&uri)), Err(expected.to_owned()), "{uri}");
        assert_eq!(outcome(&pushers, invite(target(&uri))).await, refused(expected), "{uri}");
    }
    assert_eq!((double.requests(), other.requests()), (0, 0));

    let location = (hyper::header::LOCATION, other.subscription("a").parse().unwrap());
    double.script("a", [Answer::Raw { status: 307, headers: vec![location], body: String::new() }]);
    assert_eq!(outcome(&pushers, invite(target(&double.subscription("a")))).await, refused("307"));
    assert_eq!(other.requests(), 0, "redirects are not followed");
}

#[tokio::test]
async fn a_service_that_hangs_leaves_room_for_the_others() {
    let (bad, good) = (WebPushDouble::start().await.unwrap(), WebPushDouble::start().await.unwrap());
    let (_folder, settings) = settings(&[&bad, &good]);
    let limits = Limits { in_flight: 2, queue: 4, ..Limits::default() };
    let pushers = open(&Settings { limits, ..settings });
    bad.script("a", std::iter::repeat_n(Answer::Hang, 10));
    let (reply_to, mut replies) = mpsc::channel(10);
    for _ in 0..10 {
        pushers.submit(invite(target(&bad.subscription("a"))), reply_to.clone()).unwrap();
    }
    for _ in 0..6 {
        let told = format!("webpush {}: too many pushes are under way", bad.host());
        assert_eq!(trouble(&soon(replies.recv()).await.unwrap().outcome), told);
    }
    for _ in 0..20 {
        assert_eq!(outcome(&pushers, invite(target(&good.subscription("b")))).await, Outcome::Accepted);
    }
    assert!(bad.requests() <= 2);
}

#[tokio::test]
async fn a_service_that_fails_is_left_alone_and_the_others_are_not() {
    let (bad, good) = (WebPushDouble::start().await.unwrap(), WebPushDouble::start().await.unwrap());
    let (_folder, settings) = settings(&[&bad, &good]);
    let breaker = BreakerSettings { pause: Duration::from_secs(60), failures: 3 };
    let pushers = open(&Settings { limits: Limits { breaker, ..Limits::default() }, ..settings });
    for token in ["a", "b", "c"] {
        bad.script(token, [raw(503, "")]);
        assert_eq!(outcome(&pushers, invite(target(&bad.subscription(token)))).await, try_again(None, "503"));
    }
    let skipped = outcome(&pushers, invite(target(&bad.subscription("a")))).await;
    let Outcome::Skipped { reason, .. } = &skipped else { panic!("{skipped:?}") };
    assert_eq!(**reason, *format!("webpush {} is not asked for a moment: 503", bad.host()));
    assert_eq!(outcome(&pushers, invite(target(&good.subscription("b")))).await, Outcome::Accepted);
    let trouble = format!("webpush {}: fails: 503", bad.host());
    assert_eq!(pushers.troubles(), [(Provider::WebPush, trouble)]);
}

#[tokio::test]
async fn a_subscription_for_another_key_is_no_alarm_but_an_unknown_key_is() {
    let double = WebPushDouble::start().await.unwrap();
    let (_folder, settings) = settings(&[&double]);
    let pushers = open(&settings);
    let push = |token: &str| invite(target(&double.subscription(token)));
    let another_key = || raw(403, "the subscription is for another key");
    let told = "403: the subscription is for another key";
    let trouble = format!("webpush {}: credentials or rights are refused: {told}", double.host());
    for token in ["a", "b", "c"] {
        assert_eq!(pushers.troubles(), [], "it may be about these subscriptions alone");
        double.script(token, [another_key()]);
        assert_eq!(outcome(&pushers, push(token)).await, refused(told));
    }
    assert_eq!(pushers.troubles(), [(Provider::WebPush, trouble)], "it has never taken our key");
    assert_eq!(outcome(&pushers, push("b")).await, Outcome::Accepted);
    double.script("a", std::iter::repeat_n(another_key(), 20));
    for _ in 0..20 {
        assert_eq!(outcome(&pushers, push("a")).await, refused(told));
    }
    assert_eq!(pushers.troubles(), []);
}

#[tokio::test]
async fn reasons_do_not_tell_the_subscription() {
    let double = WebPushDouble::start().await.unwrap();
    let (_folder, settings) = settings(&[&double]);
    let uri = double.subscription(SUBSCRIPTION);
    let path = format!("/wpush/v2/{SUBSCRIPTION}");
    double.script(SUBSCRIPTION, [raw(400, &format!("bad {uri}")), raw(400, &format!("bad {path}"))]);
    let pushers = open(&settings);
    for _ in 0..2 {
        let told = format!("{:?}", outcome(&pushers, invite(target(&uri))).await);
        assert!(told.contains("400: bad ") && !told.contains(SUBSCRIPTION), "{told}");
    }
    drop(double);
    let outcome = outcome(&pushers, invite(target(&uri))).await;
    assert!(!trouble(&outcome).contains(SUBSCRIPTION), "{outcome:?}");
}
