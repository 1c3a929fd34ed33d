//! A Markov model of one segment under the same policy, to go where a simulation
//! sees nothing.
//!
//! A state is (u: shards gone that nobody knows of, d: shards gone and known, o:
//! holders off, phase of the repair). Nodes leave, turn off and on at constant
//! rates; the delay of an urgent repair has two stages and a repair four, so that
//! both last about as long as they should. Only additions and multiplications of
//! positive numbers: a probability of 1e-30 is as exact as one of 0.1.

use echonet_archive::health::Policy;

use super::churn::{Churn, YEAR_H};

/// Stages of waiting before an urgent repair.
const WAITING: usize = 2;
/// Stages of a repair, in the simulation too.
pub(super) const REPAIRING: usize = 4;
/// Phases: quiet, waiting, repairing.
const PHASES: usize = 1 + WAITING + REPAIRING;
/// Passes over all states, at most.
const PASSES_MAX: usize = 4000;
/// A result that changes by less than this part of itself is settled.
const SETTLED: f64 = 1e-7;
/// Holders that are off at once, at most, beyond which nothing is told apart.
const OFF_MAX: usize = 32;

/// One segment's chances.
#[derive(Debug, Clone)]
pub struct Model {
    k: usize,
    n: usize,
    queue_lost: usize,
    urgent_mark: usize,
    leave: f64,
    off: f64,
    on: f64,
    notice: f64,
    wait: f64,
    repair: f64,
    top_up: f64,
    /// Of those that are off, the part that has been for the grace: taken for lost.
    given_up: f64,
}

/// A state in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    unknown: usize,
    known: usize,
    off: usize,
    phase: usize,
}

/// A step to another state; none: the segment is lost.
type Step = (Option<State>, f64);

impl Model {
    /// The model of `policy` among nodes that churn like this; `repair_h` is the
    /// time from a repair's start to its end, hours.
    #[must_use]
    pub fn new(policy: &Policy, churn: &Churn, repair_h: f64) -> Self {
        let hours = |ms: u64| ms as f64 / super::churn::HOUR_MS;
        let scheme = policy.scheme;
        Self {
            k: scheme.k as usize,
            n: scheme.n(),
            queue_lost: scheme.n() - policy.queue_mark,
            urgent_mark: policy.urgent_mark,
            leave: 1.0 / churn.lifetime_h,
            off: 1.0 / churn.up_h,
            on: 1.0 / churn.down_h,
            notice: 1.0 / hours(policy.grace_ms).max(1e-6),
            wait: WAITING as f64 / hours(policy.urgent_ms).max(1e-6),
            repair: REPAIRING as f64 / repair_h,
            top_up: policy.top_up_ms.map_or(0.0, |ms| 2.0 / hours(ms)),
            given_up: (-hours(policy.grace_ms) / churn.down_h).exp(),
        }
    }

    /// Losses per year of one segment that is replaced when lost.
    #[must_use]
    pub fn losses_per_year(&self) -> f64 {
        let chain = Chain::new(self);
        let incoming = chain.incoming();
        let mut share = vec![1.0 / chain.states.len() as f64; chain.states.len()];
        let mut before = 0.0;
        for pass in 0..PASSES_MAX {
            let settle = |at: usize, share: &mut Vec<f64>| {
                let into: f64 = incoming[at].iter().map(|&(from, rate)| share[from] * rate).sum();
                share[at] = into / chain.out[at];
            };
            let count = chain.states.len();
            (0..count).for_each(|at| settle(at, &mut share));
            (0..count).rev().for_each(|at| settle(at, &mut share));
            chain.balance_levels(&mut share);
            let flux: f64 = share.iter().zip(&chain.lost).map(|(part, rate)| part * rate).sum();
            if pass > 3 && (flux - before).abs() <= SETTLED * flux {
                return flux * YEAR_H;
            }
            before = flux;
        }
        before * YEAR_H
    }

