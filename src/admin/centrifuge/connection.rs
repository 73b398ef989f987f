//! One client's connection: commands, pings, and event delivery.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use std::vec;

use axum::extract::ws::{CloseFrame, Message, WebSocket};
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::places::Place;
use super::protocol::{self, Client, Command, Connect, Disconnect, Error};
use super::{Live, Proof};
use crate::events::Entry;

/// How long to wait for the client's half of the closing handshake (RFC 6455 §7.1.2).
const GOODBYE: Duration = Duration::from_secs(1);
/// Events per frame, and the size in bytes at which a frame is full, so that slow networks take each one in time.
const BATCH: usize = 64;
const BATCH_BYTES: usize = 64 * 1024;
/// Longest frame of commands.
const FRAME_BYTES_MAX: usize = 8 * 1024;

/// How a connection ends.
enum End {
    /// The client closed it, or the connection failed.
    Gone,
    /// The server closes it.
    Cut(Disconnect),
}

impl From<Disconnect> for End {
    fn from(disconnect: Disconnect) -> Self {
        Self::Cut(disconnect)
    }
}

/// What the timer of a connection is set for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Timer {
    /// Deadline for the connect command.
    Handshake,
    /// Time of the next ping.
    Ping,
    /// Deadline for the pong.
    Pong,
}

/// Waits until the server stops. Cancel-safe.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // A dropped sender means the same.
    drop(stop.wait_for(|stop| *stop).await);
}

pub(super) struct Connection {
    socket: WebSocket,
    live: Arc<Live>,
    proof: Proof,
    place: Place,
    stop: watch::Receiver<bool>,
    timer: (Timer, Pin<Box<Sleep>>),
    /// `Some` once the client is connected.
    events: Option<Follower>,
}

/// A client's progress through the events.
struct Follower {
    /// Recovered events that are still to be sent.
    missed: vec::IntoIter<Arc<Entry>>,
    entries: broadcast::Receiver<Arc<Entry>>,
    /// Of the last event sent.
    offset: u64,
}

impl Follower {
    /// Waits for the next events, and returns them as one frame. Cancel-safe.
    async fn next(follower: &mut Option<Self>, channel: &str) -> Result<String, Disconnect> {
        let Some(follower) = follower else { return std::future::pending().await };
        let first = match follower.missed.next() {
            Some(entry) => entry,
            None => match follower.entries.recv().await {
                Ok(entry) => entry,
                Err(RecvError::Lagged(_)) => return Err(Disconnect::SLOW),
                Err(RecvError::Closed) => return Err(Disconnect::SHUTDOWN),
            },
        };
        let mut lines = follower.line(channel, &first)?;
        let mut count = 1;
        while count < BATCH && lines.len() < BATCH_BYTES {
            let Some(entry) = follower.take()? else { break };
            lines.push('\n');
            lines.push_str(&follower.line(channel, &entry)?);
            count += 1;
        }
        Ok(lines)
    }

    /// The next event, if there is one already.
    fn take(&mut self) -> Result<Option<Arc<Entry>>, Disconnect> {
        if let Some(entry) = self.missed.next() {
            return Ok(Some(entry));
        }
        match self.entries.try_recv() {
            Ok(entry) => Ok(Some(entry)),
            Err(TryRecvError::Lagged(_)) => Err(Disconnect::SLOW),
            Err(TryRecvError::Empty | TryRecvError::Closed) => Ok(None),
        }
    }

    fn line(&mut self, channel: &str, entry: &Entry) -> Result<String, Disconnect> {
        if entry.offset != self.offset.saturating_add(1) {
            return Err(Disconnect::INSUFFICIENT_STATE);
        }
        self.offset = entry.offset;
        Ok(protocol::publication(channel, entry))
    }
}

/// Takes as many events as fit into one frame.
fn first_of(entries: &mut vec::IntoIter<Arc<Entry>>) -> Vec<Arc<Entry>> {
    let mut bytes = 0;
    let mut fits = |entry: &Arc<Entry>| {
        bytes += entry.data.get().len();
        bytes < BATCH_BYTES
    };
    let count = entries.as_slice().iter().take(BATCH).take_while(|entry| fits(entry)).count();
    entries.take(count).collect()
}

impl Connection {
    pub(super) fn new(socket: WebSocket, live: Arc<Live>, proof: Proof, place: Place) -> Self {
        let timer = (Timer::Handshake, Box::pin(sleep(live.settings.handshake)));
        let stop = live.stop.subscribe();
        Self { socket, live, proof, place, stop, timer, events: None }
    }

    /// Serves the client until the connection ends.
    pub(super) async fn run(mut self) {
        let End::Cut(disconnect) = self.talk().await else { return };
        tracing::debug!(code = disconnect.code, reason = disconnect.reason, "a live events client is disconnected");
        let frame = CloseFrame { code: disconnect.code, reason: disconnect.reason.into() };
        let goodbye = async {
            // Closing a socket with unread data would reset the connection, and lose the close frame.
            if self.socket.send(Message::Close(Some(frame))).await.is_ok() {
                while let Some(Ok(_)) = self.socket.recv().await {}
            }
        };
        let _ = timeout(GOODBYE, goodbye).await;
    }

