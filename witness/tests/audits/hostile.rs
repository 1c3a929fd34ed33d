//! Hostile witnesses among seven, and holders that drop what they promised.

use echonet_protocol::{
    audit::Outcome::{self, Absent, Pass, Silent, Wrong},
    data::rows::Rows,
    identity::{Identity, Signed},
    time::Epoch,
};
use echonet_witness::{
    evidence::{Case, CheckedCase, Fault, Offence},
    score::{Fold, SealError, SealedSet, Standing},
};

use proptest::prelude::*;

use crate::{
    rig::{Report, audit, chains, due, holder, honest, made_up, result, said, seal, world},
    score::{Run, rules},
};

/// Folds what was said in an epoch over holders 0 to 4, all of which are honest.
fn fold_all(reports: &[Report], epoch: u64) -> Fold {
    let mut fold = Fold::new(rules(world()), Epoch(epoch));
    let said = said(world(), &mut chains(world()), epoch, reports);
    fold.fold(&world().sets, &seal(world(), epoch, &said)).unwrap();
    fold
}

fn all(outcome: Outcome) -> Vec<(u8, usize, Outcome)> {
    (0..5).map(|n| (n as u8, n, outcome)).collect()
}

#[test]
fn one_of_seven_who_hears_nobody_moves_nothing() {
    let segments = due(world(), 2, 0, 40);
    // It says so of every segment, its turn or not; the others find everybody there.
    for others in [None, Some(Pass)] {
        let liar = segments.iter().map(|s| Report::new(3, *s, all(Silent)));
        let askers = segments.iter().filter_map(|s| {
            let asker = world().asker(2, s);
            others.filter(|_| asker != 3).map(|outcome| Report::new(asker, *s, all(outcome)))
        });
        let fold = fold_all(&liar.chain(askers).collect::<Vec<_>>(), 2);
        for (_, word) in fold.words() {
            assert_eq!((word.audit, word.online), (10_000, 10_000));
        }
    }
}

#[test]
fn silence_needs_five_of_seven_and_nobody_else_saying_otherwise() {
    let segment = due(world(), 2, 0, 1)[0];
    let committee = world().committee(2, &segment);
    let online = |silent: usize, answered: usize| {
        let silent = committee[..silent].iter().map(|w| Report::new(*w, segment, all(Silent)));
        let rest = committee[7 - answered..].iter().map(|w| Report::new(*w, segment, all(Pass)));
        let fold = fold_all(&silent.chain(rest).collect::<Vec<_>>(), 2);
        fold.word(&holder(0).node_id()).online
    };
    assert_eq!([online(4, 0), online(5, 0), online(7, 0)], [10_000, 0, 0]);
    assert_eq!([online(5, 1), online(6, 1)], [10_000, 10_000]);
}

#[test]
fn only_the_askers_word_about_a_shard_counts() {
    let segment = due(world(), 2, 0, 1)[0];
    let committee = world().committee(2, &segment);
    let word = |witness: usize| {
        let fold = fold_all(&[Report::new(witness, segment, all(Absent))], 2);
        fold.word(&holder(0).node_id())
    };
    assert_eq!(word(committee[0]).audit, 9_990);
    assert_eq!(word(committee[1]).audit, 10_000);
    let idle = (0..).map(made_up).find(|s| !world().is_due(2, s, 3_355_444)).unwrap();
    let asker = world().asker(2, &idle);
    let fold = fold_all(&[Report::new(asker, idle, all(Absent))], 2);
    assert_eq!(fold.word(&holder(0).node_id()).audit, 10_000, "a segment that was not due");
    // Of what one asker says twice, what is against the holder counts, and once.
    let twice = [Pass, Absent, Absent].map(|o| Report::new(committee[0], segment, all(o)));
    let word = fold_all(&twice, 2).word(&holder(0).node_id());
    assert_eq!((word.audit, word.passes), (9_990, 0));
}

