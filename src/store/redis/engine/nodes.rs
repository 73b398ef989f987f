//! Which other nodes are there, told by their signs of life alone: no node's clock is compared with another's.
//!
//! ```text
//!            a new beat                      no new beat for `patience` beats of our own,
//!   (none) ─────────────► there ◄────────── or none at all for ABSENCE: gone
//!                           └──────────────────────────────►
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::super::super::change::HeldCallId;
use super::super::record::Beat;
use crate::binding::Home;

/// A node that takes its sign of life away when it stops is gone after so many looks; one look may fall between the
/// loss of all keys and the node's next beat.
const ABSENCE: u32 = 2;

/// Places of other nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in super::super) struct Homes {
    pub(in super::super) there: Vec<Home>,
    pub(in super::super) gone: Vec<Home>,
}

/// The other nodes, as far as they are known.
#[derive(Debug)]
pub(super) struct Nodes {
    /// Of this node.
    name: Arc<str>,
    /// Looks without a new beat after which a node is gone.
    patience: u32,
    others: BTreeMap<Arc<str>, Node>,
}

#[derive(Debug)]
struct Node {
    /// What was there at the last look; `None`: nothing.
    beat: Option<Beat>,
    /// Where it was reached last.
    home: Option<Home>,
    /// Looks since that changed.
    unchanged: u32,
}

impl Node {
    fn is_there(&self, patience: u32) -> bool {
        self.unchanged < if self.beat.is_some() { patience } else { ABSENCE }
    }
}

impl Nodes {
    pub(super) fn new(name: Arc<str>, patience: u32) -> Self {
        Self { name, patience: patience.max(1), others: BTreeMap::new() }
    }

    /// One look at all signs of life.
    pub(super) fn look(&mut self, beats: Vec<(Arc<str>, Beat)>) {
        let mut beats: BTreeMap<_, _> = beats.into_iter().filter(|(name, _)| *name != self.name).collect();
        let patience = self.patience;
        for (name, node) in &mut self.others {
            let was_there = node.is_there(patience);
            let beat = beats.remove(name);
            if beat == node.beat {
                node.unchanged = node.unchanged.saturating_add(1);
            } else {
                let home = beat.as_ref().map_or(node.home, |beat| beat.home);
                *node = Node { beat, home, unchanged: 0 };
            }
            match (was_there, node.is_there(patience)) {
                (true, false) => tracing::warn!(node = %name, "a node is gone: its held calls are taken over"),
                (false, true) => tracing::info!(node = %name, "a node is back"),
                (true, true) | (false, false) => {}
            }
        }
        for (name, beat) in beats {
            tracing::info!(node = %name, "another node is there");
            self.others.insert(name, Node { home: beat.home, beat: Some(beat), unchanged: 0 });
        }
    }

    /// Nothing could be seen for a while, so nobody's silence counts yet.
    pub(super) fn begin_again(&mut self) {
        self.others.values_mut().for_each(|node| node.unchanged = 0);
    }

    /// Whether a node that is said to hold a call is there. One that was never seen is looked for.
    pub(super) fn is_there(&mut self, name: &Arc<str>) -> bool {
        let patience = self.patience;
        *name == self.name
            || self
                .others
                .entry(Arc::clone(name))
                .or_insert(Node { beat: None, home: None, unchanged: 0 })
                .is_there(patience)
    }

    /// Where a node is reached.
    pub(super) fn home(&self, name: &str) -> Option<Home> {
        self.others.get(name)?.home
    }

    /// Whether this node is the one to take a call over: all who see the same nodes name the same one, and each takes
    /// its share.
    pub(super) fn takes(&self, call: HeldCallId) -> bool {
        let there = self.others.iter().filter(|(_, node)| node.is_there(self.patience)).map(|(name, _)| name);
        let first = there.chain([&self.name]).min_by_key(|name| {
            Sha256::new().chain_update(name.as_bytes()).chain_update(call.0.to_be_bytes()).finalize()
        });
        first == Some(&self.name)
    }

    /// Where the other nodes are reached that are there, and where those were that are gone.
    pub(super) fn homes(&self) -> Homes {
        let (there, gone): (Vec<_>, Vec<_>) = self.others.values().partition(|node| node.is_there(self.patience));
        let homes = |nodes: Vec<&Node>| nodes.into_iter().filter_map(|node| node.home).collect::<Vec<_>>();
        let there = homes(there);
        // Another node may have come to the same place.
        let gone = homes(gone).into_iter().filter(|home| !there.contains(home)).collect();
        Homes { there, gone }
    }

