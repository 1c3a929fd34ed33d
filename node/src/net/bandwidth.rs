//! Caps on the bytes per second that a node moves for others, and its quiet hours.
//!
//! A transfer waits for its turn, passes as a whole, and is paid for by those after it: over any
//! time, no more passes than the cap allows and one transfer. So a slow cap takes large shards,
//! and nobody waits half-way through a frame. Turns go round the observed prefixes, so that one
//! cannot keep the others from theirs. Reads of single leaves and messages are never asked about.
//!
//! It moves no bytes itself, and without caps it costs nothing.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use echonet_protocol::{quiet::QuietHours, time::UnixSeconds};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::address::ObservedPrefix;
use crate::clock;

/// The lowest cap, bytes per second: below it, readers give a holder up as stalled.
pub const CAP_BYTES_PER_S_MIN: u64 = 16 * 1024;
/// The cap during quiet hours where none is set, bytes per second.
pub const QUIET_BYTES_PER_S: u64 = 64 * 1024;
/// Parts that a transfer of any length may be taken in.
pub const STEP_BYTES_MAX: usize = 512 * 1024;

/// What a node's owner allows. Bytes per second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Caps {
    /// Most that is handed out; none: no cap.
    pub upload: Option<u64>,
    /// Most that is taken in; none: no cap.
    pub download: Option<u64>,
    /// Most of either during quiet hours; none: [`QUIET_BYTES_PER_S`].
    pub quiet: Option<u64>,
    /// When it is quiet.
    pub quiet_hours: QuietHours,
}

impl Caps {
    /// The cap during quiet hours, bytes per second.
    #[must_use]
    pub fn quiet_bytes_per_s(&self) -> u64 {
        self.quiet.unwrap_or(QUIET_BYTES_PER_S)
    }
}

/// Which way bytes go, as this node sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Handed out.
    Up,
    /// Taken in.
    Down,
}

/// The turn did not come in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this node's cap of {bytes_per_s} bytes per second is used up; try again later")]
pub struct CapUsedUp {
    /// The cap.
    pub bytes_per_s: u64,
}

/// The caps of one node, with what was paid.
#[derive(Debug)]
pub struct Bandwidth {
    caps: Caps,
    up: Lane,
    down: Lane,
    now: fn() -> UnixSeconds,
}

#[derive(Debug)]
struct Lane {
    always: Option<Meter>,
    quiet: Meter,
}

#[derive(Debug)]
struct Meter {
    bytes_per_s: u64,
    /// When all that passed is paid for. Those who wait for it do so in their order.
    free_at: tokio::sync::Mutex<Instant>,
    /// One of each prefix waits at a time. Entries live as long as somebody of the prefix waits.
    prefixes: Mutex<HashMap<ObservedPrefix, Weak<tokio::sync::Mutex<()>>>>,
}

impl Default for Bandwidth {
    fn default() -> Self {
        Self::new(Caps::default())
    }
}

impl Bandwidth {
    /// Keeps these caps, by the wall clock.
    #[must_use]
    pub fn new(caps: Caps) -> Self {
        let lane = |cap: Option<u64>| Lane {
            always: cap.map(Meter::new),
            quiet: Meter::new(caps.quiet_bytes_per_s().min(cap.unwrap_or(u64::MAX))),
        };
        Self { caps, up: lane(caps.upload), down: lane(caps.download), now: clock::now }
    }

    /// What it was given.
    #[must_use]
    pub fn caps(&self) -> &Caps {
        &self.caps
    }

