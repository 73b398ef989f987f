//! From the configuration to the core's own words.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::admin::LiveSettings;
use crate::binding::{Home, Provider, PushTarget};
use crate::config::{self, Config};
use crate::guard::{self, Rules};
use crate::proxy::PushSupport;
use crate::proxy::policy::{
    Algorithm, Auth, CallsFrom, Credentials, HoldPolicy, LateWake, Listener, MissedPolicy, Mode, Policy, PushWhen,
    RefreshUser, RegistrarPolicy, Secrets, Softswitch, UpstreamContact,
};
use crate::push::{self, NoticeKind, Pushers};
use crate::sip::Transport;
use crate::store::ReminderRule;
use crate::transport;

/// Time limit of a live events client for its connect command, a pong, and taking a frame.
const CLIENT_PATIENCE: Duration = Duration::from_secs(10);

/// What guides the workers. `listeners` and `refresh_from` are those that were really bound.
pub(super) fn policy(
    config: &Config,
    listeners: &[transport::Listener],
    refresh_from: Option<SocketAddr>,
    secret: [u8; 32],
    pushers: Pushers,
) -> Policy {
    let (mode, auth) = match &config.register.mode {
        config::Mode::Relay => (Mode::Relay, Auth::None(Vec::new())),
        config::Mode::Local(config::Auth::Digest(users)) => {
            let credentials = credentials(users, &config.register.digest_algorithms);
            (Mode::Local, Auth::Digest(Arc::new(credentials)))
        }
        config::Mode::Local(config::Auth::None { open_networks }) => (Mode::Local, Auth::None(open_networks.clone())),
    };
    Policy {
        mode,
        upstream_contact: match config.register.contact {
            config::ContactForm::Alias => UpstreamContact::Alias,
            config::ContactForm::Path => UpstreamContact::Path,
        },
        expires_upstream: u32::try_from(config.register.expires_upstream.as_secs()).unwrap_or(u32::MAX),
        domains: config.register.domains.clone(),
        domain_aliases: config.register.domain_aliases,
        softswitch: config.softswitch.uri.as_ref().map(|next_hop| Softswitch {
            host: in_uri(&next_hop.address.host),
            port: next_hop.address.port,
            transport: next_hop.transport,
        }),
        trusted: config.softswitch.trusted.clone(),
        phones_behind_trusted: config.register.phones_behind_trusted,
        calls_from: match config.register.calls_from {
            config::CallsFrom::Any => CallsFrom::Any,
            config::CallsFrom::Registered => CallsFrom::Registered,
        },
        strip_headers: config.softswitch.strip_headers.clone().into(),
        datagram_bytes_max: config.sip.datagram_bytes_max,
        listeners: listeners.iter().map(|listener| listening_point(config, listener)).collect(),
        refresh_from: refresh_from.map(refresh_point),
        refresh_user: config.register.refresh_account.as_ref().map(|account| RefreshUser {
            user: account.user.as_str().into(),
            password: account.password.as_str().into(),
        }),
        names: config.sip.names.clone(),
        home: home(config, listeners),
        registrar: RegistrarPolicy {
            auth,
            refuse_unsupported_pns: config.register.refuse_unsupported_pns,
            expires_default: config.register.expires_default,
            expires_min: config.register.expires_min,
            expires_max: config.register.expires_max,
            contacts_per_aor_max: config.register.contacts_per_aor_max,
        },
        hold: HoldPolicy {
            wait: config.hold.wait,
            provisional: config.hold.provisional.unwrap_or(0),
            no_return_status: config.hold.no_return_status,
            push_when: match config.hold.push_when {
                config::PushWhen::Always => PushWhen::Always,
                config::PushWhen::Unreachable => PushWhen::Unreachable,
            },
            fresh: config.hold.fresh,
            late_wake: match config.hold.late_wake {
                config::LateWake::ByPlatform => LateWake::ByPlatform,
                config::LateWake::MissedCalls => LateWake::MissedCalls,
                config::LateWake::InviteCancel => LateWake::InviteCancel,
            },
            probe: config.hold.probe,
            methods: config.hold.methods.clone(),
            holds_invite: config.hold.methods.iter().any(|method| &**method == "INVITE"),
        },
        missed: MissedPolicy {
            enabled: config.missed_calls.enabled,
            call_ref_header: config.missed_calls.call_ref_header.clone().unwrap_or_default(),
            absence: config.missed_calls.absence,
        },
        push_repeat: config.push.repeat.clone().into(),
        push_call_ended: config.push.call_ended,
        push_refresh: reminder_rule(config),
        timer_c: config.sip.timer_c,
        aors_per_token_max: config.push.aors_per_token_max,
        held_calls_max: (config.limits.held_calls / config.sip.workers).max(1),
        push: Arc::new(Support(pushers)),
        secret,
    }
}

