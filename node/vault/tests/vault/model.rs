//! The reference model: what a vault must hold, in plain maps, written as obviously as possible.
use crate::support::{lease, owner, shard, small_config};
use echonet_vault::{LeaseMeta, Pool, StoredLease};
use std::collections::BTreeMap;

/// Shards that tests speak of, four to a segment.
pub(crate) const SHARD_NUMBERS: u64 = 32;

/// One shard's state: its epoch of creation and its leases in order of arrival.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shard {
    pub(crate) created: u64,
    pub(crate) leases: Vec<StoredLease>,
}

/// Everything acknowledged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Model {
    pub(crate) shards: BTreeMap<u64, Shard>,
    /// By segment and whether the odd ids' owner's: the sequence.
    pub(crate) placements: BTreeMap<(u64, u64), u64>,
    /// By grant: its end epoch, and the byte-epochs of all leases that were ever admitted.
    pub(crate) grants: BTreeMap<[u8; 32], (u64, u128)>,
    pub(crate) epoch: u64,
}

/// A lease that is to last longer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Renewal {
    pub(crate) id: [u8; 32],
    pub(crate) until_epoch: u64,
    pub(crate) grant: [u8; 32],
    pub(crate) byte_epochs: u128,
}

/// A change that the vault was asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Change {
    /// A put, or a lease on what is there.
    Put {
        number: u64,
        lease: LeaseMeta,
        epoch: u64,
    },
    End {
        number: u64,
        id: u64,
    },
    Seal {
        number: u64,
        id: u64,
    },
    Place {
        segment: u64,
        owner_id: u64,
        sequence: u64,
    },
    Collect,
}

fn end(lease: &StoredLease) -> u64 {
    if lease.ended {
        0
    } else if lease.meta.sealed {
        lease.meta.until_epoch
    } else {
        lease.meta.until_epoch.min(lease.added_epoch + small_config().unsealed_ttl_epochs)
    }
}

fn forget(lease: &StoredLease) -> u64 {
    let end = if lease.ended { lease.meta.until_epoch } else { end(lease) };
    end + small_config().grace_epochs
}

/// To when a lease is renewed at an epoch, if it is.
fn renewed_until(lease: &StoredLease, epoch: u64) -> Option<u64> {
    let term = lease.meta.standing?.term_epochs;
    let Pool::Granted { until_epoch: ends, .. } = lease.meta.pool else { return None };
    let old = lease.meta.until_epoch;
    let is_due = epoch + small_config().unsealed_ttl_epochs.max(term / 4) >= old;
    if !lease.meta.sealed || lease.ended || !is_due || old >= ends {
        return None;
    }
    let mut until = old + term;
    while until <= epoch + small_config().unsealed_ttl_epochs.max(term / 4) {
        until += term;
    }
    (until.min(ends) > epoch.max(old)).then_some(until.min(ends))
}

impl Shard {
    fn collect_epoch(&self) -> u64 {
        let last = self.leases.iter().map(end).max().unwrap_or(0);
        last.max(self.created) + small_config().grace_epochs
    }

    pub(crate) fn ended(&self, id: [u8; 32]) -> bool {
        self.leases.iter().any(|lease| lease.meta.id == id && lease.ended)
    }
}

impl Model {
    /// The state after a change that is acknowledged.
    pub(crate) fn apply(&mut self, change: Change) {
        match change {
            Change::Put { number, lease, epoch } => self.put(number, lease, epoch),
            Change::End { number, id } => self.lease(number, id, |lease| lease.ended = true),
            Change::Seal { number, id } => self.lease(number, id, |lease| lease.meta.sealed = true),
            Change::Place { segment, owner_id, sequence } => {
                self.placements.insert((segment, owner_id), sequence);
            }
            Change::Collect => self.collect(),
        }
    }

    fn put(&mut self, number: u64, lease: LeaseMeta, epoch: u64) {
        let bytes = shard(number).len() as u64;
        let shard =
            self.shards.entry(number).or_insert(Shard { created: epoch, leases: Vec::new() });
        let charged = match shard.leases.iter_mut().find(|old| old.meta.id == lease.id) {
            None => {
                let new =
                    StoredLease { meta: lease, added_epoch: epoch, ended: false, grant_used: 0 };
                shard.leases.push(new);
                (lease.pool, lease.byte_epochs(bytes))
            }
            Some(old) => {
                let had = old.meta.byte_epochs(bytes);
                old.meta.until_epoch = old.meta.until_epoch.max(lease.until_epoch);
                old.meta.sealed = old.meta.sealed || lease.sealed;
                if !old.meta.sealed {
                    old.added_epoch = old.added_epoch.max(epoch);
                }
                (old.meta.pool, old.meta.byte_epochs(bytes) - had)
            }
        };
        if let (Pool::Granted { grant, until_epoch }, more) = charged {
            self.grants.entry(grant).or_insert((until_epoch, 0)).1 += more;
        }
    }

