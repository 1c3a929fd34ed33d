//! The golden vectors `protocol/vectors/records-*.json`: they say what this code does (set
//! `ECHONET_BLESS=1` to write them anew), and what they say holds for an encoder, hashes and
//! signatures that know nothing of this crate's types.

use std::path::Path;

use echonet_protocol::{
    announcement::{RecordKind, record_keys},
    audit::WitnessSet,
    bytes::{BeaconKey, SliceHash},
    content_id::ContentId,
    identity::{Identity, NodeId, Record, Signed, record_hash},
    message,
    network::{BootstrapAddr, NetworkId, QUICKNET_CHAIN},
    node_descriptor::NodeDescriptor,
    placement_record::PlacementRecord,
    quiet::QuietHours,
    segment::Scheme,
    time::UnixSeconds,
};
use ed25519_dalek::Signer as _;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    audit, content, decoders, messages,
    plain::{self, hex, unhex},
    sample,
};

/// What a value is as plain JSON.
pub(crate) fn plain<T: Serialize>(value: &T) -> Value {
    plain::decode(&serde_ipld_dagcbor::to_vec(value).unwrap())
}

/// The file, which must be what `cases` gives; those of another implementation read only it.
fn file(name: &str, about: &str, cases: Vec<Value>) -> Vec<Value> {
    let fresh = json!({ "about": about, "cases": cases });
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors").join(name);
    if std::env::var_os("ECHONET_BLESS").is_some() {
        std::fs::write(&path, serde_json::to_string_pretty(&fresh).unwrap() + "\n").unwrap();
    }
    let recorded: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    for (fresh, recorded) in
        fresh["cases"].as_array().unwrap().iter().zip(recorded["cases"].as_array().unwrap())
    {
        assert_eq!(fresh, recorded, "{name} differs");
    }
    assert!(fresh == recorded, "{name}: other cases, or other words about them");
    recorded["cases"].as_array().unwrap().clone()
}

fn signed_case<T: Record>(name: &str, signer: &Identity, signed: &Signed<T>) -> Value {
    let signatures = [(signer, signed.sig.0)];
    record_case(name, &signed.body, &signatures, &signed.encode())
}

fn record_case<T: Record>(
    name: &str,
    body: &T,
    signatures: &[(&Identity, [u8; 64])],
    encoded: &[u8],
) -> Value {
    let secrets: Vec<Value> = signatures.iter().map(|(i, _)| hex(&i.secret())).collect();
    let sigs: Vec<Value> = signatures.iter().map(|(_, sig)| hex(sig)).collect();
    json!({
        "name": name,
        "kind": T::KIND,
        "input": { "secrets": secrets, "body": plain(body) },
        "output": {
            "body": hex(&serde_ipld_dagcbor::to_vec(body).unwrap()),
            "record_hash": hex(&record_hash(body).0),
            "signatures": sigs,
            "encoded": hex(encoded),
        }
    })
}

fn placement_case(name: &str, record: &PlacementRecord, signers: &[Identity]) -> Value {
    let of = |id: &NodeId| signers.iter().find(|i| i.node_id() == *id).unwrap();
    let signatures: Vec<_> = record.signatures.iter().map(|s| (of(&s.signer), s.sig.0)).collect();
    let mut case = record_case(name, &record.body, &signatures, &record.encode());
    let mut beside = plain(record);
    for made in ["body", "signatures"] {
        beside.as_object_mut().unwrap().remove(made);
    }
    case["input"]["beside"] = beside;
    case["output"]["receipts_hash"] = hex(&record.body.receipts.0);
    case["output"]["sequence"] = json!(record.sequence());
    case
}

/// A witness set has no signer of its own, so its case is put together here.
fn set_case(name: &str, set: &WitnessSet, signers: &[Identity]) -> Value {
    let secrets: Vec<Value> = signers.iter().map(|i| hex(&i.secret())).collect();
    let sigs: Vec<Value> = set.signatures.iter().map(|s| hex(&s.sig.0)).collect();
    json!({
        "name": name,
        "kind": "witness set",
        "input": { "secrets": secrets, "body": plain(&set.body) },
        "output": {
            "body": hex(&serde_ipld_dagcbor::to_vec(&set.body).unwrap()),
            "record_hash": hex(&set.body.hash().0),
            "signatures": sigs,
            "encoded": hex(&set.encode()),
        }
    })
}

