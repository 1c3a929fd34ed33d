//! A node's disk: what was written, and what of it a crash leaves. Only what is
//! durable is ever read, so that nobody can promise what a crash would take back.

use std::{
    collections::{BTreeMap, VecDeque},
    rc::Rc,
};

use echonet_protocol::machine::Draws;

use super::setup::Record;

/// A shard as it is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shard {
    /// Whether its bytes are those that its hash names.
    pub(super) is_right: bool,
    pub(super) bytes: u32,
}

/// Something to be made durable.
#[derive(Debug, Clone)]
pub(super) enum Write {
    /// A shard, with the promise to keep it for a version of a placement.
    Shard { segment: usize, index: u8, shard: Shard, placement: usize, version: u64 },
    /// A shard goes, and what was promised about it.
    Remove { segment: usize, index: u8 },
    /// The promise to keep a shard for a placement is over.
    Unpledge { placement: usize, index: u8 },
    /// The newest record.
    Record(Rc<Record>),
    /// A placement is of no interest any more.
    Forget { placement: usize },
    /// What was promised and signed about a placement; none: it is over.
    Ballot { key: [u8; 64], row: Option<Vec<u8>> },
}

/// See the module's documentation.
#[derive(Debug, Clone, Default)]
pub(super) struct Disk {
    pub(super) shards: BTreeMap<(usize, u8), Shard>,
    /// By placement and index: the version that a receipt was given for.
    pub(super) pledges: BTreeMap<(usize, u8), u64>,
    pub(super) records: BTreeMap<usize, Rc<Record>>,
    /// In a file of its own.
    pub(super) ballots: BTreeMap<[u8; 64], Vec<u8>>,
    /// That file was lost: what was signed is not known.
    pub(super) has_forgotten_votes: bool,
    pub(super) quota_bytes: u64,
    pending: VecDeque<(u64, Write)>,
    written: u64,
}

impl Disk {
    pub(super) fn new(quota_bytes: u64) -> Self {
        Self { quota_bytes, ..Self::default() }
    }

    /// Bytes of all shards, those on their way included.
    pub(super) fn used(&self) -> u64 {
        let durable = self.shards.values().map(|s| u64::from(s.bytes)).sum::<u64>();
        let pending = self.pending.iter().filter_map(|(_, write)| match write {
            Write::Shard { segment, index, shard, .. } => {
                (!self.shards.contains_key(&(*segment, *index))).then_some(u64::from(shard.bytes))
            }
            _ => None,
        });
        durable + pending.sum::<u64>()
    }

    /// Queues a write; its number.
    pub(super) fn write(&mut self, write: Write) -> u64 {
        self.written += 1;
        self.pending.push_back((self.written, write));
        self.written
    }

    /// Whether a write waits to become durable.
    pub(super) fn newest(&self) -> Option<u64> {
        self.pending.back().map(|(number, _)| *number)
    }

    /// Whether anything that waits is about this shard.
    pub(super) fn is_pending(&self, wanted: (usize, u8)) -> bool {
        self.pending.iter().any(|(_, write)| match write {
            Write::Shard { segment, index, .. } | Write::Remove { segment, index } => {
                (*segment, *index) == wanted
            }
            _ => false,
        })
    }

    /// What is written up to this number is durable: those writes, in order.
    pub(super) fn synced(&mut self, number: u64) -> Vec<Write> {
        let mut done = Vec::new();
        while let Some((at, _)) = self.pending.front()
            && *at <= number
        {
            let Some((_, write)) = self.pending.pop_front() else { break };
            self.apply(&write);
            done.push(write);
        }
        done
    }

    fn apply(&mut self, write: &Write) {
        match write {
            Write::Shard { segment, index, shard, placement, version } => {
                self.shards.insert((*segment, *index), *shard);
                let pledge = self.pledges.entry((*placement, *index)).or_default();
                *pledge = (*pledge).max(*version);
            }
            Write::Remove { segment, index } => {
                self.shards.remove(&(*segment, *index));
            }
            Write::Unpledge { placement, index } => {
                self.pledges.remove(&(*placement, *index));
            }
            Write::Record(record) => {
                self.records.insert(record.placement, Rc::clone(record));
            }
            Write::Forget { placement } => {
                self.records.remove(placement);
            }
            Write::Ballot { key, row: Some(row) } => {
                self.ballots.insert(*key, row.clone());
            }
            Write::Ballot { key, row: None } => {
                self.ballots.remove(key);
            }
        }
    }

    /// The process died: of what was not synced each of the two files keeps a beginning, often
    /// none.
    pub(super) fn crash(&mut self, draws: &mut Draws) {
        let is_ballot = |write: &Write| matches!(write, Write::Ballot { .. });
        let pending: Vec<Write> = self.pending.drain(..).map(|(_, write)| write).collect();
        for ballots in [false, true] {
            let of_file: Vec<&Write> =
                pending.iter().filter(|write| is_ballot(write) == ballots).collect();
            let kept = draws.below(2 * of_file.len() as u64 + 1) as usize;
            let kept = kept.saturating_sub(of_file.len());
            of_file.into_iter().take(kept).for_each(|write| self.apply(write));
        }
    }

    /// One of its volumes is gone, with every word in it: all that belongs to these segments.
    pub(super) fn lose(
        &mut self,
        is_lost: impl Fn(usize) -> bool,
        segment_of: impl Fn(usize) -> usize,
    ) {
        self.shards.retain(|(segment, _), _| !is_lost(*segment));
        self.pledges.retain(|(placement, _), _| !is_lost(segment_of(*placement)));
        self.records.retain(|placement, _| !is_lost(segment_of(*placement)));
    }
}
