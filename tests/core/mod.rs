//! A core with its store and a number of registered phones, for measurements: nothing is delayed and nothing fails.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot begin fails")]

#[path = "../simulation/options.rs"]
mod options;
#[path = "../simulation/support.rs"]
mod support;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sip_push_proxy::binding::{Aor, Binding, DeviceId};
use sip_push_proxy::clock::{Now, UnixMillis};
use sip_push_proxy::proxy::policy::Mode;
use sip_push_proxy::proxy::{Contacts, Effect, Input, Policy, Proxy};
use sip_push_proxy::push::{self, NoticeKind, Outcome};
use sip_push_proxy::sip::{ConnectionId, Flow, Message, Transport};
use sip_push_proxy::store::{Change, EntryState, Limits, Memory, Reply, Table, Ticket};
use sip_push_proxy::transaction::Settings;

pub(crate) struct Core {
    pub(crate) proxy: Proxy,
    pub(crate) memory: Memory,
    pub(crate) now: Now,
}

pub(crate) struct View<'a>(pub(crate) &'a Table, pub(crate) UnixMillis);

impl Contacts for View<'_> {
    fn of_aor(&self, aor: &Aor) -> Vec<Arc<Binding>> {
        self.0.lookup(aor).into_vec()
    }

    fn of_device(&self, device: DeviceId) -> Option<Arc<Binding>> {
        self.0.by_device(device)
    }

    fn on_flow(&self, transport: Transport, remote: SocketAddr) -> Option<DeviceId> {
        self.0.device_on(transport, remote, self.1)
    }

    fn has_missed(&self, device: DeviceId) -> bool {
        self.0.entries(&device).iter().any(|entry| entry.state == EntryState::Missed)
    }

    fn watch(&self, _aor: &Aor) {}

    fn unwatch(&self, _aor: &Aor) {}
}

fn udp(remote: SocketAddr, transport: Transport) -> Flow {
    Flow { transport, listener: 0, connection: ConnectionId::NONE, remote }
}

/// Where phone `number` is.
pub(crate) fn phone(number: u32) -> Flow {
    let address = Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 0).to_bits() + number);
    udp(SocketAddr::new(IpAddr::V4(address), 5060), Transport::Udp)
}

pub(crate) fn switch() -> Flow {
    udp(options::socket(options::SWITCH), Transport::Udp)
}

impl Core {
    /// With phones 0 to `phones`, registered in local mode. `change` has the last word on the policy.
    pub(crate) fn new(phones: u32, change: impl FnOnce(&mut Policy)) -> Self {
        let mut policy = options::policy();
        policy.mode = Mode::Local;
        policy.held_calls_max = usize::MAX;
        policy.registrar.auth = sip_push_proxy::proxy::policy::Auth::None(vec!["10.0.0.0/8".parse().unwrap()]);
        change(&mut policy);
        let limits = Limits { entries_per_device: 50, entry_ttl: Duration::from_secs(604_800), queue: 10_000 };
        let settings = Settings { transactions_max: usize::MAX, ..options::settings() };
        #[expect(clippy::disallowed_methods, reason = "the only way to have an Instant at all")]
        let instant = Instant::now();
        let mut core = Self {
            proxy: Proxy::new(Arc::new(policy), settings, [1, 2]),
            memory: Memory::new(limits),
            now: Now { instant, unix: UnixMillis(1_700_000_000_000) },
        };
        for number in 0..phones {
            core.register(number, 1);
        }
        core
    }

    /// A REGISTER with its 200.
    pub(crate) fn register(&mut self, number: u32, cseq: u32) {
        self.receive(phone(number), register(number, cseq));
        self.settle();
    }

    pub(crate) fn receive(&mut self, flow: Flow, bytes: Bytes) {
        let message = Message::parse(bytes, 128).unwrap();
        self.input(Input::Received { flow, message });
    }

    pub(crate) fn input(&mut self, input: Input) {
        let view = View(self.memory.table(), self.now.unix);
        self.proxy.handle(input, &view, self.now);
    }

