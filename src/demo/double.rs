//! What the doubles of the push services share: an HTTP server on loopback, what it recorded, strict JWTs.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// Requests that nobody asked for are forgotten, oldest first, beyond this number.
const RECORDS_MAX: usize = 10_000;
/// No push service takes requests that are larger.
const REQUEST_BYTES_MAX: usize = 64 * 1024;

/// An accepted push, as it came.
#[derive(Debug, Clone)]
pub struct Recorded {
    pub token: String,
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Recorded {
    /// The body as JSON; `Null` when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// A header as text; empty when it is missing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// Accepted pushes in the order of their arrival, until they are taken.
#[derive(Debug, Default)]
pub(super) struct Records {
    queue: Mutex<VecDeque<Recorded>>,
    arrived: Notify,
}

impl Records {
    pub(super) fn push(&self, record: Recorded) {
        let mut queue = self.queue.lock();
        if queue.len() == RECORDS_MAX {
            queue.pop_front();
        }
        queue.push_back(record);
        drop(queue);
        self.arrived.notify_one();
    }

    /// Waits for the next one. Safe to drop.
    pub(super) async fn next(&self) -> Recorded {
        loop {
            let arrived = self.arrived.notified();
            if let Some(record) = self.try_next() {
                return record;
            }
            arrived.await;
        }
    }

    pub(super) fn try_next(&self) -> Option<Recorded> {
        let mut queue = self.queue.lock();
        let record = queue.pop_front();
        if !queue.is_empty() {
            // One permit is kept at most: whoever else waits must hear of the rest.
            self.arrived.notify_one();
        }
        record
    }
}

/// Hears of each push before the answer to it goes out, with that answer's status and body.
pub type Observer = Box<dyn Fn(&Recorded, u16, &[u8]) + Send + Sync>;

/// The place of an [`Observer`].
#[derive(Default)]
pub(super) struct Observed(OnceLock<Observer>);

impl fmt::Debug for Observed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.get().is_some() { "Observed(by one)" } else { "Observed(by none)" })
    }
}

impl Observed {
    /// The first observer stays.
    pub(super) fn by(&self, observer: Observer) {
        let _ = self.0.set(observer);
    }

    pub(super) fn accepted(&self, push: &Recorded) {
        if let Some(observer) = self.0.get() {
            observer(push, 200, b"");
        }
    }

    pub(super) async fn refused(&self, push: &Recorded, response: &Response<Full<Bytes>>) {
        if let Some(observer) = self.0.get() {
            let body = response.body().clone().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            observer(push, response.status().as_u16(), &body);
        }
    }
}

/// What is answered to one push, by doubles whose answers need no words of their own.
#[derive(Debug, Clone)]
pub enum Answer {
    Accept,
    /// Word for word.
    Raw {
        status: u16,
        headers: Vec<(HeaderName, HeaderValue)>,
        body: String,
    },
    /// None at all, while the connection stays open.
    Hang,
    /// The connection is closed.
    Disconnect,
}

impl Answer {
    /// The refusal that it is; `None` when it is none.
    pub(super) async fn refusal(self, connection: &Connection) -> Option<Response<Full<Bytes>>> {
        match self {
            Self::Accept => None,
            Self::Raw { status, headers, body } => {
                let mut response = answer(status, body);
                response.headers_mut().extend(headers);
                Some(response)
            }
            Self::Hang => std::future::pending().await,
            Self::Disconnect => {
                connection.cut();
                std::future::pending().await
            }
        }
    }
}

/// What is answered to the next pushes of each token.
#[derive(Debug)]
pub(super) struct Script<Answer>(Mutex<HashMap<String, VecDeque<Answer>>>);

impl<Answer> Default for Script<Answer> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<Answer> Script<Answer> {
    pub(super) fn add(&self, token: &str, answers: impl IntoIterator<Item = Answer>) {
        self.0.lock().entry(token.to_owned()).or_default().extend(answers);
    }

    pub(super) fn next(&self, token: &str) -> Option<Answer> {
        self.0.lock().get_mut(token)?.pop_front()
    }
}

/// What a handler may do to the connection that its request came by, and what it knows of it.
#[derive(Debug, Default)]
pub(super) struct Connection {
    go_away: Notify,
    cut: Notify,
    used: AtomicBool,
    /// Requests that have no answer yet.
    streams: AtomicUsize,
    /// Whether a push by it was accepted.
    proven: AtomicBool,
}

