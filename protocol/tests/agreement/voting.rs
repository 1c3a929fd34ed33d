//! When a voter goes along, and what it remembers.

use echonet_protocol::{
    agreement::{
        Answer, Ask, Asked, At, Certificate, Change, Promise, VoterConfig, VoterOutput,
        room_elsewhere,
    },
    identity::{Signed, record_hash},
    machine::Millis,
    node_descriptor::Labels,
    placement::Site,
    placement_record::{PlacementRecord, PlacementSignature},
};

use crate::{
    sample::{Known, NETWORK, Placed, Sure, ask_promise, id, node},
    world::promise,
};

/// 2+3 at the nodes 1 to 5: three are a quorum. The shard of node 5 is lost.
fn placed() -> Placed {
    Placed::new(2, 3)
}

fn lost() -> Known {
    Known::lost([5])
}

fn no(answer: Answer) -> String {
    let Answer::No { reason } = answer else { panic!("{answer:?}") };
    reason
}

fn promised(answer: Answer) -> Signed<Promise> {
    let Answer::Promise { promise, .. } = answer else { panic!("{answer:?}") };
    *promise
}

/// Promises of some nodes that they signed nothing.
fn promises(record: &PlacementRecord, by: &[u8], ballot: u64) -> Vec<Signed<Promise>> {
    let mut promises: Vec<_> = by.iter().map(|n| promise(*n, record.hash(), ballot)).collect();
    promises.sort_by_key(|p| p.body.acceptor);
    promises
}

fn ask_backing(
    record: &PlacementRecord,
    ballot: u64,
    change: &Change,
    promises: Vec<Signed<Promise>>,
    certificate: Option<Certificate>,
) -> Ask {
    Ask::Backing { at: At::after(record), ballot, change: change.clone(), promises, certificate }
}

fn hash(record: &PlacementRecord, change: &Change) -> echonet_protocol::bytes::RecordHash {
    record_hash(&change.apply(record).unwrap().0)
}

/// A certificate by voters who know nothing of each other.
fn certificate(placed: &Placed, by: &[u8], ballot: u64, change: &Change) -> Certificate {
    let record = &placed.first;
    let backing = |n: &u8| {
        let mut voter = Sure::new(*n, Some(record), lost());
        let shown = promises(record, &[1, 2, 3], ballot);
        let from = u8::try_from(ballot % 64).unwrap() + 1;
        let answer = voter.ask(0, from, ask_backing(record, ballot, change, shown, None));
        let Answer::Backing(backing) = answer else { panic!("{answer:?}") };
        backing
    };
    let mut backings: Vec<PlacementSignature> = by.iter().map(backing).collect();
    backings.sort_by_key(|b| b.signer);
    Certificate { ballot, placement: hash(record, change), backings }
}

fn ask_signature(record: &PlacementRecord, change: &Change, certificate: &Certificate) -> Ask {
    let certificate = certificate.clone();
    Ask::Signature { at: At::after(record), change: change.clone(), certificate }
}

#[test]
fn a_promise_keeps_lower_ballots_out() {
    let placed = placed();
    let first = &placed.first;
    let mut voter = Sure::new(2, Some(first), lost());
    let given = promised(voter.ask(0, 1, ask_promise(first, 128, &[4])));
    given.verify(&NETWORK).unwrap();
    assert_eq!((given.body.acceptor, given.body.signed), (id(2), None));
    // The same again, before or after a restart; nothing lower.
    assert_eq!(promised(voter.ask(1, 1, ask_promise(first, 128, &[4]))), given);
    let mut voter = voter.restarted();
    assert_eq!(promised(voter.ask(2, 1, ask_promise(first, 128, &[4]))), given);
    for (from, lower) in [(1, 64), (3, 66)] {
        let answer = voter.ask(60_000, from, ask_promise(first, lower, &[4]));
        assert_eq!(answer, Answer::Higher { ballot: 128 });
        let change = placed.change(first, &[(4, 9)]);
        let ask = ask_backing(first, lower, &change, promises(first, &[1, 3, 4], lower), None);
        assert_eq!(voter.ask(60_000, from, ask), Answer::Higher { ballot: 128 });
    }
    // A ballot has one proposer, who is a holder.
    assert!(no(voter.ask(0, 3, ask_promise(first, 192, &[4]))).contains("another's"));
    assert!(no(voter.ask(0, 9, ask_promise(first, 192, &[4]))).contains("no holder"));
}

