//! Holders that lie, together: they promise and back whatever they are asked, say
//! that they never signed anything, and try to have two things agreed on.

use std::collections::{BTreeMap, BTreeSet};

use echonet_protocol::{
    agreement::{
        Answer, Ask, Asked, At, Certificate, Change, Locked, Promise, Voter, VoterConfig,
        VoterOutput,
    },
    bytes::RecordHash,
    identity::{NodeId, Signed, record_hash},
    machine::{Draws, Millis},
    placement_record::{PlacementRecord, PlacementSignature},
};

use crate::{
    sample::{Known, NETWORK, Placed, ask_promise, id, node, number},
    world::promise,
};

/// A message: from, to, what, for which scheme.
type Sent = (u8, u8, Ask, u64);

/// What the liars see of the world: all of it.
pub(crate) struct Scene<'a> {
    pub(crate) placed: &'a Placed,
    pub(crate) newest: &'a PlacementRecord,
    pub(crate) lost: &'a [u8],
    pub(crate) facts: &'a Known,
}

/// An attempt to have one of two bodies agreed on.
struct Plot {
    liar: u8,
    record: PlacementRecord,
    ballot: u64,
    promises: BTreeMap<NodeId, Signed<Promise>>,
    bodies: Vec<(RecordHash, Change)>,
    /// Which of the bodies each honest holder is asked to back.
    asked: BTreeMap<NodeId, RecordHash>,
    backings: BTreeMap<RecordHash, BTreeMap<NodeId, PlacementSignature>>,
}

/// See the module's documentation.
pub(crate) struct Lies {
    liars: BTreeSet<u8>,
    plots: Vec<Plot>,
    /// What honest holders showed that they had signed.
    shown: Vec<Locked>,
}

/// What a liar says: what a voter would that remembers nothing.
pub(crate) fn answer(
    (from, liar): (u8, u8),
    ask: Ask,
    record: &PlacementRecord,
    facts: &Known,
) -> Option<Answer> {
    let mut voter = Voter::new(node(liar), NETWORK, VoterConfig::default(), []).unwrap();
    let asked = Asked { ticket: 1, from: id(from), ask };
    voter.ask(Millis(0), asked, Some(record), facts);
    while let Some(output) = voter.poll() {
        match output {
            VoterOutput::Persist { ticket, .. } => voter.persisted(ticket),
            VoterOutput::Forget { .. } => {}
            VoterOutput::Answer { answer, .. } => return Some(*answer),
        }
    }
    None
}

impl Lies {
    pub(crate) fn new(liars: &[u8]) -> Self {
        Self { liars: liars.iter().copied().collect(), plots: Vec::new(), shown: Vec::new() }
    }

    pub(crate) fn is_liar(&self, n: u8) -> bool {
        self.liars.contains(&n)
    }

    pub(crate) fn gather(&mut self, from: u8, proposal: u64, answer: Answer) {
        let Some(plot) = self.plots.get_mut(usize::try_from(proposal).unwrap()) else { return };
        match answer {
            Answer::Promise { promise, locked } if promise.body.ballot == plot.ballot => {
                plot.promises.insert(id(from), *promise);
                self.shown.extend(locked.map(|locked| *locked));
            }
            Answer::Backing(backing) => {
                let Some(body) = plot.asked.get(&id(from)) else { return };
                plot.backings.entry(*body).or_default().insert(backing.signer, backing);
            }
            _ => {}
        }
    }

    /// The next step of some plot.
    pub(crate) fn scheme(
        &mut self,
        draws: &mut Draws,
        scene: &Scene<'_>,
        targets: [u8; 2],
    ) -> Vec<Sent> {
        let previous = scene.newest.hash();
        let mut ready: Vec<usize> =
            (0..self.plots.len()).filter(|at| self.plots[*at].record.hash() == previous).collect();
        draws.shuffle(&mut ready);
        match (draws.below(4), ready.first()) {
            (0, _) | (_, None) => self.open(draws, scene),
            (1, Some(at)) => self.divide(draws, *at, scene, targets),
            (_, Some(at)) => self.clinch(draws, *at),
        }
    }

    /// Opens a ballot.
    fn open(&mut self, draws: &mut Draws, scene: &Scene<'_>) -> Vec<Sent> {
        let record = scene.newest;
        let holds = |liar: &&u8| record.body.index_of(&id(**liar)).is_some();
        let liars: Vec<u8> = self.liars.iter().filter(holds).copied().collect();
        let Some(liar) = pick(draws, &liars) else { return Vec::new() };
        let index = record.body.index_of(&id(liar)).unwrap();
        let ballot = draws.below(6) * 64 + u64::from(index);
        let plot = self.plots.len() as u64;
        self.plots.push(Plot {
            liar,
            record: record.clone(),
            ballot,
            promises: BTreeMap::new(),
            bodies: Vec::new(),
            asked: BTreeMap::new(),
            backings: BTreeMap::new(),
        });
        let ask = ask_promise(record, ballot, scene.lost);
        self.honest(record).into_iter().map(|to| (liar, to, ask.clone(), plot)).collect()
    }

