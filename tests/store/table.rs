//! What the memory tells its readers.

use std::net::SocketAddr;
use std::time::Duration;

use sip_push_proxy::binding::Binding;
use sip_push_proxy::sip::flow::{ConnectionId, Flow, Transport};
use sip_push_proxy::store::{Change, Memory};

use crate::rows::*;

#[test]
fn a_device_is_known_by_its_peer_whatever_the_connection() {
    let store = Memory::new(LIMITS);
    let tcp = Flow { transport: Transport::Tcp, connection: ConnectionId(7), ..flow(7000) };
    store.apply(register(vec![Binding { flow: tcp, ..binding(1, 1) }]));
    let on = |flow: Flow| store.table().device_on(flow.transport, flow.remote, NOW).is_some();
    assert!(on(tcp));
    assert!(on(Flow { connection: ConnectionId(8), listener: 3, ..tcp }));
    assert!(on(Flow { remote: SocketAddr::new([0, 0, 0, 0, 0, 0xffff, 0xc000, 0x0201].into(), 7000), ..tcp }));
    assert!(!on(Flow { transport: Transport::Udp, ..tcp }));
    assert!(!on(Flow { remote: ([192, 0, 2, 1], 7001).into(), ..tcp }));
    assert_eq!(store.table().device_on(Transport::Tcp, tcp.remote, NOW.after(HOUR)), None, "its Expires is over");
}

#[test]
fn a_peer_is_forgotten_with_its_last_binding() {
    let store = Memory::new(LIMITS);
    store.apply(register(vec![binding(1, 1), binding(1, 2)]));
    store.apply(register(vec![Binding { flow: flow(7000), ..binding(1, 1) }]));
    let on = |port| store.table().device_on(Transport::Udp, flow(port).remote, NOW).is_some();
    assert!(on(5060) && on(7000));
    store.apply(unregister(1, 2, None));
    assert!(!on(5060) && on(7000));
    store.apply(unregister(1, 1, None));
    assert!(!on(7000));
}

#[test]
fn a_registration_may_shorten_what_its_peer_is_known_for() {
    let store = Memory::new(LIMITS);
    store.apply(register(vec![binding(1, 1)]));
    store.apply(register(vec![Binding { expires_at: NOW.after(Duration::from_secs(1)), ..binding(1, 1) }]));
    assert_eq!(store.table().device_on(Transport::Udp, flow(5060).remote, NOW.after(Duration::from_secs(1))), None);
}

#[test]
fn pages_go_through_all_aors_in_order() {
    let store = Memory::new(LIMITS);
    for number in [5, 3, 1, 4, 2] {
        store.apply(register(vec![binding(number, number), binding(number, 1_000_000 + number)]));
    }
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let page = store.table().page(after.as_ref(), "", 2);
        let Some(last) = page.last() else { break };
        assert!(page.len() <= 4, "two AORs of two devices");
        after = Some(last.aor.clone());
        seen.extend(page.iter().map(|binding| binding.cseq % 1_000_000));
    }
    assert_eq!(seen, [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]);
    assert!(store.table().page(None, "", 0).is_empty());
    let all = store.table().page(None, "", 9);
    let third = all.iter().find(|binding| binding.cseq == 3).unwrap();
    assert!(store.table().page(None, third.aor.as_str(), 9).iter().all(|found| found.aor == third.aor));
    assert!(store.table().page(None, "nobody", 9).is_empty());
}

#[test]
fn oldest_calls_come_first() {
    let store = Memory::new(LIMITS);
    store.apply(register(vec![binding(1, 1)]));
    for (number, later) in [(1, 30), (2, 10), (3, 20)] {
        let Change::Hold { mut call, entry } = hold(1, number, &[1]) else { panic!() };
        call.held_at = NOW.after(Duration::from_secs(later));
        store.apply(Change::Hold { call, entry });
    }
    let ids = |most| store.table().oldest_calls(most).iter().map(|call| call.id.0).collect::<Vec<_>>();
    assert_eq!((ids(2), ids(9), ids(0)), (vec![2, 3], vec![2, 3, 1], vec![]));
}