/// A request under way.
pub(super) struct Stream<'a>(&'a Connection);

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Connection {
    /// Whether this is its first request.
    pub(super) fn is_new(&self) -> bool {
        !self.used.swap(true, Ordering::Relaxed)
    }

    /// Counts a request until it is dropped; with the number of those under way, this one included.
    pub(super) fn stream(&self) -> (Stream<'_>, usize) {
        let others = self.streams.fetch_add(1, Ordering::Relaxed);
        (Stream(self), others + 1)
    }

    pub(super) fn is_proven(&self) -> bool {
        self.proven.load(Ordering::Relaxed)
    }

    pub(super) fn prove(&self) {
        self.proven.store(true, Ordering::Relaxed);
    }

    /// No further requests by this connection (RFC 9113 §6.8).
    pub(super) fn go_away(&self) {
        self.go_away.notify_one();
    }

    /// Closes it at once, answers or not.
    pub(super) fn cut(&self) {
        self.cut.notify_one();
    }
}

/// Listens on loopback; port 0 takes a free one.
pub(super) async fn listen(port: u16) -> io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// What comes of a request: an answer, or the stream is reset with this code (RFC 9113 §7).
pub(super) type Answered = Result<Response<Full<Bytes>>, h2::Error>;

/// What answers the requests to a double by its `state`.
pub(super) fn handler<S, F>(
    state: &Arc<S>,
    handle: fn(Arc<S>, Request<Incoming>, Arc<Connection>) -> F,
) -> impl Fn(Request<Incoming>, Arc<Connection>) -> Pin<Box<dyn Future<Output = Answered> + Send>> + Clone + use<S, F>
where
    S: Send + Sync + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let state = Arc::clone(state);
    move |request, connection| {
        let answer = handle(Arc::clone(&state), request, connection);
        Box::pin(async move { Ok(answer.await) })
    }
}

/// How connections are served.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Serving {
    pub(super) http2_only: bool,
    /// SETTINGS_MAX_CONCURRENT_STREAMS; hyper's own where it is `None`.
    pub(super) streams_max: Option<u32>,
}

/// Takes connections until it is dropped, and ends them when it is.
pub(super) async fn serve<H, F>(listener: TcpListener, serving: Serving, handler: H)
where
    H: Fn(Request<Incoming>, Arc<Connection>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Answered> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    connections.spawn(serve_connection(stream, serving, handler.clone()));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// One connection, from its first byte to its end.
pub(super) async fn serve_connection<S, H, F>(stream: S, serving: Serving, handler: H)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<Incoming>, Arc<Connection>) -> F + Send + Sync + 'static,
    F: Future<Output = Answered> + Send + 'static,
{
    let connection = Arc::new(Connection::default());
    let service = service_fn(|request| handler(request, Arc::clone(&connection)));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    if let Some(streams_max) = serving.streams_max {
        builder.http2().max_concurrent_streams(streams_max);
    }
    let builder = if serving.http2_only { builder.http2_only() } else { builder };
    let mut serving = pin!(builder.serve_connection(TokioIo::new(stream), service));
    loop {
        tokio::select! {
            _ = serving.as_mut() => return,
            () = connection.go_away.notified() => serving.as_mut().graceful_shutdown(),
            () = connection.cut.notified() => return,
        }
    }
}

/// The whole body; `None` when it is too large or breaks off.
pub(super) async fn body(request: Request<Incoming>) -> Option<Bytes> {
    Limited::new(request.into_body(), REQUEST_BYTES_MAX).collect().await.ok().map(|body| body.to_bytes())
}

pub(super) fn answer(status: u16, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
}

/// A token in compact form, its parts not verified yet.
pub(super) struct Jwt<'a> {
    pub(super) header: Value,
    pub(super) claims: Value,
    /// What is signed.
    pub(super) input: &'a str,
    pub(super) signature: Vec<u8>,
}

/// Reads it as RFC 7515 §7.1 says: base64url, without padding and without any other character.
pub(super) fn strict_jwt(token: &str) -> Option<Jwt<'_>> {
    let (input, signature) = token.rsplit_once('.')?;
    let (header, claims) = input.split_once('.')?;
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).ok();
    Some(Jwt {
        header: serde_json::from_slice(&decode(header)?).ok()?,
        claims: serde_json::from_slice(&decode(claims)?).ok()?,
        input,
        signature: decode(signature)?,
    })
}

#[expect(clippy::disallowed_methods, reason = "a double checks the age of tokens by the real clock, as its original")]
pub(super) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jwt_is_read_strictly() {
        // {"a":">>>"} and {}, where the standard alphabet differs and padding would be.
        let good = "eyJhIjoiPj4-In0.e30.Pj4-";
        let jwt = strict_jwt(good).unwrap();
        assert_eq!((jwt.header["a"].as_str(), jwt.signature.as_slice()), (Some(">>>"), b">>>".as_slice()));
        let bad = [
            "eyJhIjoiPj4+In0.e30.Pj4-",
            "eyJhIjoiPj4-In0=.e30.Pj4-",
            "eyJhIjoiPj4-In0.e30=.Pj4-",
            "e30.e30",
            "e30.e30.e30=",
            "",
            "..",
        ];
        for token in bad {
            assert!(strict_jwt(token).is_none(), "{token}");
        }
    }
}
