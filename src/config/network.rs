//! `[node]`, `[sip]` and `[softswitch]`: who we are, where we listen, where calls come from.

use std::borrow::Cow;
use std::net::IpAddr;
use std::path::PathBuf;
use std::thread::available_parallelism;
use std::time::Duration;

use ipnet::IpNet;

use super::address::{self, Host, HostPort, Listen, NextHop};
use super::section::Section;
use crate::sip::HeaderName;
use crate::sip::flow::Transport;

/// `[node]`: this one among the nodes of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Stable across restarts.
    pub id: String,
    /// By what the other nodes of a shared store reach this one, where that is not what `sip.advertise` says; an
    /// address, never a name.
    pub address: Option<HostPort>,
    /// Where the embedded store and the journal live; made at start if it is not there.
    pub data_dir: PathBuf,
    /// How long a node of a shared store may be silent before others take over its held calls.
    pub lease: Duration,
    /// How long a stopping node waits for its held calls.
    pub drain: Duration,
}

impl Node {
    pub(super) fn read(section: &Section<'_>, sip: &Sip, is_shared: bool) -> Self {
        let id = section.bare("id").map(str::to_owned).or_else(host_name).unwrap_or_else(|| "node-1".to_owned());
        if id.len() > 64 || !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)) {
            section.wrong("id", format_args!("{id:?} is no name of a node; use up to 64 of A-Z a-z 0-9 . _ -"));
        }
        let address = section.bare("address").and_then(|text| {
            section.parsed("address", text, |text| match address::host_port(text)? {
                found @ HostPort { host: Host::Ip(_), .. } => Ok(found),
                HostPort { host: Host::Name(_), .. } => Err("is a name; write an address, such as 192.0.2.11".into()),
            })
        });
        let is_named = sip.advertise.as_ref().is_some_and(|advertise| matches!(advertise.host, Host::Name(_)));
        let datagrams = sip.listen.iter().find(|listen| listen.transport == Transport::Udp);
        let is_wildcard =
            datagrams.or_else(|| sip.listen.first()).is_some_and(|listen| listen.address.ip().is_unspecified());
        if is_shared && address.is_none() && is_named && is_wildcard {
            section.wrong(
                "address",
                "needed, because store.url is for several nodes and sip.advertise is a name: the address[:port] by which \
                 the other nodes reach this one, such as \"192.0.2.11\"",
            );
        }
        let data_dir = section.path("data_dir", "./data");
        match &data_dir {
            Some(folder) if folder.exists() && !folder.is_dir() => {
                section.wrong("data_dir", format_args!("{} is not a folder", folder.display()));
            }
            Some(_) => {}
            None => section.wrong("data_dir", "needed: the folder that keeps bindings and held calls"),
        }
        Self {
            id,
            address,
            data_dir: data_dir.unwrap_or_default(),
            lease: section.seconds("lease_s", 10, 1..=3600, ""),
            drain: section.seconds("drain_s", 30, 0..=3600, ""),
        }
    }
}

/// Not one that SIP itself works by.
fn stripped_header(name: &str) -> Result<Box<str>, Cow<'static, str>> {
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return Err("is not the name of a header; write for example \"P-Asserted-Identity\"".into());
    }
    let asserted = [HeaderName::Other, HeaderName::PAssertedIdentity, HeaderName::UserAgent, HeaderName::Timestamp];
    if !asserted.contains(&HeaderName::of(name.as_bytes())) {
        return Err("is what SIP itself works by; leave it out".into());
    }
    Ok(name.to_lowercase().into())
}

fn host_name() -> Option<String> {
    nix::unistd::gethostname().ok()?.into_string().ok().filter(|name| !name.is_empty())
}

/// `[sip]`: sockets and timers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sip {
    /// At least one, at most 255 (a flow names its listener in one byte, and one number is taken).
    pub listen: Vec<Listen>,
    /// What stands for us in Via, Record-Route, Path and alias; `None`: the address of each listener.
    pub advertise: Option<HostPort>,
    /// Further host names that are ours, in lower case.
    pub names: Vec<Box<str>>,
    /// At least 1; `sip.workers = 0` has become the number of processors.
    pub workers: usize,
    /// Requests that are larger go to addresses by TCP first (RFC 3261 §18.1.1); 0: never.
    pub datagram_bytes_max: usize,
    /// RTT estimate that the transaction timers derive from (RFC 3261 §17.1.1.1).
    pub t1: Duration,
    /// How long a forwarded INVITE may go without a final response (RFC 3261 §16.6 step 11).
    pub timer_c: Duration,
}

