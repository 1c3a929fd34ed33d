//! EchoNet beside the programs that people use for the same thing, where they are installed:
//! sendme for one full copy, Tahoe-LAFS for publishing and fetching 10 of 16. It installs
//! nothing.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context as _, ensure};
use tempfile::TempDir;

use crate::{
    Options, ROUNDS,
    child::cpu_s,
    data,
    devnet::{Devnet, binary},
    logged::Program,
    machine,
    peers::{Cost, Peer},
    sendme,
    table::{Rounds, Table, rate, ratio},
    tahoe::{self, Grid, Protocol},
    transfer::{DEAD, NODES, lost, victims},
};

const RAW: &str = "raw iroh stream, 1 GB, two processes";
const SENDME: &str = "sendme, by its own account";
const SENDME_WHOLE: &str = "sendme receive, the whole command";
const PUBLISH: &str = "EchoNet publish 10+6, live check included";
const STORED: &str = "EchoNet publish 10+6, until stored, sealed and recorded";
const ALIVE: &str = "EchoNet fetch from holders, all alive";
const COPY: &str = "EchoNet fetch from one full copy, request to last byte";
const COPY_WHOLE: &str = "EchoNet fetch from one full copy, the whole command";
const RAW_LATER: &str = "raw iroh stream, later in the same run";
const LOST: &str = "EchoNet fetch from holders, 6 of 20 nodes dead";
const RAW_TAHOE: &str = "raw iroh stream, beside Tahoe-LAFS";
const PUT: &str = "Tahoe-LAFS upload 10 of 16";
const PUT_FOOLSCAP: &str = "Tahoe-LAFS upload 10 of 16, Foolscap";
const GET: &str = "Tahoe-LAFS download, all alive";
const GET_FOOLSCAP: &str = "Tahoe-LAFS download, all alive, Foolscap";
const RAW_TAHOE_LATER: &str = "raw iroh stream, beside the next";
const GET_LOST: &str = "Tahoe-LAFS download, 6 of 20 nodes dead";
const GET_LOST_FOOLSCAP: &str = "Tahoe-LAFS download, 6 of 20 nodes dead, Foolscap";

const COLUMNS: [&str; 6] =
    ["", "MB/s", "/ raw", "times its peer", "target", "CPU s/GB, all processes"];

/// Tahoe-LAFS has two protocols between a client and storage nodes.
const PROTOCOLS: [Protocol; 2] = [Protocol::Https, Protocol::Foolscap];

/// With which rows a row is compared, what these are called, and the target (design 14).
fn peers(name: &str) -> ([Option<(&'static str, &'static str)>; 2], &'static str) {
    let tahoe = |https, foolscap| {
        [Some((https, "Tahoe-LAFS")), Some((foolscap, "Tahoe-LAFS over Foolscap"))]
    };
    match name {
        PUBLISH | STORED => (tahoe(PUT, PUT_FOOLSCAP), "7 x Tahoe-LAFS"),
        ALIVE => (tahoe(GET, GET_FOOLSCAP), "25 x Tahoe-LAFS"),
        LOST => (tahoe(GET_LOST, GET_LOST_FOOLSCAP), "25 x Tahoe-LAFS"),
        COPY => ([Some((SENDME, "sendme")), None], "3 x sendme"),
        COPY_WHOLE => ([Some((SENDME_WHOLE, "sendme")), None], "3 x sendme"),
        _ => ([None; 2], ""),
    }
}

/// The raw stream that was taken in turns with a row.
fn raw_beside(name: &str) -> &'static str {
    match name {
        RAW_LATER | LOST => RAW_LATER,
        RAW_TAHOE | PUT | PUT_FOOLSCAP | GET | GET_FOOLSCAP => RAW_TAHOE,
        RAW_TAHOE_LATER | GET_LOST | GET_LOST_FOOLSCAP => RAW_TAHOE_LATER,
        _ => RAW,
    }
}

/// The row of a protocol.
fn by(protocol: Protocol, https: &'static str, foolscap: &'static str) -> &'static str {
    match protocol {
        Protocol::Https => https,
        Protocol::Foolscap => foolscap,
    }
}

/// The programs that are there.
pub(crate) struct Programs {
    sendme: Option<Program>,
    tahoe: Option<Program>,
}

impl Programs {
    /// Looks for them, and says what is not there.
    pub(crate) fn find(options: &Options) -> anyhow::Result<Self> {
        let sendme = Program::find("sendme", options.sendme.as_deref())?;
        let tahoe = Program::find("tahoe", options.tahoe.as_deref())?;
        if sendme.is_none() {
            println!("\nsendme: {}", sendme::INSTALL);
        }
        if tahoe.is_none() {
            println!("\nTahoe-LAFS: {}", tahoe::INSTALL);
        }
        Ok(Self { sendme, tahoe })
    }

    /// Whether there is nothing to compare with.
    pub(crate) fn none(&self) -> bool {
        self.sendme.is_none() && self.tahoe.is_none()
    }
}

