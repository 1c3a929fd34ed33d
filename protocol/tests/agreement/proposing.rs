//! What a proposer makes of the answers: each voter here is asked at once, and
//! what it says is durable.

use std::collections::BTreeMap;

use echonet_protocol::{
    agreement::{
        Answer, Ask, ProposeFailure, Proposer, ProposerConfig, ProposerInput, ProposerOutput,
    },
    identity::NodeId,
    machine::{Machine, Millis},
    placement_record::{PlacementRecord, Strength},
};

use crate::sample::{Known, Placed, Sure, ask_promise, id, number};

/// Voters 1 to n of one placement.
pub(crate) struct Table {
    pub(crate) placed: Placed,
    pub(crate) voters: BTreeMap<u8, Sure>,
    pub(crate) now: u64,
    /// Asked so far, by question.
    pub(crate) asked: BTreeMap<&'static str, usize>,
}

impl Table {
    pub(crate) fn new((k, m): (u8, u8), facts: &Known) -> Self {
        let placed = Placed::new(k, m);
        let voter = |n: u8| (n, Sure::new(n, Some(&placed.first), facts.clone()));
        let voters = (1..=k + m).map(voter).collect();
        Self { placed, voters, now: 0, asked: BTreeMap::new() }
    }

    pub(crate) fn proposer(&self, n: u8, lost: &[u8]) -> Proposer {
        let record = self.placed.first.clone();
        let (now, config) = (Millis(self.now), ProposerConfig::default());
        Proposer::agreed(now, config, id(n), record, lost.to_vec(), 7).unwrap()
    }

    /// Carries the proposer's questions to the voters until it says something else.
    pub(crate) fn drive(&mut self, n: u8, proposer: &mut Proposer) -> ProposerOutput {
        for _ in 0..100_000 {
            match proposer.poll() {
                Some(ProposerOutput::Ask { to, ask }) => self.carry(n, proposer, to, *ask),
                Some(output) => return output,
                None => {
                    let due = proposer.timeout().expect("it waits for something");
                    self.now = self.now.max(due.0);
                    proposer.handle(Millis(self.now), ProposerInput::Tick);
                }
            }
        }
        panic!("it never ends");
    }

    fn carry(&mut self, n: u8, proposer: &mut Proposer, to: NodeId, ask: Ask) {
        let what = match &ask {
            Ask::Promise { .. } => "promise",
            Ask::Backing { .. } => "backing",
            Ask::Signature { .. } => "signature",
            Ask::Weak { .. } => "weak",
        };
        *self.asked.entry(what).or_default() += 1;
        let input = match self.voters.get_mut(&number(&to)) {
            Some(voter) => {
                let answer = Box::new(voter.ask(self.now, n, ask));
                ProposerInput::Answer { node: to, answer }
            }
            None => ProposerInput::Unreachable { node: to },
        };
        proposer.handle(Millis(self.now), input);
    }

    /// From the claim to the end, with a change of one's own.
    pub(crate) fn propose(&mut self, n: u8, moves: &[(u8, u8)]) -> ProposerOutput {
        let lost: Vec<u8> = moves.iter().map(|(index, _)| *index).collect();
        let mut proposer = self.proposer(n, &lost);
        match self.drive(n, &mut proposer) {
            ProposerOutput::Claimed => {}
            other => return other,
        }
        let receipts = self.placed.moved(&self.placed.first, moves);
        proposer.handle(Millis(self.now), ProposerInput::Propose { receipts });
        self.drive(n, &mut proposer)
    }
}

fn committed(output: ProposerOutput) -> (PlacementRecord, bool) {
    let ProposerOutput::Committed { record, is_ours } = output else { panic!("{output:?}") };
    (*record, is_ours)
}

fn failed(output: ProposerOutput) -> ProposeFailure {
    let ProposerOutput::Failed(failure) = output else { panic!("{output:?}") };
    failure
}

#[test]
fn a_lost_shard_gets_a_new_holder() {
    let mut table = Table::new((10, 6), &Known::lost([16]).unreachable([16]));
    table.voters.remove(&16);
    let (record, is_ours) = committed(table.propose(1, &[(15, 20)]));
    assert!(is_ours);
    assert_eq!((record.body.version, record.strength()), (2, Strength::Quorum));
    assert_eq!((record.body.holder(15), record.body.holder(0)), (Some(id(20)), Some(id(1))));
    assert_eq!(record.signatures.len(), 15, "whoever signs in time is counted in");
    assert_eq!(table.asked["promise"], 16);
}

#[test]
fn a_minority_moves_nothing() {
    let mut table = Table::new((10, 6), &Known::lost([16]));
    table.voters.retain(|n, _| *n <= 9);
    let mut proposer = table.proposer(1, &[15]);
    let output = table.drive(1, &mut proposer);
    assert_eq!(failed(output), ProposeFailure::NoQuorum { heard: 9, needed: 10 });
    assert_eq!(table.asked.len(), 1, "only promises were asked for");
}

#[test]
fn what_others_do_not_see_is_not_done() {
    let mut table = Table::new((10, 6), &Known::default());
    for n in 1..=9 {
        table.voters.get_mut(&n).unwrap().facts = Known::lost([16]);
    }
    let mut proposer = table.proposer(1, &[15]);
    let failure = failed(table.drive(1, &mut proposer));
    assert!(matches!(&failure, ProposeFailure::Refused { reason } if reason.contains("not lost")));
}

