//! The body of a push to RuStore: FCM's, without the priority that RuStore does not know.

use serde::Serialize;

use super::{Body, FcmData, FcmPayload, Words, fcm_data, fcm_ttl, fit, text};
use crate::push::Push;

#[derive(Serialize)]
struct Request<'a> {
    message: Message<'a>,
}

#[derive(Serialize)]
struct Message<'a> {
    token: &'a str,
    /// Shown by RuStore's library, without the app's doing.
    #[serde(skip_serializing_if = "Option::is_none")]
    notification: Option<Words<'a>>,
    data: FcmData<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    android: Option<Android>,
}

#[derive(Serialize)]
struct Android {
    ttl: String,
}

/// `POST /v1/projects/…/messages:send`. Missed calls are kept, newest first, while `data` stays within `limit` bytes.
pub fn rustore(push: &Push, payload: FcmPayload, token: &str, limit: usize) -> Body {
    fit(&push.notice, limit, |kept| {
        let data = fcm_data(push, payload, kept);
        let counted = text(&data).len();
        let android = fcm_ttl(push).map(|seconds| Android { ttl: format!("{seconds}s") });
        (text(&Request { message: Message { token, notification: Words::of(&push.notice), data, android } }), counted)
    })
}
