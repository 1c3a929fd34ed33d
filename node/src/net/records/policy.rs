//! Which records stay: pure, in memory, time passed in.
//!
//! Bounds: per record, per key, per publisher, per observed prefix, in total. When something is
//! full, the newcomer competes with whoever has the biggest share: first by prefix, then by
//! publisher within it. So a thousand fresh publishers on one network crowd out each other and
//! nobody else. A refused newcomer changes nothing. Records of the node's own key and pinned ones
//! are never evicted; they have a bound of their own.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    record::{RecordId, RecordKey, StoredRecord},
    shares::Shares,
};
use crate::net::{
    address::{ObservedPrefix, short},
    limits::RecordLimits,
};

/// Why a record was not stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PutError {
    /// Larger than one record may be.
    #[error("the record has {bytes} bytes, at most {max} are stored")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// Already over.
    #[error("the record expired at {expires_unix_s}; publish a new one")]
    Expired {
        /// Its end.
        expires_unix_s: u64,
    },
    /// Its end is too far away.
    #[error("the record lasts {lifetime_s} s, at most {max_s} s are stored; renew it in time")]
    TooLong {
        /// Its remaining lifetime.
        lifetime_s: u64,
        /// The bound.
        max_s: u64,
    },
    /// The same or a newer version is here.
    #[error("version {sequence} is not newer than the stored version {stored}")]
    Stale {
        /// Its version.
        sequence: u64,
        /// The stored one.
        stored: u64,
    },
    /// The publisher has too many records here.
    #[error("publisher {} has its full share of records here; let some expire", short(.publisher))]
    PublisherFull {
        /// Who.
        publisher: [u8; 32],
    },
    /// The key has enough records from elsewhere.
    #[error("this key has {max} records from more diverse publishers; another node may take it")]
    KeyFull {
        /// The bound.
        max: usize,
    },
    /// The deliverer's network has its full share.
    #[error("your network has its full share of this node's records; deliver it elsewhere")]
    PrefixFull,
    /// Everything is full, and the newcomer's network has the biggest share.
    #[error("this node's record store is full; deliver it to another node")]
    StoreFull,
    /// Too many records are pinned.
    #[error("pinned records would pass their bound of {max} bytes; unpin some")]
    PinnedFull {
        /// The bound.
        max: usize,
    },
}

