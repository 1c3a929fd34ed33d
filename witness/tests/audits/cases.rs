//! Evidence: that it convicts whom it should, nobody else, and that no bit of it can be changed.

use echonet_protocol::{
    audit::{AuditVerdict, Outcome},
    bytes::Nonce,
    data::rows::Rows,
    identity::{Identity, Signed},
    inconsistency::LeafSlice,
    lease::{Grant, Lease, Receipt},
    time::Epoch,
};
use echonet_witness::{
    evidence::{Case, Evidence, EvidenceError, Fault, Offence, OverGrant},
    verify,
};

use crate::rig::{Placed, Report, audit, chains, due, holder, honest, identity, say, world};

fn holders() -> Vec<Identity> {
    (0..5).map(holder).collect()
}

fn placed() -> Placed {
    world().placed("a case", &holders())
}

/// A case in which holder 1 sends another leaf and holder 3 has nothing.
pub(crate) fn case() -> Case {
    case_of(honest)
}

fn case_of(call: impl Fn(u8, bool) -> Outcome) -> Case {
    let (world, placed) = (world(), placed());
    let mut chain = chains(world).remove(0);
    let give = |index: u8, leaf: u64| match index {
        1 => Some(placed.slice(0, leaf)),
        3 => None,
        _ => Some(placed.slice(index, leaf)),
    };
    let (verdict, slices) = audit(world, &mut chain, (0, 5), &placed, give, call);
    Case { v: 1, verdict, placement: placed.record.encode(), slices }
}

fn against(index: u8, outcome: Outcome) -> Fault {
    let (holder, segment) = (holder(usize::from(index)).node_id(), placed().segment());
    Fault::Holder { holder, segment, index, outcome }
}

fn lie(offence: Offence) -> Fault {
    Fault::Witness { witness: world().witnesses[0].node_id(), epoch: Epoch(5), offence }
}

#[test]
fn a_case_convicts_by_the_holders_own_words() {
    let bytes = case().encode();
    let checked = Case::decode(&bytes, &world().network, &Rows).unwrap();
    assert_eq!(checked.faults, [against(1, Outcome::Wrong), against(3, Outcome::Absent)]);
    assert_eq!(checked.proven, [0, 2, 4]);
    // Without what came there is only the signed null.
    let bare = Case { slices: vec![], ..case() };
    let checked = bare.check(&world().network, &Rows).unwrap();
    assert_eq!((checked.faults, checked.proven), (vec![against(3, Outcome::Absent)], vec![]));
}

#[test]
fn every_changed_bit_of_a_case_is_refused() {
    let bytes = case().encode();
    for bit in 0..bytes.len() * 8 {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let error = Case::decode(&changed, &world().network, &Rows).err();
        assert!(error.is_some_and(|e| !e.to_string().is_empty()), "bit {bit} went unseen");
    }
    for len in 0..bytes.len() {
        assert!(Case::decode(&bytes[..len], &world().network, &Rows).is_err());
    }
}

#[test]
fn every_changed_bit_of_a_verdict_is_refused() {
    let bytes = case().verdict.encode();
    for bit in 0..bytes.len() * 8 {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let error = Signed::<AuditVerdict>::decode(&changed, &world().network).err();
        assert!(error.is_some_and(|e| !e.to_string().is_empty()), "bit {bit} went unseen");
    }
}

#[test]
fn a_false_pass_and_a_false_wrong_convict_the_witness() {
    let faults = |call: fn(u8, bool) -> Outcome| {
        case_of(call).check(&world().network, &Rows).unwrap().faults
    };
    let absent = against(3, Outcome::Absent);
    assert_eq!(faults(|_, _| Outcome::Pass), [lie(Offence::FalsePass), absent.clone()]);
    let wrong = faults(|_, _| Outcome::Wrong);
    assert!(wrong.contains(&lie(Offence::Contradiction)) && wrong.contains(&absent));
    assert!(!wrong.contains(&against(0, Outcome::Wrong)), "a lie convicts no holder");
}

