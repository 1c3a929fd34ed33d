//! A small language for scenarios: a devnet, clients, files, damage, deadlines.
//!
//! It panics where a test would have to give up anyway, with what was run and
//! what that said. It never waits by sleeping for a fixed time: it waits for a
//! condition with a deadline.

pub mod cli;
pub mod client;
pub mod devnet;
pub mod files;
pub mod keeping;
pub mod netns;
pub mod process;
pub mod site;
pub mod volumes;

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Scenarios take turns, also under a plain `cargo test`: they measure time and
/// memory, and the machine may have two cores.
pub fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until `condition` is true.
///
/// # Panics
/// When it is not by the deadline; `what` says what was waited for.
#[track_caller]
pub fn wait_until(what: &str, within: Duration, mut condition: impl FnMut() -> bool) -> Duration {
    wait_for(what, within, || condition().then_some(())).1
}

/// Waits until `find` finds something; returns it and how long that took.
///
/// # Panics
/// When it has not by the deadline; `what` says what was waited for.
#[track_caller]
pub fn wait_for<T>(
    what: &str,
    within: Duration,
    mut find: impl FnMut() -> Option<T>,
) -> (T, Duration) {
    let start = Instant::now();
    loop {
        if let Some(found) = find() {
            return (found, start.elapsed());
        }
        assert!(start.elapsed() < within, "not within {within:?}: {what}");
        // The poll's interval, not a synchronisation: the deadline above rules.
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Prints a figure so that it can be found in the log and quoted.
pub fn figure(scenario: &str, what: impl std::fmt::Display) {
    println!("figure: {scenario}: {what}");
}

/// Bytes in a KiB.
pub const KIB: u64 = 1 << 10;
/// Bytes in a MiB.
pub const MIB: u64 = 1 << 20;
/// Bytes in a GiB.
pub const GIB: u64 = 1 << 30;
