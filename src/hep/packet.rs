//! A HEP3 packet: who sent what to whom, and when (HEP3 Network Protocol Specification, rev. 37).
//!
//! ```text
//! "HEP3"  length, all of it   chunk  chunk  …        numbers in network order
//!                             └─ vendor 0, type, length with these six bytes, value
//! ```

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::sip::Transport;

/// Most of a name, a password or a correlation id that is sent. No collector keeps longer ones.
const NAME_BYTES_MAX: usize = 256;
/// The length of a packet is told by 16 bits.
pub(super) const PACKET_BYTES_MAX: usize = 65_535;

const FAMILY: u16 = 0x01;
const IP_PROTOCOL: u16 = 0x02;
const SOURCE_V4: u16 = 0x03;
const TARGET_V4: u16 = 0x04;
const SOURCE_V6: u16 = 0x05;
const TARGET_V6: u16 = 0x06;
const SOURCE_PORT: u16 = 0x07;
const TARGET_PORT: u16 = 0x08;
const SECONDS: u16 = 0x09;
const MICROSECONDS: u16 = 0x0a;
const PROTOCOL: u16 = 0x0b;
const CAPTURE_ID: u16 = 0x0c;
const AUTH_KEY: u16 = 0x0e;
const PAYLOAD: u16 = 0x0f;
const CORRELATION_ID: u16 = 0x11;
const NODE_NAME: u16 = 0x13;

/// `AF_INET` and `AF_INET6` of Linux.
const FAMILY_V4: u8 = 2;
const FAMILY_V6: u8 = 10;
/// As in an IP header.
const IP_TCP: u8 = 6;
const IP_UDP: u8 = 17;

/// What a payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Sip,
    /// A line of a log, in JSON.
    Log,
}

impl Protocol {
    fn number(self) -> u8 {
        match self {
            Self::Sip => 1,
            Self::Log => 100,
        }
    }
}

/// Who sends packets: the same in each of them.
#[derive(Clone)]
pub struct Agent {
    pub capture_id: u32,
    /// Tells the collector that we may send. Empty: none.
    pub password: Box<str>,
    pub node: Box<str>,
}

/// What one packet tells.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    /// Since 1970.
    pub at: Duration,
    pub transport: Transport,
    pub source: SocketAddr,
    pub target: SocketAddr,
    pub protocol: Protocol,
    /// What belongs together has the same one. Empty: none.
    pub correlation: &'a [u8],
    pub payload: &'a [u8],
}

impl Packet<'_> {
    /// Appends the packet, with as much of its payload as fits into `bytes_max`. Whether that is all of it.
    pub fn write(&self, agent: &Agent, bytes_max: usize, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        out.extend_from_slice(b"HEP3\0\0");
        self.write_addresses(out);
        let micros = self.at.subsec_micros();
        chunk(out, SECONDS, &u32::try_from(self.at.as_secs()).unwrap_or(u32::MAX).to_be_bytes());
        chunk(out, MICROSECONDS, &micros.to_be_bytes());
        chunk(out, PROTOCOL, &[self.protocol.number()]);
        chunk(out, CAPTURE_ID, &agent.capture_id.to_be_bytes());
        name(out, NODE_NAME, agent.node.as_bytes());
        name(out, AUTH_KEY, agent.password.as_bytes());
        name(out, CORRELATION_ID, self.correlation);
        let room = bytes_max.min(PACKET_BYTES_MAX).saturating_sub(out.len() - start + CHUNK_HEAD_BYTES);
        let payload = self.payload.get(..room).unwrap_or(self.payload);
        chunk(out, PAYLOAD, payload);
        let length = length(out.len() - start);
        if let Some(place) = out.get_mut(start + 4..start + 6) {
            place.copy_from_slice(&length);
        }
        payload.len() == self.payload.len()
    }

    fn write_addresses(&self, out: &mut Vec<u8>) {
        let transport = match self.transport {
            Transport::Udp => IP_UDP,
            Transport::Tcp => IP_TCP,
        };
        match (self.source.ip(), self.target.ip()) {
            (IpAddr::V4(source), IpAddr::V4(target)) => {
                chunk(out, FAMILY, &[FAMILY_V4]);
                chunk(out, IP_PROTOCOL, &[transport]);
                chunk(out, SOURCE_V4, &source.octets());
                chunk(out, TARGET_V4, &target.octets());
            }
            (source, target) => {
                chunk(out, FAMILY, &[FAMILY_V6]);
                chunk(out, IP_PROTOCOL, &[transport]);
                chunk(out, SOURCE_V6, &octets_v6(source));
                chunk(out, TARGET_V6, &octets_v6(target));
            }
        }
        chunk(out, SOURCE_PORT, &self.source.port().to_be_bytes());
        chunk(out, TARGET_PORT, &self.target.port().to_be_bytes());
    }
}

