//! Transcripts of the command line: what it says when something is wrong, and
//! what to do next. Wording is pinned on purpose: people read it in trouble.

use crate::common::{BOOTSTRAP, Echonet, ID};

#[test]
fn a_text_that_is_no_content_id_is_a_usage_error() {
    let ran = Echonet::new().run(&["get", "hello"]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("\"hello\" is not a ContentID"), "{}", ran.stderr);
    assert!(ran.stderr.contains("it looks like bafkr4i"), "{}", ran.stderr);
    assert_eq!(ran.stdout, "");
}

#[test]
fn usage_errors_are_json_for_programs() {
    let ran = Echonet::new().run(&["--json", "get", "hello"]);
    assert_eq!(ran.code, 2);
    let last = ran.last_json();
    assert_eq!((&last["event"], &last["kind"]), (&"error".into(), &"usage".into()));
    assert!(last["message"].as_str().unwrap().contains("is not a ContentID"));
}

#[test]
fn without_a_network_every_command_says_how_to_name_one() {
    let echonet = Echonet::new();
    for args in [&["get", ID][..], &["status", ID], &["node"], &["peers"], &["ls"]] {
        let ran = echonet.run(args);
        assert_eq!(ran.code, 2, "{args:?}: {}", ran.stderr);
        assert_eq!(
            ran.stderr,
            "error: no network is known here: pass --bootstrap ADDR (whoever runs a node there \
             can print one with `echonet id`), or start a network on this machine with `echonet \
             devnet`\n",
            "{args:?}"
        );
        assert_eq!(ran.stdout, "", "{args:?}");
    }
}

#[test]
fn a_bootstrap_address_is_checked_before_anything_starts() {
    let ran = Echonet::new().run(&["peers", "--bootstrap", "example.org:4700"]);
    assert_eq!(ran.code, 2);
    assert!(
        ran.stderr.contains("is not a bootstrap address: it looks like <64 hex>.<64 hex>@127"),
        "{}",
        ran.stderr
    );
}

#[test]
fn an_existing_output_is_refused_before_the_network_is_asked() {
    let echonet = Echonet::new();
    let out = echonet.path("out");
    std::fs::write(&out, b"precious").unwrap();
    let out_text = out.to_str().unwrap();
    let ran = echonet.run(&["--json", "get", ID, "-o", out_text, "--bootstrap", BOOTSTRAP]);
    assert_eq!(ran.code, 1);
    assert_eq!(
        ran.stderr,
        format!(
            "error: {out_text} exists already: pass --force to replace it, or choose another name \
             with -o\n"
        )
    );
    let last = ran.last_json();
    assert_eq!((&last["event"], &last["kind"]), (&"error".into(), &"invalid".into()));
    assert_eq!(std::fs::read(&out).unwrap(), b"precious");
}

#[test]
fn an_output_that_cannot_be_is_refused_with_a_way_out() {
    let echonet = Echonet::new();
    let missing = echonet.path("no/such/dir/out");
    let ran = echonet.run(&["get", ID, "-o", missing.to_str().unwrap()]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.stderr.contains("does not exist: create it or choose another -o"),
        "{}",
        ran.stderr
    );
    let ran = echonet.run(&["get", ID, "-o", echonet.path("").to_str().unwrap(), "--force"]);
    assert!(ran.stderr.contains("is a directory: name a file in it with -o"), "{}", ran.stderr);
}

#[test]
fn ranges_say_that_their_end_is_excluded() {
    let ran = Echonet::new().run(&["get", ID, "--range", "9-5"]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("the bytes from A up to but without B"), "{}", ran.stderr);
}

#[test]
fn what_cannot_be_published_is_named_with_the_remedy() {
    let echonet = Echonet::new();
    let missing = echonet.path("missing");
    let ran = echonet.run(&["publish", missing.to_str().unwrap()]);
    assert_eq!(ran.code, 1);
    assert_eq!(
        ran.stderr,
        format!(
            "error: cannot publish {}: there is no such file; check the path, or use - for \
             standard input\n",
            missing.display()
        )
    );
    let ran = echonet.run(&["publish", echonet.path("").to_str().unwrap()]);
    assert!(ran.stderr.contains("it is a directory; pack it first"), "{}", ran.stderr);
}

#[test]
fn a_mistake_in_the_configuration_is_found_with_its_place() {
    let echonet = Echonet::new();
    echonet.run(&["id"]);
    std::fs::write(echonet.data().join("echonet.toml"), "qouta = '1GiB'\n").unwrap();
    let ran = echonet.run(&["node"]);
    assert_eq!(ran.code, 2);
    let file = echonet.data().join("echonet.toml");
    assert_eq!(
        ran.stderr,
        format!(
            "error: configuration: \"qouta\" in {} is not a setting; settings are bind, bootstrap, \
             genesis, role, quota, upload_cap, download_cap, quiet, quiet_utc_offset, quiet_cap, region, datacenter, rack, operator, relay, issuer_secret, beacon_share, api\n",
            file.display()
        )
    );
}

#[test]
fn the_local_api_is_not_opened_to_others() {
    let ran = Echonet::new().run(&["node", "--bootstrap", BOOTSTRAP, "--api", "0.0.0.0:80"]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("use a loopback address such as --api 127.0.0.1:4780"));
}

#[test]
fn devnet_wants_a_directory_of_its_own() {
    let echonet = Echonet::new();
    let ran = echonet.run_bare(&["devnet", "--nodes", "3"], b"");
    assert_eq!(ran.code, 2);
    assert_eq!(
        ran.stderr,
        "error: devnet needs a directory of its own: say where with --data DIR\n"
    );
    std::fs::write(echonet.path("mine"), b"precious").unwrap();
    let root = echonet.path("").to_str().unwrap().to_owned();
    let ran = echonet.run_bare(&["devnet", "--nodes", "3", "--data", &root], b"");
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("is not empty and holds no development network"), "{}", ran.stderr);
    let data = echonet.data();
    let ran = echonet.run_bare(&["devnet", "--nodes", "0", "--data", data.to_str().unwrap()], b"");
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("has 1 to 200 nodes, not 0"), "{}", ran.stderr);
}

#[test]
fn a_data_directory_in_use_by_no_daemon_is_said_so() {
    let echonet = Echonet::new();
    echonet.run(&["id"]);
    let dir = echonet_node::datadir::DataDir::open(&echonet.data()).unwrap();
    let _lock = dir.lock("publish").unwrap();
    let ran = echonet.run(&["peers", "--bootstrap", BOOTSTRAP]);
    assert_eq!(ran.code, 5);
    assert_eq!(
        ran.stderr,
        format!(
            "error: the data directory {} is in use by process {} (`echonet publish`): wait until \
             it is done or end it, or use another directory with --data DIR\n",
            echonet.data().display(),
            std::process::id()
        )
    );
}
