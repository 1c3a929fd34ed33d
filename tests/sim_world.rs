//! The node's machines in seeded, faulty worlds: a fixed set of seeds, seeds that
//! once failed, members who only talk, how soon deaths are known, and that every
//! judge notices what it is there for. Each test prints its seeds first.

use echonet_protocol::network::Timing;
use echonet_tests::world::{Defect, Detection, DetectionOptions, detect, noticed, play_seed, talk};

/// Played every time: enough for every kind of fault, with real agreement in every second one.
const FIXED: std::ops::RangeInclusive<u64> = 1..=6;
const FIXED_NODES: usize = 24;

/// Seeds that failed once, nodes, and what was wrong.
const REGRESSIONS: [(u64, usize, &str); 1] = [(
    18,
    40,
    "after a cut a few holders waited for ever for a quorum of those who had gone over to a weak \
     version",
)];

fn holds(seed: u64, nodes: usize) {
    println!("seed {seed}, {nodes} nodes");
    if let Some(failure) = play_seed(seed, nodes).failure {
        panic!("{failure}");
    }
}

#[test]
fn fixed_seeds_hold() {
    FIXED.for_each(|seed| holds(seed, FIXED_NODES));
}

#[test]
fn seeds_that_failed_once_hold() {
    for (seed, nodes, what) in REGRESSIONS {
        println!("once: {what}");
        holds(seed, nodes);
    }
}

#[test]
fn talk_of_deaths_and_made_up_members_moves_nothing() {
    println!("seed 5");
    let (honest, hostile) = (talk(5, 20, false), talk(5, 20, true));
    println!("{honest:?} with honest members, {hostile:?} with others");
    assert_eq!((honest.failure, hostile.failure), (None, None));
    assert!(hostile.hints > 5 * honest.hints.max(100), "or nothing was tested");
    // What is missing at first is made up for, with or without them.
    assert!(hostile.bytes_moved <= honest.bytes_moved + honest.bytes_moved / 4);
}

#[test]
fn deaths_are_known_within_half_a_minute_of_virtual_time() {
    println!("seed 7");
    let options = DetectionOptions {
        nodes: 40,
        kills: 10,
        timing: Timing::PRODUCTION,
        has_wrong_clocks: false,
        seed: 7,
    };
    let found = detect(&options).unwrap();
    println!("{found:?}");
    assert!(Detection::percentile(&found.members_ms, 99) < 30_000);
    assert!(Detection::percentile(&found.probers_ms, 99) < 30_000);
    assert_eq!(found.false_deaths, 0);
}

/// Plays worlds with a defect until a judge says something: it has to be this.
fn is_noticed(defect: Defect, rule: &str) {
    let said = (1..=12).step_by(2).find_map(|seed| {
        println!("seed {seed}, {defect:?}");
        noticed(seed, 20, defect)
    });
    assert_eq!(said, Some(rule), "{defect:?}");
}

#[test]
fn judges_notice_damage() {
    is_noticed(Defect::TakesWrongBytes, "an honest node took a wrong byte");
    is_noticed(Defect::DeletesHeld, "an honest holder deleted a shard that it must keep");
    is_noticed(Defect::MixesUp, "an agreed version names fewer than k right shards");
}

#[test]
fn judges_notice_broken_rules() {
    is_noticed(Defect::PlacesTwice, "a hard constraint is broken");
    is_noticed(Defect::IgnoresQuota, "a quota was passed");
    is_noticed(Defect::AgreesTwice, "a version was committed twice");
}

#[test]
fn judges_notice_what_does_not_become_whole() {
    is_noticed(Defect::NeverRepairs, "a segment did not return to n");
    is_noticed(Defect::KeepsNothing, "a segment did not return to n");
}

#[test]
fn judges_notice_who_believes_talk_and_who_hears_nobody() {
    is_noticed(Defect::BelievesHints, "a reachable holder was taken for gone");
    is_noticed(Defect::IsDeaf, "a node that runs stays down for another");
}

#[test]
fn judges_notice_voters_who_forget_their_promises() {
    let said = (2..=40).step_by(2).find_map(|seed| {
        println!("seed {seed}");
        noticed(seed, 24, Defect::ForgetsPromises)
    });
    assert_eq!(said, Some("a version was committed twice"));
}
