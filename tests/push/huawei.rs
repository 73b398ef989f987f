//! Huawei's phones, with Android and with HarmonyOS alone: what is sent, and what each answer comes to.

use std::time::Duration;

use serde_json::{Value, json};
use sip_push_proxy::binding::{Provider, PushTarget};
use sip_push_proxy::demo::harmony_double::{self, illegal_token};
use sip_push_proxy::demo::hms_double::{self, CLIENT_ID, HmsDouble, code};
use sip_push_proxy::demo::service_double::{Answer, ServiceDouble};
use sip_push_proxy::push::payload::FcmPayload;
use sip_push_proxy::push::{AlertText, Notice, NoticeKind, Outcome, Push, Settings, harmony, hms};
use tempfile::TempDir;

use crate::bench::*;

pub(crate) fn hms_settings(double: &HmsDouble) -> (TempDir, Settings) {
    let folder = tempfile::tempdir().unwrap();
    let account = hms::Settings {
        project_id: hms_double::PROJECT_ID.to_owned(),
        client_id: CLIENT_ID.to_owned(),
        client_secret_file: double.write_credentials(folder.path()).unwrap(),
        endpoint: double.service.url(),
        token_endpoint: double.token_endpoint(),
        ..hms::Settings::default()
    };
    (folder, Settings { hms: vec![account], per_token_per_min: 0, ..Settings::default() })
}

pub(crate) fn harmony_settings(double: &ServiceDouble) -> (TempDir, Settings) {
    let folder = tempfile::tempdir().unwrap();
    let service_account = harmony_double::write_credentials(folder.path()).unwrap();
    let account = harmony::Settings { service_account, endpoint: double.url(), ..harmony::Settings::default() };
    (folder, Settings { harmony: vec![account], per_token_per_min: 0, ..Settings::default() })
}

pub(crate) fn of(provider: Provider, token: &str) -> PushTarget {
    PushTarget { provider, ..fcm_target(token) }
}

fn raw(status: u16, body: &str) -> Answer {
    Answer::Raw { status, headers: Vec::new(), body: body.to_owned() }
}

fn text() -> Notice {
    Notice::Text { title: "t".into(), body: "b".into() }
}

#[tokio::test]
async fn hms_gets_a_text_for_the_app_and_a_list_of_one_token() {
    let double = HmsDouble::start().await.unwrap();
    let (_folder, mut settings) = hms_settings(&double);
    let pushers = open(&settings);
    assert_eq!(pushers.providers(), [Provider::Hms]);
    let reply = send(&pushers, invite(of(Provider::Hms, "device_token"))).await;
    assert_eq!((reply.outcome, reply.provider, reply.notice), (Outcome::Accepted, Provider::Hms, NoticeKind::Invite));
    let push = soon(double.service.next()).await;
    assert_eq!(push.path, "/v2/388421841221000001/messages:send");
    assert_eq!(push.header("authorization"), "Bearer CgB6e3x9/double+1==");
    assert_eq!(
        String::from_utf8_lossy(&push.body),
        r#"{"message":{"data":"{\"type\":\"invite\",\"date\":\"1623753491\"}","android":{"urgency":"HIGH","ttl":"28s","category":"VOIP"},"token":["device_token"]}}"#
    );
    settings.hms[0].payload = FcmPayload::Extended;
    assert_eq!(outcome(&open(&settings), invite(of(Provider::Hms, "a"))).await, Outcome::Accepted);
    let push = soon(double.service.next()).await.json();
    let data: Value = serde_json::from_str(push["message"]["data"].as_str().unwrap()).unwrap();
    assert_eq!((data["number"].as_str(), data["call_ref"].as_str()), (Some("103"), Some("1")));
}

#[tokio::test]
async fn hms_without_a_project_pushes_to_its_app() {
    let double = HmsDouble::start().await.unwrap();
    let (_folder, mut settings) = hms_settings(&double);
    settings.hms[0].project_id.clear();
    let pushers = open(&settings);
    assert_eq!(outcome(&pushers, invite(of(Provider::Hms, "device_token"))).await, Outcome::Accepted);
    assert_eq!(soon(double.service.next()).await.path, "/v1/102345678/messages:send");
}

