//! Floods: a thousand keys without a grant, and thousands of records.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use echonet_node::{client::LeaseClaim, config::NodeConfig, node::Node};
use echonet_protocol::{
    announcement::{Location, RecordKind},
    bytes::ManifestHash,
    content_id::ContentId,
    identity::{Identity, NodeId},
    message::RefusalCode,
    node_descriptor::Roles,
    segment::{Scheme, SegmentId},
};
use futures::{StreamExt, stream};

use crate::{
    support::{Net, get, noise, publish, secret},
    tools::{Attacker, ByHand, code, stranger},
};

const QUOTA_BYTES: u64 = 512 << 20;
const SHARD_BYTES: usize = 64 << 10;
const KEYS: usize = 1_000;

/// A holder with little to give.
async fn small_holder(net: &Net, number: u8) -> Node {
    let data = net.dir.path().join("small");
    std::fs::create_dir_all(&data).unwrap();
    let config = NodeConfig {
        data,
        bind: format!("127.{number}.90.1:0").parse().unwrap(),
        quota_bytes: QUOTA_BYTES,
        issuer_secret: None,
        beacon_share: None,
        bootstrap: net.bootstrap(),
        ..net.nodes[0].core().config.clone()
    };
    Node::start(config, Identity::from_secret(&secret("small"))).await.unwrap()
}