#[test]
fn a_verdict_under_another_beacon_counts_for_nothing() {
    let segment = due(world(), 2, 0, 1)[0];
    let report = Report::new(world().asker(2, &segment), segment, all(Absent));
    let said = said(world(), &mut chains(world()), 2, &[report]);
    for beacon in [None, Some(world().beacon(3))] {
        let mut set = SealedSet::new(world().network, Epoch(2), beacon);
        for (digest, verdicts) in &said {
            set.add(digest, verdicts.clone(), &[]).unwrap();
        }
        let mut fold = Fold::new(rules(world()), Epoch(2));
        assert!(fold.fold(&world().sets, &set).unwrap().is_empty());
    }
}

/// The case of a verdict by its asker in epoch 5 that calls what came as `call` says.
fn accused(
    call: fn(u8, bool) -> Outcome,
) -> (SealedSet, CheckedCase, usize, Result<Vec<Fault>, SealError>) {
    let holders: Vec<Identity> = (0..5).map(holder).collect();
    let placed = (0..)
        .map(|n| world().placed(&format!("{n}"), &holders))
        .find(|placed| world().is_due(5, &placed.segment(), 2500))
        .unwrap();
    let asker = world().asker(5, &placed.segment());
    let mut chain = chains(world()).remove(asker);
    let give = |index: u8, leaf| Some(placed.slice(if index == 1 { 0 } else { index }, leaf));
    let (verdict, slices) = audit(world(), &mut chain, (asker, 5), &placed, give, call);
    let case = Case { v: 1, verdict: verdict.clone(), placement: placed.record.encode(), slices };
    let case = case.check(&world().network, &Rows).unwrap();
    let mut set = SealedSet::new(world().network, Epoch(5), Some(world().beacon(5)));
    let digest = chain.close(Epoch(5));
    let bare = set.add(&digest, vec![verdict.clone()], &[]);
    assert_eq!(set.name(), SealedSet::new(world().network, Epoch(5), None).name());
    let error = bare.unwrap_err();
    assert!(matches!(error, SealError::Unproven { .. }), "a wrong without its case: {error}");
    let faults = set.add(&digest, vec![verdict], std::slice::from_ref(&case));
    (set, case, asker, faults)
}

#[test]
fn a_wrong_counts_only_with_what_came() {
    let (set, _, _, faults) = accused(honest);
    assert!(matches!(faults.unwrap()[..], [Fault::Holder { index: 1, outcome: Wrong, .. }]));
    let mut fold = Fold::new(rules(world()), Epoch(5));
    fold.fold(&world().sets, &set).unwrap();
    let audits = [0, 1, 2].map(|n| fold.word(&holder(n).node_id()).audit);
    assert_eq!(audits, [10_000, 9_990, 10_000]);
}

#[test]
fn a_false_wrong_moves_no_holder_and_convicts_its_witness() {
    let (set, _, asker, faults) = accused(|_, _| Wrong);
    let witness = world().witnesses[asker].node_id();
    let lie = Fault::Witness { witness, epoch: Epoch(5), offence: Offence::Contradiction };
    assert!(faults.unwrap().contains(&lie));
    let mut fold = Fold::new(rules(world()), Epoch(5));
    fold.fold(&world().sets, &set).unwrap();
    let audits = [0, 1, 2, 3, 4].map(|n| fold.word(&holder(n).node_id()).audit);
    // Holder 1 did send what does not verify.
    assert_eq!(audits, [10_000, 9_990, 10_000, 10_000, 10_000]);
}

#[test]
fn the_convicted_count_no_more_from_that_epoch_on() {
    let reports = |epoch: u64| {
        let segments = due(world(), epoch, 0, 60);
        let of = |s| Report::new(world().asker(epoch, s), *s, all(Absent));
        segments.iter().map(of).filter(|r| r.witness == 3).collect::<Vec<_>>()
    };
    let mut chains = chains(world());
    let mut fold = Fold::new(rules(world()), Epoch(2));
    let mut losses = Vec::new();
    for epoch in 2..5 {
        let said = said(world(), &mut chains, epoch, &reports(epoch));
        let mut set = seal(world(), epoch, &said);
        if epoch == 3 {
            let witness = world().witnesses[3].node_id();
            let evidence = echonet_protocol::bytes::RecordHash([1; 32]);
            let name = set.name();
            assert!(set.convict(evidence, witness, Epoch(2)).is_err(), "of another epoch");
            set.convict(evidence, witness, Epoch(3)).unwrap();
            assert_ne!(set.name(), name, "a conviction is a part of the set");
        }
        losses.push(fold.fold(&world().sets, &set).unwrap().len());
        fold = Fold::restore(rules(world()), &fold.checkpoint()).unwrap();
    }
    assert!(losses[0] > 0, "{losses:?}");
    assert_eq!(losses[1..], [0, 0]);
}