#[test]
fn a_body_is_backed_on_a_quorums_promises_only() {
    let placed = placed();
    let first = &placed.first;
    let change = placed.change(first, &[(4, 9)]);
    let mut voter = Sure::new(2, Some(first), lost());
    let mut ask =
        |shown: Vec<Signed<Promise>>| voter.ask(0, 1, ask_backing(first, 64, &change, shown, None));
    let good = promises(first, &[1, 2, 3], 64);
    assert!(no(ask(good[..2].to_vec())).contains("2 promises of 3"));
    let twice = vec![good[0].clone(), good[1].clone(), good[1].clone()];
    assert!(no(ask(twice)).contains("3 promises of 3"), "one counts once");
    assert!(no(ask(promises(first, &[1, 2, 3], 128))).contains("something else"));
    assert!(no(ask(promises(first, &[1, 2, 9], 64))).contains("not a holder's"));
    let mut forged = good.clone();
    forged[1].sig = forged[0].sig;
    assert!(no(ask(forged)).contains("does not verify"));
    let mut other = good.clone();
    for promise in &mut other {
        promise.body.previous.0[0] ^= 1;
    }
    assert!(no(ask(other)).contains("something else"));
    assert!(matches!(ask(good), Answer::Backing(_)));
}

#[test]
fn of_two_bodies_in_one_ballot_one_is_backed() {
    let placed = placed();
    let first = &placed.first;
    let (one, other) = (placed.change(first, &[(4, 9)]), placed.change(first, &[(4, 10)]));
    let mut voter = Sure::new(2, Some(first), lost());
    let ask = |change| ask_backing(first, 64, change, promises(first, &[1, 2, 3], 64), None);
    let backed = voter.ask(0, 1, ask(&one));
    assert!(matches!(backed, Answer::Backing(_)));
    assert!(no(voter.ask(0, 1, ask(&other))).contains("another body in this ballot"));
    let mut voter = voter.restarted();
    assert!(no(voter.ask(0, 1, ask(&other))).contains("another body in this ballot"));
    assert_eq!(voter.ask(0, 1, ask(&one)), backed);
    // Nor is a promise given anew for a ballot in which it took part.
    assert_eq!(voter.ask(0, 1, ask_promise(first, 64, &[4])), Answer::Higher { ballot: 64 });
    // In a higher one nothing keeps it from the other.
    let higher = ask_backing(first, 128, &other, promises(first, &[1, 2, 3], 128), None);
    assert!(matches!(voter.ask(0, 1, higher), Answer::Backing(_)));
}

#[test]
fn what_was_signed_is_shown_and_goes_on() {
    let placed = placed();
    let first = &placed.first;
    let (one, other) = (placed.change(first, &[(4, 9)]), placed.change(first, &[(4, 10)]));
    let proof = certificate(&placed, &[1, 2, 3], 64, &one);
    let mut signer = Sure::new(3, Some(first), lost());
    let answer = signer.ask(0, 1, ask_signature(first, &one, &proof));
    let Answer::Signature(signature) = answer else { panic!("{answer:?}") };
    assert!(signature.verify(&one.apply(first).unwrap().0, Some(64)));
    let mut signer = signer.restarted();
    let answer = signer.ask(0, 2, ask_promise(first, 129, &[4]));
    let Answer::Promise { promise: shown, locked: Some(locked) } = answer else { panic!() };
    assert_eq!(shown.body.signed, Some((64, hash(first, &one))));
    assert_eq!((&locked.certificate, &locked.change), (&proof, &one));
    locked.verify(first).unwrap();

    let mut all = promises(first, &[1, 4], 129);
    all.push(*shown);
    all.sort_by_key(|p| p.body.acceptor);
    // To this voter the shard is not lost; but it may be agreed on already.
    let mut voter = Sure::new(4, Some(first), Known::default());
    let mut ask = |change, proof: Option<&Certificate>| {
        voter.ask(0, 2, ask_backing(first, 129, change, all.clone(), proof.cloned()))
    };
    assert!(no(ask(&one, None)).contains("is not shown"));
    assert!(no(ask(&other, Some(&proof))).contains("another body may be agreed on"));
    let lied = certificate(&placed, &[1, 2, 3], 64, &other);
    assert!(no(ask(&other, Some(&lied))).contains("not what was signed last"));
    let mut thin = proof.clone();
    thin.backings.pop();
    assert!(no(ask(&one, Some(&thin))).contains("2 backings"));
    assert!(matches!(ask(&one, Some(&proof)), Answer::Backing(_)));
}