#[test]
fn what_a_witness_made_up_convicts_it_alone() {
    let resigned = |change: &dyn Fn(&mut AuditVerdict)| {
        let mut case = case();
        change(&mut case.verdict.body);
        case.verdict = Signed::new(&world().witnesses[0], case.verdict.body);
        Evidence::Case(Box::new(case)).check(&world().network, &Rows)
    };
    let convicted = Ok(vec![lie(Offence::Contradiction)]);
    assert_eq!(resigned(&|v| v.results[3].sig = v.results[0].sig), convicted);
    assert_eq!(resigned(&|v| v.leaf = (v.leaf + 1) % 3), convicted);
    assert_eq!(resigned(&|v| v.challenge.sig.0[9] ^= 1), convicted);
    // Another length is another leaf, or none of the placement's.
    assert_eq!(resigned(&|v| v.length = 2501), convicted);
    let stranger = |v: &mut AuditVerdict| v.results[3].holder = holder(9).node_id();
    assert_eq!(resigned(&stranger), convicted);
}

#[test]
fn parts_of_two_cases_do_not_mix() {
    let check = |case: &Case| case.check(&world().network, &Rows).unwrap_err();
    let other = world().placed("another", &holders()).record.encode();
    assert!(check(&Case { placement: other, ..case() }).to_string().contains("another segment"));
    let mut swapped = case();
    swapped.slices[0].slice = swapped.slices[2].slice.clone();
    assert!(check(&swapped).to_string().contains("not the one signed"));
    let mut twice = case();
    twice.slices.insert(1, twice.slices[0].clone());
    assert!(check(&twice).to_string().contains("ascending"));
    let mut more = case();
    more.slices.insert(3, LeafSlice { index: 3, slice: vec![1] });
    assert!(check(&more).to_string().contains("not the one signed"));
    let moved = world().placed("a case", &(1..6).map(holder).collect::<Vec<_>>());
    let error = check(&Case { placement: moved.record.encode(), ..case() });
    assert!(error.to_string().contains("another placement"), "{error}");
    assert!(matches!(check(&Case { v: 2, ..case() }), EvidenceError::Mismatch(_)));
}

fn evidence(evidence: &Evidence) -> Result<Vec<Fault>, EvidenceError> {
    let read = Evidence::decode(&evidence.encode()).unwrap();
    assert_eq!((&read, read.hash()), (evidence, evidence.hash()));
    read.check(&world().network, &Rows)
}

/// Two stories of the first witness, and its two digests.
fn two_stories() -> [Evidence; 2] {
    let (mut one, mut other) = (chains(world()).remove(0), chains(world()).remove(0));
    let [a, b] = [0, 1]
        .map(|series| Report::new(0, due(world(), 5, series, 1)[0], vec![(0, 0, Outcome::Pass)]));
    let mut verdicts = [say(world(), &mut one, 5, &a), say(world(), &mut other, 5, &b)];
    let mut digests = [one.close(Epoch(5)), other.close(Epoch(5))];
    verdicts.sort_by_key(Signed::hash);
    digests.sort_by_key(Signed::hash);
    let [low, high] = verdicts.map(Box::new);
    let fork = Evidence::Fork(low, high);
    let [low, high] = digests.map(Box::new);
    [fork, Evidence::Digests(low, high)]
}

#[test]
fn every_changed_bit_of_evidence_is_refused() {
    let [fork, digests] = two_stories();
    for sample in [fork, digests, over(1, &[(0, 0)])] {
        assert!(evidence(&sample).is_ok());
        let bytes = sample.encode();
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let read = Evidence::decode(&changed).ok();
            let faults = read.and_then(|e| e.check(&world().network, &Rows).ok());
            assert_eq!(faults, None, "bit {bit} went unseen");
        }
    }
}

#[test]
fn forks_and_second_digests_convict() {
    let world = world();
    let (mut one, mut other) = (chains(world).remove(0), chains(world).remove(0));
    let [a, b] = [0, 1]
        .map(|series| Report::new(0, due(world, 5, series, 1)[0], vec![(0, 0, Outcome::Pass)]));
    let (first, second) = (say(world, &mut one, 5, &a), say(world, &mut other, 5, &b));
    let mut pair = [first.clone(), second];
    pair.sort_by_key(Signed::hash);
    let [low, high] = pair.map(Box::new);
    let fork = Evidence::Fork(low.clone(), high.clone());
    assert_eq!(evidence(&fork), Ok(vec![lie(Offence::Fork)]));
    assert!(evidence(&Evidence::Fork(high, low)).is_err(), "one form only");
    let next = say(world, &mut one, 5, &b);
    let linked = Evidence::Fork(Box::new(first), Box::new(next));
    assert_eq!(evidence(&linked), Err(EvidenceError::Innocent));
    let digests = |one: &mut echonet_witness::verdicts::Chain, epoch| {
        let mut pair = [one.close(Epoch(5)), other.clone().close(Epoch(epoch))];
        pair.sort_by_key(Signed::hash);
        let [low, high] = pair.map(Box::new);
        Evidence::Digests(low, high)
    };
    assert_eq!(evidence(&digests(&mut one.clone(), 5)), Ok(vec![lie(Offence::TwoDigests)]));
    assert_eq!(evidence(&digests(&mut one, 6)), Err(EvidenceError::Innocent));
}

