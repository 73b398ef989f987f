//! Bodies of pushes, byte for byte: FCM HTTP v1, FCM's legacy form, and APNs, as ECSS-10's clients expect them; Web Push
//! and the operator's own gateway.
//!
//! The order of keys is part of the form. `dispaly_name` is spelt as ECSS spells it.

mod huawei;
mod rustore;

use std::collections::BTreeMap;

use a2::{DefaultNotificationBuilder, NotificationBuilder, NotificationOptions};
use serde::Serialize;
use sha2::{Digest, Sha256};

pub use huawei::{HarmonyForm, harmony, hms};
pub use rustore::rustore;

use super::alert::Alerts;
use super::{Notice, Push, identity};
use crate::store::{BucketEntry, MessageId};

/// What FCM takes in `data` (keys and values) and what we allow as a whole body for APNs.
pub const BYTES_MAX: usize = 4096;

/// Longest number or name of a caller. In JSON a byte becomes six at worst, so that an invite with two of them, or a
/// missed call with one, always fits into [`BYTES_MAX`].
const TEXT_BYTES_MAX: usize = 255;

/// The same where there are four of them.
const IDENTITY_BYTES_MAX: usize = 150;

/// What gateways call a text (KF5's callback, `notification.type`).
const CALLBACK_TEXT: &str = "im";

/// FCM stores messages for 28 days at most.
const FCM_TTL_MAX_S: u64 = 2_419_200;

/// The JSON for one push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    pub bytes: Vec<u8>,
    /// How many of the oldest missed calls it does not tell, because they did not fit in.
    pub left_out: usize,
}

/// What the app is told of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FcmPayload {
    /// As ECSS-10's clients expect it: that there is one.
    #[default]
    Ecss,
    /// Who calls, too, and which call it is.
    Extended,
}

/// What is configurable in a body of FCM's v1 API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FcmForm {
    pub payload: FcmPayload,
    /// Whether a phone gets it before its user has unlocked it for the first time since it was started.
    pub direct_boot_ok: bool,
}

impl From<FcmPayload> for FcmForm {
    fn from(payload: FcmPayload) -> Self {
        Self { payload, direct_boot_ok: false }
    }
}

/// Which reader of an APNs body is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AppleProfile {
    /// ECSS-10's clients: the badge of an invite is a string, a missing name is an empty list.
    #[default]
    Ecss,
    /// By Apple's documentation: the badge is a number, a missing name an empty string.
    Apple,
    /// As `Apple`, and which call it is.
    Extended,
}

/// What is configurable in an APNs body.
#[derive(Debug, Clone)]
pub struct AppleForm {
    pub profile: AppleProfile,
    /// The key beside `aps`; ECSS has `acme`.
    pub custom_key: Box<str>,
    /// Constant number on the app's icon; `None` leaves it out.
    pub badge: Option<u32>,
    /// Texts of missed_calls; without one it is the app's, by `loc-key`.
    pub alerts: Alerts,
}

#[derive(Serialize)]
struct FcmRequest<'a> {
    /// The provider looks at everything and sends nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    validate_only: Option<bool>,
    message: FcmMessage<'a>,
}

#[derive(Serialize)]
struct FcmMessage<'a> {
    token: &'a str,
    /// Shown by the system, without the app's doing.
    #[serde(skip_serializing_if = "Option::is_none")]
    notification: Option<Words<'a>>,
    data: FcmData<'a>,
    android: Android,
}

#[derive(Serialize)]
struct FcmData<'a> {
    #[serde(flatten)]
    content: Content<String, String>,
    /// Of an invite.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    identity: Option<Identity<'a, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    number: Option<&'a str>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    end: Option<End<'a>>,
}

/// Which call is over, and why.
#[derive(Serialize)]
struct End<'a> {
    call_ref: &'a str,
    reason: &'static str,
}

