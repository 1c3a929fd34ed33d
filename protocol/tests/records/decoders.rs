//! Every decoder against damage: what is accepted is exactly what would be written, and what is
//! signed is never accepted changed.

use std::str::FromStr;

use echonet_protocol::{
    announcement::{Announcement, LiveCheck},
    audit::{
        AuditAnswer, AuditChallenge, AuditDigest, AuditVerdict, Maintenance, WitnessSet,
        WitnessSets,
    },
    bytes::SliceHash,
    content_id::ContentId,
    data::rows::Rows,
    identity::{Record, Signed},
    inconsistency::InconsistencyProof,
    lease::{Grant, Lease, LeaseEnd, Receipt},
    manifest::{ManifestPage, ManifestRoot},
    membership::Claim,
    message,
    network::{BootstrapAddr, Genesis},
    node_descriptor::NodeDescriptor,
    placement_record::PlacementRecord,
    segment::SegmentDescriptor,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{
    audit, content, messages,
    plain::{self, Style},
    sample,
};

/// Decodes; gives the encoding of what was read.
type Decode = Box<dyn Fn(&[u8]) -> Option<Vec<u8>>>;

/// A decoder with a sample that it accepts.
pub(crate) struct Decoder {
    pub(crate) kind: &'static str,
    /// Whether every accepted byte is vouched for by a signature or a hash.
    pub(crate) is_sealed: bool,
    pub(crate) sample: Vec<u8>,
    pub(crate) decode: Decode,
}

fn signed<T: Record + 'static>(sample: Signed<T>) -> Decoder {
    let network = sample::network();
    let decode = move |bytes: &[u8]| Some(Signed::<T>::decode(bytes, &network).ok()?.encode());
    let (kind, sample) = (T::KIND, sample.encode());
    Decoder { kind, is_sealed: true, sample, decode: Box::new(decode) }
}

fn free(
    kind: &'static str,
    sample: Vec<u8>,
    decode: impl Fn(&[u8]) -> Option<Vec<u8>> + 'static,
) -> Decoder {
    Decoder { kind, is_sealed: false, sample, decode: Box::new(decode) }
}

fn manifest(sample: ManifestRoot) -> Decoder {
    let content = sample.content;
    let decode = move |bytes: &[u8]| Some(ManifestRoot::decode(bytes, &content).ok()?.encode());
    free("manifest", sample.encode(), decode)
}

/// Decoders of DAG-CBOR.
pub(crate) fn all() -> Vec<Decoder> {
    let network = sample::network();
    let lease = sample::lease(Some(sample::grant().hash()));
    let read = move |bytes: &[u8]| PlacementRecord::decode(bytes, &network).ok();
    let placement = |sample: Vec<u8>| Decoder {
        kind: "placement record",
        is_sealed: true,
        sample,
        decode: Box::new(move |bytes: &[u8]| Some(read(bytes)?.encode())),
    };
    let root = content::paged();
    let page = move |bytes: &[u8]| Some(ManifestPage::decode(bytes, &root, 0).ok()?.encode());
    vec![
        signed::<Grant>(sample::grant()),
        signed::<Lease>(lease),
        signed::<LeaseEnd>(sample::lease_end()),
        signed::<Receipt>(sample::receipt(4)),
        signed::<Announcement>(sample::announcement(false)),
        signed::<LiveCheck>(sample::live_check()),
        signed::<NodeDescriptor>(sample::node_descriptor()),
        placement(sample::placement().encode()),
        placement(sample::placement_second().encode()),
        placement(sample::placement_third().encode()),
        signed::<Claim>(sample::word()),
        signed::<Claim>(sample::doubt()),
        signed::<Maintenance>(audit::maintenance()),
        signed::<AuditChallenge>(audit::challenge()),
        signed::<AuditAnswer>(audit::answer(1, Some(SliceHash([1; 32])))),
        signed::<AuditVerdict>(audit::verdict()),
        signed::<AuditDigest>(audit::digest()),
        Decoder {
            kind: "witness set",
            is_sealed: true,
            sample: audit::witness_set().encode(),
            decode: Box::new(|bytes| {
                let set = WitnessSet::decode(bytes).ok()?;
                WitnessSets::new(&audit::genesis()).push(&set).ok()?;
                Some(set.encode())
            }),
        },
        free("genesis", sample::genesis().encode(), |b| Some(Genesis::decode(b).ok()?.encode())),
        free("segment descriptor", sample::placed().encode(), |b| {
            Some(SegmentDescriptor::decode(b).ok()?.encode())
        }),
        manifest(content::inline(b"hello")),
        manifest(content::paged_long()),
        free("manifest page", content::page().encode(), page),
        free("inconsistency proof", content::proof().encode(), |b| {
            Some(InconsistencyProof::decode(b, &Rows).ok()?.encode())
        }),
    ]
}