/// How devices are reminded to register; `None` where none are, as in local mode, in which nothing ends upstream.
pub(super) fn reminder_rule(config: &Config) -> Option<ReminderRule> {
    let is_relay = matches!(config.register.mode, config::Mode::Relay);
    let (before, are_refreshed) = (config.push.refresh_before, config.register.upstream_refresh);
    (config.push.refresh && is_relay).then_some(ReminderRule { before, are_refreshed })
}

/// What each source may do.
pub(super) fn rules(config: &Config) -> Rules {
    Rules {
        trusted: config.softswitch.trusted.clone(),
        requests_per_s: config.limits.source_requests_per_s,
        auth_failures_per_min: config.limits.auth_failures_per_min,
        ban: config.limits.ban,
        scanners: guard::Scanners::new(config.limits.scanners.clone()),
    }
}

/// Settings of `/connection/websocket`.
pub(super) fn live_settings(events: &config::Events) -> LiveSettings {
    LiveSettings {
        channel: events.channel.clone(),
        token: events.token.clone(),
        origins: events.origins.clone(),
        connections_max: events.connections_max,
        history_max: events.history_max,
        handshake: CLIENT_PATIENCE,
        ping: events.ping,
        pong: CLIENT_PATIENCE,
        write: CLIENT_PATIENCE,
    }
}

/// Where other nodes of the same store send what is for a phone of this one: to the first UDP listener, else the first.
pub(super) fn home(config: &Config, listeners: &[transport::Listener]) -> Option<Home> {
    if config.store.kind == config::StoreKind::File {
        return None;
    }
    let datagrams = listeners.iter().find(|listener| listener.transport == Transport::Udp);
    let listener = datagrams.or_else(|| listeners.first())?;
    let said = config.node.address.as_ref().or(config.sip.advertise.as_ref());
    let (ip, port) = match said.map(|said| (&said.host, said.port)) {
        Some((config::Host::Ip(ip), port)) => (*ip, port),
        Some((config::Host::Name(_), _)) | None => (listener.local.ip(), None),
    };
    let address = SocketAddr::new(ip, port.unwrap_or_else(|| listener.local.port()));
    Some(Home { transport: listener.transport, address })
}

/// What others see of a listener: `sip.advertise` where given, and the port really bound.
fn listening_point(config: &Config, listener: &transport::Listener) -> Listener {
    let advertise = config.sip.advertise.as_ref();
    let host =
        advertise.map_or_else(|| in_uri(&config::Host::Ip(listener.local.ip())), |advertise| in_uri(&advertise.host));
    let port = advertise.and_then(|advertise| advertise.port).unwrap_or_else(|| listener.local.port());
    Listener {
        transport: listener.transport,
        local: listener.local,
        sent_by: format!("{host}:{port}").into(),
        host,
        port,
    }
}

/// Where refreshes leave. The softswitch answers there and sends nothing else.
fn refresh_point(local: SocketAddr) -> Listener {
    let host = in_uri(&config::Host::Ip(local.ip()));
    Listener {
        transport: Transport::Udp,
        local,
        sent_by: format!("{host}:{}", local.port()).into(),
        host,
        port: local.port(),
    }
}

