//! Opening a vault: the index as far as it goes, then every record after it, over damage and torn
//! writes (VOLUME_FORMAT.md section 7). It serves nothing and acknowledges nothing.
use crate::crash::crash_point;
use crate::disk::SyncSite;
use crate::error::OpenError;
use crate::format::{FIRST_RECORD_AT, Kind, RecordHead, decode_state};
use crate::index::Index;
use crate::kv::{IndexError, View, write_layer};
use crate::open_index::IndexState;
use crate::plan::Op;
use crate::scan::{Scan, Scanned};
use crate::types::{Key, Position};
use crate::walk::{Footer, Found, Walker, read_footer};
use std::io;
use std::sync::Arc;

/// Bytes of the newest volume written again at once.
const REWRITE_BYTES: usize = 1 << 20;

/// Bytes of a volume that are not what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damage {
    /// The volume's number.
    pub volume: u64,
    /// Where the damage begins.
    pub offset: u64,
    /// How far it goes, at most.
    pub len: u64,
    /// The key it belongs to, where a valid header tells.
    pub key: Option<Key>,
}

/// What was found when the vault was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Where the index came from.
    pub index: IndexState,
    /// Readable volumes.
    pub volumes: u64,
    /// Records applied beyond what the index held.
    pub replayed_records: u64,
    /// Damage met on the way; what it hit is lost or quarantined, nothing else.
    pub damaged: Vec<Damage>,
    /// Bytes cut off the end of the newest volume: a write that a crash interrupted.
    pub torn_bytes: u64,
    /// Volume files without a readable header; left alone.
    pub unreadable_volumes: Vec<u64>,
    /// Older volumes that were not sealed, though nothing poisoned them.
    pub unsealed_volumes: Vec<u64>,
}

/// The replay of one vault.
pub(crate) struct Replay<'a> {
    pub(crate) index: &'a mut Index,
    pub(crate) scan: &'a Scan,
    pub(crate) report: &'a mut RecoveryReport,
    /// Records that say what damage did, to be written once records can be.
    pub(crate) repairs: Vec<Op>,
    /// Changed rows at which they are written to the index file.
    pub(crate) checkpoint_rows: usize,
}

/// How the newest volume ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tail {
    /// It takes more records from this offset.
    Open(u64),
    /// It is damaged in the middle: to be sealed at this offset.
    Seal(u64),
    /// It takes no more.
    Closed,
}

/// A bad place, until it is known whether a good record follows it.
struct Bad {
    damage: Damage,
    /// A put whose header and meta hold: the entry exists, its bytes do not.
    put: Option<(RecordHead, Vec<u8>)>,
}