    /// The chance that a whole segment of which `taken` shards vanish at once is
    /// lost before it is whole again.
    #[must_use]
    pub fn loss_after(&self, taken: usize) -> f64 {
        if taken > self.n - self.k {
            return 1.0;
        }
        let chain = Chain::new(self);
        let whole = chain.position(State { unknown: 0, known: 0, off: 0, phase: 0 });
        let start = self.settled(State { unknown: taken, known: 0, off: 0, phase: 0 });
        let start = chain.position(start);
        let mut chance = vec![0.0; chain.states.len()];
        let mut before = 0.0;
        for pass in 0..PASSES_MAX {
            let look = |at: usize, chance: &mut Vec<f64>| {
                if at != whole {
                    let on: f64 = chain.steps[at].iter().map(|&(to, rate)| chance[to] * rate).sum();
                    chance[at] = (on + chain.lost[at]) / chain.out[at];
                }
            };
            let count = chain.states.len();
            if pass % 2 == 0 {
                (0..count).rev().for_each(|at| look(at, &mut chance));
            } else {
                (0..count).for_each(|at| look(at, &mut chance));
            }
            if pass % 2 == 1 {
                if (chance[start] - before).abs() <= SETTLED * chance[start] {
                    break;
                }
                before = chance[start];
            }
        }
        chance[start]
    }

    const fn lost_max(&self) -> usize {
        self.n - self.k
    }

    const fn reachable(&self, s: State) -> usize {
        self.n - s.unknown - s.known - s.off
    }

    /// Holders that are off and taken for lost.
    fn given_up(&self, s: State) -> usize {
        (self.given_up * s.off as f64).round() as usize
    }

    /// The phase that follows at once from what is seen.
    fn settled(&self, s: State) -> State {
        if s.phase > WAITING {
            return s;
        }
        let reachable = self.reachable(s);
        let urgent = reachable <= self.urgent_mark;
        let lost = s.known + self.given_up(s);
        let phase = if lost >= self.queue_lost && reachable >= self.k {
            1 + WAITING
        } else if urgent && s.phase == 0 {
            1
        } else if urgent {
            s.phase
        } else {
            0
        };
        State { phase, ..s }
    }

    fn steps(&self, s: State) -> Vec<Step> {
        let mut steps = Vec::new();
        let reachable = self.reachable(s);
        let mut step = |to: State, rate: f64| {
            if rate > 0.0 {
                let lost = to.unknown + to.known > self.lost_max();
                steps.push(((!lost).then(|| self.settled(to)), rate));
            }
        };
        if s.off < OFF_MAX {
            step(State { off: s.off + 1, ..s }, reachable as f64 * self.off);
        }
        if s.off > 0 {
            step(State { off: s.off - 1, ..s }, s.off as f64 * self.on);
            let leaving = s.off as f64 * self.leave;
            step(State { off: s.off - 1, unknown: s.unknown + 1, ..s }, leaving);
        }
        step(State { unknown: s.unknown + 1, ..s }, reachable as f64 * self.leave);
        if s.unknown > 0 {
            let noticed = State { unknown: s.unknown - 1, known: s.known + 1, ..s };
            step(noticed, s.unknown as f64 * self.notice);
        }
        let can_repair = reachable >= self.k;
        match s.phase {
            phase if phase > WAITING && phase < PHASES - 1 => {
                step(State { phase: phase + 1, ..s }, self.repair);
            }
            phase if phase == PHASES - 1 => step(self.repaired(s), self.repair),
            phase => {
                if can_repair && s.known + self.given_up(s) > 0 {
                    step(State { phase: 1 + WAITING, ..s }, self.top_up);
                }
                if (1..WAITING).contains(&phase) || (phase == WAITING && can_repair) {
                    step(State { phase: phase + 1, ..s }, self.wait);
                }
            }
        }
        steps
    }

    /// What a repair leaves: it writes what is missing when it ends.
    fn repaired(&self, s: State) -> State {
        let reachable = self.reachable(s);
        if reachable < self.k {
            State { phase: 0, ..s }
        } else if reachable <= self.urgent_mark {
            State { unknown: 0, known: 0, off: 0, phase: 0 }
        } else if self.top_up > 0.0 || s.known + self.given_up(s) >= self.queue_lost {
            State { known: 0, off: s.off - self.given_up(s), phase: 0, ..s }
        } else {
            State { phase: 0, ..s }
        }
    }
}

/// All states and the rates between them.
struct Chain {
    off_max: usize,
    lost_max: usize,
    states: Vec<State>,
    positions: Vec<usize>,
    steps: Vec<Vec<(usize, f64)>>,
    lost: Vec<f64>,
    out: Vec<f64>,
}

