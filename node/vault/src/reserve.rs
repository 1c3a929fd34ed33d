//! Reservations: a holder says yes to a put before its bytes arrive, and many at once, so what was
//! promised is counted until it is stored or given up. Nothing here is durable: a restart forgets
//! promises, and nobody was told that they were kept.
use crate::admission::{FreeAsk, GRANT_PARTS, Refusal, free_allows, grant_allows};
use crate::core::{Core, RENEWAL_BYTES};
use crate::kv::{IndexError, View};
use crate::locked::locked;
use crate::types::{Key, LeaseMeta, Pool};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Most reservations held at once.
pub const RESERVATIONS_MAX: usize = 4_096;

/// A lease was not admitted.
#[derive(Debug, thiserror::Error)]
pub enum AdmitError {
    /// By its pool's limits.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The quota has no room.
    #[error("the shard needs {need} bytes and the vault has {left} left; try another holder")]
    NoSpace {
        /// Bytes needed.
        need: u64,
        /// Bytes left.
        left: u64,
    },
    /// Too many puts are under way.
    #[error("too many puts are under way; try again later")]
    Busy,
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
}

/// What is promised and not yet stored.
#[derive(Debug, Default)]
pub(crate) struct Promises {
    count: usize,
    pub(crate) space: u64,
    grants: BTreeMap<[u8; 32], u128>,
    free_bytes: u64,
    prefixes: BTreeMap<[u8; 16], u64>,
}

/// Room for one shard under one lease; dropping it gives the room back.
#[derive(Debug)]
pub struct Reservation {
    promises: Arc<Mutex<Promises>>,
    pub(crate) key: Key,
    pub(crate) lease: LeaseMeta,
    pub(crate) shard_bytes: u64,
    space: u64,
    byte_epochs: u128,
    free_bytes: u64,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut promises = locked(&self.promises);
        promises.count = promises.count.saturating_sub(1);
        promises.space = promises.space.saturating_sub(self.space);
        match self.lease.pool {
            Pool::Granted { grant, .. } => {
                if let Some(sum) = promises.grants.get_mut(&grant) {
                    *sum = sum.saturating_sub(self.byte_epochs);
                    if *sum == 0 {
                        promises.grants.remove(&grant);
                    }
                }
            }
            Pool::Free { prefix } => {
                promises.free_bytes = promises.free_bytes.saturating_sub(self.free_bytes);
                if let Some(sum) = promises.prefixes.get_mut(&prefix) {
                    *sum = sum.saturating_sub(self.free_bytes);
                    if *sum == 0 {
                        promises.prefixes.remove(&prefix);
                    }
                }
            }
        }
    }
}

/// What a lease costs beyond what its key and id have already.
struct Cost {
    space: u64,
    byte_epochs: u128,
    free_bytes: u64,
}

fn cost(core: &Core, key: Key, shard_bytes: u64, lease: &LeaseMeta) -> Result<Cost, IndexError> {
    let entry = locked(&core.index).entry(View::Durable, key)?;
    let stored = entry.as_ref().is_some_and(|entry| !entry.state.quarantined);
    let old = entry.as_ref().and_then(|entry| entry.state.lease(&lease.id)).copied();
    let had = old.filter(|old| !old.ended).map_or(0, |old| old.meta.byte_epochs(shard_bytes));
    let record = crate::core::put_record_bytes(if stored { 0 } else { shard_bytes });
    Ok(Cost {
        space: record + if lease.standing.is_some() { RENEWAL_BYTES } else { 0 },
        byte_epochs: lease.byte_epochs(shard_bytes).saturating_sub(had),
        free_bytes: if old.is_some() { 0 } else { shard_bytes },
    })
}

