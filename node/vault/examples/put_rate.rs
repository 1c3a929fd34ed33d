//! How fast shards become durable: puts by several writers, and a plain sequential write of the same
//! bytes with one fsync at the end (what `dd conv=fsync` does), in turns on the same file system.
//! It prints each round and the median ratio; it decides nothing and leaves nothing behind.
//!
//! `cargo run --release -p echonet-vault --example put_rate -- [DIR [MIB [WRITERS [ROUNDS]]]]`
use echonet_vault::{Key, LeaseMeta, Pool, PutRequest, RealDisk, Vault, VaultConfig};
use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

const SHARD_BYTES: usize = 400 << 10;
const MIB: f64 = 1_048_576.0;

type Anything = Box<dyn Error + Send + Sync>;

/// Bytes that neither a compressing disk nor a deduplicating one can do less with.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn put(vault: &Vault, number: u64, shard: bytes::Bytes) -> Result<(), Anything> {
    let mut segment = [0; 32];
    segment[..8].copy_from_slice(&number.to_be_bytes());
    let key = Key { segment, index: 0 };
    let pool = Pool::Granted { grant: [1; 32], until_epoch: 1_000 };
    let lease = LeaseMeta {
        id: segment,
        owner: [2; 32],
        pool,
        from_epoch: 0,
        until_epoch: 100,
        sealed: true,
        standing: None,
    };
    let reservation = vault.reserve(key, shard.len() as u64, &lease, u128::MAX)?;
    let meta = bytes::Bytes::from_static(b"descriptor");
    vault.put(PutRequest { key, shard, meta, epoch: 0, reservation })?;
    Ok(())
}

/// Seconds until all shards are durable; each writer puts its shards one after the other.
fn put_all(dir: &Path, shards: &[bytes::Bytes], writers: usize) -> Result<f64, Anything> {
    let config = VaultConfig { quota_bytes: 32 << 30, ..VaultConfig::default() };
    let (vault, _) = Vault::open(Arc::new(RealDisk), dir, config)?;
    let begin = Instant::now();
    let writer = |writer: usize| {
        let mut mine = shards.iter().enumerate().skip(writer).step_by(writers);
        mine.try_for_each(|(number, shard)| put(&vault, number as u64, shard.clone()))
    };
    let writer = &writer;
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..writers).map(|number| scope.spawn(move || writer(number))).collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(result) => result,
            Err(_) => Err("a writer panicked".into()),
        })
    })?;
    let seconds = begin.elapsed().as_secs_f64();
    drop(vault);
    std::fs::remove_dir_all(dir)?;
    Ok(seconds)
}

/// Seconds for the same bytes in one file, one after the other, and one fsync.
fn write_plainly(path: &Path, shards: &[bytes::Bytes]) -> Result<f64, Anything> {
    let begin = Instant::now();
    let mut file = File::create(path)?;
    for shard in shards {
        file.write_all(shard)?;
    }
    file.sync_all()?;
    let seconds = begin.elapsed().as_secs_f64();
    drop(file);
    std::fs::remove_file(path)?;
    Ok(seconds)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn main() -> Result<(), Anything> {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments.next().map_or_else(|| PathBuf::from("put-rate"), PathBuf::from);
    let mut number = |default: usize| arguments.next().map_or(Ok(default), |text| text.parse());
    let (mib, writers, rounds) = (number(512)?, number(8)?.max(1), number(5)?);
    let count = (mib << 20) / SHARD_BYTES;
    let shards: Vec<bytes::Bytes> =
        (0..count).map(|seed| noise(seed as u64, SHARD_BYTES).into()).collect();
    let total = (count * SHARD_BYTES) as f64 / MIB;
    std::fs::create_dir_all(&dir)?;
    let (mut ratios, mut rates) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let plain = total / write_plainly(&dir.join("plain"), &shards)?;
        let puts = total / put_all(&dir.join("vault"), &shards, writers)?;
        let after = total / write_plainly(&dir.join("plain"), &shards)?;
        let ratio = puts / ((plain + after) / 2.0);
        println!(
            "round {round}: puts {puts:.0} MiB/s ({:.0}/s), plain {plain:.0} and {after:.0} MiB/s, ratio {ratio:.2}",
            puts * MIB / SHARD_BYTES as f64
        );
        ratios.push(ratio);
        rates.push(puts);
    }
    println!("median: puts {:.0} MiB/s, ratio {:.2}", median(rates), median(ratios));
    Ok(())
}