#[tokio::test]
async fn hms_has_forms_for_reports_texts_messages_and_tests() {
    let double = HmsDouble::start().await.unwrap();
    let (_folder, settings) = hms_settings(&double);
    let pushers = open(&settings);
    let target = || of(Provider::Hms, "a");
    let reply = send(&pushers, missed_calls(target(), 200)).await;
    let push = soon(double.service.next()).await;
    assert!(push.body.len() <= 4096 + 1);
    let data: Value = serde_json::from_str(push.json()["message"]["data"].as_str().unwrap()).unwrap();
    let calls: Vec<Value> = serde_json::from_str(data["calls"].as_str().unwrap()).unwrap();
    assert_eq!((reply.outcome, calls.len() + reply.left_out), (Outcome::Accepted, 200));
    assert_eq!(push.json()["message"]["android"], json!({"urgency": "NORMAL"}));

    assert_eq!(outcome(&pushers, Push { notice: text(), ..invite(target()) }).await, Outcome::Accepted);
    let words = json!({"title": "t", "body": "b"});
    let shown = json!({"title": "t", "body": "b", "click_action": {"type": 3}});
    let push = soon(double.service.next()).await.json();
    assert_eq!(push["message"]["notification"], words);
    assert_eq!(push["message"]["android"], json!({"urgency": "NORMAL", "ttl": "28s", "notification": shown}));
    assert_eq!(outcome(&pushers, Push { notice: Notice::Message, ..invite(target()) }).await, Outcome::Accepted);
    let push = soon(double.service.next()).await.json();
    assert_eq!(push["message"]["android"], json!({"urgency": "HIGH", "ttl": "28s"}));
    for (is_urgent, urgency) in [(false, "NORMAL"), (true, "HIGH")] {
        let notice = Notice::Register { is_urgent };
        assert_eq!(outcome(&pushers, Push { notice, ..invite(target()) }).await, Outcome::Accepted);
        let push = soon(double.service.next()).await.json();
        assert_eq!(push["message"]["android"], json!({"urgency": urgency, "ttl": "28s"}));
    }
    assert_eq!(outcome(&pushers, Push { notice: Notice::Test, ..invite(target()) }).await, Outcome::Accepted);
    assert_eq!(soon(double.service.next()).await.json()["validate_only"], true);
}

