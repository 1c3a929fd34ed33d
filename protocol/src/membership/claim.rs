//! Claims: what a node says about its own life, and what others say about it.
//!
//! A claim proves only who said it. Whether a node lives is found out by asking
//! it; nothing here decides that.

use serde::{Deserialize, Serialize};

use crate::{
    identity::{NodeId, ensure, record},
    network::NetworkId,
    params,
    time::UnixSeconds,
};

/// Whether a member lives, as somebody says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Life {
    /// It is there.
    Alive,
    /// It did not answer a probe.
    Suspect,
    /// It answered no probe during the whole suspicion.
    Down,
    /// It said goodbye.
    Left,
}

/// What a node says about its own disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskHealth {
    /// Reads and writes succeed.
    Healthy,
    /// They fail: what it keeps should be placed elsewhere too.
    Sick,
}

/// What one node says about the life of one node (SPEC.md, "Membership").
///
/// About itself it says `Alive` or `Left`: its *word*. About others it says
/// `Suspect` or `Down`, which is a hint to ask them and never more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// Format version.
    pub v: u8,
    /// The network.
    pub network: NetworkId,
    /// Who says it.
    pub claimant: NodeId,
    /// About whom.
    pub about: NodeId,
    /// Orders the words of `about`; of another's claim, the latest word that it
    /// knows of, 0 where it knows none.
    pub incarnation: u64,
    /// What is said.
    pub life: Life,
    /// Health of its disk, in a word that says `Alive`.
    pub disk: Option<DiskHealth>,
    /// When, by the claimant's clock.
    pub at: UnixSeconds,
}

record!(
    Claim,
    "membership claim",
    params::CLAIM_BYTES_MAX,
    signer: claimant,
    check: Claim::check_shape
);

impl Claim {
    /// The highest incarnation that is taken: one more is always possible.
    pub const INCARNATION_MAX: u64 = 1 << 62;

    fn check_shape(&self) -> Result<(), String> {
        let is_word = self.is_word();
        ensure(self.incarnation <= Self::INCARNATION_MAX, || "an incarnation beyond all".into())?;
        ensure(is_word == matches!(self.life, Life::Alive | Life::Left), || {
            "a node says alive or left about itself, suspect or down about others".into()
        })?;
        ensure(!is_word || self.incarnation > 0, || "a word without an incarnation".into())?;
        ensure(self.disk.is_some() == (self.life == Life::Alive), || {
            "disk health belongs to a living node's own word".into()
        })
    }

    /// Whether it is about the claimant itself.
    #[must_use]
    pub fn is_word(&self) -> bool {
        self.claimant == self.about
    }

    /// Orders words of one node: a later one is greater.
    #[must_use]
    pub const fn stamp(&self) -> (u64, u64) {
        (self.incarnation, self.at.0)
    }
}
