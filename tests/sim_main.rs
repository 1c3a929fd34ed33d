//! The program of the tests' package: `sim` plays seeded worlds, `study` writes
//! the durability study. It ends with an error where something does not hold.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use echonet_tests::durability::{Size, run_and_write};

#[derive(Parser)]
#[command(name = "echonet-tests", about = "EchoNet's simulations")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Plays nodes in seeded, faulty worlds.
    Sim,
    /// Simulates years of a large network and writes the durability study.
    Study {
        /// Seconds instead of minutes: a small network, few cases.
        #[arg(long)]
        quick: bool,
        /// Where DURABILITY.md and durability.svg are written.
        #[arg(long, value_name = "DIR", default_value = "docs")]
        out: PathBuf,
    },
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Sim => anyhow::bail!("not built yet"),
        Command::Study { quick, out } => {
            run_and_write(if quick { Size::Quick } else { Size::Full }, &out)
        }
    }
}
