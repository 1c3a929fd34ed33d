//! Processes that the benchmark starts, ended when dropped, and what /proc says about them.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// How long a process may take to end after it was asked.
const END_WITHIN: Duration = Duration::from_secs(30);

/// Unit of CPU time in /proc: USER_HZ, which Linux keeps at 100 on the machines this runs on.
const TICKS_PER_S: f64 = 100.0;

/// A child process whose lines of standard output are read.
pub(crate) struct Running {
    child: Child,
    lines: BufReader<ChildStdout>,
    name: String,
}

impl Running {
    /// Starts it; what it says on standard error is shown.
    pub(crate) fn start(mut command: Command) -> anyhow::Result<Self> {
        let name = format!("{command:?}");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().with_context(|| format!("{name} cannot be started"))?;
        let lines = BufReader::new(child.stdout.take().context("standard output is piped")?);
        Ok(Self { child, lines, name })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line; none at the end.
    pub(crate) fn line(&mut self) -> anyhow::Result<Option<String>> {
        let mut line = String::new();
        Ok((self.lines.read_line(&mut line)? > 0).then_some(line))
    }

    /// Reads on to the JSON line with this `event`; `seen` gets those before it.
    pub(crate) fn until(
        &mut self,
        event: &str,
        mut seen: impl FnMut(&Value),
    ) -> anyhow::Result<Value> {
        while let Some(line) = self.line()? {
            let value: Value = serde_json::from_str(&line).unwrap_or(Value::Null);
            if value["event"] == event {
                return Ok(value);
            }
            seen(&value);
        }
        bail!("{} ended without saying {event}", self.name)
    }

    /// Waits until it ends by itself; the CPU seconds that it used in all.
    pub(crate) fn finish(mut self) -> anyhow::Result<f64> {
        while self.line()?.is_some() {}
        // It has closed its output; until it is waited for, its figures can be read.
        let ended = Instant::now();
        while !is_zombie(self.child.id()) && ended.elapsed() < END_WITHIN {
            std::thread::sleep(Duration::from_millis(1));
        }
        let used = cpu_s(self.child.id()).unwrap_or(0.0);
        let status = self.child.wait()?;
        ensure!(status.success(), "{} ended with {status}", self.name);
        Ok(used)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            end(&mut self.child);
        }
    }
}

/// Asks a process to end and waits for it; one that takes too long is killed.
pub(crate) fn end(child: &mut Child) {
    // It may have ended already, which is what is wanted.
    signal(child.id(), Signal::TERM);
    let asked = Instant::now();
    while matches!(child.try_wait(), Ok(None)) {
        if asked.elapsed() > END_WITHIN {
            let _gone_meanwhile = child.kill();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Sends a signal; to a process that is gone it does nothing.
pub(crate) fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _gone_meanwhile = kill_process(pid, signal);
    }
}

/// A field of /proc/PID/status in bytes, such as `VmHWM` or `VmRSS`; none once it is gone.
pub(crate) fn memory_bytes(pid: u32, field: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Whether a process has ended and is still to be waited for, or is gone.
pub(crate) fn is_zombie(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
}

/// CPU seconds that a process has used, in user mode and in the kernel; none once it is gone.
pub(crate) fn cpu_s(pid: u32) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; fields are counted after it.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) as f64 / TICKS_PER_S)
}
