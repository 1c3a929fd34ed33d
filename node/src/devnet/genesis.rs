//! The genesis of a development network: short epochs, small volumes, fast
//! repair, grants for whoever asks.

use std::time::Duration;

use echonet_protocol::{
    identity::NodeId,
    network::{Genesis, Timing, WitnessParams},
    params,
    time::UnixSeconds,
};
use echonet_witness::beacon::{BeaconShare, Dealt, deal};

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
    /// How many of 10,000 segments are audited in an epoch, where there are witnesses.
    pub audit_permyriad: u16,
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
            audit_permyriad: 2_000,
        }
    }
}

/// The witnesses of a development network: the set, and the beacon's key dealt to it. `members`
/// are ascending and at least one; the shares come back in their order. `seed` is the secret of
/// the beacon, to be forgotten.
///
/// # Errors
/// There are no members, or a seed in 2^247 that another has to be taken for.
pub fn witnesses(
    network: &DevelopmentNetwork,
    members: &[NodeId],
    seed: &[u8; 32],
) -> Result<(WitnessParams, Vec<BeaconShare>), String> {
    let dealt = (!members.is_empty()).then(|| deal(members.len(), seed)).flatten();
    let Dealt { key, shares } = dealt.ok_or("no key can be dealt to these witnesses")?;
    let params = WitnessParams {
        set: members.to_vec(),
        beacon_key: key.0.to_vec(),
        beacon_shares: shares.iter().map(BeaconShare::public).collect(),
        audit_permyriad: network.audit_permyriad,
        ..WitnessParams::none()
    };
    Ok((params, shares))
}

/// A development network's genesis. Whether its parameters are within bounds is
/// found out by decoding it.
#[must_use]
pub fn development(
    network: &DevelopmentNetwork,
    salt: [u8; 16],
    created: UnixSeconds,
    issuers: Vec<NodeId>,
    witness: WitnessParams,
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
        witness,
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
            WitnessParams::none(),
        );
        let read = Genesis::decode(&genesis.encode()).unwrap();
        assert_eq!(read, genesis);
        assert_eq!(read.unsealed_epochs, 24 * 60);
    }
}
