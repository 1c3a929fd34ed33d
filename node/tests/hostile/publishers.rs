//! A publisher whose shards are not a codeword: read while its data shards live,
//! not called live by anybody, and convicted by a portable proof when they die.

use std::time::{Duration, Instant};

use echonet_node::node::Node;
use echonet_protocol::{
    content_id::ContentId,
    data::{GROUP_BYTES, rows::Rows},
    identity::NodeId,
    inconsistency::InconsistencyProof,
    node_descriptor::Roles,
    segment::Scheme,
};

use crate::{
    support::{Net, noise},
    tools::{ByHand, code, get_and_catch, page_of, root_of},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shards_that_are_no_codeword_convict_their_publisher() {
    let mut net = Net::start(56, 18, 3600).await;
    let crook = net.client("crook", Roles::default()).await;
    let publisher = ByHand::granted(&crook, &net).await;
    let bytes = noise("not a codeword", (2 * GROUP_BYTES) as usize);
    let coded = code(&bytes, Scheme::DEFAULT, |shards| {
        for parity in &mut shards[10..] {
            let garbage = noise("garbage", parity.len());
            parity.copy_from_slice(&garbage);
        }
    });
    let holders: Vec<NodeId> = net.nodes.iter().rev().take(16).map(Node::node_id).collect();
    publisher.place(&coded, &holders).await;
    let page = publisher.page(&net, &page_of(&bytes, coded.segment(), &bytes)).await;
    publisher.announce(&net, &root_of(&bytes, page)).await;
    let id = ContentId::of(&bytes).to_string();

    let reader = net.client("reader", Roles::default()).await;
    let (fetched, outcome, _) = get_and_catch(&reader, &id).await;
    outcome.unwrap();
    assert!(fetched == bytes, "the data shards are the content");

    // Whoever took no part sees it in any row.
    let checker = net.nodes.iter().map(Node::node_id).find(|n| !holders.contains(n)).unwrap();
    let content = ContentId::of(&bytes);
    let segments = vec![coded.segment()];
    let client = &crook.core().client;
    let patience = Duration::from_secs(20);
    let checked = client.check_live(&checker, content, segments, 4, patience).await;
    let refusal = checked.expect_err("called live").to_string();
    assert!(refusal.contains("not a codeword"), "{refusal}");

    // Two data shards die.
    net.kill(&holders[..2]).await;
    let begun = Instant::now();
    let (fetched, outcome, caught) = get_and_catch(&reader, &id).await;
    let error = outcome.expect_err("nobody can have it now");
    println!("{error} after {:?}: {caught:?}", begun.elapsed());
    assert!(fetched.is_empty() || bytes.starts_with(&fetched), "wrong bytes");
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    let proof = caught.iter().find_map(|c| c.proof.as_ref()).expect("no proof was told");
    let proof = data_encoding::HEXLOWER.decode(proof.as_bytes()).unwrap();
    let proof = InconsistencyProof::decode(&proof, &Rows).expect("the proof convicts");
    assert_eq!(proof.segment_id(), coded.segment());
    let honest: Vec<String> = net.nodes.iter().map(|n| n.node_id().to_string()).collect();
    assert!(caught.iter().all(|c| !honest.contains(&c.node_id)), "a holder was blamed: {caught:?}");
}
