//! Standard input on its way into the data directory, whole before anything
//! of it is published.

use std::{
    io::{self, Read, Write as _},
    path::{Path, PathBuf},
};

use crate::{
    datadir::{DataDir, sync_dir},
    service::{ServiceError, ServiceResult},
    units::ByteSize,
};

/// Free bytes that a spool leaves to everybody else on the disk.
const RESERVE_BYTES: u64 = 256 << 20;
/// Bytes between two looks at the free space.
const CHECK_BYTES: u64 = 64 << 20;
/// Bytes of one read.
const BLOCK_BYTES: usize = 1 << 20;

/// Reads `input` to its end into a durable file; its path. Nothing is left
/// behind on an error.
pub(super) fn spool(dir: &DataDir, input: impl Read) -> ServiceResult<PathBuf> {
    let spool_dir = dir.spool_dir()?;
    let write = || -> io::Result<Result<PathBuf, ServiceError>> {
        let mut temp = tempfile::Builder::new().prefix("stdin-").tempfile_in(&spool_dir)?;
        if let Err(full) = copy(input, temp.as_file_mut(), &spool_dir)? {
            return Ok(Err(full));
        }
        temp.as_file().sync_all()?;
        Ok(Ok(temp.keep()?.1))
    };
    let path = match write() {
        Ok(outcome) => outcome?,
        Err(error) if error.kind() == io::ErrorKind::StorageFull => {
            return Err(no_space(&spool_dir));
        }
        Err(error) => {
            let text = format!("cannot keep standard input in {}: {error}", spool_dir.display());
            return Err(ServiceError::new("io", text));
        }
    };
    sync_dir(&spool_dir)?;
    Ok(path)
}

fn copy(
    mut input: impl Read,
    file: &mut std::fs::File,
    dir: &Path,
) -> io::Result<Result<(), ServiceError>> {
    let mut block = vec![0; BLOCK_BYTES];
    let mut since_check = CHECK_BYTES;
    loop {
        if since_check >= CHECK_BYTES {
            if free_bytes(dir)? < RESERVE_BYTES + CHECK_BYTES {
                return Ok(Err(no_space(dir)));
            }
            since_check = 0;
        }
        match input.read(&mut block) {
            Ok(0) => return Ok(Ok(())),
            Ok(length) => {
                file.write_all(&block[..length])?;
                since_check += length as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn no_space(dir: &Path) -> ServiceError {
    let reserve = ByteSize(RESERVE_BYTES);
    let text = format!(
        "standard input does not fit: {} would have under {reserve} free; nothing was published \
         or kept. Free some space, use --data DIR on a larger disk, or publish a file, \
         which is not copied",
        dir.display()
    );
    ServiceError::new("io", text)
}

/// Free bytes for this user on the disk of `path`.
fn free_bytes(path: &Path) -> io::Result<u64> {
    fs4::available_space(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_in_is_in_the_file() {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::open(temp.path()).unwrap();
        let bytes: Vec<u8> = (0..3_000_000u32).map(|i| i as u8).collect();
        let path = spool(&dir, &bytes[..]).unwrap();
        assert!(path.starts_with(dir.path().join("spool")));
        assert_eq!(std::fs::read(path).unwrap(), bytes);
    }

    #[test]
    fn a_failed_read_leaves_nothing_behind() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("unplugged"))
            }
        }
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::open(temp.path()).unwrap();
        let error = spool(&dir, (&b"some"[..]).chain(Broken)).unwrap_err();
        assert!(error.message.contains("unplugged"), "{error}");
        assert_eq!(std::fs::read_dir(dir.spool_dir().unwrap()).unwrap().count(), 0);
    }
}
