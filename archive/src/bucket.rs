//! A token bucket without a clock: how many bytes may be moved by now.
//!
//! It counts; what is moved, and when, is decided elsewhere.

use echonet_protocol::machine::Millis;

/// Bytes are counted in thousandths: bytes per second by milliseconds.
const BYTE: i128 = 1000;

/// See the module's documentation. Its level falls below 0 when more was taken than it had.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bucket {
    level: i128,
    refilled: Millis,
}

impl Bucket {
    /// One that holds `bytes` at `now`.
    pub(crate) const fn full(bytes: u64, now: Millis) -> Self {
        Self { level: bytes as i128 * BYTE, refilled: now }
    }

    /// Fills it for the time since it was last filled, up to `burst_bytes`.
    pub(crate) fn refill(&mut self, bytes_per_s: u64, burst_bytes: u64, now: Millis) {
        let gained = i128::from(bytes_per_s) * i128::from(now.since(self.refilled));
        let full = i128::from(burst_bytes) * BYTE;
        self.level = (self.level + gained).min(full);
        self.refilled = self.refilled.max(now);
    }

    /// Takes bytes, whether it has them or not.
    pub(crate) const fn take(&mut self, bytes: u64) {
        self.level -= bytes as i128 * BYTE;
    }

    /// Gives bytes back that were taken and not moved.
    pub(crate) const fn give_back(&mut self, bytes: u64) {
        self.level += bytes as i128 * BYTE;
    }

    /// What it lacks of `bytes`, thousandths of a byte, if `in_advance` may be owed.
    pub(crate) fn missing(&self, bytes: u64, in_advance: u64) -> u128 {
        let needed = i128::from(bytes) - i128::from(in_advance);
        u128::try_from(needed * BYTE - self.level).unwrap_or(0)
    }
}

/// How long `missing` thousandths of a byte take to flow in, milliseconds; none: for ever.
pub(crate) fn wait_ms(missing: u128, bytes_per_s: u64) -> Option<u64> {
    match u128::from(bytes_per_s) {
        _ if missing == 0 => Some(0),
        0 => None,
        rate => Some(u64::try_from(missing.div_ceil(rate)).unwrap_or(u64::MAX)),
    }
}
