//! Runs the binary under test once, to its end or to a deadline, and keeps all it
//! said. The caller judges the exit status.

use std::{
    io::{BufRead, BufReader, Read, Write},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::process;

/// The binary under test: `ECHONET_BIN`, or `echonet` beside the test programs.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("ECHONET_BIN") {
        return PathBuf::from(path);
    }
    let own = std::env::current_exe().expect("the path of this test program");
    let path = own.ancestors().nth(2).expect("target/debug/deps/test").join("echonet");
    assert!(path.is_file(), "no {}: run `cargo build --workspace` first", path.display());
    path
}

/// A command of the binary under test, with nothing of the caller's environment
/// that would change what it does.
#[must_use]
pub fn command<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(binary());
    command.args(args);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ECHONET_") {
            command.env_remove(name);
        }
    }
    command
}

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    /// The command line, for messages.
    pub command: String,
    /// None: it was killed at its deadline.
    pub status: Option<ExitStatus>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// From start to end.
    pub took: Duration,
    /// Peak resident set, bytes.
    pub peak_rss_bytes: u64,
}

impl Outcome {
    /// Whether it ended by itself with 0.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }

    /// The JSON objects it printed, one a line.
    #[must_use]
    pub fn events(&self) -> Vec<Value> {
        self.stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The last line, which the contract calls the result; it must be `event`.
    ///
    /// # Panics
    /// When the run failed or the last line is another.
    #[track_caller]
    #[must_use]
    pub fn result(&self, event: &str) -> Value {
        assert!(self.succeeded(), "{self}");
        let last = self.stdout.lines().last().unwrap_or_default();
        let value: Value = serde_json::from_str(last).unwrap_or(Value::Null);
        assert_eq!(value["event"], event, "the last line should be the result: {self}");
        value
    }

    /// Everything it said, for looking up what a person was told.
    #[must_use]
    pub fn said(&self) -> String {
        format!("{}\n{}", self.stdout, self.stderr)
    }

    /// Asserts that it failed by itself: not a crash, not a deadline, and that it
    /// said each of `words`.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    pub fn assert_failed_saying(&self, words: &[&str]) {
        let code = self.status.and_then(|status| status.code());
        assert!(code.is_some_and(|code| code != 0), "should have failed: {self}");
        assert!(!self.stderr.contains("panicked at"), "should not panic: {self}");
        let said = self.said().to_lowercase();
        for word in words {
            assert!(said.contains(&word.to_lowercase()), "should say {word:?}: {self}");
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{} ended with {:?} after {:?}", self.command, self.status, self.took)?;
        writeln!(f, "--- stdout (end)\n{}", tail(&self.stdout))?;
        write!(f, "--- stderr (end)\n{}", tail(&self.stderr))
    }
}

/// The end of a text, at most 40 lines.
#[must_use]
pub fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

/// A run that has been started.
pub struct Running {
    /// Its process id.
    pub pid: u32,
    child: Child,
    command: String,
    start: Instant,
    stdout: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
    stderr: Arc<Mutex<String>>,
    input: Option<JoinHandle<()>>,
    peak_rss_bytes: u64,
}

impl Running {
    /// Starts a command; `input` becomes its standard input.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(mut command: Command, input: Option<Box<dyn Read + Send>>) -> Self {
        let text = format!("{command:?}");
        let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let start = Instant::now();
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{text}: {error}"));
        let (stdout, out) = collect(child.stdout.take().expect("piped"));
        let (stderr, err) = collect(child.stderr.take().expect("piped"));
        let input = input.zip(child.stdin.take()).map(|(mut from, mut to)| {
            // The command may end early and close its end: that is its right.
            std::thread::spawn(move || drop(std::io::copy(&mut from, &mut to)))
        });
        let readers = vec![out, err];
        let pid = child.id();
        Self { pid, child, command: text, start, stdout, readers, stderr, input, peak_rss_bytes: 0 }
    }

    /// The first JSON line so far whose `event` is this one.
    #[must_use]
    pub fn seen(&self, event: &str) -> Option<Value> {
        let text = self.stdout.lock().unwrap_or_else(PoisonError::into_inner);
        let mut events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        events.find(|value| value["event"] == event)
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        if let Some(bytes) = process::peak_rss_bytes(self.pid) {
            self.peak_rss_bytes = bytes;
        }
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Kills it, as a power cut would.
    pub fn kill(&mut self) {
        // It may have ended in the meantime, which is not a failure of the test.
        drop(self.child.kill());
    }

    /// Waits for its end; kills it at the deadline.
    ///
    /// # Panics
    /// When its status cannot be had.
    #[must_use]
    pub fn finish(mut self, within: Duration) -> Outcome {
        let mut in_time = true;
        while !self.has_ended() {
            if self.start.elapsed() > within {
                in_time = false;
                self.kill();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let took = self.start.elapsed();
        let status = self.child.wait().expect("a child that has ended");
        for reader in self.readers.drain(..).chain(self.input.take()) {
            reader.join().expect("a reader does not panic");
        }
        let take =
            |text: &Mutex<String>| text.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Outcome {
            status: in_time.then_some(status),
            stdout: take(&self.stdout),
            stderr: take(&self.stderr),
            took,
            peak_rss_bytes: self.peak_rss_bytes,
            command: self.command,
        }
    }
}

/// Collects lines on a thread. Standard output that is not text (`-o -`) is for
/// [`run_to_bytes`].
fn collect(from: impl Read + Send + 'static) -> (Arc<Mutex<String>>, JoinHandle<()>) {
    let text = Arc::new(Mutex::new(String::new()));
    let into = Arc::clone(&text);
    let thread = std::thread::spawn(move || {
        let mut reader = BufReader::new(from);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            let mut text = into.lock().unwrap_or_else(PoisonError::into_inner);
            text.push_str(&String::from_utf8_lossy(&line));
            line.clear();
        }
    });
    (text, thread)
}

/// Runs a command to its end.
#[must_use]
pub fn run(command: Command, within: Duration) -> Outcome {
    Running::start(command, None).finish(within)
}

/// Runs a command whose standard output is content, not text.
///
/// # Panics
/// When it cannot be started.
#[must_use]
pub fn run_to_bytes(mut command: Command) -> (bool, Vec<u8>, String) {
    let output = command.stdin(Stdio::null()).output().expect("the binary under test starts");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.success(), output.stdout, stderr)
}

/// Writes all of a text to a new file.
///
/// # Panics
/// When it cannot.
pub fn write_new(path: &std::path::Path, text: &[u8]) {
    let mut file = std::fs::File::create_new(path).expect("a new file");
    file.write_all(text).expect("written");
}
