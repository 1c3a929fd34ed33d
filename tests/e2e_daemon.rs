//! The commands of a person whose node runs: they go through the daemon of the
//! data directory. Then the laptop is closed.

use std::time::Duration;

use echonet_tests::support::{
    MIB,
    cli::{self, Outcome, Running},
    client::{Published, WITHIN, text},
    devnet::{Devnet, Options},
    figure, files, process, turn, wait_for, wait_until,
};
use rustix::process::Signal;

/// A daemon that is asked to end may finish what it is about.
const END_WITHIN: Duration = Duration::from_secs(20);

/// Runs a command of this data directory, with no word about a network.
fn run(data: &std::path::Path, args: &[&str]) -> Outcome {
    let mut command = cli::command(args);
    command.arg("--json").arg("--data").arg(data);
    cli::run(command, WITHIN)
}

#[test]
fn publish_through_a_daemon_then_close_the_laptop() {
    let _turn = turn();
    let devnet = Devnet::start(&Options::new(20));
    let person = devnet.client();
    let (data, file) = (person.path("data"), person.path("work"));
    files::random(&file, 110, 20 * MIB);

    let node = person.command(&["node", "--role", "origin", "--bind", "127.0.0.1:0"]);
    let mut daemon = Running::start(node, None);
    let (ready, took) = wait_for("the daemon to be ready", WITHIN, || {
        assert!(!daemon.has_ended(), "the daemon ended");
        daemon.seen("ready")
    });
    figure("daemon", format_args!("ready after {took:.2?}"));
    let status = run(&data, &["status"]).result("status");
    assert_eq!(status["node_id"], ready["node_id"]);

    let published = Published::read(&run(&data, &["publish", text(&file)]));
    published.assert_good();
    // Twice is once.
    let again = Published::read(&run(&data, &["publish", text(&file)]));
    assert_eq!(again.content_id, published.content_id);
    assert!(again.stored_bytes * 50 <= published.stored_bytes, "stored twice: {}", again.line);
    let works = run(&data, &["ls"]);
    assert!(works.succeeded() && works.stdout.contains(&published.content_id), "{works}");
    let peers = run(&data, &["peers"]);
    assert!(peers.succeeded() && peers.stdout.contains(devnet.entry()), "{peers}");

    assert!(process::signal(daemon.pid, Signal::TERM), "the daemon is there");
    let took = wait_until("the daemon to end", END_WITHIN, || daemon.has_ended());
    let ended = daemon.finish(END_WITHIN);
    assert!(ended.succeeded(), "SIGTERM is a way to end well: {ended}");
    figure("daemon", format_args!("ended after {took:.2?}"));
    let outcome = devnet.newcomer_gets(&published.content_id, &file);
    figure("daemon", format_args!("fetched without it after {:.2?}", outcome.took));
}
