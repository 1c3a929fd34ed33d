//! Agreement on the next version of a placement, as its proposer.

use std::sync::Arc;

use echonet_protocol::{identity::Signed, lease::Receipt, placement_record::PlacementRecord};

use crate::core::Core;

/// Why there is no next version.
#[derive(Debug, thiserror::Error)]
pub(super) enum AgreeError {
    /// There is a later version already.
    #[error("a later version is there already")]
    Overtaken,
    /// Somebody else is at it.
    #[error("another holder is at it")]
    Busy,
    /// Too few holders went along.
    #[error("{have} of {want} needed holders went along: {reason}")]
    NoQuorum {
        /// How many did.
        have: usize,
        /// How many are needed.
        want: usize,
        /// What one of the others said.
        reason: String,
    },
}

/// The holders' word that this node may make the next version.
#[derive(Debug)]
pub(super) struct Claim {
    unfinished: Option<Vec<Signed<Receipt>>>,
}

/// Asks the holders whether this node may make the next version.
pub(super) async fn claim(
    _core: &Arc<Core>,
    _record: &PlacementRecord,
) -> Result<Claim, AgreeError> {
    Err(AgreeError::Busy)
}

impl Claim {
    /// What an earlier proposer brought some holders to accept: it has to be finished first.
    pub(super) fn unfinished(&self) -> Option<Vec<Signed<Receipt>>> {
        self.unfinished.clone()
    }

    /// Has the holders sign the next version.
    pub(super) async fn propose(
        self,
        _core: &Arc<Core>,
        _record: &PlacementRecord,
        _receipts: Vec<Signed<Receipt>>,
    ) -> Result<PlacementRecord, AgreeError> {
        Err(AgreeError::Overtaken)
    }
}