impl<'a> End<'a> {
    fn of(notice: &'a Notice) -> Option<Self> {
        match notice {
            Notice::CallEnded { call_ref, reason } => {
                Some(Self { call_ref: cut(call_ref, IDENTITY_BYTES_MAX), reason: reason.name() })
            }
            Notice::Invite { .. } | Notice::Message | Notice::MissedCalls(_) => None,
            Notice::Register { .. } | Notice::Test | Notice::Text { .. } => None,
        }
    }
}

/// A text for the phone's user.
#[derive(Serialize)]
struct Words<'a> {
    title: &'a str,
    body: &'a str,
}

impl<'a> Words<'a> {
    fn of(notice: &'a Notice) -> Option<Self> {
        notice.text().map(|(title, body)| Self { title, body })
    }
}

#[derive(Serialize)]
struct WebPushBody<'a> {
    #[serde(flatten)]
    data: FcmData<'a>,
    /// Of a text: the same when the browser fetches it.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    words: Option<Words<'a>>,
}

/// Which call it is, in the extended forms.
#[derive(Serialize)]
struct Identity<'a, Time> {
    call_ref: &'a str,
    /// For CallKit: the same in each push of a call.
    uuid: String,
    display_name: &'a str,
    /// Milliseconds since 1970.
    sent_at: Time,
}

#[derive(Serialize)]
struct Android {
    /// Of a repetition.
    #[serde(skip_serializing_if = "Option::is_none")]
    collapse_key: Option<String>,
    priority: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    direct_boot_ok: bool,
}

#[derive(Serialize)]
struct LegacyRequest<'a> {
    /// As `validate_only`.
    #[serde(skip_serializing_if = "Option::is_none")]
    dry_run: Option<bool>,
    to: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    collapse_key: Option<String>,
    priority: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    notification: Option<Words<'a>>,
    data: LegacyData<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time_to_live: Option<u64>,
}

#[derive(Serialize)]
struct LegacyData<'a> {
    #[serde(flatten)]
    content: Content<u64, Vec<Call<'a>>>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    end: Option<End<'a>>,
}

#[derive(Serialize)]
struct CallbackRequest<'a> {
    user: CallbackUser<'a>,
    device: [CallbackDevice<'a>; 1],
    notification: CallbackNotification<'a>,
}

#[derive(Serialize)]
struct CallbackUser<'a> {
    /// Of the AOR that has the device: what a phone says of itself is not signed as whose it is.
    user_id: &'a str,
}

#[derive(Serialize)]
struct CallbackDevice<'a> {
    device_token: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    /// The phone's own word.
    #[serde(skip_serializing_if = "str::is_empty")]
    pn_param: &'a str,
}

#[derive(Serialize)]
struct CallbackNotification<'a> {
    #[serde(flatten)]
    content: Content<u64, Vec<Call<'a>>>,
    /// Of a text.
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    number: Option<&'a str>,
    /// Of an invite.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    identity: Option<Identity<'a, u64>>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    end: Option<End<'a>>,
    /// Seconds for which the phone may still be told.
    ttl: u64,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    call_ref: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    display_name: Option<&'a str>,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    sound: Option<&'static str>,
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
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    identity: Option<Identity<'a, u64>>,
}

#[derive(Serialize)]
struct AppleBackground<'a> {
    aps: AppleBackgroundAps,
    #[serde(flatten)]
    custom: BTreeMap<&'a str, AppleBackgroundContent<'a>>,
}

#[derive(Serialize)]
struct AppleBackgroundContent<'a> {
    #[serde(flatten)]
    content: Content<u64, ()>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    end: Option<End<'a>>,
}

