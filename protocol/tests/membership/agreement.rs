//! How long a network takes to agree that a node is gone, and that it never agrees on one that is
//! not.

use echonet_protocol::{membership::Pace, network::Timing};

use crate::world::{Setting, World, percentile};

/// Kills `kills` nodes, one after the other; the times to agreement, milliseconds.
fn agreement(setting: Setting, kills: usize) -> Vec<u64> {
    eprintln!("seed {}", setting.seed);
    let mut world = World::new(setting);
    world.run_for(20_000);
    let times: Vec<u64> = (0..kills)
        .map(|n| {
            world.run_for(4_000 + 700 * (n as u64 % 7));
            world.kill_and_agree(n * (setting.nodes / kills), 120_000)
        })
        .collect();
    eprintln!(
        "{} nodes, {kills} kills: p50 {} ms, p99 {} ms, most {} ms; {} messages in {} s",
        setting.nodes,
        percentile(&times, 50),
        percentile(&times, 99),
        percentile(&times, 100),
        world.messages,
        world.now / 1000,
    );
    assert!(world.false_downs.is_empty(), "found down alive: {:?}", world.false_downs);
    times
}

fn setting(nodes: usize, timing: &Timing, seed: u64) -> Setting {
    let pace = Pace::of(timing);
    Setting { nodes, pace, latency_ms: (5, 150), loss_permille: 10, seed }
}

/// How many nodes, of which a third are killed. `ECHONET_MEMBERS=300` gives the figures of SPEC.md.
fn members() -> usize {
    std::env::var_os("ECHONET_MEMBERS").map_or(50, |n| n.to_str().unwrap().parse().unwrap())
}

#[test]
fn production_agrees_within_half_a_minute() {
    let nodes = members();
    let times = agreement(setting(nodes, &Timing::PRODUCTION, 1), nodes / 3);
    assert!(percentile(&times, 100) < 30_000, "{times:?}");
}

#[test]
fn development_agrees_within_ten_seconds() {
    let times = agreement(setting(30, &Timing::DEVELOPMENT, 2), 15);
    assert!(percentile(&times, 100) < 10_000, "{times:?}");
}

#[test]
fn a_third_that_is_gone_at_once_is_agreed_on() {
    let setting = setting(members(), &Timing::PRODUCTION, 3);
    eprintln!("seed {}", setting.seed);
    let mut world = World::new(setting);
    world.run_for(20_000);
    let gone = setting.nodes / 3;
    (0..gone).for_each(|n| world.kill(n));
    let killed = world.now;
    while !(0..gone).all(|n| world.is_agreed(n)) {
        world.run_for(100);
        assert!(world.now - killed < 60_000, "no agreement");
    }
    eprintln!("{gone} of {} at once: {} ms", setting.nodes, world.now - killed);
    assert_eq!(world.false_downs, []);
}
