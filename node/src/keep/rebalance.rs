//! Giving nodes that joined their share: once per epoch, what this node holds is
//! looked through for shards that one of them attracts.
//!
//! It moves nothing: the keeper hands over, at its rate, and the holders agree.

use std::{sync::Arc, time::Duration};

use echonet_archive::keeper::Key as PlacementName;
use echonet_protocol::{
    identity::NodeId,
    placement::{Attracting, Attraction},
    placement_record::PlacementRecord,
    time::Epoch,
};

use super::{Event, driver::read_page, name_of};
use crate::{
    core::Core,
    flow::publish::store::{own_candidate, snapshot},
};

/// How often it is looked whether a new epoch began.
const LOOK: Duration = Duration::from_secs(1);
/// A node that joined is looked at in each of so many epochs: not all others know it in the
/// first, and what could not be moved is tried again.
const EPOCHS: u64 = 4;
/// While so many hand-overs and repairs wait, no more are looked for.
const WAITING_MAX: u64 = 2_000;
/// Placements that changed so often without a renewal stay as they are: the room for further
/// changes is for repairs.
const STEPS_MAX: usize = 16;

/// Looks for shards to hand over until the node stops.
pub(crate) async fn run(core: Arc<Core>) {
    let mut looked_at = core.epoch();
    loop {
        tokio::time::sleep(LOOK).await;
        let now = core.epoch();
        if now <= looked_at || core.keep.is_draining() {
            continue;
        }
        looked_at = now;
        let attraction = attraction(&core, now);
        if !attraction.is_empty() {
            look_through(&core, attraction).await;
        }
    }
}

/// Members as they are now, this node among them, and who joined lately.
fn attraction(core: &Core, now: Epoch) -> Attraction {
    let mut members = snapshot(core);
    members.extend(own_candidate(core));
    let after = Epoch(now.0.saturating_sub(EPOCHS));
    Attraction::new(core.network, core.genesis.development, members, after, now)
}

async fn look_through(core: &Arc<Core>, attraction: Attraction) {
    let Some(vault) = core.vault.clone() else { return };
    let (attraction, own) = (Arc::new(attraction), core.node_id());
    let mut after = None;
    loop {
        while core.keep.status().waiting > WAITING_MAX {
            tokio::time::sleep(LOOK).await;
        }
        let (vault, attraction) = (vault.clone(), Arc::clone(&attraction));
        let page = tokio::task::spawn_blocking(move || {
            let (last, records) = read_page(&vault, after);
            let reliefs: Vec<_> =
                records.iter().filter_map(|record| relief(&attraction, record, own)).collect();
            (last, reliefs)
        });
        let Ok((last, reliefs)) = page.await else { return };
        for (to, key) in reliefs {
            core.keep.tell(Event::Joined { to, key }).await;
        }
        if last.is_none() {
            return;
        }
        after = last;
    }
}

/// To whom this node should give its shard of a placement.
fn relief(
    attraction: &Attraction,
    record: &PlacementRecord,
    own: NodeId,
) -> Option<(NodeId, PlacementName)> {
    if record.lineage.len() > STEPS_MAX {
        return None;
    }
    let placement = Attracting {
        segment: record.body.segment,
        scheme: record.descriptor.scheme,
        owner: record.body.owner,
        made: record.lease.body.from,
        holders: &record.body.holders,
    };
    Some((attraction.relief(&placement, own)?, name_of(record)))
}
