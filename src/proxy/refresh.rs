//! Refreshing registrations of sleeping devices upstream (`register.upstream_refresh`): REGISTERs of our own
//! (RFC 3261 §10.2.4), without the phones' credentials, which we do not have. The softswitch takes them because of where
//! they come from, a socket that nothing of a phone ever leaves by (`register.refresh_from`), or because of a password of our
//! own (`register.refresh_user`).
//!
//! ```text
//!   agenda ──► Input::Refresh ──► [resolve] ──► REGISTER ──► verdict ─┬─ 2xx ─────────► Change::Refreshed ──► agenda
//!     ▲                              ▲             ▲                  ├─ refused ─────► Change::Refreshed, the end
//!     │                              └─ next address, or more Expires ┤
//!     └──────────────────────── comes again by itself, later ◄────────┘  5xx, silence
//! ```
//!
//! Nothing here waits or counts attempts: what came to nothing is on the agenda still, further back each time.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;

use super::event::{Contacts, Effect, RefreshResult, ResolveTicket};
use super::policy::UpstreamContact;
use super::relay::{Granted, SentContact, listed_expires};
use super::secret::FlowToken;
use super::{Proxy, SavePurpose, contact, digest, forward};
use crate::binding::{Aor, Binding, DeviceId, Upstream};
use crate::clock::Now;
use crate::sip::flow::REFRESH_LISTENER;
use crate::sip::response::{header, reason_phrase};
use crate::sip::{Destination, HeaderName, Message, Transport, scan};
use crate::store::Change;
use crate::transaction::{Branch, ClientId, Event};

/// Refreshes under way at once: a softswitch that answers slowly is asked slowly, one that is silent almost not at all.
const UNDER_WAY_MAX: usize = 256;
/// 2020-01-01T00:00:00Z. Counted from here, seconds stay below 2^31 until 2088 (RFC 3261 §8.1.1.5).
const CSEQ_EPOCH_S: u64 = 1_577_836_800;

/// Refreshes that are under way.
#[derive(Debug, Default)]
pub(super) struct Refreshes {
    devices: HashMap<DeviceId, Refresh>,
    clients: HashMap<ClientId, DeviceId>,
    resolutions: HashMap<ResolveTicket, DeviceId>,
}

/// One device's.
#[derive(Debug)]
struct Refresh {
    binding: Arc<Binding>,
    /// Seconds asked for.
    expires: u32,
    cseq: u32,
    from_tag: Box<str>,
    /// Whether the softswitch has said already that we ask for too little.
    has_been_brief: bool,
    /// The header line that answers the softswitch's challenge.
    credentials: Option<Vec<u8>>,
    /// Whether a further challenge will not be answered: it came after an answer already.
    has_been_stale: bool,
    /// Addresses that were not tried yet, the best one last.
    destinations: Vec<Destination>,
    /// The one that was tried last.
    destination: Option<Destination>,
}

/// What a final response to a refresh means.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// For so many seconds.
    Granted(u32),
    /// At once, for so many seconds (RFC 3261 §10.2.8).
    AskFor(u32),
    /// At another address, else later.
    Elsewhere,
    Later,
    /// Not before the phone has registered again.
    Never(RefreshResult),
}

impl Refresh {
    fn registrar_uri(&self) -> String {
        let domain = self.binding.aor.as_str().rsplit_once('@').map_or("", |(_, domain)| domain);
        format!("sip:{domain}")
    }

    fn sent(&self) -> SentContact<'_> {
        let Binding { device, contact, instance, reg_id, .. } = &*self.binding;
        SentContact { device: *device, uri: contact, instance: instance.as_deref(), reg_id: *reg_id }
    }
}

impl Refreshes {
    pub(super) fn is_empty(&self) -> bool {
        self.devices.is_empty() && self.clients.is_empty() && self.resolutions.is_empty()
    }

    /// Whose refresh waits for this name, if one does.
    pub(super) fn resolved(&mut self, ticket: ResolveTicket) -> Option<DeviceId> {
        self.resolutions.remove(&ticket)
    }
}

impl Proxy {
    /// How many more refreshes may begin.
    pub fn refresh_room(&self) -> usize {
        // A server that is stopping leaves them to whoever comes after it.
        if self.is_draining { 0 } else { UNDER_WAY_MAX.saturating_sub(self.refreshes.devices.len()) }
    }

