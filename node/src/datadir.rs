//! The data directory: who may use it, and the small files in it.
//!
//! One process at a time writes a data directory, held by a lock on the file
//! `lock`. Secret files are written whole or not at all and are readable by
//! their owner only. This module never talks to the network.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
};

use echonet_protocol::identity::Identity;
use fs4::TryLockError;
use serde::{Deserialize, Serialize};

/// The node's secret key: 64 hex digits.
const KEY_FILE: &str = "node.key";
/// Held by the one process that writes here.
const LOCK_FILE: &str = "lock";
/// Where the running daemon answers.
const API_FILE: &str = "api.json";
/// The owner's configuration.
const CONFIG_FILE: &str = "echonet.toml";
/// What the node found out about its network and uses next time.
const REMEMBERED_FILE: &str = "remembered.toml";
/// The genesis of the network that this directory belongs to.
const GENESIS_FILE: &str = "genesis";
/// Standard input on its way to being published.
const SPOOL_DIR: &str = "spool";
/// Fetches that were cut off.
const PARTIAL_DIR: &str = "partial";
/// Most bytes of any of the small files here.
const SMALL_FILE_BYTES_MAX: u64 = 256 * 1024;

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// The platform names no place for data.
    #[error("no home directory is known here: say where to keep data with --data DIR")]
    NoDefault,
    /// A file operation failed.
    #[error("cannot {doing} {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another process holds the lock.
    #[error(
        "the data directory {path} is in use by {holder}: wait until it is done or end it, \
         or use another directory with --data DIR", path = path.display()
    )]
    InUse {
        /// The directory.
        path: PathBuf,
        /// Who, as far as known.
        holder: String,
    },
    /// The key file is not one.
    #[error(
        "{path} is not a key file ({reason}): restore it from a backup; \
         moving it away makes this a new node with a new identity", path = path.display()
    )]
    BadKey {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
    /// Others may read the secret key.
    #[error(
        "{path} can be read by others (mode {mode:o}): run `chmod 600` on it, and if strangers \
         had access, treat the key as known to them", path = path.display()
    )]
    OpenKey {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A small file is implausibly large.
    #[error("{path} has over {SMALL_FILE_BYTES_MAX} bytes: it is not what belongs there", path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
}

/// Who holds the lock; written into the lock file for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockHolder {
    /// Its process id.
    pub pid: u32,
    /// The subcommand it runs, such as `node`.
    pub command: String,
}

/// Where and how to reach the daemon of a data directory.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiFile {
    /// Its local HTTP address.
    pub addr: SocketAddr,
    /// What it wants to see: 32 random bytes, hex.
    pub token: String,
    /// Its process id.
    pub pid: u32,
}

impl std::fmt::Debug for ApiFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ApiFile({}, pid {})", self.addr, self.pid)
    }
}

/// The right to write a data directory; ends when dropped or when the process
/// ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// A data directory.
#[derive(Debug, Clone)]
pub struct DataDir {
    path: PathBuf,
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DataDirError + use<> {
    let path = path.to_owned();
    move |source| DataDirError::Io { doing, path, source }
}

impl DataDir {
    /// The platform's place for this program's data.
    ///
    /// # Errors
    /// [`DataDirError::NoDefault`] where there is none.
    pub fn default_path() -> Result<PathBuf, DataDirError> {
        directories::ProjectDirs::from("", "", "echonet")
            .map(|dirs| dirs.data_dir().to_owned())
            .ok_or(DataDirError::NoDefault)
    }

    /// Opens a directory, creating it for its owner only (0700) if need be.
    ///
    /// # Errors
    /// [`DataDirError::Io`].
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        let path = std::path::absolute(path).map_err(io_error("use", path))?;
        create_private_dir(&path)?;
        Ok(Self { path })
    }

