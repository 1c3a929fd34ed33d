//! A devnet: N real node processes on this machine, started through the CLI, with
//! each node's process at hand to be stopped or killed.
//!
//! However the test program ends, the devnet ends too, its nodes with it: it is
//! the child of a shell that waits for the end of its own standard input, and the
//! other end of that pipe is ours alone.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::{
    cli::{self, Outcome, tail},
    client::Client,
    figure, files, process,
    site::Site,
    wait_until,
};

/// How a devnet is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// Storage nodes.
    pub nodes: u32,
    /// Length of an epoch, seconds; none: the devnet's own default.
    pub epoch_s: Option<u64>,
    /// Bytes of a segment at most; none: the default.
    pub segment_bytes: Option<u64>,
    /// Bytes of a volume; none: the default.
    pub volume_bytes: Option<u64>,
    /// Other flags of `echonet devnet`.
    pub flags: Vec<String>,
}

impl Options {
    /// A devnet with all defaults.
    #[must_use]
    pub fn new(nodes: u32) -> Self {
        let flags = Vec::new();
        Self { nodes, epoch_s: None, segment_bytes: None, volume_bytes: None, flags }
    }

    /// A devnet that takes a lost node for lost after a day only: nothing is repaired while a
    /// scenario counts what is there.
    #[must_use]
    pub fn without_repair(nodes: u32) -> Self {
        let flags = ["--timing", "production"].map(str::to_owned).to_vec();
        Self { flags, ..Self::new(nodes) }
    }

    fn args(&self, data: &Path) -> Vec<String> {
        let mut args = vec!["devnet".into(), "--json".into()];
        args.extend(["--nodes".into(), self.nodes.to_string()]);
        args.extend(["--data".into(), data.display().to_string()]);
        if let Some(seconds) = self.epoch_s {
            args.extend(["--epoch".into(), format!("{seconds}s")]);
        }
        if let Some(bytes) = self.segment_bytes {
            args.extend(["--segment".into(), bytes.to_string()]);
        }
        if let Some(bytes) = self.volume_bytes {
            args.extend(["--volume".into(), bytes.to_string()]);
        }
        args.extend(self.flags.iter().cloned());
        args
    }
}

/// A node of a devnet, as its ready line lists it.
#[derive(Debug, Clone)]
pub struct Node {
    /// For people.
    pub name: String,
    /// What holders are called in `status`.
    pub node_id: String,
    /// Its process.
    pub pid: u32,
    /// Where it listens.
    pub addr: String,
    /// Its data directory.
    pub data: PathBuf,
    /// What `--bootstrap` takes to enter the network by it, where known.
    pub bootstrap: Option<String>,
    /// Flags that it was started with; those of the devnet's own nodes are in their directories.
    flags: Vec<String>,
}

/// A running devnet.
pub struct Devnet {
    /// What `--bootstrap` takes.
    pub bootstrap: String,
    /// Its nodes that hold works.
    pub nodes: Vec<Node>,
    /// Its witnesses.
    pub witnesses: Vec<Node>,
    guard: Child,
    restarted: Vec<Child>,
    lifeline: Option<ChildStdin>,
    dir: PathBuf,
}

/// `get` has this long to say that something cannot be had.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How long a devnet may take to be usable, and to end.
const READY_WITHIN: Duration = Duration::from_secs(180);
const END_WITHIN: Duration = Duration::from_secs(30);

/// Runs "$@" until standard input ends, then asks it to end and removes the
/// directory "$0". Only "$@" holds standard output, so its end is seen at once.
const GUARD: &str = r#"
"$@" 2> "$0/devnet.log" < /dev/null &
pid=$!
exec > /dev/null
cat > /dev/null
kill -TERM "$pid" 2> /dev/null
wait "$pid"
rm -rf "$0"
"#;

/// The same for one restarted node, whose process id it prints.
const GUARD_OF_ONE: &str = r#"
"$@" 2>> "$0/restarted.log" < /dev/null &
pid=$!
echo "$pid"
exec > /dev/null
cat > /dev/null
kill -TERM "$pid" 2> /dev/null
wait "$pid"
"#;

