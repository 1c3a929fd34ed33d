//! How a simulated node learns who can be reached.

use std::collections::BTreeMap;

use echonet_archive::keeper::Presence;
use echonet_protocol::{
    machine::{Draws, Millis},
    network::Timing,
};

use super::node::Out;

/// What is known of one node.
#[derive(Debug)]
struct Peer {
    /// When it answered last.
    answered: Millis,
    /// Unanswered for so long it counts as unreachable; drawn anew for each.
    patience_ms: u64,
    told: Presence,
}

/// A model of the prober: asks the engine who would answer, once a period, and draws how long
/// a silence has to be, as the prober's retries make it. Sends nothing.
#[derive(Debug)]
pub(super) struct Detector {
    probe_ms: u64,
    suspect_ms: u64,
    peers: BTreeMap<usize, Peer>,
    at: Millis,
    draws: Draws,
}

impl Detector {
    pub(super) fn fitted(timing: &Timing, seed: u64) -> Self {
        Self {
            probe_ms: timing.probe_s * 1000,
            suspect_ms: timing.suspect_s * 1000,
            peers: BTreeMap::new(),
            at: Millis(0),
            draws: Draws::new(seed),
        }
    }

    pub(super) fn watch(&mut self, number: usize, now: Millis) {
        let patience_ms = self.suspect_ms + self.draws.below(self.probe_ms);
        let peer = Peer { answered: now, patience_ms, told: Presence::Reachable };
        self.peers.entry(number).or_insert(peer);
    }

    pub(super) fn unwatch(&mut self, number: usize) {
        self.peers.remove(&number);
    }

    pub(super) fn presence(&self, number: usize) -> Option<Presence> {
        self.peers.get(&number).map(|peer| peer.told)
    }

    pub(super) fn wake(&self) -> Option<Millis> {
        (!self.peers.is_empty()).then_some(self.at)
    }

    /// What changed.
    pub(super) fn look(&mut self, now: Millis, io: &Out<'_>) -> Vec<(usize, Presence)> {
        self.at = now.after(self.probe_ms);
        let mut told = Vec::new();
        for (number, peer) in &mut self.peers {
            let presence = if io.answers(*number) {
                peer.answered = now;
                Presence::Reachable
            } else if now.since(peer.answered) >= peer.patience_ms {
                Presence::Unreachable { since: peer.answered }
            } else {
                continue;
            };
            if presence != peer.told {
                peer.told = presence;
                told.push((*number, presence));
            }
        }
        told
    }

    /// Whether most of the others seem to be gone: then it is rather this node that is.
    pub(super) fn is_isolated(&self) -> bool {
        let gone = |peer: &&Peer| matches!(peer.told, Presence::Unreachable { .. });
        2 * self.peers.values().filter(gone).count() > self.peers.len()
    }
}
