//! Parts of shards as verified slices, from hash trees kept in memory.
//!
//! Without its tree, one leaf costs reading and hashing all of its shard, and a
//! live check asks for eight leaves of every shard. A tree is made when a shard
//! arrives, whose hash is wanted anyway, or when a part of it is first wanted,
//! and kept while others are not wanted more. What is read from disk afterwards
//! is checked by the reader alone, as whole shards are.

use std::{ops::Range, sync::Arc};

use echonet_protocol::{
    data::verified::{self, ReadAt, SliceEncoder},
    message::{Refusal, RefusalCode},
};
use echonet_vault::{Key, Located, ReadError};
use moka::future::Cache;

use super::{
    bulk::{Bulk, BulkPermit, BulkUse},
    refuse,
};
use crate::net::address::ObservedPrefix;

/// log2 of the leaves of a group: 16 KiB are read and hashed for one leaf.
const TREE_LOG: u8 = 4;
/// Bytes of trees kept: a shard of a full segment has 13 KiB.
const TREES_BYTES_MAX: u64 = 8 << 20;
/// What a kept tree costs besides its nodes.
const TREE_OVERHEAD_BYTES: usize = 256;

/// Which part of which shard, and for whom.
pub(crate) struct PartWanted {
    pub(crate) located: Located,
    pub(crate) range: Range<u64>,
    pub(crate) group_log: u8,
    pub(crate) prefix: ObservedPrefix,
}

/// Hash trees of shards, the lately wanted ones.
#[derive(Debug)]
pub struct Trees(Cache<Key, Arc<[u8]>>);

impl Default for Trees {
    fn default() -> Self {
        let weigh = |_: &Key, nodes: &Arc<[u8]>| {
            u32::try_from(nodes.len() + TREE_OVERHEAD_BYTES).unwrap_or(u32::MAX)
        };
        Self(Cache::builder().max_capacity(TREES_BYTES_MAX).weigher(weigh).build())
    }
}

/// The hash of a shard that arrived, and the tree that it came from.
pub(crate) struct Hashed {
    pub(crate) root: [u8; 32],
    nodes: Arc<[u8]>,
}

/// Hashes a shard once for everything that wants its hash or its tree.
pub(crate) fn hash(shard: &[u8]) -> Result<Hashed, Refusal> {
    let tree = verified::outboard(shard, TREE_LOG);
    let tree = tree.map_err(|e| refuse(RefusalCode::Internal, e))?;
    Ok(Hashed { root: tree.root, nodes: tree.nodes.into() })
}

impl Trees {
    /// Keeps the tree of a shard that is stored by now: parts of it are wanted soon.
    pub(super) async fn keep(&self, key: Key, hashed: Hashed) {
        self.0.insert(key, hashed.nodes).await;
    }

    /// The encoding of a part of a shard, and the leave to keep it in memory.
    pub(crate) async fn slice(
        &self,
        bulk: &Bulk,
        wanted: PartWanted,
    ) -> Result<(Vec<u8>, BulkPermit), Refusal> {
        let PartWanted { located, range, group_log, prefix } = wanted;
        let invalid = |e: &dyn std::fmt::Display| refuse(RefusalCode::Invalid, e);
        let total = u64::from(located.shard_len());
        let encoder = SliceEncoder::new(total, range.clone(), group_log, TREE_LOG);
        let mut encoder = encoder.map_err(|e| invalid(&e))?;
        let length = verified::slice_len(total, range, group_log).map_err(|e| invalid(&e))?;
        let nodes = self.tree(bulk, &located, prefix).await?;
        // Bounded by the length of a shard and of its tree.
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let permit = bulk.reserve(BulkUse::Read, prefix, length).await?;
        let encode = move || {
            let mut out = Vec::with_capacity(length);
            encoder
                .fill(&Bytes(&located), &*nodes, &mut out, usize::MAX)
                .map_err(|e| refuse(RefusalCode::Internal, e))?;
            Ok(out)
        };
        Ok((blocking(encode).await?, permit))
    }

