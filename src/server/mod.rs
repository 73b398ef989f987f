//! Builds everything from the configuration, starts it, and stops it in order.

mod descriptors;
mod export;
mod notifications;
mod online;
mod operator;
mod policy;
mod reload;
mod stories;
mod subscriptions;
mod systemd;
mod words;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use notifications::Tellers;
pub use online::{Asked, online};
use operator::Operator;
use stories::Stories;
use subscriptions::Subscriptions;
use systemd::Heartbeat;

use crate::admin::{self, Live};
use crate::binding::Home;
use crate::clock::UnixMillis;
use crate::config::{Config, Problems, StoreKind, Values};
use crate::driver::{self, Door, Guidance, INBOX, Phase, Shared, Worker};
use crate::events::{self, Events, Relay};
use crate::guard::Guard;
use crate::metrics::Metrics;
use crate::proxy::Proxy;
use crate::push::{Pushers, SettingsError};
use crate::readiness::{Part, Readiness};
use crate::sip::framing::{FramingError, FramingErrorKind, FramingLimits};
use crate::sip::response::{self, reason_phrase};
use crate::sip::{Message, Transport};
use crate::store::{self, Embedded, OpenError, RedisSettings, RedisStore, Store};
use crate::summary::Summary;
use crate::timeline::Timeline;
use crate::transaction;
use crate::transport::{self, BindError, Bound, Connections};
use crate::web;

/// T2 and T4 of RFC 3261 §17.1.2.1 and Annex A; only T1 is worth tuning.
const T2: Duration = Duration::from_secs(4);
const T4: Duration = Duration::from_secs(5);
/// How often, in looks at the store, it ends what time has ended.
const LOOKS_PER_SWEEP: u32 = 120;
/// How often the operator's view of store and providers is brought up to date.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A worker that has not ended a turn for so many looks is stuck: 10 s.
const WORKER_PATIENCE: u32 = 20;
/// Changes that wait for the disk.
const STORE_QUEUE: usize = 65_536;
/// How often a draining server looks whether its calls are over.
const DRAIN_EVERY: Duration = Duration::from_millis(50);
/// How long a stop may wait until the last steps of calls are written.
const LAST_STORIES: Duration = Duration::from_secs(2);

/// Why the server could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot start a thread or an event loop: {0}")]
    Runtime(io::Error),
    #[error("store: {0}")]
    Store(#[from] OpenError),
    #[error("{0}")]
    Push(#[from] SettingsError),
    #[error("sip.listen: {0}")]
    Bind(#[from] BindError),
    #[error("admin.listen: cannot listen on {address}: {error}; use a free port, or \"127.0.0.1:0\" for any")]
    Admin { address: SocketAddr, error: io::Error },
    #[error("push.webpush.listen: cannot listen on {address}: {error}; use a free port, or \"127.0.0.1:0\" for any")]
    Page { address: SocketAddr, error: io::Error },
    #[error("the system gives no random numbers: {0}")]
    Random(getrandom::Error),
}

/// A running server. Dropping it stops it at once.
pub struct Server {
    shared: Arc<Shared>,
    /// What is in effect.
    config: Config,
    guidance: watch::Sender<Guidance>,
    /// What is in effect, for the operator.
    settings: watch::Sender<Arc<Values>>,
    listeners: Arc<[transport::Listener]>,
    /// What refreshes leave by.
    refresh_from: Option<SocketAddr>,
    secret: [u8; 32],
    admin: SocketAddr,
    /// Ends after WebSocket clients were told that the server stops.
    admin_task: Option<JoinHandle<()>>,
    /// Where browsers subscribe.
    page: Option<SocketAddr>,
    stories: Arc<Stories>,
    phase: watch::Sender<Phase>,
    workers: Vec<thread::JoinHandle<()>>,
    /// Operators who ask for a reload.
    reloads: mpsc::Receiver<reload::Asked>,
    ask_reload: mpsc::Sender<reload::Asked>,
    /// Ends the connections.
    stop: watch::Sender<bool>,
    runtime: Option<Runtime>,
}

/// Serves until SIGTERM or SIGINT, then drains and stops; a second signal stops at once. SIGHUP reads the configuration
/// again with `load`. Blocks.
pub fn run(config: Config, load: impl Fn() -> Result<Config, Problems>) -> Result<(), StartError> {
    let mut server = Server::start(config)?;
    let Some(runtime) = server.runtime.as_ref().map(|runtime| runtime.handle().clone()) else { return Ok(()) };
    runtime.block_on(async {
        let mut wishes = Wishes::listen().map_err(StartError::Runtime)?;
        // Who reads that we are ready may ask us to stop at once.
        server.announce();
        systemd::ready();
        loop {
            let asked = tokio::select! {
                wish = wishes.next() => match wish {
                    Wish::Reload => None,
                    Wish::Stop => break,
                },
                asked = server.reloads.recv() => asked,
            };
            systemd::reloading();
            let reloaded = server.reload_from(&load);
            systemd::ready();
            if let Some(asked) = asked {
                // Whoever asked may be gone.
                let _ = asked.send(reloaded);
            }
        }
        tracing::info!("stopping: no new calls, held ones go on");
        systemd::stopping(server.config.node.drain);
        tokio::select! {
            () = server.drained() => {}
            () = wishes.stop() => tracing::warn!(held_calls = server.shared.held_calls(), "stopped before the end of all calls"),
        }
        Ok::<_, StartError>(())
    })?;
    server.stop();
    Ok(())
}

/// What the operator may ask of the process by a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Stop,
    Reload,
}

/// SIGTERM and SIGINT, SIGHUP.
struct Wishes {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Wishes {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.terminate.recv() => Wish::Stop,
            _ = self.interrupt.recv() => Wish::Stop,
            _ = self.hang_up.recv() => Wish::Reload,
        }
    }

    async fn stop(&mut self) {
        while self.next().await != Wish::Stop {}
    }
}

