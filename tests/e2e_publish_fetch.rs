//! Publish, forget, fetch: every edge of size, standard input, ranges, ids that
//! are wrong or unknown, two owners of one file, a file that changes. All nodes
//! stay alive here; losing them is `e2e_loss.rs`.

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

use echonet_tests::support::{
    KIB, MIB, cli,
    cli::Running,
    client::{Client, Published, WITHIN, text},
    devnet::{Devnet, Options},
    figure, files, turn, wait_for,
};

/// One devnet serves all scenarios here: none of them harms it.
fn devnet() -> &'static Devnet {
    static DEVNET: OnceLock<Devnet> = OnceLock::new();
    DEVNET.get_or_init(|| Devnet::start(&Options::new(20)))
}

/// Publishes from one person and fetches as another, who keeps nothing.
fn there_and_back(name: &str, write: impl Fn(&std::path::Path)) -> Published {
    let publisher = devnet().client();
    let file = publisher.path("work");
    write(&file);
    let start = Instant::now();
    let published = publisher.publish(&file);
    let took = start.elapsed();
    let len = std::fs::metadata(&file).expect("the file").len();
    assert_eq!(published.size, len);
    let outcome = devnet().newcomer_gets(&published.content_id, &file);
    assert_eq!(outcome.result("fetched")["size"].as_u64(), Some(len));
    figure(
        name,
        format_args!(
            "{len} bytes, {} segments, {} stored, published in {took:.2?}, fetched in {:.2?}",
            published.segments, published.stored_bytes, outcome.took,
        ),
    );
    published
}

#[test]
fn every_edge_of_size_comes_back() {
    let _turn = turn();
    let sizes = [0, 1, 16 * KIB, 16 * KIB + 1, 32 * MIB, 32 * MIB + 1];
    for (seed, size) in (1..).zip(sizes) {
        let published = there_and_back("size", |path| files::random(path, seed, size));
        // Random bytes do not shrink: 1.6 times, a manifest and padding. What rides
        // inside its manifest is kept as copies.
        if size > MIB {
            let (low, high) = (size * 14 / 10, size * 17 / 10);
            assert!((low..high).contains(&published.stored_bytes), "{}", published.line);
            assert!(published.segments >= 2, "content and manifest: {}", published.line);
        }
    }
}

#[test]
fn text_is_stored_smaller_than_it_is() {
    let _turn = turn();
    let published = there_and_back("text", |path| files::text(path, 20, 24 * MIB));
    assert!(published.stored_bytes < published.size, "zstd pays here: {}", published.line);
}

#[test]
fn standard_input_is_published_and_a_range_is_fetched() {
    let _turn = turn();
    let (publisher, reader) = (devnet().client(), devnet().client());
    let file = publisher.path("work");
    files::random(&file, 30, 5 * MIB + 7);
    let input = Box::new(std::fs::File::open(&file).expect("the file"));
    let outcome = Running::start(publisher.command(&["publish", "-"]), Some(input)).finish(WITHIN);
    let published = Published::read(&outcome);
    published.assert_good();
    assert_eq!(published.size, 5 * MIB + 7);

    let bytes = std::fs::read(&file).expect("the file");
    let (from, to) = (3 * MIB - 5, 3 * MIB + 70_000);
    let part = reader.path("part");
    let range = format!("{from}-{to}");
    let id = published.content_id.as_str();
    let fetched = reader.run(&["get", id, "--range", &range, "-o", text(&part)]).result("fetched");
    let got = std::fs::read(&part).expect("the part");
    assert_eq!(fetched["size"].as_u64(), Some(got.len() as u64));
    let wanted = &bytes[from as usize..to as usize]; // B is one past the last byte
    assert!(got == wanted, "{} bytes for {range}, want {}", got.len(), wanted.len());

    let mut command = cli::command(["get", id, "-o", "-"]);
    command.arg("--data").arg(reader.path("data")).arg("--bootstrap").arg(&devnet().bootstrap);
    let (ok, stdout, stderr) = cli::run_to_bytes(command);
    assert!(ok && stdout == bytes, "{} bytes on standard output: {stderr}", stdout.len());
}