#[derive(Serialize)]
struct AppleBackgroundAps {
    #[serde(rename = "content-available")]
    content_available: u8,
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
pub fn fcm_v1(push: &Push, form: impl Into<FcmForm>, token: &str, limit: usize) -> Body {
    let FcmForm { payload, direct_boot_ok } = form.into();
    fit(&push.notice, limit, |kept| {
        let data = fcm_data(push, payload, kept);
        let Content { kind, date, calls } = &data.content;
        let counted =
            "typedate".len() + kind.len() + date.len() + calls.as_ref().map_or(0, |calls| "calls".len() + calls.len());
        let ttl = fcm_ttl(push).map(|seconds| format!("{seconds}s"));
        let priority = if may_sleep_on(&push.notice) { "NORMAL" } else { "HIGH" };
        let android = Android { collapse_key: collapse_key(push), priority, ttl, direct_boot_ok };
        let message = FcmMessage { token, notification: Words::of(&push.notice), data, android };
        (text(&FcmRequest { validate_only: is_test(&push.notice), message }), counted)
    })
}

/// What a browser is told: FCM's `data`, and the words of a text, which it shows itself. Missed calls are kept, newest first, while the whole stays within `limit` bytes.
pub fn web_push(push: &Push, payload: FcmPayload, limit: usize) -> Body {
    fit(&push.notice, limit, |kept| {
        let words = Words::of(&push.notice);
        let id = words.as_ref().map(|words| MessageId::of(words.title, words.body, push.date).to_string());
        let body = text(&WebPushBody { data: fcm_data(push, payload, kept), id, words });
        let counted = body.len();
        (body, counted)
    })
}

fn fcm_data<'a>(push: &'a Push, payload: FcmPayload, kept: &[BucketEntry]) -> FcmData<'a> {
    let is_extended = payload == FcmPayload::Extended;
    let calls = is_report(&push.notice).then(|| text(&calls(kept, is_extended)));
    let content = Content { kind: push.notice.kind().name(), date: push.date.seconds().to_string(), calls };
    let (identity, number) = match &push.notice {
        Notice::Invite { number, display_name, call_ref } if is_extended => {
            let sent_at = push.date.0.to_string();
            (Some(identity(call_ref, display_name, sent_at)), Some(shortened(number)))
        }
        Notice::Invite { .. } | Notice::Message | Notice::MissedCalls(_) => (None, None),
        Notice::CallEnded { .. } | Notice::Register { .. } => (None, None),
        Notice::Test | Notice::Text { .. } => (None, None),
    };
    FcmData { content, identity, number, end: End::of(&push.notice) }
}

fn identity<'a, Time>(call_ref: &'a str, display_name: &'a str, sent_at: Time) -> Identity<'a, Time> {
    let call_ref = cut(call_ref, IDENTITY_BYTES_MAX);
    Identity { call_ref, uuid: uuid(call_ref), display_name: cut(display_name, IDENTITY_BYTES_MAX), sent_at }
}