fn free_bytes(node: &Node) -> u64 {
    node.core().vault.as_ref().unwrap().stats().unwrap().free_pool_bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_keys_without_a_grant_get_the_free_pool_and_no_more() {
    let mut net = Net::start(66, 3, 3600).await;
    let small = small_holder(&net, 66).await;
    net.nodes.push(small.clone());
    let client = net.client("client", Roles::default()).await;
    let target = small.node_id();
    let (per_prefix, pool) = (QUOTA_BYTES / 100, QUOTA_BYTES / 20);
    let two = Scheme::new(1, 1).unwrap();
    let mut refused = 0;
    for place in 100..108u8 {
        let attacker = Attacker::at(&net, (66, place), "free").await;
        let before = free_bytes(&small);
        let keys = stream::iter(0..KEYS / 8).map(|i| {
            let (client, attacker) = (&client, &attacker);
            async move {
                let label = format!("key {place} {i}");
                let by_hand = ByHand::ungranted(client, stranger(&label));
                let coded = code(&noise(&label, SHARD_BYTES), two, |_| {});
                let claim = LeaseClaim { lease: by_hand.lease(coded.segment()), grant: None };
                let shard = coded.shards[0].clone();
                attacker.client.store_shard(&target, &claim, &coded.descriptor, 0, 1, shard).await
            }
        });
        let outcomes: Vec<_> = keys.buffer_unordered(16).collect().await;
        for error in outcomes.into_iter().filter_map(Result::err) {
            let refusal = error.refusal().unwrap_or_else(|| panic!("{error}"));
            assert_eq!(refusal.code, RefusalCode::NotGranted, "{refusal}");
            refused += 1;
        }
        let took = free_bytes(&small) - before;
        assert!(took <= per_prefix, "one network took {took} of {per_prefix}");
        assert!(free_bytes(&small) <= pool, "{} of {pool}", free_bytes(&small));
    }
    println!("{refused} of {KEYS} refused, {} of {pool} bytes taken", free_bytes(&small));
    assert!(refused > KEYS / 2 && free_bytes(&small) > pool - per_prefix);
    // Who has a grant is not touched by that.
    let by_hand = ByHand::granted(&client, &net).await;
    let coded = code(&noise("granted", SHARD_BYTES), two, |_| {});
    let claim = LeaseClaim { lease: by_hand.lease(coded.segment()), grant: by_hand.grant.clone() };
    let shard = coded.shards[0].clone();
    client
        .core()
        .client
        .store_shard(&target, &claim, &coded.descriptor, 0, 1, shard)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn free_leases_leave_room_for_granted_ones_on_a_shard() {
    let net = Net::start(67, 3, 3600).await;
    let client = net.client("client", Roles::default()).await;
    let target = net.nodes[0].node_id();
    let calls = &client.core().client;
    let owner = ByHand::granted(&client, &net).await;
    let coded = code(&noise("small", 200), Scheme::new(1, 1).unwrap(), |_| {});
    let claim =
        |by: &ByHand<'_>| LeaseClaim { lease: by.lease(coded.segment()), grant: by.grant.clone() };
    let shard = coded.shards[0].clone();
    calls.store_shard(&target, &claim(&owner), &coded.descriptor, 0, 1, shard).await.unwrap();
    for i in 0..200 {
        let stranger = ByHand::ungranted(&client, stranger(&format!("free rider {i}")));
        // Some are taken, the rest refused.
        let _ = calls.add_lease(&target, &claim(&stranger), 0, 1).await;
    }
    calls.add_lease(&target, &claim(&owner), 0, 1).await.expect("the owner renews");
}

/// Strangers who store without a grant at every node until told to stop.
async fn flood(
    attacker: Attacker,
    client: Node,
    targets: Vec<NodeId>,
    stop: Arc<AtomicBool>,
) -> usize {
    let two = Scheme::new(1, 1).unwrap();
    let sent = AtomicUsize::new(0);
    let numbers = stream::iter(0..).take_while(|_| {
        let go = !stop.load(Ordering::Relaxed);
        async move { go }
    });
    let (attacker, client, targets, counted) = (&attacker, &client, &targets, &sent);
    numbers
        .for_each_concurrent(16, |i: usize| async move {
            let label = format!("flood {i}");
            let by_hand = ByHand::ungranted(client, stranger(&label));
            let coded = code(&noise(&label, 16 << 10), two, |_| {});
            let claim = LeaseClaim { lease: by_hand.lease(coded.segment()), grant: None };
            let shard = coded.shards[0].clone();
            let to = &targets[i % targets.len()];
            let _ = attacker.client.store_shard(to, &claim, &coded.descriptor, 0, 1, shard).await;
            counted.fetch_add(1, Ordering::Relaxed);
        })
        .await;
    sent.into_inner()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_without_a_grant_does_not_delay_a_granted_publish() {
    let net = Net::start(68, 17, 3600).await;
    let publisher = net.client("publisher", Roles::default()).await;
    let quiet = Instant::now();
    publish(&publisher, net.file("quiet", &noise("quiet", 4 << 20))).await.unwrap();
    let quiet = quiet.elapsed();
    let stop = Arc::new(AtomicBool::new(false));
    let targets: Vec<_> = net.nodes.iter().map(Node::node_id).collect();
    let mut floods = Vec::new();
    for place in 100..102u8 {
        let attacker = Attacker::at(&net, (68, place), "flood").await;
        let (client, targets, stop) = (publisher.clone(), targets.clone(), Arc::clone(&stop));
        floods.push(tokio::spawn(flood(attacker, client, targets, stop)));
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let loud = Instant::now();
    let bytes = noise("loud", 4 << 20);
    let published = publish(&publisher, net.file("loud", &bytes)).await.unwrap();
    let loud = loud.elapsed();
    stop.store(true, Ordering::Relaxed);
    let mut sent = 0;
    for flood in floods {
        sent += flood.await.unwrap();
    }
    println!("quiet {quiet:?}, in a flood of {sent} stores {loud:?}");
    assert!(sent > 50, "{sent}: no flood");
    assert_eq!(published.receipts.want, published.receipts.have, "{published:?}");
    assert!(loud < quiet * 5 + Duration::from_secs(2), "quiet {quiet:?}, flooded {loud:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_records_evicts_nobody() {
    let net = Net::start(69, 16, 3600).await;
    let publisher = net.client("publisher", Roles::default()).await;
    let bytes = noise("announced", 100_000);
    let published = publish(&publisher, net.file("announced", &bytes)).await.unwrap();
    let content: ContentId = published.content_id.parse().unwrap();
    let attacker = Attacker::at(&net, (69, 100), "records").await;
    let location = |i: usize| Location {
        segment: SegmentId([9; 32]),
        offset: u32::try_from(i).unwrap(),
        length: 1,
    };
    // Half of them for the very same content, by a fresh key each.
    let records: Vec<Vec<u8>> = (0..2_000usize)
        .map(|i| {
            let label = format!("announcer {i}");
            let about = if i % 2 == 0 { content } else { ContentId::of(label.as_bytes()) };
            let by_hand = ByHand::ungranted(&publisher, stranger(&label));
            let manifest = ManifestHash(*blake3::hash(label.as_bytes()).as_bytes());
            by_hand.announcement(about, manifest, location(i)).encode()
        })
        .collect();
    let begun = Instant::now();
    let mut refused = 0;
    for node in &net.nodes {
        for batch in records.chunks(64) {
            let batch = batch.iter().map(|r| (RecordKind::Announcement, r.clone())).collect();
            let outcomes = attacker.client.put_records(&node.node_id(), batch).await.unwrap();
            for why in outcomes.into_iter().flatten() {
                assert!(why.len() > 10, "{why}");
                refused += 1;
            }
        }
    }
    println!("{refused} of {} refused in {:?}", records.len() * 16, begun.elapsed());
    let reader = net.client("reader", Roles::default()).await;
    let (fetched, outcome) = get(&reader, &published.content_id).await;
    outcome.unwrap();
    assert!(fetched == bytes);
}