/// The decoder for a recorded content-addressed value.
pub(crate) fn of_content(kind: &str, input: &Value) -> Decoder {
    if kind == "manifest" {
        let id = ContentId::new(plain::unhex(&input["content"]).try_into().unwrap());
        return free("manifest", Vec::new(), move |b| {
            Some(ManifestRoot::decode(b, &id).ok()?.encode())
        });
    }
    all().into_iter().find(|d| d.kind == kind).unwrap()
}

fn of_messages() -> Vec<Decoder> {
    let request = |b: &[u8]| Some(message::encode(&message::decode_request(b).ok()?));
    let response = |b: &[u8]| Some(message::encode(&message::decode_response(b).ok()?));
    let requests =
        messages::requests().into_iter().map(|(kind, request)| (kind, messages::envelope(request)));
    let requests = requests.map(|(kind, r)| free(kind, message::encode(&r), request));
    let responses = messages::responses().into_iter();
    requests.chain(responses.map(|(kind, r)| free(kind, message::encode(&r), response))).collect()
}

/// Panics where a decoder takes what it would not write, or a sealed one anything but its sample.
fn accepts_only_its_own(decoder: &Decoder, bytes: &[u8]) {
    let Some(again) = (decoder.decode)(bytes) else { return };
    assert_eq!(again, bytes, "{} accepted another form", decoder.kind);
    let is_sample = bytes == decoder.sample;
    assert!(is_sample || !decoder.is_sealed, "{} accepted a change", decoder.kind);
}

#[test]
fn samples_are_read_and_written_alike() {
    for decoder in all().into_iter().chain(of_messages()) {
        assert_eq!(
            (decoder.decode)(&decoder.sample),
            Some(decoder.sample.clone()),
            "{}",
            decoder.kind
        );
    }
}

#[test]
fn nothing_is_read_that_was_cut_or_goes_on() {
    for decoder in all().into_iter().chain(of_messages()) {
        for len in 0..decoder.sample.len() {
            let cut = &decoder.sample[..len];
            assert_eq!((decoder.decode)(cut), None, "{} of {len} bytes", decoder.kind);
        }
        for more in [&[0][..], &[0xf6], &decoder.sample] {
            let longer = [&decoder.sample[..], more].concat();
            assert_eq!((decoder.decode)(&longer), None, "{} with more behind", decoder.kind);
        }
    }
}

#[test]
fn no_flipped_bit_goes_unseen() {
    for decoder in all().into_iter().chain(of_messages()) {
        let bits = decoder.sample.len() * 8;
        // Long samples by a stride that meets every bit of a byte.
        let stride = if bits > 8 * 800 { 7 } else { 1 };
        for bit in (0..bits).step_by(stride) {
            let mut bytes = decoder.sample.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            accepts_only_its_own(&decoder, &bytes);
        }
    }
}

#[test]
fn only_the_deterministic_form_is_read() {
    use Style::{Indefinite, KeyTwice, LongHeads, ReversedKeys};
    for decoder in all() {
        let value = plain::decode(&decoder.sample);
        assert_eq!(plain::encode(&value), decoder.sample, "{}", decoder.kind);
        for style in [LongHeads, ReversedKeys, Indefinite, KeyTwice] {
            let bytes = plain::encode_as(&value, style);
            assert_eq!((decoder.decode)(&bytes), None, "{} as {style:?}", decoder.kind);
        }
    }
}

/// All values that come from `value` by one change: a field gone, a field more, something else in
/// place of a part.
fn changes(value: &Value) -> Vec<Value> {
    let others = [
        json!(null),
        json!(true),
        json!(0),
        json!(1),
        json!(2),
        json!(u32::MAX),
        json!(u64::MAX),
        json!(""),
        json!("x"),
        json!("0x"),
        json!([]),
        json!({}),
        json!([[]]),
    ];
    let mut changed: Vec<Value> = others.to_vec();
    match value {
        Value::Object(map) => {
            for (key, part) in map {
                let with = |key: &str, part: Option<Value>| {
                    let mut map = map.clone();
                    map.remove(key);
                    map.extend(part.map(|part| (key.to_owned(), part)));
                    Value::Object(map)
                };
                changed.push(with(key, None));
                changed.extend(changes(part).into_iter().map(|part| with(key, Some(part))));
            }
            let mut more = map.clone();
            more.insert("zz".into(), json!(1));
            changed.push(Value::Object(more));
        }
        Value::Array(items) => {
            for (at, part) in items.iter().enumerate().take(6) {
                let mut without = items.clone();
                without.remove(at);
                let mut twice = items.clone();
                twice.insert(at, part.clone());
                changed.extend([Value::Array(without), Value::Array(twice)]);
                changed.extend(changes(part).into_iter().map(|part| {
                    let mut items = items.clone();
                    items[at] = part;
                    Value::Array(items)
                }));
            }
        }
        Value::String(text) => {
            let longer = format!("{text}00");
            changed.extend([json!(longer), json!(text.to_uppercase())]);
        }
        _ => {}
    }
    changed.retain(|change| change != value);
    changed
}

