//! One holder's account: its audit score, its online windows, its inventory, its standing.

use std::collections::BTreeMap;

use echonet_protocol::{audit::Outcome, identity::NodeId, segment::SegmentId, time::Epoch};
use serde::{Deserialize, Serialize};

/// One in the fixed-point numbers of the audit score: 20 fraction bits.
const ONE: u64 = 1 << 20;
/// What a result leaves of earlier ones, in 1/1000.
const MEMORY_PERMILLE: u64 = 999;
/// `a` of a holder that was never seen: what it converges to if all audits pass.
const SATURATED: u64 = 1000 * ONE;
/// Scores are in 1/10000.
const SCALE: u64 = 10_000;
/// At this audit score and below a holder is disqualified.
const DISQUALIFIED_AT: u16 = 9_600;
/// Under this online score a holder is suspended.
const SUSPENDED_UNDER: u16 = 6_000;
/// Questions in the windows before anybody is suspended.
const SUSPENSION_QUESTIONS: u64 = 20;
/// Passes after which a holder is no longer vetted.
const VETTED_PASSES: u64 = 100;
/// Epochs of an online window.
const WINDOW_EPOCHS: u64 = 12;
/// Windows that the online score looks back on.
const WINDOWS: usize = 60;
/// Epochs that losses, maintenances and a disqualification are remembered.
const MEMORY_EPOCHS: u64 = 720;
/// Epochs between two inventories of a holder.
const INVENTORY_EPOCHS: u64 = 24;
/// Fewer lost shards than this never disqualify by their share.
const LOST_MIN: u64 = 3;
/// Distinct lost shards that are remembered; more than this are far beyond any threshold.
const LOST_MAX: usize = 4_096;
/// Epochs of maintenance in [`MEMORY_EPOCHS`].
const MAINTENANCE_EPOCHS: u64 = 24;

/// Where a holder stands, and so what may be placed with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// Fewer than 100 passes: at most 2 such holders a segment.
    Vetting,
    /// Anything may be placed with it.
    Full,
    /// Rarely there: no new shards until its online score is back.
    Suspended,
    /// Lost too much: nothing is placed with it, and what it holds counts as lost.
    Disqualified,
    /// Was disqualified, and begins anew: as vetting.
    Rehabilitating,
}

/// A holder's scores at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Word {
    /// Audit score, in 1/10000.
    pub audit: u16,
    /// Online score, in 1/10000.
    pub online: u16,
    /// Audits passed.
    pub passes: u64,
    /// Distinct shards proven lost within 720 epochs.
    pub lost: u64,
    /// Shards asked for in its last inventory; 0: it had none.
    pub held: u64,
    /// What follows for placement.
    pub standing: Standing,
}

/// Questions of twelve epochs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Window {
    number: u64,
    answered: u64,
    silent: u64,
}

/// Everything that a fold knows of a holder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Account {
    a: u64,
    b: u64,
    passes: u64,
    /// Results that counted, ever: those with the fewest leave first.
    pub(super) events: u64,
    windows: Vec<Window>,
    held: u64,
    inventory_at: Option<Epoch>,
    /// The last wrong or absent of each shard, ascending.
    lost: Vec<(SegmentId, u8, Epoch)>,
    against_at: Option<Epoch>,
    /// Maintenances that are honoured: first epoch, first epoch after.
    maintenance: Vec<(Epoch, Epoch)>,
    standing: Standing,
}

impl Default for Account {
    fn default() -> Self {
        Self {
            a: SATURATED,
            b: 0,
            passes: 0,
            events: 0,
            windows: Vec::new(),
            held: 0,
            inventory_at: None,
            lost: Vec::new(),
            against_at: None,
            maintenance: Vec::new(),
            standing: Standing::Vetting,
        }
    }
}

impl Account {
    /// The scores.
    pub(super) fn word(&self) -> Word {
        Word {
            audit: self.audit(),
            online: self.online(),
            passes: self.passes,
            lost: self.lost.len() as u64,
            held: self.held,
            standing: self.standing,
        }
    }

    fn audit(&self) -> u16 {
        // Both are at most 1000 * 2^20, and never both 0.
        to_score(SCALE * self.a / (self.a + self.b).max(1))
    }

    fn online(&self) -> u16 {
        let ratios = self.windows.iter().map(|w| SCALE * w.answered / (w.answered + w.silent));
        // Who was never asked was never silent.
        to_score(ratios.sum::<u64>().checked_div(self.windows.len() as u64).unwrap_or(SCALE))
    }

    /// Whether every segment of the holder is due for it in an epoch: it failed in the one before
    /// and had no inventory in the 24 before.
    pub(super) fn is_inventory_due(&self, epoch: Epoch) -> bool {
        let failed = self.against_at.is_some_and(|at| at.0 + 1 == epoch.0);
        failed && self.inventory_at.is_none_or(|at| epoch.0.saturating_sub(at.0) > INVENTORY_EPOCHS)
    }

