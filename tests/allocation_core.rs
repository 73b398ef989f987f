//! What a call costs the core in memory: allocations to forward one, bytes to hold one.

mod core;

use bytes::Bytes;
use sip_push_proxy::binding::{Aor, App, Binding, DeviceId, Provider, PushTarget, PushToken, Tokens};
use sip_push_proxy::proxy::{Effect, Input};
use sip_push_proxy::store::{Change, Reply, Ticket};
use std::time::Duration;

use crate::core::{Core, invite, phone, switch};

/// Allocations of an INVITE to an awake device, from its parsing to its copy for the device, the 100 and the call's record
/// for the store included; what the store makes of that is its own.
const FORWARD_ALLOCATIONS_MAX: u64 = 48;

#[test]
fn an_invite_to_an_awake_device_is_forwarded_with_few_allocations() {
    let mut core = Core::new(1, |policy| policy.hold.fresh = Duration::from_secs(3600));
    // The tables have grown and the first calls are over when the counting begins.
    for call in 0..50 {
        core.receive(switch(), invite(0, call));
        core.settle();
    }
    let bytes = invite(0, 99);
    assert_eq!(bytes.len(), 900);
    let (mut sent, mut changes) = (0, Vec::with_capacity(2));
    let first = allocation_counter::measure(|| {
        core.receive(switch(), bytes);
        sent += effects(&mut core, &mut changes);
    });
    let replies = changes.drain(..).map(|(ticket, change)| Reply { ticket, result: Ok(core.memory.apply(change)) });
    let replies: Vec<_> = replies.collect();
    let second = allocation_counter::measure(|| {
        for reply in replies {
            core.input(Input::Saved(reply));
            sent += effects(&mut core, &mut changes);
        }
    });
    let (count, bytes) = (first.count_total + second.count_total, first.bytes_total + second.bytes_total);
    println!("forwarding an INVITE: {count} allocations, {bytes} bytes");
    assert_eq!(sent, 2, "the 100 and the INVITE");
    assert!(count <= FORWARD_ALLOCATIONS_MAX, "{count} allocations");
}

/// How many messages are sent; what is to be stored is in `changes`.
fn effects(core: &mut Core, changes: &mut Vec<(Ticket, Change)>) -> usize {
    let mut sent = 0;
    while let Some(effect) = core.proxy.poll_effect() {
        if let Effect::Save { ticket, change } = effect {
            changes.push((ticket, change));
        } else {
            sent += usize::from(matches!(effect, Effect::Send { .. }));
        }
    }
    sent
}

const CALLS: u32 = 50_000;
/// Bytes for each held call, the proxy's and the store's together.
const HELD_CALL_BYTES_MAX: i64 = 8 * 1024;

#[test]
fn a_held_call_is_small() {
    let mut core = Core::new(0, |_| {});
    (0..CALLS).for_each(|number| bind(&core, number));
    let mut changes = Vec::with_capacity(CALLS as usize);
    let mut sent: Vec<Bytes> = Vec::with_capacity(8);
    let mut proxy_bytes = 0;
    for call in 0..CALLS {
        proxy_bytes += net(|| {
            core.receive(switch(), invite(call, call));
            while let Some(effect) = core.proxy.poll_effect() {
                changes.extend(core.perform(effect, &mut sent));
                sent.clear();
            }
        });
    }
    // What a change holds on its way to the store is the store's.
    let (mut replies, mut store_bytes) = (Vec::with_capacity(CALLS as usize), 0);
    for (ticket, change) in changes.drain(..) {
        let copy = change.clone();
        let change_bytes = -net(|| drop(copy));
        proxy_bytes -= change_bytes;
        store_bytes += change_bytes + net(|| replies.push(Reply { ticket, result: Ok(core.memory.apply(change)) }));
    }
    for reply in replies.drain(..) {
        proxy_bytes += net(|| {
            core.input(Input::Saved(reply));
            while let Some(effect) = core.proxy.poll_effect() {
                let _ = core.perform(effect, &mut sent);
                sent.clear();
            }
        });
    }
    assert_eq!(core.proxy.held_calls(), CALLS as usize);
    assert_eq!(core.memory.table().call_count(), CALLS as usize);
    let each = |bytes: i64| bytes / i64::from(CALLS);
    println!("a held call: {} bytes in the proxy, {} in the store", each(proxy_bytes), each(store_bytes));
    assert!(each(proxy_bytes + store_bytes) <= HELD_CALL_BYTES_MAX, "{} bytes", each(proxy_bytes + store_bytes));
}

/// Phone `number`, registered in the store alone.
fn bind(core: &Core, number: u32) {
    let aor = Aor::new(&format!("user{number}"), "example.org");
    let mut device = [0; 10];
    device[..4].copy_from_slice(&number.to_be_bytes());
    let prid = PushToken::new(format!("{number:08}").repeat(18));
    let push = PushTarget {
        provider: Provider::Fcm,
        prid,
        param: "project".into(),
        tokens: Tokens::Single,
        others: Box::default(),
    };
    let binding = Binding {
        aor: aor.clone(),
        device: DeviceId(device),
        instance: None,
        reg_id: None,
        label: None,
        contact: format!("sip:user{number}@{}", phone(number).remote).into_bytes().into(),
        contact_params: Box::default(),
        path: Box::default(),
        flow: phone(number),
        home: None,
        call_id: "register".into(),
        cseq: 1,
        registered_at: core.now.unix,
        expires_at: core.now.unix.after(Duration::from_secs(3600)),
        push: Some(push),
        push_refused: None,
        app: App::default(),
        upstream: None,
    };
    core.memory.apply(Change::Register { aor, put: vec![binding], remove: Vec::new() });
}

/// Bytes that stay allocated.
fn net(work: impl FnOnce()) -> i64 {
    allocation_counter::measure(work).bytes_current
}
