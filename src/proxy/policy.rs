//! What the operator decided, in the core's own words.

use std::collections::HashMap;
use std::hash::Hasher as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::event::{Contacts, PushSupport};
use crate::binding::{Aor, Binding, Home};
use crate::sip::flow::REFRESH_LISTENER;
use crate::sip::{Flow, Method, Transport, Uri};
use crate::store::ReminderRule;
use crate::timeline::{Reason, Why};
use crate::transaction::Standing;

/// Everything that guides the core. Replaced as a whole on reload.
pub struct Policy {
    pub mode: Mode,
    pub upstream_contact: UpstreamContact,
    /// Seconds that the softswitch is asked to know a phone for that can be woken; 0: as long as the phone asks.
    pub expires_upstream: u32,
    /// AOR domains served, in lower case; empty: any.
    pub domains: Vec<Box<str>>,
    /// Whether a user of one of them is the same user in all of them, whose AOR is in the first.
    pub domain_aliases: bool,
    pub softswitch: Option<Softswitch>,
    /// Only these may call phones.
    pub trusted: Vec<IpNet>,
    /// Whether phones, too, may register from there.
    pub phones_behind_trusted: bool,
    pub calls_from: CallsFrom,
    /// Header fields that phones cannot assert, in lower case: taken out of what they send.
    pub strip_headers: Arc<[Box<str>]>,
    /// A larger request goes by a stream first, since it might not fit into the path's MTU (RFC 3261 §18.1.1); 0: never.
    pub datagram_bytes_max: usize,
    /// In the order of `sip.listen`.
    pub listeners: Vec<Listener>,
    /// What refreshes of sleeping devices leave by, and nothing else does; `None`: they leave by the listeners.
    pub refresh_from: Option<Listener>,
    /// By whom refreshes prove themselves where the softswitch asks.
    pub refresh_user: Option<RefreshUser>,
    /// Further host names of this proxy.
    pub names: Vec<Box<str>>,
    /// By what other nodes reach this one; `None` where the store has no others.
    pub home: Option<Home>,
    pub registrar: RegistrarPolicy,
    pub hold: HoldPolicy,
    pub missed: MissedPolicy,
    /// How long after the first push of a call that was taken it is repeated, in ascending order.
    pub push_repeat: Box<[Duration]>,
    /// Whether a device that was pushed and has not come is told that its call is over.
    pub push_call_ended: bool,
    /// By what rule sleeping devices are reminded to register; `None`: they are not.
    pub push_refresh: Option<ReminderRule>,
    pub timer_c: Duration,
    pub held_calls_max: usize,
    /// How many AORs a push token may serve: those that registered last.
    pub aors_per_token_max: usize,
    pub push: Arc<dyn PushSupport + Send + Sync>,
    /// The node's durable secret: device ids, flow tokens and nonces are derived from it.
    pub secret: [u8; 32],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Relay,
    Local,
}

/// Whose requests, other than REGISTER, go to the softswitch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallsFrom {
    Any,
    /// Of flows that a phone has registered by.
    Registered,
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

/// An account of the softswitch's that may register for all its users.
#[derive(Clone)]
pub struct RefreshUser {
    pub user: Box<str>,
    pub password: Box<str>,
}

/// The hashes that Digest is computed with (RFC 7616 §3.3, RFC 8760).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    Md5,
    Sha256,
}

impl Algorithm {
    /// In the order that phones need: older ones take the first challenge, whatever it asks for.
    pub const ALL: [Self; 2] = [Self::Md5, Self::Sha256];

    /// As in the `algorithm` parameter.
    pub fn name(self) -> &'static str {
        match self {
            Self::Md5 => "MD5",
            Self::Sha256 => "SHA-256",
        }
    }
}

/// Digest credentials by `user@domain`, and what is offered to prove them by.
#[derive(Default)]
pub struct Credentials {
    by_account: HashMap<Box<str>, Secrets>,
    order: Box<[Algorithm]>,
    /// Which algorithms each user can answer: an unknown one is offered what one of these is.
    shapes: Box<[(bool, bool)]>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({} users)", self.by_account.len())
    }
}

impl Credentials {
    /// `order` is that of the challenges.
    pub fn new(by_account: HashMap<Box<str>, Secrets>, order: Box<[Algorithm]>) -> Self {
        #[expect(clippy::disallowed_methods, reason = "sorted")]
        let mut shapes: Vec<_> = by_account.values().map(Secrets::shape).collect();
        shapes.sort_unstable();
        Self { by_account, order, shapes: shapes.into() }
    }

    pub fn find(&self, user: &str, realm: &str) -> Option<&Secrets> {
        self.by_account.get(format!("{user}@{realm}").as_str())
    }

    /// Whether this user may prove himself at all.
    pub fn has(&self, aor: &Aor) -> bool {
        self.by_account.contains_key(aor.as_str())
    }

    /// What a challenge for this user offers: only what can be checked for him. Somebody who is not there is offered what
    /// one of the others is, always the same, so that the offer does not tell who is there.
    pub fn offered(&self, user: &str, realm: &str) -> impl Iterator<Item = Algorithm> {
        let (md5, sha256) = match self.find(user, realm) {
            Some(secrets) => secrets.shape(),
            None => self.shape_of_nobody(user, realm),
        };
        let can = move |algorithm: &Algorithm| match algorithm {
            Algorithm::Md5 => md5,
            Algorithm::Sha256 => sha256,
        };
        let is_none = !self.order.iter().any(can);
        let wanted = self.order.iter().copied().filter(can);
        wanted.chain(Algorithm::ALL.into_iter().filter(move |algorithm| is_none && can(algorithm)))
    }

