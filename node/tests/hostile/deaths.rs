//! A member that declares everybody dead, again and again, to everybody: whom
//! nobody's own probes miss stays where it is.

use std::time::{Duration, Instant};

use echonet_node::{clock, node::Node, service::Service as _};
use echonet_protocol::{
    identity::{Identity, NodeId, Signed},
    membership::{Ask, Claim, Life},
    node_descriptor::Roles,
    params,
};

use crate::support::{Net, eventually, get, noise, publish};

/// Twice the grace and the time to urgent repairs of these networks.
const SLANDER: Duration = Duration::from_secs(2 * (10 + 5));

/// Signed by the liar: each of the others is down, whatever it said last.
fn deaths(liar: &Node, others: &[NodeId]) -> Vec<Signed<Claim>> {
    let identity = Identity::from_secret(&liar.core().identity.secret());
    let (network, at) = (liar.network_id(), clock::now());
    let death = |about: &NodeId| Claim {
        v: params::FORMAT_VERSION,
        network,
        claimant: identity.node_id(),
        about: *about,
        incarnation: Claim::INCARNATION_MAX,
        life: Life::Down,
        disk: None,
        at,
    };
    others.iter().map(|about| Signed::new(&identity, death(about))).collect()
}

/// Tells everybody that everybody else is dead; how many listened.
async fn slander(liar: &Node, others: &[NodeId]) -> usize {
    let claims = deaths(liar, others);
    let mut heard = 0;
    for to in others {
        for claims in claims.chunks(params::CLAIMS_MAX) {
            let ask = Ask::Ping { claims: claims.to_vec() };
            heard += usize::from(liar.core().client.membership(to, ask).await.is_ok());
        }
    }
    heard
}

async fn moved(node: &Node) -> u64 {
    let repair = node.node_status().await.unwrap().repair.unwrap();
    repair.repaired_shards + repair.handed_over_shards
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_declares_everybody_dead_has_nothing_repaired() {
    let net = Net::start(70, 18, 3600).await;
    let origin = net.client("origin", Roles::ORIGIN).await;
    let bytes = noise("slandered", 3 << 20);
    let id = publish(&origin, net.file("work", &bytes)).await.unwrap().content_id;
    let (liar, honest) = net.nodes.split_last().unwrap();
    let others: Vec<NodeId> = honest.iter().map(Node::node_id).collect();

    let (end, mut heard) = (Instant::now() + SLANDER, 0);
    while Instant::now() < end {
        heard += slander(liar, &others).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    println!("{heard} questions full of deaths were answered");
    assert!(heard >= others.len(), "nobody listened: the test tests nothing");

    for node in honest {
        assert_eq!(moved(node).await, 0, "shards of the living were moved");
    }
    eventually("everybody to be seen alive", || async {
        for node in honest {
            let peers = node.peers().await.unwrap();
            let is_alive = |id: &NodeId| {
                let found = peers.iter().find(|peer| peer.node_id == id.to_string());
                *id == node.node_id() || found.is_some_and(|peer| peer.state == "reachable")
            };
            if !others.iter().all(is_alive) {
                return false;
            }
        }
        true
    })
    .await;
    let reader = net.client("reader", Roles::default()).await;
    let (got, fetched) = get(&reader, &id).await;
    fetched.unwrap();
    assert!(got == bytes, "wrong bytes");
}