impl Devnet {
    /// Starts a devnet and waits until it says that it is usable.
    ///
    /// # Panics
    /// When it does not.
    #[must_use]
    pub fn start(options: &Options) -> Self {
        let start = Instant::now();
        let dir = TempDir::with_prefix("echonet-devnet-").expect("a directory").keep();
        let mut command = Command::new("sh");
        command.arg("-c").arg(GUARD).arg(&dir).arg(cli::binary());
        command.args(options.args(&dir.join("devnet")));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut guard = command.spawn().expect("sh starts");
        let lifeline = guard.stdin.take();
        let lines = lines_of(&mut guard);
        let mut devnet = Self {
            bootstrap: String::new(),
            nodes: Vec::new(),
            witnesses: Vec::new(),
            guard,
            restarted: Vec::new(),
            lifeline,
            dir,
        };
        let ready = devnet.wait_ready(&lines, start);
        devnet.bootstrap = text(&ready, "bootstrap");
        let nodes = ready["nodes"].as_array().expect("nodes in the ready line");
        devnet.nodes = nodes.iter().map(node).collect();
        let witnesses = ready["witnesses"].as_array().expect("witnesses in the ready line");
        devnet.witnesses = witnesses.iter().map(node).collect();
        assert_eq!(devnet.nodes.len(), options.nodes as usize, "nodes in {ready}");
        for node in &devnet.nodes {
            assert!(process::is_alive(node.pid), "{} has no process {}", node.name, node.pid);
        }
        figure(
            "devnet",
            format_args!("{} nodes ready after {:.1?}", options.nodes, start.elapsed()),
        );
        devnet
    }

    fn wait_ready(&self, lines: &mpsc::Receiver<String>, start: Instant) -> Value {
        loop {
            let left = READY_WITHIN.saturating_sub(start.elapsed());
            let Ok(line) = lines.recv_timeout(left) else {
                panic!("the devnet is not ready after {:.0?}: {}", start.elapsed(), self.log());
            };
            let value: Value = serde_json::from_str(&line).unwrap_or(Value::Null);
            if value["event"] == "ready" {
                return value;
            }
        }
    }

    /// The end of what the devnet's processes logged.
    #[must_use]
    pub fn log(&self) -> String {
        tail(&std::fs::read_to_string(self.dir.join("devnet.log")).unwrap_or_default())
    }

    /// The node with this id.
    ///
    /// # Panics
    /// When the devnet has none.
    #[track_caller]
    #[must_use]
    pub fn node(&self, node_id: &str) -> &Node {
        let found = self.nodes.iter().find(|node| node.node_id == node_id);
        found.unwrap_or_else(|| panic!("{node_id} is none of the devnet's nodes"))
    }

