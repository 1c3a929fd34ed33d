//! What a member makes of claims that it is given.
//!
//! A node's own word is believed about itself. What others say about it is kept,
//! passed on and looked into; it never makes anybody down.

use super::{
    claim::{Claim, Life},
    machine::Membership,
    types::{Evidence, MembershipOutput},
};
use crate::{
    identity::{NodeId, Signed, check_body},
    machine::Millis,
};

impl Membership {
    /// Takes note of claims that `from` passed on. `wanted`: whose word is
    /// needed in its latest form, as a proof that it was asked just now.
    pub(super) fn hear(
        &mut self,
        now: Millis,
        from: NodeId,
        claims: &[Signed<Claim>],
        wanted: Option<NodeId>,
    ) {
        for claim in claims.iter().take(self.pace.claims_max) {
            let body = &claim.body;
            // The signature comes last: most claims say nothing new, and cost nothing.
            if check_body(body, &self.network).is_err() {
                continue;
            }
            if body.about == self.me {
                self.hear_of_me(now, claim);
            } else if body.is_word() {
                self.hear_word(now, from, claim, wanted == Some(body.about));
            } else {
                self.hear_claim(now, claim);
            }
        }
    }

    /// An own word of an earlier run that is later than mine, or somebody's
    /// doubt: both are answered with a later word.
    fn hear_of_me(&mut self, now: Millis, claim: &Signed<Claim>) {
        let (body, mine) = (&claim.body, &self.word.body);
        let (theirs, current) = (body.incarnation, mine.incarnation);
        if body.is_word() {
            let is_other = (body.life, body.disk) != (mine.life, mine.disk);
            if (theirs > current || (theirs == current && is_other))
                && claim.verify(&self.network).is_ok()
            {
                self.say(now, theirs.saturating_add(1));
            }
            return;
        }
        let answered = self.refuted.is_some_and(|at| now.since(at) < self.pace.probe_ms);
        if theirs != current || answered || mine.life == Life::Left || self.is_stale(now, body) {
            return;
        }
        if self.is_vouched(now, claim) {
            self.refuted = Some(now);
            self.say(now, current.saturating_add(1));
        }
    }

    /// A node's word about itself.
    fn hear_word(&mut self, now: Millis, from: NodeId, claim: &Signed<Claim>, is_wanted: bool) {
        let (node, stamp) = (claim.body.about, claim.body.stamp());
        let Some(member) = self.members.get_mut(&node) else { return };
        if stamp.0 < member.view.incarnation {
            return;
        }
        if stamp.0 == member.view.incarnation {
            let Some(word) = &member.word else { return };
            let is_same = (word.body.life, word.body.disk) == (claim.body.life, claim.body.disk);
            let is_later = stamp > word.body.stamp();
            if is_wanted && is_same && is_later && claim.verify(&self.network).is_ok() {
                member.word = Some(claim.clone());
                member.stamp = member.stamp.max(stamp);
            } else if from == node && is_same {
                // The connection proves who says it.
                member.stamp = member.stamp.max(stamp);
            }
            return;
        }
        if claim.verify(&self.network).is_err() {
            return;
        }
        // Whoever always has something new to say is listened to, but not passed on.
        let may_spread = member.spend(now, &self.pace);
        if from != node && !may_spread {
            return;
        }
        let is_first = member.word.is_none();
        self.take_word(now, claim);
        if may_spread && (!is_first || claim.body.life == Life::Left) {
            self.news.add(claim.clone());
        }
    }

    /// A later word than all before, which verified.
    fn take_word(&mut self, now: Millis, claim: &Signed<Claim>) {
        let (node, life) = (claim.body.about, claim.body.life);
        let Some(member) = self.members.get_mut(&node) else { return };
        member.stamp = claim.body.stamp();
        member.view.incarnation = claim.body.incarnation;
        member.word = Some(claim.clone());
        member.said.clear();
        self.news.forget_others(node);
        let disk_before = member.view.disk;
        member.view.disk = claim.body.disk;
        let mut is_changed = disk_before != member.view.disk;
        let mut is_asked = false;
        match (life, member.view.life) {
            (Life::Left, _) => {
                member.fails_no_more();
                is_changed |= member.set_life(now, Life::Left, Evidence::Word);
                self.probes.remove(&node);
            }
            // It was down by own probes: those decide again.
            (_, Life::Down) => is_asked = true,
            (_, Life::Left) => {
                is_changed |= member.set_life(now, Life::Alive, Evidence::Word);
                is_asked = true;
            }
            (_, Life::Suspect) if member.failing.is_some() => {}
            (_, Life::Suspect) => is_changed |= member.set_life(now, Life::Alive, Evidence::Word),
            (_, Life::Alive) => {
                if member.view.evidence == Evidence::Named {
                    member.view.evidence = Evidence::Word;
                }
            }
        }
        if is_changed {
            self.tell_change(node);
        }
        if is_asked {
            self.outputs.push_back(MembershipOutput::Hint(node));
            self.ask_again(node, false);
        }
    }

    /// What one node says about another.
    fn hear_claim(&mut self, now: Millis, claim: &Signed<Claim>) {
        let body = &claim.body;
        if body.claimant == self.me || self.is_stale(now, body) {
            return;
        }
        let is_asked = self.probes.contains_key(&body.about);
        let Some(member) = self.members.get(&body.about) else { return };
        let known = member.view.incarnation;
        // Whoever heard it since any failed probe can have begun knows better.
        if (body.incarnation < known && body.incarnation > 0)
            || member.view.life == Life::Left
            || member.is_fresh(now, &self.pace)
            || !member.wants(body, &self.pace)
        {
            return;
        }
        // Of a word that is not known on one side a claim says too little to be kept: it might be
        // made up, or old. It is a hint all the same.
        let is_kept = body.incarnation == known;
        let is_hint = member.view.life == Life::Alive && !is_asked && !member.waits;
        if !(is_kept || is_hint) || !self.is_vouched(now, claim) {
            return;
        }
        let Some(member) = self.members.get_mut(&claim.body.about) else { return };
        if is_kept {
            member.keep(claim.clone());
            self.news.add(claim.clone());
        }
        self.doubt(now, claim.body.about);
    }

    /// Others doubt a member: it is asked.
    fn doubt(&mut self, now: Millis, node: NodeId) {
        let Some(member) = self.members.get_mut(&node) else { return };
        if member.view.life != Life::Alive {
            return;
        }
        if member.set_life(now, Life::Suspect, Evidence::Hearsay) {
            self.tell_change(node);
        }
        self.outputs.push_back(MembershipOutput::Hint(node));
        self.ask_again(node, false);
    }

    /// Whether a member stands behind a claim, and has not made too many.
    fn is_vouched(&mut self, now: Millis, claim: &Signed<Claim>) -> bool {
        let Some(claimant) = self.members.get_mut(&claim.body.claimant) else { return false };
        claim.verify(&self.network).is_ok() && claimant.spend(now, &self.pace)
    }

    fn is_stale(&self, now: Millis, claim: &Claim) -> bool {
        self.unix(now).0.abs_diff(claim.at.0) > self.pace.claim_age_s
    }
}
