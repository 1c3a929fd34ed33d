//! What the pure crates never do: no disk, no sockets, no clock, no randomness,
//! no order of a hash map, no floats. Their `clippy.toml` catches the paths that
//! the compiler resolves; this catches the words, tests left out.

use std::collections::BTreeSet;

use crate::{
    assert_none,
    lexer::{code_only, test_modules, without_tests},
    repo::{SourceFile, rust_files},
};

/// Directories of the pure crates.
pub(crate) const PURE: [&str; 3] = ["protocol/", "witness/", "archive/"];

/// Words that must not occur in their code, and what to do instead.
const FORBIDDEN: [(&str, &str); 27] = [
    ("Instant::now", "take `now` as an argument"),
    ("SystemTime", "take the time as an argument"),
    ("thread_rng", "take a seed or the bytes as an argument"),
    ("rand::", "take a seed or the bytes as an argument"),
    ("getrandom", "take a seed or the bytes as an argument"),
    ("OsRng", "take a seed or the bytes as an argument"),
    ("HashMap", "use BTreeMap: every node sees the same order"),
    ("HashSet", "use BTreeSet: every node sees the same order"),
    ("RandomState", "use BTreeMap: every node sees the same order"),
    ("f32", "use integers: nodes must agree to the bit"),
    ("f64", "use integers: nodes must agree to the bit"),
    ("std::fs", "hand the effect out; node/ does it"),
    ("File::", "hand the effect out; node/ does it"),
    ("std::net::Tcp", "hand the effect out; node/ does it"),
    ("std::net::Udp", "hand the effect out; node/ does it"),
    ("TcpStream", "hand the effect out; node/ does it"),
    ("TcpListener", "hand the effect out; node/ does it"),
    ("UdpSocket", "hand the effect out; node/ does it"),
    ("std::process", "hand the effect out; node/ does it"),
    ("std::env", "take the setting as an argument"),
    ("std::thread", "node/ decides what runs where"),
    ("tokio", "node/ decides what runs where"),
    ("async fn", "a machine: handle(now, input), then poll()"),
    ("static mut", "pass state in"),
    ("thread_local", "pass state in"),
    ("println", "return it; node/ prints"),
    ("unsafe", "never in a pure crate"),
];

#[test]
fn pure_crates_have_no_effects() {
    let files = pure_code();
    for dir in PURE {
        assert!(files.iter().any(|file| file.path.starts_with(dir)), "no source under {dir}");
    }
    let mut findings = Vec::new();
    for file in &files {
        for (number, line) in file.text.lines().enumerate() {
            for (word, remedy) in FORBIDDEN.iter().filter(|(word, _)| has_word(line, word)) {
                findings.push(format!("{}:{}: `{word}`: {remedy}", file.path, number + 1));
            }
        }
    }
    assert_none("effects in pure crates", &findings);
}

#[test]
fn only_verified_rs_knows_bao_tree() {
    let findings: Vec<String> = pure_code()
        .into_iter()
        .filter(|file| !file.path.ends_with("/verified.rs"))
        .filter(|file| file.text.lines().any(|line| has_word(line, "bao_tree")))
        .map(|file| format!("{}: uses bao_tree; go through verified.rs", file.path))
        .collect();
    assert_none("bao_tree outside verified.rs", &findings);
}

#[test]
fn each_pure_crate_has_its_own_clippy_toml() {
    let texts = PURE.map(|dir| crate::repo::read(&format!("{dir}clippy.toml")));
    assert!(texts.iter().all(|text| *text == texts[0]), "they say the same in {PURE:?}");
    for path in ["Instant::now", "SystemTime::now", "HashMap", "HashSet"] {
        assert!(texts[0].contains(path), "clippy.toml should disallow {path}");
    }
}

/// The code of the pure crates: no comments, no literals, no tests.
fn pure_code() -> Vec<SourceFile> {
    let files: Vec<SourceFile> = rust_files()
        .into_iter()
        .filter(|file| {
            PURE.iter()
                .any(|dir| file.path.strip_prefix(dir).is_some_and(|p| p.starts_with("src/")))
        })
        .collect();
    let tests: BTreeSet<String> = files.iter().flat_map(test_files).collect();
    files
        .into_iter()
        .filter(|file| !tests.contains(&file.path))
        .map(|file| SourceFile { text: without_tests(&code_only(&file.text)), ..file })
        .collect()
}

/// Paths of the files that `file` includes for tests only.
fn test_files(file: &SourceFile) -> Vec<String> {
    let (dir, name) = file.path.rsplit_once('/').expect("under src/");
    let inside = match name {
        "lib.rs" | "main.rs" | "mod.rs" => dir.to_owned(),
        _ => file.path.trim_end_matches(".rs").to_owned(),
    };
    let modules = test_modules(&file.text);
    modules
        .iter()
        .flat_map(|module| {
            // The last form is `#[path = "module.rs"]` beside the file.
            [
                format!("{inside}/{module}.rs"),
                format!("{inside}/{module}/mod.rs"),
                format!("{dir}/{module}.rs"),
            ]
        })
        .collect()
}

/// Whether `word` occurs in `line` on its own, not as a part of a longer name.
fn has_word(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let open_end = !word.ends_with(part);
        !before.is_some_and(part)
            && (open_end || word.starts_with("std::net::") || !after.is_some_and(part))
    })
}

#[test]
fn a_word_is_not_a_part_of_a_name() {
    assert!(
        has_word("let x: f64 = 1", "f64") && has_word("use std::net::TcpStream", "std::net::Tcp")
    );
    assert!(!has_word("my_f64", "f64") && !has_word("operand::x", "rand::"));
}
