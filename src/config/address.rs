//! Addresses in the configuration: what to listen on, what to advertise, the next hop, trusted networks.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use crate::sip::flow::Transport;

/// Why a text was not understood; said after the text itself: `is not an address`.
type Wrong = Cow<'static, str>;

/// An address or a name in DNS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    Ip(IpAddr),
    /// In lower case.
    Name(Box<str>),
}

impl fmt::Display for Host {
    /// As in a SIP URI: IPv6 in brackets (RFC 3261 §25.1).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(IpAddr::V4(address)) => address.fmt(f),
            Self::Ip(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// `host[:port]`; IPv6 in brackets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    pub host: Host,
    pub port: Option<u16>,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.host.fmt(f)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// One entry of `sip.listen`. Port 0: any free port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listen {
    pub transport: Transport,
    pub address: SocketAddr,
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.transport.uri_name(), self.address)
    }
}

/// Where requests of phones go: `sip:host[:port][;transport=udp|tcp]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextHop {
    pub address: HostPort,
    /// `None`: chosen by RFC 3263 §4.1.
    pub transport: Option<Transport>,
}

impl fmt::Display for NextHop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sip:{}", self.address)?;
        self.transport.map_or(Ok(()), |transport| write!(f, ";transport={}", transport.uri_name()))
    }
}

/// Where packets for a Homer go: `udp:HOST[:PORT]` or `tcp:HOST[:PORT]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collector {
    pub transport: Transport,
    pub address: HostPort,
}

impl Collector {
    /// Where collectors listen for HEP.
    pub const PORT: u16 = 9060;

    pub fn port(&self) -> u16 {
        self.address.port.unwrap_or(Self::PORT)
    }
}

impl fmt::Display for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.transport.uri_name(), self.address)
    }
}

pub(super) fn host_port(text: &str) -> Result<HostPort, Wrong> {
    let wrong = || Wrong::from("is not a host[:port]; write 192.0.2.10, [2001:db8::1]:5060 or sip.example.org");
    if let Ok(address) = text.parse::<Ipv6Addr>() {
        return Ok(HostPort { host: Host::Ip(address.into()), port: None });
    }
    let port_start = match text.strip_prefix('[') {
        Some(_) => text.find(']').map(|bracket| bracket + 1),
        None => text.find(':').or(Some(text.len())),
    };
    let (host, rest) = port_start.and_then(|at| text.split_at_checked(at)).ok_or_else(wrong)?;
    let port = match rest.strip_prefix(':') {
        Some(digits) => Some(digits.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?),
        None if rest.is_empty() => None,
        None => return Err(wrong()),
    };
    let bracketed = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']'));
    let host = match bracketed {
        Some(inner) => inner.parse().ok().map(|address: Ipv6Addr| Host::Ip(address.into())),
        None => host.parse().ok().map(Host::Ip).or_else(|| domain(host).ok().map(Host::Name)),
    };
    Ok(HostPort { host: host.ok_or_else(wrong)?, port })
}

/// A domain name, put in lower case. An all-numeric last label is no domain (RFC 3261 §25.1, toplabel).
pub(super) fn domain(text: &str) -> Result<Box<str>, Wrong> {
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    let top = text.rsplit('.').next().unwrap_or_default();
    let is_name = text.len() <= 253 && text.split('.').all(is_label) && top.bytes().any(|b| b.is_ascii_alphabetic());
    if is_name { Ok(text.to_ascii_lowercase().into()) } else { Err("is not a domain name such as example.org".into()) }
}

/// The domain of an AOR: a domain name or an address.
pub(super) fn aor_domain(text: &str) -> Result<Box<str>, Wrong> {
    match text.parse::<IpAddr>() {
        Ok(address) => Ok(Host::Ip(address).to_string().into()),
        Err(_) => domain(text),
    }
}