#[tokio::test]
async fn each_code_of_hms_has_its_outcome() {
    let double = HmsDouble::start().await.unwrap();
    let (_folder, settings) = hms_settings(&double);
    let pushers = open(&settings);
    let push = |token: &str| invite(of(Provider::Hms, token));
    double.service.script("early", [code("80300007", "All the tokens are invalid")]);
    let early = outcome(&pushers, push("early")).await;
    assert_eq!(early, misfit("200 80300007; no push of this account was taken so far"));
    let some = r#"{"success":0,"failure":1,"illegal_tokens":["x"]}"#;
    let number = raw(200, r#"{"code":80000000,"msg":"Success"}"#);
    let table = [
        (Answer::Accept, Outcome::Accepted),
        (number, Outcome::Accepted),
        (code("80100000", some), dead("200 80100000")),
        (code("80300007", "All the tokens are invalid"), dead("200 80300007")),
        (code("80300002", "No permission"), misfit("200 80300002: No permission")),
        (code("80100003", "Illegal payload"), refused("200 80100003: Illegal payload")),
        (code("80300010", "tokens"), refused("200 80300010: tokens")),
        (code("80100016", "words"), refused("200 80100016: words")),
        (code("80300008", "too long"), refused("200 80300008")),
        (code("80200006", "disabled"), locked("200 80200006: disabled")),
        (code("81000001", "Inner error"), try_again(None, "200 81000001: Inner error")),
        (raw(400, r#"{"code":"80100003","msg":"x"}"#), refused("400 80100003: x")),
        (raw(503, ""), try_again(None, "503")),
        (raw(502, "<html>"), try_again(None, "502")),
        (raw(200, "<html>"), try_again(None, "200 without a code")),
        (raw(403, ""), locked("403")),
        (raw(404, "<html>"), refused("404")),
    ];
    for (number, (answer, expected)) in table.into_iter().enumerate() {
        let token = format!("token-{number}");
        double.service.script(&token, [answer.clone()]);
        assert_eq!(outcome(&pushers, push(&token)).await, expected, "{answer:?}");
    }
    assert_eq!(double.token_fetches(), 1);
}

#[tokio::test]
async fn access_token_of_hms_is_shared_and_renewed_once() {
    let double = HmsDouble::start().await.unwrap();
    let (folder, settings) = hms_settings(&double);
    let pushers = open(&settings);
    let push = |token: &str| invite(of(Provider::Hms, token));
    let outcomes = send_all(&pushers, (0..50).map(|n| push(&format!("token-{n}")))).await;
    assert_eq!((outcomes, double.token_fetches()), (vec![Outcome::Accepted; 50], 1));
    double.revoke_access_tokens();
    assert_eq!(outcome(&pushers, push("a")).await, Outcome::Accepted);
    assert_eq!(double.token_fetches(), 2);
    for stale in ["80200001", "80200003"] {
        double.service.script("b", [code(stale, "OAuth"), code(stale, "OAuth")]);
        assert_eq!(outcome(&pushers, push("b")).await, locked(&format!("200 {stale}: OAuth")));
        double.service.script("b", [code(stale, "OAuth")]);
        assert_eq!(outcome(&pushers, push("b")).await, Outcome::Accepted);
    }

    std::fs::write(folder.path().join("hms.secret"), "another").unwrap();
    let wrong = "token endpoint: 400 1101/20044: The client secret is invalid";
    let pushers = open(&settings);
    assert_eq!(outcome(&pushers, push("a")).await, locked(wrong));
    let trouble = format!("hms project 388421841221000001: credentials or rights are refused: {wrong}");
    assert_eq!(pushers.troubles(), [(Provider::Hms, trouble)]);
}

#[tokio::test]
async fn harmony_gets_calls_by_their_own_type_and_a_token_signed_here() {
    let double = harmony_double::start().await.unwrap();
    let (_folder, settings) = harmony_settings(&double);
    let pushers = open(&settings);
    assert_eq!(pushers.providers(), [Provider::Harmony]);
    let target = || of(Provider::Harmony, "device_token");
    assert_eq!(outcome(&pushers, invite(target())).await, Outcome::Accepted);
    let push = soon(double.next()).await;
    assert_eq!(push.path, "/v3/388421841221000002/messages:send");
    assert_eq!(push.header("push-type"), "10");
    assert_eq!(
        String::from_utf8_lossy(&push.body),
        r#"{"pushOptions":{"ttl":28},"payload":{"extraData":"{\"type\":\"invite\",\"date\":\"1623753491\"}"},"target":{"token":["device_token"]}}"#
    );
    let preview = pushers.preview(&invite(target())).unwrap();
    assert_eq!(preview.headers, [("push-type".to_owned(), "10".to_owned())]);

    let authorization = push.header("authorization").to_owned();
    assert_eq!(outcome(&pushers, Push { notice: Notice::Test, ..invite(target()) }).await, Outcome::Accepted);
    let push = soon(double.next()).await;
    assert_eq!((push.header("push-type"), push.header("authorization")), ("6", authorization.as_str()));
    assert_eq!(outcome(&pushers, Push { notice: text(), ..invite(target()) }).await, Outcome::Accepted);
    let push = soon(double.next()).await;
    assert_eq!(push.header("push-type"), "0");
    let shown = push.json()["payload"]["notification"].clone();
    assert_eq!((&shown["category"], &shown["title"], &shown["body"]), (&json!("IM"), &json!("t"), &json!("b")));
    let told = outcome(&pushers, Push { notice: Notice::Message, ..invite(target()) }).await;
    assert_eq!(told, refused("HarmonyOS wakes an app for calls only, so a message waits in vain"));
    let notice = Notice::Register { is_urgent: true };
    let told = outcome(&pushers, Push { notice, ..invite(target()) }).await;
    assert_eq!(told, refused("HarmonyOS wakes an app for calls only, so it is not asked to register"));
}

#[tokio::test]
async fn harmony_shows_missed_calls_in_the_language_of_their_user() {
    let double = harmony_double::start().await.unwrap();
    let (_folder, mut settings) = harmony_settings(&double);
    let report = |count| missed_calls(of(Provider::Harmony, "a"), count);
    assert_eq!(outcome(&open(&settings), report(1)).await, Outcome::Accepted);
    let push = soon(double.next()).await;
    assert_eq!((push.header("push-type"), &push.json()["pushOptions"]), ("0", &json!({"ttl": 86400})));
    let shown = push.json()["payload"]["notification"].clone();
    assert_eq!(shown["category"], "MISS_CALL");
    assert_eq!((&shown["title"], &shown["body"]), (&json!("Missed calls"), &json!("1 missed call")));
    assert_eq!(shown["clickAction"]["actionType"], 0);
    assert_eq!(shown["clickAction"]["data"]["type"], "missed_calls");
    // As the app was told of the call, so that it is shown once.
    assert!(shown["appMessageId"].as_str().is_some_and(|id| id.len() == 36), "{shown}");

    let russian = AlertText {
        language: "ru".into(),
        title: "Пропущенные".into(),
        one: "{count} вызов".into(),
        few: "{count} вызова".into(),
        many: "{count} вызовов".into(),
        other: "{count} вызова".into(),
        anonymous: "неизвестный".into(),
    };
    settings.alerts.texts.push(russian);
    let push = Push { language: Some("ru-RU".into()), ..report(200) };
    let reply = send(&open(&settings), push).await;
    assert!(reply.outcome == Outcome::Accepted && reply.left_out > 0);
    let push = soon(double.next()).await;
    assert!(push.body.len() <= 4096 + 1, "{}", push.body.len());
    assert_eq!(push.json()["payload"]["notification"]["body"], "200 вызовов");
}

#[tokio::test]
async fn each_answer_of_harmony_has_its_outcome() {
    let double = harmony_double::start().await.unwrap();
    let (_folder, settings) = harmony_settings(&double);
    let pushers = open(&settings);
    let table = [
        (Answer::Accept, Outcome::Accepted),
        (illegal_token("noRight", "t"), misfit("200 80300007: noRight")),
        (illegal_token(" tokenFormatError ", "t"), misfit("200 80300007: tokenFormatError")),
        (illegal_token("tokenPlatformNotSupport", "t"), misfit("200 80300007: tokenPlatformNotSupport")),
        (illegal_token("countryNotSupport", "t"), refused("200 80300007: countryNotSupport")),
        (illegal_token("noPushTypeRight", "t"), locked("200 80300007: noPushTypeRight")),
        (code("80300029", "limit"), refused("200 80300029: limit")),
        (code("80300037", "penalty"), locked("200 80300037: penalty")),
        (raw(401, ""), Outcome::Accepted),
        (raw(503, ""), try_again(None, "503")),
    ];
    for (number, (answer, expected)) in table.into_iter().enumerate() {
        let token = format!("token-{number}");
        double.script(&token, [answer.clone()]);
        assert_eq!(outcome(&pushers, invite(of(Provider::Harmony, &token))).await, expected, "{answer:?}");
    }
    double.script("a", [code("80200005", "Jwt token expired."), code("80200005", "Jwt token expired.")]);
    let told = outcome(&pushers, invite(of(Provider::Harmony, "a"))).await;
    assert_eq!(told, locked("200 80200005: Jwt token expired."));
    let quick = open(&Settings { timeout: Duration::from_millis(200), ..settings });
    double.script("b", [Answer::Hang]);
    assert_eq!(outcome(&quick, invite(of(Provider::Harmony, "b"))).await, silent(200));
}
