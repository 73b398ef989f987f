//! The policy that stories begin with.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sip_push_proxy::proxy::Policy;
use sip_push_proxy::proxy::policy::{
    Auth, CallsFrom, HoldPolicy, LateWake, Listener, MissedPolicy, Mode, PushWhen, RegistrarPolicy, Softswitch,
    UpstreamContact,
};
use sip_push_proxy::sip::{Transport, Uri};
use sip_push_proxy::transaction::Settings;

use super::support::Support;

/// The proxy's address, for both transports.
pub(crate) const PROXY: &str = "192.0.2.10:5060";
/// The softswitch's.
pub(crate) const SWITCH: &str = "192.0.2.20:5060";

pub(crate) fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn listener(transport: Transport) -> Listener {
    Listener { transport, local: socket(PROXY), sent_by: PROXY.into(), host: "192.0.2.10".into(), port: 5060 }
}

/// The defaults of the configuration, in relay mode, with `example.org` and the softswitch.
pub(crate) fn policy() -> Policy {
    Policy {
        mode: Mode::Relay,
        upstream_contact: UpstreamContact::Alias,
        expires_upstream: 0,
        domains: vec!["example.org".into()],
        domain_aliases: false,
        softswitch: Softswitch::of(&Uri::parse(b"sip:192.0.2.20:5060").unwrap()),
        trusted: vec!["192.0.2.20/32".parse().unwrap()],
        phones_behind_trusted: false,
        calls_from: CallsFrom::Any,
        strip_headers: ["p-asserted-identity", "remote-party-id", "diversion", "history-info"].map(Box::from).into(),
        datagram_bytes_max: 1300,
        listeners: vec![listener(Transport::Udp), listener(Transport::Tcp)],
        refresh_from: None,
        refresh_user: None,
        names: Vec::new(),
        home: None,
        registrar: RegistrarPolicy {
            auth: Auth::None(vec!["198.51.100.0/24".parse().unwrap()]),
            refuse_unsupported_pns: false,
            expires_default: Duration::from_secs(3600),
            expires_min: Duration::from_secs(60),
            expires_max: Duration::from_secs(86_400),
            contacts_per_aor_max: 10,
        },
        hold: HoldPolicy {
            wait: Duration::from_secs(28),
            provisional: 182,
            no_return_status: 480,
            push_when: PushWhen::Always,
            fresh: Duration::ZERO,
            probe: Duration::from_millis(800),
            late_wake: LateWake::MissedCalls,
            methods: vec!["MESSAGE".into()],
            holds_invite: true,
        },
        missed: MissedPolicy { enabled: true, call_ref_header: "".into(), absence: Duration::ZERO },
        push_repeat: [].into(),
        push_call_ended: false,
        push_refresh: None,
        timer_c: Duration::from_secs(185),
        held_calls_max: 1000,
        aors_per_token_max: 5,
        push: Arc::new(Support::default()),
        secret: [7; 32],
    }
}

pub(crate) fn settings() -> Settings {
    Settings {
        t1: Duration::from_millis(500),
        t2: Duration::from_secs(4),
        t4: Duration::from_secs(5),
        transactions_max: 10_000,
        source_bytes_max: 1 << 24,
        worker: 0,
    }
}
