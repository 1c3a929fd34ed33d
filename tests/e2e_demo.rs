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
    println!("{}", outcome.stderr);
    // The story is told on standard error, the verdict on standard output.
    assert!(outcome.stderr.contains("ContentID bafkr4i"), "it prints the ContentID: {outcome}");
    assert!(outcome.stderr.contains("identical"), "it compares: {outcome}");
    assert!(outcome.stdout.contains("all of it held"), "its verdict: {outcome}");
    figure("demo", format_args!("64 MiB: the whole story in {:.1?}", outcome.took));
}
