//! `[register]`, `[hold]` and `[missed_calls]`: how phones register, how calls wait for them, what is told later.

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::address::Listen;
use super::document::Source;
use super::network::{Sip, Softswitch};
use super::section::Section;
use super::users::Users;
use super::{DAY_S, YEAR_S, address};
use crate::sip::Transport;

/// `[register]`: what becomes of a REGISTER.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Register {
    pub mode: Mode,
    /// Domains of the AORs that we serve, in lower case; empty: any.
    pub domains: Vec<Box<str>>,
    /// Whether a user is the same in all of them.
    pub domain_aliases: bool,
    /// How the softswitch is told to call back.
    pub contact: ContactForm,
    /// Refresh the registrations of sleeping phones at the softswitch.
    pub upstream_refresh: bool,
    /// For how long the softswitch is asked to know a phone that can be woken; zero: as long as the phone asks.
    pub expires_upstream: Duration,
    /// What those leave by, and nothing else does.
    pub refresh_from: Option<SocketAddr>,
    /// What answers the softswitch's challenges to them.
    pub refresh_account: Option<RefreshAccount>,
    /// Whether phones may register from the addresses of `softswitch.trusted`, too.
    pub phones_behind_trusted: bool,
    pub calls_from: CallsFrom,
    /// What challenges offer, in this order.
    pub digest_algorithms: Vec<DigestAlgorithm>,
    /// Answer 555 to push parameters that we cannot use, instead of taking the contact as a plain one
    /// (RFC 8599 §8.1).
    pub refuse_unsupported_pns: bool,
    /// For a Contact that asks for nothing, and the bounds for one that does (RFC 3261 §10.3 step 7).
    pub expires_default: Duration,
    pub expires_min: Duration,
    pub expires_max: Duration,
    /// Over it: 403.
    pub contacts_per_aor_max: usize,
}

/// Who answers a REGISTER.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// The softswitch: it authenticates, we only save on its 2xx.
    Relay,
    /// We.
    Local(Auth),
}

/// Who may register in local mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Auth {
    /// These, by Digest (RFC 3261 §22, RFC 8760).
    Digest(Users),
    /// Anybody in these networks.
    None { open_networks: Vec<IpNet> },
}

/// The Contact in a relayed REGISTER.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContactForm {
    /// `<sip:ALIAS@advertise>`: one short contact per device, for ever.
    Alias,
    /// The phone's own, and a Path with a flow token (RFC 3327, RFC 5626 §5.2).
    Path,
}

/// An account of the softswitch's that may register for all its users.
#[derive(Clone, PartialEq, Eq)]
pub struct RefreshAccount {
    pub user: String,
    pub password: String,
}

impl fmt::Debug for RefreshAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RefreshAccount({})", self.user)
    }
}

/// RFC 7616 §3.3, RFC 8760.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DigestAlgorithm {
    Md5,
    Sha256,
}

/// Whose requests, other than REGISTER, are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallsFrom {
    /// Everybody's, for the softswitch to judge.
    Any,
    /// Of phones that have registered by the same flow.
    Registered,
}

#[derive(Clone, Copy)]
enum ModeName {
    Relay,
    Local,
}

#[derive(Clone, Copy)]
enum AuthName {
    Digest,
    None,
}

