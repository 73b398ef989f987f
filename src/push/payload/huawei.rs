//! The bodies of pushes to Huawei's phones: HMS (v2) and HarmonyOS (v3). What the app reads is FCM's `data`, as a text.

use serde::Serialize;

use super::{Body, FcmData, FcmPayload, Words, fcm_data, fcm_ttl, fit, is_test, seconds, text, uuid};
use crate::push::alert::{Alerts, Text};
use crate::push::{Notice, NoticeKind, Push};

/// HMS keeps messages for so long at most.
const HMS_TTL_MAX_S: u64 = 15 * 86_400;
/// A phone may be off for a day and still tell of the calls that it missed.
const ALERT_TTL_S: u64 = 86_400;
/// Opens the app.
const OPEN_APP: u8 = 3;

/// What is configurable in a body for HarmonyOS.
#[derive(Debug, Clone)]
pub struct HarmonyForm {
    pub payload: FcmPayload,
    /// Texts of missed_calls; without one it is in English.
    pub alerts: Alerts,
}

#[derive(Serialize)]
struct HmsRequest<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    validate_only: Option<bool>,
    message: HmsMessage<'a>,
}

#[derive(Serialize)]
struct HmsMessage<'a> {
    /// For the app, and then nothing is shown without its doing.
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    notification: Option<Words<'a>>,
    android: HmsAndroid<'a>,
    token: [&'a str; 1],
}

#[derive(Serialize)]
struct HmsAndroid<'a> {
    urgency: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    category: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    notification: Option<HmsNotification<'a>>,
}

#[derive(Serialize)]
struct HmsNotification<'a> {
    #[serde(flatten)]
    words: Words<'a>,
    click_action: ClickAction,
}

#[derive(Serialize)]
struct ClickAction {
    #[serde(rename = "type")]
    kind: u8,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HarmonyRequest<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    push_options: Option<PushOptions>,
    payload: HarmonyPayload<'a>,
    target: Target<'a>,
}

#[derive(Serialize)]
struct PushOptions {
    ttl: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum HarmonyPayload<'a> {
    /// For the app.
    ExtraData(String),
    /// Shown by the system.
    Notification(Box<HarmonyNotification<'a>>),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HarmonyNotification<'a> {
    category: &'static str,
    title: &'a str,
    body: String,
    click_action: HarmonyClick<'a>,
    /// Two with the same are shown once, whoever showed the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    app_message_id: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HarmonyClick<'a> {
    /// 0: opens the app.
    action_type: u8,
    /// What it is then handed.
    data: FcmData<'a>,
}

#[derive(Serialize)]
struct Target<'a> {
    token: [&'a str; 1],
}

/// `POST /v2/…/messages:send`. Missed calls are kept, newest first, while the whole without its token stays within `limit`
/// bytes.
pub fn hms(push: &Push, payload: FcmPayload, token: &str, limit: usize) -> Body {
    let kind = push.notice.kind();
    // HMS takes calls through at once where the app has the right for that category.
    let category = (kind == NoticeKind::Invite).then_some("VOIP");
    let is_urgent = matches!(kind, NoticeKind::Invite | NoticeKind::Message | NoticeKind::CallEnded)
        || push.notice == Notice::Register { is_urgent: true };
    let ttl = fcm_ttl(push).map(|seconds| format!("{}s", seconds.min(HMS_TTL_MAX_S)));
    fit(&push.notice, limit, |kept| {
        let words = Words::of(&push.notice);
        let data = words.is_none().then(|| text(&fcm_data(push, payload, kept)));
        let shown = Words::of(&push.notice);
        let notification = shown.map(|words| HmsNotification { words, click_action: ClickAction { kind: OPEN_APP } });
        let urgency = if is_urgent { "HIGH" } else { "NORMAL" };
        let android = HmsAndroid { urgency, ttl: ttl.clone(), category, notification };
        let message = HmsMessage { data, notification: words, android, token: [token] };
        let body = text(&HmsRequest { validate_only: is_test(&push.notice), message });
        let counted = body.len().saturating_sub(token.len());
        (body, counted)
    })
}

/// `POST /v3/…/messages:send`: calls and tests are for the app, missed calls and texts are shown by the system. The limit is
/// as that of [`hms`].
pub fn harmony(push: &Push, form: &HarmonyForm, token: &str, limit: usize) -> Body {
    fit(&push.notice, limit, |kept| {
        let data = fcm_data(push, form.payload, kept);
        let click = |data| HarmonyClick { action_type: 0, data };
        let english = Text::english();
        let (payload, ttl) = match &push.notice {
            Notice::Invite { .. } => (HarmonyPayload::ExtraData(text(&data)), Some(seconds(push))),
            Notice::Message | Notice::CallEnded { .. } | Notice::Register { .. } | Notice::Test => {
                (HarmonyPayload::ExtraData(text(&data)), None)
            }
            Notice::Text { title, body } => {
                let (title, body) = (&**title, body.to_string());
                let words = HarmonyNotification {
                    category: "IM",
                    title,
                    body,
                    click_action: click(data),
                    app_message_id: None,
                };
                (HarmonyPayload::Notification(Box::new(words)), Some(seconds(push).min(ALERT_TTL_S)))
            }
            Notice::MissedCalls(all) => {
                let words = form.alerts.text(push.language.as_deref()).unwrap_or(&english);
                let notification = HarmonyNotification {
                    category: "MISS_CALL",
                    title: if words.title.is_empty() { &english.title } else { &words.title },
                    body: words.body(all, all.len()),
                    click_action: click(data),
                    app_message_id: all.last().map(|last| uuid(&last.call_ref)),
                };
                (HarmonyPayload::Notification(Box::new(notification)), Some(ALERT_TTL_S))
            }
        };
        let push_options = ttl.map(|ttl| PushOptions { ttl });
        let body = text(&HarmonyRequest { push_options, payload, target: Target { token: [token] } });
        let counted = body.len().saturating_sub(token.len());
        (body, counted)
    })
}
