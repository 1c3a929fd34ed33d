//! A second, obvious implementation of deterministic DAG-CBOR for the tests: plain JSON to bytes
//! and back. Byte strings are JSON strings that begin with `0x`; nothing else is special.
//!
//! It shares no code with the crate, so that both being wrong in the same way is unlikely.

use serde_json::{Map, Value};

/// How to write: only the first is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// As SPEC.md says.
    Deterministic,
    /// Numbers and lengths with needless bytes.
    LongHeads,
    /// Map keys in the opposite order.
    ReversedKeys,
    /// Lists and maps without a length in front.
    Indefinite,
    /// Every map's first key twice.
    KeyTwice,
}

/// Lower-case hex behind `0x`.
pub(crate) fn hex(bytes: &[u8]) -> Value {
    Value::String(format!("0x{}", data_encoding::HEXLOWER.encode(bytes)))
}

/// The bytes of such text.
pub(crate) fn unhex(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap().strip_prefix("0x").unwrap();
    data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap()
}

/// Deterministic DAG-CBOR of a plain value.
pub(crate) fn encode(value: &Value) -> Vec<u8> {
    encode_as(value, Style::Deterministic)
}

/// DAG-CBOR in some style.
pub(crate) fn encode_as(value: &Value, style: Style) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out, value, style);
    out
}

fn head(out: &mut Vec<u8>, major: u8, number: u64, style: Style) {
    let bytes = number.to_be_bytes();
    let (info, from) = match number {
        _ if style == Style::LongHeads => (27, 0),
        0..=23 => (number as u8, 8),
        24..=0xff => (24, 7),
        0x100..=0xffff => (25, 6),
        0x1_0000..=0xffff_ffff => (26, 4),
        _ => (27, 0),
    };
    out.push(major << 5 | info);
    out.extend_from_slice(&bytes[from..]);
}

fn write(out: &mut Vec<u8>, value: &Value, style: Style) {
    match value {
        Value::Null => out.push(0xf6),
        Value::Bool(b) => out.push(0xf4 + u8::from(*b)),
        Value::Number(n) => head(out, 0, n.as_u64().unwrap(), style),
        Value::String(text) if text.starts_with("0x") => {
            let bytes = unhex(value);
            head(out, 2, bytes.len() as u64, style);
            out.extend_from_slice(&bytes);
        }
        Value::String(text) => write_text(out, text, style),
        Value::Array(items) => {
            open(out, 4, items.len(), style);
            items.iter().for_each(|item| write(out, item, style));
            close(out, style);
        }
        Value::Object(map) => write_map(out, map, style),
    }
}

fn write_text(out: &mut Vec<u8>, text: &str, style: Style) {
    head(out, 3, text.len() as u64, style);
    out.extend_from_slice(text.as_bytes());
}

fn write_map(out: &mut Vec<u8>, map: &Map<String, Value>, style: Style) {
    let mut keys: Vec<&String> = map.keys().collect();
    keys.sort_by(|a, b| a.len().cmp(&b.len()).then_with(|| a.as_bytes().cmp(b.as_bytes())));
    if style == Style::ReversedKeys {
        keys.reverse();
    }
    if style == Style::KeyTwice && !keys.is_empty() {
        keys.insert(0, keys[0]);
    }
    open(out, 5, keys.len(), style);
    for key in keys {
        write_text(out, key, style);
        write(out, &map[key], style);
    }
    close(out, style);
}

fn open(out: &mut Vec<u8>, major: u8, len: usize, style: Style) {
    if style == Style::Indefinite {
        out.push(major << 5 | 31);
    } else {
        head(out, major, len as u64, style);
    }
}

fn close(out: &mut Vec<u8>, style: Style) {
    if style == Style::Indefinite {
        out.push(0xff);
    }
}

/// The plain value of well-formed DAG-CBOR.
pub(crate) fn decode(bytes: &[u8]) -> Value {
    let mut at = bytes;
    let value = read(&mut at);
    assert!(at.is_empty(), "bytes behind the value");
    value
}

fn take<'a>(at: &mut &'a [u8], len: usize) -> &'a [u8] {
    let (taken, rest) = at.split_at(len);
    *at = rest;
    taken
}

fn read(at: &mut &[u8]) -> Value {
    let first = take(at, 1)[0];
    let (major, info) = (first >> 5, first & 31);
    if major == 7 {
        return match info {
            20 | 21 => Value::Bool(info == 21),
            22 => Value::Null,
            other => panic!("simple value {other}"),
        };
    }
    let number = match info {
        0..=23 => u64::from(info),
        24..=27 => {
            let bytes = take(at, 1 << (info - 24));
            bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
        }
        other => panic!("head {other}"),
    };
    let len = usize::try_from(number).unwrap();
    match major {
        0 => number.into(),
        2 => hex(take(at, len)),
        3 => {
            let text = String::from_utf8(take(at, len).to_vec()).unwrap();
            assert!(!text.starts_with("0x"), "this text would look like bytes");
            text.into()
        }
        4 => (0..len).map(|_| read(at)).collect::<Vec<_>>().into(),
        5 => Value::Object((0..len).map(|_| (read_key(at), read(at))).collect()),
        other => panic!("major type {other}"),
    }
}

fn read_key(at: &mut &[u8]) -> String {
    read(at).as_str().unwrap().to_owned()
}

#[test]
fn it_writes_the_examples_of_the_cbor_standard() {
    // RFC 8949, appendix A.
    let examples = [
        ("0", "00"),
        ("23", "17"),
        ("24", "1818"),
        ("1000", "1903e8"),
        ("1000000", "1a000f4240"),
        ("18446744073709551615", "1bffffffffffffffff"),
        ("false", "f4"),
        ("null", "f6"),
        ("\"0x01020304\"", "4401020304"),
        ("\"IETF\"", "6449455446"),
        ("[1,[2,3],[4,5]]", "8301820203820405"),
        ("{\"a\":1,\"b\":[2,3]}", "a26161016162820203"),
    ];
    for (json, cbor) in examples {
        let value: Value = serde_json::from_str(json).unwrap();
        assert_eq!(data_encoding::HEXLOWER.encode(&encode(&value)), cbor, "{json}");
        assert_eq!(decode(&encode(&value)), value);
    }
}
