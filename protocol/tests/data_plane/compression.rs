//! Compression pays or is left out; decompression gives the exact bytes or a bounded error.

use echonet_protocol::data::CHUNK_BYTES_MAX;
use echonet_protocol::data::compression::{
    CompressError, Compressor, DecompressError, StoredCodec, compress, decompress, decompress_into,
};
use proptest::prelude::*;

use crate::stream;

fn text(len: usize) -> Vec<u8> {
    let words = (0u32..).flat_map(|n| format!("line {n}: the same words again\n").into_bytes());
    words.take(len).collect()
}

fn round_trip(plain: &[u8]) -> StoredCodec {
    let stored = compress(plain).unwrap();
    assert_eq!(decompress(stored.codec, &stored.bytes, plain.len()).unwrap(), plain);
    assert!(stored.bytes.len() <= plain.len(), "storing never grows a chunk");
    stored.codec
}

#[test]
fn zstd_is_kept_where_it_pays() {
    assert_eq!(round_trip(&text(2_000_000)), StoredCodec::Zstd);
    assert_eq!(round_trip(&text(5000)), StoredCodec::Zstd);
    assert_eq!(round_trip(&vec![0; CHUNK_BYTES_MAX]), StoredCodec::Zstd);
    assert_eq!(round_trip(&stream("noise", CHUNK_BYTES_MAX)), StoredCodec::Raw);
    assert_eq!(round_trip(&stream("noise", 300)), StoredCodec::Raw);
    assert_eq!(round_trip(&[]), StoredCodec::Raw);
    assert_eq!(round_trip(&[7]), StoredCodec::Raw);
}

#[test]
fn a_container_with_a_compressible_header_is_left_as_it_is() {
    let mut plain = text(30_000);
    plain.extend_from_slice(&stream("payload", 1_000_000));
    assert_eq!(round_trip(&plain), StoredCodec::Raw);
}

#[test]
fn a_half_compressible_chunk_is_compressed() {
    let mut plain = stream("first half", 500_000);
    plain.extend_from_slice(&text(500_000));
    assert_eq!(round_trip(&plain), StoredCodec::Zstd);
}

#[test]
fn raw_chunks_are_not_copied() {
    let plain = stream("borrowed", 1_000_000);
    let stored = Compressor::new().unwrap().compress(&plain).unwrap().bytes;
    assert_eq!(stored.as_ptr(), plain.as_ptr());
}

#[test]
fn too_long_is_refused_before_any_work() {
    let long = vec![0; CHUNK_BYTES_MAX + 1];
    assert!(matches!(compress(&long), Err(CompressError::TooLong(_))));
    for codec in [StoredCodec::Raw, StoredCodec::Zstd] {
        let refused = decompress(codec, &[], usize::MAX);
        assert_eq!(refused, Err(DecompressError::TooLong(usize::MAX)));
    }
}

#[test]
fn a_bomb_stops_at_the_expected_length() {
    // 256 MiB of zeros in some 8 KiB.
    let bomb = zstd::bulk::compress(&vec![0; 256 << 20], 3).unwrap();
    let error = DecompressError::Length { expected: 1000, found: 256 << 20 };
    assert_eq!(decompress(StoredCodec::Zstd, &bomb, 1000), Err(error));
    // The same with a header that lies: it claims 1,000 bytes.
    let mut lying = zstd::bulk::compress(&vec![0; 256 * 300], 3).unwrap();
    let at = lying.windows(4).position(|w| w == (256u32 * 300).to_le_bytes()).unwrap();
    lying[at..at + 4].copy_from_slice(&1000u32.to_le_bytes());
    let refused = decompress(StoredCodec::Zstd, &lying, 1000).unwrap_err();
    assert!(matches!(refused, DecompressError::Corrupt(_)), "{refused}");
}

#[test]
fn an_absurd_window_costs_no_memory() {
    // Magic; no single segment, 8-byte content size; a window of 3.75 TiB; 1,000 bytes claimed; one
    // last, raw block of 1,000 bytes.
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0xc0, 0xff];
    frame.extend_from_slice(&1000u64.to_le_bytes());
    let block_header = 1 | 1000 << 3;
    frame.extend_from_slice(&u32::to_le_bytes(block_header)[..3]);
    frame.extend_from_slice(&[9; 1000]);
    // Either answer is right: the bytes are there. What matters is that it neither dies nor lies.
    match decompress(StoredCodec::Zstd, &frame, 1000) {
        Ok(plain) => assert_eq!(plain, [9; 1000]),
        Err(error) => {
            assert!(matches!(error, DecompressError::Frame(_) | DecompressError::Corrupt(_)))
        }
    }
}

#[test]
fn anything_but_one_plain_frame_is_refused() {
    let plain = text(5000);
    let frame = zstd::bulk::compress(&plain, 3).unwrap();
    let refused = |stored: &[u8], len: usize| {
        let error = decompress(StoredCodec::Zstd, stored, len).unwrap_err();
        assert!(matches!(error, DecompressError::Frame(_)), "{error}");
    };
    let skippable = [0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4];
    refused(&[], 5000);
    refused(&frame[..3], 5000);
    refused(&frame[..frame.len() - 1], 5000);
    refused(&[&frame[..], &[0]].concat(), 5000);
    refused(&[&frame[..], &frame].concat(), 5000);
    refused(&[&frame[..], &skippable].concat(), 5000);
    refused(&[&skippable[..], &frame].concat(), 5000);
    let unsized_frame = zstd::stream::encode_all(&plain[..], 3).unwrap();
    refused(&unsized_frame, 5000);
    for len in [0, 4999, 5001] {
        let error = DecompressError::Length { expected: len, found: 5000 };
        assert_eq!(decompress(StoredCodec::Zstd, &frame, len), Err(error));
    }
    let error = DecompressError::Length { expected: 2, found: 3 };
    assert_eq!(decompress_into(StoredCodec::Raw, &[1, 2, 3], &mut [0; 2]), Err(error));
    assert!(StoredCodec::try_from(2).is_err());
    assert_eq!(StoredCodec::try_from(StoredCodec::Zstd as u8), Ok(StoredCodec::Zstd));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_bytes_come_back(mut plain in prop::collection::vec(any::<u8>(), 0..3000), times in 1usize..60) {
        plain = plain.repeat(times);
        round_trip(&plain);
    }

    #[test]
    fn damage_never_panics_and_never_changes_the_length(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let plain = text(20_000);
        let mut stored = zstd::bulk::compress(&plain, 3).unwrap();
        for (at, value) in flips {
            let at = at.index(stored.len());
            stored[at] ^= value;
        }
        // zstd's frames carry no checksum here: the chunk hash finds what this cannot.
        if let Ok(found) = decompress(StoredCodec::Zstd, &stored, plain.len()) {
            prop_assert_eq!(found.len(), plain.len());
        }
        stored.truncate(cut.index(stored.len()));
        prop_assert!(decompress(StoredCodec::Zstd, &stored, plain.len()).is_err());
    }

    #[test]
    fn noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..600), len in 0usize..5000) {
        let mut framed = vec![0x28, 0xb5, 0x2f, 0xfd];
        framed.extend_from_slice(&noise);
        for stored in [&noise, &framed] {
            if let Ok(found) = decompress(StoredCodec::Zstd, stored, len) {
                prop_assert_eq!(found.len(), len);
            }
        }
    }
}
