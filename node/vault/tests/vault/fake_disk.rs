//! A disk in memory that does to a vault what a power failure does: whatever was not synced is
//! lost, torn at sector borders, or kept, file by file, sector by sector, name by name. It can also
//! fill up, fail a sync, ignore the syncs of one call site, and die in the middle of an operation.
use echonet_vault::{Disk, DiskFile, SyncSite};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

#[derive(Debug, Clone)]
enum Change {
    Write { offset: u64, bytes: Vec<u8> },
    SetLen(u64),
}

#[derive(Debug, Default)]
struct Inode {
    live: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Debug, Clone)]
enum NameChange {
    Set(PathBuf, usize),
    Remove(PathBuf),
    Dir(PathBuf),
}

#[derive(Debug, Default)]
struct Names {
    files: BTreeMap<PathBuf, usize>,
    dirs: BTreeSet<PathBuf>,
}

impl Names {
    fn apply(&mut self, change: &NameChange) {
        match change {
            NameChange::Set(path, inode) => drop(self.files.insert(path.clone(), *inode)),
            NameChange::Remove(path) => drop(self.files.remove(path)),
            NameChange::Dir(path) => drop(self.dirs.insert(path.clone())),
        }
    }
}

#[derive(Debug)]
struct State {
    rng: ChaCha8Rng,
    inodes: Vec<Inode>,
    live: Names,
    durable: Names,
    /// By parent directory.
    pending: Vec<(PathBuf, NameChange)>,
    generation: u64,
    /// Mutating calls until the machine dies.
    calls_left: Option<u64>,
    dead: bool,
    ignored: Option<SyncSite>,
    fail_syncs: Option<(SyncSite, u64)>,
    capacity: u64,
    /// Whether asking for free space tells that the disk is nearly full.
    tells_free: bool,
    syncs: BTreeMap<SyncSite, u64>,
}

/// The machine: outlives crashes. `mount` gives the disk that a process sees until the next crash.
#[derive(Debug, Clone)]
pub(crate) struct Machine(Arc<Mutex<State>>);

#[derive(Debug)]
struct Mounted {
    state: Arc<Mutex<State>>,
    generation: u64,
}

#[derive(Debug)]
struct OpenFile {
    state: Arc<Mutex<State>>,
    generation: u64,
    inode: usize,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn dead() -> io::Error {
    io::Error::other("the machine is down")
}

impl Machine {
    pub(crate) fn new(seed: u64) -> Self {
        let mut durable = Names::default();
        let mut live = Names::default();
        for names in [&mut durable, &mut live] {
            names.dirs.extend([PathBuf::from("/"), PathBuf::from("/data")]);
        }
        Self(Arc::new(Mutex::new(State {
            rng: ChaCha8Rng::seed_from_u64(seed),
            inodes: Vec::new(),
            live,
            durable,
            pending: Vec::new(),
            generation: 0,
            calls_left: None,
            dead: false,
            ignored: None,
            fail_syncs: None,
            capacity: u64::MAX,
            tells_free: true,
            syncs: BTreeMap::new(),
        })))
    }

    pub(crate) fn mount(&self) -> Arc<dyn Disk> {
        let generation = lock(&self.0).generation;
        Arc::new(Mounted { state: Arc::clone(&self.0), generation })
    }

    /// From now on the syncs of this site do nothing and say that they did.
    pub(crate) fn ignore_syncs(&self, site: Option<SyncSite>) {
        lock(&self.0).ignored = site;
    }

    /// The next `count` syncs of this site fail.
    pub(crate) fn fail_syncs(&self, site: SyncSite, count: u64) {
        lock(&self.0).fail_syncs = Some((site, count));
    }

    /// Bytes that fit on the disk, and whether it tells.
    pub(crate) fn set_capacity(&self, bytes: u64, tells_free: bool) {
        let mut state = lock(&self.0);
        state.capacity = bytes;
        state.tells_free = tells_free;
    }

    pub(crate) fn used(&self) -> u64 {
        lock(&self.0).used()
    }

    /// Syncs asked for so far, of one site.
    pub(crate) fn syncs(&self, site: SyncSite) -> u64 {
        lock(&self.0).syncs.get(&site).copied().unwrap_or(0)
    }

    /// The machine dies after this many more mutating calls.
    pub(crate) fn die_after(&self, calls: u64) {
        lock(&self.0).calls_left = Some(calls);
    }

    pub(crate) fn is_dead(&self) -> bool {
        lock(&self.0).dead
    }

    /// Power failure and reboot: old handles fail for ever; what was not synced may be gone.
    pub(crate) fn crash(&self) {
        let mut state = lock(&self.0);
        state.generation += 1;
        state.dead = false;
        state.calls_left = None;
        state.fail_syncs = None;
        let keep_names = state.chance();
        for (_, change) in std::mem::take(&mut state.pending) {
            if state.rng.random_bool(keep_names) {
                state.durable.apply(&change);
            }
        }
        let State { live, durable, .. } = &mut *state;
        // A file in a directory whose own name was lost is lost with it.
        let Names { files, dirs } = durable;
        files.retain(|path, _| dirs.contains(&parent(path)));
        live.files.clone_from(&durable.files);
        live.dirs.clone_from(&durable.dirs);
        for inode in 0..state.inodes.len() {
            state.crash_file(inode);
        }
    }