impl Register {
    pub(super) fn read(section: &Section<'_>) -> Self {
        let mode_name = section.choice("mode", [("relay", ModeName::Relay), ("local", ModeName::Local)]);
        let domains = section.list("domains", Some(&[]), address::aor_domain).unwrap_or_default();
        let domain_aliases = section.boolean("domain_aliases", false);
        if domain_aliases && domains.len() < 2 {
            section
                .wrong("domain_aliases", "true needs two domains at least; name them in domains, the main one first");
        }
        let contact = section.choice("contact", [("alias", ContactForm::Alias), ("path", ContactForm::Path)]);
        let upstream_refresh = section.boolean("upstream_refresh", false);
        if upstream_refresh && matches!(mode_name, ModeName::Local) {
            section.wrong(
                "upstream_refresh",
                "true is for mode = \"relay\"; in local mode the softswitch has no registrations that could end, so set \
                 it to false",
            );
        }
        let expires_upstream = section.seconds("expires_upstream_s", 0, 0..=YEAR_S, "");
        if !expires_upstream.is_zero() && matches!(mode_name, ModeName::Local) {
            section.wrong(
                "expires_upstream_s",
                "is for mode = \"relay\"; in local mode nothing is asked of a softswitch, so set it to 0",
            );
        }
        let refresh_from = section.optional("refresh_from").and_then(|text| {
            section.parsed("refresh_from", text, |text| match address::listen(text)? {
                Listen { transport: Transport::Udp, address } if !address.ip().is_unspecified() => Ok(address),
                Listen { .. } => {
                    Err("is not udp: and an address of its own; write for example udp:192.0.2.10:5070".into())
                }
            })
        });
        let refresh_account = read_refresh_account(section);
        let phones_behind_trusted = section.boolean("phones_behind_trusted", false);
        let calls_from = section.choice("calls_from", [("any", CallsFrom::Any), ("registered", CallsFrom::Registered)]);
        let auth = section.choice("auth", [("digest", AuthName::Digest), ("none", AuthName::None)]);
        let open_networks =
            section.list("open_networks", Some(&["127.0.0.0/8", "::1/128"]), address::network).unwrap_or_default();
        let users_file = section.path("users", "users.toml");
        let mode = match (mode_name, auth) {
            (ModeName::Relay, _) => Mode::Relay,
            (ModeName::Local, AuthName::None) => Mode::Local(Auth::None { open_networks }),
            (ModeName::Local, AuthName::Digest) => Mode::Local(Auth::Digest(read_users(section, users_file))),
        };
        let digest_algorithms = read_algorithms(section);
        let refuse_unsupported_pns = section.boolean("refuse_unsupported_pns", false);
        let expires_default = section.seconds("expires_default_s", 3600, 1..=YEAR_S, "");
        let expires_min = section.seconds("expires_min_s", 60, 1..=YEAR_S, "");
        let expires_max = section.seconds("expires_max_s", DAY_S, 1..=YEAR_S, "");
        let register = Self {
            mode,
            domains,
            domain_aliases,
            contact,
            upstream_refresh,
            expires_upstream,
            refresh_from,
            refresh_account,
            phones_behind_trusted,
            calls_from,
            digest_algorithms,
            refuse_unsupported_pns,
            expires_default,
            expires_min,
            expires_max,
            contacts_per_aor_max: section.count("contacts_per_aor_max", 10, 1..=1000),
        };
        register.check_expires(section);
        register.check_refresh(section);
        register
    }

    /// A softswitch that took everything from our address without a password would take what phones send by us, too.
    fn check_refresh(&self, section: &Section<'_>) {
        if self.upstream_refresh
            && self.mode == Mode::Relay
            && self.refresh_from.is_none()
            && self.refresh_account.is_none()
        {
            section.wrong(
                "upstream_refresh",
                "true needs register.refresh_from, an address that only refreshes leave by and that the softswitch trusts \
                 alone, such as \"udp:192.0.2.10:5070\", or register.refresh_user with register.refresh_password_file: a \
                 softswitch that takes REGISTERs from the proxy's own address without a password takes strangers' REGISTERs",
            );
        }
    }

    /// Whether the socket for refreshes can be what it is for.
    pub(super) fn check_refresh_from(&self, section: &Section<'_>, sip: &Sip, softswitch: &Softswitch) {
        let Some(from) = self.refresh_from else { return };
        let is_same = |listen: &&Listen| {
            listen.transport == Transport::Udp
                && listen.address.port() == from.port()
                && from.port() != 0
                && (listen.address.ip() == from.ip() || listen.address.ip().is_unspecified())
        };
        if let Some(listen) = sip.listen.iter().find(is_same) {
            section.wrong(
                "refresh_from",
                format_args!(
                    "udp:{from} is where phones come in ({listen}); use another port or address of this machine"
                ),
            );
        }
        if softswitch.uri.as_ref().is_some_and(|uri| uri.transport == Some(Transport::Tcp)) {
            section.wrong(
                "refresh_from",
                "refreshes leave by udp, but softswitch.uri says transport=tcp; use register.refresh_user instead",
            );
        }
    }