/// A UUID that only depends on `text` (RFC 9562 §5.8: version 8), so that an app knows a call that it is told of twice.
pub(super) fn uuid(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    let bits = digest.iter().take(16).fold(0_u128, |bits, byte| bits << 8 | u128::from(*byte));
    let bits = bits & !(0xf << 76) & !(0x3 << 62) | 0x8 << 76 | 0x2 << 62;
    let hex = format!("{bits:032x}");
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
    [part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-")
}

/// `POST /fcm/send`, the form of ECSS's examples.
pub fn fcm_legacy(push: &Push, token: &str, limit: usize) -> Body {
    fit(&push.notice, limit, |kept| {
        let calls = is_report(&push.notice).then(|| calls(kept, false));
        let content = Content { kind: push.notice.kind().name(), date: push.date.seconds(), calls };
        let data = LegacyData { content, end: End::of(&push.notice) };
        let counted = text(&data).len();
        let request = LegacyRequest {
            dry_run: is_test(&push.notice),
            to: token,
            collapse_key: collapse_key(push),
            priority: if may_sleep_on(&push.notice) { 5 } else { 10 },
            notification: Words::of(&push.notice),
            data,
            time_to_live: fcm_ttl(push),
        };
        (text(&request), counted)
    })
}

/// The operator's own gateway gets all that is known, in whichever app's words it may tell it on. Missed calls are kept,
/// newest first, while the whole stays within `limit` bytes.
pub fn callback(push: &Push, kind: &str, token: &str, limit: usize) -> Body {
    fit(&push.notice, limit, |kept| {
        let calls = is_report(&push.notice).then(|| calls(kept, true));
        let (title, message) = push.notice.text().unzip();
        let kind_of_notice = if message.is_some() { CALLBACK_TEXT } else { push.notice.kind().name() };
        let content = Content { kind: kind_of_notice, date: push.date.seconds(), calls };
        let (identity, number) = match &push.notice {
            Notice::Invite { number, display_name, call_ref } => {
                (Some(identity(call_ref, display_name, push.date.0)), Some(shortened(number)))
            }
            Notice::Message | Notice::MissedCalls(_) => (None, None),
            Notice::CallEnded { .. } | Notice::Register { .. } => (None, None),
            Notice::Test | Notice::Text { .. } => (None, None),
        };
        let end = End::of(&push.notice);
        let body = text(&CallbackRequest {
            user: CallbackUser { user_id: push.aor.user() },
            device: [CallbackDevice { device_token: token, kind, pn_param: &push.target.param }],
            notification: CallbackNotification { content, title, message, number, identity, end, ttl: seconds(push) },
        });
        let counted = body.len();
        (body, counted)
    })
}

/// `POST /3/device/…`. With `alert`, an invite is shown by the system instead of waking the app (a token without VoIP
/// permission). The end of a call, a reminder to register and a test are for the app alone; the other notices are always alerts.
pub fn apns(push: &Push, form: &AppleForm, alert: bool, limit: usize) -> Body {
    fit(&push.notice, limit, |kept| {
        let body = match &push.notice {
            Notice::Invite { number, display_name, call_ref } => {
                apple_invite(push, form, alert, [number, display_name, call_ref])
            }
            Notice::Message => apple_message(push, form),
            Notice::Text { title, body } => apple_text(push, form, title, body),
            Notice::CallEnded { .. } | Notice::Register { .. } | Notice::Test => apple_background(push, form),
            Notice::MissedCalls(all) => apple_missed_calls(push, form, kept, all.len()),
        };
        let counted = body.len();
        (body, counted)
    })
}

fn apple_invite(push: &Push, form: &AppleForm, alert: bool, caller_and_call: [&str; 3]) -> String {
    let [number, display_name, call_ref] = caller_and_call;
    // With the call's name and the name twice there must be room for all.
    let text_max = if form.profile == AppleProfile::Extended { IDENTITY_BYTES_MAX } else { TEXT_BYTES_MAX };
    let badge = form.badge.map(|number| match form.profile {
        AppleProfile::Ecss => Badge::Text(number.to_string()),
        AppleProfile::Apple | AppleProfile::Extended => Badge::Number(number),
    });
    let dispaly_name = match form.profile {
        AppleProfile::Ecss if display_name.is_empty() => Name::EmptyList([]),
        AppleProfile::Ecss | AppleProfile::Apple | AppleProfile::Extended => Name::Text(cut(display_name, text_max)),
    };
    let identity = (form.profile == AppleProfile::Extended).then(|| identity(call_ref, display_name, push.date.0));
    let content = AppleInviteContent {
        badge: badge.clone(),
        kind: push.notice.kind().name(),
        date: push.date.seconds(),
        number: cut(number, text_max),
        dispaly_name,
        identity,
    };
    // What the system shows itself has to be in Apple's form, and heard.
    let aps = match alert {
        true => AppleInviteAps {
            alert: Some(LocalizedAlert { loc_key: "INCOMING_CALL" }),
            badge: form.badge.map(Badge::Number),
            sound: Some("default"),
        },
        false => AppleInviteAps { alert: None, badge, sound: None },
    };
    text(&AppleInvite { aps, custom: BTreeMap::from([(form.custom_key.as_ref(), content)]) })
}

fn apple_message(push: &Push, form: &AppleForm) -> String {
    let content = Content { kind: push.notice.kind().name(), date: push.date.seconds(), calls: None::<()> };
    apple_alert(DefaultNotificationBuilder::new().set_loc_key("MESSAGE"), form, &content)
}

fn apple_text(push: &Push, form: &AppleForm, title: &str, body: &str) -> String {
    let content = Content { kind: push.notice.kind().name(), date: push.date.seconds(), calls: None::<()> };
    apple_alert(DefaultNotificationBuilder::new().set_title(title).set_body(body), form, &content)
}

/// In the background: nothing is shown, and the app may sleep on.
fn apple_background(push: &Push, form: &AppleForm) -> String {
    let content = Content { kind: push.notice.kind().name(), date: push.date.seconds(), calls: None };
    let content = AppleBackgroundContent { content, end: End::of(&push.notice) };
    text(&AppleBackground {
        aps: AppleBackgroundAps { content_available: 1 },
        custom: BTreeMap::from([(form.custom_key.as_ref(), content)]),
    })
}

/// `count` is the number of all calls that were missed, told or not.
fn apple_missed_calls(push: &Push, form: &AppleForm, kept: &[BucketEntry], count: usize) -> String {
    let calls = calls(kept, form.profile == AppleProfile::Extended);
    let content = Content { kind: push.notice.kind().name(), date: push.date.seconds(), calls: Some(calls) };
    let text = form.alerts.text(push.language.as_deref());
    let body = text.map(|text| text.body(push.notice.calls(), count)).unwrap_or_default();
    let count = [count.to_string()];
    let alert = match text {
        Some(text) if !text.title.is_empty() => {
            DefaultNotificationBuilder::new().set_title(&text.title).set_body(&body)
        }
        Some(_) => DefaultNotificationBuilder::new().set_body(&body),
        None => DefaultNotificationBuilder::new().set_loc_key("MISSED_CALLS").set_loc_args(&count),
    };
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
fn calls(entries: &[BucketEntry], is_extended: bool) -> Vec<Call<'_>> {
    entries.iter().enumerate().map(|(id, entry)| call(id, entry, is_extended)).collect()
}

fn call(id: usize, entry: &BucketEntry, is_extended: bool) -> Call<'_> {
    // Whoever hides is hidden, whatever the entry has (RFC 3323 §4.2).
    let (number, name) = if entry.anonymous { ("anonymous", "") } else { (&*entry.remote_uri, &*entry.display_name) };
    Call {
        id,
        remote_uri: shortened(number),
        date: entry.invited_at.seconds(),
        call_ref: is_extended.then(|| shortened(&entry.call_ref)),
        display_name: is_extended.then(|| shortened(name)),
    }
}

