//! Named places where a test can have the process killed, to prove that a crash there loses
//! nothing that was acknowledged. Without `ECHONET_CRASH_AT` a crash point costs one comparison.
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// The environment variable: `name`, or `name:N` for the Nth time that the point is passed.
pub const CRASH_AT: &str = "ECHONET_CRASH_AT";

/// Every crash point of the vault, so that a test can visit each.
pub const VAULT_CRASH_POINTS: [&str; 15] = [
    "vault.group.written",
    "vault.group.synced",
    "vault.group.applied",
    "vault.volume.sealed",
    "vault.volume.created",
    "vault.volume.headed",
    "vault.volume.synced",
    "vault.index.checkpointing",
    "vault.index.checkpointed",
    "vault.compact.moved",
    "vault.compact.leaving",
    "vault.compact.removed",
    "vault.compact.done",
    "vault.collect.tombstoned",
    "vault.recover.replayed",
];

struct Wanted {
    name: String,
    times_left: AtomicU64,
}

fn parse(value: &str) -> Option<Wanted> {
    let (name, times) = match value.split_once(':') {
        Some((name, times)) => (name, times.parse().ok()?),
        None => (value, 1),
    };
    (!name.is_empty() && times > 0)
        .then(|| Wanted { name: name.to_owned(), times_left: AtomicU64::new(times) })
}

/// Kills this process with SIGKILL if the environment names this point and it is the Nth passing;
/// otherwise does nothing. The environment is read once.
pub fn crash_point(name: &'static str) {
    static WANTED: OnceLock<Option<Wanted>> = OnceLock::new();
    let wanted = WANTED.get_or_init(|| parse(&std::env::var(CRASH_AT).ok()?));
    let Some(wanted) = wanted else { return };
    if wanted.name == name && wanted.times_left.fetch_sub(1, Ordering::AcqRel) == 1 {
        // SIGKILL cannot be caught: nothing is flushed, no destructor runs.
        let _ =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_names_a_point_and_a_passing() {
        let once = parse("vault.group.synced").unwrap();
        assert_eq!((once.name.as_str(), once.times_left.into_inner()), ("vault.group.synced", 1));
        let third = parse("a.b:3").unwrap();
        assert_eq!((third.name.as_str(), third.times_left.into_inner()), ("a.b", 3));
        assert!(parse("").is_none() && parse("a:0").is_none() && parse("a:x").is_none());
    }

    #[test]
    fn every_point_is_named_once() {
        let mut names = VAULT_CRASH_POINTS.to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), VAULT_CRASH_POINTS.len());
    }
}
