//! `/notification/…`: apps bind push tokens beside any REGISTER, and back ends send texts to users. The forms are those of
//! chat systems that have such a thing: `recipient_id` and `message`, KF5's callback with `user`, `device` and
//! `notification`, or Usedesk's webhook (`usedesk`).

use std::pin::Pin;
use std::time::Duration;

use axum::extract::State as Shared;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::guard::WithoutToken;
use super::routes::error;
use super::views::ToldView;
use super::{Pushed, State, usedesk};
use crate::binding::{DeviceId, SubscriptionKeys};

/// Longest body of a request.
pub(super) const BODY_BYTES_MAX: usize = 64 * 1024;
/// Longest locale: RFC 5646 §4.4.1 wants 35 characters to be enough.
const LOCALE_BYTES_MAX: usize = 35;
/// Tokens that one text may name.
const TOKENS_MAX: usize = 100;
/// Browsers say their keys without padding; libraries may add it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What the server does for them.
pub trait Notifications: Send + Sync + 'static {
    /// Binds a token; it is durable then. The device that has it.
    fn bind(&self, wish: TokenWish) -> Answering<'_, DeviceId>;
    /// Ends the binding of a token; `false` when there is none.
    fn unbind(&self, token: Box<str>) -> Answering<'_, bool>;
    /// Lets whoever has the ticket subscribe a browser for an AOR.
    fn ticket(&self, aor: &str) -> Result<Ticket, Refusal>;
    /// Sends a text to devices: one for each of them.
    fn tell(&self, wish: TextWish) -> Answering<'_, Vec<Pushed>>;
}

/// The end of what is asked of [`Notifications`].
pub type Answering<'s, T> = Pin<Box<dyn Future<Output = Result<T, Refusal>> + Send + 's>>;

/// For the page at which browsers subscribe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    pub ticket: String,
    pub expires_in: Duration,
}

/// A token to be bound.
#[derive(Debug, Clone)]
pub struct TokenWish {
    /// Whose it is.
    pub recipient: Box<str>,
    pub token: Box<str>,
    /// Push service by name, a chat system's or our own; `None`: `kind` decides.
    pub token_type: Option<Box<str>>,
    /// A provider's name, or anything else for FCM.
    pub kind: Box<str>,
    /// As `pn-param`.
    pub param: Box<str>,
    /// The language of its user.
    pub locale: Option<Box<str>>,
    /// Of a browser's subscription.
    pub keys: Option<SubscriptionKeys>,
}

/// A text to be sent.
#[derive(Debug, Clone)]
pub struct TextWish {
    pub recipient: Option<Box<str>>,
    /// Only to these; empty: to all devices of the recipient.
    pub tokens: Vec<Box<str>>,
    /// `None`: the one of the user's language.
    pub title: Option<Box<str>>,
    pub text: Box<str>,
}

/// Why something is not done, in words that say what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The request is wrong.
    Bad(String),
    TooLarge,
    /// The sender is not authenticated.
    Forbidden(String),
    /// It is right, but not for the present configuration or bindings.
    Conflict(String),
    /// It may be right later.
    Busy(String),
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::Bad(text) => error(StatusCode::BAD_REQUEST, &text),
            Self::TooLarge => {
                error(StatusCode::PAYLOAD_TOO_LARGE, &format!("a body has at most {BODY_BYTES_MAX} bytes"))
            }
            Self::Forbidden(text) => error(StatusCode::FORBIDDEN, &text),
            Self::Conflict(text) => error(StatusCode::CONFLICT, &text),
            Self::Busy(text) => error(StatusCode::SERVICE_UNAVAILABLE, &text),
        }
    }
}

/// A name that other systems may have as a number.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Name {
    Text(Box<str>),
    Number(i64),
}

impl From<Name> for Box<str> {
    fn from(name: Name) -> Self {
        match name {
            Name::Text(text) => text,
            Name::Number(number) => number.to_string().into(),
        }
    }
}

/// `POST /notification/token`
#[derive(Deserialize)]
pub(super) struct TokenForm {
    recipient_id: Name,
    token: Box<str>,
    token_type: Option<Box<str>>,
    #[serde(default)]
    recipient_type: Box<str>,
    #[serde(default)]
    locale: Box<str>,
    #[serde(default)]
    param: Box<str>,
    keys: Option<KeysForm>,
}

#[derive(Deserialize)]
struct KeysForm {
    p256dh: Box<str>,
    auth: Box<str>,
}

