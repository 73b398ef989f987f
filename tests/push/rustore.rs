//! RuStore: what is sent, and what each answer comes to.

use std::time::Duration;

use sip_push_proxy::binding::{Provider, PushTarget};
use sip_push_proxy::demo::rustore_double::{self, PROJECT_ID, refusal};
use sip_push_proxy::demo::service_double::{Answer, ServiceDouble};
use sip_push_proxy::push::payload::FcmPayload;
use sip_push_proxy::push::{Notice, NoticeKind, Outcome, Push, Settings, rustore};
use tempfile::TempDir;

use crate::bench::*;

pub(crate) fn settings(double: &ServiceDouble) -> (TempDir, Settings) {
    let folder = tempfile::tempdir().unwrap();
    let token_file = rustore_double::write_credentials(folder.path()).unwrap();
    let account = rustore::Settings {
        project_id: PROJECT_ID.to_owned(),
        token_file,
        endpoint: double.url(),
        ..rustore::Settings::default()
    };
    (folder, Settings { rustore: vec![account], per_token_per_min: 0, ..Settings::default() })
}

pub(crate) fn target(token: &str) -> PushTarget {
    PushTarget { provider: Provider::RuStore, ..fcm_target(token) }
}

fn raw(status: u16, body: &str) -> Answer {
    Answer::Raw { status, headers: Vec::new(), body: body.to_owned() }
}

#[tokio::test]
async fn invite_has_the_body_of_fcm_but_for_the_priority() {
    let double = rustore_double::start().await.unwrap();
    let (_folder, mut settings) = settings(&double);
    let pushers = open(&settings);
    assert_eq!(pushers.providers(), [Provider::RuStore]);
    let reply = send(&pushers, invite(target("device_token"))).await;
    assert_eq!(
        (reply.outcome, reply.provider, reply.notice),
        (Outcome::Accepted, Provider::RuStore, NoticeKind::Invite)
    );
    let push = soon(double.next()).await;
    assert_eq!(push.path, "/v1/projects/demo-rustore/messages:send");
    assert_eq!(push.header("content-type"), "application/json");
    assert_eq!(push.header("authorization"), "Bearer throwaway-service-token");
    assert_eq!(
        String::from_utf8_lossy(&push.body),
        r#"{"message":{"token":"device_token","data":{"type":"invite","date":"1623753491"},"android":{"ttl":"28s"}}}"#
    );
    settings.rustore[0].payload = FcmPayload::Extended;
    assert_eq!(outcome(&open(&settings), invite(target("a"))).await, Outcome::Accepted);
    let data = soon(double.next()).await.json()["message"]["data"].clone();
    assert_eq!((data["number"].as_str(), data["call_ref"].as_str()), (Some("103"), Some("1")));
}

#[tokio::test]
async fn reports_texts_and_tests_have_their_forms() {
    let double = rustore_double::start().await.unwrap();
    let (_folder, settings) = settings(&double);
    let pushers = open(&settings);
    let reply = send(&pushers, missed_calls(target("a"), 200)).await;
    let push = soon(double.next()).await.json();
    let calls = push["message"]["data"]["calls"].as_str().unwrap();
    let calls = serde_json::from_str::<Vec<serde_json::Value>>(calls).unwrap();
    assert_eq!((reply.outcome, calls.len() + reply.left_out), (Outcome::Accepted, 200));
    assert_eq!(push["message"].get("android"), None, "it keeps until the phone is on line");
    double.script("a", [raw(413, "")]);
    let shorter = send(&pushers, missed_calls(target("a"), 200)).await;
    assert!(shorter.outcome == Outcome::Accepted && shorter.left_out > reply.left_out);
    soon(double.next()).await;

    let notice = Notice::Text { title: "t".into(), body: "b".into() };
    assert_eq!(outcome(&pushers, Push { notice, ..invite(target("a")) }).await, Outcome::Accepted);
    let text = soon(double.next()).await.json();
    assert_eq!(text["message"]["notification"], serde_json::json!({"title": "t", "body": "b"}));
    assert_eq!(outcome(&pushers, Push { notice: Notice::Test, ..invite(target("a")) }).await, Outcome::Accepted);
    assert_eq!(soon(double.next()).await.json()["message"]["data"]["type"], "test");
}

