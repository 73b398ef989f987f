//! The operator's console: a page that shows what the other routes tell. Its files are part of the program, are the same
//! for everybody and hold no data, so that they need no token.

use axum::Router;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::IntoResponse;
use axum::routing::get;

use super::State;

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// Path, type and text of each file.
const FILES: [(&str, &str, &str); 10] = [
    ("/", HTML, include_str!("console/index.html")),
    ("/console/style.css", CSS, include_str!("console/style.css")),
    ("/console/icon.svg", SVG, include_str!("console/icon.svg")),
    ("/console/main.js", SCRIPT, include_str!("console/main.js")),
    ("/console/server.js", SCRIPT, include_str!("console/server.js")),
    ("/console/dom.js", SCRIPT, include_str!("console/dom.js")),
    ("/console/calls.js", SCRIPT, include_str!("console/calls.js")),
    ("/console/ladder.js", SCRIPT, include_str!("console/ladder.js")),
    ("/console/health.js", SCRIPT, include_str!("console/health.js")),
    ("/console/users.js", SCRIPT, include_str!("console/users.js")),
];

/// Nothing but these files and this listener's answers, no text that becomes a script, in nobody's frame. What changes with
/// the program is not kept by the browser.
const HEADERS: [(HeaderName, &str); 5] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (header::CACHE_CONTROL, "no-store"),
];

pub(super) fn routes() -> Router<State> {
    FILES.into_iter().fold(Router::new(), |router, (path, kind, text)| {
        router.route(path, get(move || async move { file(kind, text) }))
    })
}

fn file(kind: &'static str, text: &'static str) -> impl IntoResponse {
    let headers = HEADERS.map(|(name, value)| (name, HeaderValue::from_static(value)));
    ([(header::CONTENT_TYPE, kind)], headers, text)
}
