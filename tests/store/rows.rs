//! Rows and changes as the tests need them, each told apart by a small number.

use std::time::Duration;

use sip_push_proxy::binding::{Aor, App, Binding, DeviceId, Provider, PushTarget, PushToken, Tokens};
use sip_push_proxy::clock::UnixMillis;
use sip_push_proxy::sip::flow::{ConnectionId, Flow, Transport};
use sip_push_proxy::store::{BucketEntry, Change, EntryState, HeldCall, HeldCallId, Limits, Removal, Settlement};

/// Time of the tests: every row is of this moment unless it says otherwise.
pub(crate) const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

pub(crate) const LIMITS: Limits = Limits { entries_per_device: 3, entry_ttl: HOUR, queue: 10_000 };

pub(crate) fn aor(number: u32) -> Aor {
    Aor::new(&format!("user{number:06}"), "example.org")
}

/// A device of the AOR of the same number, and others by adding 1,000,000s.
pub(crate) fn device(number: u32) -> DeviceId {
    let mut id = [0; 10];
    id[..4].copy_from_slice(&number.to_be_bytes());
    DeviceId(id)
}

pub(crate) fn token(number: u32) -> PushToken {
    PushToken::new(format!("token-{number}"))
}

pub(crate) fn flow(port: u16) -> Flow {
    Flow {
        transport: Transport::Udp,
        listener: 0,
        connection: ConnectionId::NONE,
        remote: ([192, 0, 2, 1], port).into(),
    }
}

/// A push binding of about the size that phones make.
pub(crate) fn binding(owner: u32, number: u32) -> Binding {
    Binding {
        aor: aor(owner),
        device: device(number),
        instance: Some("<urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6>".into()),
        reg_id: None,
        label: None,
        contact: format!("sip:user{owner}@192.0.2.1:5060;pn-provider=fcm;pn-prid=token-{number}").into_bytes().into(),
        contact_params: (*b";+sip.ice").into(),
        path: [].into(),
        flow: flow(5060),
        home: None,
        call_id: format!("{number}@phone").into(),
        cseq: number,
        registered_at: NOW,
        expires_at: NOW.after(HOUR),
        push: Some(PushTarget {
            provider: Provider::Fcm,
            prid: token(number),
            param: "project".into(),
            tokens: Tokens::Single,
            others: Box::default(),
        }),
        push_refused: None,
        app: App { user_agent: Some("phone/1.0".into()), locale: None },
        upstream: None,
    }
}

pub(crate) fn plain_binding(owner: u32, number: u32) -> Binding {
    Binding { push: None, ..binding(owner, number) }
}

pub(crate) fn register(put: Vec<Binding>) -> Change {
    Change::Register { aor: put.first().unwrap().aor.clone(), put, remove: vec![] }
}

pub(crate) fn unregister(owner: u32, number: u32, heir: Option<u32>) -> Change {
    Change::Register { aor: aor(owner), put: vec![], remove: vec![removal(number, heir)] }
}

pub(crate) fn removal(number: u32, heir: Option<u32>) -> Removal {
    Removal { device: device(number), heir: heir.map(device) }
}

pub(crate) fn call_ref(call: u32) -> Box<str> {
    format!("call-{call}").into()
}

/// A live entry; later calls have later INVITEs.
pub(crate) fn entry(call: u32) -> BucketEntry {
    BucketEntry {
        call_ref: call_ref(call),
        remote_uri: "2001".into(),
        display_name: "Alice".into(),
        anonymous: false,
        invited_at: UnixMillis(NOW.0 + u64::from(call)),
        state: EntryState::Live,
    }
}

pub(crate) fn call(owner: u32, number: u32, devices: &[u32]) -> HeldCall {
    HeldCall {
        id: HeldCallId(number.into()),
        call_ref: call_ref(number),
        aor: aor(owner),
        invite: format!("INVITE sip:user{owner}@example.org SIP/2.0\r\nCall-ID: {number}\r\n\r\n").into_bytes().into(),
        flow: flow(5062),
        to_tag: "tag".into(),
        held_at: UnixMillis(NOW.0 + u64::from(number)),
        until: NOW.after(Duration::from_secs(28)),
        devices: devices.iter().copied().map(device).collect(),
    }
}

pub(crate) fn hold(owner: u32, number: u32, devices: &[u32]) -> Change {
    Change::Hold { call: call(owner, number, devices), entry: entry(number) }
}

pub(crate) fn settle(owner: u32, number: u32, devices: &[(u32, Settlement)], ended: bool) -> Change {
    Change::Settle {
        aor: aor(owner),
        id: HeldCallId(number.into()),
        call_ref: call_ref(number),
        devices: devices.iter().map(|(number, settlement)| (device(*number), *settlement)).collect(),
        ended,
    }
}

pub(crate) fn claim(owner: u32, number: u32) -> Change {
    Change::Claim { aor: aor(owner), device: device(number) }
}
