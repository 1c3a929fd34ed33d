//! What a node does without being asked: collect what no lease keeps, compact,
//! scrub, forget records that expired, and pass records on as nodes come and go.
//!
//! Nothing is ended by this node's clock alone: see `epoch_for_ending`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use echonet_protocol::announcement::RecordKind;
use echonet_vault::{MaintainError, ScrubReport, Vault};

use super::{discover, endings};
use crate::{clock, core::Core, keep::Event};

/// Bytes read by the scrubber per second: 1 TB in about three days.
const SCRUB_BYTES_PER_S: u64 = 4 << 20;
/// Least time from the end of one pass of the scrubber over everything to the next. Without it a
/// node that holds little would read the same bytes for ever.
const SCRUB_PAUSE: Duration = Duration::from_secs(24 * 3600);
/// The same on development networks, where damage has to be found while one looks on.
const SCRUB_PAUSE_DEVELOPMENT: Duration = Duration::from_secs(10);
/// Seconds between two rounds, at most.
const ROUND_S_MAX: u64 = 60;
/// Garbage share, in percent, from which a volume is compacted.
const GARBAGE_PERCENT: u64 = 30;
/// Rounds between two passings-on of records.
const ROUNDS_PER_PASSING: u64 = 60;
/// Records passed on at once.
const PASSED_AT_ONCE: usize = 64;

/// Maintains the node until it stops.
pub async fn maintain(core: Arc<Core>) {
    let period_s = core.genesis.epoch_s.clamp(1, ROUND_S_MAX);
    let pause = if core.genesis.development { SCRUB_PAUSE_DEVELOPMENT } else { SCRUB_PAUSE };
    let mut round: u64 = 0;
    let mut scrub_from = Instant::now();
    loop {
        for _ in 0..period_s {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if Instant::now() < scrub_from {
                continue;
            }
            // Little and often: a minute's worth at once would take a disk from its readers.
            let Some(report) = in_vault(&core, |vault| scrub(&vault)).await else { continue };
            for key in report.damaged {
                core.keep.tell(Event::Damaged(key)).await;
            }
            if report.cycle_done {
                scrub_from = Instant::now() + pause;
            }
        }
        // Whether it stopped is asked for wherever it matters.
        let _ = in_vault(&core, |vault| vault.check_files()).await;
        round += 1;
        if let Err(e) = core.records.sweep(clock::now().0) {
            tracing::warn!("{e}");
        }
        let epoch = core.ending_epoch();
        let collected = in_vault(&core, move |vault| vault_round(&vault, epoch.map(|e| e.0))).await;
        if collected.is_some_and(|dropped| dropped > 0) {
            core.keep.tell(Event::Collected).await;
        }
        if core.serves() && round.is_multiple_of(ROUNDS_PER_PASSING) {
            pass_on(&core).await;
            if let Err(e) = endings::retry(&core).await {
                tracing::warn!("{e}");
            }
        }
    }
}

/// Does a piece of work on the vault, where there is one; what came of it unless it failed.
async fn in_vault<T: Send + 'static>(
    core: &Core,
    work: impl FnOnce(Vault) -> Result<T, MaintainError> + Send + 'static,
) -> Option<T> {
    let vault = core.vault.clone()?;
    match tokio::task::spawn_blocking(move || work(vault)).await {
        Ok(Ok(done)) => return Some(done),
        Ok(Err(e)) => tracing::error!("{e}"),
        Err(e) => tracing::error!("maintenance of the vault failed: {e}"),
    }
    None
}

/// Collects and compacts; how many shards and placement records went.
fn vault_round(vault: &Vault, epoch: Option<u64>) -> Result<u64, MaintainError> {
    let mut dropped = 0;
    if let Some(epoch) = epoch {
        let report = vault.collect(epoch)?;
        dropped = report.dropped + report.placements_dropped;
        if report.renewal.renewed > 0 {
            tracing::info!("epoch {epoch}: {} leases were renewed", report.renewal.renewed);
        }
        if report.renewal.unpaid > 0 {
            let unpaid = report.renewal.unpaid;
            tracing::warn!("epoch {epoch}: {unpaid} leases end: their grants pay for no more here");
        }
        if report.dropped > 0 {
            tracing::info!(
                "epoch {epoch}: {} shards without a lease were collected",
                report.dropped
            );
        }
    }
    while let Some(report) = vault.compact_step(GARBAGE_PERCENT)? {
        tracing::info!("volume {} was compacted: {} bytes came back", report.volume, report.bytes);
    }
    Ok(dropped)
}

/// A step of the scrubber.
fn scrub(vault: &Vault) -> Result<ScrubReport, MaintainError> {
    let report = vault.scrub_step(SCRUB_BYTES_PER_S)?;
    for key in &report.damaged {
        let segment = data_encoding::HEXLOWER.encode(&key.segment);
        tracing::error!("shard {} of segment {segment} is damaged and was set aside", key.index);
    }
    Ok(report)
}

/// Has every record that is kept here kept by those who are responsible for it
/// now. Whoever has it already says so cheaply.
async fn pass_on(core: &Arc<Core>) {
    let mut records = Vec::new();
    for record in core.records.all() {
        let kind = match record.kind {
            k if k == RecordKind::Announcement.number() => RecordKind::Announcement,
            _ => RecordKind::Placement,
        };
        if let Some(id) = discover::record_id(core, kind, &record.bytes) {
            records.push((kind, id, record.bytes.clone()));
        }
    }
    for batch in records.chunks(PASSED_AT_ONCE) {
        discover::put(core, batch.to_vec()).await;
    }
}
