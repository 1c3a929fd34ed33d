//! One placement as the keeper remembers it, and what its state asks for.

use echonet_protocol::{
    identity::NodeId,
    machine::{Draws, Millis},
    segment::{Scheme, SegmentId},
};

use crate::{
    health::{Health, Policy, Shard, Verdict, View, Watch, next_loss},
    queue::{Repair, spare_permille},
};

use super::{
    peers::{PeerId, Peers},
    types::Placed,
};

/// Retries double their pause up to this many times.
const DOUBLINGS_MAX: u32 = 6;

/// What is remembered of one placement; some 150 bytes with 16 holders.
#[derive(Debug)]
pub(super) struct Placement {
    pub(super) version: u64,
    pub(super) sequence: u64,
    /// Since when this version is known: every version begins with the first in rank.
    since: Millis,
    scheme: Scheme,
    shard_bytes: u32,
    pub(super) holders: Box<[(u8, PeerId)]>,
    /// A bit for each index whose holder said that it has it no more.
    said_lost: u64,
    /// Bits of the indices that their holders' own signatures show to be lost.
    convicted: u64,
    watch: Watch,
    read: Option<Millis>,
    /// Nothing is begun before.
    not_before: Millis,
    failures: u32,
    /// Shards reachable at the last look.
    reachable: usize,
    pub(super) is_running: bool,
    is_inconsistent: bool,
}

/// What a look at a placement showed.
pub(super) struct Look {
    /// How endangered it is.
    pub(super) health: Health,
    /// A repair that may start now.
    pub(super) repair: Option<Repair>,
    /// When to look again at the latest.
    pub(super) again: Option<Millis>,
}

impl Placement {
    pub(super) fn new(placed: &Placed, holders: Box<[(u8, PeerId)]>) -> Self {
        Self {
            version: placed.version,
            sequence: placed.sequence,
            since: Millis(0),
            scheme: placed.scheme,
            shard_bytes: placed.shard_bytes,
            holders,
            said_lost: 0,
            convicted: 0,
            watch: Watch::new(),
            read: None,
            not_before: Millis(0),
            failures: 0,
            reachable: 0,
            is_running: false,
            is_inconsistent: false,
        }
    }

    /// A record that takes its place: what was known about holders that stay remains known.
    pub(super) fn follow(&mut self, placed: &Placed, holders: Box<[(u8, PeerId)]>, now: Millis) {
        // Whoever holds a shard again, after a version that this node never saw, has a new one.
        let is_next = placed.version == self.version + 1;
        let stays = |entry: &(u8, PeerId)| is_next && self.holders.contains(entry);
        let kept = holders.iter().filter(|e| stays(e)).fold(0, |bits, (i, _)| bits | bit(*i));
        self.said_lost &= kept;
        self.convicted &= kept;
        (self.version, self.sequence, self.since) = (placed.version, placed.sequence, now);
        self.holders = holders;
        (self.failures, self.not_before) = (0, Millis(0));
    }

    pub(super) fn shard_bytes(&self) -> u64 {
        self.shard_bytes.into()
    }

    /// Which shard a holder has.
    pub(super) fn index_of(&self, peer: PeerId) -> Option<u8> {
        self.holders.iter().find(|(_, holder)| *holder == peer).map(|(index, _)| *index)
    }

    /// A holder's own word; whether it changes anything.
    pub(super) fn says(&mut self, peer: PeerId, index: u8, has: bool) -> bool {
        if !self.holders.contains(&(index, peer)) {
            return false;
        }
        let before = self.said_lost;
        self.said_lost = if has { before & !bit(index) } else { before | bit(index) };
        self.said_lost != before
    }

    /// A holder's signature shows that it has the shard no more; whether that is news.
    pub(super) fn convict(&mut self, peer: PeerId, index: u8) -> bool {
        let is_held = self.holders.contains(&(index, peer));
        let is_news = is_held && self.convicted & bit(index) == 0;
        if is_news {
            self.convicted |= bit(index);
        }
        is_news
    }

    pub(super) const fn was_read(&mut self, now: Millis) {
        self.read = Some(now);
    }

    pub(super) const fn is_inconsistent(&mut self) {
        self.is_inconsistent = true;
    }

    /// A task ended without a new version: nothing is begun for a while.
    pub(super) fn pause(&mut self, now: Millis, pause_ms: u64, has_failed: bool) {
        let doublings = if has_failed { self.failures.min(DOUBLINGS_MAX) } else { 0 };
        self.failures += u32::from(has_failed);
        self.not_before = now.after(pause_ms.saturating_mul(1 << doublings));
    }

    pub(super) fn may_begin(&self, now: Millis) -> bool {
        !self.is_running && !self.is_inconsistent && now >= self.not_before
    }

    /// Copying this node's own shard needs no code word.
    pub(super) fn may_hand_over(&self, now: Millis) -> bool {
        !self.is_running && now >= self.not_before
    }

