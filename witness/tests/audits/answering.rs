//! The holder's decision: which challenges are answered, and how often.

use echonet_protocol::{identity::NodeId, segment::SegmentId, time::Epoch};
use echonet_witness::{
    answering::{Answering, Asking, Reply, ShardState, Unanswered},
    beacon::BeaconError,
    draw,
};

use crate::rig::{self, FULL, due, holder, made_up, slow_world, world};

const HELD: ShardState = ShardState::Held { length: FULL as u64 };

fn answering() -> Answering {
    let world = world();
    Answering::new(holder(0).node_id(), world.network, world.rates, world.beacons.clone())
}

/// Asks in epoch 5; `now` is the holder's.
fn ask(
    answering: &mut Answering,
    now: u64,
    witness: usize,
    segment: SegmentId,
    inventory: Option<NodeId>,
    shard: ShardState,
) -> Result<Reply, Unanswered> {
    let challenge = world().challenge(witness, 5, segment, inventory);
    let members = world().members();
    answering.decide(Epoch(now), 10, &Asking { challenge: &challenge, index: 1, shard, members })
}

#[test]
fn what_is_due_is_answered() {
    let segment = due(world(), 5, 0, 1)[0];
    for now in [4, 5, 6] {
        let challenge = world().challenge(2, 5, segment, None);
        let leaf = draw::leaf(&challenge, u64::from(FULL));
        assert_eq!(ask(&mut answering(), now, 2, segment, None, HELD), Ok(Reply::Leaf(leaf)));
        let lost = ShardState::Lost { length: u64::from(FULL) };
        assert_eq!(ask(&mut answering(), now, 2, segment, None, lost), Ok(Reply::Absent));
    }
}

#[test]
fn nothing_else_is_answered() {
    let segment = due(world(), 5, 0, 1)[0];
    let mut a = answering();
    assert_eq!(ask(&mut a, 3, 2, segment, None, HELD), Err(Unanswered::Epoch { asked: 5, now: 3 }));
    assert_eq!(ask(&mut a, 7, 2, segment, None, HELD), Err(Unanswered::Epoch { asked: 5, now: 7 }));
    let other = Some(holder(1).node_id());
    assert_eq!(ask(&mut a, 5, 2, segment, other, HELD), Err(Unanswered::Inventory));
    // A witness cannot make a node confess to what it never promised.
    let never = ShardState::NotPromised;
    let error = Unanswered::NotPromised { segment, index: 1 };
    assert_eq!(ask(&mut a, 5, 2, segment, None, never), Err(error));
    let idle = (0..).map(made_up).find(|s| !world().is_due(5, s, u64::from(FULL))).unwrap();
    assert_eq!(ask(&mut a, 5, 2, idle, None, HELD), Err(Unanswered::NotDue(idle)));
    let mine = Some(holder(0).node_id());
    assert!(ask(&mut a, 5, 2, idle, mine, HELD).is_ok(), "an inventory needs no draw");
}

#[test]
fn only_the_committee_is_answered_and_by_the_true_beacon() {
    let (world, segment) = (world(), due(world(), 5, 0, 1)[0]);
    let right = world.challenge(2, 5, segment, None);
    let decide = |challenge: &_, members: &[NodeId]| {
        let asking = Asking { challenge, index: 1, shard: HELD, members };
        answering().decide(Epoch(5), 10, &asking)
    };
    assert!(decide(&right, world.members()).is_ok());
    let others: Vec<_> =
        world.members().iter().copied().filter(|m| *m != right.body.witness).collect();
    assert_eq!(decide(&right, &others), Err(Unanswered::Stranger(right.body.witness)));
    let mut forged = right.clone();
    forged.sig.0[0] ^= 1;
    assert!(matches!(decide(&forged, world.members()), Err(Unanswered::Record(_))));
    let mut wrong = right.clone();
    wrong.body.beacon = *world.beacon(6).signature();
    let error = Err(Unanswered::Beacon(BeaconError::Signature(5)));
    assert_eq!(decide(&wrong, world.members()), error);
    let mut foreign = slow_world().challenge(2, 5, segment, None);
    foreign.body.beacon = right.body.beacon;
    assert!(decide(&foreign, world.members()).is_err(), "of another network");
}

#[test]
fn each_question_is_answered_three_times() {
    let segment = due(world(), 5, 0, 1)[0];
    let mut a = answering();
    for _ in 0..3 {
        ask(&mut a, 5, 2, segment, None, HELD).unwrap();
    }
    assert_eq!(ask(&mut a, 5, 2, segment, None, HELD), Err(Unanswered::TooOften(3)));
    assert!(ask(&mut a, 5, 3, segment, None, HELD).is_ok(), "another witness");
    // A second beacon for one epoch there is not.
    let mut challenge = world().challenge(2, 5, segment, None);
    challenge.body.beacon.0[5] ^= 1;
    let members = world().members();
    let asking = Asking { challenge: &challenge, index: 2, shard: HELD, members };
    let error = Err(Unanswered::Beacon(BeaconError::Signature(5)));
    assert_eq!(a.decide(Epoch(5), 10, &asking), error);
}

#[test]
fn all_of_an_epoch_is_bounded_by_what_is_held() {
    let mut a = answering();
    let mut answered = 0;
    for segment in due(world(), 5, 1, 100) {
        answered += usize::from(ask(&mut a, 5, 0, segment, None, HELD).is_ok());
    }
    assert_eq!(answered, 2 * 10 + 64);
    // The next epoch has its own, and the counters of the one before last are gone.
    let segment = due(world(), 6, 1, 1)[0];
    let challenge = rig::world().challenge(0, 6, segment, None);
    let members = world().members();
    let asking = Asking { challenge: &challenge, index: 1, shard: HELD, members };
    assert!(a.decide(Epoch(6), 10, &asking).is_ok());
}
