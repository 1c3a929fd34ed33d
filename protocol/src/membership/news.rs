//! News that is passed on: claims, each sent a bounded number of times, those
//! sent least first.
//!
//! It knows nothing of what a claim is worth.

use std::collections::{BTreeMap, BTreeSet};

use super::claim::Claim;
use crate::identity::{NodeId, Signed};

/// About whom, by whom.
type Key = (NodeId, NodeId);

/// How often it was sent, and its place among those sent as often.
type Rank = (u32, u64);

#[derive(Debug)]
struct Item {
    rank: Rank,
    claim: Signed<Claim>,
}

/// At most one claim per claimant and node.
#[derive(Debug)]
pub(super) struct News {
    items: BTreeMap<Key, Item>,
    order: BTreeSet<(Rank, Key)>,
    added: u64,
    max: usize,
}

impl News {
    pub(super) const fn new(max: usize) -> Self {
        Self { items: BTreeMap::new(), order: BTreeSet::new(), added: 0, max }
    }

    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Takes a claim in place of the claimant's last about this node. Where there
    /// is no room, what was sent most goes.
    pub(super) fn add(&mut self, claim: Signed<Claim>) {
        let key = (claim.body.about, claim.body.claimant);
        self.remove(&key);
        self.added += 1;
        let rank = (0, self.added);
        self.order.insert((rank, key));
        self.items.insert(key, Item { rank, claim });
        if self.items.len() > self.max
            && let Some((_, key)) = self.order.last().copied()
        {
            self.remove(&key);
        }
    }

    fn remove(&mut self, key: &Key) {
        if let Some(item) = self.items.remove(key) {
            self.order.remove(&(item.rank, *key));
        }
    }

    /// Drops what others say about a node.
    pub(super) fn forget_others(&mut self, about: NodeId) {
        let of_node = (about, NodeId([0; 32]))..=(about, NodeId([0xff; 32]));
        let keys: Vec<Key> =
            self.items.range(of_node).map(|(key, _)| *key).filter(|(a, by)| a != by).collect();
        for key in keys {
            self.remove(&key);
        }
    }

    /// Drops everything about a node.
    pub(super) fn forget(&mut self, about: NodeId) {
        self.forget_others(about);
        self.remove(&(about, about));
    }

    /// All of it, what was sent least first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Signed<Claim>> {
        self.order.iter().filter_map(|(_, key)| self.items.get(key)).map(|item| &item.claim)
    }

    /// Counts a sending; after `sends_max` it is news no more.
    pub(super) fn sent(&mut self, claim: &Claim, sends_max: u32) {
        let key = (claim.about, claim.claimant);
        let Some(item) = self.items.get_mut(&key) else { return };
        self.order.remove(&(item.rank, key));
        item.rank.0 += 1;
        if item.rank.0 >= sends_max {
            self.items.remove(&key);
        } else {
            self.order.insert((item.rank, key));
        }
    }
}
