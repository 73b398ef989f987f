//! What the operator decided, in the core's own words.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::event::{Contacts, PushSupport};
use crate::binding::Home;
use crate::sip::{Flow, Method, Transport, Uri};
use crate::transaction::Standing;

/// Everything that guides the core. Replaced as a whole on reload.
pub struct Policy {
    pub mode: Mode,
    pub upstream_contact: UpstreamContact,
    /// AOR domains served, in lower case; empty: any.
    pub domains: Vec<Box<str>>,
    pub softswitch: Option<Softswitch>,
    /// Only these may call phones.
    pub trusted: Vec<IpNet>,
    /// In the order of `sip.listen`.
    pub listeners: Vec<Listener>,
    /// By what other nodes reach this one; `None` where the store has no others.
    pub home: Option<Home>,
    pub registrar: RegistrarPolicy,
    pub hold: HoldPolicy,
    pub missed: MissedPolicy,
    pub timer_c: Duration,
    pub held_calls_max: usize,
    pub push: Arc<dyn PushSupport + Send + Sync>,
    /// The node's durable secret: device ids, flow tokens and nonces are derived from it.
    pub secret: [u8; 32],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Relay,
    Local,
}

/// What the softswitch gets as the Contact of a phone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamContact {
    Alias,
    Path,
}

/// Next hop for what phones send.
#[derive(Debug, Clone)]
pub struct Softswitch {
    pub host: Box<str>,
    pub port: Option<u16>,
    /// `None`: found by RFC 3263 §4.1.
    pub transport: Option<Transport>,
}

impl Softswitch {
    pub fn of(uri: &Uri<'_>) -> Option<Self> {
        Some(Self { host: std::str::from_utf8(uri.host).ok()?.into(), port: uri.port, transport: transport_param(uri) })
    }
}

/// The `transport` parameter of a URI, if it is one that we speak.
pub fn transport_param(uri: &Uri<'_>) -> Option<Transport> {
    let value = uri.param("transport")??;
    [Transport::Udp, Transport::Tcp]
        .into_iter()
        .find(|transport| value.eq_ignore_ascii_case(transport.uri_name().as_bytes()))
}

/// One of our listening points.
#[derive(Debug, Clone)]
pub struct Listener {
    pub transport: Transport,
    /// Bound address.
    pub local: SocketAddr,
    /// `host:port` that others reach it by: Via, Record-Route, Path, alias.
    pub sent_by: Box<str>,
    /// Host part of `sent_by`.
    pub host: Box<str>,
    pub port: u16,
}

#[derive(Debug, Clone)]
pub struct RegistrarPolicy {
    pub auth: Auth,
    pub refuse_unsupported_pns: bool,
    pub expires_default: Duration,
    pub expires_min: Duration,
    pub expires_max: Duration,
    pub contacts_per_aor_max: usize,
}

/// Who may register in local mode.
#[derive(Debug, Clone)]
pub enum Auth {
    Digest(Arc<Credentials>),
    /// Anybody in these networks.
    None(Vec<IpNet>),
}

/// Digest credentials by `user@domain`.
#[derive(Default)]
pub struct Credentials(pub HashMap<Box<str>, Secrets>);

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({} users)", self.0.len())
    }
}

/// H(A1) of one user in lower-case hexadecimal, for realm = domain (RFC 7616 §3.4.2).
#[derive(Clone, Default)]
pub struct Secrets {
    pub md5: Option<Box<str>>,
    pub sha256: Option<Box<str>>,
}

#[derive(Debug, Clone)]
pub struct HoldPolicy {
    pub wait: Duration,
    /// 0: only 100; else 180, 182 or 183.
    pub provisional: u16,
    pub no_return_status: u16,
    pub push_when: PushWhen,
    /// A device registered within this time counts as awake.
    pub fresh: Duration,
    /// How long a device with a live flow may stay silent before it is pushed.
    pub probe: Duration,
    /// What becomes of a pushed device that comes when the call is over.
    pub late_wake: LateWake,
    /// Methods other than INVITE that are held, too.
    pub methods: Vec<Box<str>>,
    pub holds_invite: bool,
}

impl HoldPolicy {
    pub fn holds(&self, method: Method, text: &[u8]) -> bool {
        if method == Method::INVITE {
            self.holds_invite
        } else {
            self.methods.iter().any(|held| held.as_bytes() == text)
        }
    }
}

/// What a device gets that wakes after its call's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LateWake {
    /// The missed_calls push alone.
    MissedCalls,
    /// An iOS device that a VoIP push has told of the call gets INVITE and CANCEL, so that CallKit closes its screen.
    InviteCancel,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PushWhen {
    /// Every call waits for a fresh REGISTER.
    Always,
    /// A device with a live flow gets the INVITE first.
    Unreachable,
}

#[derive(Debug, Clone)]
pub struct MissedPolicy {
    pub enabled: bool,
    /// Header that carries the call's reference; empty: Call-ID.
    pub call_ref_header: Box<str>,
    /// Only devices away at least this long get the push.
    pub absence: Duration,
}

impl Policy {
    pub fn is_trusted(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.trusted.iter().any(|net| net.contains(&ip))
    }

    /// What is known of whoever sends by this flow.
    pub(super) fn standing(&self, flow: Flow, contacts: &dyn Contacts) -> Standing {
        if self.is_trusted(flow.remote.ip()) || contacts.is_node(flow.remote.ip()) {
            Standing::Trusted
        } else if flow.transport.is_reliable() || contacts.on_flow(flow.transport, flow.remote).is_some() {
            Standing::Proven
        } else {
            Standing::Unproven
        }
    }

    /// Whether an AOR of this domain may be ours.
    pub fn serves(&self, domain: &[u8]) -> bool {
        self.domains.is_empty()
            || self.is_own_host(domain)
            || self.domains.iter().any(|served| domain.eq_ignore_ascii_case(served.as_bytes()))
    }

    /// Whether a host part names this proxy, whatever the port.
    pub fn is_own_host(&self, host: &[u8]) -> bool {
        self.listeners.iter().any(|listener| host.eq_ignore_ascii_case(listener.host.as_bytes()))
            || crate::sip::uri::host_ip(host).is_some_and(|ip| {
                let is_home = self.home.is_some_and(|home| home.address.ip() == ip);
                is_home || self.listeners.iter().any(|listener| listener.local.ip() == ip)
            })
    }

    /// Whether a URI's host and port name this proxy.
    pub fn is_own(&self, uri: &Uri<'_>) -> bool {
        self.is_own_host(uri.host) && {
            let port = uri.port.unwrap_or(5060);
            let is_home = self.home.is_some_and(|home| home.address.port() == port);
            is_home || self.listeners.iter().any(|listener| listener.port == port || listener.local.port() == port)
        }
    }

    /// The listener to reach `remote` from: same transport and address family, else same transport.
    pub fn listener_for(&self, transport: Transport, remote: IpAddr) -> Option<u8> {
        let of_transport = || self.listeners.iter().enumerate().filter(|(_, each)| each.transport == transport);
        let index = of_transport()
            .find(|(_, each)| each.local.is_ipv4() == remote.is_ipv4())
            .or_else(|| of_transport().next())
            .map(|(index, _)| index)?;
        u8::try_from(index).ok()
    }

    pub fn listener(&self, index: u8) -> Option<&Listener> {
        self.listeners.get(usize::from(index))
    }
}
