//! Weighted rendezvous: the order in which nodes are candidates for a segment.
//!
//! Like CRUSH's straw2: each node draws a straw of length -log2(u) / weight with
//! u uniform in (0, 1] from a hash, and the shortest comes first. That makes the
//! chance of being first proportional to the weight, and a node that joins,
//! leaves or changes its class moves nothing but itself. Integers only, so all
//! nodes get the same order.

use std::cmp::Ordering;

use super::types::Candidate;
use crate::{identity::NodeId, network::NetworkId, segment::SegmentId, time::Epoch};

/// BLAKE3 key-derivation context of straws.
const STRAW_CONTEXT: &str = "EchoNet 2026 placement straw v1";
/// BLAKE3 key-derivation context of beacons where no witness exists.
const BEACON_CONTEXT: &str = "EchoNet 2026 placement beacon v1";
/// Classes above this weigh no more: the class is self-declared, and one node
/// must not draw every segment by claiming all disks of the world (32 TiB).
pub const CAPACITY_CLASS_MAX: u8 = 16;
/// Fraction bits of a logarithm.
const LOG_BITS: u32 = 40;

/// Stands in for the beacon value of `epoch` in a network without witnesses.
#[must_use]
pub fn genesis_beacon(network: &NetworkId, epoch: Epoch) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(BEACON_CONTEXT);
    hasher.update(&network.0).update(&epoch.0.to_le_bytes());
    *hasher.finalize().as_bytes()
}

/// The weight of a capacity class: 2^class, so that shares follow the capacity.
#[must_use]
pub const fn weight(capacity_class: u8) -> u64 {
    let class =
        if capacity_class > CAPACITY_CLASS_MAX { CAPACITY_CLASS_MAX } else { capacity_class };
    1 << class
}

/// -log2((u + 1) / 2^64) with 40 fraction bits, truncated after exact squarings
/// of a 64-bit mantissa (SPEC.md, "Straws").
#[must_use]
pub fn neg_log2(u: u64) -> u64 {
    let x = u128::from(u) + 1;
    let exponent = x.ilog2();
    if exponent == 64 {
        return 0;
    }
    // The mantissa in [1, 2), with 63 fraction bits. Squaring it shifts one bit
    // of its logarithm over 1.
    let mut mantissa = x << (63 - exponent);
    let mut log = u64::from(exponent);
    for _ in 0..LOG_BITS {
        mantissa = (mantissa * mantissa) >> 63;
        let bit = u64::from(mantissa >= 1 << 64);
        mantissa >>= bit;
        log = (log << 1) | bit;
    }
    (64 << LOG_BITS) - log
}

/// One node's straw for one segment; the least comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Straw {
    neg_log2: u64,
    weight: u64,
    node: NodeId,
}

impl Straw {
    /// Draws it.
    #[must_use]
    pub fn draw(
        network: &NetworkId,
        segment: &SegmentId,
        node: NodeId,
        beacon: &[u8; 32],
        capacity_class: u8,
    ) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(STRAW_CONTEXT);
        hasher.update(&network.0).update(&segment.0).update(&node.0).update(beacon);
        let mut first = [0; 8];
        first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        let neg_log2 = neg_log2(u64::from_le_bytes(first));
        Self { neg_log2, weight: weight(capacity_class), node }
    }

    /// Whose it is.
    #[must_use]
    pub const fn node(&self) -> NodeId {
        self.node
    }

    /// Whether it is at most nine tenths as long as `other`.
    #[must_use]
    pub fn is_tenth_shorter(&self, other: &Self) -> bool {
        let own = u128::from(self.neg_log2) * u128::from(other.weight);
        let others = u128::from(other.neg_log2) * u128::from(self.weight);
        own * 10 <= others * 9
    }
}

impl Ord for Straw {
    fn cmp(&self, other: &Self) -> Ordering {
        // a/v < b/w exactly, without dividing; NodeIDs settle ties.
        let own = u128::from(self.neg_log2) * u128::from(other.weight);
        let others = u128::from(other.neg_log2) * u128::from(self.weight);
        own.cmp(&others).then_with(|| self.node.cmp(&other.node))
    }
}

impl PartialOrd for Straw {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Positions of `candidates` in rendezvous order for `segment`. Looks at nothing
/// but NodeID, beacon and capacity class.
#[must_use]
pub fn rank(network: &NetworkId, segment: &SegmentId, candidates: &[Candidate]) -> Vec<usize> {
    let straw = |c: &Candidate| Straw::draw(network, segment, c.node, &c.beacon, c.capacity_class);
    let mut order: Vec<_> = candidates.iter().map(straw).zip(0..).collect();
    order.sort_unstable();
    order.into_iter().map(|(_, position)| position).collect()
}