pub(super) fn listen(text: &str) -> Result<Listen, Wrong> {
    let (transport, address) = text.split_once(':').unwrap_or(("", text));
    let transport = match transport {
        "udp" => Transport::Udp,
        "tcp" => Transport::Tcp,
        "tls" | "ws" | "wss" => {
            return Err(
                format!("is not possible in this version: {transport}: is not built in; use udp: or tcp:").into()
            );
        }
        _ => return Err("does not name a transport; write udp:ADDRESS:PORT or tcp:ADDRESS:PORT".into()),
    };
    let address = address.parse().map_err(|_| {
        Wrong::from("does not end in ADDRESS:PORT; write for example udp:0.0.0.0:5060 or tcp:[::]:5060")
    })?;
    Ok(Listen { transport, address })
}

pub(super) fn collector(text: &str) -> Result<Collector, Wrong> {
    let (transport, address) = text.split_once(':').unwrap_or(("", text));
    let transport = match transport {
        "udp" => Transport::Udp,
        "tcp" => Transport::Tcp,
        "tls" => return Err("is not possible in this version: tls: is not built in; use udp: or tcp:".into()),
        _ => return Err("does not name a transport; write udp:HOST:PORT or tcp:HOST:PORT".into()),
    };
    let address = host_port(address).map_err(|_| {
        Wrong::from("does not end in HOST:PORT; write for example udp:192.0.2.60:9060 or tcp:homer.example.org:9060")
    })?;
    Ok(Collector { transport, address })
}

pub(super) fn next_hop(text: &str) -> Result<NextHop, Wrong> {
    if text.starts_with("sips:") {
        return Err("is not possible in this version: TLS is not built in; use sip:".into());
    }
    let wrong = || Wrong::from("is not a next hop; write sip:HOST[:PORT] or sip:HOST[:PORT];transport=tcp");
    let rest = text.strip_prefix("sip:").ok_or_else(wrong)?;
    let (address, parameters) = rest.split_once(';').map_or((rest, None), |(left, right)| (left, Some(right)));
    let transport = match parameters {
        None => None,
        Some("transport=udp") => Some(Transport::Udp),
        Some("transport=tcp") => Some(Transport::Tcp),
        Some("transport=tls" | "transport=ws" | "transport=wss") => {
            return Err("is not possible in this version; use transport=udp or transport=tcp".into());
        }
        Some(_) => return Err(wrong()),
    };
    Ok(NextHop { address: host_port(address).map_err(|_| wrong())?, transport })
}

/// A network or a single address.
pub(super) fn network(text: &str) -> Result<IpNet, Wrong> {
    let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    network
        .map(|network| network.trunc())
        .map_err(|_| Wrong::from("is not a network; write 192.0.2.0/24, 2001:db8::/32 or a single address"))
}

/// Where requests may go that phones ask for: one host, or with `*.` all names below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedHost {
    pub address: HostPort,
    pub is_suffix: bool,
}

impl AllowedHost {
    /// Whether it is this machine.
    pub fn is_loopback(&self) -> bool {
        !self.is_suffix && is_here(&self.address.host)
    }
}

impl fmt::Display for AllowedHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.is_suffix { "*." } else { "" }, self.address)
    }
}

fn is_here(host: &Host) -> bool {
    match host {
        Host::Ip(ip) => ip.is_loopback(),
        Host::Name(name) => &**name == "localhost",
    }
}

/// `push.example.org`, `*.example.org`, each with `:port` where it is another one than that of https.
pub(super) fn allowed_host(text: &str) -> Result<AllowedHost, Wrong> {
    let wrong =
        || Wrong::from("is not a host; write push.example.org, *.example.org (all names below it) or HOST:PORT");
    let (is_suffix, rest) = text.strip_prefix("*.").map_or((false, text), |rest| (true, rest));
    let address = host_port(rest).map_err(|_| wrong())?;
    // Everything below a top level is everything.
    let is_narrow = matches!(&address.host, Host::Name(name) if name.contains('.'));
    if is_suffix && !is_narrow {
        return Err(wrong());
    }
    Ok(AllowedHost { address, is_suffix })
}