fn signed_cases() -> Vec<Value> {
    use sample::{holder, identity, issuer, owner};
    let lease = sample::lease(Some(sample::grant().hash()));
    vec![
        signed_case("grant", &issuer(), &sample::grant()),
        signed_case("lease under a grant", &owner(), &lease),
        signed_case("lease on free pools", &owner(), &sample::lease(None)),
        signed_case("standing lease", &owner(), &sample::standing_lease()),
        signed_case("lease end", &owner(), &sample::lease_end()),
        signed_case("receipt", &holder(4), &sample::receipt(4)),
        placement_case("placement, version 1", &sample::placement(), &[owner()]),
        placement_case("placement, version 2", &sample::placement_second(), &[0, 2, 4].map(holder)),
        placement_case(
            "placement, version 3",
            &sample::placement_third(),
            &[holder(0), identity(150), holder(4)],
        ),
        signed_case("announcement", &owner(), &sample::announcement(false)),
        signed_case("withdrawal", &owner(), &sample::announcement(true)),
        signed_case("live check", &identity(4), &sample::live_check()),
        signed_case("node descriptor", &holder(0), &sample::node_descriptor()),
        signed_case("membership claim, a node's own word", &holder(0), &sample::word()),
        signed_case("membership claim, goodbye", &holder(0), &sample::goodbye()),
        signed_case("membership claim, another's doubt", &holder(1), &sample::doubt()),
        set_case("witness set", &audit::witness_set(), &audit::witnesses()[..5]),
        signed_case("maintenance", &holder(0), &audit::maintenance()),
        signed_case("audit challenge", &identity(200), &audit::challenge()),
        signed_case("audit answer", &holder(0), &audit::answer(0, Some(SliceHash([0; 32])))),
        signed_case("audit answer of none", &holder(2), &audit::answer(2, None)),
        signed_case("audit verdict", &identity(200), &audit::verdict()),
        signed_case("audit digest", &identity(200), &audit::digest()),
    ]
}

#[test]
fn signed_records() {
    let about = "Signed records (SPEC.md, section 5). Text that begins with 0x is a byte string in hex. \
                 input.body as DAG-CBOR is output.body; the map {body, sig} is output.encoded. For a \
                 placement record that is the map {body, signatures} with {signer, sig} each and \
                 everything of input.beside, for a witness set {body, signatures} alone. secrets are the signers' 32 secret bytes of RFC 8032, \
                 in the order of the signatures. Where input.beside.ballot is a number, what is \
                 signed is a `placement commit` (SPEC.md, section 9).";
    let cases = file("records-signed.json", about, signed_cases());
    for case in cases {
        let (name, kind) = (&case["name"], case["kind"].as_str().unwrap());
        let (input, output) = (&case["input"], &case["output"]);
        let body = plain::encode(&input["body"]);
        assert_eq!(output["body"], hex(&body), "{name}");
        let digest = digest(kind, &input["body"]);
        assert_eq!(output["record_hash"], hex(&digest), "{name}");
        let ballot = &input["beside"]["ballot"];
        let sign = |secret: &Value| {
            let key = ed25519_dalek::SigningKey::from_bytes(&unhex(secret).try_into().unwrap());
            let signer = hex(key.verifying_key().as_bytes());
            let digest = match ballot {
                Value::Null => digest,
                _ => commit_digest(&input["body"], ballot, &json!(signer)),
            };
            json!({ "signer": signer, "sig": hex(&key.sign(&digest).to_bytes()) })
        };
        let signatures: Vec<Value> =
            input["secrets"].as_array().unwrap().iter().map(sign).collect();
        let sigs: Vec<Value> = signatures.iter().map(|s| s["sig"].clone()).collect();
        assert_eq!(output["signatures"], Value::Array(sigs.clone()), "{name}");
        let record = if kind == "placement record" {
            check_placement(input, output);
            let mut record = input["beside"].clone();
            record["body"] = input["body"].clone();
            record["signatures"] = Value::Array(signatures);
            record
        } else if kind == "witness set" {
            json!({ "body": input["body"], "signatures": signatures })
        } else {
            json!({ "body": input["body"], "sig": sigs[0] })
        };
        assert_eq!(output["encoded"], hex(&plain::encode(&record)), "{name}");
        decodes_as(kind, output);
    }
}

/// The digest that names and signs a record body.
fn digest(kind: &str, body: &Value) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("EchoNet 2026 signed record v1");
    hasher.update(kind.as_bytes()).update(&[0]).update(&plain::encode(body));
    *hasher.finalize().as_bytes()
}

