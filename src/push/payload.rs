//! Bodies of pushes, byte for byte: FCM HTTP v1, FCM's legacy form, and APNs, as ECSS-10's clients expect them.
//!
//! The order of keys is part of the form. `dispaly_name` is spelt as ECSS spells it.

use std::collections::BTreeMap;

use a2::{DefaultNotificationBuilder, NotificationBuilder, NotificationOptions};
use serde::Serialize;

use super::{Notice, Push};
use crate::store::BucketEntry;

/// What FCM takes in `data` (keys and values) and what we allow as a whole body for APNs.
pub const BYTES_MAX: usize = 4096;

/// Longest number or name of a caller. In JSON a byte becomes six at worst, so that an invite with two of them, or a
/// missed call with one, always fits into [`BYTES_MAX`].
const TEXT_BYTES_MAX: usize = 255;

/// FCM stores messages for 28 days at most.
const FCM_TTL_MAX_S: u64 = 2_419_200;

/// The JSON for one push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    pub bytes: Vec<u8>,
    /// How many of the oldest missed calls it does not tell, because they did not fit in.
    pub left_out: usize,
}

/// Which reader of an APNs body is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AppleProfile {
    /// ECSS-10's clients: the badge of an invite is a string, a missing name is an empty list.
    #[default]
    Ecss,
    /// By Apple's documentation: the badge is a number, a missing name an empty string.
    Apple,
}

/// What is configurable in an APNs body.
#[derive(Debug, Clone)]
pub struct AppleForm {
    pub profile: AppleProfile,
    /// The key beside `aps`; ECSS has `acme`.
    pub custom_key: Box<str>,
    /// Constant number on the app's icon; `None` leaves it out.
    pub badge: Option<u32>,
}

#[derive(Serialize)]
struct FcmRequest<'a> {
    message: FcmMessage<'a>,
}

#[derive(Serialize)]
struct FcmMessage<'a> {
    token: &'a str,
    data: Content<String, String>,
    android: Android,
}

#[derive(Serialize)]
struct Android {
    priority: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<String>,
}

#[derive(Serialize)]
struct LegacyRequest<'a> {
    to: &'a str,
    priority: u8,
    data: Content<u64, Vec<Call<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time_to_live: Option<u64>,
}

/// What all forms tell the app; only the types of the values differ.
#[derive(Serialize)]
struct Content<Date, Calls> {
    #[serde(rename = "type")]
    kind: &'static str,
    date: Date,
    #[serde(skip_serializing_if = "Option::is_none")]
    calls: Option<Calls>,
}

#[derive(Serialize)]
struct Call<'a> {
    id: usize,
    remote_uri: &'a str,
    date: u64,
}

#[derive(Serialize)]
struct AppleInvite<'a> {
    aps: AppleInviteAps,
    #[serde(flatten)]
    custom: BTreeMap<&'a str, AppleInviteContent<'a>>,
}

#[derive(Serialize)]
struct AppleInviteAps {
    #[serde(skip_serializing_if = "Option::is_none")]
    alert: Option<LocalizedAlert>,
    #[serde(skip_serializing_if = "Option::is_none")]
    badge: Option<Badge>,
}

#[derive(Serialize)]
struct LocalizedAlert {
    #[serde(rename = "loc-key")]
    loc_key: &'static str,
}

#[derive(Serialize)]
struct AppleInviteContent<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    badge: Option<Badge>,
    #[serde(rename = "type")]
    kind: &'static str,
    date: u64,
    number: &'a str,
    dispaly_name: Name<'a>,
}

#[derive(Serialize, Clone)]
#[serde(untagged)]
enum Badge {
    Text(String),
    Number(u32),
}

