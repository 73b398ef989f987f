//! `GET /connection/websocket`: live events for Centrifugo's clients.
//!
//! The server subscribes each client to one channel, publishes every event there, and recovers missed events after a
//! reconnect. Clients authenticate by a token in the connect command, because a page cannot set headers of a WebSocket.

mod connection;
mod places;
mod protocol;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State as Shared;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::http::{HeaderMap, Uri};
use axum::response::{IntoResponse, Response};
use tokio::sync::watch;

use connection::Connection;
use places::Places;

use super::State;
use super::guard::{self, Proof};
use super::routes::error;
use crate::config::Token;
use crate::events::{Events, History};

/// Longest message that is read. Larger than what is accepted, so that a close code can be sent.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// Read buffer of a connection. Writes are flushed immediately.
const BUFFER_BYTES: usize = 4 * 1024;
/// How long a stop waits for connections to close.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Settings of `/connection/websocket`.
#[derive(Debug, Clone)]
pub struct LiveSettings {
    /// `events.channel`.
    pub channel: String,
    /// From `events.token_file`; `None`: the operator's token is required, if there is one.
    pub token: Option<Token>,
    /// `events.origins`.
    pub origins: Vec<Box<str>>,
    /// `events.connections_max`.
    pub connections_max: usize,
    /// `events.history_max`.
    pub history_max: usize,
    /// Time limit for the connect command.
    pub handshake: Duration,
    /// `events.ping_s`.
    pub ping: Duration,
    /// Time limit for a pong.
    pub pong: Duration,
    /// Time limit for writing a frame.
    pub write: Duration,
}

/// Shared state of all connections.
#[derive(Debug)]
pub struct Live {
    settings: LiveSettings,
    history: Arc<History>,
    places: Arc<Places>,
    /// Each connection has a receiver.
    stop: watch::Sender<bool>,
}

impl Live {
    /// `run` is random for each start.
    pub fn new(settings: LiveSettings, events: &Arc<Events>, run: u64) -> Self {
        let history = Arc::new(History::new(Arc::clone(events), settings.history_max, run));
        let places = Places::new(settings.connections_max);
        Self { settings, history, places, stop: watch::Sender::new(false) }
    }

    /// Clients that are connected and have authenticated.
    pub(super) fn clients(&self) -> usize {
        self.places.connected()
    }

    /// Closes all connections with a code that lets clients reconnect.
    pub(super) async fn shut_down(&self) {
        self.stop.send_replace(true);
        // Returns immediately if there is no connection.
        let _ = tokio::time::timeout(LAST_WORDS, self.stop.closed()).await;
    }
}

type Upgrade = Result<WebSocketUpgrade, WebSocketUpgradeRejection>;

pub(super) async fn connect(Shared(state): Shared<State>, uri: Uri, headers: HeaderMap, upgrade: Upgrade) -> Response {
    let live = state.live;
    let token = live.settings.token.as_ref().or(state.token.as_ref());
    let proof = match guard::admit_page(token, &live.settings.origins, uri.host(), &headers) {
        Ok(proof) => proof,
        Err(refusal) => return refusal,
    };
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade,
        Err(rejection) => return error(rejection.status(), &rejection.body_text()),
    };
    let place = live.places.take();
    upgrade
        .max_message_size(MESSAGE_BYTES_MAX)
        .max_frame_size(MESSAGE_BYTES_MAX)
        .read_buffer_size(BUFFER_BYTES)
        .write_buffer_size(0)
        .on_upgrade(move |socket| Connection::new(socket, live, proof, place).run())
        .into_response()
}
