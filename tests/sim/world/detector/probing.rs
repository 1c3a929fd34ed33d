//! Drives the real prober: its probes are pings with an answer, or none in time.

use std::collections::BTreeMap;

use echonet_archive::keeper::Presence;
use echonet_protocol::{
    identity::NodeId,
    machine::{Machine, Millis},
    membership::{Pace, ProbeResult, Prober, ProberInput, ProberOutput},
    network::Timing,
    time::UnixSeconds,
};

use super::{Out, Seen, Setup};
use crate::world::message::Message;

/// How often the prober is told the time of day.
const CLOCK_MS: u64 = 1_000;

/// See the module's documentation.
pub(crate) struct Probing {
    prober: Prober,
    patience_ms: u64,
    /// Pings under way: their number, and until when an answer counts.
    asked: BTreeMap<usize, (u64, Millis)>,
    nonce: u64,
    told: BTreeMap<usize, Presence>,
    clock_at: Millis,
    /// Whom it takes for gone without having probed them: see [`super::Detector::believe`].
    believed: Vec<usize>,
    /// Whether the prober may have something to say.
    is_restless: bool,
}

impl Probing {
    pub(super) fn new(now: Millis, timing: &Timing, seed: u64) -> Self {
        let pace = Pace::of(timing);
        Self {
            prober: Prober::new(now, pace, seed),
            patience_ms: pace.watch_answer_ms / 2,
            asked: BTreeMap::new(),
            nonce: 0,
            told: BTreeMap::new(),
            clock_at: now,
            believed: Vec::new(),
            is_restless: false,
        }
    }

    fn tell(&mut self, now: Millis, input: ProberInput) {
        self.prober.handle(now, input);
        self.is_restless = true;
    }

    pub(super) fn watch(&mut self, id: NodeId, now: Millis) {
        self.tell(now, ProberInput::Watch(id));
    }

    pub(super) fn hint(&mut self, id: NodeId, now: Millis) {
        self.tell(now, ProberInput::Hint(id));
    }

    pub(super) fn heard(&mut self, id: NodeId, now: Millis) {
        self.tell(now, ProberInput::Observed(id));
    }

    pub(super) fn believe(&mut self, number: usize, now: Millis) {
        let told = self.told.get_mut(&number).filter(|told| **told == Presence::Reachable);
        if let Some(told) = told {
            *told = Presence::Unreachable { since: now };
            self.believed.push(number);
        }
    }

    pub(super) fn unwatch(&mut self, number: usize, id: NodeId, now: Millis) {
        self.told.remove(&number);
        self.tell(now, ProberInput::Unwatch(id));
    }

    pub(super) fn answered(&mut self, setup: &Setup, number: usize, nonce: u64, now: Millis) {
        if self.asked.get(&number).is_some_and(|(asked, _)| *asked == nonce) {
            self.asked.remove(&number);
            let (node, result) = (setup.ids[number], ProbeResult::Healthy);
            self.tell(now, ProberInput::Probed { node, result });
        }
    }

    pub(super) fn presence(&self, number: usize) -> Option<Presence> {
        self.told.get(&number).copied()
    }

    pub(super) fn wake(&self) -> Option<Millis> {
        if self.is_restless {
            return Some(Millis(0));
        }
        let late = self.asked.values().map(|(_, until)| *until).min();
        [self.prober.timeout(), late, Some(self.clock_at)].into_iter().flatten().min()
    }

    pub(super) fn look(&mut self, setup: &Setup, now: Millis, io: &mut Out<'_>) -> Seen {
        if self.clock_at <= now {
            self.clock_at = now.after(CLOCK_MS);
            self.prober.handle(now, ProberInput::Clock(UnixSeconds(now.0 / 1000)));
        }
        let late: Vec<usize> =
            self.asked.iter().filter(|(_, (_, until))| *until <= now).map(|(n, _)| *n).collect();
        for number in late {
            self.asked.remove(&number);
            let (node, result) = (setup.ids[number], ProbeResult::Unreachable);
            self.prober.handle(now, ProberInput::Probed { node, result });
        }
        if self.prober.timeout().is_some_and(|at| at <= now) {
            self.prober.handle(now, ProberInput::Tick);
        }
        self.is_restless = false;
        let mut seen = Seen::default();
        for number in std::mem::take(&mut self.believed) {
            seen.changed.extend(self.told.get(&number).map(|presence| (number, *presence)));
        }
        while let Some(output) = self.prober.poll() {
            match output {
                ProberOutput::Probe(node) => {
                    self.nonce += 1;
                    let number = setup.numbers[&node];
                    self.asked.insert(number, (self.nonce, now.after(self.patience_ms)));
                    io.send(number, Message::Ping { nonce: self.nonce }, 0);
                }
                ProberOutput::Changed { node, health, since } => {
                    let presence = match health.is_silent() {
                        true => Presence::Unreachable { since },
                        false => Presence::Reachable,
                    };
                    let number = setup.numbers[&node];
                    self.told.insert(number, presence);
                    seen.changed.push((number, presence));
                }
                ProberOutput::Isolated(is_isolated) => seen.is_isolated = Some(is_isolated),
            }
        }
        seen
    }
}
