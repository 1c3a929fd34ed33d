//! `echonet demo`: the whole story on this machine, with real processes.
//!
//! Nothing is staged: the network, the publisher and the reader are separate
//! processes of this executable, holders are ended with SIGKILL, and the demo
//! succeeds only if the bytes came back.

mod command;
mod source;
mod victims;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Instant,
};

use echonet_protocol::segment::Scheme;
use serde::Serialize;

use self::{command::echonet, victims::Segment};
use crate::{
    cli::{CliOutput, DemoArgs, Signals},
    devnet::{Devnet, DevnetConfig, genesis::DevelopmentNetwork},
    service::{Fetched, Published, SegmentStatus, ServiceError, ServiceResult, WorkStatus},
    settings::Role,
    units::ByteSize,
};

/// Nodes of the demo's network.
const NODES: usize = 20;

/// What the demo showed.
#[derive(Debug, Serialize)]
struct Outcome {
    content_id: String,
    size: u64,
    seed: Option<u64>,
    segments: u64,
    stored_bytes: u64,
    live: bool,
    killed: Vec<String>,
    segments_at_limit: usize,
    publish_seconds: f64,
    fetch_seconds: f64,
    identical: bool,
}

/// Runs the demo.
pub(crate) async fn run(
    data: Option<PathBuf>,
    args: DemoArgs,
    output: &CliOutput,
) -> ServiceResult<()> {
    let mut signals = Signals::listen()?;
    let place = Place::new(data)?;
    let outcome = {
        let story = story(&place.path, &args, output);
        tokio::select! {
            outcome = story => outcome,
            () = signals.next() => Err(ServiceError::new("io", "interrupted")),
        }
    };
    let (outcome, devnet) = match outcome {
        Ok(told) => told,
        Err(error) => {
            place.end(args.keep, output);
            return Err(error);
        }
    };
    output.result("demo", &outcome, || "all of it held".to_owned());
    if args.keep {
        let path = place.path.display();
        output.say(&format!("\nStill running, data in {path}. Enter with"));
        output.say(&format!("  --bootstrap {}", survivors(&devnet).join(",")));
        output.say("Ctrl-C ends it.");
        signals.next().await;
    }
    devnet.stop().await;
    place.end(args.keep, output);
    Ok(())
}

/// Where the demo keeps its files.
struct Place {
    path: PathBuf,
    scratch: Option<tempfile::TempDir>,
}

impl Place {
    fn new(data: Option<PathBuf>) -> ServiceResult<Self> {
        if let Some(path) = data {
            std::fs::create_dir_all(&path).map_err(|error| disk(&path, &error))?;
            return Ok(Self { path, scratch: None });
        }
        let scratch = tempfile::Builder::new().prefix("echonet-demo-").tempdir();
        let scratch = scratch.map_err(|error| disk(&std::env::temp_dir(), &error))?;
        Ok(Self { path: scratch.path().to_owned(), scratch: Some(scratch) })
    }

    /// Removes what the demo made, unless it is to be kept or has a place of
    /// the user's choice.
    fn end(self, keep: bool, output: &CliOutput) {
        match self.scratch {
            Some(scratch) if !keep => {
                if let Err(error) = scratch.close() {
                    output.say(&format!("could not remove {}: {error}", self.path.display()));
                }
            }
            Some(scratch) => {
                let kept = scratch.keep();
                output.say(&format!("the demo's data is kept in {}", kept.display()));
            }
            None => {}
        }
    }
}

fn disk(path: &Path, error: &std::io::Error) -> ServiceError {
    let text = format!("cannot use {}: {error}; choose a place with --data DIR", path.display());
    ServiceError::new("io", text)
}

/// The whole story; the network still runs at its end.
async fn story(
    dir: &Path,
    args: &DemoArgs,
    output: &CliOutput,
) -> ServiceResult<(Outcome, Devnet)> {
    let (file, seed) = source_file(dir, args, output).await?;
    let size = std::fs::metadata(&file).map_err(|error| disk(&file, &error))?.len();
    let mut devnet = start_network(dir, size, output).await?;
    let (published, publish_seconds) = publish(dir, &file, &devnet, output).await?;
    let status = ask_status(dir, &published.content_id, &devnet, output).await?;
    let killed = kill_holders(&mut devnet, &status, output).await?;
    let (fetched, fetch_seconds) = fetch(dir, &published.content_id, &devnet, output).await?;
    compare(&file, &dir.join("fetched"), output).await?;
    let outcome = Outcome {
        content_id: published.content_id,
        size: fetched.size,
        seed,
        segments: published.segments,
        stored_bytes: published.stored_bytes,
        live: published.live,
        killed: killed.names,
        segments_at_limit: killed.at_limit,
        publish_seconds,
        fetch_seconds,
        identical: true,
    };
    Ok((outcome, devnet))
}

