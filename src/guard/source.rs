//! What counts as one source of messages.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// An IPv4 address, or the /64 that one IPv6 subscriber has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source(IpAddr);

/// A text that names no source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no source; write an address such as 192.0.2.1, or 2001:db8::/64")]
pub struct NoSource;

impl Source {
    pub fn of(peer: IpAddr) -> Self {
        Self(match peer.to_canonical() {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        })
    }

    /// For hashes with a key.
    pub(super) fn octets(self) -> [u8; 16] {
        match self.0 {
            IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
            IpAddr::V6(address) => address.octets(),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(address) => address.fmt(f),
            IpAddr::V6(address) => write!(f, "{address}/64"),
        }
    }
}

impl FromStr for Source {
    type Err = NoSource;

    /// As it is shown, or any address of it.
    fn from_str(text: &str) -> Result<Self, NoSource> {
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let peer: IpAddr = address.parse().map_err(|_| NoSource)?;
        let whole = if peer.is_ipv4() { "32" } else { "64" };
        if bits.is_none_or(|bits| bits == whole) { Ok(Self::of(peer)) } else { Err(NoSource) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_subscriber_is_one_source() {
        for (peer, shown) in [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8::1", "2001:db8::/64"),
            ("2001:db8::ffff:2", "2001:db8::/64"),
            ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ] {
            let source = Source::of(peer.parse().unwrap());
            assert_eq!(source.to_string(), shown);
            assert_eq!((shown.parse(), peer.parse()), (Ok(source), Ok(source)));
        }
    }

    #[test]
    fn what_names_no_source() {
        for text in ["", "alice", "192.0.2.0/24", "2001:db8::/48", "2001:db8::/128", "192.0.2.1:5060", "192.0.2.1/"] {
            assert_eq!(text.parse::<Source>(), Err(NoSource), "{text}");
        }
    }
}
