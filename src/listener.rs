//! HTTP listeners: a bounded number of connections, and none that keeps others out by being slow or silent.
//!
//! Times alone would not do: who comes back as often as it is cut off has all places all the time. So a connection that
//! finds none gets that of the client who keeps us waiting the longest, be it for a head, for a body, or for a next request.
//! A client that sends its request at once has had its answer before it is the one. Where all of them are being answered, a
//! few more places are there for those who ask how the server is.

mod turn;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::header::{CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use axum::http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use turn::{Turn, Watched};

/// How long to wait after the system refused to accept a connection: it lacks descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// Places for those who ask how the server is.
const RESERVED: usize = 8;
/// How long a client there may take to send its request. It has one.
const RESERVED_TIMEOUT: Duration = Duration::from_secs(3);
/// For whoever finds no place, in seconds.
const RETRY_AFTER_S: HeaderValue = HeaderValue::from_static("2");

/// What the clients of a listener may do.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at one time.
    pub connections: usize,
    /// How long the head of a request may take, and how long a client may stay silent between requests.
    pub head: Duration,
    /// From there to the end of its body.
    pub body: Duration,
    /// From the head of a request to the head of its answer.
    pub answer: Duration,
    /// Paths that are answered when all connections are busy.
    pub reserved: &'static [&'static str],
}

impl Default for Limits {
    /// The answer has room for a test push to each device of a user, one after the other.
    fn default() -> Self {
        let (head, body) = (Duration::from_secs(15), Duration::from_secs(15));
        Self { connections: 256, head, body, answer: Duration::from_secs(120), reserved: &[] }
    }
}

/// An open connection.
struct Connection {
    turn: Arc<Turn>,
    task: AbortHandle,
    is_reserve: bool,
}

/// Serves `listener` until `stop` ends; connections that are open then are closed. `name` is for the log.
pub(crate) async fn serve(
    name: &'static str,
    listener: TcpListener,
    router: Router,
    limits: Limits,
    stop: impl Future<Output = ()>,
) {
    let (regular, reserve) = (Service::new(router.clone(), &limits, false), Service::new(router, &limits, true));
    let mut open = Open { connections: Vec::new(), most: limits.connections };
    let (numbers, mut tasks) = (Arc::new(AtomicU64::new(0)), JoinSet::new());
    let mut stop = std::pin::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => return,
            Some(_) = tasks.join_next() => open.forget_ended(),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    if open.is_full() {
                        // Who has sent a request already does not keep us waiting: it is to be read first.
                        tokio::task::yield_now().await;
                        open.forget_ended();
                    }
                    // Without a place it is closed.
                    let Some(is_reserve) = open.make_room() else { continue };
                    let turn = Turn::new(&numbers);
                    let service = if is_reserve { &reserve } else { &regular };
                    let task = tasks.spawn(service.clone().serve_connection(name, stream, Arc::clone(&turn)));
                    open.connections.push(Connection { turn, task, is_reserve });
                }
                Err(error) => {
                    tracing::warn!(listener = name, %error, "an HTTP listener cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// The connections of a listener.
struct Open {
    connections: Vec<Connection>,
    most: usize,
}

impl Open {
    fn forget_ended(&mut self) {
        self.connections.retain(|connection| !connection.task.is_finished());
    }

    fn is_full(&self) -> bool {
        self.connections.len() >= self.most
    }

    /// Which kind of place the next connection gets, if any; the one of another that has to go, where need be.
    fn make_room(&mut self) -> Option<bool> {
        self.has_room(false, self.most).or_else(|| self.has_room(true, RESERVED))
    }

    fn has_room(&mut self, is_reserve: bool, most: usize) -> Option<bool> {
        let of_kind = || self.connections.iter().enumerate().filter(|(_, other)| other.is_reserve == is_reserve);
        if of_kind().count() >= most {
            let waiting = of_kind().filter_map(|(index, other)| Some((other.turn.of_client()?, index)));
            let (_, index) = waiting.min()?;
            self.connections.swap_remove(index).task.abort();
        }
        Some(is_reserve)
    }
}

/// What is served on one kind of place.
#[derive(Clone)]
struct Service {
    router: TowerToHyperService<Router>,
    head: Duration,
    body: Duration,
    answer: Duration,
    /// `None`: any path.
    paths: Option<&'static [&'static str]>,
}

impl Service {
    fn new(router: Router, limits: &Limits, is_reserve: bool) -> Self {
        let client = |time: Duration| if is_reserve { time.min(RESERVED_TIMEOUT) } else { time };
        Self {
            router: TowerToHyperService::new(router),
            head: client(limits.head),
            body: client(limits.body),
            answer: limits.answer,
            paths: is_reserve.then_some(limits.reserved),
        }
    }

    async fn serve_connection(self, name: &'static str, stream: TcpStream, turn: Arc<Turn>) {
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(self.head).keep_alive(self.paths.is_none());
        let answer = |request: Request<Incoming>| {
            let request = request.map(|body| Watched::request(body, &turn));
            let (service, turn) = (&self, Arc::clone(&turn));
            async move {
                let answer = service.answer(request, &turn).await;
                Ok::<_, Infallible>(answer.map(|body| Watched::answer(body, &turn)))
            }
        };
        let connection = builder.serve_connection(TokioIo::new(stream), service_fn(answer));
        // A connection that is upgraded to WebSocket ends here.
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(listener = name, %error, "an HTTP connection ended");
        }
    }

    async fn answer(&self, request: Request<Watched<Incoming>>, turn: &Turn) -> Response<Body> {
        if self.paths.is_some_and(|paths| !paths.contains(&request.uri().path())) {
            return refusal(StatusCode::SERVICE_UNAVAILABLE, r#"{"error":"too many requests are being answered"}"#);
        }
        let mut answer = std::pin::pin!(self.router.call(request));
        let answered = match tokio::time::timeout(self.body, &mut answer).await {
            Ok(answered) => answered,
            Err(_) if turn.of_client().is_some() => {
                return refusal(StatusCode::REQUEST_TIMEOUT, r#"{"error":"the request came too slowly"}"#);
            }
            Err(_) => match tokio::time::timeout(self.answer.saturating_sub(self.body), answer).await {
                Ok(answered) => answered,
                Err(_) => return refusal(StatusCode::SERVICE_UNAVAILABLE, r#"{"error":"it took too long"}"#),
            },
        };
        answered.unwrap_or_else(|never| match never {})
    }
}

/// The end of a connection.
fn refusal(status: StatusCode, error: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(error));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(RETRY_AFTER, RETRY_AFTER_S);
    }
    response
}