    async fn tree(
        &self,
        bulk: &Bulk,
        located: &Located,
        prefix: ObservedPrefix,
    ) -> Result<Arc<[u8]>, Refusal> {
        let make = async {
            let length = located.shard_len() as usize;
            let _permit = bulk.reserve(BulkUse::Read, prefix, length).await?;
            let located = located.clone();
            blocking(move || make(&located)).await
        };
        let made = self.0.try_get_with(located.key(), make).await;
        made.map_err(|e: Arc<Refusal>| Refusal::clone(&e))
    }
}

/// Reads a shard whole and hashes it; a shard that is not what was put is not
/// served.
fn make(located: &Located) -> Result<Arc<[u8]>, Refusal> {
    let internal = |e: &dyn std::fmt::Display| refuse(RefusalCode::Internal, e);
    let bytes = located.read_range(0, located.shard_len() as usize).map_err(|e| internal(&e))?;
    let hashed = hash(&bytes)?;
    if hashed.root != located.shard_hash() {
        return Err(refuse(RefusalCode::Internal, "the shard is damaged on this node's disk"));
    }
    Ok(hashed.nodes)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| refuse(RefusalCode::Internal, e))?
}

struct Bytes<'a>(&'a Located);

impl ReadAt for Bytes<'_> {
    type Error = ReadError;

    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        buffer.copy_from_slice(&self.0.read_range(offset, buffer.len())?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use echonet_vault::{LeaseMeta, Pool, PutRequest, RealDisk, Vault, VaultConfig};

    use super::*;

    fn noise(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().update(b"trees").finalize_xof().fill(&mut bytes);
        bytes
    }

    fn vault_with(dir: &std::path::Path, key: Key, shard: &[u8]) -> Vault {
        let config = VaultConfig { disk_free_min_bytes: 0, ..VaultConfig::default() };
        let (vault, _) = Vault::open(Arc::new(RealDisk), dir, config).unwrap();
        let lease = LeaseMeta {
            id: [1; 32],
            owner: [2; 32],
            pool: Pool::Granted { grant: [3; 32], until_epoch: 100 },
            from_epoch: 0,
            until_epoch: 9,
            sealed: true,
            standing: None,
        };
        let reservation = vault.reserve(key, shard.len() as u64, &lease, u128::MAX).unwrap();
        let (shard, meta) = (shard.to_vec().into(), b"descriptor".to_vec().into());
        vault.put(PutRequest { key, shard, meta, epoch: 1, reservation }).unwrap();
        vault
    }

    #[tokio::test]
    async fn parts_are_what_encoding_the_whole_shard_gives() {
        let dir = tempfile::tempdir().unwrap();
        for (index, len) in [(0, 1), (1, 1024), (2, 16_384), (3, 16_385), (4, 700_001)] {
            let (key, shard) = (Key { segment: [7; 32], index }, noise(len));
            let vault = vault_with(&dir.path().join(len.to_string()), key, &shard);
            let (trees, bulk, total) = (Trees::default(), Bulk::default(), len as u64);
            let ends = [0..1, total - 1..total, 0..total, total / 3..total / 2 + 1];
            for range in ends {
                // Below, at and above the groups of the tree that is kept.
                for group_log in [0, 4, 8] {
                    let located = vault.get(key).unwrap().unwrap();
                    let (expected, root) =
                        verified::encode_slice(&shard, range.clone(), group_log).unwrap();
                    assert_eq!(root, located.shard_hash());
                    let prefix = [1; 16];
                    let wanted = PartWanted { located, range: range.clone(), group_log, prefix };
                    let (got, _permit) = trees.slice(&bulk, wanted).await.unwrap();
                    assert!(got == expected, "{range:?} of {len} in groups of 2^{group_log}");
                }
            }
        }
    }

    #[tokio::test]
    async fn a_part_past_the_end_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let key = Key { segment: [7; 32], index: 0 };
        let vault = vault_with(dir.path(), key, &noise(5_000));
        let located = vault.get(key).unwrap().unwrap();
        let wanted = PartWanted { located, range: 4_999..5_001, group_log: 0, prefix: [1; 16] };
        let refusal = Trees::default().slice(&Bulk::default(), wanted).await.unwrap_err();
        assert_eq!(refusal.code, RefusalCode::Invalid);
    }
}
