//! Durable puts of shards: our vault beside `dd conv=fsync` of the same bytes and beside
//! iroh-blobs' store, made as durable as it can be made from outside.

use std::{
    fs::File,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Instant,
};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use echonet_vault::{Key, LeaseMeta, Pool, PutRequest, RealDisk, Vault, VaultConfig};
use iroh_blobs::store::fs::{FsStore, options::PathOptions};

use crate::{
    ROUNDS, data, machine,
    table::{Rounds, Table, rate, ratio},
};

const SHARD_BYTES: usize = 400 * 1024;
const SHARDS: usize = 512;
const WRITERS: usize = 8;

const VAULT: &str = "vault, 8 writers";
const DD: &str = "dd conv=fsync of as many bytes in one file";
const STORE: &str = "iroh-blobs FsStore, 8 writers, each put synced";

/// Measures in a directory under `dir`.
pub(crate) fn run(dir: &Path) -> anyhow::Result<Table> {
    let shards: Vec<Bytes> = data::random(3, SHARD_BYTES * SHARDS)
        .chunks(SHARD_BYTES)
        .map(Bytes::copy_from_slice)
        .collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut rounds = Rounds::default();
    for round in 0..=ROUNDS {
        let steps: [(&'static str, Step); 3] = [(DD, dd), (VAULT, vault), (STORE, store)];
        for (name, step) in steps {
            let scratch = tempfile::tempdir_in(dir)?;
            let seconds = step(scratch.path(), &shards, &runtime)?;
            if round > 0 {
                rounds.add(name, SHARDS as f64 / seconds);
            }
        }
    }
    Ok(table(&rounds, dir))
}

type Step = fn(&Path, &[Bytes], &tokio::runtime::Runtime) -> anyhow::Result<f64>;

fn table(rounds: &Rounds, dir: &Path) -> Table {
    let kind = machine::filesystem(dir);
    let title = format!("Durable puts of 400 KiB shards ({} at {})", kind, dir.display());
    let columns = ["", "puts/s", "MB/s", "/ dd", "target"];
    let mut table = Table::new(title, &columns);
    for name in rounds.names() {
        let median = rounds.median(name);
        let target = if *name == VAULT { "0.8 of dd; 5x FsStore's puts/s" } else { "" };
        table.row([
            (*name).to_owned(),
            rate(rounds, name, 0),
            format!("{:.0}", median * SHARD_BYTES as f64 / 1e6),
            ratio(median, rounds.median(DD)),
            target.to_owned(),
        ]);
    }
    let times = ratio(rounds.median(VAULT), rounds.median(STORE));
    table.note(format!("The vault makes {times} times FsStore's puts."));
    table
}

/// Runs `put` for every shard on [`WRITERS`] threads; seconds.
fn on_threads(
    shards: &[Bytes],
    put: impl Fn(usize, &Bytes) -> anyhow::Result<()> + Sync,
) -> anyhow::Result<f64> {
    let start = Instant::now();
    std::thread::scope(|scope| {
        let write = |writer: usize| {
            let put = &put;
            let mut mine = shards.iter().enumerate().skip(writer).step_by(WRITERS);
            scope.spawn(move || mine.try_for_each(|(i, shard)| put(i, shard)))
        };
        let writers: Vec<_> = (0..WRITERS).map(write).collect();
        for writer in writers {
            writer.join().map_err(|_| anyhow::anyhow!("a writer panicked"))??;
        }
        Ok::<_, anyhow::Error>(())
    })?;
    Ok(start.elapsed().as_secs_f64())
}

fn key(number: usize) -> Key {
    Key {
        segment: *blake3::hash(&(number / 16).to_le_bytes()).as_bytes(),
        index: (number % 16) as u8,
    }
}

fn vault(dir: &Path, shards: &[Bytes], _: &tokio::runtime::Runtime) -> anyhow::Result<f64> {
    let config = VaultConfig { disk_free_min_bytes: 0, ..VaultConfig::default() };
    let (vault, _) = Vault::open(Arc::new(RealDisk), &dir.join("vault"), config)?;
    let lease = LeaseMeta {
        id: [1; 32],
        owner: [2; 32],
        pool: Pool::Granted { grant: [3; 32], until_epoch: 100 },
        from_epoch: 0,
        until_epoch: 100,
        sealed: true,
        standing: None,
    };
    on_threads(shards, |number, shard| {
        let key = key(number);
        let reservation = vault.reserve(key, shard.len() as u64, &lease, u128::MAX)?;
        let meta = Bytes::from_static(&[7; 700]);
        vault.put(PutRequest { key, shard: shard.clone(), meta, epoch: 1, reservation })?;
        Ok(())
    })
}

fn dd(dir: &Path, shards: &[Bytes], _: &tokio::runtime::Runtime) -> anyhow::Result<f64> {
    let start = Instant::now();
    let mut dd = Command::new("dd")
        .args(["conv=fsync", "bs=400K", "iflag=fullblock"])
        .arg(format!("of={}", dir.join("dd").display()))
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("dd cannot be started")?;
    let mut into = dd.stdin.take().context("piped")?;
    for shard in shards {
        std::io::Write::write_all(&mut into, shard)?;
    }
    drop(into);
    ensure!(dd.wait()?.success(), "dd failed");
    Ok(start.elapsed().as_secs_f64())
}

/// An acknowledged put of this store is not on the disk yet: data, outboard and directory are
/// synced here, and its database with its own call.
fn store(dir: &Path, shards: &[Bytes], runtime: &tokio::runtime::Runtime) -> anyhow::Result<f64> {
    let paths = PathOptions::new(dir);
    let store = runtime.block_on(FsStore::load(dir)).map_err(|e| anyhow::anyhow!("{e}"))?;
    let seconds = on_threads(shards, |_, shard| {
        let tag = runtime.block_on(async { store.add_bytes(shard.clone()).await })?;
        let (data, outboard) = (paths.data_path(&tag.hash), paths.outboard_path(&tag.hash));
        File::open(&data)?.sync_all()?;
        if outboard.exists() {
            File::open(&outboard)?.sync_all()?;
        }
        File::open(data.parent().context("a directory")?)?.sync_all()?;
        runtime.block_on(store.sync_db())?;
        Ok(())
    })?;
    runtime.block_on(store.shutdown())?;
    Ok(seconds)
}
