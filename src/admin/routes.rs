//! One function for each route of the admin listener. Errors are `{"error": "…"}`.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, State as Shared};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use axum::{Json, Router, middleware};
use serde::Deserialize;
use serde_json::{Value, json};

use super::views::{BanView, BindingView, CallView, DifferenceView, EntryView, PushedView};
use super::{Recall, Recalled, State};
use super::{centrifuge, console, exposition, guard, live, notification, overview};
use crate::binding::{Aor, Binding, DeviceId};
use crate::clock::UnixMillis;
use crate::config::{Difference, Log};
use crate::guard::{NoSource, Source};
use crate::logging;

/// AORs of one answer when `limit` does not say.
const PAGE: usize = 1000;
/// At most so many, whatever `limit` says.
const PAGE_MAX: usize = 10_000;

pub(super) fn router(state: State) -> Router {
    let guarded = |guard| middleware::from_fn_with_state(guard, guard::check);
    let no_method = || async { error(StatusCode::METHOD_NOT_ALLOWED, "not by this method") };
    let of_admin = guard::Guard { token: state.token.clone(), key: "admin.token_file" };
    let of_notification = match &state.notification_token {
        Some(token) => guard::Guard { token: Some(token.clone()), key: "notification.token_file" },
        None => of_admin.clone(),
    };
    let tokens = Router::new()
        .route("/notification/token", post(notification::bind).delete(notification::unbind))
        .method_not_allowed_fallback(no_method)
        .layer(guarded(of_notification.clone()));
    let texts =
        Router::new().route("/notification/post", post(notification::tell)).method_not_allowed_fallback(no_method);
    // Usedesk cannot send a bearer token, so that its secret is accepted instead.
    let texts = match state.webhook_secret {
        Some(_) => texts.layer(middleware::from_fn_with_state(of_notification, guard::note)),
        None => texts.layer(guarded(of_notification)),
    };
    let notification = tokens.merge(texts).layer(DefaultBodyLimit::max(notification::BODY_BYTES_MAX));
    // Authenticates by itself: a page cannot set headers of a WebSocket.
    let pages =
        Router::new().route("/connection/websocket", get(centrifuge::connect)).method_not_allowed_fallback(no_method);
    Router::new()
        .route("/healthz", get(health))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/api/openapi.json", get(openapi))
        .route("/api/v1/bans", get(bans))
        .route("/api/v1/bans/{source}", delete(lift_ban))
        .route("/api/v1/bindings", get(bindings))
        .route("/api/v1/bindings/{aor}/{id}", delete(remove_binding))
        .route("/api/v1/calls", get(calls))
        .route("/api/v1/calls/{call_ref}", get(call))
        .route("/api/v1/buckets/{aor}", get(bucket))
        .route("/api/v1/events", get(live::events))
        .route("/api/v1/held", get(overview::held))
        .route("/api/v1/push", post(push))
        .route("/api/v1/summary", get(overview::summary))
        .route("/api/v1/webpush/tickets", post(ticket))
        .route("/api/v1/reload", post(reload))
        .route("/api/v1/config", get(config))
        .route("/api/v1/log", put(set_log))
        .fallback(|| async { error(StatusCode::NOT_FOUND, "there is nothing here") })
        .method_not_allowed_fallback(no_method)
        .layer(guarded(of_admin))
        .merge(pages)
        .merge(notification)
        .merge(console::routes())
        .with_state(state)
}

/// The answer to what cannot be done.
pub(super) fn error(status: StatusCode, text: &str) -> Response {
    (status, Json(json!({ "error": text }))).into_response()
}

/// These routes for programs, as OpenAPI.
const OPENAPI: &str = include_str!("openapi.json");

async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

async fn health(Shared(state): Shared<State>) -> Response {
    let (status, text) =
        if state.readiness.is_alive() { (StatusCode::OK, "ok") } else { (StatusCode::SERVICE_UNAVAILABLE, "stuck") };
    (status, Json(json!({ "status": text }))).into_response()
}

async fn ready(Shared(state): Shared<State>) -> Response {
    let report = state.readiness.report();
    let status = if report.is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "status": report.status, "reasons": report.reasons }))).into_response()
}

async fn metrics(Shared(state): Shared<State>, headers: HeaderMap) -> Response {
    state.source.measure(&state.metrics);
    state.metrics.events_clients.set(i64::try_from(state.live.clients()).unwrap_or(i64::MAX));
    exposition::answer(state.metrics.render(), &headers)
}

