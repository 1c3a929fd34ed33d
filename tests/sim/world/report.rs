//! Many seeds one after the other, what they amount to, and the story of one that
//! failed with as few faults as still make it fail.

use std::{
    fmt::Write as _,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use super::{
    judge::Totals,
    plan::Fault,
    scene::{Ended, FULL_NODES_MAX, Script, play},
};

/// Runs that shrinking a failing seed may take.
const SHRINKING_RUNS_MAX: usize = 120;
/// Failing seeds that are told in full.
const STORIES_MAX: usize = 3;

/// What to play.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How many seeds.
    pub seeds: u64,
    /// The first of them.
    pub first: u64,
    /// Nodes in each world.
    pub nodes: usize,
    /// Worlds at a time; none: as many as there are cores.
    pub jobs: Option<usize>,
    /// Whether to say a line about each.
    pub is_verbose: bool,
}

/// One seed, played.
pub struct Played {
    /// What must never happen and did, with the story that leads there; none: all held.
    pub failure: Option<String>,
    /// Things that happened in its world.
    pub events: u64,
    /// Agreed changes of placements.
    pub committed: u64,
}

/// Plays one seed.
#[must_use]
pub fn play_seed(seed: u64, nodes: usize) -> Played {
    let script = Script::new(seed, nodes);
    let ended = play(&script);
    let Totals { events, committed, .. } = ended.totals;
    let failure = ended.violation.is_some().then(|| tell(&script, ended));
    Played { failure, events, committed }
}

/// Plays many seeds, several at a time, prints the first one, failures and a summary.
///
/// # Errors
/// When in any world something happened that must not.
pub fn simulate(options: &Options) -> anyhow::Result<()> {
    let Options { seeds, first, nodes, jobs, is_verbose } = *options;
    say(&format!("seeds {first} to {}, {nodes} nodes each", first + seeds.saturating_sub(1)));
    let (next, totals) = (AtomicU64::new(0), Mutex::new((Totals::default(), Vec::new())));
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let threads = jobs.unwrap_or_else(cores).max(1);
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= seeds {
                        return;
                    }
                    let script = Script::new(first + number, nodes);
                    let ended = play(&script);
                    if is_verbose {
                        say(&line(&script, &ended.totals));
                    }
                    note(&totals, &script, ended);
                }
            });
        }
    });
    let (totals, failed) = totals.into_inner().unwrap_or_default();
    say(&summary(seeds, nodes, &totals, &failed));
    say(&format!("{} s", began.elapsed().as_secs()));
    anyhow::ensure!(failed.is_empty(), "{} of {seeds} seeds failed", failed.len());
    Ok(())
}

fn note(totals: &Mutex<(Totals, Vec<u64>)>, script: &Script, ended: Ended) {
    let is_told = {
        let Ok(mut totals) = totals.lock() else { return };
        totals.0.add(&ended.totals);
        if ended.violation.is_some() {
            totals.1.push(script.seed);
        }
        ended.violation.is_some() && totals.1.len() <= STORIES_MAX
    };
    if is_told {
        say(&tell(script, ended));
    } else if let Some(violation) = &ended.violation {
        say(&format!("seed {} fails: {violation:?}", script.seed));
    }
}

/// The one place that prints.
pub(super) fn say(text: &str) {
    use std::io::Write as _;
    // Nobody is left to tell where standard output is closed.
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn line(script: &Script, totals: &Totals) -> String {
    format!(
        "seed {}: {} in 100 hostile, {} faults, {totals:?}",
        script.seed,
        script.hostile_percent,
        script.plan.faults.len()
    )
}

fn summary(seeds: u64, nodes: usize, totals: &Totals, failed: &[u64]) -> String {
    let per_lost = totals.bytes_moved as f64 / totals.bytes_lost.max(1) as f64;
    let mut text = format!(
        "{seeds} seeds: {} events, {} tasks ({} agreed, {} yielded, {} failed), {} shards moved\n",
        totals.events,
        totals.began,
        totals.committed,
        totals.yielded,
        totals.failed,
        totals.shards_moved
    );
    let _ = writeln!(
        text,
        "{} MiB lost, {} MiB moved: {per_lost:.1} bytes for each one lost; whole again after \
         {} s on average\n{} faults spared, {} placements beyond the promise, {} times one that \
         ran was found down",
        totals.bytes_lost >> 20,
        totals.bytes_moved >> 20,
        totals.whole_after_ms / seeds.max(1) / 1000,
        totals.faults_spared,
        totals.beyond_promise,
        totals.false_downs,
    );
    text += match nodes <= FULL_NODES_MAX {
        true => {
            "failure detection by the prober and the membership themselves; agreement by its own machines in every \
                 second world (few holders), by a model in the others\n"
        }
        false => "failure detection and agreement: models fitted to the machines\n",
    };
    if failed.is_empty() {
        let _ = write!(text, "every seed held");
    } else {
        let _ = write!(text, "failed: {failed:?}");
    }
    text
}

/// A failing seed with as few faults as it takes.
fn tell(script: &Script, ended: Ended) -> String {
    let (script, ended) = shrink(script.clone(), ended);
    let Some(violation) = &ended.violation else { return String::new() };
    let mut text = format!(
        "seed {} fails at {} ms: {} (placement {:?}: {})\nfaults that it takes:\n",
        script.seed, violation.at.0, violation.rule, violation.placement, violation.detail
    );
    for (at, fault) in &script.plan.faults {
        let _ = writeln!(text, "{:>8} ms  {}", at.0, describe(fault));
    }
    let _ =
        writeln!(text, "hostile: {} in 100; the segment's last events:", script.hostile_percent);
    for line in &ended.story {
        let _ = writeln!(text, "{line}");
    }
    text
}

fn describe(fault: &Fault) -> String {
    match fault {
        Fault::Cut { far, is_one_way, ms } => {
            let far = far.iter().zip(0..).filter(|(far, _)| **far).map(|(_, number)| number);
            let far: Vec<usize> = far.collect();
            format!("Cut {{ far: {far:?}, is_one_way: {is_one_way}, ms: {ms} }}")
        }
        other => format!("{other:?}"),
    }
}

/// Leaves faults out as long as the same rule is broken.
fn shrink(mut script: Script, mut ended: Ended) -> (Script, Ended) {
    let rule = ended.violation.as_ref().map(|violation| violation.rule);
    let mut runs = 0;
    let mut part = script.plan.faults.len().div_ceil(2);
    while part > 0 && runs < SHRINKING_RUNS_MAX {
        let (mut at, mut has_shrunk) = (0, false);
        while at < script.plan.faults.len() && runs < SHRINKING_RUNS_MAX {
            let mut less = script.clone();
            less.plan.faults.drain(at..(at + part).min(script.plan.faults.len()));
            let again = play(&less);
            runs += 1;
            if again.violation.as_ref().map(|violation| violation.rule) == rule {
                (script, ended, has_shrunk) = (less, again, true);
            } else {
                at += part;
            }
        }
        part = if part == 1 && !has_shrunk { 0 } else { part.div_ceil(2).min(part.max(2) - 1) };
    }
    (script, ended)
}
