//! What a beacon draws: which segments are due, who asks and when, which leaf is asked for, which
//! verdicts are looked at again (SPEC_WITNESS.md, sections 4, 7 and 12).
//!
//! Pure functions of the beacon. Nothing has to be counted or agreed on to know their values.

use echonet_protocol::{
    audit::AuditChallenge,
    bytes::RecordHash,
    identity::{NodeId, Signed},
    inconsistency::LEAF_BYTES,
    network::Genesis,
    segment::{Scheme, SegmentId},
};

use crate::beacon::Beacon;

/// Verdicts that are looked at again: one of so many.
const REAUDIT_DIVISOR: u64 = 16;
/// Leaves of a holder that may be asked for in an epoch, however little it holds.
const BUDGET_LEAVES_MIN: u64 = 32;
const DAY_S: u64 = 86_400;

/// The numbers of a genesis that draws depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    /// How many of 10,000 segments are due in an epoch.
    pub audit_permyriad: u16,
    /// L0: bytes of a full segment's shards in the default scheme.
    pub full_shard: u64,
    /// Most members of a committee.
    pub committee_max: usize,
    /// Seconds of an epoch.
    pub epoch_s: u64,
}

impl Rates {
    /// Those of a network.
    #[must_use]
    pub fn new(genesis: &Genesis) -> Self {
        Self {
            audit_permyriad: genesis.witness.audit_permyriad,
            full_shard: u64::from(genesis.segment_bytes).div_ceil(u64::from(Scheme::DEFAULT.k)),
            committee_max: usize::from(genesis.witness.committee_max),
            epoch_s: genesis.epoch_s,
        }
    }

    /// T: how many of 2^64 values of a number make a segment due by one of its two chances.
    fn threshold(&self) -> u128 {
        u128::from(u64::MAX) * u128::from(self.audit_permyriad) / 20_000
    }

    /// How long an asker waits for an answer, milliseconds.
    #[must_use]
    pub const fn deadline_ms(&self) -> u64 {
        let quarter = self.epoch_s * 1000 / 4;
        let capped = if quarter < 20_000 { quarter } else { 20_000 };
        if capped > 2_000 { capped } else { 2_000 }
    }

    /// Leaves that a holder of so many bytes is asked for in an epoch at most, by all witnesses
    /// together and inventories apart.
    #[must_use]
    pub fn budget_leaves(&self, held_bytes: u64) -> u64 {
        let daily = u128::from(held_bytes) * u128::from(self.epoch_s);
        let leaves = daily / (1000 * u128::from(LEAF_BYTES) * u128::from(DAY_S));
        u64::try_from(leaves).unwrap_or(u64::MAX).max(BUDGET_LEAVES_MIN)
    }
}

/// What a beacon draws for one segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draw {
    /// u0: due by segment if low enough; the lowest go first where a holder's budget is short.
    pub by_segment: u64,
    /// u1: due by byte if low enough.
    pub by_byte: u64,
    /// u2: when in the epoch.
    pub moment: u64,
}

impl Draw {
    /// The numbers of a segment.
    #[must_use]
    pub fn new(beacon: &Beacon, segment: &SegmentId) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("EchoNet 2026 audit draw v1");
        hasher.update(beacon.value()).update(&segment.0);
        let hash = hasher.finalize();
        let [by_segment, by_byte, moment, _] = numbers(hash.as_bytes());
        Self { by_segment, by_byte, moment }
    }

    /// Whether a segment with shards of `shard_len` bytes is due.
    #[must_use]
    pub fn is_due(&self, rates: &Rates, shard_len: u64) -> bool {
        let (threshold, full) = (rates.threshold(), u128::from(rates.full_shard));
        let by_byte = threshold * u128::from(shard_len.min(rates.full_shard)) / full.max(1);
        u128::from(self.by_segment) < threshold || u128::from(self.by_byte) < by_byte
    }

    /// When its asker asks, milliseconds from the epoch's start: within the first half.
    #[must_use]
    pub const fn asks_after_ms(&self, rates: &Rates) -> u64 {
        let half = rates.epoch_s * 500;
        if half == 0 { 0 } else { self.moment % half }
    }
}

/// The witnesses of a segment in an epoch, the asker first.
#[must_use]
pub fn committee(
    beacon: &Beacon,
    segment: &SegmentId,
    members: &[NodeId],
    rates: &Rates,
) -> Vec<NodeId> {
    let rank = |member: &NodeId| {
        let mut hasher = blake3::Hasher::new_derive_key("EchoNet 2026 audit committee v1");
        hasher.update(beacon.value()).update(&segment.0).update(&member.0);
        *hasher.finalize().as_bytes()
    };
    let mut ranked: Vec<_> = members.iter().map(|member| (rank(member), *member)).collect();
    ranked.sort_unstable();
    ranked.into_iter().take(rates.committee_max).map(|(_, member)| member).collect()
}

/// The row that a challenge asks for, of shards of `shard_len` bytes (at least one). Follows from
/// the challenge's signature, so no holder knows it before it is asked.
#[must_use]
pub fn leaf(challenge: &Signed<AuditChallenge>, shard_len: u64) -> u64 {
    let mut hasher = blake3::Hasher::new_derive_key("EchoNet 2026 audit leaf v1");
    hasher.update(&challenge.hash().0).update(&challenge.sig.0);
    let [number, ..] = numbers(hasher.finalize().as_bytes());
    number % shard_len.div_ceil(LEAF_BYTES).max(1)
}

/// Whether a verdict of the epoch before is looked at again by its committee's second member.
#[must_use]
pub fn is_reaudited(beacon: &Beacon, verdict: &RecordHash) -> bool {
    let mut hasher = blake3::Hasher::new_derive_key("EchoNet 2026 re-audit v1");
    hasher.update(beacon.value()).update(&verdict.0);
    let [number, ..] = numbers(hasher.finalize().as_bytes());
    number.is_multiple_of(REAUDIT_DIVISOR)
}

fn numbers(hash: &[u8; 32]) -> [u64; 4] {
    let mut numbers = [0; 4];
    for (number, part) in numbers.iter_mut().zip(hash.as_chunks::<8>().0) {
        *number = u64::from_le_bytes(*part);
    }
    numbers
}
