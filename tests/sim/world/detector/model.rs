//! A model fitted to the prober: it asks the engine who would answer and draws how
//! long a silence has to be. Sends nothing, so that thousands of nodes can be played.

use std::collections::BTreeMap;

use echonet_archive::keeper::Presence;
use echonet_protocol::{
    machine::{Draws, Millis},
    membership::Pace,
    network::Timing,
};

use super::{Out, Seen};

/// What is known of one node.
#[derive(Debug)]
struct Peer {
    /// When it answered last.
    answered: Millis,
    /// Unanswered for so long it counts as unreachable; drawn for each.
    patience_ms: u64,
    told: Presence,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Model {
    probe_ms: u64,
    pace: Pace,
    peers: BTreeMap<usize, Peer>,
    at: Millis,
    was_isolated: bool,
    draws: Draws,
}

impl Model {
    pub(super) fn new(timing: &Timing, seed: u64) -> Self {
        Self {
            probe_ms: timing.probe_s * 1000,
            pace: Pace::of(timing),
            peers: BTreeMap::new(),
            at: Millis(0),
            was_isolated: false,
            draws: Draws::new(seed),
        }
    }

    pub(super) fn watch(&mut self, number: usize, now: Millis) {
        // The prober sees a silence at its next probe of the node, and believes the third.
        let patience_ms = self.pace.suspect_ms
            + self.pace.watch_failing_ms
            + self.draws.below(self.pace.watch_ms);
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

    pub(super) fn look(&mut self, now: Millis, io: &Out<'_>) -> Seen {
        self.at = now.after(self.probe_ms);
        let mut seen = Seen::default();
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
                seen.changed.push((*number, presence));
            }
        }
        let gone = |peer: &&Peer| matches!(peer.told, Presence::Unreachable { .. });
        let is_isolated = 2 * self.peers.values().filter(gone).count() > self.peers.len();
        if is_isolated != self.was_isolated {
            self.was_isolated = is_isolated;
            seen.is_isolated = Some(is_isolated);
        }
        seen
    }
}
