//! callback: what is posted, and what each answer comes to.

use std::time::Duration;

use serde_json::json;
use sip_push_proxy::binding::{Aor, Provider, PushTarget};
use sip_push_proxy::demo::callback_double::{Answer, CallbackDouble};
use sip_push_proxy::push::{Limits, Notice, NoticeKind, Outcome, Push, Settings, callback};
use tempfile::TempDir;

use crate::bench::*;

fn raw(status: u16, body: &str) -> Answer {
    Answer::Raw { status, headers: Vec::new(), body: body.to_owned() }
}

fn retry_after(status: u16, seconds: &str) -> Answer {
    let header = (hyper::header::RETRY_AFTER, seconds.parse().unwrap());
    Answer::Raw { status, headers: vec![header], body: String::new() }
}

pub(crate) fn settings(double: &CallbackDouble) -> (TempDir, Settings) {
    let folder = tempfile::tempdir().unwrap();
    let secret_file = Some(double.write_credentials(folder.path()).unwrap());
    let callback = Some(callback::Settings { url: double.url(), secret_file, ca_file: None });
    (folder, Settings { callback, per_token_per_min: 0, ..Settings::default() })
}

pub(crate) fn target(token: &str) -> PushTarget {
    PushTarget { provider: Provider::Callback, ..fcm_target(token) }
}

