//! A Tahoe-LAFS grid on loopback: an introducer, storage nodes and a client for each of the two
//! protocols to storage nodes, whose web API is used. It encodes as EchoNet does, 10 of 16. It
//! ends when dropped, and with this program.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use rustix::process::Signal;
use serde_json::Value;

use crate::{
    child::{cpu_s, signal},
    http,
    logged::{Logged, Program},
};

/// What to do where it is not.
pub(crate) const INSTALL: &str = "skipped: not installed (`python3 -m venv VENV && VENV/bin/pip \
     install tahoe-lafs==1.20.0`, then have it on PATH or name it with --tahoe VENV/bin/tahoe)";

/// How long the grid may take to be connected.
const READY_WITHIN: Duration = Duration::from_secs(300);

/// What a client speaks to storage nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// The default of 1.20.
    Https,
    /// The one before it, which downloads faster.
    Foolscap,
}

/// A client of the grid.
struct Client {
    process: Logged,
    web: SocketAddr,
}

/// A running grid.
pub(crate) struct Grid {
    https: Client,
    foolscap: Client,
    /// With their directories.
    storage: Vec<(Logged, PathBuf)>,
    introducer: Logged,
}

impl Grid {
    /// Starts `nodes` storage nodes with their data under `dir`.
    pub(crate) fn start(tahoe: &Program, dir: &Path, nodes: usize) -> anyhow::Result<Self> {
        let mut ports = free_ports(nodes + 3)?.into_iter();
        let mut port = || ports.next().context("a port for each node");
        let at = dir.join("introducer");
        let config = format!("[node]\n{}", tub(port()?));
        let mut introducer = start(tahoe, &at, "introducer", &config, None)?;
        let furl = at.join("private/introducer.furl");
        let furl = introducer.until("its address", READY_WITHIN, |_| {
            fs::read_to_string(&furl).ok().filter(|furl| furl.ends_with('\n'))
        })?;

        let mut storage = Vec::new();
        for number in 0..nodes {
            let at = dir.join(format!("storage-{number}"));
            let config = format!("[node]\n{}[client]\n[storage]\nenabled = true\n", tub(port()?));
            storage.push((start(tahoe, &at, "client", &config, Some(&furl))?, at));
        }
        // One after the other: where many processes start at once connections time out, and
        // Foolscap waits longer and longer before it tries again.
        for (node, _) in &mut storage {
            node.until("word that it runs", READY_WITHIN, |node| {
                node.said().contains("client running").then_some(())
            })?;
        }
        let https = client(tahoe, dir, (Protocol::Https, port()?), &furl, nodes)?;
        let foolscap = client(tahoe, dir, (Protocol::Foolscap, port()?), &furl, nodes)?;
        Ok(Self { https, foolscap, storage, introducer })
    }

    /// Uploads a file; its capability, by which it is found again.
    pub(crate) fn put(&self, protocol: Protocol, file: &Path) -> anyhow::Result<String> {
        let said = http::put_file(self.web(protocol), "/uri?format=CHK", file)?;
        let capability = said.trim().to_owned();
        ensure!(capability.starts_with("URI:CHK:"), "no capability of a file: {capability}");
        Ok(capability)
    }

    /// Downloads a file.
    pub(crate) fn get(
        &self,
        protocol: Protocol,
        capability: &str,
        out: &Path,
    ) -> anyhow::Result<u64> {
        http::get_file(self.web(protocol), &format!("/uri/{capability}"), out)
    }

    fn web(&self, protocol: Protocol) -> SocketAddr {
        match protocol {
            Protocol::Https => self.https.web,
            Protocol::Foolscap => self.foolscap.web,
        }
    }

    /// CPU seconds that all living nodes and both clients have used so far.
    pub(crate) fn cpu_s(&self) -> f64 {
        self.processes().filter_map(|process| cpu_s(process.pid())).sum()
    }

    /// Kills the storage nodes that hold most, as a power cut would; how many shares a file has
    /// lost on average.
    pub(crate) fn kill(&mut self, count: usize) -> anyhow::Result<f64> {
        let held = |at: &Path| shares(at).map_or(0, |shares| shares.len());
        self.storage.sort_by_key(|(_, at)| held(at));
        let files: std::collections::BTreeSet<String> =
            self.storage.iter().flat_map(|(_, at)| shares(at).unwrap_or_default()).collect();
        let mut gone = 0;
        for _ in 0..count {
            let (node, at) = self.storage.pop().context("fewer storage nodes than to be killed")?;
            gone += held(&at);
            node.kill()?;
        }
        Ok(gone as f64 / files.len().max(1) as f64)
    }

