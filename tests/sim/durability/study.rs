//! The study: plays its cases, holds the model against those that lost
//! something, carries it to the others, and writes what came of it.

use std::{
    fs,
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

use anyhow::{Context as _, ensure};

use super::{
    cases::{Case, Size, disaster_cases, published_cases, stressed_cases},
    markov::Model,
    plot, report,
    saved::Saved,
    stats::{LOSSES_MIN, poisson_limits},
    world::{Outcome, play},
};

/// Model and simulation may differ by this factor beyond what chance explains.
pub const FACTOR_MAX: f64 = 2.0;

/// A case that was played, and what the model says of it.
#[derive(Debug, Clone)]
pub struct Played {
    /// What.
    pub case: Case,
    /// What happened.
    pub outcome: Outcome,
    /// Losses per segment and year by the model.
    pub model: f64,
    /// The time of a repair that the model was given, hours.
    pub repair_h: f64,
}

impl Played {
    /// Plays a case and asks the model. Repairs of unstressed cases take, in the
    /// model, what they took in the simulation, waiting included.
    #[must_use]
    pub fn new(case: &Case) -> Self {
        let outcome = play(&case.scenario);
        let moving_h = (case.scenario.segment_bytes as f64 * 1.1)
            / (case.scenario.node_bytes_per_s as f64 * 3600.0);
        let least_h = case.scenario.repair_h + moving_h;
        let repair_h = if case.judged { least_h } else { outcome.wait_h.max(least_h) };
        let model = Model::new(&case.scenario.policy, &case.scenario.churn, repair_h);
        Self { case: case.clone(), model: model.losses_per_year(), outcome, repair_h }
    }

    /// 95 % limits of the simulated rate of loss, per segment and year.
    #[must_use]
    pub fn limits(&self) -> (f64, f64) {
        let (low, high) = poisson_limits(self.outcome.losses);
        (low / self.outcome.segment_years, high / self.outcome.segment_years)
    }

    /// Whether enough was lost, and model and simulation agree.
    ///
    /// # Errors
    /// What does not hold, in words.
    pub fn check(&self) -> anyhow::Result<()> {
        let name = report::name(&self.case);
        let losses = self.outcome.losses;
        ensure!(losses >= LOSSES_MIN, "{name}: {losses} losses, {LOSSES_MIN} are needed");
        let (low, high) = self.limits();
        let agrees = self.model >= low / FACTOR_MAX && self.model <= high * FACTOR_MAX;
        let (model, seed) = (self.model, self.case.scenario.seed);
        ensure!(
            agrees,
            "{name}: the model says {model:.2e} a year, the simulation {low:.2e} to {high:.2e} (seed {seed})"
        );
        Ok(())
    }
}

/// Everything that was played.
#[derive(Debug, Clone, Default)]
pub struct Study {
    /// Cases that lose something.
    pub stressed: Vec<Played>,
    /// Published rates.
    pub published: Vec<Played>,
    /// Loss of a datacenter.
    pub disasters: Vec<Played>,
}

/// Plays all cases, `jobs` at a time. Prints seeds and progress.
///
/// # Errors
/// A file of finished cases that cannot be read or written.
pub fn run(size: Size, jobs: usize, saved: Option<&Path>) -> anyhow::Result<Study> {
    let saved = Saved::open(saved)?;
    let play_all = |kind: &str, cases: &[Case]| play_all(kind, cases, jobs, &saved);
    Ok(Study {
        stressed: play_all("stressed", &stressed_cases(size))?,
        published: play_all("published", &published_cases(size))?,
        disasters: play_all("disaster", &disaster_cases(size))?,
    })
}

fn play_all(kind: &str, cases: &[Case], jobs: usize, saved: &Saved) -> anyhow::Result<Vec<Played>> {
    let next = AtomicUsize::new(0);
    let played = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, cases.len().max(1)) {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let one = play_one(kind, case, saved);
                    played.lock().unwrap_or_else(PoisonError::into_inner).push(one);
                }
            });
        }
    });
    let played = played.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut played = played.into_iter().collect::<anyhow::Result<Vec<Played>>>()?;
    // Each has a seed of its own, counted up in the order of the cases.
    played.sort_by_key(|one| one.case.scenario.seed);
    Ok(played)
}

fn play_one(kind: &str, case: &Case, saved: &Saved) -> anyhow::Result<Played> {
    let name = report::name(case);
    println!("{kind}: {name}, seed {}", case.scenario.seed);
    let (start, known) = (Instant::now(), saved.get(case));
    let one = known.clone().unwrap_or_else(|| Played::new(case));
    if known.is_none() {
        saved.put(&one)?;
    }
    let (losses, seconds) = (one.outcome.losses, start.elapsed().as_secs());
    let (years, model) = (one.outcome.segment_years, one.model);
    println!(
        "  {name}: {losses} lost in {years:.0} segment years, model {model:.2e} a year; {seconds} s"
    );
    Ok(one)
}

/// Runs the study and writes `DURABILITY.md` (its tables, between marks, where
/// the file exists) and `durability.svg` to `out`. Finished cases are kept in
/// `cases.jsonl` there, and not played again.
///
/// # Errors
/// Files that cannot be written; a model that disagrees with the simulation:
/// then no table and no plot is written.
pub fn run_and_write(size: Size, jobs: usize, out: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(out).with_context(|| format!("creating {}", out.display()))?;
    let saved = out.join("cases.jsonl");
    let study = run(size, jobs, Some(&saved))?;
    let tables = report::tables(&study);
    println!("\n{tables}");
    let wrong: Vec<String> = study
        .stressed
        .iter()
        .filter(|played| played.case.judged)
        .filter_map(|played| played.check().err().map(|error| error.to_string()))
        .collect();
    ensure!(wrong.is_empty(), "the study does not hold:\n{}", wrong.join("\n"));
    let path = out.join("DURABILITY.md");
    let before = fs::read_to_string(&path).unwrap_or_default();
    let after = report::insert(&before, &tables);
    fs::write(&path, after).with_context(|| format!("writing {}", path.display()))?;
    let path = out.join("durability.svg");
    fs::write(&path, plot::svg(&study)).with_context(|| format!("writing {}", path.display()))?;
    println!("written to {}", out.display());
    Ok(())
}