#[test]
fn nothing_is_signed_without_a_quorum_that_backs_it() {
    let placed = placed();
    let first = &placed.first;
    let (one, other) = (placed.change(first, &[(4, 9)]), placed.change(first, &[(4, 10)]));
    let proof = certificate(&placed, &[1, 2, 3], 64, &one);
    let mut voter = Sure::new(4, Some(first), lost());
    let mut ask =
        |change, proof: &Certificate| voter.ask(0, 1, ask_signature(first, change, proof));
    assert!(no(ask(&other, &proof)).contains("another body than was backed"));
    let with = |change: &dyn Fn(&mut Certificate)| {
        let mut proof = proof.clone();
        change(&mut proof);
        proof
    };
    assert!(no(ask(&one, &with(&|p| p.backings.truncate(2)))).contains("2 backings"));
    let twice = with(&|p| p.backings[1] = p.backings[0].clone());
    assert!(no(ask(&one, &twice)).contains("out of order"));
    assert!(no(ask(&one, &with(&|p| p.ballot = 128))).contains("does not verify"));
    let forged = with(&|p| p.backings[0].sig = p.backings[1].sig);
    assert!(no(ask(&one, &forged)).contains("does not verify"));
    assert!(matches!(ask(&one, &proof), Answer::Signature(_)));
    // Under what it promised.
    let mut voter = Sure::new(4, Some(first), lost());
    promised(voter.ask(0, 2, ask_promise(first, 129, &[4])));
    let late = voter.ask(0, 1, ask_signature(first, &one, &proof));
    assert_eq!(late, Answer::Higher { ballot: 129 });
}

#[test]
fn a_holder_is_replaced_only_for_a_reason_that_the_voter_knows_itself() {
    let placed = placed();
    let first = &placed.first;
    let change = placed.change(first, &[(4, 9)]);
    // (what the voter knows, who asks, whether it goes along)
    let unreachable = || Known::default().unreachable([5]);
    let urgent = |known: Known| Known { is_urgent: true, ..known };
    let cases = [
        (Known::default(), 1, false),
        (unreachable(), 1, false),
        (urgent(Known::default()), 1, false),
        (urgent(unreachable()), 1, true),
        (lost(), 1, true),
        (Known::lost([4]), 1, false),
        // It gives its own shard away.
        (Known::default(), 5, true),
    ];
    for (known, from, goes) in cases {
        let what = format!("{known:?} asked by {from}");
        let ballot = 63 + u64::from(from);
        let shown = promises(first, &[1, 2, 3], ballot);
        let mut voter = Sure::new(2, Some(first), known);
        let promise = voter.ask(0, from, ask_promise(first, ballot, &[4]));
        assert_eq!(matches!(promise, Answer::Promise { .. }), goes, "{what}: {promise:?}");
        let backing = voter.ask(0, from, ask_backing(first, ballot, &change, shown, None));
        assert_eq!(matches!(backing, Answer::Backing(_)), goes, "{what}: {backing:?}");
    }
    // One reason is none for another shard, nor for the voter's own.
    let mut voter = Sure::new(2, Some(first), lost());
    for moves in [&[(4, 9), (2, 10)][..], &[(4, 9), (1, 10)]] {
        let change = placed.change(first, moves);
        let shown = promises(first, &[1, 2, 3], 64);
        let answer = voter.ask(0, 1, ask_backing(first, 64, &change, shown, None));
        assert!(no(answer).contains("is not lost"));
    }
}

