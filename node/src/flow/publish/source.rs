//! Reading a work's source: every MiB is checked against the first pass's hash
//! tree, then handed on in content-defined chunks.
//!
//! It never hands on a byte that the ContentID does not vouch for, and holds a
//! few chunks in memory at a time.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
};

use echonet_protocol::data::{self, GROUP_BYTES, verified::group_cv};

/// Bytes read at once: several times the longest chunk, so that little is moved.
const WINDOW_BYTES: usize = 16 * 1024 * 1024;

/// Why a source cannot be read as what it was.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It is not what it was when it was hashed.
    #[error(
        "file changed while publishing: {path} no longer has the bytes that were hashed ({detail}); \
         nothing was announced; publish it again when it is at rest"
    )]
    Changed {
        /// The file.
        path: PathBuf,
        /// What differs.
        detail: String,
    },
    /// It cannot be read.
    #[error("{path} cannot be read: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What tells one state of a file from another without reading it: length,
/// modification time in nanoseconds since 1970, inode.
///
/// # Errors
/// When the file cannot be looked at.
pub(super) fn stamp_of(path: &Path) -> io::Result<(u64, i128, u64)> {
    let meta = std::fs::metadata(path)?;
    let mtime_ns = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
    Ok((meta.len(), mtime_ns, meta.ino()))
}

/// A source file whose hash tree is known.
#[derive(Debug)]
pub(super) struct Source {
    path: PathBuf,
    file: File,
    len: u64,
    /// Hash of each MiB, from the first pass.
    groups: Vec<[u8; 32]>,
}

impl Source {
    /// Opens a file that the first pass found to have these MiB hashes.
    ///
    /// # Errors
    /// [`SourceError`] when it cannot be opened or has another length.
    pub(super) fn open(path: &Path, len: u64, groups: Vec<[u8; 32]>) -> Result<Self, SourceError> {
        let io = |source| SourceError::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(io)?;
        let found = file.metadata().map_err(io)?.len();
        let this = Self { path: path.to_owned(), file, len, groups };
        if found == len { Ok(this) } else { Err(this.changed(format!("{found} bytes, not {len}"))) }
    }

    /// Bytes of content.
    #[must_use]
    pub(super) const fn length(&self) -> u64 {
        self.len
    }

    fn changed(&self, detail: String) -> SourceError {
        SourceError::Changed { path: self.path.clone(), detail }
    }

    fn io(&self, source: io::Error) -> SourceError {
        if source.kind() == io::ErrorKind::UnexpectedEof {
            return self.changed("it became shorter".into());
        }
        SourceError::Io { path: self.path.clone(), source }
    }

    fn check_group(&self, group: u64, bytes: &[u8]) -> Result<(), SourceError> {
        let expected = usize::try_from(group).ok().and_then(|i| self.groups.get(i));
        match group_cv(bytes, group, self.groups.len() == 1) {
            Ok(cv) if expected == Some(&cv) => Ok(()),
            _ => Err(self.changed(format!("MiB {group}"))),
        }
    }

    /// Reads all of it in order; every chunk goes to `sink` with its offset.
    ///
    /// # Errors
    /// [`SourceError`], or what `sink` returns.
    pub(super) fn for_each_chunk<E: From<SourceError>>(
        &self,
        mut sink: impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(0)).map_err(|e| self.io(e))?;
        let mut window = vec![0; WINDOW_BYTES];
        // `window[start..end]` are bytes read and not yet handed on; `offset` is where they begin.
        let (mut start, mut end, mut offset) = (0, 0, 0u64);
        loop {
            window.copy_within(start..end, 0);
            (start, end) = (0, end - start);
            let read_to = offset + end as u64;
            let want = (WINDOW_BYTES - end) as u64 / GROUP_BYTES * GROUP_BYTES;
            let want = usize::try_from(want.min(self.len - read_to)).unwrap_or(0);
            file.read_exact(&mut window[end..end + want]).map_err(|e| self.io(e))?;
            for (i, group) in window[end..end + want].chunks(GROUP_BYTES as usize).enumerate() {
                self.check_group(read_to / GROUP_BYTES + i as u64, group)?;
            }
            end += want;
            let is_last = offset + end as u64 == self.len;
            while let Some(cut) = data::next_cut(&window[start..end], offset, is_last) {
                sink(offset, &window[start..start + cut])?;
                start += cut;
                offset += cut as u64;
            }
            if is_last {
                return Ok(());
            }
        }
    }

    /// Reads one chunk again, and checks it against the hash it had.
    ///
    /// # Errors
    /// [`SourceError`].
    pub(super) fn read_chunk(
        &self,
        offset: u64,
        len: usize,
        hash: &echonet_protocol::bytes::ChunkHash,
    ) -> Result<Vec<u8>, SourceError> {
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, offset).map_err(|e| self.io(e))?;
        if blake3::hash(&bytes).as_bytes() == &hash.0 {
            Ok(bytes)
        } else {
            Err(self.changed(format!("the chunk at byte {offset}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn groups(bytes: &[u8]) -> Vec<[u8; 32]> {
        let parts: Vec<_> = bytes.chunks(GROUP_BYTES as usize).collect();
        let only = parts.len() == 1;
        parts.iter().enumerate().map(|(i, p)| group_cv(p, i as u64, only).unwrap()).collect()
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().update(b"source").finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn chunks_are_the_file_in_order_and_as_the_chunker_cuts_them() {
        let bytes = noise(37 * 1024 * 1024 + 17);
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&bytes).unwrap();
        let source = Source::open(file.path(), bytes.len() as u64, groups(&bytes)).unwrap();
        let mut at = 0;
        source
            .for_each_chunk::<SourceError>(|offset, chunk| {
                assert_eq!(offset, at);
                assert_eq!(chunk, &bytes[at as usize..at as usize + chunk.len()]);
                let expected = data::next_cut(&bytes[at as usize..], at, true);
                assert_eq!(Some(chunk.len()), expected);
                at += chunk.len() as u64;
                Ok(())
            })
            .unwrap();
        assert_eq!(at, bytes.len() as u64);
    }

    #[test]
    fn one_changed_bit_is_told_before_its_chunk_is_handed_on() {
        let mut bytes = noise(20 * 1024 * 1024);
        let tree = groups(&bytes);
        bytes[18_000_000] ^= 1;
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&bytes).unwrap();
        let source = Source::open(file.path(), bytes.len() as u64, tree).unwrap();
        let mut handed_on = 0;
        let error = source
            .for_each_chunk::<SourceError>(|offset, chunk| {
                handed_on = offset + chunk.len() as u64;
                Ok(())
            })
            .unwrap_err();
        assert!(error.to_string().contains("file changed"), "{error}");
        assert!(handed_on <= 18_000_000);
        bytes.truncate(1000);
        std::fs::write(file.path(), &bytes).unwrap();
        let error = source.for_each_chunk::<SourceError>(|_, _| Ok(())).unwrap_err();
        assert!(error.to_string().contains("file changed"), "{error}");
    }
}