/// As in a URI: IPv6 in brackets.
fn in_uri(host: &config::Host) -> Box<str> {
    match host {
        config::Host::Ip(std::net::IpAddr::V6(ip)) => format!("[{ip}]").into(),
        config::Host::Ip(std::net::IpAddr::V4(ip)) => ip.to_string().into(),
        config::Host::Name(name) => name.clone(),
    }
}

fn credentials(users: &config::Users, order: &[config::DigestAlgorithm]) -> Credentials {
    fn hex(octets: impl AsRef<[u8]>) -> Box<str> {
        octets.as_ref().iter().map(|octet| format!("{octet:02x}")).collect::<String>().into()
    }
    let secrets = users.all().map(|(account, credentials)| {
        let config::Credentials { md5, sha256, auth_username } = credentials;
        (account.into(), Secrets { md5: md5.map(hex), sha256: sha256.map(hex), username: auth_username.clone() })
    });
    let order = order.iter().map(|algorithm| match algorithm {
        config::DigestAlgorithm::Md5 => Algorithm::Md5,
        config::DigestAlgorithm::Sha256 => Algorithm::Sha256,
    });
    Credentials::new(secrets.collect::<HashMap<_, _>>(), order.collect())
}

/// The settings of the pushing side.
pub(super) fn push_settings(config: &Config) -> push::Settings {
    push::Settings {
        timeout: config.push.timeout,
        per_token_per_min: config.push.per_token_per_min,
        dead_per_min: config.push.dead_per_min,
        queue: config.limits.push_queue,
        limits: push::Limits {
            in_flight: config.push.account_in_flight_max,
            queue: config.push.account_queue_max,
            breaker: push::BreakerSettings { failures: config.push.breaker_failures, pause: config.push.breaker_pause },
        },
        https_proxy: config.push.https_proxy.as_ref().and_then(|proxy| {
            let exceptions = config.push.no_proxy.iter().filter_map(|text| push::NoProxy::parse(text));
            Some(push::HttpsProxy::parse(proxy.reveal())?.except(exceptions.collect()))
        }),
        hosts: push::Hosts::default(),
        alerts: push::Alerts {
            language: config.push.alert_language.as_str().into(),
            texts: config.push.alerts.iter().map(alert).collect(),
        },
        fcm: config.push.fcm.iter().map(fcm).collect(),
        apns: config.push.apns.iter().map(apns).collect(),
        callback: config.push.callback.as_ref().map(callback),
        webpush: config.push.webpush.as_ref().map(webpush),
        rustore: config.push.rustore.iter().map(rustore).collect(),
        hms: config.push.hms.iter().map(hms).collect(),
        harmony: config.push.harmony.iter().map(harmony).collect(),
    }
}

fn alert(text: &config::Alert) -> push::AlertText {
    push::AlertText {
        language: text.language.as_str().into(),
        title: text.title.as_str().into(),
        one: text.one.as_str().into(),
        few: text.few.as_str().into(),
        many: text.many.as_str().into(),
        other: text.other.as_str().into(),
        anonymous: text.anonymous.as_str().into(),
    }
}

fn fcm(account: &config::Fcm) -> push::fcm::Settings {
    let (service_account, metadata_endpoint) = match &account.credential {
        config::FcmCredential::File(file) => (file.clone(), None),
        config::FcmCredential::Metadata(endpoint) => (Default::default(), Some(endpoint.clone())),
    };
    push::fcm::Settings {
        service_account,
        metadata_endpoint,
        project_id: account.project_id.clone(),
        project_number: account.project_number.clone().unwrap_or_default(),
        endpoint: account.endpoint.clone(),
        ca_file: account.ca_file.clone(),
        profile: match account.profile {
            config::FcmProfile::V1 => push::fcm::Profile::V1,
            config::FcmProfile::Legacy => push::fcm::Profile::Legacy,
        },
        payload: fcm_payload(account.payload),
        direct_boot_ok: account.direct_boot_ok,
    }
}

fn fcm_payload(payload: config::FcmPayload) -> push::payload::FcmPayload {
    match payload {
        config::FcmPayload::Ecss => push::payload::FcmPayload::Ecss,
        config::FcmPayload::Extended => push::payload::FcmPayload::Extended,
    }
}

