//! A holder's caps: what they hold back, and what is answered all the same.

use std::time::{Duration, Instant};

use echonet_node::{client::SliceWanted, config::NodeConfig, net::bandwidth::Caps, node::Node};
use echonet_protocol::{
    identity::Identity, message::SliceSpec, node_descriptor::Roles, quiet::QuietHours,
    segment::Scheme,
};

use crate::{
    support::{Net, noise, secret},
    tools::{ByHand, code},
};

/// A holder with these caps.
async fn capped_holder(net: &Net, number: u8, caps: Caps) -> Node {
    let data = net.dir.path().join("capped");
    std::fs::create_dir_all(&data).unwrap();
    let config = NodeConfig {
        data,
        bind: format!("127.{number}.90.1:0").parse().unwrap(),
        issuer_secret: None,
        beacon_share: None,
        bootstrap: net.bootstrap(),
        caps,
        ..net.nodes[0].core().config.clone()
    };
    Node::start(config, Identity::from_secret(&secret("capped"))).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cap_holds_bulk_back_and_one_leaf_is_answered_all_the_same() {
    const SHARD: usize = 512 * 1024;
    let net = Net::start(71, 3, 3600).await;
    // Every hour is quiet: both ways are capped.
    let quiet_hours = QuietHours([0xff; QuietHours::LEN]);
    let caps = Caps { quiet: Some(256 * 1024), quiet_hours, ..Caps::default() };
    let holder = capped_holder(&net, 71, caps).await;
    let client = net.client("client", Roles::default()).await;
    let node = holder.node_id();
    client.core().client.hello(&net.nodes[0].node_id(), client.core().epoch(), None).await.unwrap();
    client.core().learn(holder.core().descriptor().unwrap());
    let described = client.core().members.get(&node).unwrap().descriptor.body;
    assert_eq!(described.quiet, quiet_hours, "it says so");

    let by_hand = ByHand::granted(&client, &net).await;
    let coded = code(&noise("capped", SHARD), Scheme::new(1, 1).unwrap(), |_| {});
    let segment = coded.segment();
    by_hand.place(&coded, &[node, net.nodes[1].node_id()]).await;
    let spec = |offset, length, group_log| SliceSpec { offset, length, group_log };
    let root = coded.descriptor.shards[0].0;
    let read = |spec: SliceSpec| {
        let calls = client.core().client.clone();
        let wanted = SliceWanted { root, total: SHARD as u64, spec };
        async move {
            let mut out = vec![0; usize::try_from(spec.length).unwrap()];
            calls.get_shard(&node, (segment, 0), wanted, &mut out, || {}).await
        }
    };
    let begin = Instant::now();
    let whole = spec(0, SHARD as u64, SliceSpec::WHOLE);
    let bulk = futures::future::join_all((0..4).map(|_| read(whole)));
    let leaf = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let begin = Instant::now();
        (read(spec(4096, 1024, 0)).await, begin.elapsed())
    };
    let (bulk, (leaf, leaf_took)) = tokio::join!(bulk, leaf);
    leaf.unwrap();
    assert!(leaf_took < Duration::from_secs(1), "{leaf_took:?}");
    // Two seconds each; who would wait for more than four is told to come back.
    let served = bulk.iter().filter(|answer| answer.is_ok()).count();
    assert!((1..=3).contains(&served), "{bulk:?}");
    let least = Duration::from_secs(2) * (served as u32 - 1);
    assert!(begin.elapsed() >= least, "{:?}", begin.elapsed());
    let refused = bulk.iter().filter_map(|answer| answer.as_ref().err()).map(ToString::to_string);
    assert!(refused.clone().all(|words| words.contains("262144 bytes per second")), "{bulk:?}");
    assert!(refused.count() >= 1);
    let status = echonet_node::service::Service::node_status(&holder).await.unwrap();
    assert!(status.limits.quiet_now && status.limits.quiet_hours == 168);
}
