//! The genesis of a development network: short epochs, small volumes, fast
//! repair, grants for whoever asks.

use std::time::Duration;

use echonet_protocol::{
    identity::NodeId,
    network::{Genesis, Timing, WitnessParams},
    params,
    time::UnixSeconds,
};

/// Seconds of a day.
const DAY_S: u64 = 86_400;

/// What may be chosen about a development network.
#[derive(Debug, Clone)]
pub struct DevelopmentNetwork {
    /// For people.
    pub name: String,
    /// Length of an epoch; whole seconds.
    pub epoch: Duration,
    /// Most bytes of a segment.
    pub segment_bytes: u64,
    /// Length of a volume, bytes.
    pub volume_bytes: u64,
    /// How long an unsealed shard is kept.
    pub unsealed: Duration,
    /// Epochs between a last lease's end and collection.
    pub collect_grace_epochs: u64,
    /// How fast nodes suspect, wait and repair.
    pub timing: Timing,
}

impl Default for DevelopmentNetwork {
    fn default() -> Self {
        Self {
            name: "devnet".to_owned(),
            epoch: Duration::from_secs(60),
            segment_bytes: params::SEGMENT_BYTES_MAX as u64,
            volume_bytes: 64 << 20,
            unsealed: Duration::from_secs(DAY_S),
            collect_grace_epochs: 1,
            timing: Timing::DEVELOPMENT,
        }
    }
}

/// A development network's genesis. Whether its parameters are within bounds is
/// found out by decoding it.
#[must_use]
pub fn development(
    network: &DevelopmentNetwork,
    salt: [u8; 16],
    created: UnixSeconds,
    issuers: Vec<NodeId>,
) -> Genesis {
    let epoch_s = network.epoch.as_secs().max(1);
    Genesis {
        v: params::FORMAT_VERSION,
        name: network.name.clone(),
        created,
        salt: salt.to_vec(),
        development: true,
        epoch_s,
        // Out of range becomes the largest, which the check then refuses.
        segment_bytes: u32::try_from(network.segment_bytes).unwrap_or(u32::MAX),
        volume_bytes: network.volume_bytes,
        unsealed_epochs: network.unsealed.as_secs().div_ceil(epoch_s).max(1),
        collect_grace_epochs: network.collect_grace_epochs,
        lease_epochs_max: (365 * DAY_S).div_ceil(epoch_s),
        free_lease_epochs_max: (7 * DAY_S).div_ceil(epoch_s),
        issuers,
        timing: network.timing.clone(),
        witness: WitnessParams::none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_a_valid_genesis() {
        let genesis = development(
            &DevelopmentNetwork::default(),
            [1; 16],
            UnixSeconds(1_000_000),
            vec![NodeId([2; 32])],
        );
        let read = Genesis::decode(&genesis.encode()).unwrap();
        assert_eq!(read, genesis);
        assert_eq!(read.unsealed_epochs, 24 * 60);
    }
}
