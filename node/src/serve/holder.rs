//! Holding shards for others: admission, storing, sealing, ending.
//!
//! A receipt leaves only after the vault said that bytes and lease are durable.
//! Nothing is kept without a lease that verified, and no bulk byte is read
//! before there is room for it.

use std::sync::Arc;

use bytes::Bytes;
use echonet_protocol::{
    bytes::{RecordHash, ShardHash},
    identity::{Identity, NodeId, Signed},
    lease::{Grant, Lease, LeaseEnd, Receipt},
    message::{Refusal, RefusalCode, Response},
    params,
    placement_record::PlacementRecord,
    segment::{SegmentDescriptor, SegmentId},
    time::Epoch,
};
use echonet_vault::{
    AdmitError, Key, LeaseMeta, PlacementKey, Pool, PutRequest, Reservation, Standing, StoredLease,
    Vault, WriteError,
};
use serde_bytes::ByteBuf;

use super::{
    ServeResult,
    bulk::BulkUse,
    reads::PATIENCE,
    refuse, reply, say,
    trees::{self, Hashed},
    unread,
};
use crate::{
    core::Core,
    keep::{self, Event},
    net::{bandwidth::Way, gate::PeerInfo, node_protocol::stream::NodeStream},
};

/// Bytes read from the stream at once.
const STEP_BYTES: usize = 256 * 1024;
/// Epochs that an owner's clock may be ahead of this node's.
const EPOCHS_AHEAD_MAX: u64 = 2;

/// What a publisher asks when it sends a shard.
#[derive(Debug)]
pub(super) struct StoreWish {
    pub(super) lease: Signed<Lease>,
    pub(super) grant: Option<Signed<Grant>>,
    pub(super) descriptor: SegmentDescriptor,
    pub(super) index: u8,
    pub(super) placement_version: u64,
}

/// A wish that verified.
struct Admitted {
    lease: Signed<Lease>,
    grant: Option<Signed<Grant>>,
    meta: LeaseMeta,
}

fn vault(core: &Core) -> Result<Vault, Refusal> {
    let none = || refuse(RefusalCode::NotMyRole, "this node holds no shards");
    core.vault.clone().ok_or_else(none)
}

/// Checks a lease and the grant it names: signatures, owner, term, issuer.
fn admit(
    core: &Core,
    peer: &PeerInfo,
    lease: Signed<Lease>,
    grant: Option<Signed<Grant>>,
) -> Result<Admitted, Refusal> {
    let invalid = |reason: &dyn std::fmt::Display| refuse(RefusalCode::Invalid, reason);
    lease.verify(&core.network).map_err(|e| invalid(&e))?;
    let (body, epoch) = (&lease.body, core.epoch());
    let ends = body.ends_at_latest(grant.as_ref());
    if ends <= epoch {
        return Err(refuse(RefusalCode::NoLease, format!("the lease ended in epoch {}", ends.0)));
    }
    if body.from.0 > epoch.0 + EPOCHS_AHEAD_MAX {
        return Err(invalid(&format!(
            "the lease begins in epoch {}, it is {}",
            body.from.0, epoch.0
        )));
    }
    if body.term() > core.genesis.lease_epochs_max {
        let most = core.genesis.lease_epochs_max;
        return Err(invalid(&format!("a term of {} epochs; at most {most}", body.term())));
    }
    let pool = match (&body.grant, &grant) {
        (None, _) => Pool::Free { prefix: peer.prefix },
        (Some(named), Some(grant)) if *named == grant.hash() => {
            check_grant(core, grant, body, epoch)?;
            Pool::Granted { grant: named.0, until_epoch: grant.body.until.0 }
        }
        (Some(_), _) => return Err(not_granted("the lease names a grant that was not sent along")),
    };
    // Who takes a standing lease up late owes the term that it is in, not those before.
    let (from, until) = body.term_at(epoch, ends);
    let granted = grant.as_ref().filter(|_| body.standing);
    let standing = granted.map(|grant| Standing {
        term_epochs: body.term(),
        grant_byte_epochs: grant.body.byte_epochs,
    });
    let meta = LeaseMeta {
        id: lease.hash().0,
        owner: body.owner.0,
        pool,
        from_epoch: from.0,
        until_epoch: until.0,
        sealed: false,
        standing,
    };
    Ok(Admitted { lease, grant, meta })
}

