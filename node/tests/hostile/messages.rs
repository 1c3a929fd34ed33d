//! Malformed and hostile messages against a running node: each refusal says why,
//! and others are served meanwhile.

use std::time::{Duration, Instant};

use echonet_node::node::Node;
use echonet_protocol::{
    announcement::RecordKind,
    bytes::ShardHash,
    content_id::ContentId,
    identity::NodeId,
    message::{self, Envelope, RefusalCode, Request, Response, SliceSpec},
    network::NetworkId,
    node_descriptor::Roles,
    params,
    segment::{Scheme, SegmentId},
    time::Epoch,
};

use crate::{
    support::{Net, get, noise, publish},
    tools::{Attacker, ByHand, Coded, code, framed, stranger},
};

/// A refusal of this kind, with words.
#[track_caller]
fn refused(answer: Result<Response, String>, code: RefusalCode, what: &str) -> String {
    match answer {
        Ok(Response::Refused(refusal)) => {
            assert_eq!(refusal.code, code, "{what}: {refusal}");
            assert!(refusal.reason.len() > 5, "{what}: no reason");
            refusal.reason
        }
        other => panic!("{what}: {other:?}"),
    }
}

async fn still_serves(node: &Node, attacker: &Attacker) {
    let hello = Request::Hello { epoch: Epoch(0), descriptor: None };
    let answer = attacker.ask(node, hello).await;
    assert!(matches!(answer, Ok(Response::Hello { .. })), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_no_request_are_refused_with_words() {
    let net = Net::start(59, 3, 3600).await;
    let node = &net.nodes[0];
    let attacker = Attacker::at(&net, (59, 100), "malformed").await;
    let hello = attacker.frame(Request::Hello { epoch: Epoch(0), descriptor: None });

    // Random bytes in a good frame, and a good request with something behind it.
    for i in 0..200usize {
        let bytes = noise(&format!("random {i}"), i * 7 % 500);
        let answer = attacker.raw(node, &framed(&bytes)).await;
        let is_refused = matches!(&answer, Ok(Response::Refused(r)) if r.reason.len() > 5);
        let is_later = matches!(&answer, Ok(Response::Unsupported { max: 1 }));
        assert!(is_refused || is_later, "random {i}: {answer:?}");
    }
    let unsupported = |answer: Result<Response, String>, what: &str| {
        assert!(matches!(answer, Ok(Response::Unsupported { max: 1 })), "{what}: {answer:?}");
    };
    let too_many = [&hello[..], &[0]].concat();
    unsupported(attacker.raw(node, &framed(&too_many)).await, "something behind it");

    // Every prefix of a request, and every single bit of it flipped.
    for len in 0..hello.len() {
        let answer = attacker.raw(node, &framed(&hello[..len])).await;
        unsupported(answer, &format!("its first {len} bytes"));
    }
    for bit in 0..hello.len() * 8 {
        let mut flipped = hello.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let answer = attacker.raw(node, &framed(&flipped)).await;
        assert!(answer.is_ok(), "bit {bit}: {answer:?}");
    }

    // Variants and versions that do not exist yet.
    let mut later = hello.clone();
    let variant = later.len() - 3;
    later[variant] = 100;
    let answer = attacker.raw(node, &framed(&later)).await;
    unsupported(answer, "a later variant");

    // Lengths that lie.
    let huge = u32::MAX.to_le_bytes();
    let reason = refused(attacker.raw(node, &huge).await, RefusalCode::Invalid, "a huge length");
    assert!(reason.contains("at most"), "{reason}");
    let over = u32::try_from(params::REQUEST_BYTES_MAX + 1).unwrap().to_le_bytes();
    refused(attacker.raw(node, &over).await, RefusalCode::Invalid, "one byte over");
    let cut = &framed(&hello)[..20];
    let reason = refused(attacker.raw(node, cut).await, RefusalCode::Invalid, "cut off");
    assert!(reason.contains("ended"), "{reason}");

    // Another network.
    let request = Request::Members { after: None };
    let envelope = Envelope { network: NetworkId([1; 32]), version: 1, request };
    let bytes = framed(&message::encode(&envelope));
    refused(attacker.raw(node, &bytes).await, RefusalCode::WrongNetwork, "another network");
    still_serves(node, &attacker).await;
}

/// Offset, length and group size of slices that a shard of 20,000 bytes does not have.
const ABSURD_SLICES: [(u64, u64, u8); 13] = [
    (0, 0, 0),
    (0, 0, 255),
    (0, u64::MAX, 0),
    (u64::MAX, u64::MAX, 0),
    (u64::MAX, 1, 0),
    (1, u64::MAX, 4),
    (20_000, 1, 0),
    (0, 20_001, 10),
    (0, 1, 11),
    (0, 1, 200),
    (0, 100, 255),
    (0, u64::MAX, 255),
    (u64::MAX, u64::MAX, 255),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_out_of_bounds_are_refused_with_words() {
    let net = Net::start(60, 16, 3600).await;
    let attacker = Attacker::at(&net, (60, 100), "bounds").await;
    let client = net.client("client", Roles::default()).await;
    let by_hand = ByHand::ungranted(&client, stranger("owner"));
    let bytes = noise("a segment", 200_000);
    let segment = by_hand.segment(&net, &bytes).await;
    let node = &net.nodes[0];
    let invalid = |answer, what: &str| refused(answer, RefusalCode::Invalid, what);

    for (offset, length, group_log) in ABSURD_SLICES {
        let slice = SliceSpec { offset, length, group_log };
        let what = format!("{slice:?}");
        let shard = Request::GetShard { segment, index: 0, slice };
        invalid(attacker.ask(node, shard).await, &what);
        let content = Request::GetContent { content: ContentId::of(b"?"), slice };
        let answer = attacker.ask(node, content).await;
        assert!(matches!(answer, Ok(Response::Refused(_))), "{what}: {answer:?}");
    }
    let slice = SliceSpec { offset: 0, length: 1, group_log: 0 };
    for (segment, index) in [(segment, 1), (segment, 255), (SegmentId([0; 32]), 0)] {
        let answer = attacker.ask(node, Request::GetShard { segment, index, slice }).await;
        refused(answer, RefusalCode::NotFound, "a shard that is not here");
    }

    let too_many = params::BATCH_ITEMS_MAX + 1;
    let shards = vec![(segment, 0); too_many];
    invalid(attacker.ask(node, Request::HasShards { shards }).await, "HasShards");
    let ids = vec![[0; 32]; too_many];
    let kind = RecordKind::Placement;
    invalid(attacker.ask(node, Request::GetRecords { kind, ids }).await, "GetRecords");
    let records = vec![(kind, vec![0; 10].into()); too_many];
    invalid(attacker.ask(node, Request::PutRecords { records }).await, "PutRecords");
    let placements = vec![vec![0; 10].into(); too_many];
    invalid(attacker.ask(node, Request::Seal { placements }).await, "Seal");
    let live = Request::CheckLive { content: ContentId::of(b"?"), segments: vec![], mib: u32::MAX };
    invalid(attacker.ask(node, live).await, "CheckLive");
    let grant = Request::RequestGrant { byte_epochs: u64::MAX, until: Epoch(u64::MAX) };
    invalid(attacker.ask(node, grant).await, "RequestGrant");
    let after = Some(NodeId([0xff; 32]));
    let answer = attacker.ask(node, Request::Members { after }).await;
    assert!(
        matches!(&answer, Ok(Response::Members { descriptors, more: false }) if descriptors.is_empty())
    );
    still_serves(node, &attacker).await;
}

fn store(by_hand: &ByHand<'_>, coded: &Coded) -> Request {
    Request::StoreShard {
        lease: by_hand.lease(coded.segment()),
        grant: None,
        descriptor: coded.descriptor.clone(),
        index: 0,
        placement_version: 1,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shards_of_another_length_or_hash_are_not_stored() {
    let net = Net::start(61, 3, 3600).await;
    let attacker = Attacker::at(&net, (61, 100), "shards").await;
    let client = net.client("client", Roles::default()).await;
    let by_hand = ByHand::ungranted(&client, stranger("owner"));
    let node = &net.nodes[0];
    let node_id = node.node_id();
    let two = Scheme::new(1, 1).unwrap();
    let good = noise("a shard", 50_000);
    let mut wrong = good.clone();
    wrong[49_999] ^= 1;
    let coded = code(&good, two, |_| {});
    let claim =
        echonet_node::client::LeaseClaim { lease: by_hand.lease(coded.segment()), grant: None };
    for (bytes, what) in
        [(&good[..49_999], "fewer bytes"), (&wrong[..], "wrong bytes"), (&[], "none")]
    {
        let bytes = bytes.to_vec().into();
        let sent = attacker.client.store_shard(&node_id, &claim, &coded.descriptor, 0, 1, bytes);
        let error = sent.await.expect_err(what);
        let refusal =
            error.refusal().unwrap_or_else(|| panic!("{what}: no reason was given: {error}"));
        assert_eq!(refusal.code, RefusalCode::Invalid, "{what}: {refusal}");
        println!("{what}: {refusal}");
    }
    assert_eq!(node.core().vault.as_ref().unwrap().stats().unwrap().shards, 0);
    // More bytes than were announced: the rest is nobody's.
    let more = [&good[..], b"more"].concat();
    let sent = attacker.client.store_shard(&node_id, &claim, &coded.descriptor, 0, 1, more.into());
    sent.await.unwrap();

    // Leases that do not fit.
    let other = code(&noise("another", 50_000), two, |_| {});
    let mut request = store(&by_hand, &coded);
    if let Request::StoreShard { descriptor, .. } = &mut request {
        *descriptor = other.descriptor.clone();
    }
    refused(attacker.ask(node, request).await, RefusalCode::Invalid, "another segment's lease");
    let mut request = store(&by_hand, &coded);
    if let Request::StoreShard { lease, .. } = &mut request {
        lease.body.until = Epoch(lease.body.until.0 + 1);
    }
    refused(attacker.ask(node, request).await, RefusalCode::Invalid, "a lease that was changed");
    let mut request = store(&by_hand, &coded);
    if let Request::StoreShard { index, .. } = &mut request {
        *index = 2;
    }
    refused(attacker.ask(node, request).await, RefusalCode::Invalid, "no such index");
    let mut request = store(&by_hand, &coded);
    if let Request::StoreShard { descriptor, .. } = &mut request {
        descriptor.shards[1] = ShardHash([0; 32]);
    }
    refused(attacker.ask(node, request).await, RefusalCode::Invalid, "copies that differ");
    still_serves(node, &attacker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_holds_streams_open_delays_nobody() {
    let net = Net::start(62, 18, 3600).await;
    let publisher = net.client("publisher", Roles::default()).await;
    let bytes = noise("patient", 3 << 20);
    let published = publish(&publisher, net.file("patient", &bytes)).await.unwrap();
    let by_hand = ByHand::ungranted(&publisher, stranger("owner"));
    let two = Scheme::new(1, 1).unwrap();
    // Four networks announce a MiB each, 40 times, to every node, and send nothing.
    let mut held = Vec::new();
    for place in 100..104u8 {
        let attacker = Attacker::at(&net, (62, place), "holds").await;
        for i in 0..20 {
            let coded = code(&noise(&format!("{place} {i}"), 1 << 20), two, |_| {});
            let frame = attacker.frame(store(&by_hand, &coded));
            for node in &net.nodes {
                let addr = echonet_node::net::address::NodeAddr::direct(node.addrs()[0]);
                let mut stream = attacker.pool.open(&node.node_id().0, &addr).await.unwrap();
                stream.write_frame(&frame, params::REQUEST_BYTES_MAX).await.unwrap();
                held.push(stream);
            }
        }
        held.push(
            attacker.pool.open(&net.nodes[0].node_id().0, &Default::default()).await.unwrap(),
        );
        // The endpoint must live as long as its streams.
        std::mem::forget(attacker);
    }
    let begun = Instant::now();
    let reader = net.client("reader", Roles::default()).await;
    let (fetched, outcome) = get(&reader, &published.content_id).await;
    outcome.unwrap();
    assert!(fetched == bytes);
    println!("fetched after {:?}", begun.elapsed());
    let again = noise("patient again", 3 << 20);
    let published = publish(&publisher, net.file("again", &again)).await.unwrap();
    println!("published after {:?}: {published:?}", begun.elapsed());
    assert_eq!(published.receipts.want, published.receipts.have);
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    drop(held);
}
