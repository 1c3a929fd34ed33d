//! The `echonet` binary: hands the command line over and returns its exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    echonet_node::cli::main()
}
