//! All connections: who may send on which, opened once for each peer, and where their messages go.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use dashmap::DashMap;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use super::admission::{Admission, Admitted};
use super::door::Door;
use super::drops::{DropReason, Drops};
use super::listen::{Listener, TcpListeners};
use super::stream::{Connection, Link, Outgoing};
use super::{Event, Inbound, SendError, tcp};
use crate::sip::flow::{ConnectionId, Destination, Flow, Transport};
use crate::sip::framing::{FramingError, FramingLimits};

/// Connection numbers of one run begin at its start in milliseconds, so many bits up: a later run begins higher.
const RUN_SHIFT: u32 = 20;

/// What the connections are told at the start.
#[derive(Debug, Clone)]
pub struct Settings {
    pub limits: Limits,
    pub framing: FramingLimits,
    /// Which worker a message from a peer belongs to, who is trusted or not; taken modulo their number.
    pub worker_of: fn(&Bytes, SocketAddr, bool) -> usize,
    /// The answer to what could not be framed, sent before its connection is closed (RFC 3261 §18.3).
    pub refusal: fn(&FramingError) -> Option<Bytes>,
    pub door: Arc<dyn Door>,
}

/// How many, how much, how long.
#[derive(Debug, Clone)]
pub struct Limits {
    /// `limits.connections`, accepted and opened.
    pub connections: usize,
    /// `limits.source_connections`: accepted from one source that is not trusted.
    pub connections_per_source: usize,
    /// From the first byte of a message to its last.
    pub partial_timeout: Duration,
    /// From the start of a connection to its first message or ping.
    pub silent_timeout: Duration,
    /// For which a peer may take nothing that is written to it.
    pub write_timeout: Duration,
    pub connect_timeout: Duration,
    /// Queued for one peer.
    pub queue_messages: usize,
    pub queue_bytes: usize,
}

impl Limits {
    /// The defaults, around `limits.connections`. All of them may be from one source.
    pub fn new(connections: usize) -> Self {
        Self {
            connections,
            connections_per_source: connections,
            partial_timeout: Duration::from_secs(30),
            silent_timeout: Duration::from_secs(120),
            write_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(4),
            queue_messages: 1024,
            queue_bytes: 1 << 20,
        }
    }
}

/// The handle to all connections, the same for all workers.
#[derive(Debug, Clone)]
pub struct Connections(Arc<Shared>);

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) listeners: Arc<[Listener]>,
    pub(super) drops: Drops,
    /// One for each worker.
    pub(super) inboxes: Vec<mpsc::Sender<Event>>,
    stop: watch::Receiver<bool>,
    /// Where the connections' tasks run, whoever opens them.
    runtime: Handle,
    admission: Arc<Admission>,
    next_id: AtomicU64,
    links: DashMap<ConnectionId, Arc<Link>>,
    by_remote: DashMap<(Transport, SocketAddr), ConnectionId>,
}

impl Connections {
    /// Starts to accept. To be called within the runtime that is to serve the connections. They end when `stop` becomes
    /// true or loses its sender; messages and news go to `inboxes`, one for each worker.
    pub fn start(
        settings: Settings,
        listeners: Arc<[Listener]>,
        tcp: TcpListeners,
        inboxes: Vec<mpsc::Sender<Event>>,
        stop: watch::Receiver<bool>,
    ) -> io::Result<Self> {
        let admission = Admission::new(settings.limits.connections, settings.limits.connections_per_source);
        let shared = Arc::new(Shared {
            settings,
            listeners,
            drops: Drops::default(),
            inboxes,
            stop,
            runtime: Handle::current(),
            admission,
            next_id: AtomicU64::new(first_id()),
            links: DashMap::new(),
            by_remote: DashMap::new(),
        });
        for (index, listener) in tcp.0 {
            let listener = TcpListener::from_std(listener)?;
            shared.runtime.spawn(tcp::accept(Arc::clone(&shared), listener, index));
        }
        Ok(Self(shared))
    }

    /// What was bound, in the order of `sip.listen`.
    pub fn listeners(&self) -> &[Listener] {
        &self.0.listeners
    }

    /// What was dropped by the transport, of all kinds.
    pub fn drops(&self) -> &Drops {
        &self.0.drops
    }

    /// Connections that are open, being opened, or being closed.
    pub fn open(&self) -> usize {
        self.0.admission.open()
    }

    /// Our end of a connection, or of the one to a peer; `None`: it is not open.
    pub(super) fn local_of(&self, destination: &Destination) -> Option<SocketAddr> {
        let connection = match destination {
            Destination::Flow(flow) => flow.connection,
            Destination::Address { transport, remote, .. } => *self.0.by_remote.get(&(*transport, *remote))?,
        };
        self.0.links.get(&connection)?.local.get().copied()
    }

    pub fn is_open(&self, connection: ConnectionId) -> bool {
        self.0.links.contains_key(&connection)
    }

    /// Has the workers told when something is sent by a connection: a request that is no REGISTER, or a keep-alive. Once.
    pub fn expect(&self, connection: ConnectionId) {
        if let Some(link) = self.0.links.get(&connection) {
            link.is_expected.store(true, Ordering::Relaxed);
        }
    }

    /// Returns once all connections have ended, each having told the workers. The stop has to be given before.
    pub async fn closed(&self) {
        self.0.admission.empty().await;
    }