fn not_granted(reason: impl std::fmt::Display) -> Refusal {
    refuse(RefusalCode::NotGranted, reason)
}

fn check_grant(
    core: &Core,
    grant: &Signed<Grant>,
    lease: &Lease,
    now: Epoch,
) -> Result<(), Refusal> {
    grant.verify(&core.network).map_err(not_granted)?;
    let body = &grant.body;
    if !core.genesis.issuers.contains(&body.issuer) {
        return Err(not_granted(format!("{} is no issuer that is honoured here", body.issuer)));
    }
    if body.owner != lease.owner {
        return Err(not_granted("the grant is somebody else's"));
    }
    if body.until <= now || lease.until > body.until {
        return Err(not_granted(format!("the grant ends in epoch {}", body.until.0)));
    }
    Ok(())
}

/// Room in the vault for a shard under an admitted lease.
async fn reserve(
    vault: &Vault,
    key: Key,
    bytes: u32,
    admitted: &Admitted,
    epoch: Epoch,
) -> Result<Reservation, Refusal> {
    let (vault, meta) = (vault.clone(), admitted.meta);
    let byte_epochs = admitted.grant.as_ref().map_or(0, |g| u128::from(g.body.byte_epochs));
    let work = move || vault.reserve_evicting(key, bytes.into(), &meta, byte_epochs, epoch.0);
    blocking(work).await?.map_err(|e| match e {
        AdmitError::Refused(e) => not_granted(e),
        AdmitError::NoSpace { .. } => refuse(RefusalCode::Full, e),
        AdmitError::Busy => refuse(RefusalCode::Busy, e),
        AdmitError::Index(_) => refuse(RefusalCode::Internal, e),
    })
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refusal> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| refuse(RefusalCode::Internal, e))
}

fn write_refusal(e: WriteError) -> Refusal {
    let code = match &e {
        WriteError::QuotaFull { .. } | WriteError::DiskFull { .. } => RefusalCode::Full,
        WriteError::Busy => RefusalCode::Busy,
        WriteError::TooLong { .. } | WriteError::Conflict => RefusalCode::Invalid,
        WriteError::NotStored | WriteError::Quarantined => RefusalCode::NotFound,
        WriteError::LeaseEnded | WriteError::NoSuchLease => RefusalCode::NoLease,
        WriteError::TooManyLeases | WriteError::TooManyPlacements => RefusalCode::Full,
        _ => RefusalCode::Internal,
    };
    refuse(code, e)
}

