//! Walking a volume from record to record, over damage too (VOLUME_FORMAT.md section 7): where a
//! header is not valid, the next valid one is searched for. It changes nothing.
use crate::bytes_io::align;
use crate::format::{Kind, RECORD_LEN, RECORD_MAGIC, RecordHead, TRAILER_LEN, decode_trailer};
use crate::types::Position;
use crate::volume::VolumeFile;
use std::sync::Arc;

/// Read ahead while hopping from header to header.
const HOP_READ_BYTES: usize = 16 << 10;
/// Read ahead while searching.
const SEARCH_READ_BYTES: usize = 1 << 20;
/// Granularity at which unreadable parts of a medium are stepped over.
const SECTOR_BYTES: usize = 4096;

/// What stands at a place in a volume.
#[derive(Debug)]
pub(crate) enum Found {
    /// A valid record and its state.
    Record(RecordHead, Vec<u8>),
    /// A header with a valid tag whose state or meta do not match their hash.
    BadAux(RecordHead),
    /// No valid header between these offsets.
    Gap { from: u64, to: u64 },
}

/// Walks the records of [`from`, `end`).
#[derive(Debug)]
pub(crate) struct Walker {
    pub(crate) volume: Arc<VolumeFile>,
    at: u64,
    end: u64,
    window_at: u64,
    window: Vec<u8>,
    /// Some sector could not be read at all.
    pub(crate) unreadable: bool,
}

/// Reads what can be read; unreadable sectors come back as zeros. Returns whether all was readable.
pub(crate) fn read_what_is_there(volume: &VolumeFile, offset: u64, out: &mut [u8]) -> bool {
    if volume.file.read_at(offset, out).is_ok() {
        return true;
    }
    let mut at = offset;
    for piece in out.chunks_mut(SECTOR_BYTES) {
        if volume.file.read_at(at, piece).is_err() {
            piece.fill(0);
        }
        at += piece.len() as u64;
    }
    false
}

impl Walker {
    pub(crate) fn new(volume: Arc<VolumeFile>, from: u64, end: u64) -> Self {
        Self { volume, at: from, end, window_at: 0, window: Vec::new(), unreadable: false }
    }

    /// Bytes from `offset`, `len` of them or fewer at the end of the walk.
    fn bytes(&mut self, offset: u64, len: usize, ahead: usize) -> &[u8] {
        let left = self.end.saturating_sub(offset);
        let len = len.min(usize::try_from(left).unwrap_or(usize::MAX));
        let inside = offset >= self.window_at
            && offset + len as u64 <= self.window_at + self.window.len() as u64;
        if !inside {
            let want = len.max(ahead).min(usize::try_from(left).unwrap_or(usize::MAX));
            self.window.resize(want, 0);
            self.window_at = offset;
            self.unreadable |= !read_what_is_there(&self.volume, offset, &mut self.window);
        }
        let from = (offset - self.window_at) as usize;
        self.window.get(from..from + len).unwrap_or_default()
    }

    fn head_at(&mut self, offset: u64, ahead: usize) -> Option<RecordHead> {
        let (secret, number) = (self.volume.header.secret, self.volume.header.number);
        let end = self.end;
        let bytes = self.bytes(offset, RECORD_LEN, ahead);
        let head = RecordHead::decode(bytes, &secret, Position { volume: number, offset })?;
        // A record that runs past the end was torn (or cut): its bytes are not all there.
        (head.at.offset + RECORD_LEN as u64 + head.aux_len() as u64 + u64::from(head.shard_len)
            <= end)
            .then_some(head)
    }

    /// The next thing in the volume, or `None` at the end.
    pub(crate) fn step(&mut self) -> Option<Found> {
        if self.at >= self.end {
            return None;
        }
        let from = self.at;
        let Some(head) = self.head_at(from, HOP_READ_BYTES) else {
            let to = self.search(from + 8);
            self.at = to;
            return Some(Found::Gap { from, to });
        };
        self.at = head.next_at().min(self.end);
        let aux_at = from + RECORD_LEN as u64;
        let aux = self.bytes(aux_at, head.aux_len(), HOP_READ_BYTES);
        if aux.len() != head.aux_len() || *blake3::hash(aux).as_bytes() != head.aux_hash {
            return Some(Found::BadAux(head));
        }
        let state = aux.get(..head.state_len as usize).unwrap_or_default().to_vec();
        Some(Found::Record(head, state))
    }

    /// The offset of the next valid header, or the end.
    fn search(&mut self, from: u64) -> u64 {
        let mut at = align(from);
        while at + RECORD_LEN as u64 <= self.end {
            let start = self.bytes(at, 4, SEARCH_READ_BYTES);
            if start == RECORD_MAGIC && self.head_at(at, SEARCH_READ_BYTES).is_some() {
                return at;
            }
            at += 8;
        }
        self.end
    }

    /// Whether the shard of this record matches its hash.
    pub(crate) fn is_whole(&mut self, head: &RecordHead) -> bool {
        if !matches!(head.kind, Kind::Put | Kind::Move) {
            return true;
        }
        let bytes = self.bytes(head.shard_at(), head.shard_len as usize, HOP_READ_BYTES);
        bytes.len() == head.shard_len as usize && *blake3::hash(bytes).as_bytes() == head.shard_hash
    }
}

/// The footer of a sealed volume.
#[derive(Debug)]
pub(crate) struct Footer {
    pub(crate) at: u64,
    /// The records of the volume with their states; `None` if the footer lists none.
    pub(crate) records: Option<Vec<(RecordHead, Vec<u8>)>>,
}

/// Reads the footer, if the volume ends in a valid one at `size`.
pub(crate) fn read_footer(volume: &Arc<VolumeFile>, size: u64) -> Option<Footer> {
    let trailer_at = size.checked_sub(TRAILER_LEN as u64)?;
    let mut trailer = [0; TRAILER_LEN];
    volume.file.read_at(trailer_at, &mut trailer).ok()?;
    let at = decode_trailer(&trailer, &volume.header.secret)?;
    let mut walker = Walker::new(Arc::clone(volume), at, trailer_at);
    match walker.step()? {
        Found::Record(head, list) if head.kind == Kind::Footer => {
            Some(Footer { at, records: parse_footer(volume, &list) })
        }
        _ => None,
    }
}

fn parse_footer(volume: &VolumeFile, list: &[u8]) -> Option<Vec<(RecordHead, Vec<u8>)>> {
    let mut reader = crate::bytes_io::Reader(list);
    let mut records = Vec::new();
    while !reader.0.is_empty() {
        let bytes = reader.take(RECORD_LEN)?;
        // The offset under the tag is the record's own.
        let offset = u64::from_le_bytes(bytes.get(16..24)?.try_into().ok()?);
        let at = Position { volume: volume.header.number, offset };
        let head = RecordHead::decode(bytes, &volume.header.secret, at)?;
        records.push((head, reader.take(head.state_len as usize)?.to_vec()));
    }
    (!records.is_empty()).then_some(records)
}

/// The list for a footer: every record of [`from`, `end`), or nothing if that is too long or a
/// record there is damaged.
pub(crate) fn footer_list(
    volume: &Arc<VolumeFile>,
    from: u64,
    end: u64,
    len_max: usize,
) -> Vec<u8> {
    let mut walker = Walker::new(Arc::clone(volume), from, end);
    let mut list = Vec::new();
    while let Some(found) = walker.step() {
        let Found::Record(head, state) = found else { return Vec::new() };
        list.extend_from_slice(&head.encode(&volume.header.secret));
        list.extend_from_slice(&state);
        if list.len() > len_max {
            return Vec::new();
        }
    }
    list
}