    /// A client with a data directory of its own that knows only this network's
    /// bootstrap address.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::new(&self.living_bootstrap())
    }

    /// Fetches a work as a newcomer, who must get these bytes.
    ///
    /// # Panics
    /// When the newcomer does not.
    #[track_caller]
    pub fn newcomer_gets(&self, content_id: &str, wanted: &Path) -> Outcome {
        let newcomer = self.client();
        let (outcome, got) = newcomer.get(content_id, "got");
        let fetched = outcome.result("fetched");
        files::assert_same(wanted, &got);
        assert_eq!(fetched["content_id"], content_id);
        let sources = fetched["sources"].as_array().map_or(0, Vec::len);
        assert!(sources > 0, "bytes come from somewhere: {fetched}");
        outcome
    }

    /// Asks for a work as a newcomer, who must be told `words` in time and be left
    /// with no file.
    ///
    /// # Panics
    /// When it goes otherwise.
    #[track_caller]
    pub fn newcomer_fails(&self, content_id: &str, words: &[&str]) -> Outcome {
        let newcomer = self.client();
        let (outcome, path) = newcomer.get(content_id, "nothing");
        outcome.assert_failed_saying(words);
        assert!(outcome.took < ANSWER_WITHIN, "too late: {outcome}");
        assert!(!path.exists(), "a failed get leaves no file");
        let left = std::fs::read_dir(newcomer.path(".")).expect("readable").flatten();
        let left: Vec<_> = left.map(|entry| entry.file_name()).collect();
        assert!(left.iter().all(|name| name == "data"), "it left {left:?}");
        outcome
    }

    /// Kills a node, as a power cut would, and waits until it is gone.
    ///
    /// # Panics
    /// When it does not go.
    pub fn kill(&self, node_id: &str) {
        let node = self.node(node_id);
        assert!(process::signal(node.pid, Signal::KILL), "{} was gone before", node.name);
        wait_until("a killed node to be gone", END_WITHIN, || !process::is_alive(node.pid));
    }

    /// The NodeID of the node that every bootstrap address begins with: scenarios
    /// leave it alive, or a newcomer would have nobody to ask.
    #[must_use]
    pub fn entry(&self) -> &str {
        &self.nodes[0].node_id
    }

    /// Starts a new node at `site`, as a volunteer would, which enters the network by the living
    /// nodes; `flags` are further ones of `echonet node`. Returns its NodeID.
    ///
    /// # Panics
    /// When it does not become usable.
    pub fn join(&mut self, site: &Site, flags: &[&str]) -> String {
        self.join_on(site, flags, |_| {})
    }

    /// The same, after `prepare` did something with its empty data directory.
    ///
    /// # Panics
    /// When it does not become usable.
    pub fn join_on(&mut self, site: &Site, flags: &[&str], prepare: impl FnOnce(&Path)) -> String {
        let name = format!("fresh-{:02}", self.restarted.len() + 1);
        let data = self.dir.join("devnet").join(&name);
        std::fs::create_dir_all(&data).expect("a directory");
        prepare(&data);
        let [a, b, c, d] = site.ip;
        let bind = format!("{a}.{b}.{c}.{d}:0");
        let own = ["--role", "storage", "--quota", "2GiB", "--bind", &bind, "--api", "127.0.0.1:0"];
        let place = ["--region", &site.region, "--datacenter", &site.datacenter];
        let operator = ["--operator", &site.operator];
        let all = own.iter().chain(&place).chain(&operator).chain(flags);
        let flags: Vec<String> = all.map(|flag| (*flag).to_owned()).collect();
        let mut command = node_command(&data);
        command.args(["--bootstrap", &self.living_bootstrap()]).args(&flags);
        let (guard, pid, ready) = start_one(command, &name, &data);
        self.restarted.push(guard);
        let node = Node {
            name,
            node_id: text(&ready, "node_id"),
            pid,
            addr: text(&ready, "addr"),
            data,
            bootstrap: Some(text(&ready, "bootstrap")),
            flags,
        };
        self.nodes.push(node);
        self.nodes[self.nodes.len() - 1].node_id.clone()
    }

    /// What `--bootstrap` takes to enter by nodes that live now.
    ///
    /// # Panics
    /// When nobody is known to live.
    #[must_use]
    pub fn living_bootstrap(&self) -> String {
        let living = |id: &str| {
            let node = self.nodes.iter().find(|node| id.contains(&node.node_id));
            node.is_some_and(|node| process::is_alive(node.pid))
        };
        let first = self.bootstrap.split(',').map(str::to_owned);
        let joined = self.nodes.iter().rev().filter_map(|node| node.bootstrap.clone());
        let all: Vec<String> = first.chain(joined).filter(|b| living(b)).take(4).collect();
        assert!(!all.is_empty(), "nobody lives to enter the network by");
        all.join(",")
    }

    /// Nodes whose processes run.
    #[must_use]
    pub fn living(&self) -> Vec<&Node> {
        self.nodes.iter().filter(|node| process::is_alive(node.pid)).collect()
    }

    /// Starts a killed node again on its directory, as its owner would, and waits
    /// until it says that it is usable. It has a new process id afterwards.
    ///
    /// # Panics
    /// When it does not say so.
    pub fn restart(&mut self, node_id: &str) {
        let at = self.nodes.iter().position(|node| node.node_id == node_id).expect("a node");
        let node = &mut self.nodes[at];
        let mut command = node_command(&node.data);
        command.args(&node.flags);
        let (guard, pid, ready) = start_one(command, &node.name, &node.data);
        assert_eq!(ready["node_id"], node_id, "the same directory is the same node");
        node.pid = pid;
        self.restarted.push(guard);
    }

    /// Stops these nodes' processes until the result is dropped: packets to them
    /// are lost without a word.
    #[must_use]
    pub fn stop(&self, node_ids: &[String]) -> Stopped {
        let pids: Vec<u32> = node_ids.iter().map(|id| self.node(id).pid).collect();
        for pid in &pids {
            assert!(process::signal(*pid, Signal::STOP), "no process {pid} to stop");
        }
        Stopped { pids }
    }

    /// Peak resident set of each living node, bytes, the largest first.
    #[must_use]
    pub fn peak_rss_bytes(&self) -> Vec<(u64, String)> {
        let rss = |node: &Node| Some((process::peak_rss_bytes(node.pid)?, node.name.clone()));
        let mut all: Vec<(u64, String)> = self.nodes.iter().filter_map(rss).collect();
        all.sort_unstable_by(|a, b| b.cmp(a));
        all
    }

    /// Sum of the nodes' `vault` figures in `status`.
    ///
    /// # Panics
    /// When a node does not answer.
    #[must_use]
    pub fn vaults(&self) -> VaultSums {
        // All at once: a status costs a process, and twenty in a row take seconds.
        let running: Vec<cli::Running> = self
            .nodes
            .iter()
            .map(|node| {
                let mut command = cli::command(["status", "--json", "--data"]);
                command.arg(&node.data);
                cli::Running::start(command, None)
            })
            .collect();
        let mut sums = VaultSums::default();
        for run in running {
            let status = run.finish(Duration::from_secs(30)).result("status");
            let number = |name: &str| {
                let value = &status["vault"][name];
                value.as_u64().unwrap_or_else(|| panic!("no vault.{name} in {status}"))
            };
            sums.shards += number("shards");
            sums.live_bytes += number("live_bytes");
            sums.used_bytes += number("used_bytes");
            sums.quarantined += number("quarantined");
        }
        sums
    }

    /// The `repair` figures in each living node's `status`.
    ///
    /// # Panics
    /// When a node does not answer.
    #[must_use]
    pub fn repairs(&self) -> Vec<Repairs> {
        let start = |node: &&Node| {
            let mut command = cli::command(["status", "--json", "--data"]);
            command.arg(&node.data);
            (node.node_id.clone(), cli::Running::start(command, None))
        };
        let running: Vec<_> = self.living().iter().map(start).collect();
        let read = |(node_id, run): (String, cli::Running)| {
            let status = run.finish(Duration::from_secs(60)).result("status");
            let number = |name: &str| {
                let value = &status["repair"][name];
                value.as_u64().unwrap_or_else(|| panic!("no repair.{name} in {status}"))
            };
            Repairs {
                node_id,
                repaired_shards: number("repaired_shards"),
                read_bytes: number("read_bytes"),
                written_bytes: number("written_bytes"),
                healed_shards: number("healed_shards"),
                damaged_shards: number("damaged_shards"),
                handed_over_shards: number("handed_over_shards"),
                handed_over_bytes: number("handed_over_bytes"),
            }
        };
        running.into_iter().map(read).collect()
    }

    /// The nodes of the datacenter that has most: the second octet of their addresses names it.
    #[must_use]
    pub fn largest_datacenter(&self) -> Vec<String> {
        let mut nodes: std::collections::BTreeMap<&str, Vec<String>> = Default::default();
        let entry = self.entry();
        for node in &self.nodes {
            let name = node.addr.split('.').nth(1).expect("an IPv4 address");
            nodes.entry(name).or_default().push(node.node_id.clone());
        }
        // That of the first entry node stays, or newcomers would have to know another.
        nodes.retain(|_, there| !there.iter().any(|id| id == entry));
        nodes.into_values().max_by_key(Vec::len).expect("nodes")
    }

    /// Ends the devnet and returns the processes that outlived it.
    #[must_use]
    pub fn end(mut self) -> Vec<String> {
        self.end_now()
    }

    fn end_now(&mut self) -> Vec<String> {
        let Some(lifeline) = self.lifeline.take() else { return Vec::new() };
        drop(lifeline);
        for mut guard in self.restarted.drain(..) {
            drop(guard.stdin.take());
            // Its node was asked to end; whether it did is looked at below.
            drop(guard.wait());
        }
        let start = Instant::now();
        while matches!(self.guard.try_wait(), Ok(None)) && start.elapsed() < END_WITHIN {
            std::thread::sleep(Duration::from_millis(10));
        }
        let left: Vec<&Node> =
            self.nodes.iter().filter(|node| process::is_alive(node.pid)).collect();
        for node in &left {
            let _gone_meanwhile = process::signal(node.pid, Signal::KILL);
        }
        left.iter().map(|node| node.name.clone()).collect()
    }
}

