//! The committer: one thread that turns waiting requests into groups of records, makes each group
//! durable with one sync, applies it to the index, and only then acknowledges it. After a failed
//! sync nothing of the group is acknowledged or retried: the volume is poisoned (see `poison`).
use crate::config::VaultConfig;
use crate::core::Core;
use crate::crash::crash_point;
use crate::disk::SyncSite;
use crate::error::WriteError;
use crate::format::RecordHead;
use crate::locked::locked;
use crate::plan::{Draft, Op, Outcome, Room, plan};
use crate::queue::{Job, Work};
use crate::types::Position;
use crate::volume::VolumeFile;
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// The volume being written.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) volume: Arc<VolumeFile>,
    /// Everything before it is durable.
    pub(crate) synced: u64,
    /// Damage was found in it: its footer lists nothing, so that it is read whole when it matters.
    pub(crate) damaged: bool,
}

impl Active {
    pub(crate) fn number(&self) -> u64 {
        self.volume.header.number
    }
}

/// The committer's own state.
pub(crate) struct Writer {
    pub(crate) core: Arc<Core>,
    pub(crate) active: Option<Active>,
    /// The number that the next volume gets.
    pub(crate) next_number: u64,
    /// A poisoned volume's number and the length that counts, until a new volume's header says so.
    pub(crate) cut: Option<Position>,
    /// Records that say what damage did, yet to be written.
    pub(crate) repairs: Vec<Op>,
    /// Why nothing is written any more.
    pub(crate) stopped: Option<String>,
    /// How long the last group was waited for, and by how many.
    pub(crate) pace: Pace,
}

/// Longest time that a group stays open for writers that are likely to come.
const LINGER_MAX: Duration = Duration::from_millis(4);

/// What the last groups say about the next: writers that were acknowledged together mostly come
/// back together, and a sync costs nearly the same for one record as for ten.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Pace {
    /// Requests under way when the last group was done: its own and those that waited already.
    jobs: usize,
    sync: Duration,
}

/// Records on their way to one sync. What is written of it is not durable, and is taken back as a
/// whole if any of it is refused.
#[derive(Default)]
pub(crate) struct Group {
    /// Not written yet.
    parts: Vec<Bytes>,
    part_bytes: u64,
    /// Written or not.
    pub(crate) bytes: u64,
    jobs: Vec<(Job, Outcome)>,
    /// The disk refused a write: nothing of the group counts.
    failed: Option<WriteError>,
}

/// Whether a record went into the group.
enum Fit {
    Done,
    /// The volume has no room left for it.
    NextVolume(Box<Job>),
}

impl Writer {
    /// Serves the queue until it is closed.
    pub(crate) fn run(mut self) {
        let core = Arc::clone(&self.core);
        while let Some(mut batch) = core.queue.take(core.config.group_bytes_max) {
            for job in self.repair_jobs() {
                batch.push_front(job);
            }
            self.serve(batch);
            self.checkpoint_if_due();
        }
        // A clean end makes the next start quick; without it the volumes are replayed.
        if let Err(error) = self.checkpoint() {
            tracing::warn!(%error, "closing the vault without a checkpoint");
        }
    }

    pub(crate) fn serve(&mut self, mut batch: VecDeque<Job>) {
        while let Some(job) = batch.pop_front() {
            if let Err(error) = self.ready() {
                job.finish(Err(error));
                continue;
            }
            match job.work {
                Work::Record(_) => {
                    batch.push_front(job);
                    self.serve_records(&mut batch);
                }
                Work::Checkpoint => {
                    let result = self.checkpoint();
                    job.finish(result);
                }
                Work::Rotate => {
                    let result = self.rotate().map(|()| Outcome::Written);
                    job.finish(result);
                }
                Work::ForgetGrants(epoch) => {
                    let result = self.forget_grants(epoch);
                    job.finish(result);
                }
                Work::Retire(number) => {
                    let result = self.retire(number);
                    job.finish(result);
                }
                Work::Stop(ref why) => {
                    self.stop(why.clone());
                    job.finish(Ok(Outcome::Written));
                }
            }
        }
    }

    /// An active volume, made if there is none.
    fn ready(&mut self) -> Result<(), WriteError> {
        if let Some(why) = &self.stopped {
            return Err(WriteError::Stopped(why.clone()));
        }
        if self.active.is_none() {
            self.begin_volume()?;
        }
        Ok(())
    }

