//! A network of real `echonet` processes and the commands run against it, as a person would run
//! them. The binary is the one beside this program, of the same build, unless another is named.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context as _, ensure};
use rustix::process::Signal;
use serde_json::Value;

use crate::child::{Running, cpu_s, memory_bytes, signal};

/// The `echonet` that `ECHONET_BIN` names, or the one of this build, made if it is not there.
pub(crate) fn binary() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("ECHONET_BIN") {
        return Ok(PathBuf::from(path));
    }
    let path = std::env::current_exe()?.with_file_name("echonet");
    // Set by `cargo run`: a binary that is older than its source would be measured otherwise.
    if let Some(cargo) = std::env::var_os("CARGO") {
        let mut build = Command::new(cargo);
        build.args(["build", "--package", "echonet-node", "--bin", "echonet"]);
        build.args(["--package", "echonet-tests", "--features", "echonet-tests/bench"]);
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        ensure!(build.status()?.success(), "echonet does not build");
    }
    ensure!(
        path.exists(),
        "{} is missing: build echonet-node with the same profile",
        path.display()
    );
    Ok(path)
}

/// A running devnet.
pub(crate) struct Devnet {
    _process: Running,
    binary: PathBuf,
    dir: PathBuf,
    bootstrap: String,
    /// Process ids by NodeID.
    pub(crate) pids: BTreeMap<String, u32>,
    dirs: BTreeMap<String, PathBuf>,
    /// NodeIDs in the devnet's order; the first is the bootstrap's.
    pub(crate) nodes: Vec<String>,
}

/// A publish, as its caller saw it.
pub(crate) struct Published {
    pub(crate) content_id: String,
    pub(crate) seconds: f64,
    /// Peak resident set of the publishing process, bytes.
    pub(crate) peak_bytes: u64,
    /// When each stage was told of, seconds from the start.
    pub(crate) stages: Vec<(String, f64)>,
    pub(crate) live: bool,
    /// CPU seconds of the publisher.
    pub(crate) cpu_s: f64,
}

impl Devnet {
    /// Starts `nodes` nodes with their data under `dir`.
    pub(crate) fn start(binary: &Path, dir: &Path, nodes: usize) -> anyhow::Result<Self> {
        let mut command = Command::new(binary);
        command.args(["devnet", "--json", "--quota", "40GiB", "--nodes", &nodes.to_string()]);
        command.arg("--data").arg(dir.join("devnet"));
        let mut process = Running::start(command)?;
        let ready = process.until("ready", |_| {})?;
        let bootstrap = ready["bootstrap"].as_str().context("a bootstrap address")?.to_owned();
        let (mut ids, mut pids, mut dirs) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        for node in ready["nodes"].as_array().context("nodes")? {
            let id = node["node_id"].as_str().context("a node id")?.to_owned();
            let pid = node["pid"].as_u64().context("a process id")?;
            pids.insert(id.clone(), u32::try_from(pid)?);
            dirs.insert(id.clone(), node["data"].as_str().context("a directory")?.into());
            ids.push(id);
        }
        let (binary, dir) = (binary.to_owned(), dir.to_owned());
        Ok(Self { _process: process, binary, dir, bootstrap, pids, dirs, nodes: ids })
    }

