//! One HTTP/2 connection to a push service (RFC 9113): how many streams it may have, when it is still alive, and what a
//! lost answer means.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Ping, PingPong, Reason};
use hyper::Request;
use tokio::sync::Notify;

use super::dial::Stream;
use super::http::{ANSWER_BYTES_MAX, Answer, plain, push_id, retry_after};

/// Often enough for firewalls to keep a connection that carries no push, seldom enough for APNs to tolerate.
const PING_INTERVAL: Duration = Duration::from_secs(60);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// More streams at once than this are never opened, whatever the peer allows.
const STREAMS_MAX: usize = 1000;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Lost {
    /// The peer has not looked at the request and never will: it may be sent again (RFC 9113 §8.7).
    Unprocessed(String),
    /// The request may have done its work.
    Unknown(String),
    /// It was not sent, because nobody wants it any more.
    Unwanted,
}

/// A handle for requests, and what is known of the connection.
pub(super) struct Connection {
    sender: SendRequest<Bytes>,
    /// Whether the peer knows us already, by our certificate.
    is_known: bool,
    vitals: Arc<Vitals>,
}

#[derive(Debug, Default)]
struct Vitals {
    streams: AtomicUsize,
    /// Whether the peer has taken a request.
    is_proven: AtomicBool,
    /// No further requests: it is closed or about to be.
    is_over: AtomicBool,
    /// An answer did not come in time; until a PING is answered no more requests go here.
    is_suspect: AtomicBool,
    suspected: Notify,
}

/// A place for one stream.
pub(super) struct Place {
    connection: Arc<Connection>,
    /// Told when the place is free again.
    freed: Arc<Notify>,
    is_answered: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        let vitals = &self.connection.vitals;
        if !self.is_answered && !vitals.is_over.load(Ordering::Relaxed) {
            vitals.is_suspect.store(true, Ordering::Relaxed);
            vitals.suspected.notify_one();
        }
        vitals.streams.fetch_sub(1, Ordering::Relaxed);
        self.freed.notify_one();
    }
}

impl Connection {
    /// HTTP/2 on `stream`. The future that comes with it runs the connection and ends with it; then `changed` is told. It
    /// says why when the connection has never taken a request.
    pub(super) async fn open(
        stream: Box<dyn Stream>,
        is_known: bool,
        changed: Arc<Notify>,
    ) -> io::Result<(Arc<Self>, impl Future<Output = Option<String>> + Send)> {
        // One until the peer's SETTINGS say how many.
        let handshake = h2::client::Builder::new()
            .initial_max_send_streams(1)
            .enable_push(false)
            .max_header_list_size(16 * 1024)
            .handshake::<_, Bytes>(stream)
            .await;
        let (sender, mut connection) = handshake.map_err(io::Error::other)?;
        let ping = connection.ping_pong();
        let vitals = Arc::new(Vitals::default());
        let kept = Arc::clone(&vitals);
        let life = async move {
            let reason = tokio::select! {
                result = connection => result.err().map(|error| in_words(&error)),
                () = keep_warm(ping, &kept, &changed) => Some("no answer: PING was not answered".to_owned()),
            };
            let reason = reason.unwrap_or_else(|| "no answer: the connection was closed".to_owned());
            tracing::debug!(reason, "a push connection ended");
            kept.is_over.store(true, Ordering::Relaxed);
            changed.notify_waiters();
            (!kept.is_proven.load(Ordering::Relaxed)).then_some(reason)
        };
        Ok((Arc::new(Self { sender, is_known, vitals }), life))
    }

    pub(super) fn is_over(&self) -> bool {
        self.vitals.is_over.load(Ordering::Relaxed)
    }