/// `DELETE /notification/token`
#[derive(Deserialize)]
pub(super) struct EndForm {
    token: Box<str>,
}

/// `POST /notification/post`
#[derive(Deserialize)]
struct TextForm {
    recipient_id: Option<Name>,
    message: Option<Box<str>>,
    text: Option<Box<str>>,
    title: Option<Box<str>>,
    user: Option<UserForm>,
    #[serde(default)]
    device: Vec<DeviceForm>,
    notification: Option<EventForm>,
}

#[derive(Deserialize)]
struct UserForm {
    user_id: Name,
}

#[derive(Deserialize)]
struct DeviceForm {
    device_token: Box<str>,
}

/// What there is to tell: `im` with its message, `ticket` with its id.
#[derive(Deserialize)]
struct EventForm {
    #[serde(default)]
    r#type: Box<str>,
    message: Option<Box<str>>,
    ticket_id: Option<Name>,
}

type Form<T> = Result<Json<T>, JsonRejection>;

pub(super) async fn bind(Shared(state): Shared<State>, form: Form<TokenForm>) -> Result<Json<Value>, Refusal> {
    let device = state.notifications.bind(token_wish(read(form)?)?).await?;
    Ok(Json(json!({ "id": device.to_string() })))
}

pub(super) async fn unbind(Shared(state): Shared<State>, form: Form<EndForm>) -> Result<Json<Value>, Refusal> {
    let is_removed = state.notifications.unbind(read(form)?.token).await?;
    Ok(Json(json!({ "removed": is_removed })))
}

/// A request `without_token` is accepted only as Usedesk's webhook, which has a secret in its body.
pub(super) async fn tell(
    Shared(state): Shared<State>,
    without_token: Option<Extension<WithoutToken>>,
    form: Form<Value>,
) -> Result<Response, Refusal> {
    let body = form.as_ref().map_or(&Value::Null, |Json(body)| body);
    if let Some(Extension(without_token)) = without_token.filter(|_| !usedesk::is_webhook(body)) {
        return Ok(without_token.answer());
    }
    let body = read(form)?;
    if usedesk::is_webhook(&body) {
        return usedesk::tell(&state, &body).await;
    }
    let pushed = state.notifications.tell(text_wish(read_as(&body)?)?).await?;
    if pushed.iter().all(|pushed| pushed.answer.is_none()) {
        return Ok(nobody(&pushed));
    }
    Ok(Json(json!({ "devices": pushed.iter().map(ToldView::new).collect::<Vec<_>>() })).into_response())
}

/// The answer if no device could be notified.
pub(super) fn nobody(pushed: &[Pushed]) -> Response {
    let devices: Vec<_> = pushed.iter().map(ToldView::new).collect();
    let text = "nobody can be told: the recipient has no device with a push token that takes a text";
    (StatusCode::NOT_FOUND, Json(json!({ "error": text, "devices": devices }))).into_response()
}

fn read<T>(form: Form<T>) -> Result<T, Refusal> {
    match form {
        Ok(Json(form)) => Ok(form),
        Err(rejection) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => Err(Refusal::TooLarge),
        Err(rejection) => Err(Refusal::Bad(rejection.body_text())),
    }
}

/// Reads a body in one of its forms. Errors name the field.
pub(super) fn read_as<T: DeserializeOwned>(body: &Value) -> Result<T, Refusal> {
    read(Json::from_bytes(body.to_string().as_bytes()))
}

pub(super) fn bad(text: impl Into<String>) -> Refusal {
    Refusal::Bad(text.into())
}

fn token_wish(form: TokenForm) -> Result<TokenWish, Refusal> {
    Ok(TokenWish {
        recipient: form.recipient_id.into(),
        token: form.token,
        token_type: form.token_type.filter(|name| !name.is_empty()),
        kind: form.recipient_type,
        param: form.param,
        locale: locale(&form.locale)?,
        keys: form.keys.map(|keys| subscription_keys(&keys)).transpose()?,
    })
}

/// Nothing but what a language tag is made of (RFC 5646 §2.1), with `-` also where systems write `_`.
fn locale(text: &str) -> Result<Option<Box<str>>, Refusal> {
    let tag = text.replace('_', "-");
    let is_part = |part: &str| (1..=8).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_alphanumeric());
    match tag.as_str() {
        "" => Ok(None),
        tag if tag.len() <= LOCALE_BYTES_MAX && tag.split('-').all(is_part) => Ok(Some(tag.into())),
        _ => Err(bad("\"locale\" is not a language tag; write for example \"en\" or \"pt-BR\"")),
    }
}

