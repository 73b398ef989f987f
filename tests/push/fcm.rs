//! FCM: what is sent, and what each answer comes to.

use std::time::Duration;

use serde_json::json;
use sip_push_proxy::binding::{Provider, PushTarget};
use sip_push_proxy::demo::fcm_double::{Answer, FcmDouble, SERVER_KEY, WRONG_CLOCK, WRONG_SIGNATURE};
use sip_push_proxy::push::fcm::Profile;
use sip_push_proxy::push::{NoticeKind, Outcome, Settings, fcm};

use crate::bench::*;

fn raw(status: u16, body: &str) -> Answer {
    Answer::Raw { status, headers: Vec::new(), body: body.to_owned() }
}

/// What FCM answers to a text that is no token.
const NO_TOKEN: &str = "400 INVALID_ARGUMENT: The registration token is not a valid FCM registration token";

#[tokio::test]
async fn invite_arrives_as_ecss_clients_expect_it() {
    let double = FcmDouble::start().await.unwrap();
    let reply = send(&fcm_pushers(&double), invite(fcm_target("device_token"))).await;
    assert_eq!((reply.outcome, reply.provider), (Outcome::Accepted, Provider::Fcm));
    assert_eq!((reply.ticket.0, reply.notice, reply.left_out), (7, NoticeKind::Invite, 0));
    let push = soon(double.next()).await;
    assert_eq!(push.path, "/v1/projects/demo-project/messages:send");
    assert_eq!(push.header("content-type"), "application/json");
    assert_eq!(
        String::from_utf8_lossy(&push.body),
        r#"{"message":{"token":"device_token","data":{"type":"invite","date":"1623753491"},"android":{"priority":"HIGH","ttl":"28s"}}}"#
    );
}

#[tokio::test]
async fn hundred_pushes_at_once_fetch_one_access_token() {
    let double = FcmDouble::start().await.unwrap();
    let pushers = fcm_pushers(&double);
    let outcomes = send_all(&pushers, (0..100).map(|n| invite(fcm_target(&format!("token-{n}"))))).await;
    assert_eq!(outcomes, vec![Outcome::Accepted; 100]);
    assert_eq!((double.requests(), double.token_fetches()), (100, 1));
    assert_eq!(outcome(&pushers, invite(fcm_target("one more"))).await, Outcome::Accepted);
    assert_eq!(double.token_fetches(), 1);
}