    /// A device is due. One whose refresh is under way, or for which there is no room, comes again.
    pub(super) fn refresh(&mut self, binding: Arc<Binding>, now: Now) {
        let device = binding.device;
        let Some(softswitch) = self.policy.softswitch.clone() else { return };
        if self.refresh_room() == 0 || self.refreshes.devices.contains_key(&device) {
            return;
        }
        let refresh = Refresh {
            expires: match self.policy.expires_upstream {
                0 => expires_to_ask_for(&binding),
                wanted => wanted.max(self.brief_upstream),
            },
            cseq: u32::try_from(now.unix.seconds().saturating_sub(CSEQ_EPOCH_S)).unwrap_or(u32::MAX >> 1),
            from_tag: self.random.tag(),
            has_been_brief: false,
            credentials: None,
            has_been_stale: false,
            destinations: self.refresh_ways(self.upstream_addresses()),
            destination: None,
            binding,
        };
        if !refresh.destinations.is_empty() {
            return self.begin_refresh(refresh, now);
        }
        self.refreshes.devices.insert(device, refresh);
        self.tickets += 1;
        let ticket = ResolveTicket(self.tickets);
        self.refreshes.resolutions.insert(ticket, device);
        self.effects.push_back(Effect::Resolve {
            ticket,
            host: softswitch.host,
            port: softswitch.port,
            transport: softswitch.transport,
        });
    }

    /// The softswitch's name was looked up.
    pub(super) fn refresh_resolved(&mut self, device: DeviceId, addresses: &[(Transport, SocketAddr)], now: Now) {
        let Some(mut refresh) = self.refreshes.devices.remove(&device) else { return };
        let addresses = addresses.iter().rev().filter_map(|(transport, remote)| self.address(*transport, *remote));
        refresh.destinations = self.refresh_ways(addresses.collect());
        self.begin_refresh(refresh, now);
    }

    /// The softswitch's addresses, by the socket that refreshes have to themselves where they have one.
    fn refresh_ways(&self, addresses: Vec<Destination>) -> Vec<Destination> {
        if self.policy.refresh_from.is_none() {
            return addresses;
        }
        let datagrams = addresses.into_iter().filter(|address| address.transport() == Transport::Udp);
        let by_socket = |address: Destination| Destination::Address {
            transport: Transport::Udp,
            listener: REFRESH_LISTENER,
            remote: address.remote(),
        };
        datagrams.map(by_socket).collect()
    }

    fn begin_refresh(&mut self, mut refresh: Refresh, now: Now) {
        let branch = self.transactions.new_branch(0);
        let first = refresh.destinations.last().copied();
        let written = first.and_then(|first| self.write_refresh(&refresh, first, &branch));
        if let Some(request) = written.and_then(|bytes| Message::parse(bytes, usize::MAX).ok())
            && self.policy.refresh_from.is_none()
        {
            self.prefer_stream_upstream(&request, &mut refresh.destinations, now);
        }
        self.send_refresh(refresh, "the softswitch's name leads nowhere".into(), now);
    }

    /// To its next address (RFC 3263 §4.3). Without one it comes again later, and `why` is the reason.
    fn send_refresh(&mut self, mut refresh: Refresh, why: Cow<'static, str>, now: Now) {
        let device = refresh.binding.device;
        while let Some(destination) = refresh.destinations.pop() {
            let branch = self.transactions.new_branch(0);
            let Some(bytes) = self.write_refresh(&refresh, destination, &branch) else { continue };
            let Ok(request) = Message::parse(bytes, usize::MAX) else {
                self.effects.push_back(Effect::Fault("a refresh does not parse"));
                continue;
            };
            refresh.destination = Some(destination);
            match self.transactions.send(request, branch, destination, now.instant) {
                Ok(client) => {
                    self.refreshes.clients.insert(client, device);
                    self.refreshes.devices.insert(device, refresh);
                    return;
                }
                Err(_) => return self.refreshed(device, RefreshResult::TryAgain, "too many transactions"),
            }
        }
        self.refreshed(device, RefreshResult::TryAgain, why);
    }

