//! The fold itself: which result counts, in which order, and what it changes.

use std::collections::{BTreeMap, BTreeSet};

use echonet_protocol::{
    audit::{AuditResult, Outcome, WitnessSets},
    bytes::RecordHash,
    identity::NodeId,
    network::NetworkId,
    segment::SegmentId,
    time::Epoch,
};

use super::{
    account::{Account, Standing, Word},
    sealed::{Sealed, SealedSet},
};
use crate::draw::{self, Draw, Rates};

/// Members of a committee who must say the same before silence counts.
const SILENT_MIN: usize = 4;

/// What a fold needs to know of its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// The network.
    pub network: NetworkId,
    /// Its rates.
    pub rates: Rates,
    /// Holders whose accounts are kept at most ([`Rules::HOLDERS_MAX`]).
    pub holders_max: usize,
}

impl Rules {
    /// Accounts that every node keeps, so that all agree on who is among them.
    pub const HOLDERS_MAX: usize = 65_536;
}

/// A result that counted, as the holder can read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// Record hash of the verdict; of several who heard nothing the first.
    pub verdict: RecordHash,
    /// Whose verdict.
    pub witness: NodeId,
    /// About which segment.
    pub segment: SegmentId,
    /// Which shard of it.
    pub index: u8,
    /// Which leaf of that.
    pub leaf: u64,
    /// What was found.
    pub outcome: Outcome,
}

/// Why a holder's word changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It answered rightly.
    Passed,
    /// It signed what does not verify, or that it has it not.
    Lost,
    /// More than 2/3 of the committee heard nothing of it.
    Silent,
    /// Its standing changed with an epoch's end; the source is the last result of that epoch.
    Standing,
    /// It was disqualified and lost nothing for 720 epochs. The one change without a source.
    Rehabilitated,
}

/// One change of a holder's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScoreEvent {
    /// Whose.
    pub holder: NodeId,
    /// In which epoch.
    pub epoch: Epoch,
    /// The result behind it.
    pub source: Option<Source>,
    /// Why.
    pub reason: Reason,
    /// The word before.
    pub before: Word,
    /// The word after.
    pub after: Word,
}

/// Why a set is not folded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the next set to fold is that of epoch {wanted}, not of {found}; fold every epoch, an empty one too"
)]
pub struct FoldError {
    /// The next epoch.
    pub wanted: u64,
    /// The set's.
    pub found: u64,
}

/// Scores of all holders after some epochs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fold {
    pub(super) rules: Rules,
    /// The epoch that is folded next.
    pub(super) next: Epoch,
    /// Hash over the names of all sets so far.
    pub(super) sets: RecordHash,
    pub(super) holders: BTreeMap<NodeId, Account>,
    /// Convicted witnesses, and from which epoch on they count no more.
    pub(super) convicted: BTreeMap<NodeId, Epoch>,
}

/// Who said what about one shard in one epoch.
#[derive(Default)]
struct Reports {
    /// The first result of the asker that is against the holder, else its first pass.
    asker: Option<(RecordHash, AuditResult)>,
    silent: BTreeSet<NodeId>,
    first_silent: Option<RecordHash>,
    is_contested: bool,
    committee: usize,
}

impl Reports {
    /// The verdict whose result counts, and as what.
    fn counting(&self) -> Option<(RecordHash, Outcome)> {
        if let Some((verdict, result)) = &self.asker {
            return Some((*verdict, result.outcome));
        }
        let silent = self.silent.len();
        let is_silent = silent >= SILENT_MIN && 3 * silent > 2 * self.committee;
        let verdict = self.first_silent.filter(|_| is_silent && !self.is_contested)?;
        Some((verdict, Outcome::Silent))
    }
}

type Shard = (SegmentId, u8, NodeId);

impl Fold {
    /// No scores, before an epoch.
    #[must_use]
    pub const fn new(rules: Rules, next: Epoch) -> Self {
        let sets = RecordHash([0; 32]);
        Self { rules, next, sets, holders: BTreeMap::new(), convicted: BTreeMap::new() }
    }

    /// The epoch whose set is folded next.
    #[must_use]
    pub const fn next_epoch(&self) -> Epoch {
        self.next
    }

    /// What a holder's word is worth; that of one never seen where it has no account.
    #[must_use]
    pub fn word(&self, holder: &NodeId) -> Word {
        self.holders.get(holder).map_or_else(|| Account::default().word(), Account::word)
    }