    /// One state per index.
    fn shards(&self, peers: &Peers) -> Vec<Shard> {
        let mut shards = vec![Shard::Lost; self.scheme.n()];
        for (index, peer) in &self.holders {
            if let Some(shard) = shards.get_mut(usize::from(*index))
                && (self.said_lost | self.convicted) & bit(*index) == 0
            {
                *shard = peers.shard(*peer);
            }
        }
        shards
    }

    /// The indices that a repair makes again now, and whether it is urgent.
    pub(super) fn lost(&self, policy: &Policy, peers: &Peers, now: Millis) -> (Vec<u8>, bool) {
        let shards = self.shards(peers);
        let health = policy.health(self.view(&shards, peers, policy, now));
        let lost =
            shards.iter().zip(0_u8..).filter(|(s, _)| health.rebuilds(**s, now, policy.grace_ms));
        (lost.map(|(_, index)| index).collect(), health == Health::Urgent)
    }

    fn view(&self, shards: &[Shard], peers: &Peers, policy: &Policy, now: Millis) -> View {
        let kept = self.holders.iter().filter(|(index, _)| {
            shards.get(usize::from(*index)).is_some_and(|s| s.is_kept(now, policy.grace_ms))
        });
        let k = usize::from(self.scheme.k);
        let is_safe = peers.survive_datacenter(kept.map(|(_, peer)| *peer), k)
            || !self.could_be_safe(shards, peers);
        View::of(shards.iter().copied(), now, policy.grace_ms, is_safe)
    }

    /// Whether a repair could make it survive the loss of any one datacenter: there are enough
    /// of them for n shards, and of those that can be reached, and stay, none has more than m.
    /// Where there is no better place, being unsafe is no reason to move anything.
    fn could_be_safe(&self, shards: &[Shard], peers: &Peers) -> bool {
        let m = usize::from(self.scheme.m);
        let staying = self.holders.iter().filter(|(index, _)| {
            shards.get(usize::from(*index)).is_some_and(|shard| *shard == Shard::Reachable)
        });
        peers.datacenters() >= self.scheme.n().div_ceil(m)
            && peers.most_in_one_datacenter(staying.map(|(_, peer)| *peer)) <= m
    }

    pub(super) const fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Looks at it. Of the holders that can be reached each acts `step_ms` after the one before.
    pub(super) fn look(
        &mut self,
        segment: SegmentId,
        policy: &Policy,
        peers: &Peers,
        step_ms: u64,
        now: Millis,
    ) -> Look {
        let shards = self.shards(peers);
        let view = self.view(&shards, peers, policy, now);
        let Verdict { health, due } = self.watch.observe(policy, view, now);
        if view.reachable > self.reachable {
            // Who came back may be who was missing when it failed.
            (self.failures, self.not_before) = (0, self.not_before.min(now));
        }
        self.reachable = view.reachable;
        let next = next_loss(shards.iter().copied(), now, policy.grace_ms);
        let lost = shards.iter().filter(|s| health.rebuilds(**s, now, policy.grace_ms)).count();
        let Some(due) = due.filter(|_| lost > 0 && !self.is_inconsistent) else {
            return Look { health, repair: None, again: next };
        };
        let delay_ms = step_ms.saturating_mul(self.rank(segment, peers));
        let from = due.from.max(self.since).after(delay_ms).max(self.not_before);
        if self.is_running || now < from {
            let again = next.into_iter().chain((!self.is_running).then_some(from)).min();
            return Look { health, repair: None, again };
        }
        let (k, m) = (usize::from(self.scheme.k), usize::from(self.scheme.m));
        let repair = Repair {
            segment,
            health,
            spare_permille: spare_permille(view.reachable, k, m),
            read: self.read,
            since: due.from,
            bytes: u64::from(self.shard_bytes) * (k + lost) as u64,
        };
        Look { health, repair: Some(repair), again: next }
    }

    /// How many reachable holders come before this node, in an order that all of them share.
    pub(super) fn rank(&self, segment: SegmentId, peers: &Peers) -> u64 {
        let draw = |node: NodeId| (mixed(&segment.0, &node.0), node);
        let own = draw(peers.own());
        let others = self.holders.iter().filter(|(_, peer)| peers.is_reachable(*peer));
        others.filter(|(_, peer)| draw(peers.node(*peer)) < own).count() as u64
    }
}

const fn bit(index: u8) -> u64 {
    1 << (index & 63)
}

/// Mixes two names into a number that orders holders differently for each segment.
fn mixed(a: &[u8; 32], b: &[u8; 32]) -> u64 {
    let first = |bytes: &[u8; 32]| {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[..8]);
        u64::from_le_bytes(word)
    };
    Draws::new(first(a) ^ first(b)).next_u64()
}
