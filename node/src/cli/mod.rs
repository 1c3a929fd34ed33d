//! The command line: reads arguments, calls the node or its daemon, prints.
//!
//! It decides nothing about content, holders or validity. Results go to
//! standard output, everything else to standard error.

mod args;
mod backend;
mod devnet;
mod get;
mod info;
mod node;
mod output;
mod output_file;
mod publish;
mod spool;
mod start;
mod witness;

use std::{io::IsTerminal as _, process::ExitCode};

use clap::Parser as _;
use tracing_subscriber::{layer::SubscriberExt as _, util::SubscriberInitExt as _};

use self::{
    args::{Cli, Command, NodeAction},
    output::Output,
};
use crate::{
    datadir::{DataDir, DataDirError},
    service::{ServiceError, ServiceResult},
    settings::SettingsError,
};

pub(crate) use self::{
    args::DemoArgs,
    node::Signals,
    output::{Output as CliOutput, short},
};

/// Exit codes other than 0, in the words of `--help`.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed
  2  wrong usage or configuration
  3  not found: no such work, or nobody there has it
  4  not enough holders: too few nodes took shards
  5  not available now: the network, the daemon or too many holders do not answer

Configuration: echonet.toml in the data directory, then the environment
(ECHONET_BIND, ECHONET_BOOTSTRAP, ...), then flags; later ones win.
ECHONET_LOG=debug shows what happens inside (on standard error).";

/// The exit code of a kind of failure.
fn exit_code(kind: &str) -> u8 {
    match kind {
        "usage" => 2,
        "not_found" => 3,
        "not_enough_holders" => 4,
        "unavailable" | "network" => 5,
        _ => 1,
    }
}

impl From<DataDirError> for ServiceError {
    fn from(error: DataDirError) -> Self {
        let kind = match error {
            DataDirError::InUse { .. } => "unavailable",
            DataDirError::NoDefault => "usage",
            _ => "io",
        };
        Self::new(kind, error)
    }
}

impl From<SettingsError> for ServiceError {
    fn from(error: SettingsError) -> Self {
        match error {
            SettingsError::DataDir(error) => error.into(),
            error => Self::new("usage", error),
        }
    }
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    init_logging(&cli.command);
    let output = Output::new(cli.json, cli.command.content_on_stdout());
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| ServiceError::new("io", format!("cannot start threads: {error}")))
        .and_then(|runtime| {
            let outcome = runtime.block_on(run(cli, &output));
            // A thread that still reads standard input must not keep us, nor a peer that does not
            // confirm the end of its connection: what is left ends with the process.
            std::mem::forget(runtime);
            outcome
        });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output.error(&error);
            ExitCode::from(exit_code(&error.kind))
        }
    }
}

/// Help, version, or what is wrong with the arguments.
fn usage(error: &clap::Error) -> ExitCode {
    // Nothing can be done when not even this can be printed.
    let _ = error.print();
    if !error.use_stderr() {
        return ExitCode::SUCCESS;
    }
    if std::env::args_os().any(|arg| arg == "--json") {
        let text = error.render().to_string();
        output::json_error(&ServiceError::new("usage", text.trim()));
    }
    ExitCode::from(exit_code("usage"))
}

/// Logs go to standard error; more of them from a daemon.
fn init_logging(command: &Command) {
    let default = if matches!(command, Command::Node(_)) {
        "info,libp2p_swarm=warn,libp2p_kad=warn,iroh=error,noq=error"
    } else {
        "error"
    };
    let filter = std::env::var("ECHONET_LOG").ok().filter(|f| !f.is_empty());
    let filter = tracing_subscriber::EnvFilter::new(filter.as_deref().unwrap_or(default));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // Spans of the network's crates are entered for every packet: 5 % of a holder's CPU time.
    let no_spans = tracing_subscriber::filter::filter_fn(|what| what.is_event());
    tracing_subscriber::registry().with(filter).with(no_spans).with(lines).init();
}

async fn run(cli: Cli, output: &Output) -> ServiceResult<()> {
    let data = cli.data;
    match cli.command {
        Command::Demo(args) => crate::demo::run(data, args, output).await,
        Command::Devnet(args) => devnet::run(data, args, output).await,
        Command::Node(command) => {
            let dir = open_data_dir(data)?;
            match command.action {
                Some(NodeAction::Drain) => info::drain(&dir, output).await,
                None => node::run(&dir, command.args, output).await,
            }
        }
        Command::Publish(args) => publish::run(&open_data_dir(data)?, args, output).await,
        Command::Get(args) => get::run(&open_data_dir(data)?, args, output).await,
        Command::Unpublish(args) => info::unpublish(&open_data_dir(data)?, args, output).await,
        Command::Keep(args) => info::keep(&open_data_dir(data)?, args, output).await,
        Command::Unkeep(args) => info::unkeep(&open_data_dir(data)?, args, output).await,
        Command::Status(args) => info::status(&open_data_dir(data)?, args, output).await,
        Command::Ls(args) => info::ls(&open_data_dir(data)?, args, output).await,
        Command::Peers(args) => info::peers(&open_data_dir(data)?, args, output).await,
        Command::Witness(args) => {
            witness::run(&open_data_dir(data)?, args.network, args.command, output).await
        }
        Command::Id => info::id(&open_data_dir(data)?, output).await,
        Command::CrashPoints => info::crash_points(output),
    }
}

/// The data directory: `--data`, else `ECHONET_DATA`, else the platform's.
fn open_data_dir(flag: Option<std::path::PathBuf>) -> Result<DataDir, DataDirError> {
    let from_env = || std::env::var_os("ECHONET_DATA").filter(|v| !v.is_empty()).map(Into::into);
    let path = match flag.or_else(from_env) {
        Some(path) => path,
        None => DataDir::default_path()?,
    };
    DataDir::open(&path)
}
