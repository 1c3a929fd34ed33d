//! Memory for bulk bytes on behalf of others, shared out: reading, storing under
//! a grant and storing without one have budgets of their own, and no network
//! prefix gets more than its part of one.
//!
//! So whoever holds shards in the air keeps neither others from reading nor
//! granted publishers from storing.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use echonet_protocol::message::{Refusal, RefusalCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::refuse;
use crate::net::address::ObservedPrefix;

/// Bytes being read for others, KiB.
const READ_KIB: usize = 64 * 1024;
/// Bytes being stored under grants, KiB.
const GRANTED_KIB: usize = 64 * 1024;
/// Bytes being stored without a grant, KiB.
const FREE_KIB: usize = 16 * 1024;
/// One prefix gets one part in so many of each.
const PREFIX_PARTS: usize = 4;
/// Longest wait for a place.
const WAIT_MS_MAX: u64 = 4_000;

/// What bulk bytes are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BulkUse {
    /// Handing out shards and contents.
    Read,
    /// Taking shards in under a grant.
    Granted,
    /// Taking shards in without one.
    Free,
}

/// The budgets of a node.
#[derive(Debug)]
pub struct Bulk {
    read: Budget,
    granted: Budget,
    free: Budget,
}

#[derive(Debug)]
struct Budget {
    kib: u32,
    total: Arc<Semaphore>,
    /// Entries live as long as somebody of the prefix holds or waits for a place.
    prefixes: Mutex<HashMap<ObservedPrefix, Weak<Semaphore>>>,
}

/// A place in memory; dropping it gives it back.
#[derive(Debug)]
pub struct BulkPermit {
    _total: OwnedSemaphorePermit,
    _prefix: OwnedSemaphorePermit,
}

impl Default for Bulk {
    fn default() -> Self {
        let budget = Budget::new;
        Self { read: budget(READ_KIB), granted: budget(GRANTED_KIB), free: budget(FREE_KIB) }
    }
}

impl Bulk {
    /// Waits, not for long, until so many bytes may be in memory for a prefix.
    ///
    /// # Errors
    /// A refusal that says to come back later.
    pub async fn reserve(
        &self,
        purpose: BulkUse,
        prefix: ObservedPrefix,
        bytes: usize,
    ) -> Result<BulkPermit, Refusal> {
        let budget = match purpose {
            BulkUse::Read => &self.read,
            BulkUse::Granted => &self.granted,
            BulkUse::Free => &self.free,
        };
        let wait = Duration::from_millis(WAIT_MS_MAX);
        let busy = "too much is being transferred for your network; try again later";
        match tokio::time::timeout(wait, budget.take(prefix, bytes)).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) => Err(refuse(RefusalCode::Busy, "this node is stopping")),
            Err(_) => Err(refuse(RefusalCode::Busy, busy)),
        }
    }
}

impl Budget {
    fn new(kib: usize) -> Self {
        let total = Arc::new(Semaphore::new(kib));
        // The budgets are constants under 2^32.
        Self { kib: kib as u32, total, prefixes: Mutex::default() }
    }

    fn of_prefix(&self, prefix: ObservedPrefix) -> Arc<Semaphore> {
        // The map stays consistent: nothing panics while the lock is held.
        let mut prefixes = self.prefixes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = prefixes.get(&prefix).and_then(Weak::upgrade) {
            return known;
        }
        prefixes.retain(|_, places| places.strong_count() > 0);
        let places = Arc::new(Semaphore::new(self.kib as usize / PREFIX_PARTS));
        prefixes.insert(prefix, Arc::downgrade(&places));
        places
    }

    async fn take(
        &self,
        prefix: ObservedPrefix,
        bytes: usize,
    ) -> Result<BulkPermit, tokio::sync::AcquireError> {
        let most = self.kib / PREFIX_PARTS as u32;
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(most).min(most);
        // Who waits for its prefix holds nothing of the total.
        let of_prefix = self.of_prefix(prefix).acquire_many_owned(kib).await?;
        let of_total = Arc::clone(&self.total).acquire_many_owned(kib).await?;
        Ok(BulkPermit { _total: of_total, _prefix: of_prefix })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1024 * 1024;

    #[tokio::test(start_paused = true)]
    async fn one_prefix_leaves_room_for_others_and_free_storing_for_granted() {
        let bulk = Bulk::default();
        let take = |purpose, prefix: u8, bytes| bulk.reserve(purpose, [prefix; 16], bytes);
        let mut held = Vec::new();
        for prefix in 0..4 {
            held.push(take(BulkUse::Free, prefix, 4 * MIB).await.unwrap());
            let refused = take(BulkUse::Free, prefix, 1).await.unwrap_err();
            assert_eq!(refused.code, RefusalCode::Busy);
        }
        assert!(take(BulkUse::Free, 9, 1).await.is_err(), "the budget is used up");
        take(BulkUse::Granted, 0, 4 * MIB).await.unwrap();
        for _ in 0..4 {
            held.push(take(BulkUse::Read, 1, 4 * MIB).await.unwrap());
        }
        assert!(take(BulkUse::Read, 1, 1).await.is_err(), "a prefix has its part");
        take(BulkUse::Read, 2, 16 * MIB).await.unwrap();
        drop(held);
        take(BulkUse::Read, 1, 16 * MIB).await.unwrap();
        take(BulkUse::Free, 9, 4 * MIB).await.unwrap();
        assert!(bulk.free.prefixes.lock().unwrap().len() <= 1, "prefixes are forgotten");
    }
}
