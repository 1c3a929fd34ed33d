//! Keeping announcements and placement records for others.
//!
//! What is kept verified first; what is given out is verified again by whoever
//! asked.

use std::sync::Arc;

use echonet_protocol::{
    announcement::{Announcement, RecordKind, record_keys},
    identity::Signed,
    message::{Refusal, RefusalCode, Response},
    params,
    placement_record::PlacementRecord,
    time::UnixSeconds,
};
use serde_bytes::ByteBuf;

use super::refuse;
use crate::{
    clock,
    core::Core,
    net::{
        address::ObservedPrefix,
        gate::PeerInfo,
        records::{
            policy::PutError,
            record::{RecordKey, StoredRecord},
            store::Delivery,
        },
    },
};

/// How far in the future a record may expire, seconds.
pub(crate) const EXPIRY_S_MAX: u64 = 400 * 24 * 3600;

/// Where a record is kept in the store: its first record key.
pub(crate) fn store_key(core: &Core, kind: RecordKind, id: &[u8; 32]) -> RecordKey {
    RecordKey(record_keys(&core.network, kind, id)[0].0)
}

pub(super) fn get(core: &Core, kind: RecordKind, ids: &[[u8; 32]]) -> Result<Response, Refusal> {
    if ids.len() > params::BATCH_ITEMS_MAX {
        let reason = format!("{} ids; ask for at most {}", ids.len(), params::BATCH_ITEMS_MAX);
        return Err(refuse(RefusalCode::Invalid, reason));
    }
    let (mut records, mut bytes, mut looked_at) = (Vec::new(), 0, 0);
    for id in ids {
        let found = local(core, kind, id);
        let size: usize = found.iter().map(Vec::len).sum();
        // The first id is always answered: one key's records are bounded by the store.
        if looked_at > 0 && bytes + size > params::BATCH_BYTES_MAX {
            break;
        }
        bytes += size;
        looked_at += 1;
        records.extend(found.into_iter().map(ByteBuf::from));
    }
    Ok(Response::Records { records, looked_at })
}

/// The records that this node itself keeps under an id, its own vault's too.
pub(crate) fn local(core: &Core, kind: RecordKind, id: &[u8; 32]) -> Vec<Vec<u8>> {
    let now = clock::now();
    let key = store_key(core, kind, id);
    let stored = core.records.get(&key, now.0);
    let mut found: Vec<Vec<u8>> = stored.into_iter().map(|r| r.bytes.to_vec()).collect();
    if kind == RecordKind::Placement
        && let Some(placements) = core.vault.as_ref().and_then(|v| v.placements(id).ok())
    {
        for placement in placements {
            if !found.iter().any(|f| f[..] == placement.record[..]) {
                found.push(placement.record.to_vec());
            }
        }
    }
    found
}

pub(super) async fn put(
    core: &Arc<Core>,
    peer: &PeerInfo,
    records: Vec<(RecordKind, ByteBuf)>,
) -> Result<Response, Refusal> {
    if records.len() > params::BATCH_ITEMS_MAX {
        let reason = format!("{} records; send at most {}", records.len(), params::BATCH_ITEMS_MAX);
        return Err(refuse(RefusalCode::Invalid, reason));
    }
    let (core, prefix) = (Arc::clone(core), peer.prefix);
    // Signatures are verified and the disk is waited for: not on an async thread.
    let kept = tokio::task::spawn_blocking(move || keep_all(&core, prefix, records));
    Ok(Response::Put(kept.await.map_err(|e| refuse(RefusalCode::Internal, e))?))
}

/// Verifies a record and keeps it; why not, in words.
pub(crate) fn keep(
    core: &Core,
    prefix: ObservedPrefix,
    kind: RecordKind,
    bytes: Vec<u8>,
) -> Result<(), String> {
    let why_not = keep_all(core, prefix, vec![(kind, bytes.into())]).pop().flatten();
    why_not.map_or(Ok(()), Err)
}

/// Verifies records and keeps them under one commit; for each, why not.
fn keep_all(
    core: &Core,
    prefix: ObservedPrefix,
    records: Vec<(RecordKind, ByteBuf)>,
) -> Vec<Option<String>> {
    let now = clock::now();
    let verified = records.into_iter().map(|(kind, bytes)| match kind {
        RecordKind::Announcement => announcement(core, prefix, bytes.into_vec(), now),
        RecordKind::Placement => placement(core, prefix, bytes.into_vec(), now),
    });
    let (mut batch, mut outcomes) = (Vec::new(), Vec::new());
    for record in verified {
        match record {
            Ok(record) => {
                batch.push(Delivery { record, pinned: false });
                outcomes.push(None);
            }
            Err(why_not) => outcomes.push(Some(why_not)),
        }
    }
    let answers = core.records.put(batch, now.0);
    let open = outcomes.iter_mut().filter(|outcome| outcome.is_none());
    match answers {
        Ok(answers) => open.zip(answers).for_each(|(outcome, answer)| *outcome = why_not(answer)),
        Err(e) => open.for_each(|outcome| *outcome = Some(e.to_string())),
    }
    outcomes
}

fn why_not(answer: Result<(), PutError>) -> Option<String> {
    match answer {
        // The very same record again, or a newer one, is kept already.
        Ok(()) | Err(PutError::Stale { .. }) => None,
        Err(e) => Some(e.to_string()),
    }
}

fn announcement(
    core: &Core,
    prefix: ObservedPrefix,
    bytes: Vec<u8>,
    now: UnixSeconds,
) -> Result<StoredRecord, String> {
    let signed =
        Signed::<Announcement>::decode(&bytes, &core.network).map_err(|e| e.to_string())?;
    let body = signed.body;
    if body.expires.0 <= now.0 {
        return Err("announcement: expired already".into());
    }
    Ok(StoredRecord {
        key: store_key(core, RecordKind::Announcement, body.content.as_bytes()),
        kind: RecordKind::Announcement.number(),
        publisher: body.publisher.0,
        sequence: body.sequence,
        expires_unix_s: body.expires.0.min(now.0 + EXPIRY_S_MAX),
        prefix,
        bytes,
    })
}

fn placement(
    core: &Core,
    prefix: ObservedPrefix,
    bytes: Vec<u8>,
    now: UnixSeconds,
) -> Result<StoredRecord, String> {
    let record = PlacementRecord::decode(&bytes, &core.network).map_err(|e| e.to_string())?;
    // A standing lease is renewed by its holders until its grant is over.
    let until = record.lease.body.ends_at_latest(record.grant.as_ref());
    let (sequence, body) = (record.sequence(), record.body);
    let expires = core.genesis.epoch_start(until).0;
    Ok(StoredRecord {
        key: store_key(core, RecordKind::Placement, &body.segment.0),
        kind: RecordKind::Placement.number(),
        publisher: body.owner.0,
        sequence,
        expires_unix_s: expires.min(now.0 + EXPIRY_S_MAX),
        prefix,
        bytes,
    })
}