#[test]
fn forked_chains_and_made_up_outcomes_enter_no_set() {
    let segments = due(world(), 2, 0, 2);
    let report = |s: usize| Report::new(0, segments[s], all(Pass));
    let (mut one, mut other) = (chains(world()), chains(world()));
    let first = said(world(), &mut one, 2, &[report(0)]).remove(0);
    let second = said(world(), &mut other, 2, &[report(1)]).remove(0);
    let mut set = seal(world(), 2, std::slice::from_ref(&first));
    assert!(matches!(set.add(&second.0, second.1.clone(), &[]), Err(SealError::Twice(_))));
    let mut set = SealedSet::new(world().network, Epoch(2), Some(world().beacon(2)));
    assert!(matches!(set.add(&first.0, second.1, &[]), Err(SealError::Digest(_))));
    assert!(matches!(set.add(&first.0, vec![], &[]), Err(SealError::Digest(_))));
    // An answer that its holder never gave: left out, and its witness is told of.
    let mut chain = chains(world()).remove(0);
    let challenge = world().challenge(0, 2, segments[0], None);
    let mut results = vec![result(world(), &challenge, (0, 0, Absent))];
    results[0].sig = Some(holder_signature());
    let finding = echonet_witness::verdicts::Finding {
        challenge,
        placement: echonet_protocol::bytes::RecordHash([1; 32]),
        length: crate::rig::FULL,
        results,
    };
    let verdict = chain.push(finding);
    let faults = set.add(&chain.close(Epoch(2)), vec![verdict], &[]).unwrap();
    assert!(matches!(faults[..], [Fault::Witness { offence: Offence::Contradiction, .. }]));
    let mut fold = Fold::new(rules(world()), Epoch(2));
    assert!(fold.fold(&world().sets, &set).unwrap().is_empty());
}

/// A true signature of holder 0, of something else.
fn holder_signature() -> echonet_protocol::identity::Signature {
    let challenge = world().challenge(1, 2, made_up(1), None);
    world().answer(&holder(0), &challenge, 0, None).sig
}

#[test]
fn two_hostile_of_seven_do_not_hide_what_an_inventory_finds() {
    // 400 shards, 12 of them gone: 3 %. Hostile are the witnesses 0 and 1. They never ask for
    // what is gone, praise the holder for thousands of segments that nobody placed, and call
    // everybody else silent.
    let mut run = Run::new();
    let is_hostile = |epoch, segment: &_| world().asker(epoch, segment) < 2;
    let honest_turn = (0..).find(|n| !is_hostile(0, &due(world(), 0, 0, n + 1)[*n])).unwrap();
    let segment = due(world(), 0, 0, honest_turn + 1)[honest_turn];
    run.fold_reports(&[Report::new(world().asker(0, &segment), segment, vec![(0, 0, Absent)])]);
    assert_eq!(run.fold.inventories(), [holder(0).node_id()]);
    let mut reports = Vec::new();
    for n in 0..400 {
        let segment = made_up(9 << 32 | n);
        let (asker, outcome) = (world().asker(1, &segment), if n < 12 { Absent } else { Pass });
        if asker >= 2 {
            let results = vec![(0, 0, outcome)];
            reports.push(Report { inventory: Some(0), ..Report::new(asker, segment, results) });
        }
    }
    let mut made = 0;
    for n in 0.. {
        let segment = made_up(10 << 32 | n);
        let asker = world().asker(1, &segment);
        if asker < 2 {
            made += 1;
            let results = vec![(0, 0, Pass)];
            reports.push(Report { inventory: Some(0), ..Report::new(asker, segment, results) });
        }
        if made == 3000 {
            break;
        }
    }
    run.fold_reports(&reports);
    let word = run.word();
    assert!(word.held < 700, "3000 made-up passes count as little: {word:?}");
    assert!(word.lost >= 6, "{word:?}");
    assert_eq!(word.standing, Standing::Disqualified);
}

