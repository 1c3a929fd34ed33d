//! Who may take how much of a holder (design section 7): pure functions over numbers. Who signed a
//! grant, and whether it is honoured at all, is decided before; nothing here reads a disk or a clock.

/// A holder honours at most one part in this many of a grant.
pub const GRANT_PARTS: u128 = 8;
/// The free pool is at most this share of the quota, in thousandths.
pub const FREE_POOL_PER_MILLE: u128 = 50;
/// One network prefix gets at most this share of the quota, in thousandths.
pub const FREE_PREFIX_PER_MILLE: u128 = 10;

/// Why a lease was not admitted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The term is empty.
    #[error("the lease ends before it begins; make one with a term")]
    EmptyTerm,
    /// This holder's part of the grant is used up.
    #[error(
        "this holder honours {limit} byte-epochs of the grant, {used} are used, {want} asked; use other holders too"
    )]
    Grant {
        /// Byte-epochs used and reserved.
        used: u128,
        /// Byte-epochs asked for.
        want: u128,
        /// The most that this holder honours.
        limit: u128,
    },
    /// The free pool is used up.
    #[error(
        "the free pool has {limit} bytes, {used} are used, {want} asked; get a grant or try another holder"
    )]
    FreePool {
        /// Bytes used and reserved.
        used: u64,
        /// Bytes asked for.
        want: u64,
        /// The most.
        limit: u64,
    },
    /// One network prefix has its share of the free pool.
    #[error(
        "the free pool has {limit} bytes for one network, {used} are used, {want} asked; get a grant"
    )]
    FreePrefix {
        /// Bytes used and reserved.
        used: u64,
        /// Bytes asked for.
        want: u64,
        /// The most.
        limit: u64,
    },
    /// The term is too long for the free pool.
    #[error(
        "a lease from the free pool lasts at most {limit} epochs, {want} asked; renew it in time"
    )]
    FreeTerm {
        /// Epochs asked for.
        want: u64,
        /// The most.
        limit: u64,
    },
}

/// Whether `want` more byte-epochs fit into this holder's part of a grant.
///
/// # Errors
/// [`Refusal::Grant`] if not.
pub fn grant_allows(used: u128, want: u128, grant_byte_epochs: u128) -> Result<(), Refusal> {
    let limit = grant_byte_epochs / GRANT_PARTS;
    if used.checked_add(want).is_some_and(|sum| sum <= limit) {
        Ok(())
    } else {
        Err(Refusal::Grant { used, want, limit })
    }
}

/// What the free pool is asked for and what it has given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FreeAsk {
    /// Bytes asked for.
    pub want_bytes: u64,
    /// Epochs asked for.
    pub term_epochs: u64,
    /// Bytes that the whole pool has given or reserved.
    pub pool_bytes: u64,
    /// Bytes that this prefix has been given or has reserved.
    pub prefix_bytes: u64,
}

/// Whether the free pool takes one more lease.
///
/// # Errors
/// [`Refusal::FreeTerm`], [`Refusal::FreePool`] or [`Refusal::FreePrefix`].
pub fn free_allows(ask: FreeAsk, quota_bytes: u64, term_max: u64) -> Result<(), Refusal> {
    if ask.term_epochs > term_max {
        return Err(Refusal::FreeTerm { want: ask.term_epochs, limit: term_max });
    }
    let want = ask.want_bytes;
    let limit = share(quota_bytes, FREE_POOL_PER_MILLE);
    if ask.pool_bytes.saturating_add(want) > limit {
        return Err(Refusal::FreePool { used: ask.pool_bytes, want, limit });
    }
    let limit = share(quota_bytes, FREE_PREFIX_PER_MILLE);
    if ask.prefix_bytes.saturating_add(want) > limit {
        return Err(Refusal::FreePrefix { used: ask.prefix_bytes, want, limit });
    }
    Ok(())
}

fn share(quota_bytes: u64, per_mille: u128) -> u64 {
    u64::try_from(u128::from(quota_bytes) * per_mille / 1_000).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_eighth_of_a_grant_and_not_one_more() {
        assert_eq!(grant_allows(60, 40, 800), Ok(()));
        assert!(grant_allows(60, 41, 800).is_err());
        assert!(grant_allows(u128::MAX, 1, u128::MAX).is_err());
    }

    #[test]
    fn the_free_pool_has_three_limits() {
        let ask = FreeAsk { want_bytes: 10, term_epochs: 7, pool_bytes: 40, prefix_bytes: 0 };
        assert_eq!(free_allows(ask, 1_000, 7), Ok(()));
        let longer = FreeAsk { term_epochs: 8, ..ask };
        assert!(matches!(free_allows(longer, 1_000, 7), Err(Refusal::FreeTerm { .. })));
        let fuller = FreeAsk { pool_bytes: 41, ..ask };
        assert!(matches!(free_allows(fuller, 1_000, 7), Err(Refusal::FreePool { .. })));
        let again = FreeAsk { prefix_bytes: 1, ..ask };
        assert!(matches!(free_allows(again, 1_000, 7), Err(Refusal::FreePrefix { .. })));
    }
}
