//! What all parts of an open vault share, and how many bytes it takes.
use crate::config::VaultConfig;
use crate::format::{LEASE_LEN, META_LEN_MAX, RECORD_LEN, total_len};
use crate::index::Index;
use crate::kv::{IndexError, View};
use crate::locked::locked;
use crate::queue::Queue;
use crate::redb_disk::IndexSize;
use crate::reserve::Promises;
use crate::volume::Volumes;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Index bytes that a stored shard is counted with: entry, due, live and account rows, twice over
/// for redb's copy on write.
const INDEX_BYTES_PER_KEY: u64 = 1_024;

/// Lock order: promises, then index, then (inside `volumes`) the open files.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) config: VaultConfig,
    pub(crate) volumes: Volumes,
    pub(crate) index: Mutex<Index>,
    pub(crate) index_size: Arc<IndexSize>,
    /// Bytes of all files in `volumes/`.
    pub(crate) volume_bytes: AtomicU64,
    pub(crate) promises: Arc<Mutex<Promises>>,
    pub(crate) queue: Queue,
    /// Volumes poisoned since the vault was opened.
    pub(crate) poisoned: AtomicU64,
    /// The committer refuses everything.
    pub(crate) stopped: AtomicBool,
}

/// Bytes kept free for each standing lease: its renewal, and the state that compaction writes of it
/// before the one before is gone. A vault that is full to the brim still keeps its promises.
pub(crate) const RENEWAL_BYTES: u64 = 2 * (RECORD_LEN + 16 + LEASE_LEN) as u64;

/// Bytes that a put is counted with before its meta and leases are known.
pub(crate) fn put_record_bytes(shard_bytes: u64) -> u64 {
    let shard_len = u32::try_from(shard_bytes).unwrap_or(u32::MAX);
    total_len(2 * RECORD_LEN as u32, META_LEN_MAX, shard_len)
}

impl Core {
    /// Bytes of all volume files and of the footer still to come.
    pub(crate) fn volume_bytes(&self) -> u64 {
        let len = self.config.volume_len;
        let footer = len - VaultConfig::records_end(len);
        self.volume_bytes.load(Ordering::Acquire).saturating_add(footer)
    }

    /// Bytes that the index takes, or will take once it is written.
    pub(crate) fn index_bytes(&self) -> Result<u64, IndexError> {
        let keys = locked(&self.index).totals(View::Durable)?.keys;
        let actual = self.index_size.bytes.load(Ordering::Acquire);
        Ok(actual.max(keys.saturating_mul(INDEX_BYTES_PER_KEY)))
    }

    /// Real bytes up to which puts and leases are accepted now.
    pub(crate) fn put_ceiling_bytes(&self) -> Result<u64, IndexError> {
        let standing = locked(&self.index).totals(View::Durable)?.standing;
        let renewals = standing.saturating_mul(RENEWAL_BYTES);
        Ok(self.config.put_ceiling_bytes().saturating_sub(renewals))
    }

    /// Real bytes that count against the quota, without the reserve for compaction.
    pub(crate) fn used_bytes(&self) -> Result<u64, IndexError> {
        Ok(self.volume_bytes().saturating_add(self.index_bytes()?))
    }
}
