//! What a call costs the core in memory: allocations to forward one, bytes to hold one.

mod core;

use bytes::Bytes;
use sip_push_proxy::proxy::Input;
use sip_push_proxy::store::Reply;
use std::time::Duration;

use crate::core::{Core, invite, switch};

/// Allocations of an INVITE to an awake device, from its parsing to its copy for the device, the 100 and the call's own
/// record included.
const FORWARD_ALLOCATIONS_MAX: u64 = 60;

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
    let mut sent = 0;
    let counted = allocation_counter::measure(|| {
        core.receive(switch(), bytes);
        while let Some(effect) = core.proxy.poll_effect() {
            sent += usize::from(matches!(effect, sip_push_proxy::proxy::Effect::Send { .. }));
        }
    });
    println!("forwarding an INVITE: {} allocations, {} bytes", counted.count_total, counted.bytes_total);
    assert_eq!(sent, 2, "the 100 and the INVITE");
    assert!(counted.count_total <= FORWARD_ALLOCATIONS_MAX, "{} allocations", counted.count_total);
}

const CALLS: u32 = 50_000;
/// Bytes for each held call, the proxy's and the store's together.
const HELD_CALL_BYTES_MAX: i64 = 8 * 1024;

#[test]
fn a_held_call_is_small() {
    let mut core = Core::new(CALLS, |_| {});
    core.wait(Duration::from_secs(200));
    assert_eq!(core.proxy.held_calls(), 0);
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
    // The changes are on their way to the store; the memory they hold is the store's from here on.
    let (mut replies, mut store_bytes) = (Vec::with_capacity(CALLS as usize), 0);
    let change_bytes = net(|| drop(changes.clone()));
    assert_eq!(change_bytes, 0);
    for (ticket, change) in changes.drain(..) {
        store_bytes += net(|| replies.push(Reply { ticket, result: Ok(core.memory.apply(change)) }));
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
    println!(
        "a held call: {} bytes, of which {} in changes that went into the store",
        each(proxy_bytes + store_bytes),
        -each(store_bytes.min(0))
    );
    assert!(each(proxy_bytes + store_bytes) <= HELD_CALL_BYTES_MAX, "{} bytes", each(proxy_bytes + store_bytes));
}

/// Bytes that stay allocated.
fn net(work: impl FnOnce()) -> i64 {
    allocation_counter::measure(work).bytes_current
}
