//! Memory of a publisher and of holders, and the CPU time of a holder that has nothing to do.

use std::{path::Path, time::Duration};

use crate::{
    Options,
    child::{cpu_s, memory_bytes},
    data,
    devnet::{Devnet, binary},
    machine,
    table::Table,
};

const NODES: usize = 20;
/// A holder is idle after this.
const IDLE_S: u64 = 60;
/// Its CPU time is counted for so long.
const COUNT_S: u64 = 30;

/// Measures in a directory under `dir`.
pub(crate) fn run(options: &Options, dir: &Path) -> anyhow::Result<Table> {
    let scratch = tempfile::tempdir_in(dir)?;
    let devnet = Devnet::start(&binary()?, scratch.path(), NODES)?;
    let file = scratch.path().join("source");
    data::random_file(&file, 200, options.size)?;
    let published = devnet.publish("publisher", &file)?;
    let pids: Vec<u32> = devnet.pids.values().copied().collect();
    let peaks = sorted(pids.iter().filter_map(|pid| memory_bytes(*pid, "VmHWM")));
    // What is measured is time itself: a minute without work.
    std::thread::sleep(Duration::from_secs(IDLE_S));
    let resident = sorted(pids.iter().filter_map(|pid| memory_bytes(*pid, "VmRSS")));
    let anonymous = sorted(pids.iter().filter_map(|pid| memory_bytes(*pid, "RssAnon")));
    let used = |pids: &[u32]| pids.iter().filter_map(|pid| cpu_s(*pid)).sum::<f64>();
    let before = used(&pids);
    std::thread::sleep(Duration::from_secs(COUNT_S));
    let cpu_ms = (used(&pids) - before) * 1000.0 / pids.len().max(1) as f64;

    let title = format!(
        "Memory and idle CPU: {} MiB published to {NODES} nodes, data on {} ({})",
        options.size >> 20,
        machine::filesystem(dir),
        dir.display()
    );
    let mut table = Table::new(title, &["", "measured", "target"]);
    let mb = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
    let range = |all: &[u64]| {
        let at = |i: usize| mb(all.get(i).copied().unwrap_or(0));
        format!("{} ({}-{})", at(all.len() / 2), at(0), at(all.len().saturating_sub(1)))
    };
    let mut row = |what: &str, measured: String, target: &str| {
        table.row([what.to_owned(), measured, target.to_owned()]);
    };
    row("publisher, peak (VmHWM)", mb(published.peak_bytes), "400 MB at 10 GB");
    row("holder right after, peak (VmHWM)", range(&peaks), "400 MB");
    row("holder after 60 s idle (VmRSS)", range(&resident), "60 MB");
    row("of it anonymous (RssAnon)", range(&anonymous), "");
    row("CPU of an idle holder, each over 30 s", format!("{cpu_ms:.0} ms"), "none measurable");
    Ok(table)
}

fn sorted(values: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut values: Vec<u64> = values.collect();
    values.sort_unstable();
    values
}
