//! The program of the tests' package: `sim` plays seeded worlds, `study` writes
//! the durability study. It ends with an error where something does not hold.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use echonet_tests::{
    durability::{Size, run_and_write},
    world::{Options, simulate},
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
        /// Say a line about each seed.
        #[arg(long)]
        verbose: bool,
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

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Sim { seeds, nodes, seed, verbose } => {
            simulate(&Options { seeds, first: seed, nodes, is_verbose: verbose })
        }
        Command::Study { quick, jobs, out } => {
            run_and_write(if quick { Size::Quick } else { Size::Full }, jobs, &out)
        }
    }
}