#[test]
fn a_shard_that_nobody_held_may_be_added() {
    let placed = placed();
    let first = &placed.first;
    // Version 2 without shard 4, then it is made again.
    let mut change = placed.change(first, &[]);
    change.holders.pop();
    let mut voter = Sure::new(2, Some(first), lost());
    let shown = |record, ballot| promises(record, &[1, 2, 3], ballot);
    let answer = voter.ask(0, 1, ask_backing(first, 64, &change, shown(first, 64), None));
    assert!(matches!(answer, Answer::Backing(_)), "{answer:?}");
    let (body, receipts) = change.apply(first).unwrap();
    let signers = [1, 2, 3].map(node);
    let signatures = signers.iter().map(|n| PlacementSignature::new(n, &body, Some(64)));
    let signatures = signatures.collect();
    let second = first.succeeded(body, receipts, Some(64), signatures).unwrap();
    let added = placed.change(&second, &[(4, 9)]);
    let mut voter = Sure::new(2, Some(&second), Known::default());
    let answer = voter.ask(0, 1, ask_backing(&second, 0, &added, shown(&second, 0), None));
    assert!(matches!(answer, Answer::Backing(_)), "{answer:?}");
}

#[test]
fn a_version_is_well_formed_and_its_receipts_verify() {
    let placed = placed();
    let first = &placed.first;
    let good = placed.change(first, &[(4, 9)]);
    let mut voter = Sure::new(2, Some(first), lost());
    let mut why = |change: &dyn Fn(&mut Change)| {
        let mut bad = good.clone();
        change(&mut bad);
        no(voter.ask(0, 1, ask_backing(first, 64, &bad, promises(first, &[1, 2, 3], 64), None)))
    };
    assert!(why(&|c| c.fresh.clear()).contains("no receipt for shard 4"));
    assert!(why(&|c| c.fresh.push(c.fresh[0].clone())).contains("too many"));
    assert!(why(&|c| c.fresh[0].sig.0[0] ^= 1).contains("does not verify"));
    assert!(why(&|c| c.fresh[0].body.lease.0[0] ^= 1).contains("another lease"));
    assert!(why(&|c| c.fresh[0].body.length += 1).contains("another length"));
    assert!(why(&|c| c.fresh[0].body.placement_version = 3).contains("later placement"));
    assert!(why(&|c| c.holders.swap(0, 1)).contains("ascending order"));
    // A holder of one shard takes another one.
    assert!(why(&|c| *c = placed.change(first, &[(4, 1)])).contains("one holder for two"));
    assert!(why(&|c| *c = placed.change(first, &[])).contains("nothing changes"));
    assert!(why(&|c| (c.holders.truncate(1), c.fresh.clear()).1).contains("1 holders"));
}

#[test]
fn no_datacenter_gets_more_than_m_unless_it_had() {
    // 2+1: one shard a datacenter.
    let placed = Placed::new(2, 1);
    let first = &placed.first;
    let change = placed.change(first, &[(2, 9)]);
    let ask = |in_one: &[u8]| {
        let in_one = in_one.iter().map(|n| id(*n)).collect();
        let mut voter = Sure::new(2, Some(first), Known { in_one, ..Known::lost([3]) });
        let shown = promises(first, &[1, 2], 64);
        voter.ask(0, 1, ask_backing(first, 64, &change, shown, None))
    };
    assert!(matches!(ask(&[9]), Answer::Backing(_)));
    assert!(no(ask(&[1, 9])).contains("2 shards in datacenter"));
    assert!(matches!(ask(&[1, 3, 9]), Answer::Backing(_)), "it had two before");
    assert!(no(ask(&[1, 2, 9])).contains("3 shards in datacenter"));
}

#[test]
fn room_elsewhere_is_no_more_than_so_many_in_each() {
    let site = |n: u8| {
        let labels = Labels { datacenter: format!("dc{}", n % 3), ..Labels::default() };
        Site { labels, observed_prefix: [n; 16] }
    };
    let sites: Vec<Site> = (0..12).map(site).collect();
    // Four nodes in each of three.
    assert_eq!(room_elsewhere("dc0", 3, sites.iter()), 6);
    assert_eq!(room_elsewhere("dc0", 9, sites.iter()), 8);
    // Two of three have no room for seven with three in each: four in one are better than six.
    assert_eq!(room_elsewhere("dc0", 3, sites.iter().filter(|s| s.labels.datacenter != "dc2")), 3);
}

/// The second version of a placement, by its first three holders.
fn second(placed: &Placed, to: u8) -> PlacementRecord {
    let receipts = placed.moved(&placed.first, &[(4, to)]);
    let body = placed.first.next_body(&receipts);
    let signatures = [1, 2, 3].map(|n| PlacementSignature::new(&node(n), &body, Some(0)));
    placed.first.succeeded(body, receipts, Some(0), signatures.to_vec()).unwrap()
}

