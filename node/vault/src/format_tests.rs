//! The layouts round-trip, and nothing that is off by one bit parses.
use super::*;
use proptest::prelude::*;

fn lease() -> impl Strategy<Value = StoredLease> {
    let pool = prop_oneof![
        any::<([u8; 32], u64)>()
            .prop_map(|(grant, until_epoch)| Pool::Granted { grant, until_epoch }),
        any::<[u8; 16]>().prop_map(|prefix| Pool::Free { prefix }),
    ];
    let standing = proptest::option::of(any::<[u64; 2]>());
    let rest = (any::<[u64; 3]>(), any::<[bool; 2]>(), any::<u128>(), standing);
    (any::<[u8; 32]>(), any::<[u8; 32]>(), pool, rest).prop_map(
        |(
            id,
            owner,
            pool,
            ([from_epoch, until_epoch, added_epoch], [sealed, ended], used, standing),
        )| {
            let grant_used = if matches!(pool, Pool::Free { .. }) { 0 } else { used };
            let standing = standing.map(|[term_epochs, grant_byte_epochs]| Standing {
                term_epochs,
                grant_byte_epochs,
            });
            let meta = LeaseMeta { id, owner, pool, from_epoch, until_epoch, sealed, standing };
            StoredLease { meta, added_epoch, ended, grant_used }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn states_round_trip(
        created_epoch: u64, quarantined: bool,
        leases in proptest::collection::vec(lease(), 0..5),
    ) {
        let state = EntryState { created_epoch, quarantined, leases };
        let bytes = encode_state(&state);
        prop_assert_eq!(decode_state(&bytes), Some(state));
        prop_assert_eq!(decode_state(&bytes[..bytes.len() - 1]), None);
    }

    #[test]
    fn any_flipped_bit_of_a_header_is_seen(secret: [u8; 32], segment: [u8; 32], bit in 0..RECORD_LEN * 8) {
        let at = Position { volume: 3, offset: 8192 };
        let head = RecordHead {
            kind: Kind::Put, key: Key { segment, index: 7 }, at, state_len: 16, meta_len: 5,
            shard_len: 99, aux_hash: [1; 32], shard_hash: [2; 32],
        };
        let mut bytes = head.encode(&secret);
        prop_assert_eq!(RecordHead::decode(&bytes, &secret, at), Some(head));
        let elsewhere = Position { offset: 8200, ..at };
        prop_assert_eq!(RecordHead::decode(&bytes, &secret, elsewhere), None);
        prop_assert_eq!(RecordHead::decode(&bytes, &[9; 32], at), None);
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert_eq!(RecordHead::decode(&bytes, &secret, at), None);
    }

    #[test]
    fn any_flipped_bit_of_a_volume_header_is_seen(secret: [u8; 32], bit in 0..HEADER_LEN * 8) {
        let cut = Some(Position { volume: 8, offset: 9000 });
        let header = VolumeHeader { number: 9, len_max: 1 << 30, cut, secret };
        let mut bytes = header.encode();
        prop_assert_eq!(VolumeHeader::decode(&bytes), Some(header));
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert_eq!(VolumeHeader::decode(&bytes), None);
    }

    #[test]
    fn decoders_take_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = decode_state(&bytes);
        let _ = decode_lease(&bytes);
        let _ = decode_grant_used(&bytes);
        let at = Position::default();
        prop_assert_eq!(RecordHead::decode(&bytes, &[0; 32], at), None);
    }
}

#[test]
fn a_trailer_counts_in_its_own_volume_only() {
    let trailer = encode_trailer(&[1; 32], 77);
    assert_eq!(decode_trailer(&trailer, &[1; 32]), Some(77));
    assert_eq!(decode_trailer(&trailer, &[2; 32]), None);
}

#[test]
fn only_a_placement_may_have_a_long_meta() {
    let at = Position { volume: 3, offset: 8192 };
    let head = |kind, meta_len| RecordHead {
        kind,
        key: Key { segment: [3; 32], index: 0 },
        at,
        state_len: 8,
        meta_len,
        shard_len: 0,
        aux_hash: [1; 32],
        shard_hash: [0; 32],
    };
    let parses = |head: RecordHead| RecordHead::decode(&head.encode(&[5; 32]), &[5; 32], at);
    for (kind, len_max) in [
        (Kind::Placement, PLACEMENT_LEN_MAX),
        (Kind::Put, META_LEN_MAX),
        (Kind::Lost, META_LEN_MAX),
    ] {
        assert_eq!(parses(head(kind, len_max)), Some(head(kind, len_max)));
        assert_eq!(parses(head(kind, len_max + 1)), None);
    }
}
