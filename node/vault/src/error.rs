//! What can go wrong, one small error for each kind of operation; each says what to do next.
use crate::kv::IndexError;
use std::io;

/// A vault could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The parameters contradict each other.
    #[error("vault parameters: {0}; change the configuration")]
    Config(String),
    /// This process has the directory open already.
    #[error("the vault in {0} is already open in this process; use that handle")]
    AlreadyOpen(String),
    /// The disk failed.
    #[error("vault {doing}: {source}; check the disk, then open the vault again")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The disk's answer.
        source: io::Error,
    },
    /// The index failed even after it was made anew.
    #[error(transparent)]
    Index(#[from] IndexError),
}

/// A record was refused. Nothing was acknowledged and nothing needs to be undone.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WriteError {
    /// The quota is used up.
    #[error(
        "the vault needs {need} bytes and its quota leaves {left}; raise the quota, or compact"
    )]
    QuotaFull {
        /// Bytes needed.
        need: u64,
        /// Bytes left.
        left: u64,
    },
    /// The file system is (nearly) full.
    #[error("the disk has no room for {need} bytes beside the configured reserve; free some space")]
    DiskFull {
        /// Bytes needed.
        need: u64,
    },
    /// A part is longer than its bound.
    #[error("{what} of {len} bytes is longer than the bound of {len_max}")]
    TooLong {
        /// Which part.
        what: &'static str,
        /// Its length.
        len: u64,
        /// The bound.
        len_max: u64,
    },
    /// The reservation was made for another put.
    #[error("the reservation is for another shard or lease; reserve again for this one")]
    NotReserved,
    /// Other bytes are stored under this key.
    #[error("other bytes are stored under this key; a SegmentID fixes its shards, so one is wrong")]
    Conflict,
    /// No such shard here.
    #[error("no such shard here; put it first")]
    NotStored,
    /// The stored bytes are damaged.
    #[error("the stored bytes are damaged; put the shard again")]
    Quarantined,
    /// The lease was ended by its owner.
    #[error("this lease was ended; make a new one")]
    LeaseEnded,
    /// No such lease on this shard.
    #[error("no such lease on this shard; add it first")]
    NoSuchLease,
    /// Too many leases on one shard.
    #[error("the shard has as many leases as it may have; ask another holder")]
    TooManyLeases,
    /// A placement record of this or a higher sequence is stored for this owner.
    #[error("a placement record with sequence {have} is stored; read it and build on it")]
    StalePlacement {
        /// The stored sequence.
        have: u64,
    },
    /// As many owners as may have a placement record of the segment here.
    #[error("the segment has placement records of as many owners as it may; ask another holder")]
    TooManyPlacements,
    /// Too much is waiting to be written.
    #[error("too much is waiting to be written; try again later")]
    Busy,
    /// The disk refused a write; the group was taken back.
    #[error("the disk refused a write ({0}); the vault goes on, try again")]
    Refused(String),
    /// A sync failed: the volume is poisoned.
    #[error("the disk could not make a write durable ({0}); not stored, check the disk")]
    Poisoned(String),
    /// No new volume could be made after a failure.
    #[error("the vault stopped writing after a disk failure ({0}); check the disk and reopen")]
    Stopped(String),
    /// The vault is closing.
    #[error("the vault is closed; open it again")]
    Closed,
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
}

/// Bytes could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// No such shard here.
    #[error("no such shard here")]
    NotStored,
    /// The stored bytes are damaged and are never served.
    #[error("the stored bytes are damaged; a put of the same shard heals them")]
    Quarantined,
    /// The range ends past the shard.
    #[error("bytes {offset}+{len} are not within the shard of {shard_len} bytes")]
    Range {
        /// First byte asked for.
        offset: u64,
        /// Bytes asked for.
        len: u64,
        /// The shard's length.
        shard_len: u64,
    },
    /// The disk failed.
    #[error("reading the vault: {0}; check the disk")]
    Io(#[from] io::Error),
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
}

/// Maintenance (compaction, scrubbing, collection) stopped early; calling again goes on.
#[derive(Debug, thiserror::Error)]
pub enum MaintainError {
    /// A record was refused.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The disk failed.
    #[error("maintaining the vault: {0}; check the disk")]
    Io(#[from] io::Error),
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
}