    fn check_expires(&self, section: &Section<'_>) {
        let (min, max) = (self.expires_min.as_secs(), self.expires_max.as_secs());
        let standard = self.expires_default.as_secs();
        if min > max {
            section.wrong("expires_min_s", format_args!("{min} is over expires_max_s, which is {max}; use 1 to {max}"));
        } else if !(min..=max).contains(&standard) {
            section.wrong(
                "expires_default_s",
                format_args!("{standard} is not between expires_min_s and expires_max_s; use {min} to {max}"),
            );
        }
    }
}

fn read_refresh_account(section: &Section<'_>) -> Option<RefreshAccount> {
    let user = section.optional("refresh_user").map(str::to_owned);
    let file = section.path("refresh_password_file", "");
    match (user, file) {
        (None, None) => None,
        (Some(user), Some(file)) => {
            let password = section.file_text("refresh_password_file", &file)?.trim().to_owned();
            if password.is_empty() {
                let text = "is empty; write the password into it, on one line";
                section.wrong("refresh_password_file", format_args!("{} {text}", file.display()));
            }
            Some(RefreshAccount { user, password })
        }
        (Some(_), None) => {
            section.wrong("refresh_password_file", "needed with register.refresh_user: the file with its password");
            None
        }
        (None, Some(_)) => {
            section.wrong("refresh_user", "needed with register.refresh_password_file: whose password that is");
            None
        }
    }
}

fn read_algorithms(section: &Section<'_>) -> Vec<DigestAlgorithm> {
    let mut seen = Vec::new();
    let parse = |text: &str| {
        let algorithm = match text {
            "MD5" => DigestAlgorithm::Md5,
            "SHA-256" => DigestAlgorithm::Sha256,
            _ => return Err(Cow::from("is not an algorithm; use \"MD5\" and \"SHA-256\"")),
        };
        if seen.contains(&algorithm) {
            return Err("stands here twice; leave one of them out".into());
        }
        seen.push(algorithm);
        Ok(algorithm)
    };
    let algorithms = section.list("digest_algorithms", Some(&["MD5", "SHA-256"]), parse).unwrap_or_default();
    if section.is_empty_list("digest_algorithms") {
        section.wrong("digest_algorithms", "the list is empty; name \"MD5\", \"SHA-256\" or both");
    }
    algorithms
}

fn read_users(section: &Section<'_>, file: Option<PathBuf>) -> Users {
    let Some(file) = file else {
        section.wrong("users", "needed with register.auth = \"digest\": the file with users and passwords");
        return Users::default();
    };
    if !file.is_file() {
        section.wrong(
            "users",
            format_args!(
                "{} is not there; write it with [users] and lines such as \"alice@example.org\" = \"password\" \
                 (or set register.auth = \"none\")",
                file.display()
            ),
        );
        return Users::default();
    }
    let users = Source::open(&file).and_then(|source| {
        section.has_read("users", source.text().as_bytes());
        Users::read(&source)
    });
    users.unwrap_or_else(|problems| {
        section.document().wrong_elsewhere(problems);
        Users::default()
    })
}

/// `[hold]`: a call waits for its phone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// From the INVITE to giving up.
    pub wait: Duration,
    /// 180, 182 or 183; `None`: 100 only.
    pub provisional: Option<u16>,
    /// The final when no phone woke.
    pub no_return_status: u16,
    pub push_when: PushWhen,
    /// Silence after which a device that may be awake is taken as asleep.
    pub probe: Duration,
    /// A device that registered so recently is taken as awake.
    pub fresh: Duration,
    pub late_wake: LateWake,
    /// Methods that are held, `INVITE` among them.
    pub methods: Vec<Box<str>>,
}

