//! Where fewer than a quorum live, and enough to rebuild a shard.

use echonet_protocol::{
    agreement::{
        Answer, Ask, ProposeFailure, Proposer, ProposerConfig, ProposerInput, ProposerOutput,
        may_follow,
    },
    identity::NodeId,
    machine::{Machine, Millis},
    placement_record::{PlacementRecord, Strength},
};

use crate::{
    proposing::Table,
    sample::{Known, Placed, Sure, ask_promise, id},
};

/// What the three that are left of seven know.
fn three_left() -> Known {
    Known::lost(4..=7).unreachable(4..=7)
}

fn weak(table: &mut Table, reachable: &[u8], moves: &[(u8, u8)]) -> ProposerOutput {
    let record = table.placed.first.clone();
    let lost = moves.iter().map(|(index, _)| *index).collect();
    let reachable: Vec<NodeId> = reachable.iter().map(|n| id(*n)).collect();
    let (now, config) = (Millis(table.now), ProposerConfig::default());
    let made = Proposer::weak(now, config, id(1), record.clone(), lost, &reachable);
    let mut proposer = made.unwrap();
    match table.drive(1, &mut proposer) {
        ProposerOutput::Claimed => {}
        other => return other,
    }
    let receipts = table.placed.moved(&record, moves);
    proposer.handle(Millis(table.now), ProposerInput::Propose { receipts });
    table.drive(1, &mut proposer)
}

/// The second version by three of seven.
fn by_three() -> (Placed, PlacementRecord) {
    let mut table = Table::new((1, 6), &three_left());
    table.voters.retain(|n, _| *n <= 3);
    let output = weak(&mut table, &[1, 2, 3], &[(3, 10), (4, 11), (5, 12), (6, 13)]);
    let ProposerOutput::Committed { record, is_ours: true } = output else { panic!("{output:?}") };
    (table.placed, *record)
}

#[test]
fn three_of_seven_go_on() {
    let (placed, record) = by_three();
    assert_eq!((record.strength(), record.body.version), (Strength::Weak(3), 2));
    assert!(record.wins_over(&placed.first));
    // And agree as ever from there on: ten of the holders now are the three and the new ones.
    let mut voter = Sure::new(10, Some(&record), Known::default());
    let answer = voter.ask(0, 1, ask_promise(&record, 64, &[]));
    assert!(matches!(answer, Answer::Promise { .. }), "{answer:?}");
}

#[test]
fn nobody_signs_a_weak_version_while_a_quorum_lives() {
    let mut table = Table::new((1, 6), &Known::lost([4, 5, 6]).unreachable([4, 5, 6]));
    let output = weak(&mut table, &[1, 2, 3], &[(3, 10)]);
    let ProposerOutput::Failed(ProposeFailure::Refused { reason }) = output else {
        panic!("{output:?}")
    };
    assert!(reason.contains("a quorum lives"), "{reason}");
}

#[test]
fn a_scheme_whose_k_is_the_quorum_has_none() {
    let placed = Placed::new(10, 6);
    let config = ProposerConfig::default();
    let record = placed.first.clone();
    let made = Proposer::weak(Millis(0), config, id(1), record, vec![15], &[id(1)]);
    assert!(matches!(made, Err(ProposeFailure::Invalid(_))));
    let mut voter = Sure::new(2, Some(&placed.first), Known::lost(3..=16).unreachable(3..=16));
    let record = placed.first.encode().into();
    let answer = voter.ask(0, 1, Ask::Weak { record, lost: vec![15], change: None });
    assert!(matches!(answer, Answer::No { .. }), "{answer:?}");
}

#[test]
fn what_a_quorum_may_have_agreed_on_is_not_passed_over() {
    let mut table = Table::new((1, 6), &three_left());
    for n in 4..=7 {
        table.voters.get_mut(&n).unwrap().facts = three_left();
    }
    let output = table.propose(1, &[(3, 20)]);
    let ProposerOutput::Committed { record: agreed, .. } = output else { panic!("{output:?}") };
    // Three signed it, know nothing of its being agreed on, and are cut off.
    table.voters.retain(|n, _| *n <= 3);
    let output = weak(&mut table, &[1, 2, 3], &[(3, 10)]);
    assert!(matches!(output, ProposerOutput::Failed(ProposeFailure::Refused { .. })));
    let same = weak(&mut table, &[1, 2, 3], &[(3, 20)]);
    let ProposerOutput::Committed { record: weaker, .. } = same else { panic!("{same:?}") };
    assert_eq!(weaker.hash(), agreed.hash());
    assert!(agreed.wins_over(&weaker));
}

#[test]
fn one_holder_alone_hides_nobody_from_those_who_live() {
    // Node 1 writes a version of its own, with holders of its own.
    let mut table = Table::new((1, 6), &Known::lost(2..=7).unreachable(2..=7));
    table.voters.retain(|n, _| *n == 1);
    let moves: Vec<(u8, u8)> = (1..7).map(|index| (index, 20 + index)).collect();
    let output = weak(&mut table, &[1], &moves);
    let ProposerOutput::Committed { record: hostile, .. } = output else { panic!("{output:?}") };
    let first = &table.placed.first;
    assert!(hostile.wins_over(first), "it proves itself, as weak");
    assert!(hostile.holders_to_ask().contains(&(6, id(7))), "readers ask whom it passed over");
    // The others see each other live, and do not go by it.
    assert!(!hostile.binds(&id(2)) && !may_follow(&hostile, &id(2), &Known::default()));
    let alone = Known::default().unreachable([1, 3, 4, 5, 6, 7]);
    assert!(may_follow(&hostile, &id(2), &alone), "unless they are really gone");
    let mut table = Table::new((1, 6), &Known::lost([1]));
    let output = table.propose(2, &[(0, 9)]);
    let ProposerOutput::Committed { record: honest, .. } = output else { panic!("{output:?}") };
    assert!(honest.wins_over(&hostile) && may_follow(&honest, &id(3), &Known::default()));
}

#[test]
fn who_went_over_to_a_weak_version_is_of_no_use_to_a_quorum_of_those_before() {
    let (_, record) = by_three();
    let told = |over: &[u8]| Known {
        gone_over: over.iter().map(|n| id(*n)).collect(),
        ..Known::default()
    };
    // Everybody is there again. Four are as many as make a quorum.
    assert!(!may_follow(&record, &id(4), &told(&[1, 2, 3])));
    // Without one of them they agree on nothing ever, though all seven live.
    assert!(may_follow(&record, &id(4), &told(&[1, 2, 3, 7])));
}

#[test]
fn a_weak_version_that_keeps_a_voter_does_not_catch_it() {
    // Node 1 names node 2 beside its own creatures, without having asked it.
    let mut table = Table::new((1, 6), &Known::lost(3..=7).unreachable(2..=7));
    table.voters.retain(|n, _| *n == 1);
    let moves: Vec<(u8, u8)> = (2..7).map(|index| (index, 20 + index)).collect();
    let output = weak(&mut table, &[1], &moves);
    let ProposerOutput::Committed { record: hostile, .. } = output else { panic!("{output:?}") };
    let first = &table.placed.first;
    let mut voter = Sure::new(2, Some(first), Known::default());
    let answer = voter.ask(0, 1, ask_promise(&hostile, 64, &[]));
    let Answer::No { reason } = answer else { panic!("{answer:?}") };
    assert!(reason.contains("passes over lives"), "{reason}");
    assert_eq!(voter.record.as_ref(), Some(first));
}
