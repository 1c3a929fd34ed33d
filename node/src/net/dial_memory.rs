//! Remembers failed dials for a few seconds, so that a dead peer costs its timeout once and not
//! once per request. Shared by kad's transport and the connection pool.
//!
//! It never dials, and it never remembers for longer than its bound: a peer that came back is
//! tried again, at once if it connected to us meanwhile.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{address::NodeId, limits::DialMemoryLimits};

#[derive(Debug, Clone, Copy)]
struct Failure {
    at: Instant,
    in_a_row: u32,
}

/// Failed dials by node id, bounded; see the module's documentation.
#[derive(Debug)]
pub struct DialMemory {
    limits: DialMemoryLimits,
    failures: Mutex<HashMap<NodeId, Failure>>,
}

impl DialMemory {
    /// An empty memory.
    pub fn new(limits: DialMemoryLimits) -> Self {
        Self { limits, failures: Mutex::default() }
    }

    // Nothing panics while the lock is held, and a map of failures is usable whatever happened.
    fn lock(&self) -> MutexGuard<'_, HashMap<NodeId, Failure>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pause(&self, in_a_row: u32) -> Duration {
        let doublings = in_a_row.saturating_sub(1).min(16);
        let ms = self.limits.first_ms.saturating_mul(1 << doublings);
        Duration::from_millis(ms.min(self.limits.longest_ms))
    }

    /// How long ago the last dial failed, if it is too early for the next one.
    pub fn too_early(&self, node: &NodeId, now: Instant) -> Option<Duration> {
        let failure = *self.lock().get(node)?;
        let ago = now.saturating_duration_since(failure.at);
        (ago < self.pause(failure.in_a_row)).then_some(ago)
    }

    /// Dial failures in a row, as far as they are remembered.
    pub fn in_a_row(&self, node: &NodeId) -> u32 {
        self.lock().get(node).map_or(0, |failure| failure.in_a_row)
    }

    /// Notes a failed dial.
    pub fn failed(&self, node: &NodeId, now: Instant) {
        let mut failures = self.lock();
        if failures.len() >= self.limits.nodes_max && !failures.contains_key(node) {
            let oldest = failures.iter().min_by_key(|(_, f)| f.at).map(|(node, _)| *node);
            if let Some(oldest) = oldest {
                failures.remove(&oldest);
            }
        }
        let entry = failures.entry(*node).or_insert(Failure { at: now, in_a_row: 0 });
        entry.at = now;
        entry.in_a_row = entry.in_a_row.saturating_add(1);
    }

    /// Forgets a node's failures: it answered, connected, or signed a new descriptor.
    pub fn forget(&self, node: &NodeId) {
        self.lock().remove(node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_success_clears() {
        let limits = DialMemoryLimits { first_ms: 100, longest_ms: 300, nodes_max: 4 };
        let memory = DialMemory::new(limits);
        let (node, t0) = ([1; 32], Instant::now());
        let at = |ms| t0 + Duration::from_millis(ms);
        assert_eq!(memory.too_early(&node, t0), None);
        memory.failed(&node, t0);
        assert!(memory.too_early(&node, at(99)).is_some());
        assert!(memory.too_early(&node, at(100)).is_none());
        memory.failed(&node, t0);
        assert!(memory.too_early(&node, at(199)).is_some());
        memory.failed(&node, t0);
        memory.failed(&node, t0);
        assert!(memory.too_early(&node, at(299)).is_some());
        assert!(memory.too_early(&node, at(300)).is_none());
        assert_eq!(memory.in_a_row(&node), 4);
        memory.forget(&node);
        assert_eq!(memory.in_a_row(&node), 0);
    }

    #[test]
    fn memory_is_bounded_and_forgets_the_oldest() {
        let memory = DialMemory::new(DialMemoryLimits { nodes_max: 4, ..Default::default() });
        let t0 = Instant::now();
        for i in 0..20u8 {
            memory.failed(&[i; 32], t0 + Duration::from_millis(u64::from(i)));
        }
        assert_eq!(memory.lock().len(), 4);
        assert_eq!(memory.in_a_row(&[19; 32]), 1);
        assert_eq!(memory.in_a_row(&[0; 32]), 0);
    }
}
