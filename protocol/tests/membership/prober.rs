//! Watching: what own probes find, when silence is loss, and when it is rather this node that was
//! away.

use std::collections::{BTreeMap, BTreeSet};

use echonet_protocol::{
    identity::NodeId,
    machine::{Machine, Millis},
    membership::{Health, Pace, ProbeResult, Prober, ProberInput, ProberOutput},
    network::Timing,
    time::UnixSeconds,
};

use crate::rig::node;

/// A prober, and the nodes that it probes.
struct Watch {
    prober: Prober,
    pace: Pace,
    now: u64,
    /// What a probe of a node finds; the others are healthy.
    found: BTreeMap<NodeId, ProbeResult>,
    /// How long a probe takes.
    takes_ms: u64,
    /// Probes under way: when they end.
    running: Vec<(u64, NodeId)>,
    /// All that were begun: when, of whom.
    begun: Vec<(u64, NodeId)>,
    changes: Vec<(u64, NodeId, Health, u64)>,
    isolated: Vec<bool>,
}

const DEVELOPMENT_GRACE_MS: u64 = 10_000;

impl Watch {
    fn new(timing: &Timing, nodes: usize) -> Self {
        let pace = Pace::of(timing);
        let mut watch = Self {
            prober: Prober::new(Millis(0), pace, 5),
            pace,
            now: 0,
            found: BTreeMap::new(),
            takes_ms: 20,
            running: Vec::new(),
            begun: Vec::new(),
            changes: Vec::new(),
            isolated: Vec::new(),
        };
        for n in 0..nodes {
            watch.input(ProberInput::Watch(node(n)));
        }
        watch
    }

    fn input(&mut self, input: ProberInput) {
        self.prober.handle(Millis(self.now), input);
        while let Some(output) = self.prober.poll() {
            match output {
                ProberOutput::Probe(node) => {
                    self.begun.push((self.now, node));
                    self.running.push((self.now + self.takes_ms, node));
                }
                ProberOutput::Changed { node, health, since } => {
                    self.changes.push((self.now, node, health, since.0));
                }
                ProberOutput::Isolated(is_isolated) => self.isolated.push(is_isolated),
            }
        }
        let timeout = self.prober.timeout();
        assert!(timeout.is_none_or(|at| at.0 > self.now), "{timeout:?} at {}", self.now);
    }

    /// Lets time pass; probes end as they find things.
    fn pass(&mut self, ms: u64) {
        let until = self.now + ms;
        loop {
            let ends = self.running.iter().min().copied();
            let tick = self.prober.timeout().map(|at| at.0);
            let at = ends.map(|(at, _)| at).into_iter().chain(tick).min();
            let Some(at) = at.filter(|at| *at <= until) else { break };
            self.now = at.max(self.now);
            match ends.filter(|(ends, _)| *ends == at) {
                Some(probe) => {
                    self.running.retain(|other| *other != probe);
                    let result = self.found.get(&probe.1).copied().unwrap_or(ProbeResult::Healthy);
                    self.input(ProberInput::Probed { node: probe.1, result });
                }
                None => self.input(ProberInput::Tick),
            }
        }
        self.now = until;
    }

    fn set(&mut self, nodes: impl IntoIterator<Item = usize>, result: ProbeResult) {
        self.found.extend(nodes.into_iter().map(|n| (node(n), result)));
    }

    fn is_lost(&self, n: usize, grace_ms: u64) -> bool {
        self.prober.lost(&node(n), Millis(self.now), grace_ms)
    }

    fn lost(&self, nodes: usize, grace_ms: u64) -> Vec<usize> {
        (0..nodes).filter(|n| self.is_lost(*n, grace_ms)).collect()
    }
}

#[test]
fn the_three_layers_are_told_apart() {
    let mut watch = Watch::new(&Timing::DEVELOPMENT, 8);
    watch.set([1], ProbeResult::DiskSick);
    watch.set([2], ProbeResult::Mute);
    watch.set([3], ProbeResult::Unreachable);
    watch.pass(6_000);
    let health = |n| watch.prober.health(&node(n));
    assert_eq!(
        [health(0), health(1), health(2), health(3), health(99)],
        [Health::Healthy, Health::DiskSick, Health::Mute, Health::Unreachable, Health::Unknown]
    );
    assert!(watch.prober.silent_since(&node(3)).is_some_and(|since| since.0 < 100));
    assert_eq!(watch.prober.silent_since(&node(1)), None);
    // Other traffic shows that it answers, and nothing about its disk.
    for n in [1, 2, 3] {
        watch.input(ProberInput::Observed(node(n)));
    }
    let health = |n| watch.prober.health(&node(n));
    assert_eq!(
        [health(1), health(2), health(3)],
        [Health::DiskSick, Health::Healthy, Health::Healthy]
    );
}

