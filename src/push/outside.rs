//! Names that phones choose, below a host that the operator allows (`*.example.org`), lead to public addresses only: else a
//! subscription could have us connect to whatever is inside the operator's network.
//!
//! The check is where the name is resolved, and the connection goes to the very addresses that have passed it.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Resolves names by the system, and leaves out what is not public.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outside;

/// A name that leads inside only.
#[derive(Debug)]
struct Inside;

impl fmt::Display for Inside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("its host has no public address")
    }
}

impl Error for Inside {}

impl Resolve for Outside {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            // Port 0 stands for the one in the URL.
            public(tokio::net::lookup_host((name.as_str(), 0)).await)
        })
    }
}

/// Those of the addresses that are public.
pub(super) fn public(
    found: io::Result<impl Iterator<Item = SocketAddr>>,
) -> Result<Addrs, Box<dyn Error + Send + Sync>> {
    let addresses: Vec<_> = found?.filter(|address| is_public(address.ip())).collect();
    if addresses.is_empty() { Err(Box::new(Inside)) } else { Ok(Box::new(addresses.into_iter())) }
}

/// Whether a request was not sent because its host leads inside.
pub(super) fn leads_inside(error: &reqwest::Error) -> bool {
    let mut source = error.source();
    while let Some(error) = source {
        if error.is::<Inside>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// Whether an address is one of the Internet's, and not of a network of somebody's own (IANA, "Special-Purpose Address
/// Registries").
fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let is_special = match ip.octets() {
        // This network; addresses that carriers' NATs hide (RFC 6598).
        [0, ..] | [100, 64..=127, ..] => true,
        // Of protocols, deprecated 6to4 relays, benchmarks, and what is reserved.
        [192, 0, 0, _] | [192, 88, 99, _] | [198, 18..=19, ..] | [240..=255, ..] => true,
        _ => false,
    };
    let is_somebodys = ip.is_private() || ip.is_loopback() || ip.is_link_local();
    !is_special && !is_somebodys && !ip.is_multicast() && !ip.is_documentation()
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    if let Some(inner) = carried_v4(ip) {
        return is_public_v4(inner);
    }
    match ip.segments() {
        // Teredo and others of protocols; documentation.
        [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] => false,
        [0x3fff, 0..=0xfff, ..] => false,
        // All that is given out (RFC 4291 §2.4): no loopback, no link, no multicast, none of one's own (fc00::/7).
        [0x2000..=0x3fff, ..] => true,
        _ => false,
    }
}

/// The IPv4 address that a host is reached by, in the end: mapped, by NAT64 (RFC 6052 §2.1) or 6to4 (RFC 3056 §2).
fn carried_v4(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let of = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match ip.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(of(high, low)),
        [0x2002, high, low, ..] => Some(of(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use reqwest::Url;

    use super::*;
    use crate::push::client::Client;
    use crate::push::http;
    use crate::push::pushers::Setup;

    #[test]
    fn addresses_of_the_internet_and_others() {
        for ip in [
            "8.8.8.8",
            "172.15.255.255",
            "172.32.0.1",
            "192.167.0.1",
            "100.63.0.1",
            "100.128.0.1",
            "2001:4860:4860::8888",
            "2a00:1450:4001::5",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
            "2002:808:808::1",
        ] {
            assert!(is_public(ip.parse().unwrap()), "{ip}");
        }
        for ip in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.255.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::a00:1",
            "64:ff9b:1::a00:1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::1",
            "fc00::1",
            "fd20:ce::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!is_public(ip.parse().unwrap()), "{ip}");
        }
    }

    /// Answers for every name with these addresses.
    struct Fixed(Vec<SocketAddr>);

    impl Resolve for Fixed {
        fn resolve(&self, _: Name) -> Resolving {
            let found = public(Ok(self.0.clone().into_iter()));
            Box::pin(std::future::ready(found))
        }
    }

    #[test]
    fn only_public_addresses_are_connected_to() {
        let addresses = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<SocketAddr>>();
        let found = public(Ok(addresses(&["10.0.0.1:0", "8.8.8.8:0", "[::1]:0"]).into_iter())).ok().unwrap();
        assert_eq!(found.collect::<Vec<_>>(), addresses(&["8.8.8.8:0"]));
        for inside in [&["127.0.0.1:0"][..], &["10.0.0.1:0", "[fe80::1]:0"], &[]] {
            assert!(public(Ok(addresses(inside).into_iter())).is_err(), "{inside:?}");
        }
    }

    #[tokio::test]
    async fn a_request_to_a_name_that_leads_inside_is_not_sent() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let here = listener.local_addr().unwrap();
        let get = async |client: Client, url: String| client.answer(client.get(Url::parse(&url).unwrap())).await;
        let client = Client::resolving(Arc::new(Fixed(vec![here])), &Setup::default(), &[]).unwrap();
        let error = get(client, format!("http://push.example.org:{}/", here.port())).await.unwrap_err();
        assert!(leads_inside(&error), "{error:?}");
        assert!(http::in_words(error).ends_with("its host has no public address"));
        assert!(listener.accept().is_err(), "somebody has connected");

        drop(listener);
        let client = Client::new(&Setup::default(), &[]).unwrap();
        let error = get(client, format!("http://{here}/")).await.unwrap_err();
        assert!(!leads_inside(&error), "{error:?}");
    }
}