impl Server {
    /// Starts everything that `config` asks for. It serves when this returns.
    pub fn start(config: Config) -> Result<Self, StartError> {
        // An error means that it was installed before, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("shared")
            .enable_all()
            .build()
            .map_err(StartError::Runtime)?;
        let pushers = Pushers::open(&policy::push_settings(&config), runtime.handle().clone())?;
        pushers.warm_up();
        let listen: Vec<_> = config.sip.listen.iter().map(|listen| (listen.transport, listen.address)).collect();
        let mut bound = transport::bind(&listen, config.sip.workers)?;
        let refresh_from = config.register.refresh_from.filter(|_| config.register.upstream_refresh);
        let refresh_from = refresh_from.map(|local| bound.bind_refresh(local)).transpose()?;
        let (store, mut loaded) = open_store(&config, policy::home(&config, &bound.listeners))?;
        tracing::info!(
            bindings = loaded.bindings,
            entries = loaded.entries,
            held_calls = loaded.held.len(),
            "store is loaded"
        );
        if config.register.upstream_refresh {
            store.table().begin_refreshes();
        }
        if config.register.domains.is_empty() {
            store.table().begin_users();
        }
        store.table().remind_by(policy::reminder_rule(&config), driver::now().unix);
        let policy = Arc::new(policy::policy(&config, &bound.listeners, refresh_from, loaded.secret, pushers.clone()));
        let rules = Arc::new(policy::rules(&config));
        let guard = Guard::new(Arc::clone(&rules), [random()?, random()?], driver::now().instant);
        let door = Arc::new(Door::new(guard, Arc::clone(store.table())));
        let (guidance, guided) = watch::channel(Guidance { policy: Arc::clone(&policy), pushers, rules });

        let (stop, stopped) = watch::channel(false);
        let (phase, phases) = watch::channel(Phase::Running);
        let (inboxes, receivers): (Vec<_>, Vec<_>) = (0..config.sip.workers).map(|_| mpsc::channel(INBOX)).unzip();
        let Bound { listeners, workers: sockets, tcp } = bound;
        let settings = transport::Settings {
            limits: transport::Limits {
                connections_per_source: config.limits.source_connections,
                ..transport::Limits::new(descriptors::connections(config.limits.connections))
            },
            framing: FramingLimits::default(),
            worker_of: driver::worker_of_message,
            refusal,
            door: Arc::clone(&door) as Arc<dyn transport::Door>,
        };
        let connections = {
            let _within = runtime.enter();
            Connections::start(settings, Arc::clone(&listeners), tcp, inboxes.clone(), stopped)
                .map_err(StartError::Runtime)?
        };
        let metrics = Arc::new(Metrics::new());
        let timeline = Arc::new(Timeline::new(config.admin.calls_max).kept());
        let stories = Arc::new(Stories::open(&config, &timeline));
        let parts = driver::Parts {
            store,
            hep: export::start(&config, &metrics, &runtime),
            traces: export::start_traces(&config, &runtime),
            metrics,
            timeline,
            summary: Arc::new(Summary::default()),
            events: Arc::new(Events::default()),
            readiness: Arc::new(Readiness::default()),
            connections,
            door,
            headers_max: config.limits.headers,
            runtime: runtime.handle().clone(),
            held: loaded.held.clone(),
        };
        let shared = Arc::new(Shared::new(parts, inboxes));
        let hearing = Arc::downgrade(&shared);
        shared.store.on_news(move |news| {
            if let Some(shared) = hearing.upgrade() {
                shared.hear(news);
            }
        });

        let (ask_reload, reloads) = mpsc::channel(1);
        let mut server = Self {
            reloads,
            ask_reload,
            settings: watch::Sender::new(Arc::new(config.values.clone())),
            admin: config.admin.listen,
            admin_task: None,
            page: None,
            stories,
            config,
            guidance,
            listeners,
            refresh_from,
            secret: loaded.secret,
            phase,
            workers: Vec::new(),
            stop,
            runtime: Some(runtime),
            shared,
        };
        for (index, (sockets, inbox)) in sockets.into_iter().zip(receivers).enumerate() {
            let settings = transaction::Settings {
                t1: server.config.sip.t1,
                t2: T2.max(server.config.sip.t1),
                t4: T4,
                transactions_max: (server.config.limits.transactions / server.config.sip.workers).max(2),
                source_bytes_max: server.config.limits.source_bytes,
                worker: u8::try_from(index).unwrap_or(u8::MAX),
            };
            let proxy = Proxy::new(Arc::clone(&policy), settings, [random()?, random()?]);
            let workers = server.config.sip.workers;
            let (held, rest) = loaded.held.into_iter().partition(|call| driver::worker_of(call, workers) == index);
            loaded.held = rest;
            server.start_worker(index, proxy, (sockets, inbox, held), guided.clone(), phases.clone())?;
        }
        let web_keys = Arc::new(web::Keys::new(&server.secret));
        let tellers = Tellers::new(
            Arc::clone(&server.shared),
            server.guidance.subscribe(),
            &server.config,
            &server.secret,
            Arc::clone(&web_keys),
        );
        let tellers = Arc::new(tellers);
        server.start_admin(Arc::clone(&tellers))?;
        server.start_page(tellers, web_keys)?;
        server.start_relaying_events()?;
        server.start_keeping_stories();
        server.start_looking();
        server.shared.readiness.well(Part::Start);
        Ok(server)
    }

