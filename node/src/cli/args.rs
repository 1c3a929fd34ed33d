//! The command line's grammar and its help texts.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use echonet_protocol::{
    content_id::ContentId,
    network::{BootstrapAddr, Timing},
    segment::Scheme,
};
use serde::Serialize;

use super::EXIT_CODES;
use crate::{
    quiet::{QuietWindow, UtcOffset},
    service::{ServiceError, ServiceResult},
    settings::Role,
    units::{ByteSize, parse_time},
};

/// EchoNet: publish a work, close the laptop, and it stays up.
#[derive(Debug, Parser)]
#[command(name = "echonet", version, after_help = EXIT_CODES, propagate_version = true)]
pub(super) struct Cli {
    /// Where this node keeps its key and data [env: ECHONET_DATA] [default: the platform's data
    /// directory]
    #[arg(long, global = true, value_name = "DIR")]
    pub(super) data: Option<PathBuf>,
    /// Print one JSON object a line; the last one is the result
    #[arg(long, global = true)]
    pub(super) json: bool,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show the whole story on this machine: 20 nodes, publish, lose 6 of 16, fetch, compare
    Demo(DemoArgs),
    /// Run a network of many nodes on this machine, for trying and testing
    Devnet(DevnetArgs),
    /// Run a node until Ctrl-C, or hand over what the running one holds
    Node(NodeCommand),
    /// Publish a file, or standard input with `-`
    Publish(PublishArgs),
    /// Fetch a work by its ContentID
    Get(GetArgs),
    /// Withdraw a work: end your own leases and announcement of it
    Unpublish(WorkArgs),
    /// Keep a work of somebody else's: take leases of your own on it, so that it stays up
    /// whatever its publisher does
    Keep(WorkArgs),
    /// End what `keep` began: your own leases on the work, nobody else's
    Unkeep(WorkArgs),
    /// Show the state of this node, or of a work as the network answers
    Status(StatusArgs),
    /// List the works published from here
    Ls(NetworkArgs),
    /// List the nodes known here
    Peers(NetworkArgs),
    /// Show what witnesses found, as far as it is kept here
    Witness(WitnessArgs),
    /// Print this node's NodeID and, while its daemon runs, its bootstrap address
    Id,
    /// Print the names that ECHONET_CRASH_AT takes, one a line: for tests
    #[command(hide = true)]
    CrashPoints,
}

impl Command {
    /// Whether standard output carries content.
    pub(super) fn content_on_stdout(&self) -> bool {
        matches!(self, Self::Get(args) if args.to_stdout())
    }
}

/// A ContentID as typed. Parsed after clap, which would repeat all of a wrong one.
#[derive(Debug, Clone)]
pub(super) struct WorkName(String);

impl From<&str> for WorkName {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl WorkName {
    /// The ContentID.
    pub(super) fn parse(&self) -> ServiceResult<ContentId> {
        self.0.parse().map_err(|e| ServiceError::new("usage", e))
    }
}

/// How to find the network.
#[derive(Debug, Clone, Default, Args, Serialize)]
pub(super) struct NetworkArgs {
    /// Where to enter the network; repeat it or separate with commas. Remembered after the
    /// first success
    #[arg(long, value_name = "ADDR", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) bootstrap: Vec<BootstrapAddr>,
    /// The network's genesis file; without it, it is fetched from the bootstrap node and checked
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) genesis: Option<PathBuf>,
    /// A relay to use where no direct connection is possible; repeat it or separate with commas
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) relay: Vec<String>,
    /// Where to listen for other nodes [default: 0.0.0.0:4700 for a node, any port for a command]
    #[arg(long, value_name = "ADDR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bind: Option<SocketAddr>,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct NodeCommand {
    #[command(subcommand)]
    pub(super) action: Option<NodeAction>,
    #[command(flatten)]
    pub(super) args: NodeArgs,
}

#[derive(Debug, Subcommand)]
pub(super) enum NodeAction {
    /// Have the running node hand every shard over to others and take no new ones; done when it
    /// is safe to end it for good and delete its directory
    Drain,
}

