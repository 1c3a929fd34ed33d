//! The program of the tests' package: `sim` plays seeded worlds, `study` writes
//! the durability study. It ends with an error where something does not hold.

use clap::{Parser, Subcommand};
use echonet_tests::world::{Options, simulate};

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
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Sim { seeds, nodes, seed, verbose } => {
            simulate(&Options { seeds, first: seed, nodes, is_verbose: verbose })
        }
    }
}
