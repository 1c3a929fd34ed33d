//! What takes too long for every run: `tests/run --long`.

use std::time::Duration;

use echonet_tests::support::{
    GIB, MIB, cli,
    cli::Running,
    client::Published,
    devnet::{Devnet, Options},
    figure, files, turn,
};

const WITHIN: Duration = Duration::from_secs(3600);

fn demo(name: &str, write: impl Fn(&std::path::Path)) {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join(name);
    write(&file);
    let mut command = cli::command(["demo"]);
    command.arg(&file);
    let outcome = cli::run(command, WITHIN);
    assert!(outcome.succeeded(), "{outcome}");
    println!("{}", outcome.stdout);
    figure("demo", format_args!("{name}: the whole story in {:.1?}", outcome.took));
}

#[test]
fn the_demo_holds_for_a_gigabyte_of_random_bytes() {
    let _turn = turn();
    demo("random-1-GB", |path| files::random(path, 200, 1_000_000_000));
}

#[test]
fn the_demo_holds_for_a_tar_of_text() {
    let _turn = turn();
    demo("text-100-MB.tar", |path| {
        let dir = tempfile::tempdir().expect("a directory");
        for number in 0..50 {
            files::text(&dir.path().join(format!("{number:02}.txt")), 300 + number, 2_000_000);
        }
        let mut tar = std::process::Command::new("tar");
        tar.arg("-cf").arg(path).arg("-C").arg(dir.path()).arg(".");
        assert!(tar.status().expect("tar starts").success());
    });
}

#[test]
fn ten_gigabytes_mostly_holes_take_under_400_mb_anywhere() {
    let _turn = turn();
    let devnet = Devnet::start(&Options::new(20));
    let (publisher, reader) = (devnet.client(), devnet.client());
    let file = publisher.path("work");
    files::sparse(&file, 400, 10 * GIB, 2 * GIB, 16 * MIB);
    let publish = publisher.start_publish(&file, &[]).finish(WITHIN);
    let published = Published::read(&publish);
    published.assert_good();
    let got = reader.path("got");
    let get = reader.command(&["get", &published.content_id, "-o", got.to_str().expect("UTF-8")]);
    let get = Running::start(get, None).finish(WITHIN);
    get.result("fetched")["size"].as_u64().expect("a size");
    files::assert_same(&file, &got);
    let (worst, name) = devnet.peak_rss_bytes().remove(0);
    figure(
        "10 GiB",
        format_args!(
            "{} stored; published in {:.0?} ({} MB), fetched in {:.0?} ({} MB), worst node {name} ({} MB)",
            published.stored_bytes,
            publish.took,
            publish.peak_rss_bytes / 1_000_000,
            get.took,
            get.peak_rss_bytes / 1_000_000,
            worst / 1_000_000,
        ),
    );
    for peak in [publish.peak_rss_bytes, get.peak_rss_bytes, worst] {
        assert!(peak > MIB && peak < 400_000_000, "{peak} bytes");
    }
}