#[derive(Debug, Args, Serialize)]
pub(super) struct NodeArgs {
    #[command(flatten)]
    #[serde(flatten)]
    pub(super) network: NetworkArgs,
    /// What the node does: origin, storage, archive, edge, witness; several with commas
    /// [default: origin]
    #[arg(long, value_name = "ROLES", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) role: Vec<Role>,
    /// Most disk for other people's data, such as 10GiB, 200G or 512MiB; never passed
    /// [default: 10GiB]
    #[arg(long, value_name = "SIZE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) quota: Option<ByteSize>,
    /// Most bytes a second that are handed out to others, such as 2MiB [default: no cap]
    #[arg(long, value_name = "SIZE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) upload_cap: Option<ByteSize>,
    /// Most bytes a second that are taken in from others [default: no cap]
    #[arg(long, value_name = "SIZE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) download_cap: Option<ByteSize>,
    /// Quiet hours of the week, such as "mon-fri 08:00-18:00": bandwidth is capped, and others
    /// are told; repeat it or separate with commas
    #[arg(long, value_name = "WINDOW", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) quiet: Vec<QuietWindow>,
    /// How far the clock of --quiet is from UTC, such as +02:00; summer time is not known
    /// [default: +00:00]
    #[arg(long, value_name = "OFFSET", allow_hyphen_values = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) quiet_utc_offset: Option<UtcOffset>,
    /// Most bytes a second, either way, in quiet hours [default: 64KiB]
    #[arg(long, value_name = "SIZE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) quiet_cap: Option<ByteSize>,
    /// Where the node is, such as a continent or country
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) region: Option<String>,
    /// Which building it is in
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) datacenter: Option<String>,
    /// Which rack it is in
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rack: Option<String>,
    /// Who runs it
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) operator: Option<String>,
    /// Where the local API listens: loopback only [default: 127.0.0.1 and any free port]
    #[arg(long, value_name = "ADDR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) api: Option<SocketAddr>,
    /// End when standard input closes, that is when whoever started the node ends
    #[arg(long, hide = true)]
    #[serde(skip)]
    pub(super) until_stdin_closes: bool,
}

#[derive(Debug, Args)]
pub(super) struct PublishArgs {
    /// The file; `-` reads standard input
    pub(super) file: PathBuf,
    /// How each segment is coded: data+parity shards [default: 10+6]
    #[arg(long, value_name = "K+M")]
    pub(super) scheme: Option<Scheme>,
    /// Media type of the content, such as video/mp4
    #[arg(long, value_name = "TYPE", default_value = "")]
    pub(super) media_type: String,
    #[command(flatten)]
    pub(super) network: NetworkArgs,
}

#[derive(Debug, Args)]
pub(super) struct GetArgs {
    /// The work: bafkr4i..., or 64 hex digits
    pub(super) content_id: WorkName,
    /// Where to put it; `-` is standard output [default: a file named like the ContentID]
    #[arg(short, long, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,
    /// Only the bytes from A up to but without B, counted from 0, such as 0-1048576
    #[arg(long, value_name = "A-B", value_parser = parse_range)]
    pub(super) range: Option<(u64, u64)>,
    /// Replace the output file if it exists
    #[arg(long)]
    pub(super) force: bool,
    #[command(flatten)]
    pub(super) network: NetworkArgs,
}

impl GetArgs {
    pub(super) fn to_stdout(&self) -> bool {
        self.output.as_deref() == Some(std::path::Path::new("-"))
    }
}

#[derive(Debug, Args)]
pub(super) struct WorkArgs {
    /// The work: bafkr4i..., or 64 hex digits
    pub(super) content_id: WorkName,
    #[command(flatten)]
    pub(super) network: NetworkArgs,
}

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// A work, asked of the network; without it, this node
    pub(super) content_id: Option<WorkName>,
    #[command(flatten)]
    pub(super) network: NetworkArgs,
}

#[derive(Debug, Args)]
pub(super) struct DevnetArgs {
    /// How many nodes
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(super) nodes: usize,
    /// How many witnesses besides, who audit the nodes; with 3 f + 1 of them f may lie
    #[arg(long, value_name = "W", default_value_t = 0)]
    pub(super) witnesses: usize,
    /// How many of 100 segments are audited in each epoch
    #[arg(long, value_name = "PERCENT", default_value_t = 20,
          value_parser = clap::value_parser!(u16).range(1..=100))]
    pub(super) audit_percent: u16,
    #[command(flatten)]
    pub(super) network: DevnetParams,
}

