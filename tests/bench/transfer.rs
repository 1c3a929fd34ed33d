//! Publish and fetch on a devnet of real processes, beside a raw iroh stream and a bare
//! iroh-blobs transfer between two processes, interleaved.

use std::path::Path;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    Options, ROUNDS,
    child::cpu_s,
    data,
    devnet::{Devnet, Got, Published, binary},
    machine,
    peers::{Cost, Peer},
    table::{Rounds, Table, rate, ratio},
};

pub(crate) const NODES: usize = 20;
/// Holders that are killed.
pub(crate) const DEAD: usize = 6;

const RAW: &str = "raw iroh stream, 1 GB, two processes";
const BLOBS: &str = "iroh-blobs FsStore to FsStore";
const PUBLISH: &str = "publish 10+6, live check included";
const STORED: &str = "publish 10+6, until stored, sealed and recorded";
const ALIVE: &str = "fetch from holders, all alive";
const COPY: &str = "fetch from one full copy";
const RAW_LATER: &str = "raw iroh stream, later in the same run";
const LOST: &str = "fetch from holders, 6 of 20 nodes dead";

const COLUMNS: [&str; 6] =
    ["", "MB/s", "/ raw", "/ iroh-blobs", "target / raw", "CPU s/GB, all processes"];

/// Targets as parts of the raw stream (design 14).
fn target(name: &str) -> &'static str {
    match name {
        PUBLISH | STORED => "0.31 (0.5 / 1.6)",
        ALIVE => "0.6",
        COPY => "0.75",
        LOST => "0.55",
        _ => "",
    }
}

/// One run in a directory under `dir`.
struct Run<'a> {
    options: &'a Options,
    scratch: TempDir,
    devnet: Devnet,
    raw: Peer,
    rounds: Rounds,
    /// CPU seconds per GB, of all processes that took part.
    cpu: Rounds,
    notes: Vec<String>,
}

/// Measures in a directory under `dir`.
pub(crate) fn run(options: &Options, dir: &Path) -> anyhow::Result<Table> {
    let scratch = tempfile::tempdir_in(dir)?;
    let devnet = Devnet::start(&binary()?, scratch.path(), NODES)?;
    let rounds = Rounds::default();
    let (raw, cpu, notes) = (Peer::raw()?, Rounds::default(), Vec::new());
    let mut run = Run { options, scratch, devnet, raw, rounds, cpu, notes };
    let mut works = Vec::new();
    for round in 0..=ROUNDS {
        works.push(run.whole_network(round)?);
    }
    let last = works.last().context("works")?;
    let status = run.devnet.status(last)?;
    let victims = victims(&status, &run.devnet.nodes);
    let (all, data) = lost(&status, &victims);
    run.devnet.kill(&victims);
    for (round, work) in works.iter().enumerate() {
        run.wounded_network(round, work)?;
    }
    run.notes.push(format!(
        "Of the {DEAD} nodes killed of {NODES}, a segment loses {all:.1} of 16 shards on average, \
         {data:.1} of them data shards that are rebuilt."
    ));
    Ok(run.table(dir))
}