/// One run.
struct Run<'a> {
    options: &'a Options,
    dir: &'a Path,
    raw: Peer,
    rounds: Rounds,
    /// CPU seconds per GB, of all processes that took part.
    cpu: Rounds,
    notes: Vec<String>,
}

/// Measures in a directory under `dir`.
pub(crate) fn run(options: &Options, programs: &Programs, dir: &Path) -> anyhow::Result<Table> {
    let (raw, rounds, cpu, notes) =
        (Peer::raw()?, Rounds::default(), Rounds::default(), Vec::new());
    let mut run = Run { options, dir, raw, rounds, cpu, notes };
    run.echonet(programs.sendme.as_ref())?;
    // Only now: twenty idle processes would slow down the others.
    if let Some(tahoe) = &programs.tahoe
        && let Err(error) = run.tahoe(tahoe)
    {
        run.failed("Tahoe-LAFS", &error);
    }
    let versions = [&programs.sendme, &programs.tahoe].into_iter().flatten();
    let versions: Vec<&str> = versions.map(|program| program.version.as_str()).collect();
    run.notes.push(format!("Compared with {}.", versions.join(" and ")));
    Ok(run.table())
}

impl Run<'_> {
    fn add(&mut self, round: usize, name: &'static str, cost: &Cost) {
        let Cost { mb_s, cpu_s_gb } = cost;
        eprintln!("{name}, round {round}: {mb_s:.1} MB/s, {cpu_s_gb:.1} CPU s/GB");
        // The first one warms up.
        if round > 0 {
            self.rounds.add(name, *mb_s);
            if cpu_s_gb.is_finite() {
                self.cpu.add(name, *cpu_s_gb);
            }
        }
    }

    fn cost(&self, seconds: f64, cpu_s: f64) -> Cost {
        let gb = self.options.size as f64 / 1e9;
        Cost { mb_s: gb * 1000.0 / seconds, cpu_s_gb: cpu_s / gb }
    }

    fn stream(&mut self, round: usize, name: &'static str) -> anyhow::Result<()> {
        let raw = self.raw.receive_raw()?;
        self.add(round, name, &raw);
        Ok(())
    }

    /// The file of a round: no two rounds have one in common, and every program gets the same.
    fn source(&self, scratch: &TempDir, round: usize) -> anyhow::Result<PathBuf> {
        let file = scratch.path().join("source");
        data::random_file(&file, 300 + round as u64, self.options.size)?;
        Ok(file)
    }

    /// A program of others that fails costs its own rows, not those of EchoNet.
    fn failed(&mut self, peer: &str, error: &anyhow::Error) {
        eprintln!("{peer} failed: {error:#}");
        let first = format!("{error:#}");
        let first = first.lines().next().unwrap_or_default();
        self.notes.push(format!("{peer} failed in this run: {first}"));
    }

    fn echonet(&mut self, mut sendme: Option<&Program>) -> anyhow::Result<()> {
        let scratch = tempfile::tempdir_in(self.dir)?;
        let mut devnet = Devnet::start(&binary()?, scratch.path(), NODES)?;
        let mut works = Vec::new();
        for round in 0..=ROUNDS {
            let file = self.source(&scratch, round)?;
            self.stream(round, RAW)?;
            if let Some(program) = sendme
                && let Err(error) = self.sendme(program, round, &scratch, &file)
            {
                self.failed("sendme", &error);
                sendme = None;
            }
            works.push(self.publish(&devnet, round, &file)?);
        }
        let status = devnet.status(works.last().context("works")?)?;
        let victims = victims(&status, &devnet.nodes);
        let (gone, _) = lost(&status, &victims);
        devnet.kill(&victims);
        for (round, work) in works.iter().enumerate() {
            self.stream(round, RAW_LATER)?;
            self.get(&devnet, round, LOST, work, None)?;
        }
        self.notes.push(format!(
            "EchoNet: of the {DEAD} nodes killed of {NODES}, a segment loses {gone:.1} of 16 shards \
             on average. Every fetch is by a new process that joins first; request to last byte \
             is counted, unless it says the whole command, which makes the file durable too."
        ));
        Ok(())
    }

    fn sendme(
        &mut self,
        sendme: &Program,
        round: usize,
        scratch: &TempDir,
        file: &Path,
    ) -> anyhow::Result<()> {
        let received = sendme::transfer(sendme, scratch.path(), file)?;
        let transfer = Cost { mb_s: received.transfer_mb_s, cpu_s_gb: f64::NAN };
        self.add(round, SENDME, &transfer);
        self.add(round, SENDME_WHOLE, &received.whole);
        Ok(())
    }

    /// Publishes, and fetches while all are alive.
    fn publish(&mut self, devnet: &Devnet, round: usize, file: &Path) -> anyhow::Result<String> {
        let publisher = format!("publisher-{round}");
        let before = devnet.cpu_s();
        let published = devnet.publish(&publisher, file)?;
        let cpu_s = published.cpu_s + devnet.cpu_s() - before;
        self.add(round, PUBLISH, &self.cost(published.seconds, cpu_s));
        if let Some((_, at)) = published.stages.iter().find(|(name, _)| name == "announcing") {
            self.add(round, STORED, &self.cost(*at, f64::NAN));
        }
        if !published.live {
            self.notes.push(format!("Round {round}: published, not found live."));
        }
        self.get(devnet, round, ALIVE, &published.content_id, None)?;
        let origin = devnet.origin(&publisher)?;
        let whole = self.get(devnet, round, COPY, &published.content_id, Some(origin.pid()))?;
        self.add(round, COPY_WHOLE, &whole);
        Ok(published.content_id)
    }

    /// Fetches a work from the nodes, or from the process `origin` too; what the whole command
    /// took.
    fn get(
        &mut self,
        devnet: &Devnet,
        round: usize,
        name: &'static str,
        work: &str,
        origin: Option<u32>,
    ) -> anyhow::Result<Cost> {
        let servers = || devnet.cpu_s() + origin.and_then(cpu_s).unwrap_or(0.0);
        let before = servers();
        let got = devnet.get(work)?;
        let cpu_s = got.cpu_s + servers() - before;
        ensure!(got.bytes == self.options.size, "got {} bytes of {work}", got.bytes);
        if origin.is_some() && got.sources != 1 {
            self.notes.push(format!("The copy was not used: {} sources.", got.sources));
        }
        self.add(round, name, &self.cost(got.seconds, cpu_s));
        Ok(self.cost(got.whole_seconds, cpu_s))
    }

    fn tahoe(&mut self, tahoe: &Program) -> anyhow::Result<()> {
        let scratch = tempfile::tempdir_in(self.dir)?;
        let mut grid = Grid::start(tahoe, scratch.path(), NODES)?;
        let mut works = Vec::new();
        for round in 0..=ROUNDS {
            let file = self.source(&scratch, round)?;
            self.stream(round, RAW_TAHOE)?;
            // Each client encrypts with a secret of its own: neither finds the other's shares.
            for protocol in PROTOCOLS {
                let (start, before) = (Instant::now(), grid.cpu_s());
                let work = grid.put(protocol, &file)?;
                let cost = self.cost(start.elapsed().as_secs_f64(), grid.cpu_s() - before);
                self.add(round, by(protocol, PUT, PUT_FOOLSCAP), &cost);
                let name = by(protocol, GET, GET_FOOLSCAP);
                self.download(&grid, round, name, (protocol, &work), &scratch)?;
                works.push((round, protocol, work));
            }
        }
        let gone = grid.kill(DEAD)?;
        for (round, protocol, work) in &works {
            self.source(&scratch, *round)?;
            if *protocol == PROTOCOLS[0] {
                self.stream(*round, RAW_TAHOE_LATER)?;
            }
            let name = by(*protocol, GET_LOST, GET_LOST_FOOLSCAP);
            self.download(&grid, *round, name, (*protocol, work), &scratch)?;
        }
        self.notes.push(format!(
            "Tahoe-LAFS: {NODES} storage nodes, an introducer and clients on loopback, \
             shares.needed 10, happy 10, total 16, through the web API of a running client, which \
             encrypts and stays connected. Its default protocol is HTTPS; Foolscap is the older \
             one. Of the {DEAD} nodes killed, a file loses {gone:.1} of 16 \
             shares on average."
        ));
        Ok(())
    }

    fn download(
        &mut self,
        grid: &Grid,
        round: usize,
        name: &'static str,
        (protocol, work): (Protocol, &str),
        scratch: &TempDir,
    ) -> anyhow::Result<()> {
        let out = scratch.path().join("out");
        let (start, before) = (Instant::now(), grid.cpu_s());
        grid.get(protocol, work, &out)?;
        let seconds = start.elapsed().as_secs_f64();
        let cpu_s = grid.cpu_s() - before;
        ensure!(data::same(&out, &scratch.path().join("source"))?, "{name}: another file came");
        std::fs::remove_file(&out)?;
        self.add(round, name, &self.cost(seconds, cpu_s));
        Ok(())
    }

    fn table(self) -> Table {
        let title = format!(
            "Peers: {} MiB of random bytes, data on {} ({})",
            self.options.size >> 20,
            machine::filesystem(self.dir),
            self.dir.display()
        );
        let mut table = Table::new(title, &COLUMNS);
        for name in self.rounds.names() {
            let median = self.rounds.median(name);
            let (peers, target) = peers(name);
            // One that is not installed, or failed, has no row.
            let peers = peers.into_iter().flatten();
            let times = peers.filter(|(row, _)| self.rounds.names().contains(row));
            let times = times.map(|(row, peer)| {
                let times = ratio(median, self.rounds.median(row));
                format!("{times} x {peer}")
            });
            let times = times.collect::<Vec<_>>().join(", ");
            let cpu = self.cpu.names().contains(name).then(|| rate(&self.cpu, name, 1));
            table.row([
                (*name).to_owned(),
                rate(&self.rounds, name, 1),
                ratio(median, self.rounds.median(raw_beside(name))),
                times,
                target.to_owned(),
                cpu.unwrap_or_default(),
            ]);
        }
        for note in self.notes {
            table.note(note);
        }
        table
    }
}
