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
    let refused = match &guard.token {
        Some(token) => check_token(token, request.headers()),
        None => check_origin(request.uri().host(), request.headers()),
    };
    match refused {
        Ok(()) => next.run(request).await,
        Err(Refused::Token) => {
            let challenge = (header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            let body = error(StatusCode::UNAUTHORIZED, &format!("this needs the token in {}", guard.key));
            ([challenge], body).into_response()
        }
        Err(Refused::Origin) => {
            error(StatusCode::FORBIDDEN, "without a token only this machine is served, under its own name or address")
        }
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
    // Hashes have one length, so that the time taken tells nothing, not even how long the token is.
    let is_equal: bool = Sha256::digest(given).ct_eq(&Sha256::digest(token.reveal())).into();
    if is_equal && scheme.eq_ignore_ascii_case(b"Bearer ") { Ok(()) } else { Err(Refused::Token) }
}

/// A page in a browser on this machine may send requests here too: under a foreign name that its owner made lead to
/// this machine (DNS rebinding), or across sites. Browsers tell both.
fn check_origin(uri_host: Option<&str>, headers: &HeaderMap) -> Result<(), Refused> {
    let text = |name| headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap_or("?"));
    let host = text(header::HOST);
    let hosts = uri_host.into_iter().chain(host.map(without_port));
    let is_here = hosts.into_iter().all(names_this_machine);
    let origin = text(header::ORIGIN).and_then(|origin| origin.split_once("://").or(Some(("", "?"))));
    let is_same_origin = origin.is_none_or(|(_, authority)| Some(authority) == host);
    let is_same_site = text(header::HeaderName::from_static("sec-fetch-site"))
        .is_none_or(|site| matches!(site, "same-origin" | "none"));
    if is_here && is_same_origin && is_same_site { Ok(()) } else { Err(Refused::Origin) }
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
}