/// For fields that only a test has.
fn is_test(notice: &Notice) -> Option<bool> {
    matches!(notice, Notice::Test).then_some(true)
}

/// Whether the phone may be told when it is awake anyway. Google lowers the priority of an app whose urgent messages show
/// nothing to its user, and with it that of its calls ("Set and manage message priority").
fn may_sleep_on(notice: &Notice) -> bool {
    matches!(notice, Notice::Register { is_urgent: false })
}

fn is_report(notice: &Notice) -> bool {
    matches!(notice, Notice::MissedCalls(_))
}

/// What makes FCM deliver one of several repetitions to a phone that was away. The first push has none: of those that have
/// one a phone gets 20 at once and then one in three minutes ("FCM throttling and quotas"), and it may have more calls.
fn collapse_key(push: &Push) -> Option<String> {
    push.is_repeat.then(|| identity::of(push, &push.target.prid))
}

/// Whole seconds of the time to live. ECSS sends none with missed calls: they keep until the phone is on line.
fn fcm_ttl(push: &Push) -> Option<u64> {
    (!is_report(&push.notice)).then(|| seconds(push).min(FCM_TTL_MAX_S))
}

/// The push's time to live, in whole seconds. A started second counts: FCM reads 0 as "now or never".
pub(super) fn seconds(push: &Push) -> u64 {
    push.ttl.as_secs().saturating_add(u64::from(push.ttl.subsec_nanos() > 0))
}

pub(super) fn shortened(text: &str) -> &str {
    cut(text, TEXT_BYTES_MAX)
}

fn cut(text: &str, bytes_max: usize) -> &str {
    text.get(..text.floor_char_boundary(bytes_max)).unwrap_or_default()
}

/// Compact JSON. Structs with string keys cannot fail to be written into memory.
fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests;
