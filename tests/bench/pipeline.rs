//! What one core does to each byte of content before it is sent: the steps of a publish after
//! reading, alone and together, beside `blake3` alone and a copy of memory.

use std::{hint::black_box, time::Instant};

use anyhow::Context as _;
use echonet_protocol::data::{
    Compressor, ErasureCode, GROUP_BYTES, SEGMENT_BYTES_MAX, next_cut, verified::group_cv,
};

use crate::{
    ROUNDS, data,
    table::{Rounds, Table, rate, ratio},
};

/// Content of one measurement: eight segments.
const CONTENT_BYTES: usize = 8 * SEGMENT_BYTES_MAX;
const K: usize = 10;
const M: usize = 6;

const MEMCPY: &str = "memcpy";
const BLAKE3: &str = "blake3 of the whole, one thread";

/// Buffers that live as long as the run: fresh memory would be measured otherwise.
struct Bench {
    content: Vec<u8>,
    copy: Vec<u8>,
    segment: Vec<u8>,
    parity: Vec<Vec<u8>>,
    code: ErasureCode,
    compressor: Compressor,
}

/// Measures both kinds of content.
pub(crate) fn run() -> anyhow::Result<Table> {
    let columns = ["one core, GB/s of content", "random", "/ blake3", "text", "/ blake3", "target"];
    let mut table = Table::new("Pipeline", &columns);
    let random = measure(data::random(1, CONTENT_BYTES))?;
    let text = measure(data::text(2, CONTENT_BYTES))?;
    for name in random.names() {
        let target = match *name {
            ENCODE => "5 GB/s",
            REBUILD => "8 GB/s",
            ALL => "1 GB/s",
            _ => "",
        };
        let cells = [&random, &text].into_iter().flat_map(|rounds| {
            let over = ratio(rounds.median(name), rounds.median(BLAKE3));
            [rate(rounds, name, 2), over]
        });
        table.row([(*name).to_owned()].into_iter().chain(cells).chain([target.to_owned()]));
    }
    Ok(table)
}

/// One measured step over all of the content.
type Step = fn(&mut Bench) -> anyhow::Result<()>;

const CHUNK: &str = "chunk (FastCDC)";
const COMPRESS: &str = "compress (probe, zstd where it pays)";
const ENCODE: &str = "encode 10+6";
const REBUILD: &str = "rebuild 6 lost data shards of 10+6";
const ALL: &str = "check MiB, chunk, hash, compress, pack, code, hash shards";

fn measure(content: Vec<u8>) -> anyhow::Result<Rounds> {
    let shard_len = SEGMENT_BYTES_MAX.div_ceil(K);
    let mut bench = Bench {
        copy: vec![1; content.len()],
        segment: Vec::with_capacity(SEGMENT_BYTES_MAX),
        parity: vec![vec![1; shard_len]; M],
        code: ErasureCode::new(K, M)?,
        compressor: Compressor::new()?,
        content,
    };
    let mut rounds = Rounds::default();
    for round in 0..=ROUNDS {
        let steps: [(&'static str, Step); 7] = [
            (MEMCPY, memcpy),
            (BLAKE3, hash),
            (CHUNK, chunk),
            (COMPRESS, compress),
            (ENCODE, encode),
            (REBUILD, rebuild),
            (ALL, everything),
        ];
        for (name, step) in steps {
            let start = Instant::now();
            step(&mut bench)?;
            let rate = bench.content.len() as f64 / 1e9 / start.elapsed().as_secs_f64();
            if round > 0 {
                rounds.add(name, rate);
            }
        }
    }
    Ok(rounds)
}

fn memcpy(bench: &mut Bench) -> anyhow::Result<()> {
    bench.copy.copy_from_slice(&bench.content);
    black_box(&bench.copy);
    Ok(())
}

fn hash(bench: &mut Bench) -> anyhow::Result<()> {
    black_box(blake3::hash(&bench.content));
    Ok(())
}

/// Calls `sink` with each chunk.
fn chunks(content: &[u8], mut sink: impl FnMut(&[u8]) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mut at = 0;
    while let Some(cut) = next_cut(&content[at..], at as u64, true) {
        sink(&content[at..at + cut])?;
        at += cut;
    }
    Ok(())
}

fn chunk(bench: &mut Bench) -> anyhow::Result<()> {
    chunks(&bench.content, |chunk| {
        black_box(chunk);
        Ok(())
    })
}

fn compress(bench: &mut Bench) -> anyhow::Result<()> {
    for chunk in bench.content.chunks(1 << 20) {
        black_box(bench.compressor.compress(chunk)?);
    }
    Ok(())
}

fn encode(bench: &mut Bench) -> anyhow::Result<()> {
    for segment in bench.content.chunks(SEGMENT_BYTES_MAX) {
        bench.code.encode(segment, &mut bench.parity)?;
        black_box(&bench.parity);
    }
    Ok(())
}

/// Shards 6 to 9 and all parity remain, of every segment.
fn rebuild(bench: &mut Bench) -> anyhow::Result<()> {
    let have: Vec<usize> = (M..K + M).collect();
    let plan = bench.code.plan(&have, &[0, 1, 2, 3, 4, 5])?;
    let shard_len = SEGMENT_BYTES_MAX / K;
    for segment in bench.content.chunks(SEGMENT_BYTES_MAX) {
        // Any bytes do: the work is the same.
        let sources: Vec<&[u8]> = segment.chunks_exact(shard_len).take(K).collect();
        let mut out: Vec<&mut [u8]> = bench.copy.chunks_exact_mut(shard_len).take(M).collect();
        plan.rebuild(&sources, &mut out)?;
        black_box(&out);
    }
    Ok(())
}

fn everything(bench: &mut Bench) -> anyhow::Result<()> {
    let Bench { content, segment, parity, code, compressor, .. } = bench;
    for (number, group) in content.chunks(GROUP_BYTES as usize).enumerate() {
        black_box(group_cv(group, number as u64, false)?);
    }
    segment.clear();
    chunks(content, |chunk| {
        black_box(blake3::hash(chunk));
        let stored = compressor.compress(chunk)?;
        if segment.len() + stored.bytes.len() > SEGMENT_BYTES_MAX {
            code_segment(segment, parity, code)?;
            segment.clear();
        }
        segment.extend_from_slice(&stored.bytes);
        Ok(())
    })?;
    code_segment(segment, parity, code)
}

/// Codes a segment and hashes its shards.
fn code_segment(segment: &[u8], parity: &mut [Vec<u8>], code: &ErasureCode) -> anyhow::Result<()> {
    let shard_len = segment.len().div_ceil(K);
    let mut out: Vec<&mut [u8]> = parity.iter_mut().map(|p| &mut p[..shard_len]).collect();
    code.encode(segment, &mut out).context("coding a segment")?;
    for shard in segment.chunks(shard_len).chain(out.iter().map(|p| &p[..])) {
        black_box(blake3::hash(shard));
    }
    Ok(())
}
