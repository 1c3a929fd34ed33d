//! The nodes that described themselves, whether or not they have a place in the routing table.
//!
//! It never holds a node that nobody vouched for with a verified descriptor; that is the caller's
//! duty. Bounded: the one described longest ago is forgotten first.

use std::collections::{BTreeMap, HashMap};

use libp2p_core::Multiaddr;

use crate::net::address::NodeId;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Known {
    max: usize,
    clock: u64,
    nodes: HashMap<NodeId, (u64, Vec<Multiaddr>)>,
    by_age: BTreeMap<u64, NodeId>,
}

impl Known {
    pub(super) fn new(max: usize) -> Self {
        Self { max: max.max(1), clock: 0, nodes: HashMap::new(), by_age: BTreeMap::new() }
    }

    pub(super) fn insert(&mut self, node: NodeId, addrs: Vec<Multiaddr>) {
        self.remove(&node);
        if self.nodes.len() >= self.max
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.nodes.remove(&oldest);
        }
        self.clock += 1;
        self.by_age.insert(self.clock, node);
        self.nodes.insert(node, (self.clock, addrs));
    }

    pub(super) fn remove(&mut self, node: &NodeId) {
        if let Some((age, _)) = self.nodes.remove(node) {
            self.by_age.remove(&age);
        }
    }

    pub(super) fn addrs(&self, node: &NodeId) -> Option<&[Multiaddr]> {
        self.nodes.get(node).map(|(_, addrs)| addrs.as_slice())
    }

    /// The nodes described most recently, newest first.
    pub(super) fn newest(&self, count: usize) -> Vec<NodeId> {
        self.by_age.values().rev().take(count).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounded_and_newest_first() {
        let mut known = Known::new(3);
        for i in 0..5u8 {
            known.insert([i; 32], Vec::new());
        }
        known.insert([2; 32], Vec::new());
        assert_eq!(known.newest(9), [[2; 32], [4; 32], [3; 32]]);
        assert_eq!((known.nodes.len(), known.by_age.len()), (3, 3));
        known.remove(&[4; 32]);
        assert_eq!(known.addrs(&[4; 32]), None);
        assert_eq!((known.nodes.len(), known.by_age.len()), (2, 2));
    }
}
