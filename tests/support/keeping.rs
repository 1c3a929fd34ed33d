//! Works in a network that is kept busy: published, looked at until they are
//! whole, fetched, while nodes die and are replaced. It asserts what every scenario
//! about keeping asserts.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::{Duration, Instant},
};

use rand::{SeedableRng as _, seq::IndexedRandom as _};
use rand_chacha::ChaCha8Rng;

use super::{
    KIB, MIB,
    client::{Client, Segment},
    devnet::Devnet,
    figure, files,
    site::Site,
    wait_until,
};

/// How long a network may take to make everything whole again: the grace (10 s), then the
/// repairs, on a machine that may be busy.
pub const WHOLE_WITHIN: Duration = Duration::from_secs(400);
/// And so long more for each work: many repairs are bound by what the machine's cores verify.
pub const WHOLE_WITHIN_EACH: Duration = Duration::from_secs(5);
/// Publishers at work at once.
const PUBLISHERS: usize = 3;

/// A work and the file it must be.
pub struct Work {
    /// Its ContentID.
    pub id: String,
    /// What it must be.
    pub file: PathBuf,
}

/// Publishes works of mixed sizes; the publishers' directories keep the files.
///
/// # Panics
/// When one of them cannot be published.
#[must_use]
pub fn publish_many(devnet: &Devnet, count: usize, seed: u64) -> (Vec<Client>, Vec<Work>) {
    let start = Instant::now();
    let clients: Vec<Client> = (0..PUBLISHERS).map(|_| devnet.client()).collect();
    let parts: Vec<Vec<Work>> = std::thread::scope(|scope| {
        let threads: Vec<_> = clients
            .iter()
            .enumerate()
            .map(|(at, client)| {
                let numbers = (at..count).step_by(PUBLISHERS);
                scope.spawn(move || numbers.map(|n| publish_one(client, n, seed)).collect())
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("published")).collect()
    });
    let works: Vec<Work> = parts.into_iter().flatten().collect();
    figure("keeping", format_args!("{count} works published in {:.1?}", start.elapsed()));
    (clients, works)
}

/// From a few bytes over copies of a small segment to several coded segments.
fn size_of(number: usize) -> u64 {
    [100, 9 * KIB, 40 * KIB, 300 * KIB, MIB, 3 * MIB, 7 * MIB, 12 * KIB][number % 8]
        + 17 * number as u64
}

fn publish_one(client: &Client, number: usize, seed: u64) -> Work {
    let file = client.path(&format!("work-{number}"));
    files::random(&file, seed + number as u64, size_of(number));
    let published = client.publish(&file);
    Work { id: published.content_id, file }
}

/// Questions about works asked at once.
const ASKED_AT_ONCE: usize = 6;

/// What `ask` gives for each work, asked by several newcomers at once.
fn of_each<T: Send>(
    devnet: &Devnet,
    works: &[&Work],
    ask: impl Fn(&Client, &Work) -> T + Sync,
) -> Vec<T> {
    let share = works.len().div_ceil(ASKED_AT_ONCE).max(1);
    std::thread::scope(|scope| {
        let threads: Vec<_> = works
            .chunks(share)
            .map(|works| {
                let (client, ask) = (devnet.client(), &ask);
                scope.spawn(move || works.iter().map(|w| ask(&client, w)).collect::<Vec<T>>())
            })
            .collect();
        threads.into_iter().flat_map(|t| t.join().expect("answered")).collect()
    })
}

/// All segments of all works, each once.
#[must_use]
pub fn segments_of(devnet: &Devnet, works: &[Work]) -> BTreeMap<String, Segment> {
    let works: Vec<&Work> = works.iter().collect();
    let all = of_each(devnet, &works, |client, work| client.segments(&work.id));
    all.into_iter().flatten().map(|segment| (segment.segment_id.clone(), segment)).collect()
}

/// Whether every shard has a holder that answers for it.
#[must_use]
pub fn is_whole(segment: &Segment) -> bool {
    segment.alive.len() == segment.n
}

/// Waits until `status` says n of n for every segment of every work.
///
/// # Panics
/// When one is not within [`WHOLE_WITHIN`] and [`WHOLE_WITHIN_EACH`] for each work.
pub fn wait_whole(devnet: &Devnet, works: &[Work], what: &str) -> BTreeMap<String, Segment> {
    let start = Instant::now();
    let mut left: Vec<&Work> = works.iter().collect();
    let within = WHOLE_WITHIN + WHOLE_WITHIN_EACH * works.len() as u32;
    wait_until(&format!("every work to be whole after {what}"), within, || {
        let whole = of_each(devnet, &left, |client, work| {
            client.try_segments(&work.id).is_some_and(|segments| segments.iter().all(is_whole))
        });
        let mut whole = whole.into_iter();
        left.retain(|_| whole.next() != Some(true));
        left.is_empty()
    });
    figure("keeping", format_args!("whole again {:.1?} after {what}", start.elapsed()));
    let segments = segments_of(devnet, works);
    let broken: Vec<_> = segments.values().filter(|segment| !is_whole(segment)).collect();
    assert!(broken.is_empty(), "whole a moment ago: {broken:?}");
    segments
}

/// No two records of one version.
///
/// # Panics
/// When there are.
pub fn assert_no_fork(segments: &BTreeMap<String, Segment>) {
    for segment in segments.values() {
        let mut bodies: BTreeMap<(&str, u64), BTreeSet<&str>> = BTreeMap::new();
        for placement in &segment.placements {
            let version = (placement.owner.as_str(), placement.version);
            bodies.entry(version).or_default().insert(&placement.hash);
        }
        assert!(!bodies.is_empty(), "a segment without a record: {segment:?}");
        assert!(bodies.values().all(|hashes| hashes.len() == 1), "a fork: {segment:?}");
    }
}

/// Every work, fetched by somebody new, is what was published.
///
/// # Panics
/// When it is not.
pub fn fetch_all(devnet: &Devnet, works: &[Work]) {
    let start = Instant::now();
    let all: Vec<&Work> = works.iter().collect();
    of_each(devnet, &all, |client, work| {
        let (outcome, got) = client.get(&work.id, &format!("got-{}", work.id));
        assert_eq!(outcome.result("fetched")["content_id"], work.id);
        files::assert_same(&work.file, &got);
        std::fs::remove_file(&got).expect("a file");
    });
    figure("keeping", format_args!("{} works fetched in {:.1?}", works.len(), start.elapsed()));
}

/// Bytes of shards that these nodes hold.
fn held_bytes(segments: &BTreeMap<String, Segment>, nodes: &[String]) -> u64 {
    segments.values().map(|segment| segment.lost(nodes) as u64 * segment.shard_bytes).sum()
}

/// Kills `gone`, adds as many fresh nodes, waits until all is whole; bytes lost and written.
fn replace(devnet: &mut Devnet, works: &[Work], gone: &[String], fresh: &mut usize) -> (u64, u64) {
    let before = segments_of(devnet, works);
    let lost = held_bytes(&before, gone);
    let counted = |devnet: &Devnet| {
        devnet
            .repairs()
            .iter()
            .filter(|r| !gone.contains(&r.node_id))
            .map(|r| r.written_bytes)
            .sum::<u64>()
    };
    let written_before = counted(devnet);
    for node_id in gone {
        devnet.kill(node_id);
    }
    for _ in gone {
        devnet.join(&Site::fresh(*fresh), &[]);
        *fresh += 1;
    }
    let after = wait_whole(devnet, works, &format!("{} of the nodes were replaced", gone.len()));
    assert_no_fork(&after);
    let remaining = held_bytes(&after, gone);
    assert_eq!(remaining, 0, "the dead are still named as holders");
    (lost, counted(devnet) - written_before)
}

/// How many nodes are killed, and when.
#[derive(Debug, Clone, Copy)]
pub struct Victims {
    /// So often.
    pub rounds: usize,
    /// So many at once.
    pub each: usize,
    /// Which they are.
    pub seed: u64,
}

/// Kills nodes at random, first of all those of `first`, and replaces them.
///
/// # Panics
/// When something is lost, or more is written than was lost.
pub fn churn(devnet: &mut Devnet, works: &[Work], victims: Victims, first: &[String]) {
    let Victims { rounds, each, seed } = victims;
    println!("seed: {seed}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let (mut lost, mut written, mut fresh) = (0, 0, 0);
    for round in 1..=rounds {
        let living: Vec<String> = devnet.living().iter().map(|node| node.node_id.clone()).collect();
        let named: Vec<String> = living.iter().filter(|id| first.contains(id)).cloned().collect();
        let among = if named.is_empty() { &living } else { &named };
        let gone: Vec<String> = among.sample(&mut random, each).cloned().collect();
        let (lost_now, written_now) = replace(devnet, works, &gone, &mut fresh);
        figure(
            "keeping",
            format_args!("round {round}: {lost_now} bytes lost, {written_now} written"),
        );
        lost += lost_now;
        written += written_now;
    }
    assert!(lost > 0, "nothing was lost: the scenario tests nothing");
    let ratio = written as f64 / lost as f64;
    figure("keeping", format_args!("{written} bytes written for {lost} lost: {ratio:.3}"));
    assert!(ratio <= 1.1, "{ratio:.3} bytes were written for each that was lost");
}

/// Shards that the living nodes made again.
#[must_use]
pub fn repaired(devnet: &Devnet) -> u64 {
    devnet.repairs().iter().map(|r| r.repaired_shards).sum()
}
