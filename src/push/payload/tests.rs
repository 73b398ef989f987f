//! Bodies, byte for byte.

use std::time::Duration;

use super::*;
use crate::binding::{Aor, Provider, PushTarget, PushToken, Tokens};
use crate::clock::UnixMillis;
use crate::push::alert::Text;
use crate::push::{EndReason, MISSED_CALLS_TTL, Purpose, Ticket};
use crate::store::EntryState;

fn push(notice: Notice, date_s: u64, ttl: Duration) -> Push {
    let prid = PushToken::new("device_token");
    Push {
        ticket: Ticket(1),
        aor: Aor::new("alice", "example.org"),
        target: PushTarget {
            provider: Provider::Fcm,
            prid,
            param: "".into(),
            tokens: Tokens::Single,
            others: Box::default(),
        },
        notice,
        date: UnixMillis(date_s * 1000),
        ttl,
        language: None,
        is_repeat: false,
        purpose: Purpose::default(),
    }
}

fn invite(number: &str, display_name: &str) -> Notice {
    Notice::Invite { number: number.into(), display_name: display_name.into(), call_ref: "a84b4c76e66710".into() }
}

fn words() -> Notice {
    Notice::Text { title: "new message from support".into(), body: "Hello \"you\"".into() }
}

fn missed(calls: &[(&str, u64)]) -> Notice {
    let entry = |(remote_uri, invited_at_s): &(&str, u64)| BucketEntry {
        call_ref: format!("{remote_uri}-{invited_at_s}").into(),
        remote_uri: (*remote_uri).into(),
        display_name: "".into(),
        anonymous: false,
        invited_at: UnixMillis(invited_at_s * 1000),
        state: EntryState::Missed,
    };
    Notice::MissedCalls(calls.iter().map(entry).collect())
}

fn form(profile: AppleProfile) -> AppleForm {
    AppleForm { profile, custom_key: "acme".into(), badge: Some(10), alerts: Alerts::default() }
}

#[track_caller]
fn check(body: &Body, expected: &str) {
    assert_eq!(String::from_utf8_lossy(&body.bytes), expected);
}

const WAIT: Duration = Duration::from_secs(28);
const THREE: [(&str, u64); 3] = [("103", 1625158716), ("105", 1625158725), ("109", 1625158736)];

#[test]
fn fcm_invite() {
    let body = fcm_v1(&push(invite("103", "Ivan"), 1623753491, WAIT), FcmPayload::Ecss, "device_token", BYTES_MAX);
    check(
        &body,
        r#"{"message":{"token":"device_token","data":{"type":"invite","date":"1623753491"},"android":{"priority":"HIGH","ttl":"28s"}}}"#,
    );
    assert_eq!(body.bytes.len(), 123);
}

#[test]
fn repetitions_of_a_call_replace_each_other() {
    let first = push(invite("103", ""), 1623753491, WAIT);
    let repeat = Push { is_repeat: true, ..push(invite("103", ""), 1623753494, Duration::from_secs(25)) };
    let key = "14840929-81b5-8cbf-9fe3-8f0af1ce1e8e";
    check(
        &fcm_v1(&repeat, FcmPayload::Ecss, "device_token", BYTES_MAX),
        &format!(
            r#"{{"message":{{"token":"device_token","data":{{"type":"invite","date":"1623753494"}},"android":{{"collapse_key":"{key}","priority":"HIGH","ttl":"25s"}}}}}}"#
        ),
    );
    check(
        &fcm_legacy(&repeat, "device_token", BYTES_MAX),
        &format!(
            r#"{{"to":"device_token","collapse_key":"{key}","priority":10,"data":{{"type":"invite","date":1623753494}},"time_to_live":25}}"#
        ),
    );
    assert_eq!(identity::of(&first, &first.target.prid), key, "it is the call's, at this device");
}

#[test]
fn fcm_invite_for_a_phone_that_was_not_unlocked_yet() {
    let form = FcmForm { payload: FcmPayload::Ecss, direct_boot_ok: true };
    check(
        &fcm_v1(&push(invite("103", "Ivan"), 1623753491, WAIT), form, "device_token", BYTES_MAX),
        r#"{"message":{"token":"device_token","data":{"type":"invite","date":"1623753491"},"android":{"priority":"HIGH","ttl":"28s","direct_boot_ok":true}}}"#,
    );
}

