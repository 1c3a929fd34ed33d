//! As much HTTP/1.0 as a transfer to and from a program on this machine needs: one request a
//! connection, files as bodies. It follows no redirect and speaks no TLS.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, BufWriter, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, ensure};

/// Longest time without a byte from the other side.
const SILENCE_MAX: Duration = Duration::from_secs(300);
/// Longest head of an answer, bytes.
const HEAD_BYTES_MAX: u64 = 16 << 10;
/// Longest answer that is kept in memory, bytes.
const TEXT_BYTES_MAX: u64 = 1 << 20;
/// Bytes moved at a time.
const STEP_BYTES: usize = 256 << 10;

/// Uploads a file; the answer's text.
pub(crate) fn put_file(to: SocketAddr, path: &str, file: &Path) -> anyhow::Result<String> {
    let mut file = File::open(file)?;
    let bytes = file.metadata()?.len();
    let mut stream = connect(to)?;
    write!(stream, "PUT {path} HTTP/1.0\r\nHost: {to}\r\nContent-Length: {bytes}\r\n\r\n")?;
    let mut step = vec![0; STEP_BYTES];
    loop {
        let part = file.read(&mut step)?;
        if part == 0 {
            break;
        }
        stream.write_all(&step[..part])?;
    }
    text(answer(stream, path)?.0)
}

/// The text at a path.
pub(crate) fn get_text(from: SocketAddr, path: &str) -> anyhow::Result<String> {
    text(get(from, path)?.0)
}

/// Downloads into a new file; bytes.
pub(crate) fn get_file(from: SocketAddr, path: &str, out: &Path) -> anyhow::Result<u64> {
    let (mut body, want) = get(from, path)?;
    let mut file = BufWriter::with_capacity(STEP_BYTES, File::create(out)?);
    let got = io::copy(&mut body, &mut file).with_context(|| format!("the answer to {path}"))?;
    file.flush()?;
    ensure!(want.is_none_or(|want| want == got), "{path}: {got} bytes came of {want:?}");
    Ok(got)
}

fn connect(to: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect(to).with_context(|| format!("no connection to {to}"))?;
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    stream.set_write_timeout(Some(SILENCE_MAX))?;
    Ok(stream)
}

fn get(from: SocketAddr, path: &str) -> anyhow::Result<(BufReader<TcpStream>, Option<u64>)> {
    let mut stream = connect(from)?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {from}\r\n\r\n")?;
    answer(stream, path)
}

/// Reads an answer's head: its body, and how long that is to be if it was said.
fn answer(stream: TcpStream, path: &str) -> anyhow::Result<(BufReader<TcpStream>, Option<u64>)> {
    let mut stream = BufReader::with_capacity(STEP_BYTES, stream);
    let (mut status, mut bytes) = (String::new(), None);
    let mut head = stream.by_ref().take(HEAD_BYTES_MAX);
    head.read_line(&mut status).with_context(|| format!("no answer to {path}"))?;
    loop {
        let mut line = String::new();
        ensure!(head.read_line(&mut line)? > 0, "{path}: the answer's head does not end");
        let line = line.trim();
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            bytes = Some(value.trim().parse().with_context(|| format!("{path}: {line}"))?);
        }
    }
    let ok = status.split(' ').nth(1).is_some_and(|code| code.starts_with('2'));
    if !ok {
        let said = text(stream).unwrap_or_default();
        anyhow::bail!("{path} was answered with {}: {}", status.trim(), said.trim());
    }
    Ok((stream, bytes))
}

fn text(body: BufReader<TcpStream>) -> anyhow::Result<String> {
    let mut text = String::new();
    body.take(TEXT_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}
