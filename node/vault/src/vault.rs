//! The vault's handle: opening, and every operation on shards, leases and placements. Cheap to
//! clone; the last clone to go closes the vault.
use crate::config::VaultConfig;
use crate::core::Core;
use crate::disk::{Disk, SyncSite};
use crate::error::{MaintainError, OpenError, ReadError, WriteError};
use crate::format::{PLACEMENT_LEN_MAX, SHARD_LEN_MAX};
use crate::kv::{IndexError, View};
use crate::locked::locked;
use crate::maintain::Scrub;
use crate::open_index::open_index;
use crate::plan::{Op, Outcome, PutOp};
use crate::queue::{Done, Job, Queue, Work};
use crate::read::{self, Located};
use crate::recover::{RecoveryReport, Replay, Tail};
use crate::reserve::{AdmitError, Reservation, reserve};
use crate::rows;
use crate::scan::Scan;
use crate::types::{Key, LeaseMeta, SegmentId, StoredLease};
use crate::volume::Volumes;
use crate::writer::{Active, Pace, Writer};
use bytes::Bytes;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;

/// The directory of the volume files, inside the vault's own.
pub const VOLUMES_DIR: &str = "volumes";

/// Directories that this process has open, by disk and path.
static OPEN_DIRS: Mutex<BTreeSet<(usize, PathBuf)>> = Mutex::new(BTreeSet::new());

/// A directory's place in [`OPEN_DIRS`], given back when dropped.
#[derive(Debug)]
struct OpenDir((usize, PathBuf));

impl OpenDir {
    fn take(disk: &Arc<dyn Disk>, dir: &Path) -> Result<Self, OpenError> {
        let path = std::fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
        // The address tells one fake disk from another; real disks have no size and share one.
        let identity = match std::mem::size_of_val(&**disk) {
            0 => 0,
            _ => Arc::as_ptr(disk).cast::<()>() as usize,
        };
        let claim = (identity, path);
        if !locked(&OPEN_DIRS).insert(claim.clone()) {
            return Err(OpenError::AlreadyOpen(claim.1.display().to_string()));
        }
        Ok(Self(claim))
    }
}

impl Drop for OpenDir {
    fn drop(&mut self) {
        locked(&OPEN_DIRS).remove(&self.0);
    }
}

/// A holder's store of receipted shards.
#[derive(Debug, Clone)]
pub struct Vault(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) core: Arc<Core>,
    /// Held by whoever compacts.
    pub(crate) compacting: Mutex<()>,
    pub(crate) scrub: Mutex<Scrub>,
    committer: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.core.queue.close();
        let committer = locked(&self.committer).take();
        if let Some(committer) = committer
            && committer.thread().id() != std::thread::current().id()
        {
            let _ = committer.join();
        }
    }
}

/// One shard to be stored.
#[derive(Debug)]
pub struct PutRequest {
    /// Its name.
    pub key: Key,
    /// Its bytes.
    pub shard: Bytes,
    /// Bytes kept with it for the caller: the segment's descriptor; at most 8 KiB.
    pub meta: Bytes,
    /// The current epoch.
    pub epoch: u64,
    /// The room reserved for it, which also says under which lease it is kept.
    pub reservation: Reservation,
}

fn check_config(config: &VaultConfig) -> Result<(), OpenError> {
    let refuse = |why: String| Err(OpenError::Config(why));
    if config.shard_len_max > SHARD_LEN_MAX {
        return refuse(format!("shard_len_max is more than {SHARD_LEN_MAX}"));
    }
    if config.placement_len_max > PLACEMENT_LEN_MAX {
        return refuse(format!("placement_len_max is more than {PLACEMENT_LEN_MAX}"));
    }
    if config.volume_len < config.volume_len_min() {
        return refuse(format!("volume_len is less than {}", config.volume_len_min()));
    }
    if config.quota_bytes < config.volume_len.saturating_mul(3) {
        return refuse("quota_bytes is less than three volumes".to_owned());
    }
    Ok(())
}

fn io_error(doing: &'static str) -> impl Fn(std::io::Error) -> OpenError {
    move |source| OpenError::Io { doing, source }
}

