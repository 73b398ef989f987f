//! Several nodes on one Redis: each sees what the others do, and no two do the same.

use std::sync::{Arc, Mutex};

use sip_push_proxy::binding::Binding;
use sip_push_proxy::store::{Applied, Change, EntryState, HeldCallId, Memory, Settlement};

use crate::embedded::any_change;
use crate::rows::*;
use crate::server::{Server, wait_for};
use crate::subject::{Asker, settings};

/// Nodes on one Redis.
struct Nodes {
    server: Server,
    nodes: Vec<Asker>,
    folders: Vec<tempfile::TempDir>,
}

impl Nodes {
    fn start(count: usize) -> Self {
        let mut nodes = Self { server: Server::start(), nodes: vec![], folders: vec![] };
        (0..count).for_each(|_| nodes.join());
        nodes
    }

    fn join(&mut self) {
        let folder = tempfile::tempdir().unwrap();
        let name = format!("node-{}", self.nodes.len());
        let node = Asker::node(&settings(&self.server, &name), folder.path());
        wait_for("all of Redis is in memory", || node.redis().is_loaded());
        self.nodes.push(node);
        self.folders.push(folder);
    }
}

#[test]
fn a_node_sees_what_another_does() {
    let mut nodes = Nodes::start(2);
    let [one, other] = &mut nodes.nodes[..] else { unreachable!() };
    let woken: Arc<Mutex<Vec<u32>>> = Arc::default();
    let record = Arc::clone(&woken);
    other.store.on_wake(move |binding| record.lock().unwrap().push(binding.cseq));

    one.apply(register(vec![binding(1, 1), plain_binding(1, 2)])).unwrap();
    one.apply(hold(1, 1, &[1])).unwrap();
    wait_for("the held call", || other.table().call(HeldCallId(1)).is_some());
    assert_eq!(other.table().lookup(&aor(1)).len(), 2);
    assert_eq!(other.table().by_device(device(1)).as_deref(), Some(&binding(1, 1)));
    assert_eq!(other.table().entries(&device(1))[0].state, EntryState::Live);
    assert_eq!(other.table().owner(HeldCallId(1)).as_deref(), Some("node-0"));
    assert_eq!(one.table().owner(HeldCallId(1)), None);
    assert_eq!(*woken.lock().unwrap(), [1, 2]);

    // The phone wakes on the other node, under another name.
    let heir = Change::Register { aor: aor(1), put: vec![binding(1, 3)], remove: vec![removal(1, Some(3))] };
    other.apply(heir).unwrap();
    wait_for("the heir", || one.table().by_device(device(3)).is_some());
    one.apply(settle(1, 1, &[(1, Settlement::Missed)], true)).unwrap();
    wait_for("the end of the call", || other.table().call(HeldCallId(1)).is_none());
    wait_for("the missed call", || {
        other.table().entries(&device(3)).first().is_some_and(|entry| entry.state == EntryState::Missed)
    });
    one.apply(unregister(1, 2, None)).unwrap();
    wait_for("the end of a binding", || other.table().by_device(device(2)).is_none());
    assert_eq!(*woken.lock().unwrap(), [1, 2], "one's own are not told");
}

#[test]
fn a_missed_call_is_claimed_by_one_node() {
    let mut nodes = Nodes::start(3);
    for number in 0..30 {
        let one = &mut nodes.nodes[0];
        one.apply(register(vec![binding(number, number)])).unwrap();
        one.apply(hold(number, number, &[number])).unwrap();
        one.apply(settle(number, number, &[(number, Settlement::Missed)], true)).unwrap();
    }
    for node in &nodes.nodes {
        wait_for("all missed calls", || {
            (0..30).all(|number| {
                node.table().entries(&device(number)).first().is_some_and(|entry| entry.state == EntryState::Missed)
            })
        });
    }
    for node in &mut nodes.nodes {
        (0..30).for_each(|number| assert!(node.submit(claim(number, number)).is_ok()));
    }
    let mut claimed = 0;
    for node in &mut nodes.nodes {
        for _ in 0..30 {
            let Ok(Applied::Claimed(entries)) = node.reply().result else { panic!() };
            claimed += entries.len();
        }
    }
    assert_eq!(claimed, 30);
}

#[test]
fn nodes_that_change_one_aor_at_once_lose_nothing() {
    const EACH: u32 = 60;
    let mut nodes = Nodes::start(3);
    for round in 0..EACH {
        for (place, node) in (0..).zip(&mut nodes.nodes) {
            let number = place * 1000 + round;
            node.submit(register(vec![binding(1, number)])).unwrap();
        }
    }
    for node in &mut nodes.nodes {
        (0..EACH).for_each(|_| assert_eq!(node.reply().result, Ok(Applied::Done)));
    }
    for node in &nodes.nodes {
        wait_for("the devices of all nodes", || node.table().lookup(&aor(1)).len() == 3 * EACH as usize);
    }
    assert_eq!(nodes.server.ask(&["HLEN", "spp:1:{user000001@example.org}"]), (3 * EACH + 1 + 3).to_string());
}