    fn honest(&self, record: &PlacementRecord) -> Vec<u8> {
        let all = record.body.holders.iter().map(|(_, holder)| number(holder));
        all.filter(|n| !self.is_liar(*n)).collect()
    }

    /// Asks every holder to back one of two bodies, on promises of which as few as
    /// possible say that something was signed.
    fn divide(
        &mut self,
        draws: &mut Draws,
        at: usize,
        scene: &Scene<'_>,
        targets: [u8; 2],
    ) -> Vec<Sent> {
        let honest = self.honest(&self.plots[at].record);
        let liars = self.liars.clone();
        let plot = &mut self.plots[at];
        let (record, ballot) = (plot.record.clone(), plot.ballot);
        for liar in liars.iter().filter(|n| record.body.index_of(&id(**n)).is_some()) {
            plot.promises.insert(id(*liar), promise(*liar, record.hash(), ballot));
        }
        let quorum = record.descriptor.scheme.change_quorum();
        let mut promises: Vec<Signed<Promise>> = plot.promises.values().cloned().collect();
        promises.sort_by_key(|p| p.body.signed.map(|(ballot, _)| ballot));
        promises.truncate(quorum);
        if promises.len() < quorum || !plot.bodies.is_empty() {
            return Vec::new();
        }
        let highest = promises.iter().filter_map(|p| p.body.signed).max();
        promises.sort_by_key(|p| p.body.acceptor);
        for target in targets {
            let moves: Vec<(u8, u8)> = scene.lost.iter().map(|i| (*i, target)).take(1).collect();
            let change = scene.placed.change(&record, &moves);
            let (body, _) = change.apply(&record).unwrap();
            plot.bodies.push((record_hash(&body), change));
        }
        let of = |l: &&Locked| (l.certificate.ballot, l.certificate.placement);
        // Mostly an old certificate beside a new body, now and then the one it is for.
        let certificate = self.shown.iter().find(|l| Some(of(l)) == highest);
        let certificate = certificate.or(self.shown.last()).map(|l| l.certificate.clone());
        let ask = |change: &Change| Ask::Backing {
            at: At::after(&record),
            ballot,
            change: change.clone(),
            promises: promises.clone(),
            certificate: certificate.clone(),
        };
        let from = plot.liar;
        for (body, change) in &plot.bodies {
            for liar in &liars {
                let said = answer((from, *liar), ask(change), &record, scene.facts);
                if let Some(Answer::Backing(backing)) = said {
                    plot.backings.entry(*body).or_default().insert(id(*liar), backing);
                }
            }
        }
        let mut sent = Vec::new();
        // All the same, or half and half.
        let divides = draws.below(2) == 0;
        for to in honest {
            let which = if divides { draws.below(2) } else { 0 };
            let (body, change) = &plot.bodies[usize::try_from(which).unwrap()];
            plot.asked.insert(id(to), *body);
            sent.push((from, to, ask(change), at as u64));
        }
        sent
    }

    /// Shows to some holders whatever certificate the plot has come to.
    fn clinch(&mut self, draws: &mut Draws, at: usize) -> Vec<Sent> {
        let plot = &self.plots[at];
        let quorum = plot.record.descriptor.scheme.change_quorum();
        let mut sent = Vec::new();
        for (placement, change) in &plot.bodies {
            let backings = plot.backings.get(placement).into_iter().flat_map(|b| b.values());
            let backings: Vec<PlacementSignature> = backings.cloned().collect();
            if backings.len() < quorum {
                continue;
            }
            let certificate = Certificate { ballot: plot.ballot, placement: *placement, backings };
            certificate.verify(&plot.record).unwrap();
            for to in self.honest(&plot.record) {
                if draws.below(3) > 0 {
                    let (change, certificate) = (change.clone(), certificate.clone());
                    let ask = Ask::Signature { at: At::after(&plot.record), change, certificate };
                    sent.push((plot.liar, to, ask, at as u64));
                }
            }
        }
        sent
    }
}

fn pick<T: Clone>(draws: &mut Draws, of: &[T]) -> Option<T> {
    let at = usize::try_from(draws.below(of.len() as u64)).unwrap();
    of.get(at).cloned()
}
