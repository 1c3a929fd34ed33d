//! Benchmarks: what EchoNet does beside what the machine can do, measured in one run.
//!
//! `cargo run --release -p echonet-tests --features bench --bin bench -- [all|pipeline|vault|transfer|repair|peers|memory]
//! [--size 512MiB] [--dir DIR]... [--sendme PATH] [--tahoe PATH]` prints a markdown table. Figures are compared with others of
//! the same run only: each is the median of interleaved rounds after a warm-up. It asserts
//! nothing and is no part of the tests; it ends only processes that it started.

mod child;
mod comparison;
mod data;
mod devnet;
mod http;
mod logged;
mod machine;
mod memory;
mod peers;
mod pipeline;
mod repair;
mod sendme;
mod table;
mod tahoe;
mod transfer;
mod vault;

use std::path::PathBuf;

use anyhow::{Context as _, bail};

use crate::{machine::Machine, table::Table};

/// Rounds that count; one more goes before them to warm up.
pub(crate) const ROUNDS: usize = 3;

const USAGE: &str =
    "usage: bench [all|pipeline|vault|transfer|repair|peers|memory] [--size 512MiB] [--dir DIR]...
       [--sendme PATH] [--tahoe PATH]
Without --dir, transfers run in /dev/shm and in the temporary directory, the vault in the latter.
Peers are sendme and Tahoe-LAFS, where they are on PATH or named.";

/// What to measure, and where.
pub(crate) struct Options {
    what: String,
    /// Bytes of the file that is published.
    pub(crate) size: u64,
    /// Directories to work in.
    dirs: Vec<PathBuf>,
    /// The programs, if they are not to be looked for on PATH.
    pub(crate) sendme: Option<PathBuf>,
    pub(crate) tahoe: Option<PathBuf>,
}

fn parse_size(text: &str) -> anyhow::Result<u64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match &text[digits.len()..] {
        "" => 1,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        other => bail!("unknown unit {other}: use MiB or GiB"),
    };
    let number: u64 = digits.parse().with_context(|| format!("no size: {text}"))?;
    number.checked_mul(unit).context("a size beyond 64 bits")
}

fn parse(mut args: impl Iterator<Item = String>) -> anyhow::Result<Options> {
    let (what, dirs) = ("all".into(), Vec::new());
    let mut options = Options { what, size: 512 << 20, dirs, sendme: None, tahoe: None };
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--size" => options.size = parse_size(&args.next().context(USAGE)?)?,
            "--dir" => options.dirs.push(PathBuf::from(args.next().context(USAGE)?)),
            "--sendme" => options.sendme = Some(args.next().context(USAGE)?.into()),
            "--tahoe" => options.tahoe = Some(args.next().context(USAGE)?.into()),
            "all" | "pipeline" | "vault" | "transfer" | "repair" | "peers" | "memory" => {
                options.what = arg;
            }
            _ => bail!(USAGE),
        }
    }
    if options.dirs.is_empty() {
        options.dirs.push("/dev/shm".into());
        options.dirs.push(std::env::temp_dir());
    }
    Ok(options)
}

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // The other end of a transfer is this program again, in a process of its own.
    if let [role, rest @ ..] = args.as_slice()
        && role == peers::SERVE
    {
        return peers::serve(rest);
    }
    let options = parse(args.into_iter())?;
    let machine = Machine::look();
    println!("{}", machine.describe(&options.dirs));
    let wants = |what: &str| options.what == "all" || options.what == what;
    if wants("pipeline") {
        show(&pipeline::run()?);
    }
    let on_disk = options.dirs.iter().find(|dir| machine::filesystem(dir) != "tmpfs");
    if let Some(dir) = on_disk
        && wants("vault")
    {
        show(&vault::run(dir)?);
    }
    if wants("transfer") {
        for dir in &options.dirs {
            show(&transfer::run(&options, dir)?);
        }
    }
    if wants("repair") {
        for dir in &options.dirs {
            show(&repair::run(&options, dir)?);
        }
    }
    if wants("peers") {
        compare(&options)?;
    }
    if let Some(dir) = options.dirs.first()
        && wants("memory")
    {
        show(&memory::run(&options, dir)?);
    }
    println!("load average at the end: {}", machine::load());
    Ok(())
}

fn compare(options: &Options) -> anyhow::Result<()> {
    let programs = comparison::Programs::find(options)?;
    if programs.none() {
        println!("\nPeers: skipped, there is none to compare with.");
        return Ok(());
    }
    for dir in &options.dirs {
        show(&comparison::run(options, &programs, dir)?);
    }
    Ok(())
}

fn show(table: &Table) {
    println!("{table}");
}