impl Chain {
    fn new(model: &Model) -> Self {
        let (off_max, lost_max) = (OFF_MAX.min(model.n), model.lost_max());
        let mut states = Vec::new();
        for gone in 0..=lost_max {
            for unknown in (0..=gone).rev() {
                for off in 0..=off_max.min(model.n - gone) {
                    for phase in 0..PHASES {
                        states.push(State { unknown, known: gone - unknown, off, phase });
                    }
                }
            }
        }
        let mut chain = Self {
            off_max,
            lost_max,
            positions: Vec::new(),
            steps: Vec::new(),
            lost: Vec::new(),
            out: Vec::new(),
            states,
        };
        let size = (lost_max + 1) * (lost_max + 1) * (off_max + 1) * PHASES;
        chain.positions = vec![usize::MAX; size];
        for (at, state) in chain.states.iter().enumerate() {
            let slot = chain.slot(*state);
            chain.positions[slot] = at;
        }
        for at in 0..chain.states.len() {
            let steps = model.steps(chain.states[at]);
            chain.out.push(steps.iter().map(|(_, rate)| rate).sum());
            chain
                .lost
                .push(steps.iter().filter(|(to, _)| to.is_none()).map(|(_, rate)| rate).sum());
            let inside =
                steps.iter().filter_map(|(to, rate)| Some((chain.position((*to)?), *rate)));
            chain.steps.push(inside.collect());
        }
        chain
    }

    const fn slot(&self, s: State) -> usize {
        let gone = s.unknown * (self.lost_max + 1) + s.known;
        (gone * (self.off_max + 1) + s.off) * PHASES + s.phase
    }

    fn position(&self, s: State) -> usize {
        self.positions[self.slot(s)]
    }

    /// Steps by where they lead; a lost segment is replaced by a whole one.
    fn incoming(&self) -> Vec<Vec<(usize, f64)>> {
        let mut incoming = vec![Vec::new(); self.states.len()];
        for (from, steps) in self.steps.iter().enumerate() {
            steps.iter().for_each(|&(to, rate)| incoming[to].push((from, rate)));
        }
        let whole = self.position(State { unknown: 0, known: 0, off: 0, phase: 0 });
        for (from, &rate) in self.lost.iter().enumerate().filter(|(_, rate)| **rate > 0.0) {
            incoming[whole].push((from, rate));
        }
        incoming
    }

    /// Scales the states with the same number of shards gone so that as much goes
    /// up as comes down between these levels: what single passes do slowly.
    fn balance_levels(&self, share: &mut [f64]) {
        let levels = self.lost_max + 1;
        let level = |at: usize| self.states[at].unknown + self.states[at].known;
        let mut mass = vec![0.0; levels];
        let mut flow = vec![vec![0.0; levels]; levels];
        for (at, &part) in share.iter().enumerate() {
            let from = level(at);
            mass[from] += part;
            self.steps[at].iter().for_each(|&(to, rate)| flow[from][level(to)] += part * rate);
            flow[from][0] += part * self.lost[at];
        }
        for (row, mass) in flow.iter_mut().zip(&mass) {
            row.iter_mut().for_each(|rate| *rate /= mass);
        }
        let balanced = stationary(flow);
        for (at, part) in share.iter_mut().enumerate() {
            *part *= balanced[level(at)] / mass[level(at)];
        }
    }
}

/// Shares of time in the states of a small chain, without a single subtraction
/// (Grassmann, Taksar and Heyman 1985).
fn stationary(mut rate: Vec<Vec<f64>>) -> Vec<f64> {
    let count = rate.len();
    for last in (1..count).rev() {
        let down: f64 = rate[last][..last].iter().sum();
        for from in 0..last {
            rate[from][last] /= down;
            let (through, row) = (rate[from][last], rate[last].clone());
            (0..last).filter(|to| *to != from).for_each(|to| rate[from][to] += through * row[to]);
        }
    }
    let mut share = vec![1.0; count];
    for at in 1..count {
        share[at] = (0..at).map(|from| share[from] * rate[from][at]).sum();
    }
    let total: f64 = share.iter().sum();
    share.iter().map(|part| part / total).collect()
}