impl Replay<'_> {
    /// Applies everything after the index's position; tells how the newest volume ended.
    pub(crate) fn run(&mut self) -> Result<Tail, OpenError> {
        let from = self.index.position()?.unwrap_or_default();
        let last = self.scan.volumes.keys().next_back().copied();
        let mut tail = Tail::Closed;
        for (number, scanned) in self.scan.volumes.range(from.volume..) {
            let start = match *number == from.volume {
                true => from.offset.max(FIRST_RECORD_AT),
                false => FIRST_RECORD_AT,
            };
            tail = self.replay_volume(scanned, start, last == Some(*number))?;
            self.index.kv.commit_staged();
            // What was replayed is durable: a long rebuild need not keep all of it in memory.
            if self.index.kv.dirty_rows() >= self.checkpoint_rows
                && let Some((db, layer)) = self.index.kv.freeze()
            {
                let written = write_layer(&db, &layer);
                self.index.kv.thaw(written.is_ok());
                written?;
            }
        }
        crash_point("vault.recover.replayed");
        Ok(tail)
    }

    fn replay_volume(
        &mut self,
        scanned: &Scanned,
        start: u64,
        is_last: bool,
    ) -> Result<Tail, OpenError> {
        let volume = &scanned.volume;
        let number = volume.header.number;
        let mut row = self.index.volume(View::Staged, number)?;
        row.cuts = volume.header.cut.map_or(0, |cut| cut.volume);
        row.len = row.len.max(FIRST_RECORD_AT);
        self.index.set_volume(number, &row);
        if let Some(cut) = self.scan.cuts.get(&number) {
            let end = scanned.size.min(*cut);
            self.walk_checked(scanned, start, end, false)?;
            return self.close(number, end);
        }
        if is_last {
            make_durable(scanned, start)
                .map_err(|source| OpenError::Io { doing: "syncing the newest volume", source })?;
        }
        if let Some(footer) = read_footer(volume, scanned.size) {
            self.apply_sealed(scanned, start, footer)?;
            return self.close(number, scanned.size);
        }
        let (end, damaged) = self.walk_checked(scanned, start, scanned.size, is_last)?;
        if !is_last {
            if scanned.size > FIRST_RECORD_AT {
                self.report.unsealed_volumes.push(number);
            }
            return self.close(number, scanned.size);
        }
        self.index.set_position(Position { volume: number, offset: end });
        Ok(if damaged { Tail::Seal(end) } else { Tail::Open(end) })
    }

    fn close(&mut self, number: u64, len: u64) -> Result<Tail, OpenError> {
        let mut row = self.index.volume(View::Staged, number)?;
        row.closed = true;
        row.len = len;
        self.index.set_volume(number, &row);
        self.index.set_position(Position { volume: number, offset: len });
        Ok(Tail::Closed)
    }

    fn apply(&mut self, head: &RecordHead, state: &[u8]) -> Result<(), IndexError> {
        self.report.replayed_records += 1;
        self.index.apply(head, state, true)
    }

    fn apply_sealed(
        &mut self,
        scanned: &Scanned,
        start: u64,
        footer: Footer,
    ) -> Result<(), IndexError> {
        if let Some(records) = footer.records {
            for (head, state) in records.iter().filter(|(head, _)| head.at.offset >= start) {
                self.apply(head, state)?;
            }
            return Ok(());
        }
        // No list: it was too long (then there are few shards to read), or the volume was damaged
        // when it was sealed; then a record with a valid header may have torn bytes, and must not
        // hide an older copy.
        self.walk_checked(scanned, start, footer.at, false)?;
        Ok(())
    }

    /// Reads everything of a volume whose footer lists nothing. Returns where what counts of it ends, and
    /// whether there is damage before that. A torn end must not stay: its headers may be valid, and
    /// a sealed volume is hopped without reading the shards.
    fn walk_checked(
        &mut self,
        scanned: &Scanned,
        start: u64,
        end: u64,
        torn_end: bool,
    ) -> Result<(u64, bool), IndexError> {
        let mut walker = Walker::new(Arc::clone(&scanned.volume), start, end);
        let (mut good_end, mut damaged) = (start, false);
        let mut bad: Vec<Bad> = Vec::new();
        while let Some(found) = walker.step() {
            match found {
                Found::Record(head, state) if walker.is_whole(&head) => {
                    damaged |= !bad.is_empty();
                    self.settle(&mut bad)?;
                    if head.kind != Kind::Footer {
                        self.apply(&head, &state)?;
                    }
                    good_end = head.next_at();
                }
                Found::Record(head, state) => {
                    let damage = record_damage(&head);
                    bad.push(Bad { damage, put: Some((head, state)) });
                }
                other => bad.push(Bad { damage: damage_of(scanned, &other), put: None }),
            }
        }
        if walker.unreadable || !torn_end {
            // Nobody can tell a torn end from sectors that do not answer: all of it stays.
            damaged |= !bad.is_empty() || walker.unreadable;
            self.settle(&mut bad)?;
            good_end = end;
        }
        self.report.torn_bytes += end.saturating_sub(good_end);
        Ok((good_end, damaged))
    }

    /// Bad places that a good record follows are damage, not a torn end.
    fn settle(&mut self, bad: &mut Vec<Bad>) -> Result<(), IndexError> {
        for bad in bad.drain(..) {
            self.report.damaged.push(bad.damage);
            if let Some((head, state)) = bad.put {
                self.apply_damaged(&head, &state)?;
            }
        }
        Ok(())
    }

    /// A put or move whose state holds and whose bytes do not. An older copy of the bytes goes on
    /// counting: this may be an interrupted compaction.
    fn apply_damaged(&mut self, head: &RecordHead, state: &[u8]) -> Result<(), IndexError> {
        let old = self.index.entry(View::Staged, head.key)?;
        let intact = old
            .filter(|old| !old.state.quarantined && !old.lost && old.shard_hash == head.shard_hash);
        let (Some(mut entry), Some(state)) = (intact, decode_state(state)) else {
            self.repairs.push(Op::Quarantine { key: head.key, at: head.at });
            return self.apply(head, state);
        };
        self.index.raise_grants(&state.leases, head.at)?;
        entry.state = state;
        entry.snap = head.at;
        entry.snap_len = 0;
        self.repairs.push(Op::Snapshot { key: head.key, from: head.at });
        self.index.replace_entry(head.key, Some(entry))
    }
}

/// Makes what a process can read of the newest volume what a later one can read, too: nothing is
/// built on it before. It is written again before it is synced: after a failed sync the process
/// before may have died with pages that the kernel counts as clean and that the medium never got.
fn make_durable(scanned: &Scanned, start: u64) -> io::Result<()> {
    let file = &scanned.volume.file;
    let mut at = if start <= FIRST_RECORD_AT { 0 } else { start };
    if at >= scanned.size {
        return Ok(());
    }
    let mut bytes = vec![0; REWRITE_BYTES];
    while at < scanned.size {
        let len = (scanned.size - at).min(bytes.len() as u64) as usize;
        let piece = bytes.get_mut(..len).unwrap_or_default();
        // What cannot be read is left as it is; the walk reports it.
        if file.read_at(at, piece).is_ok() {
            file.write_at(at, &[piece])?;
        }
        at += len as u64;
    }
    file.sync_data(SyncSite::Recovered)
}

fn record_damage(head: &RecordHead) -> Damage {
    Damage {
        volume: head.at.volume,
        offset: head.at.offset,
        len: head.total_len(),
        key: Some(head.key),
    }
}

fn damage_of(scanned: &Scanned, found: &Found) -> Damage {
    match found {
        Found::Record(head, _) | Found::BadAux(head) => record_damage(head),
        Found::Gap { from, to } => Damage {
            volume: scanned.volume.header.number,
            offset: *from,
            len: to - from,
            key: None,
        },
    }
}