#[test]
fn a_node_that_joins_finds_it_all() {
    let mut nodes = Nodes::start(1);
    let memory = Memory::new(LIMITS);
    let mut state = 7_u32;
    let mut random = |below: u32| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) % below
    };
    for _ in 0..600 {
        let change = any_change(&mut random);
        assert_eq!(nodes.nodes[0].apply(change.clone()).unwrap(), memory.apply(change));
    }
    nodes.join();
    for number in (0..3).flat_map(|owner| (0..3).map(move |place| owner + 10 * place)) {
        for node in &nodes.nodes {
            assert_eq!(node.table().by_device(device(number)), memory.table().by_device(device(number)));
            assert_eq!(node.table().entries(&device(number)), memory.table().entries(&device(number)));
        }
    }
    for node in &nodes.nodes {
        assert_eq!(node.table().calls(), memory.table().calls());
        assert_eq!(node.table().entry_count(), memory.table().entry_count());
        assert_eq!(node.table().binding_count(), memory.table().binding_count());
    }
}

#[test]
fn nodes_share_one_secret() {
    let nodes = Nodes::start(2);
    assert_eq!(nodes.nodes[0].loaded.secret, nodes.nodes[1].loaded.secret);
    assert_ne!(nodes.nodes[0].loaded.secret, Nodes::start(1).nodes[0].loaded.secret);
}

#[test]
fn one_aor_is_read_before_the_others() {
    let mut nodes = Nodes::start(1);
    for number in 0..2000 {
        nodes.nodes[0].submit(register(vec![binding(number, number)])).unwrap();
    }
    (0..2000).for_each(|_| assert!(nodes.nodes[0].reply().result.is_ok()));
    // On a busy machine so many at once make Redis seem away.
    wait_for("all changes in Redis", || nodes.nodes[0].redis().journal_entries() == 0);
    let folder = tempfile::tempdir().unwrap();
    let mut late = Asker::node(&settings(&nodes.server, "late"), folder.path());
    let store = Arc::clone(&late.store);
    assert!(late.block_on(store.fetch(&aor(1999))));
    assert_eq!(late.table().by_device(device(1999)).as_deref(), Some(&binding(1999, 1999)));
    assert!(late.block_on(store.fetch_device(device(1998))));
    assert_eq!(late.table().by_device(device(1998)).as_deref(), Some(&binding(1998, 1998)));
    // A change that comes before its AOR has been read is made on what is there.
    late.apply(register(vec![binding(1997, 1_001_997)])).unwrap();
    assert_eq!(late.table().lookup(&aor(1997)).len(), 2);
    wait_for("all of Redis is in memory", || late.redis().is_loaded());
    assert_eq!(late.table().binding_count(), 2001);
}

#[test]
fn held_calls_of_other_nodes_are_left_alone() {
    let mut nodes = Nodes::start(2);
    for (number, node) in (1..).zip(&mut nodes.nodes) {
        node.apply(register(vec![binding(number, number)])).unwrap();
        node.apply(hold(number, number, &[number])).unwrap();
    }
    // The first node dies and comes back.
    let node = nodes.nodes.remove(0);
    drop(node);
    let node = Asker::node(&settings(&nodes.server, "node-0"), nodes.folders[0].path());
    assert_eq!(node.loaded.held, [call(1, 1, &[1])]);
    wait_for("all of Redis is in memory", || node.redis().is_loaded());
    assert_eq!(node.table().calls().len(), 2, "to be taken up, and left alone");
    assert_eq!(node.table().entries(&device(1))[0].state, EntryState::Live);
    assert_eq!(node.table().entries(&device(2))[0].state, EntryState::Live);
}

#[test]
fn time_ends_things_once_for_all_nodes() {
    let mut nodes = Nodes::start(2);
    let short = Binding { expires_at: NOW, ..plain_binding(1, 1) };
    nodes.nodes[0].apply(register(vec![short, binding(1, 2)])).unwrap();
    nodes.nodes[0].apply(hold(1, 1, &[2])).unwrap();
    wait_for("the call", || nodes.nodes[1].table().entry_count() == 1);
    nodes.nodes.iter().for_each(|node| node.store.sweep(NOW.after(HOUR * 2)));
    for node in &nodes.nodes {
        wait_for("the end of what is over", || (node.table().binding_count(), node.table().entry_count()) == (1, 0));
    }
}

#[test]
fn a_row_that_cannot_be_read_harms_no_other() {
    let mut nodes = Nodes::start(1);
    let key = |number: u32| format!("spp:1:{{user{number:06}@example.org}}");
    assert_eq!(nodes.server.ask(&["SET", &key(1), "nonsense"]), "OK");
    assert_eq!(nodes.server.ask(&["HSET", &key(2), "v", "5", "b:nonsense", "x"]), "2");
    for number in [1, 2] {
        let refused = nodes.nodes[0].apply(register(vec![binding(number, number)]));
        assert!(matches!(refused, Err(sip_push_proxy::store::StoreError::Broken(_))), "{refused:?}");
    }
    assert_eq!(nodes.nodes[0].apply(register(vec![binding(3, 3)])), Ok(Applied::Done));
    assert!(!nodes.nodes[0].redis().is_degraded());
    nodes.join();
    assert_eq!(nodes.nodes[1].table().binding_count(), 1);
}
