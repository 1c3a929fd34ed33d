//! A publish that is killed, at each named point and at random times, and started
//! again: the same work, and next to nothing stored twice.

use std::{
    collections::BTreeSet,
    os::unix::process::ExitStatusExt as _,
    sync::OnceLock,
    time::{Duration, Instant},
};

use echonet_tests::support::{
    MIB, cli,
    client::{Client, WITHIN},
    devnet::{Devnet, Options},
    figure, files, turn,
};
use rand_chacha::rand_core::Rng as _;

/// Six segments and the manifest's, on a devnet with segments of 2 MiB.
const WORK_BYTES: u64 = 12 * MIB;
/// How often a publish is killed at a random time.
const RANDOM_KILLS: u64 = 20;
/// How many publishes are started to have that many killed before their end.
const ATTEMPTS_MAX: u64 = 40;

struct World {
    devnet: Devnet,
    reference: Reference,
}

/// An uninterrupted publish of as many bytes.
struct Reference {
    live_bytes: u64,
    took: Duration,
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let options = Options {
            segment_bytes: Some(2 * MIB),
            volume_bytes: Some(64 * MIB),
            ..Options::new(20)
        };
        let devnet = Devnet::start(&options);
        let publisher = devnet.client();
        let file = publisher.path("work");
        files::random(&file, 1000, WORK_BYTES);
        let before = devnet.vaults().live_bytes;
        let start = Instant::now();
        let published = publisher.publish(&file);
        let took = start.elapsed();
        assert_eq!(published.receipts_have, published.receipts_want, "{}", published.line);
        let live_bytes = devnet.vaults().live_bytes - before;
        figure("resume", format_args!("uninterrupted: {live_bytes} live bytes in {took:.2?}"));
        assert!(live_bytes > WORK_BYTES * 3 / 2, "10+6 of {WORK_BYTES} is more than {live_bytes}");
        World { devnet, reference: Reference { live_bytes, took } }
    })
}

/// Resumes a publish that was killed, and judges what it came to. Returns the live
/// bytes in thousandths of an uninterrupted publish.
fn resume(what: &str, publisher: &Client, identified: Option<String>, before: u64) -> u64 {
    let World { devnet, reference } = world();
    let file = publisher.path("work");
    let published = publisher.publish(&file);
    if let Some(id) = identified {
        assert_eq!(published.content_id, id, "{what}: resumed to another work");
    }
    let live_bytes = devnet.vaults().live_bytes - before;
    let thousandths = live_bytes * 1000 / reference.live_bytes;
    assert!(
        thousandths <= 1020,
        "{what}: {live_bytes} live bytes, {thousandths}/1000 of uninterrupted"
    );
    devnet.newcomer_gets(&published.content_id, &file);
    thousandths
}

/// The ContentID, if the process got as far as saying it.
fn identified(stdout: &str) -> Option<String> {
    let mut events = stdout.lines().filter_map(|l| serde_json::from_str(l).ok());
    let event = events.find(|value: &serde_json::Value| value["event"] == "identified")?;
    event["content_id"].as_str().map(str::to_owned)
}

/// Names of the points at which a publisher can be made to crash.
fn crash_points() -> Vec<String> {
    let outcome = cli::run(cli::command(["crash-points"]), WITHIN);
    assert!(outcome.succeeded(), "{outcome}");
    let names = outcome.stdout.lines().map(str::trim).filter(|name| name.starts_with("publish."));
    let names: BTreeSet<String> = names.map(str::to_owned).collect();
    assert!(names.len() >= 5, "a publish has more than {names:?}");
    names.into_iter().collect()
}

#[test]
fn killed_at_each_named_point() {
    let _turn = turn();
    let devnet = &world().devnet;
    let mut not_reached = Vec::new();
    for (seed, point) in (2000..).zip(crash_points()) {
        let publisher = devnet.client();
        files::random(&publisher.path("work"), seed, WORK_BYTES);
        let before = devnet.vaults().live_bytes;
        let running =
            publisher.start_publish(&publisher.path("work"), &[("ECHONET_CRASH_AT", &point)]);
        let crashed = running.finish(WITHIN);
        let killed = crashed.status.and_then(|status| status.signal()) == Some(9);
        if !killed {
            assert!(crashed.succeeded(), "{point}: neither killed nor published: {crashed}");
            not_reached.push(point);
            continue;
        }
        let thousandths = resume(&point, &publisher, identified(&crashed.stdout), before);
        figure("resume", format_args!("{point}: live bytes {thousandths}/1000"));
    }
    assert!(not_reached.is_empty(), "a plain publish does not pass {not_reached:?}");
}

#[test]
fn killed_at_random_times() {
    let _turn = turn();
    let World { devnet, reference } = world();
    let mut rng = files::rng(3000);
    let mut within = u64::try_from(reference.took.as_micros()).expect("a publish is short");
    let mut kills = 0;
    for attempt in 0..ATTEMPTS_MAX {
        let publisher = devnet.client();
        files::random(&publisher.path("work"), 3001 + attempt, WORK_BYTES);
        let before = devnet.vaults().live_bytes;
        let after = Duration::from_micros(rng.next_u64() % within);
        let mut running = publisher.start_publish(&publisher.path("work"), &[]);
        std::thread::sleep(after); // the random time itself, not a synchronisation
        if running.has_ended() {
            // This machine publishes faster than it did: a kill has to come before.
            within = (within * 3 / 4).max(1);
        } else {
            kills += 1;
        }
        running.kill();
        let killed = running.finish(WITHIN);
        let what = format!("attempt {attempt}, kill {kills} after {after:.2?}");
        let thousandths = resume(&what, &publisher, identified(&killed.stdout), before);
        figure("resume", format_args!("{what}: live bytes {thousandths}/1000"));
        if kills == RANDOM_KILLS {
            return;
        }
    }
    panic!("only {kills} of {ATTEMPTS_MAX} publishes were still running when killed");
}
