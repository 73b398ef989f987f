//! Transport (RFC 3261 §18): messages in and out, by datagrams and by connections.
//!
//! Each worker has its own [`Transport`]: its UDP sockets, and a handle to the [`Connections`], which all workers
//! share. What comes on a connection, and what became of it, arrives in the worker's inbox as an [`Event`].

mod admission;
mod connections;
mod door;
mod drops;
mod listen;
mod stream;
mod tcp;
pub mod udp;

use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};

use bytes::Bytes;

pub use connections::{Connections, Limits, Settings};
pub use door::Door;
pub use drops::{DropReason, Drops};
pub use listen::{BindError, Bound, Listener, TcpListeners, WorkerSockets, bind};
use stream::Outgoing;
use udp::{Datagram, UdpSocket};

pub use crate::sip::flow::Destination;
use crate::sip::flow::{self, ConnectionId, Flow, REFRESH_LISTENER};
use crate::sip::framing::{DatagramKind, classify};
use crate::sip::stun;

/// A message as it came: one datagram, or one message of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inbound {
    pub flow: Flow,
    pub bytes: Bytes,
}

/// What a worker hears from the transport.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Received(Inbound),
    /// A connection ended. Every worker hears it, after its last message.
    Closed {
        flow: Flow,
    },
    /// Something was sent by a connection that was waited for ([`Connections::expect`]). Every worker hears it.
    Heard {
        flow: Flow,
    },
    /// A message that was given to [`Transport::send`] with this tag did not leave (RFC 3261 §18.4).
    SendFailed {
        tag: u128,
        error: SendError,
    },
}

/// Why a message did not leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    #[error("the connection is closed")]
    NotConnected,
    #[error("the peer cannot be connected to")]
    ConnectFailed,
    #[error("too much is queued for the peer")]
    QueueFull,
    #[error("there are too many connections")]
    Limit,
    /// `sip.listen` has nothing of this transport and address family.
    #[error("no listener for this transport")]
    NoListener,
    #[error("too large for a datagram")]
    TooLarge,
    #[error("the address cannot be reached")]
    Unreachable,
}

/// One worker's way to the network. It stays with the thread that made it.
#[derive(Debug)]
pub struct Transport {
    worker: usize,
    sockets: Vec<Port>,
    connections: Connections,
    failures: Vec<Event>,
    received: Vec<Datagram>,
    refused: Vec<(usize, io::Error)>,
}

/// A UDP socket, and what is to leave by it.
#[derive(Debug)]
struct Port {
    listener: u8,
    socket: UdpSocket,
    outbox: Vec<Datagram>,
    /// Those of `outbox`, in its order.
    tags: Vec<u128>,
}

impl Transport {
    /// Takes over a worker's sockets. To be called on the worker's thread, within its runtime.
    pub fn new(worker: usize, sockets: WorkerSockets, connections: Connections) -> io::Result<Self> {
        let sockets = sockets
            .udp
            .into_iter()
            .map(|(listener, socket)| {
                let socket = UdpSocket::new(socket)?;
                Ok(Port { listener, socket, outbox: Vec::new(), tags: Vec::new() })
            })
            .collect::<io::Result<_>>()?;
        Ok(Self { worker, sockets, connections, failures: Vec::new(), received: Vec::new(), refused: Vec::new() })
    }

    /// Where a listener listens: a port that was configured as 0 is the real one here.
    pub fn local_addr(&self, listener: u8) -> Option<SocketAddr> {
        self.connections.listeners().get(usize::from(listener)).map(|listener| listener.local)
    }

    pub fn connections(&self) -> &Connections {
        &self.connections
    }

    /// Ready when there may be datagrams. Safe to drop while waiting; never ready without UDP listeners.
    pub async fn readable(&self) {
        std::future::poll_fn(|context| self.poll_readable(context)).await;
    }

