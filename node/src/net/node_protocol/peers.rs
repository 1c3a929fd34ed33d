//! What the server remembers of each peer: its request rate and how many requests it has open.
//!
//! It never forgets a peer that has a connection; the others are forgotten when there are too
//! many, and with them at most a burst's worth of rate.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::net::{address::NodeId, gate::Refusal, limits::ServerLimits};

/// One peer's budget, shared by its connections.
#[derive(Debug)]
pub(super) struct PeerBudget {
    rate: DefaultDirectRateLimiter,
    streams: Arc<Semaphore>,
}

/// A place for one request; dropping it gives it back.
#[derive(Debug)]
pub(super) struct RequestPlace {
    _peer: OwnedSemaphorePermit,
    _total: OwnedSemaphorePermit,
}

/// Budgets by node id, and the one of the whole server.
#[derive(Debug)]
pub(super) struct Peers {
    budgets: Mutex<HashMap<NodeId, Arc<PeerBudget>>>,
    streams: Arc<Semaphore>,
    per_peer_max: usize,
    quota: Quota,
    remembered_max: usize,
}

impl Peers {
    pub(super) fn new(limits: &ServerLimits) -> Self {
        let rate = NonZeroU32::new(limits.requests_per_s_max).unwrap_or(NonZeroU32::MIN);
        Self {
            budgets: Mutex::default(),
            streams: Arc::new(Semaphore::new(limits.streams_total_max)),
            per_peer_max: limits.streams_per_peer_max,
            quota: Quota::per_second(rate),
            remembered_max: limits.peers_remembered_max,
        }
    }

    /// The budget of a peer that has just connected; hold it as long as the connection.
    pub(super) fn budget(&self, peer: &NodeId) -> Arc<PeerBudget> {
        // The map stays consistent: nothing panics while the lock is held.
        let mut budgets = self.budgets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(budget) = budgets.get(peer) {
            return Arc::clone(budget);
        }
        if budgets.len() >= self.remembered_max {
            // Connections are bounded elsewhere, so those that remain are bounded too.
            budgets.retain(|_, budget| Arc::strong_count(budget) > 1);
        }
        let budget = Arc::new(PeerBudget {
            rate: RateLimiter::direct(self.quota),
            streams: Arc::new(Semaphore::new(self.per_peer_max)),
        });
        budgets.insert(*peer, Arc::clone(&budget));
        budget
    }

    /// Takes a place for one request.
    pub(super) fn take(&self, budget: &PeerBudget) -> Result<RequestPlace, Refusal> {
        budget.rate.check().map_err(|_| Refusal::TooFast)?;
        let peer = Arc::clone(&budget.streams).try_acquire_owned();
        let total = Arc::clone(&self.streams).try_acquire_owned();
        Ok(RequestPlace {
            _peer: peer.map_err(|_| Refusal::TooManyRequests)?,
            _total: total.map_err(|_| Refusal::Busy)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers(limits: ServerLimits) -> Peers {
        Peers::new(&limits)
    }

    #[test]
    fn each_bound_has_its_reason_and_places_come_back() {
        let peers = peers(ServerLimits {
            streams_total_max: 3,
            streams_per_peer_max: 2,
            requests_per_s_max: 5,
            ..Default::default()
        });
        let (a, b) = (peers.budget(&[1; 32]), peers.budget(&[2; 32]));
        let a1 = peers.take(&a).unwrap();
        let _a2 = peers.take(&a).unwrap();
        assert_eq!(peers.take(&a).unwrap_err(), Refusal::TooManyRequests);
        let _b1 = peers.take(&b).unwrap();
        assert_eq!(peers.take(&b).unwrap_err(), Refusal::Busy);
        drop(a1);
        let _b2 = peers.take(&b).unwrap();
        for _ in 0..10 {
            let _ = peers.take(&a);
        }
        assert_eq!(peers.take(&a).unwrap_err(), Refusal::TooFast);
    }

    #[test]
    fn reconnecting_does_not_renew_the_rate_and_memory_is_bounded() {
        let peers = peers(ServerLimits {
            requests_per_s_max: 1,
            peers_remembered_max: 8,
            ..Default::default()
        });
        let budget = peers.budget(&[1; 32]);
        drop(peers.take(&budget).unwrap());
        drop(budget);
        let again = peers.budget(&[1; 32]);
        assert_eq!(peers.take(&again).unwrap_err(), Refusal::TooFast);
        for i in 0..100u8 {
            drop(peers.budget(&[i; 32]));
        }
        let kept = peers.budgets.lock().unwrap();
        assert!(kept.len() <= 9 && kept.contains_key(&[1; 32]), "a connected peer is kept");
    }
}
