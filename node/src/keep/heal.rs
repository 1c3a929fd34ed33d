//! Healing: a shard of this node's own that the scrubber found damaged is made
//! again from the other holders' and put back in place.
//!
//! The record stays as it is, for the holder stays the same. Where healing
//! fails, the shard stays set aside, this node says that it has it no more, and
//! the segment's holders repair it elsewhere.

use std::sync::Arc;

use bytes::Bytes;
use echonet_protocol::{identity::NodeId, placement_record::PlacementRecord};
use echonet_vault::{Key, PutRequest, Vault};

use super::rebuild::rebuild;
use crate::{core::Core, flow::fetch::segment::Located, serve::trees};

/// Makes a damaged shard of this node's own again; how many bytes came over the network for it.
///
/// # Errors
/// In words, why it stays damaged.
pub(super) async fn heal(
    core: &Arc<Core>,
    record: &PlacementRecord,
    index: u8,
) -> Result<u64, String> {
    let vault = core.vault.clone().ok_or("this node holds no shards")?;
    let own = core.node_id();
    let others = record.body.holders.iter().filter(|(_, node)| *node != own);
    let located = Located {
        segment: record.body.segment,
        descriptor: record.descriptor.clone(),
        holders: others.map(|(index, node): &(u8, NodeId)| (*index, vec![*node])).collect(),
        records: Vec::new(),
    };
    let mut rebuilt = rebuild(core, &located, &[index]).await.map_err(|e| e.to_string())?;
    let shard = rebuilt.shards.remove(&index).ok_or("it was not made again")?;
    let key = Key { segment: record.body.segment.0, index };
    let (meta, epoch) = (Bytes::from(record.descriptor.encode()), core.epoch().0);
    let put = move || put_back(&vault, key, shard, meta, epoch);
    tokio::task::spawn_blocking(put).await.map_err(|e| e.to_string())??;
    Ok(rebuilt.read_bytes)
}

/// Puts a shard back under a lease that it has already.
fn put_back(vault: &Vault, key: Key, shard: Bytes, meta: Bytes, epoch: u64) -> Result<(), String> {
    let leases = vault.leases(key).map_err(|e| e.to_string())?;
    let living = leases.iter().find(|lease| !lease.ended && lease.meta.until_epoch > epoch);
    let lease = living.ok_or("no lease keeps it any more")?.meta;
    let room = shard.len() as u64;
    // The lease was charged when it came.
    let reservation =
        vault.reserve_evicting(key, room, &lease, u128::MAX, epoch).map_err(|e| e.to_string())?;
    let hashed = trees::hash(&shard).map_err(|e| e.to_string())?;
    let put = PutRequest { key, shard, meta, epoch, reservation };
    vault.put_hashed(put, hashed.root).map_err(|e| e.to_string())?;
    Ok(())
}