    /// What happened to a transaction, if that is not one of a refresh.
    pub(super) fn refresh_event(&mut self, event: Event, contacts: &dyn Contacts, now: Now) -> Option<Event> {
        let (client, why) = match &event {
            Event::Response { client, .. } => (*client, ""),
            Event::Timeout { client } => (*client, "the softswitch does not answer"),
            Event::SendFailed { client } => (*client, "the softswitch cannot be reached"),
            Event::ClientEnded { .. } | Event::ServerEnded { .. } => return Some(event),
        };
        let Some(device) = self.refreshes.clients.get(&client).copied() else { return Some(event) };
        if let Event::Response { response, .. } = &event
            && response.status().is_some_and(|status| status < 200)
        {
            return None;
        }
        self.refreshes.clients.remove(&client);
        if let Some(refresh) = self.refreshes.devices.remove(&device) {
            match &event {
                Event::Response { response, .. } => self.refresh_answered(refresh, response, contacts, now),
                Event::Timeout { .. }
                | Event::SendFailed { .. }
                | Event::ClientEnded { .. }
                | Event::ServerEnded { .. } => self.send_refresh(refresh, why.into(), now),
            }
        }
        None
    }

    fn refresh_answered(&mut self, mut refresh: Refresh, response: &Message, contacts: &dyn Contacts, now: Now) {
        let device = refresh.binding.device;
        match verdict(response, &refresh) {
            Verdict::Granted(seconds) => {
                let expires_at = now.unix.after(std::time::Duration::from_secs(seconds.into()));
                let upstream = Upstream { registered_at: now.unix, expires_at, refused: None };
                self.save_refresh(refresh, upstream);
                self.refreshed(device, RefreshResult::Granted, "");
            }
            Verdict::AskFor(seconds) => {
                refresh.has_been_brief = true;
                refresh.expires = seconds;
                refresh.cseq += 1;
                refresh.destinations.extend(refresh.destination);
                self.send_refresh(refresh, reason(response), now);
            }
            Verdict::Elsewhere => self.send_refresh(refresh, reason(response), now),
            Verdict::Never(RefreshResult::Challenged) if self.answers_challenge(&mut refresh, response) => {
                refresh.cseq += 1;
                refresh.destinations.extend(refresh.destination);
                self.send_refresh(refresh, reason(response), now);
            }
            Verdict::Later => self.refreshed(device, RefreshResult::TryAgain, reason(response)),
            Verdict::Never(result) => {
                let refused = reason(response);
                let (registered_at, expires_at) = refresh.binding.known_upstream();
                let upstream = Upstream { registered_at, expires_at, refused: Some(refused.as_ref().into()) };
                let binding = Binding { upstream: Some(upstream.clone()), ..Binding::clone(&refresh.binding) };
                self.save_refresh(refresh, upstream);
                self.refreshed(device, result, refused);
                // Its phone can do what we cannot, while there is time.
                self.remind(Arc::new(binding), contacts, now);
            }
        }
    }

    /// Proves who we are, where we have something to prove it by and this was not tried before (RFC 3261 §22.2).
    fn answers_challenge(&mut self, refresh: &mut Refresh, challenge: &Message) -> bool {
        let Some(own) = self.policy.refresh_user.clone() else { return false };
        if refresh.has_been_stale {
            return false;
        }
        let is_again = refresh.credentials.is_some();
        let cnonce = self.random.tag();
        let uri = refresh.registrar_uri();
        let credentials = (&*own.user, &*own.password);
        let Some(line) = digest::answer(challenge, ("REGISTER", &uri), credentials, &cnonce, is_again) else {
            return false;
        };
        refresh.has_been_stale = is_again;
        refresh.credentials = Some(line);
        true
    }

    /// The refresh is under way until this is durable. What the store refuses is found out again.
    fn save_refresh(&mut self, refresh: Refresh, upstream: Upstream) {
        let Binding { aor, device, registered_at, .. } = &*refresh.binding;
        let (aor, device, registered_at) = (aor.clone(), *device, *registered_at);
        self.refreshes.devices.insert(device, refresh);
        self.save(Change::Refreshed { aor, device, registered_at, upstream }, SavePurpose::Refresh(device));
    }

    pub(super) fn refresh_saved(&mut self, device: DeviceId) {
        self.refreshes.devices.remove(&device);
    }

    fn refreshed(&mut self, device: DeviceId, result: RefreshResult, reason: impl Into<Cow<'static, str>>) {
        self.effects.push_back(Effect::Refreshed { device, result, reason: reason.into() });
    }

