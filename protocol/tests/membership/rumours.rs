//! Whole networks under loss, under a liar, and with a node that is cut off.

use echonet_protocol::{
    identity::NodeId,
    membership::{DiskHealth, Life, MembershipInput, Pace},
    network::Timing,
};

use crate::world::{Setting, World};

fn world(nodes: usize, loss_permille: u64, seed: u64) -> World {
    eprintln!("seed {seed}");
    let pace = Pace::of(&Timing::PRODUCTION);
    World::new(Setting { nodes, pace, latency_ms: (5, 150), loss_permille, seed })
}

fn all_alive(world: &World) -> bool {
    let nodes = world.setting.nodes;
    let alive = |of: usize, about: usize| of == about || world.view(of, about).life == Life::Alive;
    (0..nodes).all(|of| (0..nodes).all(|about| alive(of, about)))
}

#[test]
fn loss_makes_doubts_and_no_deaths() {
    let mut world = world(40, 50, 11);
    world.run_for(600_000);
    eprintln!("doubts {:?}, {} messages", world.doubts, world.messages);
    assert!(world.doubts.get("own").is_some_and(|n| *n > 0), "or nothing was tested");
    assert_eq!(world.false_downs, []);
}

#[test]
fn one_who_declares_everyone_dead_convinces_nobody() {
    let mut world = world(30, 50, 12);
    world.liar = Some(0);
    world.run_for(120_000);
    eprintln!("doubts {:?}, {} messages", world.doubts, world.messages);
    assert!(world.doubts.get("hearsay").is_some_and(|n| *n > 100), "or nothing was tested");
    assert_eq!(world.false_downs, []);
    // And it hides no real death.
    let took_ms = world.kill_and_agree(7, 60_000);
    eprintln!("agreed in {took_ms} ms");
    assert!(took_ms < 30_000);
}

#[test]
fn lies_cost_a_bounded_number_of_messages() {
    let messages = |liar| {
        let mut world = world(30, 0, 13);
        world.run_for(30_000);
        world.liar = liar;
        let before = world.messages;
        world.run_for(60_000);
        world.messages - before
    };
    let (honest, lied) = (messages(None), messages(Some(0)));
    eprintln!("{honest} messages, {lied} with a liar");
    // The liar's two claims a period reach everybody, who asks whom they are about; each answers
    // with a later word, and that is news.
    assert!(lied < 8 * honest, "{honest} and {lied}");
}

#[test]
fn who_was_cut_off_takes_nobody_with_it() {
    let mut world = world(30, 10, 14);
    world.run_for(60_000);
    world.cut_off = vec![4];
    world.run_for(60_000);
    assert!((0..30).all(|n| n == 4 || world.view(n, 4).life == Life::Down), "it is found down");
    assert!(world.false_downs.iter().any(|(by, ..)| *by == 4), "by its own probes, for itself");
    world.cut_off.clear();
    world.run_for(90_000);
    assert!(all_alive(&world), "everybody is found alive again");
    // What it found for itself, nobody else came to find.
    assert!(world.false_downs.iter().all(|(by, about, _)| *by == 4 || *about == 4));
}

#[test]
fn a_node_that_comes_back_is_found_soon() {
    let mut world = world(30, 10, 15);
    world.run_for(30_000);
    world.kill_and_agree(9, 60_000);
    world.run_for(60_000);
    world.start(9);
    world.run_for(60_000);
    assert!(all_alive(&world));
}

#[test]
fn news_of_a_disk_and_a_goodbye_reach_everybody() {
    let mut world = world(40, 20, 16);
    world.run_for(30_000);
    world.input(3, MembershipInput::Disk(DiskHealth::Sick));
    world.input(5, MembershipInput::Leave);
    world.run_for(30_000);
    let others = |but: usize| (0..40).filter(move |n| *n != but && *n != 5);
    let sick = |n: &usize| world.view(*n, 3).disk == Some(DiskHealth::Sick);
    assert_eq!(others(3).filter(|n| !sick(n)).collect::<Vec<_>>(), []);
    let left = |n: &usize| world.view(*n, 5).life == Life::Left;
    assert_eq!(others(5).filter(|n| !left(n)).collect::<Vec<_>>(), []);
    let known: Vec<NodeId> = world.machine(0).views().map(|(node, _)| node).collect();
    assert!(known.is_sorted() && known.len() == 39 && !known.contains(&world.id(0)));
}

#[test]
fn the_same_seed_gives_the_same_world() {
    let run = |seed| {
        let mut world = world(20, 50, seed);
        world.run_for(60_000);
        (world.messages, world.hints, format!("{:?}", world.doubts))
    };
    assert_eq!(run(17), run(17));
    assert_ne!(run(17), run(18));
}
