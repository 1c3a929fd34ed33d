//! The program of the tests' package: `sim` plays seeded worlds, `study` writes
//! the durability study. It ends with an error where something does not hold.

use clap::{Parser, Subcommand};

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
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Sim => anyhow::bail!("not built yet"),
    }
}