    fn start_worker(
        &mut self,
        index: usize,
        proxy: Proxy,
        (sockets, inbox, held): (transport::WorkerSockets, mpsc::Receiver<transport::Event>, Vec<store::HeldCall>),
        guidance: watch::Receiver<Guidance>,
        phases: watch::Receiver<Phase>,
    ) -> Result<(), StartError> {
        let shared = Arc::clone(&self.shared);
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Runtime)?;
        let work = move || {
            runtime.block_on(async move {
                match Worker::new(index, proxy, sockets, inbox, shared, guidance, phases) {
                    Ok(worker) => worker.run(held).await,
                    Err(error) => tracing::error!(worker = index, %error, "a worker could not start"),
                }
            });
        };
        let thread = thread::Builder::new().name(format!("worker-{index}")).spawn(work);
        self.workers.push(thread.map_err(StartError::Runtime)?);
        Ok(())
    }

    fn start_admin(&mut self, tellers: Arc<Tellers>) -> Result<(), StartError> {
        let Some(runtime) = &self.runtime else { return Ok(()) };
        let address = self.config.admin.listen;
        let (listener, local) = listen(runtime, address).map_err(|error| StartError::Admin { address, error })?;
        self.admin = local;
        let state = admin::State {
            source: Arc::new(Operator::new(
                Arc::clone(&self.shared),
                self.guidance.subscribe(),
                self.settings.subscribe(),
                self.ask_reload.clone(),
                Arc::clone(&self.stories),
            )),
            summary: Arc::clone(&self.shared.summary),
            events: Arc::clone(&self.shared.events),
            live: Arc::new(Live::new(policy::live_settings(&self.config.events), &self.shared.events, random()?)),
            metrics: Arc::clone(&self.shared.metrics),
            readiness: Arc::clone(&self.shared.readiness),
            notifications: tellers,
            notification_token: self.config.notification.token.clone(),
            webhook_secret: self.config.notification.secret.clone(),
            token: self.config.admin.token.clone(),
        };
        let serving = admin::serve(listener, state, admin::Limits::default(), self.stopped());
        self.admin_task = Some(runtime.spawn(serving));
        Ok(())
    }

    /// The public listener, where one is configured.
    fn start_page(&mut self, tellers: Arc<Tellers>, keys: Arc<web::Keys>) -> Result<(), StartError> {
        let page = self.config.push.webpush.as_ref().and_then(|webpush| webpush.page.as_ref());
        let (Some(runtime), Some(page)) = (&self.runtime, page) else { return Ok(()) };
        let address = page.listen;
        let (listener, local) = listen(runtime, address).map_err(|error| StartError::Page { address, error })?;
        let source = Subscriptions::new(Arc::clone(&self.shared), self.guidance.subscribe(), tellers, keys);
        let requests_per_s = page.requests_per_s;
        self.page = Some(local);
        runtime.spawn(web::serve(listener, Arc::new(source), requests_per_s, self.stopped()));
        Ok(())
    }

    /// Ends when the server stops. A sender that is gone means the same as a stop.
    fn stopped(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut phases = self.phase.subscribe();
        async move {
            let _ = phases.wait_for(|phase| *phase == Phase::Stopped).await;
        }
    }

    fn start_relaying_events(&self) -> Result<(), StartError> {
        let (Some(runtime), Some(stream)) = (&self.runtime, &self.config.events.redis_stream) else { return Ok(()) };
        let StoreKind::Redis(url) = &self.config.store.kind else { return Ok(()) };
        let settings = events::Settings {
            url: url.clone(),
            timeout: self.config.store.timeout,
            stream: stream.clone(),
            channel: self.config.events.channel.clone(),
            node: self.config.node.id.clone(),
        };
        runtime.spawn(Relay::new(settings, &self.shared.events, random()?).run());
        Ok(())
    }

    fn start_keeping_stories(&self) {
        let Some(runtime) = &self.runtime else { return };
        let (stories, stopped) = (Arc::clone(&self.stories), self.stopped());
        runtime.spawn(async move {
            tokio::select! {
                () = stories.keep() => {}
                () = stopped => {}
            }
        });
    }

    fn start_looking(&self) {
        let Some(runtime) = &self.runtime else { return };
        let kept = u64::try_from(self.config.admin.calls_kept.as_millis()).unwrap_or(u64::MAX);
        let shared = Arc::clone(&self.shared);
        let guided = self.guidance.subscribe();
        let mut phases = self.phase.subscribe();
        runtime.spawn(async move {
            let mut heartbeat = Heartbeat::new();
            let sweeps = async {
                for looks in 1u32.. {
                    tokio::time::sleep(LOOK_EVERY).await;
                    let lives = shared.look_at_workers(WORKER_PATIENCE);
                    heartbeat.look(shared.readiness.report(), lives, driver::now().instant);
                    shared.look_at_store();
                    let pushers = guided.borrow().pushers.clone();
                    shared.look_at_push(&pushers);
                    shared.door.guard.expire(driver::now().instant);
                    if looks.is_multiple_of(LOOKS_PER_SWEEP) {
                        let now = driver::now().unix;
                        shared.store.sweep(now);
                        shared.timeline.forget(UnixMillis(now.0.saturating_sub(kept)));
                    }
                }
            };
            tokio::select! {
                () = sweeps => {}
                _ = phases.wait_for(|phase| *phase == Phase::Stopped) => {}
            }
        });
    }

    fn announce(&self) {
        for listener in self.listeners.iter() {
            tracing::info!(address = %listener.local, transport = listener.transport.uri_name(), "listening for SIP");
        }
        tracing::info!(address = %self.admin, "listening for the operator");
        if let Some(address) = self.page {
            tracing::info!(%address, "listening for browsers");
        }
        tracing::info!(workers = self.workers.len(), "ready");
    }

    /// Where a transport is listened on; with port 0 in the configuration, the port that the system gave.
    pub fn sip_address(&self, transport: Transport) -> Option<SocketAddr> {
        self.listeners.iter().find(|listener| listener.transport == transport).map(|listener| listener.local)
    }

    pub fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    /// Where browsers subscribe.
    pub fn page_address(&self) -> Option<SocketAddr> {
        self.page
    }

    /// What happened to the last calls.
    pub fn timeline(&self) -> &Arc<Timeline> {
        &self.shared.timeline
    }

    /// Takes no new calls, and ends when the held ones are over or `node.drain_s` is.
    async fn drained(&self) {
        self.shared.readiness.failed(Part::Drain, "the server is stopping");
        // Without workers nobody listens, and nothing is to be drained.
        let _ = self.phase.send(Phase::Draining);
        let calls_end = async {
            while self.shared.held_calls() > 0 {
                tokio::time::sleep(DRAIN_EVERY).await;
            }
        };
        if tokio::time::timeout(self.config.node.drain, calls_end).await.is_err() {
            tracing::warn!(held_calls = self.shared.held_calls(), "node.drain_s is over before all calls are");
        }
    }

    /// Stops in order: workers, connections, then the store, which writes what it has accepted.
    pub fn stop(mut self) {
        self.stop_now();
    }

    fn stop_now(&mut self) {
        let _ = self.phase.send(Phase::Stopped);
        for worker in self.workers.drain(..) {
            if worker.join().is_err() {
                tracing::error!("a worker ended by a fault of ours");
            }
        }
        let _ = self.stop.send(true);
        self.shared.store.shutdown();
        if let Some(runtime) = self.runtime.take() {
            if let Some(admin) = self.admin_task.take() {
                // Ends within seconds of `Phase::Stopped`.
                let _ = runtime.block_on(admin);
            }
            // What operators see is not worth to be waited for longer.
            let last = async { tokio::time::timeout(LAST_STORIES, self.stories.write()).await };
            if !matches!(runtime.block_on(last), Ok(Ok(()))) {
                tracing::warn!("the last steps of calls are not kept in the store");
            }
            runtime.shutdown_background();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop_now();
    }
}