#[test]
fn fcm_missed_calls() {
    let body = fcm_v1(&push(missed(&THREE), 1625133614, MISSED_CALLS_TTL), FcmPayload::Ecss, "token", BYTES_MAX);
    check(
        &body,
        r#"{"message":{"token":"token","data":{"type":"missed_calls","date":"1625133614","calls":"[{\"id\":0,\"remote_uri\":\"103\",\"date\":1625158716},{\"id\":1,\"remote_uri\":\"105\",\"date\":1625158725},{\"id\":2,\"remote_uri\":\"109\",\"date\":1625158736}]"},"android":{"priority":"HIGH"}}}"#,
    );
    assert_eq!(body.bytes.len(), 284);
}

#[test]
fn fcm_message() {
    check(
        &fcm_v1(&push(Notice::Message, 1623753491, Duration::from_millis(24_100)), FcmPayload::Ecss, "t:1", BYTES_MAX),
        r#"{"message":{"token":"t:1","data":{"type":"message","date":"1623753491"},"android":{"priority":"HIGH","ttl":"25s"}}}"#,
    );
}

#[test]
fn a_text_is_shown_as_it_is() {
    let push = push(words(), 1623753491, Duration::from_secs(86_400));
    check(
        &fcm_v1(&push, FcmPayload::Extended, "t:1", BYTES_MAX),
        r#"{"message":{"token":"t:1","notification":{"title":"new message from support","body":"Hello \"you\""},"data":{"type":"text","date":"1623753491"},"android":{"priority":"HIGH","ttl":"86400s"}}}"#,
    );
    check(
        &fcm_legacy(&push, "t:1", BYTES_MAX),
        r#"{"to":"t:1","priority":10,"notification":{"title":"new message from support","body":"Hello \"you\""},"data":{"type":"text","date":1623753491},"time_to_live":86400}"#,
    );
    check(
        &apns(&push, &form(AppleProfile::Ecss), true, BYTES_MAX),
        r#"{"aps":{"alert":{"title":"new message from support","body":"Hello \"you\""},"sound":"default"},"acme":{"type":"text","date":1623753491}}"#,
    );
    check(
        &callback(&push, "IOS", "t:1", BYTES_MAX),
        r#"{"user":{"user_id":"alice"},"device":[{"device_token":"t:1","type":"IOS"}],"notification":{"type":"im","date":1623753491,"title":"new message from support","message":"Hello \"you\"","ttl":86400}}"#,
    );
    // The first 8 bytes of SHA-256 over both texts, each after its length, and the date.
    check(
        &web_push(&push, FcmPayload::Extended, BYTES_MAX),
        r#"{"type":"text","date":"1623753491","id":"68941d84cab771ce","title":"new message from support","body":"Hello \"you\""}"#,
    );
}

#[test]
fn legacy_forms_are_those_of_ecss() {
    check(
        &fcm_legacy(&push(invite("103", ""), 1623753491, WAIT), "device_token", BYTES_MAX),
        r#"{"to":"device_token","priority":10,"data":{"type":"invite","date":1623753491},"time_to_live":28}"#,
    );
    check(
        &fcm_legacy(&push(missed(&THREE), 1625133614, MISSED_CALLS_TTL), "token", BYTES_MAX),
        r#"{"to":"token","priority":10,"data":{"type":"missed_calls","date":1625133614,"calls":[{"id":0,"remote_uri":"103","date":1625158716},{"id":1,"remote_uri":"105","date":1625158725},{"id":2,"remote_uri":"109","date":1625158736}]}}"#,
    );
    check(
        &fcm_legacy(&push(Notice::Message, 1623753491, WAIT), "token", BYTES_MAX),
        r#"{"to":"token","priority":10,"data":{"type":"message","date":1623753491},"time_to_live":28}"#,
    );
}

#[test]
fn apns_invite_to_the_voip_token() {
    let push = push(invite("103", "Ivan"), 1623753691, WAIT);
    let body = apns(&push, &form(AppleProfile::Ecss), false, BYTES_MAX);
    check(
        &body,
        r#"{"aps":{"badge":"10"},"acme":{"badge":"10","type":"invite","date":1623753691,"number":"103","dispaly_name":"Ivan"}}"#,
    );
    assert_eq!(body.bytes.len(), 115);
    check(
        &apns(&push, &form(AppleProfile::Apple), false, BYTES_MAX),
        r#"{"aps":{"badge":10},"acme":{"badge":10,"type":"invite","date":1623753691,"number":"103","dispaly_name":"Ivan"}}"#,
    );
}