#[test]
fn an_unknown_content_id_is_answered_within_ten_seconds() {
    let _turn = turn();
    for id in [UNKNOWN_CID, UNKNOWN_HEX] {
        let outcome = devnet().newcomer_fails(id, &["not found"]);
        figure("unknown id", format_args!("answered in {:.2?}", outcome.took));
    }
}

/// The same 32 bytes (0x11 each) as a CIDv1 (raw, blake3, base32) and as hex.
const UNKNOWN_CID: &str = "bafkr4iarceirceirceirceirceirceirceirceirceirceirceirceirce";
const UNKNOWN_HEX: &str = "1111111111111111111111111111111111111111111111111111111111111111";

#[test]
fn malformed_ids_get_a_clear_error() {
    let _turn = turn();
    let reader = devnet().client();
    let long = "b".repeat(100_000);
    let ids =
        ["", "x", "bafkr4i", "bafkr4i!", "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWKVtQR", &long];
    for id in ids {
        let (outcome, path) = reader.get(id, "nothing");
        outcome.assert_failed_saying(&["contentid"]);
        assert!(outcome.took < Duration::from_secs(3), "refused before the network: {outcome}");
        assert!(!path.exists(), "a failed get leaves no file");
        assert!(
            outcome.said().len() < 4096,
            "says it in a few words, not in {}",
            outcome.said().len()
        );
    }
}

#[test]
fn two_owners_publish_the_same_file_and_one_withdraws() {
    let _turn = turn();
    let (first, second) = (devnet().client(), devnet().client());
    for owner in [&first, &second] {
        files::random(&owner.path("work"), 40, 3 * MIB);
    }
    let one = first.publish(&first.path("work"));
    let two = second.publish(&second.path("work"));
    assert_eq!(one.content_id, two.content_id, "the same bytes are the same work");
    let withdrawn = first.run(&["unpublish", &one.content_id]);
    assert!(withdrawn.succeeded(), "{withdrawn}");
    devnet().newcomer_gets(&two.content_id, &second.path("work"));

    let gone = second.run(&["unpublish", &two.content_id]);
    assert!(gone.succeeded(), "{gone}");
    devnet().newcomer_fails(&two.content_id, &["not found"]);
}

/// Publishes a file that `change` changes as soon as its ContentID is known.
fn publish_while_changing(change: impl Fn(&std::path::Path)) -> (Client, String) {
    let publisher = devnet().client();
    let file = publisher.path("work");
    files::random(&file, 50, 96 * MIB);
    let running = publisher.start_publish(&file, &[]);
    let (identified, _) = wait_for("the ContentID", WITHIN, || running.seen("identified"));
    change(&file);
    let outcome = running.finish(WITHIN);
    outcome.assert_failed_saying(&["file changed"]);
    let id = identified["content_id"].as_str().expect("a ContentID").to_owned();
    devnet().newcomer_fails(&id, &["not found"]);
    (publisher, id)
}

#[test]
fn a_file_that_changes_meanwhile_is_not_published() {
    let _turn = turn();
    let (publisher, id) = publish_while_changing(|file| {
        // Same length, same times: only the bytes tell.
        let modified = std::fs::metadata(file).and_then(|meta| meta.modified()).expect("a time");
        files::overwrite(file, 51, 94 * MIB, MIB);
        let opened = std::fs::File::options().write(true).open(file).expect("the file");
        opened.set_modified(modified).expect("the old time");
    });
    // What it has become is another work, and publishing that works.
    let again = publisher.publish(&publisher.path("work"));
    assert_ne!(again.content_id, id);
}

#[test]
fn a_file_that_is_cut_off_meanwhile_is_not_published() {
    let _turn = turn();
    let _kept = publish_while_changing(|file| {
        let opened = std::fs::File::options().write(true).open(file).expect("the file");
        opened.set_len(95 * MIB).expect("shorter");
    });
}

#[test]
fn a_devnet_ends_with_all_its_processes() {
    let _turn = turn();
    let devnet = Devnet::start(&Options::new(3));
    let pids: Vec<u32> = devnet.nodes.iter().map(|node| node.pid).collect();
    assert_eq!(devnet.end(), Vec::<String>::new(), "nodes that outlived SIGTERM");
    for pid in pids {
        assert!(!echonet_tests::support::process::is_alive(pid), "process {pid} is left");
    }
}