/// Which part of a list is asked for.
#[derive(Deserialize)]
pub(super) struct Page {
    aor: Option<String>,
    /// Bindings: only of AORs that have this in them.
    contains: Option<String>,
    after: Option<String>,
    limit: Option<usize>,
}

impl Page {
    pub(super) fn limit(&self) -> usize {
        self.limit.unwrap_or(PAGE).clamp(1, PAGE_MAX)
    }
}

pub(super) type PageQuery = Result<Query<Page>, QueryRejection>;

/// The list that is asked for, or 400.
pub(super) fn with_page(page: PageQuery, list: impl FnOnce(Page) -> Value) -> Response {
    match page {
        Ok(Query(page)) => Json(list(page)).into_response(),
        Err(rejection) => error(StatusCode::BAD_REQUEST, &rejection.body_text()),
    }
}

/// Bindings of one AOR, or of all, or of those that `contains` finds, by pages: `next` leads to the following one as `after`.
async fn bindings(Shared(state): Shared<State>, page: PageQuery) -> Response {
    with_page(page, |page| {
        let now = now();
        let view = |found: &Arc<Binding>| {
            let is_reachable = found.is_reachable(now) && state.source.holds_flow(found);
            let view = BindingView::new(found, state.source.admits(found), is_reachable);
            let view = view.forgotten(found, state.source.is_forgotten_upstream(found, now));
            view.reminded_at(state.source.next_reminder(found))
        };
        let views = |found: &[Arc<Binding>]| json!({ "bindings": found.iter().map(view).collect::<Vec<_>>() });
        if let Some(aor) = &page.aor {
            return views(&state.source.bindings(&parse_aor(aor)));
        }
        let after = page.after.as_deref().map(parse_aor);
        let found = state.source.page(after.as_ref(), page.contains.as_deref().unwrap_or_default(), page.limit());
        let mut answer = views(&found);
        let aors = found.chunk_by(|one, other| one.aor == other.aor).count();
        if let (Some(last), Some(answer), true) = (found.last(), answer.as_object_mut(), aors >= page.limit()) {
            answer.insert("next".to_owned(), last.aor.as_str().into());
        }
        answer
    })
}

async fn remove_binding(Shared(state): Shared<State>, Path((aor, id)): Path<(String, String)>) -> Response {
    let no_such = || error(StatusCode::NOT_FOUND, "no such binding");
    let Some(device) = DeviceId::parse(id.as_bytes()) else { return no_such() };
    match state.source.remove(parse_aor(&aor), device).await {
        Ok(true) => {
            tracing::info!(%device, "a binding was removed by the operator");
            Json(json!({ "removed": true })).into_response()
        }
        Ok(false) => no_such(),
        Err(failed) => error(StatusCode::SERVICE_UNAVAILABLE, &failed.to_string()),
    }
}

/// Sources that are shut out, the oldest ban first.
async fn bans(Shared(state): Shared<State>) -> Json<Value> {
    Json(json!({ "bans": state.source.bans().iter().map(BanView::new).collect::<Vec<_>>() }))
}

async fn lift_ban(Shared(state): Shared<State>, Path(source): Path<String>) -> Response {
    match source.parse::<Source>() {
        Ok(source) if state.source.lift(source) => {
            tracing::info!("a ban was lifted by the operator");
            Json(json!({ "removed": true })).into_response()
        }
        Ok(_) | Err(NoSource) => error(StatusCode::NOT_FOUND, "no such ban"),
    }
}

/// The last calls, or those for one user, newest first.
async fn calls(Shared(state): Shared<State>, page: PageQuery) -> Response {
    let Query(page) = match page {
        Ok(page) => page,
        Err(rejection) => return error(StatusCode::BAD_REQUEST, &rejection.body_text()),
    };
    let what = match &page.aor {
        Some(aor) => Recall::Aor(parse_aor(aor), page.limit()),
        None => Recall::Last(page.limit()),
    };
    let Recalled { calls, partial } = state.source.recall(what).await;
    let mut answer = json!({ "calls": calls.iter().map(|call| CallView::new(call)).collect::<Vec<_>>() });
    if let (Some(partial), Some(answer)) = (partial, answer.as_object_mut()) {
        answer.insert("partial".to_owned(), partial.into());
    }
    Json(answer).into_response()
}

async fn call(Shared(state): Shared<State>, Path(call_ref): Path<String>) -> Response {
    let Recalled { calls, partial } = state.source.recall(Recall::Call(call_ref)).await;
    match calls.first() {
        Some(call) => Json(CallView::new(call)).into_response(),
        None => {
            let partial = partial.map(|partial| format!(" {partial}")).unwrap_or_default();
            error(StatusCode::NOT_FOUND, &format!("no such call among the last ones{partial}"))
        }
    }
}

