//! Forged and foreign records: refused with words, and no honest work is hidden
//! by them.

use echonet_node::{
    clock,
    flow::discover::{self, Patience},
    node::Node,
};
use echonet_protocol::{
    announcement::{Location, RecordKind},
    bytes::ManifestHash,
    content_id::ContentId,
    identity::{Identity, Signed},
    lease::{Lease, Receipt},
    node_descriptor::Roles,
    params,
    placement_record::{FirstPlacement, PlacementRecord, PlacementSignature, Step, receipts_hash},
    segment::{Scheme, SegmentId},
    time::UnixSeconds,
};

use crate::{
    support::{Net, get, noise, publish},
    tools::{Attacker, ByHand, code, page_of, root_of, stranger},
};

fn words(outcomes: Vec<Option<String>>) -> String {
    outcomes.into_iter().next().unwrap().expect("kept").clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_are_not_what_they_say_are_refused_with_words() {
    let net = Net::start(63, 3, 3600).await;
    let client = net.client("client", Roles::default()).await;
    let by_hand = ByHand::ungranted(&client, stranger("publisher"));
    let node = net.nodes[0].node_id();
    let put = |kind, bytes: Vec<u8>| {
        let calls = client.core().client.clone();
        async move { calls.put_records(&node, vec![(kind, bytes)]).await.unwrap() }
    };
    let content = ContentId::of(b"something");
    let location = Location { segment: SegmentId([5; 32]), offset: 0, length: 100 };
    let good = by_hand.announcement(content, ManifestHash([6; 32]), location);
    let kind = RecordKind::Announcement;
    assert_eq!(put(kind, good.encode()).await, [None]);
    assert_eq!(put(kind, good.encode()).await, [None], "the same again is kept already");

    let change = |f: &dyn Fn(&mut echonet_protocol::announcement::Announcement)| {
        let mut body = good.body.clone();
        f(&mut body);
        Signed::new(&by_hand.owner, body).encode()
    };
    let foreign = change(&|a| a.network.0[0] ^= 1);
    println!("{}", words(put(kind, foreign).await));
    let expired = change(&|a| a.expires = UnixSeconds(clock::now().0 - 1));
    assert!(words(put(kind, expired).await).contains("expired"));
    let mut forged = good.clone();
    forged.body.sequence += 1;
    println!("{}", words(put(kind, forged.encode()).await));
    let mut trailing = good.encode();
    trailing.push(0);
    println!("{}", words(put(kind, trailing).await));
    println!("{}", words(put(kind, vec![]).await));
    println!("{}", words(put(kind, noise("no record", 3000)).await));
    let oversize = words(put(kind, vec![0; params::RECORD_BYTES_MAX + 1]).await);
    assert!(oversize.contains("bytes"), "{oversize}");
    let oversize = vec![0; params::PLACEMENT_RECORD_BYTES_MAX + 1];
    println!("{}", words(put(RecordKind::Placement, oversize).await));
    println!("{}", words(put(RecordKind::Placement, good.encode()).await));
    let older = change(&|a| a.sequence -= 1);
    assert_eq!(put(kind, older).await, [None], "a newer one is here");
    let (found, _) =
        client.core().client.get_records(&node, kind, vec![*content.as_bytes()]).await.unwrap();
    assert_eq!(found, [good.encode()]);
}

/// Receipts of holders that do not exist, for every shard.
fn made_up(real: &PlacementRecord, label: &str) -> Vec<Signed<Receipt>> {
    made_up_for(&real.lease, real, label)
}

/// The same under another lease.
fn made_up_for(lease: &Signed<Lease>, real: &PlacementRecord, label: &str) -> Vec<Signed<Receipt>> {
    let receipts = real.receipts.iter().enumerate();
    let receipts = receipts.map(|(i, receipt)| {
        let holder = stranger(&format!("{label} {i}"));
        let (holder_id, lease) = (holder.node_id(), lease.hash());
        let body = Receipt { holder: holder_id, lease, ..receipt.body.clone() };
        Signed::new(&holder, body)
    });
    receipts.collect()
}

/// A later version by people who were never asked.
fn usurped(
    real: &PlacementRecord,
    version: u64,
    receipts: Vec<Signed<Receipt>>,
) -> PlacementRecord {
    let mut record = real.clone();
    record.lineage = vec![Step::of(real)];
    record.body = real.next_body(&receipts);
    record.body.version = version;
    record.receipts = receipts;
    record.ballot = Some(0);
    let mut signers: Vec<Identity> = (0..16).map(|i| stranger(&format!("usurper {i}"))).collect();
    signers.sort_by_key(Identity::node_id);
    let sign = |signer: &Identity| PlacementSignature::new(signer, &record.body, Some(0));
    record.signatures = signers.iter().map(sign).collect();
    record
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn placements_with_forged_receipts_or_by_usurpers_hide_nothing() {
    let net = Net::start(64, 17, 3600).await;
    let publisher = net.client("publisher", Roles::default()).await;
    let crook = net.client("crook", Roles::default()).await;
    let bytes = noise("wanted", 2 << 20);
    let published = publish(&publisher, net.file("wanted", &bytes)).await.unwrap();
    let status = {
        use echonet_node::service::Service as _;
        crook.work_status(published.content_id.parse().unwrap()).await.unwrap()
    };
    let calls = &crook.core().client;
    let kind = RecordKind::Placement;
    for segment in &status.segments {
        let segment: SegmentId = segment.segment_id.parse().unwrap();
        let found = discover::placements(crook.core(), &[segment], Patience::Short).await;
        let real = &found[&segment][0];
        let mut forged = real.clone();
        forged.receipts[0].body.holder = crook.node_id();
        let mut stolen = real.clone();
        stolen.receipts = made_up(real, "nobody");
        stolen.body.holders =
            stolen.receipts.iter().map(|r| (r.body.index, r.body.holder)).collect();
        stolen.body.receipts = receipts_hash(&stolen.receipts);
        let later = usurped(real, 2, made_up(real, "later"));
        let much_later = usurped(real, params::PLACEMENT_VERSION_MAX, made_up(real, "much later"));
        // One receipt is real: a holder may find itself named.
        let mut half = made_up(real, "half");
        half[0] = real.receipts[0].clone();
        let named = usurped(real, 1 << 10, half);
        for node in &net.nodes {
            for (record, what) in [
                (&forged, "a forged receipt"),
                (&stolen, "an owner that did not sign"),
                (&later, "a second version by strangers"),
                (&much_later, "a late version by strangers"),
                (&named, "a late version that names a holder"),
            ] {
                let outcome =
                    calls.put_records(&node.node_id(), vec![(kind, record.encode())]).await;
                let why = outcome.unwrap().remove(0);
                assert!(why.is_some_and(|why| why.len() > 10), "{what} was kept");
                // Sealing is another way in.
                let _ = calls.seal(&node.node_id(), vec![record.encode()]).await;
            }
        }
    }
    let reader = net.client("reader", Roles::default()).await;
    let (fetched, outcome) = get(&reader, &published.content_id).await;
    outcome.unwrap();
    assert!(fetched == bytes);
    let after = {
        use echonet_node::service::Service as _;
        reader.work_status(published.content_id.parse().unwrap()).await.unwrap()
    };
    assert!(after.segments.iter().flat_map(|s| &s.shards).all(|shard| shard.alive), "{after:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn made_up_holders_beside_the_real_ones_cost_time_only() {
    let net = Net::start(65, 16, 3600).await;
    let publisher = net.client("publisher", Roles::default()).await;
    let by_hand = ByHand::granted(&publisher, &net).await;
    let bytes = noise("crowded", 200_000);
    let coded = code(&bytes, Scheme::DEFAULT, |_| {});
    let holders: Vec<_> = net.nodes.iter().map(Node::node_id).collect();
    let real = by_hand.place(&coded, &holders).await;
    let page = by_hand.page(&net, &page_of(&bytes, coded.segment(), &bytes)).await;
    by_hand.announce(&net, &root_of(&bytes, page)).await;
    // Owners made up, each with a placement of the same segment at holders made up.
    // Other ones at every node: more than a reader looks at.
    let attacker = Attacker::at(&net, (65, 100), "owners").await;
    for (n, node) in net.nodes.iter().enumerate() {
        let records = (0..20).map(|i| {
            let owner = stranger(&format!("owner {n} {i}"));
            let lease = Lease { owner: owner.node_id(), grant: None, ..real.lease.body.clone() };
            let lease = Signed::new(&owner, lease);
            let receipts = made_up_for(&lease, &real, &format!("crowd {n} {i}"));
            let descriptor = real.descriptor.clone();
            let first = FirstPlacement { descriptor, lease, grant: None, receipts };
            (RecordKind::Placement, PlacementRecord::first(&owner, first).encode())
        });
        attacker.client.put_records(&node.node_id(), records.collect()).await.unwrap();
    }
    let reader = net.client("reader", Roles::default()).await;
    let begun = std::time::Instant::now();
    let (fetched, outcome) = get(&reader, &ContentId::of(&bytes).to_string()).await;
    outcome.unwrap();
    assert!(fetched == bytes);
    println!("read among made-up holders in {:?}", begun.elapsed());
    assert!(begun.elapsed() < std::time::Duration::from_secs(10), "{:?}", begun.elapsed());
}