    /// Everybody with an account, ascending.
    pub fn words(&self) -> impl Iterator<Item = (NodeId, Word)> {
        self.holders.iter().map(|(holder, account)| (*holder, account.word()))
    }

    /// Holders of which everything is due in the epoch that is folded next, ascending.
    #[must_use]
    pub fn inventories(&self) -> Vec<NodeId> {
        let due = self.holders.iter().filter(|(_, account)| account.is_inventory_due(self.next));
        due.map(|(holder, _)| *holder).collect()
    }

    /// Whether a witness counts in an epoch.
    #[must_use]
    pub fn is_convicted(&self, witness: &NodeId, epoch: Epoch) -> bool {
        self.convicted.get(witness).is_some_and(|from| *from <= epoch)
    }

    /// Folds the next epoch's set.
    ///
    /// # Errors
    /// [`FoldError`], and then nothing has changed.
    pub fn fold(
        &mut self,
        witnesses: &WitnessSets,
        set: &SealedSet,
    ) -> Result<Vec<ScoreEvent>, FoldError> {
        let epoch = set.epoch();
        if epoch != self.next {
            return Err(FoldError { wanted: self.next.0, found: epoch.0 });
        }
        self.next = Epoch(epoch.0 + 1);
        let mut hasher = blake3::Hasher::new_derive_key("EchoNet 2026 sealed sets v1");
        self.sets =
            RecordHash(*hasher.update(&self.sets.0).update(&set.name().0).finalize().as_bytes());
        for witness in set.convicted.values() {
            self.convicted.entry(*witness).or_insert(epoch);
        }
        let members = witnesses.at(epoch);
        let (counting, counts) = self.reports(members, set);
        let mut events = Vec::new();
        let mut last: BTreeMap<NodeId, Source> = BTreeMap::new();
        let mut asked: BTreeMap<NodeId, BTreeMap<NodeId, u64>> = BTreeMap::new();
        for (hash, sealed) in &set.verdicts {
            for result in counting.get(hash).into_iter().flatten() {
                let source = source(sealed, *hash, result, &counts);
                if sealed.verdict.body().challenge.inventory.is_some() {
                    let by = asked.entry(result.holder).or_default();
                    *by.entry(source.witness).or_default() += 1;
                }
                last.insert(result.holder, source);
                events.extend(self.take(epoch, result.holder, source));
            }
        }
        let faulty = WitnessSets::faulty_max(members.len());
        for (holder, asked) in asked {
            self.holders.entry(holder).or_default().take_inventory(epoch, &asked, faulty);
        }
        // What was heard of in an epoch is honoured from the next on.
        for maintenance in set.maintenances.values() {
            let account = self.holders.entry(maintenance.node).or_default();
            account.announce(epoch, maintenance.from, maintenance.until);
        }
        events.extend(self.end_epoch(epoch, &last));
        Ok(events)
    }

