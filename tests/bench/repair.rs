//! Repair of what four dead nodes of twenty held, from the first byte read until every segment
//! has all its shards, beside a raw stream between two processes and the disk alone.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::{
    Options, data,
    devnet::{Devnet, binary},
    machine,
    peers::Peer,
    table::{Table, ratio},
};

const NODES: usize = 20;
/// So that every living node has to hold a shard of every segment afterwards.
const DEAD: usize = 4;
/// How often the nodes are asked how far they are: asking costs what is measured.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Everything is whole again within this, or the run ends with an error.
const WITHIN: Duration = Duration::from_secs(900);

/// What all living nodes did, summed up.
#[derive(Debug, Clone, Copy, Default)]
struct Moved {
    shards: u64,
    read_bytes: u64,
    written_bytes: u64,
}

/// Measures in a directory under `dir`.
pub(crate) fn run(options: &Options, dir: &Path) -> anyhow::Result<Table> {
    let scratch = tempfile::tempdir_in(dir)?;
    let raw_mb_s = Peer::raw()?.receive_raw()?.mb_s;
    let disk_mb_s = disk(scratch.path(), options.size)?;
    let mut devnet = Devnet::start(&binary()?, scratch.path(), NODES)?;
    let file = scratch.path().join("source");
    data::random_file(&file, 300, options.size)?;
    let work = devnet.publish("publisher", &file)?.content_id;
    std::fs::remove_file(&file)?;
    let victims: Vec<String> = devnet.nodes[NODES - DEAD..].to_vec();
    let lost_bytes = lost_bytes(&devnet.status(&work)?, &victims);
    devnet.kill(&victims);
    let killed = Instant::now();
    let (mut began, mut cpu_before) = (None, 0.0);
    let (moved, ended) = loop {
        ensure!(killed.elapsed() < WITHIN, "not whole {WITHIN:?} after {DEAD} nodes were killed");
        std::thread::sleep(LOOK_EVERY);
        let moved = moved(&devnet)?;
        if began.is_none() {
            cpu_before = devnet.cpu_s();
            began = (moved.read_bytes > 0).then(Instant::now);
        }
        if moved.written_bytes >= lost_bytes && is_whole(&devnet.status(&work)?) {
            break (moved, Instant::now());
        }
    };
    let began = began.context("something was read")?;
    let cpu_s = devnet.cpu_s() - cpu_before;
    let waited_s = (began - killed).as_secs_f64();
    let seconds = (ended - began).as_secs_f64();
    let mut table = table(options, dir, &moved, seconds, (raw_mb_s, disk_mb_s));
    table.note(format!(
        "{DEAD} of {NODES} nodes killed; {lost_bytes} bytes of shards lost, {} written: {}. The \
         first byte was read {waited_s:.1} s after (the grace is 10 s), all was whole {seconds:.1} \
         s later; {:.1} CPU seconds of all nodes per repaired GB, those of asking them included.",
        moved.written_bytes,
        ratio(moved.written_bytes as f64, lost_bytes as f64),
        cpu_s * 1e9 / moved.written_bytes.max(1) as f64,
    ));
    Ok(table)
}

fn table(
    options: &Options,
    dir: &Path,
    moved: &Moved,
    seconds: f64,
    (raw_mb_s, disk_mb_s): (f64, f64),
) -> Table {
    let title = format!(
        "Repair after {DEAD} of {NODES} nodes died with {} MiB in the network, data on {} ({})",
        options.size >> 20,
        machine::filesystem(dir),
        dir.display()
    );
    let mut table = Table::new(title, &["", "MB/s", "/ raw stream", "/ disk"]);
    let mut row = |what: &str, mb_s: f64| {
        let cells = [format!("{mb_s:.0}"), ratio(mb_s, raw_mb_s), ratio(mb_s, disk_mb_s)];
        table.row([vec![what.to_owned()], cells.to_vec()].concat());
    };
    let mb_s = |bytes: u64| bytes as f64 / 1e6 / seconds;
    row("raw iroh stream, 1 GB, two processes", raw_mb_s);
    row("dd conv=fsync", disk_mb_s);
    row("shards made again and stored", mb_s(moved.written_bytes));
    row("bytes read and written for them", mb_s(moved.read_bytes + moved.written_bytes));
    let per_repaired = |bytes: u64| ratio(bytes as f64, moved.written_bytes as f64);
    table.note(format!(
        "{} shards. Per repaired byte {} were read and {} written. The code needs 10 shards read \
         to make any number of one segment again: 10 / {DEAD} = {:.2} where {DEAD} are lost.",
        moved.shards,
        per_repaired(moved.read_bytes),
        per_repaired(moved.written_bytes),
        10.0 / DEAD as f64
    ));
    table
}

/// What the disk writes, MB/s.
fn disk(dir: &Path, bytes: u64) -> anyhow::Result<f64> {
    let out = dir.join("dd");
    let mut dd = Command::new("dd");
    dd.args(["if=/dev/zero", "bs=1M", "conv=fsync", "status=none"]);
    dd.arg(format!("of={}", out.display())).arg(format!("count={}", bytes >> 20));
    let start = Instant::now();
    ensure!(dd.status().context("dd cannot be started")?.success(), "dd failed");
    let seconds = start.elapsed().as_secs_f64();
    std::fs::remove_file(&out)?;
    Ok(bytes as f64 / 1e6 / seconds)
}

fn segments(status: &Value) -> impl Iterator<Item = &Value> {
    status["segments"].as_array().into_iter().flatten()
}

fn shards(segment: &Value) -> impl Iterator<Item = &Value> {
    segment["shards"].as_array().into_iter().flatten()
}

/// Bytes of shards that these nodes hold.
fn lost_bytes(status: &Value, victims: &[String]) -> u64 {
    let of_segment = |segment: &Value| {
        let is_lost =
            |shard: &&Value| victims.iter().any(|id| shard["holder"] == Value::from(id.as_str()));
        let count = shards(segment).filter(is_lost).count() as u64;
        count * segment["shard_bytes"].as_u64().unwrap_or(0)
    };
    segments(status).map(of_segment).sum()
}

fn is_whole(status: &Value) -> bool {
    segments(status).all(|segment| {
        let mut shards = shards(segment).peekable();
        shards.peek().is_some() && shards.all(|shard| shard["alive"] == true)
    })
}

fn moved(devnet: &Devnet) -> anyhow::Result<Moved> {
    let mut sum = Moved::default();
    for id in devnet.nodes.iter().filter(|id| devnet.pids.contains_key(*id)) {
        let repair = &devnet.own_status(id)?["repair"];
        let number = |name: &str| repair[name].as_u64().unwrap_or(0);
        sum.shards += number("repaired_shards");
        sum.read_bytes += number("read_bytes");
        sum.written_bytes += number("written_bytes");
    }
    Ok(sum)
}
