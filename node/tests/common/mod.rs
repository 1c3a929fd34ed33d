//! Runs the `echonet` binary as a person would, in a scratch directory.

use std::{
    path::{Path, PathBuf},
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
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// The last line of standard output.
    pub(crate) fn last_json(&self) -> serde_json::Value {
        serde_json::from_str(self.stdout.lines().last().unwrap_or_default()).unwrap()
    }
}

impl Echonet {
    pub(crate) fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.path("data")
    }

    /// Runs a command on the data directory.
    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        let data = self.data();
        self.command(args).arg("--data").arg(data).ran()
    }

    /// Runs a command without naming a data directory.
    pub(crate) fn run_bare(&self, args: &[&str]) -> Ran {
        self.command(args).ran()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_echonet"));
        command.args(args).current_dir(self.root()).stdin(Stdio::null());
        // Nothing of the one who runs the tests.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ECHONET_") {
                command.env_remove(name);
            }
        }
        command
    }
}

trait RanExt {
    fn ran(&mut self) -> Ran;
}

impl RanExt for Command {
    fn ran(&mut self) -> Ran {
        let output = self.output().unwrap();
        Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}
