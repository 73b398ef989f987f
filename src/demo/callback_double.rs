//! A double of an operator's own push gateway (`[push.callback]`), over real HTTP on loopback.
//!
//! It is as strict as a careful operator: method, content type, signature and form are checked before a script has its say.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::{HeaderMap, Method, Request, Response};
use ring::hmac;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::AbortHandle;

pub use super::double::Answer;
use super::double::{self, Connection, Observed, Observer, Recorded, Records, Script, Serving, answer};

/// Known to everybody who has the program: it opens nothing.
const SECRET: &str = "throwaway-callback-secret";
const PATH: &str = "/push";

/// Runs from [`CallbackDouble::start`] until it is dropped.
#[derive(Debug)]
pub struct CallbackDouble {
    state: Arc<State>,
    server: AbortHandle,
}

#[derive(Debug)]
struct State {
    address: SocketAddr,
    records: Records,
    observed: Observed,
    script: Script<Answer>,
    requests: AtomicUsize,
    connections: AtomicUsize,
}

impl Drop for CallbackDouble {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl CallbackDouble {
    /// On a free port of 127.0.0.1.
    pub async fn start() -> io::Result<Self> {
        let (listener, address) = double::listen(0).await?;
        let state = Arc::new(State {
            address,
            records: Records::default(),
            observed: Observed::default(),
            script: Script::default(),
            requests: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
        });
        let handler = double::handler(&state, State::handle);
        let server = tokio::spawn(double::serve(listener, Serving::default(), handler));
        Ok(Self { state, server: server.abort_handle() })
    }

    /// For `push.callback.url`.
    pub fn url(&self) -> String {
        format!("http://{}{PATH}", self.state.address)
    }

    /// Serves a connection that was accepted elsewhere, such as one with TLS.
    pub async fn serve_connection(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        double::serve_connection(stream, Serving::default(), double::handler(&self.state, State::handle)).await;
    }

    /// Writes the secret to `callback.secret` in `folder`.
    pub fn write_credentials(&self, folder: &Path) -> io::Result<PathBuf> {
        let file = folder.join("callback.secret");
        std::fs::write(&file, format!("{SECRET}\n"))?;
        Ok(file)
    }

    /// The answers to the next pushes to `token`; those after them are accepted.
    pub fn script(&self, token: &str, answers: impl IntoIterator<Item = Answer>) {
        self.state.script.add(token, answers);
    }

    /// Waits for the next accepted push. Safe to drop, so the caller sets the deadline.
    pub async fn next(&self) -> Recorded {
        self.state.records.next().await
    }

    /// Lets `observer` hear of each push that is looked at and answered; once, before the first push.
    pub fn observe(&self, observer: Observer) {
        self.state.observed.by(observer);
    }

    /// How many requests came, accepted or not.
    pub fn requests(&self) -> usize {
        self.state.requests.load(Ordering::Relaxed)
    }

    /// How many connections they came by.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::Relaxed)
    }
}

impl State {
    async fn handle(self: Arc<Self>, request: Request<Incoming>, connection: Arc<Connection>) -> Response<Full<Bytes>> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        if connection.is_new() {
            self.connections.fetch_add(1, Ordering::Relaxed);
        }
        if request.uri().path() != PATH {
            return answer(404, "<html>Not Found</html>");
        }
        if request.method() != Method::POST {
            return answer(405, "");
        }
        let (path, headers) = (request.uri().path().to_owned(), request.headers().clone());
        let Some(body) = double::body(request).await else {
            return answer(413, "");
        };
        if headers.get(CONTENT_TYPE).is_none_or(|value| value != "application/json") {
            return answer(415, r#"{"error":"not JSON"}"#);
        }
        if !is_signed(&headers, &body) {
            return answer(401, r#"{"error":"wrong signature"}"#);
        }
        let Some(token) = checked_token(&body) else {
            return answer(422, r#"{"error":"not a push"}"#);
        };
        let record = Recorded { token, path, headers, body };
        let scripted = self.script.next(&record.token).unwrap_or(Answer::Accept);
        if let Some(refusal) = scripted.refusal(&connection).await {
            self.observed.refused(&record, &refusal).await;
            return refusal;
        }
        self.observed.accepted(&record);
        self.records.push(record);
        answer(200, "{}")
    }
}

/// As the README tells operators to do it.
fn is_signed(headers: &HeaderMap, body: &[u8]) -> bool {
    let signature = headers.get("x-signature").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let Some(digits) = signature.strip_prefix("sha256=").filter(|digits| digits.len() == 64) else { return false };
    let is_lower = digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let octet = |at: usize| digits.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    let tag: Vec<u8> = (0..64).step_by(2).filter_map(octet).collect();
    is_lower && hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes()), body, &tag).is_ok()
}

/// The token of a push that has all that it must have.
fn checked_token(body: &[u8]) -> Option<String> {
    let push: Value = serde_json::from_slice(body).ok()?;
    let text = |pointer: &str| push.pointer(pointer).and_then(Value::as_str).filter(|text| !text.is_empty());
    text("/user/user_id")?;
    text("/device/0/type")?;
    push.pointer("/notification/date")?.as_u64()?;
    let is_complete = match text("/notification/type")? {
        "invite" => text("/notification/call_ref").is_some() && text("/notification/number").is_some(),
        "missed_calls" => push.pointer("/notification/calls")?.is_array(),
        kind => ["message", "test"].contains(&kind),
    };
    text("/device/0/device_token").filter(|_| is_complete).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderName;

    use super::*;

    #[test]
    fn signature_is_of_the_body_and_in_one_form() {
        let headers =
            |value: &str| HeaderMap::from_iter([(HeaderName::from_static("x-signature"), value.parse().unwrap())]);
        // printf '{}' | openssl dgst -sha256 -hmac throwaway-callback-secret
        let good = "sha256=d5f2d6677b33322e9877f2e7f8f082fd3c46e6bdcd14a23207a1b0721854f946";
        assert!(is_signed(&headers(good), b"{}"));
        assert!(!is_signed(&headers(good), b"{ }"));
        assert!(!is_signed(&headers(&good.to_uppercase()), b"{}"));
        assert!(!is_signed(&headers(&good.replace("sha256=", "")), b"{}"));
        assert!(!is_signed(&HeaderMap::new(), b"{}"));
    }
}
