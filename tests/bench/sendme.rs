//! sendme: one process offers a file, another one receives it by the ticket, over loopback and
//! without relays. Nothing of it reaches past this machine, apart from sendme's own attempt to
//! publish its address, which has no option.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

use crate::{
    child::cpu_s,
    data,
    logged::{Logged, Program},
    peers::Cost,
};

/// What to do where it is not.
pub(crate) const INSTALL: &str = "skipped: not installed (`cargo install sendme --version 0.37.0 \
     --locked`, then have it on PATH or name it with --sendme PATH)";

/// How long importing a file, and receiving it, may take.
const WITHIN: Duration = Duration::from_secs(600);
/// Both ends: loopback, no relays, nothing drawn.
const COMMON: [&str; 5] =
    ["--relay", "disabled", "--magic-ipv4-addr", "127.0.0.1:0", "--no-progress"];

/// What a transfer took.
pub(crate) struct Received {
    /// By sendme's own account: from request to last byte.
    pub(crate) transfer_mb_s: f64,
    /// The whole command: start, connecting, moving the file into place.
    pub(crate) whole: Cost,
}

/// Sends `file` to a new directory under `dir`; the received file is compared with it.
pub(crate) fn transfer(sendme: &Program, dir: &Path, file: &Path) -> anyhow::Result<Received> {
    let (from, to) = (tempfile::tempdir_in(dir)?, tempfile::tempdir_in(dir)?);
    let mut send = Command::new(&sendme.path);
    send.arg("send").args(COMMON).args(["--ticket-type", "addresses"]).arg(file);
    send.current_dir(from.path());
    let log = from.path().join("log");
    let mut sender = Logged::start(send, "sendme send".into(), log)?;
    let ticket = sender.until("its ticket", WITHIN, |sender| ticket(&sender.said()))?;

    let mut receive = Command::new(&sendme.path);
    receive.arg("receive").args(COMMON).args(["--verbose", &ticket]).current_dir(to.path());
    let log: PathBuf = from.path().join("log-of-receiver");
    let (start, before) = (Instant::now(), cpu_s(sender.pid()).unwrap_or(0.0));
    let receiver = Logged::start(receive, "sendme receive".into(), log)?;
    let (seconds, used, said) = receiver.finish(start, WITHIN)?;
    let cpu_s = used + cpu_s(sender.pid()).unwrap_or(0.0) - before;

    let name = file.file_name().context("a file name")?;
    ensure!(data::same(file, &to.path().join(name))?, "sendme's file is not the one that was sent");
    let gb = fs::metadata(file)?.len() as f64 / 1e9;
    let transfer_mb_s = told_mb_s(&said).with_context(|| format!("no speed in {said}"))?;
    let whole = Cost { mb_s: gb * 1000.0 / seconds, cpu_s_gb: cpu_s / gb };
    Ok(Received { transfer_mb_s, whole })
}

/// Of `sendme receive TICKET`.
fn ticket(said: &str) -> Option<String> {
    // The line may be there in part: it ends before anything follows.
    let (ticket, _) = said.split_once("sendme receive ")?.1.split_once('\n')?;
    Some(ticket.trim().to_owned())
}

/// Of `downloaded 1 files, 256 MiB. took 1 second (190.32 MiB/s)`.
fn told_mb_s(said: &str) -> Option<f64> {
    let line = said.lines().find(|line| line.starts_with("downloaded "))?;
    let (number, unit) = line.rsplit_once('(')?.1.strip_suffix("/s)")?.split_once(' ')?;
    let unit = match unit {
        "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        "GiB" => 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * unit / 1e6)
}