/// Receipts of 2,500 bytes for ten epochs, under a grant of so many byte-epochs.
fn over(byte_epochs: u64, shards: &[(u8, usize)]) -> Evidence {
    let (network, owner, placed) = (world().network, identity(2), placed());
    let grant = Signed::new(
        &identity(1),
        Grant {
            v: 1,
            network,
            issuer: identity(1).node_id(),
            owner: owner.node_id(),
            byte_epochs,
            until: Epoch(500),
            serial: 1,
        },
    );
    let lease = Signed::new(
        &owner,
        Lease {
            v: 1,
            network,
            segment: placed.segment(),
            owner: owner.node_id(),
            from: Epoch(0),
            until: Epoch(10),
            grant: Some(grant.hash()),
            nonce: Nonce([0; 16]),
            standing: false,
        },
    );
    let receipt = |(index, by): &(u8, usize)| {
        let body = Receipt {
            v: 1,
            network,
            lease: lease.hash(),
            segment: placed.segment(),
            index: *index,
            shard: placed.record.descriptor.shards[usize::from(*index)],
            length: 2500,
            holder: holder(*by).node_id(),
            from: Epoch(0),
            until: Epoch(10),
            placement_version: 1,
        };
        (lease.clone(), Signed::new(&holder(*by), body))
    };
    let held = shards.iter().map(receipt).collect();
    Evidence::Overgrant(Box::new(OverGrant { grant, held }))
}

#[test]
fn more_than_was_granted_convicts_the_owner() {
    let eight: Vec<(u8, usize)> = (0..4).map(|i| (i, usize::from(i))).collect();
    // Four shards are 100,000 byte-epochs.
    assert_eq!(evidence(&over(8 * 25_000, &eight)), Err(EvidenceError::Innocent));
    let faults = evidence(&over(99_999, &eight)).unwrap();
    assert!(matches!(faults[0], Fault::Owner { owner, .. } if owner == identity(2).node_id()));
    assert_eq!(faults.len(), 5, "and each holder took more than an eighth");
    // A shard that moved was used once; its holders count it each.
    let moved = [(0, 0), (0, 1), (0, 2)];
    assert_eq!(evidence(&over(8 * 25_000, &moved)), Err(EvidenceError::Innocent));
    assert_eq!(evidence(&over(8 * 25_000 - 8, &moved)).unwrap().len(), 3);
    // The same receipt twice is one.
    assert_eq!(evidence(&over(8 * 25_000, &[(0, 0), (0, 0)])), Err(EvidenceError::Innocent));
    let Evidence::Overgrant(mut foreign) = over(1, &eight) else { unreachable!() };
    foreign.grant = Signed::new(&identity(1), Grant { serial: 2, ..foreign.grant.body });
    assert!(evidence(&Evidence::Overgrant(foreign)).is_err(), "under another grant");
}

#[test]
fn a_row_that_is_no_codeword_convicts_its_publisher() {
    let good = placed();
    let row = |placed: &Placed, leaf| {
        let slices: Vec<LeafSlice> =
            (0..5).map(|index| LeafSlice { index, slice: placed.slice(index, leaf) }).collect();
        verify::not_a_codeword(&placed.record.descriptor, leaf, &slices, &Rows)
    };
    assert_eq!(row(&good, 2), None);
    for damaged in 0..5 {
        let mut shards = good.shards.clone();
        shards[damaged][2100] ^= 1;
        let bad = world().place(shards, &holders());
        assert_eq!(row(&bad, 0), None, "another row");
        let proof = row(&bad, 2).unwrap();
        let fault = Fault::Publisher { segment: bad.segment() };
        assert_eq!(evidence(&Evidence::Row(Box::new(proof))), Ok(vec![fault]));
    }
    let two: Vec<LeafSlice> =
        (0..2).map(|index| LeafSlice { index, slice: good.slice(index, 0) }).collect();
    assert_eq!(verify::not_a_codeword(&good.record.descriptor, 0, &two, &Rows), None, "too few");
}