pub(super) async fn store(
    core: &Arc<Core>,
    peer: &PeerInfo,
    wish: StoreWish,
    stream: &mut NodeStream,
) -> ServeResult<()> {
    let vault = vault(core)?;
    let StoreWish { lease, grant, descriptor, index, placement_version } = wish;
    descriptor.check().map_err(|e| refuse(RefusalCode::Invalid, e))?;
    let (segment, length) = (descriptor.segment_id(), descriptor.shard_len());
    let Some(shard) = descriptor.shards.get(usize::from(index)).copied() else {
        return Err(
            refuse(RefusalCode::Invalid, format!("no shard {index} in this segment")).into()
        );
    };
    if lease.body.segment != segment {
        return Err(refuse(RefusalCode::Invalid, "the lease is for another segment").into());
    }
    let admitted = admit(core, peer, lease, grant)?;
    let key = Key { segment: segment.0, index };
    let of = ShardOf { segment, index, shard, length, placement_version };
    // Lengths of shards are bounded by the descriptor's check: they fit into 32 bits.
    let reservation = reserve(&vault, key, length as u32, &admitted, core.epoch()).await?;
    let is_here = {
        let vault = vault.clone();
        blocking(move || vault.get(key))
            .await?
            .map_err(|e| refuse(RefusalCode::Internal, e))?
            .is_some()
    };
    if is_here {
        let (vault, epoch) = (vault.clone(), core.epoch().0);
        blocking(move || vault.add_lease(reservation, epoch)).await?.map_err(write_refusal)?;
    } else {
        let purpose = match admitted.meta.pool {
            Pool::Granted { .. } => BulkUse::Granted,
            Pool::Free { .. } => BulkUse::Free,
        };
        let passed = core.bandwidth.pass(Way::Down, peer.prefix, length, PATIENCE).await;
        passed.map_err(|e| refuse(RefusalCode::Busy, e))?;
        let _permit = core.bulk.reserve(purpose, peer.prefix, length).await?;
        say(stream, &Response::Ready).await?;
        let put = PutRequest {
            key,
            shard: Bytes::from(receive(stream, length).await?),
            meta: Bytes::from(descriptor.encode()),
            epoch: core.epoch().0,
            reservation,
        };
        let hashed = blocking(move || put_if(&vault, put, shard)).await??;
        core.trees.keep(key, hashed).await;
    }
    echonet_vault::crash_point("holder.receipt.before");
    let receipt = sign_receipt(&core.identity, &admitted.lease, of);
    reply(stream, &Response::Receipt(receipt)).await
}

/// Stores a shard that arrived, if it is the one that was announced.
fn put_if(vault: &Vault, put: PutRequest, wanted: ShardHash) -> Result<Hashed, Refusal> {
    let hashed = trees::hash(&put.shard)?;
    if hashed.root != wanted.0 {
        let reason = format!("the bytes of shard {} have another hash", put.key.index);
        return Err(refuse(RefusalCode::Invalid, reason));
    }
    vault.put_hashed(put, hashed.root).map_err(write_refusal)?;
    Ok(hashed)
}

async fn receive(stream: &mut NodeStream, length: usize) -> ServeResult<Vec<u8>> {
    let mut bytes = vec![0; length];
    for part in bytes.chunks_mut(STEP_BYTES) {
        stream.read_exact(part).await.map_err(unread)?;
        // Lets the connection's driver run between large reads.
        tokio::task::yield_now().await;
    }
    Ok(bytes)
}

/// Which shard a receipt is for.
struct ShardOf {
    segment: SegmentId,
    index: u8,
    shard: ShardHash,
    length: usize,
    placement_version: u64,
}

/// To be called once bytes and lease are durable, never before.
fn sign_receipt(identity: &Identity, lease: &Signed<Lease>, of: ShardOf) -> Signed<Receipt> {
    let body = Receipt {
        v: params::FORMAT_VERSION,
        network: lease.body.network,
        lease: lease.hash(),
        segment: of.segment,
        index: of.index,
        shard: of.shard,
        length: of.length as u32,
        holder: identity.node_id(),
        from: lease.body.from,
        until: lease.body.until,
        placement_version: of.placement_version,
    };
    Signed::new(identity, body)
}

pub(super) async fn add_lease(
    core: &Arc<Core>,
    peer: &PeerInfo,
    lease: Signed<Lease>,
    grant: Option<Signed<Grant>>,
    index: u8,
    placement_version: u64,
) -> Result<Response, Refusal> {
    let vault = vault(core)?;
    let segment = lease.body.segment;
    let admitted = admit(core, peer, lease, grant)?;
    let key = Key { segment: segment.0, index };
    let reading = vault.clone();
    let found = blocking(move || {
        let located = reading.get(key).map_err(|e| e.to_string())?;
        located.map(|l| Ok((l.shard_len(), l.shard_hash()))).transpose()
    });
    let found: Option<(u32, [u8; 32])> =
        found.await?.map_err(|e: String| refuse(RefusalCode::Internal, e))?;
    let Some((length, hash)) = found else {
        let reason = format!("shard {index} of {} is not here", segment.short());
        return Err(refuse(RefusalCode::NotFound, reason));
    };
    let reservation = reserve(&vault, key, length, &admitted, core.epoch()).await?;
    let epoch = core.epoch().0;
    blocking(move || vault.add_lease(reservation, epoch)).await?.map_err(write_refusal)?;
    let (shard, length) = (ShardHash(hash), length as usize);
    let of = ShardOf { segment, index, shard, length, placement_version };
    Ok(Response::Receipt(sign_receipt(&core.identity, &admitted.lease, of)))
}

