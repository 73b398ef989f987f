//! The one task that sends packets: by datagrams, or by a connection that it opens again when it ends.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket, lookup_host};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::mask::masked;
use super::packet::{PACKET_BYTES_MAX, Packet, Protocol};
use super::{Captured, Settings, What};
use crate::metrics::{HepResult, Metrics};
use crate::sip::{Message, Transport};

/// More does not fit into a datagram of IPv4.
const DATAGRAM_BYTES_MAX: usize = 65_507;
/// Packets of one write to a connection, in bytes.
const BATCH_BYTES: usize = 64 * 1024;
/// How often the collector's name is looked up again while datagrams go to it.
const LOOK_UP_EVERY: Duration = Duration::from_secs(60);
const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For which the collector may take nothing.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Before the collector is tried again: the first time, and at most.
const PAUSE: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Peers for whom the address is remembered that the system reaches them from.
const ROUTES: usize = 1024;

/// Sends what workers leave, until they are gone.
pub struct Exporter {
    settings: Settings,
    queue: mpsc::Receiver<Captured>,
    queued_bytes: Arc<AtomicUsize>,
    metrics: Arc<Metrics>,
    /// Of the collector, as of the last time that its name led somewhere.
    addresses: Vec<SocketAddr>,
    /// The address of ours by which the system reaches a peer.
    routes: HashMap<IpAddr, IpAddr>,
    is_away: bool,
}

/// Why a way to the collector is used no longer.
enum End {
    /// There will be nothing more to send.
    Finished,
    /// Its name is to be looked up again.
    LookUp,
    Lost(io::Error),
}

/// How many packets of a batch were whole.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    whole: u64,
    cut: u64,
}

impl Exporter {
    pub(super) fn new(
        settings: Settings,
        queue: mpsc::Receiver<Captured>,
        queued_bytes: Arc<AtomicUsize>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let (addresses, routes) = (Vec::new(), HashMap::new());
        Self { settings, queue, queued_bytes, metrics, addresses, routes, is_away: false }
    }

    /// Works until nobody is left who could have something to send.
    pub async fn run(mut self) {
        let mut pause = PAUSE;
        loop {
            let end = match self.settings.transport {
                Transport::Udp => self.send_datagrams().await,
                Transport::Tcp => self.send_stream(&mut pause).await,
            };
            match end {
                Ok(End::Finished) => return,
                Ok(End::LookUp) => pause = PAUSE,
                Ok(End::Lost(error)) | Err(error) => {
                    self.is_lost(&error);
                    // What comes meanwhile waits in the queue, as much as it takes.
                    tokio::time::sleep(pause).await;
                    pause = pause.saturating_mul(2).min(PAUSE_MAX);
                }
            }
        }
    }

