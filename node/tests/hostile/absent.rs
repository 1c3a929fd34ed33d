//! Content that nobody has, asked of a network part of which is dead.

use std::time::{Duration, Instant};

use echonet_node::node::Node;
use echonet_protocol::{content_id::ContentId, node_descriptor::Roles};

use crate::support::{Net, get};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn absent_content_is_answered_in_time_though_nodes_are_dead() {
    let mut net = Net::start(57, 14, 3600).await;
    let reader = net.client("reader", Roles::default()).await;
    for killed in [0usize, 3, 4] {
        let victims: Vec<_> = net.nodes.iter().rev().take(killed).map(Node::node_id).collect();
        net.kill(&victims).await;
        let id = ContentId::of(format!("nobody has this {killed}").as_bytes()).to_string();
        let begun = Instant::now();
        let (bytes, outcome) = get(&reader, &id).await;
        let error = outcome.expect_err("it does not exist");
        let took = begun.elapsed();
        println!("{killed} more dead: {error} after {took:?}");
        assert!(took < Duration::from_secs(10), "{killed} more dead: {took:?}");
        assert!(bytes.is_empty());
        assert_eq!(error.kind, "not_found", "{error}");
        assert!(error.message.contains(&id), "{error}");
    }
    for nonsense in ["", "bafkr4i", "zzzz", &"a".repeat(4096), "echo:"] {
        let (_, outcome) = get(&reader, nonsense).await;
        assert_eq!(outcome.expect_err("not a ContentID").kind, "invalid");
    }
}