/// What a holder signs under a later version.
fn commit_digest(placement: &Value, ballot: &Value, holder: &Value) -> [u8; 32] {
    let body = json!({
        "v": 1,
        "network": placement["network"],
        "placement": hex(&digest("placement record", placement)),
        "ballot": ballot,
        "holder": holder,
    });
    digest("placement commit", &body)
}

/// What is beside a placement's body is what the body says.
fn check_placement(input: &Value, output: &Value) {
    let (body, beside) = (&input["body"], &input["beside"]);
    let mut hasher = blake3::Hasher::new_derive_key("EchoNet 2026 placement receipts v1");
    for receipt in beside["receipts"].as_array().unwrap() {
        hasher.update(&digest("receipt", &receipt["body"]));
    }
    let receipts = hex(hasher.finalize().as_bytes());
    assert_eq!((&body["receipts"], &output["receipts_hash"]), (&receipts, &receipts));
    assert_eq!(body["lease"], hex(&digest("lease", &beside["lease"]["body"])));
    assert_eq!(beside["lease"]["body"]["grant"], hex(&digest("grant", &beside["grant"]["body"])));
    let descriptor = plain::encode(&beside["descriptor"]);
    assert_eq!(body["segment"], hex(blake3::hash(&descriptor).as_bytes()));
    let mut previous = Value::Null;
    for step in beside["lineage"].as_array().unwrap() {
        let mut earlier = body.clone();
        for field in ["version", "previous", "holders", "receipts"] {
            earlier[field] = step[field].clone();
        }
        assert_eq!(earlier["previous"], previous);
        previous = hex(&digest("placement record", &earlier));
        for signature in step["signatures"].as_array().unwrap() {
            let key = unhex(&signature["signer"]).try_into().unwrap();
            let key = ed25519_dalek::VerifyingKey::from_bytes(&key).unwrap();
            let sig = unhex(&signature["sig"]).try_into().unwrap();
            let sig = ed25519_dalek::Signature::from_bytes(&sig);
            let signed = match step["version"].as_u64() {
                Some(1) => digest("placement record", &earlier),
                _ => commit_digest(&earlier, &step["ballot"], &signature["signer"]),
            };
            key.verify_strict(&signed, &sig).unwrap();
        }
    }
    assert_eq!(body["previous"], previous);
    let number = |value: &Value| value.as_u64().unwrap();
    let until = number(&beside["lease"]["body"]["until"]);
    assert_eq!(number(&output["sequence"]), (until << 32) | (number(&body["version"]) << 16));
}

/// The crate reads the recorded bytes and writes them again.
fn decodes_as(kind: &str, output: &Value) {
    let bytes = unhex(&output["encoded"]);
    let decoder = decoders::all().into_iter().find(|d| d.kind == kind).unwrap();
    assert_eq!((decoder.decode)(&bytes).as_deref(), Some(&bytes[..]), "{kind}");
}

fn content_case<T: Serialize>(name: &str, kind: &str, value: &T, encoded: &[u8]) -> Value {
    let id = *blake3::hash(encoded).as_bytes();
    json!({
        "name": name,
        "kind": kind,
        "input": plain(value),
        "output": { "encoded": hex(encoded), "blake3": hex(&id) }
    })
}

fn content_cases() -> Vec<Value> {
    let genesis = sample::genesis();
    let mut public = genesis.clone();
    public.development = false;
    public.witness.set = vec![sample::node_id(8), sample::node_id(9)];
    public.witness.beacon_key = vec![1; 96];
    public.witness.drand_chain = QUICKNET_CHAIN.into();
    public.witness.set.sort_unstable();
    let mut shared = public.clone();
    shared.witness.drand_chain.clear();
    shared.witness.beacon_shares = vec![BeaconKey([2; 96]), BeaconKey([3; 96])];
    let (ten, copies) = (sample::descriptor(10, 6, 100_001), sample::descriptor(1, 6, 11));
    let (inline, empty) = (content::inline(b"hello"), content::inline(b""));
    let (paged, long, page) = (content::paged(), content::paged_long(), content::page());
    let proof = content::proof();
    let (segment, manifest) = ("segment descriptor", "manifest");
    vec![
        content_case("development network", "genesis", &genesis, &genesis.encode()),
        content_case("network with witnesses", "genesis", &public, &public.encode()),
        content_case("network with a shared beacon", "genesis", &shared, &shared.encode()),
        content_case("10+6", segment, &ten, &ten.encode()),
        content_case("copies", segment, &copies, &copies.encode()),
        content_case(
            "2+3, placed in records-signed.json",
            segment,
            &sample::placed(),
            &sample::placed().encode(),
        ),
        content_case("inline", manifest, &inline, &inline.encode()),
        content_case("inline, empty", manifest, &empty, &empty.encode()),
        content_case("paged", manifest, &paged, &paged.encode()),
        content_case("paged, three pages", manifest, &long, &long.encode()),
        content_case("the page of the paged one", "manifest page", &page, &page.encode()),
        content_case("2+1", "inconsistency proof", &proof, &proof.encode()),
    ]
}

