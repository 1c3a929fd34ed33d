//! How long a death stays unknown, in virtual time: until all members say that the
//! node is down, and until all who hold shards of the same segments find it
//! unreachable by their own probes. Nothing else goes wrong meanwhile.

use echonet_archive::keeper::Presence;
use echonet_protocol::{machine::Millis, membership::Life, network::Timing};

use super::{
    links::Weather,
    plan::Plan,
    report::say,
    scene::{Scene, Script},
    setup::Size,
};

/// Before the first death: everybody has to know everybody.
const BEGIN_MS: u64 = 30_000;
/// How exactly times are measured.
const LOOK_MS: u64 = 50;
/// A death that is not known after so long fails the measurement.
const KNOWN_MS_MAX: u64 = 300_000;

/// What to measure.
#[derive(Debug, Clone)]
pub struct DetectionOptions {
    /// Nodes at the beginning.
    pub nodes: usize,
    /// How many of them die, one after the other.
    pub kills: usize,
    /// Periods of the network.
    pub timing: Timing,
    /// Whether every twentieth node's clock is wrong by minutes: it hears no news then, and nobody
    /// hears its own.
    pub has_wrong_clocks: bool,
    /// What everything is drawn from.
    pub seed: u64,
}

/// What was measured; times in milliseconds, ascending.
#[derive(Debug, Clone)]
pub struct Detection {
    /// From each death until all members say that the node is down.
    pub members_ms: Vec<u64>,
    /// From each death until all that depend on the node find it unreachable themselves.
    pub probers_ms: Vec<u64>,
    /// How often a node was found down while it ran.
    pub false_deaths: u64,
    /// Virtual time in all.
    pub took_ms: u64,
}

impl Detection {
    /// The time that so many of a hundred do not exceed; 0 where nothing was measured.
    #[must_use]
    pub fn percentile(times: &[u64], percent: usize) -> u64 {
        let at = (times.len() * percent).div_ceil(100).max(1) - 1;
        times.get(at).copied().unwrap_or(0)
    }
}

/// Measures, and prints the seed first, then the figures.
///
/// # Errors
/// As [`detect`].
pub fn measure_detection(options: &DetectionOptions) -> anyhow::Result<()> {
    let DetectionOptions { nodes, kills, timing, seed, .. } = options;
    let (probe_s, suspect_s) = (timing.probe_s, timing.suspect_s);
    say(&format!(
        "seed {seed}: {nodes} nodes, {kills} die one after the other; probes every {probe_s} s, \
         suspicions of {suspect_s} s"
    ));
    let found = detect(options)?;
    for (what, times) in [
        ("all members say that it is down", &found.members_ms),
        ("all co-holders find it unreachable", &found.probers_ms),
    ] {
        let of = |percent| Detection::percentile(times, percent) as f64 / 1000.0;
        let (p50, p99, most) = (of(50), of(99), of(100));
        say(&format!("until {what}: p50 {p50:.1} s, p99 {p99:.1} s, at most {most:.1} s"));
    }
    let (false_deaths, took_s) = (found.false_deaths, found.took_ms / 1000);
    say(&format!("{false_deaths} false deaths in {took_s} s of virtual time"));
    Ok(())
}

/// Kills nodes one after the other and waits for each until everybody knows.
///
/// # Errors
/// When a death stays unknown.
pub fn detect(options: &DetectionOptions) -> anyhow::Result<Detection> {
    let DetectionOptions { nodes, kills, seed, .. } = *options;
    anyhow::ensure!(kills > 0 && 2 * kills <= nodes, "at most every second node may die");
    let mut scene = Scene::new(&script(options));
    scene.begin();
    scene.advance(Millis(BEGIN_MS));
    let (mut members_ms, mut probers_ms) = (Vec::new(), Vec::new());
    for number in 0..kills {
        // Not in step with anything.
        let pause_ms = 4_000 + 700 * (number as u64 % 7);
        scene.advance(scene.world.now.after(pause_ms));
        let (members, probers) = kill(&mut scene, number * (nodes / kills));
        let both = members.zip(probers);
        let (members, probers) = both.ok_or_else(|| {
            anyhow::anyhow!("seed {seed}: the death of node {number} stays unknown")
        })?;
        members_ms.push(members);
        probers_ms.push(probers);
    }
    members_ms.sort_unstable();
    probers_ms.sort_unstable();
    let false_deaths = scene.judge.totals.false_downs;
    Ok(Detection { members_ms, probers_ms, false_deaths, took_ms: scene.world.now.0 })
}

/// Kills a node; how long until members, and until probers, know.
fn kill(scene: &mut Scene, gone: usize) -> (Option<u64>, Option<u64>) {
    scene.remove(gone);
    let (killed, id) = (scene.world.now, scene.common.setup.ids[gone]);
    let (mut members, mut probers) = (None, None);
    while members.is_none() || probers.is_none() {
        let passed_ms = scene.world.now.since(killed);
        if passed_ms >= KNOWN_MS_MAX {
            break;
        }
        let (world, all) = (&scene.world, scene.common.setup.ids.len());
        let live = || (0..all).filter_map(move |number| world.node(number));
        let is_down =
            |life: Option<Life>| life.is_none_or(|life| matches!(life, Life::Down | Life::Left));
        if live().all(|node| is_down(node.swim.as_ref().and_then(|swim| swim.life(&id)))) {
            members.get_or_insert(passed_ms);
        }
        let mut presences = live().filter_map(|node| node.detector.presence(gone));
        if presences.all(|presence| matches!(presence, Presence::Unreachable { .. })) {
            probers.get_or_insert(passed_ms);
        }
        scene.advance(scene.world.now.after(LOOK_MS));
    }
    (members, probers)
}

fn script(options: &DetectionOptions) -> Script {
    let DetectionOptions { nodes, timing, seed, .. } = options.clone();
    let never = Millis(u64::MAX >> 1);
    Script {
        seed,
        size: Size { nodes, joiners: 0, segments: nodes, has_voters: false, has_probers: true },
        hostile_percent: 0,
        is_talk: false,
        weather: Weather {
            latency_ms: 5,
            jitter_ms: 146,
            loss_permille: 10,
            twice_permille: 0,
            late_permille: 0,
        },
        has_wrong_clocks: options.has_wrong_clocks,
        timing,
        plan: Plan { faults: Vec::new(), calm_at: never, whole_by: never },
        defect: None,
    }
}