#[derive(Serialize)]
#[serde(untagged)]
enum Name<'a> {
    Text(&'a str),
    EmptyList([&'a str; 0]),
}

/// `POST /v1/projects/…/messages:send`. Missed calls are kept, newest first, while the keys and values of `data` stay
/// within `limit` bytes.
pub fn fcm_v1(push: &Push, token: &str, limit: usize) -> Body {
    fit(&push.notice, limit, |kept| {
        let calls = is_report(&push.notice).then(|| text(&calls(kept)));
        let data = Content { kind: push.notice.kind().name(), date: push.date.seconds().to_string(), calls };
        let counted = "typedate".len()
            + data.kind.len()
            + data.date.len()
            + data.calls.as_ref().map_or(0, |calls| "calls".len() + calls.len());
        let android = Android { priority: "HIGH", ttl: fcm_ttl(push).map(|seconds| format!("{seconds}s")) };
        (text(&FcmRequest { message: FcmMessage { token, data, android } }), counted)
    })
}

/// `POST /fcm/send`, the form of ECSS's examples.
pub fn fcm_legacy(push: &Push, token: &str, limit: usize) -> Body {
    fit(&push.notice, limit, |kept| {
        let calls = is_report(&push.notice).then(|| calls(kept));
        let data = Content { kind: push.notice.kind().name(), date: push.date.seconds(), calls };
        let counted = text(&data).len();
        (text(&LegacyRequest { to: token, priority: 10, data, time_to_live: fcm_ttl(push) }), counted)
    })
}

/// `POST /3/device/…`. With `alert`, an invite is shown by the system instead of waking the app (a token without VoIP
/// permission); the other notices are always alerts.
pub fn apns(push: &Push, form: &AppleForm, alert: bool, limit: usize) -> Body {
    fit(&push.notice, limit, |kept| {
        let body = match &push.notice {
            Notice::Invite { number, display_name } => apple_invite(push, form, alert, number, display_name),
            Notice::Message => apple_message(push, form),
            Notice::MissedCalls(all) => apple_missed_calls(push, form, kept, all.len()),
        };
        let counted = body.len();
        (body, counted)
    })
}

fn apple_invite(push: &Push, form: &AppleForm, alert: bool, number: &str, display_name: &str) -> String {
    let badge = form.badge.map(|number| match form.profile {
        AppleProfile::Ecss => Badge::Text(number.to_string()),
        AppleProfile::Apple => Badge::Number(number),
    });
    let dispaly_name = match form.profile {
        AppleProfile::Ecss if display_name.is_empty() => Name::EmptyList([]),
        AppleProfile::Ecss | AppleProfile::Apple => Name::Text(shortened(display_name)),
    };
    let content = AppleInviteContent {
        badge: badge.clone(),
        kind: push.notice.kind().name(),
        date: push.date.seconds(),
        number: shortened(number),
        dispaly_name,
    };
    let alert = alert.then_some(LocalizedAlert { loc_key: "INCOMING_CALL" });
    text(&AppleInvite {
        aps: AppleInviteAps { alert, badge },
        custom: BTreeMap::from([(form.custom_key.as_ref(), content)]),
    })
}

fn apple_message(push: &Push, form: &AppleForm) -> String {
    let content = Content { kind: push.notice.kind().name(), date: push.date.seconds(), calls: None::<()> };
    apple_alert(DefaultNotificationBuilder::new().set_loc_key("MESSAGE"), form, &content)
}

/// `count` is the number of all calls that were missed, told or not.
fn apple_missed_calls(push: &Push, form: &AppleForm, kept: &[BucketEntry], count: usize) -> String {
    let content = Content { kind: push.notice.kind().name(), date: push.date.seconds(), calls: Some(calls(kept)) };
    let count = [count.to_string()];
    let alert = DefaultNotificationBuilder::new().set_loc_key("MISSED_CALLS").set_loc_args(&count);
    let alert = match form.badge {
        Some(badge) => alert.set_badge(badge),
        None => alert,
    };
    apple_alert(alert, form, &content)
}

fn apple_alert(alert: DefaultNotificationBuilder<'_>, form: &AppleForm, content: &impl Serialize) -> String {
    let mut payload = alert.set_sound("default").build("", NotificationOptions::default());
    // The builder always writes it; ECSS's form does not have it, and 0 is what its absence means.
    payload.aps.mutable_content = None;
    let content = serde_json::to_value(content).unwrap_or_default();
    payload.data.insert(&form.custom_key, content);
    text(&payload)
}

/// The body with as many of the newest calls as fit; `encode` gives it with the bytes that count for the limit.
fn fit(notice: &Notice, limit: usize, encode: impl Fn(&[BucketEntry]) -> (String, usize)) -> Body {
    let all = notice.calls();
    let (body, counted) = encode(all);
    if counted <= limit || all.is_empty() {
        return Body { bytes: body.into_bytes(), left_out: 0 };
    }
    let newest = |count: usize| all.get(all.len().saturating_sub(count)..).unwrap_or_default();
    // `fits` calls fit in, `too_many` do not.
    let (mut fits, mut too_many) = (0, all.len());
    let (mut best, _) = encode(&[]);
    while fits + 1 < too_many {
        let middle = fits + (too_many - fits) / 2;
        let (body, counted) = encode(newest(middle));
        if counted <= limit {
            (fits, best) = (middle, body);
        } else {
            too_many = middle;
        }
    }
    Body { bytes: best.into_bytes(), left_out: all.len() - fits }
}

/// Numbered from 0 in order of arrival.
fn calls(entries: &[BucketEntry]) -> Vec<Call<'_>> {
    entries
        .iter()
        .enumerate()
        .map(|(id, entry)| Call { id, remote_uri: shortened(&entry.remote_uri), date: entry.invited_at.seconds() })
        .collect()
}

fn is_report(notice: &Notice) -> bool {
    matches!(notice, Notice::MissedCalls(_))
}

/// Whole seconds of the time to live. ECSS sends none with missed calls: they keep until the phone is on line.
fn fcm_ttl(push: &Push) -> Option<u64> {
    (!is_report(&push.notice)).then(|| seconds(push).min(FCM_TTL_MAX_S))
}

/// The push's time to live, in whole seconds. A started second counts: FCM reads 0 as "now or never".
pub(super) fn seconds(push: &Push) -> u64 {
    push.ttl.as_secs().saturating_add(u64::from(push.ttl.subsec_nanos() > 0))
}

fn shortened(text: &str) -> &str {
    text.get(..text.floor_char_boundary(TEXT_BYTES_MAX)).unwrap_or_default()
}

/// Compact JSON. Structs with string keys cannot fail to be written into memory.
fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::binding::{Provider, PushTarget, PushToken, Tokens};
    use crate::clock::UnixMillis;
    use crate::push::{MISSED_CALLS_TTL, Purpose, Ticket};
    use crate::store::EntryState;

    fn push(notice: Notice, date_s: u64, ttl: Duration) -> Push {
        let prid = PushToken::new("device_token");
        Push {
            ticket: Ticket(1),
            target: PushTarget { provider: Provider::Fcm, prid, param: "".into(), tokens: Tokens::Single },
            notice,
            date: UnixMillis(date_s * 1000),
            ttl,
            purpose: Purpose::default(),
        }
    }

    fn invite(number: &str, display_name: &str) -> Notice {
        Notice::Invite { number: number.into(), display_name: display_name.into() }
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
        AppleForm { profile, custom_key: "acme".into(), badge: Some(10) }
    }

    #[track_caller]
    fn check(body: &Body, expected: &str) {
        assert_eq!(String::from_utf8_lossy(&body.bytes), expected);
    }

    const WAIT: Duration = Duration::from_secs(28);
    const THREE: [(&str, u64); 3] = [("103", 1625158716), ("105", 1625158725), ("109", 1625158736)];

    #[test]
    fn fcm_invite() {
        let body = fcm_v1(&push(invite("103", "Ivan"), 1623753491, WAIT), "device_token", BYTES_MAX);
        check(
            &body,
            r#"{"message":{"token":"device_token","data":{"type":"invite","date":"1623753491"},"android":{"priority":"HIGH","ttl":"28s"}}}"#,
        );
        assert_eq!(body.bytes.len(), 123);
    }

    #[test]
    fn fcm_missed_calls() {
        let body = fcm_v1(&push(missed(&THREE), 1625133614, MISSED_CALLS_TTL), "token", BYTES_MAX);
        check(
            &body,
            r#"{"message":{"token":"token","data":{"type":"missed_calls","date":"1625133614","calls":"[{\"id\":0,\"remote_uri\":\"103\",\"date\":1625158716},{\"id\":1,\"remote_uri\":\"105\",\"date\":1625158725},{\"id\":2,\"remote_uri\":\"109\",\"date\":1625158736}]"},"android":{"priority":"HIGH"}}}"#,
        );
        assert_eq!(body.bytes.len(), 284);
    }

    #[test]
    fn fcm_message() {
        check(
            &fcm_v1(&push(Notice::Message, 1623753491, Duration::from_millis(24_100)), "t:1", BYTES_MAX),
            r#"{"message":{"token":"t:1","data":{"type":"message","date":"1623753491"},"android":{"priority":"HIGH","ttl":"25s"}}}"#,
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
            r#"{"aps":{"alert":{"loc-key":"INCOMING_CALL"},"badge":"10"},"acme":{"badge":"10","type":"invite","date":1623753691,"number":"103","dispaly_name":"Ivan"}}"#,
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
        let plain = AppleForm { profile: AppleProfile::Ecss, custom_key: "call".into(), badge: None };
        let push = Push { notice: invite("103", "Ivan"), ..push };
        check(
            &apns(&push, &plain, false, BYTES_MAX),
            r#"{"aps":{},"call":{"type":"invite","date":1623753691,"number":"103","dispaly_name":"Ivan"}}"#,
        );
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

        let fcm = fcm_v1(&push, "token", BYTES_MAX);
        let told = serde_json::from_slice::<serde_json::Value>(&fcm.bytes).unwrap();
        let data = told["message"]["data"].as_object().unwrap();
        let counted: usize = data.iter().map(|(key, value)| key.len() + value.as_str().unwrap().len()).sum();
        assert!(counted <= BYTES_MAX && counted + 60 > BYTES_MAX, "{counted}");
        let kept: Vec<serde_json::Value> = serde_json::from_str(data["calls"].as_str().unwrap()).unwrap();
        assert_eq!(kept.len() + fcm.left_out, 500);
        assert_eq!(kept.last().unwrap()["remote_uri"], "79000000499");

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
            let body = fcm_v1(&push(missed(&[(name, 1), ("103", 2)]), 3, WAIT), name, BYTES_MAX);
            let told = serde_json::from_slice::<serde_json::Value>(&body.bytes).unwrap();
            assert_eq!(told["message"]["token"], name);
            assert_eq!(body.left_out, 0);
        }
    }
}
