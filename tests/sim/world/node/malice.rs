//! What a hostile member says in the membership: it declares others dead, tells
//! again what was true long ago, and makes members up, who say the same.

use std::collections::VecDeque;

use echonet_protocol::{
    identity::{Identity, NodeId, Signed},
    machine::Draws,
    membership::{Claim, Life, Membership},
    params,
    time::UnixSeconds,
};

use super::Nature;
use crate::world::setup::{Setup, bytes};

/// Claims of others that are kept to be told again.
const HEARD_MAX: usize = 256;
/// Others declared dead at a time, and for how many seconds: of one member nobody listens to more.
const SLANDERS: usize = 8;
const SLANDERS_S: u64 = 4;
/// Members made up at once, and in all.
const MADE_UP: usize = 8;
const MADE_UP_MAX: usize = 64;

/// See the module's documentation.
pub(super) struct Malice {
    nature: Nature,
    own: usize,
    draws: Draws,
    made_up: Vec<Identity>,
    /// What others said, perhaps long ago.
    heard: VecDeque<Signed<Claim>>,
    slanders: Vec<Signed<Claim>>,
}

impl Malice {
    pub(super) fn new(nature: Nature, own: usize, seed: u64) -> Self {
        Self {
            nature,
            own,
            draws: Draws::new(seed ^ 0x0BAD),
            made_up: Vec::new(),
            heard: VecDeque::new(),
            slanders: Vec::new(),
        }
    }

    /// Remembers what others say.
    pub(super) fn hear(&mut self, claims: &[Signed<Claim>]) {
        if !self.nature.replays {
            return;
        }
        for claim in claims {
            if self.heard.len() < HEARD_MAX {
                self.heard.push_back(claim.clone());
            } else if self.draws.below(64) == 0 {
                // Most of it stays what it was in the beginning.
                self.heard.pop_front();
                self.heard.push_back(claim.clone());
            }
        }
    }

    /// What it does every second: new lies; the members that it made up.
    pub(super) fn act(
        &mut self,
        setup: &Setup,
        machine: &Membership,
        unix: UnixSeconds,
    ) -> Vec<NodeId> {
        if self.nature.slanders && unix.0.is_multiple_of(SLANDERS_S) {
            self.slanders = (0..SLANDERS).map(|_| self.slander(setup, machine, unix)).collect();
        }
        let count = if self.nature.floods { MADE_UP_MAX - self.made_up.len() } else { 0 };
        let new: Vec<Identity> = (0..count.min(MADE_UP))
            .map(|_| Identity::from_secret(&bytes(&mut self.draws)))
            .collect();
        let ids = new.iter().map(Identity::node_id).collect();
        self.made_up.extend(new);
        ids
    }

    /// As well made as it can be: the newest word is doubted, just now.
    fn slander(&mut self, setup: &Setup, machine: &Membership, at: UnixSeconds) -> Signed<Claim> {
        let others = setup.ids.len() as u64 - 1;
        let about = (self.own + 1 + self.draws.below(others) as usize) % setup.ids.len();
        let about = setup.ids[about];
        let signer = match self.draws.below(2) {
            0 => self.made_up.get(self.draws.below(MADE_UP_MAX as u64) as usize),
            _ => None,
        };
        let signer = signer.unwrap_or(&setup.identities[self.own]);
        let (v, network, claimant) = (params::FORMAT_VERSION, setup.network, signer.node_id());
        let incarnation = machine.word(&about).map_or(0, |word| word.body.incarnation);
        let (life, disk) = (Life::Down, None);
        Signed::new(signer, Claim { v, network, claimant, about, incarnation, life, disk, at })
    }

    /// Puts lies in the place of news; the own word has to be told.
    pub(super) fn tamper(&mut self, claims: &mut Vec<Signed<Claim>>, claims_max: usize) {
        let (slanders, replays) = (self.nature.slanders, self.nature.replays);
        if !(slanders || replays) {
            return;
        }
        claims.truncate(1);
        while claims.len() < claims_max {
            let from_heard = replays && (!slanders || self.draws.below(2) == 0);
            let count = if from_heard { self.heard.len() } else { self.slanders.len() };
            if count == 0 {
                return;
            }
            let which = self.draws.below(count as u64) as usize;
            let lie = if from_heard { &self.heard[which] } else { &self.slanders[which] };
            claims.push(lie.clone());
        }
    }
}