/// Vendor, type and length.
const CHUNK_HEAD_BYTES: usize = 6;

fn chunk(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&length(CHUNK_HEAD_BYTES + value.len()));
    out.extend_from_slice(value);
}

/// A chunk that is left out when there is nothing to tell.
fn name(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    if !value.is_empty() {
        chunk(out, kind, value.get(..NAME_BYTES_MAX).unwrap_or(value));
    }
}

fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes()
}

fn octets_v6(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(password: &str) -> Agent {
        Agent { capture_id: 2001, password: password.into(), node: "n1".into() }
    }

    fn packet<'a>(source: &str, target: &str, payload: &'a [u8]) -> Packet<'a> {
        Packet {
            at: Duration::new(1_700_000_000, 123_456_789),
            transport: Transport::Udp,
            source: source.parse().unwrap(),
            target: target.parse().unwrap(),
            protocol: Protocol::Sip,
            correlation: b"c@h",
            payload,
        }
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<_> = text.split_whitespace().collect();
        digits.iter().map(|digits| u8::from_str_radix(digits, 16).unwrap()).collect()
    }

    #[test]
    fn packet_is_made_of_these_bytes() {
        let mut out = b"before".to_vec();
        assert!(packet("192.0.2.1:5060", "198.51.100.7:40000", b"ACK").write(&agent("pw"), 9999, &mut out));
        let expected = hex("48 45 50 33  00 7f \
             00 00  00 01  00 07  02 \
             00 00  00 02  00 07  11 \
             00 00  00 03  00 0a  c0 00 02 01 \
             00 00  00 04  00 0a  c6 33 64 07 \
             00 00  00 07  00 08  13 c4 \
             00 00  00 08  00 08  9c 40 \
             00 00  00 09  00 0a  65 53 f1 00 \
             00 00  00 0a  00 0a  00 01 e2 40 \
             00 00  00 0b  00 07  01 \
             00 00  00 0c  00 0a  00 00 07 d1 \
             00 00  00 13  00 08  6e 31 \
             00 00  00 0e  00 08  70 77 \
             00 00  00 11  00 09  63 40 68 \
             00 00  00 0f  00 09  41 43 4b");
        assert_eq!(out.strip_prefix(b"before"), Some(&*expected));
    }

    #[test]
    fn log_over_tcp_and_ipv6_without_password_is_made_of_these_bytes() {
        let mut out = Vec::new();
        let log = Packet {
            transport: Transport::Tcp,
            protocol: Protocol::Log,
            correlation: b"",
            ..packet("[2001:db8::1]:5060", "[2001:db8::2]:1", b"{}")
        };
        assert!(log.write(&agent(""), 9999, &mut out));
        let expected = hex("48 45 50 33  00 85 \
             00 00  00 01  00 07  0a \
             00 00  00 02  00 07  06 \
             00 00  00 05  00 16  20 01 0d b8 00 00 00 00 00 00 00 00 00 00 00 01 \
             00 00  00 06  00 16  20 01 0d b8 00 00 00 00 00 00 00 00 00 00 00 02 \
             00 00  00 07  00 08  13 c4 \
             00 00  00 08  00 08  00 01 \
             00 00  00 09  00 0a  65 53 f1 00 \
             00 00  00 0a  00 0a  00 01 e2 40 \
             00 00  00 0b  00 07  64 \
             00 00  00 0c  00 0a  00 00 07 d1 \
             00 00  00 13  00 08  6e 31 \
             00 00  00 0f  00 08  7b 7d");
        assert_eq!(out, expected);
    }

    #[test]
    fn payload_is_cut_to_what_fits() {
        for (bytes_max, length) in [(65_507, 65_507), (usize::MAX, PACKET_BYTES_MAX)] {
            let mut out = Vec::new();
            let payload = vec![b'x'; 65_535];
            assert!(!packet("192.0.2.1:1", "192.0.2.2:2", &payload).write(&agent("pw"), bytes_max, &mut out));
            assert_eq!(out.len(), length);
            assert_eq!(usize::from(u16::from_be_bytes([out[4], out[5]])), length);
        }
        // Names are cut, too, so that there is always room.
        let long = "n".repeat(70_000);
        let mut out = Vec::new();
        let correlated = Packet { correlation: long.as_bytes(), ..packet("192.0.2.1:1", "192.0.2.2:2", b"ACK") };
        assert!(correlated.write(&Agent { node: long.as_str().into(), ..agent(&long) }, 65_507, &mut out));
        assert!(out.ends_with(b"\x00\x00\x00\x0f\x00\x09ACK") && out.len() < 1000);
    }
}
