//! Which manifest is believed: never a bad one for long, whoever shouts.

use std::collections::{BTreeMap, BTreeSet};

use echonet_protocol::{
    bytes::ManifestHash,
    fetch::{
        ManifestCandidate, ManifestRace, RaceConfig, RaceFailure, RaceInput, RaceOutput, Trust,
        mib_to_check,
    },
    identity::NodeId,
    machine::{Draws, Machine, Millis},
};

fn manifest(number: u64) -> ManifestHash {
    ManifestHash(*blake3::hash(&number.to_le_bytes()).as_bytes())
}

fn found(number: u64, announcer: u8, trust: Trust) -> RaceInput {
    let announcer = NodeId([announcer; 32]);
    RaceInput::Found(ManifestCandidate { manifest: manifest(number), announcer, trust })
}

fn outputs(race: &mut ManifestRace) -> Vec<RaceOutput> {
    std::iter::from_fn(|| race.poll()).collect()
}

fn tried(outputs: &[RaceOutput]) -> Vec<ManifestHash> {
    let tried = outputs.iter().filter_map(|output| match output {
        RaceOutput::Try { manifest, .. } => Some(*manifest),
        _ => None,
    });
    tried.collect()
}

fn new() -> ManifestRace {
    ManifestRace::new(Millis(0), RaceConfig::default(), 42)
}

#[test]
fn two_race_and_the_first_verified_wins() {
    let mut race = new();
    for number in 0..4 {
        race.handle(Millis(1), found(number, number as u8, Trust::Stranger));
    }
    assert_eq!(tried(&outputs(&mut race)), [manifest(0), manifest(1)]);
    race.handle(Millis(9), RaceInput::Verified { manifest: manifest(1) });
    let expected = [
        RaceOutput::Believe { manifest: manifest(1) },
        RaceOutput::Cancel { manifest: manifest(0) },
    ];
    assert_eq!(outputs(&mut race), expected);
    assert_eq!(race.timeout(), None);
    // The other one verified, too, but too late: one is enough.
    race.handle(Millis(10), RaceInput::Verified { manifest: manifest(0) });
    assert_eq!(outputs(&mut race), []);
}

#[test]
fn a_trusted_one_takes_the_place_of_a_stranger() {
    let mut race = new();
    for (number, trust) in [(0, Trust::Stranger), (1, Trust::Vetted), (2, Trust::Linked)] {
        race.handle(Millis(1), found(number, 0, trust));
    }
    let seen = outputs(&mut race);
    assert_eq!(tried(&seen), [manifest(0), manifest(1), manifest(2)]);
    assert!(seen.contains(&RaceOutput::Cancel { manifest: manifest(0) }));
    race.handle(Millis(2), found(3, 0, Trust::Stranger));
    assert_eq!(outputs(&mut race), []);
}

#[test]
fn a_bad_one_marks_all_its_announcers_and_makes_room() {
    let mut race = new();
    race.handle(Millis(1), found(0, 1, Trust::Stranger));
    race.handle(Millis(1), found(0, 2, Trust::Stranger));
    outputs(&mut race);
    let (bad, reason) = (manifest(0), "a MiB is wrong".to_owned());
    race.handle(Millis(2), RaceInput::Bad { manifest: bad, reason: reason.clone() });
    let announcers = vec![NodeId([1; 32]), NodeId([2; 32])];
    assert_eq!(outputs(&mut race), [RaceOutput::Mark { manifest: bad, announcers, reason }]);
    // Who announces it later is marked, too, and it is not tried again.
    race.handle(Millis(3), found(0, 3, Trust::Linked));
    let seen = outputs(&mut race);
    assert!(matches!(&seen[..], [RaceOutput::Mark { .. }]), "{seen:?}");
    race.handle(Millis(4), RaceInput::SearchOver);
    let Some(RaceOutput::Failed(failure)) = race.poll() else { panic!() };
    assert_eq!(failure.to_string(), "1 manifests announced, 1 of them proven bad: a MiB is wrong");
}

#[test]
fn one_believed_and_found_bad_later_gives_way_to_the_next() {
    let mut race = new();
    race.handle(Millis(1), found(0, 0, Trust::Known));
    race.handle(Millis(1), found(1, 1, Trust::Stranger));
    race.handle(Millis(2), RaceInput::Verified { manifest: manifest(0) });
    outputs(&mut race);
    // Long after the first deadline.
    let bad = RaceInput::Bad { manifest: manifest(0), reason: "MiB 7 is wrong".into() };
    race.handle(Millis(500_000), bad);
    assert_eq!(tried(&outputs(&mut race)), [manifest(1)]);
    race.handle(Millis(500_001), RaceInput::Verified { manifest: manifest(1) });
    assert_eq!(outputs(&mut race), [RaceOutput::Believe { manifest: manifest(1) }]);
}

