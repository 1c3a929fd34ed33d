//! Has the beacon of each epoch: a member of the witness set gives out its part and puts the others'
//! together, everybody else asks.

use std::{sync::Arc, time::Duration};

use echonet_protocol::{
    audit::{Answer, Ask},
    bytes::BeaconSignature,
    identity::NodeId,
    message::{Refusal, RefusalCode},
    time::Epoch,
};
use futures::{StreamExt as _, stream};

use super::{Audit, any_other_member, locked};
use crate::{core::Core, serve::refuse};

/// How often a missing beacon is asked for.
const ASK_EVERY: Duration = Duration::from_millis(250);
/// How often an epoch's end is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Members told at once.
const PARALLEL: usize = 16;

/// Sees to the beacons until the node stops.
pub(crate) async fn run(core: Arc<Core>) {
    if !core.audit.is_audited() {
        return;
    }
    let mut told = None;
    loop {
        let epoch = core.epoch();
        if core.audit.beacon(epoch).is_some() {
            tokio::time::sleep(LOOK_EVERY).await;
            continue;
        }
        if told != Some(epoch) {
            told = Some(epoch);
            give_part(&core, epoch).await;
        }
        if core.audit.beacon(epoch).is_none() {
            ask(&core, epoch).await;
        }
        if core.audit.beacon(epoch).is_none() {
            tokio::time::sleep(ASK_EVERY).await;
        }
    }
}

/// Tells the other members this one's part, now that the epoch has begun.
async fn give_part(core: &Arc<Core>, epoch: Epoch) {
    let Some((index, share)) = &core.audit.share else { return };
    let Ok(part) = share.part(&core.audit.beacons, epoch) else { return };
    core.audit.add_part(epoch, *index, part);
    let members = core.audit.sets.at(epoch).to_vec();
    let others = members.into_iter().filter(|member| *member != core.node_id());
    let told = stream::iter(others).map(|member| {
        let ask = Ask::Part { epoch, index: *index, part };
        let core = Arc::clone(core);
        // Who is not reached asks for the beacon when it is back.
        async move { drop(core.client.witness(&member, ask).await) }
    });
    told.buffer_unordered(PARALLEL).collect::<Vec<()>>().await;
}

/// Asks one member, another each time.
async fn ask(core: &Arc<Core>, epoch: Epoch) {
    let Some(member) = any_other_member(core, epoch) else { return };
    let answer = core.client.witness(&member, Ask::Beacon { epoch }).await;
    if let Ok(Answer::Beacon(Some(signature))) = answer {
        check(core, epoch, signature).await;
    }
}

/// Verifies what is said to be a beacon, and remembers it.
pub(super) async fn check(core: &Core, epoch: Epoch, signature: BeaconSignature) {
    let beacons = core.audit.beacons.clone();
    let verified = tokio::task::spawn_blocking(move || beacons.verify(epoch, &signature)).await;
    if let Ok(Ok(beacon)) = verified {
        core.audit.remember(beacon);
    }
}

/// Takes another member's part.
pub(super) async fn take_part(
    core: &Core,
    from: NodeId,
    epoch: Epoch,
    index: u8,
    part: BeaconSignature,
) -> Result<(), Refusal> {
    let audit = &core.audit;
    if epoch.0.abs_diff(core.epoch().0) > 1 {
        return Err(refuse(RefusalCode::Invalid, "a part of an epoch that is not now"));
    }
    if core.genesis.witness.set.get(usize::from(index)) != Some(&from) {
        return Err(refuse(RefusalCode::Invalid, "a part that is not the sender's own"));
    }
    if audit.beacon(epoch).is_some() {
        return Ok(());
    }
    let beacons = audit.beacons.clone();
    let checked =
        tokio::task::spawn_blocking(move || beacons.verify_part(epoch, index, &part)).await;
    let checked = checked.map_err(|e| refuse(RefusalCode::Internal, e))?;
    checked.map_err(|e| refuse(RefusalCode::Invalid, e))?;
    audit.add_part(epoch, index, part);
    Ok(())
}

impl Audit {
    /// Keeps a checked part, and the beacon once there are enough. A part of the next epoch, whose
    /// sender's clock is ahead, waits with the others.
    fn add_part(&self, epoch: Epoch, index: u8, part: BeaconSignature) {
        let parts = {
            let mut parts = locked(&self.parts);
            let of_epoch = parts.entry(epoch).or_default();
            of_epoch.insert(index, part);
            of_epoch.clone()
        };
        if let Ok(beacon) = self.beacons.recover(epoch, &parts) {
            self.remember(beacon);
        }
    }
}
