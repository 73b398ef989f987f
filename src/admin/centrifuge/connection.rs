//! One connection of a client: its commands, our pings, and the events.

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

/// How long a client that is cut off may take to close its side.
const GOODBYE: Duration = Duration::from_secs(1);
/// Events of one frame, and what they come to but for the last one: it has to be taken in time.
const BATCH: usize = 64;
const BATCH_BYTES: usize = 64 * 1024;
/// Longest frame of a client, who has little to say.
const FRAME_BYTES_MAX: usize = 8 * 1024;

/// How a connection ends.
enum End {
    /// The client has gone, or cannot be reached.
    Gone,
    Cut(Disconnect),
}

impl From<Disconnect> for End {
    fn from(disconnect: Disconnect) -> Self {
        Self::Cut(disconnect)
    }
}

/// What the time is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Timer {
    /// The client has to say who it is.
    Handshake,
    /// It is to be asked whether it is there.
    Ping,
    /// It has to answer that.
    Pong,
}

/// Ends when the server stops. Safe to drop while waiting.
async fn is_stopped(stop: &mut watch::Receiver<bool>) {
    // A sender that is gone means the same.
    drop(stop.wait_for(|stop| *stop).await);
}

pub(super) struct Connection {
    socket: WebSocket,
    live: Arc<Live>,
    proof: Proof,
    place: Place,
    stop: watch::Receiver<bool>,
    timer: (Timer, Pin<Box<Sleep>>),
    /// Once it is connected.
    events: Option<Follower>,
}

/// A client's way along the events.
struct Follower {
    /// What it missed while it was away.
    missed: vec::IntoIter<Arc<Entry>>,
    entries: broadcast::Receiver<Arc<Entry>>,
    /// Of the last one that it has.
    offset: u64,
}

impl Follower {
    /// The next events, as lines of a frame. Safe to drop while waiting.
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

    /// What is there already.
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

/// As many as one frame has.
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

    /// Works until the connection ends.
    pub(super) async fn run(mut self) {
        let End::Cut(disconnect) = self.talk().await else { return };
        tracing::debug!(code = disconnect.code, reason = disconnect.reason, "a client of live events is cut off");
        let frame = CloseFrame { code: disconnect.code, reason: disconnect.reason.into() };
        let goodbye = async {
            // What the client has sent meanwhile is read, or the system would take back what is on its way to it.
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
                () = is_stopped(&mut self.stop) => return Disconnect::SHUTDOWN.into(),
                () = self.place.is_wanted() => return Disconnect::FORCE_RECONNECT.into(),
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

    /// Does what a frame says. The replies, as lines of a frame.
    fn receive(&mut self, message: &Message) -> Result<Option<String>, End> {
        let frame = match message {
            Message::Text(text) if text.len() > FRAME_BYTES_MAX => return Err(Disconnect::MESSAGE_TOO_BIG.into()),
            Message::Text(text) => text.as_str(),
            Message::Binary(_) => return Err(Disconnect::BAD_REQUEST.into()),
            Message::Close(_) => return Err(End::Gone),
            // Those of WebSocket itself (RFC 6455 §5.5.2).
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
        // The rest follows the reply.
        let rest = u64::try_from(missed.len()).unwrap_or(u64::MAX);
        let offset = joined.position.offset.saturating_sub(rest);
        self.events = Some(Follower { missed, entries: joined.entries, offset });
        self.wait_for(Timer::Ping);
        Ok(reply)
    }
}