impl Sip {
    pub(super) fn read(section: &Section<'_>) -> Self {
        let listen = read_listen(section);
        let advertise = section.bare("advertise");
        if let (None, Some(wildcard)) = (advertise, listen.iter().find(|listen| listen.address.ip().is_unspecified())) {
            let text = format!(
                "needed, because sip.listen has the wildcard {wildcard}: the host[:port] by which phones and the \
                 softswitch reach this node, such as \"192.0.2.10\""
            );
            section.wrong("advertise", text);
        }
        let workers = section.integer("workers", 0, 0..=256);
        let workers = usize::try_from(workers).unwrap_or_default();
        Self {
            listen,
            names: section.list("names", Some(&[]), address::aor_domain).unwrap_or_default(),
            advertise: advertise.and_then(|text| section.parsed("advertise", text, address::host_port)),
            workers: if workers == 0 { available_parallelism().map_or(1, usize::from) } else { workers },
            datagram_bytes_max: section.count("datagram_bytes_max", 1300, 0..=65_535),
            t1: section.millis("t1_ms", 500, 1..=60_000),
            timer_c: section.seconds("timer_c_s", 185, 1..=3600, ""),
        }
    }
}

const LISTEN_MAX: usize = crate::sip::flow::REFRESH_LISTENER as usize;

fn read_listen(section: &Section<'_>) -> Vec<Listen> {
    let mut seen = Vec::new();
    let parse = |text: &str| {
        let listen = address::listen(text)?;
        if listen.address.port() != 0 && seen.contains(&listen) {
            return Err("stands here twice; leave one of them out".into());
        }
        seen.push(listen);
        Ok(listen)
    };
    let listen = section.list("listen", Some(&["udp:0.0.0.0:5060", "tcp:0.0.0.0:5060"]), parse).unwrap_or_default();
    if section.is_empty_list("listen") {
        section.wrong("listen", "the list is empty; name at least one udp:ADDRESS:PORT or tcp:ADDRESS:PORT");
    }
    if listen.len() > LISTEN_MAX {
        section.wrong("listen", format_args!("{} entries are over the limit of {LISTEN_MAX}", listen.len()));
    }
    listen
}

/// `[softswitch]`: whose phones these are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Softswitch {
    /// Next hop for requests of phones; always there in relay mode.
    pub uri: Option<NextHop>,
    /// Only these may call phones; empty: nobody.
    pub trusted: Vec<IpNet>,
    /// Header fields that are taken out of what phones send, in lower case.
    pub strip_headers: Vec<Box<str>>,
}

/// What a network asserts and a phone cannot (RFC 3325 §5, RFC 7315 §4, RFC 5806, RFC 7044).
const ASSERTED: [&str; 6] = [
    "P-Asserted-Identity",
    "Remote-Party-ID",
    "P-Charging-Vector",
    "P-Charging-Function-Addresses",
    "Diversion",
    "History-Info",
];

impl Softswitch {
    pub(super) fn read(section: &Section<'_>, is_relay: bool, sip: &Sip) -> Self {
        let text = section.bare("uri");
        if text.is_none() && is_relay {
            section.wrong(
                "uri",
                "needed in relay mode: where requests of phones go, such as \"sip:192.0.2.20:5060\" \
                 (or set register.mode = \"local\")",
            );
        }
        let uri = text.and_then(|text| section.parsed("uri", text, address::next_hop));
        if let Some(uri) = &uri {
            let transport = uri.transport.unwrap_or(Transport::Udp);
            // A list without a single good entry has been complained of already.
            if !sip.listen.is_empty() && sip.listen.iter().all(|listen| listen.transport != transport) {
                let name = transport.uri_name();
                let text = format!("is reached by {name}, but sip.listen has no {name}: entry to send from; add one");
                section.wrong("uri", text);
            }
        }
        let trusted = section.list("trusted", None, address::network);
        let trusted = trusted.unwrap_or_else(|| match uri.as_ref().map(|uri| &uri.address.host) {
            Some(Host::Ip(address)) => vec![IpNet::from(*address)],
            Some(Host::Name(name)) => {
                let text = format!(
                    "needed, because softswitch.uri has the name {name} and not an address: the networks that may \
                     call phones, such as [\"192.0.2.20/32\"]"
                );
                section.wrong("trusted", text);
                Vec::new()
            }
            None => Vec::new(),
        });
        let strip_headers = section.list("strip_headers", Some(&ASSERTED), stripped_header).unwrap_or_default();
        Self { uri, trusted, strip_headers }
    }

    /// Whether requests from this address may go to phones.
    pub fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.trusted.iter().any(|network| network.contains(&address))
    }
}
