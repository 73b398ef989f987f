//! The page and its service worker, as they are in the binary, and what browsers may do with them.

use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::response::{IntoResponse, Response};

const PAGE: &str = include_str!("page/index.html");
const SCRIPT: &str = include_str!("page/page.js");
const STYLE: &str = include_str!("page/page.css");
const WORDS: &str = include_str!("page/words.js");
const CONTACT: &str = include_str!("page/contact.js");
const WORKER: &str = include_str!("page/sw.js");
const ICON: &str = include_str!("page/icon.svg");
const MANIFEST: &str = include_str!("page/manifest.webmanifest");
/// iPhones take no other form of icon to their home screen.
const ICON_180: &[u8] = include_bytes!("page/icon-180.png");
const ICON_512: &[u8] = include_bytes!("page/icon-512.png");
/// Where the page has the key to subscribe for.
const KEY_PLACE: &str = "{vapid_key}";

/// Nothing but what comes from here, and in no frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      worker-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// On every answer of the listener. A ticket is in the page's address, so that is told to nobody.
pub(super) const HEADERS: [(HeaderName, &str); 4] = [
    (CONTENT_SECURITY_POLICY, POLICY),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

/// The page. The key is base64url, so there is nothing in it to be escaped.
pub(super) fn page(vapid_key: &str) -> Response {
    asset("text/html; charset=utf-8", PAGE.replace(KEY_PLACE, vapid_key))
}

/// What the page consists of, by its name.
pub(super) fn file(name: &str) -> Option<Response> {
    const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
    const PNG: &str = "image/png";
    let (kind, text) = match name {
        "page.js" => (JAVASCRIPT, SCRIPT),
        "words.js" => (JAVASCRIPT, WORDS),
        "contact.js" => (JAVASCRIPT, CONTACT),
        "sw.js" => (JAVASCRIPT, WORKER),
        "page.css" => ("text/css; charset=utf-8", STYLE),
        "icon.svg" => ("image/svg+xml", ICON),
        "manifest.webmanifest" => ("application/manifest+json", MANIFEST),
        "icon-180.png" => return Some(asset(PNG, ICON_180)),
        "icon-512.png" => return Some(asset(PNG, ICON_512)),
        _ => return None,
    };
    Some(asset(kind, text))
}

/// Looked at anew each time: a page and a worker of two versions would not understand each other.
fn asset(kind: &'static str, text: impl IntoResponse) -> Response {
    ([(CONTENT_TYPE, kind), (CACHE_CONTROL, "no-cache")], text).into_response()
}