#[test]
fn no_changed_field_goes_unseen() {
    for decoder in all() {
        let value = plain::decode(&decoder.sample);
        for change in changes(&value) {
            if change.to_string().contains("0X") {
                continue;
            }
            accepts_only_its_own(&decoder, &plain::encode(&change));
        }
    }
}

#[test]
fn deep_nesting_ends_in_an_error() {
    for decoder in all().into_iter().chain(of_messages()) {
        for opener in
            [&[0x81][..], &[0x9f], &[0xa1, 0x61, 0x76], &[0xc1], &[0xd8, 0x2a], &[0xbf, 0x60]]
        {
            let deep = opener.repeat(4096 / opener.len());
            assert_eq!((decoder.decode)(&deep), None, "{}", decoder.kind);
            let deep = opener.repeat((1 << 20) / opener.len());
            assert_eq!((decoder.decode)(&deep), None, "{}", decoder.kind);
            // In place of each value near the front.
            for at in 0..decoder.sample.len().min(100) {
                let deep = [&decoder.sample[..at], &opener.repeat(1500)].concat();
                assert_eq!((decoder.decode)(&deep), None, "{}", decoder.kind);
            }
        }
    }
}

fn any_plain() -> impl Strategy<Value = Value> {
    let bytes = prop::collection::vec(any::<u8>(), 0..40).prop_map(|b| plain::hex(&b));
    let names =
        prop::sample::select(vec!["v", "network", "body", "sig", "inline", "paged", "owner"]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        "[a-z ]{0,8}".prop_map(Value::from),
        bytes,
    ];
    leaf.prop_recursive(4, 32, 8, move |inner| {
        let list = prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from);
        let map = prop::collection::btree_map(names.clone(), inner, 0..8);
        prop_oneof![list, map.prop_map(|m| m.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn random_bytes_are_refused_or_exact(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        for decoder in all().into_iter().chain(of_messages()) {
            accepts_only_its_own(&decoder, &bytes);
        }
    }

    #[test]
    fn random_values_are_refused_or_exact(value in any_plain()) {
        for decoder in all() {
            accepts_only_its_own(&decoder, &plain::encode(&value));
        }
    }

    #[test]
    fn random_damage_is_seen(at in any::<prop::sample::Index>(), cut in 0_usize..40, put in prop::collection::vec(any::<u8>(), 0..40)) {
        for decoder in all().into_iter().chain(of_messages()) {
            let at = at.index(decoder.sample.len());
            let end = (at + cut).min(decoder.sample.len());
            let bytes = [&decoder.sample[..at], &put, &decoder.sample[end..]].concat();
            accepts_only_its_own(&decoder, &bytes);
        }
    }

    #[test]
    fn texts_are_refused_or_exact(text in "\\PC{0,150}", bytes in any::<[u8; 32]>(), at in 0_usize..300, put in "[a-zA-Z0-9:./@ ]") {
        let id = ContentId::new(bytes);
        let network = sample::network();
        let addr = BootstrapAddr { network, node: sample::node_id(9), addr: "127.0.0.1:4700".parse().unwrap() };
        for valid in [id.to_string(), format!("echo:{id}"), id.0.to_hex(), addr.to_string(), text] {
            let mut changed: Vec<char> = valid.chars().collect();
            let at = at % (changed.len() + 1);
            changed.splice(at..(at + 1).min(changed.len()), put.chars());
            for text in [valid.clone(), changed.into_iter().collect(), format!("{valid}{put}"), format!("{put}{valid}")] {
                if let Ok(id) = ContentId::from_str(&text) {
                    let bare = text.strip_prefix("echo:").unwrap_or(&text);
                    prop_assert!(id.to_string() == bare || id.0.to_hex() == bare.to_lowercase());
                }
                if let Ok(addr) = BootstrapAddr::from_str(&text) {
                    prop_assert_eq!(addr.to_string().parse(), Ok(addr));
                }
            }
        }
    }
}
