//! Chains of verdicts, their forks, their digests, and what is forgotten.

use echonet_protocol::{
    audit::{AuditDigest, AuditVerdict, Outcome},
    bytes::RecordHash,
    identity::Signed,
    time::Epoch,
};
use echonet_witness::{
    unproven::Reaudited,
    verdicts::{
        Chain, CheckedVerdict, Contradiction, DigestError, Item, Kept, VerdictError, check_digest,
        forgettable, is_fork,
    },
};

use crate::rig::{Report, chains, due, say, world};

/// Three verdicts of the first witness in epoch 5, and its digest.
fn three() -> (Chain, Vec<Signed<AuditVerdict>>, Signed<AuditDigest>) {
    let world = world();
    let mut chain = chains(world).remove(0);
    let verdicts = (0..3).map(|series| {
        let segment = due(world, 5, series, 1)[0];
        let results = vec![(0, 0, Outcome::Pass), (3, 1, Outcome::Absent), (4, 2, Outcome::Silent)];
        say(world, &mut chain, 5, &Report::new(0, segment, results))
    });
    let verdicts: Vec<_> = verdicts.collect();
    let digest = chain.close(Epoch(5));
    (chain, verdicts, digest)
}

#[test]
fn a_chain_links_each_verdict_to_the_one_before() {
    let (mut chain, verdicts, digest) = three();
    let sequences: Vec<u64> = verdicts.iter().map(|v| v.body.sequence).collect();
    assert_eq!(sequences, [1, 2, 3]);
    assert_eq!(verdicts[0].body.previous, None);
    assert_eq!(verdicts[2].body.previous, Some(verdicts[1].hash()));
    assert_eq!((digest.body.first, digest.body.count), (1, 3));
    check_digest(&digest.body, &verdicts).unwrap();
    let empty = chain.close(Epoch(6));
    assert_eq!((empty.body.first, empty.body.count, empty.body.last), (4, 0, digest.body.last));
    check_digest(&empty.body, &[]).unwrap();
    let never = chains(world()).remove(1).close(Epoch(5));
    assert_eq!((never.body.first, never.body.last), (1, None));
}

#[test]
fn a_chain_goes_on_where_it_ended() {
    let (mut chain, verdicts, digest) = three();
    let (world, report) =
        (world(), Report::new(0, due(world(), 5, 9, 1)[0], vec![(0, 0, Outcome::Pass)]));
    let resumed = |running| {
        let identity = world.witnesses[0].clone();
        Chain::resume(identity, world.network, &verdicts, Epoch(running))
    };
    assert_eq!(resumed(5).close(Epoch(5)), digest);
    let next = say(world, &mut chain, 6, &report);
    assert_eq!(say(world, &mut resumed(6), 6, &report), next);
    assert_eq!(next.body.sequence, 4);
}

#[test]
fn two_stories_are_a_fork() {
    let (_, verdicts, _) = three();
    let (world, mut other) = (world(), chains(world()).remove(0));
    let report = Report::new(0, due(world, 5, 9, 1)[0], vec![(0, 0, Outcome::Pass)]);
    let first = say(world, &mut other, 5, &report);
    let second = say(world, &mut other, 5, &report);
    assert!(is_fork(&verdicts[0], &first), "one sequence, two verdicts");
    assert!(is_fork(&verdicts[0], &second) && is_fork(&second, &verdicts[0]), "not linked");
    assert!(!is_fork(&verdicts[0], &verdicts[0]));
    assert!(!is_fork(&verdicts[0], &verdicts[1]) && !is_fork(&verdicts[2], &verdicts[1]));
    assert!(!is_fork(&verdicts[0], &verdicts[2]));
    let mut stranger = chains(world).remove(1);
    let report = Report { witness: 1, ..report };
    assert!(!is_fork(&verdicts[0], &say(world, &mut stranger, 5, &report)));
}

