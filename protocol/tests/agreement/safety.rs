//! Never two versions after one, whatever happens; and some version once the
//! faults are over.

use crate::world::{Faults, World};

/// Faults of all kinds, for four seconds.
const FAULTS: Faults = Faults {
    lost_permille: 80,
    twice_permille: 100,
    crashes: 20,
    until_ms: 4_000,
    loss_ms: 700,
    answers_early: false,
};

/// What came of one world.
struct Seen {
    forks: usize,
    contested: usize,
    is_whole: bool,
    versions: usize,
    messages: u64,
}

/// Runs a world of k+m holders of whom the first lie and the last are dead.
fn run(seed: u64, (k, m): (u8, u8), liars: u8, dead: u8, faults: Faults) -> Seen {
    let (n, lying): (u8, Vec<u8>) = (k + m, (1..=liars).collect());
    let dying: Vec<u8> = (n + 1 - dead..=n).collect();
    let mut world = World::new(seed, (k, m), &dying, &lying, faults);
    world.run(faults.until_ms + 20_000);
    let quorum = world.placed.descriptor.scheme.change_quorum();
    let mut followed: Vec<_> =
        world.committed.iter().map(|r| (r.body.previous, r.hash())).collect();
    followed.sort_by_key(|(_, hash)| *hash);
    followed.dedup();
    let versions = followed.len();
    followed.dedup_by_key(|(previous, _)| *previous);
    // Whoever lies signs everything: so many of the others are enough.
    let forks = world.book.forks(quorum - usize::from(liars));
    assert!(forks > 0 || versions == followed.len(), "seed {seed}: committed twice");
    let (contested, is_whole) = (world.book.contested(), world.is_whole());
    Seen { forks, contested, is_whole, versions, messages: world.messages }
}

/// Runs many worlds, in which nothing may go wrong.
fn hold(seeds: std::ops::Range<u64>, scheme: (u8, u8), liars: u8, dead: u8, faults: Faults) {
    let (mut contested, mut versions, mut messages, count) = (0, 0, 0, seeds.end - seeds.start);
    for seed in seeds {
        println!("seed {seed}, {}+{}, {liars} liars, {dead} dead", scheme.0, scheme.1);
        let seen = run(seed, scheme, liars, dead, faults);
        assert_eq!(seen.forks, 0, "seed {seed}: two bodies may both be agreed on");
        assert!(seen.is_whole, "seed {seed}: nothing was agreed on after the faults");
        contested += seen.contested;
        versions += seen.versions;
        messages += seen.messages;
    }
    println!(
        "{count} worlds: {versions} versions, {contested} of them contested, {messages} messages"
    );
}

#[test]
fn crashes_and_losses_never_make_two_versions_of_one() {
    hold(0..4, (1, 6), 0, 2, FAULTS);
    hold(40..44, (2, 3), 0, 1, FAULTS);
}

#[test]
fn liars_never_make_two_versions_of_one() {
    // Two quorums share 2q - n holders, one more than lie.
    hold(100..104, (4, 1), 2, 1, FAULTS);
    hold(140..143, (5, 2), 2, 1, FAULTS);
}

#[test]
fn three_of_sixteen_may_lie() {
    hold(200..201, (10, 6), 3, 3, Faults { crashes: 30, ..FAULTS });
}

#[test]
fn without_faults_one_ballot_will_do() {
    let calm = Faults { lost_permille: 0, twice_permille: 0, crashes: 0, ..FAULTS };
    hold(300..302, (10, 6), 0, 2, calm);
}

/// Whether some world of these shows a fork.
fn is_noticed(
    seeds: std::ops::Range<u64>,
    scheme: (u8, u8),
    liars: u8,
    dead: u8,
    faults: Faults,
) -> bool {
    seeds.into_iter().any(|seed| {
        let forks = run(seed, scheme, liars, dead, faults).forks;
        println!("seed {seed}: {forks} forks");
        forks > 0
    })
}

#[test]
fn the_world_notices_answers_that_are_not_durable() {
    let faults = Faults { crashes: 60, answers_early: true, ..FAULTS };
    assert!(is_noticed(427..440, (2, 3), 0, 1, faults), "a defect that nobody would see");
}
