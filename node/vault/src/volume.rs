//! Volume files by number: creating, opening, keeping a bounded number of them open, removing. A
//! handle that someone holds goes on reading after its file was removed. No record is read here.
use crate::crash::crash_point;
use crate::disk::{Disk, DiskFile, SyncSite};
use crate::format::{FIRST_RECORD_AT, HEADER_COPY_AT, HEADER_LEN, VolumeHeader};
use crate::locked::locked;
use crate::types::Position;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Volume files kept open at once; a terabyte is a thousand volumes, and a process often has no
/// more descriptors than that.
const OPEN_FILES_MAX: usize = 256;

/// One open volume.
#[derive(Debug)]
pub(crate) struct VolumeFile {
    pub(crate) header: VolumeHeader,
    pub(crate) file: Arc<dyn DiskFile>,
}

#[derive(Debug)]
struct Known {
    header: VolumeHeader,
    open: Option<Arc<VolumeFile>>,
    used_at: u64,
}

/// All volumes of one vault.
#[derive(Debug)]
pub(crate) struct Volumes {
    disk: Arc<dyn Disk>,
    pub(crate) dir: PathBuf,
    known: Mutex<(BTreeMap<u64, Known>, u64)>,
}

/// What a volume file turned out to be.
#[derive(Debug)]
pub(crate) enum Opened {
    Volume(Arc<VolumeFile>),
    /// No valid header, and nothing past where records begin.
    NeverUsed,
    /// No valid header.
    Unreadable,
}

pub(crate) fn file_name(number: u64) -> String {
    format!("vol-{number:010}.echovol")
}

/// The number in a volume's file name; only the one way that we write it.
pub(crate) fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("vol-")?.strip_suffix(".echovol")?;
    let number = digits.parse().ok()?;
    (number > 0 && file_name(number) == name).then_some(number)
}

impl Volumes {
    pub(crate) fn new(disk: Arc<dyn Disk>, dir: PathBuf) -> Self {
        Self { disk, dir, known: Mutex::new((BTreeMap::new(), 0)) }
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(file_name(number))
    }

    /// The numbers of all volume files, ascending.
    pub(crate) fn list(&self) -> io::Result<Vec<u64>> {
        let names = self.disk.list(&self.dir)?;
        let mut numbers: Vec<u64> = names.iter().filter_map(|name| number_of(name)).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Opens a file for the first time and reads its header from either copy.
    pub(crate) fn discover(&self, number: u64) -> io::Result<Opened> {
        let file = self.disk.open(&self.path(number))?;
        let size = file.size()?;
        for at in [0, HEADER_COPY_AT] {
            let mut bytes = [0; HEADER_LEN];
            if size < at + HEADER_LEN as u64 || file.read_at(at, &mut bytes).is_err() {
                continue;
            }
            match VolumeHeader::decode(&bytes) {
                Some(header) if header.number == number => {
                    let volume = Arc::new(VolumeFile { header, file });
                    self.remember(&volume);
                    return Ok(Opened::Volume(volume));
                }
                _ => {}
            }
        }
        Ok(if size <= FIRST_RECORD_AT { Opened::NeverUsed } else { Opened::Unreadable })
    }

    fn remember(&self, volume: &Arc<VolumeFile>) {
        let mut known = locked(&self.known);
        known.1 += 1;
        let used_at = known.1;
        let entry = Known { header: volume.header, open: Some(Arc::clone(volume)), used_at };
        known.0.insert(volume.header.number, entry);
        Self::close_oldest(&mut known.0);
    }

    fn close_oldest(known: &mut BTreeMap<u64, Known>) {
        let open = known.values().filter(|known| known.open.is_some());
        if open.clone().count() <= OPEN_FILES_MAX {
            return;
        }
        let oldest = known.values_mut().filter(|known| known.open.is_some());
        if let Some(oldest) = oldest.min_by_key(|known| known.used_at) {
            oldest.open = None;
        }
    }

    /// The open volume, or `NotFound`.
    pub(crate) fn get(&self, number: u64) -> io::Result<Arc<VolumeFile>> {
        let mut known = locked(&self.known);
        known.1 += 1;
        let now = known.1;
        let Some(entry) = known.0.get_mut(&number) else {
            return Err(io::Error::new(io::ErrorKind::NotFound, file_name(number)));
        };
        entry.used_at = now;
        if let Some(open) = &entry.open {
            return Ok(Arc::clone(open));
        }
        let file = self.disk.open(&self.path(number))?;
        let volume = Arc::new(VolumeFile { header: entry.header, file });
        entry.open = Some(Arc::clone(&volume));
        Self::close_oldest(&mut known.0);
        Ok(volume)
    }

    /// Volumes whose files somebody removed, ascending. An open file goes on reading until the
    /// process ends, so nothing else shows it.
    pub(crate) fn missing(&self) -> io::Result<Vec<u64>> {
        // First what is known: a volume is known only when its file has a name.
        let known: Vec<u64> = locked(&self.known).0.keys().copied().collect();
        let there = match self.list() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            there => there?,
        };
        Ok(known.into_iter().filter(|number| there.binary_search(number).is_err()).collect())
    }

