//! Faults of machines and networks. What is no loss, such as partitions, lost
//! packets and pauses, is not repaired; what is, such as a deleted directory, is; a
//! full disk refuses and keeps what it has.

use std::time::{Duration, Instant};

use echonet_tests::support::{
    KIB, MIB, cli,
    client::{Client, Segment},
    devnet::{Devnet, Options},
    figure, files, netns,
    netns::Dropping,
    site::Site,
    turn, wait_until,
};

/// How long a network has to be whole again.
const WHOLE_WITHIN: Duration = Duration::from_secs(180);
/// The grace of development networks.
const GRACE: Duration = Duration::from_secs(10);

struct Work {
    id: String,
    client: Client,
}

fn publish(devnet: &Devnet, sizes: &[u64]) -> Vec<Work> {
    let one = |(number, size): (usize, &u64)| {
        let client = devnet.client();
        let file = client.path("work");
        files::random(&file, 300 + number as u64, *size);
        Work { id: client.publish(&file).content_id, client }
    };
    sizes.iter().enumerate().map(one).collect()
}

fn segments(devnet: &Devnet, works: &[Work]) -> Vec<Segment> {
    let client = devnet.client();
    works.iter().flat_map(|work| client.segments(&work.id)).collect()
}

fn wait_whole(devnet: &Devnet, works: &[Work], what: &str) {
    let took = wait_until(&format!("all whole after {what}"), WHOLE_WITHIN, || {
        segments(devnet, works).iter().all(|segment| segment.alive.len() == segment.n)
    });
    figure("chaos", format_args!("whole {took:.1?} after {what}"));
}

fn fetch_all(devnet: &Devnet, works: &[Work]) {
    for work in works {
        let _ = devnet.newcomer_gets(&work.id, &work.client.path("work"));
    }
}

/// Waits out a time; the condition is the time itself.
fn pass(time: Duration) {
    let end = Instant::now() + time;
    wait_until("time to pass", 2 * time + GRACE, || Instant::now() >= end);
}

fn repaired(devnet: &Devnet) -> u64 {
    devnet.repairs().iter().map(|r| r.repaired_shards).sum()
}

#[test]
fn an_even_partition_repairs_nothing_and_loses_nothing() {
    if !netns::entered("an_even_partition_repairs_nothing_and_loses_nothing") {
        return;
    }
    let _turn = turn();
    let devnet = Devnet::start(&Options::new(20));
    let works = publish(&devnet, &[100, 300 * KIB, 9 * MIB]);
    wait_whole(&devnet, &works, "publishing");
    // Ten nodes on either side: whichever side has ten of a segment's holders has nobody left to
    // hold another shard, and the other side has not the signatures.
    let before: Vec<Segment> = segments(&devnet, &works).into_iter().filter(|s| s.k > 1).collect();
    let partition = Dropping::partition(&["127.1.0.0/16", "127.2.0.0/16", "127.3.5.0/24"]);
    pass(3 * GRACE);
    drop(partition);
    wait_whole(&devnet, &works, "a partition");
    let after = segments(&devnet, &works);
    for old in &before {
        let new = after.iter().find(|s| s.segment_id == old.segment_id).expect("the segment");
        figure("chaos", format_args!("versions {:?}", new.placements));
        for placement in &new.placements {
            let of_version =
                new.placements.iter().filter(|p| p.version == placement.version).count();
            assert_eq!(of_version, 1, "a fork: {new:?}");
            assert_eq!(placement.version, 1, "a coded segment was repaired: {new:?}");
        }
    }
    // Copies of a few KiB are another matter: four of seven, or fewer where a weak version is
    // allowed, may go on without the rest, and nothing that counts is moved for it.
    let written: u64 = devnet.repairs().iter().map(|r| r.written_bytes).sum();
    figure("chaos", format_args!("{written} bytes of small copies written in a partition"));
    assert!(written < MIB, "an even partition caused repairs: {written} bytes written");
    fetch_all(&devnet, &works);
}

#[test]
fn lost_packets_and_pauses_cause_no_repair() {
    if !netns::entered("lost_packets_and_pauses_cause_no_repair") {
        return;
    }
    let _turn = turn();
    let devnet = Devnet::start(&Options::new(20));
    let works = publish(&devnet, &[200, 5 * MIB]);
    wait_whole(&devnet, &works, "publishing");
    let loss = Dropping::loss(20);
    pass(2 * GRACE);
    // A pause shorter than the grace.
    let paused: Vec<String> = devnet.nodes[4..7].iter().map(|n| n.node_id.clone()).collect();
    let stopped = devnet.stop(&paused);
    pass(GRACE / 2);
    drop(stopped);
    pass(GRACE);
    drop(loss);
    wait_whole(&devnet, &works, "20 % loss and pauses");
    assert_eq!(repaired(&devnet), 0, "nothing was lost, so nothing is repaired");
    fetch_all(&devnet, &works);
}