    /// Whether it is quiet now.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.caps.quiet_hours.is_quiet((self.now)())
    }

    fn meter(&self, way: Way) -> Option<&Meter> {
        let lane = match way {
            Way::Up => &self.up,
            Way::Down => &self.down,
        };
        if self.is_quiet() { Some(&lane.quiet) } else { lane.always.as_ref() }
    }

    /// The cap that counts now, bytes per second.
    #[must_use]
    pub fn bytes_per_s(&self, way: Way) -> Option<u64> {
        self.meter(way).map(|meter| meter.bytes_per_s)
    }

    /// Whether there is ever a cap that way.
    #[must_use]
    pub fn is_capped(&self, way: Way) -> bool {
        let cap = match way {
            Way::Up => self.caps.upload,
            Way::Down => self.caps.download,
        };
        cap.is_some() || !self.caps.quiet_hours.is_empty()
    }

    /// How much of `len` bytes to pass at once, where a transfer can be parted: about a second's
    /// worth.
    #[must_use]
    pub fn step(&self, way: Way, len: usize) -> usize {
        let second = self.bytes_per_s(way).and_then(|cap| usize::try_from(cap).ok());
        second.map_or(len, |second| second.min(STEP_BYTES_MAX).min(len))
    }

    /// Waits until so many bytes may pass, at most for `patience`. Dropped while it waits, it costs
    /// nothing; from then on they count as passed.
    ///
    /// # Errors
    /// [`CapUsedUp`] when the turn does not come in time.
    pub async fn pass(
        &self,
        way: Way,
        prefix: ObservedPrefix,
        bytes: usize,
        patience: Duration,
    ) -> Result<(), CapUsedUp> {
        match self.meter(way) {
            None => Ok(()),
            Some(meter) => meter.pass(prefix, bytes as u64, Instant::now() + patience).await,
        }
    }
}

impl Meter {
    fn new(bytes_per_s: u64) -> Self {
        Self {
            bytes_per_s: bytes_per_s.max(1),
            free_at: tokio::sync::Mutex::new(Instant::now()),
            prefixes: Mutex::default(),
        }
    }

    fn of_prefix(&self, prefix: ObservedPrefix) -> Arc<tokio::sync::Mutex<()>> {
        // The map stays consistent: nothing panics while the lock is held.
        let mut prefixes = self.prefixes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = prefixes.get(&prefix).and_then(Weak::upgrade) {
            return known;
        }
        prefixes.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::default();
        prefixes.insert(prefix, Arc::downgrade(&turn));
        turn
    }

    async fn pass(
        &self,
        prefix: ObservedPrefix,
        bytes: u64,
        deadline: Instant,
    ) -> Result<(), CapUsedUp> {
        let used_up = CapUsedUp { bytes_per_s: self.bytes_per_s };
        let of_prefix = self.of_prefix(prefix);
        let wait = async {
            let _turn = of_prefix.lock().await;
            let mut free_at = self.free_at.lock().await;
            if *free_at > deadline {
                return Err(used_up);
            }
            sleep_until(*free_at).await;
            let us = u128::from(bytes) * 1_000_000 / u128::from(self.bytes_per_s);
            // Time that nobody used is not saved up.
            *free_at = Instant::now().max(*free_at)
                + Duration::from_micros(u64::try_from(us).unwrap_or(u64::MAX));
            Ok(())
        };
        timeout_at(deadline, wait).await.unwrap_or(Err(used_up))
    }
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;

    use super::*;

    const KIB: u64 = 1024;
    const LONG: Duration = Duration::from_secs(3_600);
    const SHORT: Duration = Duration::from_secs(4);