fn apns(account: &config::Apns) -> push::apns::Settings {
    let (key_file, key_id, certificate_file) = match &account.credential {
        config::ApnsCredential::Key { key_file, key_id } => (key_file.clone(), key_id.clone(), None),
        config::ApnsCredential::Certificate(file) => (Default::default(), String::new(), Some(file.clone())),
    };
    push::apns::Settings {
        key_file,
        key_id,
        certificate_file,
        team_id: account.team_id.clone().unwrap_or_default(),
        topic: account.topic.clone().unwrap_or_default(),
        endpoint: account.endpoint.clone(),
        sandbox_endpoint: account.sandbox_endpoint.clone(),
        ca_file: account.ca_file.clone(),
        custom_key: account.custom_key.clone(),
        badge: account.badge.map(|badge| badge.to_string()).unwrap_or_default(),
        profile: match account.payload {
            config::ApnsPayload::Ecss => push::payload::AppleProfile::Ecss,
            config::ApnsPayload::Apple => push::payload::AppleProfile::Apple,
            config::ApnsPayload::Extended => push::payload::AppleProfile::Extended,
        },
        expiration: match account.expiration {
            config::ApnsExpiration::Wait => push::apns::Expiration::Wait,
            config::ApnsExpiration::Zero => push::apns::Expiration::Zero,
        },
        repeat: account.repeat,
    }
}

fn callback(gateway: &config::Callback) -> push::callback::Settings {
    push::callback::Settings {
        url: gateway.url.clone(),
        secret_file: gateway.secret_file.clone(),
        ca_file: gateway.ca_file.clone(),
    }
}

fn webpush(settings: &config::WebPush) -> push::webpush::Settings {
    let allowed_host = |allowed: &config::AllowedHost| push::webpush::AllowedHost {
        host: in_uri(&allowed.address.host),
        is_suffix: allowed.is_suffix,
        port: allowed.address.port,
        is_loopback: allowed.is_loopback(),
    };
    push::webpush::Settings {
        vapid_key_file: settings.vapid_key_file.clone(),
        subject: settings.subject.clone(),
        allowed_hosts: settings.allowed_hosts.iter().map(allowed_host).collect(),
        ca_file: settings.ca_file.clone(),
        payload: fcm_payload(settings.payload),
    }
}

fn rustore(account: &config::RuStore) -> push::rustore::Settings {
    push::rustore::Settings {
        project_id: account.project_id.clone(),
        token_file: account.token_file.clone(),
        endpoint: account.endpoint.clone(),
        ca_file: account.ca_file.clone(),
        payload: fcm_payload(account.payload),
    }
}

fn hms(account: &config::Hms) -> push::hms::Settings {
    push::hms::Settings {
        project_id: account.project_id.clone(),
        client_id: account.client_id.clone(),
        client_secret_file: account.client_secret_file.clone(),
        endpoint: account.endpoint.clone(),
        token_endpoint: account.token_endpoint.clone(),
        ca_file: account.ca_file.clone(),
        payload: fcm_payload(account.payload),
    }
}

fn harmony(account: &config::Harmony) -> push::harmony::Settings {
    push::harmony::Settings {
        service_account: account.service_account.clone(),
        endpoint: account.endpoint.clone(),
        ca_file: account.ca_file.clone(),
        payload: fcm_payload(account.payload),
    }
}

/// The pushing side, asked by the core.
struct Support(Pushers);

impl PushSupport for Support {
    fn supports(&self, target: &PushTarget, kind: NoticeKind) -> Result<(), Box<str>> {
        self.0.supports_notice(target, kind).map_err(Into::into)
    }

    fn knows_calls_again(&self, target: &PushTarget) -> bool {
        self.0.repeats_calls(target)
    }

    fn providers(&self) -> Vec<Provider> {
        self.0.providers()
    }

    fn vapid_key(&self) -> Option<Box<str>> {
        self.0.vapid_key().map(Into::into)
    }
}
