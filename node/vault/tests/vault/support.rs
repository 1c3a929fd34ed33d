//! What several tests need: small vaults, shards that can be made again from their
//! keys.
use echonet_vault::{
    AdmitError, Disk, Key, LeaseMeta, Outcome, PlacementKey, Pool, PutRequest, RecoveryReport,
    Vault, VaultConfig, WriteError,
};
use std::path::Path;
use std::sync::Arc;

/// A vault with volumes of 128 KiB, shards and placements of at most 4 KiB.
pub(crate) fn small_config() -> VaultConfig {
    VaultConfig {
        quota_bytes: 16 << 20,
        volume_len: 128 << 10,
        shard_len_max: 4 << 10,
        placement_len_max: 4 << 10,
        unsealed_ttl_epochs: 4,
        grace_epochs: 2,
        free_term_epochs_max: 7,
        disk_free_min_bytes: 0,
        group_bytes_max: 1 << 20,
        queue_bytes_max: 4 << 20,
        index_cache_bytes: 1 << 20,
        checkpoint_rows: 10_000,
    }
}

pub(crate) fn key(number: u64) -> Key {
    let mut segment = [0; 32];
    segment[..8].copy_from_slice(&(number / 4).to_be_bytes());
    Key { segment, index: (number % 4) as u8 }
}

/// The bytes that belong to a key: any test can tell whether it got the right ones.
pub(crate) fn shard(number: u64) -> Vec<u8> {
    let mut bytes = vec![0; 100 + (number as usize * 397) % 3_900];
    blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

pub(crate) fn meta(number: u64) -> Vec<u8> {
    format!("descriptor of {number}").into_bytes()
}

/// The owner of leases with this id: two take turns.
pub(crate) fn owner(id: u64) -> [u8; 32] {
    [7 + (id % 2) as u8; 32]
}

/// The key of an owner's placement record.
pub(crate) fn placement_key(segment: u64, owner_id: u64) -> PlacementKey {
    PlacementKey { segment: key(segment * 4).segment, owner: owner(owner_id) }
}

/// A sealed lease with an id made of the two numbers.
pub(crate) fn lease(number: u64, id: u64, until_epoch: u64) -> LeaseMeta {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes[8..16].copy_from_slice(&id.to_le_bytes());
    LeaseMeta {
        id: bytes,
        owner: owner(id),
        pool: Pool::Granted { grant: [id as u8; 32], until_epoch: 1_000 },
        from_epoch: 0,
        until_epoch,
        sealed: true,
        standing: None,
    }
}

pub(crate) fn open(disk: &Arc<dyn Disk>, config: VaultConfig) -> (Vault, RecoveryReport) {
    Vault::open(Arc::clone(disk), Path::new("/data/vault"), config).expect("the vault opens")
}

/// Reserves and puts.
pub(crate) fn put(
    vault: &Vault,
    number: u64,
    lease: LeaseMeta,
    epoch: u64,
) -> Result<Outcome, WriteError> {
    let bytes = shard(number);
    let reservation = match vault.reserve(key(number), bytes.len() as u64, &lease, u128::MAX) {
        Ok(reservation) => reservation,
        Err(AdmitError::NoSpace { need, left }) => {
            return Err(WriteError::QuotaFull { need, left });
        }
        Err(AdmitError::Index(error)) => return Err(WriteError::Index(error)),
        Err(error) => panic!("not admitted: {error}"),
    };
    let meta = meta(number).into();
    vault.put(PutRequest { key: key(number), shard: bytes.into(), meta, epoch, reservation })
}