async fn source_file(
    dir: &Path,
    args: &DemoArgs,
    output: &CliOutput,
) -> ServiceResult<(PathBuf, Option<u64>)> {
    if let Some(file) = &args.file {
        let path = std::path::absolute(file).map_err(|error| disk(file, &error))?;
        if !path.is_file() {
            let text = format!("{} is no file: name one, or none to have one made", path.display());
            return Err(ServiceError::new("invalid", text));
        }
        output.say(&format!("1. The work: your file {}.", path.display()));
        return Ok((path, None));
    }
    let random = crate::datadir::random_bytes::<8>();
    let random = random.map_err(|error| ServiceError::new("io", error))?;
    let seed = args.seed.unwrap_or(u64::from_le_bytes(random));
    let (path, size) = (dir.join("work"), args.size.0);
    let target = path.clone();
    let made = tokio::task::spawn_blocking(move || source::make(&target, size, seed)).await;
    let made = made.map_err(std::io::Error::other).and_then(|result| result);
    made.map_err(|error| disk(&path, &error))?;
    output.say(&format!("1. The work: {} of random bytes (seed {seed}).", args.size));
    Ok((path, Some(seed)))
}

async fn start_network(dir: &Path, size: u64, output: &CliOutput) -> ServiceResult<Devnet> {
    output.say(&format!("2. Starting a network of {NODES} storage nodes, each its own process."));
    let started = Instant::now();
    let config = DevnetConfig {
        witnesses: 0,
        nodes: NODES,
        data: dir.join("network"),
        // Room for everything several times over.
        quota_bytes: (2 << 30) + size,
        roles: vec![Role(echonet_protocol::node_descriptor::Roles::STORAGE)],
        network: DevelopmentNetwork::default(),
    };
    let devnet = Devnet::start(&config, |_| {}).await?;
    let seconds = started.elapsed().as_secs_f64();
    output.say(&format!("   All know each other after {seconds:.1} s."));
    Ok(devnet)
}

async fn publish(
    dir: &Path,
    file: &Path,
    devnet: &Devnet,
    output: &CliOutput,
) -> ServiceResult<(Published, f64)> {
    output.say("3. Publishing it from a process of its own, which is not one of the 20.");
    let file = file.to_str().ok_or_else(|| {
        ServiceError::new("invalid", "the file's path is no valid text: rename the file")
    })?;
    let started = Instant::now();
    let args = ["publish", file, "--bootstrap", &devnet.bootstrap];
    let published: Published = echonet(&dir.join("publisher"), &args, output).await?;
    let seconds = started.elapsed().as_secs_f64();
    let overhead = published.stored_bytes as f64 / published.size.max(1) as f64;
    let receipts = published.receipts;
    output.say(&format!("   ContentID {}", published.content_id));
    output.say(&format!(
        "   {} in {} segments, {} stored ({overhead:.2}x), {} of {} receipts signed, {seconds:.1} s \
         ({}).",
        ByteSize(published.size),
        published.segments,
        ByteSize(published.stored_bytes),
        receipts.have,
        receipts.want,
        rate(published.size, seconds),
    ));
    let checked = if published.live { "checked it" } else { "have NOT checked it" };
    output.say(&format!("   Nodes that took no part {checked}: live = {}.", published.live));
    for note in &published.notes {
        output.say(&format!("   Note: {note}"));
    }
    output.say("4. The publisher's process has ended: the laptop is closed.");
    Ok((published, seconds))
}

async fn ask_status(
    dir: &Path,
    content_id: &str,
    devnet: &Devnet,
    output: &CliOutput,
) -> ServiceResult<WorkStatus> {
    let args = ["status", content_id, "--bootstrap", &devnet.bootstrap];
    let status: WorkStatus = echonet(&dir.join("observer"), &args, output).await?;
    let shards = || status.segments.iter().flat_map(|s| &s.shards).filter(|s| s.alive);
    let holders: BTreeSet<_> = shards().map(|s| s.holder.as_str()).collect();
    output.say(&format!(
        "5. A stranger asks the network who holds it: {} shards of {} segments on {} nodes.",
        shards().count(),
        status.segments.len(),
        holders.len()
    ));
    Ok(status)
}

/// Whom the demo killed.
struct Killed {
    names: Vec<String>,
    at_limit: usize,
}