#[test]
fn whose_turn_it_is_is_left_alone() {
    let mut table = Table::new((2, 3), &Known::lost([5]));
    let mut first = table.proposer(1, &[4]);
    assert_eq!(table.drive(1, &mut first), ProposerOutput::Claimed);
    assert_eq!(failed(table.propose(2, &[(4, 9)])), ProposeFailure::Busy);
    // While it moves shards it renews its claim.
    for _ in 0..20 {
        table.now = first.timeout().unwrap().0;
        first.handle(Millis(table.now), ProposerInput::Tick);
        while let Some(ProposerOutput::Ask { to, ask }) = first.poll() {
            table.carry(1, &mut first, to, *ask);
        }
        assert_eq!(failed(table.propose(2, &[(4, 9)])), ProposeFailure::Busy);
    }
    let receipts = table.placed.moved(&table.placed.first, &[(4, 8)]);
    first.handle(Millis(table.now), ProposerInput::Propose { receipts });
    assert!(committed(table.drive(1, &mut first)).1);
}

#[test]
fn what_another_began_is_finished_first() {
    let mut table = Table::new((2, 3), &Known::lost([5]));
    let mut dying = table.proposer(1, &[4]);
    assert_eq!(table.drive(1, &mut dying), ProposerOutput::Claimed);
    let receipts = table.placed.moved(&table.placed.first, &[(4, 8)]);
    dying.handle(Millis(table.now), ProposerInput::Propose { receipts });
    // It dies when one holder has signed.
    let mut signed = 0;
    while signed == 0 {
        let Some(ProposerOutput::Ask { to, ask }) = dying.poll() else { panic!() };
        signed += usize::from(matches!(*ask, Ask::Signature { .. }));
        table.carry(1, &mut dying, to, *ask);
    }
    table.now += 60_000;
    // Where the signer is heard, its body is what is agreed on.
    table.voters.retain(|n, voter| *n <= 3 || voter.rows.is_empty());
    let (record, is_ours) = committed(table.propose(2, &[(4, 9)]));
    assert_eq!((record.body.holder(4), is_ours), (Some(id(8)), false));
}

#[test]
fn who_is_behind_learns_of_it() {
    let mut table = Table::new((2, 3), &Known::lost([5]));
    let (second, _) = committed(table.propose(1, &[(4, 8)]));
    for voter in table.voters.values_mut() {
        voter.record = Some(second.clone());
        voter.voter.follow(&second);
        voter.drain();
    }
    let mut late = table.proposer(2, &[4]);
    let output = table.drive(2, &mut late);
    assert_eq!(output, ProposerOutput::Overtaken { record: Box::new(second) });
}

#[test]
fn a_liar_alone_misleads_nobody() {
    let mut table = Table::new((2, 3), &Known::lost([5]));
    let record = table.placed.first.clone();
    let mut proposer = table.proposer(1, &[4]);
    // The first to answer is a liar: an old record, a ballot beyond all, another's promise.
    let good = table.voters.get_mut(&3).unwrap().ask(0, 1, ask_promise(&record, 0, &[4]));
    let mut lies = vec![
        Answer::Newer { record: record.encode().into() },
        Answer::Newer { record: vec![0; 100].into() },
        Answer::Higher { ballot: u64::MAX },
        Answer::TooHigh { ballot: 0 },
        good,
    ];
    while let Some(ProposerOutput::Ask { to, ask }) = proposer.poll() {
        if number(&to) == 2 {
            for lie in lies.drain(..) {
                let input = ProposerInput::Answer { node: to, answer: Box::new(lie) };
                proposer.handle(Millis(0), input);
            }
        } else {
            table.carry(1, &mut proposer, to, *ask);
        }
    }
    let receipts = table.placed.moved(&record, &[(4, 8)]);
    proposer.handle(Millis(0), ProposerInput::Propose { receipts });
    assert!(committed(table.drive(1, &mut proposer)).1);
}

#[test]
fn voters_that_lag_far_behind_are_led_up() {
    let mut table = Table::new((2, 3), &Known::lost([5]));
    let record = table.placed.first.clone();
    // Three are as high as a few steps lead, the others have not heard of anything.
    let mut ballot = 0;
    for _ in 0..3 {
        ballot += 1 << 38;
        for n in 1..=3 {
            table.voters.get_mut(&n).unwrap().ask(0, 1, ask_promise(&record, ballot, &[4]));
        }
    }
    table.voters.remove(&3);
    table.now = 60_000;
    let (record, _) = committed(table.propose(2, &[(4, 8)]));
    assert!(record.ballot.unwrap() > ballot);
}

#[test]
fn what_is_no_next_version_is_not_asked_about() {
    let mut table = Table::new((2, 3), &Known::lost([5]));
    let mut proposer = table.proposer(1, &[4]);
    assert_eq!(table.drive(1, &mut proposer), ProposerOutput::Claimed);
    let mut receipts = table.placed.moved(&table.placed.first, &[(4, 8)]);
    receipts.truncate(1);
    proposer.handle(Millis(0), ProposerInput::Propose { receipts });
    let failure = failed(table.drive(1, &mut proposer));
    assert!(matches!(failure, ProposeFailure::Refused { .. }), "{failure}");
    let stranger = Proposer::agreed(
        Millis(0),
        ProposerConfig::default(),
        id(99),
        table.placed.first.clone(),
        vec![],
        1,
    );
    assert!(matches!(stranger, Err(ProposeFailure::Invalid(_))));
}
