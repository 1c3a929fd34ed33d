//! What a vault may use and every bound it keeps, in one place.
use crate::format::{
    FIRST_RECORD_AT, FOOTER_LEN_MAX, LEASE_LEN, LEASES_PER_KEY_MAX, META_LEN_MAX,
    PLACEMENT_LEN_MAX, PLACEMENT_STATE_LEN, RECORD_LEN, SHARD_LEN_MAX, TRAILER_LEN,
};

/// Parameters of a vault. Lengths are in bytes, times in epochs of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VaultConfig {
    /// Real bytes that the vault may take: volumes with their garbage, the index, and one volume
    /// kept free for compaction.
    pub quota_bytes: u64,
    /// Length of a volume; at least [`VaultConfig::volume_len_min`].
    pub volume_len: u64,
    /// Longest shard accepted; at most 4 MiB.
    pub shard_len_max: u32,
    /// Longest placement record accepted; at most 64 KiB.
    pub placement_len_max: u32,
    /// How long an unsealed lease counts after it was added.
    pub unsealed_ttl_epochs: u64,
    /// How long after its last lease a shard is kept.
    pub grace_epochs: u64,
    /// Longest term of a lease from the free pool.
    pub free_term_epochs_max: u64,
    /// Bytes that must stay free on the file system.
    pub disk_free_min_bytes: u64,
    /// Most bytes in one group of records that share a sync.
    pub group_bytes_max: usize,
    /// Most bytes waiting for the committer.
    pub queue_bytes_max: usize,
    /// redb's cache.
    pub index_cache_bytes: usize,
    /// Changed rows kept in memory before they are written to the index file.
    pub checkpoint_rows: usize,
}

impl Default for VaultConfig {
    /// 10 GiB in volumes of 1 GiB, epochs of one hour.
    fn default() -> Self {
        Self {
            quota_bytes: 10 << 30,
            volume_len: 1 << 30,
            shard_len_max: SHARD_LEN_MAX,
            placement_len_max: PLACEMENT_LEN_MAX,
            unsealed_ttl_epochs: 24,
            grace_epochs: 24,
            free_term_epochs_max: 7 * 24,
            disk_free_min_bytes: 64 << 20,
            group_bytes_max: 16 << 20,
            queue_bytes_max: 64 << 20,
            index_cache_bytes: 16 << 20,
            checkpoint_rows: 32_768,
        }
    }
}

impl VaultConfig {
    /// The shortest volume that can hold two of the longest records.
    #[must_use]
    pub fn volume_len_min(&self) -> u64 {
        let state = (24 + LEASES_PER_KEY_MAX * LEASE_LEN) as u64;
        let put = state + u64::from(META_LEN_MAX) + u64::from(self.shard_len_max);
        let placement = PLACEMENT_STATE_LEN as u64 + u64::from(self.placement_len_max);
        2 * (FIRST_RECORD_AT + 2 * (RECORD_LEN as u64 + put.max(placement)))
    }

    /// Longest list in a footer of a volume of this length.
    pub(crate) fn footer_list_max(volume_len: u64) -> u64 {
        (volume_len / 16).min(u64::from(FOOTER_LEN_MAX))
    }

    /// Records end before this offset; footer and trailer have the rest.
    pub(crate) fn records_end(volume_len: u64) -> u64 {
        let footer = Self::footer_list_max(volume_len) + (RECORD_LEN + TRAILER_LEN + 8) as u64;
        volume_len.saturating_sub(footer)
    }

    /// Real bytes up to which puts and leases are accepted.
    #[must_use]
    pub fn put_ceiling_bytes(&self) -> u64 {
        let ends = (self.volume_len / 16).max(self.quota_bytes / 256);
        self.end_ceiling_bytes().saturating_sub(ends)
    }

    /// Real bytes up to which records that free space are accepted.
    pub(crate) fn end_ceiling_bytes(&self) -> u64 {
        self.quota_bytes.saturating_sub(self.volume_len)
    }
}