    /// Refuses everything from now on.
    pub(crate) fn stop(&mut self, why: String) {
        tracing::error!(why, "the vault stops writing");
        self.core.stopped.store(true, Ordering::Release);
        self.stopped = Some(why);
    }

    /// Puts records from the front of the batch into one group, and writes it.
    fn serve_records(&mut self, batch: &mut VecDeque<Job>) {
        let mut group = Group::default();
        let mut full = None;
        let deadline = Instant::now() + (self.pace.sync / 2).min(LINGER_MAX);
        loop {
            while batch.front().is_some_and(|job| matches!(job.work, Work::Record(_))) {
                let Some(job) = batch.pop_front() else { break };
                if let Fit::NextVolume(job) = self.add(&mut group, job) {
                    full = Some(*job);
                    break;
                }
            }
            // Written while others still hash theirs; one sync covers all of it.
            self.write_parts(&mut group);
            if full.is_some() || !batch.is_empty() || group.failed.is_some() {
                break;
            }
            batch.extend(self.more(&group, deadline));
            if batch.is_empty() {
                break;
            }
        }
        let written = self.flush(group);
        let Some(job) = full else { return };
        // After a failure the loop in `serve` finds out what is possible.
        if written && let Err(error) = self.rotate() {
            job.finish(Err(error));
            return;
        }
        batch.push_front(job);
    }

    /// Requests that may join the group: those that wait, and those that are likely to come soon.
    fn more(&self, group: &Group, deadline: Instant) -> VecDeque<Job> {
        let bytes = usize::try_from(group.bytes).unwrap_or(usize::MAX);
        let left = self.core.config.group_bytes_max.saturating_sub(bytes);
        let deadline = if group.jobs.len() < self.pace.jobs { deadline } else { Instant::now() };
        self.core.queue.take_more(left, deadline)
    }

    /// Writes what is not yet written of a group, without making it durable.
    fn write_parts(&mut self, group: &mut Group) {
        if group.parts.is_empty() || self.stopped.is_some() {
            return;
        }
        let Some(active) = &self.active else { return };
        let volume = Arc::clone(&active.volume);
        let start = active.synced;
        let at = start + group.bytes - group.part_bytes;
        let parts: Vec<&[u8]> = group.parts.iter().map(|part| &part[..]).collect();
        if let Err(error) = volume.file.write_at(at, &parts) {
            group.failed = Some(self.roll_back(&volume, start, &error));
        }
        group.parts.clear();
        group.part_bytes = 0;
    }

    /// Plans one request and puts its record, if it needs one, at the end of the group.
    fn add(&mut self, group: &mut Group, job: Job) -> Fit {
        let Work::Record(op) = &job.work else { return Fit::Done };
        let planned = plan(&locked(&self.core.index), &self.core.config, op);
        let (draft, outcome) = match planned {
            Ok(planned) => planned,
            Err(error) => {
                job.finish(Err(error));
                return Fit::Done;
            }
        };
        let Some(draft) = draft else {
            // Even "it was so already" waits for the sync: it may rest on a record of this group.
            group.jobs.push((job, outcome));
            return Fit::Done;
        };
        let Some(active) = &self.active else { return Fit::NextVolume(Box::new(job)) };
        let at = Position { volume: active.number(), offset: active.synced + group.bytes };
        let head = head_of(&draft, at);
        let end = VaultConfig::records_end(active.volume.header.len_max);
        if head.next_at() > end {
            return Fit::NextVolume(Box::new(job));
        }
        let secret = active.volume.header.secret;
        if let Err(error) = self.check_room(op, group.bytes + head.total_len()) {
            job.finish(Err(error));
            return Fit::Done;
        }
        let applied = locked(&self.core.index).apply(&head, &draft.state, true);
        if let Err(error) = applied {
            // Half applied: nothing of this group may count.
            self.stop(error.to_string());
            job.finish(Err(error.into()));
            return Fit::Done;
        }
        group.push(&head, &secret, draft);
        group.jobs.push((job, outcome));
        Fit::Done
    }

    fn check_room(&self, op: &Op, bytes: u64) -> Result<(), WriteError> {
        let config = &self.core.config;
        let ceiling = match op.room() {
            Room::Put => self.core.put_ceiling_bytes()?,
            Room::End => config.end_ceiling_bytes(),
            Room::Collect => config.quota_bytes.saturating_sub(config.volume_len / 2),
            Room::Compaction => config.quota_bytes,
        };
        let used = self.core.used_bytes()?;
        let left = ceiling.saturating_sub(used);
        if bytes > left {
            return Err(WriteError::QuotaFull { need: bytes, left });
        }
        self.check_disk(bytes)
    }

