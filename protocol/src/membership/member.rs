//! One member: what it says, what others say about it, and what this node's own
//! probes found.

use super::{
    claim::{Claim, Life},
    pace::Pace,
    types::{Evidence, View},
};
use crate::{identity::Signed, machine::Millis};

/// Claims that a claimant may still make.
#[derive(Debug, Clone, Copy)]
struct Budget {
    left: u32,
    refilled: Millis,
}

/// Own probes that failed in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failing {
    /// The first of them.
    pub(super) since: Millis,
    /// How many.
    pub(super) probes: u32,
}

#[derive(Debug)]
pub(super) struct Member {
    /// What is made of it.
    pub(super) view: View,
    /// Its latest word that is known.
    pub(super) word: Option<Signed<Claim>>,
    /// The latest word that it was heard saying; `at` may be later than `word`'s.
    pub(super) stamp: (u64, u64),
    /// What others say about its present incarnation.
    pub(super) said: Vec<Signed<Claim>>,
    pub(super) failing: Option<Failing>,
    /// When its own traffic last proved it alive.
    pub(super) heard: Option<Millis>,
    /// When news was last given to it.
    pub(super) served: Option<Millis>,
    /// Whether it waits to be asked again.
    pub(super) waits: bool,
    budget: Budget,
}

impl Member {
    pub(super) const fn new(now: Millis, pace: &Pace) -> Self {
        let view = View {
            life: Life::Alive,
            evidence: Evidence::Named,
            since: now,
            disk: None,
            incarnation: 0,
            failures: 0,
        };
        Self {
            view,
            word: None,
            stamp: (0, 0),
            said: Vec::new(),
            failing: None,
            heard: None,
            served: None,
            waits: false,
            budget: Budget { left: pace.claimant_burst, refilled: now },
        }
    }

    /// Whether this member may make one more claim; counts it.
    pub(super) fn spend(&mut self, now: Millis, pace: &Pace) -> bool {
        let refill_ms = pace.claimant_refill_ms.max(1);
        let gained = now.since(self.budget.refilled) / refill_ms;
        if gained > 0 {
            let left = u64::from(self.budget.left).saturating_add(gained);
            self.budget.left = u32::try_from(left).unwrap_or(u32::MAX).min(pace.claimant_burst);
            self.budget.refilled = self.budget.refilled.after(gained * refill_ms);
        }
        let may = self.budget.left > 0;
        self.budget.left = self.budget.left.saturating_sub(1);
        may
    }

    /// Whether it answered more recently than any probe that failed can have begun.
    pub(super) fn is_fresh(&self, now: Millis, pace: &Pace) -> bool {
        self.heard.is_some_and(|heard| now.since(heard) < pace.probe_fails_ms)
    }

    /// Whether it should be asked in turn.
    pub(super) const fn is_asked(&self) -> bool {
        matches!(self.view.life, Life::Alive | Life::Suspect)
    }

    /// One more failed probe; whether that was enough for `Down`.
    pub(super) fn fails(&mut self, now: Millis, pace: &Pace) -> bool {
        let failing = self.failing.get_or_insert(Failing { since: now, probes: 0 });
        failing.probes = failing.probes.saturating_add(1);
        self.view.failures = failing.probes;
        failing.probes >= pace.failures_min && now.since(failing.since) >= pace.suspect_ms
    }

    /// Own probes find it alive, or their failures no longer count.
    pub(super) const fn fails_no_more(&mut self) {
        self.failing = None;
        self.view.failures = 0;
    }

    /// Sets its life; whether the view is another now.
    pub(super) fn set_life(&mut self, now: Millis, life: Life, evidence: Evidence) -> bool {
        let before = (self.view.life, self.view.evidence);
        if self.view.life != life {
            self.view.since = now;
        }
        (self.view.life, self.view.evidence) = (life, evidence);
        before.0 != life || (life == Life::Suspect && before.1 != evidence)
    }

    /// Whether `claimant`'s claim would say something about this member that is
    /// not known from it, and is wanted.
    pub(super) fn wants(&self, claim: &Claim, pace: &Pace) -> bool {
        match self.said.iter().find(|c| c.body.claimant == claim.claimant) {
            Some(known) => known.body.life < claim.life,
            None => self.said.len() < pace.claims_about_max,
        }
    }

    /// Keeps a claim in place of the claimant's last.
    pub(super) fn keep(&mut self, claim: Signed<Claim>) {
        self.said.retain(|c| c.body.claimant != claim.body.claimant);
        self.said.push(claim);
    }
}
