//! Manifests that lie, announced under good signatures. Alone they give nothing;
//! beside an honest one they cost a reader no byte.

use echonet_node::node::Node;
use echonet_protocol::{
    announcement::{Location, RecordKind},
    bytes::ManifestHash,
    content_id::ContentId,
    data::GROUP_BYTES,
    manifest::{ManifestBody, ManifestRoot, PageRef},
    node_descriptor::Roles,
};

use crate::{
    support::{Net, get, get_range, noise, publish},
    tools::{Attacker, ByHand, get_and_catch, page_of, root_of, stranger},
};

/// A content of so many MiB.
fn content(label: &str, mib: u64) -> Vec<u8> {
    noise(label, usize::try_from(mib * GROUP_BYTES).unwrap())
}

/// The same number of MiBs, under the content's own hash tree.
async fn shorter(liar: &ByHand<'_>, net: &Net, content: &[u8]) {
    let segment = liar.segment(net, content).await;
    let mut page = page_of(content, segment, content);
    page.length -= 700_000;
    page.extents.last_mut().unwrap().stored -= 700_000;
    page.extents.last_mut().unwrap().plain -= 700_000;
    let page = liar.page(net, &page).await;
    let mut root = root_of(content, page);
    root.length -= 700_000;
    liar.announce(net, &root).await;
}

/// The ways to lie about `content`; each announces and returns.
async fn lie(way: &str, liar: &ByHand<'_>, net: &Net, content: &[u8]) {
    let other = noise(&format!("other bytes {way}"), content.len());
    match way {
        "the chunks are of something else" => {
            let segment = liar.segment(net, &other).await;
            let page = liar.page(net, &page_of(content, segment, &other)).await;
            liar.announce(net, &root_of(content, page)).await;
        }
        "the chunks claim the right hashes" => {
            let segment = liar.segment(net, &other).await;
            let mut page = page_of(content, segment, &other);
            let right = page_of(content, segment, content);
            for (wrong, right) in page.extents.iter_mut().zip(right.extents) {
                wrong.chunk = right.chunk;
            }
            let page = liar.page(net, &page).await;
            liar.announce(net, &root_of(content, page)).await;
        }
        "the length is absurd" => {
            let segment = liar.segment(net, content).await;
            let page = liar.page(net, &page_of(content, segment, content)).await;
            let length = 1 << 40;
            let pages = vec![page.clone(); 1024];
            let root = ManifestRoot {
                length,
                body: ManifestBody::Paged { outboard: vec![0; 1023 * 64], pages },
                ..root_of(content, page)
            };
            liar.announce(net, &root).await;
        }
        "one byte longer" => {
            let longer = [content, &[0]].concat();
            let segment = liar.segment(net, &longer).await;
            let mut page = page_of(&longer, segment, &longer);
            page.content = ContentId::of(content);
            let page = liar.page(net, &page).await;
            let root = ManifestRoot { content: ContentId::of(content), ..root_of(&longer, page) };
            liar.announce(net, &root).await;
        }
        "some bytes shorter" => shorter(liar, net, content).await,
        "the outboard is wrong" => {
            let segment = liar.segment(net, content).await;
            let mut page = page_of(content, segment, content);
            page.outboard[40] ^= 1;
            let page = liar.page(net, &page).await;
            liar.announce(net, &root_of(content, page)).await;
        }
        "the page is something else" => {
            let segment = liar.segment(net, &other[..20_000]).await;
            let location = Location { segment, offset: 10, length: 10_000 };
            let page = PageRef { hash: ManifestHash([7; 32]), location };
            liar.announce(net, &root_of(content, page)).await;
        }
        other => panic!("no such lie: {other}"),
    }
}

const LIES: [&str; 7] = [
    "the chunks are of something else",
    "the chunks claim the right hashes",
    "the length is absurd",
    "one byte longer",
    "some bytes shorter",
    "the outboard is wrong",
    "the page is something else",
];