pub(super) async fn seal(
    core: &Arc<Core>,
    from: NodeId,
    placements: Vec<ByteBuf>,
) -> Result<Response, Refusal> {
    bounded(placements.len())?;
    let (network, mut records) = (core.network, Vec::new());
    for bytes in placements {
        records.push(bytes.into_vec());
    }
    let decoded = blocking(move || {
        let decode = |bytes: Vec<u8>| PlacementRecord::decode(&bytes, &network).map(|r| (r, bytes));
        records.into_iter().map(decode).collect::<Result<Vec<_>, _>>()
    });
    let decoded = decoded.await?.map_err(|e| refuse(RefusalCode::Invalid, e))?;
    let mut sealed = 0;
    for (record, bytes) in decoded {
        core.keep.goes_over(&record, from);
        sealed += u16::from(keep_record(core, record, bytes).await?);
    }
    Ok(Response::Done(sealed))
}

/// Keeps what a verified placement record says that this node holds, and has it kept whole;
/// whether it holds it. One that no longer names this node is remembered too, in the place of
/// the one that did.
pub(crate) async fn keep_record(
    core: &Arc<Core>,
    record: PlacementRecord,
    bytes: Vec<u8>,
) -> Result<bool, Refusal> {
    let (vault, own) = (vault(core)?, core.node_id());
    // Fewer than a quorum do not speak for a holder that they did not hear.
    if !keep::may_go_by(core, &record) {
        return Ok(false);
    }
    let kept = blocking(move || seal_one(&vault, own, &record, bytes).map(|kept| (kept, record)));
    let (kept, record) = kept.await??;
    match kept {
        Kept::Held | Kept::Replaced => {
            core.votes.followed(&record);
            core.keep.tell(Event::Held(Box::new(record))).await;
        }
        Kept::Known => return Ok(true),
        Kept::Not => return Ok(false),
    }
    Ok(kept == Kept::Held)
}

/// What became of a placement record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    /// It names this node and is in the vault now.
    Held,
    /// It takes the place of one that named this node.
    Replaced,
    /// It, or a later one, was there before.
    Known,
    /// It is of no concern to this node.
    Not,
}

/// Keeps what a placement record says that this node holds.
fn seal_one(
    vault: &Vault,
    own: NodeId,
    record: &PlacementRecord,
    bytes: Vec<u8>,
) -> Result<Kept, Refusal> {
    let (segment, owner) = (record.body.segment.0, record.body.owner.0);
    let Some(receipt) = record.receipts.iter().find(|r| r.body.holder == own) else {
        let known = vault.placement(&PlacementKey { segment, owner });
        // Only where this node holds something under that owner's word already.
        if !matches!(known, Ok(Some(_))) {
            return Ok(Kept::Not);
        }
        return put_placement(vault, record, bytes, Kept::Replaced);
    };
    let key = Key { segment, index: receipt.body.index };
    let leases = vault.leases(key).map_err(|e| refuse(RefusalCode::Internal, e))?;
    let is_named = |l: &StoredLease| {
        RecordHash(l.meta.id) == receipt.body.lease && l.meta.owner == record.body.owner.0
    };
    // A stranger's record over an owner's receipts seals nothing and is not kept.
    if !leases.iter().any(is_named) {
        return Ok(Kept::Not);
    }
    match vault.seal(key, receipt.body.lease.0) {
        Ok(_) => {}
        Err(WriteError::NotStored | WriteError::NoSuchLease | WriteError::LeaseEnded) => {
            return Ok(Kept::Not);
        }
        Err(e) => return Err(write_refusal(e)),
    }
    put_placement(vault, record, bytes, Kept::Held)
}

