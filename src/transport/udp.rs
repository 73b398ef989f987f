//! Datagrams (RFC 3261 §18), many per system call.
//!
//! Two crates, because each has a sound wrapper of one call: rustix lacks recvmmsg, and nix's sendmmsg tells how many
//! were sent only by way of addresses that it never wrote.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::task::{Context, Poll};

use bytes::Bytes;
use nix::sys::socket::{MsgFlags, MultiHeaders, RecvMsg, SockaddrStorage, recvmmsg};
use rustix::io::Errno;
use rustix::net::addr::SocketAddrArg;
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, SocketAddrAny, sendmmsg};
use tokio::io::Interest;

/// Datagrams per system call. Beyond this the kernel's own work outweighs the call's.
pub const BATCH: usize = 32;
/// A datagram has no more (RFC 3261 §18.1.1).
const DATAGRAM_BYTES_MAX: usize = 65_536;

/// One datagram, with its peer: the source of a received one, the target of one to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    /// Of a received one: its own allocation of just its size, because a held call keeps its INVITE.
    pub bytes: Bytes,
    pub remote: SocketAddr,
}

/// One UDP socket of one worker. It stays with the thread that made it.
#[derive(Debug)]
pub struct UdpSocket {
    socket: tokio::net::UdpSocket,
    local: SocketAddr,
    /// [`BATCH`] places of [`DATAGRAM_BYTES_MAX`]. The kernel backs only what datagrams have touched.
    arena: Box<[u8]>,
    headers: MultiHeaders<SockaddrStorage>,
}

impl UdpSocket {
    /// Takes over a bound, non-blocking socket. To be called within the runtime that will wait for it.
    pub fn new(socket: std::net::UdpSocket) -> io::Result<Self> {
        let socket = tokio::net::UdpSocket::from_std(socket)?;
        Ok(Self {
            local: socket.local_addr()?,
            socket,
            arena: vec![0; BATCH * DATAGRAM_BYTES_MAX].into_boxed_slice(),
            headers: MultiHeaders::preallocate(BATCH, None),
        })
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Ready when there may be something to receive. Safe to drop while waiting.
    pub async fn readable(&self) -> io::Result<()> {
        std::future::poll_fn(|context| self.poll_readable(context)).await
    }

    /// As [`UdpSocket::readable`]; remembers one waiting task.
    pub fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_recv_ready(context)
    }

    /// Appends what has arrived, at most [`BATCH`] datagrams, and says how many. Fewer than a batch means that there
    /// is no more, and that [`UdpSocket::readable`] waits for the next.
    pub fn receive_batch(&mut self, into: &mut Vec<Datagram>) -> io::Result<usize> {
        let Self { socket, arena, headers, .. } = self;
        let mut count = 0;
        let received = socket.try_io(Interest::READABLE, || {
            let mut places = arena.chunks_exact_mut(DATAGRAM_BYTES_MAX);
            let mut slices: [[IoSliceMut<'_>; 1]; BATCH] =
                std::array::from_fn(|_| [IoSliceMut::new(places.next().unwrap_or_default())]);
            let messages = recvmmsg(socket.as_raw_fd(), headers, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None)?;
            for message in messages {
                count += 1;
                into.extend(datagram(&message));
            }
            // A batch that is not full was ended by the empty queue. Saying so saves the system call that would only
            // find that out. A datagram that comes in between is not overlooked: it makes the socket readable anew.
            if count < BATCH { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        match received {
            Err(error) if count == 0 && error.kind() != io::ErrorKind::WouldBlock => Err(error),
            Ok(()) | Err(_) => Ok(count),
        }
    }

    /// Sends datagrams without waiting, and says how many were dropped because the socket's buffer is full: as the
    /// network does, and retransmission makes good (RFC 3261 §17). What failed by itself is added to `failed` with
    /// its index.
    pub fn send_batch(&self, datagrams: &[Datagram], failed: &mut Vec<(usize, io::Error)>) -> usize {
        let mut start = 0;
        for batch in datagrams.chunks(BATCH) {
            if let Err(sent) = self.send_chunk(batch, start, failed) {
                return datagrams.len() - start - sent;
            }
            start += batch.len();
        }
        0
    }

    /// The error is how many datagrams were dealt with when the buffer was full.
    fn send_chunk(&self, batch: &[Datagram], start: usize, failed: &mut Vec<(usize, io::Error)>) -> Result<(), usize> {
        let addresses: Vec<SocketAddrAny> = batch.iter().map(|datagram| datagram.remote.as_any()).collect();
        let slices: Vec<[IoSlice<'_>; 1]> = batch.iter().map(|datagram| [IoSlice::new(&datagram.bytes)]).collect();
        let mut controls: Vec<SendAncillaryBuffer<'_, '_, '_>> = batch.iter().map(|_| Default::default()).collect();
        let mut headers: Vec<MMsgHdr<'_>> = addresses
            .iter()
            .zip(&slices)
            .zip(&mut controls)
            .map(|((address, slice), control)| MMsgHdr::new_with_addr(address, slice, control))
            .collect();
        let mut done = 0;
        while let Some(rest) = headers.get_mut(done..).filter(|rest| !rest.is_empty()) {
            // The call stops before the first datagram that fails; the next call begins with it and tells its error.
            match sendmmsg(&self.socket, rest, SendFlags::DONTWAIT) {
                Ok(sent) => done += sent,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN | Errno::NOBUFS) => return Err(done),
                Err(error) => {
                    failed.push((start + done, error.into()));
                    done += 1;
                }
            }
        }
        Ok(())
    }
}

fn datagram(message: &RecvMsg<'_, '_, SockaddrStorage>) -> Option<Datagram> {
    let address = message.address.as_ref()?;
    let v4 = address.as_sockaddr_in().map(|address| SocketAddr::V4((*address).into()));
    let remote = v4.or_else(|| address.as_sockaddr_in6().map(|address| SocketAddr::V6((*address).into())))?;
    Some(Datagram { bytes: Bytes::copy_from_slice(message.iovs().next().unwrap_or_default()), remote })
}
