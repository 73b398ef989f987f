//! The loop that serves the [`Engine`]: its effects to Redis and to the journal, what comes of them back to it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use super::super::change::{Applied, Change, Reply, StoreError, Ticket};
use super::super::{LeftCall, News, OpenError};
use super::Status;
use super::engine::{Effect, Engine, Page, Unread, Write, Wrote};
use super::journal::{Journal, JournalError, Late};
use super::link::{Beats, Connector, Heard, Link, Listener};
use super::record::{Position, Record};
use crate::binding::{Aor, DeviceId};
use crate::clock::UnixMillis;

/// Changes taken before the network is looked at again, so that those of one AOR share a write.
const TURN: usize = 256;
/// Notices that wait for the loop.
pub(super) const NEWS: usize = 65_536;
/// Pause before the first attempt to connect again, doubled up to the last.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LAST: Duration = Duration::from_secs(2);
/// A connection that held so long was a good one.
const GOOD_AFTER: Duration = Duration::from_secs(5);
/// How long a start waits for what this node left in Redis.
const OPEN_WAIT: Duration = Duration::from_secs(10);
/// How long a stop waits for what is under way.
const STOP_WAIT: Duration = Duration::from_secs(10);
const SWEEP_MAX: usize = 512;

/// What the store's users ask for.
#[derive(Debug)]
pub(super) enum Job {
    Change { ticket: Ticket, change: Box<Change>, reply_to: mpsc::Sender<Reply> },
    Look { aor: Aor, done: oneshot::Sender<bool> },
    LookForDevice { device: DeviceId, done: oneshot::Sender<bool> },
    Sweep(UnixMillis),
}

/// What the journal's thread does.
#[derive(Debug)]
pub(super) enum Errand {
    Append { aor: Aor, changes: Vec<Late> },
    Forget(Vec<Position>),
    KeepSecret([u8; 32]),
}

pub(super) type Appended = (Aor, Result<(), JournalError>);

/// Something that was under way.
enum Done {
    Wrote { aor: Aor, link: u64, outcome: Wrote },
    Fetched { aor: Aor, link: u64, record: Result<Record, Unread> },
    Scanned { link: u64, page: Result<Page, String> },
    Connected(Result<Link, String>),
    Beaten { link: u64, result: Result<Beats, String> },
    DeviceFound { aor: Option<Aor>, done: oneshot::Sender<bool> },
    Nothing,
}

pub(super) struct Task {
    pub(super) engine: Engine,
    pub(super) connector: Connector,
    pub(super) status: Arc<Status>,
    pub(super) jobs: mpsc::Receiver<Job>,
    pub(super) jobs_max: usize,
    pub(super) errands: mpsc::Sender<Errand>,
    pub(super) appended: mpsc::Receiver<Appended>,
    /// The secret that this node uses. All nodes of one Redis have the same.
    pub(super) secret: Option<[u8; 32]>,
    pub(super) beat_every: Duration,
    rest: Rest,
}

/// What begins empty.
struct Rest {
    listener: Listener,
    news: mpsc::Receiver<Heard>,
    /// Attempts to connect after the first.
    attempts: u64,
    link: Option<Link>,
    /// The engine's number of the connection.
    link_number: u64,
    under_way: JoinSet<Done>,
    connected_at: Option<Instant>,
    retry: Duration,
    is_connecting: bool,
    is_beating: bool,
    askers: HashMap<u64, (Ticket, mpsc::Sender<Reply>)>,
    lookers: HashMap<u64, oneshot::Sender<bool>>,
    /// Records that the journal may drop when it has room for the errand.
    forgotten: Vec<Position>,
    /// A sweep that has more to end.
    sweeping: Option<UnixMillis>,
}

/// What a start found.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) held: Vec<LeftCall>,
    pub(super) secret: [u8; 32],
}

/// What a task is made of.
pub(super) struct Parts {
    pub(super) engine: Engine,
    pub(super) connector: Connector,
    pub(super) status: Arc<Status>,
    pub(super) jobs: mpsc::Receiver<Job>,
    pub(super) jobs_max: usize,
    pub(super) errands: mpsc::Sender<Errand>,
    pub(super) appended: mpsc::Receiver<Appended>,
    pub(super) secret: Option<[u8; 32]>,
    /// How often a sign of life is given, and those of others looked at.
    pub(super) beat_every: Duration,
}

