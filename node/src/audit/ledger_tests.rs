//! The ledger of audits: chains, what is forgotten when, one digest of an epoch.

use echonet_protocol::{
    audit::{AuditDigest, AuditResult, VerdictChallenge},
    bytes::BeaconSignature,
    identity::{Identity, Signature},
    params,
    segment::SegmentId,
};

use super::*;

const NETWORK: NetworkId = NetworkId([7; 32]);

fn witness() -> Identity {
    Identity::from_secret(&[1; 32])
}

fn verdict(sequence: u64, epoch: u64, outcome: Outcome) -> Verdict {
    let is_signed = outcome.is_signed();
    let has_slice = matches!(outcome, Outcome::Pass | Outcome::Wrong);
    let body = AuditVerdict {
        v: params::FORMAT_VERSION,
        network: NETWORK,
        witness: witness().node_id(),
        sequence,
        previous: (sequence > 1).then_some(RecordHash([9; 32])),
        challenge: VerdictChallenge {
            epoch: Epoch(epoch),
            segment: SegmentId([sequence as u8; 32]),
            beacon: BeaconSignature([3; 48]),
            inventory: None,
            sig: Signature([4; 64]),
        },
        placement: RecordHash([5; 32]),
        length: 1024,
        leaf: 0,
        results: vec![AuditResult {
            index: 0,
            holder: NodeId([6; 32]),
            outcome,
            slice: has_slice.then_some(echonet_protocol::bytes::SliceHash([8; 32])),
            sig: is_signed.then_some(Signature([2; 64])),
        }],
    };
    Signed::new(&witness(), body)
}

fn case(verdict: &Verdict) -> Case {
    Case {
        v: params::FORMAT_VERSION,
        verdict: verdict.clone(),
        placement: vec![1, 2, 3],
        slices: Vec::new(),
    }
}

fn put(ledger: &Ledger, sequence: u64, epoch: u64, outcome: Outcome) -> RecordHash {
    let verdict = verdict(sequence, epoch, outcome);
    ledger.put(&[(verdict.clone(), Some(case(&verdict)))]).expect("written");
    verdict.hash()
}

#[test]
fn a_chain_is_there_again_in_order_and_without_gaps() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.redb");
    let ledger = Ledger::open(&path).unwrap();
    let me = witness().node_id();
    assert_eq!(ledger.last(&NETWORK, &me).unwrap(), None);
    for sequence in [1, 2, 3, 5] {
        put(&ledger, sequence, 10, Outcome::Pass);
    }
    drop(ledger);
    let ledger = Ledger::open(&path).unwrap();
    let sequences = |from, max| {
        let verdicts = ledger.verdicts(&NETWORK, &me, from, max).unwrap();
        verdicts.iter().map(|v| v.body.sequence).collect::<Vec<_>>()
    };
    assert_eq!(sequences(1, 64), [1, 2, 3], "what follows a gap is not next");
    assert_eq!(sequences(2, 1), [2]);
    assert_eq!(sequences(4, 64), [0; 0]);
    assert_eq!(ledger.last(&NETWORK, &me).unwrap().unwrap().body.sequence, 5);
    let other = Identity::from_secret(&[2; 32]).node_id();
    assert_eq!(ledger.last(&NETWORK, &other).unwrap(), None);
}

#[test]
fn proofs_of_passes_go_first_and_evidence_stays() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(&dir.path().join("audit.redb")).unwrap();
    let pass = put(&ledger, 1, 10, Outcome::Pass);
    let absent = put(&ledger, 2, 10, Outcome::Absent);
    let young = put(&ledger, 3, 11, Outcome::Pass);
    let has = |hash: &RecordHash| {
        let verdict = ledger.verdict(&NETWORK, hash).unwrap().is_some();
        (verdict, ledger.case(hash).unwrap().is_some())
    };
    ledger.prune(&NETWORK, Epoch(12), 3600).unwrap();
    assert_eq!([has(&pass), has(&absent), has(&young)], [(true, true); 3], "two epochs");
    ledger.prune(&NETWORK, Epoch(13), 3600).unwrap();
    assert_eq!(
        [has(&pass), has(&absent), has(&young)],
        [(true, false), (true, true), (true, true)]
    );
    let days_90 = 90 * 24;
    ledger.prune(&NETWORK, Epoch(10 + days_90), 3600).unwrap();
    assert_eq!(has(&absent), (true, true));
    ledger.prune(&NETWORK, Epoch(11 + days_90), 3600).unwrap();
    assert_eq!(
        [has(&pass), has(&absent), has(&young)],
        [(false, false), (false, false), (true, false)]
    );
    assert_eq!(ledger.newest(&NETWORK, 10).unwrap().len(), 1);
}

#[test]
fn the_first_digest_of_an_epoch_stays() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(&dir.path().join("audit.redb")).unwrap();
    let digest = |count: u64| {
        let body = AuditDigest {
            v: params::FORMAT_VERSION,
            network: NETWORK,
            witness: witness().node_id(),
            epoch: Epoch(4),
            first: 1,
            count,
            last: (count > 0).then_some(RecordHash([1; 32])),
            root: AuditDigest::root_of(&vec![RecordHash([1; 32]); count as usize]),
        };
        Signed::new(&witness(), body)
    };
    ledger.put_digests(&[digest(0)]).unwrap();
    ledger.put_digests(&[digest(2)]).unwrap();
    assert_eq!(ledger.digests(&NETWORK, Epoch(4)).unwrap(), [digest(0)]);
    assert_eq!(ledger.digests(&NETWORK, Epoch(5)).unwrap(), []);
}