    /// Which results count, by verdict and in the order of their index; and as what each counts.
    fn reports<'a>(
        &self,
        members: &[NodeId],
        set: &'a SealedSet,
    ) -> (BTreeMap<RecordHash, Vec<&'a AuditResult>>, BTreeMap<Shard, Outcome>) {
        let mut reports: BTreeMap<Shard, Reports> = BTreeMap::new();
        for (hash, sealed) in &set.verdicts {
            let Some((committee, place)) = self.place(members, set, sealed) else { continue };
            let body = sealed.verdict.body();
            for result in &body.results {
                let shard = (body.challenge.segment, result.index, result.holder);
                let report = reports.entry(shard).or_default();
                report.committee = committee;
                report.add(*hash, body.witness, place == 0, sealed, result);
            }
        }
        let mut counting: BTreeMap<RecordHash, Vec<&AuditResult>> = BTreeMap::new();
        let mut counts = BTreeMap::new();
        for (shard, report) in &reports {
            let Some((hash, outcome)) = report.counting() else { continue };
            counts.insert(*shard, outcome);
            let verdict = set.verdicts.get(&hash);
            let result = verdict.and_then(|sealed| sealed.verdict.body().result(shard.1));
            counting.entry(hash).or_default().extend(result);
        }
        counting.values_mut().for_each(|results| results.sort_by_key(|result| result.index));
        (counting, counts)
    }

    /// How large the committee is that a verdict's witness belongs to, and its place in it; none
    /// where the verdict does not count.
    fn place(
        &self,
        members: &[NodeId],
        set: &SealedSet,
        sealed: &Sealed,
    ) -> Option<(usize, usize)> {
        let (body, beacon) = (sealed.verdict.body(), set.beacon.as_ref()?);
        let challenge = &body.challenge;
        let is_drawn = challenge.beacon == *beacon.signature()
            && beacon.epoch() == set.epoch()
            && !self.is_convicted(&body.witness, set.epoch());
        let is_due = match &challenge.inventory {
            None => Draw::new(beacon, &challenge.segment)
                .is_due(&self.rules.rates, u64::from(body.length)),
            Some(holder) => self
                .holders
                .get(holder)
                .is_some_and(|account| account.is_inventory_due(set.epoch())),
        };
        if !is_drawn || !is_due {
            return None;
        }
        let committee = draw::committee(beacon, &challenge.segment, members, &self.rules.rates);
        let place = committee.iter().position(|member| *member == body.witness)?;
        Some((committee.len(), place))
    }

    fn take(&mut self, epoch: Epoch, holder: NodeId, source: Source) -> Vec<ScoreEvent> {
        let account = self.holders.entry(holder).or_default();
        if source.outcome == Outcome::Silent && account.is_in_maintenance(epoch) {
            return Vec::new();
        }
        let before = account.word();
        account.take(epoch, (source.segment, source.index), source.outcome);
        let is_new = account.standing() != Standing::Disqualified;
        if is_new && account.is_disqualified_by_score() {
            account.disqualify();
        }
        let after = account.word();
        let reason = match source.outcome {
            Outcome::Pass => Reason::Passed,
            Outcome::Wrong | Outcome::Absent => Reason::Lost,
            Outcome::Silent => Reason::Silent,
        };
        vec![ScoreEvent { holder, epoch, source: Some(source), reason, before, after }]
    }

    fn end_epoch(&mut self, epoch: Epoch, last: &BTreeMap<NodeId, Source>) -> Vec<ScoreEvent> {
        let mut events = Vec::new();
        for (holder, account) in &mut self.holders {
            let before = account.word();
            account.end_epoch(epoch);
            let after = account.word();
            if before.standing == after.standing {
                continue;
            }
            let is_anew = before.standing == Standing::Disqualified;
            let reason = if is_anew { Reason::Rehabilitated } else { Reason::Standing };
            let source = last.get(holder).copied().filter(|_| !is_anew);
            events.push(ScoreEvent { holder: *holder, epoch, source, reason, before, after });
        }
        self.forget();
        events
    }

    /// Those with the fewest events leave first, of equals the greatest NodeID.
    fn forget(&mut self) {
        let over = self.holders.len().saturating_sub(self.rules.holders_max);
        if over == 0 {
            return;
        }
        let mut order: Vec<(u64, std::cmp::Reverse<NodeId>)> = self
            .holders
            .iter()
            .map(|(holder, account)| (account.events, std::cmp::Reverse(*holder)))
            .collect();
        order.sort_unstable();
        for (_, std::cmp::Reverse(holder)) in order.into_iter().take(over) {
            self.holders.remove(&holder);
        }
    }
}

impl Reports {
    fn add(
        &mut self,
        hash: RecordHash,
        witness: NodeId,
        is_asker: bool,
        sealed: &Sealed,
        result: &AuditResult,
    ) {
        if result.outcome == Outcome::Silent {
            self.silent.insert(witness);
            self.first_silent.get_or_insert(hash);
            return;
        }
        self.is_contested = true;
        if !is_asker || sealed.lies.contains(&result.index) {
            return;
        }
        let is_worse = result.outcome.is_against()
            && self.asker.as_ref().is_some_and(|(_, first)| !first.outcome.is_against());
        if self.asker.is_none() || is_worse {
            self.asker = Some((hash, result.clone()));
        }
    }
}

fn source(
    sealed: &Sealed,
    verdict: RecordHash,
    result: &AuditResult,
    counts: &BTreeMap<Shard, Outcome>,
) -> Source {
    let body = sealed.verdict.body();
    let (segment, index) = (body.challenge.segment, result.index);
    let outcome = counts.get(&(segment, index, result.holder)).copied().unwrap_or(result.outcome);
    Source { verdict, witness: body.witness, segment, index, leaf: body.leaf, outcome }
}