#[test]
fn apns_invite_without_a_name() {
    let push = push(invite("anonymous", ""), 1623753691, WAIT);
    check(
        &apns(&push, &form(AppleProfile::Ecss), false, BYTES_MAX),
        r#"{"aps":{"badge":"10"},"acme":{"badge":"10","type":"invite","date":1623753691,"number":"anonymous","dispaly_name":[]}}"#,
    );
    check(
        &apns(&push, &form(AppleProfile::Apple), false, BYTES_MAX),
        r#"{"aps":{"badge":10},"acme":{"badge":10,"type":"invite","date":1623753691,"number":"anonymous","dispaly_name":""}}"#,
    );
}

#[test]
fn apns_invite_to_the_remote_token_is_an_alert() {
    check(
        &apns(&push(invite("103", "Ivan"), 1623753691, WAIT), &form(AppleProfile::Ecss), true, BYTES_MAX),
        r#"{"aps":{"alert":{"loc-key":"INCOMING_CALL"},"badge":10,"sound":"default"},"acme":{"badge":"10","type":"invite","date":1623753691,"number":"103","dispaly_name":"Ivan"}}"#,
    );
}

#[test]
fn apns_missed_calls() {
    let calls = [("103", 1625158716), ("105", 1625158725), ("103", 1625158736)];
    check(
        &apns(&push(missed(&calls), 1623753691, MISSED_CALLS_TTL), &form(AppleProfile::Ecss), true, BYTES_MAX),
        r#"{"aps":{"alert":{"loc-key":"MISSED_CALLS","loc-args":["3"]},"badge":10,"sound":"default"},"acme":{"type":"missed_calls","date":1623753691,"calls":[{"id":0,"remote_uri":"103","date":1625158716},{"id":1,"remote_uri":"105","date":1625158725},{"id":2,"remote_uri":"103","date":1625158736}]}}"#,
    );
}

#[test]
fn apns_message_and_configured_names() {
    let push = push(Notice::Message, 1623753691, WAIT);
    check(
        &apns(&push, &form(AppleProfile::Ecss), true, BYTES_MAX),
        r#"{"aps":{"alert":{"loc-key":"MESSAGE"},"sound":"default"},"acme":{"type":"message","date":1623753691}}"#,
    );
    let plain = AppleForm { custom_key: "call".into(), badge: None, ..form(AppleProfile::Ecss) };
    let push = Push { notice: invite("103", "Ivan"), ..push };
    check(
        &apns(&push, &plain, false, BYTES_MAX),
        r#"{"aps":{},"call":{"type":"invite","date":1623753691,"number":"103","dispaly_name":"Ivan"}}"#,
    );
}