    /// Refuses early what a nearly full disk could take only in part.
    pub(crate) fn check_disk(&self, bytes: u64) -> Result<(), WriteError> {
        let need = bytes.saturating_add(self.core.config.disk_free_min_bytes);
        match self.core.volumes.free_bytes() {
            Ok(free) if free < need => Err(WriteError::DiskFull { need: bytes }),
            // A disk that cannot tell refuses the write itself, if it must.
            _ => Ok(()),
        }
    }

    /// Writes a group, syncs it, applies it, acknowledges it. Returns whether that worked.
    pub(crate) fn flush(&mut self, group: Group) -> bool {
        let begin = Instant::now();
        if let Err(error) = self.make_durable(&group) {
            group.jobs.into_iter().for_each(|(job, _)| job.finish(Err(error.clone())));
            return false;
        }
        crash_point("vault.group.applied");
        if group.bytes > 0 {
            self.pace =
                Pace { jobs: group.jobs.len() + self.core.queue.len(), sync: begin.elapsed() };
        }
        for (job, outcome) in group.jobs {
            if outcome == Outcome::Dropped {
                crash_point("vault.collect.tombstoned");
            }
            job.finish(Ok(outcome));
        }
        true
    }

    fn make_durable(&mut self, group: &Group) -> Result<(), WriteError> {
        if let Some(why) = &self.stopped {
            locked(&self.core.index).kv.discard_staged();
            return Err(WriteError::Stopped(why.clone()));
        }
        if let Some(error) = &group.failed {
            return Err(error.clone());
        }
        let Some(active) = &self.active else { return Err(WriteError::Closed) };
        if group.bytes == 0 {
            return Ok(());
        }
        let volume = Arc::clone(&active.volume);
        let start = active.synced;
        crash_point("vault.group.written");
        if let Err(error) = volume.file.sync_data(SyncSite::Group) {
            locked(&self.core.index).kv.discard_staged();
            self.poison();
            return Err(WriteError::Poisoned(error.to_string()));
        }
        crash_point("vault.group.synced");
        let end = start + group.bytes;
        let mut index = locked(&self.core.index);
        index.set_position(Position { volume: volume.header.number, offset: end });
        index.kv.commit_staged();
        drop(index);
        if let Some(active) = &mut self.active {
            active.synced = end;
        }
        self.core.volume_bytes.fetch_add(group.bytes, Ordering::AcqRel);
        Ok(())
    }

    /// Takes back a group that the disk would not write, so that no part of it comes back later.
    pub(crate) fn roll_back(
        &mut self,
        volume: &VolumeFile,
        start: u64,
        error: &std::io::Error,
    ) -> WriteError {
        locked(&self.core.index).kv.discard_staged();
        let cut = volume.file.set_len(start);
        if cut.and_then(|()| volume.file.sync_data(SyncSite::RolledBack)).is_err() {
            self.poison();
            return WriteError::Poisoned(error.to_string());
        }
        match error.kind() {
            std::io::ErrorKind::StorageFull => WriteError::DiskFull { need: 0 },
            _ => WriteError::Refused(error.to_string()),
        }
    }
}

/// The header of a draft at its place.
pub(crate) fn head_of(draft: &Draft, at: Position) -> RecordHead {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&draft.state).update(&draft.meta);
    RecordHead {
        kind: draft.kind,
        key: draft.key,
        at,
        state_len: draft.state.len() as u32,
        meta_len: draft.meta.len() as u32,
        shard_len: draft.shard.len() as u32,
        aux_hash: *hasher.finalize().as_bytes(),
        shard_hash: draft.shard_hash,
    }
}

impl Group {
    fn push(&mut self, head: &RecordHead, secret: &[u8; 32], draft: Draft) {
        let mut front = head.encode(secret).to_vec();
        front.extend_from_slice(&draft.state);
        front.extend_from_slice(&draft.meta);
        let written = (front.len() + draft.shard.len()) as u64;
        self.parts.push(front.into());
        if !draft.shard.is_empty() {
            self.parts.push(draft.shard);
        }
        let padding = (head.total_len() - written) as usize;
        if padding > 0 {
            self.parts.push(Bytes::from_static(&[0; 8]).slice(..padding));
        }
        self.part_bytes += head.total_len();
        self.bytes += head.total_len();
    }
}
