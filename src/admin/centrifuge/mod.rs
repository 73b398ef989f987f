//! `GET /connection/websocket`: live events for pages that speak with a Centrifugo, and for any of its clients.
//!
//! A client is subscribed to one channel by the server, gets each event of it as a publication, and after a break those that
//! it has missed. Who it is, it says by its token in the connect command: a page cannot send headers with a WebSocket.

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

/// Longest message that is read at all: one that is too long is told so.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// Buffers of a connection: its client says little, and what it hears is sent at once.
const BUFFER_BYTES: usize = 4 * 1024;
/// How long a stop waits for clients to be told.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How clients of live events are served.
#[derive(Debug, Clone)]
pub struct LiveSettings {
    /// `events.channel`.
    pub channel: String,
    /// `events.token_file`; `None`: clients show the operator's.
    pub token: Option<Token>,
    /// `events.origins`.
    pub origins: Vec<Box<str>>,
    /// `events.connections_max`.
    pub connections_max: usize,
    /// `events.history_max`.
    pub history_max: usize,
    /// How long a client may take to say who it is.
    pub handshake: Duration,
    /// `events.ping_s`.
    pub ping: Duration,
    /// How long a client may take to answer a ping.
    pub pong: Duration,
    /// How long a client may take to take what is sent to it.
    pub write: Duration,
}

/// The clients of live events.
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

    /// Sends the clients away to come back, and waits a moment for that.
    pub(super) async fn shut_down(&self) {
        self.stop.send_replace(true);
        // Without a client it ends at once.
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
