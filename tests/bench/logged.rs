//! Programs of others that the benchmark starts: what they say goes to a file, and waiting for
//! them has an end. It starts only what it is told to and ends nothing else.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};

use crate::child::{cpu_s, end, is_zombie};

/// How often is looked whether something has come about that is not timed.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How often is looked whether a timed program has ended.
const TIMED_EVERY: Duration = Duration::from_millis(2);
/// Lines at the end of a log that an error shows.
const LINES_SHOWN: usize = 12;

/// A child process with its output in a file. Its standard input stays open for as long as this
/// program lives: some end when that closes, so that nothing outlives a killed benchmark.
pub(crate) struct Logged {
    child: Child,
    log: PathBuf,
    name: String,
}

impl Logged {
    /// Starts it; `name` is what errors call it.
    pub(crate) fn start(mut command: Command, name: String, log: PathBuf) -> anyhow::Result<Self> {
        let out = File::create(&log).with_context(|| format!("{} is not made", log.display()))?;
        command.stdin(Stdio::piped()).stdout(out.try_clone()?).stderr(out);
        let child = command.spawn().with_context(|| format!("{name} cannot be started"))?;
        Ok(Self { child, log, name })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All that it has said.
    pub(crate) fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Looks again and again until `look` finds what it looks for; an error when the process
    /// ends before that or time is up.
    pub(crate) fn until<T>(
        &mut self,
        what: &str,
        within: Duration,
        look: impl Fn(&Self) -> Option<T>,
    ) -> anyhow::Result<T> {
        let start = Instant::now();
        loop {
            // Asked first: what was done just before the end counts.
            let ended = self.child.try_wait()?;
            if let Some(found) = look(self) {
                return Ok(found);
            }
            if let Some(status) = ended {
                bail!("{} ended with {status}, {what} did not come{}", self.name, self.last());
            }
            if start.elapsed() > within {
                bail!("{}: {what} did not come in {within:?}{}", self.name, self.last());
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Waits until it ends by itself and well; seconds since `start`, and CPU seconds it used.
    pub(crate) fn finish(
        mut self,
        start: Instant,
        within: Duration,
    ) -> anyhow::Result<(f64, f64, String)> {
        let pid = self.pid();
        while !is_zombie(pid) {
            ensure!(
                start.elapsed() < within,
                "{} did not end in {within:?}{}",
                self.name,
                self.last()
            );
            std::thread::sleep(TIMED_EVERY);
        }
        // Until it is waited for, its figures can be read.
        let (seconds, used) = (start.elapsed().as_secs_f64(), cpu_s(pid).unwrap_or(0.0));
        let status: ExitStatus = self.child.wait()?;
        ensure!(status.success(), "{} ended with {status}{}", self.name, self.last());
        Ok((seconds, used, self.said()))
    }

    /// Kills it as a power cut would, and waits until it is gone.
    pub(crate) fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill().with_context(|| format!("{} cannot be killed", self.name))?;
        self.child.wait()?;
        Ok(())
    }

    fn last(&self) -> String {
        let said = self.said();
        let lines: Vec<&str> = said.lines().collect();
        let from = lines.len().saturating_sub(LINES_SHOWN);
        format!("\nThe last that it said:\n{}", lines[from..].join("\n"))
    }
}

impl Drop for Logged {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            end(&mut self.child);
        }
    }
}

/// A program of others: where it is and what it says that it is.
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    pub(crate) version: String,
}

impl Program {
    /// The program at `named`, or the one of this name on PATH; none if that has none.
    ///
    /// # Errors
    ///
    /// If a named one cannot be run, or does not say its version.
    pub(crate) fn find(name: &str, named: Option<&Path>) -> anyhow::Result<Option<Self>> {
        let path = match named {
            // It is run in other directories than this.
            Some(path) => std::path::absolute(path)?,
            None => PathBuf::from(name),
        };
        let output = match Command::new(&path).arg("--version").stdin(Stdio::null()).output() {
            Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(None);
            }
            output => output.with_context(|| format!("{} cannot be run", path.display()))?,
        };
        let said = String::from_utf8_lossy(&output.stdout);
        let version = said.lines().next().unwrap_or_default().trim().to_owned();
        ensure!(
            output.status.success() && !version.is_empty(),
            "{} --version ended with {}: {}",
            path.display(),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(Some(Self { path, version }))
    }
}
