//! Two versions of a work that share nearly all their chunks: withdrawing the
//! first, collecting and compacting never touch the second.

use std::time::Duration;

use echonet_tests::support::{
    MIB,
    client::Segment,
    devnet::{Devnet, Options, VaultSums},
    figure, files, turn, wait_until,
};

/// Epochs pass, leases end, volumes are compacted: all within this time.
const COLLECTED_WITHIN: Duration = Duration::from_secs(180);

/// Small segments and volumes, so that little content fills many of both.
fn start() -> Devnet {
    Devnet::start(&Options {
        epoch_s: Some(2),
        segment_bytes: Some(2 * MIB),
        volume_bytes: Some(12 * MIB),
        ..Options::new(20)
    })
}

#[test]
fn a_second_version_survives_the_end_of_the_first() {
    let _turn = turn();
    let devnet = start();
    let publisher = devnet.client();
    let (other, first, second) =
        (publisher.path("other"), publisher.path("first"), publisher.path("second"));
    // Something else that goes away with the first version, so that the volumes
    // are mostly garbage and compaction has to move what the second one needs.
    files::random(&other, 80, 64 * MIB);
    files::random(&first, 81, 40 * MIB);
    std::fs::copy(&first, &second).expect("a copy");
    // One place of a twentieth: with the chunks at its edges less than a tenth.
    files::overwrite(&second, 82, 30 * MIB, 2 * MIB);

    let other = publisher.publish(&other);
    let v1 = publisher.publish(&first);
    let v2 = publisher.publish(&second);
    figure(
        "versions",
        format_args!("second: {} of {} bytes deduplicated", v2.deduplicated_bytes, v2.size),
    );
    assert!(v2.deduplicated_bytes * 100 >= v2.size * 90, "{}", v2.line);
    assert!(v2.stored_bytes * 3 < v1.stored_bytes, "{}", v2.line);

    let before = devnet.vaults();
    for work in [&other, &v1] {
        let outcome = publisher.run(&["unpublish", &work.content_id]);
        assert!(outcome.succeeded(), "{outcome}");
    }
    // Nothing of the publisher is left: not its full copy, not its index.
    std::fs::remove_dir_all(publisher.path("data")).expect("a data directory");
    wait_for_compaction(&devnet, &before);

    for work in [&other, &v1] {
        devnet.newcomer_fails(&work.content_id, &["not found"]);
    }
    devnet.newcomer_gets(&v2.content_id, &second);
    // At least its write quorum is there still, of every segment.
    let kept = |segment: &Segment| segment.alive.len() >= segment.n - (segment.n - segment.k) / 3;
    let segments = devnet.client().segments(&v2.content_id);
    assert!(segments.iter().all(kept), "holders lost shards of the second: {segments:?}");
}

/// Waits until what no lease keeps any more is collected, then compacted.
fn wait_for_compaction(devnet: &Devnet, before: &VaultSums) {
    // 64 MiB at 1.6 bytes each, and what only the first version used.
    let less = 95 * MIB;
    let took = wait_until("shards without a lease to be collected", COLLECTED_WITHIN, || {
        devnet.vaults().live_bytes + less <= before.live_bytes
    });
    figure("versions", format_args!("collected after {took:.1?}"));
    let took = wait_until("volumes to be compacted", COLLECTED_WITHIN, || {
        devnet.vaults().used_bytes + less / 2 <= before.used_bytes
    });
    let after = devnet.vaults();
    figure("versions", format_args!("compacted after {took:.1?}: {before:?} -> {after:?}"));
}
