//! Checks on the source itself: who may depend on whom, what pure crates never
//! touch, sizes, words and pins. Each check names the file, the line and the
//! remedy, and fails loudly when its own list names something that is not there.
//!
//! It reads tracked files and cargo's own answers; it never changes anything.

mod dependencies;
mod layering;
mod lexer;
mod purity;
mod repo;
mod style;

/// Fails with every finding at once, one a line.
#[track_caller]
fn assert_none(what: &str, findings: &[String]) {
    assert!(findings.is_empty(), "{what}:\n  {}", findings.join("\n  "));
}
