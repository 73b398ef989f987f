//! The few HTTP/2 connections to one endpoint: opened before they are needed, and more of them only when those there are
//! have no room. Each is a task on the runtime that pushes run on, for the reason that is given at [`Pushers`].
//!
//! [`Pushers`]: super::Pushers

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use hyper::Request;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Notify;

use super::Purpose;
use super::connection::{Connection, Lost, Place};
use super::dial::Dialer;
use super::http::{Answer, in_words_of_io};

/// How many times one request may meet a connection that does not take it.
const TRIES_MAX: u32 = 4;
/// How long a waiting push believes that the only connection will have room soon.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Pauses between attempts to have a connection again that no push waits for.
const REDIAL_AFTER: Duration = Duration::from_secs(1);
const REDIAL_AFTER_MAX: Duration = Duration::from_secs(15);

/// A clone is a handle to the same connections.
#[derive(Clone)]
pub(super) struct Connections(Arc<Inner>);

struct Inner {
    dialer: Dialer,
    runtime: Handle,
    /// Whether the peer knows us from the start, by our certificate.
    is_known: bool,
    connections_max: usize,
    state: Mutex<State>,
    /// Pushes get their places in the order in which they came; only the first one looks for a place.
    turn: tokio::sync::Mutex<()>,
    /// A place became free, or a connection was opened, failed or ended.
    changed: Arc<Notify>,
}

#[derive(Default)]
struct State {
    open: Vec<Arc<Connection>>,
    is_dialing: bool,
    /// Whether a connection is kept although no push is under way.
    is_warm: bool,
    /// Whether somebody sees to that.
    has_keeper: bool,
    /// Attempts to open a connection that failed, and what the last one said.
    failures: u64,
    failure: String,
}

impl Connections {
    pub(super) fn new(dialer: Dialer, is_known: bool, connections_max: usize, runtime: Handle) -> Self {
        let (state, turn, changed) = (Mutex::default(), tokio::sync::Mutex::default(), Arc::default());
        Self(Arc::new(Inner { dialer, runtime, is_known, connections_max, state, turn, changed }))
    }

    /// Opens a connection, and keeps one open from here on.
    pub(super) fn warm_up(&self) {
        let mut state = self.0.state.lock();
        state.is_warm = true;
        self.0.dial_if_alone(&mut state);
    }

    /// The next pushes go by fresh connections.
    pub(super) fn retire(&self) {
        self.0.state.lock().open.iter().for_each(|connection| connection.retire());
        self.0.changed.notify_waiters();
    }

    /// One request and its answer. It is sent once, unless a connection lets it down without having looked at it.
    pub(super) async fn send(&self, request: &Request<()>, body: &Bytes, purpose: &Purpose) -> Result<Answer, Lost> {
        let mut tries = 1;
        loop {
            let place = self.place().await.map_err(Lost::Unprocessed)?;
            // Its call may have ended while it waited for its place.
            if purpose.is_over() {
                place.give_back();
                return Err(Lost::Unwanted);
            }
            match place.exchange(request.clone(), body.clone()).await {
                Err(Lost::Unprocessed(_)) if tries < TRIES_MAX => tries += 1,
                result => return result,
            }
        }
    }

    /// Waits for a place. Safe to drop.
    async fn place(&self) -> Result<Place, String> {
        let inner = &*self.0;
        // Those that wait while a connection fails share that failure.
        let seen = inner.state.lock().failures;
        let _turn = inner.turn.lock().await;
        let mut has_waited = false;
        loop {
            let is_new;
            let mut changed = std::pin::pin!(inner.changed.notified());
            changed.as_mut().enable();
            {
                let mut state = inner.state.lock();
                state.open.retain(|connection| !connection.is_over());
                if let Some(connection) = state.fullest_with_room() {
                    return Ok(connection.place(&inner.changed));
                }
                if state.open.is_empty() && state.failures != seen {
                    return Err(state.failure.clone());
                }
                // One that has not taken a request yet is given a moment: it will have room for all.
                is_new = state.open.iter().any(|connection| !connection.is_proven());
                let is_worth_waiting = is_new && !has_waited;
                if !is_worth_waiting && state.open.len() < inner.connections_max && state.failures == seen {
                    self.0.dial(&mut state);
                }
            }
            has_waited |= tokio::time::timeout(LOOK_AGAIN, changed).await.is_err() && is_new;
        }
    }
}