#[test]
fn content_addressed_values() {
    let about = "Content-addressed values. Text that begins with 0x is a byte string in hex. input as \
                 DAG-CBOR is output.encoded, whose BLAKE3 hash is the NetworkID, SegmentID, manifest \
                 or page hash. Segments are the first `length` bytes of BLAKE3's extendable output of \
                 `echonet segment`, the paged content 2,500,000 of `echonet manifest`; the codeword of \
                 the inconsistency proof has one bit of byte 2,100 of shard 2 flipped.";
    for case in file("records-content.json", about, content_cases()) {
        let (name, kind) = (&case["name"], case["kind"].as_str().unwrap());
        let encoded = plain::encode(&case["input"]);
        assert_eq!(case["output"]["encoded"], hex(&encoded), "{name}");
        assert_eq!(case["output"]["blake3"], hex(blake3::hash(&encoded).as_bytes()), "{name}");
        let decoder = decoders::of_content(kind, &case["input"]);
        assert_eq!((decoder.decode)(&encoded), Some(encoded), "{name}");
    }
}

#[test]
fn messages() {
    let about = "Messages (SPEC.md, section 13), one of every variant. input is the message as JSON \
                 with field names, which postcard does not write; text that begins with 0x is a byte \
                 string, which postcard writes with its length in front; a list of 32 numbers is an \
                 array without. number is the postcard variant of the request or response. Requests \
                 are inside their envelope.";
    let requests = messages::requests().into_iter().map(|(name, request)| {
        let number = messages::request_number(&request);
        let envelope = messages::envelope(request);
        message_case(name, "request", number, &envelope)
    });
    let responses = messages::responses().into_iter().map(|(name, response)| {
        message_case(name, "response", messages::response_number(&response), &response)
    });
    for case in file("records-messages.json", about, requests.chain(responses).collect()) {
        let (name, bytes) = (&case["name"], unhex(&case["output"]["encoded"]));
        let again = if case["kind"] == "request" {
            let envelope = message::decode_request(&bytes).unwrap();
            (plain(&envelope), message::encode(&envelope))
        } else {
            let response = message::decode_response(&bytes).unwrap();
            (plain(&response), message::encode(&response))
        };
        assert_eq!(again, (case["input"].clone(), bytes), "{name}");
    }
}

fn message_case<T: Serialize>(name: &str, kind: &str, number: u8, value: &T) -> Value {
    json!({
        "name": name,
        "kind": kind,
        "number": number,
        "input": plain(value),
        "output": { "encoded": hex(&message::encode(value)) }
    })
}

fn keys_case(kind: RecordKind, id: [u8; 32]) -> Value {
    let keys = record_keys(&sample::network(), kind, &id);
    json!({
        "kind": "record keys",
        "input": { "network": hex(&sample::network().0), "record_kind": kind.number(), "id": hex(&id) },
        "output": keys.iter().map(|key| hex(&key.0)).collect::<Vec<_>>(),
    })
}

fn content_id_case(bytes: &[u8]) -> Value {
    let id = ContentId::of(bytes);
    json!({
        "kind": "ContentID",
        "input": hex(bytes),
        "output": { "hash": hex(id.as_bytes()), "text": id.to_string(), "link": format!("echo:{id}") },
    })
}

fn bootstrap_case(addr: &str) -> Value {
    let node = holder_id();
    let text = BootstrapAddr { network: sample::network(), node, addr: addr.parse().unwrap() };
    let input = json!({ "network": hex(&sample::network().0), "node": hex(&node.0), "addr": addr });
    json!({ "kind": "bootstrap address", "input": input, "output": text.to_string() })
}

fn holder_id() -> NodeId {
    sample::holder(0).node_id()
}