    /// Opens a connection, or finds the one that is there: its flow may be used at once, messages wait for it.
    pub fn connect(&self, listener: u8, remote: SocketAddr) -> Result<Flow, SendError> {
        self.0.link_to(listener, remote).map(|link| link.flow)
    }

    /// Queues a message on an open connection.
    pub(super) fn send(&self, connection: ConnectionId, outgoing: Outgoing) -> Result<(), SendError> {
        let link = self.0.links.get(&connection).map(|link| Arc::clone(&link));
        self.0.send(link.ok_or(SendError::NotConnected), outgoing)
    }

    /// Queues a message on the connection to `remote`, which is opened unless it is there.
    pub(super) fn send_to(&self, listener: u8, remote: SocketAddr, outgoing: Outgoing) -> Result<(), SendError> {
        self.0.send(self.0.link_to(listener, remote), outgoing)
    }
}

impl Shared {
    /// Returns when the server stops.
    pub(super) async fn stopped(&self) {
        // Without a sender there is nobody left to serve for.
        let _ = self.stop.clone().wait_for(|stop| *stop).await;
    }

    fn send(&self, link: Result<Arc<Link>, SendError>, outgoing: Outgoing) -> Result<(), SendError> {
        let sent = link.and_then(|link| link.send(outgoing));
        if sent == Err(SendError::NotConnected) {
            self.drops.count(DropReason::NotConnected);
        }
        sent
    }

    /// Serves a connection that a peer opened, or closes it when there are too many.
    pub(super) fn accepted<S>(
        self: &Arc<Self>,
        stream: S,
        listener: u8,
        (local, remote): (Option<SocketAddr>, SocketAddr),
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        match self.admit(remote.ip()) {
            Ok(place) => {
                let (connection, link) = self.connection(listener, remote, place);
                link.is_at(local);
                self.by_remote.insert((link.flow.transport, remote), link.flow.connection);
                self.runtime.spawn(connection.serve(stream));
            }
            Err(reason) => self.drops.count(reason),
        }
    }

    fn admit(&self, peer: IpAddr) -> Result<Admitted, DropReason> {
        let door = &self.settings.door;
        if door.is_trusted(peer) {
            return self.admission.admit_trusted(peer);
        }
        door.admits_connection(peer)?;
        self.admission.admit(peer)
    }

    /// The connection to a peer. Whoever asks first opens it; all others queue on it.
    fn link_to(self: &Arc<Self>, listener: u8, remote: SocketAddr) -> Result<Arc<Link>, SendError> {
        let local = self.listeners.get(usize::from(listener)).ok_or(SendError::NoListener)?;
        let peer = (local.transport, remote);
        let mut known = self.by_remote.entry(peer).or_insert(ConnectionId::NONE);
        if let Some(link) = self.links.get(&known) {
            return Ok(Arc::clone(&link));
        }
        let Ok(place) = self.admission.admit_trusted(remote.ip()) else {
            drop(known);
            self.by_remote.remove_if(&peer, |_, connection| *connection == ConnectionId::NONE);
            self.drops.count(DropReason::ConnectionLimit);
            return Err(SendError::Limit);
        };
        let (connection, link) = self.connection(listener, remote, place);
        *known = link.flow.connection;
        let (local, opened) = (local.local, Arc::clone(&link));
        self.runtime.spawn(connection.open(async move {
            let stream = tcp::connect(local, remote).await?;
            opened.is_at(stream.local_addr().ok());
            Ok(stream)
        }));
        Ok(link)
    }

    fn connection(self: &Arc<Self>, listener: u8, remote: SocketAddr, place: Admitted) -> (Connection, Arc<Link>) {
        let connection = ConnectionId(self.next_id.fetch_add(1, Ordering::Relaxed));
        let flow = Flow { transport: Transport::Tcp, listener, connection, remote };
        let (connection, link) = Connection::new(Arc::clone(self), flow, place);
        self.links.insert(flow.connection, Arc::clone(&link));
        (connection, link)
    }

    /// Tells the workers of a sign of life that one of them waits for. Where a worker has no room the next sign has to do.
    pub(super) fn tell_heard(&self, link: &Link) {
        link.is_expected.store(false, Ordering::Relaxed);
        let told = self.inboxes.iter().map(|inbox| inbox.try_send(Event::Heard { flow: link.flow }).is_ok());
        if told.filter(|is_told| !is_told).count() > 0 {
            link.is_expected.store(true, Ordering::Relaxed);
        }
    }

    /// Makes a connection unknown to senders.
    pub(super) fn forget(&self, link: &Link) {
        let flow = link.flow;
        self.links.remove(&flow.connection);
        self.by_remote.remove_if(&(flow.transport, flow.remote), |_, connection| *connection == flow.connection);
    }

    /// Hands a message to its worker, waiting for room; false when the worker has ended.
    pub(super) async fn deliver(&self, inbound: Inbound) -> bool {
        let remote = inbound.flow.remote;
        let worker = match self.inboxes.len() {
            1 => 0,
            _ => (self.settings.worker_of)(&inbound.bytes, remote, self.settings.door.is_trusted(remote.ip())),
        };
        match self.inboxes.get(worker % self.inboxes.len().max(1)) {
            Some(inbox) => inbox.send(Event::Received(inbound)).await.is_ok(),
            None => false,
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "once, at the start; tells this run's connections from an earlier run's")]
fn first_id() -> u64 {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX >> RUN_SHIFT) << RUN_SHIFT
}