    fn is_lost(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.is_away, true) {
            let Settings { host, port, .. } = &self.settings;
            tracing::warn!(%error, "hep.server {host}:{port} cannot be reached; what finds no room in the queue meanwhile is dropped");
        }
    }

    fn is_found(&mut self, address: SocketAddr) {
        if std::mem::take(&mut self.is_away) {
            tracing::info!(%address, "hep.server can be reached again");
        }
    }

    /// Where the collector is by its name, or else where it was.
    async fn look_up(&mut self) -> io::Result<()> {
        let name = (&*self.settings.host, self.settings.port);
        let found =
            timeout(LOOK_UP_TIMEOUT, lookup_host(name)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        match found.map(Iterator::collect::<Vec<_>>) {
            Ok(addresses) if !addresses.is_empty() => self.addresses = addresses,
            Ok(_) | Err(_) if !self.addresses.is_empty() => {}
            Ok(_) => return Err(io::Error::other("the name has no address")),
            Err(error) => return Err(error),
        }
        self.routes.clear();
        Ok(())
    }

    async fn send_datagrams(&mut self) -> io::Result<End> {
        self.look_up().await?;
        let (socket, collector) = self.open_socket().await?;
        let until = Instant::now() + LOOK_UP_EVERY;
        let mut has_failed = false;
        let mut batch = Batch::default();
        while let Some(captured) = self.queue.recv().await {
            batch.clear();
            self.write(captured, collector, DATAGRAM_BYTES_MAX, &mut batch);
            match socket.send(&batch.bytes).await {
                Ok(_) => self.count_sent(&batch),
                // The network said that an earlier one did not arrive, or there is no way to the collector.
                Err(error) => {
                    self.count_dropped(&batch);
                    self.is_lost(&error);
                    has_failed = true;
                }
            }
            if Instant::now() >= until {
                if !has_failed {
                    self.is_found(collector);
                }
                return Ok(End::LookUp);
            }
        }
        Ok(End::Finished)
    }

    async fn open_socket(&self) -> io::Result<(UdpSocket, SocketAddr)> {
        let mut last = io::Error::other("no address");
        for address in &self.addresses {
            let socket = UdpSocket::bind((wildcard(address.ip()), 0)).await?;
            match socket.connect(address).await {
                Ok(()) => return Ok((socket, *address)),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn send_stream(&mut self, pause: &mut Duration) -> io::Result<End> {
        self.look_up().await?;
        let (mut stream, collector) = self.open_stream().await?;
        self.is_found(collector);
        let (mut reader, mut writer) = stream.split();
        let (mut batch, mut ignored) = (Batch::default(), [0; 512]);
        loop {
            let first = tokio::select! {
                captured = self.queue.recv() => captured,
                // A collector says nothing; that it closes is seen here.
                read = reader.read(&mut ignored) => match read {
                    Ok(1..) => continue,
                    Ok(0) => return Ok(End::Lost(io::ErrorKind::ConnectionReset.into())),
                    Err(error) => return Ok(End::Lost(error)),
                },
            };
            let Some(first) = first else { return Ok(End::Finished) };
            batch.clear();
            self.write(first, collector, PACKET_BYTES_MAX, &mut batch);
            while batch.bytes.len() < BATCH_BYTES
                && let Ok(next) = self.queue.try_recv()
            {
                self.write(next, collector, PACKET_BYTES_MAX, &mut batch);
            }
            let written = timeout(WRITE_TIMEOUT, writer.write_all(&batch.bytes)).await;
            if let Err(error) = written.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                // How much of it arrived is not known, and half a packet cannot be gone on with.
                self.count_dropped(&batch);
                return Ok(End::Lost(error));
            }
            self.count_sent(&batch);
            *pause = PAUSE;
        }
    }

    async fn open_stream(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let mut last = io::Error::other("no address");
        for address in &self.addresses {
            match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok((stream, *address)),
                Ok(Err(error)) => last = error,
                Err(_) => last = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(last)
    }

    fn write(&mut self, captured: Captured, collector: SocketAddr, bytes_max: usize, batch: &mut Batch) {
        self.queued_bytes.fetch_sub(captured.what.bytes(), Ordering::Relaxed);
        let Captured { at, transport, source, target, what } = captured;
        let source = self.real(source, target, collector);
        let target = self.real(target, source, collector);
        let mut write = |protocol, correlation: &[u8], payload: &[u8]| {
            let packet = Packet { at, transport, source, target, protocol, correlation, payload };
            if packet.write(&self.settings.agent, bytes_max, &mut batch.bytes) {
                batch.whole += 1;
            } else {
                batch.cut += 1;
            }
        };
        match what {
            What::Step { call_id, json } => write(Protocol::Log, call_id.as_bytes(), json.as_bytes()),
            What::Sip(bytes) => match Message::parse(bytes, usize::MAX) {
                Ok(message) if self.settings.sends_secrets => write(Protocol::Sip, message.call_id(), message.bytes()),
                Ok(message) => write(Protocol::Sip, message.call_id(), &masked(&message)),
                // Workers leave only what they could parse.
                Err(_) => self.metrics.hep_packet(HepResult::Dropped),
            },
        }
    }

    /// An address of ours, as a peer knows it: where we listen on a wildcard, the system chooses one for each peer.
    fn real(&mut self, ours: SocketAddr, peer: SocketAddr, collector: SocketAddr) -> SocketAddr {
        if !ours.ip().is_unspecified() {
            return ours;
        }
        let peer = if peer.ip().is_unspecified() { collector.ip() } else { peer.ip() };
        if self.routes.len() >= ROUTES {
            self.routes.clear();
        }
        let found = *self.routes.entry(peer).or_insert_with(|| route_to(peer).unwrap_or_else(|_| ours.ip()));
        SocketAddr::new(found, ours.port())
    }

    fn count_sent(&self, batch: &Batch) {
        self.metrics.hep_packets(HepResult::Sent, batch.whole);
        self.metrics.hep_packets(HepResult::Cut, batch.cut);
    }

    fn count_dropped(&self, batch: &Batch) {
        self.metrics.hep_packets(HepResult::Dropped, batch.whole + batch.cut);
    }
}

impl Batch {
    fn clear(&mut self) {
        self.bytes.clear();
        (self.whole, self.cut) = (0, 0);
    }
}

fn wildcard(family: IpAddr) -> IpAddr {
    match family {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// From which address the system would send to a peer. Nothing is sent.
fn route_to(peer: IpAddr) -> io::Result<IpAddr> {
    let socket = std::net::UdpSocket::bind((wildcard(peer), 0))?;
    socket.connect((peer, 9))?;
    Ok(socket.local_addr()?.ip())
}