#[tokio::test]
async fn each_answer_has_its_outcome() {
    let double = FcmDouble::start().await.unwrap();
    let pushers = fcm_pushers(&double);
    let table = [
        (Answer::Accept, Outcome::Accepted),
        (Answer::Unregistered, dead("404 UNREGISTERED")),
        (Answer::SenderIdMismatch, misfit("403 SENDER_ID_MISMATCH")),
        (Answer::InvalidToken, misfit(NO_TOKEN)),
        (Answer::QuotaExceeded { retry_after_s: Some(9) }, token_limit(Some(9), "429 QUOTA_EXCEEDED")),
        (Answer::QuotaExceeded { retry_after_s: None }, token_limit(Some(60), "429 QUOTA_EXCEEDED")),
        (Answer::ProjectQuotaExceeded { retry_after_s: None }, try_again(Some(60), "429 RESOURCE_EXHAUSTED")),
        (Answer::ProjectQuotaExceeded { retry_after_s: Some(9) }, try_again(Some(9), "429 RESOURCE_EXHAUSTED")),
        (Answer::Internal, try_again(None, "500 INTERNAL")),
        (Answer::Unavailable { retry_after_s: Some(3) }, try_again(Some(3), "503 UNAVAILABLE")),
        (Answer::Unavailable { retry_after_s: None }, try_again(None, "503 UNAVAILABLE")),
        (raw(500, r#"{"error":{"code":500,"status":"INTERNAL"}}"#), try_again(None, "500 INTERNAL")),
        (raw(502, "<html>Bad Gateway</html>"), try_again(None, "502")),
        (raw(400, r#"{"error":{"code":400,"status":"INVALID_ARGUMENT"}}"#), refused("400 INVALID_ARGUMENT")),
        (raw(403, r#"{"error":{"code":403,"status":"PERMISSION_DENIED"}}"#), locked("403 PERMISSION_DENIED")),
        (raw(404, r#"{"error":{"code":404,"status":"NOT_FOUND"}}"#), locked("404 NOT_FOUND")),
        (
            raw(401, r#"{"error":{"status":"UNAUTHENTICATED","details":[{"errorCode":"THIRD_PARTY_AUTH_ERROR"}]}}"#),
            refused("401 THIRD_PARTY_AUTH_ERROR"),
        ),
        (raw(418, ""), refused("418")),
        (raw(503, &"x".repeat(1_000_000)), try_again(None, "503")),
    ];
    for (number, (answer, expected)) in table.into_iter().enumerate() {
        let token = format!("token-{number}");
        double.script(&token, [answer.clone()]);
        assert_eq!(outcome(&pushers, invite(fcm_target(&token))).await, expected, "{answer:?}");
    }
    assert_eq!(double.token_fetches(), 1);
}

#[tokio::test]
async fn refused_access_token_is_fetched_anew_once() {
    let double = FcmDouble::start().await.unwrap();
    let pushers = fcm_pushers(&double);
    assert_eq!(outcome(&pushers, invite(fcm_target("a"))).await, Outcome::Accepted);
    double.revoke_access_tokens();
    assert_eq!(outcome(&pushers, invite(fcm_target("b"))).await, Outcome::Accepted);
    assert_eq!(double.token_fetches(), 2);

    let unauthenticated = raw(401, r#"{"error":{"code":401,"status":"UNAUTHENTICATED"}}"#);
    double.script("c", [unauthenticated.clone(), unauthenticated]);
    assert_eq!(outcome(&pushers, invite(fcm_target("c"))).await, locked("401 UNAUTHENTICATED"));
    assert_eq!((double.requests(), double.token_fetches()), (5, 3));
}

#[tokio::test]
async fn access_token_that_has_ended_is_not_sent() {
    let double = FcmDouble::start().await.unwrap();
    let pushers = fcm_pushers(&double);
    double.set_token_lifetime_s(0);
    for fetches in 1..4 {
        assert_eq!(outcome(&pushers, invite(fcm_target("a"))).await, Outcome::Accepted);
        assert_eq!(double.token_fetches(), fetches);
    }
}

#[tokio::test]
async fn account_that_google_refuses_is_our_fault_and_an_endpoint_in_trouble_is_not() {
    let double = FcmDouble::start().await.unwrap();
    let pushers = fcm_pushers(&double);
    double.refuse_tokens(Some(400));
    assert_eq!(outcome(&pushers, invite(fcm_target("a"))).await, locked("token endpoint: 400"));
    double.refuse_tokens(Some(503));
    assert_eq!(outcome(&pushers, invite(fcm_target("a"))).await, try_again(None, "token endpoint: 503"));
    double.refuse_tokens(None);
    assert_eq!(outcome(&pushers, invite(fcm_target("a"))).await, Outcome::Accepted);
}

#[tokio::test]
async fn why_google_gives_no_access_token_is_told_with_what_to_do() {
    let double = FcmDouble::start().await.unwrap();
    let (folder, settings) = fcm_settings(&double);
    for (description, remedy) in [
        (WRONG_CLOCK, "this machine's clock says 2"),
        (WRONG_SIGNATURE, "the key was deleted, or is not this account's"),
    ] {
        double.refuse_grants(Some(description));
        let refused = outcome(&open(&settings), invite(fcm_target("a"))).await;
        let Outcome::Locked { reason } = &refused else { panic!("{refused:?}") };
        assert!(
            reason.starts_with("token endpoint: 400 invalid_grant: Invalid JWT") && reason.contains(remedy),
            "{reason}"
        );
    }
    double.refuse_grants(None);
    let account = double.service_account().replace("push@", "somebody-else@");
    std::fs::write(folder.path().join("fcm.json"), account).unwrap();
    let refused = outcome(&open(&settings), invite(fcm_target("a"))).await;
    let Outcome::Locked { reason } = &refused else { panic!("{refused:?}") };
    assert!(reason.contains("account not found: the service account was deleted or disabled"), "{reason}");
}

#[tokio::test]
async fn the_id_of_an_installation_is_a_secret_too() {
    let double = FcmDouble::start().await.unwrap();
    let pushers = fcm_pushers(&double);
    let id = "cYyZ0rXTR8-q5v_W1aB2cD";
    let message = format!("Invalid value at 'message.data' of {id}");
    let body = json!({"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": message}}).to_string();
    double.script(id, [raw(400, &body)]);
    let refused = outcome(&pushers, invite(fcm_target(id))).await;
    assert!(
        matches!(&refused, Outcome::Refused { reason } if reason.contains("message.data") && !reason.contains(id)),
        "{refused:?}"
    );
}

#[tokio::test]
async fn silence_and_broken_connections_are_passing_trouble() {
    let double = FcmDouble::start().await.unwrap();
    let (_folder, settings) = fcm_settings(&double);
    let pushers = open(&Settings { timeout: Duration::from_millis(200), ..settings });
    double.script("a", [Answer::Hang]);
    assert_eq!(outcome(&pushers, invite(fcm_target("a"))).await, silent(200));
    double.script("b", [Answer::Disconnect]);
    assert!(trouble(&outcome(&pushers, invite(fcm_target("b"))).await).starts_with("no answer"));
    assert_eq!(outcome(&pushers, invite(fcm_target("b"))).await, Outcome::Accepted);

    drop(double);
    let outcome = outcome(&pushers, invite(fcm_target("a-secret-token"))).await;
    assert!(!trouble(&outcome).contains("secret"), "{outcome:?}");
}

#[tokio::test]
async fn endpoints_that_cannot_be_reached_say_why() {
    let double = FcmDouble::start().await.unwrap();
    let (_folder, settings) = fcm_settings(&double);
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    // No resolver asks the network for a label of more than 63 octets.
    let nowhere = format!("http://{}.invalid:1", "x".repeat(64));
    let not_tls = double.url().replace("http://", "https://");
    for (endpoint, why) in [
        (format!("http://{closed}"), "no connection: Connection refused"),
        (nowhere, "no connection: "),
        (not_tls, "no connection: "),
    ] {
        let mut settings = settings.clone();
        settings.fcm[0].endpoint = endpoint;
        let outcome = outcome(&open(&settings), invite(fcm_target("a"))).await;
        let Outcome::TryAgain { after: None, reason, .. } = &outcome else { panic!("{outcome:?}") };
        assert!(reason.starts_with(why), "{reason}");
    }
    assert_eq!(double.requests(), 0);
}

#[tokio::test]
async fn an_answer_that_was_lost_leaves_the_phone_time_to_come() {
    let double = FcmDouble::start().await.unwrap();
    let pushers = fcm_pushers(&double);
    double.script("a", [Answer::Disconnect]);
    let lost = outcome(&pushers, invite(fcm_target("a"))).await;
    assert!(matches!(&lost, Outcome::TryAgain { after: Some(_), .. }), "{lost:?}");
    assert_eq!(double.requests(), 1, "what may have been delivered is not sent again by itself");
}

#[tokio::test]
async fn a_warm_account_has_its_access_token_before_the_first_push() {
    let double = FcmDouble::start().await.unwrap();
    let pushers = fcm_pushers(&double);
    pushers.warm_up();
    soon(async {
        while double.token_fetches() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(outcome(&pushers, invite(fcm_target("a"))).await, Outcome::Accepted);
    assert_eq!((double.requests(), double.token_fetches()), (1, 1));
}

#[tokio::test]
async fn attempt_ends_with_the_wait_it_is_for() {
    let double = FcmDouble::start().await.unwrap();
    let pushers = fcm_pushers(&double);
    double.script("a", [Answer::Hang]);
    let mut push = invite(fcm_target("a"));
    push.ttl = Duration::from_millis(100);
    assert!(trouble(&outcome(&pushers, push).await).starts_with("no answer within "));
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let double = FcmDouble::start().await.unwrap();
    let elsewhere = FcmDouble::start().await.unwrap();
    let location = (
        hyper::header::LOCATION,
        format!("{}/v1/projects/demo-project/messages:send", elsewhere.url()).parse().unwrap(),
    );
    double.script("a", [Answer::Raw { status: 307, headers: vec![location], body: String::new() }]);
    assert_eq!(outcome(&fcm_pushers(&double), invite(fcm_target("a"))).await, refused("307"));
    assert_eq!(elsewhere.requests(), 0);
}

#[tokio::test]
async fn report_that_is_too_large_is_shortened_once() {
    let double = FcmDouble::start().await.unwrap();
    let pushers = fcm_pushers(&double);
    let reply = send(&pushers, missed_calls(fcm_target("a"), 200)).await;
    let calls = |push: &sip_push_proxy::demo::Recorded| {
        let calls = push.json()["message"]["data"]["calls"].as_str().unwrap().to_owned();
        serde_json::from_str::<Vec<serde_json::Value>>(&calls).unwrap()
    };
    let full = calls(&soon(double.next()).await);
    assert_eq!(reply.outcome, Outcome::Accepted);
    assert_eq!(full.len() + reply.left_out, 200);
    assert_eq!(full.last().unwrap()["remote_uri"], "299");

    double.script("a", [raw(413, "")]);
    let reply = send(&pushers, missed_calls(fcm_target("a"), 200)).await;
    let shorter = calls(&soon(double.next()).await);
    assert_eq!(reply.outcome, Outcome::Accepted);
    assert!(shorter.len() < full.len());
    assert_eq!(shorter.len() + reply.left_out, 200);
    assert_eq!(shorter.last().unwrap()["remote_uri"], "299");

    double.script("a", [raw(413, ""), raw(413, "")]);
    assert_eq!(outcome(&pushers, missed_calls(fcm_target("a"), 200)).await, refused("413"));
    double.script("a", [raw(413, "")]);
    assert_eq!(outcome(&pushers, invite(fcm_target("a"))).await, refused("413"));
}

#[tokio::test]
async fn extended_payload_is_configured_for_each_account() {
    let double = FcmDouble::start().await.unwrap();
    let (_folder, mut settings) = fcm_settings(&double);
    settings.fcm[0].payload = sip_push_proxy::push::payload::FcmPayload::Extended;
    assert_eq!(outcome(&open(&settings), invite(fcm_target("a"))).await, Outcome::Accepted);
    let data = soon(double.next()).await.json()["message"]["data"].clone();
    assert_eq!((data["number"].as_str(), data["call_ref"].as_str()), (Some("103"), Some("1")));
}

#[tokio::test]
async fn legacy_profile_has_the_form_of_ecss_examples() {
    let double = FcmDouble::start().await.unwrap();
    let (folder, mut settings) = fcm_settings(&double);
    settings.fcm[0].profile = Profile::Legacy;
    assert_eq!(outcome(&open(&settings), invite(fcm_target("device_token"))).await, Outcome::Accepted);
    let by_access_token = soon(double.next()).await;

    settings.fcm[0].service_account = folder.path().join("server.key");
    std::fs::write(&settings.fcm[0].service_account, format!("{SERVER_KEY}\n")).unwrap();
    let pushers = open(&settings);
    assert_eq!(outcome(&pushers, invite(fcm_target("device_token"))).await, Outcome::Accepted);
    let by_server_key = soon(double.next()).await;
    assert_eq!(by_server_key.header("authorization"), "key=throwaway-server-key");
    for push in [by_access_token, by_server_key] {
        assert_eq!(push.path, "/fcm/send");
        assert_eq!(
            String::from_utf8_lossy(&push.body),
            r#"{"to":"device_token","priority":10,"data":{"type":"invite","date":1623753491},"time_to_live":28}"#
        );
    }
    double.script("device_token", [raw(200, r#"{"failure":1,"results":[{"error":"NotRegistered"}]}"#)]);
    assert_eq!(outcome(&pushers, invite(fcm_target("device_token"))).await, dead("200 NotRegistered"));
    double.script("device_token", [raw(401, "")]);
    assert_eq!(outcome(&pushers, invite(fcm_target("device_token"))).await, locked("401"));
}

#[tokio::test]
async fn project_is_chosen_by_pn_param() {
    let (first, second) = (FcmDouble::start().await.unwrap(), FcmDouble::start().await.unwrap());
    let (folder, mut settings) = fcm_settings(&first);
    let named = |param: &str| PushTarget { param: param.into(), ..fcm_target("token") };
    // The only one takes them all.
    assert_eq!(open(&settings).supports(&named("another")), Ok(()));

    let other = folder.path().join("other.json");
    std::fs::write(&other, second.service_account().replace("\"demo-project\"", "\"other-project\"")).unwrap();
    settings.fcm.push(fcm::Settings {
        service_account: other,
        endpoint: second.url(),
        project_number: "123456".to_owned(),
        ..fcm::Settings::default()
    });
    let pushers = open(&settings);
    assert_eq!(outcome(&pushers, invite(named("demo-project"))).await, Outcome::Accepted);
    assert_eq!((first.requests(), second.requests()), (1, 0));
    // The double serves another project than the file names, as a mix-up of two files would.
    let not_found = locked("404 NOT_FOUND: Requested entity was not found.");
    assert_eq!(outcome(&pushers, invite(named("123456"))).await, not_found);
    assert_eq!(outcome(&pushers, invite(named("other-project"))).await, not_found);
    assert_eq!(second.requests(), 2);
    for (unknown, reason) in [
        ("", "pn-param names no project, and there are several [[push.fcm]]"),
        ("another", "no [[push.fcm]] for project \"another\""),
    ] {
        assert_eq!(pushers.supports(&named(unknown)), Err(reason.to_owned()));
        assert_eq!(outcome(&pushers, invite(named(unknown))).await, refused(reason));
    }
}
