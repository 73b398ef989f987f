//! What the transport did not deliver, counted by reason: `sip_dropped_total{reason}`.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why a message or a connection was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropReason {
    /// A datagram found the socket's send buffer full.
    UdpBufferFull,
    /// The system refused a datagram: too large, or no route.
    UdpSendError,
    /// Over `limits.connections`.
    ConnectionLimit,
    /// Over `limits.source_connections`.
    SourceLimit,
    /// Over `limits.source_requests_per_s`.
    SourceRate,
    /// From a source that is shut out for a while.
    Banned,
    /// A connection could not be opened.
    ConnectFailed,
    /// A message was for a connection, or by a listener, that is not there.
    NotConnected,
    /// A peer that does not read let its queue run full.
    QueueFull,
    /// A stream that is not SIP.
    NotSip,
    /// A stream of SIP that cannot be framed (RFC 3261 §18.3).
    BadFraming,
    /// A message that was not complete in time, or a connection that never said anything.
    PartialTimeout,
    /// A peer that did not take a single byte for too long.
    WriteTimeout,
    /// Anything but a response at the socket of `register.refresh_from`.
    RefreshSocket,
}

impl DropReason {
    pub const ALL: [Self; 14] = [
        Self::UdpBufferFull,
        Self::UdpSendError,
        Self::ConnectionLimit,
        Self::SourceLimit,
        Self::SourceRate,
        Self::Banned,
        Self::ConnectFailed,
        Self::NotConnected,
        Self::QueueFull,
        Self::NotSip,
        Self::BadFraming,
        Self::PartialTimeout,
        Self::WriteTimeout,
        Self::RefreshSocket,
    ];

    /// As in the metric's label.
    pub fn name(self) -> &'static str {
        match self {
            Self::UdpBufferFull => "udp_buffer_full",
            Self::UdpSendError => "udp_send_error",
            Self::ConnectionLimit => "connection_limit",
            Self::SourceLimit => "source_limit",
            Self::SourceRate => "source_rate",
            Self::Banned => "banned",
            Self::ConnectFailed => "connect_failed",
            Self::NotConnected => "not_connected",
            Self::QueueFull => "queue_full",
            Self::NotSip => "not_sip",
            Self::BadFraming => "bad_framing",
            Self::PartialTimeout => "partial_timeout",
            Self::WriteTimeout => "write_timeout",
            Self::RefreshSocket => "refresh_socket",
        }
    }
}

/// One count for each reason, shared by all workers and connections.
#[derive(Debug, Default)]
pub struct Drops([AtomicU64; DropReason::ALL.len()]);

impl Drops {
    pub fn count(&self, reason: DropReason) {
        self.add(reason, 1);
    }

    pub fn add(&self, reason: DropReason, number: u64) {
        if let Some(count) = self.0.get(reason as usize) {
            count.fetch_add(number, Ordering::Relaxed);
        }
    }

    /// Since the start.
    pub fn total(&self, reason: DropReason) -> u64 {
        self.0.get(reason as usize).map_or(0, |count| count.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_count_and_name() {
        let drops = Drops::default();
        for (number, reason) in (1..).zip(DropReason::ALL) {
            drops.add(reason, number);
        }
        for (number, reason) in (1..).zip(DropReason::ALL) {
            assert_eq!(drops.total(reason), number);
            assert_eq!(DropReason::ALL.iter().filter(|other| other.name() == reason.name()).count(), 1);
        }
    }
}