    /// The process is killed; the machine goes on, with everything still in its page cache.
    pub(crate) fn kill(&self) {
        let mut state = lock(&self.0);
        state.generation += 1;
        state.dead = false;
        state.calls_left = None;
        state.fail_syncs = None;
    }

    /// The bytes of a file as a process would read them.
    pub(crate) fn read(&self, path: &Path) -> Option<Vec<u8>> {
        let state = lock(&self.0);
        let inode = *state.live.files.get(path)?;
        Some(state.inodes[inode].live.clone())
    }

    /// Changes a file behind the vault's back, durably.
    pub(crate) fn tamper(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = lock(&self.0);
        let inode = state.live.files[path];
        let inode = &mut state.inodes[inode];
        change(&mut inode.live);
        inode.durable.clone_from(&inode.live);
        inode.pending.clear();
    }

    /// Removes a file behind the vault's back, durably.
    pub(crate) fn delete(&self, path: &Path) {
        let mut state = lock(&self.0);
        state.live.files.remove(path);
        state.durable.files.remove(path);
    }

    /// All files, in order.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        lock(&self.0).live.files.keys().cloned().collect()
    }
}

fn write_into(bytes: &mut Vec<u8>, offset: u64, new: &[u8]) {
    let (from, to) = (offset as usize, offset as usize + new.len());
    if bytes.len() < to {
        bytes.resize(to, 0);
    }
    bytes[from..to].copy_from_slice(new);
}

impl State {
    /// How likely unsynced things survive this time: often not at all, or all of them.
    fn chance(&mut self) -> f64 {
        match self.rng.random_range(0..4) {
            0 => 0.0,
            1 => 1.0,
            _ => 0.5,
        }
    }

    fn crash_file(&mut self, inode: usize) {
        self.write_some(inode);
        let inode = &mut self.inodes[inode];
        inode.live.clone_from(&inode.durable);
    }

    /// Some sectors of what is pending reach the medium, the others are forgotten.
    fn write_some(&mut self, inode: usize) {
        let keep = self.chance();
        let sector = if self.rng.random_bool(0.5) { 512 } else { 4096 };
        let pending = std::mem::take(&mut self.inodes[inode].pending);
        let mut bytes = std::mem::take(&mut self.inodes[inode].durable);
        let mut len = bytes.len();
        for change in pending {
            match change {
                Change::SetLen(new) => {
                    if self.rng.random_bool(keep) {
                        len = new as usize;
                        bytes.truncate(len);
                    }
                }
                Change::Write { offset, bytes: new } => {
                    let mut at = offset as usize;
                    let end = at + new.len();
                    while at < end {
                        let next = end.min((at / sector + 1) * sector);
                        if self.rng.random_bool(keep) {
                            let from = at - offset as usize;
                            write_into(&mut bytes, at as u64, &new[from..from + next - at]);
                        }
                        at = next;
                    }
                    // The length is metadata: it can be kept without the bytes, and the reverse.
                    if self.rng.random_bool(keep) {
                        len = len.max(end);
                    }
                }
            }
        }
        bytes.resize(len, 0);
        self.inodes[inode].durable = bytes;
    }

    fn used(&self) -> u64 {
        self.live.files.values().map(|inode| self.inodes[*inode].live.len() as u64).sum()
    }

    /// Counts one mutating call; `Err` once the machine is dead.
    fn step(&mut self, generation: u64) -> io::Result<()> {
        self.check(generation)?;
        if let Some(left) = &mut self.calls_left {
            if *left == 0 {
                self.dead = true;
                return Err(dead());
            }
            *left -= 1;
        }
        Ok(())
    }

    fn check(&self, generation: u64) -> io::Result<()> {
        if self.dead || generation != self.generation { Err(dead()) } else { Ok(()) }
    }

    /// Whether this sync is to take effect.
    fn sync_counts(&mut self, site: SyncSite) -> Result<bool, ()> {
        *self.syncs.entry(site).or_default() += 1;
        if let Some((failing, left)) = &mut self.fail_syncs
            && *failing == site
            && *left > 0
        {
            *left -= 1;
            return Err(());
        }
        Ok(self.ignored != Some(site))
    }
}

impl Mounted {
    fn file(&self, inode: usize) -> Arc<dyn DiskFile> {
        let state = Arc::clone(&self.state);
        Arc::new(OpenFile { state, generation: self.generation, inode })
    }
}

fn parent(path: &Path) -> PathBuf {
    path.parent().map(Path::to_owned).unwrap_or_default()
}

