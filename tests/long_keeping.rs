//! What takes long of keeping: every node of a network replaced under 200 works,
//! and ten minutes of a machine that has no time for its nodes.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use echonet_tests::support::{
    MIB, cli,
    devnet::{Devnet, Options},
    figure,
    keeping::{Victims, churn, fetch_all, publish_many, repaired, wait_whole},
    turn, wait_until,
};

/// Nodes of the network that is replaced.
const NODES: usize = 30;
/// Nodes killed at once.
const EACH: usize = 6;

#[test]
fn works_outlive_every_node_that_they_were_published_to() {
    let _turn = turn();
    let mut devnet = Devnet::start(&Options::new(NODES as u32));
    let (_publishers, works) = publish_many(&devnet, 200, 9_000);
    wait_whole(&devnet, &works, "publishing");
    let originals: Vec<String> = devnet.nodes.iter().map(|node| node.node_id.clone()).collect();
    let victims = Victims { rounds: NODES / EACH, each: EACH, seed: 11 };
    churn(&mut devnet, &works, victims, &originals);
    let survivors = devnet.living().iter().filter(|n| originals.contains(&n.node_id)).count();
    assert_eq!(survivors, 0, "originals are left");
    fetch_all(&devnet, &works);
}

/// How long the machine is kept busy.
const BUSY: Duration = Duration::from_secs(600);
/// How often all nodes are asked what they think of the others.
const ASK_EVERY: Duration = Duration::from_secs(5);

#[test]
fn nobody_is_declared_dead_on_a_machine_without_time() {
    let _turn = turn();
    let devnet = Devnet::start(&Options::new(20));
    let (_publishers, works) = publish_many(&devnet, 6, 12_000);
    wait_whole(&devnet, &works, "publishing");
    let is_over = AtomicBool::new(false);
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let (mut asked, mut suspected, mut dead) = (0, 0, Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| burn(&is_over));
        }
        let end = Instant::now() + BUSY;
        while Instant::now() < end {
            let next = Instant::now() + ASK_EVERY;
            for (state, whom) in states(&devnet) {
                asked += 1;
                suspected += u64::from(state == "suspect");
                if state == "down" {
                    dead.push(whom);
                }
            }
            wait_until("the next look", 2 * ASK_EVERY, || Instant::now() >= next);
        }
        is_over.store(true, Ordering::Relaxed);
    });
    figure(
        "busy",
        format_args!("{asked} opinions in {BUSY:.0?}: {suspected} suspect, {} dead", dead.len()),
    );
    assert!(dead.is_empty(), "declared dead while they lived: {dead:?}");
    assert_eq!(repaired(&devnet), 0, "nothing was lost, so nothing is repaired");
    fetch_all(&devnet, &works);
}

/// Keeps a core busy.
fn burn(is_over: &AtomicBool) {
    let mut block = vec![0_u8; MIB as usize];
    while !is_over.load(Ordering::Relaxed) {
        for byte in &mut block {
            *byte = byte.wrapping_mul(31).wrapping_add(7);
        }
        std::hint::black_box(&block);
    }
}

/// What one node after the other says of all others: state and whom.
fn states(devnet: &Devnet) -> Vec<(String, String)> {
    let ask = |node: &&echonet_tests::support::devnet::Node| {
        let mut command = cli::command(["peers", "--json", "--data"]);
        command.arg(&node.data);
        cli::run(command, Duration::from_secs(60)).result("peers")["peers"].clone()
    };
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let of_one = |peers: serde_json::Value| {
        let peers = peers.as_array().cloned().unwrap_or_default();
        // Clients come and go.
        let nodes = peers.into_iter().filter(|peer| {
            peer["roles"].as_array().is_some_and(|roles| roles.iter().any(|r| r == "storage"))
        });
        nodes.map(|peer| (text(&peer["state"]), text(&peer["node_id"]))).collect::<Vec<_>>()
    };
    devnet.living().iter().map(ask).flat_map(of_one).collect()
}