#[tokio::test]
async fn invite_is_posted_signed_and_with_all_that_is_known() {
    let double = CallbackDouble::start().await.unwrap();
    let (_folder, settings) = settings(&double);
    let pushers = open(&settings);
    assert_eq!(pushers.providers(), [Provider::Callback]);
    let reply = send(&pushers, invite(PushTarget { param: "123:IOS".into(), ..target("device_token") })).await;
    assert_eq!(
        (reply.outcome, reply.provider, reply.notice),
        (Outcome::Accepted, Provider::Callback, NoticeKind::Invite)
    );
    let push = soon(double.next()).await;
    assert_eq!(push.header("content-type"), "application/json");
    let body = String::from_utf8_lossy(&push.body);
    let start = r#"{"user":{"user_id":"alice"},"device":[{"device_token":"device_token","type":"IOS","pn_param":"123:IOS"}],"notification":{"type":"invite","date":1623753491,"number":"103","call_ref":"1","uuid":""#;
    assert!(body.starts_with(start), "{body}");
    assert!(body.ends_with(r#"","display_name":"Ivan","sent_at":1623753491000,"ttl":28}}"#), "{body}");
    // The user of the AOR, and what this program calls its devices.
    assert_eq!(outcome(&pushers, invite(target("device_token"))).await, Outcome::Accepted);
    let body = soon(double.next()).await.json();
    assert_eq!((body["user"]["user_id"].as_str(), body["device"][0]["type"].as_str()), (Some("alice"), Some("SIP")));
    assert_eq!(double.connections(), 1, "the connection is kept");
}

#[tokio::test]
async fn a_token_that_is_a_word_of_the_answer_raises_no_alarm() {
    let double = CallbackDouble::start().await.unwrap();
    let (_folder, settings) = settings(&double);
    let pushers = open(&settings);
    double.script("unregistered", [raw(404, r#"{"code":"unregistered"}"#)]);
    let outcome = outcome(&pushers, invite(target("unregistered"))).await;
    assert!(matches!(outcome, Outcome::Misfit { .. }), "{outcome:?}");
    assert_eq!(pushers.troubles(), []);
}

#[tokio::test]
async fn a_phone_does_not_say_whose_it_is() {
    let double = CallbackDouble::start().await.unwrap();
    let (_folder, settings) = settings(&double);
    let pushers = open(&settings);
    let of_bob = || Push {
        aor: Aor::new("bob", "example.org"),
        ..invite(PushTarget { param: "alice:IOS".into(), ..target("device_token") })
    };
    let preview = pushers.preview(&of_bob()).unwrap();
    assert!(preview.body.starts_with(r#"{"user":{"user_id":"bob"},"#), "{}", preview.body);
    assert_eq!(outcome(&pushers, of_bob()).await, Outcome::Accepted);
    let body = soon(double.next()).await.json();
    assert_eq!(body["user"], json!({ "user_id": "bob" }));
    assert_eq!(body["device"], json!([{ "device_token": "device_token", "type": "IOS", "pn_param": "alice:IOS" }]));
}

#[tokio::test]
async fn each_answer_has_its_outcome() {
    let double = CallbackDouble::start().await.unwrap();
    let (_folder, settings) = settings(&double);
    let pushers = open(&settings);
    let no_path = "404; if it is about the token, answer 410";
    let table = [
        (Answer::Accept, Outcome::Accepted),
        (raw(202, ""), Outcome::Accepted),
        (raw(204, ""), Outcome::Accepted),
        (raw(410, ""), dead("410")),
        (raw(410, "<html>Gone</html>"), dead("410")),
        (raw(404, ""), misfit("404; answer 410 where the token is gone for good")),
        (
            raw(404, r#"{"error":"unknown token"}"#),
            misfit("404: unknown token; answer 410 where the token is gone for good"),
        ),
        (raw(404, "<html>Not Found</html>"), locked(no_path)),
        (raw(429, ""), token_limit(None, "429")),
        (retry_after(429, "9"), token_limit(Some(9), "429")),
        (raw(500, r#"{"message":"out of order"}"#), try_again(None, "500: out of order")),
        (retry_after(503, "3"), try_again(Some(3), "503")),
        (raw(400, r#"{"error":"no such app"}"#), refused("400: no such app")),
        (raw(401, r#"{"error":"wrong signature"}"#), locked("401: wrong signature")),
        (raw(403, ""), locked("403")),
        (raw(413, ""), refused("413")),
        (raw(418, "teapot"), refused("418: teapot")),
        (raw(503, &"x".repeat(1_000_000)), try_again(None, &format!("503: {}", "x".repeat(80)))),
    ];
    for (number, (answer, expected)) in table.into_iter().enumerate() {
        let token = format!("token-{number}");
        double.script(&token, [answer.clone()]);
        assert_eq!(outcome(&pushers, invite(target(&token))).await, expected, "{answer:?}");
    }
}

#[tokio::test]
async fn wrong_signature_is_the_operators_alarm() {
    let double = CallbackDouble::start().await.unwrap();
    let (folder, settings) = settings(&double);
    std::fs::write(folder.path().join("callback.secret"), "another secret").unwrap();
    let pushers = open(&settings);
    assert_eq!(outcome(&pushers, invite(target("a"))).await, locked("401: wrong signature"));
    let trouble = "callback 127.0.0.1: credentials or rights are refused: 401: wrong signature";
    assert_eq!(pushers.troubles(), [(Provider::Callback, trouble.to_owned())]);
}

#[tokio::test]
async fn test_is_posted_and_a_preview_hides_token_and_key() {
    let double = CallbackDouble::start().await.unwrap();
    let (_folder, mut settings) = settings(&double);
    let test = || Push { notice: Notice::Test, ..invite(target("device_token")) };
    assert_eq!(outcome(&open(&settings), test()).await, Outcome::Accepted);
    assert_eq!(soon(double.next()).await.json()["notification"]["type"], "test");
    if let Some(callback) = &mut settings.callback {
        callback.url.push_str("?key=secret");
    }
    let preview = open(&settings).preview(&invite(target("device_token"))).unwrap();
    assert_eq!((preview.url, preview.account.as_str()), (double.url(), "callback 127.0.0.1"));
    assert!(
        preview.body.contains(r#""type":"invite""#) && !preview.body.contains("device_token\":\"device"),
        "{}",
        preview.body
    );
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let (double, elsewhere) = (CallbackDouble::start().await.unwrap(), CallbackDouble::start().await.unwrap());
    let (_folder, settings) = settings(&double);
    let location = (hyper::header::LOCATION, elsewhere.url().parse().unwrap());
    double.script("a", [Answer::Raw { status: 307, headers: vec![location], body: String::new() }]);
    assert_eq!(outcome(&open(&settings), invite(target("a"))).await, refused("307"));
    assert_eq!(elsewhere.requests(), 0);
}

#[tokio::test]
async fn silence_and_broken_connections_are_passing_trouble_and_open_the_breaker() {
    let double = CallbackDouble::start().await.unwrap();
    let (_folder, settings) = settings(&double);
    let limits = Limits::default();
    let pushers = open(&Settings { timeout: Duration::from_millis(200), limits, ..settings });
    double.script("a", [Answer::Hang]);
    assert_eq!(outcome(&pushers, invite(target("a"))).await, silent(200));
    for _ in 1..limits.breaker.failures {
        double.script("b", [Answer::Disconnect]);
        assert!(trouble(&outcome(&pushers, invite(target("b"))).await).starts_with("no answer"));
    }
    let skipped = outcome(&pushers, invite(target("b"))).await;
    assert!(matches!(skipped, Outcome::Skipped { .. }), "{skipped:?}");
}

#[tokio::test]
async fn report_that_is_too_large_is_shortened_once() {
    let double = CallbackDouble::start().await.unwrap();
    let (_folder, settings) = settings(&double);
    let pushers = open(&settings);
    double.script("a", [raw(413, "")]);
    let reply = send(&pushers, missed_calls(target("a"), 40)).await;
    let body = soon(double.next()).await.json();
    let calls = body["notification"]["calls"].as_array().unwrap();
    assert_eq!((reply.outcome, reply.left_out + calls.len()), (Outcome::Accepted, 40));
    assert!(reply.left_out > 0);
    assert_eq!(calls.last().unwrap()["remote_uri"], "139");
    double.script("a", [raw(413, ""), raw(413, "")]);
    assert_eq!(outcome(&pushers, missed_calls(target("a"), 40)).await, refused("413"));
}

#[tokio::test]
async fn settings_that_cannot_be_used_are_named() {
    let double = CallbackDouble::start().await.unwrap();
    let (folder, settings) = settings(&double);
    let wrong = |settings: &Settings| {
        let error = sip_push_proxy::push::Pushers::open(settings, tokio::runtime::Handle::current()).err().unwrap();
        error.to_string()
    };
    std::fs::write(folder.path().join("callback.secret"), " \n").unwrap();
    assert!(wrong(&settings).ends_with("is empty; write the secret into it, on one line"));
    let callback = Some(callback::Settings { url: "ftp://host".to_owned(), secret_file: None, ca_file: None });
    let told = wrong(&Settings { callback, ..settings });
    assert_eq!(told, "push.callback.url: must be an http:// or https:// URL");
}