    /// Performs all effects; what was sent, last first.
    pub(crate) fn settle(&mut self) -> Vec<Bytes> {
        let mut sent = Vec::new();
        while let Some(effect) = self.proxy.poll_effect() {
            if let Some((ticket, change)) = self.perform(effect, &mut sent) {
                let result = Ok(self.memory.apply(change));
                self.input(Input::Saved(Reply { ticket, result }));
            }
        }
        sent
    }

    /// Performs one effect but a save, which is handed back.
    pub(crate) fn perform(&mut self, effect: Effect, sent: &mut Vec<Bytes>) -> Option<(Ticket, Change)> {
        match effect {
            Effect::Send { bytes, .. } => sent.push(bytes),
            Effect::Save { ticket, change } => return Some((ticket, change)),
            Effect::Push(push) => {
                let (ticket, provider) = (push.ticket, push.target.provider);
                let token = push::TokenHash::of(&push.target.prid);
                let reply = push::Reply {
                    ticket,
                    provider,
                    token,
                    notice: NoticeKind::Invite,
                    outcome: Outcome::Accepted,
                    push_id: None,
                    repeatable: true,
                    left_out: 0,
                    took: Duration::ZERO,
                    replaced: Vec::new(),
                };
                self.input(Input::Pushed(reply));
            }
            Effect::Resolve { .. }
            | Effect::Await { .. }
            | Effect::Fetch { .. }
            | Effect::Woken(_)
            | Effect::Step(_)
            | Effect::CallBegan { .. }
            | Effect::CallEnded { .. }
            | Effect::Found(_)
            | Effect::WakeSeen { .. }
            | Effect::Refreshed { .. }
            | Effect::AuthFailed { .. }
            | Effect::AuthProven { .. }
            | Effect::Warning(_)
            | Effect::Dropped(_)
            | Effect::Fault(_) => {}
        }
        None
    }
}

pub(crate) fn register(number: u32, cseq: u32) -> Bytes {
    let address = phone(number).remote;
    let token = format!("{number:08}").repeat(18);
    format!(
        "REGISTER sip:example.org SIP/2.0\r\nVia: SIP/2.0/UDP {address};rport;branch=z9hG4bKr{number}-{cseq}\r\n\
         Max-Forwards: 70\r\nFrom: <sip:user{number}@example.org>;tag=r{number}\r\nTo: <sip:user{number}@example.org>\r\n\
         Call-ID: register-{number}\r\nCSeq: {cseq} REGISTER\r\nExpires: 3600\r\nUser-Agent: phone/1.0\r\n\
         Contact: <sip:user{number}@{address};pn-provider=fcm;pn-param=project;pn-prid={token}>;\
         +sip.instance=\"<urn:uuid:{number:08}-0000-0000-0000-000000000000>\"\r\nContent-Length: 0\r\n\r\n"
    )
    .into()
}

/// An INVITE of 900 bytes from the softswitch.
pub(crate) fn invite(number: u32, call: u32) -> Bytes {
    let head = format!(
        "INVITE sip:user{number}@example.org SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.20:5060;rport;branch=z9hG4bKi{call:08}\r\n\
         Max-Forwards: 70\r\nFrom: \"Bob\" <sip:2001@example.org>;tag=f{call:08}\r\nTo: <sip:user{number}@example.org>\r\n\
         Call-ID: {call:08}@192.0.2.20\r\nCSeq: 1 INVITE\r\nContact: <sip:2001@192.0.2.20:5060>\r\n\
         Allow: INVITE, ACK, CANCEL, BYE, OPTIONS, INFO, UPDATE, PRACK, REFER, NOTIFY\r\nSupported: timer, replaces\r\n\
         User-Agent: softswitch/1.0\r\nContent-Type: application/sdp\r\n"
    );
    let body = 900 - head.len() - "Content-Length: 300\r\n\r\n".len();
    format!("{head}Content-Length: {body}\r\n\r\n{}", "v".repeat(body)).into()
}
