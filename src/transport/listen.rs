//! Binding what `sip.listen` names: one UDP socket per worker and address, one TCP listener per address.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;

use socket2::{Domain, Protocol, Socket, Type};

use crate::sip::flow;

/// Asked for; the system may give less. About 4,000 messages: a worker may be away for some 10 ms at full load.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;
const BACKLOG: i32 = 1024;

/// One entry of `sip.listen`, as it came to be: a port that was 0 is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listener {
    pub transport: flow::Transport,
    pub local: SocketAddr,
}

/// All that is bound and not yet read from.
#[derive(Debug)]
pub struct Bound {
    /// In the order of `sip.listen`; a flow's `listener` is the index.
    pub listeners: Arc<[Listener]>,
    /// What each worker takes for itself.
    pub workers: Vec<WorkerSockets>,
    /// For [`super::Connections::start`].
    pub tcp: TcpListeners,
}

/// The TCP listeners, each with its index.
#[derive(Debug)]
pub struct TcpListeners(pub(super) Vec<(u8, TcpListener)>);

/// The UDP sockets of one worker, to be made into a [`super::Transport`] on its own thread.
#[derive(Debug, Default)]
pub struct WorkerSockets {
    pub(super) udp: Vec<(u8, UdpSocket)>,
}

/// Which address could not be bound, and why.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {}:{local}: {error}", transport.uri_name())]
pub struct BindError {
    pub transport: flow::Transport,
    pub local: SocketAddr,
    #[source]
    pub error: io::Error,
}

/// Binds every address, UDP once for each of `workers`.
///
/// A TCP port of 0 becomes the port that UDP got on the same address, when it is free: SIP listens on the same port of
/// both (RFC 3261 §18.2.1).
pub fn bind(listen: &[(flow::Transport, SocketAddr)], workers: usize) -> Result<Bound, BindError> {
    let workers = workers.max(1);
    let mut listeners: Vec<Listener> = Vec::with_capacity(listen.len());
    let mut sockets: Vec<WorkerSockets> = std::iter::repeat_with(WorkerSockets::default).take(workers).collect();
    let mut tcp = Vec::new();
    for (index, &(transport, local)) in (0..=u8::MAX).zip(listen) {
        let failed = |error| BindError { transport, local, error };
        let resolved = match transport {
            flow::Transport::Udp => {
                let bound = bind_udp(local, workers).map_err(failed)?;
                let resolved = bound.first().map_or(Ok(local), UdpSocket::local_addr).map_err(failed)?;
                for (worker, socket) in sockets.iter_mut().zip(bound) {
                    worker.udp.push((index, socket));
                }
                resolved
            }
            flow::Transport::Tcp => {
                let listener = bind_tcp_beside(local, &listeners).map_err(failed)?;
                let resolved = listener.local_addr().map_err(failed)?;
                tcp.push((index, listener));
                resolved
            }
        };
        listeners.push(Listener { transport, local: resolved });
    }
    Ok(Bound { listeners: listeners.into(), workers: sockets, tcp: TcpListeners(tcp) })
}

impl Bound {
    /// Binds the first worker's own socket for refreshes, and says where it is.
    pub fn bind_refresh(&mut self, local: SocketAddr) -> Result<SocketAddr, BindError> {
        let failed = |error| BindError { transport: flow::Transport::Udp, local, error };
        let socket = udp_socket(local, false).map_err(failed)?;
        let resolved = socket.local_addr().map_err(failed)?;
        if let Some(first) = self.workers.first_mut() {
            first.udp.push((flow::REFRESH_LISTENER, socket));
        }
        Ok(resolved)
    }
}

fn bind_udp(local: SocketAddr, workers: usize) -> io::Result<Vec<UdpSocket>> {
    if workers == 1 {
        return Ok(vec![udp_socket(local, false)?]);
    }
    // Sharing an address by SO_REUSEPORT would let a second server on the same machine take half of the datagrams
    // unnoticed. Alone, this socket shows that nobody else is there.
    drop(udp_socket(local, false)?);
    let first = udp_socket(local, true)?;
    let resolved = first.local_addr()?;
    let mut sockets = vec![first];
    for _ in 1..workers {
        sockets.push(udp_socket(resolved, true)?);
    }
    Ok(sockets)
}

fn udp_socket(local: SocketAddr, is_shared: bool) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_port(is_shared)?;
    // Less than asked for is no reason not to start.
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(RECEIVE_BUFFER_BYTES);
    bind_nonblocking(&socket, local)?;
    Ok(socket.into())
}

fn bind_tcp_beside(local: SocketAddr, bound: &[Listener]) -> io::Result<TcpListener> {
    let neighbour = bound
        .iter()
        .find(|listener| listener.transport == flow::Transport::Udp && listener.local.ip() == local.ip())
        .filter(|_| local.port() == 0);
    match neighbour.map(|listener| tcp_listener(listener.local)) {
        Some(Ok(listener)) => Ok(listener),
        Some(Err(_)) | None => tcp_listener(local),
    }
}

fn tcp_listener(local: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(local), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of an earlier run that linger in TIME_WAIT must not keep us from starting.
    socket.set_reuse_address(true)?;
    bind_nonblocking(&socket, local)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn bind_nonblocking(socket: &Socket, local: SocketAddr) -> io::Result<()> {
    if local.is_ipv6() {
        // One listener, one family: addresses mapped from IPv4 would never equal those in headers.
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&local.into())
}
