//! Hand-overs that wait and run: to leave, as many at once as may be; to give a
//! node that joined its share, at a capped rate besides.
//!
//! It moves nothing itself, and does not know why a placement is handed over.

use std::collections::BTreeMap;

use echonet_protocol::{identity::NodeId, machine::Millis};

use super::types::Key;
use crate::bucket::{self, Bucket};

/// Bytes that may be given to joiners at once after a rest.
const BURST_BYTES: u64 = 64 << 20;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct HandOvers {
    /// To whom; none: to whom the rules of placement choose, because this node leaves.
    waiting: BTreeMap<Key, Option<NodeId>>,
    running: BTreeMap<Key, Option<NodeId>>,
    bytes_per_s: u64,
    bucket: Bucket,
}

impl HandOvers {
    pub(super) const fn new(now: Millis, bytes_per_s: u64) -> Self {
        Self {
            waiting: BTreeMap::new(),
            running: BTreeMap::new(),
            bytes_per_s,
            bucket: Bucket::full(BURST_BYTES, now),
        }
    }

    /// Those that wait or run.
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.running.len()
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn running(&self) -> usize {
        self.running.len()
    }

    /// Has one wait that does not run.
    pub(super) fn wait(&mut self, key: Key, to: Option<NodeId>) {
        if !self.running.contains_key(&key) {
            self.waiting.insert(key, to);
        }
    }

    pub(super) fn forget(&mut self, key: &Key) {
        self.waiting.remove(key);
    }

    /// One is over; to whom it went, if it ran.
    pub(super) fn finish(&mut self, key: &Key) -> Option<Option<NodeId>> {
        self.running.remove(key)
    }

    /// The next that may begin, by the bytes that `may_begin` says it moves; none where it says
    /// that it may not begin now. Joiners are given something only if so wanted.
    pub(super) fn start(
        &mut self,
        now: Millis,
        to_joiners: bool,
        may_begin: impl Fn(&Key) -> Option<u64>,
    ) -> Option<(Key, Option<NodeId>)> {
        self.bucket.refill(self.bytes_per_s, BURST_BYTES, now);
        let next = self.waiting.iter().find_map(|(key, to)| {
            let bytes = may_begin(key)?;
            let is_paid = to.is_none() || (to_joiners && self.missing(bytes) == 0);
            is_paid.then_some((*key, *to, bytes))
        });
        let (key, to, bytes) = next?;
        if to.is_some() {
            self.bucket.take(bytes);
        }
        self.waiting.remove(&key);
        self.running.insert(key, to);
        Some((key, to))
    }

    fn missing(&self, bytes: u64) -> u128 {
        self.bucket.missing(bytes.min(BURST_BYTES), 0)
    }

    /// How long until the rate lets a joiner that waits have a shard of so many bytes; none: no
    /// joiner waits.
    pub(super) fn joiners_wait_ms(&self, bytes: u64) -> Option<u64> {
        let waits = self.waiting.values().any(Option::is_some);
        waits.then(|| bucket::wait_ms(self.missing(bytes), self.bytes_per_s).unwrap_or(u64::MAX))
    }
}