    /// Its absolute path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The owner's configuration file; may not exist.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.path.join(CONFIG_FILE)
    }

    /// The file of remembered settings; may not exist.
    #[must_use]
    pub fn remembered_file(&self) -> PathBuf {
        self.path.join(REMEMBERED_FILE)
    }

    /// The genesis of this directory's network; may not exist.
    #[must_use]
    pub fn genesis_file(&self) -> PathBuf {
        self.path.join(GENESIS_FILE)
    }

    /// Where standard input is kept while it is published. Created.
    ///
    /// # Errors
    /// [`DataDirError::Io`].
    pub fn spool_dir(&self) -> Result<PathBuf, DataDirError> {
        let path = self.path.join(SPOOL_DIR);
        create_private_dir(&path)?;
        Ok(path)
    }

    /// Where fetches that were cut off wait. Created.
    ///
    /// # Errors
    /// [`DataDirError::Io`].
    pub fn partial_dir(&self) -> Result<PathBuf, DataDirError> {
        let path = self.path.join(PARTIAL_DIR);
        create_private_dir(&path)?;
        Ok(path)
    }

    /// Takes the lock; none when another process holds it.
    ///
    /// # Errors
    /// [`DataDirError::Io`].
    pub fn try_lock(&self, command: &str) -> Result<Option<Lock>, DataDirError> {
        let path = self.path.join(LOCK_FILE);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(io_error("open", &path))?;
        match fs4::FileExt::try_lock(&file) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(source)) => {
                return Err(DataDirError::Io { doing: "lock", path, source });
            }
        }
        let holder = LockHolder { pid: std::process::id(), command: command.to_owned() };
        write_holder(&mut file, &holder).map_err(io_error("write", &path))?;
        // Whoever left an api.json behind is dead: the lock was free.
        self.remove_api_file()?;
        Ok(Some(Lock { _file: file }))
    }

    /// Takes the lock.
    ///
    /// # Errors
    /// [`DataDirError::InUse`] when another process holds it.
    pub fn lock(&self, command: &str) -> Result<Lock, DataDirError> {
        self.try_lock(command)?.ok_or_else(|| self.in_use())
    }

    /// The error that names who holds the lock.
    #[must_use]
    pub fn in_use(&self) -> DataDirError {
        let holder = self.lock_holder().map_or_else(
            || "another process".to_owned(),
            |h| format!("process {} (`echonet {}`)", h.pid, h.command),
        );
        DataDirError::InUse { path: self.path.clone(), holder }
    }

    /// Who holds the lock or held it last, as far as known.
    #[must_use]
    pub fn lock_holder(&self) -> Option<LockHolder> {
        serde_json::from_slice(&read_small(&self.path.join(LOCK_FILE)).ok()??).ok()
    }

    /// Where the daemon answers, where one wrote so.
    ///
    /// # Errors
    /// [`DataDirError::Io`] when the file is there but cannot be read.
    pub fn api_file(&self) -> Result<Option<ApiFile>, DataDirError> {
        let bytes = read_small(&self.path.join(API_FILE))?;
        Ok(bytes.and_then(|b| serde_json::from_slice(&b).ok()))
    }

    /// Says where the daemon answers.
    ///
    /// # Errors
    /// [`DataDirError::Io`].
    pub fn write_api_file(&self, api: &ApiFile) -> Result<(), DataDirError> {
        let text = serde_json::to_vec(api).unwrap_or_default();
        self.write_private(API_FILE, &text)
    }

    /// Takes that back.
    ///
    /// # Errors
    /// [`DataDirError::Io`].
    pub fn remove_api_file(&self) -> Result<(), DataDirError> {
        let path = self.path.join(API_FILE);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(io_error("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }

    /// Writes a file whole or not at all, durable, readable by its owner only.
    ///
    /// # Errors
    /// [`DataDirError::Io`].
    pub fn write_private(&self, name: &str, bytes: &[u8]) -> Result<(), DataDirError> {
        let target = self.path.join(name);
        let temp = self.temp_file(bytes, &target)?;
        temp.persist(&target).map_err(|e| io_error("write", &target)(e.error))?;
        sync_dir(&self.path)
    }

    /// The node's key, made when there is none yet.
    ///
    /// # Errors
    /// [`DataDirError`]; a damaged key is never replaced.
    pub fn identity(&self) -> Result<Identity, DataDirError> {
        if let Some(identity) = self.existing_identity()? {
            return Ok(identity);
        }
        let path = self.path.join(KEY_FILE);
        let secret = random_bytes::<32>().map_err(io_error("draw random bytes for", &path))?;
        let text = format!("{}\n", data_encoding::HEXLOWER.encode(&secret));
        let temp = self.temp_file(text.as_bytes(), &path)?;
        match temp.persist_noclobber(&path) {
            Ok(_) => sync_dir(&self.path)?,
            // Another process was faster: its key is the one.
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(io_error("write", &path)(error.error)),
        }
        self.existing_identity()?
            .ok_or(DataDirError::BadKey { path, reason: "it vanished while being made" })
    }

    /// The node's key, where there is one.
    ///
    /// # Errors
    /// [`DataDirError`].
    pub fn existing_identity(&self) -> Result<Option<Identity>, DataDirError> {
        let path = self.path.join(KEY_FILE);
        let Some(bytes) = read_small(&path)? else { return Ok(None) };
        refuse_open_key(&path)?;
        let secret: Option<[u8; 32]> = data_encoding::HEXLOWER
            .decode(bytes.trim_ascii())
            .ok()
            .and_then(|secret| secret.try_into().ok());
        match secret {
            Some(secret) => Ok(Some(Identity::from_secret(&secret))),
            None => Err(DataDirError::BadKey { path, reason: "it does not hold 64 hex digits" }),
        }
    }

    fn temp_file(
        &self,
        bytes: &[u8],
        target: &Path,
    ) -> Result<tempfile::NamedTempFile, DataDirError> {
        let write = || {
            // tempfile creates with mode 0600.
            let mut temp = tempfile::Builder::new().prefix(".tmp-").tempfile_in(&self.path)?;
            temp.write_all(bytes)?;
            temp.as_file().sync_all()?;
            Ok(temp)
        };
        write().map_err(io_error("write", target))
    }
}

/// Random bytes from the operating system.
///
/// # Errors
/// When the operating system has none.
pub fn random_bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes)
}