/// Makes the vault's directories and their names durable.
fn prepare(disk: &dyn Disk, dir: &Path) -> Result<PathBuf, OpenError> {
    let volumes = dir.join(VOLUMES_DIR);
    let doing = "making the vault's directory";
    disk.create_dir_all(&volumes).map_err(io_error(doing))?;
    // A volume may have been created and filled by a process that died before it synced its name.
    disk.sync_dir(&volumes, SyncSite::VaultDir).map_err(io_error(doing))?;
    disk.sync_dir(dir, SyncSite::VaultDir).map_err(io_error(doing))?;
    if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        disk.sync_dir(parent, SyncSite::VaultDir).map_err(io_error(doing))?;
    }
    Ok(volumes)
}

impl Vault {
    /// Opens the vault in `dir`, making it if there is none, and recovers what a crash left.
    ///
    /// The caller holds the lock of the data directory: two processes must not do this at once.
    ///
    /// # Errors
    /// Parameters that contradict each other, a directory that is open already, a failing disk.
    /// Damage is not an error: it is in the report.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        config: VaultConfig,
    ) -> Result<(Self, RecoveryReport), OpenError> {
        check_config(&config)?;
        let volumes_dir = prepare(&*disk, dir)?;
        let open_dir = OpenDir::take(&disk, dir)?;
        let volumes = Volumes::new(Arc::clone(&disk), volumes_dir);
        let scan = Scan::new(&volumes).map_err(io_error("looking at the volumes"))?;
        let mut opened = open_index(&disk, dir, &config, &scan)?;
        let mut report = RecoveryReport {
            index: opened.state,
            volumes: scan.volumes.len() as u64,
            replayed_records: 0,
            damaged: Vec::new(),
            torn_bytes: 0,
            unreadable_volumes: scan.unreadable.clone(),
            unsealed_volumes: Vec::new(),
        };
        let mut replay = Replay {
            index: &mut opened.index,
            scan: &scan,
            report: &mut report,
            repairs: Vec::new(),
            checkpoint_rows: config.checkpoint_rows,
        };
        let tail = replay.run()?;
        let repairs = replay.repairs;
        let core = Arc::new(Core {
            config,
            volumes,
            index: Mutex::new(opened.index),
            index_size: opened.size,
            volume_bytes: AtomicU64::new(scan.unreadable_bytes),
            promises: Arc::default(),
            queue: Queue::new(config.queue_bytes_max),
            poisoned: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
        });
        let writer = start_writer(&core, &scan, tail, repairs)?;
        let vault = Self::start(core, writer, open_dir)?;
        Ok((vault, report))
    }

    fn start(core: Arc<Core>, writer: Writer, open_dir: OpenDir) -> Result<Self, OpenError> {
        let queue_owner = Arc::clone(&core);
        let committer = std::thread::Builder::new()
            .name("vault-committer".to_owned())
            .spawn(move || {
                let run = std::panic::AssertUnwindSafe(|| writer.run());
                if std::panic::catch_unwind(run).is_err() {
                    tracing::error!("the vault's committer panicked; nothing more is written");
                }
                queue_owner.queue.abandon();
                // The files are closed before the directory may be opened again.
                drop(queue_owner);
                drop(open_dir);
            })
            .map_err(io_error("starting the committer"))?;
        Ok(Self(Arc::new(Inner {
            core,
            compacting: Mutex::new(()),
            scrub: Mutex::default(),
            committer: Mutex::new(Some(committer)),
        })))
    }

    /// The parameters it was opened with.
    #[must_use]
    pub fn config(&self) -> &VaultConfig {
        &self.0.core.config
    }

    /// Reserves room for a shard of `shard_bytes` under a lease, before its bytes arrive. For a
    /// granted lease `grant_byte_epochs` is the whole grant; the free pool ignores it.
    ///
    /// # Errors
    /// The pool's limits, the quota, the number of reservations.
    pub fn reserve(
        &self,
        key: Key,
        shard_bytes: u64,
        lease: &LeaseMeta,
        grant_byte_epochs: u128,
    ) -> Result<Reservation, AdmitError> {
        reserve(&self.0.core, key, shard_bytes, lease, grant_byte_epochs)
    }

    /// Stores a shard under the lease of its reservation; returns once it is durable. A shard that
    /// is here intact costs nothing but the lease; a damaged one is healed.
    ///
    /// # Errors
    /// See [`WriteError`]; nothing was acknowledged then.
    pub fn put(&self, request: PutRequest) -> Result<Outcome, WriteError> {
        let shard_hash = *blake3::hash(&request.shard).as_bytes();
        self.put_hashed(request, shard_hash)
    }

    /// Like [`Vault::put`] for bytes whose BLAKE3 hash the caller has just computed, so that they
    /// are not hashed twice. Under a wrong hash the shard is stored and never handed out: every
    /// whole read and the scrubber compare.
    ///
    /// # Errors
    /// As [`Vault::put`].
    pub fn put_hashed(
        &self,
        request: PutRequest,
        shard_hash: [u8; 32],
    ) -> Result<Outcome, WriteError> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let done = Box::new(move |result| drop(sender.send(result)));
        let job = put_job(request, shard_hash, done)?;
        self.0.core.queue.push(job, true)?;
        receiver.recv().unwrap_or(Err(WriteError::Closed))
    }

    /// Like [`Vault::put`] without waiting: `done` is called once, on the vault's own thread, when
    /// the shard is durable or refused; it must be quick and must not call the vault.
    ///
    /// # Errors
    /// [`WriteError::Busy`] if too much waits, [`WriteError::Closed`], or a reservation for
    /// something else; `done` is not called then.
    pub fn submit(
        &self,
        request: PutRequest,
        done: impl FnOnce(Result<Outcome, WriteError>) + Send + 'static,
    ) -> Result<(), WriteError> {
        let shard_hash = *blake3::hash(&request.shard).as_bytes();
        let job = put_job(request, shard_hash, Box::new(done))?;
        self.0.core.queue.push(job, false)
    }

    /// Adds the reserved lease to a stored shard, or extends it; durable on return.
    ///
    /// # Errors
    /// The shard is not here or damaged, the lease was ended, too many leases.
    pub fn add_lease(&self, reservation: Reservation, epoch: u64) -> Result<Outcome, WriteError> {
        let op = Op::AddLease { key: reservation.key, lease: reservation.lease, epoch };
        self.ask(Work::Record(Box::new(op)), Some(reservation))
    }

    /// Ends a lease; durable on return. One that is not here is ended already.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub fn end_lease(&self, key: Key, lease: [u8; 32]) -> Result<Outcome, WriteError> {
        self.record(Op::EndLease { key, lease })
    }

    /// Marks a lease as sealed: its publish is finished, it lasts its whole term.
    ///
    /// # Errors
    /// The shard or the lease is not here, or was ended.
    pub fn seal(&self, key: Key, lease: [u8; 32]) -> Result<Outcome, WriteError> {
        self.record(Op::Seal { key, lease })
    }

    /// Writes the index file now, so that the next start replays less.
    ///
    /// # Errors
    /// See [`WriteError`]; the volumes hold everything all the same.
    pub fn checkpoint(&self) -> Result<Outcome, WriteError> {
        self.ask(Work::Checkpoint, None)
    }

    /// Whether the vault refuses all writes until it is opened again, after a failure of the disk
    /// that it could not get around.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.0.core.stopped.load(Ordering::Acquire)
    }

    /// Looks whether all volumes' files are still there. Where somebody removed one, the vault
    /// stops: what it reads through open files ends with the process, and nobody is to count on
    /// it. Returns whether it has stopped, for whatever reason.
    ///
    /// # Errors
    /// A directory that cannot be read.
    pub fn check_files(&self) -> Result<bool, MaintainError> {
        if self.stopped() {
            return Ok(true);
        }
        // No compaction removes a volume meanwhile.
        let _compacting = locked(&self.0.compacting);
        let missing = self.0.core.volumes.missing()?;
        if missing.is_empty() {
            return Ok(false);
        }
        let why = format!("files of the vault were deleted while it was in use: {missing:?}");
        self.ask(Work::Stop(why), None)?;
        Ok(true)
    }

    pub(crate) fn record(&self, op: Op) -> Result<Outcome, WriteError> {
        self.ask(Work::Record(Box::new(op)), None)
    }

    pub(crate) fn ask(
        &self,
        work: Work,
        reservation: Option<Reservation>,
    ) -> Result<Outcome, WriteError> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let done = Box::new(move |result| drop(sender.send(result)));
        let job = Job { work, done, reservation };
        self.0.core.queue.push(job, true)?;
        receiver.recv().unwrap_or(Err(WriteError::Closed))
    }

    /// Stores many shards at one stroke; one sync serves all that fit into a group. The results are
    /// in the order of the requests.
    #[must_use]
    pub fn put_many(&self, requests: Vec<PutRequest>) -> Vec<Result<Outcome, WriteError>> {
        let (sender, receiver) = mpsc::channel();
        let mut results: Vec<Result<Outcome, WriteError>> = Vec::new();
        let mut jobs = Vec::new();
        for (place, request) in requests.into_iter().enumerate() {
            results.push(Err(WriteError::Closed));
            let to = sender.clone();
            let done = Box::new(move |result| drop(to.send((place, result))));
            let shard_hash = *blake3::hash(&request.shard).as_bytes();
            match put_job(request, shard_hash, done) {
                Ok(job) => jobs.push(job),
                Err(error) => drop(sender.send((place, Err(error)))),
            }
        }
        drop(sender);
        self.0.core.queue.push_all(jobs);
        for (place, result) in receiver {
            if let Some(slot) = results.get_mut(place) {
                *slot = result;
            }
        }
        results
    }

    /// Hands in many requests at one stroke and waits for all; the first error wins.
    pub(crate) fn record_all(&self, ops: Vec<Op>) -> Result<Vec<Outcome>, WriteError> {
        let (sender, receiver) = mpsc::channel();
        let count = ops.len();
        let job = |op| {
            let sender = sender.clone();
            let done = Box::new(move |result| drop(sender.send(result)));
            Job { work: Work::Record(Box::new(op)), done, reservation: None }
        };
        self.0.core.queue.push_all(ops.into_iter().map(job).collect());
        drop(sender);
        let outcomes: Vec<Outcome> = receiver.iter().collect::<Result<_, _>>()?;
        if outcomes.len() == count { Ok(outcomes) } else { Err(WriteError::Closed) }
    }

    /// Finds a shard; `None` if it is not here or its bytes are damaged.
    ///
    /// # Errors
    /// The disk's and the index's.
    pub fn get(&self, key: Key) -> Result<Option<Located>, ReadError> {
        let located = read::locate(&self.0.core, key)?;
        Ok(located.filter(|located| !located.entry().state.quarantined))
    }

    fn servable(&self, key: Key) -> Result<Located, ReadError> {
        let located = read::locate(&self.0.core, key)?.ok_or(ReadError::NotStored)?;
        match located.entry().state.quarantined {
            true => Err(ReadError::Quarantined),
            false => Ok(located),
        }
    }

    /// Reads a range of a shard as it is on the disk: the caller checks it against the shard hash.
    ///
    /// # Errors
    /// Not here, damaged, past the end; the disk's.
    pub fn read_range(&self, key: Key, offset: u64, len: usize) -> Result<Bytes, ReadError> {
        self.servable(key)?.read_range(offset, len)
    }

    /// Reads a whole shard and checks it against its hash; on a mismatch it is quarantined.
    ///
    /// # Errors
    /// Not here, damaged; the disk's.
    pub fn read_verified(&self, key: Key) -> Result<Bytes, ReadError> {
        let located = self.servable(key)?;
        if let Some(bytes) = located.read_checked()? {
            return Ok(bytes);
        }
        if let Err(error) = self.record(Op::Quarantine { key, at: located.entry().at }) {
            tracing::error!(%error, "a damaged shard could not be marked as such");
        }
        Err(ReadError::Quarantined)
    }

    /// The leases on a shard, ended ones included; empty if it is not here.
    ///
    /// # Errors
    /// The index's.
    pub fn leases(&self, key: Key) -> Result<Vec<StoredLease>, IndexError> {
        let entry = locked(&self.0.core.index).entry(View::Durable, key)?;
        Ok(entry.map(|entry| entry.state.leases).unwrap_or_default())
    }

    /// Byte-epochs of a grant that leases used here, forgotten and ended ones included; 0 once the
    /// grant is over and collected.
    ///
    /// # Errors
    /// The index's.
    pub fn grant_used(&self, grant: &[u8; 32]) -> Result<u128, IndexError> {
        locked(&self.0.core.index).grant_used(View::Durable, grant)
    }

    /// Up to `limit` keys after `after`, in order of (segment, index), quarantined ones included.
    ///
    /// # Errors
    /// The index's.
    pub fn keys(&self, after: Option<Key>, limit: usize) -> Result<Vec<Key>, IndexError> {
        let after = after.map(rows::entry_key);
        let index = locked(&self.0.core.index);
        let page = index.kv.page(View::Durable, rows::ENTRY, after.as_deref(), limit.max(1))?;
        Ok(page.iter().filter_map(|(key, _)| rows::tail_key(key)).collect())
    }

    /// Up to `limit` segments after `after` that have a shard here, in order.
    ///
    /// # Errors
    /// The index's.
    pub fn segments(
        &self,
        after: Option<SegmentId>,
        limit: usize,
    ) -> Result<Vec<SegmentId>, IndexError> {
        let mut segments: Vec<SegmentId> = Vec::new();
        let mut after = after.map(|segment| Key { segment, index: u8::MAX });
        while segments.len() < limit {
            let Some(key) = self.keys(after, 1)?.first().copied() else { break };
            segments.push(key.segment);
            after = Some(Key { index: u8::MAX, ..key });
        }
        Ok(segments)
    }
}

