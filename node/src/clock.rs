//! The wall clock: the only reader of it in the node's control plane.

use std::time::{SystemTime, UNIX_EPOCH};

use echonet_protocol::time::UnixSeconds;

/// Seconds since 1970; 0 on a machine whose clock is before that.
#[must_use]
pub fn now() -> UnixSeconds {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixSeconds(since.as_secs())
}

/// Milliseconds since 1970; 0 on a machine whose clock is before that.
#[must_use]
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Random bytes of the operating system.
///
/// # Panics
/// When the operating system has no randomness to give: nothing that is safe can
/// be done then.
#[must_use]
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    if let Err(e) = getrandom::fill(&mut bytes) {
        panic!("the operating system gives no random bytes: {e}");
    }
    bytes
}

/// A random number of the operating system, for seeds.
#[must_use]
pub fn random_u64() -> u64 {
    u64::from_le_bytes(random())
}