fn put_placement(
    vault: &Vault,
    record: &PlacementRecord,
    bytes: Vec<u8>,
    kept: Kept,
) -> Result<Kept, Refusal> {
    let (segment, owner) = (record.body.segment.0, record.body.owner.0);
    match vault.put_placement(segment, owner, record.sequence(), Bytes::from(bytes)) {
        Ok(_) => Ok(kept),
        Err(WriteError::StalePlacement { .. }) => Ok(Kept::Known),
        Err(e) => Err(write_refusal(e)),
    }
}

pub(super) async fn end_leases(
    core: &Arc<Core>,
    ends: Vec<Signed<LeaseEnd>>,
) -> Result<Response, Refusal> {
    let vault = vault(core)?;
    bounded(ends.len())?;
    for end in &ends {
        end.verify(&core.network).map_err(|e| refuse(RefusalCode::Invalid, e))?;
    }
    let ended = blocking(move || {
        let mut ended = 0;
        for end in ends {
            ended += u16::from(end_one(&vault, &end.body)?);
        }
        Ok(ended)
    });
    Ok(Response::Done(ended.await??))
}

fn end_one(vault: &Vault, end: &LeaseEnd) -> Result<bool, Refusal> {
    let internal = |e: &dyn std::fmt::Display| refuse(RefusalCode::Internal, e);
    let mut ended = false;
    // Which index this node holds of a segment is the vault's knowledge, not the owner's.
    for key in keys_of(vault, end.segment).map_err(|e| internal(&e))? {
        let leases = vault.leases(key).map_err(|e| internal(&e))?;
        let is_owners =
            |l: &StoredLease| RecordHash(l.meta.id) == end.lease && l.meta.owner == end.owner.0;
        if leases.iter().any(is_owners) {
            vault.end_lease(key, end.lease.0).map_err(write_refusal)?;
            ended = true;
        }
    }
    Ok(ended)
}

/// The shards of one segment that are here.
fn keys_of(vault: &Vault, segment: SegmentId) -> Result<Vec<Key>, echonet_vault::IndexError> {
    let mut keys = vault.keys(before(segment), params::SHARDS_MAX)?;
    keys.retain(|key| key.segment == segment.0);
    Ok(keys)
}

/// The last key that sorts before all of a segment's; none for the first segment.
fn before(segment: SegmentId) -> Option<Key> {
    let mut below = segment.0;
    for byte in below.iter_mut().rev() {
        let (less, borrowed) = byte.overflowing_sub(1);
        *byte = less;
        if !borrowed {
            return Some(Key { segment: below, index: u8::MAX });
        }
    }
    None
}

fn bounded(items: usize) -> Result<(), Refusal> {
    if items <= params::BATCH_ITEMS_MAX {
        return Ok(());
    }
    let reason = format!("{items} items; send at most {}", params::BATCH_ITEMS_MAX);
    Err(refuse(RefusalCode::Invalid, reason))
}

pub(super) fn has(core: &Core, shards: &[(SegmentId, u8)]) -> Result<Response, Refusal> {
    let vault = vault(core)?;
    bounded(shards.len())?;
    if vault.stopped() {
        // What its disk still gives it may not give tomorrow: others make it again while they can.
        return Ok(Response::Has(vec![false; shards.len()]));
    }
    let is_here = |(segment, index): &(SegmentId, u8)| {
        let key = Key { segment: segment.0, index: *index };
        vault
            .get(key)
            .map(|located| located.is_some())
            .map_err(|e| refuse(RefusalCode::Internal, e))
    };
    Ok(Response::Has(shards.iter().map(is_here).collect::<Result<_, _>>()?))
}