async fn kill_holders(
    devnet: &mut Devnet,
    status: &WorkStatus,
    output: &CliOutput,
) -> ServiceResult<Killed> {
    let segments = status.segments.iter().map(|segment| seen(segment, devnet));
    let segments = segments.collect::<ServiceResult<Vec<_>>>()?;
    let choice = victims::choose(&segments, devnet.nodes.len()).ok_or_else(|| {
        let text = "a segment has too few live shards before anybody was killed: \
                    `echonet status` of the work tells which";
        ServiceError::new("unavailable", text)
    })?;
    let mut names = Vec::new();
    for (index, node) in devnet.nodes.iter_mut().enumerate() {
        if choice.nodes >> index & 1 == 1 {
            let kill = node.kill().await;
            kill.map_err(|e| ServiceError::new("io", format!("cannot kill {}: {e}", node.name)))?;
            names.push(node.name.clone());
        }
    }
    output.say(&format!("6. Killed {} nodes (SIGKILL): {}.", names.len(), names.join(", ")));
    output.say(&format!(
        "   {} of {} segments lost as many shards as their code is made for; alive now:",
        choice.at_limit,
        segments.len()
    ));
    for (segment, seen) in status.segments.iter().zip(&segments) {
        let left = (seen.holders & !choice.nodes).count_ones() + seen.elsewhere;
        let (all, needed) = (segment.shards.len(), seen.needed);
        let id = crate::cli::short(&segment.segment_id);
        output.say(&format!(
            "   segment {id} ({}): {left} of {all}, {needed} needed",
            segment.scheme
        ));
    }
    Ok(Killed { names, at_limit: choice.at_limit })
}

/// A segment as seen by who may be killed.
fn seen(segment: &SegmentStatus, devnet: &Devnet) -> ServiceResult<Segment> {
    let scheme: Scheme =
        segment.scheme.parse().map_err(|error| ServiceError::new("internal", error))?;
    let mut seen = Segment { holders: 0, needed: scheme.k.into(), elsewhere: 0 };
    for shard in segment.shards.iter().filter(|shard| shard.alive) {
        match devnet.nodes.iter().position(|node| node.ready.node_id == shard.holder) {
            Some(index) => seen.holders |= 1 << index,
            None => seen.elsewhere += 1,
        }
    }
    Ok(seen)
}

/// Bootstrap addresses of nodes that still run, a few.
fn survivors(devnet: &Devnet) -> Vec<String> {
    let alive = |n: &&crate::devnet::NodeProcess| !n.was_killed();
    devnet.nodes.iter().filter(alive).take(3).map(|n| n.ready.bootstrap.clone()).collect()
}

async fn fetch(
    dir: &Path,
    content_id: &str,
    devnet: &Devnet,
    output: &CliOutput,
) -> ServiceResult<(Fetched, f64)> {
    output.say(
        "7. A new reader, who knows only the ContentID and addresses of living nodes, fetches it.",
    );
    let target = dir.join("fetched");
    let target = target.to_str().ok_or_else(|| {
        ServiceError::new("invalid", "the directory's path is no valid text: choose another --data")
    })?;
    let bootstrap = survivors(devnet).join(",");
    let started = Instant::now();
    let args = ["get", content_id, "-o", target, "--bootstrap", &bootstrap];
    let fetched: Fetched = echonet(&dir.join("reader"), &args, output).await?;
    let seconds = started.elapsed().as_secs_f64();
    output.say(&format!(
        "   {} from {} nodes in {seconds:.1} s ({}).",
        ByteSize(fetched.size),
        fetched.sources.len(),
        rate(fetched.size, fetched.seconds)
    ));
    Ok((fetched, seconds))
}

async fn compare(file: &Path, fetched: &Path, output: &CliOutput) -> ServiceResult<()> {
    let (a, b) = (file.to_owned(), fetched.to_owned());
    let compared = tokio::task::spawn_blocking(move || source::first_difference(&a, &b)).await;
    let compared = compared.map_err(std::io::Error::other).and_then(|result| result);
    match compared.map_err(|error| disk(fetched, &error))? {
        None => {
            output.say("8. Compared with the original, byte for byte: identical.");
            Ok(())
        }
        Some(at) => {
            let text = format!("the fetched file differs from the original at byte {at}");
            Err(ServiceError::new("internal", text))
        }
    }
}

/// Megabytes a second, for people.
fn rate(bytes: u64, seconds: f64) -> String {
    format!("{:.0} MB/s", bytes as f64 / 1e6 / seconds.max(0.001))
}