/// Bytes that a vault leaves free for others.
const LEFT_FREE_BYTES: u64 = 64 * MIB;
/// Bytes of the small disk: less than what its node would be given, and that.
const SMALL_DISK_BYTES: u64 = LEFT_FREE_BYTES + 16 * MIB;

#[test]
fn a_full_disk_refuses_and_keeps_what_it_has() {
    if !netns::entered("a_full_disk_refuses_and_keeps_what_it_has") {
        return;
    }
    let _turn = turn();
    // Nineteen nodes, and one of a disk much smaller than it thinks.
    let (segment_bytes, volume_bytes) = (Some(MIB), Some(8 * MIB));
    let mut devnet = Devnet::start(&Options { segment_bytes, volume_bytes, ..Options::new(19) });
    let mut disk = None;
    let small = devnet.join_on(&Site::fresh(0), &[], |data| {
        disk = Some(netns::SmallDisk::mount(data, SMALL_DISK_BYTES));
    });
    let works = publish(&devnet, &[240 * MIB, 3 * MIB]);
    wait_whole(&devnet, &works, "publishing");
    let held = |devnet: &Devnet| {
        let all = segments(devnet, &works);
        all.iter().filter(|s| s.holder_ids().contains(&small)).count()
    };
    let before = held(&devnet);
    let data = devnet.node(&small).data.clone();
    let free_bytes = free_bytes(&data);
    figure("chaos", format_args!("{before} shards on the small disk, {free_bytes} bytes free"));
    assert!(before > 0, "nothing was ever put on the small disk");
    let spare = free_bytes.saturating_sub(LEFT_FREE_BYTES);
    assert!(spare < 8 * MIB, "the small disk is not full: {free_bytes} bytes free");
    // Somebody else takes the rest, to the last byte; more is published, and then a crash.
    fill(&data.join("of-somebody-else"));
    let more = publish(&devnet, &[300 * KIB]);
    wait_whole(&devnet, &more, "publishing beside a full disk");
    assert_eq!(devnet.living().len(), 20, "a full disk killed its node");
    devnet.kill(&small);
    // To start it needs a little; what it signed for is there again then.
    std::fs::remove_file(data.join("of-somebody-else")).expect("removed");
    devnet.restart(&small);
    wait_whole(&devnet, &works, "a crash on a full disk");
    assert_eq!(held(&devnet), before, "shards on the full disk were given up");
    assert_eq!(repaired(&devnet), 0, "nothing was lost, so nothing is repaired");
    fetch_all(&devnet, &works);
    drop(disk);
}

/// Writes until nothing more fits on the disk.
fn fill(path: &std::path::Path) {
    use std::io::Write as _;
    let mut file = std::fs::File::create(path).expect("a file");
    for block in [vec![1; 1 << 20], vec![1; 4096]] {
        while file.write_all(&block).is_ok() {}
    }
}

fn free_bytes(dir: &std::path::Path) -> u64 {
    let stat = rustix::fs::statvfs(dir).expect("a file system");
    stat.f_bavail * stat.f_frsize
}

#[test]
fn deleted_vaults_are_made_again_elsewhere() {
    let _turn = turn();
    let mut devnet = Devnet::start(&Options { epoch_s: Some(4), ..Options::new(20) });
    let works = publish(&devnet, &[100, 300 * KIB, 9 * MIB, 20 * MIB]);
    wait_whole(&devnet, &works, "publishing");
    let ids: Vec<String> = devnet.nodes[5..8].iter().map(|n| n.node_id.clone()).collect();
    let [running, other, restarted] = &ids[..] else { unreachable!("three nodes") };
    let delete = |devnet: &Devnet, id: &str| {
        std::fs::remove_dir_all(devnet.node(id).data.join("vault")).expect("deleted");
    };
    // Two run on, with files open that have no name any more; one comes back with nothing.
    delete(&devnet, running);
    delete(&devnet, other);
    devnet.kill(restarted);
    delete(&devnet, restarted);
    devnet.restart(restarted);
    let names_none = |devnet: &Devnet| {
        let all = segments(devnet, &works);
        all.iter().all(|s| !s.holder_ids().contains(running) && !s.holder_ids().contains(other))
    };
    let took = wait_until("others to hold what was deleted", WHOLE_WITHIN, || names_none(&devnet));
    figure("chaos", format_args!("no shard counts on the deleted vaults after {took:.1?}"));
    wait_whole(&devnet, &works, "three vaults were deleted");
    assert_eq!(state_of(&devnet, running), "disk-sick", "as the others see it");
    assert_eq!(devnet.living().len(), 20, "a deleted vault ended its node");
    fetch_all(&devnet, &works);
}

/// What another node says of one.
fn state_of(devnet: &Devnet, node_id: &str) -> String {
    let mut command = cli::command(["peers", "--json", "--data"]);
    command.arg(&devnet.nodes[0].data);
    let peers = cli::run(command, Duration::from_secs(30)).result("peers");
    let found = peers["peers"].as_array().expect("peers").iter().find(|p| p["node_id"] == node_id);
    found.expect("a peer")["state"].as_str().expect("a state").to_owned()
}