    fn command(&self, verb: &str, data: &str) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg(verb).args(["--json", "--bootstrap", &self.bootstrap]);
        command.arg("--data").arg(self.dir.join(data));
        command
    }

    /// Publishes a file from a process that ends with it.
    pub(crate) fn publish(&self, data: &str, file: &Path) -> anyhow::Result<Published> {
        let mut command = self.command("publish", data);
        command.arg(file);
        let start = Instant::now();
        let mut process = Running::start(command)?;
        let (pid, mut peak_bytes, mut stages) = (process.pid(), 0, Vec::new());
        let published = process.until("published", |event| {
            peak_bytes = memory_bytes(pid, "VmHWM").unwrap_or(peak_bytes);
            let name = if event["event"] == "stage" { &event["stage"] } else { &event["event"] };
            let name = name.as_str().unwrap_or_default().to_owned();
            if stages.last().is_none_or(|(last, _)| *last != name) {
                stages.push((name, start.elapsed().as_secs_f64()));
            }
        })?;
        let seconds = start.elapsed().as_secs_f64();
        peak_bytes = memory_bytes(pid, "VmHWM").unwrap_or(peak_bytes).max(peak_bytes);
        let cpu_s = process.finish()?;
        let content_id = published["content_id"].as_str().context("a content id")?.to_owned();
        let live = published["live"] == true;
        Ok(Published { content_id, seconds, peak_bytes, stages, live, cpu_s })
    }

    /// Starts the daemon of a publisher's data directory, which serves its full copies.
    pub(crate) fn origin(&self, data: &str) -> anyhow::Result<Running> {
        let mut command = self.command("node", data);
        command.args(["--role", "origin", "--bind", "127.0.0.1:0"]);
        let mut process = Running::start(command)?;
        process.until("ready", |_| {})?;
        Ok(process)
    }

    /// Fetches as a newcomer; seconds by the command's own account (from the request to the
    /// last byte), seconds of the whole command, number of sources.
    pub(crate) fn get(&self, content_id: &str) -> anyhow::Result<Got> {
        let scratch = tempfile::tempdir_in(&self.dir)?;
        let data = scratch.path().join("data");
        let out = scratch.path().join("out");
        let mut command = self.command("get", data.to_str().context("a path in UTF-8")?);
        command.arg(content_id).arg("-o").arg(&out);
        let start = Instant::now();
        let mut process = Running::start(command)?;
        let fetched = process.until("fetched", |_| {})?;
        let whole_seconds = start.elapsed().as_secs_f64();
        let cpu_s = process.finish()?;
        let seconds = fetched["seconds"].as_f64().context("seconds")?;
        let sources = fetched["sources"].as_array().map_or(0, Vec::len);
        let bytes = std::fs::metadata(&out)?.len();
        Ok(Got { seconds, whole_seconds, sources, bytes, cpu_s })
    }

    /// What the network says about a work.
    pub(crate) fn status(&self, content_id: &str) -> anyhow::Result<Value> {
        let scratch = tempfile::tempdir_in(&self.dir)?;
        let data = scratch.path().join("data");
        let mut command = self.command("status", data.to_str().context("a path in UTF-8")?);
        command.arg(content_id);
        let mut process = Running::start(command)?;
        let status = process.until("status", |_| {})?;
        process.finish()?;
        Ok(status)
    }

    /// What a living node says about itself.
    pub(crate) fn own_status(&self, node_id: &str) -> anyhow::Result<Value> {
        let data = self.dirs.get(node_id).context("a node of this network")?;
        let mut command = Command::new(&self.binary);
        command.args(["status", "--json", "--data"]).arg(data);
        let mut process = Running::start(command)?;
        let status = process.until("status", |_| {})?;
        process.finish()?;
        Ok(status)
    }

    /// CPU seconds that all living nodes have used so far.
    pub(crate) fn cpu_s(&self) -> f64 {
        self.pids.values().filter_map(|pid| cpu_s(*pid)).sum()
    }

    /// Kills nodes as a power cut would.
    pub(crate) fn kill(&mut self, victims: &[String]) {
        for pid in victims.iter().filter_map(|id| self.pids.remove(id)) {
            signal(pid, Signal::KILL);
        }
    }
}

/// A fetch, as its caller saw it.
pub(crate) struct Got {
    pub(crate) seconds: f64,
    pub(crate) whole_seconds: f64,
    pub(crate) sources: usize,
    pub(crate) bytes: u64,
    /// CPU seconds of the reader.
    pub(crate) cpu_s: f64,
}