/// A small file's bytes; none when it does not exist.
///
/// # Errors
/// [`DataDirError::Io`], or [`DataDirError::TooLarge`] over 256 KiB.
pub fn read_small(path: &Path) -> Result<Option<Vec<u8>>, DataDirError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error("open", path)(error)),
    };
    let mut bytes = Vec::new();
    file.take(SMALL_FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(io_error("read", path))?;
    if bytes.len() as u64 > SMALL_FILE_BYTES_MAX {
        return Err(DataDirError::TooLarge { path: path.to_owned() });
    }
    Ok(Some(bytes))
}

/// Makes a directory's entries durable.
///
/// # Errors
/// [`DataDirError::Io`].
pub fn sync_dir(path: &Path) -> Result<(), DataDirError> {
    // Windows opens no directory as a file and needs no such step.
    if cfg!(unix) {
        File::open(path).and_then(|d| d.sync_all()).map_err(io_error("make durable", path))?;
    }
    Ok(())
}

fn write_holder(file: &mut File, holder: &LockHolder) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(&serde_json::to_vec(holder)?)
}

fn create_private_dir(path: &Path) -> Result<(), DataDirError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt as _;
        builder.mode(0o700);
    }
    builder.create(path).map_err(io_error("create", path))
}

#[cfg(unix)]
fn refuse_open_key(path: &Path) -> Result<(), DataDirError> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = fs::metadata(path).map_err(io_error("read", path))?.permissions().mode() & 0o777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    Err(DataDirError::OpenKey { path: path.to_owned(), mode })
}

#[cfg(not(unix))]
fn refuse_open_key(_: &Path) -> Result<(), DataDirError> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch() -> (tempfile::TempDir, DataDir) {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::open(&temp.path().join("a/b")).unwrap();
        (temp, dir)
    }

    #[test]
    fn one_writer_at_a_time_and_the_error_names_it() {
        let (_temp, dir) = scratch();
        let lock = dir.lock("publish").unwrap();
        // flock is per open file, so a second open in this process conflicts too.
        let error = dir.lock("node").unwrap_err().to_string();
        let holder = format!("process {} (`echonet publish`)", std::process::id());
        assert!(error.contains(&holder) && error.contains("--data"), "{error}");
        assert!(dir.try_lock("node").unwrap().is_none());
        drop(lock);
        dir.lock("node").unwrap();
        assert_eq!(dir.lock_holder().unwrap().command, "node");
    }

    #[test]
    fn a_stale_api_file_does_not_outlive_the_next_lock() {
        let (_temp, dir) = scratch();
        let api = ApiFile { addr: "127.0.0.1:1".parse().unwrap(), token: "t".into(), pid: 1 };
        dir.write_api_file(&api).unwrap();
        assert_eq!(dir.api_file().unwrap(), Some(api));
        let _lock = dir.lock("node").unwrap();
        assert_eq!(dir.api_file().unwrap(), None);
    }

    #[test]
    fn the_key_is_made_once() {
        let (_temp, dir) = scratch();
        assert!(dir.existing_identity().unwrap().is_none());
        let id = dir.identity().unwrap().node_id();
        assert_eq!(dir.identity().unwrap().node_id(), id);
    }

    #[test]
    fn a_damaged_key_is_reported_and_left_alone() {
        let (_temp, dir) = scratch();
        dir.write_private(KEY_FILE, b"garbage").unwrap();
        let error = dir.identity().unwrap_err().to_string();
        assert!(error.contains("backup"), "{error}");
        assert_eq!(fs::read(dir.path().join(KEY_FILE)).unwrap(), b"garbage");
    }

    #[cfg(unix)]
    #[test]
    fn secrets_are_the_owners_only() {
        use std::os::unix::fs::PermissionsExt as _;
        let (_temp, dir) = scratch();
        dir.identity().unwrap();
        let api = ApiFile { addr: "127.0.0.1:1".parse().unwrap(), token: "t".into(), pid: 1 };
        dir.write_api_file(&api).unwrap();
        let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode() & 0o777;
        let key = dir.path().join(KEY_FILE);
        assert_eq!(mode(dir.path()), 0o700);
        assert_eq!(mode(&key), 0o600);
        assert_eq!(mode(&dir.path().join(API_FILE)), 0o600);
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
        let error = dir.identity().unwrap_err().to_string();
        assert!(error.contains("chmod 600"), "{error}");
    }

    #[test]
    fn a_huge_small_file_is_not_read_into_memory() {
        let (_temp, dir) = scratch();
        let path = dir.path().join(API_FILE);
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        assert!(matches!(dir.api_file(), Err(DataDirError::TooLarge { .. })));
    }
}
