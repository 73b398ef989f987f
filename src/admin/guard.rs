//! Who may use the admin listener: bearers of the token (RFC 6750), or programs of this machine that are no browser
//! pages of somebody else.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::routes::error;
use crate::config::Token;

/// What some routes ask for.
#[derive(Debug, Clone)]
pub(super) struct Guard {
    /// `None`: only this machine is served.
    pub(super) token: Option<Token>,
    /// Where the token is configured.
    pub(super) key: &'static str,
}

/// Lets a request through, or answers 401 or 403.
pub(super) async fn check(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    match guard.admit(&request) {
        Ok(()) => next.run(request).await,
        Err(without_token) => without_token.answer(),
    }
}

/// Lets every request through. One that would be refused has [`WithoutToken`] as an extension; its handler must find another
/// proof, or refuse it.
pub(super) async fn note(State(guard): State<Guard>, mut request: Request, next: Next) -> Response {
    if let Err(without_token) = guard.admit(&request) {
        request.extensions_mut().insert(without_token);
    }
    next.run(request).await
}

/// A request that the guard would refuse, and why.
#[derive(Debug, Clone, Copy)]
pub(super) struct WithoutToken {
    refused: Refused,
    key: &'static str,
}

impl WithoutToken {
    pub(super) fn answer(self) -> Response {
        match self.refused {
            Refused::Token => {
                let challenge = (header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
                let body = error(StatusCode::UNAUTHORIZED, &format!("this needs the token in {}", self.key));
                ([challenge], body).into_response()
            }
            Refused::Origin => error(
                StatusCode::FORBIDDEN,
                "without a token only this machine is served, under its own name or address",
            ),
        }
    }
}

impl Guard {
    fn admit(&self, request: &Request) -> Result<(), WithoutToken> {
        let admitted = match &self.token {
            Some(token) => check_token(token, request.headers()),
            None => check_origin(request.uri().host(), request.headers()),
        };
        admitted.map_err(|refused| WithoutToken { refused, key: self.key })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refused {
    Token,
    Origin,
}

fn check_token(token: &Token, headers: &HeaderMap) -> Result<(), Refused> {
    let given = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
    let (scheme, given) = given.split_at_checked(7).unwrap_or_default();
    if is_token(token, given) && scheme.eq_ignore_ascii_case(b"Bearer ") { Ok(()) } else { Err(Refused::Token) }
}

/// Compares in constant time.
pub(super) fn is_token(token: &Token, given: &[u8]) -> bool {
    // Hashes have one length, so that the time does not depend on the token's length either.
    Sha256::digest(given).ct_eq(&Sha256::digest(token.reveal())).into()
}

/// Authentication that is still required after a WebSocket is accepted.
#[derive(Debug, Clone)]
pub(super) enum Proof {
    /// None.
    Given,
    Needed(Token),
}

impl Proof {
    pub(super) fn is_given(&self, token: Option<&str>) -> bool {
        match self {
            Self::Given => true,
            Self::Needed(needed) => token.is_some_and(|token| is_token(needed, token.as_bytes())),
        }
    }
}

/// Checks the Origin of a WebSocket (RFC 6455 §10.2): pages of the listener's own host and of `origins` are accepted, and so are
/// clients that are not browsers. Without a token the request must name this machine, too.
#[expect(clippy::result_large_err, reason = "it is the answer")]
pub(super) fn admit_page(
    token: Option<&Token>,
    origins: &[Box<str>],
    uri_host: Option<&str>,
    headers: &HeaderMap,
) -> Result<Proof, Response> {
    let origin = headers.get(header::ORIGIN).map(HeaderValue::as_bytes);
    let is_listed = origin.is_some_and(|origin| origins.iter().any(|listed| listed.as_bytes() == origin));
    let is_admitted = match token {
        _ if is_listed => token.is_some() || is_for_this_machine(uri_host, headers),
        Some(_) => is_of_own_page(headers),
        None => check_origin(uri_host, headers).is_ok(),
    };
    match token {
        _ if !is_admitted => {
            Err(error(StatusCode::FORBIDDEN, "pages of other hosts may connect when events.origins names them"))
        }
        Some(token) if check_token(token, headers).is_err() => Ok(Proof::Needed(token.clone())),
        Some(_) | None => Ok(Proof::Given),
    }
}

/// A page in a browser on this machine may send requests here too: under a foreign name that its owner made lead to
/// this machine (DNS rebinding), or across sites. Browsers tell both.
fn check_origin(uri_host: Option<&str>, headers: &HeaderMap) -> Result<(), Refused> {
    let is_same_site = text(headers, header::HeaderName::from_static("sec-fetch-site"))
        .is_none_or(|site| matches!(site, "same-origin" | "none"));
    let is_admitted = is_for_this_machine(uri_host, headers) && is_of_own_page(headers) && is_same_site;
    if is_admitted { Ok(()) } else { Err(Refused::Origin) }
}

fn is_for_this_machine(uri_host: Option<&str>, headers: &HeaderMap) -> bool {
    let hosts = uri_host.into_iter().chain(text(headers, header::HOST).map(without_port));
    hosts.into_iter().all(names_this_machine)
}

/// From a page of the same host, or not from a page.
fn is_of_own_page(headers: &HeaderMap) -> bool {
    let origin = text(headers, header::ORIGIN).and_then(|origin| origin.split_once("://").or(Some(("", "?"))));
    origin.is_none_or(|(_, authority)| Some(authority) == text(headers, header::HOST))
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name).map(|value| value.to_str().unwrap_or("?"))
}

fn without_port(host: &str) -> &str {
    match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split_once(':').map_or(host, |(name, _)| name),
    }
}

fn names_this_machine(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || bare.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        list.iter()
            .map(|(name, value)| (header::HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn only_pages_of_this_machine() {
        for (list, expected) in [
            (&[("host", "127.0.0.1:8080")][..], true),
            (&[("host", "localhost:8080")], true),
            (&[("host", "[::1]:8080")], true),
            (&[("host", "evil.example.org:8080")], false),
            (&[("host", "127.0.0.1.evil.example.org")], false),
            (&[("host", "localhost:8080"), ("origin", "http://localhost:8080")], true),
            (&[("host", "localhost:8080"), ("origin", "http://localhost:3000")], false),
            (&[("host", "localhost:8080"), ("origin", "null")], false),
            (&[("host", "localhost:8080"), ("sec-fetch-site", "none")], true),
            (&[("host", "localhost:8080"), ("sec-fetch-site", "cross-site")], false),
            (&[], true),
        ] {
            assert_eq!(check_origin(None, &headers(list)).is_ok(), expected, "{list:?}");
        }
        assert_eq!(check_origin(Some("evil.example.org"), &headers(&[])), Err(Refused::Origin));
    }

    #[test]
    fn pages_elsewhere_have_to_be_named() {
        let origins = ["https://panel.example.org".into()];
        let admits = |list: &[_]| admit_page(None, &origins, None, &headers(list)).is_ok();
        let panel = ("origin", "https://panel.example.org");
        assert!(admits(&[("host", "localhost:8080")]));
        assert!(admits(&[("host", "localhost:8080"), ("origin", "http://localhost:8080")]));
        assert!(admits(&[("host", "localhost:8080"), panel, ("sec-fetch-site", "cross-site")]));
        assert!(!admits(&[("host", "evil.example.org"), panel]));
        for other in ["http://panel.example.org", "https://panel.example.org:444", "https://example.org", "null"] {
            assert!(!admits(&[("host", "localhost:8080"), ("origin", other)]), "{other}");
        }
    }
}
