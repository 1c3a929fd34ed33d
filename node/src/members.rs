//! Who is in the network, as far as this node knows: signed descriptors and
//! what was observed when talking to each.
//!
//! The table is bounded in all and per address prefix, so that a flood of
//! made-up nodes displaces nobody. It never believes a descriptor that was not
//! verified, and never forgets a reachable node for the sake of a new one.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use echonet_protocol::{
    identity::{NodeId, Signed},
    node_descriptor::NodeDescriptor,
    time::{Epoch, UnixSeconds},
};

use crate::net::address::{ObservedPrefix, prefix_of_ip};

/// Nodes remembered at most.
pub const MEMBERS_MAX: usize = 20_000;
/// Nodes remembered of one address prefix (/24 or /48) at most.
pub const MEMBERS_PER_PREFIX_MAX: usize = 256;

/// What talking to a node showed last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Never talked to.
    Unknown,
    /// It answered.
    Reachable,
    /// It did not answer.
    Unreachable,
}

impl Reach {
    /// Its name for people and programs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Reachable => "reachable",
            Self::Unreachable => "unreachable",
        }
    }
}

/// A node and what is known of it.
#[derive(Debug, Clone)]
pub struct Member {
    /// What it says about itself, verified.
    pub descriptor: Signed<NodeDescriptor>,
    /// What talking to it showed.
    pub reach: Reach,
    /// Since when.
    pub since: UnixSeconds,
    /// Milliseconds that its last answer took.
    pub latency_ms: u32,
    /// The epoch it last told.
    pub epoch: Option<Epoch>,
    /// Share of recent requests that it answered, in permille.
    pub reliability_permille: u32,
}

impl Member {
    /// Whether there is no reason to think that it would not answer.
    #[must_use]
    pub fn may_answer(&self) -> bool {
        self.reach != Reach::Unreachable
    }

    /// The prefix of its first address: what counts as one place.
    #[must_use]
    pub fn prefix(&self) -> ObservedPrefix {
        prefix_of(&self.descriptor.body)
    }
}

fn prefix_of(descriptor: &NodeDescriptor) -> ObservedPrefix {
    descriptor.addrs.first().map(|a| prefix_of_ip(a.ip())).unwrap_or_default()
}

#[derive(Debug, Default)]
struct Table {
    members: BTreeMap<NodeId, Member>,
    per_prefix: HashMap<ObservedPrefix, usize>,
}

/// The table of known nodes.
#[derive(Debug, Default)]
pub struct Members {
    table: Mutex<Table>,
}

/// What came of learning a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Learned {
    /// A node not known before.
    New,
    /// A later descriptor of a known node.
    Updated,
    /// Nothing new.
    Known,
    /// No room: the table, or its prefix's share of it, is full.
    NoRoom,
}

impl Members {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a *verified* descriptor.
    pub fn learn(&self, descriptor: Signed<NodeDescriptor>, now: UnixSeconds) -> Learned {
        let table = &mut *self.lock();
        let node = descriptor.body.node;
        let prefix = prefix_of(&descriptor.body);
        if let Some(known) = table.members.get_mut(&node) {
            if known.descriptor.body.sequence >= descriptor.body.sequence {
                return Learned::Known;
            }
            let old = known.prefix();
            known.descriptor = descriptor;
            table.moved(old, prefix);
            return Learned::Updated;
        }
        if table.per_prefix.get(&prefix).is_some_and(|n| *n >= MEMBERS_PER_PREFIX_MAX) {
            return Learned::NoRoom;
        }
        if table.members.len() >= MEMBERS_MAX && !table.evict_unreachable() {
            return Learned::NoRoom;
        }
        *table.per_prefix.entry(prefix).or_default() += 1;
        let member = Member {
            descriptor,
            reach: Reach::Unknown,
            since: now,
            latency_ms: 0,
            epoch: None,
            reliability_permille: 1000,
        };
        table.members.insert(node, member);
        Learned::New
    }

    /// Notes that a node answered after so many milliseconds.
    pub fn answered(&self, node: &NodeId, latency_ms: u32, epoch: Option<Epoch>, now: UnixSeconds) {
        if let Some(member) = self.lock().members.get_mut(node) {
            member.set_reach(Reach::Reachable, now);
            member.latency_ms = latency_ms;
            member.epoch = epoch.or(member.epoch);
            member.reliability_permille = (member.reliability_permille * 7 + 1000) / 8;
        }
    }

    /// Notes that a node did not answer.
    pub fn failed(&self, node: &NodeId, now: UnixSeconds) {
        if let Some(member) = self.lock().members.get_mut(node) {
            member.set_reach(Reach::Unreachable, now);
            member.reliability_permille = member.reliability_permille * 7 / 8;
        }
    }

    /// A known node.
    #[must_use]
    pub fn get(&self, node: &NodeId) -> Option<Member> {
        self.lock().members.get(node).cloned()
    }

