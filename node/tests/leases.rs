//! Leases at work: two owners of one work, holders that are away, and everything that nobody leases
//! any more is gone from the disks.

#[cfg(test)]
mod support;

use std::path::Path;

use echonet_node::{node::Node, service::Service};
use echonet_protocol::{identity::NodeId, node_descriptor::Roles};
use support::{Net, eventually, get, keep, noise, publish};

/// Leases of an owner on a node that were not ended.
fn living(node: &Node, owner: NodeId) -> usize {
    let vault = node.core().vault.as_ref().expect("a vault");
    let keys = vault.keys(None, 1_000).expect("keys");
    let leases = keys.into_iter().flat_map(|key| vault.leases(key).expect("leases"));
    leases.filter(|lease| lease.meta.owner == owner.0 && !lease.ended).count()
}

fn living_anywhere(net: &Net, owner: NodeId) -> usize {
    net.nodes.iter().map(|node| living(node, owner)).sum()
}

fn shards(net: &Net) -> u64 {
    let of =
        |node: &Node| node.core().vault.as_ref().expect("a vault").stats().expect("figures").shards;
    net.nodes.iter().map(of).sum()
}

/// Bytes of the volume files of all nodes.
fn volume_bytes(net: &Net) -> u64 {
    let of = |node: &Node| {
        let volumes = Path::new(&node.core().config.data).join("vault/volumes");
        let files = std::fs::read_dir(volumes).expect("a directory");
        // A file may be removed while one looks.
        files.filter_map(|f| f.ok()?.metadata().ok()).map(|m| m.len()).sum::<u64>()
    };
    net.nodes.iter().map(of).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kept_work_outlives_its_publishers_withdrawal_and_ends_with_the_keepers() {
    let net = Net::start(44, 17, 3600).await;
    let publisher = net.client("publisher", Roles::default()).await;
    let keeper = net.client("keeper", Roles::default()).await;
    let bytes = noise("kept", 3 << 20);
    let work = publish(&publisher, net.file("work", &bytes)).await.unwrap();
    let content = &work.content_id;

    let own = keep(&publisher, content).await.unwrap_err();
    assert_eq!(own.kind, "invalid", "{own}");
    let kept = keep(&keeper, content).await.unwrap();
    println!("{kept:?}");
    assert_eq!((kept.segments, kept.size), (work.segments, work.size));
    assert_eq!(kept.receipts.have, kept.receipts.want, "every holder is alive");
    let state = |works: Vec<echonet_node::service::Work>| works[0].state.clone();
    assert_eq!(state(keeper.works().await.unwrap()), "kept");
    // Again: new leases, and the first ones end.
    keep(&keeper, content).await.unwrap();
    assert_eq!(living_anywhere(&net, keeper.node_id()) as u64, kept.receipts.have);

    let withdrawn = publisher.unpublish(content.parse().unwrap()).await.unwrap();
    assert_eq!((withdrawn.holders_unreached, withdrawn.holders_told > 13), (0, true));
    assert_eq!(living_anywhere(&net, publisher.node_id()), 0);
    assert_eq!(living_anywhere(&net, keeper.node_id()) as u64, kept.receipts.have);
    let reader = net.client("reader", Roles::default()).await;
    let (fetched, outcome) = get(&reader, content).await;
    outcome.unwrap();
    assert!(fetched == bytes);
    for node in &net.nodes {
        let vault = node.core().vault.clone().unwrap();
        for (key, _) in vault.placement_keys(None, 100).unwrap() {
            let owners = [publisher.node_id().0, keeper.node_id().0];
            assert!(owners.contains(&key.owner));
        }
        assert!(vault.collect(1_000).unwrap().dropped == 0, "leased");
        assert!(
            vault
                .placement_keys(None, 100)
                .unwrap()
                .iter()
                .all(|(key, _)| { key.owner == keeper.node_id().0 })
        );
    }

    keeper.unpublish(content.parse().unwrap()).await.unwrap();
    assert_eq!(living_anywhere(&net, keeper.node_id()), 0);
    assert_eq!(state(keeper.works().await.unwrap()), "withdrawn");
    let other = net.client("other", Roles::default()).await;
    assert_eq!(get(&other, content).await.1.unwrap_err().kind, "not_found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holders_that_were_away_are_counted_and_told_later() {
    let mut net = Net::start(45, 17, 3600).await;
    let publisher = net.client("publisher", Roles::default()).await;
    let one = publish(&publisher, net.file("one", &noise("one", 1 << 20))).await.unwrap();
    let two = publish(&publisher, net.file("two", &noise("two", 20 << 10))).await.unwrap();
    let away = net.nodes[5].node_id();
    let leases = living(&net.nodes[5], publisher.node_id());
    assert!(leases > 0, "it holds shards of most segments");
    let config = net.nodes[5].core().config.clone();
    let addr = net.nodes[5].addrs()[0];
    net.kill(&[away]).await;
    let withdrawn = publisher.unpublish(one.content_id.parse().unwrap()).await.unwrap();
    assert_eq!(withdrawn.holders_unreached, 1, "{withdrawn:?}");
    let rest = living_anywhere(&net, publisher.node_id());

    let identity = echonet_protocol::identity::Identity::from_secret(&support::secret("node 45 5"));
    let config = echonet_node::config::NodeConfig { bind: addr, ..config };
    let back = Node::start(config, identity).await.unwrap();
    assert!(living(&back, publisher.node_id()) > 0, "nobody told it");
    eventually("the holder is known again", || async {
        let known = publisher.core().client.hello(&away, publisher.core().epoch(), None).await;
        known.is_ok()
    })
    .await;
    let withdrawn = publisher.unpublish(two.content_id.parse().unwrap()).await.unwrap();
    assert_eq!(withdrawn.holders_unreached, 0, "{withdrawn:?}");
    assert_eq!(living(&back, publisher.node_id()), 0, "told of both works");
    assert!(rest > 0 && living_anywhere(&net, publisher.node_id()) == 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_renew_themselves_to_the_end_of_their_grant_and_then_the_disks_shrink() {
    let net = Net::start_with(46, 17, 1, |genesis| {
        genesis.segment_bytes = 1 << 20;
        genesis.volume_bytes = 8 << 20;
        genesis.unsealed_epochs = 20;
        genesis.lease_epochs_max = 62;
    })
    .await;
    let empty = volume_bytes(&net);
    let publisher = net.client("publisher", Roles::default()).await;
    let bytes = noise("renewed", 3 << 20);
    let work = publish(&publisher, net.file("work", &bytes)).await.unwrap();
    let rows = publisher.core().catalog.works().unwrap();
    let grant_until = rows[0].1.grant.as_ref().unwrap().body.until;
    let full = volume_bytes(&net);
    assert!(full > empty + (4 << 20), "{empty} {full}");
    let stored = shards(&net);
    let segment = rows[0].1.segments[0].0;
    let lease = publisher.core().catalog.segment(&segment).unwrap().unwrap().lease.body;
    assert!(lease.standing && lease.term() == 20 && lease.until.0 + 30 < grant_until.0);
    publisher.shutdown().await;

    // Past the term that was signed, and the grace: all is here still.
    let node = &net.nodes[0];
    let past = |epoch: u64| async move { node.core().epoch().0 > epoch };
    eventually("the signed term is over", || past(lease.until.0 + 3)).await;
    assert_eq!(shards(&net), stored);
    let reader = net.client("reader", Roles::default()).await;
    let (fetched, outcome) = get(&reader, &work.content_id).await;
    outcome.unwrap();
    assert!(fetched == bytes);

    for _ in 0..2 {
        eventually("the grant is nearly over", || past(lease.until.0 + 25)).await;
    }
    eventually("the grant is over", || past(grant_until.0)).await;
    eventually("everything is collected", || async { shards(&net) == 0 }).await;
    eventually("the disks shrink", || async { volume_bytes(&net) < empty + (1 << 20) }).await;
}