/// What is asked about audits.
#[derive(Debug, Args)]
pub(super) struct WitnessArgs {
    #[command(subcommand)]
    pub(super) command: WitnessCommand,
    #[command(flatten)]
    pub(super) network: NetworkArgs,
}

#[derive(Debug, Subcommand)]
pub(super) enum WitnessCommand {
    /// List the newest verdicts
    Log {
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 20)]
        count: usize,
    },
    /// Check a verdict again from what is kept of it here
    Replay {
        /// Its name, as `log` prints it
        verdict: String,
    },
    /// Count what was found, by witness and by holder
    Stats,
}

/// Parameters of a development network and its nodes.
#[derive(Debug, Args)]
pub(super) struct DevnetParams {
    /// Length of an epoch
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_time)]
    pub(super) epoch: Duration,
    /// Most bytes of a segment
    #[arg(long, value_name = "SIZE", default_value = "32MiB")]
    pub(super) segment: ByteSize,
    /// Bytes of a volume file
    #[arg(long, value_name = "SIZE", default_value = "64MiB")]
    pub(super) volume: ByteSize,
    /// How long shards of an unfinished publish are kept
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_time)]
    pub(super) unsealed: Duration,
    /// Epochs between the end of a shard's last lease and its removal
    #[arg(long, value_name = "EPOCHS", default_value_t = 1)]
    pub(super) collect_grace: u64,
    /// How fast nodes suspect, wait and repair: `development` takes a node for lost after 10 s,
    /// `production` after a day
    #[arg(long, value_name = "PROFILE", default_value = "development")]
    pub(super) timing: TimingProfile,
    /// Each node's quota
    #[arg(long, value_name = "SIZE", default_value = "2GiB")]
    pub(super) quota: ByteSize,
    /// What each node does; several with commas
    #[arg(long, value_name = "ROLES", value_delimiter = ',', default_value = "storage")]
    pub(super) role: Vec<Role>,
}

/// A named set of times for suspicion and repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum TimingProfile {
    Development,
    Production,
}

impl TimingProfile {
    /// Its times.
    pub(super) const fn timing(self) -> Timing {
        match self {
            Self::Development => Timing::DEVELOPMENT,
            Self::Production => Timing::PRODUCTION,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// The file to publish; without it, the demo makes one
    pub(crate) file: Option<PathBuf>,
    /// Size of the file that the demo makes
    #[arg(long, value_name = "SIZE", default_value = "64MiB")]
    pub(crate) size: ByteSize,
    /// Seed of the file that the demo makes [default: a random one]
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Leave the network running at the end, until Ctrl-C, and keep its data
    #[arg(long)]
    pub(crate) keep: bool,
}

/// Reads `A-B`: bytes from A up to but without B.
fn parse_range(text: &str) -> Result<(u64, u64), String> {
    let parse = || {
        let (from, to) = text.split_once('-')?;
        let (from, to) = (from.parse::<u64>().ok()?, to.parse::<u64>().ok()?);
        (from <= to).then_some((from, to))
    };
    parse().ok_or_else(|| {
        "write A-B with A at most B: the bytes from A up to but without B, such as 0-1048576"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_grammar_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn ranges_exclude_their_end() {
        assert_eq!(parse_range("0-0"), Ok((0, 0)));
        assert_eq!(parse_range("5-1048576"), Ok((5, 1_048_576)));
        for text in ["", "5", "-5", "5-", "6-5", "a-b", "1-2-3", "-1-5"] {
            assert!(parse_range(text).is_err(), "{text}");
        }
    }

    #[test]
    fn flags_that_were_not_given_say_nothing() {
        let cli = Cli::try_parse_from(["echonet", "node", "--region", "eu"]).unwrap();
        let Command::Node(args) = cli.command else { panic!("not a node") };
        let text = serde_json::to_string(&args.args).unwrap();
        assert_eq!(text, r#"{"region":"eu"}"#);
    }
}