#[test]
fn whoever_is_behind_is_told_and_whoever_is_ahead_is_followed() {
    let placed = placed();
    let (first, second) = (&placed.first, second(&placed, 9));
    let mut ahead = Sure::new(2, Some(&second), lost());
    let newer = Answer::Newer { record: second.encode().into() };
    assert_eq!(ahead.ask(0, 1, ask_promise(first, 64, &[4])), newer);
    let change = placed.change(first, &[(4, 10)]);
    let ask = ask_backing(first, 64, &change, promises(first, &[1, 2, 3], 64), None);
    assert_eq!(ahead.ask(0, 1, ask), newer);
    // One that knows only the first version goes by the second when it is shown it.
    let mut behind = Sure::new(2, Some(first), lost());
    promised(behind.ask(0, 1, ask_promise(first, 640, &[4])));
    promised(behind.ask(0, 1, ask_promise(&second, 64, &[])));
    assert_eq!(behind.record.as_ref(), Some(&second), "it is adopted before it is answered");
    assert_eq!(behind.ask(0, 1, ask_promise(first, 704, &[4])), newer);
    // It must hold, and name the voter.
    let mut forged = second.clone();
    forged.signatures.pop();
    let mut behind = Sure::new(2, Some(first), lost());
    assert!(no(behind.ask(0, 1, ask_promise(&forged, 64, &[]))).contains("2 of 3 needed"));
    let mut passed = Sure::new(5, Some(first), lost());
    assert!(no(passed.ask(0, 1, ask_promise(&second, 64, &[]))).contains("does not name"));
    // Without the record nothing further is asked.
    let mut stranger = Sure::new(2, None, lost());
    let ask = ask_backing(first, 64, &change, promises(first, &[1, 2, 3], 64), None);
    assert!(no(stranger.ask(0, 1, ask)).contains("no such placement"));
}

#[test]
fn nothing_leaves_before_it_is_durable() {
    let placed = placed();
    let first = &placed.first;
    let mut sure = Sure::new(2, Some(first), lost());
    let voter = &mut sure.voter;
    let ask = |voter: &mut echonet_protocol::agreement::Voter, ticket| {
        let ask = ask_promise(first, 64, &[4]);
        voter.ask(Millis(0), Asked { ticket, from: id(1), ask }, Some(first), &lost());
        let mut outputs = Vec::new();
        while let Some(output) = voter.poll() {
            outputs.push(output);
        }
        outputs
    };
    let is_persist = |outputs: &[VoterOutput]| matches!(outputs, [VoterOutput::Persist { .. }]);
    assert!(is_persist(&ask(voter, 1)));
    // Asked again meanwhile: that answer waits as well.
    assert!(is_persist(&ask(voter, 2)));
    voter.not_persisted(1);
    voter.not_persisted(2);
    for _ in 0..2 {
        let Some(VoterOutput::Answer { answer, .. }) = voter.poll() else { panic!() };
        assert!(no(*answer).contains("does not take the vote"));
    }
    // What is not on the disk is not said, though it is remembered.
    assert!(is_persist(&ask(voter, 3)));
    voter.persisted(3);
    assert!(matches!(voter.poll(), Some(VoterOutput::Answer { .. })));
    assert!(matches!(&ask(voter, 4)[..], [VoterOutput::Answer { .. }]), "it is durable now");
}

#[test]
fn while_one_moves_shards_others_wait_but_not_for_ever() {
    let placed = placed();
    let first = &placed.first;
    let config = VoterConfig { hold_ms: 100, hold_total_ms: 250, ..VoterConfig::default() };
    let mut voter = Sure::with(4, Some(first), lost(), config);
    promised(voter.ask(0, 1, ask_promise(first, 64, &[4])));
    let held = voter.ask(40, 2, ask_promise(first, 129, &[4]));
    assert_eq!(held, Answer::Held { for_ms: 60 });
    for now in [90, 180, 270] {
        promised(voter.ask(now, 1, ask_promise(first, 64, &[4])));
    }
    // Its time is used up: it may go on, but keeps nobody out any more.
    promised(voter.ask(360, 1, ask_promise(first, 64, &[4])));
    promised(voter.ask(380, 2, ask_promise(first, 129, &[4])));
    let held = voter.ask(381, 1, ask_promise(first, 192, &[4]));
    assert!(matches!(held, Answer::Held { .. }), "{held:?}");
    // The turn of one that died ends.
    promised(voter.ask(600, 3, ask_promise(first, 194, &[4])));
}