impl Disk for Mounted {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.step(self.generation)?;
        let mut missing: Vec<PathBuf> = dir
            .ancestors()
            .take_while(|dir| !state.live.dirs.contains(*dir))
            .map(Path::to_owned)
            .collect();
        while let Some(dir) = missing.pop() {
            let change = NameChange::Dir(dir.clone());
            state.live.apply(&change);
            state.pending.push((parent(&dir), change));
        }
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = lock(&self.state);
        state.step(self.generation)?;
        if state.live.files.contains_key(path) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        if !state.live.dirs.contains(&parent(path)) {
            return Err(ErrorKind::NotFound.into());
        }
        state.inodes.push(Inode::default());
        let inode = state.inodes.len() - 1;
        let change = NameChange::Set(path.to_owned(), inode);
        state.live.apply(&change);
        state.pending.push((parent(path), change));
        Ok(self.file(inode))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let state = lock(&self.state);
        state.check(self.generation)?;
        match state.live.files.get(path) {
            Some(inode) => Ok(self.file(*inode)),
            None => Err(ErrorKind::NotFound.into()),
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = lock(&self.state);
        state.check(self.generation)?;
        let inside = state.live.files.keys().filter(|path| path.parent() == Some(dir));
        let names = inside.filter_map(|path| path.file_name()?.to_str().map(str::to_owned));
        Ok(names.collect())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.step(self.generation)?;
        if !state.live.files.contains_key(path) {
            return Err(ErrorKind::NotFound.into());
        }
        let change = NameChange::Remove(path.to_owned());
        state.live.apply(&change);
        state.pending.push((parent(path), change));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path, site: SyncSite) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.step(self.generation)?;
        if !state.sync_counts(site).map_err(|()| io::Error::other("sync failed"))? {
            return Ok(());
        }
        let (now, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut state.pending).into_iter().partition(|(parent, _)| parent == dir);
        state.pending = later;
        now.iter().for_each(|(_, change)| state.durable.apply(change));
        Ok(())
    }

    fn free_bytes(&self, _dir: &Path) -> io::Result<u64> {
        let state = lock(&self.state);
        state.check(self.generation)?;
        let free = if state.tells_free { state.capacity } else { u64::MAX };
        Ok(free.saturating_sub(state.used()))
    }
}

impl OpenFile {
    fn sync(&self, site: SyncSite) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.step(self.generation)?;
        let counts = state.sync_counts(site);
        match counts {
            Ok(false) => {}
            Ok(true) => {
                let inode = &mut state.inodes[self.inode];
                for change in std::mem::take(&mut inode.pending) {
                    match change {
                        Change::Write { offset, bytes } => {
                            write_into(&mut inode.durable, offset, &bytes);
                        }
                        Change::SetLen(len) => inode.durable.resize(len as usize, 0),
                    }
                }
            }
            Err(()) => {
                // The pages count as clean now: readable, but not all of them on the medium.
                state.write_some(self.inode);
                return Err(io::Error::other("sync failed"));
            }
        }
        Ok(())
    }
}

impl DiskFile for OpenFile {
    fn size(&self) -> io::Result<u64> {
        let state = lock(&self.state);
        state.check(self.generation)?;
        Ok(state.inodes[self.inode].live.len() as u64)
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = lock(&self.state);
        state.check(self.generation)?;
        let from = offset as usize;
        let bytes = state.inodes[self.inode].live.get(from..from + out.len());
        out.copy_from_slice(bytes.ok_or(ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        let mut state = lock(&self.state);
        let alive = state.step(self.generation);
        let mut bytes = parts.concat();
        if alive.is_err() && generation_ended(&state, self.generation) {
            return alive;
        }
        let free = state.capacity.saturating_sub(state.used());
        let inode = &mut state.inodes[self.inode];
        let grows = (offset + bytes.len() as u64).saturating_sub(inode.live.len() as u64);
        let full = grows > free;
        if full || alive.is_err() {
            // A part of it is written all the same.
            let fits = bytes.len().saturating_sub(grows.saturating_sub(free) as usize);
            bytes.truncate(fits.min(bytes.len() / 2));
        }
        write_into(&mut inode.live, offset, &bytes);
        inode.pending.push(Change::Write { offset, bytes });
        alive?;
        if full { Err(ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.step(self.generation)?;
        let free = state.capacity.saturating_sub(state.used());
        let inode = &mut state.inodes[self.inode];
        if len.saturating_sub(inode.live.len() as u64) > free {
            return Err(ErrorKind::StorageFull.into());
        }
        inode.live.resize(len as usize, 0);
        inode.pending.push(Change::SetLen(len));
        Ok(())
    }

    fn sync_data(&self, site: SyncSite) -> io::Result<()> {
        self.sync(site)
    }

    fn sync_all(&self, site: SyncSite) -> io::Result<()> {
        self.sync(site)
    }
}

fn generation_ended(state: &State, generation: u64) -> bool {
    state.generation != generation || state.calls_left != Some(0)
}
