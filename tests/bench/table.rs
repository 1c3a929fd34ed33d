//! Rounds, medians and the markdown table. It measures nothing.

use std::{collections::BTreeMap, fmt};

/// Rates of one run by name, in the order in which they were first measured.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    order: Vec<&'static str>,
    rates: BTreeMap<&'static str, Vec<f64>>,
}

impl Rounds {
    /// Takes in a measurement of a round; warm-ups are simply not handed over.
    pub(crate) fn add(&mut self, name: &'static str, rate: f64) {
        if !self.order.contains(&name) {
            self.order.push(name);
        }
        self.rates.entry(name).or_default().push(rate);
    }

    /// The median of what was measured under this name; zero for nothing.
    pub(crate) fn median(&self, name: &str) -> f64 {
        let mut rates = self.rates.get(name).cloned().unwrap_or_default();
        rates.sort_by(f64::total_cmp);
        match rates.len() {
            0 => 0.0,
            n if n % 2 == 1 => rates[n / 2],
            n => f64::midpoint(rates[n / 2 - 1], rates[n / 2]),
        }
    }

    /// The lowest and the highest.
    pub(crate) fn spread(&self, name: &str) -> (f64, f64) {
        let rates = self.rates.get(name).map(Vec::as_slice).unwrap_or_default();
        let low = rates.iter().copied().fold(f64::INFINITY, f64::min);
        (low.min(f64::MAX), rates.iter().copied().fold(0.0, f64::max))
    }

    /// Names, in order.
    pub(crate) fn names(&self) -> &[&'static str] {
        &self.order
    }
}

/// Rows under a title.
#[derive(Debug)]
pub(crate) struct Table {
    title: String,
    columns: Vec<&'static str>,
    rows: Vec<Vec<String>>,
    notes: Vec<String>,
}

impl Table {
    /// A table without rows.
    pub(crate) fn new(title: impl Into<String>, columns: &[&'static str]) -> Self {
        let columns = columns.to_vec();
        Self { title: title.into(), columns, rows: Vec::new(), notes: Vec::new() }
    }

    /// Adds a row with a cell for each column.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Adds a line below the table.
    pub(crate) fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n### {}\n", self.title)?;
        writeln!(f, "| {} |", self.columns.join(" | "))?;
        writeln!(f, "|{}", "---|".repeat(self.columns.len()))?;
        for row in &self.rows {
            writeln!(f, "| {} |", row.join(" | "))?;
        }
        for note in &self.notes {
            writeln!(f, "\n{note}")?;
        }
        Ok(())
    }
}

/// A rate with its spread.
pub(crate) fn rate(rounds: &Rounds, name: &str, digits: usize) -> String {
    let (low, high) = rounds.spread(name);
    format!("{:.digits$} ({low:.digits$}-{high:.digits$})", rounds.median(name))
}

/// One figure as a multiple of another.
pub(crate) fn ratio(part: f64, whole: f64) -> String {
    if whole > 0.0 { format!("{:.2}", part / whole) } else { "-".into() }
}
