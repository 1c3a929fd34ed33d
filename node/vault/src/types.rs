//! The vault's words: keys, leases, and what is known of one stored shard. No input or output.

/// A SegmentID: 32 bytes that name a segment.
pub type SegmentId = [u8; 32];

/// Which shard: a segment and the shard's index in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The segment.
    pub segment: SegmentId,
    /// The shard's index among the segment's n.
    pub index: u8,
}

/// Which placement record: two owners of equal segments keep two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PlacementKey {
    /// The segment.
    pub segment: SegmentId,
    /// The public key of the owner whose record it is.
    pub owner: [u8; 32],
}

/// Whose space a lease uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pool {
    /// Space under a grant from an issuer that this holder honours.
    Granted {
        /// The grant's hash.
        grant: [u8; 32],
        /// First epoch at which the grant no longer holds; its use is remembered until then.
        until_epoch: u64,
    },
    /// Space this holder gives to anyone, bounded per network prefix.
    Free {
        /// The observed /24 or /48, as 16 bytes.
        prefix: [u8; 16],
    },
}

/// What a lease needs that its holder renews by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Epochs by which it is renewed each time.
    pub term_epochs: u64,
    /// All byte-epochs of its grant, of which this holder honours its part.
    pub grant_byte_epochs: u64,
}

/// One owner's claim on a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseMeta {
    /// The hash of the signed lease.
    pub id: [u8; 32],
    /// The owner's public key.
    pub owner: [u8; 32],
    /// Whose space it uses.
    pub pool: Pool,
    /// First epoch.
    pub from_epoch: u64,
    /// First epoch at which the lease no longer holds.
    pub until_epoch: u64,
    /// Whether the publish it belongs to was finished.
    pub sealed: bool,
    /// For a lease that this holder renews while its grant lasts and pays.
    pub standing: Option<Standing>,
}

impl LeaseMeta {
    /// Epochs of the term; zero if it ends before it begins.
    #[must_use]
    pub fn term_epochs(&self) -> u64 {
        self.until_epoch.saturating_sub(self.from_epoch)
    }

    /// Bytes times epochs that a shard of this length uses under this lease.
    #[must_use]
    pub fn byte_epochs(&self, shard_bytes: u64) -> u128 {
        u128::from(shard_bytes) * u128::from(self.term_epochs())
    }
}

/// A lease as the vault keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredLease {
    /// The lease.
    pub meta: LeaseMeta,
    /// The epoch at which it was added, from which the unsealed term counts.
    pub added_epoch: u64,
    /// Ended by its owner; kept so that the same id cannot be added again.
    pub ended: bool,
    /// Byte-epochs of its grant used here, all leases ever admitted and this one included, at the
    /// time of its last charge; 0 in the free pool. It never goes down, so that the use of a grant
    /// is the greatest of these, in whatever order they are read.
    pub grant_used: u128,
}

impl StoredLease {
    /// The first epoch at which this lease no longer keeps its shard.
    #[must_use]
    pub fn end_epoch(&self, unsealed_ttl_epochs: u64) -> u64 {
        if self.ended {
            return 0;
        }
        if self.meta.sealed {
            return self.meta.until_epoch;
        }
        self.meta.until_epoch.min(self.added_epoch.saturating_add(unsealed_ttl_epochs))
    }

    /// The first epoch at which a standing lease is due to be renewed: in the last quarter of its
    /// term, and no later than an unsealed one of now would end. None for every other lease, and
    /// where its grant does not last longer.
    #[must_use]
    pub fn renew_epoch(&self, unsealed_ttl_epochs: u64) -> Option<u64> {
        let standing = self.meta.standing?;
        let Pool::Granted { until_epoch: grant_until, .. } = self.meta.pool else { return None };
        let may = self.meta.sealed && !self.ended && self.meta.until_epoch < grant_until;
        let before = unsealed_ttl_epochs.max(standing.term_epochs / 4);
        may.then(|| self.meta.until_epoch.saturating_sub(before))
    }

    /// Whether the lease uses the free pool.
    #[must_use]
    pub fn is_free(&self) -> bool {
        matches!(self.meta.pool, Pool::Free { .. })
    }
}

/// What is known of a key beside its bytes: the part that changes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EntryState {
    /// The epoch of the put.
    pub created_epoch: u64,
    /// The bytes were found damaged: never served, healed by a put.
    pub quarantined: bool,
    /// The leases, in order of arrival.
    pub leases: Vec<StoredLease>,
}

impl EntryState {
    /// The first epoch at which no lease keeps this entry: the latest of all lease ends and of the
    /// epochs at which things happened to it.
    #[must_use]
    pub fn end_epoch(&self, unsealed_ttl_epochs: u64) -> u64 {
        let ends = self.leases.iter().map(|lease| lease.end_epoch(unsealed_ttl_epochs));
        ends.max().unwrap_or(0).max(self.created_epoch)
    }

    /// The lease with this id.
    #[must_use]
    pub fn lease(&self, id: &[u8; 32]) -> Option<&StoredLease> {
        self.leases.iter().find(|lease| lease.meta.id == *id)
    }

    /// Adds a lease; of one already here the later end and `sealed` win, an ended one stays ended,
    /// and the unsealed term counts anew: who sends a shard again is still publishing.
    pub(crate) fn upsert(&mut self, new: StoredLease) {
        match self.leases.iter_mut().find(|lease| lease.meta.id == new.meta.id) {
            Some(old) => {
                old.meta.until_epoch = old.meta.until_epoch.max(new.meta.until_epoch);
                old.meta.sealed |= new.meta.sealed;
                old.grant_used = old.grant_used.max(new.grant_used);
                if !old.meta.sealed {
                    old.added_epoch = old.added_epoch.max(new.added_epoch);
                }
            }
            None => self.leases.push(new),
        }
    }

    /// How many of its leases are renewed here.
    pub(crate) fn standing(&self) -> u64 {
        let is = |lease: &&StoredLease| lease.meta.standing.is_some() && !lease.ended;
        self.leases.iter().filter(is).count() as u64
    }

    pub(crate) fn lease_mut(&mut self, id: &[u8; 32]) -> Option<&mut StoredLease> {
        self.leases.iter_mut().find(|lease| lease.meta.id == *id)
    }

    /// Whether something keeps it and all that keeps it is the free pool.
    #[must_use]
    pub fn only_free(&self) -> bool {
        let mut living = self.leases.iter().filter(|lease| !lease.ended).peekable();
        living.peek().is_some() && living.all(StoredLease::is_free)
    }
}

/// Where a record stands: a volume's number and the offset of the record's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    /// The volume's number.
    pub volume: u64,
    /// Bytes from the start of the volume.
    pub offset: u64,
}
