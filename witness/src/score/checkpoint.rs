//! Checkpoints: a fold as bytes, so that it goes on where it ended, and so that two nodes can
//! compare theirs by one hash.

use echonet_protocol::{
    bytes::RecordHash,
    codec::{self, DecodeError},
    identity::NodeId,
    network::NetworkId,
    params,
    time::Epoch,
};
use serde::{Deserialize, Serialize};

use super::{
    account::Account,
    fold::{Fold, Rules},
};

/// Bytes of a checkpoint at most: what 65,536 holders take with all that is remembered of them
/// would be more, but of whom so much is remembered are few.
const CHECKPOINT_BYTES_MAX: usize = 1 << 30;

/// Why a checkpoint is not gone on from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// Not a checkpoint.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// Of another network or version.
    #[error("a checkpoint of another network or version; fold again from the first epoch")]
    Other,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Checkpoint {
    v: u8,
    network: NetworkId,
    next: Epoch,
    sets: RecordHash,
    holders: Vec<(NodeId, Account)>,
    convicted: Vec<(NodeId, Epoch)>,
}

impl Fold {
    /// Deterministic bytes: equal for equal folds. Where many holders have accounts they are some
    /// 250 bytes for each.
    #[must_use]
    pub fn checkpoint(&self) -> Vec<u8> {
        codec::encode(&Checkpoint {
            v: params::FORMAT_VERSION,
            network: self.rules.network,
            next: self.next,
            sets: self.sets,
            holders: self.holders.iter().map(|(id, account)| (*id, account.clone())).collect(),
            convicted: self.convicted.iter().map(|(id, from)| (*id, *from)).collect(),
        })
    }

    /// Goes on from a node's own checkpoint; nothing in it is checked against verdicts.
    ///
    /// # Errors
    /// [`CheckpointError`].
    pub fn restore(rules: Rules, bytes: &[u8]) -> Result<Self, CheckpointError> {
        let read: Checkpoint = codec::decode("score checkpoint", bytes, CHECKPOINT_BYTES_MAX)?;
        if read.v != params::FORMAT_VERSION || read.network != rules.network {
            return Err(CheckpointError::Other);
        }
        Ok(Self {
            rules,
            next: read.next,
            sets: read.sets,
            holders: read.holders.into_iter().collect(),
            convicted: read.convicted.into_iter().collect(),
        })
    }
}
