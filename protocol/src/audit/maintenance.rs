//! A node's word that it will be away (SPEC_WITNESS.md, section 9). How often that is honoured is
//! for the score to say.

use serde::{Deserialize, Serialize};

use crate::{
    identity::{NodeId, ensure, record},
    network::NetworkId,
    params,
    time::Epoch,
};

/// Epochs in which a node will not answer; what is silent in them does not count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Maintenance {
    /// Format version.
    pub v: u8,
    /// The network.
    pub network: NetworkId,
    /// Who will be away.
    pub node: NodeId,
    /// First epoch of it.
    pub from: Epoch,
    /// First epoch after it; at most [`params::MAINTENANCE_EPOCHS_MAX`] later.
    pub until: Epoch,
}

record!(Maintenance, "maintenance", params::RECORD_BYTES_MAX, signer: node, check: |m| {
    ensure(m.from < m.until, || format!("ends ({}) before it begins ({})", m.until.0, m.from.0))?;
    let (epochs, max) = (m.until.0 - m.from.0, params::MAINTENANCE_EPOCHS_MAX);
    ensure(epochs <= max, || format!("{epochs} epochs, at most {max}"))
});
