//! Fewer nodes than a scheme needs: a clear error, nothing announced, and a
//! publish that can be resumed. What fits the few is published.

use echonet_tests::support::{
    KIB, MIB,
    client::WITHIN,
    devnet::{Devnet, Options},
    figure, files, turn, wait_for,
};

#[test]
fn too_few_nodes_are_said_and_nothing_is_announced() {
    let _turn = turn();
    let devnet = Devnet::start(&Options::new(8));
    let publisher = devnet.client();
    let file = publisher.path("work");
    files::random(&file, 70, 2 * MIB);
    let mut running = publisher.start_publish(&file, &[]);
    let (identified, _) = wait_for("the ContentID", WITHIN, || {
        running.seen("identified").map(Some).or_else(|| running.has_ended().then_some(None))
    });
    let outcome = running.finish(WITHIN);
    // How many are needed, how many there are.
    outcome.assert_failed_saying(&["14", "8"]);
    figure("quorum", format_args!("8 nodes for 10+6: refused after {:.2?}", outcome.took));
    if let Some(identified) = identified {
        let id = identified["content_id"].as_str().expect("a ContentID");
        devnet.newcomer_fails(id, &["not found"]);
    }

    // Eight nodes are enough for seven copies.
    let small = publisher.path("small");
    files::random(&small, 71, 10 * KIB);
    let published = publisher.publish(&small);
    devnet.newcomer_gets(&published.content_id, &small);

    // And for a scheme that they can carry: the work is published after all.
    let again = publisher.run(&["publish", file.to_str().expect("UTF-8"), "--scheme", "4+3"]);
    let again = again.result("published");
    let id = again["content_id"].as_str().expect("a ContentID");
    devnet.newcomer_gets(id, &file);
}