/// `push.example.org`, `.example.org` for that and all names below it, an address, or a network.
pub(super) fn no_proxy(text: &str) -> Result<String, Wrong> {
    let is_network = text.parse::<IpNet>().is_ok() || text.parse::<IpAddr>().is_ok();
    let name = host_port(text.strip_prefix('.').unwrap_or(text));
    let is_name = name.is_ok_and(|name| name.port.is_none() && matches!(name.host, Host::Name(_)));
    if is_network || is_name {
        return Ok(text.to_ascii_lowercase());
    }
    Err("is no host; write push.example.org, .example.org (that and all names below it), 192.0.2.7 or 192.0.2.0/24"
        .into())
}

/// Where the operator wants requests to go, path and query included.
pub(super) fn url(text: &str) -> Result<String, Wrong> {
    let wrong = || Wrong::from("is not a URL; write https://HOST[:PORT]/PATH");
    let url = reqwest::Url::parse(text).map_err(|_| wrong())?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() || url.fragment().is_some() {
        return Err(wrong());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("names a user or a password, which would be seen in logs; leave them out".into());
    }
    Ok(url.into())
}

/// The address of an HTTP service, without a slash at its end. Without TLS only on this machine, because secrets go
/// over it.
pub(super) fn service(text: &str) -> Result<String, Wrong> {
    let wrong = || Wrong::from("is not the address of a service; write https://HOST[:PORT]");
    let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let address = host_port(authority).map_err(|_| wrong())?;
    if path.contains(['?', '#', ' ']) {
        return Err(wrong());
    }
    match scheme {
        "https" => Ok(text.trim_end_matches('/').to_owned()),
        "http" if is_here(&address.host) => Ok(text.trim_end_matches('/').to_owned()),
        "http" => Err("would send secrets in the clear; write https:// (http:// only to this machine)".into()),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_ports() {
        for text in ["192.0.2.10", "192.0.2.10:5060", "[2001:db8::1]", "[2001:db8::1]:5060", "sip.example.org:5062"] {
            assert_eq!(host_port(text).map(|parsed| parsed.to_string()), Ok(text.to_owned()));
        }
        assert_eq!(host_port("2001:db8::1").map(|parsed| parsed.to_string()), Ok("[2001:db8::1]".to_owned()));
        for text in ["", ":5060", "192.0.2.300", "a:b", "a:0", "a:70000", "[::1", "[::1]5060", "a b", "-a.org", "a..b"]
        {
            assert!(host_port(text).is_err(), "{text}");
        }
    }

    #[test]
    fn next_hops() {
        for text in ["sip:192.0.2.20:5060", "sip:pbx.example.org", "sip:[::1]:5070;transport=tcp"] {
            assert_eq!(next_hop(text).map(|parsed| parsed.to_string()), Ok(text.to_owned()));
        }
        for text in ["192.0.2.20", "sips:a.example.org", "sip:alice@example.org", "sip:a;lr", "sip:"] {
            assert!(next_hop(text).is_err(), "{text}");
        }
    }

    #[test]
    fn collectors() {
        for (text, port) in [("udp:192.0.2.60", 9060), ("tcp:homer.example.org:9061", 9061), ("udp:[::1]:9060", 9060)] {
            let parsed = collector(text).unwrap();
            assert_eq!((parsed.to_string(), parsed.port()), (text.to_owned(), port));
        }
        for text in ["192.0.2.60:9060", "tls:192.0.2.60:9060", "udp:", "udp:a b:1", "http://h", "udp:h:0"] {
            assert!(collector(text).is_err(), "{text}");
        }
    }

    #[test]
    fn networks_may_be_single_addresses() {
        assert_eq!(network("192.0.2.20").map(|net| net.to_string()), Ok("192.0.2.20/32".to_owned()));
        assert_eq!(network("192.0.2.20/24").map(|net| net.to_string()), Ok("192.0.2.0/24".to_owned()));
        assert!(network("192.0.2.20/33").is_err());
    }

    #[test]
    fn services_use_tls_but_on_this_machine() {
        assert_eq!(service("https://api.push.apple.com/"), Ok("https://api.push.apple.com".to_owned()));
        assert!(service("http://127.0.0.1:8443").is_ok());
        assert!(service("http://192.0.2.1").is_err());
        assert!(service("api.push.apple.com").is_err());
    }
}