    fn lease(&mut self, number: u64, id: u64, change: impl FnOnce(&mut StoredLease)) {
        let id = lease(number, id, 0).id;
        let Some(shard) = self.shards.get_mut(&number) else { return };
        if let Some(lease) = shard.leases.iter_mut().find(|lease| lease.meta.id == id) {
            change(lease);
        }
    }

    /// All renewals that are due.
    pub(crate) fn renewals(&self) -> Vec<(u64, Renewal)> {
        let of_lease = |number: u64, lease: &StoredLease| {
            let until_epoch = renewed_until(lease, self.epoch)?;
            let Pool::Granted { grant, .. } = lease.meta.pool else { return None };
            let more = u128::from(until_epoch - lease.meta.until_epoch);
            let byte_epochs = shard(number).len() as u128 * more;
            Some((number, Renewal { id: lease.meta.id, until_epoch, grant, byte_epochs }))
        };
        let shards = self.shards.iter();
        shards
            .flat_map(|(number, shard)| shard.leases.iter().filter_map(|l| of_lease(*number, l)))
            .collect()
    }

    /// Makes one of them.
    pub(crate) fn renew(&mut self, number: u64, renewal: Renewal) {
        let shard = self.shards.get_mut(&number).expect("a shard that was renewed");
        let mut leases = shard.leases.iter_mut();
        let lease = leases.find(|lease| lease.meta.id == renewal.id).expect("its lease");
        lease.meta.until_epoch = renewal.until_epoch;
        self.grants.get_mut(&renewal.grant).expect("its grant").1 += renewal.byte_epochs;
    }

    fn collect(&mut self) {
        let epoch = self.epoch;
        for (number, renewal) in self.renewals() {
            self.renew(number, renewal);
        }
        self.shards.retain(|_, shard| shard.collect_epoch() > epoch);
        for shard in self.shards.values_mut() {
            shard.leases.retain(|lease| forget(lease) > epoch);
        }
        let mut placements = std::mem::take(&mut self.placements);
        placements.retain(|(segment, owner_id), _| self.has_owner(*segment, *owner_id));
        self.placements = placements;
    }

    /// Whether the use of a grant that ends then must be remembered.
    pub(crate) fn grant_counts(&self, until_epoch: u64) -> bool {
        until_epoch + small_config().grace_epochs > self.epoch
    }

    /// Whether the owner has a lease on a shard of the segment that it did not end.
    pub(crate) fn has_owner(&self, segment: u64, owner_id: u64) -> bool {
        let shards = self.shards.range(segment * 4..segment * 4 + 4);
        let mut leases = shards.flat_map(|(_, shard)| &shard.leases);
        leases.any(|lease| !lease.ended && lease.meta.owner == owner(owner_id))
    }
}

/// Every segment and owner that may have a placement record.
pub(crate) fn places() -> impl Iterator<Item = (u64, u64)> {
    (0..SHARD_NUMBERS / 4).flat_map(|segment| [(segment, 0), (segment, 1)])
}

/// The bytes of a placement record: any test can tell whether it got the right ones.
pub(crate) fn record(place: (u64, u64), sequence: u64) -> Vec<u8> {
    let mut record = format!("placement {place:?} sequence {sequence} ").into_bytes();
    // Some as short as their name, some as long as they may be.
    let len = (place.0 * 1_571 + place.1 * 613 + sequence * 977) as usize % 4_096;
    record.resize(record.len().max(len), b'.');
    record
}

/// Leases without what was charged when: that depends on the order of requests.
pub(crate) fn uncharged(leases: &[StoredLease]) -> Vec<StoredLease> {
    leases.iter().map(|lease| StoredLease { grant_used: 0, ..*lease }).collect()
}

/// What a change is about: a shard, a segment's placement, or everything.
pub(crate) fn touches(change: Change) -> (u8, u64) {
    match change {
        Change::Put { number, .. } | Change::End { number, .. } | Change::Seal { number, .. } => {
            (0, number)
        }
        Change::Place { segment, owner_id, .. } => (1, 2 * segment + owner_id),
        Change::Collect => (2, 0),
    }
}