impl Task {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { engine, connector, status, jobs, jobs_max, errands, appended, secret, beat_every } = parts;
        let (news_in, news) = mpsc::channel(NEWS);
        let rest = Rest {
            listener: Listener { news: news_in, has_missed: Arc::default() },
            news,
            attempts: 0,
            link: None,
            link_number: 0,
            under_way: JoinSet::new(),
            connected_at: None,
            retry: RETRY_FIRST,
            is_connecting: false,
            is_beating: false,
            askers: HashMap::new(),
            lookers: HashMap::new(),
            forgotten: Vec::new(),
            sweeping: None,
        };
        Self { engine, connector, status, jobs, jobs_max, errands, appended, secret, beat_every, rest }
    }

    /// Says what the start found, then works until nobody asks any more.
    pub(super) async fn run(mut self, opened: std::sync::mpsc::SyncSender<Result<Opened, OpenError>>) {
        match self.open().await {
            Ok(found) => {
                if opened.send(Ok(found)).is_err() {
                    return;
                }
            }
            Err(error) => {
                // Nobody waits: then nobody needs the store.
                let _ = opened.send(Err(error));
                return;
            }
        }
        let mut beat = tokio::time::interval(self.beat_every);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while self.turn(&mut beat).await {}
        self.stop().await;
    }

    async fn open(&mut self) -> Result<Opened, OpenError> {
        let connected = match self.connector.connect(0, self.rest.listener.clone()).await {
            Ok(link) => self.first_connection(link).await,
            Err(error) => Err(error),
        };
        match connected {
            Ok(()) => {}
            Err(error) if self.secret.is_none() => return Err(OpenError::Redis(error)),
            Err(error) => {
                tracing::warn!(error, "Redis is away: the node starts with what its journal has");
                self.connect_later();
            }
        }
        self.engine.opened(now());
        self.perform().await;
        // Calls that died leave the store before anybody asks.
        let deadline = Instant::now() + OPEN_WAIT;
        while self.engine.pending() > 0 && tokio::time::timeout_at(deadline, self.under_way()).await.is_ok() {
            self.perform().await;
        }
        let secret = self.secret.ok_or_else(|| OpenError::Redis("it gives no secret".to_owned()))?;
        let mut held = self.engine.take_leftovers();
        held.sort_unstable_by_key(|left| (left.call.held_at, left.call.id));
        Ok(Opened { held, secret })
    }

    /// Takes up what this node left in Redis before anything new is accepted.
    async fn first_connection(&mut self, mut link: Link) -> Result<(), String> {
        let secret = match self.secret {
            Some(secret) => secret,
            None => random_secret().map_err(|error| error.to_string())?,
        };
        let shared = link.secret(&secret).await?;
        if self.secret.is_some_and(|ours| ours != shared) {
            tracing::warn!("Redis has another secret than this node had; devices get new names as they register");
        }
        self.secret = Some(shared);
        if self.errands.send(Errand::KeepSecret(shared)).await.is_err() {
            return Err("the journal's thread ended".to_owned());
        }
        let own = link.own_calls().await?;
        self.use_link(link);
        self.engine.connected(now());
        self.rest.link_number = self.engine.link();
        self.engine.look_first(own.clone(), now());
        self.perform().await;
        let deadline = Instant::now() + OPEN_WAIT;
        while self.engine.is_up() && own.iter().any(|aor| !self.engine.is_idle(aor)) {
            let waited = tokio::time::timeout_at(deadline, self.under_way()).await;
            if waited.is_err() {
                tracing::warn!("Redis is slow; the node starts before it has seen all of its own calls");
                break;
            }
            self.perform().await;
        }
        Ok(())
    }

    /// One thing that was under way comes back.
    async fn under_way(&mut self) {
        tokio::select! {
            Some(Ok(done)) = self.rest.under_way.join_next() => self.done(done).await,
            Some((aor, result)) = self.appended.recv() => self.engine.appended(&aor, result, now()),
            else => std::future::pending().await,
        }
    }

    /// Waits for something to happen and deals with it. False when nobody can ask any more.
    async fn turn(&mut self, beat: &mut tokio::time::Interval) -> bool {
        let has_room = self.engine.pending() < self.jobs_max;
        tokio::select! {
            job = self.jobs.recv(), if has_room => {
                let Some(job) = job else { return false };
                self.job(job);
                for _ in 1..TURN {
                    if self.engine.pending() >= self.jobs_max {
                        break;
                    }
                    let Ok(job) = self.jobs.try_recv() else { break };
                    self.job(job);
                }
            }
            Some(Ok(done)) = self.rest.under_way.join_next() => {
                self.done(done).await;
                while let Some(Ok(done)) = self.rest.under_way.try_join_next() {
                    self.done(done).await;
                }
            }
            Some((aor, result)) = self.appended.recv() => self.engine.appended(&aor, result, now()),
            Some(news) = self.rest.news.recv() => {
                self.hear(news);
                while let Ok(news) = self.rest.news.try_recv() {
                    self.hear(news);
                }
            }
            _ = beat.tick() => self.beat(),
        }
        if self.engine.pending() == 0 {
            self.rest.sweeping = self.rest.sweeping.filter(|now| self.engine.sweep(*now, SWEEP_MAX));
        }
        self.perform().await;
        true
    }

    fn job(&mut self, job: Job) {
        match job {
            Job::Change { ticket, change, reply_to } => {
                let number = self.engine.submit(*change, now());
                self.rest.askers.insert(number, (ticket, reply_to));
            }
            Job::Look { aor, done } => self.look(&aor, done),
            Job::LookForDevice { device, done } => match self.rest.link.clone() {
                Some(mut link) => {
                    self.rest.under_way.spawn(async move {
                        let aor = link.aor_of(device).await.unwrap_or_else(|error| {
                            tracing::debug!(error, "the index of devices was not read");
                            None
                        });
                        Done::DeviceFound { aor, done }
                    });
                }
                // Whoever asks and is gone needs no answer.
                None => drop(done.send(false)),
            },
            Job::Sweep(now) => self.rest.sweeping = self.engine.sweep(now, SWEEP_MAX).then_some(now),
        }
    }

    fn look(&mut self, aor: &Aor, done: oneshot::Sender<bool>) {
        let number = self.engine.look(aor, now());
        self.rest.lookers.insert(number, done);
    }

    fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Notice(notice) => self.engine.notice(&notice, now()),
            Heard::Lost(number) if self.rest.link.as_ref().is_some_and(|link| link.number() == number) => {
                self.engine.disconnected(now());
            }
            Heard::Lost(_) => {}
        }
    }

    async fn done(&mut self, done: Done) {
        match done {
            Done::Wrote { aor, link, outcome } => self.engine.wrote(&aor, link, outcome, now()),
            Done::Fetched { aor, link, record } => self.engine.fetched(&aor, link, record, now()),
            Done::Scanned { link, page } => self.engine.scanned_page(link, page, now()),
            Done::Connected(Ok(link)) => {
                self.rest.is_connecting = false;
                self.connected(link).await;
            }
            Done::Connected(Err(error)) => {
                self.rest.is_connecting = false;
                tracing::debug!(error, "no connection to Redis");
            }
            Done::Beaten { link, result } => {
                self.rest.is_beating = false;
                if link != self.rest.link_number {
                    return;
                }
                match result {
                    Ok(beats) => self.beaten(beats),
                    Err(error) => {
                        tracing::warn!(error, "Redis does not answer");
                        self.engine.disconnected(now());
                    }
                }
            }
            Done::DeviceFound { aor: Some(aor), done } => self.look(&aor, done),
            Done::DeviceFound { aor: None, done } => drop(done.send(self.engine.is_loaded())),
            Done::Nothing => {}
        }
    }

    async fn connected(&mut self, mut link: Link) {
        if let Some(ours) = &self.secret {
            match link.secret(ours).await {
                Ok(secret) if secret == *ours => {}
                Ok(_) => {
                    tracing::error!("Redis has the secret of other nodes; it is not used until this node starts again");
                    return;
                }
                Err(error) => {
                    tracing::debug!(error, "Redis gives no secret");
                    return;
                }
            }
        }
        tracing::info!(journaled = self.engine.journaled(), "Redis is connected");
        self.use_link(link);
        self.engine.connected(now());
        self.rest.link_number = self.engine.link();
    }

    fn use_link(&mut self, link: Link) {
        self.rest.link = Some(link);
        self.rest.connected_at = Some(Instant::now());
    }

    /// The breaker: while Redis is away it is tried by connections alone, each a little later than the one before.
    fn connect_later(&mut self) {
        if self.rest.is_connecting {
            return;
        }
        self.rest.is_connecting = true;
        let was_good = self.rest.connected_at.take().is_some_and(|since| since.elapsed() > GOOD_AFTER);
        let pause = if was_good { RETRY_FIRST } else { self.rest.retry };
        self.rest.retry = pause.saturating_mul(2).min(RETRY_LAST);
        self.rest.attempts += 1;
        let (connector, listener, number) = (self.connector.clone(), self.rest.listener.clone(), self.rest.attempts);
        self.rest.under_way.spawn(async move {
            tokio::time::sleep(pause).await;
            Done::Connected(connector.connect(number, listener).await)
        });
    }

    fn beaten(&mut self, beats: Beats) {
        let Beats { replaced, all } = beats;
        let run = self.connector.identity.run;
        self.engine.looked_at_nodes(all, now());
        self.status.nodes.store(self.engine.node_count(), Ordering::Relaxed);
        let homes = self.engine.homes();
        // The beat of an earlier start of this node is replaced once, by the first of this one.
        let conflict = if replaced.is_some_and(|replaced| replaced != run) {
            Some("another process uses the node.id of this node; give each node of a Redis its own")
        } else if self.connector.identity.home.is_some_and(|home| homes.there.contains(&home)) {
            Some("another node is reached by the same address; give each its own node.address")
        } else {
            None
        };
        *self.status.homes.write() = homes;
        let mut known = self.status.conflict.lock();
        if let Some(reason) = conflict.filter(|_| known.is_none()) {
            tracing::error!(reason, "nodes are in each other's way");
        }
        *known = conflict;
    }

    fn beat(&mut self) {
        if self.rest.listener.has_missed.swap(false, Ordering::Relaxed) {
            tracing::warn!("notices of other nodes came too fast; everything is read again");
            self.engine.disconnected(now());
            return;
        }
        let Some(mut link) = self.rest.link.clone().filter(|_| !self.rest.is_beating) else { return };
        self.rest.is_beating = true;
        let number = self.rest.link_number;
        self.rest.under_way.spawn(async move {
            let result = link.beat(now()).await.map_err(|error| error.to_string());
            Done::Beaten { link: number, result }
        });
        if !self.engine.is_loaded() {
            tracing::info!(aors = self.engine.scanned(), "loading from Redis");
        }
    }

    /// Does what the engine wants, until it wants nothing.
    async fn perform(&mut self) {
        while let Some(effect) = self.engine.poll_effect() {
            match effect {
                Effect::Write(write) => self.write(write),
                Effect::Fetch { aor, link } => match self.link(link) {
                    Some(mut connection) => {
                        self.rest.under_way.spawn(async move {
                            let record = connection.fetch(&aor).await;
                            Done::Fetched { aor, link, record }
                        });
                    }
                    None => self.engine.fetched(&aor, link, Err(Unread::Away(gone())), now()),
                },
                Effect::Scan { from, with_rows, link } => {
                    if let Some(mut connection) = self.link(link) {
                        self.rest.under_way.spawn(async move {
                            let page = connection.scan(from, with_rows).await;
                            Done::Scanned { link, page }
                        });
                    }
                }
                Effect::Append { aor, changes } => {
                    let errand = Errand::Append { aor: aor.clone(), changes };
                    if self.errands.try_send(errand).is_err() {
                        self.engine.appended(&aor, Err(JournalError::Full), now());
                    }
                }
                Effect::Forget(positions) => self.rest.forgotten.extend(positions),
                Effect::Answer { number, result } => self.answer(number, result).await,
                Effect::Looked { number, is_known } => {
                    if let Some(looker) = self.rest.lookers.remove(&number) {
                        // Whoever is gone needs no answer.
                        let _ = looker.send(is_known);
                    }
                }
                Effect::News(news) => {
                    if let News::TakenOver { id, .. } = &news {
                        // Nobody is to take up what has gone on already.
                        self.status.leftovers.lock().retain(|left| left.call.id != *id);
                    }
                    if let Some(on_news) = self.status.on_news.get() {
                        on_news(news);
                    }
                }
            }
        }
        self.forget();
        let leftovers = self.engine.take_leftovers();
        if !leftovers.is_empty() && self.status.is_open.load(Ordering::Relaxed) {
            self.status.leftovers.lock().extend(leftovers);
        } else {
            self.engine.give_back_leftovers(leftovers);
        }
        if !self.engine.is_up() {
            self.rest.link = None;
            self.connect_later();
        }
        self.status.is_up.store(self.engine.is_up(), Ordering::Relaxed);
        self.status.is_loaded.store(self.engine.is_loaded(), Ordering::Relaxed);
        self.status.scanned.store(self.engine.scanned(), Ordering::Relaxed);
        self.status.journaled.store(self.engine.journaled(), Ordering::Relaxed);
    }

    /// The connection of that number, if it is still the one in use.
    fn link(&self, number: u64) -> Option<Link> {
        self.rest.link.clone().filter(|_| number == self.engine.link())
    }

    fn write(&mut self, write: Write) {
        let (aor, link) = (write.aor.clone(), write.link);
        let Some(mut connection) = self.link(link) else {
            return self.engine.wrote(&aor, link, Wrote::Unknown(gone()), now());
        };
        let (unindexed, done) = oneshot::channel::<()>();
        if !write.gone.is_empty() {
            let (mut connection, write) = (connection.clone(), write.clone());
            self.rest.under_way.spawn(async move {
                // Once the write is done, and without anybody waiting for it.
                if done.await.is_ok() {
                    connection.unindex(&write).await;
                }
                Done::Nothing
            });
        }
        self.rest.under_way.spawn(async move {
            let outcome = connection.write(&write).await;
            if let Wrote::Done = outcome {
                // Nobody listens when nothing is to be taken from an index.
                let _ = unindexed.send(());
            }
            Done::Wrote { aor, link, outcome }
        });
    }

    async fn answer(&mut self, number: u64, result: Result<Applied, StoreError>) {
        let Some((ticket, reply_to)) = self.rest.askers.remove(&number) else { return };
        // Waits for room, which keeps replies in order. One whose asker is gone is for nobody.
        if reply_to.send(Reply { ticket, result }).await.is_err() {
            tracing::trace!(?ticket, "nobody waits for this reply");
        }
    }

    fn forget(&mut self) {
        if !self.rest.forgotten.is_empty() {
            let errand = Errand::Forget(std::mem::take(&mut self.rest.forgotten));
            if let Err(mpsc::error::TrySendError::Full(Errand::Forget(positions))) = self.errands.try_send(errand) {
                self.rest.forgotten = positions;
            }
        }
    }

    /// What was submitted becomes durable, in Redis or in the journal.
    async fn stop(&mut self) {
        let deadline = Instant::now() + STOP_WAIT;
        while self.engine.pending() > 0 {
            if tokio::time::timeout_at(deadline, self.under_way()).await.is_err() {
                tracing::warn!(changes = self.engine.pending(), "stopped before all changes were answered");
                break;
            }
            self.perform().await;
        }
        if let Some(link) = &mut self.rest.link {
            link.leave().await;
        }
        self.forget();
    }
}

