//! A person at a command line: one data directory, one bootstrap address, no
//! daemon. When a command has ended, nothing of this person is on the network,
//! so whatever is fetched afterwards comes from the holders.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use super::cli::{self, Outcome, Running};

/// A person at a command line.
pub struct Client {
    dir: TempDir,
    bootstrap: String,
}

/// What `publish` printed last.
#[derive(Debug, Clone)]
pub struct Published {
    /// The work.
    pub content_id: String,
    /// Bytes of content.
    pub size: u64,
    /// Segments referenced, the manifest's included.
    pub segments: u64,
    /// Shard bytes newly stored.
    pub stored_bytes: u64,
    /// Content bytes that were stored before.
    pub deduplicated_bytes: u64,
    /// Receipts wanted.
    pub receipts_want: u64,
    /// Receipts had.
    pub receipts_have: u64,
    /// Checked by a node that took no part.
    pub live: bool,
    /// The whole line.
    pub line: Value,
}

/// A segment as `status` lists it.
#[derive(Debug, Clone)]
pub struct Segment {
    /// The segment.
    pub segment_id: String,
    /// Data shards.
    pub k: usize,
    /// All shards.
    pub n: usize,
    /// (index, NodeID) of the shards that somebody holds.
    pub holders: Vec<(u64, String)>,
    /// (index, NodeID) of those that answered.
    pub alive: Vec<(u64, String)>,
    /// Bytes of each shard.
    pub shard_bytes: u64,
    /// The placement records that were found.
    pub placements: Vec<Placement>,
}

/// A placement record as `status` lists it.
#[derive(Debug, Clone)]
pub struct Placement {
    /// Who placed the segment first.
    pub owner: String,
    /// 1 when placed, one more with each change.
    pub version: u64,
    /// Hash of its body.
    pub hash: String,
}

/// How long a command may take, unless a scenario says otherwise.
pub const WITHIN: Duration = Duration::from_secs(300);

impl Client {
    /// A new person who knows a bootstrap address.
    ///
    /// # Panics
    /// When there is no place for the data directory.
    #[must_use]
    pub fn new(bootstrap: &str) -> Self {
        let dir = TempDir::with_prefix("echonet-client-").expect("a directory");
        Self { dir, bootstrap: bootstrap.to_owned() }
    }

    /// A path in this person's own directory, beside the data directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A command with this person's data directory and network, as JSON.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = cli::command(args);
        command.arg("--json").arg("--data").arg(self.path("data"));
        command.arg("--bootstrap").arg(&self.bootstrap);
        command
    }

    /// Runs such a command to its end.
    #[must_use]
    pub fn run(&self, args: &[&str]) -> Outcome {
        cli::run(self.command(args), WITHIN)
    }

    /// Publishes a file, which must work, and be live with every write quorum met.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    #[must_use]
    pub fn publish(&self, file: &Path) -> Published {
        let published = Published::read(&self.run(&["publish", text(file)]));
        published.assert_good();
        published
    }

    /// Starts publishing a file, with `env` in the environment.
    #[must_use]
    pub fn start_publish(&self, file: &Path, env: &[(&str, &str)]) -> Running {
        let mut command = self.command(&["publish", text(file)]);
        command.envs(env.iter().copied());
        Running::start(command, None)
    }

    /// Fetches a work to a new file in this person's directory.
    #[must_use]
    pub fn get(&self, content_id: &str, name: &str) -> (Outcome, PathBuf) {
        let path = self.path(name);
        (self.run(&["get", content_id, "-o", text(&path)]), path)
    }

    /// The segments of a work, asked of the network.
    ///
    /// # Panics
    /// When the network does not answer.
    #[track_caller]
    #[must_use]
    pub fn segments(&self, content_id: &str) -> Vec<Segment> {
        Self::read_segments(content_id, &self.run(&["status", content_id]).result("status"))
    }

    /// The same; none when the command fails, as it may on a machine without time.
    ///
    /// # Panics
    /// When it works and says nonsense.
    #[must_use]
    pub fn try_segments(&self, content_id: &str) -> Option<Vec<Segment>> {
        let outcome = self.run(&["status", content_id]);
        outcome.succeeded().then(|| Self::read_segments(content_id, &outcome.result("status")))
    }

    fn read_segments(content_id: &str, status: &Value) -> Vec<Segment> {
        assert_eq!(status["content_id"], content_id);
        let segments = status["segments"].as_array().expect("segments");
        assert!(!segments.is_empty(), "a work has at least its manifest's segment: {status}");
        segments.iter().map(Segment::read).collect()
    }
}