    /// The Contact is what the phone's own REGISTER came to upstream, so that it is the same binding there. The Call-ID
    /// is not the phone's: with that one its next REGISTER would come out of order (RFC 3261 §10.3 step 7).
    fn write_refresh(&self, refresh: &Refresh, destination: Destination, branch: &Branch) -> Option<Bytes> {
        let Refresh { binding, expires, cseq, from_tag, .. } = refresh;
        let domain = binding.aor.as_str().rsplit_once('@')?.1;
        // Who registers for another says so in From (RFC 3261 §10.2).
        let from = self.policy.refresh_user.as_ref().map(|own| Aor::new(&own.user, domain));
        let mut out = Vec::with_capacity(1024);
        out.extend_from_slice(format!("REGISTER {} SIP/2.0\r\n", refresh.registrar_uri()).as_bytes());
        let egress = self.policy.listener(destination.listener())?;
        forward::write_via(&mut out, egress, destination.transport(), branch);
        header(&mut out, "Max-Forwards", b"70");
        for (name, aor, tag) in
            [("From", from.as_ref().unwrap_or(&binding.aor), Some(from_tag)), ("To", &binding.aor, None)]
        {
            let mut value = b"<sip:".to_vec();
            write_aor(&mut value, aor);
            value.push(b'>');
            value.extend(tag.into_iter().flat_map(|tag| format!(";tag={tag}").into_bytes()));
            header(&mut out, name, &value);
        }
        header(&mut out, "Call-ID", format!("{}-refresh", binding.device).as_bytes());
        header(&mut out, "CSeq", format!("{cseq} REGISTER").as_bytes());
        let mut value = Vec::with_capacity(256);
        match self.policy.upstream_contact {
            UpstreamContact::Alias => {
                self.write_alias(&mut value, binding.device);
                contact::write_upstream_params(&mut value, &binding.contact_params, Some(*expires));
            }
            UpstreamContact::Path => {
                let mut uri = Vec::new();
                contact::write_uri_without_push(&mut uri, &binding.contact);
                contact::write_contact(&mut value, &uri, &binding.contact_params);
                value.extend_from_slice(format!(";expires={expires}").as_bytes());
                self.write_path(&mut out, &self.keys.write(&FlowToken { device: binding.device, flow: binding.flow }));
                if !binding.path.is_empty() {
                    header(&mut out, "Path", &binding.path);
                }
                header(&mut out, "Supported", b"path");
            }
        }
        header(&mut out, "Contact", &value);
        out.extend_from_slice(refresh.credentials.as_deref().unwrap_or_default());
        header(&mut out, "Expires", expires.to_string().as_bytes());
        header(&mut out, "User-Agent", concat!("sip-push-proxy/", env!("CARGO_PKG_VERSION")).as_bytes());
        header(&mut out, "Content-Length", b"0");
        out.extend_from_slice(b"\r\n");
        Some(out.into())
    }
}

/// What the phone got, or more where the softswitch wanted that; never less, or a registrar that always grants a little
/// less than what it is asked for would be asked for nothing in the end.
fn expires_to_ask_for(binding: &Binding) -> u32 {
    let (since, until) = binding.known_upstream();
    let granted = until.since(since).max(binding.expires_at.since(binding.registered_at));
    u32::try_from(granted.as_secs()).unwrap_or(u32::MAX).max(1)
}

fn verdict(response: &Message, refresh: &Refresh) -> Verdict {
    match response.status().unwrap_or_default() {
        200..300 => match listed_expires(response, &refresh.sent()) {
            Granted::Seconds(0) | Granted::NotListed => Verdict::Never(RefreshResult::Refused),
            Granted::Seconds(seconds) => Verdict::Granted(seconds),
            Granted::Listed => Verdict::Granted(refresh.expires),
        },
        401 | 407 => Verdict::Never(RefreshResult::Challenged),
        423 if !refresh.has_been_brief => match response.number(HeaderName::MinExpires).map(u32::try_from) {
            Some(Ok(seconds)) if seconds > refresh.expires => Verdict::AskFor(seconds),
            Some(_) | None => Verdict::Never(RefreshResult::Refused),
        },
        503 => Verdict::Elsewhere,
        408 | 480 | 491 | 500 | 502 | 504 => Verdict::Later,
        _ => Verdict::Never(RefreshResult::Refused),
    }
}

/// For the operator.
fn reason(response: &Message) -> Cow<'static, str> {
    let status = response.status().unwrap_or_default();
    match status {
        401 | 407 => format!("the softswitch asks for a password: {status} {}", reason_phrase(status)).into(),
        200..300 => "the softswitch grants nothing".into(),
        _ => format!("the softswitch answers {status} {}", reason_phrase(status)).into(),
    }
}

