//! What transfers are compared with: a raw iroh stream and a bare iroh-blobs transfer, over
//! loopback, each between two processes as EchoNet's own are.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context as _, bail, ensure};
use iroh::{
    Endpoint, EndpointAddr, EndpointId, RelayMode, TransportAddr,
    endpoint::{Connection, PortmapperConfig, QuicTransportConfig, VarInt, presets},
    protocol::Router,
};
use iroh_blobs::{BlobsProtocol, Hash, HashAndFormat, store::fs::FsStore};

use crate::child::{Running, cpu_s};

/// First argument of the process that serves.
pub(crate) const SERVE: &str = "serve-for-bench";

const RAW_ALPN: &[u8] = b"echonet/bench/raw/1";
/// Bytes of one raw stream.
const RAW_BYTES: u64 = 1_000_000_000;
const STEP_BYTES: usize = 256 * 1024;
/// More than this and noq gives connections up when the reader stalls.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

async fn endpoint(alpns: Vec<Vec<u8>>) -> anyhow::Result<Endpoint> {
    let transport =
        QuicTransportConfig::builder().stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES));
    let endpoint = Endpoint::builder(presets::Minimal)
        .relay_mode(RelayMode::Disabled)
        .portmapper_config(PortmapperConfig::Disabled)
        .transport_config(transport.build())
        .alpns(alpns)
        .clear_ip_transports()
        .bind_addr(SocketAddr::from(([127, 0, 0, 1], 0)))?
        .bind()
        .await?;
    Ok(endpoint)
}

/// What a transfer took.
pub(crate) struct Cost {
    pub(crate) mb_s: f64,
    /// CPU seconds of all processes that took part, per GB of content.
    pub(crate) cpu_s_gb: f64,
}

/// The process that serves, and where.
pub(crate) struct Peer {
    process: Running,
    addr: EndpointAddr,
    hash: String,
}

impl Peer {
    /// Starts one that sends as many bytes as it is asked for.
    pub(crate) fn raw() -> anyhow::Result<Self> {
        Self::start(&["raw"])
    }

    /// Starts one that has `file` in an iroh-blobs store in `dir`.
    pub(crate) fn blobs(dir: &Path, file: &Path) -> anyhow::Result<Self> {
        let text = |path: &Path| path.to_str().map(str::to_owned).context("a path in UTF-8");
        Self::start(&["blobs", &text(dir)?, &text(file)?])
    }

