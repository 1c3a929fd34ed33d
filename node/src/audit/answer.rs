//! The holder's side: answers a witness's question from the vault, or signs that it has it not.
//!
//! What is read is checked against the shard's hash before it is signed for: damage is found here
//! as by the scrubber, and told to the keeper.

use echonet_protocol::{
    audit::{Answer, AuditAnswer, AuditChallenge},
    bytes::ShardHash,
    data::{rows::Rows, verified::encode_slice},
    identity::{NodeId, Signed},
    inconsistency::{LEAF_BYTES, LeafRows as _},
    message::{Refusal, RefusalCode},
    params,
    placement_record::PlacementRecord,
    time::Epoch,
};
use echonet_vault::{Key, Located, ReadError, Vault};
use echonet_witness::{
    answering::{Asking, Reply, ShardState},
    verify::slice_hash,
};

use super::locked;
use crate::{
    core::Core,
    keep::Event,
    net::gate::PeerInfo,
    serve::{refuse, trees::PartWanted},
};

/// What the vault has of a shard, and how many it has.
struct Found {
    located: Option<Located>,
    state: ShardState,
    held: u64,
}

pub(super) async fn answer(
    core: &Core,
    peer: &PeerInfo,
    challenge: Signed<AuditChallenge>,
    index: u8,
) -> Result<Answer, Refusal> {
    let Some(vault) = core.vault.clone() else {
        return Err(refuse(RefusalCode::NotMyRole, "this node holds no shards"));
    };
    if challenge.body.witness != NodeId(peer.node_id) {
        return Err(refuse(RefusalCode::Invalid, "a question of another witness"));
    }
    let epoch = core.epoch();
    let key = Key { segment: challenge.body.segment.0, index };
    let looked = tokio::task::spawn_blocking(move || find(&vault, key, epoch)).await;
    let internal = |e: &dyn std::fmt::Display| refuse(RefusalCode::Internal, e);
    let found = looked.map_err(|e| internal(&e))?.map_err(|e| internal(&e))?;
    let reply = {
        let members = core.audit.sets.at(challenge.body.epoch);
        let asking = Asking { challenge: &challenge, index, shard: found.state, members };
        let mut answering = locked(&core.audit.answering);
        answering.decide(epoch, found.held, &asking)
    };
    let reply = reply.map_err(|e| refuse(RefusalCode::Invalid, e))?;
    let slice = match (reply, found.located) {
        (Reply::Leaf(leaf), Some(located)) => proof(core, peer, located, leaf).await?,
        _ => None,
    };
    if slice.is_none() {
        core.keep.hint(Event::Damaged(key));
    }
    let body = AuditAnswer {
        v: params::FORMAT_VERSION,
        network: core.network,
        holder: core.node_id(),
        challenge: challenge.hash(),
        segment: challenge.body.segment,
        index,
        slice: slice.as_deref().map(slice_hash),
    };
    let answer = Box::new(Signed::new(&core.identity, body));
    Ok(Answer::Answer { answer, slice: slice.map(Into::into) })
}

fn find(vault: &Vault, key: Key, epoch: Epoch) -> Result<Found, String> {
    let held = vault.stats().map_err(|e| e.to_string())?.shards;
    let located = vault.get(key).map_err(|e| e.to_string())?;
    let leases = vault.leases(key).map_err(|e| e.to_string())?;
    let ttl = vault.config().unsealed_ttl_epochs;
    let is_promised = leases.iter().any(|lease| lease.end_epoch(ttl) > epoch.0);
    let state = match &located {
        _ if !is_promised => ShardState::NotPromised,
        Some(located) => ShardState::Held { length: located.shard_len().into() },
        None => lost(vault, key),
    };
    Ok(Found { located, state, held })
}

/// How long a shard was that is not there any more: its placement's descriptor knows.
fn lost(vault: &Vault, key: Key) -> ShardState {
    let placements = vault.placements(&key.segment).unwrap_or_default();
    let records = placements.iter().filter_map(|p| PlacementRecord::decode_own(&p.record).ok());
    let length = records.map(|record| record.descriptor.shard_len() as u64).next();
    length.map_or(ShardState::NotPromised, |length| ShardState::Lost { length })
}

/// The proof of a leaf; none if what is on the disk does not give the shard's hash any more.
async fn proof(
    core: &Core,
    peer: &PeerInfo,
    located: Located,
    leaf: u64,
) -> Result<Option<Vec<u8>>, Refusal> {
    let (length, root) = (u64::from(located.shard_len()), ShardHash(located.shard_hash()));
    let from = leaf.saturating_mul(LEAF_BYTES);
    let range = from..(from + LEAF_BYTES).min(length);
    let (key, prefix) = (located.key(), peer.prefix);
    let wanted = PartWanted { located, range: range.clone(), group_log: 0, prefix };
    if let Ok((slice, _permit)) = core.trees.slice(&core.bulk, wanted).await
        && Rows.verify(&root, length, leaf, &slice).is_some()
    {
        return Ok(Some(slice));
    }
    // Damaged, or memory was short: the whole shard tells. To say "absent" is to be convicted.
    let internal = |e: &dyn std::fmt::Display| refuse(RefusalCode::Internal, e);
    let Some(vault) = core.vault.clone() else { return Ok(None) };
    let read = tokio::task::spawn_blocking(move || vault.read_verified(key)).await;
    match read.map_err(|e| internal(&e))? {
        Ok(shard) => {
            let made = encode_slice(&shard, range, 0).map_err(|e| internal(&e))?;
            Ok(Some(made.0))
        }
        Err(ReadError::NotStored | ReadError::Quarantined) => Ok(None),
        Err(e) => Err(internal(&e)),
    }
}
