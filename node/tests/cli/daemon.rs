//! Transcripts of commands that go through a daemon; the daemon's node only
//! pretends, so that every outcome can be had.

use crate::common::{Echonet, ID, Ran};
use crate::fake::{Daemon, content, content_id};

const MIB: usize = 1 << 20;

/// Runs a command against a daemon on the same data directory.
async fn run(echonet: &Echonet, args: &[&str]) -> Ran {
    run_with(echonet, args, b"").await
}

async fn run_with(echonet: &Echonet, args: &[&str], stdin: &[u8]) -> Ran {
    tokio::task::block_in_place(|| echonet.run_with(args, stdin))
}

fn keys(value: &serde_json::Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_ends_with_the_result_and_its_fields() {
    let echonet = Echonet::new();
    let _daemon = Daemon::start(&echonet.data()).await;
    std::fs::write(echonet.path("work"), b"x").unwrap();
    let ran = run(&echonet, &["--json", "publish", "work", "--scheme", "4+2"]).await;
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    assert!(ran.stdout.lines().count() > 1, "progress comes first: {}", ran.stdout);
    let last = ran.last_json();
    assert_eq!(last["event"], "published");
    for key in [
        "content_id",
        "size",
        "segments",
        "stored_bytes",
        "deduplicated_bytes",
        "receipts",
        "survives_datacenter",
        "live",
    ] {
        assert!(keys(&last).contains(&key), "{key}: {last}");
    }
    let mut receipts = keys(&last["receipts"]);
    receipts.sort_unstable();
    assert_eq!(receipts, ["have", "want"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_hears_the_absolute_path_and_the_scheme() {
    let echonet = Echonet::new();
    let daemon = Daemon::start(&echonet.data()).await;
    std::fs::write(echonet.path("work"), b"x").unwrap();
    run(&echonet, &["publish", "work", "--scheme", "4+2"]).await;
    let heard = daemon.last_publish();
    assert!(heard.path.is_absolute() && heard.path.ends_with("work"), "{heard:?}");
    assert_eq!(heard.scheme.unwrap().to_string(), "4+2");
    assert!(!heard.spooled);
}

#[tokio::test(flavor = "multi_thread")]
async fn standard_input_is_spooled_whole_and_kept_when_publishing_fails() {
    let echonet = Echonet::new();
    let daemon = Daemon::start(&echonet.data()).await;
    let bytes = content(3 * MIB + 7);
    let ran = run_with(&echonet, &["publish", "-"], &bytes).await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let heard = daemon.last_publish();
    assert!(heard.spooled && heard.path.starts_with(echonet.data().join("spool")), "{heard:?}");
    assert_eq!(std::fs::read(&heard.path).unwrap(), bytes);

    let ran = run_with(&echonet, &["publish", "-", "--media-type", "fail/quorum"], &bytes).await;
    assert_eq!(ran.code, 4);
    let kept = daemon.last_publish().path;
    assert_eq!(std::fs::read(&kept).unwrap(), bytes);
    let remedy = format!("`echonet publish {}` tries again", kept.display());
    assert!(
        ran.stderr.contains("13 of 14 nodes") && ran.stderr.contains(&remedy),
        "{}",
        ran.stderr
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_get_gives_the_file_and_its_fields() {
    let echonet = Echonet::new();
    let _daemon = Daemon::start(&echonet.data()).await;
    let id = content_id(5 * MIB);
    let ran = run(&echonet, &["--json", "get", &id, "-o", "out"]).await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let last = ran.last_json();
    assert_eq!(last["event"], "fetched");
    assert_eq!(last["content_id"], id.as_str());
    assert_eq!(last["size"], 5 * MIB);
    assert!(last["seconds"].is_number() && last["sources"].is_array());
    assert_eq!(std::fs::read(echonet.path("out")).unwrap(), content(5 * MIB));
    // Without -o the file is named like the work.
    run(&echonet, &["get", &id]).await;
    assert_eq!(std::fs::read(echonet.path(&id)).unwrap(), content(5 * MIB));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_off_get_leaves_no_output_and_resumes() {
    let echonet = Echonet::new();
    let daemon = Daemon::start(&echonet.data()).await;
    let id = content_id(5 * MIB);
    daemon.fail_after(3 * MIB + 100);
    let ran = run(&echonet, &["get", &id, "-o", "out"]).await;
    assert_eq!(ran.code, 5);
    assert!(ran.stderr.contains("8 of 10 needed shards answered"), "{}", ran.stderr);
    assert!(ran.stderr.contains("the same command goes on there"), "{}", ran.stderr);
    assert!(!echonet.path("out").exists());

    daemon.fail_after(usize::MAX);
    let ran = run(&echonet, &["get", &id, "-o", "out", "--json"]).await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(daemon.last_range(), Some((3 * MIB as u64, u64::MAX)));
    assert_eq!(ran.last_json()["size"], 5 * MIB);
    assert_eq!(std::fs::read(echonet.path("out")).unwrap(), content(5 * MIB));
    let partials = std::fs::read_dir(echonet.data().join("partial")).unwrap();
    assert_eq!(partials.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partial_file_that_rotted_never_reaches_the_output() {
    let echonet = Echonet::new();
    let daemon = Daemon::start(&echonet.data()).await;
    let id = content_id(5 * MIB);
    for rotten in [vec![1; 4 * MIB], vec![1; 9 * MIB], content(5 * MIB)[1..].to_vec()] {
        let hash = blake3::hash(&content(5 * MIB)).to_hex();
        std::fs::create_dir_all(echonet.data().join("partial")).unwrap();
        std::fs::write(echonet.data().join("partial").join(hash.as_str()), &rotten).unwrap();
        let ran = run(&echonet, &["get", &id, "-o", "out", "--force"]).await;
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        assert_eq!(daemon.last_range(), None, "started over");
        assert_eq!(std::fs::read(echonet.path("out")).unwrap(), content(5 * MIB));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_and_standard_output_carry_content_only() {
    let echonet = Echonet::new();
    let _daemon = Daemon::start(&echonet.data()).await;
    let id = content_id(2 * MIB);
    let out = run(&echonet, &["get", &id, "--range", "5-1000005", "-o", "out"]).await;
    assert_eq!(out.code, 0, "{}", out.stderr);
    assert_eq!(std::fs::read(echonet.path("out")).unwrap(), content(2 * MIB)[5..1_000_005]);
    let ran = run(&echonet, &["--json", "get", &id, "--range", "0-10", "-o", "-"]).await;
    assert_eq!(ran.stdout_bytes, content(2 * MIB)[..10]);
    let last = ran.stderr.lines().last().unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(last).unwrap()["event"], "fetched");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_work_that_nobody_has_is_exit_code_3_and_leaves_nothing() {
    let echonet = Echonet::new();
    let _daemon = Daemon::start(&echonet.data()).await;
    let ran = run(&echonet, &["--json", "get", ID, "-o", "out"]).await;
    assert_eq!(ran.code, 3);
    let last = ran.last_json();
    assert_eq!((&last["event"], &last["kind"]), (&"error".into(), &"not_found".into()));
    assert!(!echonet.path("out").exists());
    assert_eq!(std::fs::read_dir(echonet.data().join("partial")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn status_shows_every_shard_and_its_holder() {
    let echonet = Echonet::new();
    let _daemon = Daemon::start(&echonet.data()).await;
    let id = content_id(MIB);
    let last = run(&echonet, &["--json", "status", &id]).await.last_json();
    assert_eq!(last["event"], "status");
    let segment = &last["segments"][0];
    assert_eq!(segment["scheme"], "1+6");
    assert_eq!(segment["shards"][1]["index"], 1);
    assert_eq!(segment["shards"][1]["alive"], false);
    let words = run(&echonet, &["status", &id]).await.stdout;
    assert!(words.contains("1 of 2 shards alive"), "{words}");
    let last = run(&echonet, &["--json", "status"]).await.last_json();
    assert_eq!((&last["event"], &last["limits"]["quiet_now"]), (&"status".into(), &true.into()));
    let words = run(&echonet, &["status"]).await.stdout;
    let limits = "\nlimits   up 2 MiB/s, 64 KiB/s in 50 quiet hours a week, now\n";
    assert!(format!("{words}\n").contains(limits), "{words}");
    let works = run(&echonet, &["--json", "ls"]).await.last_json()["works"].clone();
    assert_eq!((&works[0]["state"], &works[1]["state"]), (&"published".into(), &"kept".into()));
    assert_eq!(run(&echonet, &["--json", "peers"]).await.last_json()["event"], "peers");
}

#[tokio::test(flavor = "multi_thread")]
async fn id_prints_what_bootstrap_takes() {
    let echonet = Echonet::new();
    let _daemon = Daemon::start(&echonet.data()).await;
    let last = run(&echonet, &["--json", "id"]).await.last_json();
    let bootstrap = last["bootstrap"].as_str().unwrap();
    let bootstrap: echonet_protocol::network::BootstrapAddr = bootstrap.parse().unwrap();
    assert_eq!(bootstrap.node.to_string(), last["node_id"]);
    assert_eq!(bootstrap.addr.to_string(), "127.1.2.3:4700");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_work_of_somebody_elses_is_kept_and_only_a_kept_one_is_let_go() {
    let echonet = Echonet::new();
    let _daemon = Daemon::start(&echonet.data()).await;
    let other = content_id(5 * MIB);
    let ran = run(&echonet, &["--json", "keep", &other]).await;
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    let last = ran.last_json();
    assert_eq!((&last["event"], &last["content_id"]), (&"kept".into(), &other.as_str().into()));
    assert_eq!((&last["receipts"]["have"], &last["segments"]), (&30.into(), &2.into()));
    let words = run(&echonet, &["keep", &other]).await.stdout;
    assert_eq!(
        words,
        format!(
            "kept: {other}\n5 bytes in 2 segments, 30 of 32 shards leased by you; their holders renew \
             the leases while your grant lasts\n"
        )
    );

    let ran = run(&echonet, &["unkeep", &other]).await;
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    assert!(ran.stderr.contains("is not kept from here"), "{}", ran.stderr);
    let ran = run(&echonet, &["unkeep", &content_id(MIB)]).await;
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("`echonet unpublish` takes it down"), "{}", ran.stderr);
    let id = content_id(2 * MIB);
    let words = run(&echonet, &["unkeep", &id]).await.stdout;
    assert!(words.starts_with(&format!("no longer kept: {id}\n")), "{words}");
    assert!(words.contains("\n13 holders were told; 2 did not answer"), "{words}");
    let last = run(&echonet, &["--json", "unpublish", &id]).await.last_json();
    assert_eq!((&last["event"], &last["state"]), (&"unpublished".into(), &"withdrawn".into()));
    assert_eq!((&last["holders_told"], &last["holders_unreached"]), (&13.into(), &2.into()));
}
