//! The first whole path in one process: publish, end the publisher, lose holders,
//! fetch with a stranger.

#[cfg(test)]
mod support;

use std::collections::BTreeMap;

use echonet_node::service::{SegmentStatus, Service};
use echonet_protocol::{identity::NodeId, node_descriptor::Roles};
use support::{Net, get, get_range, noise, publish};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn published_works_outlive_their_publisher_and_six_holders() {
    let mut net = Net::start(41, 20, 3600).await;
    let publisher = net.client("publisher", Roles::default()).await;
    let sizes = [0usize, 1, 16 << 10, (16 << 10) + 1, 3 << 20, (32 << 20) + 1];
    let mut works = Vec::new();
    for size in sizes {
        let bytes = noise(&format!("work {size}"), size);
        let path = net.file(&format!("work-{size}"), &bytes);
        let published = publish(&publisher, path).await.unwrap();
        println!("{published:?}");
        assert_eq!(published.size, size as u64);
        assert!(published.survives_datacenter, "{published:?}");
        assert_eq!(published.receipts.want, published.receipts.have);
        works.push((published, bytes));
    }
    publisher.shutdown().await;
    let victims = six_of_each(&net, &works.last().unwrap().0.content_id).await;
    net.kill(&victims).await;
    let reader = net.client("reader", Roles::default()).await;
    for (published, bytes) in &works {
        let (fetched, outcome) = get(&reader, &published.content_id).await;
        let outcome = outcome.unwrap();
        println!("{} bytes in {:.2} s", outcome.size, outcome.seconds);
        assert!(fetched == *bytes, "wrong bytes for {}", published.content_id);
    }
    let (last, bytes) = works.last().unwrap();
    let (part, outcome) = get_range(&reader, &last.content_id, Some((1_000_000, 5_000_001))).await;
    outcome.unwrap();
    assert!(part == bytes[1_000_000..5_000_001]);
    reader.shutdown().await;
}

/// Holders of which no segment of the work loses more than six, and one loses six.
async fn six_of_each(net: &Net, content: &str) -> Vec<NodeId> {
    let status = net.nodes[0]
        .work_status(content.parse().expect("a ContentID"))
        .await
        .expect("the work is known");
    let held_by = |node: NodeId| -> Vec<String> {
        let id = node.to_string();
        let has = |s: &&SegmentStatus| s.shards.iter().any(|x| x.alive && x.holder == id);
        status.segments.iter().filter(has).map(|s| s.segment_id.clone()).collect()
    };
    let target = &status.segments.last().expect("a work has segments").segment_id;
    let holders = net.nodes.iter().rev().map(|node| node.node_id());
    let victims: Vec<_> = holders.filter(|node| held_by(*node).contains(target)).take(6).collect();
    let mut lost: BTreeMap<String, usize> = BTreeMap::new();
    for segment in victims.iter().flat_map(|node| held_by(*node)) {
        *lost.entry(segment).or_default() += 1;
    }
    assert_eq!(lost.get(target), Some(&6), "{lost:?}");
    victims
}
