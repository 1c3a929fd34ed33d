//! Real processes on a real disk, killed with SIGKILL at every named crash point and at random
//! moments: what was acknowledged through a pipe is there afterwards, and nothing is wrong.
use crate::support::{key, lease, meta, shard, small_config};
use echonet_vault::{CRASH_AT, PutRequest, RealDisk, VAULT_CRASH_POINTS, Vault, VaultConfig};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The child's directory; its presence makes this test binary the child.
const CHILD_DIR: &str = "ECHONET_VAULT_TEST_DIR";
/// The first number that the child puts.
const CHILD_FROM: &str = "ECHONET_VAULT_TEST_FROM";
const CHILD_TEST: &str = "kill::the_child_under_load";

fn config() -> VaultConfig {
    VaultConfig { checkpoint_rows: 200, quota_bytes: 64 << 20, ..small_config() }
}

fn vault_in(dir: &Path) -> Vault {
    Vault::open(Arc::new(RealDisk), dir, config()).expect("the vault opens").0
}

/// Not a test by itself: in a child process it loads a vault until it is killed, and writes a line
/// for each acknowledgement.
#[test]
fn the_child_under_load() {
    let Ok(dir) = std::env::var(CHILD_DIR) else { return };
    let from: u64 = std::env::var(CHILD_FROM).unwrap().parse().unwrap();
    let vault = vault_in(dir.as_ref());
    let writers = (0..4).map(|writer| {
        let vault = vault.clone();
        std::thread::spawn(move || {
            for number in (from + writer..).step_by(4) {
                write_one(&vault, number);
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    loop {
        vault.collect(3).unwrap();
        vault.compact_step(20).unwrap();
        vault.scrub_step(100_000).unwrap();
        vault.checkpoint().unwrap();
        if writers.iter().all(std::thread::JoinHandle::is_finished) {
            return;
        }
    }
}

fn write_one(vault: &Vault, number: u64) {
    let bytes = shard(number);
    let lease = lease(number, 1, 50);
    let reservation = vault.reserve(key(number), bytes.len() as u64, &lease, u128::MAX);
    let Ok(reservation) = reservation else { std::process::exit(0) };
    let request = PutRequest {
        key: key(number),
        shard: bytes.into(),
        meta: meta(number).into(),
        epoch: 0,
        reservation,
    };
    if vault.put(request).is_err() {
        std::process::exit(0);
    }
    tell(format_args!("put {number}"));
    // Two of three go again, so that there is something to collect and to compact.
    if !number.is_multiple_of(3) {
        tell(format_args!("ending {number}"));
        vault.end_lease(key(number), lease.id).unwrap();
        tell(format_args!("ended {number}"));
    }
}

/// One write for each line: a killed process leaves whole lines.
fn tell(line: std::fmt::Arguments<'_>) {
    let line = format!("\n@{line}\n");
    std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
}

/// What the parent knows.
#[derive(Default)]
struct Known {
    put: BTreeSet<u64>,
    ending: BTreeSet<u64>,
    next: u64,
}

impl Known {
    fn hear(&mut self, line: &str) {
        let Some((word, number)) = line.strip_prefix('@').and_then(|line| line.split_once(' '))
        else {
            return;
        };
        let number: u64 = number.parse().unwrap();
        self.next = self.next.max(number + 1);
        match word {
            "put" => drop(self.put.insert(number)),
            _ => drop(self.ending.insert(number)),
        }
    }

    /// Every acknowledged put whose lease nobody ended is there and right; whatever else is there
    /// is right, too.
    fn check(&self, dir: &Path, what: &str) {
        let vault = vault_in(dir);
        for number in self.put.iter().filter(|number| !self.ending.contains(number)) {
            let bytes = vault.read_verified(key(*number));
            let bytes = bytes.unwrap_or_else(|error| panic!("{what}: {number}: {error}"));
            assert_eq!(bytes, shard(*number), "{what}: {number}");
        }
        for number in self.ending.iter().copied() {
            if let Ok(bytes) = vault.read_verified(key(number)) {
                assert_eq!(bytes, shard(number), "{what}: {number}");
            }
        }
        assert_eq!(vault.stats().unwrap().quarantined, 0, "{what}");
        // Some of it is collected here, so that many rounds fit into the quota.
        vault.collect(10).unwrap();
    }
}

fn child(dir: &Path, from: u64, crash_at: Option<&str>) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([CHILD_TEST, "--exact", "--nocapture", "--test-threads=1"]);
    command.env(CHILD_DIR, dir).env(CHILD_FROM, from.to_string());
    if let Some(crash_at) = crash_at {
        command.env(CRASH_AT, crash_at);
    }
    command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

/// Runs a child until it dies or `until` says so; hears every acknowledgement. Returns whether it
/// died by itself, by a signal.
fn hear(known: &mut Known, mut child: Child, mut enough: impl FnMut(u64) -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut killed = false;
    let mut heard = 0;
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for line in lines.map_while(Result::ok) {
        known.hear(&line);
        heard += u64::from(line.starts_with('@'));
        if !killed && (enough(heard) || Instant::now() > deadline) {
            child.kill().unwrap();
            killed = true;
        }
    }
    let status = child.wait().unwrap();
    !killed && status.code().is_none()
}

#[test]
fn a_kill_at_any_named_point_loses_nothing_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut known = Known::default();
    // Something to recover, so that the points of recovery are passed too.
    hear(&mut known, child(dir.path(), 0, None), |heard| heard > 50);
    for name in VAULT_CRASH_POINTS {
        for times in [1, 3] {
            // These are passed once, when the vault opens.
            if times > 1 && name.starts_with("vault.recover") {
                continue;
            }
            let crash_at = format!("{name}:{times}");
            let child = child(dir.path(), known.next, Some(&crash_at));
            let died = hear(&mut known, child, |heard| heard > 20_000);
            assert!(died, "{crash_at} was never reached");
            known.check(dir.path(), &crash_at);
        }
    }
}

#[test]
fn a_kill_at_any_moment_loses_nothing_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut known = Known::default();
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for round in 0..12 {
        let after = rng.random_range(1..600);
        let child = child(dir.path(), known.next, None);
        hear(&mut known, child, |heard| heard >= after);
        known.check(dir.path(), &format!("round {round}"));
    }
    assert!(known.put.len() > 500, "{}", known.put.len());
}
