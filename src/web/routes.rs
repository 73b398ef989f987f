//! One function for each route of the public listener. Errors are `{"error": "…"}`.

use std::num::NonZeroU32;
use std::sync::Arc;

use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::header::{CACHE_CONTROL, HeaderValue, RETRY_AFTER};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{REQUEST_TIMEOUT, Refusal, Source, assets};
use crate::binding::{Provider, PushTarget, PushToken, SubscriptionKeys, Tokens};
use crate::store::Message;

/// Subscriptions have some hundred bytes.
const BODY_BYTES_MAX: usize = 8192;
const ENDPOINT_BYTES_MAX: usize = 4096;
/// RFC 5646 §4.4.1 has 35 for the longest tag that need be expected.
const LOCALE_BYTES_MAX: usize = 35;
/// For whoever was too early, in seconds.
const RETRY_AFTER_S: HeaderValue = HeaderValue::from_static("2");

type Shared = State<Arc<dyn Source>>;

pub(super) fn router(source: Arc<dyn Source>, per_second: u32) -> Router {
    let quota = Quota::per_second(NonZeroU32::new(per_second).unwrap_or(NonZeroU32::MIN));
    let limiter = Arc::new(RateLimiter::direct(quota));
    Router::new()
        .route("/", get(page))
        .route("/{file}", get(file))
        .route("/subscriptions", post(subscribe))
        .route("/subscriptions/{contact_id}", delete(unsubscribe).put(renew))
        // A HEAD takes nothing away.
        .route("/messages/{contact_id}", get(pick_up).head(no_head))
        .fallback(|| async { error(StatusCode::NOT_FOUND, "there is nothing here") })
        .method_not_allowed_fallback(no_head)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(limiter, guard))
        .with_state(source)
}

/// What holds for every request: not too many, not for too long, and nothing is to be made of the answer but what it is.
async fn guard(State(limiter): State<Arc<DefaultDirectRateLimiter>>, request: Request, next: Next) -> Response {
    let mut response = match limiter.check() {
        Err(_) => refusal(&Refusal::TooOften),
        Ok(()) => match tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await {
            Ok(response) => response,
            Err(_) => error(StatusCode::REQUEST_TIMEOUT, "it took too long"),
        },
    };
    let headers = response.headers_mut();
    for (name, value) in assets::HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

fn error(status: StatusCode, text: &str) -> Response {
    (status, Json(json!({ "error": text }))).into_response()
}

/// What went wrong in the store is not for strangers.
fn refusal(refusal: &Refusal) -> Response {
    let retry = || HeaderMap::from_iter([(RETRY_AFTER, RETRY_AFTER_S)]);
    match refusal {
        Refusal::Unknown => error(StatusCode::NOT_FOUND, &refusal.to_string()),
        Refusal::Unusable(_) => error(StatusCode::FORBIDDEN, &refusal.to_string()),
        Refusal::TooMany => error(StatusCode::CONFLICT, &refusal.to_string()),
        Refusal::TooOften => (retry(), error(StatusCode::TOO_MANY_REQUESTS, &refusal.to_string())).into_response(),
        Refusal::Store(_) => (retry(), error(StatusCode::SERVICE_UNAVAILABLE, "not at the moment")).into_response(),
    }
}

async fn no_head() -> Response {
    error(StatusCode::METHOD_NOT_ALLOWED, "not by this method")
}

async fn page(State(source): Shared) -> Response {
    match source.vapid_key() {
        Some(key) => assets::page(&key),
        None => error(StatusCode::SERVICE_UNAVAILABLE, "Web Push is off"),
    }
}

async fn file(Path(name): Path<String>) -> Response {
    assets::file(&name).unwrap_or_else(|| error(StatusCode::NOT_FOUND, "there is nothing here"))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    ticket: String,
    subscription: Subscription,
    #[serde(default)]
    locale: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Renewal {
    subscription: Subscription,
}

/// As `PushSubscription.toJSON()` makes it (Push API); browsers may add to it.
#[derive(Deserialize)]
struct Subscription {
    endpoint: String,
    keys: TextKeys,
}

/// In base64url.
#[derive(Deserialize)]
struct TextKeys {
    p256dh: String,
    auth: String,
}

impl Subscription {
    fn target(&self) -> Result<PushTarget, &'static str> {
        fn bytes<const LENGTH: usize>(text: &str) -> Option<[u8; LENGTH]> {
            URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok()?.try_into().ok()
        }
        if self.endpoint.len() > ENDPOINT_BYTES_MAX {
            return Err("subscription.endpoint is too long");
        }
        let p256dh = bytes(&self.keys.p256dh).ok_or("subscription.keys.p256dh is not 65 bytes in base64url")?;
        let auth = bytes(&self.keys.auth).ok_or("subscription.keys.auth is not 16 bytes in base64url")?;
        Ok(PushTarget {
            provider: Provider::WebPush,
            prid: PushToken::new(self.endpoint.as_str()),
            param: "".into(),
            tokens: Tokens::Subscription(SubscriptionKeys { p256dh, auth }),
            others: Box::default(),
        })
    }
}

async fn subscribe(State(source): Shared, wish: Result<Json<Wish>, JsonRejection>) -> Response {
    let wish = match wish {
        Ok(Json(wish)) => wish,
        Err(rejection) => return error(rejection.status(), &rejection.body_text()),
    };
    let aor = match source.read_ticket(&wish.ticket) {
        Ok(aor) => aor,
        Err(problem) => return error(StatusCode::FORBIDDEN, &problem.to_string()),
    };
    let target = match wish.subscription.target() {
        Ok(target) => target,
        Err(problem) => return error(StatusCode::BAD_REQUEST, problem),
    };
    let is_locale = |text: &String| {
        let is_char = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        !text.is_empty() && text.len() <= LOCALE_BYTES_MAX && text.bytes().all(is_char)
    };
    // One that cannot be a language is none: the page works all the same.
    let locale = wish.locale.filter(is_locale).map(Into::into);
    match source.subscribe(aor, target, locale).await {
        Ok(contact_id) => Json(json!({ "contact_id": contact_id })).into_response(),
        Err(problem) => refusal(&problem),
    }
}

/// The subscription of a contact id has got another in its place, and so has the contact id.
async fn renew(
    State(source): Shared,
    Path(contact_id): Path<String>,
    renewal: Result<Json<Renewal>, JsonRejection>,
) -> Response {
    let renewal = match renewal {
        Ok(Json(renewal)) => renewal,
        Err(rejection) => return error(rejection.status(), &rejection.body_text()),
    };
    let target = match renewal.subscription.target() {
        Ok(target) => target,
        Err(problem) => return error(StatusCode::BAD_REQUEST, problem),
    };
    match source.renew(&contact_id, target).await {
        Ok(contact_id) => Json(json!({ "contact_id": contact_id })).into_response(),
        Err(problem) => refusal(&problem),
    }
}

async fn unsubscribe(State(source): Shared, Path(contact_id): Path<String>) -> Response {
    match source.unsubscribe(&contact_id).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(problem) => refusal(&problem),
    }
}

/// Hands over the texts that wait, and whoever comes later gets them no more.
async fn pick_up(State(source): Shared, Path(contact_id): Path<String>) -> Response {
    match source.pick_up(&contact_id).await {
        Ok(messages) => Json(json!({ "messages": messages.iter().map(view).collect::<Vec<_>>() })).into_response(),
        Err(problem) => refusal(&problem),
    }
}

fn view(message: &Message) -> Value {
    json!({
        "id": message.id.to_string(),
        "title": message.title,
        "body": message.body,
        "date": message.sent_at.seconds().to_string(),
    })
}
