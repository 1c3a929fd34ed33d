//! Tests of the data plane through its public interface: fast code against slow, obvious code,
//! damaged input, and the golden vectors. One binary, because linking costs more than running.
#![allow(clippy::unwrap_used, reason = "a test's helpers fail the test, as its own lines do")]

mod chunker;
mod compression;
mod content;
mod erasure;
mod vectors;
mod verified;

/// Reproducible bytes: BLAKE3's extendable output of the label.
fn stream(label: &str, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(label.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}