fn gone() -> String {
    "the connection is gone".to_owned()
}

fn random_secret() -> Result<[u8; 32], getrandom::Error> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret)?;
    Ok(secret)
}

/// The present. Claims end by it, and other nodes read that end.
#[expect(clippy::disallowed_methods, reason = "the loop reads the clock for the engine, which has none")]
pub(super) fn now() -> UnixMillis {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(unix.as_millis()).unwrap_or(u64::MAX))
}

/// The journal's thread: many errands share one sync.
pub(super) fn keep_journal(
    mut journal: Journal,
    mut errands: mpsc::Receiver<Errand>,
    appended: &mpsc::Sender<Appended>,
) {
    const ERRANDS_MAX: usize = 512;
    let mut taken = Vec::with_capacity(ERRANDS_MAX);
    while errands.blocking_recv_many(&mut taken, ERRANDS_MAX) > 0 {
        let (mut changes, mut done, mut aors) = (Vec::new(), Vec::new(), Vec::new());
        for errand in taken.drain(..) {
            match errand {
                Errand::Append { aor, changes: more } => {
                    changes.extend(more);
                    aors.push(aor);
                }
                Errand::Forget(positions) => done.extend(positions),
                Errand::KeepSecret(secret) => {
                    if let Err(error) = journal.keep_secret(&secret) {
                        tracing::warn!(error, "the secret is not kept: this node cannot start while Redis is away");
                    }
                }
            }
        }
        let result = journal.commit(&changes, &done);
        if let Err(error) = &result {
            tracing::warn!(?error, changes = changes.len(), "the journal takes no changes");
        }
        for aor in aors {
            if appended.blocking_send((aor, result.clone())).is_err() {
                break;
            }
        }
    }
    tracing::debug!(records = journal.len(), "the journal is closed");
    journal.close();
}
