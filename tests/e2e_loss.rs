//! Holders that lie and holders that are gone: six of sixteen never matter, a
//! seventh is said so, and no wrong byte is ever handed out.

use echonet_tests::support::{
    MIB,
    client::{Client, Published, Segment, WITHIN, most_harmful},
    devnet::{Devnet, Options},
    figure, files, turn, volumes, wait_for,
};

/// Two segments of content and the manifest's.
const WORK_BYTES: u64 = 40 * MIB;
/// What 10+6 can spare.
const SPARE: usize = 6;

/// A work on a devnet whose publisher is gone, all of whose shards have holders.
fn publish(devnet: &Devnet, seed: u64) -> (Client, Published, Vec<Segment>) {
    let publisher = devnet.client();
    let file = publisher.path("work");
    files::random(&file, seed, WORK_BYTES);
    let published = publisher.publish(&file);
    // The write quorum is 14 of 16; the rest fills in behind.
    let (segments, took) = wait_for("every shard to have a holder", WITHIN, || {
        let segments = devnet.client().segments(&published.content_id);
        segments.iter().all(|segment| segment.alive.len() == segment.n).then_some(segments)
    });
    figure("loss", format_args!("{} segments complete after {took:.1?}", segments.len()));
    assert_eq!(segments.len() as u64, published.segments, "status lists the manifest's too");
    (publisher, published, segments)
}

/// Fetches as a newcomer and compares.
fn fetch_and_compare(devnet: &Devnet, publisher: &Client, published: &Published, what: &str) {
    let outcome = devnet.newcomer_gets(&published.content_id, &publisher.path("work"));
    figure("loss", format_args!("{what}: right bytes after {:.2?}", outcome.took));
}

/// Holders whose loss every segment can just bear.
fn harmed(devnet: &Devnet, segments: &[Segment]) -> Vec<String> {
    let nodes = most_harmful(segments, &[devnet.entry()]);
    let lost: Vec<String> =
        segments.iter().map(|s| format!("{} of {}", s.lost(&nodes), s.n)).collect();
    figure("loss", format_args!("{} nodes: {}", nodes.len(), lost.join(", ")));
    for segment in segments.iter().filter(|segment| segment.k > 1) {
        assert_eq!((segment.k, segment.n), (10, 16), "10+6 is the default");
        assert!(segment.lost(&nodes) >= SPARE - 1, "too little harm: {lost:?}");
    }
    assert!(segments.iter().any(|s| s.k > 1 && s.lost(&nodes) == SPARE), "{lost:?}");
    nodes
}

/// Takes a seventh holder from the first segment that can spare no more.
fn seventh(devnet: &Devnet, segments: &[Segment], gone: &[String]) -> (Segment, String) {
    let at_the_edge =
        |segment: &&Segment| segment.lost(gone) == segment.n - segment.k && segment.k > 1;
    let segment = segments.iter().find(at_the_edge).expect("a segment without a shard to spare");
    let holders = segment.holder_ids();
    // The last copy of the manifest stays, or that would be what is missed.
    let harmless = |id: &&String| {
        let after: Vec<String> = gone.iter().chain([*id]).cloned().collect();
        segments.iter().all(|s| s.k > 1 || s.lost(&after) < s.n)
    };
    let left = holders.iter().filter(|id| !gone.contains(id) && *id != devnet.entry());
    let mut left = left.filter(harmless);
    (segment.clone(), left.next().expect("ten holders are left").clone())
}

#[test]
fn six_holders_gone_do_not_matter_and_a_seventh_is_said() {
    let _turn = turn();
    let devnet = Devnet::start(&Options::without_repair(20));
    let (publisher, published, segments) = publish(&devnet, 60);
    let mut gone = harmed(&devnet, &segments);
    for node_id in &gone {
        devnet.kill(node_id);
    }
    fetch_and_compare(&devnet, &publisher, &published, "six killed");

    let (segment, last) = seventh(&devnet, &segments, &gone);
    devnet.kill(&last);
    gone.push(last);
    let have = segment.n - segment.lost(&gone);
    assert_eq!(have, segment.k - 1);
    let words = format!("{have} of {}", segment.k);
    let outcome = devnet.newcomer_fails(&published.content_id, &[&words, "shards"]);
    figure("loss", format_args!("a seventh gone: said so after {:.2?}", outcome.took));
}

#[test]
fn six_silent_holders_do_not_matter() {
    let _turn = turn();
    let devnet = Devnet::start(&Options::without_repair(20));
    let (publisher, published, segments) = publish(&devnet, 61);
    let silent = harmed(&devnet, &segments);
    let stopped = devnet.stop(&silent);
    // Packets vanish: nobody says that the port is closed.
    fetch_and_compare(&devnet, &publisher, &published, "six silent");
    drop(stopped);
    fetch_and_compare(&devnet, &publisher, &published, "all back");
}

#[test]
fn six_holders_with_damaged_disks_do_not_matter() {
    let _turn = turn();
    let mut devnet = Devnet::start(&Options::without_repair(20));
    let (publisher, published, segments) = publish(&devnet, 62);
    let bad = harmed(&devnet, &segments);
    let changed: u64 = bad.iter().map(|id| volumes::damage(&devnet.node(id).data)).sum();
    figure("loss", format_args!("{changed} bytes of {} holders damaged", bad.len()));
    fetch_and_compare(&devnet, &publisher, &published, "six damaged");

    // Nor when they find the damage while starting.
    for node_id in &bad {
        devnet.kill(node_id);
        devnet.restart(node_id);
    }
    fetch_and_compare(&devnet, &publisher, &published, "six damaged and restarted");
}

/// Holders that are killed and started again while shards arrive.
const CRASHING: usize = 3;

#[test]
fn holders_that_crash_during_a_publish_keep_what_they_signed() {
    let _turn = turn();
    let mut devnet = Devnet::start(&Options::without_repair(20));
    let publisher = devnet.client();
    let file = publisher.path("work");
    files::random(&file, 63, 4 * WORK_BYTES);
    let crashing: Vec<String> =
        devnet.nodes[5..5 + CRASHING].iter().map(|node| node.node_id.clone()).collect();
    let mut running = publisher.start_publish(&file, &[]);
    let mut crashes = 0;
    while !running.has_ended() {
        for node_id in &crashing {
            devnet.kill(node_id);
            devnet.restart(node_id);
            crashes += 1;
        }
    }
    let published = Published::read(&running.finish(WITHIN));
    // A checker may be among those that crash: then it says that it is not known to be live.
    published.assert_held();
    figure("loss", format_args!("published while {crashes} times a holder crashed"));

    // Whatever they hold is needed now: six others are gone.
    let segments = devnet.client().segments(&published.content_id);
    let mut keep: Vec<&str> = crashing.iter().map(String::as_str).collect();
    keep.push(devnet.entry());
    let gone = most_harmful(&segments, &keep);
    for node_id in &gone {
        devnet.kill(node_id);
    }
    let needed = segments.iter().flat_map(Segment::holder_ids).filter(|id| crashing.contains(id));
    figure("loss", format_args!("{} shards of theirs, {} others gone", needed.count(), gone.len()));
    fetch_and_compare(&devnet, &publisher, &published, "crashed holders");
}