/// A put as the committer takes it. Shards are hashed on their callers' threads, so that the
/// committer's one core does not bound them.
fn put_job(request: PutRequest, shard_hash: [u8; 32], done: Done) -> Result<Job, WriteError> {
    let PutRequest { key, shard, meta, epoch, reservation } = request;
    if reservation.key != key || reservation.shard_bytes < shard.len() as u64 {
        return Err(WriteError::NotReserved);
    }
    let lease = Some(reservation.lease);
    let put = PutOp { key, shard, shard_hash, meta, lease, epoch };
    Ok(Job { work: Work::Record(Box::new(Op::Put(put))), done, reservation: Some(reservation) })
}

/// The committer's state after recovery: what is damaged is closed, what left is removed.
fn start_writer(
    core: &Arc<Core>,
    scan: &Scan,
    tail: Tail,
    repairs: Vec<Op>,
) -> Result<Writer, OpenError> {
    let mut bytes: u64 = scan.volumes.values().map(|scanned| scanned.size).sum();
    let last = scan.volumes.values().next_back();
    let mut active = None;
    if let (Tail::Open(at) | Tail::Seal(at), Some(last)) = (tail, last) {
        let at = crate::bytes_io::align(at);
        let damaged = matches!(tail, Tail::Seal(_));
        if last.size != at {
            let doing = "cutting off a torn write";
            last.volume.file.set_len(at).map_err(io_error(doing))?;
            bytes = bytes - last.size + at;
        }
        active = Some(Active { volume: Arc::clone(&last.volume), synced: at, damaged });
    }
    core.volume_bytes.fetch_add(bytes, Ordering::AcqRel);
    let next_number = scan.next_number;
    let mut writer = Writer {
        core: Arc::clone(core),
        active,
        next_number,
        cut: None,
        repairs,
        stopped: None,
        pace: Pace::default(),
    };
    remove_leaving(core, scan)?;
    if matches!(tail, Tail::Seal(_))
        && let Err(error) = writer.rotate()
    {
        tracing::warn!(%error, "a damaged volume could not be sealed yet");
    }
    let repairs = writer.repair_jobs();
    writer.serve(repairs.into());
    Ok(writer)
}

/// Volumes whose leaving is in the index file go now, if a crash kept them.
fn remove_leaving(core: &Core, scan: &Scan) -> Result<(), OpenError> {
    let doing = "removing a compacted volume";
    let mut index = locked(&core.index);
    let leaving: Vec<u64> = index
        .volumes(View::Durable)?
        .iter()
        .filter(|(_, row)| row.leaving)
        .map(|(number, _)| *number)
        .collect();
    for number in &leaving {
        core.volumes.remove(*number).map_err(io_error(doing))?;
        let size = scan.volumes.get(number).map_or(0, |scanned| scanned.size);
        core.volume_bytes.fetch_sub(size, Ordering::AcqRel);
        index.drop_volume(*number);
    }
    if !leaving.is_empty() {
        core.volumes.sync_removed().map_err(io_error(doing))?;
    }
    index.kv.commit_staged();
    Ok(())
}
