//! What a stranger's bytes may cost: every decoder is given claims of huge lengths, at every place
//! of a valid value, and the process's peaks of touched and of mapped memory must not move by more
//! than a little.
//!
//! Alone in its binary, and one test: the peaks are the whole process's.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test's helpers fail the test, as its own lines do")]

use std::path::Path;

use echonet_protocol::{
    announcement::{Announcement, LiveCheck},
    audit::{AuditAnswer, AuditChallenge, AuditDigest, AuditVerdict, Maintenance, WitnessSet},
    content_id::ContentId,
    data::rows::Rows,
    identity::{Record, Signed},
    inconsistency::{InconsistencyProof, PROOF_BYTES_MAX},
    lease::{Grant, Lease, LeaseEnd, Receipt},
    manifest::{ManifestPage, ManifestRoot},
    membership::Claim,
    message,
    network::{BootstrapAddr, Genesis, NetworkId},
    node_descriptor::NodeDescriptor,
    params,
    placement_record::{Placement, PlacementRecord},
    segment::SegmentDescriptor,
};
use serde_json::Value;

/// More than either peak may grow, KiB: a few times the longest input of 2 MiB.
const GROWTH_KIB_MAX: u64 = 16 * 1024;

/// A number of `/proc/self/status`, KiB.
fn status_kib(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Peaks of the process: memory that was touched, and memory that was mapped. Small allocations
/// that touch nothing hide in what the allocator mapped before; those cost nothing.
struct Peaks {
    touched_kib: u64,
    mapped_kib: u64,
    /// Keeps as much mapped as ever was, so that anything more moves the peak.
    _ballast: Vec<u8>,
}

impl Peaks {
    fn now() -> Self {
        let gap_kib = status_kib("VmPeak:") - status_kib("VmSize:");
        let ballast = Vec::with_capacity(usize::try_from(gap_kib).unwrap() * 1024);
        let (touched_kib, mapped_kib) = (status_kib("VmHWM:"), status_kib("VmPeak:"));
        Self { touched_kib, mapped_kib, _ballast: ballast }
    }

    fn check(&self, what: &str) {
        let touched = status_kib("VmHWM:") - self.touched_kib;
        let mapped = status_kib("VmPeak:") - self.mapped_kib;
        let most = touched.max(mapped);
        assert!(most < GROWTH_KIB_MAX, "{what}: {touched} KiB more touched, {mapped} mapped");
    }
}

/// Whether bytes are accepted.
type Decode = Box<dyn Fn(&[u8]) -> bool>;

struct Target {
    name: String,
    sample: Vec<u8>,
    bytes_max: usize,
    decode: Decode,
}

fn cases(file: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors").join(file);
    let value: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    value["cases"].as_array().unwrap().clone()
}

fn unhex(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap().strip_prefix("0x").unwrap();
    data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap()
}

fn signed<T: Record>(bytes: &[u8], network: &NetworkId) -> bool {
    Signed::<T>::decode(bytes, network).is_ok()
}

fn signed_targets() -> Vec<Target> {
    let target = |case: Value| {
        let kind = case["kind"].as_str().unwrap().to_owned();
        let network = unhex(&case["input"]["body"]["network"]);
        let network = NetworkId(network.try_into().unwrap());
        let (name, sample) = (kind.clone(), unhex(&case["output"]["encoded"]));
        let decode = move |b: &[u8]| match kind.as_str() {
            "grant" => signed::<Grant>(b, &network),
            "lease" => signed::<Lease>(b, &network),
            "lease end" => signed::<LeaseEnd>(b, &network),
            "receipt" => signed::<Receipt>(b, &network),
            "announcement" => signed::<Announcement>(b, &network),
            "live check" => signed::<LiveCheck>(b, &network),
            "node descriptor" => signed::<NodeDescriptor>(b, &network),
            "membership claim" => signed::<Claim>(b, &network),
            "placement record" => PlacementRecord::decode(b, &network).is_ok(),
            "witness set" => WitnessSet::decode(b).is_ok(),
            "maintenance" => signed::<Maintenance>(b, &network),
            "audit challenge" => signed::<AuditChallenge>(b, &network),
            "audit answer" => signed::<AuditAnswer>(b, &network),
            "audit verdict" => signed::<AuditVerdict>(b, &network),
            "audit digest" => signed::<AuditDigest>(b, &network),
            other => panic!("{other}"),
        };
        let bytes_max = match name.as_str() {
            "placement record" => Placement::BYTES_MAX,
            "live check" => LiveCheck::BYTES_MAX,
            "membership claim" => Claim::BYTES_MAX,
            "witness set" => params::WITNESS_SET_BYTES_MAX,
            "audit verdict" => AuditVerdict::BYTES_MAX,
            _ => params::RECORD_BYTES_MAX,
        };
        Target { name, sample, bytes_max, decode: Box::new(decode) }
    };
    cases("records-signed.json").into_iter().map(target).collect()
}

fn content_targets() -> Vec<Target> {
    let cases = cases("records-content.json");
    let id = |case: &Value| ContentId::new(unhex(&case["input"]["content"]).try_into().unwrap());
    let paged = cases.iter().find(|case| case["name"] == "paged").unwrap();
    let root = ManifestRoot::decode(&unhex(&paged["output"]["encoded"]), &id(paged)).unwrap();
    let target = |case: &Value| {
        let name = case["kind"].as_str().unwrap().to_owned();
        let (page, root) = (params::MANIFEST_PAGE_BYTES_MAX, root.clone());
        let (bytes_max, decode): (usize, Decode) = match name.as_str() {
            "genesis" => (params::GENESIS_BYTES_MAX, Box::new(|b| Genesis::decode(b).is_ok())),
            "segment descriptor" => {
                (params::DESCRIPTOR_BYTES_MAX, Box::new(|b| SegmentDescriptor::decode(b).is_ok()))
            }
            "manifest" => {
                let id = id(case);
                (page, Box::new(move |b| ManifestRoot::decode(b, &id).is_ok()))
            }
            "manifest page" => (page, Box::new(move |b| ManifestPage::decode(b, &root, 0).is_ok())),
            "inconsistency proof" => {
                (PROOF_BYTES_MAX, Box::new(|b| InconsistencyProof::decode(b, &Rows).is_ok()))
            }
            other => panic!("{other}"),
        };
        Target { name, sample: unhex(&case["output"]["encoded"]), bytes_max, decode }
    };
    cases.iter().map(target).collect()
}

fn message_targets() -> Vec<Target> {
    let target = |case: Value| {
        let is_request = case["kind"] == "request";
        let decode = move |b: &[u8]| {
            if is_request {
                message::decode_request(b).is_ok()
            } else {
                message::decode_response(b).is_ok()
            }
        };
        let bytes_max =
            if is_request { params::REQUEST_BYTES_MAX } else { params::RESPONSE_BYTES_MAX };
        let (name, sample) = (case["name"].to_string(), unhex(&case["output"]["encoded"]));
        Target { name, sample, bytes_max, decode: Box::new(decode) }
    };
    cases("records-messages.json").into_iter().map(target).collect()
}

/// Heads that claim much: CBOR byte strings, texts, lists, maps and tags; postcard varints.
fn claims() -> Vec<Vec<u8>> {
    let mut claims = Vec::new();
    for major in [0x40, 0x60, 0x80, 0xa0, 0xc0] {
        claims.push([&[major | 26][..], &(1_u32 << 28).to_be_bytes()].concat());
        for number in [1_u64 << 32, 1 << 40, 1 << 62, u64::MAX] {
            claims.push([&[major | 27][..], &number.to_be_bytes()].concat());
        }
        claims.push(vec![major | 31]);
    }
    claims.push(vec![0xff, 0xff, 0xff, 0x7f]);
    claims.push(vec![0xff, 0xff, 0xff, 0xff, 0x0f]);
    claims.push([&[0xff; 9][..], &[0x01]].concat());
    claims.push([&[0x80; 8][..], &[0x01]].concat());
    claims
}

/// Every claim at every place (of long samples, their first part), and whole frames of one byte
/// behind some places: lists of as many items as fit.
fn attack(target: &Target) {
    for at in 0..target.sample.len().min(300) {
        for claim in claims() {
            let bytes = [&target.sample[..at], &claim, &target.sample[at..]].concat();
            // Taken perhaps, where a number may stand: only the cost counts here.
            (target.decode)(&bytes);
        }
    }
    let places = (0..target.sample.len().min(48)).chain([target.sample.len()]);
    for at in places {
        for (count, item) in [
            (&[0x9b_u8, 0, 0, 0, 0, 0, 0xf0, 0, 0][..], 0x80),
            (&[0x5b, 0, 0, 0, 0, 0, 0xf0, 0, 0], 0),
            (&[0x80, 0x80, 0x70], 0),
            (&[], 0x9f),
            (&[], 0x81),
        ] {
            let mut bytes = [&target.sample[..at], count].concat();
            bytes.resize(target.bytes_max.max(bytes.len()), item);
            (target.decode)(&bytes);
        }
    }
}

#[test]
fn huge_claims_cost_little_memory() {
    let targets: Vec<Target> =
        signed_targets().into_iter().chain(content_targets()).chain(message_targets()).collect();
    for target in &targets {
        assert!((target.decode)(&target.sample), "{} reads its sample", target.name);
        // What reading bytes of the longest size costs anyway.
        (target.decode)(&vec![0; target.bytes_max]);
    }
    let text = "9".repeat(8 << 20);
    let peaks = Peaks::now();
    for target in &targets {
        attack(target);
        peaks.check(&target.name);
    }
    let long =
        [format!("echo:b{}", &text[..1 << 20]), format!("{}.{}", &text[..64], &text[..1 << 20])];
    for text in [&text[..], &text[..128], &long[0], &long[1]] {
        assert!(text.parse::<ContentId>().is_err() && text.parse::<BootstrapAddr>().is_err());
        peaks.check("texts");
    }
}
