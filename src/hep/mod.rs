//! Export to a Homer by HEP3: each SIP message on both sides, and the steps of calls between them.
//!
//! ```text
//!   workers ── Tap::take ──► a queue, bounded in items and bytes ──► Exporter: mask, write, send
//! ```
//!
//! A worker never waits: it leaves a reference to bytes that it has anyway, and what finds no room is dropped and
//! counted. All that costs time is the exporter's, a task of its own.

mod exporter;
mod mask;
mod packet;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

pub use exporter::Exporter;
pub use packet::{Agent, Packet, Protocol};

use crate::metrics::{HepResult, Metrics};
use crate::sip::Transport;

/// What may wait to be sent.
const QUEUE: usize = 8192;
const QUEUE_BYTES: usize = 16 << 20;

/// Where packets go, and how.
#[derive(Clone)]
pub struct Settings {
    pub transport: Transport,
    pub host: Box<str>,
    pub port: u16,
    pub agent: Agent,
    /// Push tokens and what proves a password leave as they are.
    pub sends_secrets: bool,
}

/// Something that is to be exported.
#[derive(Debug)]
pub struct Captured {
    /// Since 1970.
    pub at: Duration,
    pub transport: Transport,
    /// One of the two is ours. Where it is a wildcard, the exporter finds the address that the system uses.
    pub source: SocketAddr,
    pub target: SocketAddr,
    pub what: What,
}

#[derive(Debug)]
pub enum What {
    Sip(Bytes),
    /// A step of a call, by the Call-ID of its messages.
    Step {
        call_id: Box<str>,
        json: Box<str>,
    },
}

impl What {
    fn bytes(&self) -> usize {
        match self {
            Self::Sip(bytes) => bytes.len(),
            Self::Step { call_id, json } => call_id.len() + json.len(),
        }
    }
}

/// Where workers leave what is to be exported.
#[derive(Debug)]
pub struct Tap {
    queue: mpsc::Sender<Captured>,
    queued_bytes: Arc<AtomicUsize>,
    metrics: Arc<Metrics>,
}

impl Tap {
    /// With the task that has to run behind it.
    pub fn new(settings: Settings, metrics: Arc<Metrics>) -> (Self, Exporter) {
        let (sender, queue) = mpsc::channel(QUEUE);
        let queued_bytes = Arc::new(AtomicUsize::new(0));
        let exporter = Exporter::new(settings, queue, Arc::clone(&queued_bytes), Arc::clone(&metrics));
        (Self { queue: sender, queued_bytes, metrics }, exporter)
    }

    /// Queues it, unless the queue is full.
    pub fn take(&self, captured: Captured) {
        let bytes = captured.what.bytes();
        let queued = self.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        if queued.saturating_add(bytes) > QUEUE_BYTES || self.queue.try_send(captured).is_err() {
            self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.metrics.hep_packet(HepResult::Dropped);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn settings() -> Settings {
        Settings {
            transport: Transport::Udp,
            host: "127.0.0.1".into(),
            port: 9,
            agent: Agent { capture_id: 1, password: "".into(), node: "".into() },
            sends_secrets: false,
        }
    }

    fn tap() -> (Tap, Exporter, Arc<Metrics>) {
        let metrics = Arc::new(Metrics::new());
        let (tap, exporter) = Tap::new(settings(), Arc::clone(&metrics));
        (tap, exporter, metrics)
    }

    fn captured(bytes: usize) -> Captured {
        let here = SocketAddr::from((Ipv4Addr::LOCALHOST, 5060));
        let what = What::Sip(vec![b'x'; bytes].into());
        Captured { at: Duration::ZERO, transport: Transport::Udp, source: here, target: here, what }
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_counted() {
        let dropped = |metrics: &Metrics| {
            let text = metrics.render();
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix("sip_push_proxy_hep_packets_total{result=\"dropped\"} "));
            line.unwrap().to_owned()
        };
        let (tap, _exporter, metrics) = tap();
        (0..QUEUE + 3).for_each(|_| tap.take(captured(1)));
        assert_eq!(dropped(&metrics), "3");
        let (tap, _exporter, metrics) = self::tap();
        (0..3).for_each(|_| tap.take(captured(QUEUE_BYTES / 2)));
        assert_eq!(dropped(&metrics), "1");
        // What was dropped takes no room.
        assert_eq!(tap.queued_bytes.load(Ordering::Relaxed), QUEUE_BYTES);
    }

    #[tokio::test]
    async fn a_wildcard_is_told_as_the_address_that_the_peer_knows() {
        let collector = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut settings = settings();
        settings.port = collector.local_addr().unwrap().port();
        let (tap, exporter) = Tap::new(settings, Arc::new(Metrics::new()));
        let wildcard = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 5060));
        let what = || What::Sip("OPTIONS sip:h SIP/2.0\r\nCall-ID: c\r\n\r\n".into());
        let step = What::Step { call_id: "c".into(), json: "{}".into() };
        let peer = captured(1).source;
        for (source, target, what) in [(wildcard, peer, what()), (peer, wildcard, what()), (wildcard, wildcard, step)] {
            tap.take(Captured { source, target, what, ..captured(1) });
        }
        // It ends when nobody is left who could have something to send.
        drop(tap);
        exporter.run().await;
        for _ in 0..3 {
            let mut packet = [0; 512];
            let length = collector.recv(&mut packet).await.unwrap();
            // Both addresses, after the chunks of family and protocol.
            let addresses = packet[..length].get(20..40).unwrap();
            assert_eq!(addresses, b"\0\0\0\x03\0\x0a\x7f\0\0\x01\0\0\0\x04\0\x0a\x7f\0\0\x01");
        }
    }
}
