//! The README's first command.

use std::time::Duration;

use echonet_tests::support::{MIB, cli, figure, files, turn};

#[test]
fn the_demo_holds_for_64_mib() {
    let _turn = turn();
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("work");
    files::random(&file, 90, 64 * MIB);
    let mut command = cli::command(["demo"]);
    command.arg(&file);
    let outcome = cli::run(command, Duration::from_secs(300));
    assert!(outcome.succeeded(), "{outcome}");
    println!("{}", outcome.stdout);
    assert!(outcome.stdout.contains("bafkr4i"), "it prints the ContentID: {outcome}");
    figure("demo", format_args!("64 MiB: the whole story in {:.1?}", outcome.took));
}