/// `user@domain` as in a URI: what may not stand in a user part is escaped (RFC 3261 §25.1).
fn write_aor(out: &mut Vec<u8>, aor: &Aor) {
    let (user, domain) = aor.as_str().rsplit_once('@').unwrap_or_default();
    for byte in user.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.!~*'()&=+$,;?/".contains(&byte) {
            out.push(byte);
        } else {
            out.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    }
    out.push(b'@');
    scan::put(out, domain);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binding::{App, Provider, PushTarget, PushToken, Tokens};
    use crate::clock::UnixMillis;
    use crate::sip::{ConnectionId, Flow};

    fn refresh(has_been_brief: bool) -> Refresh {
        let binding = Binding {
            aor: Aor::new("alice", "example.org"),
            device: DeviceId([1; 10]),
            instance: None,
            reg_id: None,
            label: None,
            contact: (*b"sip:alice@198.51.100.1;pn-prid=x").into(),
            contact_params: [].into(),
            path: [].into(),
            flow: Flow {
                transport: Transport::Udp,
                listener: 0,
                connection: ConnectionId::NONE,
                remote: "198.51.100.1:5060".parse().unwrap(),
            },
            home: None,
            call_id: "c".into(),
            cseq: 1,
            registered_at: UnixMillis(0),
            expires_at: UnixMillis(60_000),
            push: Some(PushTarget {
                provider: Provider::Fcm,
                prid: PushToken::new("x"),
                param: "".into(),
                tokens: Tokens::Single,
                others: Box::default(),
            }),
            push_refused: None,
            app: App::default(),
            upstream: None,
        };
        Refresh {
            expires: 60,
            cseq: 1,
            from_tag: "t".into(),
            has_been_brief,
            credentials: None,
            has_been_stale: false,
            destinations: Vec::new(),
            destination: None,
            binding: Arc::new(binding),
        }
    }

    fn response(status: u16, headers: &str) -> Message {
        let text = format!(
            "SIP/2.0 {status} x\r\nVia: SIP/2.0/UDP h;branch=z9hG4bKx\r\nFrom: <sip:a@h>;tag=t\r\nTo: <sip:a@h>;tag=u\r\n\
             Call-ID: c\r\nCSeq: 1 REGISTER\r\n{headers}\r\n"
        );
        Message::parse(text.into(), 100).unwrap()
    }

    #[test]
    fn what_each_answer_means() {
        use RefreshResult::{Challenged, Refused};
        let alias = format!("Contact: <sip:{}@h>", DeviceId([1; 10]));
        for (status, headers, expected) in [
            (200, format!("{alias};expires=30\r\n"), Verdict::Granted(30)),
            (200, format!("{alias}\r\nExpires: 40\r\n"), Verdict::Granted(40)),
            (200, "Contact: <sip:alice@198.51.100.1>;expires=50\r\n".into(), Verdict::Granted(50)),
            (200, format!("{alias}\r\n"), Verdict::Granted(60)),
            (200, "Contact: <sip:bob@h>;expires=50\r\n".into(), Verdict::Never(Refused)),
            (202, String::new(), Verdict::Never(Refused)),
            (200, format!("{alias};expires=0\r\n"), Verdict::Never(Refused)),
            (302, String::new(), Verdict::Never(Refused)),
            (401, String::new(), Verdict::Never(Challenged)),
            (407, String::new(), Verdict::Never(Challenged)),
            (403, String::new(), Verdict::Never(Refused)),
            (404, String::new(), Verdict::Never(Refused)),
            (408, String::new(), Verdict::Later),
            (423, "Min-Expires: 90\r\n".into(), Verdict::AskFor(90)),
            (423, "Min-Expires: 60\r\n".into(), Verdict::Never(Refused)),
            (423, "Min-Expires: 99999999999\r\n".into(), Verdict::Never(Refused)),
            (423, String::new(), Verdict::Never(Refused)),
            (480, String::new(), Verdict::Later),
            (500, String::new(), Verdict::Later),
            (501, String::new(), Verdict::Never(Refused)),
            (503, String::new(), Verdict::Elsewhere),
            (504, String::new(), Verdict::Later),
            (603, String::new(), Verdict::Never(Refused)),
        ] {
            assert_eq!(verdict(&response(status, &headers), &refresh(false)), expected, "{status} {headers}");
        }
        let brief_again = verdict(&response(423, "Min-Expires: 90\r\n"), &refresh(true));
        assert_eq!(brief_again, Verdict::Never(Refused));
    }

    #[test]
    fn users_are_escaped() {
        let mut out = Vec::new();
        write_aor(&mut out, &Aor::new("a@b c%<\u{e9}>+1;x", "[::1]"));
        assert_eq!(out, b"a%40b%20c%25%3C%C3%A9%3E+1;x@[::1]");
    }
}
