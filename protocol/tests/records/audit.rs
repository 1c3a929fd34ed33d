//! Samples of the audit records, and the rules of theirs that bytes alone do not show.

use echonet_protocol::{
    audit::{
        AuditAnswer, AuditChallenge, AuditDigest, AuditResult, AuditVerdict, Maintenance, Outcome,
        VerdictChallenge, WitnessSet, WitnessSetBody, WitnessSets,
    },
    bytes::{BeaconKey, BeaconSignature, RecordHash, SliceHash},
    identity::{Identity, NodeId, Record, Signed},
    network::{Genesis, QUICKNET_CHAIN, WitnessParams},
    params,
    time::Epoch,
};

use crate::sample::{self, holder, identity};

/// Seven witnesses, by ascending NodeID.
pub(crate) fn witnesses() -> Vec<Identity> {
    let mut witnesses: Vec<Identity> = (200..207).map(identity).collect();
    witnesses.sort_by_key(Identity::node_id);
    witnesses
}

fn ids(witnesses: &[Identity]) -> Vec<NodeId> {
    witnesses.iter().map(Identity::node_id).collect()
}

/// A network whose beacon is drand's, so that its witness set may change.
pub(crate) fn genesis() -> Genesis {
    let mut genesis = sample::genesis();
    genesis.witness = WitnessParams {
        set: ids(&witnesses()),
        drand_chain: QUICKNET_CHAIN.into(),
        beacon_key: vec![7; 96],
        ..genesis.witness
    };
    genesis
}

/// Set 1: the first witness left; signed by five of the seven.
pub(crate) fn witness_set() -> WitnessSet {
    signed_set(|_| {}, 5)
}

fn signed_set(change: impl Fn(&mut WitnessSetBody), signers: usize) -> WitnessSet {
    let network = genesis().network_id();
    let mut body = WitnessSetBody {
        v: 1,
        network,
        number: 1,
        previous: RecordHash(network.0),
        members: ids(&witnesses()[1..]),
        from: Epoch(48),
    };
    change(&mut body);
    let signatures = witnesses()[..signers].iter().map(|w| body.sign(w)).collect();
    WitnessSet { body, signatures }
}

pub(crate) fn maintenance() -> Signed<Maintenance> {
    let (node, network) = (holder(0).node_id(), sample::network());
    let body = Maintenance { v: 1, network, node, from: Epoch(120), until: Epoch(144) };
    Signed::new(&holder(0), body)
}

pub(crate) fn challenge() -> Signed<AuditChallenge> {
    let body = AuditChallenge {
        v: 1,
        network: sample::network(),
        witness: identity(200).node_id(),
        epoch: Epoch(130),
        segment: sample::placed().segment_id(),
        beacon: BeaconSignature([0x42; 48]),
        inventory: None,
    };
    Signed::new(&identity(200), body)
}

pub(crate) fn answer(index: u8, slice: Option<SliceHash>) -> Signed<AuditAnswer> {
    let body = AuditAnswer {
        v: 1,
        network: sample::network(),
        holder: holder(index).node_id(),
        challenge: challenge().hash(),
        segment: sample::placed().segment_id(),
        index,
        slice,
    };
    Signed::new(&holder(index), body)
}

/// One of every outcome.
pub(crate) fn verdict() -> Signed<AuditVerdict> {
    let result = |index: u8, outcome: Outcome| {
        let has_slice = matches!(outcome, Outcome::Pass | Outcome::Wrong);
        let slice = has_slice.then_some(SliceHash([index; 32]));
        let sig = outcome.is_signed().then(|| answer(index, slice).sig);
        AuditResult { index, holder: holder(index).node_id(), outcome, slice, sig }
    };
    let Signed { body, sig } = challenge();
    let body = AuditVerdict {
        v: 1,
        network: sample::network(),
        witness: body.witness,
        sequence: 300,
        previous: Some(RecordHash([3; 32])),
        challenge: VerdictChallenge {
            epoch: body.epoch,
            segment: body.segment,
            beacon: body.beacon,
            inventory: body.inventory,
            sig,
        },
        placement: sample::placement().hash(),
        length: 2500,
        leaf: 2,
        results: vec![
            result(0, Outcome::Pass),
            result(1, Outcome::Wrong),
            result(2, Outcome::Absent),
            result(4, Outcome::Silent),
        ],
    };
    Signed::new(&identity(200), body)
}