#[test]
fn lost_is_silent_for_the_whole_grace_by_several_probes() {
    let mut watch = Watch::new(&Timing::DEVELOPMENT, 10);
    watch.pass(5_000);
    watch.set([4], ProbeResult::Unreachable);
    let before = watch.begun.len();
    while watch.prober.silent_since(&node(4)).is_none() {
        watch.pass(10);
    }
    let since = watch.prober.silent_since(&node(4)).unwrap().0;
    assert!(watch.now - since >= watch.pace.suspect_ms && watch.now - since < 4_000);
    while !watch.is_lost(4, DEVELOPMENT_GRACE_MS) {
        assert!(watch.now - since < DEVELOPMENT_GRACE_MS + 100);
        watch.pass(10);
    }
    assert!(watch.now - since >= DEVELOPMENT_GRACE_MS, "{} after {since}", watch.now);
    let probes: Vec<u64> =
        watch.begun[before..].iter().filter(|(_, n)| *n == node(4)).map(|(at, _)| *at).collect();
    assert!(probes.len() >= 8, "{probes:?}");
    assert!(probes.windows(2).all(|w| w[1] - w[0] <= 2_600), "spread over it: {probes:?}");
    assert_eq!(watch.lost(10, DEVELOPMENT_GRACE_MS), [4]);
    // One answer, and it is not.
    watch.set([4], ProbeResult::Healthy);
    watch.pass(1_500);
    assert_eq!(watch.lost(10, DEVELOPMENT_GRACE_MS), []);
    assert_eq!(watch.changes.last().unwrap().2, Health::Healthy);
}

#[test]
fn one_answer_in_between_begins_the_grace_anew() {
    let mut watch = Watch::new(&Timing::DEVELOPMENT, 10);
    watch.set([4], ProbeResult::Unreachable);
    watch.pass(9_000);
    watch.input(ProberInput::Observed(node(4)));
    watch.pass(9_000);
    assert_eq!(watch.lost(10, DEVELOPMENT_GRACE_MS), []);
    watch.pass(6_000);
    assert_eq!(watch.lost(10, DEVELOPMENT_GRACE_MS), [4]);
}

#[test]
fn a_node_that_answers_no_request_is_lost_too() {
    let mut watch = Watch::new(&Timing::DEVELOPMENT, 10);
    watch.set([4], ProbeResult::Mute);
    watch.pass(15_000);
    assert_eq!(watch.lost(10, DEVELOPMENT_GRACE_MS), [4]);
}

#[test]
fn who_slept_begins_the_grace_anew() {
    let mut watch = Watch::new(&Timing::DEVELOPMENT, 10);
    watch.set([4], ProbeResult::Unreachable);
    watch.pass(6_000);
    // The process was stopped: nothing was asked meanwhile.
    watch.now += 3_600_000;
    let woke = watch.now;
    watch.input(ProberInput::Tick);
    assert_eq!(watch.lost(10, DEVELOPMENT_GRACE_MS), []);
    let (_, told, _, since) = *watch.changes.last().unwrap();
    assert_eq!((told, since), (node(4), woke), "and it is told that it begins anew");
    watch.pass(DEVELOPMENT_GRACE_MS - 10);
    assert_eq!(watch.lost(10, DEVELOPMENT_GRACE_MS), []);
    watch.pass(3_000);
    assert_eq!(watch.lost(10, DEVELOPMENT_GRACE_MS), [4]);
}

#[test]
fn a_sleep_that_only_the_wall_clock_shows_is_seen() {
    let mut watch = Watch::new(&Timing::DEVELOPMENT, 10);
    watch.set([4], ProbeResult::Unreachable);
    watch.input(ProberInput::Clock(UnixSeconds(1_000_000)));
    watch.pass(9_000);
    watch.input(ProberInput::Clock(UnixSeconds(1_000_009)));
    assert!(watch.prober.silent_since(&node(4)).is_some_and(|since| since.0 < 1_000));
    watch.input(ProberInput::Clock(UnixSeconds(1_030_000)));
    assert_eq!(watch.prober.silent_since(&node(4)), Some(Millis(9_000)));
    watch.pass(9_000);
    assert_eq!(watch.lost(10, DEVELOPMENT_GRACE_MS), []);
}

#[test]
fn a_node_that_is_cut_off_calls_nobody_lost() {
    let mut watch = Watch::new(&Timing::DEVELOPMENT, 20);
    watch.pass(5_000);
    watch.set(0..20, ProbeResult::Unreachable);
    // For much longer than anything is remembered.
    for _ in 0..60 {
        watch.pass(1_000);
        assert_eq!(watch.lost(20, DEVELOPMENT_GRACE_MS), []);
    }
    assert!(watch.prober.is_isolated(Millis(watch.now)));
    assert_eq!(watch.isolated, [true]);
    // It is back; so are all but one, of whom some are found before others.
    watch.set(0..19, ProbeResult::Healthy);
    let back = watch.now;
    while watch.now < back + DEVELOPMENT_GRACE_MS {
        watch.pass(50);
        assert_eq!(watch.lost(20, DEVELOPMENT_GRACE_MS), [], "after {} ms", watch.now - back);
    }
    assert_eq!(watch.isolated, [true, false]);
    watch.pass(5_000);
    assert_eq!(watch.lost(20, DEVELOPMENT_GRACE_MS), [19], "which was away on its own");
}