    fn poll_readable(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut is_ready = false;
        for port in &self.sockets {
            // All of them are asked, so that each wakes this task.
            is_ready |= port.socket.poll_readable(context).is_ready();
        }
        if is_ready { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Appends the SIP messages that have arrived as datagrams, at most [`udp::BATCH`] of each socket, and says how many
    /// datagrams there were: 0 means that [`Transport::readable`] is to be awaited. Keep-alives end here; the
    /// answers to STUN leave with the next [`Transport::flush`].
    pub fn receive(&mut self, into: &mut Vec<Inbound>) -> usize {
        let mut count = 0;
        for port in &mut self.sockets {
            match port.socket.receive_batch(&mut self.received) {
                Ok(received) => count += received,
                Err(error) => tracing::debug!(%error, "cannot receive datagrams"),
            }
            for datagram in self.received.drain(..) {
                if port.listener == REFRESH_LISTENER && !datagram.bytes.starts_with(b"SIP/2.0 ") {
                    // Whom the softswitch trusts by this address must not be asked anything there.
                    self.connections.drops().count(DropReason::RefreshSocket);
                    continue;
                }
                match classify(&datagram.bytes) {
                    DatagramKind::Sip => into.push(port.inbound(datagram)),
                    DatagramKind::KeepAlive => {}
                    DatagramKind::Stun => port.answer_stun(&datagram),
                }
            }
        }
        count
    }

    /// Queues a message. Datagrams leave with [`Transport::flush`]; failures with a `tag` other than 0 are reported
    /// there, or later in the inbox.
    pub fn send(&mut self, destination: Destination, bytes: Bytes, tag: u128) {
        let (transport, listener, remote) = (destination.transport(), destination.listener(), destination.remote());
        let sent = match (transport, destination) {
            (flow::Transport::Udp, _) => self.queue_datagram(listener, Datagram { bytes, remote }, tag),
            (flow::Transport::Tcp, Destination::Flow(flow)) => {
                self.connections.send(flow.connection, Outgoing { bytes, tag, worker: self.worker })
            }
            (flow::Transport::Tcp, Destination::Address { .. }) => {
                self.listener_for(transport, listener, remote).and_then(|listener| {
                    self.connections.send_to(listener, remote, Outgoing { bytes, tag, worker: self.worker })
                })
            }
        };
        if let Err(error) = sent {
            self.fail(tag, error);
        }
    }

    /// Sends the queued datagrams, and appends what has failed since the last call.
    pub fn flush(&mut self, failed: &mut Vec<Event>) {
        for index in 0..self.sockets.len() {
            self.flush_port(index);
        }
        failed.append(&mut self.failures);
    }

    /// Our end of the way to a destination, or of the flow that a message came by. Of a connection that is not open, where
    /// its listener listens; `None` where there is no way.
    pub fn local_of(&self, destination: &Destination) -> Option<SocketAddr> {
        let (listener, remote) = (destination.listener(), destination.remote());
        match destination.transport() {
            flow::Transport::Udp => self
                .port_to(listener, remote)
                .and_then(|index| self.sockets.get(index))
                .map(|port| port.socket.local_addr()),
            transport @ flow::Transport::Tcp => self.connections.local_of(destination).or_else(|| {
                self.listener_for(transport, listener, remote).ok().and_then(|listener| self.local_addr(listener))
            }),
        }
    }

    fn port_to(&self, listener: u8, remote: SocketAddr) -> Option<usize> {
        let suits = |port: &Port| port.socket.local_addr().is_ipv4() == remote.is_ipv4();
        let named = self.sockets.iter().position(|port| port.listener == listener && suits(port));
        if listener == REFRESH_LISTENER {
            return named;
        }
        // A flow of an earlier run may name a listener that the configuration no longer has.
        named.or_else(|| self.sockets.iter().position(|port| port.listener != REFRESH_LISTENER && suits(port)))
    }

    fn queue_datagram(&mut self, listener: u8, datagram: Datagram, tag: u128) -> Result<(), SendError> {
        let Some(index) = self.port_to(listener, datagram.remote) else {
            self.connections.drops().count(DropReason::NotConnected);
            return Err(SendError::NoListener);
        };
        let Some(port) = self.sockets.get_mut(index) else { return Err(SendError::NoListener) };
        port.push(datagram, tag);
        if port.outbox.len() >= udp::BATCH {
            self.flush_port(index);
        }
        Ok(())
    }

    fn flush_port(&mut self, index: usize) {
        let Some(port) = self.sockets.get_mut(index) else { return };
        if port.outbox.is_empty() {
            return;
        }
        let dropped = port.socket.send_batch(&port.outbox, &mut self.refused);
        let drops = self.connections.drops();
        drops.add(DropReason::UdpBufferFull, u64::try_from(dropped).unwrap_or_default());
        for (index, error) in self.refused.drain(..) {
            drops.count(DropReason::UdpSendError);
            let tag = port.tags.get(index).copied().unwrap_or_default();
            if tag != 0 {
                self.failures.push(Event::SendFailed { tag, error: datagram_error(&error) });
            }
        }
        port.outbox.clear();
        port.tags.clear();
    }

    fn listener_for(&self, transport: flow::Transport, listener: u8, remote: SocketAddr) -> Result<u8, SendError> {
        let suits =
            |candidate: &Listener| candidate.transport == transport && candidate.local.is_ipv4() == remote.is_ipv4();
        let listeners = || (0..=u8::MAX).zip(self.connections.listeners()).filter(|(_, candidate)| suits(candidate));
        let named = listeners().find(|(index, _)| *index == listener);
        named.or_else(|| listeners().next()).map(|(index, _)| index).ok_or(SendError::NoListener)
    }

    fn fail(&mut self, tag: u128, error: SendError) {
        if tag != 0 {
            self.failures.push(Event::SendFailed { tag, error });
        }
    }
}

impl Port {
    fn inbound(&self, datagram: Datagram) -> Inbound {
        let flow = Flow {
            transport: flow::Transport::Udp,
            listener: self.listener,
            connection: ConnectionId::NONE,
            remote: datagram.remote,
        };
        Inbound { flow, bytes: datagram.bytes }
    }

    fn answer_stun(&mut self, request: &Datagram) {
        if let Some(bytes) = stun::binding_response(&request.bytes, request.remote) {
            self.push(Datagram { bytes, remote: request.remote }, 0);
        }
    }

    fn push(&mut self, datagram: Datagram, tag: u128) {
        self.outbox.push(datagram);
        self.tags.push(tag);
    }
}

fn datagram_error(error: &io::Error) -> SendError {
    if error.raw_os_error() == Some(rustix::io::Errno::MSGSIZE.raw_os_error()) {
        SendError::TooLarge
    } else {
        SendError::Unreachable
    }
}