/// What has changed and what needs a restart; 422 with what is wrong, and then nothing has.
async fn reload(Shared(state): Shared<State>) -> Response {
    let reloaded = match state.source.reload().await {
        Ok(reloaded) => reloaded,
        Err(wrong) => return error(StatusCode::UNPROCESSABLE_ENTITY, &wrong.to_string()),
    };
    let (changed, needs_restart) = (views(&reloaded.changed), views(&reloaded.needs_restart));
    Json(json!({ "changed": changed, "needs_restart": needs_restart })).into_response()
}

/// Each key as it is in effect, as in TOML.
async fn config(Shared(state): Shared<State>) -> Json<Value> {
    let values: serde_json::Map<_, _> =
        state.source.settings().shown().map(|(key, value)| (key.to_owned(), value.into())).collect();
    Json(json!({ "values": values }))
}

fn views(changes: &[Difference]) -> Vec<DifferenceView<'_>> {
    changes.iter().map(DifferenceView::new).collect()
}

#[derive(Deserialize)]
struct LogLevel {
    level: String,
}

/// Until the configuration is read again.
async fn set_log(body: Result<Json<LogLevel>, JsonRejection>) -> Response {
    let Json(LogLevel { level }) = match body {
        Ok(body) => body,
        Err(rejection) => return error(StatusCode::BAD_REQUEST, &rejection.body_text()),
    };
    match Log::check_level(&level).and_then(|()| logging::set_level(&level).map_err(|error| error.to_string())) {
        Ok(()) => {
            tracing::info!(level, "the operator has set the log's level");
            Json(json!({ "level": level })).into_response()
        }
        Err(wrong) => error(StatusCode::UNPROCESSABLE_ENTITY, &wrong),
    }
}

/// The push buckets of all devices of an AOR.
async fn bucket(Shared(state): Shared<State>, Path(aor): Path<String>) -> Response {
    let mut entries = Vec::new();
    for binding in state.source.bindings(&parse_aor(&aor)) {
        let bucket = state.source.bucket(&binding.device);
        entries.extend(bucket.iter().map(|entry| EntryView::new(binding.device, entry)));
    }
    Json(json!({ "entries": entries })).into_response()
}

/// Whom to push, and whether only to say what would be sent.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PushWish {
    aor: String,
    #[serde(default)]
    dry_run: bool,
}

/// A test push to each device of an AOR; none for an unknown one.
async fn push(Shared(state): Shared<State>, wish: Result<Json<PushWish>, JsonRejection>) -> Response {
    let wish = match wish {
        Ok(Json(wish)) => wish,
        Err(rejection) => return error(StatusCode::BAD_REQUEST, &rejection.body_text()),
    };
    let pushed = state.source.push(parse_aor(&wish.aor), wish.dry_run).await;
    Json(json!({ "pushes": pushed.iter().map(PushedView::new).collect::<Vec<_>>() })).into_response()
}

/// For whom a browser is to subscribe.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TicketWish {
    aor: String,
}

/// A ticket for the page of Web Push.
async fn ticket(Shared(state): Shared<State>, wish: Result<Json<TicketWish>, JsonRejection>) -> Response {
    let wish = match wish {
        Ok(Json(wish)) => wish,
        Err(rejection) => return error(StatusCode::BAD_REQUEST, &rejection.body_text()),
    };
    match state.notifications.ticket(&wish.aor) {
        Ok(made) => Json(json!({ "ticket": made.ticket, "expires_in_s": made.expires_in.as_secs() })).into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

/// `user@domain`, also with `sip:` before it. A text that is none is the AOR of nobody.
fn parse_aor(text: &str) -> Aor {
    let bare = text.strip_prefix("sip:").unwrap_or(text);
    let (user, domain) = bare.rsplit_once('@').unwrap_or((bare, ""));
    Aor::new(user, domain)
}

pub(super) fn now() -> UnixMillis {
    #[expect(clippy::disallowed_methods, reason = "whether a binding is reachable is shown as of the request")]
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_route_is_in_the_document() {
        let document: Value = serde_json::from_str(OPENAPI).unwrap();
        let described: BTreeSet<_> = document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
        let routes = include_str!("routes.rs").split(".route(\"").skip(1).filter_map(|rest| rest.split('"').next());
        // The last one is this test's own.
        let routes: BTreeSet<_> = routes.filter(|route| route.starts_with('/')).collect();
        assert_eq!(described, routes);
    }
}
