//! Names the machine: figures without one mean nothing.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

/// What the figures were measured on.
pub(crate) struct Machine {
    cpu: String,
    cores: usize,
    kernel: String,
    memory_gib: u64,
}

fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

impl Machine {
    /// Asks the kernel.
    pub(crate) fn look() -> Self {
        let memory = field("/proc/meminfo", "MemTotal").unwrap_or_default();
        let kib: u64 = memory.trim_end_matches(" kB").parse().unwrap_or(0);
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            cpu: field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".into()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: kernel.trim().to_owned(),
            memory_gib: kib.div_ceil(1 << 20),
        }
    }

    /// In words, with the file systems of these directories.
    pub(crate) fn describe(&self, dirs: &[PathBuf]) -> String {
        let Self { cpu, cores, kernel, memory_gib } = self;
        let mut text = format!(
            "Machine: {cpu}, {cores} cores, {memory_gib} GiB of memory, Linux {kernel}; file systems:"
        );
        for dir in dirs {
            let _ = write!(text, " {} {},", dir.display(), filesystem(dir));
        }
        let _ = write!(text, " load average at the start: {}.", load());
        text
    }
}

/// The kernel's load averages.
pub(crate) fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

/// The type of the file system that a directory is on.
pub(crate) fn filesystem(dir: &Path) -> String {
    let dir = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut best = ("", "unknown");
    for line in mounts.lines() {
        let mut fields = line.split_whitespace().skip(1);
        if let (Some(at), Some(kind)) = (fields.next(), fields.next())
            && dir.starts_with(at)
            && at.len() >= best.0.len()
        {
            best = (at, kind);
        }
    }
    best.1.to_owned()
}
