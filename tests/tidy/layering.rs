//! Which crates a pure crate may depend on: directly, an allow-list from cargo's
//! metadata; transitively, a deny-list over cargo's own resolution of that crate
//! alone (in the workspace's resolution other members switch features on, and
//! bao-tree's optional tokio would look like ours).

use std::collections::BTreeSet;

use serde_json::Value;

use crate::{assert_none, dependencies::locked_names, repo};

/// A pure crate and its whole list of direct dependencies.
struct Pure {
    name: &'static str,
    allowed: &'static [&'static str],
}

const PURE: [Pure; 3] = [
    Pure {
        name: "echonet-protocol",
        allowed: &[
            "bao-tree",
            "blake3",
            "bytes",
            "cid",
            "data-encoding",
            "ed25519-dalek",
            "fastcdc",
            "multihash",
            "postcard",
            "reed-solomon-erasure",
            "serde",
            "serde_bytes",
            "serde_ipld_dagcbor",
            "thiserror",
            "zstd",
        ],
    },
    Pure {
        name: "echonet-witness",
        allowed: &[
            "blake3",
            "blst",
            "echonet-protocol",
            "serde",
            "serde_bytes",
            "sha2",
            "thiserror",
        ],
    },
    Pure { name: "echonet-archive", allowed: &["echonet-protocol"] },
];

/// What must not be under a pure crate at any depth.
const DENIED: [&str; 20] = [
    "axum",
    "echonet-node",
    "echonet-vault",
    "hyper",
    "iroh",
    "iroh-base",
    "iroh-blobs",
    "libp2p-core",
    "libp2p-kad",
    "libp2p-swarm",
    "mio",
    "n0-future",
    "rand",
    "redb",
    "reqwest",
    "rustls",
    "socket2",
    "tempfile",
    "tokio",
    "tokio-util",
];

#[test]
fn pure_crates_depend_on_their_allow_list_only() {
    let metadata: Value = serde_json::from_str(&repo::cargo(&[
        "metadata",
        "--no-deps",
        "--format-version=1",
        "--locked",
    ]))
    .expect("cargo prints JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let locked = locked_names();
    let mut findings = Vec::new();
    for pure in &PURE {
        for name in pure.allowed.iter().filter(|name| !locked.contains(**name)) {
            findings.push(format!("{}: allowed `{name}` is in no Cargo.lock", pure.name));
        }
        let package = packages
            .iter()
            .find(|package| package["name"] == pure.name)
            .unwrap_or_else(|| panic!("no package {}", pure.name));
        let dependencies = package["dependencies"].as_array().expect("dependencies");
        for dependency in dependencies.iter().filter(|d| d["kind"] != "dev") {
            let name = dependency["name"].as_str().expect("a name");
            if !pure.allowed.contains(&name) {
                findings.push(format!("{}: depends on `{name}`, not in its allow-list", pure.name));
            }
        }
    }
    assert_none("direct dependencies of pure crates", &findings);
}

#[test]
fn nothing_that_does_io_is_under_a_pure_crate() {
    let locked = locked_names();
    let mut findings = Vec::new();
    for name in DENIED.iter().filter(|name| !locked.contains(**name)) {
        findings
            .push(format!("denied `{name}` is in no Cargo.lock: a misspelling passes for ever"));
    }
    for pure in &PURE {
        let under = closure(pure.name);
        assert!(under.contains("blake3"), "{}: no blake3 among {under:?}", pure.name);
        for name in DENIED.iter().filter(|name| under.contains(**name)) {
            findings
                .push(format!("{}: `{name}` is under it (cargo tree -p {0} -i {name})", pure.name));
        }
    }
    assert_none("transitive dependencies of pure crates", &findings);
}

/// Names of all packages that `package` builds with, on any platform.
fn closure(package: &str) -> BTreeSet<String> {
    let args =
        ["tree", "-p", package, "-e", "normal", "--target", "all", "--prefix", "none", "--locked"];
    let tree = repo::cargo(&args);
    tree.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}
