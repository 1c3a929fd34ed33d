//! CLI transcripts: `cli/*.toml` say what was typed and, to the letter, what a
//! person saw. Nothing here needs a network.
//!
//! In the expected text, `[..]` stands for anything within a line and a line `...`
//! for any lines; in the arguments and in the text, `[DATA]` stands for a fresh
//! directory. `ECHONET_BLESS=1` rewrites the expectations that do not hold; read
//! the difference before committing it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use echonet_tests::support::cli;
use toml::Table;

/// One transcript.
struct Transcript {
    path: PathBuf,
    /// The comment that the file opens with.
    why: String,
    args: Vec<String>,
    exit: i64,
    stdout: String,
    stderr: String,
}

#[test]
fn transcripts() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("cli");
    let files = std::fs::read_dir(&dir).expect("cli/").flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|ext| ext == "toml")).collect();
    files.sort();
    assert!(files.len() >= 5, "only {} transcripts in {}", files.len(), dir.display());
    let bless = std::env::var_os("ECHONET_BLESS").is_some();
    let mut failures = Vec::new();
    for path in files {
        let transcript = Transcript::read(path);
        if let Err(failure) = transcript.check(bless) {
            failures.push(failure);
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

impl Transcript {
    fn read(path: PathBuf) -> Self {
        let text = std::fs::read_to_string(&path).expect("readable");
        let table: Table =
            text.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let string = |name: &str| {
            let value = table.get(name).and_then(toml::Value::as_str);
            value.unwrap_or_else(|| panic!("{}: no {name}", path.display())).to_owned()
        };
        let why = text.lines().take_while(|line| line.starts_with('#'));
        let why: String = why.map(|line| format!("{line}\n")).collect();
        assert!(!why.is_empty(), "{}: open it with a comment that says why", path.display());
        let args = table.get("args").and_then(toml::Value::as_array).expect("args");
        let args = args.iter().map(|arg| arg.as_str().expect("text").to_owned()).collect();
        let exit = table.get("exit").and_then(toml::Value::as_integer).expect("exit");
        Self { why, args, exit, stdout: string("stdout"), stderr: string("stderr"), path }
    }

    fn check(&self, bless: bool) -> Result<(), String> {
        let data = tempfile::tempdir().expect("a directory");
        let place = data.path().to_str().expect("UTF-8");
        let args = self.args.iter().map(|arg| arg.replace("[DATA]", place));
        let outcome = cli::run(cli::command(args), Duration::from_secs(30));
        let exit = outcome.status.and_then(|status| status.code()).map_or(-1, i64::from);
        let stdout = outcome.stdout.replace(place, "[DATA]");
        let stderr = outcome.stderr.replace(place, "[DATA]");
        let holds =
            exit == self.exit && matches(&self.stdout, &stdout) && matches(&self.stderr, &stderr);
        if holds {
            return Ok(());
        }
        if bless {
            std::fs::write(&self.path, self.blessed(exit, &stdout, &stderr)).expect("written");
        }
        Err(format!(
            "{} (exit {exit}, want {}):\n--- stdout\n{stdout}--- stderr\n{stderr}",
            self.path.display(),
            self.exit
        ))
    }

    fn blessed(&self, exit: i64, stdout: &str, stderr: &str) -> String {
        let args: Vec<String> = self.args.iter().map(|arg| format!("{arg:?}")).collect();
        let text = |text: &str| format!("'''\n{text}'''");
        format!(
            "{}args = [{}]\nexit = {exit}\nstdout = {}\nstderr = {}\n",
            self.why,
            args.join(", "),
            text(stdout),
            text(stderr)
        )
    }
}

/// Whether a text is what a pattern says.
fn matches(pattern: &str, text: &str) -> bool {
    let pattern: Vec<&str> = pattern.lines().map(str::trim_end).collect();
    let text: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines_match(&pattern, &text)
}

fn lines_match(pattern: &[&str], text: &[&str]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some((&"...", rest)) => (0..=text.len()).any(|skip| lines_match(rest, &text[skip..])),
        Some((line, rest)) => {
            let first = text.first().is_some_and(|text| line_matches(line, text));
            first && lines_match(rest, &text[1..])
        }
    }
}

fn line_matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once("[..]") {
        None => pattern == text,
        Some((start, rest)) => text.strip_prefix(start).is_some_and(|text| {
            let ends = text.char_indices().map(|(at, _)| at).chain([text.len()]);
            ends.into_iter().any(|at| line_matches(rest, &text[at..]))
        }),
    }
}

#[test]
fn a_pattern_matches_what_it_says() {
    assert!(matches("a [..] c\n...\nz\n", "a b c\n\nx\nz\n"));
    assert!(matches("...\n", "") && matches("", ""));
    assert!(!matches("a\n", "a\nb\n") && !matches("a [..]b", "a c") && !matches("", "x"));
}
