//! Standing leases: renewed by their holder in the last part of each term, as long as their grant
//! lasts and this holder's part of it pays. A renewal is durable before it counts.
use crate::error::{MaintainError, WriteError};
use crate::kv::{IndexError, View};
use crate::locked::locked;
use crate::plan::Op;
use crate::queue::Work;
use crate::reserve::{AdmitError, reserve_renewal};
use crate::rows;
use crate::types::{Key, StoredLease};
use crate::vault::Vault;

/// Rows handled at once.
const PAGE_ROWS: usize = 256;

/// What a renewal did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RenewReport {
    /// Leases that last longer now.
    pub renewed: u64,
    /// Leases that were due and do not: their grant does not pay here any more.
    pub unpaid: u64,
}

/// A lease that will end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndingLease {
    /// The shard.
    pub key: Key,
    /// The lease.
    pub lease: StoredLease,
}

/// Where a walk over leases that will end goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndingCursor(Vec<u8>);

impl Vault {
    /// Renews every standing lease that is due at this epoch. Collection begins with it, so that
    /// nothing is collected that could be renewed: also a lease that ended while this holder was
    /// away is taken up again, as long as its shard is here.
    ///
    /// # Errors
    /// See [`MaintainError`]; what was renewed stays so, and the next call goes on.
    pub fn renew(&self, epoch: u64) -> Result<RenewReport, MaintainError> {
        let mut report = RenewReport::default();
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = self.due_page(epoch, after.as_deref())?;
            let Some((last, _)) = page.last() else { return Ok(report) };
            after = Some(last.clone());
            for (_, key) in page {
                for lease in self.due_renewals(key, epoch)? {
                    match self.renew_one(key, &lease, epoch)? {
                        true => report.renewed += 1,
                        false => report.unpaid += 1,
                    }
                }
            }
        }
    }

    /// A page of keys with something due, with their rows.
    fn due_page(
        &self,
        epoch: u64,
        after: Option<&[u8]>,
    ) -> Result<Vec<(Vec<u8>, Key)>, IndexError> {
        let index = locked(&self.0.core.index);
        let page = index.kv.page(View::Durable, rows::DUE, after, PAGE_ROWS)?;
        let due = page.into_iter().map_while(|(row, _)| {
            let is_due = rows::number_after_prefix(&row).is_some_and(|due| due <= epoch);
            let key = rows::tail_key(&row).filter(|_| is_due)?;
            Some((row, key))
        });
        Ok(due.collect())
    }

    fn due_renewals(&self, key: Key, epoch: u64) -> Result<Vec<StoredLease>, IndexError> {
        let mut leases = self.leases(key)?;
        let ttl = self.0.core.config.unsealed_ttl_epochs;
        leases.retain(|lease| lease.renew_epoch(ttl).is_some_and(|due| due <= epoch));
        Ok(leases)
    }

    /// Whether the lease lasts longer now, durably.
    fn renew_one(&self, key: Key, lease: &StoredLease, epoch: u64) -> Result<bool, MaintainError> {
        loop {
            let core = &self.0.core;
            let entry = locked(&core.index).entry(View::Durable, key)?;
            let Some(entry) = entry else { return Ok(false) };
            let bytes = entry.shard_len.into();
            let reserved = match reserve_renewal(core, key, bytes, &lease.meta, epoch) {
                Ok(Some(reserved)) => reserved,
                Ok(None) => return Ok(false),
                Err(AdmitError::Index(error)) => return Err(error.into()),
                // Another time: what is due stays due.
                Err(_) => return Err(WriteError::Busy.into()),
            };
            let op = Op::Renew { key, lease: reserved.lease, epoch };
            match self.ask(Work::Record(Box::new(op)), Some(reserved)) {
                Ok(_) => return Ok(true),
                // Ended or dropped meanwhile.
                Err(WriteError::NoSuchLease | WriteError::LeaseEnded) => return Ok(false),
                Err(WriteError::QuotaFull { .. }) if self.compact_step(1)?.is_some() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sealed leases that hold now and will have ended `within` epochs, soonest first by shard;
    /// those of owners who asked for no more, and standing ones that could not be renewed. Looks
    /// at `limit` shards; the cursor goes on behind them, none at the end.
    ///
    /// # Errors
    /// The index's.
    pub fn ending_leases(
        &self,
        epoch: u64,
        within: u64,
        after: Option<&EndingCursor>,
        limit: usize,
    ) -> Result<(Vec<EndingLease>, Option<EndingCursor>), IndexError> {
        let config = &self.0.core.config;
        let until = epoch.saturating_add(within);
        // A lease is in the rows by the epoch at which it is forgotten, or earlier.
        let due_max = until.saturating_add(config.grace_epochs);
        let index = locked(&self.0.core.index);
        let after = after.map(|cursor| &cursor.0[..]);
        let page = index.kv.page(View::Durable, rows::DUE, after, limit.max(1))?;
        let mut ending = Vec::new();
        for (row, _) in &page {
            if rows::number_after_prefix(row).is_none_or(|due| due > due_max) {
                return Ok((ending, None));
            }
            let Some(key) = rows::tail_key(row) else { continue };
            let Some(entry) = index.entry(View::Durable, key)? else { continue };
            let ends = |lease: &StoredLease| lease.end_epoch(config.unsealed_ttl_epochs);
            let leases =
                entry.state.leases.into_iter().filter(|lease| {
                    lease.meta.sealed && ends(lease) > epoch && ends(lease) <= until
                });
            ending.extend(leases.map(|lease| EndingLease { key, lease }));
        }
        let next = (page.len() >= limit.max(1)).then(|| page.last().map(|(row, _)| row.clone()));
        Ok((ending, next.flatten().map(EndingCursor)))
    }
}
