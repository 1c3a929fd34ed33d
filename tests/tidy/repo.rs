//! The tracked files of this repository and cargo's answers about it.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// A tracked text file.
pub(crate) struct SourceFile {
    /// Relative to the root of the repository, with `/`.
    pub(crate) path: String,
    /// All of it.
    pub(crate) text: String,
}

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ has a parent").to_owned()
}

/// Every file that git tracks or would track, binary ones left out.
pub(crate) fn files() -> Vec<SourceFile> {
    let listing = output(
        Command::new("git")
            .args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"])
            .current_dir(root()),
    );
    let files: Vec<SourceFile> = listing
        .split('\0')
        .filter(|path| !path.is_empty())
        .filter_map(|path| {
            let text = std::fs::read(root().join(path)).ok()?;
            Some(SourceFile { path: path.to_owned(), text: String::from_utf8(text).ok()? })
        })
        .collect();
    assert!(files.len() > 20, "git listed only {} files in {}", files.len(), root().display());
    files
}

/// The Rust files among them.
pub(crate) fn rust_files() -> Vec<SourceFile> {
    files().into_iter().filter(|file| file.path.ends_with(".rs")).collect()
}

/// A tracked file that has to exist.
pub(crate) fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What a cargo command prints; fails the test when cargo fails.
pub(crate) fn cargo(args: &[&str]) -> String {
    output(Command::new(env!("CARGO")).args(args).current_dir(root()))
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?} failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("paths and package names are UTF-8")
}
