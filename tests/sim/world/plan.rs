//! What goes wrong, and when: drawn from the seed before anything runs, so that a
//! failing run can be told again with faults left out.

use echonet_protocol::machine::{Draws, Millis};

use super::links::Weather;

/// Something that goes wrong. Nodes by number, times in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// The process dies, of what was not synced some is lost, and it comes back.
    Crash { node: usize, down_ms: u64 },
    /// All nodes of a datacenter at once.
    Blackout { datacenter: u64, down_ms: u64 },
    /// The node is gone for ever, its disk as well.
    Kill { node: usize },
    /// A part of what its disk held is gone, promises and signatures included.
    Volume { node: usize, of: u64, part: u64, down_ms: u64 },
    /// What it promised and signed is gone; it knows that.
    Ballots { node: usize, down_ms: u64 },
    /// A shard's bytes change.
    Rot { node: usize, which: u64 },
    /// The process stands still and goes on as if nothing had been.
    Pause { node: usize, ms: u64 },
    /// Everything takes longer.
    Slow { node: usize, slow_ms: u64, ms: u64 },
    /// The network falls apart; one way only, perhaps.
    Cut { far: Vec<bool>, is_one_way: bool, ms: u64 },
    /// Bad weather.
    Storm { weather: Weather, ms: u64 },
    /// A new node comes.
    Join { node: usize },
    /// A node leaves in good order.
    Drain { node: usize },
}

/// Faults by time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) faults: Vec<(Millis, Fault)>,
    /// By then every fault is over that can be over.
    pub(super) calm_at: Millis,
    /// By then everything has to be whole again.
    pub(super) whole_by: Millis,
}

/// How many nodes there are and how long faults go on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub(super) nodes: usize,
    pub(super) joiners: usize,
    pub(super) faults_ms: u64,
    pub(super) calm_ms: u64,
}

impl Plan {
    pub(super) fn new(seed: u64, span: Span) -> Self {
        let mut draws = Draws::new(seed);
        let count = 3 + draws.below(50);
        // Some worlds are about one kind of fault, most about all of them.
        let only = draws.below(3 * KINDS);
        let mut joiner = span.nodes;
        let mut faults: Vec<(Millis, Fault)> = Vec::new();
        for _ in 0..count {
            let at = Millis(2_000 + draws.below(span.faults_ms));
            let kind = if only < KINDS { only } else { draws.below(KINDS) };
            faults.push((at, fault(kind, span, &mut joiner, &mut draws)));
        }
        faults.sort_by_key(|(at, _)| *at);
        let calm_at = Millis(span.faults_ms + 2_000);
        Self { faults, calm_at, whole_by: calm_at.after(span.calm_ms) }
    }
}

const KINDS: u64 = 12;

fn fault(kind: u64, span: Span, joiner: &mut usize, draws: &mut Draws) -> Fault {
    let all = span.nodes + span.joiners;
    let node = draws.below(span.nodes as u64) as usize;
    // From under the prober's patience to far beyond the grace.
    let ms = 200 << draws.below(9);
    let ms = ms + draws.below(ms);
    match kind {
        0 => Fault::Crash { node, down_ms: ms },
        1 => Fault::Blackout { datacenter: draws.below(8), down_ms: ms },
        2 => Fault::Kill { node },
        3 => {
            let of = 1 + draws.below(4);
            Fault::Volume { node, of, part: draws.below(of), down_ms: ms / 8 }
        }
        4 => Fault::Rot { node, which: draws.next_u64() },
        5 => Fault::Pause { node, ms },
        6 => Fault::Slow { node, slow_ms: draws.below(3_000), ms },
        7 => {
            let share = draws.below(10) + 1;
            let far = (0..all).map(|_| draws.below(20) < share).collect();
            Fault::Cut { far, is_one_way: draws.below(3) == 0, ms }
        }
        8 => Fault::Storm { weather: storm(draws), ms },
        9 if *joiner < all => {
            *joiner += 1;
            Fault::Join { node: *joiner - 1 }
        }
        10 => Fault::Drain { node },
        11 => Fault::Ballots { node, down_ms: ms / 8 },
        _ => Fault::Kill { node },
    }
}

fn storm(draws: &mut Draws) -> Weather {
    Weather {
        latency_ms: draws.below(300),
        jitter_ms: 1 + draws.below(1_500),
        loss_permille: draws.below(400),
        twice_permille: draws.below(300),
        late_permille: draws.below(200),
    }
}
