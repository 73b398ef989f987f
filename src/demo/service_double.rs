//! A double of a push service that takes pushes as JSON at one path, over real HTTP on loopback. What is particular about
//! a service is in the function that looks at its requests.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{HeaderMap, Method, Request, Response};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::AbortHandle;

pub use super::double::Answer;
use super::double::{self, Connection, Observed, Observer, Recorded, Records, Script, Serving, answer};

/// How the path of a push ends.
const PUSH: &str = "/messages:send";

/// Runs until it is dropped.
#[derive(Debug)]
pub struct ServiceDouble {
    state: Arc<State>,
    server: AbortHandle,
}

/// A request, as a service looks at it.
pub(super) struct Asked {
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Asked {
    /// What stands behind `Bearer`; empty when nothing does.
    pub(super) fn bearer(&self) -> &str {
        let header = self.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        header.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default()
    }

    /// `Null` when it is none.
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// The answer to a request that no script is asked about.
pub(super) type Refusal = Box<Response<Full<Bytes>>>;

/// What a service makes of a request: the token of a push that the original would look at; else its answer.
type Look = Box<dyn Fn(&Asked) -> Result<String, Refusal> + Send + Sync>;

/// What one service makes of requests.
pub(super) struct Service {
    pub(super) look: Look,
    /// What is said to an accepted push.
    pub(super) accepted: Value,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Service")
    }
}

#[derive(Debug)]
struct State {
    address: SocketAddr,
    service: Service,
    records: Records,
    observed: Observed,
    script: Script<Answer>,
    requests: AtomicUsize,
}

impl Drop for ServiceDouble {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl ServiceDouble {
    /// On a free port of 127.0.0.1.
    pub(super) async fn start(service: Service) -> io::Result<Self> {
        let (listener, address) = double::listen(0).await?;
        let state = Arc::new(State {
            address,
            service,
            records: Records::default(),
            observed: Observed::default(),
            script: Script::default(),
            requests: AtomicUsize::new(0),
        });
        let handler = double::handler(&state, State::handle);
        let server = tokio::spawn(double::serve(listener, Serving::default(), handler));
        Ok(Self { state, server: server.abort_handle() })
    }

    /// For the key `endpoint`.
    pub fn url(&self) -> String {
        format!("http://{}", self.state.address)
    }

    /// Serves a connection that was accepted elsewhere, such as one with TLS.
    pub async fn serve_connection(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        double::serve_connection(stream, Serving::default(), double::handler(&self.state, State::handle)).await;
    }

    /// The answers to the next pushes to `token`; those after them are accepted.
    pub fn script(&self, token: &str, answers: impl IntoIterator<Item = Answer>) {
        self.state.script.add(token, answers);
    }

    /// Waits for the next accepted push. Safe to drop, so the caller sets the deadline.
    pub async fn next(&self) -> Recorded {
        self.state.records.next().await
    }

    /// The next accepted push, if it came already.
    pub fn try_next(&self) -> Option<Recorded> {
        self.state.records.try_next()
    }

    /// Lets `observer` hear of each push that is looked at and answered; once, before the first push.
    pub fn observe(&self, observer: Observer) {
        self.state.observed.by(observer);
    }

    /// How many pushes came, accepted or not.
    pub fn requests(&self) -> usize {
        self.state.requests.load(Ordering::Relaxed)
    }
}

impl State {
    async fn handle(self: Arc<Self>, request: Request<Incoming>, connection: Arc<Connection>) -> Response<Full<Bytes>> {
        if request.method() != Method::POST {
            return answer(405, "");
        }
        let (path, headers) = (request.uri().path().to_owned(), request.headers().clone());
        if path.ends_with(PUSH) {
            self.requests.fetch_add(1, Ordering::Relaxed);
        }
        let Some(body) = double::body(request).await else {
            return answer(413, "");
        };
        let asked = Asked { path, headers, body };
        let token = match (self.service.look)(&asked) {
            Ok(token) => token,
            Err(refusal) => return *refusal,
        };
        let Asked { path, headers, body } = asked;
        let record = Recorded { token, path, headers, body };
        let scripted = self.script.next(&record.token).unwrap_or(Answer::Accept);
        if let Some(refusal) = scripted.refusal(&connection).await {
            self.observed.refused(&record, &refusal).await;
            return refusal;
        }
        self.observed.accepted(&record);
        self.records.push(record);
        json_answer(200, &self.service.accepted)
    }
}

pub(super) fn json_answer(status: u16, body: &Value) -> Response<Full<Bytes>> {
    let mut response = answer(status, body.to_string());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Whether `ttl` is a time as in JSON of Google's APIs: `28s`, `3.5s`.
pub(super) fn is_duration(ttl: &Value) -> bool {
    let seconds = ttl.as_str().and_then(|text| text.strip_suffix('s'));
    seconds.is_some_and(|number| number.parse::<f64>().is_ok_and(|number| number >= 0.0))
}
