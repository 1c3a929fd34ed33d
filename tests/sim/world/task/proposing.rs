//! A task's way to the next version by the agreement's own machine.

use std::{collections::BTreeSet, rc::Rc};

use echonet_archive::keeper::{Outcome, Presence};
use echonet_protocol::{
    agreement::{
        Answer, Ask, ProposeFailure, Proposer, ProposerConfig, ProposerInput, ProposerOutput,
    },
    identity::{NodeId, Signed},
    lease::Receipt,
    machine::Machine,
};

use super::{Phase, Task};
use crate::world::{
    message::{Message, Notice},
    node::{Out, SimNode},
    setup::Record,
};

impl Task {
    /// It begins with the claim.
    pub(super) fn begin_proposer(&mut self, node: &SimNode) -> Option<Outcome> {
        let proof = self.record.proof.as_deref().cloned()?;
        let (own, config, lost) = (node.own, ProposerConfig::default(), self.lost());
        let holders = self.record.holders.iter().map(|(_, holder)| *holder);
        let reachable: Vec<NodeId> = holders
            .filter(|holder| *holder == own || node.may_reach(*holder))
            .map(|holder| node.setup().ids[holder])
            .collect();
        let scheme = proof.descriptor.scheme;
        let is_weak = reachable.len() < scheme.change_quorum() && scheme.weak_quorum().is_some();
        let (now, id, seed) = (node.now, node.setup().ids[own], self.draws.next_u64());
        let proposer = if is_weak {
            Proposer::weak(now, config, id, proof, lost, &reachable)
        } else {
            Proposer::agreed(now, config, id, proof, lost, seed)
        };
        match proposer {
            Ok(proposer) => {
                self.proposer = Some(Box::new(proposer));
                None
            }
            Err(_) => Some(Outcome::Failed),
        }
    }

    /// A holder's answer.
    pub(super) fn voted(&mut self, node: &SimNode, from: usize, answer: &Answer) {
        if let Some(proposer) = &mut self.proposer {
            let (answer, from) = (Box::new(answer.clone()), node.setup().ids[from]);
            proposer.handle(node.now, ProposerInput::Answer { node: from, answer });
        }
    }

    pub(super) fn tick_proposer(&mut self, node: &SimNode) {
        if let Some(proposer) = &mut self.proposer
            && proposer.timeout().is_some_and(|at| at <= node.now)
        {
            proposer.handle(node.now, ProposerInput::Tick);
        }
    }

    /// Carries out what the proposer wants.
    pub(super) fn drive(&mut self, node: &mut SimNode, io: &mut Out<'_>) -> Option<Outcome> {
        while let Some(output) = self.proposer.as_mut().and_then(|proposer| proposer.poll()) {
            match output {
                ProposerOutput::Ask { to, ask } => self.ask_vote(node, to, Rc::from(ask), io),
                ProposerOutput::Claimed => self.phase = Phase::Read,
                ProposerOutput::Committed { record, is_ours } => {
                    let record = node.setup().record_of(*record)?;
                    self.announce(node, &Rc::new(record), io);
                    return Some(if is_ours { Outcome::Committed } else { Outcome::Yielded });
                }
                ProposerOutput::Overtaken { record } => {
                    if let Some(record) = node.setup().record_of(*record) {
                        node.learn(&Rc::new(record), io);
                    }
                    return Some(Outcome::Yielded);
                }
                ProposerOutput::Failed(ProposeFailure::Busy) => return Some(Outcome::Yielded),
                ProposerOutput::Failed(why) => {
                    let placement = self.record.placement;
                    io.note(Notice::Refused { placement, why: why.to_string() });
                    return Some(Outcome::Failed);
                }
            }
        }
        None
    }

    fn ask_vote(&mut self, node: &mut SimNode, to: NodeId, ask: Rc<Ask>, io: &mut Out<'_>) {
        let number = node.setup().numbers[&to];
        if number == node.own {
            node.vote(number, self.nonce, ask, io);
        } else if matches!(node.detector.presence(number), Some(Presence::Unreachable { .. })) {
            // Who has not answered for a while is not waited for.
            if let Some(proposer) = &mut self.proposer {
                proposer.handle(node.now, ProposerInput::Unreachable { node: to });
            }
        } else {
            io.send(number, Message::Vote { nonce: self.nonce, ask }, 0);
        }
    }

    /// Has the machine go on: the record's receipts with the new ones in their places.
    pub(super) fn propose(&mut self, node: &SimNode) {
        self.phase = Phase::Agree;
        let (Some(proof), Some(proposer)) = (&self.record.proof, &mut self.proposer) else {
            return;
        };
        let kept = proof.receipts.iter().filter(|r| !self.receipts.contains_key(&r.body.index));
        let new = self.receipts.values().filter_map(|(_, receipt)| receipt.as_deref());
        let mut receipts: Vec<Signed<Receipt>> = kept.chain(new).cloned().collect();
        receipts.sort_by_key(|receipt| receipt.body.index);
        proposer.handle(node.now, ProposerInput::Propose { receipts });
    }

    /// Tells everybody whom it concerns of an agreed version.
    pub(super) fn announce(&self, node: &mut SimNode, next: &Rc<Record>, io: &mut Out<'_>) {
        io.note(Notice::Committed(Rc::clone(next)));
        let all: BTreeSet<usize> =
            self.record.holders.iter().chain(&next.holders).map(|(_, n)| *n).collect();
        for to in all.into_iter().filter(|to| *to != node.own) {
            io.send(to, Message::Record(Rc::clone(next)), 0);
        }
        node.learn(next, io);
    }
}