#[test]
fn most_at_once_is_doubted_and_fewer_are_not() {
    let mut few = Watch::new(&Timing::DEVELOPMENT, 20);
    few.pass(5_000);
    few.set(0..10, ProbeResult::Unreachable);
    few.pass(15_000);
    assert_eq!((few.lost(20, DEVELOPMENT_GRACE_MS).len(), few.isolated.len()), (10, 0));

    let mut most = Watch::new(&Timing::DEVELOPMENT, 20);
    most.pass(5_000);
    most.set(0..11, ProbeResult::Unreachable);
    most.pass(15_000);
    assert_eq!((most.lost(20, DEVELOPMENT_GRACE_MS).len(), &most.isolated[..]), (0, &[true][..]));
    // A catastrophe does not last for ever: after twice the grace it is what it is.
    most.pass(15_000);
    assert_eq!(most.lost(20, DEVELOPMENT_GRACE_MS).len(), 11);
    assert_eq!(most.isolated, [true, false]);
}

#[test]
fn hints_come_first_and_starve_nobody() {
    let mut watch = Watch::new(&Timing::PRODUCTION, 200);
    watch.pass(60_000);
    let begun = watch.begun.len();
    watch.input(ProberInput::Hint(node(7)));
    assert_eq!(watch.begun[begun..], [(watch.now, node(7))], "at once");
    // Hints on a hundred nodes, all the time: the other hundred are probed as ever.
    let from = watch.now;
    let mut round = 0;
    let hinted: Vec<NodeId> = (0..100).map(node).collect();
    while watch.now < from + 2 * watch.pace.watch_ms {
        for node in &hinted {
            watch.input(ProberInput::Hint(*node));
        }
        round += 1;
        watch.pass(500);
    }
    let probed: BTreeSet<NodeId> = watch.begun[begun..].iter().map(|(_, node)| *node).collect();
    assert!((100..200).all(|n| probed.contains(&node(n))), "round {round}");
    let seconds = (watch.now - from) / 1000;
    let all = watch.begun[begun..].len() as u64;
    assert!(all > 8 * seconds, "or there was no flood: {all} in {seconds} s");
    assert!(all <= watch.pace.watch_rate * (seconds + 1), "{all} probes in {seconds} s");
}

#[test]
fn many_nodes_are_probed_at_a_bounded_rate_and_still_found_lost() {
    let timing = Timing { grace_s: 7_200, urgent_s: 120, ..Timing::PRODUCTION };
    let mut watch = Watch::new(&timing, 3_000);
    watch.set([11, 2_500], ProbeResult::Unreachable);
    watch.pass(7_200_000 + 900_000);
    assert_eq!(watch.lost(3_000, 7_200_000), [11, 2_500]);
    let seconds = watch.now / 1000;
    assert!(watch.begun.len() as u64 <= watch.pace.watch_rate * (seconds + 1));
    assert!(watch.prober.sizes().running <= watch.pace.watch_running_max);
}

#[test]
fn what_is_kept_is_bounded_and_what_is_refused_is_counted() {
    let mut watch = Watch::new(&Timing::PRODUCTION, 0);
    watch.pace.watched_max = 10;
    watch.prober = Prober::new(Millis(0), watch.pace, 5);
    for n in 0..12 {
        watch.input(ProberInput::Watch(node(n)));
        watch.input(ProberInput::Watch(node(n)));
        watch.input(ProberInput::Hint(node(n)));
    }
    let sizes = watch.prober.sizes();
    assert_eq!((sizes.watched, sizes.refused), (10, 4));
    for n in 0..12 {
        watch.input(ProberInput::Unwatch(node(n)));
    }
    assert_eq!(watch.prober.sizes().watched, 0);
    watch.running.clear();
    let begun = watch.begun.len();
    watch.pass(3_600_000);
    assert_eq!(watch.begun.len(), begun, "nobody is probed who is not watched");
    assert!(!watch.prober.is_isolated(Millis(watch.now)));
}

#[test]
fn a_probe_that_is_never_reported_is_asked_again_and_blames_nobody() {
    let mut watch = Watch::new(&Timing::DEVELOPMENT, 0);
    watch.takes_ms = u64::MAX / 2;
    watch.input(ProberInput::Watch(node(0)));
    watch.pass(60_000);
    assert!(watch.begun.len() > 3, "{:?}", watch.begun);
    assert_eq!(watch.prober.health(&node(0)), Health::Unknown);
    assert_eq!(watch.lost(1, DEVELOPMENT_GRACE_MS), []);
}