pub(crate) fn digest() -> Signed<AuditDigest> {
    let last = verdict().hash();
    let body = AuditDigest {
        v: 1,
        network: sample::network(),
        witness: identity(200).node_id(),
        epoch: Epoch(130),
        first: 300,
        count: 1,
        last: Some(last),
        root: AuditDigest::root_of(&[last]),
    };
    Signed::new(&identity(200), body)
}

fn refused<T: Record>(body: &T, change: impl FnOnce(&mut T)) {
    let mut body = body.clone();
    change(&mut body);
    assert!(body.check().is_err(), "{} taken", T::KIND);
}

#[test]
fn a_verdict_carries_its_challenge_and_answers() {
    let verdict = verdict();
    assert_eq!(verdict.body.challenge(), challenge());
    verdict.body.challenge().verify(&sample::network()).unwrap();
    for result in &verdict.body.results {
        match verdict.body.answer(result) {
            Some(answer) => answer.verify(&sample::network()).unwrap(),
            None => assert_eq!(result.outcome, Outcome::Silent),
        }
    }
    assert_eq!(verdict.body.result(4).map(|r| r.outcome), Some(Outcome::Silent));
    assert_eq!(verdict.body.result(3), None);
}

#[test]
fn malformed_verdicts_are_refused() {
    let body = verdict().body;
    body.check().unwrap();
    refused(&body, |b| b.sequence = 0);
    refused(&body, |b| b.sequence = 1);
    refused(&body, |b| b.previous = None);
    refused(&body, |b| b.length = 0);
    refused(&body, |b| b.length = (4 << 20) + 1);
    refused(&body, |b| b.leaf = 3);
    refused(&body, |b| b.results.clear());
    refused(&body, |b| b.results.swap(0, 1));
    refused(&body, |b| b.results[1].index = 0);
    refused(&body, |b| b.results[3].index = 64);
    refused(&body, |b| b.results[1].holder = b.results[0].holder);
    refused(&body, |b| b.challenge.inventory = Some(b.results[0].holder));
    refused(&body, |b| b.results[0].sig = None);
    refused(&body, |b| b.results[0].slice = None);
    refused(&body, |b| b.results[2].slice = Some(SliceHash([0; 32])));
    refused(&body, |b| b.results[2].sig = None);
    refused(&body, |b| b.results[3].sig = b.results[0].sig);
    let mut inventory = body;
    inventory.results.truncate(1);
    inventory.challenge.inventory = Some(inventory.results[0].holder);
    inventory.check().unwrap();
}

#[test]
fn the_longest_verdict_fits_its_bound() {
    let mut body = verdict().body;
    let sig = body.results[0].sig;
    let result = |index: u8| AuditResult {
        index,
        holder: sample::node_id(index + 1),
        outcome: Outcome::Pass,
        slice: Some(SliceHash([index; 32])),
        sig,
    };
    body.results = (0..64).map(result).collect();
    (body.sequence, body.challenge.epoch) = (u64::MAX, Epoch(u64::MAX));
    body.check().unwrap();
    assert!(Signed::new(&identity(200), body).encode().len() <= params::VERDICT_BYTES_MAX);
}

#[test]
fn malformed_digests_and_maintenances_are_refused() {
    let body = digest().body;
    refused(&body, |b| b.first = 0);
    refused(&body, |b| b.last = None);
    refused(&body, |b| b.first = u64::MAX);
    refused(&body, |b| b.count = 0);
    let mut none = body;
    (none.first, none.count, none.last, none.root) = (1, 0, None, AuditDigest::root_of(&[]));
    none.check().unwrap();
    refused(&none, |b| b.last = Some(RecordHash([0; 32])));
    let body = maintenance().body;
    refused(&body, |b| b.until = Epoch(145));
    refused(&body, |b| b.until = b.from);
    refused(&body, |b| (b.from, b.until) = (b.until, b.from));
    refused(&answer(0, None).body, |b| b.index = 64);
}

type Change = dyn Fn(&mut WitnessSetBody);