impl Run<'_> {
    fn add(&mut self, round: usize, name: &'static str, cost: &Cost) {
        let Cost { mb_s, cpu_s_gb } = cost;
        eprintln!("{name}, round {round}: {mb_s:.0} MB/s, {cpu_s_gb:.1} CPU s/GB");
        // The first one warms up.
        if round > 0 {
            self.rounds.add(name, *mb_s);
            self.cpu.add(name, *cpu_s_gb);
        }
    }

    fn cost(&self, seconds: f64, cpu_s: f64) -> Cost {
        let gb = self.options.size as f64 / 1e9;
        Cost { mb_s: gb * 1000.0 / seconds, cpu_s_gb: cpu_s / gb }
    }

    fn whole_network(&mut self, round: usize) -> anyhow::Result<String> {
        let file = self.scratch.path().join("source");
        data::random_file(&file, 100 + round as u64, self.options.size)?;
        let raw = self.raw.receive_raw()?;
        self.add(round, RAW, &raw);
        let blobs = self.blobs(&file)?;
        self.add(round, BLOBS, &blobs);
        let publisher = format!("publisher-{round}");
        let before = self.devnet.cpu_s();
        let published = self.devnet.publish(&publisher, &file)?;
        self.published(round, &published, self.devnet.cpu_s() - before);
        let got = self.get(round, ALIVE, &published.content_id, None)?;
        if round == ROUNDS {
            self.note_get(ALIVE, &got);
        }
        let origin = self.devnet.origin(&publisher)?;
        let got = self.get(round, COPY, &published.content_id, Some(origin.pid()))?;
        drop(origin);
        if got.sources != 1 {
            self.notes.push(format!("The copy was not used: {} sources.", got.sources));
        }
        if round == ROUNDS {
            self.note_get(COPY, &got);
        }
        Ok(published.content_id)
    }

    fn wounded_network(&mut self, round: usize, work: &str) -> anyhow::Result<()> {
        let raw = self.raw.receive_raw()?;
        self.add(round, RAW_LATER, &raw);
        let got = self.get(round, LOST, work, None)?;
        if round == ROUNDS {
            self.note_get(LOST, &got);
        }
        Ok(())
    }

    fn published(&mut self, round: usize, published: &Published, holders_cpu_s: f64) {
        let cpu_s = published.cpu_s + holders_cpu_s;
        self.add(round, PUBLISH, &self.cost(published.seconds, cpu_s));
        let stages = &published.stages;
        if let Some((_, at)) = stages.iter().find(|(name, _)| name == "announcing") {
            self.add(round, STORED, &self.cost(*at, f64::NAN));
        }
        if round == ROUNDS {
            let told: Vec<String> =
                stages.iter().map(|(name, at)| format!("{name} {at:.2} s")).collect();
            self.notes.push(format!(
                "Last publish: {}, end {:.2} s, live: {}, peak memory {} MB.",
                told.join(", "),
                published.seconds,
                published.live,
                published.peak_bytes / 1_000_000
            ));
        }
    }

    fn note_get(&mut self, name: &str, got: &Got) {
        let Got { seconds, whole_seconds, sources, .. } = got;
        self.notes.push(format!(
            "Last {name}: {seconds:.2} s from request to last byte, {whole_seconds:.2} s for the \
             whole command (start, joining, file made durable), {sources} sources."
        ));
    }

    /// Fetches a work from the nodes, or from the process `origin` too.
    fn get(
        &mut self,
        round: usize,
        name: &'static str,
        work: &str,
        origin: Option<u32>,
    ) -> anyhow::Result<Got> {
        let servers = || self.devnet.cpu_s() + origin.and_then(cpu_s).unwrap_or(0.0);
        let before = servers();
        let got = self.devnet.get(work)?;
        let cost = self.cost(got.seconds, got.cpu_s + servers() - before);
        ensure!(got.bytes == self.options.size, "got {} bytes of {work}", got.bytes);
        self.add(round, name, &cost);
        Ok(got)
    }

    fn blobs(&self, file: &Path) -> anyhow::Result<Cost> {
        let (from, to) =
            (tempfile::tempdir_in(&self.scratch)?, tempfile::tempdir_in(&self.scratch)?);
        Peer::blobs(from.path(), file)?.receive_blob(to.path(), self.options.size)
    }

    fn table(self, dir: &Path) -> Table {
        let mib = self.options.size >> 20;
        let title = format!(
            "Transfer of {mib} MiB of random bytes, data on {} ({})",
            machine::filesystem(dir),
            dir.display()
        );
        let mut table = Table::new(title, &COLUMNS);
        for name in self.rounds.names() {
            let median = self.rounds.median(name);
            let raw = if [LOST, RAW_LATER].contains(name) { RAW_LATER } else { RAW };
            table.row([
                (*name).to_owned(),
                rate(&self.rounds, name, 0),
                ratio(median, self.rounds.median(raw)),
                ratio(median, self.rounds.median(BLOBS)),
                target(name).to_owned(),
                if *name == STORED { String::new() } else { rate(&self.cpu, name, 1) },
            ]);
        }
        for note in self.notes {
            table.note(note);
        }
        table
    }
}

/// The nodes that hold most of a work, except the one that newcomers enter by.
pub(crate) fn victims(status: &Value, nodes: &[String]) -> Vec<String> {
    let held = |id: &String| holders(status).filter(|(_, holder)| holder == id).count();
    let mut nodes: Vec<&String> = nodes.iter().skip(1).collect();
    nodes.sort_by_key(|id| std::cmp::Reverse(held(id)));
    nodes.into_iter().take(DEAD).cloned().collect()
}

/// Index and holder of every shard.
fn holders(status: &Value) -> impl Iterator<Item = (u64, &str)> {
    let segments = status["segments"].as_array().into_iter().flatten();
    let shards = segments.flat_map(|segment| segment["shards"].as_array().into_iter().flatten());
    shards.filter_map(|shard| Some((shard["index"].as_u64()?, shard["holder"].as_str()?)))
}

/// Shards that a segment loses with these nodes on average: all, and data shards.
pub(crate) fn lost(status: &Value, victims: &[String]) -> (f64, f64) {
    let segments = status["segments"].as_array().map_or(1, Vec::len).max(1) as f64;
    let gone: Vec<u64> = holders(status)
        .filter(|(_, holder)| victims.iter().any(|id| id == holder))
        .map(|(index, _)| index)
        .collect();
    let data = gone.iter().filter(|index| **index < 10).count();
    (gone.len() as f64 / segments, data as f64 / segments)
}