/// Reserves room for a shard of this length under this lease.
pub(crate) fn reserve(
    core: &Core,
    key: Key,
    shard_bytes: u64,
    lease: &LeaseMeta,
    grant_byte_epochs: u128,
) -> Result<Reservation, AdmitError> {
    if lease.term_epochs() == 0 {
        return Err(Refusal::EmptyTerm.into());
    }
    // Held to the end: two reservations must not both see the same room. A put's charge appears in
    // the index before its promise is given back, so that in between it counts twice, never not.
    let mut promises = locked(&core.promises);
    if promises.count >= RESERVATIONS_MAX {
        return Err(AdmitError::Busy);
    }
    let cost = cost(core, key, shard_bytes, lease)?;
    check_pool(core, &promises, lease, &cost, grant_byte_epochs)?;
    let used = core.used_bytes()?.saturating_add(promises.space);
    let left = core.put_ceiling_bytes()?.saturating_sub(used);
    if cost.space > left {
        return Err(AdmitError::NoSpace { need: cost.space, left });
    }
    promises.count += 1;
    promises.space += cost.space;
    match lease.pool {
        Pool::Granted { grant, .. } => {
            let sum = promises.grants.entry(grant).or_default();
            *sum = sum.saturating_add(cost.byte_epochs);
        }
        Pool::Free { prefix } => {
            promises.free_bytes += cost.free_bytes;
            *promises.prefixes.entry(prefix).or_default() += cost.free_bytes;
        }
    }
    Ok(Reservation {
        promises: Arc::clone(&core.promises),
        key,
        lease: *lease,
        shard_bytes,
        space: cost.space,
        byte_epochs: cost.byte_epochs,
        free_bytes: cost.free_bytes,
    })
}

/// Reserves what a standing lease's renewal costs its grant: at most to the grant's end and as far as this holder's part of it pays. None where that is no epoch more.
pub(crate) fn reserve_renewal(
    core: &Core,
    key: Key,
    shard_bytes: u64,
    lease: &LeaseMeta,
    epoch: u64,
) -> Result<Option<Reservation>, AdmitError> {
    let (Some(standing), Pool::Granted { grant, until_epoch }) = (lease.standing, lease.pool)
    else {
        return Ok(None);
    };
    let mut promises = locked(&core.promises);
    if promises.count >= RESERVATIONS_MAX {
        return Err(AdmitError::Busy);
    }
    let term = standing.term_epochs.max(1);
    // By a term, or by as many as it takes not to be due again: a holder may have been away.
    let due = epoch.saturating_add(core.config.unsealed_ttl_epochs.max(term / 4));
    let wanted = term.saturating_mul(due.saturating_sub(lease.until_epoch) / term + 1);
    let promised = promises.grants.get(&grant).copied().unwrap_or(0);
    let used = locked(&core.index).grant_used(View::Durable, &grant)?.saturating_add(promised);
    let left = (u128::from(standing.grant_byte_epochs) / GRANT_PARTS).saturating_sub(used);
    let paid = u64::try_from(left / u128::from(shard_bytes.max(1))).unwrap_or(u64::MAX);
    let until = lease.until_epoch.saturating_add(wanted.min(paid)).min(until_epoch);
    // One that would be over all the same is not worth its price.
    if until <= lease.until_epoch.max(epoch) {
        return Ok(None);
    }
    let byte_epochs = u128::from(until - lease.until_epoch) * u128::from(shard_bytes);
    promises.count += 1;
    let sum = promises.grants.entry(grant).or_default();
    *sum = sum.saturating_add(byte_epochs);
    Ok(Some(Reservation {
        promises: Arc::clone(&core.promises),
        key,
        lease: LeaseMeta { until_epoch: until, ..*lease },
        shard_bytes,
        space: 0,
        byte_epochs,
        free_bytes: 0,
    }))
}

fn check_pool(
    core: &Core,
    promises: &Promises,
    lease: &LeaseMeta,
    cost: &Cost,
    grant_byte_epochs: u128,
) -> Result<(), AdmitError> {
    let index = locked(&core.index);
    match lease.pool {
        Pool::Granted { grant, .. } => {
            let promised = promises.grants.get(&grant).copied().unwrap_or(0);
            let used = index.grant_used(View::Durable, &grant)?.saturating_add(promised);
            grant_allows(used, cost.byte_epochs, grant_byte_epochs)?;
        }
        Pool::Free { prefix } => {
            let promised = promises.prefixes.get(&prefix).copied().unwrap_or(0);
            let ask = FreeAsk {
                want_bytes: cost.free_bytes,
                term_epochs: lease.term_epochs(),
                pool_bytes: index.totals(View::Durable)?.free_bytes + promises.free_bytes,
                prefix_bytes: index.prefix_bytes(View::Durable, &prefix)? + promised,
            };
            free_allows(ask, core.config.quota_bytes, core.config.free_term_epochs_max)?;
        }
    }
    Ok(())
}