#[test]
fn a_witness_set_follows_by_a_quorum_of_the_one_before() {
    let push = |set: &WitnessSet| WitnessSets::new(&genesis()).push(set).map_err(|e| e.to_string());
    let mut sets = WitnessSets::new(&genesis());
    sets.push(&witness_set()).unwrap();
    assert_eq!((sets.at(Epoch(47)).len(), sets.at(Epoch(48)).len()), (7, 6));
    assert!(push(&signed_set(|_| {}, 4)).unwrap_err().contains("5 are needed"));
    let refusals: [(&Change, &str); 8] = [
        (&|b| b.number = 2, "the next number is 1"),
        (&|b| b.previous.0[0] ^= 1, "another set"),
        (&|b| b.from = Epoch(0), "not later"),
        (&|b| b.network = sample::network(), "belongs to"),
        (&|b| b.members.swap(0, 1), "ascending"),
        (&|b| b.members.clear(), "0 members"),
        (&|b| b.members[1] = b.members[0], "ascending"),
        (&|b| b.v = 2, "version 2"),
    ];
    for (change, reason) in refusals {
        let error = push(&signed_set(change, 5)).unwrap_err();
        assert!(error.contains(reason), "{error}");
    }
    let mut twice = witness_set();
    twice.signatures[4] = twice.signatures[3].clone();
    assert!(push(&twice).unwrap_err().contains("ascending"));
    let mut stranger = witness_set();
    stranger.signatures.push(stranger.body.sign(&identity(9)));
    stranger.signatures.sort_by_key(|s| s.signer);
    assert!(push(&stranger).unwrap_err().contains("no member"));
    // The same set again has the wrong number.
    assert!(sets.push(&witness_set()).is_err());
    assert_eq!(sets.last_number(), 1);
}

#[test]
fn a_shared_beacon_key_fixes_the_set() {
    let mut genesis = genesis();
    genesis.witness.drand_chain = String::new();
    let mut sets = WitnessSets::new(&genesis);
    let (mut body, network) = (witness_set().body, genesis.network_id());
    (body.network, body.previous) = (network, RecordHash(network.0));
    let signatures = witnesses().iter().map(|w| body.sign(w)).collect();
    let error = sets.push(&WitnessSet { body, signatures }).unwrap_err().to_string();
    assert!(error.contains("cannot change"), "{error}");
}

#[test]
fn nobody_makes_a_set_where_there_was_none() {
    let genesis = sample::genesis();
    let (mut body, network) = (witness_set().body, genesis.network_id());
    (body.network, body.previous) = (network, RecordHash(network.0));
    let set = WitnessSet { body, signatures: vec![] };
    let error = WitnessSets::new(&genesis).push(&set).unwrap_err().to_string();
    assert!(error.contains("no witnesses"), "{error}");
}

#[test]
fn quorums_are_those_of_the_table() {
    let quorum = |w| (WitnessSets::faulty_max(w), WitnessSets::quorum(w));
    assert_eq!(
        [0, 1, 3, 4, 6, 7, 256].map(quorum),
        [(0, 0), (0, 1), (0, 3), (1, 3), (1, 5), (2, 5), (85, 171)]
    );
}

#[test]
fn a_genesis_says_one_beacon_or_none() {
    let check = |change: &dyn Fn(&mut WitnessParams)| {
        let mut genesis = genesis();
        change(&mut genesis.witness);
        Genesis::decode(&genesis.encode()).is_ok()
    };
    let share = BeaconKey([1; 96]);
    assert!(check(&|_| {}));
    assert!(check(&|w| {
        (w.drand_chain, w.beacon_shares) = (String::new(), vec![share; 7]);
    }));
    assert!(check(&|w| (w.drand_chain, w.beacon_key) = (String::new(), vec![])));
    assert!(!check(&|w| w.drand_chain = "52db9ba70e0cc0f6".into()));
    assert!(!check(&|w| w.drand_chain = String::new()), "a shared key without its shares");
    assert!(!check(&|w| w.beacon_shares = vec![share; 7]), "shares beside drand");
    assert!(!check(&|w| (w.drand_chain, w.beacon_shares) = (String::new(), vec![share; 6])));
    assert!(!check(&|w| w.beacon_key = vec![7; 48]));
    assert!(!check(&|w| w.beacon_key = vec![]));
    assert!(!check(&|w| w.set.clear()), "a beacon for nobody");
    assert!(!check(&|w| w.set.swap(0, 1)));
    assert!(!check(&|w| w.set[1] = w.set[0]));
    assert!(!check(&|w| w.audit_permyriad = 0));
    assert!(!check(&|w| w.audit_permyriad = 10_001));
    assert!(!check(&|w| w.committee_max = 0));
}