impl State {
    fn fail(&mut self, reason: String) {
        tracing::debug!(reason, "no push connection");
        self.failures += 1;
        self.failure = reason;
    }

    /// Filling one before the next leaves the others to be closed by the peer when the load is gone.
    fn fullest_with_room(&self) -> Option<Arc<Connection>> {
        let with_room = self.open.iter().filter(|connection| connection.has_room());
        with_room.max_by_key(|connection| connection.streams()).cloned()
    }
}

impl Inner {
    fn dial_if_alone(self: &Arc<Self>, state: &mut State) {
        state.open.retain(|connection| !connection.is_over());
        if state.open.is_empty() {
            self.dial(state);
        }
    }

    /// One at a time: ten pushes that wait for room are no reason for ten connections.
    fn dial(self: &Arc<Self>, state: &mut State) {
        if state.is_dialing {
            return;
        }
        state.is_dialing = true;
        let inner = Arc::downgrade(self);
        let dialing = Dialing(Arc::clone(self));
        self.runtime.spawn(async move {
            let life = dialing.0.open().await;
            drop(dialing);
            // The handle is not kept: without its owner a connection has no purpose, and ends.
            match life {
                Some(life) => {
                    ended(&inner, life.await);
                    keep_one(inner, Duration::ZERO).await;
                }
                None => keep_one(inner, REDIAL_AFTER).await,
            }
        });
    }

    async fn open(&self) -> Option<impl Future<Output = Option<String>> + Send + use<>> {
        let opened = match self.dialer.dial().await {
            Ok(stream) => Connection::open(stream, self.is_known, Arc::clone(&self.changed)).await,
            Err(error) => Err(error),
        };
        let mut state = self.state.lock();
        match opened {
            Ok((connection, life)) => {
                state.open.push(connection);
                Some(life)
            }
            Err(error) => {
                state.fail(in_words_of_io(&error));
                None
            }
        }
    }
}

/// Marks the time of dialling, so that its end is noticed however it comes.
struct Dialing(Arc<Inner>);

impl Drop for Dialing {
    fn drop(&mut self) {
        self.0.state.lock().is_dialing = false;
        self.0.changed.notify_waiters();
    }
}

/// A connection that ended without having taken a request was none: those that wait must not open one after the other.
fn ended(inner: &Weak<Inner>, reason: Option<String>) {
    if let (Some(inner), Some(reason)) = (inner.upgrade(), reason) {
        inner.state.lock().fail(reason);
        inner.changed.notify_waiters();
    }
}

/// The one task that sees to it that there is a connection.
struct Keeper(Weak<Inner>);

impl Keeper {
    /// `None` when there is one already.
    fn of(weak: &Weak<Inner>) -> Option<Self> {
        let has_one = std::mem::replace(&mut weak.upgrade()?.state.lock().has_keeper, true);
        (!has_one).then(|| Self(weak.clone()))
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Some(inner) = self.0.upgrade() {
            inner.state.lock().has_keeper = false;
        }
    }
}

/// Sees to it that there is a connection, as long as somebody is there to use it.
async fn keep_one(weak: Weak<Inner>, mut pause: Duration) {
    let Some(keeper) = Keeper::of(&weak) else { return };
    loop {
        tokio::time::sleep(pause).await;
        let Some(inner) = keeper.0.upgrade() else { return };
        {
            let mut state = inner.state.lock();
            state.open.retain(|connection| !connection.is_over());
            if !state.is_warm || state.is_dialing || !state.open.is_empty() {
                return;
            }
            state.is_dialing = true;
        }
        let dialing = Dialing(Arc::clone(&inner));
        let life = inner.open().await;
        drop((dialing, inner));
        match life {
            Some(life) => {
                ended(&keeper.0, life.await);
                pause = REDIAL_AFTER;
            }
            None => pause = pause.saturating_mul(2).clamp(REDIAL_AFTER, REDIAL_AFTER_MAX),
        }
    }
}