#[test]
fn a_digest_stands_for_its_verdicts_alone() {
    let (_, verdicts, digest) = three();
    let body = &digest.body;
    assert_eq!(check_digest(body, &verdicts[..2]), Err(DigestError::Count { wanted: 3, found: 2 }));
    let mut swapped = verdicts.clone();
    swapped.swap(0, 1);
    assert!(matches!(check_digest(body, &swapped), Err(DigestError::Verdict { sequence: 1, .. })));
    let check = |change: &dyn Fn(&mut AuditDigest)| {
        let mut body = body.clone();
        change(&mut body);
        check_digest(&body, &verdicts).is_ok()
    };
    assert!(check(&|_| {}));
    assert!(!check(&|d| d.root = RecordHash([0; 32])));
    assert!(!check(&|d| d.last = Some(verdicts[1].hash())));
    assert!(!check(&|d| d.epoch = Epoch(6)));
    assert!(!check(&|d| d.first = 2));
    assert!(!check(&|d| d.witness = world().witnesses[1].node_id()));
    let mut unlinked = verdicts.clone();
    unlinked[1].body.previous = Some(RecordHash([0; 32]));
    assert!(matches!(check_digest(body, &unlinked), Err(DigestError::Verdict { sequence: 2, .. })));
}

#[test]
fn a_verdict_that_is_false_by_itself_is_told_from_a_forged_one() {
    let world = world();
    let (_, verdicts, _) = three();
    let resigned = |change: &dyn Fn(&mut AuditVerdict)| {
        let mut body = verdicts[0].body.clone();
        change(&mut body);
        CheckedVerdict::new(Signed::new(&world.witnesses[0], body), &world.network)
    };
    let false_by = |contradiction| {
        let witness = world.witnesses[0].node_id();
        Err(VerdictError::Contradiction { witness, contradiction })
    };
    assert!(resigned(&|_| {}).is_ok());
    assert_eq!(resigned(&|v| v.leaf ^= 1), false_by(Contradiction::Leaf));
    assert_eq!(resigned(&|v| v.challenge.sig.0[0] ^= 1), false_by(Contradiction::Challenge));
    assert_eq!(resigned(&|v| v.challenge.epoch = Epoch(6)), false_by(Contradiction::Challenge));
    let made_up = |v: &mut AuditVerdict| v.results[1].sig = v.results[0].sig;
    assert_eq!(resigned(&made_up), false_by(Contradiction::Answer(3)));
    // A signed null made into a pass is no longer what the holder signed.
    let turned = |v: &mut AuditVerdict| {
        v.results[1].outcome = Outcome::Pass;
        v.results[1].slice = v.results[0].slice;
    };
    assert_eq!(resigned(&turned), false_by(Contradiction::Answer(3)));
    let mut forged = verdicts[0].clone();
    forged.body.leaf ^= 1;
    let error = CheckedVerdict::new(forged, &world.network);
    assert!(matches!(error, Err(VerdictError::Record(_))));
}

#[test]
fn passes_are_forgotten_first() {
    let item = |epoch, kept, bytes| Item { epoch: Epoch(epoch), kept, bytes };
    let items = [
        item(97, Kept::PassProofs, 1),
        item(98, Kept::PassProofs, 1),
        item(0, Kept::OtherProofs, 1),
        item(0, Kept::PassVerdict, 1),
        item(10, Kept::OtherVerdict, 1 << 29),
        item(60, Kept::PassVerdict, 1 << 29),
        item(50, Kept::PassVerdict, 1 << 29),
        item(99, Kept::PassVerdict, 1 << 28),
    ];
    // Epochs of a day: evidence is kept for 90 of them.
    assert_eq!(forgettable(&items, Epoch(100), 86_400), [0, 2, 3, 5, 6]);
    assert_eq!(forgettable(&items[..5], Epoch(90), 86_400), [] as [usize; 0]);
    let others = [item(2, Kept::OtherVerdict, 1 << 30), item(1, Kept::OtherVerdict, 1)];
    assert_eq!(forgettable(&others, Epoch(3), 86_400), [1]);
}

#[test]
fn a_witness_whose_passes_are_mostly_unproven_is_named() {
    let (one, other) = (world().witnesses[0].node_id(), world().witnesses[1].node_id());
    let mut reaudited = Reaudited::new();
    for (witness, epoch, is_proven) in [(one, 1, false), (one, 5, true), (other, 2, true)] {
        reaudited.note(witness, Epoch(epoch), is_proven);
    }
    assert!(reaudited.unreliable(Epoch(5)).is_empty(), "half is not more than half");
    reaudited.note(one, Epoch(6), false);
    assert_eq!(reaudited.unreliable(Epoch(6)), [one]);
    assert_eq!(reaudited.unreliable(Epoch(24)), [one]);
    assert!(reaudited.unreliable(Epoch(25)).is_empty(), "epoch 1 is forgotten");
    assert_eq!(reaudited.unreliable(Epoch(29)), [one], "epoch 6 alone is left");
    assert!(reaudited.unreliable(Epoch(30)).is_empty());
}
