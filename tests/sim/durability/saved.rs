//! Finished cases, a line each in a file, so that an interrupted study goes on
//! where it was.
//!
//! A case that was changed since is never taken from there: all of it is the key.
//! Changed code is not noticed, so whoever changes it deletes the file.

use std::{collections::BTreeMap, fs, io::Write as _, path::Path, sync::Mutex};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::{cases::Case, study::Played, world::Outcome};

/// A finished case.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Line {
    case: String,
    outcome: Outcome,
    model: f64,
    repair_h: f64,
}

/// All that are known, and the file for more.
pub(super) struct Saved {
    known: BTreeMap<String, Line>,
    file: Option<Mutex<fs::File>>,
}

fn key(case: &Case) -> String {
    format!("{case:?}")
}

impl Saved {
    /// Reads the file and opens it for more; without a path nothing is kept.
    pub(super) fn open(path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path else { return Ok(Self { known: BTreeMap::new(), file: None }) };
        let text = fs::read_to_string(path).unwrap_or_default();
        // A line that was cut off is a case that was not finished.
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok());
        let known = lines.map(|line| (line.case.clone(), line)).collect();
        let file = fs::OpenOptions::new().create(true).append(true).open(path);
        let file = file.with_context(|| format!("opening {}", path.display()))?;
        Ok(Self { known, file: Some(Mutex::new(file)) })
    }

    pub(super) fn get(&self, case: &Case) -> Option<Played> {
        let line = self.known.get(&key(case))?.clone();
        let (outcome, model, repair_h) = (line.outcome, line.model, line.repair_h);
        Some(Played { case: case.clone(), outcome, model, repair_h })
    }

    pub(super) fn put(&self, played: &Played) -> anyhow::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let (model, repair_h) = (played.model, played.repair_h);
        let (case, outcome) = (key(&played.case), played.outcome.clone());
        let line = serde_json::to_string(&Line { case, outcome, model, repair_h })?;
        let mut file = file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // The end of a line comes before the next: the last one may have been cut off.
        file.write_all(format!("\n{line}").as_bytes()).context("keeping a finished case")
    }
}