fn epoch_case(now: u64) -> Value {
    let genesis = sample::genesis();
    let input = json!({ "created": genesis.created.0, "epoch_s": genesis.epoch_s, "now": now });
    json!({ "kind": "epoch", "input": input, "output": genesis.epoch_at(UnixSeconds(now)).0 })
}

fn marks_case(k: u8, m: u8, length: usize) -> Value {
    let s = Scheme::new(k, m).unwrap();
    let (write_quorum, queued_at, urgent_at) = (s.write_quorum(), s.repair_mark(), s.urgent_mark());
    json!({
        "kind": "scheme",
        "input": { "k": k, "m": m, "length": length },
        "output": {
            "write_quorum": write_quorum, "repair_queued_at": queued_at, "urgent_at": urgent_at,
            "shard_length": s.shard_len(length),
        },
    })
}

#[test]
fn identifiers_and_numbers() {
    let about = "Record keys i = 0, 1, 2; text forms; epochs; marks of schemes; capacity classes of \
                 quotas in bytes; hours of the week of unix seconds. Text that begins with 0x is a byte string in hex.";
    let created = sample::genesis().created.0;
    let mut cases = vec![
        keys_case(RecordKind::Announcement, *ContentId::of(b"hello").as_bytes()),
        keys_case(RecordKind::Placement, sample::placed().segment_id().0),
    ];
    cases.extend([&b""[..], b"hello"].map(content_id_case));
    cases.extend(
        ["127.1.0.1:4700", "[2001:db8::1]:1", "[::ffff:1.2.3.4]:65535"].map(bootstrap_case),
    );
    let times = [0, created, created + 3599, created + 3600, u64::MAX];
    cases.extend(times.map(epoch_case));
    let schemes =
        [(10, 6, 33_554_432), (10, 6, 11), (1, 6, 11), (10, 14, 1), (63, 1, 64), (1, 63, 9)];
    cases.extend(schemes.map(|(k, m, length)| marks_case(k, m, length)));
    let hour = |now: u64| json!({ "kind": "hour of the week", "input": now, "output": QuietHours::hour_of(UnixSeconds(now)) });
    cases.extend([0, 1_767_571_199, 1_767_571_200, 1_767_571_200 + 25 * 3_600, u64::MAX].map(hour));
    let quotas = [0, (1 << 30) - 1, 1 << 30, (2 << 30) - 1, 2 << 30, 10 << 30, 1 << 45, u64::MAX];
    let class = |quota| json!({ "kind": "capacity class", "input": quota, "output": NodeDescriptor::class_of(quota) });
    cases.extend(quotas.map(class));
    for case in file("records-ids.json", about, cases) {
        match case["kind"].as_str().unwrap() {
            "record keys" => check_keys(&case),
            "ContentID" => check_content_id(&case),
            "bootstrap address" => check_bootstrap(&case),
            _ => {}
        }
    }
}

fn check_keys(case: &Value) {
    let input = &case["input"];
    for (key, i) in case["output"].as_array().unwrap().iter().zip(0..) {
        let mut hasher = blake3::Hasher::new_derive_key("EchoNet 2026 record key v1");
        hasher.update(&unhex(&input["network"]));
        hasher.update(&[input["record_kind"].as_u64().unwrap() as u8]);
        hasher.update(&unhex(&input["id"])).update(&[i]);
        assert_eq!(*key, hex(hasher.finalize().as_bytes()));
    }
}

fn check_content_id(case: &Value) {
    let output = &case["output"];
    let hash = unhex(&output["hash"]);
    assert_eq!(hash, blake3::hash(&unhex(&case["input"])).as_bytes());
    let cid = [&[0x01, 0x55, 0x1e, 0x20][..], &hash].concat();
    let base32 = data_encoding::BASE32_NOPAD.encode(&cid).to_lowercase();
    assert_eq!(output["text"], format!("b{base32}"));
    for text in ["text", "link"] {
        let id: ContentId = output[text].as_str().unwrap().parse().unwrap();
        assert_eq!(id.as_bytes()[..], hash);
    }
}

fn check_bootstrap(case: &Value) {
    let (input, text) = (&case["input"], case["output"].as_str().unwrap());
    let addr: BootstrapAddr = text.parse().unwrap();
    assert_eq!(addr.network, NetworkId(unhex(&input["network"]).try_into().unwrap()));
    assert_eq!(addr.node, NodeId(unhex(&input["node"]).try_into().unwrap()));
    assert_eq!(addr.addr.to_string(), input["addr"]);
}