    /// No further requests by it.
    pub(super) fn retire(&self) {
        self.vitals.is_over.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_proven(&self) -> bool {
        self.vitals.is_proven.load(Ordering::Relaxed)
    }

    pub(super) fn streams(&self) -> usize {
        self.vitals.streams.load(Ordering::Relaxed)
    }

    /// Apple: one stream until a request with a provider token has succeeded; then as many as SETTINGS allow.
    pub(super) fn has_room(&self) -> bool {
        let allowed =
            if self.is_known || self.is_proven() { self.sender.current_max_send_streams().min(STREAMS_MAX) } else { 1 };
        !self.is_over() && !self.vitals.is_suspect.load(Ordering::Relaxed) && self.streams() < allowed
    }

    /// Takes a place that [`Connection::has_room`] for. To be called by one at a time.
    pub(super) fn place(self: &Arc<Self>, freed: &Arc<Notify>) -> Place {
        self.vitals.streams.fetch_add(1, Ordering::Relaxed);
        Place { connection: Arc::clone(self), freed: Arc::clone(freed), is_answered: false }
    }
}

impl Place {
    /// Nothing was sent, and nothing is wrong with the connection.
    pub(super) fn give_back(mut self) {
        self.is_answered = true;
    }

    /// One request and its answer.
    pub(super) async fn exchange(mut self, request: Request<()>, body: Bytes) -> Result<Answer, Lost> {
        let result = self.send(request, body).await;
        // Whatever came, it came from a connection that is alive or known to be over.
        self.is_answered = true;
        let vitals = &self.connection.vitals;
        match &result {
            Ok(answer) if answer.status == 200 => {
                if !vitals.is_proven.swap(true, Ordering::Relaxed) {
                    self.freed.notify_waiters();
                }
            }
            Ok(_) | Err(_) => {}
        }
        result
    }

    async fn send(&self, request: Request<()>, body: Bytes) -> Result<Answer, Lost> {
        // A reset ends one stream, everything else the connection.
        let noted = |error: h2::Error| {
            if !error.is_reset() {
                self.connection.retire();
            }
            error
        };
        let unprocessed = |error: h2::Error| Lost::Unprocessed(in_words(&noted(error)));
        let mut sender = self.connection.sender.clone().ready().await.map_err(unprocessed)?;
        let (response, mut stream) = sender.send_request(request, false).map_err(unprocessed)?;
        // An error here comes with the response, too, and better explained.
        let _ = stream.send_data(body, true);
        let response = response.await.map_err(|error| lost(&noted(error)))?;
        let (head, mut body) = response.into_parts();
        let mut bytes = Vec::new();
        // The status decides; a body that breaks off is as good as none.
        while let Some(Ok(chunk)) = body.data().await {
            let room = ANSWER_BYTES_MAX.saturating_sub(bytes.len());
            bytes.extend_from_slice(chunk.get(..room.min(chunk.len())).unwrap_or_default());
            if bytes.len() == ANSWER_BYTES_MAX || body.flow_control().release_capacity(chunk.len()).is_err() {
                break;
            }
        }
        let (retry_after, push_id) = (retry_after(&head.headers), push_id(&head.headers));
        Ok(Answer { status: head.status.as_u16(), retry_after, push_id, body: bytes })
    }
}

/// RFC 9113 §8.7: streams above a GOAWAY's last one, and those refused, were not processed. (h2 gives the GOAWAY's error to
/// no other streams.)
fn lost(error: &h2::Error) -> Lost {
    let is_unprocessed =
        error.is_remote() && (error.is_go_away() || error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM));
    if is_unprocessed { Lost::Unprocessed(in_words(error)) } else { Lost::Unknown(in_words(error)) }
}

fn in_words(error: &h2::Error) -> String {
    format!("no answer: {}", plain(&error.to_string()))
}

/// Returns when a PING is not answered (RFC 9113 §6.7).
async fn keep_warm(ping: Option<PingPong>, vitals: &Vitals, changed: &Notify) {
    let Some(mut ping) = ping else { return std::future::pending().await };
    loop {
        // A suspicion is looked into at once.
        let _ = tokio::time::timeout(PING_INTERVAL, vitals.suspected.notified()).await;
        match tokio::time::timeout(PING_TIMEOUT, ping.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {
                if vitals.is_suspect.swap(false, Ordering::Relaxed) {
                    changed.notify_waiters();
                }
            }
            Ok(Err(_)) | Err(_) => return,
        }
    }
}