#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) record: Arc<StoredRecord>,
    pub(super) pinned: bool,
    /// Where it is counted: the least crowded prefix that delivered it.
    prefix: ObservedPrefix,
    arrival: u64,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct PublisherUse {
    records: usize,
    bytes: usize,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct RecordPolicy {
    own: [u8; 32],
    salt: [u8; 16],
    limits: RecordLimits,
    pub(super) records: BTreeMap<RecordId, Held>,
    pub(super) by_expiry: BTreeSet<(u64, RecordId)>,
    pub(super) publishers: BTreeMap<[u8; 32], PublisherUse>,
    pub(super) shares: Shares,
    pub(super) total_bytes: usize,
    pub(super) pinned_bytes: usize,
    arrivals: u64,
}

/// A newcomer that passed the checks that depend on nothing but itself.
struct Newcomer {
    id: RecordId,
    cost: usize,
    pinned: bool,
    prefix: ObservedPrefix,
}

impl RecordPolicy {
    /// An empty store of the node `own`. `salt` is secret and random: it settles ties between
    /// networks, so that nobody can aim for them.
    pub fn new(own: [u8; 32], salt: [u8; 16], limits: RecordLimits) -> Self {
        Self {
            own,
            salt,
            limits,
            records: BTreeMap::new(),
            by_expiry: BTreeSet::new(),
            publishers: BTreeMap::new(),
            shares: Shares::default(),
            total_bytes: 0,
            pinned_bytes: 0,
            arrivals: 0,
        }
    }

    /// Stores a record, evicting others where the rules say so, and returns the evicted ones.
    ///
    /// # Errors
    /// [`PutError`]; nothing was changed then.
    pub fn put(
        &mut self,
        record: StoredRecord,
        pinned: bool,
        now_unix_s: u64,
    ) -> Result<Vec<RecordId>, PutError> {
        self.check_alone(&record, now_unix_s)?;
        let id = record.id();
        let old = self.check_version(&record)?;
        let was_pinned = old.as_ref().is_some_and(|old| old.pinned);
        if let Some(old) = &old {
            self.take(&old.record.id());
        }
        let newcomer = Newcomer {
            id,
            cost: self.cost(&record),
            pinned: pinned || was_pinned || record.publisher == self.own,
            prefix: self.less_crowded(record.prefix, old.as_ref().map(|old| old.prefix)),
        };
        let mut evicted = Vec::new();
        if let Err(refused) = self.make_room(&newcomer, &mut evicted) {
            for held in evicted.into_iter().chain(old) {
                self.give(held);
            }
            return Err(refused);
        }
        self.arrivals += 1;
        // A new version keeps its place in the line.
        let arrival = old.map_or(self.arrivals, |old| old.arrival);
        let Newcomer { pinned, prefix, .. } = newcomer;
        self.give(Held { record: Arc::new(record), pinned, prefix, arrival });
        Ok(evicted.iter().map(|held| held.record.id()).collect())
    }

    fn cost(&self, record: &StoredRecord) -> usize {
        record.bytes.len() + self.limits.record_overhead_bytes
    }

    fn check_alone(&self, record: &StoredRecord, now_unix_s: u64) -> Result<(), PutError> {
        let (bytes, max) = (record.bytes.len(), self.limits.record_bytes_max);
        if bytes > max {
            return Err(PutError::TooLarge { bytes, max });
        }
        if record.expires_unix_s <= now_unix_s {
            return Err(PutError::Expired { expires_unix_s: record.expires_unix_s });
        }
        let (lifetime_s, max_s) = (record.expires_unix_s - now_unix_s, self.limits.lifetime_s_max);
        if lifetime_s > max_s {
            return Err(PutError::TooLong { lifetime_s, max_s });
        }
        Ok(())
    }

    /// The version that `record` replaces.
    fn check_version(&mut self, record: &StoredRecord) -> Result<Option<Held>, PutError> {
        let Some(old) = self.records.get(&record.id()).cloned() else { return Ok(None) };
        if record.sequence > old.record.sequence {
            return Ok(Some(old));
        }
        if *old.record.bytes == record.bytes {
            // Somebody else delivered the same record: it counts against the less crowded
            // network. Else whoever delivers it first from a crowded one could doom it.
            let prefix = self.less_crowded(record.prefix, Some(old.prefix));
            if prefix != old.prefix
                && let Some(held) = self.take(&record.id())
            {
                self.give(Held { prefix, ..held });
            }
        }
        Err(PutError::Stale { sequence: record.sequence, stored: old.record.sequence })
    }

    fn less_crowded(&self, new: ObservedPrefix, old: Option<ObservedPrefix>) -> ObservedPrefix {
        match old {
            Some(old) if self.shares.of_prefix(&old) <= self.shares.of_prefix(&new) => old,
            _ => new,
        }
    }

    fn make_room(&mut self, new: &Newcomer, evicted: &mut Vec<Held>) -> Result<(), PutError> {
        if new.pinned {
            let max = self.limits.pinned_bytes_max;
            if self.pinned_bytes + new.cost > max {
                return Err(PutError::PinnedFull { max });
            }
        } else {
            self.check_publisher(new)?;
            self.make_room_under_key(new, evicted)?;
            self.make_room_in_prefix(new, evicted)?;
        }
        self.make_room_in_total(new, evicted)
    }

    fn check_publisher(&self, new: &Newcomer) -> Result<(), PutError> {
        let publisher = new.id.publisher;
        let used = self.publishers.get(&publisher).copied().unwrap_or_default();
        if used.records >= self.limits.per_publisher_max
            || used.bytes + new.cost > self.limits.per_publisher_bytes_max
        {
            return Err(PutError::PublisherFull { publisher });
        }
        Ok(())
    }

    /// Under one key, networks are kept apart before publishers: the network with most records
    /// loses its newest; when all have one, a secret order of networks decides. Fresh publishers
    /// on one network thus win nothing, and neither does coming first.
    fn make_room_under_key(
        &mut self,
        new: &Newcomer,
        evicted: &mut Vec<Held>,
    ) -> Result<(), PutError> {
        let max = self.limits.per_key_max;
        let held: Vec<(ObservedPrefix, u64, RecordId)> = self
            .range(&new.id.key)
            .filter(|held| !held.pinned)
            .map(|held| (held.prefix, held.arrival, held.record.id()))
            .collect();
        if held.len() < max {
            return Ok(());
        }
        let mut counts: BTreeMap<ObservedPrefix, usize> = BTreeMap::new();
        for prefix in held.iter().map(|(prefix, ..)| *prefix).chain([new.prefix]) {
            *counts.entry(prefix).or_default() += 1;
        }
        let rank = |prefix: &ObservedPrefix| self.rank(&new.id.key, prefix);
        let loser = counts.iter().max_by_key(|(prefix, count)| (**count, rank(prefix)));
        let loser = loser.map(|(prefix, _)| *prefix);
        let newest = held
            .iter()
            .filter(|(prefix, ..)| loser == Some(*prefix) && *prefix != new.prefix)
            .max_by_key(|(_, arrival, _)| *arrival)
            .map(|(.., id)| *id);
        evicted.extend(newest.and_then(|id| self.take(&id)));
        if newest.is_none() { Err(PutError::KeyFull { max }) } else { Ok(()) }
    }

    fn rank(&self, key: &RecordKey, prefix: &ObservedPrefix) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.salt).update(&key.0).update(prefix);
        *hasher.finalize().as_bytes()
    }

    /// The newest record of the biggest publisher in the newcomer's own network, if that
    /// publisher has more there than the newcomer's would have.
    fn victim_in_own_prefix(&self, new: &Newcomer) -> Option<RecordId> {
        let mine = self.shares.of_publisher(&new.prefix, &new.id.publisher) + new.cost;
        let (bytes, newest) = self.shares.biggest_publisher(&new.prefix)?;
        (bytes > mine).then_some(newest)
    }

    fn make_room_in_prefix(
        &mut self,
        new: &Newcomer,
        evicted: &mut Vec<Held>,
    ) -> Result<(), PutError> {
        while self.shares.of_prefix(&new.prefix) + new.cost > self.limits.per_prefix_bytes_max {
            let victim = self.victim_in_own_prefix(new).ok_or(PutError::PrefixFull)?;
            evicted.extend(self.take(&victim));
        }
        Ok(())
    }

    fn make_room_in_total(
        &mut self,
        new: &Newcomer,
        evicted: &mut Vec<Held>,
    ) -> Result<(), PutError> {
        while self.total_bytes + new.cost > self.limits.total_bytes_max {
            let (biggest, bytes) = self.shares.biggest_prefix().ok_or(PutError::StoreFull)?;
            let mine = self.shares.of_prefix(&new.prefix) + new.cost;
            let victim = if new.pinned || bytes > mine {
                self.shares.biggest_publisher(&biggest).map(|(_, newest)| newest)
            } else {
                self.victim_in_own_prefix(new)
            };
            evicted.extend(self.take(&victim.ok_or(PutError::StoreFull)?));
        }
        Ok(())
    }

    /// Adds to every index.
    fn give(&mut self, held: Held) {
        let (id, cost) = (held.record.id(), self.cost(&held.record));
        self.total_bytes += cost;
        if held.pinned {
            self.pinned_bytes += cost;
        } else {
            self.shares.add(held.prefix, id, held.arrival, cost);
            let used = self.publishers.entry(id.publisher).or_default();
            used.records += 1;
            used.bytes += cost;
        }
        self.by_expiry.insert((held.record.expires_unix_s, id));
        self.records.insert(id, held);
    }

    /// Removes from every index.
    fn take(&mut self, id: &RecordId) -> Option<Held> {
        let held = self.records.remove(id)?;
        let cost = self.cost(&held.record);
        self.total_bytes -= cost;
        if held.pinned {
            self.pinned_bytes -= cost;
        } else if let Some(used) = self.publishers.get_mut(&id.publisher) {
            self.shares.remove(held.prefix, *id, held.arrival, cost);
            used.records -= 1;
            used.bytes -= cost;
            if used.records == 0 {
                self.publishers.remove(&id.publisher);
            }
        }
        self.by_expiry.remove(&(held.record.expires_unix_s, *id));
        Some(held)
    }

    pub(super) fn range(&self, key: &RecordKey) -> impl Iterator<Item = &Held> {
        let first = RecordId { key: *key, kind: 0, publisher: [0; 32] };
        let last = RecordId { key: *key, kind: u8::MAX, publisher: [u8::MAX; 32] };
        self.records.range(first..=last).map(|(_, held)| held)
    }

    /// The records under a key that have not expired, in the order of kind and publisher.
    pub fn get(&self, key: &RecordKey, now_unix_s: u64) -> Vec<Arc<StoredRecord>> {
        let living = self.range(key).filter(|held| held.record.expires_unix_s > now_unix_s);
        living.map(|held| Arc::clone(&held.record)).collect()
    }

    /// The pinned records and the node's own: what this node announces again.
    pub fn pinned(&self) -> Vec<Arc<StoredRecord>> {
        let pinned = self.records.values().filter(|held| held.pinned);
        pinned.map(|held| Arc::clone(&held.record)).collect()
    }

    /// Pins a record; `None` when it is not here.
    ///
    /// # Errors
    /// [`PutError::PinnedFull`].
    pub fn pin(&mut self, id: &RecordId) -> Result<Option<Arc<StoredRecord>>, PutError> {
        let Some(held) = self.records.get(id) else { return Ok(None) };
        let record = Arc::clone(&held.record);
        let max = self.limits.pinned_bytes_max;
        if !held.pinned && self.pinned_bytes + self.cost(&record) > max {
            return Err(PutError::PinnedFull { max });
        }
        if let Some(held) = self.take(id) {
            self.give(Held { pinned: true, ..held });
        }
        Ok(Some(record))
    }

    /// Unpins a record that is not the node's own. From now on it competes like a newcomer, and
    /// may go at once. Returns what was evicted, itself perhaps; `None` when it was not pinned.
    pub fn unpin(&mut self, id: &RecordId) -> Option<Vec<RecordId>> {
        if id.publisher == self.own || !self.is_pinned(id) {
            return None;
        }
        let held = Held { pinned: false, ..self.take(id)? };
        let cost = self.cost(&held.record);
        let newcomer = Newcomer { id: *id, cost, pinned: false, prefix: held.prefix };
        let mut evicted = Vec::new();
        if self.make_room(&newcomer, &mut evicted).is_err() {
            evicted.drain(..).for_each(|held| self.give(held));
            return Some(vec![*id]);
        }
        self.give(held);
        Some(evicted.iter().map(|held| held.record.id()).collect())
    }

    /// Removes a record: true when it was here.
    pub fn remove(&mut self, id: &RecordId) -> bool {
        self.take(id).is_some()
    }

    /// Removes what has expired, pinned records too, and returns it.
    pub fn sweep(&mut self, now_unix_s: u64) -> Vec<RecordId> {
        let mut over = Vec::new();
        while let Some((expires_unix_s, id)) = self.by_expiry.first().copied()
            && expires_unix_s <= now_unix_s
        {
            self.take(&id);
            over.push(id);
        }
        over
    }

    /// Records held.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// True when none is held.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Charged bytes of all records.
    pub fn total_bytes(&self) -> usize {
        self.total_bytes
    }

    pub(super) fn is_pinned(&self, id: &RecordId) -> bool {
        self.records.get(id).is_some_and(|held| held.pinned)
    }
}