impl Drop for Devnet {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the devnet's log (end)\n{}", self.log());
        }
        let left = self.end_now();
        if !left.is_empty() {
            eprintln!("these nodes outlived their devnet and were killed: {}", left.join(", "));
        }
    }
}

/// Nodes that are stopped until this is dropped.
pub struct Stopped {
    pids: Vec<u32>,
}

impl Drop for Stopped {
    fn drop(&mut self) {
        for pid in &self.pids {
            let _gone_meanwhile = process::signal(*pid, Signal::CONT);
        }
    }
}

/// Figures of all vaults of a devnet, added up. Bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VaultSums {
    /// Shards held.
    pub shards: u64,
    /// Their bytes.
    pub live_bytes: u64,
    /// Bytes on disk.
    pub used_bytes: u64,
    /// Shards set aside as damaged.
    pub quarantined: u64,
}

/// Starts one node under its guard and waits until it is usable: the guard, the node's process
/// and its ready line.
fn start_one(mut command: Command, name: &str, data: &Path) -> (Child, u32, Value) {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut guard = command.spawn().expect("sh starts");
    let lines = lines_of(&mut guard);
    let (mut pid, mut ready) = (None, None);
    loop {
        let line = lines.recv_timeout(READY_WITHIN);
        let line = line.unwrap_or_else(|error| {
            let log = std::fs::read_to_string(data.join("restarted.log")).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(20).collect();
            panic!("{name} is not ready: {error}; its log, last line first: {tail:#?}")
        });
        pid = pid.or_else(|| line.trim().parse().ok());
        let value: Value = serde_json::from_str(&line).unwrap_or(Value::Null);
        if value["event"] == "ready" {
            ready = Some(value);
        }
        if let (Some(pid), Some(ready)) = (pid, &ready) {
            return (guard, pid, ready.clone());
        }
    }
}

