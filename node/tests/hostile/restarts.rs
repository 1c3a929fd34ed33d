//! Nodes that come back serve what they promised, and any range of a work is its
//! bytes.

use echonet_node::node::Node;
use echonet_protocol::{
    identity::{Identity, NodeId},
    node_descriptor::Roles,
};

use crate::{
    support::{Net, eventually, get, get_range, noise, publish},
    tools::{take_down, until_ok},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holders_that_restart_serve_again_and_odd_ranges_are_the_bytes() {
    let mut net = Net::start(58, 16, 3600).await;
    let origin = net.client("origin", Roles::ORIGIN).await;
    // A segment and a bit.
    let bytes = noise("long", (33 << 20) + 12_345);
    let published = publish(&origin, net.file("long", &bytes)).await.unwrap();
    let id = published.content_id;
    origin.shutdown().await;
    drop(origin);

    let reader = net.client("reader", Roles::default()).await;
    let mut seed = blake3::Hasher::new();
    seed.update(b"ranges");
    let mut draws = seed.finalize_xof();
    let mut draw = |below: u64| {
        let mut eight = [0; 8];
        draws.fill(&mut eight);
        u64::from_le_bytes(eight) % below
    };
    let len = bytes.len() as u64;
    let mut ranges =
        vec![(0, 0), (0, 1), (len - 1, len), (len, len), ((32 << 20) - 1, (32 << 20) + 1)];
    ranges.extend((0..12).map(|_| {
        let start = draw(len);
        (start, start + draw((len - start).min(3 << 20)) + 1)
    }));
    for (start, end) in ranges {
        let (part, outcome) = get_range(&reader, &id, Some((start, end))).await;
        outcome.unwrap_or_else(|e| panic!("{start}..{end}: {e}"));
        let wanted = &bytes[start as usize..end as usize];
        assert!(part == wanted, "{start}..{end}: wrong bytes");
    }
    for (start, end) in [(5, 4), (len + 1, len + 2), (u64::MAX, u64::MAX)] {
        let (part, outcome) = get_range(&reader, &id, Some((start, end))).await;
        assert!(part.is_empty() && outcome.is_err(), "{start}..{end} was answered");
    }

    // Seven holders go: not enough is left. One comes back: enough.
    let victims: Vec<NodeId> = net.nodes.iter().rev().take(7).map(Node::node_id).collect();
    let mut configs = Vec::new();
    for (node, config) in take_down(&mut net, &victims).await {
        let secret = node.core().identity.secret();
        drop(node);
        configs.push((config, secret));
    }
    let (part, outcome) = get_range(&reader, &id, Some((1, 2 << 20))).await;
    let error = outcome.expect_err("nine of sixteen");
    println!("{error}");
    assert!(error.message.contains("needed"), "{error}");
    assert!(bytes[1..].starts_with(&part));
    for (config, secret) in configs {
        let start = || Node::start(config.clone(), Identity::from_secret(&secret));
        let node = until_ok("a holder comes back", start).await;
        assert!(node.core().vault.as_ref().unwrap().stats().unwrap().shards > 0);
        net.nodes.push(node);
    }
    let fresh = net.client("fresh", Roles::default()).await;
    eventually("the work is there again", || async { get(&fresh, &id).await.0 == bytes }).await;
}