    async fn talk(&mut self) -> End {
        let live = Arc::clone(&self.live);
        let channel = &*live.settings.channel;
        loop {
            let said = tokio::select! {
                () = stopped(&mut self.stop) => return Disconnect::SHUTDOWN.into(),
                () = self.place.revoked() => return Disconnect::FORCE_RECONNECT.into(),
                () = &mut self.timer.1 => self.time_is_over(),
                events = Follower::next(&mut self.events, channel) => events.map(Some).map_err(End::from),
                received = self.socket.recv() => match received {
                    Some(Ok(message)) => self.receive(&message),
                    Some(Err(_)) | None => Err(End::Gone),
                },
            };
            match said {
                Ok(None) => {}
                Ok(Some(frame)) => match timeout(live.settings.write, self.socket.send(Message::text(frame))).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) | Err(_) => return End::Gone,
                },
                Err(end) => return end,
            }
        }
    }

    fn wait_for(&mut self, what: Timer) {
        let settings = &self.live.settings;
        let time = match what {
            Timer::Handshake => settings.handshake,
            Timer::Ping => settings.ping,
            Timer::Pong => settings.pong,
        };
        self.timer.0 = what;
        self.timer.1.as_mut().reset(Instant::now() + time);
    }

    fn time_is_over(&mut self) -> Result<Option<String>, End> {
        match self.timer.0 {
            Timer::Handshake => Err(Disconnect::STALE.into()),
            Timer::Ping => {
                self.wait_for(Timer::Pong);
                Ok(Some(protocol::PING.to_owned()))
            }
            Timer::Pong => Err(Disconnect::NO_PONG.into()),
        }
    }

    /// Executes the commands of a frame, and returns the replies as one frame.
    fn receive(&mut self, message: &Message) -> Result<Option<String>, End> {
        let frame = match message {
            Message::Text(text) if text.len() > FRAME_BYTES_MAX => return Err(Disconnect::MESSAGE_TOO_BIG.into()),
            Message::Text(text) => text.as_str(),
            Message::Binary(_) => return Err(Disconnect::BAD_REQUEST.into()),
            Message::Close(_) => return Err(End::Gone),
            // Control frames of WebSocket itself (RFC 6455 §5.5.2).
            Message::Ping(_) | Message::Pong(_) => return Ok(None),
        };
        let mut replies = Vec::new();
        for line in frame.lines().filter(|line| !line.is_empty()) {
            replies.extend(self.obey(Command::read(line)?)?);
        }
        Ok((!replies.is_empty()).then(|| replies.join("\n")))
    }

    fn obey(&mut self, command: Command) -> Result<Option<String>, Disconnect> {
        let channel = &*self.live.settings.channel;
        match (command, &self.events) {
            (Command::Connect { id, connect }, None) => self.connect(id, &connect).map(Some),
            (_, None) | (Command::Connect { .. }, Some(_)) => Err(Disconnect::BAD_REQUEST),
            (Command::Pong, Some(_)) => {
                if self.timer.0 == Timer::Pong {
                    self.wait_for(Timer::Ping);
                }
                Ok(None)
            }
            (Command::Send, Some(_)) => Ok(None),
            (Command::Ping { id }, Some(_)) => Ok(Some(protocol::pong(id))),
            (Command::Subscribe { id, channel: wanted }, Some(_)) => {
                let error = if wanted == channel { Error::ALREADY_SUBSCRIBED } else { Error::UNKNOWN_CHANNEL };
                Ok(Some(protocol::refusal(id, error)))
            }
            (Command::Other { id }, Some(_)) => Ok(Some(protocol::refusal(id, Error::NOT_AVAILABLE))),
        }
    }

    fn connect(&mut self, id: u32, connect: &Connect) -> Result<String, Disconnect> {
        if !self.proof.is_given(connect.token()) {
            return Err(Disconnect::INVALID_TOKEN);
        }
        let Ok(client) = getrandom::u64() else { return Err(Disconnect::SERVER_ERROR) };
        if !self.place.keep() {
            return Ok(protocol::refusal(id, Error::LIMIT_EXCEEDED));
        }
        let settings = &self.live.settings;
        let since = connect.position(&settings.channel);
        let mut joined = self.live.history.join(since.as_ref());
        if let Some(recorder) = joined.recorder.take() {
            tokio::spawn(recorder.run());
        }
        let is_recovered = joined.missed.is_some();
        let mut missed = joined.missed.unwrap_or_default().into_iter();
        let first = first_of(&mut missed);
        let client = format!("{client:016x}");
        let client = Client { id: &client, ping: settings.ping, channel: &settings.channel };
        let known = is_recovered.then_some(&*first);
        let reply = protocol::connected(id, &client, &joined.position, since.as_ref(), known);
        // The rest follows as pushes.
        let rest = u64::try_from(missed.len()).unwrap_or(u64::MAX);
        let offset = joined.position.offset.saturating_sub(rest);
        self.events = Some(Follower { missed, entries: joined.entries, offset });
        self.wait_for(Timer::Ping);
        Ok(reply)
    }
}
