//! Pins, reasons and duplicates: what the manifests and Cargo.lock must say.

use std::collections::{BTreeMap, BTreeSet};

use toml::{Table, Value};

use crate::{assert_none, repo};

/// Crates that sign, hash, encrypt or code: two versions of one are two things to
/// audit, and their types do not fit one another.
const ONE_VERSION: [&str; 23] = [
    "aead",
    "aes",
    "aes-gcm",
    "bao-tree",
    "blake3",
    "blst",
    "chacha20",
    "curve25519-dalek",
    "digest",
    "ed25519",
    "ed25519-dalek",
    "hkdf",
    "hmac",
    "pkcs8",
    "reed-solomon-erasure",
    "ring",
    "rustls",
    "rustls-webpki",
    "sha2",
    "signature",
    "subtle",
    "zeroize",
    "zstd",
];

/// Names in Cargo.lock with their versions.
fn locked() -> BTreeMap<String, Vec<String>> {
    let lock: Table = repo::read("Cargo.lock").parse().expect("Cargo.lock is TOML");
    let mut versions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in lock["package"].as_array().expect("packages") {
        let field = |name: &str| package[name].as_str().expect("a string").to_owned();
        versions.entry(field("name")).or_default().push(field("version"));
    }
    versions
}

/// Names of all packages in Cargo.lock.
pub(crate) fn locked_names() -> BTreeSet<String> {
    locked().into_keys().collect()
}

#[test]
fn one_version_of_each_crypto_crate() {
    let locked = locked();
    let findings: Vec<String> = ONE_VERSION
        .iter()
        .filter_map(|name| match locked.get(*name).map(Vec::as_slice) {
            None => Some(format!("`{name}` is in no Cargo.lock: correct the list")),
            Some([_]) => None,
            Some(versions) => Some(format!("`{name}` is there as {}", versions.join(" and "))),
        })
        .collect();
    assert_none("versions of crypto crates", &findings);
}

#[test]
fn every_dependency_is_pinned_exactly() {
    let manifest: Table = repo::read("Cargo.toml").parse().expect("Cargo.toml is TOML");
    let dependencies = manifest["workspace"]["dependencies"].as_table().expect("a table");
    let mut findings = Vec::new();
    for (name, value) in dependencies {
        let version = value.as_str().or_else(|| value.get("version").and_then(Value::as_str));
        let ours = value.get("path").is_some();
        if !ours && !version.is_some_and(|version| version.starts_with('=')) {
            findings.push(format!("`{name}` has no exact version (=x.y.z)"));
        }
    }
    assert!(dependencies.len() > 20, "only {} dependencies found", dependencies.len());
    assert_none("pins in Cargo.toml", &findings);
}

#[test]
fn members_take_versions_from_the_workspace() {
    let root: Table = repo::read("Cargo.toml").parse().expect("Cargo.toml is TOML");
    let members = root["workspace"]["members"].as_array().expect("members");
    let mut findings = Vec::new();
    for member in members.iter().filter_map(Value::as_str) {
        let path = format!("{member}/Cargo.toml");
        let manifest: Table = repo::read(&path).parse().expect("a manifest is TOML");
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for (name, value) in manifest.get(kind).and_then(Value::as_table).into_iter().flatten()
            {
                if value.get("workspace").and_then(Value::as_bool) != Some(true) {
                    findings.push(format!("{path}: `{name}` is not `.workspace = true`"));
                }
            }
        }
        if manifest.get("lints").and_then(|l| l.get("workspace")).is_none() {
            findings.push(format!("{path}: does not take the workspace's lints"));
        }
    }
    assert_none("members", &findings);
}

#[test]
fn every_dependency_has_its_reason() {
    let manifest = repo::read("Cargo.toml");
    let section = manifest
        .split_once("[workspace.dependencies]\n")
        .and_then(|(_, rest)| rest.split_once("\n["))
        .expect("a section of dependencies")
        .0;
    let mut findings = Vec::new();
    for group in section.split("\n\n") {
        let explained = group.starts_with('#') || group.starts_with("echonet-");
        for line in group.lines().filter(|line| line.contains('=') && !line.starts_with('#')) {
            if !explained && !line.contains(" # ") {
                let name = line.split(['=', ' ']).next().unwrap_or(line);
                findings.push(format!("`{name}`: say why, on its line or above its group"));
            }
        }
    }
    assert_none("dependencies without a reason", &findings);
}