#[test]
fn who_drops_shards_is_found_in_the_time_that_chance_allows() {
    for (permille, worst) in [(10_u64, 400), (50, 80), (200, 20)] {
        // A holder of 100 full shards at 1 % an epoch: each is asked for with 0.9975 % an epoch,
        // so a first loss comes after 1 / (100 * share * 0.009975) epochs in the mean.
        let slow = crate::rig::slow_world();
        let mut sum = 0;
        for holder in 0..12_u64 {
            let gone = (0..100).filter(|n| n % (1000 / permille) == 0);
            let gone: Vec<_> = gone.map(|n| made_up(holder << 40 | n)).collect();
            // Every twelfth holder looks at its own series of epochs, for the beacons' sake few.
            let found = (0..600_u64).find(|epoch| {
                gone.iter().any(|segment| {
                    slow.is_due(*epoch, segment, 3_355_444) && slow.asker(*epoch, segment) >= 2
                })
            });
            sum += found.unwrap_or(600);
        }
        let mean = 1_000_000 * 7 / (100 * permille * 10 * 5);
        let found = sum / 12;
        assert!((mean / 3..mean * 5 / 2).contains(&found), "{permille}: {found}, not about {mean}");
        assert!(found < worst);
    }
}

#[test]
fn a_signed_verdict_of_a_stranger_counts_for_nothing() {
    let segment = due(world(), 2, 0, 1)[0];
    let report = Report::new(world().asker(2, &segment), segment, all(Absent));
    let said = said(world(), &mut chains(world()), 2, std::slice::from_ref(&report));
    let mut others = world().genesis.clone();
    others.witness.set.remove(report.witness);
    others.witness.beacon_shares.remove(report.witness);
    let sets = echonet_protocol::audit::WitnessSets::new(&others);
    let mut fold = Fold::new(rules(world()), Epoch(2));
    assert!(fold.fold(&sets, &seal(world(), 2, &said)).unwrap().is_empty());
    let mut foreign = said[report.witness].1[0].clone();
    foreign.body.network = crate::rig::slow_world().network;
    let foreign = Signed::new(&world().witnesses[report.witness], foreign.body);
    let mut set = SealedSet::new(world().network, Epoch(2), Some(world().beacon(2)));
    assert!(set.add(&said[report.witness].0, vec![foreign], &[]).is_err());
}

#[test]
fn late_digests_change_nothing_any_more() {
    let is_open = |now| SealedSet::is_open(Epoch(5), Epoch(now));
    assert_eq!([4, 5, 21, 22].map(is_open), [true, true, true, false]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Whatever two hostile members say without an honest holder's signature against itself:
    /// silence, passes that it did sign, inventories that nobody needs, segments that are not due.
    #[test]
    fn two_hostile_of_seven_change_no_honest_score(
        hostile in prop::sample::subsequence((0..7_usize).collect::<Vec<_>>(), 2),
        lies in prop::collection::vec((0..2_usize, 0..40_u64, any::<bool>(), any::<bool>()), 0..40),
    ) {
        let mut fold = Fold::new(rules(world()), Epoch(2));
        let mut chains = chains(world());
        for epoch in 2..5 {
            let mut reports: Vec<Report> = due(world(), epoch, 0, 10)
                .iter()
                .map(|s| Report::new(world().asker(epoch, s), *s, all(Pass)))
                .filter(|report| !hostile.contains(&report.witness))
                .collect();
            for (liar, n, is_silent, is_inventory) in &lies {
                let results = all(if *is_silent { Silent } else { Pass });
                let report = Report::new(hostile[*liar], made_up(*n), results);
                let one = Report { results: report.results[..1].to_vec(), inventory: Some(0), ..report.clone() };
                reports.push(if *is_inventory { one } else { report });
            }
            let said = said(world(), &mut chains, epoch, &reports);
            fold.fold(&world().sets, &seal(world(), epoch, &said)).unwrap();
        }
        for (_, word) in fold.words() {
            prop_assert_eq!((word.audit, word.online, word.lost, word.held), (10_000, 10_000, 0, 0));
        }
    }
}