    fn processes(&self) -> impl Iterator<Item = &Logged> {
        let nodes = self.storage.iter().map(|(node, _)| node);
        nodes.chain([&self.https.process, &self.foolscap.process, &self.introducer])
    }
}

impl Drop for Grid {
    fn drop(&mut self) {
        // All at once; each is waited for when it is dropped itself.
        for process in self.processes() {
            signal(process.pid(), Signal::TERM);
        }
    }
}

/// Ports of loopback that nobody listens on now.
fn free_ports(count: usize) -> anyhow::Result<Vec<u16>> {
    let listen = |_| TcpListener::bind(("127.0.0.1", 0));
    let listeners = (0..count).map(listen).collect::<Result<Vec<_>, _>>()?;
    let ports = listeners.iter().map(|at| at.local_addr().map(|at| at.port()));
    Ok(ports.collect::<Result<Vec<_>, _>>()?)
}

/// Where a node listens, in its configuration.
fn tub(port: u16) -> String {
    format!(
        "tub.port = tcp:{port}:interface=127.0.0.1\ntub.location = tcp:127.0.0.1:{port}\n\
         web.port =\n"
    )
}

/// Writes a node's directory and starts it. Its kind is in the name of a file; the program that
/// usually makes these takes two seconds for each.
fn start(
    tahoe: &Program,
    at: &Path,
    kind: &str,
    config: &str,
    introducer: Option<&str>,
) -> anyhow::Result<Logged> {
    let private = at.join("private");
    fs::create_dir_all(&private)?;
    fs::write(at.join(format!("tahoe-{kind}.tac")), "")?;
    fs::write(at.join("tahoe.cfg"), config)?;
    if let Some(furl) = introducer {
        let text = format!("introducers:\n  default:\n    furl: {}\n", furl.trim());
        fs::write(private.join("introducers.yaml"), text)?;
    }
    let mut command = Command::new(&tahoe.path);
    // It ends when its standard input closes.
    command.arg("run").arg(at);
    let name = at.file_name().unwrap_or_default().to_string_lossy();
    Logged::start(command, format!("tahoe run {name}"), at.join("log"))
}

/// Starts a client whose web API is at this port; it is connected to all storage nodes.
fn client(
    tahoe: &Program,
    dir: &Path,
    (protocol, port): (Protocol, u16),
    introducer: &str,
    nodes: usize,
) -> anyhow::Result<Client> {
    let (name, foolscap) = match protocol {
        Protocol::Https => ("client-https", ""),
        Protocol::Foolscap => ("client-foolscap", "force_foolscap = true\n"),
    };
    let config = format!(
        "[node]\ntub.port = disabled\ntub.location = disabled\n\
         web.port = tcp:{port}:interface=127.0.0.1\n\
         [client]\nshares.needed = 10\nshares.happy = 10\nshares.total = 16\n{foolscap}\
         [storage]\nenabled = false\n"
    );
    let mut process = start(tahoe, &dir.join(name), "client", &config, Some(introducer))?;
    let web = SocketAddr::from(([127, 0, 0, 1], port));
    process
        .until("a connection to every storage node", READY_WITHIN, |_| {
            (connected(web) == nodes).then_some(())
        })
        .with_context(|| format!("{name} is connected to {} of {nodes}", connected(web)))?;
    Ok(Client { process, web })
}

/// Storage nodes that the client is connected to; none while it does not answer.
fn connected(web: SocketAddr) -> usize {
    let Ok(text) = http::get_text(web, "/?t=json") else { return 0 };
    let page: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
    let servers = page["servers"].as_array().into_iter().flatten();
    let state = |server: &Value| server["connection_status"].as_str().unwrap_or("").to_lowercase();
    servers.filter(|server| state(server).starts_with("connected")).count()
}

/// The files, by storage index, of which a storage node has a share.
fn shares(at: &Path) -> std::io::Result<Vec<String>> {
    let mut files = Vec::new();
    for group in fs::read_dir(at.join("storage/shares"))? {
        let group = group?;
        // Shares that are still being written.
        if group.file_name() == "incoming" {
            continue;
        }
        for file in fs::read_dir(group.path())? {
            files.push(file?.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(files)
}