    /// Opens a volume again through a fresh handle, after its old one failed.
    pub(crate) fn reopen(&self, number: u64) -> io::Result<Arc<VolumeFile>> {
        if let Some(entry) = locked(&self.known).0.get_mut(&number) {
            entry.open = None;
        }
        self.get(number)
    }

    /// Creates a volume and makes it and its name durable.
    pub(crate) fn create(
        &self,
        number: u64,
        len_max: u64,
        cut: Option<Position>,
    ) -> io::Result<Arc<VolumeFile>> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret)
            .map_err(|error| io::Error::other(format!("no randomness: {error}")))?;
        let header = VolumeHeader { number, len_max, cut, secret };
        let file = self.disk.create(&self.path(number))?;
        crash_point("vault.volume.created");
        let mut bytes = vec![0; FIRST_RECORD_AT as usize];
        for at in [0, HEADER_COPY_AT as usize] {
            if let Some(copy) = bytes.get_mut(at..at + HEADER_LEN) {
                copy.copy_from_slice(&header.encode());
            }
        }
        file.write_at(0, &[&bytes])?;
        crash_point("vault.volume.headed");
        file.sync_all(SyncSite::VolumeCreated)?;
        self.disk.sync_dir(&self.dir, SyncSite::VolumesDir)?;
        crash_point("vault.volume.synced");
        let volume = Arc::new(VolumeFile { header, file });
        self.remember(&volume);
        Ok(volume)
    }

    /// Removes the file; not yet durable.
    pub(crate) fn remove(&self, number: u64) -> io::Result<()> {
        locked(&self.known).0.remove(&number);
        match self.disk.remove(&self.path(number)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Makes removals durable.
    pub(crate) fn sync_removed(&self) -> io::Result<()> {
        self.disk.sync_dir(&self.dir, SyncSite::VolumeRemoved)
    }

    /// The length of a file that is no readable volume, for the quota.
    pub(crate) fn size_of_unreadable(&self, number: u64) -> io::Result<u64> {
        self.disk.open(&self.path(number))?.size()
    }

    /// Free bytes on the file system.
    pub(crate) fn free_bytes(&self) -> io::Result<u64> {
        self.disk.free_bytes(Path::new(&self.dir))
    }

    /// Headers of all volumes, ascending.
    pub(crate) fn headers(&self) -> Vec<VolumeHeader> {
        locked(&self.known).0.values().map(|known| known.header).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_has_one_name() {
        assert_eq!(file_name(1), "vol-0000000001.echovol");
        assert_eq!(number_of("vol-0000000001.echovol"), Some(1));
        assert_eq!(number_of("vol-12345678901.echovol"), Some(12_345_678_901));
        for other in ["vol-1.echovol", "vol-0000000000.echovol", "vol-+000000001.echovol", "x"] {
            assert_eq!(number_of(other), None, "{other}");
        }
    }
}
