//! How a member asks whether others are there: directly, then through others,
//! and again soon where one did not answer.
//!
//! Only these probes make anybody down, and only for this node.

use super::{
    claim::{Claim, Life},
    machine::{Membership, Purpose},
    messages::Ask,
    pace::Pace,
    types::{Evidence, MembershipOutput},
};
use crate::{
    identity::{NodeId, Signed},
    machine::Millis,
    params,
};

/// Probes that stay free for those whose turn it is.
const TURNS: usize = 4;

/// A member that is being asked.
#[derive(Debug)]
pub(super) struct Probe {
    pub(super) started: Millis,
    /// When others are asked to try; none: they were.
    pub(super) helpers_at: Option<Millis>,
    /// When it has failed.
    pub(super) ends: Millis,
}

impl Membership {
    pub(super) fn probe(&mut self, now: Millis, node: NodeId) {
        let Some(member) = self.members.get(&node) else { return };
        let is_failing = member.failing.is_some() && member.view.life == Life::Suspect;
        let Pace { direct_ms, probe_ms, probe_fails_ms, .. } = self.pace;
        let (helpers_at, ends) = if is_failing {
            (None, now.after(probe_ms))
        } else {
            (Some(now.after(direct_ms)), now.after(probe_fails_ms))
        };
        self.probes.insert(node, Probe { started: now, helpers_at, ends });
        self.ping(now, node, Purpose::Probe);
        if is_failing {
            self.ask_helpers(now, node);
        }
    }

    pub(super) fn ask_helpers(&mut self, now: Millis, node: NodeId) {
        for helper in self.members.some_alive(self.pace.helpers, &node) {
            let claims = self.claims_for(now, helper);
            self.ask(now, helper, Purpose::Help(node), Ask::PingFor { node, claims });
        }
    }

    /// Puts a member on the list of those to be asked soon.
    pub(super) fn ask_again(&mut self, node: NodeId, by_own_probe: bool) {
        let Some(member) = self.members.get_mut(&node) else { return };
        if member.waits || self.probes.contains_key(&node) {
            return;
        }
        member.waits = true;
        let list = if by_own_probe { &mut self.suspects } else { &mut self.hinted };
        list.push_back(node);
    }

    /// Asks those who wait, as many as a round allows: own suspicions and hints by turns.
    pub(super) fn recheck(&mut self, now: Millis) {
        while self.rechecks_left > 0 && self.probes.len() + TURNS < self.pace.probes_max {
            let next = if self.rechecks_left.is_multiple_of(2) {
                self.suspects.pop_front().or_else(|| self.hinted.pop_front())
            } else {
                self.hinted.pop_front().or_else(|| self.suspects.pop_front())
            };
            let Some(node) = next else { return };
            let Some(member) = self.members.get_mut(&node) else { continue };
            member.waits = false;
            let is_settled = member.is_fresh(now, &self.pace) && member.failing.is_none();
            let has_left = member.view.life == Life::Left;
            if is_settled || has_left || self.probes.contains_key(&node) {
                continue;
            }
            self.rechecks_left -= 1;
            self.probe(now, node);
        }
    }

    pub(super) fn probe_failed(&mut self, now: Millis, node: NodeId) {
        let Some(probe) = self.probes.remove(&node) else { return };
        let Some(member) = self.members.get_mut(&node) else { return };
        let is_enough = member.fails(now, &self.pace);
        let was_down = member.view.life == Life::Down;
        let life = if is_enough || was_down { Life::Down } else { Life::Suspect };
        // Who is down is accused again only under a later word. Who hears nobody at all is cut off
        // and accuses nobody.
        let is_new = !was_down || member.said.is_empty();
        if member.set_life(now, life, Evidence::Own) {
            self.tell_change(node);
            self.outputs.push_back(MembershipOutput::Hint(node));
        }
        if is_new && self.heard.is_some_and(|at| at >= probe.started) {
            self.accuse(now, node, life);
        }
        if life == Life::Suspect {
            self.ask_again(node, true);
        }
    }

    fn accuse(&mut self, now: Millis, about: NodeId, life: Life) {
        let at = self.unix(now);
        let Some(member) = self.members.get_mut(&about) else { return };
        let (v, network, claimant) = (params::FORMAT_VERSION, self.network, self.me);
        let incarnation = member.view.incarnation;
        let claim = Claim { v, network, claimant, about, incarnation, life, disk: None, at };
        if member.wants(&claim, &self.pace) {
            let claim = Signed::new(&self.identity, claim);
            member.keep(claim.clone());
            self.news.add(claim);
        }
    }
}