    /// How many nodes are there, this one among them.
    pub(super) fn count(&self) -> usize {
        1 + self.others.values().filter(|node| node.is_there(self.patience)).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UnixMillis;
    use crate::sip::flow::Transport;

    fn beat(name: &str, at: u64) -> (Arc<str>, Beat) {
        (name.into(), Beat { run: 1, at: UnixMillis(at), home: None })
    }

    fn is_there(nodes: &mut Nodes, name: &str) -> bool {
        nodes.is_there(&name.into())
    }

    #[test]
    fn a_silent_node_is_gone_after_as_many_looks_as_there_is_patience() {
        let mut nodes = Nodes::new("a".into(), 3);
        nodes.look(vec![beat("b", 1)]);
        for _ in 0..2 {
            nodes.look(vec![beat("b", 1)]);
            assert!(is_there(&mut nodes, "b"));
        }
        nodes.look(vec![beat("b", 1)]);
        assert!(!is_there(&mut nodes, "b"));
        nodes.look(vec![beat("b", 2)]);
        assert!(is_there(&mut nodes, "b"));
    }

    #[test]
    fn a_node_that_leaves_is_gone_sooner_and_one_look_at_nothing_tells_nothing() {
        let mut nodes = Nodes::new("a".into(), 10);
        nodes.look(vec![beat("b", 1)]);
        nodes.look(vec![]);
        assert!(is_there(&mut nodes, "b"));
        nodes.look(vec![]);
        assert!(is_there(&mut nodes, "b"));
        nodes.look(vec![]);
        assert!(!is_there(&mut nodes, "b"));
    }

    #[test]
    fn a_holder_that_was_never_seen_is_looked_for() {
        let mut nodes = Nodes::new("a".into(), 10);
        assert!(is_there(&mut nodes, "b"));
        nodes.look(vec![]);
        assert!(is_there(&mut nodes, "b"));
        nodes.look(vec![]);
        assert!(!is_there(&mut nodes, "b"));
        assert!(is_there(&mut nodes, "a"), "this node itself");
    }

    #[test]
    fn silence_before_a_reconnection_does_not_count() {
        let mut nodes = Nodes::new("a".into(), 2);
        nodes.look(vec![beat("b", 1)]);
        nodes.look(vec![beat("b", 1)]);
        nodes.begin_again();
        nodes.look(vec![beat("b", 1)]);
        assert!(is_there(&mut nodes, "b"));
    }

    #[test]
    fn places_of_nodes_that_are_gone_are_known() {
        let home = |port: u16| Home { transport: Transport::Udp, address: ([192, 0, 2, 1], port).into() };
        let beat =
            |name: &str, at, port| (Arc::from(name), Beat { run: 1, at: UnixMillis(at), home: Some(home(port)) });
        let mut nodes = Nodes::new("a".into(), 2);
        nodes.look(vec![beat("b", 1, 1), beat("c", 1, 2)]);
        assert_eq!(nodes.homes(), Homes { there: vec![home(1), home(2)], gone: vec![] });
        (2..5).for_each(|at| nodes.look(vec![beat("b", at, 1)]));
        assert_eq!(nodes.homes(), Homes { there: vec![home(1)], gone: vec![home(2)] });
        nodes.look(vec![beat("b", 5, 1), beat("d", 1, 2)]);
        assert_eq!(nodes.homes(), Homes { there: vec![home(1), home(2)], gone: vec![] }, "another one came there");
    }

    #[test]
    fn each_call_is_taken_by_one_of_those_that_are_there() {
        let names = ["a", "b", "c"];
        let beats: Vec<_> = names.iter().map(|name| beat(name, 1)).collect();
        let all: Vec<_> = names
            .iter()
            .map(|name| {
                let mut nodes = Nodes::new((*name).into(), 2);
                nodes.look(beats.clone());
                nodes
            })
            .collect();
        let mut shares = [0; 3];
        for call in 0..300 {
            let takers: Vec<_> = (0..3).filter(|node| all[*node].takes(HeldCallId(call))).collect();
            assert_eq!(takers.len(), 1, "{call}: {takers:?}");
            shares[takers[0]] += 1;
        }
        assert!(shares.iter().all(|share| *share > 50), "{shares:?}");
    }
}
