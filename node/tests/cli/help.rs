//! Transcripts of the command line: help, version and identity.

use crate::common::{BOOTSTRAP, Echonet, ID};

#[test]
fn help_names_every_command_and_the_exit_codes() {
    let ran = Echonet::new().run_bare(&["--help"], b"");
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    for command in [
        "demo",
        "devnet",
        "node",
        "publish",
        "get",
        "unpublish",
        "keep",
        "unkeep",
        "status",
        "ls",
        "peers",
        "witness",
        "id",
    ] {
        assert!(ran.stdout.contains(&format!("\n  {command} ")), "{command}: {}", ran.stdout);
    }
    for text in [
        "2  wrong usage or configuration",
        "3  not found",
        "4  not enough holders",
        "ECHONET_DATA",
        "echonet.toml in the data directory, then the environment",
    ] {
        assert!(ran.stdout.contains(text), "{text}: {}", ran.stdout);
    }
}

#[test]
fn help_of_commands_documents_what_is_not_obvious() {
    let help = |command: &str| Echonet::new().run_bare(&[command, "--help"], b"").stdout;
    assert!(help("get").contains("from A up to but without B"));
    assert!(help("get").contains("a file named like the ContentID"));
    assert!(help("publish").contains("`-` reads standard input"));
    assert!(help("node").contains("10GiB, 200G or 512MiB"));
    for text in ["2MiB [default: no cap]", "\"mon-fri 08:00-18:00\"", "summer time is not known"] {
        assert!(help("node").contains(text), "{text}: {}", help("node"));
    }
    assert!(!help("node").contains("until-stdin-closes"), "internal flags stay hidden");
    assert!(!help("node").contains("issuer"), "secrets are no flags: process lists show them");
}

#[test]
fn no_command_shows_help_and_fails() {
    let ran = Echonet::new().run_bare(&[], b"");
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("Usage: echonet"), "{}", ran.stderr);
}

#[test]
fn an_identity_is_made_once_and_works_offline() {
    let echonet = Echonet::new();
    let first = echonet.run(&["id", "--json"]);
    assert_eq!(first.code, 0, "{}", first.stderr);
    let (first, second) = (first.last_json(), echonet.run(&["id", "--json"]).last_json());
    assert_eq!(first["event"], "id");
    assert_eq!(first["node_id"].as_str().unwrap().len(), 64);
    assert_eq!(first["bootstrap"], serde_json::Value::Null);
    assert_eq!(first, second);
    let words = echonet.run(&["id"]);
    assert!(words.stderr.contains("`echonet node` starts one"), "{}", words.stderr);
}

#[cfg(unix)]
#[test]
fn the_data_directory_is_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let echonet = Echonet::new();
    echonet.run(&["id"]);
    let mode =
        |path: std::path::PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(echonet.data()), 0o700);
    assert_eq!(mode(echonet.data().join("node.key")), 0o600);
}

#[test]
fn constants_of_these_tests_are_well_formed() {
    assert!(ID.parse::<echonet_protocol::content_id::ContentId>().is_ok());
    assert!(BOOTSTRAP.parse::<echonet_protocol::network::BootstrapAddr>().is_ok());
}
