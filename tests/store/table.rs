//! What the memory tells its readers.

use std::net::SocketAddr;
use std::time::Duration;

use sip_push_proxy::binding::Binding;
use sip_push_proxy::sip::Uri;
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

/// What is noted in a binding, or read from a store, is no registration.
#[test]
fn a_flow_is_the_devices_that_registered_by_it_last() {
    let at = |number: u32, seconds: u64| Binding {
        instance: Some(format!("i{number}").into()),
        registered_at: NOW.after(Duration::from_secs(seconds)),
        ..binding(number, number)
    };
    let (alice, bob) = (at(1, 1), at(2, 2));
    for order in [[&alice, &bob], [&bob, &alice]] {
        let store = Memory::new(LIMITS);
        for binding in order {
            store.apply(register(vec![binding.clone()]));
        }
        let holds = |binding: &Binding| store.table().holds_flow(binding);
        assert!(!holds(&alice) && holds(&bob));
        store.apply(register(vec![Binding { push_refused: Some("noted".into()), ..alice.clone() }]));
        assert!(!holds(&alice) && holds(&bob));
        store.apply(unregister(2, 2, None));
        assert!(!holds(&alice), "it was another's");
        store.apply(register(vec![at(1, 3)]));
        assert!(holds(&at(1, 3)));
    }
}

#[test]
fn behind_another_proxy_a_flow_is_told_by_its_path_and_its_contact() {
    let store = Memory::new(LIMITS);
    let by = |number: u32, path: &str, contact: &str| Binding {
        instance: Some(format!("i{number}").into()),
        path: path.as_bytes().into(),
        contact: contact.as_bytes().into(),
        registered_at: NOW.after(Duration::from_secs(number.into())),
        ..binding(number, number)
    };
    let first = by(1, "<sip:edge;lr>", "sip:a@10.0.0.1");
    let apart = [
        by(2, "<sip:other@edge;lr>", "sip:a@10.0.0.1"),
        by(3, "<sip:edge;lr>", "sip:a@10.0.0.2"),
        by(4, "<sip:edge;lr>", "sip:a@10.0.0.1:5070"),
        by(5, "", "sip:a@10.0.0.1"),
    ];
    for binding in std::iter::once(&first).chain(&apart) {
        store.apply(register(vec![binding.clone()]));
    }
    assert!(std::iter::once(&first).chain(&apart).all(|binding| store.table().holds_flow(binding)));
    store.apply(register(vec![by(6, "<sip:edge;lr>", "sip:b@10.0.0.1")]));
    assert!(!store.table().holds_flow(&first));
}

#[test]
fn a_contact_is_remembered_for_a_minute_after_its_device_has_left_it() {
    let store = Memory::new(LIMITS);
    let at = |contact: &str, seconds: u64| Binding {
        contact: contact.as_bytes().into(),
        registered_at: NOW.after(Duration::from_secs(seconds)),
        ..binding(1, 1)
    };
    let has_left = |contact: &str, seconds| {
        let uri = Uri::parse(contact.as_bytes()).unwrap();
        store.table().has_left(device(1), &uri, NOW.after(Duration::from_secs(seconds)))
    };
    store.apply(register(vec![at("sip:a@10.0.0.1", 0)]));
    store.apply(register(vec![at("sip:a@10.0.0.1;pn-prid=x", 10)]));
    assert!(!has_left("sip:a@10.0.0.1", 10));
    store.apply(register(vec![at("sip:a@10.0.0.2", 20)]));
    assert!(has_left("sip:other@10.0.0.1:5060;ob", 20) && has_left("sip:a@10.0.0.1", 84));
    assert!(!has_left("sip:a@10.0.0.2", 20) && !has_left("sip:a@10.0.0.1:5070", 20));
    assert!(!has_left("sip:a@10.0.0.1", 85));
    // It is there again.
    store.apply(register(vec![at("sip:a@10.0.0.1", 30)]));
    assert!(!has_left("sip:a@10.0.0.1", 30) && has_left("sip:a@10.0.0.2", 30));
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
