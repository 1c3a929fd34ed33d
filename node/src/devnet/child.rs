//! One node of a development network, as a process of its own.
//!
//! The child holds the read end of a pipe and ends when this process closes
//! its end, also by being killed: no node outlives its network.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    net::{IpAddr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, ChildStdin, Command},
};

use super::DevnetError;

/// How long a node may take until it is ready.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a node may take to end by itself.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);
/// Bytes of a dead node's log that are shown.
const LOG_TAIL_BYTES: u64 = 4096;
/// The file in a node's directory that its output goes to.
pub(super) const LOG_FILE: &str = "log.txt";

/// What `echonet node --json` prints once it is usable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeReady {
    /// Its NodeID.
    pub(crate) node_id: String,
    /// Where other nodes reach it.
    pub(crate) addr: String,
    /// Its local API.
    pub(crate) api: String,
    /// What `--bootstrap` takes to enter the network here.
    pub(crate) bootstrap: String,
}

/// A running node.
#[derive(Debug)]
pub(crate) struct NodeProcess {
    /// Such as `node-01`.
    pub(crate) name: String,
    /// Its directory.
    pub(crate) data: PathBuf,
    /// What it said when it was ready.
    pub(crate) ready: NodeReady,
    /// Its process id.
    pub(crate) pid: u32,
    child: Child,
    stdin: Option<ChildStdin>,
    end_told: bool,
    killed: bool,
}

impl NodeProcess {
    /// Starts `echonet node` on a directory that holds its configuration.
    pub(crate) async fn start(name: &str, data: &Path) -> Result<Self, DevnetError> {
        let start = Self::spawn(name, data)
            .map_err(|source| DevnetError::Spawn { name: name.to_owned(), source });
        let (child, stdin, pid) = start?;
        let mut process = Self {
            name: name.to_owned(),
            data: data.to_owned(),
            ready: NodeReady {
                node_id: String::new(),
                addr: String::new(),
                api: String::new(),
                bootstrap: String::new(),
            },
            pid,
            child,
            stdin,
            end_told: false,
            killed: false,
        };
        match tokio::time::timeout(READY_TIMEOUT, process.read_ready()).await {
            Ok(Some(ready)) => {
                process.ready = ready;
                Ok(process)
            }
            Ok(None) => Err(process.failure("ended before it was ready").await),
            Err(_) => Err(process.failure("was not ready within 60 s").await),
        }
    }

    fn spawn(name: &str, data: &Path) -> io::Result<(Child, Option<ChildStdin>, u32)> {
        let log = File::options().create(true).append(true).open(data.join(LOG_FILE))?;
        let mut command = Command::new(std::env::current_exe()?);
        for name in crate::settings::env_names() {
            command.env_remove(name);
        }
        let mut child = command
            .args(["node", "--json", "--until-stdin-closes", "--data"])
            .arg(data)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        let stdin = child.stdin.take();
        let pid = child.id().ok_or_else(|| io::Error::other(format!("{name} has no pid")))?;
        Ok((child, stdin, pid))
    }

    /// Reads lines until the ready one; none when the output ends first. What
    /// follows is drained, so that the child never waits for a full pipe.
    async fn read_ready(&mut self) -> Option<NodeReady> {
        let mut lines = BufReader::new(self.child.stdout.take()?).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let value: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            if value["event"] == "ready" {
                tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
                return serde_json::from_value(value).ok();
            }
        }
        None
    }

    async fn failure(mut self, what: &'static str) -> DevnetError {
        // It may still be running when it is too slow.
        let _ = self.child.kill().await;
        DevnetError::Node { name: self.name, what, log: log_tail(&self.data.join(LOG_FILE)) }
    }

    /// Whether the process ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Its name, once, after it ended.
    pub(super) fn newly_ended(&mut self) -> Option<String> {
        if self.end_told || !self.has_ended() {
            return None;
        }
        self.end_told = true;
        Some(self.name.clone())
    }

    /// Ends it the hard way (SIGKILL), without a chance to clean up.
    pub(crate) async fn kill(&mut self) -> io::Result<()> {
        self.killed = true;
        self.child.kill().await
    }

    /// Whether it was ended the hard way.
    pub(crate) const fn was_killed(&self) -> bool {
        self.killed
    }

    /// Asks it to end; it starts to while others are asked too.
    pub(crate) fn ask_to_stop(&mut self) {
        self.stdin.take();
    }

    /// Waits until it ended, the hard way if it takes too long.
    pub(crate) async fn wait(&mut self) {
        if tokio::time::timeout(STOP_TIMEOUT, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}

/// A free UDP address on `ip`, or on 127.0.0.1 where the system has no other
/// loopback addresses. It may be taken before it is used: try again then.
pub(super) fn free_addr(ip: IpAddr) -> io::Result<SocketAddr> {
    let socket =
        UdpSocket::bind((ip, 0)).or_else(|_| UdpSocket::bind((IpAddr::from([127, 0, 0, 1]), 0)))?;
    socket.local_addr()
}

/// The end of a log, for a person to see why its writer died.
pub(super) fn log_tail(path: &Path) -> String {
    let read = || {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
        let mut tail = Vec::new();
        file.take(LOG_TAIL_BYTES).read_to_end(&mut tail)?;
        Ok::<_, io::Error>(String::from_utf8_lossy(&tail).trim().to_owned())
    };
    read().unwrap_or_else(|error| format!("(no log: {error})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_of_a_long_log_is_shown() {
        let temp = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(temp.path(), "x".repeat(1 << 20) + "the reason\n").unwrap();
        let tail = log_tail(temp.path());
        assert!(tail.ends_with("the reason") && tail.len() <= LOG_TAIL_BYTES as usize);
        assert!(log_tail(Path::new("/nonexistent/log")).starts_with("(no log"));
    }

    #[test]
    fn free_addresses_are_on_the_wanted_loopback_address() {
        let addr = free_addr(IpAddr::from([127, 3, 2, 1])).unwrap();
        assert!(addr.ip().is_loopback() && addr.port() != 0);
    }
}