    fn capped(upload: Option<u64>, quiet_hours: QuietHours) -> Bandwidth {
        Bandwidth::new(Caps { upload, quiet_hours, ..Caps::default() })
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_passes_than_the_cap_allows_and_one_transfer() {
        let bandwidth = capped(Some(100 * KIB), QuietHours::NONE);
        let begin = Instant::now();
        let passed = Mutex::new(Vec::new());
        let transfers = (0..40_u8).map(|i| {
            let (bandwidth, passed) = (&bandwidth, &passed);
            async move {
                let bytes = 1_000 * (usize::from(i) % 7 + 1) * 20;
                bandwidth.pass(Way::Up, [i % 3; 16], bytes, LONG).await.unwrap();
                passed.lock().unwrap().push((begin.elapsed(), bytes));
            }
        });
        join_all(transfers).await;
        let passed = passed.into_inner().unwrap();
        let most = passed.iter().map(|(_, bytes)| *bytes).max().unwrap() as f64;
        let mut sum = 0;
        for (at, bytes) in &passed {
            let allowed = at.as_secs_f64() * 102_400.0 + most;
            sum += bytes;
            assert!(sum as f64 <= allowed + 10.0, "{sum} of {allowed} after {at:?}");
        }
        // And it is used: the last one waits for all others and no longer.
        let (last, bytes) = passed.last().unwrap();
        let wanted = (sum - bytes) as f64 / 102_400.0;
        assert!((last.as_secs_f64() - wanted).abs() < 0.1, "{last:?}, not {wanted}");
        assert!(bandwidth.pass(Way::Down, [0; 16], 1 << 30, Duration::ZERO).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn who_cannot_have_a_turn_in_time_is_told_so_and_costs_nothing() {
        let bandwidth = capped(Some(100 * KIB), QuietHours::NONE);
        let pass =
            |prefix: u8, kib: usize| bandwidth.pass(Way::Up, [prefix; 16], kib * 1024, SHORT);
        pass(1, 300).await.unwrap();
        assert!(pass(1, 200).await.is_ok(), "3 s of debt");
        // 2 s of debt are left now, and 5 s are asked for: it may begin, as a whole.
        assert!(pass(2, 500).await.is_ok());
        let refused = pass(3, 1).await.unwrap_err();
        assert_eq!(refused, CapUsedUp { bytes_per_s: 102_400 });
        tokio::time::advance(Duration::from_secs(60)).await;
        let begin = Instant::now();
        pass(3, 100).await.unwrap();
        assert_eq!(begin.elapsed(), Duration::ZERO);
        // A minute of rest is not saved up.
        pass(3, 1).await.unwrap();
        assert_eq!(begin.elapsed().as_secs(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_from_one_prefix_leaves_others_their_turn() {
        let bandwidth = Arc::new(capped(Some(100 * KIB), QuietHours::NONE));
        let flood = (0..50).map(|_| {
            let bandwidth = Arc::clone(&bandwidth);
            tokio::spawn(async move { bandwidth.pass(Way::Up, [1; 16], 102_400, LONG).await })
        });
        let flood: Vec<_> = flood.collect();
        tokio::task::yield_now().await;
        let begin = Instant::now();
        bandwidth.pass(Way::Up, [2; 16], 1_024, LONG).await.unwrap();
        assert!(begin.elapsed() <= Duration::from_secs(3), "{:?}", begin.elapsed());
        flood.iter().for_each(tokio::task::JoinHandle::abort);
    }

    #[tokio::test(start_paused = true)]
    async fn quiet_hours_are_a_cap_of_their_own_that_raises_none() {
        let mut quiet_hours = QuietHours::NONE;
        quiet_hours.add(QuietHours::hour_of(UnixSeconds(0)));
        let at = |caps: Caps, now: fn() -> UnixSeconds| Bandwidth { now, ..Bandwidth::new(caps) };
        let (quiet, awake): (fn() -> _, fn() -> _) = (|| UnixSeconds(3_599), || UnixSeconds(3_600));
        let caps = Caps { quiet_hours, ..Caps::default() };
        assert_eq!(at(caps, quiet).bytes_per_s(Way::Up), Some(QUIET_BYTES_PER_S));
        assert_eq!(at(caps, quiet).bytes_per_s(Way::Down), Some(QUIET_BYTES_PER_S));
        assert_eq!(at(caps, awake).bytes_per_s(Way::Up), None);
        assert!(at(caps, awake).is_capped(Way::Up), "later");
        let low = Caps { upload: Some(20 * KIB), quiet: Some(30 * KIB), ..caps };
        assert_eq!(at(low, quiet).bytes_per_s(Way::Up), Some(20 * KIB));
        assert_eq!(at(low, quiet).bytes_per_s(Way::Down), Some(30 * KIB));
        assert_eq!(at(low, awake).bytes_per_s(Way::Up), Some(20 * KIB));
        assert_eq!(at(low, awake).step(Way::Up, 1 << 20), 20 * 1024);
        assert_eq!(at(caps, awake).step(Way::Up, 1 << 20), 1 << 20);
        assert!(!Bandwidth::default().is_capped(Way::Down));
    }
}
