//! Runs the `echonet` binary as a person would, in a scratch directory.

use std::{
    io::Write as _,
    path::PathBuf,
    process::{Command, Stdio},
};

/// A well-formed ContentID that nobody has.
pub(crate) const ID: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// A well-formed bootstrap address where nobody answers.
pub(crate) const BOOTSTRAP: &str = "1111111111111111111111111111111111111111111111111111111111111111\
.2222222222222222222222222222222222222222222222222222222222222222@127.0.0.1:9";

/// A scratch directory with a data directory in it.
pub(crate) struct Echonet {
    root: tempfile::TempDir,
}

/// What a command did.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout_bytes: Vec<u8>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// The last line of standard output.
    pub(crate) fn last_json(&self) -> serde_json::Value {
        let last = self.stdout.lines().last();
        serde_json::from_str(last.unwrap_or_default())
            .unwrap_or_else(|error| panic!("{error}: {:?}, {:?}", self.stdout, self.stderr))
    }
}

impl Echonet {
    pub(crate) fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.path("data")
    }

    /// Runs a command on the data directory.
    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        self.run_with(args, b"")
    }

    /// Runs a command on the data directory with something to read.
    pub(crate) fn run_with(&self, args: &[&str], stdin: &[u8]) -> Ran {
        let data = self.data();
        let data = data.to_str().unwrap();
        self.run_bare(&[args, &["--data", data]].concat(), stdin)
    }

    /// Runs a command without naming a data directory.
    pub(crate) fn run_bare(&self, args: &[&str], stdin: &[u8]) -> Ran {
        let mut command = Command::new(env!("CARGO_BIN_EXE_echonet"));
        command.args(args).current_dir(self.root.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Nothing of the one who runs the tests.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ECHONET_") {
                command.env_remove(name);
            }
        }
        let mut child = command.spawn().unwrap();
        // A command that reads nothing may be gone before all is written.
        let _ = child.stdin.take().unwrap().write_all(stdin);
        let output = child.wait_with_output().unwrap();
        Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stdout_bytes: output.stdout,
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}
