//! The program of the tests' package: `sim` plays seeded worlds, `detection` measures
//! how long deaths stay unknown, `study` writes the durability study. It ends with an error where something does not hold.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use echonet_protocol::network::Timing;
use echonet_tests::{
    durability::{Size, run_and_write},
    world::{DetectionOptions, Options, measure_detection, simulate},
};

#[derive(Parser)]
#[command(name = "echonet-tests", about = "EchoNet's simulations")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Plays nodes in seeded, faulty worlds.
    Sim {
        /// How many seeds.
        #[arg(long, default_value_t = 100)]
        seeds: u64,
        /// Nodes in each world.
        #[arg(long, default_value_t = 40)]
        nodes: usize,
        /// The first seed.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Worlds at a time [default: as many as there are cores].
        #[arg(long)]
        jobs: Option<usize>,
        /// Say a line about each seed.
        #[arg(long)]
        verbose: bool,
    },
    /// Measures, in virtual time, how long deaths stay unknown.
    Detection {
        /// Nodes at the beginning.
        #[arg(long, default_value_t = 300)]
        nodes: usize,
        /// How many of them die, one after the other.
        #[arg(long, default_value_t = 100)]
        kills: usize,
        /// Which network's periods.
        #[arg(long, value_enum, default_value_t = Periods::Production)]
        timing: Periods,
        /// Let every twentieth node's clock be wrong by minutes.
        #[arg(long)]
        wrong_clocks: bool,
        /// What everything is drawn from.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Simulates years of a large network and writes the durability study.
    Study {
        /// Seconds instead of minutes: a small network, few cases.
        #[arg(long)]
        quick: bool,
        /// Cases that are played at once.
        #[arg(long, value_name = "N", default_value_t = 1)]
        jobs: usize,
        /// Where DURABILITY.md and durability.svg are written, and finished cases
        /// kept (cases.jsonl), which a second run does not play again.
        #[arg(long, value_name = "DIR", default_value = "docs")]
        out: PathBuf,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Periods {
    Production,
    Development,
}

impl Periods {
    const fn timing(self) -> Timing {
        match self {
            Self::Production => Timing::PRODUCTION,
            Self::Development => Timing::DEVELOPMENT,
        }
    }
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Sim { seeds, nodes, seed, jobs, verbose } => {
            simulate(&Options { seeds, first: seed, nodes, jobs, is_verbose: verbose })
        }
        Command::Detection { nodes, kills, timing, wrong_clocks, seed } => {
            measure_detection(&DetectionOptions {
                nodes,
                kills,
                timing: timing.timing(),
                has_wrong_clocks: wrong_clocks,
                seed,
            })
        }
        Command::Study { quick, jobs, out } => {
            run_and_write(if quick { Size::Quick } else { Size::Full }, jobs, &out)
        }
    }
}
