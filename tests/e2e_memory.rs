//! A gibibyte through every process, none of which may keep it in memory.

use std::time::Duration;

use echonet_tests::support::{
    GIB, MIB,
    cli::Running,
    client::Published,
    devnet::{Devnet, Options},
    figure, files, turn,
};

#[test]
fn a_gibibyte_takes_under_300_mb_anywhere() {
    let _turn = turn();
    let devnet = Devnet::start(&Options::new(20));
    let (publisher, reader) = (devnet.client(), devnet.client());
    let file = publisher.path("work");
    files::random(&file, 100, GIB);
    let publish = publisher.start_publish(&file, &[]).finish(Duration::from_secs(600));
    let published = Published::read(&publish);
    published.assert_good();
    let got = reader.path("got");
    let get = reader.command(&["get", &published.content_id, "-o", got.to_str().expect("UTF-8")]);
    let get = Running::start(get, None).finish(Duration::from_secs(600));
    get.result("fetched")["size"].as_u64().expect("a size");
    files::assert_same(&file, &got);

    let nodes = devnet.peak_rss_bytes();
    assert_eq!(nodes.len(), 20, "every node is alive");
    let (worst, name) = &nodes[0];
    figure(
        "memory",
        format_args!(
            "1 GiB: published in {:.1?} ({} MB), fetched in {:.1?} ({} MB), worst node {name} ({} MB)",
            publish.took,
            publish.peak_rss_bytes / 1_000_000,
            get.took,
            get.peak_rss_bytes / 1_000_000,
            worst / 1_000_000,
        ),
    );
    let peaks = [("publish", publish.peak_rss_bytes), ("get", get.peak_rss_bytes), (name, *worst)];
    for (who, peak) in peaks {
        assert!(peak > MIB, "the peak of {who} was not measured");
        assert!(peak < 300_000_000, "{who} took {peak} bytes");
    }
}