/// What one node did to keep shards whole. Bytes.
#[derive(Debug, Clone)]
pub struct Repairs {
    /// Which node.
    pub node_id: String,
    /// Shards made again.
    pub repaired_shards: u64,
    /// Bytes read for these.
    pub read_bytes: u64,
    /// Bytes of these that were stored.
    pub written_bytes: u64,
    /// Own shards made again in place.
    pub healed_shards: u64,
    /// Own shards found damaged.
    pub damaged_shards: u64,
    /// Shards handed over by copy.
    pub handed_over_shards: u64,
    /// Their bytes.
    pub handed_over_bytes: u64,
}

fn lines_of(child: &mut Child) -> mpsc::Receiver<String> {
    let stdout = child.stdout.take().expect("piped");
    let (send, receive) = mpsc::channel();
    // Reads on after the ready line, so that the devnet never blocks on a pipe.
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let _nobody_waits_any_more = send.send(line);
        }
    });
    receive
}

fn text(value: &Value, name: &str) -> String {
    let text = value[name].as_str();
    text.unwrap_or_else(|| panic!("no {name} in {value}")).to_owned()
}

/// `echonet node` on a directory, which ends with the scenario.
fn node_command(data: &Path) -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg(GUARD_OF_ONE).arg(data).arg(cli::binary());
    command.args(["node", "--json", "--data"]).arg(data);
    command
}

fn node(value: &Value) -> Node {
    let pid = value["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
    Node {
        name: text(value, "name"),
        node_id: text(value, "node_id"),
        pid: pid.unwrap_or_else(|| panic!("no pid in {value}")),
        addr: text(value, "addr"),
        data: PathBuf::from(text(value, "data")),
        bootstrap: None,
        flags: Vec::new(),
    }
}