fn subscription_keys(form: &KeysForm) -> Result<SubscriptionKeys, Refusal> {
    let octets = |text: &str| BASE64.decode(text).ok();
    let p256dh = octets(&form.p256dh).and_then(|octets| <[u8; 65]>::try_from(octets).ok());
    // Uncompressed (SEC 1 §2.3.3).
    let p256dh = p256dh.filter(|point| point.first() == Some(&4));
    let auth = octets(&form.auth).and_then(|octets| <[u8; 16]>::try_from(octets).ok());
    match (p256dh, auth) {
        (Some(p256dh), Some(auth)) => Ok(SubscriptionKeys { p256dh, auth }),
        (None, _) => Err(bad("\"keys\".\"p256dh\" is not a P-256 key of 65 bytes in base64url")),
        (_, None) => Err(bad("\"keys\".\"auth\" is not a secret of 16 bytes in base64url")),
    }
}

fn text_wish(form: TextForm) -> Result<TextWish, Refusal> {
    if form.device.len() > TOKENS_MAX {
        return Err(bad(format!("\"device\" names at most {TOKENS_MAX} tokens")));
    }
    let event = form.notification.and_then(|event| match &*event.r#type {
        "ticket" => event.ticket_id.map(Into::into),
        _ => event.message,
    });
    let text = form.message.or(form.text).or(event);
    Ok(TextWish {
        recipient: form.recipient_id.or_else(|| form.user.map(|user| user.user_id)).map(Into::into),
        tokens: form.device.into_iter().map(|device| device.device_token).collect(),
        title: form.title,
        text: text.ok_or_else(|| {
            bad("\"message\" is needed, or \"notification\" with \"type\": \"im\" and \"message\", or \"ticket\" and \"ticket_id\"")
        })?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(body: Value) -> Option<TextWish> {
        text_wish(serde_json::from_value(body).unwrap()).ok()
    }

    #[test]
    fn a_text_in_either_form() {
        let wish =
            text(json!({ "recipient_id": "alice", "text": "hi", "title": "T", "event": "new comment" })).unwrap();
        assert_eq!((wish.recipient.as_deref(), &*wish.text, wish.title.as_deref()), (Some("alice"), "hi", Some("T")));
        let device = json!([{ "device_token": "1234567890", "type": "IOS" }]);
        let user = json!({ "user_id": 123 });
        let im = json!({ "message": "hello", "type": "im" });
        let wish = text(json!({ "user": user, "device": device, "notification": im })).unwrap();
        assert_eq!((wish.recipient.as_deref(), &*wish.text), (Some("123"), "hello"));
        assert_eq!(wish.tokens, [Box::from("1234567890")]);
        let ticket = json!({ "ticket_id": "77", "type": "ticket" });
        assert_eq!(&*text(json!({ "user": user, "notification": ticket })).unwrap().text, "77");
        assert!(text(json!({ "user": user, "notification": { "type": "ticket" } })).is_none());
        assert!(text(json!({ "recipient_id": "alice" })).is_none());
    }

    #[test]
    fn locales() {
        for (given, expected) in
            [("", None), ("en", Some("en")), ("pt_BR", Some("pt-BR")), ("zh-Hant-TW", Some("zh-Hant-TW"))]
        {
            assert_eq!(locale(given).unwrap().as_deref(), expected, "{given}");
        }
        for wrong in ["e n", "-", "en-", "überlang", "abcdefghi", "a-b-c-d-e-f-g-h-i-j-k-l-m-n-o-p-q-r-s"] {
            assert!(locale(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn keys_of_a_subscription() {
        let form = |p256dh: &[u8], auth: &[u8]| KeysForm {
            p256dh: BASE64.encode(p256dh).into(),
            auth: BASE64.encode(auth).trim_end_matches('=').into(),
        };
        let mut point = [7; 65];
        point[0] = 4;
        let keys = subscription_keys(&form(&point, &[9; 16])).unwrap();
        assert_eq!((keys.p256dh, keys.auth), (point, [9; 16]));
        for (p256dh, auth) in [(&point[..64], &[9; 16][..]), (&[7; 65], &[9; 16]), (&point, &[9; 15])] {
            assert!(subscription_keys(&form(p256dh, auth)).is_err());
        }
    }
}
