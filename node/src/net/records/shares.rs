//! Who uses how much of the store: bytes by observed prefix, and within it by publisher.
//!
//! Only records that may be evicted are counted here; it never decides what is evicted, it knows
//! whose share is the biggest.

use std::collections::{BTreeMap, BTreeSet};

use super::record::RecordId;
use crate::net::address::ObservedPrefix;

type Publisher = [u8; 32];

#[derive(Debug, Default)]
struct PublisherShare {
    bytes: usize,
    /// By arrival: the newest is last.
    records: BTreeSet<(u64, RecordId)>,
}

#[derive(Debug, Default)]
struct PrefixShare {
    bytes: usize,
    publishers: BTreeMap<Publisher, PublisherShare>,
    ranking: BTreeSet<(usize, Publisher)>,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Shares {
    prefixes: BTreeMap<ObservedPrefix, PrefixShare>,
    ranking: BTreeSet<(usize, ObservedPrefix)>,
}

impl Shares {
    pub(super) fn add(&mut self, prefix: ObservedPrefix, id: RecordId, arrival: u64, cost: usize) {
        let share = self.prefixes.entry(prefix).or_default();
        self.ranking.remove(&(share.bytes, prefix));
        share.bytes += cost;
        self.ranking.insert((share.bytes, prefix));
        let publisher = share.publishers.entry(id.publisher).or_default();
        share.ranking.remove(&(publisher.bytes, id.publisher));
        publisher.bytes += cost;
        publisher.records.insert((arrival, id));
        share.ranking.insert((publisher.bytes, id.publisher));
    }

    pub(super) fn remove(
        &mut self,
        prefix: ObservedPrefix,
        id: RecordId,
        arrival: u64,
        cost: usize,
    ) {
        let Some(share) = self.prefixes.get_mut(&prefix) else { return };
        let Some(publisher) = share.publishers.get_mut(&id.publisher) else { return };
        if !publisher.records.remove(&(arrival, id)) {
            return;
        }
        self.ranking.remove(&(share.bytes, prefix));
        share.ranking.remove(&(publisher.bytes, id.publisher));
        share.bytes -= cost;
        publisher.bytes -= cost;
        if publisher.records.is_empty() {
            share.publishers.remove(&id.publisher);
        } else {
            share.ranking.insert((publisher.bytes, id.publisher));
        }
        if share.publishers.is_empty() {
            self.prefixes.remove(&prefix);
        } else {
            self.ranking.insert((share.bytes, prefix));
        }
    }

    /// Bytes of one prefix.
    pub(super) fn of_prefix(&self, prefix: &ObservedPrefix) -> usize {
        self.prefixes.get(prefix).map_or(0, |share| share.bytes)
    }

    /// Bytes of one publisher within a prefix.
    pub(super) fn of_publisher(&self, prefix: &ObservedPrefix, publisher: &Publisher) -> usize {
        let share = self.prefixes.get(prefix);
        share.and_then(|share| share.publishers.get(publisher)).map_or(0, |share| share.bytes)
    }

    /// The prefix with the biggest share.
    pub(super) fn biggest_prefix(&self) -> Option<(ObservedPrefix, usize)> {
        self.ranking.last().map(|(bytes, prefix)| (*prefix, *bytes))
    }

    /// Within a prefix, the publisher with the biggest share: its bytes and its newest record.
    pub(super) fn biggest_publisher(&self, prefix: &ObservedPrefix) -> Option<(usize, RecordId)> {
        let share = self.prefixes.get(prefix)?;
        let (bytes, publisher) = share.ranking.last()?;
        let (_, newest) = share.publishers.get(publisher)?.records.last()?;
        Some((*bytes, *newest))
    }

    /// Bytes by prefix, counted anew from the single records' publishers.
    #[cfg(test)]
    pub(super) fn totals(&self) -> BTreeMap<(ObservedPrefix, Publisher), (usize, usize)> {
        assert_eq!(self.ranking.len(), self.prefixes.len());
        let mut out = BTreeMap::new();
        for (prefix, share) in &self.prefixes {
            assert!(self.ranking.contains(&(share.bytes, *prefix)));
            assert_eq!(share.ranking.len(), share.publishers.len());
            assert_eq!(share.bytes, share.publishers.values().map(|p| p.bytes).sum::<usize>());
            for (id, publisher) in &share.publishers {
                assert!(share.ranking.contains(&(publisher.bytes, *id)));
                out.insert((*prefix, *id), (publisher.bytes, publisher.records.len()));
            }
        }
        out
    }
}
