//! Witnesses whose passes cannot be looked at again (SPEC_WITNESS.md, section 7): proofs that are
//! not handed out within their two epochs.
//!
//! What comes of this is said to people and is evidence of nothing: a witness may have been away,
//! and whoever asked may not have asked.

use std::collections::BTreeMap;

use echonet_protocol::{identity::NodeId, time::Epoch};

/// Epochs that are looked back on.
const MEMORY_EPOCHS: u64 = 24;

/// What re-audits came to in one epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    proven: u64,
    unproven: u64,
}

/// This node's own re-audits, by witness; of 24 epochs, so at most 24 entries for each.
#[derive(Debug, Clone, Default)]
pub struct Reaudited {
    witnesses: BTreeMap<NodeId, BTreeMap<Epoch, Counts>>,
}

impl Reaudited {
    /// No re-audits.
    #[must_use]
    pub const fn new() -> Self {
        Self { witnesses: BTreeMap::new() }
    }

    /// Notes a verdict of `witness` that was looked at again in `epoch`: whether every proof of
    /// its passes was handed out. One that was handed out and does not verify is evidence, not this.
    pub fn note(&mut self, witness: NodeId, epoch: Epoch, is_proven: bool) {
        let epochs = self.witnesses.entry(witness).or_default();
        let counts = epochs.entry(epoch).or_default();
        counts.proven += u64::from(is_proven);
        counts.unproven += u64::from(!is_proven);
    }

    /// Forgets what is too old, and says of which witnesses more than half of the verdicts that
    /// were looked at in the last 24 epochs are unproven, ascending.
    pub fn unreliable(&mut self, now: Epoch) -> Vec<NodeId> {
        for epochs in self.witnesses.values_mut() {
            epochs.retain(|epoch, _| now.0.saturating_sub(epoch.0) < MEMORY_EPOCHS);
        }
        self.witnesses.retain(|_, epochs| !epochs.is_empty());
        let is_unreliable = |epochs: &BTreeMap<Epoch, Counts>| {
            let proven: u64 = epochs.values().map(|counts| counts.proven).sum();
            let unproven: u64 = epochs.values().map(|counts| counts.unproven).sum();
            unproven > proven
        };
        let unreliable = self.witnesses.iter().filter(|(_, epochs)| is_unreliable(epochs));
        unreliable.map(|(witness, _)| *witness).collect()
    }
}