impl Published {
    /// Reads the result of a publish that worked.
    ///
    /// # Panics
    /// When it did not work.
    #[track_caller]
    #[must_use]
    pub fn read(outcome: &Outcome) -> Self {
        let line = outcome.result("published");
        let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("number in {line}"));
        let id = line["content_id"].as_str().expect("a ContentID").to_owned();
        assert!(id.starts_with("bafkr4i"), "{id} is not the text form of a ContentID");
        Self {
            content_id: id,
            size: number(&line["size"]),
            segments: number(&line["segments"]),
            stored_bytes: number(&line["stored_bytes"]),
            deduplicated_bytes: number(&line["deduplicated_bytes"]),
            receipts_want: number(&line["receipts"]["want"]),
            receipts_have: number(&line["receipts"]["have"]),
            live: line["live"] == true,
            line: line.clone(),
        }
    }

    /// Asserts that the work is live and no segment is below its write quorum.
    ///
    /// # Panics
    /// When that is not so.
    #[track_caller]
    pub fn assert_good(&self) {
        assert!(self.live, "should be live: {}", self.line);
        self.assert_held();
    }

    /// Every segment has its write quorum.
    ///
    /// # Panics
    /// When that is not so.
    #[track_caller]
    pub fn assert_held(&self) {
        assert!(self.segments >= 1, "a manifest is stored too: {}", self.line);
        // n - floor(m/3) of n: 14 of 16, or 5 of 7.
        let (want, have) = (self.receipts_want, self.receipts_have);
        assert!(want > 0 && have <= want && have * 7 >= want * 5, "receipts: {}", self.line);
        assert!(self.line["survives_datacenter"].is_boolean(), "{}", self.line);
    }
}

impl Segment {
    fn read(value: &Value) -> Self {
        let scheme = value["scheme"].as_str().unwrap_or_default();
        let (k, m) = scheme.split_once('+').unwrap_or_else(|| panic!("scheme in {value}"));
        let (k, m): (usize, usize) = (k.parse().expect("k"), m.parse().expect("m"));
        let shards = value["shards"].as_array().expect("shards");
        assert_eq!(shards.len(), k + m, "every index is listed: {value}");
        let pick = |alive_only: bool| {
            let picked = shards.iter().filter(|shard| !alive_only || shard["alive"] == true);
            let pair = |shard: &Value| {
                let holder = shard["holder"].as_str().filter(|holder| !holder.is_empty())?;
                Some((shard["index"].as_u64()?, holder.to_owned()))
            };
            picked.filter_map(pair).collect()
        };
        Self {
            segment_id: value["segment_id"].as_str().expect("segment_id").to_owned(),
            k,
            n: k + m,
            holders: pick(false),
            alive: pick(true),
            shard_bytes: value["shard_bytes"].as_u64().expect("shard_bytes"),
            placements: value["placements"]
                .as_array()
                .expect("placements")
                .iter()
                .map(|placement| Placement {
                    owner: placement["owner"].as_str().expect("owner").to_owned(),
                    version: placement["version"].as_u64().expect("version"),
                    hash: placement["hash"].as_str().expect("hash").to_owned(),
                })
                .collect(),
        }
    }

    /// How many of its shards are out of reach when `gone` are: indexes that
    /// nobody held to begin with are too.
    #[must_use]
    pub fn lost(&self, gone: &[String]) -> usize {
        let held = self.holders.iter().filter(|(_, id)| !gone.contains(id)).count();
        self.n - held
    }

    /// The NodeIDs of its holders.
    #[must_use]
    pub fn holder_ids(&self) -> BTreeSet<String> {
        self.holders.iter().map(|(_, id)| id.clone()).collect()
    }
}

/// Nodes to take away, none of `keep`: as many as possible, such that no segment
/// loses more holders than it can spare (n - k). The one that hurts most segments
/// comes first; with 16 holders among 20 nodes every segment ends at its edge, or
/// one short of it.
#[must_use]
pub fn most_harmful(segments: &[Segment], keep: &[&str]) -> Vec<String> {
    let mut taken: Vec<String> = Vec::new();
    let all: BTreeSet<String> = segments.iter().flat_map(Segment::holder_ids).collect();
    loop {
        let allowed = |id: &&String| {
            let spared = |segment: &Segment| {
                !segment.holder_ids().contains(*id) || segment.lost(&taken) < segment.n - segment.k
            };
            !keep.contains(&id.as_str()) && !taken.contains(*id) && segments.iter().all(spared)
        };
        let harm = |id: &&String| segments.iter().filter(|s| s.holder_ids().contains(*id)).count();
        let Some(next) = all.iter().filter(allowed).max_by_key(harm) else { return taken };
        taken.push(next.clone());
    }
}

/// A path as text.
///
/// # Panics
/// When it is not UTF-8; the paths of scenarios are.
#[must_use]
pub fn text(path: &Path) -> &str {
    path.to_str().expect("paths of scenarios are UTF-8")
}
