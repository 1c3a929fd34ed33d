//! EchoNet's vault: append-only volumes of self-describing records that keep the shards a holder
//! signed receipts for (design section 7; every byte is in VOLUME_FORMAT.md).
//!
//! The volumes are the only truth; the redb index is a cache. Nothing is acknowledged before it is
//! durable; damaged bytes are reported and never served. The vault knows no network, no clock and
//! no signatures: epochs are passed in, and who may store what is decided before it is asked.
//!
//! ```no_run
//! use echonet_vault::{RealDisk, Vault, VaultConfig};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let disk = std::sync::Arc::new(RealDisk);
//! let (vault, report) = Vault::open(disk, "data/vault".as_ref(), VaultConfig::default())?;
//! # drop((vault, report)); Ok(()) }
//! ```
pub mod admission;
mod bytes_io;
mod compact;
mod config;
mod core;
mod crash;
mod disk;
mod error;
mod format;
mod index;
mod kv;
mod lifecycle;
mod locked;
mod maintain;
mod open_index;
mod placements;
mod plan;
mod queue;
mod read;
mod real_disk;
mod recover;
mod redb_disk;
mod renew;
mod reserve;
mod rows;
mod scan;
mod types;
mod vault;
mod volume;
mod walk;
mod writer;

pub use compact::CompactReport;
pub use config::VaultConfig;
pub use crash::{CRASH_AT, VAULT_CRASH_POINTS, crash_point};
pub use disk::{Disk, DiskFile, SyncSite};
pub use error::{MaintainError, OpenError, ReadError, WriteError};
pub use format::{
    LEASES_PER_KEY_MAX, META_LEN_MAX, PLACEMENT_LEN_MAX, PLACEMENTS_PER_SEGMENT_MAX, SHARD_LEN_MAX,
};
pub use kv::IndexError;
pub use maintain::{CollectReport, ScrubReport, VaultStats};
pub use open_index::{INDEX_FILE, IndexState};
pub use placements::StoredPlacement;
pub use plan::Outcome;
pub use read::Located;
pub use real_disk::RealDisk;
pub use recover::{Damage, RecoveryReport};
pub use renew::{EndingCursor, EndingLease, RenewReport};
pub use reserve::{AdmitError, RESERVATIONS_MAX, Reservation};
pub use types::{
    EntryState, Key, LeaseMeta, PlacementKey, Pool, Position, SegmentId, Standing, StoredLease,
};
pub use vault::{PutRequest, VOLUMES_DIR, Vault};