#[test]
fn nobody_uses_the_ballots_up() {
    let placed = placed();
    let first = &placed.first;
    let mut voter = Sure::new(2, Some(first), lost());
    let huge = u64::MAX / 64 * 64;
    let Answer::TooHigh { ballot } = voter.ask(0, 1, ask_promise(first, huge, &[4])) else {
        panic!("it promised the last ballot");
    };
    let below = ballot / 64 * 64;
    promised(voter.ask(0, 1, ask_promise(first, below, &[4])));
    let Answer::TooHigh { ballot: next } = voter.ask(0, 1, ask_promise(first, huge, &[4])) else {
        panic!("it promised the last ballot");
    };
    assert!(next > ballot && u64::MAX / (next - ballot) > 10_000_000);
}

#[test]
fn who_may_have_forgotten_abstains_until_the_next_version() {
    let placed = placed();
    let (first, second) = (&placed.first, second(&placed, 9));
    let mut voter = Sure::new(2, Some(first), lost());
    voter.voter.abstain(first);
    voter.drain();
    let mut voter = voter.restarted();
    assert!(no(voter.ask(0, 1, ask_promise(first, 64, &[4]))).contains("abstains"));
    promised(voter.ask(0, 1, ask_promise(&second, 64, &[])));
}

#[test]
fn what_is_over_is_forgotten_and_what_was_passed_over_is_not() {
    let placed = placed();
    let (first, second) = (&placed.first, second(&placed, 9));
    // Named by the next version: its vault knows.
    let mut voter = Sure::new(2, Some(first), lost());
    promised(voter.ask(0, 1, ask_promise(first, 64, &[4])));
    assert_eq!((voter.voter.remembered(), voter.rows.len()), (1, 1));
    voter.record = Some(second.clone());
    voter.voter.follow(&second);
    voter.drain();
    assert_eq!((voter.voter.remembered(), voter.rows.len()), (0, 0));
    // Not named: its vault may forget the record, it does not forget that it is over.
    let mut passed = Sure::new(5, Some(first), lost());
    promised(passed.ask(0, 1, ask_promise(first, 64, &[4])));
    passed.voter.follow(&second);
    passed.drain();
    passed.record = None;
    let mut passed = passed.restarted();
    assert!(no(passed.ask(0, 1, ask_promise(first, 128, &[4]))).contains("followed by another"));
    // Until the lease is over.
    passed.voter.epoch(echonet_protocol::time::Epoch(999));
    passed.drain();
    assert_eq!(passed.rows.len(), 1);
    passed.voter.epoch(echonet_protocol::time::Epoch(1000));
    passed.drain();
    assert_eq!((passed.voter.remembered(), passed.rows.len()), (0, 0));
    let mut late = Sure::new(2, Some(first), Known { epoch: 1000, ..lost() });
    assert!(no(late.ask(0, 1, ask_promise(first, 64, &[4]))).contains("lease is over"));
}

#[test]
fn what_is_remembered_is_bounded() {
    let config = VoterConfig { states_max: 1, ..VoterConfig::default() };
    let (one, other) = (Placed::new(2, 3), Placed::new(3, 2));
    let mut voter = Sure::with(2, None, lost(), config);
    promised(voter.ask(0, 1, ask_promise(&one.first, 64, &[4])));
    let full = voter.ask(0, 1, ask_promise(&other.first, 64, &[4]));
    assert!(no(full).contains("too many votes"));
    // What had to be forgotten is not voted on.
    let mut voter = Sure::with(5, None, lost(), config);
    promised(voter.ask(0, 1, ask_promise(&other.first, 64, &[4])));
    voter.voter.follow(&second(&one, 9));
    voter.drain();
    let answer = voter.ask(0, 1, ask_promise(&one.first, 64, &[4]));
    assert!(no(answer).contains("abstains from what it does not know"));
}
