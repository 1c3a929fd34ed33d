//! Time as the protocol sees it: seconds since 1970 and epochs. No clock here.

use serde::{Deserialize, Serialize};

/// Seconds since 1970-01-01T00:00:00Z, leap seconds ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixSeconds(pub u64);

/// The network's clock tick, counted from its genesis.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Epoch(pub u64);

/// The epoch by which things may be *ended* (leases expire, shards are
/// collected): never later than the local clock says, and never later than half
/// of the peers say. With fewer than `peers_min` peers heard, nothing ends.
///
/// A node whose clock jumps ahead therefore deletes nothing: SPEC.md, "Epochs".
#[must_use]
pub fn epoch_for_ending(local: Epoch, heard: &[Epoch], peers_min: usize) -> Option<Epoch> {
    if heard.len() < peers_min.max(1) {
        return None;
    }
    let mut heard = heard.to_vec();
    heard.sort_unstable();
    Some(local.min(heard[(heard.len() - 1) / 2]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_ahead_ends_nothing() {
        let heard = [Epoch(5), Epoch(5), Epoch(6)];
        assert_eq!(epoch_for_ending(Epoch(9000), &heard, 3), Some(Epoch(5)));
    }

    #[test]
    fn a_lying_minority_moves_nothing() {
        let heard = [Epoch(u64::MAX), Epoch(5), Epoch(5), Epoch(u64::MAX)];
        assert_eq!(epoch_for_ending(Epoch(9000), &heard, 3), Some(Epoch(5)));
    }

    #[test]
    fn alone_nothing_ends() {
        assert_eq!(epoch_for_ending(Epoch(7), &[], 0), None);
        assert_eq!(epoch_for_ending(Epoch(7), &[Epoch(7)], 3), None);
    }
}