/// Which devices are pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PushWhen {
    /// Each with a push target, whatever its flow (ECSS).
    Always,
    /// Those without a live flow, or silent on it.
    Unreachable,
}

/// What a pushed device gets that wakes when its call is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LateWake {
    /// As below where the app knows a call again that it has been pushed, else the push.
    ByPlatform,
    /// The missed_calls push.
    MissedCalls,
    /// An iOS device that got a VoIP push: INVITE and CANCEL, so that CallKit closes its screen.
    InviteCancel,
}

/// The longest wait: under Timer C of a proxy before us, which is more than three minutes, with room for the ringing
/// to begin (RFC 3261 §16.6 step 11).
const WAIT_MAX_S: u32 = 170;

impl Hold {
    pub(super) fn read(section: &Section<'_>) -> Self {
        let wait = section.seconds("wait_s", 28, 1..=WAIT_MAX_S, "RFC 3261 Timer C");
        let provisional = section.status(
            "provisional",
            182,
            |status| matches!(status, 0 | 180 | 182 | 183),
            "no provisional of a waiting call; use 0 (100 only), 180, 182 or 183",
        );
        let no_return_status = section.status(
            "no_return_status",
            480,
            |status| (400..=699).contains(&status),
            "no failure response (RFC 3261 §7.2); use 400 to 699",
        );
        let push_when =
            section.choice("push_when", [("always", PushWhen::Always), ("unreachable", PushWhen::Unreachable)]);
        let fresh = section.seconds("fresh_s", 0, 0..=DAY_S, "");
        let probe = section.millis("probe_ms", 800, 1..=WAIT_MAX_S * 1000);
        let late_wake = section.choice(
            "late_wake",
            [
                ("", LateWake::ByPlatform),
                ("missed_calls", LateWake::MissedCalls),
                ("invite_cancel", LateWake::InviteCancel),
            ],
        );
        Self {
            wait,
            provisional: (provisional != 0).then_some(provisional),
            no_return_status,
            push_when,
            probe,
            fresh,
            late_wake,
            methods: read_methods(section),
        }
    }
}

fn read_methods(section: &Section<'_>) -> Vec<Box<str>> {
    let parse = |text: &str| match text {
        "REGISTER" | "ACK" | "CANCEL" | "BYE" | "PRACK" | "UPDATE" => {
            Err(Cow::from("never starts something outside of a dialog; leave it out"))
        }
        _ if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_uppercase()) => Ok(Box::from(text)),
        _ => Err("is not a method; methods are in capitals, such as \"MESSAGE\"".into()),
    };
    let methods = section.list("methods", Some(&["INVITE", "MESSAGE"]), parse).unwrap_or_default();
    if section.lacks("methods", "INVITE") {
        section.wrong("methods", "\"INVITE\" is missing; holding calls is what this proxy is for");
    }
    methods
}

/// `[missed_calls]`: what a phone is told of calls that it slept through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissedCalls {
    pub enabled: bool,
    /// The header that names a call; `None`: Call-ID.
    pub call_ref_header: Option<Box<str>>,
    /// Only to devices that were away at least so long.
    pub absence: Duration,
    /// Per device; the oldest goes.
    pub entries_max: usize,
    pub ttl: Duration,
}

impl MissedCalls {
    pub(super) fn read(section: &Section<'_>) -> Self {
        let enabled = section.boolean("enabled", true);
        let header = section.optional("call_ref_header");
        if let Some(name) = header.filter(|name| !is_token(name)) {
            let text = "is not the name of a header; write for example \"X-Call-Ref\"";
            section.wrong("call_ref_header", format_args!("{name:?} {text}"));
        }
        Self {
            enabled,
            call_ref_header: header.map(Box::from),
            absence: section.seconds("absence_s", 0, 0..=YEAR_S, ""),
            entries_max: section.count("entries_max", 50, 1..=10_000),
            ttl: section.seconds("ttl_s", 7 * DAY_S, 1..=YEAR_S, ""),
        }
    }
}

/// RFC 3261 §25.1.
fn is_token(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(&byte))
}