async fn read_all(reader: &Node, content: &[u8], why: &str) {
    let id = ContentId::of(content).to_string();
    let (bytes, outcome) = get(reader, &id).await;
    outcome.unwrap_or_else(|e| panic!("{why}: {e}"));
    assert!(bytes == content, "{why}: wrong bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lying_manifest_alone_gives_nothing_and_beside_an_honest_one_costs_nothing() {
    let net = Net::start(53, 17, 3600).await;
    let publisher = net.client("publisher", Roles::default()).await;
    let crook = net.client("crook", Roles::default()).await;
    let reader = net.client("reader", Roles::default()).await;
    for way in LIES {
        let bytes = noise(way, (2 << 20) + 900_000);
        let id = ContentId::of(&bytes).to_string();
        lie(way, &ByHand::ungranted(&crook, stranger(way)), &net, &bytes).await;
        let (fetched, outcome) = get(&reader, &id).await;
        let error = outcome.expect_err(way);
        assert!(fetched.is_empty(), "{way}: {} bytes of a lie were handed out", fetched.len());
        assert!(!error.message.is_empty());
        // Nor is a length believed that nothing proves: not even an empty range is in it.
        let shorter = bytes.len() as u64 - 700_000;
        let (fetched, outcome) = get_range(&reader, &id, Some((shorter, shorter + 5))).await;
        assert!(outcome.is_err() && fetched.is_empty(), "{way}: {outcome:?}");
        println!("{way}: {error}");

        publish(&publisher, net.file(way, &bytes)).await.unwrap();
        read_all(&reader, &bytes, way).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_that_lies_about_one_mib_only_is_left_for_another() {
    let net = Net::start(54, 17, 3600).await;
    let publisher = net.client("publisher", Roles::default()).await;
    let crook = net.client("crook", Roles::default()).await;
    let reader = net.client("reader", Roles::default()).await;
    let bytes = content("eight", 8);
    let id = ContentId::of(&bytes).to_string();
    let mut spoiled = bytes.clone();
    let last = spoiled.len() - 1;
    spoiled[last - (3 << 20)] ^= 1;
    let liar = ByHand::ungranted(&crook, stranger("liar"));
    let segment = liar.segment(&net, &spoiled).await;
    let page = liar.page(&net, &page_of(&bytes, segment, &spoiled)).await;
    liar.announce(&net, &root_of(&bytes, page)).await;

    // Alone: what is handed out is right, up to the lie.
    let (fetched, outcome, caught) = get_and_catch(&reader, &id).await;
    outcome.expect_err("one MiB is not to be had");
    let named = liar.owner.node_id().to_string();
    assert!(caught.iter().any(|c| c.node_id == named && c.detail.contains("wrong")), "{caught:?}");
    assert!(bytes.starts_with(&fetched) && fetched.len() <= 4 << 20, "{} bytes", fetched.len());

    publish(&publisher, net.file("eight", &bytes)).await.unwrap();
    for _ in 0..6 {
        read_all(&reader, &bytes, "one wrong MiB beside an honest manifest").await;
    }
    let end = bytes.len() as u64;
    let (tail, outcome) = get_range(&reader, &id, Some((end - 5, end))).await;
    outcome.unwrap();
    assert!(tail == bytes[bytes.len() - 5..]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_liars_do_not_hide_an_honest_publisher() {
    let net = Net::start(55, 16, 3600).await;
    let publisher = net.client("publisher", Roles::default()).await;
    let crook = net.client("crook", Roles::default()).await;
    let reader = net.client("reader", Roles::default()).await;
    let bytes = content("popular", 2);
    publish(&publisher, net.file("popular", &bytes)).await.unwrap();
    let liar = ByHand::ungranted(&crook, stranger("the first of many"));
    let other = noise("something else", bytes.len());
    let segment = liar.segment(&net, &other).await;
    // Other ones at every node: more than a reader looks at.
    let attacker = Attacker::at(&net, (55, 100), "liars").await;
    for (n, node) in net.nodes.iter().enumerate() {
        let records = (0..20u32).map(|i| {
            let liar = ByHand::ungranted(&crook, stranger(&format!("one of many {n} {i}")));
            let location = Location { segment, offset: i * 100, length: 5_000 };
            let manifest = ManifestHash(*blake3::hash(&[n as u8, i as u8]).as_bytes());
            let announcement = liar.announcement(ContentId::of(&bytes), manifest, location);
            (RecordKind::Announcement, announcement.encode())
        });
        attacker.client.put_records(&node.node_id(), records.collect()).await.unwrap();
    }
    read_all(&reader, &bytes, "many liars").await;
}