#[tokio::test]
async fn each_answer_has_its_outcome() {
    let double = rustore_double::start().await.unwrap();
    let (_folder, settings) = settings(&double);
    let pushers = open(&settings);
    let unknown = "no push of this account was taken so far";
    double.script("early", [refusal(404, "NOT_FOUND", "Requested entity was not found.")]);
    assert_eq!(outcome(&pushers, invite(target("early"))).await, misfit(&format!("404 NOT_FOUND; {unknown}")));
    let table = [
        (Answer::Accept, Outcome::Accepted),
        (refusal(404, "NOT_FOUND", "Requested entity was not found."), dead("404 NOT_FOUND")),
        (raw(404, r#"{"code":404,"message":"no","status":"NOT_FOUND"}"#), dead("404 NOT_FOUND")),
        (refusal(404, "UNREGISTERED", ""), dead("404 UNREGISTERED")),
        (raw(410, ""), dead("410")),
        (refusal(403, "PERMISSION_DENIED", "bad key"), locked("403 PERMISSION_DENIED: bad key")),
        (refusal(401, "UNAUTHENTICATED", ""), locked("401 UNAUTHENTICATED")),
        (raw(401, "<html>"), locked("401")),
        (refusal(400, "INVALID_ARGUMENT", "message.data"), refused("400 INVALID_ARGUMENT: message.data")),
        (refusal(400, "INVALID_ARGUMENT", "wrong token"), misfit("400 INVALID_ARGUMENT: wrong token")),
        (refusal(429, "TOO_MANY_REQUESTS", ""), try_again(None, "429 TOO_MANY_REQUESTS")),
        (refusal(500, "INTERNAL", ""), try_again(None, "500 INTERNAL")),
        (raw(502, "<html>Bad Gateway</html>"), try_again(None, "502")),
        (raw(404, "<html>Not Found</html>"), refused("404")),
        (raw(413, ""), refused("413")),
        (raw(418, ""), refused("418")),
    ];
    for (number, (answer, expected)) in table.into_iter().enumerate() {
        let token = format!("token-{number}");
        double.script(&token, [answer.clone()]);
        assert_eq!(outcome(&pushers, invite(target(&token))).await, expected, "{answer:?}");
    }
}

#[tokio::test]
async fn another_service_token_is_told_and_silence_is_passing_trouble() {
    let double = rustore_double::start().await.unwrap();
    let (folder, settings) = settings(&double);
    let quick = open(&Settings { timeout: Duration::from_millis(200), ..settings.clone() });
    double.script("a", [Answer::Hang]);
    assert_eq!(outcome(&quick, invite(target("a"))).await, silent(200));
    std::fs::write(folder.path().join("rustore.token"), "another").unwrap();
    let pushers = open(&settings);
    let why = "403 PERMISSION_DENIED: the service token is not of this project";
    assert_eq!(outcome(&pushers, invite(target("a"))).await, locked(why));
    let trouble = format!("rustore project demo-rustore: credentials or rights are refused: {why}");
    assert_eq!(pushers.troubles(), [(Provider::RuStore, trouble)]);
}

#[tokio::test]
async fn project_is_chosen_by_pn_param() {
    let double = rustore_double::start().await.unwrap();
    let (_folder, mut settings) = settings(&double);
    let named = |param: &str| PushTarget { param: param.into(), ..target("token") };
    assert_eq!(open(&settings).supports(&named("another")), Ok(()), "the only one takes them all");
    let other = rustore::Settings { project_id: "other".to_owned(), ..settings.rustore[0].clone() };
    settings.rustore.push(other);
    let pushers = open(&settings);
    assert_eq!(pushers.supports(&named(PROJECT_ID)), Ok(()));
    for (unknown, reason) in [
        ("", "pn-param names no project, and there are several [[push.rustore]]"),
        ("another", "no [[push.rustore]] for project \"another\""),
    ] {
        assert_eq!(pushers.supports(&named(unknown)), Err(reason.to_owned()));
    }
}
