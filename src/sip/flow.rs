//! Flows: where a message came from, and where an answer can go back to (RFC 5626 §2).

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// The transports that we listen on and send by (RFC 3261 §18).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Transport {
    Udp,
    Tcp,
}

impl Transport {
    /// As in the sent-protocol of a Via.
    pub fn via_name(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
        }
    }

    /// As in the `transport` URI parameter.
    pub fn uri_name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }

    /// A stream neither loses nor reorders, so transactions over it do not retransmit (RFC 3261 §17).
    pub fn is_reliable(self) -> bool {
        self == Self::Tcp
    }
}

/// One accepted or opened connection. Numbers are never used twice, not even by a later run of the program, so a
/// stored flow cannot come to mean somebody else's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ConnectionId(pub u64);

impl ConnectionId {
    /// What a UDP flow has.
    pub const NONE: Self = Self(0);
}

/// The listener number of the socket of `register.refresh_from`. No flow has it: no request comes in there, and nothing of a
/// phone leaves by it.
pub const REFRESH_LISTENER: u8 = u8::MAX;

/// A path on which a message came in and on which another can be sent back.
///
/// UDP: one of our sockets and the peer's source address. TCP: one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Flow {
    pub transport: Transport,
    /// Index into `sip.listen`.
    pub listener: u8,
    pub connection: ConnectionId,
    pub remote: SocketAddr,
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.transport.uri_name(), self.remote)
    }
}

/// Where a message is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Destination {
    /// Back on the flow that something came in on. A closed connection is an error, never reopened.
    Flow(Flow),
    /// To an address: a datagram from the listener's socket, or a connection to it, opened if there is none.
    Address { transport: Transport, listener: u8, remote: SocketAddr },
}

impl Destination {
    pub fn transport(&self) -> Transport {
        match self {
            Self::Flow(flow) => flow.transport,
            Self::Address { transport, .. } => *transport,
        }
    }

    pub fn remote(&self) -> SocketAddr {
        match self {
            Self::Flow(flow) => flow.remote,
            Self::Address { remote, .. } => *remote,
        }
    }

    pub fn listener(&self) -> u8 {
        match self {
            Self::Flow(flow) => flow.listener,
            Self::Address { listener, .. } => *listener,
        }
    }
}