#[test]
fn nothing_found_is_said_as_such_and_in_time() {
    let mut race = new();
    race.handle(Millis(100), RaceInput::SearchOver);
    let Some(RaceOutput::Failed(failure)) = race.poll() else { panic!() };
    assert_eq!(failure.to_string(), "no announcement of this content was found");
    let mut race = new();
    let deadline = race.timeout().unwrap();
    assert!(deadline <= Millis(10_000));
    race.handle(deadline, RaceInput::Tick);
    let failed = race.poll();
    assert!(matches!(&failed, Some(RaceOutput::Failed(RaceFailure { timed_out: true, .. }))));
}

#[test]
fn the_mib_is_in_the_content_and_not_foreseeable() {
    for length in [0, 1, 1 << 20, (1 << 20) + 1, u64::MAX] {
        let count = length.div_ceil(1 << 20);
        assert!((0..100).all(|seed| mib_to_check(seed, length) < count.max(1)));
    }
    let places: BTreeSet<u64> = (0..1000).map(|seed| mib_to_check(seed, 100 << 20)).collect();
    assert_eq!(places.len(), 100);
    // Two manifests for one content are checked at places of their own.
    let mut race = new();
    race.handle(Millis(1), found(0, 0, Trust::Stranger));
    race.handle(Millis(1), found(1, 0, Trust::Stranger));
    let seeds: BTreeSet<u64> = outputs(&mut race)
        .iter()
        .map(|output| match output {
            RaceOutput::Try { seed, .. } => *seed,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(seeds.len(), 2);
}

/// What trying a manifest of the flood leads to; none: nothing, ever.
fn answer(draws: &mut Draws, tried: ManifestHash, good: u64) -> Option<RaceInput> {
    let manifest = tried;
    if tried == self::manifest(good) {
        return Some(RaceInput::Verified { manifest });
    }
    match draws.below(3) {
        0 => Some(RaceInput::Bad { manifest, reason: "bad".into() }),
        1 => Some(RaceInput::Unavailable { manifest, reason: "gone".into() }),
        _ => None,
    }
}

/// Announcements of the first second, then the end of the search.
fn flood(
    draws: &mut Draws,
    count: u64,
    good: u64,
    good_trust: Trust,
) -> BTreeMap<(Millis, u64), RaceInput> {
    let mut events = BTreeMap::new();
    for number in 0..count {
        let trust = if number == good { good_trust } else { Trust::Stranger };
        events.insert((Millis(draws.below(1_000)), number), found(number, 1, trust));
    }
    events.insert((Millis(1_000), 0), RaceInput::SearchOver);
    events
}

/// A manifest whose outcome is reported is not being tried any more.
fn no_longer_tried(trying: &mut BTreeSet<ManifestHash>, input: &RaceInput) {
    if let RaceInput::Bad { manifest, .. }
    | RaceInput::Verified { manifest }
    | RaceInput::Unavailable { manifest, .. } = input
    {
        trying.remove(manifest);
    }
}

/// Floods of bad manifests, with perhaps a good one among them.
#[test]
fn in_any_flood_only_the_good_one_is_believed() {
    let (mut believed, mut failed) = (0, 0);
    for seed in 0..3_000 {
        let mut draws = Draws::new(seed);
        let config =
            RaceConfig { candidates_max: 1 + draws.below(12) as usize, ..RaceConfig::default() };
        let mut race = ManifestRace::new(Millis(0), config, seed);
        let count = draws.below(30);
        let good = draws.below(count + 10);
        let trusted = draws.below(2) == 0;
        let trust = if trusted { Trust::Known } else { Trust::Stranger };
        let mut events = flood(&mut draws, count, good, trust);
        let (mut now, mut sequence) = (Millis(0), 1_000);
        let mut trying = BTreeSet::new();
        let end = 'run: loop {
            while let Some(output) = race.poll() {
                match output {
                    RaceOutput::Try { manifest, .. } => {
                        assert!(trying.insert(manifest) && trying.len() <= config.parallel_max);
                        sequence += 1;
                        let Some(input) = answer(&mut draws, manifest, good) else { continue };
                        events.insert((now.after(1 + draws.below(2_000)), sequence), input);
                    }
                    RaceOutput::Cancel { manifest } => assert!(trying.remove(&manifest)),
                    RaceOutput::Believe { manifest } => break 'run Ok(manifest),
                    RaceOutput::Mark { manifest, .. } => assert_ne!(manifest, self::manifest(good)),
                    RaceOutput::Failed(failure) => break 'run Err(failure),
                }
            }
            let tick = race.timeout().expect("waits for ever");
            assert!(tick > now, "a timeout in the past spins");
            now = tick;
            let mut input = RaceInput::Tick;
            if events.first_key_value().is_some_and(|((at, _), _)| *at <= tick) {
                let ((at, _), event) = events.pop_first().unwrap();
                (now, input) = (at, event);
            }
            no_longer_tried(&mut trying, &input);
            race.handle(now, input);
        };
        assert!(now <= Millis(config.deadline_ms));
        match end {
            Ok(manifest) => {
                believed += 1;
                assert_eq!(manifest, self::manifest(good), "seed {seed}");
            }
            Err(failure) => {
                failed += 1;
                assert!(good >= count || !trusted, "seed {seed}: {failure}");
            }
        }
    }
    assert!(believed > 500 && failed > 500, "{believed} {failed}");
}
