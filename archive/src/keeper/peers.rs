//! The nodes that hold shards beside this one: each once, by number, with what
//! this node's own probes say of it.

use std::collections::BTreeMap;

use echonet_protocol::identity::NodeId;

use super::types::Presence;
use crate::health::Shard;

/// A node's number here.
pub(super) type PeerId = u32;

#[derive(Debug)]
struct Peer {
    node: NodeId,
    presence: Presence,
    datacenter: Option<u64>,
    /// Placements that name it; its number is used again once there are none.
    uses: u32,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Peers {
    own: NodeId,
    slots: Vec<Peer>,
    by_node: BTreeMap<NodeId, PeerId>,
    free: Vec<PeerId>,
    /// How many of them are in each datacenter.
    sites: BTreeMap<u64, u32>,
}

impl Peers {
    pub(super) const fn new(own: NodeId) -> Self {
        Self {
            own,
            slots: Vec::new(),
            by_node: BTreeMap::new(),
            free: Vec::new(),
            sites: BTreeMap::new(),
        }
    }

    pub(super) const fn own(&self) -> NodeId {
        self.own
    }

    /// One more placement names this node; whether it is new here.
    pub(super) fn join(&mut self, node: NodeId) -> (PeerId, bool) {
        if let Some(peer) = self.by_node.get(&node) {
            self.slots[*peer as usize].uses += 1;
            return (*peer, false);
        }
        let slot = Peer { node, presence: Presence::Reachable, datacenter: None, uses: 1 };
        let peer = match self.free.pop() {
            Some(peer) => {
                self.slots[peer as usize] = slot;
                peer
            }
            None => {
                self.slots.push(slot);
                // Bounded by the placements, far below.
                (self.slots.len() - 1) as PeerId
            }
        };
        self.by_node.insert(node, peer);
        (peer, true)
    }

    /// One placement less names it; the node, if that was the last.
    pub(super) fn leave(&mut self, peer: PeerId) -> Option<NodeId> {
        let slot = &mut self.slots[peer as usize];
        slot.uses -= 1;
        if slot.uses > 0 {
            return None;
        }
        let (node, datacenter) = (slot.node, slot.datacenter.take());
        if let Some(datacenter) = datacenter {
            self.leave_site(datacenter);
        }
        self.by_node.remove(&node);
        self.free.push(peer);
        Some(node)
    }

    pub(super) fn find(&self, node: &NodeId) -> Option<PeerId> {
        self.by_node.get(node).copied()
    }

    pub(super) fn node(&self, peer: PeerId) -> NodeId {
        self.slots[peer as usize].node
    }

    /// Sets what is known; what was known before.
    pub(super) fn set_presence(&mut self, peer: PeerId, presence: Presence) -> Presence {
        std::mem::replace(&mut self.slots[peer as usize].presence, presence)
    }

    /// Whether that is news.
    pub(super) fn set_datacenter(&mut self, peer: PeerId, datacenter: u64) -> bool {
        let before = self.slots[peer as usize].datacenter.replace(datacenter);
        if before == Some(datacenter) {
            return false;
        }
        if let Some(before) = before {
            self.leave_site(before);
        }
        *self.sites.entry(datacenter).or_default() += 1;
        true
    }

    fn leave_site(&mut self, datacenter: u64) {
        let left = self.sites.get_mut(&datacenter).map(|count| {
            *count = count.saturating_sub(1);
            *count
        });
        if left == Some(0) {
            self.sites.remove(&datacenter);
        }
    }

    /// Datacenters that nodes are known to be in, each node of which it is not known counted as
    /// one.
    pub(super) fn datacenters(&self) -> usize {
        let known: u32 = self.sites.values().sum();
        self.sites.len() + self.by_node.len().saturating_sub(known as usize)
    }

    pub(super) fn is_reachable(&self, peer: PeerId) -> bool {
        let slot = &self.slots[peer as usize];
        slot.node == self.own || slot.presence == Presence::Reachable
    }

    /// The state of a shard that it holds.
    pub(super) fn shard(&self, peer: PeerId) -> Shard {
        let slot = &self.slots[peer as usize];
        match slot.presence {
            _ if slot.node == self.own => Shard::Reachable,
            Presence::Reachable => Shard::Reachable,
            Presence::Unreachable { since } => Shard::Unreachable { since },
        }
    }

    /// Whether the loss of any one datacenter leaves k of these. Nodes of which it is not known
    /// where they are count as each in one of their own.
    pub(super) fn survive_datacenter(
        &self,
        holders: impl Iterator<Item = PeerId>,
        k: usize,
    ) -> bool {
        let holders: Vec<PeerId> = holders.collect();
        let all = holders.len();
        let most = self.most_in_one_datacenter(holders.into_iter());
        // Where not even k are left the datacenters are the least of it.
        all < k || all - most >= k
    }

    /// How many of these are in the datacenter that has most of those of which it is known where
    /// they are.
    pub(super) fn most_in_one_datacenter(&self, holders: impl Iterator<Item = PeerId>) -> usize {
        let mut known: Vec<u64> =
            holders.filter_map(|peer| self.slots[peer as usize].datacenter).collect();
        known.sort_unstable();
        known.chunk_by(|a, b| a == b).map(<[_]>::len).max().unwrap_or(0)
    }
}
