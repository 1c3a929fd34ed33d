//! Sizes and words: what a file opens with, how long files and functions are, and
//! what no tracked file says.

use crate::{
    assert_none,
    lexer::{code_only, functions},
    repo::{files, rust_files},
};

const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 60;

/// Functions longer than the limit: (file, function, lines). A ratchet: an entry
/// may shrink or go, and must follow its function when that shrinks.
const LONG_FUNCTIONS: [(&str, &str, usize); 0] = [];

#[test]
fn every_file_says_what_it_does() {
    let findings: Vec<String> = rust_files()
        .into_iter()
        .filter(|file| !file.text.starts_with("//! "))
        .map(|file| format!("{}: open it with `//!`: what it does, what it never does", file.path))
        .collect();
    assert_none("files without a purpose", &findings);
}

#[test]
fn files_are_short() {
    let findings: Vec<String> = rust_files()
        .into_iter()
        .map(|file| (file.text.lines().count(), file.path))
        .filter(|(lines, _)| *lines > FILE_LINES_MAX)
        .map(|(lines, path)| format!("{path}: {lines} lines, at most {FILE_LINES_MAX}; split it"))
        .collect();
    assert_none("long files", &findings);
}

#[test]
fn functions_are_short() {
    let mut findings = Vec::new();
    let mut seen = vec![false; LONG_FUNCTIONS.len()];
    for file in rust_files() {
        for function in functions(&code_only(&file.text)) {
            let listed = LONG_FUNCTIONS
                .iter()
                .position(|(path, name, _)| *path == file.path && *name == function.name);
            let place = format!("{}:{}: `{}`", file.path, function.line, function.name);
            match listed {
                Some(index) => {
                    seen[index] = true;
                    let (_, _, lines) = LONG_FUNCTIONS[index];
                    if function.lines != lines {
                        findings
                            .push(format!("{place}: listed with {lines}, is {}", function.lines));
                    }
                }
                None if function.lines > FUNCTION_LINES_MAX => findings.push(format!(
                    "{place}: {} lines, at most {FUNCTION_LINES_MAX}; split it",
                    function.lines
                )),
                None => {}
            }
        }
    }
    let gone = LONG_FUNCTIONS.iter().zip(&seen).filter(|(_, seen)| !**seen);
    findings
        .extend(gone.map(|((path, name, _), _)| format!("{path}: `{name}` is gone: unlist it")));
    assert_none("long functions", &findings);
}

/// Words that no tracked text file has. Written in two halves, so that this file
/// passes its own check.
const WORDS: [(&str, &str, &str); 17] = [
    ("TO", "DO", "do it, or open an issue"),
    ("FIX", "ME", "fix it, or open an issue"),
    ("XX", "X:", "do it, or open an issue"),
    ("todo", "!(", "write it"),
    ("unimplemented", "!(", "write it"),
    ("#[ig", "nore", "a test runs or is deleted"),
    ("allow(dead", "_code)", "delete it"),
    ("allow(un", "used", "delete it"),
    ("dbg", "!(", "log it, or delete it"),
    ("/ho", "me/", "no path of a developer's machine"),
    ("/ro", "ot/", "no path of a developer's machine"),
    ("/Us", "ers/", "no path of a developer's machine"),
    ("crates", ".io", "no package registry host; say `the registry`"),
    ("npmjs", ".org", "no package registry host; say `the registry`"),
    ("pypi", ".org", "no package registry host; say `the registry`"),
    ("pythonhosted", ".org", "no package registry host; say `the registry`"),
    ("deb.debian", ".org", "no package registry host; say `the registry`"),
];

/// Written by cargo, which names the registry of every package in it.
const GENERATED: [&str; 1] = ["Cargo.lock"];

#[test]
fn words_that_no_file_has() {
    let mut findings = Vec::new();
    for file in files().iter().filter(|file| !GENERATED.contains(&file.path.as_str())) {
        for (first, second, remedy) in WORDS {
            let word = format!("{first}{second}");
            for (number, _) in file.text.lines().enumerate().filter(|(_, l)| l.contains(&word)) {
                findings.push(format!("{}:{}: `{word}`: {remedy}", file.path, number + 1));
            }
        }
    }
    assert_none("words", &findings);
}

#[test]
fn ci_runs_the_one_script_and_nothing_else() {
    let script = crate::repo::read(".ci/run");
    let commands: Vec<&str> = script
        .lines()
        .filter(|line| !line.starts_with('#') && !line.starts_with("set ") && !line.is_empty())
        .collect();
    assert_eq!(commands, ["exec \"$(dirname \"$0\")/../tests/run\""]);
}

#[test]
fn no_scenario_is_left_out() {
    let manifest: toml::Table = crate::repo::read("tests/Cargo.toml").parse().expect("TOML");
    let targets = manifest["test"].as_array().expect("test targets");
    let field = |target: &toml::Value, name: &str| target[name].as_str().expect("text").to_owned();
    let programs = manifest["bin"].as_array().expect("programs");
    let paths: Vec<String> =
        targets.iter().chain(programs).map(|target| field(target, "path")).collect();
    let runner = crate::repo::read("tests/run");
    let mut findings = Vec::new();
    for file in rust_files() {
        let Some(name) = file.path.strip_prefix("tests/") else { continue };
        if !name.contains('/') && !paths.iter().any(|path| path == name) {
            findings.push(format!("{}: no [[test]] or [[bin]] in tests/Cargo.toml", file.path));
        }
    }
    for name in targets.iter().map(|target| field(target, "name")) {
        let group = name.split_once('_').map_or(name.clone(), |(group, _)| format!("'{group}_*'"));
        if !runner.contains(&format!("--test {group}")) {
            findings.push(format!("{name}: tests/run has no `--test {group}`"));
        }
    }
    assert_none("scenarios that would never run", &findings);
}