/// With the port that the system gave, where 0 asks for any.
fn listen(runtime: &Runtime, address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let listener = runtime.block_on(TcpListener::bind(address))?;
    let local = listener.local_addr()?;
    Ok((listener, local))
}

fn open_store(config: &Config, home: Option<Home>) -> Result<(Store, store::Loaded), StartError> {
    let limits = store::Limits {
        entries_per_device: config.missed_calls.entries_max,
        entry_ttl: config.missed_calls.ttl,
        queue: STORE_QUEUE,
    };
    match &config.store.kind {
        StoreKind::File => {
            let (store, loaded) = Embedded::open(&config.node.data_dir, limits, driver::now().unix)?;
            Ok((Store::Embedded(store), loaded))
        }
        StoreKind::Redis(url) => {
            let settings = RedisSettings {
                url: url.clone(),
                timeout: config.store.timeout,
                node: config.node.id.clone(),
                lease: config.node.lease,
                home,
            };
            let (store, loaded) = RedisStore::open(&settings, &config.node.data_dir, limits)?;
            Ok((Store::Redis(store), loaded))
        }
    }
}

fn random() -> Result<u64, StartError> {
    getrandom::u64().map_err(StartError::Random)
}

/// What a peer hears whose stream cannot be framed, before the connection closes (RFC 3261 §18.3).
fn refusal(error: &FramingError) -> Option<bytes::Bytes> {
    let status = match error.kind {
        FramingErrorKind::NotSip => return None,
        FramingErrorKind::HeadTooLarge | FramingErrorKind::MessageTooLarge => 513,
        FramingErrorKind::MissingContentLength
        | FramingErrorKind::BadContentLength
        | FramingErrorKind::ConflictingContentLength => 400,
    };
    let request = Message::parse(error.head.clone(), usize::MAX).ok()?;
    let source = request.top_via()?.response_address()?;
    let answerable = request.is_request() && request.method() != crate::sip::Method::ACK;
    answerable.then(|| response::build(&request, source, status, reason_phrase(status), Some("framing"), |_| {}))
}