    fn shape_of_nobody(&self, user: &str, realm: &str) -> (bool, bool) {
        let mut hasher = siphasher::sip::SipHasher24::new();
        hasher.write(user.as_bytes());
        hasher.write(realm.as_bytes());
        let users = u64::try_from(self.shapes.len()).unwrap_or(u64::MAX).max(1);
        let place = usize::try_from(hasher.finish() % users).unwrap_or_default();
        self.shapes.get(place).copied().unwrap_or((true, true))
    }
}

/// H(A1) of one user in lower-case hexadecimal, for realm = domain (RFC 7616 §3.4.2).
#[derive(Clone, Default)]
pub struct Secrets {
    pub md5: Option<Box<str>>,
    pub sha256: Option<Box<str>>,
    /// What he proves himself by, where that is not the user of the AOR.
    pub username: Option<Box<str>>,
}

impl Secrets {
    pub fn ha1(&self, algorithm: Algorithm) -> Option<&str> {
        match algorithm {
            Algorithm::Md5 => self.md5.as_deref(),
            Algorithm::Sha256 => self.sha256.as_deref(),
        }
    }

    fn shape(&self) -> (bool, bool) {
        (self.md5.is_some(), self.sha256.is_some())
    }
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
    /// INVITE and CANCEL as below where the app knows a call again that it has been pushed, else the push.
    ByPlatform,
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
        self.domains.is_empty() || self.is_named(domain)
    }

    /// The address of record that a URI names.
    pub fn aor(&self, uri: &Uri<'_>) -> Option<Aor> {
        uri.aor().map(|aor| self.canonical(aor))
    }

    /// The one AOR of a user who has several.
    pub fn canonical(&self, aor: Aor) -> Aor {
        let first = self.domains.first().filter(|first| self.is_alias(&aor) && aor.domain() != &***first);
        match first {
            Some(first) => Aor::new(aor.user(), first),
            None => aor,
        }
    }

    /// Whether a user is the same in other domains.
    pub fn is_alias(&self, aor: &Aor) -> bool {
        self.domain_aliases && self.domains.iter().any(|served| **served == *aor.domain())
    }

    /// The AOR by which a device registers now that registered by this one before its domain became one with others.
    pub fn later_name(&self, aor: &Aor) -> Option<Aor> {
        let present = self.canonical(aor.clone());
        (present != *aor).then_some(present)
    }

    /// The user's AORs in the other domains, by which he may have been called before they became one.
    pub fn other_names(&self, aor: &Aor) -> impl Iterator<Item = Aor> {
        let others = self.domains.iter().filter(|domain| self.is_alias(aor) && ***domain != *aor.domain());
        others.map(|domain| Aor::new(aor.user(), domain))
    }

    /// The realm that a user has an account in: the AOR's own, else another of the domains that are the same.
    pub fn realm<'a>(&'a self, aor: &'a Aor, users: &Credentials) -> &'a str {
        let has_account = |realm: &str| users.find(aor.user(), realm).is_some();
        let is_elsewhere = self.is_alias(aor) && !users.has(aor);
        let other = self.domains.iter().filter(|_| is_elsewhere).find(|domain| has_account(domain));
        match other {
            Some(domain) => domain,
            None => aor.domain(),
        }
    }

    /// Whether a host part names this proxy or a domain that it is configured for.
    pub fn is_named(&self, host: &[u8]) -> bool {
        self.is_own_host(host) || self.domains.iter().any(|served| host.eq_ignore_ascii_case(served.as_bytes()))
    }

    /// Whether an AOR has a user: where phones register here with a password, only those that have one at present. What
    /// the others have registered is kept, should they come back.
    pub fn knows(&self, aor: &Aor) -> bool {
        match (self.mode, &self.registrar.auth) {
            (Mode::Local, Auth::Digest(users)) => {
                users.has(aor) || self.is_alias(aor) && users.find(aor.user(), self.realm(aor, users)).is_some()
            }
            (Mode::Local, Auth::None(_)) | (Mode::Relay, _) => true,
        }
    }

    /// Whether a device may be pushed, as far as its user and the other users of its token go.
    pub fn admits(&self, binding: &Binding, has_too_many_aors: impl FnOnce(usize) -> bool) -> Result<(), Why> {
        if !self.knows(&binding.aor) {
            return Err(Reason::UserUnknown.into());
        }
        if has_too_many_aors(self.aors_per_token_max) {
            return Err(Reason::TooManyAors.into());
        }
        Ok(())
    }

    /// Whether a host part names this proxy, whatever the port.
    pub fn is_own_host(&self, host: &[u8]) -> bool {
        self.listeners.iter().any(|listener| host.eq_ignore_ascii_case(listener.host.as_bytes()))
            || self.names.iter().any(|name| host.eq_ignore_ascii_case(name.as_bytes()))
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
        if index == REFRESH_LISTENER { self.refresh_from.as_ref() } else { self.listeners.get(usize::from(index)) }
    }
}