#[test]
fn extended_forms_say_which_call_it_is() {
    let invite = push(invite("103", "Ivan"), 1623753491, WAIT);
    check(
        &fcm_v1(&invite, FcmPayload::Extended, "token", BYTES_MAX),
        r#"{"message":{"token":"token","data":{"type":"invite","date":"1623753491","call_ref":"a84b4c76e66710","uuid":"ca6296c8-d774-812c-aad2-f3c6a4e40b13","display_name":"Ivan","sent_at":"1623753491000","number":"103"},"android":{"priority":"HIGH","ttl":"28s"}}}"#,
    );
    check(
        &apns(&invite, &form(AppleProfile::Extended), false, BYTES_MAX),
        r#"{"aps":{"badge":10},"acme":{"badge":10,"type":"invite","date":1623753491,"number":"103","dispaly_name":"Ivan","call_ref":"a84b4c76e66710","uuid":"ca6296c8-d774-812c-aad2-f3c6a4e40b13","display_name":"Ivan","sent_at":1623753491000}}"#,
    );
    let missed = push(missed(&[("103", 1625158716)]), 1623753691, MISSED_CALLS_TTL);
    check(
        &apns(&missed, &form(AppleProfile::Extended), true, BYTES_MAX),
        r#"{"aps":{"alert":{"loc-key":"MISSED_CALLS","loc-args":["1"]},"badge":10,"sound":"default"},"acme":{"type":"missed_calls","date":1623753691,"calls":[{"id":0,"remote_uri":"103","date":1625158716,"call_ref":"103-1625158716","display_name":""}]}}"#,
    );
    check(
        &web_push(&invite, FcmPayload::Extended, BYTES_MAX),
        r#"{"type":"invite","date":"1623753491","call_ref":"a84b4c76e66710","uuid":"ca6296c8-d774-812c-aad2-f3c6a4e40b13","display_name":"Ivan","sent_at":"1623753491000","number":"103"}"#,
    );
    check(
        &web_push(&missed, FcmPayload::Extended, BYTES_MAX),
        r#"{"type":"missed_calls","date":"1623753691","calls":"[{\"id\":0,\"remote_uri\":\"103\",\"date\":1625158716,\"call_ref\":\"103-1625158716\",\"display_name\":\"\"}]"}"#,
    );
    check(&web_push(&invite, FcmPayload::Ecss, BYTES_MAX), r#"{"type":"invite","date":"1623753491"}"#);
    assert_eq!(uuid("a"), uuid("a"));
    assert_ne!(uuid("a"), uuid("b"));
    let [_, _, version, variant, _] = uuid("a").split('-').map(str::to_owned).collect::<Vec<_>>().try_into().unwrap();
    assert!(version.starts_with('8') && variant.starts_with(['8', '9', 'a', 'b']), "{version} {variant}");
}

#[test]
fn alerts_are_in_the_language_of_the_phone() {
    let text = |language: &str, title: &str, [one, few, many, other]: [&str; 4]| Text {
        language: language.into(),
        title: title.into(),
        one: one.into(),
        few: few.into(),
        many: many.into(),
        other: other.into(),
        anonymous: "unknown".into(),
    };
    let form = AppleForm {
        alerts: Alerts {
            language: "en".into(),
            texts: vec![
                text("en", "Missed calls", ["{count} call from {caller}", "", "", "{count} calls"]),
                text(
                    "ru",
                    "",
                    [
                        "{count} \u{437}\u{432}\u{43e}\u{43d}\u{43e}\u{43a}",
                        "{count} \u{437}\u{432}\u{43e}\u{43d}\u{43a}\u{430}",
                        "{count} \u{437}\u{432}\u{43e}\u{43d}\u{43a}\u{43e}\u{432}",
                        "",
                    ],
                ),
            ],
        },
        ..form(AppleProfile::Ecss)
    };
    let body = |language: Option<&str>, calls: &[(&str, u64)]| {
        let push = push(missed(calls), 1623753691, MISSED_CALLS_TTL);
        let body = apns(&Push { language: language.map(Into::into), ..push }, &form, true, BYTES_MAX);
        serde_json::from_slice::<serde_json::Value>(&body.bytes).unwrap()["aps"]["alert"].to_string()
    };
    assert_eq!(body(None, &THREE[..1]), r#"{"title":"Missed calls","body":"1 call from 103"}"#);
    assert_eq!(body(Some("de"), &THREE), r#"{"title":"Missed calls","body":"3 calls"}"#);
    assert_eq!(body(Some("ru-RU"), &THREE), "\"3 \u{437}\u{432}\u{43e}\u{43d}\u{43a}\u{430}\"");
    assert_eq!(body(None, &[("\"},{\"x\":\"", 1)]), r#"{"title":"Missed calls","body":"1 call from \"},{\"x\":\""}"#);
}

#[test]
fn who_hides_is_in_no_body_whatever_the_entry_has() {
    let mut notice = missed(&[("5551234", 1)]);
    if let Notice::MissedCalls(entries) = &mut notice {
        entries[0].call_ref = "1".into();
        entries[0].anonymous = true;
        entries[0].display_name = "Very Secret".into();
    }
    let push = push(notice, 1623753691, MISSED_CALLS_TTL);
    let mut form = form(AppleProfile::Extended);
    let bodies = [
        apns(&push, &form, true, BYTES_MAX),
        fcm_v1(&push, FcmPayload::Extended, "token", BYTES_MAX),
        fcm_legacy(&push, "token", BYTES_MAX),
        web_push(&push, FcmPayload::Extended, BYTES_MAX),
    ];
    form.alerts.language = "en".into();
    form.alerts.texts.push(Text {
        language: "en".into(),
        title: "".into(),
        one: "{caller}".into(),
        few: "".into(),
        many: "".into(),
        other: "".into(),
        anonymous: "".into(),
    });
    for body in bodies.into_iter().chain([apns(&push, &form, true, BYTES_MAX)]) {
        let body = String::from_utf8(body.bytes).unwrap();
        assert!(!body.contains("5551234") && !body.contains("Secret"), "{body}");
        assert!(body.contains("anonymous"), "{body}");
    }
}

#[test]
fn the_newest_calls_are_kept_and_numbered_from_0() {
    let calls: Vec<(String, u64)> = (0..500).map(|n| (format!("7900000{n:04}"), 1625158000 + n)).collect();
    let calls: Vec<(&str, u64)> = calls.iter().map(|(number, date)| (number.as_str(), *date)).collect();
    let push = push(missed(&calls), 1625159000, MISSED_CALLS_TTL);

    let apple = apns(&push, &form(AppleProfile::Ecss), true, BYTES_MAX);
    let told = serde_json::from_slice::<serde_json::Value>(&apple.bytes).unwrap();
    let kept = told["acme"]["calls"].as_array().unwrap();
    assert!(apple.bytes.len() <= BYTES_MAX && apple.bytes.len() + 60 > BYTES_MAX, "{}", apple.bytes.len());
    assert_eq!(kept.len() + apple.left_out, 500);
    assert_eq!(kept.first().unwrap()["id"], 0);
    assert_eq!(kept.last().unwrap()["remote_uri"], "79000000499");
    assert_eq!(told["aps"]["alert"]["loc-args"][0], "500");

    let fcm = fcm_v1(&push, FcmPayload::Ecss, "token", BYTES_MAX);
    let told = serde_json::from_slice::<serde_json::Value>(&fcm.bytes).unwrap();
    let data = told["message"]["data"].as_object().unwrap();
    let counted: usize = data.iter().map(|(key, value)| key.len() + value.as_str().unwrap().len()).sum();
    assert!(counted <= BYTES_MAX && counted + 60 > BYTES_MAX, "{counted}");
    let kept: Vec<serde_json::Value> = serde_json::from_str(data["calls"].as_str().unwrap()).unwrap();
    assert_eq!(kept.len() + fcm.left_out, 500);
    assert_eq!(kept.last().unwrap()["remote_uri"], "79000000499");

    let web = web_push(&push, FcmPayload::Ecss, BYTES_MAX);
    let told = serde_json::from_slice::<serde_json::Value>(&web.bytes).unwrap();
    let kept: Vec<serde_json::Value> = serde_json::from_str(told["calls"].as_str().unwrap()).unwrap();
    assert!(web.bytes.len() <= BYTES_MAX && web.bytes.len() + 80 > BYTES_MAX, "{}", web.bytes.len());
    assert_eq!(kept.len() + web.left_out, 500);

    let legacy = fcm_legacy(&push, "token", BYTES_MAX / 2);
    assert!(legacy.left_out > fcm.left_out);
    assert!(serde_json::from_slice::<serde_json::Value>(&legacy.bytes).is_ok());
}

#[test]
fn hostile_names_make_valid_json_of_bounded_size() {
    let control = "\u{1}".repeat(60_000);
    let wide = "\u{1F600}\"\\/\u{2028}\u{FFFF}</script>".repeat(5_000);
    for name in [control.as_str(), wide.as_str(), "\"},\"aps\":{\"alert\":\"x\"", "\0", "\u{202E}gnp"] {
        for alert in [false, true] {
            let push = push(invite(name, name), 1623753691, WAIT);
            let body = apns(&push, &form(AppleProfile::Ecss), alert, BYTES_MAX);
            let told = serde_json::from_slice::<serde_json::Value>(&body.bytes).unwrap();
            assert!(body.bytes.len() <= BYTES_MAX);
            assert!(name.starts_with(told["acme"]["number"].as_str().unwrap()));
            assert!(name.starts_with(told["acme"]["dispaly_name"].as_str().unwrap()));
        }
        let notice = Notice::Invite { number: name.into(), display_name: name.into(), call_ref: name.into() };
        let body = fcm_v1(&push(notice, 3, WAIT), FcmPayload::Extended, "token", BYTES_MAX);
        let told = serde_json::from_slice::<serde_json::Value>(&body.bytes).unwrap();
        let data = told["message"]["data"].as_object().unwrap();
        assert!(data.iter().map(|(key, value)| key.len() + value.as_str().unwrap().len()).sum::<usize>() <= BYTES_MAX);
        let notice = Notice::Invite { number: name.into(), display_name: name.into(), call_ref: name.into() };
        let body = web_push(&push(notice, 3, WAIT), FcmPayload::Extended, BYTES_MAX);
        assert!(serde_json::from_slice::<serde_json::Value>(&body.bytes).is_ok());
        assert!(body.bytes.len() <= crate::push::encryption::PLAINTEXT_BYTES_MAX, "{}", body.bytes.len());
        let body = fcm_v1(&push(missed(&[(name, 1), ("103", 2)]), 3, WAIT), FcmPayload::Ecss, name, BYTES_MAX);
        let told = serde_json::from_slice::<serde_json::Value>(&body.bytes).unwrap();
        assert_eq!(told["message"]["token"], name);
        assert_eq!(body.left_out, 0);
    }
}

#[test]
fn the_end_of_a_call_is_told_to_the_app_alone() {
    let notice = Notice::CallEnded { call_ref: "a84b4c76e66710".into(), reason: EndReason::AnsweredElsewhere };
    let push = push(notice, 1623753491, Duration::from_secs(60));
    check(
        &fcm_v1(&push, FcmPayload::Ecss, "device_token", BYTES_MAX),
        r#"{"message":{"token":"device_token","data":{"type":"call_ended","date":"1623753491","call_ref":"a84b4c76e66710","reason":"answered_elsewhere"},"android":{"priority":"HIGH","ttl":"60s"}}}"#,
    );
    check(
        &fcm_legacy(&push, "device_token", BYTES_MAX),
        r#"{"to":"device_token","priority":10,"data":{"type":"call_ended","date":1623753491,"call_ref":"a84b4c76e66710","reason":"answered_elsewhere"},"time_to_live":60}"#,
    );
    check(
        &apns(&push, &form(AppleProfile::Ecss), false, BYTES_MAX),
        r#"{"aps":{"content-available":1},"acme":{"type":"call_ended","date":1623753491,"call_ref":"a84b4c76e66710","reason":"answered_elsewhere"}}"#,
    );
    check(
        &callback(&push, "SIP", "device_token", BYTES_MAX),
        r#"{"user":{"user_id":"alice"},"device":[{"device_token":"device_token","type":"SIP"}],"notification":{"type":"call_ended","date":1623753491,"call_ref":"a84b4c76e66710","reason":"answered_elsewhere","ttl":60}}"#,
    );
}

#[test]
fn a_phone_that_is_to_register_may_sleep_on_unless_it_is_urgent() {
    for (is_urgent, fcm, legacy) in [(false, "NORMAL", 5), (true, "HIGH", 10)] {
        let push = push(Notice::Register { is_urgent }, 1623753491, Duration::from_secs(468));
        check(
            &fcm_v1(&push, FcmPayload::Extended, "device_token", BYTES_MAX),
            &format!(
                r#"{{"message":{{"token":"device_token","data":{{"type":"register","date":"1623753491"}},"android":{{"priority":"{fcm}","ttl":"468s"}}}}}}"#
            ),
        );
        check(
            &fcm_legacy(&push, "device_token", BYTES_MAX),
            &format!(
                r#"{{"to":"device_token","priority":{legacy},"data":{{"type":"register","date":1623753491}},"time_to_live":468}}"#
            ),
        );
        check(
            &apns(&push, &form(AppleProfile::Ecss), false, BYTES_MAX),
            r#"{"aps":{"content-available":1},"acme":{"type":"register","date":1623753491}}"#,
        );
        check(
            &callback(&push, "SIP", "device_token", BYTES_MAX),
            r#"{"user":{"user_id":"alice"},"device":[{"device_token":"device_token","type":"SIP"}],"notification":{"type":"register","date":1623753491,"ttl":468}}"#,
        );
    }
}
