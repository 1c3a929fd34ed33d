//! A first look at the volume files: which can be read, how long each is, which ends early because
//! a later volume's header cuts it.
use crate::types::Position;
use crate::volume::{Opened, VolumeFile, Volumes};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

/// One readable volume.
#[derive(Debug)]
pub(crate) struct Scanned {
    pub(crate) volume: Arc<VolumeFile>,
    pub(crate) size: u64,
}

/// All volume files.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    pub(crate) volumes: BTreeMap<u64, Scanned>,
    pub(crate) unreadable: Vec<u64>,
    pub(crate) unreadable_bytes: u64,
    pub(crate) cuts: BTreeMap<u64, u64>,
    pub(crate) next_number: u64,
}

impl Scan {
    /// Looks at every file; removes those that never came to hold a record.
    pub(crate) fn new(volumes: &Volumes) -> io::Result<Self> {
        let mut scan = Self { next_number: 1, ..Self::default() };
        for number in volumes.list()? {
            scan.next_number = scan.next_number.max(number.saturating_add(1));
            match volumes.discover(number)? {
                Opened::Volume(volume) => {
                    let size = volume.file.size()?;
                    if let Some(Position { volume, offset }) = volume.header.cut {
                        scan.cuts.insert(volume, offset);
                    }
                    scan.volumes.insert(number, Scanned { volume, size });
                }
                Opened::NeverUsed => volumes.remove(number)?,
                Opened::Unreadable => {
                    scan.unreadable.push(number);
                    scan.unreadable_bytes += volumes.size_of_unreadable(number)?;
                }
            }
        }
        Ok(scan)
    }

    /// The length up to which a volume counts.
    pub(crate) fn size_that_counts(&self, number: u64) -> Option<u64> {
        let scanned = self.volumes.get(&number)?;
        let cut = self.cuts.get(&number).copied().unwrap_or(u64::MAX);
        Some(scanned.size.min(cut))
    }
}