    /// Every known node, by ascending NodeID.
    #[must_use]
    pub fn all(&self) -> Vec<Member> {
        self.lock().members.values().cloned().collect()
    }

    /// Up to `max` descriptors after a node, and whether there are more.
    #[must_use]
    pub fn page(&self, after: Option<NodeId>, max: usize) -> (Vec<Signed<NodeDescriptor>>, bool) {
        use std::ops::Bound::{Excluded, Unbounded};
        let table = self.lock();
        let start = after.map_or(Unbounded, Excluded);
        let mut rest = table.members.range((start, Unbounded)).map(|(_, m)| m.descriptor.clone());
        let page = rest.by_ref().take(max).collect();
        (page, rest.next().is_some())
    }

    /// Nodes known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().members.len()
    }

    /// Whether nobody is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The epochs that reachable nodes told last.
    #[must_use]
    pub fn epochs(&self) -> Vec<Epoch> {
        let table = self.lock();
        let reachable = table.members.values().filter(|m| m.reach == Reach::Reachable);
        reachable.filter_map(|m| m.epoch).collect()
    }
}

impl Member {
    fn set_reach(&mut self, reach: Reach, now: UnixSeconds) {
        if self.reach != reach {
            self.reach = reach;
            self.since = now;
        }
    }
}

impl Table {
    fn moved(&mut self, from: ObservedPrefix, to: ObservedPrefix) {
        self.left(from);
        *self.per_prefix.entry(to).or_default() += 1;
    }

    fn left(&mut self, prefix: ObservedPrefix) {
        if let Some(n) = self.per_prefix.get_mut(&prefix) {
            *n -= 1;
            if *n == 0 {
                self.per_prefix.remove(&prefix);
            }
        }
    }

    /// Makes room by forgetting who has been unreachable longest.
    fn evict_unreachable(&mut self) -> bool {
        let unreachable = self.members.iter().filter(|(_, m)| m.reach == Reach::Unreachable);
        let Some(node) = unreachable.min_by_key(|(_, m)| m.since).map(|(node, _)| *node) else {
            return false;
        };
        if let Some(member) = self.members.remove(&node) {
            self.left(member.prefix());
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use echonet_protocol::{
        identity::Identity,
        network::NetworkId,
        node_descriptor::{Labels, Roles},
        quiet::QuietHours,
    };

    use super::*;

    fn descriptor(seed: u64, addr: &str, sequence: u64) -> Signed<NodeDescriptor> {
        let identity = Identity::from_secret(blake3::hash(&seed.to_le_bytes()).as_bytes());
        let body = NodeDescriptor {
            v: 1,
            network: NetworkId([7; 32]),
            node: identity.node_id(),
            sequence,
            roles: Roles::STORAGE,
            labels: Labels::default(),
            capacity_class: 1,
            addrs: vec![addr.parse::<SocketAddr>().unwrap()],
            relays: vec![],
            joined: Epoch(0),
            issues_grants: false,
            accepts: true,
            quiet: QuietHours::NONE,
        };
        Signed::new(&identity, body)
    }

    #[test]
    fn a_flood_from_one_prefix_takes_only_its_share() {
        let members = Members::default();
        let now = UnixSeconds(1);
        assert_eq!(members.learn(descriptor(0, "127.9.9.9:1", 1), now), Learned::New);
        let results: Vec<_> =
            (1..400).map(|i| members.learn(descriptor(i, "127.1.1.1:1", 1), now)).collect();
        let taken = results.iter().filter(|r| **r == Learned::New).count();
        assert_eq!(taken, MEMBERS_PER_PREFIX_MAX);
        assert_eq!(members.learn(descriptor(1000, "127.2.2.2:1", 1), now), Learned::New);
    }

    #[test]
    fn only_a_later_descriptor_replaces() {
        let members = Members::default();
        let now = UnixSeconds(1);
        assert_eq!(members.learn(descriptor(1, "127.1.1.1:1", 5), now), Learned::New);
        assert_eq!(members.learn(descriptor(1, "127.1.1.1:2", 5), now), Learned::Known);
        assert_eq!(members.learn(descriptor(1, "127.1.1.2:2", 4), now), Learned::Known);
        assert_eq!(members.learn(descriptor(1, "127.2.1.1:3", 6), now), Learned::Updated);
        assert_eq!(members.all()[0].descriptor.body.addrs[0].port(), 3);
    }

    #[test]
    fn pages_cover_everybody_once() {
        let members = Members::default();
        for i in 0..10 {
            members.learn(descriptor(i, &format!("127.1.{i}.1:1"), 1), UnixSeconds(1));
        }
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let (page, more) = members.page(after, 3);
            after = page.last().map(|d| d.body.node);
            seen.extend(page.into_iter().map(|d| d.body.node));
            if !more {
                break;
            }
        }
        assert_eq!(seen, members.all().iter().map(|m| m.descriptor.body.node).collect::<Vec<_>>());
    }
}