    fn start(args: &[&str]) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(SERVE).args(args);
        let mut process = Running::start(command)?;
        let line = process.line()?.context("the other end does not start")?;
        let [id, addr, hash] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            bail!("the other end said {line}");
        };
        let (id, socket): (EndpointId, SocketAddr) = (id.parse()?, addr.parse()?);
        let addr = EndpointAddr::from_parts(id, [TransportAddr::Ip(socket)]);
        Ok(Self { process, addr, hash: hash.to_owned() })
    }

    /// CPU seconds that both ends have used so far.
    fn cpu_s(&self) -> f64 {
        let both = [self.process.pid(), std::process::id()];
        both.into_iter().filter_map(cpu_s).sum()
    }

    /// Receives one raw stream; seconds, and CPU seconds of both ends, per GB.
    pub(crate) fn receive_raw(&self) -> anyhow::Result<Cost> {
        let before = self.cpu_s();
        let seconds = self.receive_stream()?;
        let gb = RAW_BYTES as f64 / 1e9;
        Ok(Cost { mb_s: gb * 1000.0 / seconds, cpu_s_gb: (self.cpu_s() - before) / gb })
    }

    /// Fetches the blob into a new store in `dir`.
    pub(crate) fn receive_blob(&self, dir: &Path, bytes: u64) -> anyhow::Result<Cost> {
        let before = self.cpu_s();
        let seconds = self.receive_store(dir, bytes)?;
        let gb = bytes as f64 / 1e9;
        Ok(Cost { mb_s: gb * 1000.0 / seconds, cpu_s_gb: (self.cpu_s() - before) / gb })
    }

    /// Seconds of one raw stream.
    fn receive_stream(&self) -> anyhow::Result<f64> {
        runtime()?.block_on(async {
            let endpoint = endpoint(vec![]).await?;
            let connection = endpoint.connect(self.addr.clone(), RAW_ALPN).await?;
            let start = Instant::now();
            let (mut send, mut receive) = connection.open_bi().await?;
            send.write_all(&RAW_BYTES.to_le_bytes()).await?;
            send.finish()?;
            let mut buffer = vec![0; STEP_BYTES];
            let mut got = 0;
            while got < RAW_BYTES {
                let want = usize::try_from(RAW_BYTES - got)?.min(STEP_BYTES);
                receive.read_exact(&mut buffer[..want]).await?;
                got += want as u64;
                // Lets the connection's driver run: without it a stream gets half.
                tokio::task::yield_now().await;
            }
            let seconds = start.elapsed().as_secs_f64();
            endpoint.close().await;
            Ok(seconds)
        })
    }

    /// Seconds of one transfer from store to store.
    fn receive_store(&self, dir: &Path, bytes: u64) -> anyhow::Result<f64> {
        let hash: Hash = self.hash.parse()?;
        runtime()?.block_on(async {
            let store = FsStore::load(dir).await.map_err(|e| anyhow::anyhow!("{e}"))?;
            let endpoint = endpoint(vec![]).await?;
            let connection = endpoint.connect(self.addr.clone(), iroh_blobs::ALPN).await?;
            let start = Instant::now();
            let stats = store.remote().fetch(connection, HashAndFormat::raw(hash)).await?;
            let seconds = start.elapsed().as_secs_f64();
            ensure!(stats.payload_bytes_read == bytes, "got {} bytes", stats.payload_bytes_read);
            endpoint.close().await;
            store.shutdown().await?;
            Ok(seconds)
        })
    }
}

/// The serving process: says where it is, then serves until it is ended.
pub(crate) fn serve(args: &[String]) -> anyhow::Result<()> {
    runtime()?.block_on(async {
        match args {
            [what] if what == "raw" => serve_raw().await,
            [what, dir, file] if what == "blobs" => serve_blobs(dir.into(), file.into()).await,
            _ => bail!("nothing to serve: {args:?}"),
        }
    })
}

fn say(endpoint: &Endpoint, hash: &str) -> anyhow::Result<()> {
    let addr = endpoint.bound_sockets().into_iter().next().context("no socket")?;
    println!("{} {addr} {hash}", endpoint.id());
    Ok(())
}

async fn serve_raw() -> anyhow::Result<()> {
    let endpoint = endpoint(vec![RAW_ALPN.to_vec()]).await?;
    say(&endpoint, "-")?;
    while let Some(incoming) = endpoint.accept().await {
        let connection = incoming.await?;
        // A receiver that went away is the receiver's affair.
        let _ended = send_raw(&connection).await;
    }
    Ok(())
}

async fn send_raw(connection: &Connection) -> anyhow::Result<()> {
    let (mut send, mut receive) = connection.accept_bi().await?;
    let mut length = [0; 8];
    receive.read_exact(&mut length).await?;
    let mut left = u64::from_le_bytes(length);
    let buffer = vec![0x5a; STEP_BYTES];
    while left > 0 {
        let part = usize::try_from(left)?.min(STEP_BYTES);
        send.write_all(&buffer[..part]).await?;
        left -= part as u64;
    }
    send.finish()?;
    connection.closed().await;
    Ok(())
}

async fn serve_blobs(dir: PathBuf, file: PathBuf) -> anyhow::Result<()> {
    let store = FsStore::load(&dir).await.map_err(|e| anyhow::anyhow!("{e}"))?;
    let tag = store.blobs().add_path(file).await?;
    let endpoint = endpoint(vec![]).await?;
    let blobs = BlobsProtocol::new(&store, None);
    let router = Router::builder(endpoint.clone()).accept(iroh_blobs::ALPN, blobs).spawn();
    say(&endpoint, &tag.hash.to_string())?;
    std::future::pending::<()>().await;
    drop(router);
    Ok(())
}