    /// Takes a result that counts.
    pub(super) fn take(&mut self, epoch: Epoch, shard: (SegmentId, u8), outcome: Outcome) {
        self.events += 1;
        self.count_question(epoch, outcome);
        let faded = |number: u64| number * MEMORY_PERMILLE / 1000;
        match outcome {
            Outcome::Pass => {
                (self.a, self.b) = (faded(self.a) + ONE, faded(self.b));
                self.passes += 1;
            }
            Outcome::Wrong | Outcome::Absent => {
                (self.a, self.b) = (faded(self.a), faded(self.b) + ONE);
                self.against_at = Some(epoch);
                self.lose(epoch, shard);
            }
            Outcome::Silent => {}
        }
    }

    fn lose(&mut self, epoch: Epoch, (segment, index): (SegmentId, u8)) {
        match self.lost.binary_search_by_key(&(segment, index), |(s, i, _)| (*s, *i)) {
            Ok(at) => self.lost[at].2 = epoch,
            Err(_) if self.lost.len() == LOST_MAX => {}
            Err(at) => self.lost.insert(at, (segment, index, epoch)),
        }
    }

    fn count_question(&mut self, epoch: Epoch, outcome: Outcome) {
        if self.is_in_maintenance(epoch) {
            return;
        }
        let number = epoch.0 / WINDOW_EPOCHS;
        if self.windows.last().is_none_or(|window| window.number != number) {
            self.windows.push(Window { number, answered: 0, silent: 0 });
            let over = self.windows.len().saturating_sub(WINDOWS);
            self.windows.drain(..over);
        }
        if let Some(window) = self.windows.last_mut() {
            window.answered += u64::from(outcome.is_signed());
            window.silent += u64::from(!outcome.is_signed());
        }
    }

    /// Whether what is silent in an epoch does not count.
    pub(super) fn is_in_maintenance(&self, epoch: Epoch) -> bool {
        self.maintenance.iter().any(|(from, until)| (*from..*until).contains(&epoch))
    }

    /// Honours a maintenance that was known in `epoch`, unless it began by then or there are too
    /// many: those count that end less than 720 epochs before it begins.
    pub(super) fn announce(&mut self, epoch: Epoch, from: Epoch, until: Epoch) {
        let is_recent = |end: Epoch| end.0.saturating_add(MEMORY_EPOCHS) > from.0;
        let recent = self.maintenance.iter().filter(|(_, end)| is_recent(*end));
        let used: u64 = recent.map(|(from, until)| until.0 - from.0).sum();
        if from > epoch && used + (until.0 - from.0) <= MAINTENANCE_EPOCHS {
            self.maintenance.push((from, until));
        }
    }

    /// Notes an inventory: how many of its shards each witness asked for. Of the `faulty_max`
    /// members with most no more counts than of the next, so that those made up by hostile ones
    /// do not hide what was lost.
    pub(super) fn take_inventory(
        &mut self,
        epoch: Epoch,
        asked: &BTreeMap<NodeId, u64>,
        faulty_max: usize,
    ) {
        let mut counts: Vec<u64> = asked.values().copied().collect();
        counts.sort_unstable_by(|a, b| b.cmp(a));
        let cap = counts.get(faulty_max).copied().unwrap_or(0);
        self.held = counts.iter().map(|count| (*count).min(cap)).sum();
        self.inventory_at = Some(epoch);
    }

    /// What an epoch's end makes of it.
    pub(super) fn end_epoch(&mut self, epoch: Epoch) {
        let is_recent = |at: Epoch| epoch.0.saturating_sub(at.0) < MEMORY_EPOCHS;
        self.lost.retain(|(_, _, at)| is_recent(*at));
        self.maintenance.retain(|(_, until)| until.0.saturating_add(MEMORY_EPOCHS) > epoch.0);
        if self.standing == Standing::Disqualified {
            if self.against_at.is_none_or(|at| !is_recent(at)) {
                let maintenance = std::mem::take(&mut self.maintenance);
                let (standing, events) = (Standing::Rehabilitating, self.events);
                *self = Self { maintenance, standing, events, ..Self::default() };
            }
            return;
        }
        self.standing = self.assess();
    }

    /// Disqualified at once, whatever the epoch still brings.
    pub(super) fn is_disqualified_by_score(&self) -> bool {
        self.audit() <= DISQUALIFIED_AT
    }

    pub(super) fn disqualify(&mut self) {
        self.standing = Standing::Disqualified;
    }

    pub(super) const fn standing(&self) -> Standing {
        self.standing
    }

    fn assess(&self) -> Standing {
        let lost = self.lost.len() as u64;
        let lost_share = self.inventory_at.is_some() && 1000 * lost > 5 * self.held;
        if self.is_disqualified_by_score() || (lost_share && lost >= LOST_MIN) {
            return Standing::Disqualified;
        }
        let questions: u64 = self.windows.iter().map(|w| w.answered + w.silent).sum();
        if questions >= SUSPENSION_QUESTIONS && self.online() < SUSPENDED_UNDER {
            return Standing::Suspended;
        }
        match self.standing {
            _ if self.passes >= VETTED_PASSES => Standing::Full,
            Standing::Rehabilitating => Standing::Rehabilitating,
            _ => Standing::Vetting,
        }
    }
}

fn to_score(number: u64) -> u16 {
    // At most 10000.
    u16::try_from(number).unwrap_or(u16::MAX)
}
