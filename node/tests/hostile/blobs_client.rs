//! A plain iroh-blobs client, which knows nothing of this network, fetches a
//! work from its origin by ContentID.

use std::{io::Write as _, str::FromStr as _};

use echonet_protocol::{content_id::ContentId, node_descriptor::Roles};
use iroh::{
    Endpoint, EndpointAddr, EndpointId, TransportAddr,
    endpoint::{Connection, presets},
};
use iroh_blobs::{Hash, store::mem::MemStore};

use crate::support::{Net, noise, publish};

async fn connect(client: &Endpoint, origin: &echonet_node::node::Node) -> Connection {
    let id = EndpointId::from_bytes(&origin.node_id().0).unwrap();
    let addr = EndpointAddr::from_parts(id, [TransportAddr::Ip(origin.addrs()[0])]);
    client.connect(addr, iroh_blobs::ALPN).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_blobs_client_gets_a_work_by_content_id_or_an_error() {
    let net = Net::start(50, 17, 3600).await;
    let origin = net.client("origin", Roles::ORIGIN).await;
    let client = Endpoint::builder(presets::Minimal).bind().await.unwrap();
    for size in [1usize, 20_000, 3_000_001] {
        let bytes = noise(&format!("blob {size}"), size);
        let path = net.file(&format!("blob-{size}"), &bytes);
        let published = publish(&origin, path.clone()).await.unwrap();
        let hash = hash_of(&published.content_id);
        let connection = connect(&client, &origin).await;

        let store = MemStore::new();
        store.remote().fetch(connection.clone(), hash).await.unwrap();
        assert!(store.get_bytes(hash).await.unwrap() == bytes, "other bytes for {size}");

        // The owner changes the file: what still verifies may be sent, nothing else.
        let mut changed = bytes.clone();
        *changed.last_mut().unwrap() ^= 1;
        let mut file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all(&changed).unwrap();
        let store = MemStore::new();
        let fetched = store.remote().fetch(connection, hash).await;
        assert!(fetched.is_err(), "{size}: a changed file was served as the old one");
        assert!(!store.blobs().has(hash).await.unwrap(), "{size}: a changed file passed for whole");
    }
    client.close().await;
    origin.shutdown().await;
}

/// The ContentID's text as any IPFS library reads it.
fn hash_of(text: &str) -> Hash {
    let cid = cid::Cid::from_str(text).unwrap();
    assert_eq!((u64::from(cid.version()), cid.codec()), (1, 0x55));
    assert_eq!((cid.hash().code(), cid.hash().size()), (0x1e, 32));
    assert_eq!(cid.to_string(), text);
    let ours: ContentId = text.parse().unwrap();
    assert_eq!(cid.hash().digest(), ours.as_bytes());
    Hash::from_bytes(*ours.as_bytes())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_pushes_blobs_into_an_origin() {
    let net = Net::start(51, 8, 3600).await;
    let origin = net.client("origin", Roles::ORIGIN).await;
    let client = Endpoint::builder(presets::Minimal).bind().await.unwrap();
    let connection = connect(&client, &origin).await;
    let store = MemStore::new();
    let tag = store.add_slice(noise("unwanted", 100_000)).await.unwrap();
    let request = iroh_blobs::protocol::GetRequest::all(tag.hash);
    let pushed = store.remote().execute_push(connection, request.into()).await;
    let kept = origin.core().origin.store().await.unwrap().blobs().has(tag.hash).await.unwrap();
    assert!(!kept, "a stranger filled the origin's disk: {pushed:?}");
    client.close().await;
    origin.shutdown().await;
}
