//! Joining a network and staying in touch: the genesis, the first nodes, then
//! everybody they know, again and again.
//!
//! It never believes a genesis whose hash is not the NetworkID it was given.

use std::{sync::Arc, time::Duration};

use echonet_protocol::{
    identity::NodeId,
    network::{BootstrapAddr, Genesis},
};
use futures::{StreamExt, stream};
use rand::seq::IteratorRandom as _;

use crate::{
    client::Client,
    clock,
    core::Core,
    net::{address::NodeAddr, endpoint::NodeEndpoint},
    service::{ServiceError, ServiceResult},
};

/// Nodes greeted at once.
const GREET_PARALLEL: usize = 16;
/// Nodes greeted in one round of keeping in touch.
const ROUND_NODES: usize = 3;
/// Pages of members taken from one node at most: the whole table of a full node.
const PAGES_MAX: usize = 512;
/// New nodes greeted after one exchange at most; the others are greeted in time.
const NEW_GREETED_MAX: usize = 256;

/// The genesis of the network that a bootstrap address names.
///
/// # Errors
/// `network` when no bootstrap node answers with the right genesis.
pub async fn fetch_genesis(
    endpoint: &NodeEndpoint,
    pool: &crate::net::node_protocol::pool::ConnectionPool,
    bootstrap: &[BootstrapAddr],
) -> ServiceResult<Genesis> {
    let mut last = "no bootstrap address was given; name one with --bootstrap".to_owned();
    let questions = stream::iter(bootstrap).map(|addr| async move {
        learn_address(endpoint, addr);
        let client = Client::new(pool.clone(), addr.network);
        (addr, client.genesis(&addr.node).await)
    });
    // All at once: the first of them may be gone, and that takes seconds to be sure of.
    let mut answers = questions.buffer_unordered(GREET_PARALLEL);
    while let Some((addr, answer)) = answers.next().await {
        match answer {
            Ok(bytes) => match Genesis::decode(&bytes) {
                Ok(genesis) if genesis.network_id() == addr.network => return Ok(genesis),
                Ok(other) => last = format!("{addr} gave the genesis of {}", other.network_id()),
                Err(e) => last = format!("{addr} gave no genesis: {e}"),
            },
            Err(e) => last = e.to_string(),
        }
    }
    Err(ServiceError::new(
        "network",
        format!("the network was not reached: {last}; check the bootstrap address and try again"),
    ))
}

/// Remembers where a bootstrap node is.
pub fn learn_address(endpoint: &NodeEndpoint, addr: &BootstrapAddr) {
    if let Err(e) = endpoint.learn(&addr.node.0, &NodeAddr::direct(addr.addr)) {
        tracing::warn!("bootstrap address {addr} is of no use: {e}");
    }
}

/// Greets one node; whether it answered.
pub async fn greet(core: &Core, node: &NodeId) -> bool {
    let begun = std::time::Instant::now();
    let answer = core.client.hello(node, core.epoch(), core.descriptor()).await;
    let now = clock::now();
    match answer {
        Ok(answer) => {
            if let Some(descriptor) = answer.descriptor.filter(|d| d.body.node == *node) {
                core.learn(descriptor);
            }
            let latency_ms = u32::try_from(begun.elapsed().as_millis()).unwrap_or(u32::MAX);
            core.members.answered(node, latency_ms, Some(answer.epoch), now);
            true
        }
        Err(e) => {
            tracing::debug!("no greeting: {e}");
            core.members.failed(node, now);
            false
        }
    }
}

/// Takes over everybody that a node knows; returns who was new.
async fn exchange(core: &Core, node: &NodeId) -> Vec<NodeId> {
    let (mut after, mut new) = (None, Vec::new());
    for _ in 0..PAGES_MAX {
        let Ok((descriptors, more)) = core.client.members(node, after).await else { break };
        let last = descriptors.last().map(|d| d.body.node);
        // Pages must go up, or a hostile node could send them for ever.
        if last.is_none() || last <= after {
            break;
        }
        after = last;
        for descriptor in descriptors {
            let node = descriptor.body.node;
            if core.learn(descriptor) {
                new.push(node);
            }
        }
        if !more {
            break;
        }
    }
    new
}

async fn greet_all(core: &Core, nodes: &[NodeId]) -> usize {
    let nodes = nodes.to_vec();
    let greetings = stream::iter(nodes).map(|node| async move { greet(core, &node).await });
    let answers: Vec<bool> = greetings.buffer_unordered(GREET_PARALLEL).collect().await;
    answers.into_iter().filter(|answered| *answered).count()
}

/// Enters the network through its bootstrap nodes. A client is content with the
/// members they know; a node that serves greets them all.
pub async fn join(core: &Core) -> usize {
    let bootstrap: Vec<NodeId> = core.config.bootstrap.iter().map(|b| b.node).collect();
    for addr in &core.config.bootstrap {
        learn_address(&core.endpoint, addr);
    }
    if !core.serves() {
        return join_as_client(core, bootstrap).await;
    }
    let answered = greet_all(core, &bootstrap).await;
    let mut new = Vec::new();
    for node in &bootstrap {
        new.extend(exchange(core, node).await);
    }
    new.truncate(NEW_GREETED_MAX);
    greet_all(core, &new).await;
    answered
}

/// A client goes on with the first bootstrap node that answers and tells it
/// whom it knows: a person is waiting, and dead nodes take seconds to be sure of.
async fn join_as_client(core: &Core, bootstrap: Vec<NodeId>) -> usize {
    let greetings =
        stream::iter(bootstrap).map(|node| async move { (greet(core, &node).await, node) });
    let mut greetings = greetings.buffer_unordered(GREET_PARALLEL);
    let mut answered = 0;
    while let Some((has_answered, node)) = greetings.next().await {
        if has_answered {
            answered += 1;
            if !exchange(core, &node).await.is_empty() {
                break;
            }
        }
    }
    answered
}

/// Keeps in touch until the node stops: each round greets a few nodes at random
/// and takes over whom they know.
pub async fn keep_in_touch(core: Arc<Core>) {
    let period = Duration::from_secs(core.genesis.timing.probe_s.max(1));
    loop {
        tokio::time::sleep(period).await;
        if core.members.is_empty() {
            join(&core).await;
            continue;
        }
        let everybody = core.members.all();
        let nodes = everybody.iter().map(|m| m.descriptor.body.node);
        let chosen = nodes.sample(&mut rand::rng(), ROUND_NODES);
        for node in chosen {
            if greet(&core, &node).await {
                let new = exchange(&core, &node).await;
                greet_all(&core, &new[..new.len().min(NEW_GREETED_MAX)]).await;
            }
        }
    }
}
