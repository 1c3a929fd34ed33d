//! The golden vectors of `protocol/vectors/data-*.json`: every case names its input, and the code
//! must give the recorded output. SPEC_DATA.md says how to read them.

use std::path::Path;

use echonet_protocol::data::chunker::Chunker;
use echonet_protocol::data::compression::{StoredCodec, decompress};
use echonet_protocol::data::erasure::{ErasureCode, data_shard, shard_len};
use echonet_protocol::data::verified::{
    ContentOutboardBuilder, ContentShape, decode_slice, encode_slice, outboard,
};
use serde_json::{Value, json};

use crate::stream;

/// Runs every case of one file. A mismatch prints the whole file as the code would have it.
fn check(name: &str, output: impl Fn(&Value) -> Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors").join(name);
    let recorded: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let mut fresh = recorded.clone();
    for case in fresh["cases"].as_array_mut().unwrap() {
        case["output"] = output(&case["input"]);
    }
    assert!(!fresh["cases"].as_array().unwrap().is_empty());
    assert!(
        fresh == recorded,
        "{name} differs; as the code has it:\n{}",
        serde_json::to_string_pretty(&fresh).unwrap()
    );
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap()
}

fn size(value: &Value) -> usize {
    usize::try_from(number(value)).unwrap()
}

/// The input's bytes: BLAKE3's extendable output of `label`, or zeros where the label is empty.
fn data(input: &Value) -> Vec<u8> {
    match input["label"].as_str().unwrap() {
        "" => vec![0; size(&input["len"])],
        label => stream(label, size(&input["len"])),
    }
}

fn hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_string()
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

#[test]
fn chunker() {
    check("data-chunker.json", |input| {
        let (mut cuts, start) = (Vec::new(), number(&input["start_offset"]));
        let mut chunker = Chunker::new(start);
        let mut note = |chunk: echonet_protocol::data::Chunk<'_>| {
            cuts.push(chunk.offset + chunk.bytes.len() as u64);
        };
        chunker.feed(&data(input), &mut note);
        chunker.finish(&mut note);
        json!({ "cuts": cuts })
    });
}

#[test]
fn compression() {
    check("data-compression.json", |input| {
        let stored = input["stored_hex"].as_str().unwrap();
        let stored = data_encoding::HEXLOWER.decode(stored.as_bytes()).unwrap();
        let codec = StoredCodec::try_from(u8::try_from(number(&input["codec"])).unwrap()).unwrap();
        match decompress(codec, &stored, size(&input["plain_len"])) {
            Ok(plain) => json!({ "plain_blake3": hash(&plain) }),
            Err(_) => json!({ "refused": true }),
        }
    });
}

#[test]
fn erasure() {
    check("data-erasure.json", |input| {
        let (k, m) = (size(&input["k"]), size(&input["m"]));
        let (code, segment) = (ErasureCode::new(k, m).unwrap(), data(input));
        let mut parity = vec![vec![0; shard_len(segment.len(), k)]; m];
        code.encode(&segment, &mut parity).unwrap();
        let shards = (0..k).map(|index| data_shard(&segment, k, index).into_owned()).chain(parity);
        let hashes: Vec<String> = shards.map(|shard| hash(&shard)).collect();
        json!({ "shard_len": shard_len(segment.len(), k), "shards_blake3": hashes })
    });
}

/// Segment byte d of k bytes alone set to 1 gives column d of the matrix.
#[test]
fn erasure_matrix() {
    check("data-erasure-matrix.json", |input| {
        let (k, m) = (size(&input["k"]), size(&input["m"]));
        let code = ErasureCode::new(k, m).unwrap();
        let mut rows = vec![vec![0; k]; m];
        for column in 0..k {
            let mut segment = vec![0; k];
            segment[column] = 1;
            let mut parity = vec![[0; 1]; m];
            code.encode(&segment, &mut parity).unwrap();
            for (row, byte) in rows.iter_mut().zip(&parity) {
                row[column] = byte[0];
            }
        }
        json!({ "parity_rows_hex": rows.iter().map(|row| hex(row)).collect::<Vec<_>>() })
    });
}

#[test]
fn outboards() {
    check("data-outboard.json", |input| {
        let log = u8::try_from(number(&input["group_log"])).unwrap();
        let built = outboard(&data(input), log).unwrap();
        json!({
            "root": hex(&built.root),
            "nodes_len": built.nodes.len(),
            "nodes_blake3": hash(&built.nodes),
        })
    });
}

/// Group g's hash is made up: BLAKE3 of g as 8 bytes, little-endian. So contents of many pages
/// need no bytes.
#[test]
fn content_parts() {
    check("data-content-parts.json", |input| {
        let shape = ContentShape::new(number(&input["len"])).unwrap();
        let mut builder = ContentOutboardBuilder::new(shape);
        let mut parts = Vec::new();
        for group in 0..shape.groups() {
            let cv = *blake3::hash(&group.to_le_bytes()).as_bytes();
            if let Some(part) = builder.push(cv).unwrap() {
                parts.push(json!({ "len": part.nodes.len(), "blake3": hash(&part.nodes) }));
            }
        }
        let built = builder.finish().unwrap();
        json!({
            "root": hex(&built.root),
            "root_part": { "len": built.root_part.len(), "blake3": hash(&built.root_part) },
            "page_parts": parts,
        })
    });
}

#[test]
fn slices() {
    check("data-slices.json", |input| {
        let range = number(&input["start"])..number(&input["end"]);
        let log = u8::try_from(number(&input["group_log"])).unwrap();
        let bytes = data(input);
        let (encoded, root) = encode_slice(&bytes, range.clone(), log).unwrap();
        let decoded = decode_slice(&root, bytes.len() as u64, range, log, &encoded).unwrap();
        json!({
            "root": hex(&root),
            "encoded_len": encoded.len(),
            "encoded_blake3": hash(&encoded),
            "decoded_blake3": hash(&decoded),
        })
    });
}
