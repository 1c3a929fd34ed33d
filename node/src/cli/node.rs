//! `echonet node`: the daemon.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{args::NodeArgs, output::Output, start::OwnNode};
use crate::{
    api::server::ApiServer,
    datadir::{ApiFile, DataDir, Lock, random_bytes},
    devnet::NodeReady,
    service::{ServiceError, ServiceResult},
    settings::{Purpose, Settings},
};

/// How long running requests may take once the daemon is asked to end.
const API_GRACE: Duration = Duration::from_secs(3);
/// How long the data directory may stay locked by a process that is ending.
const LOCK_WAIT: Duration = Duration::from_secs(5);
/// How long the node may take to end.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(30);
/// Exit code of a process that was interrupted at once, as shells have it.
const INTERRUPTED: i32 = 130;

pub(super) async fn run(dir: &DataDir, args: NodeArgs, output: &Output) -> ServiceResult<()> {
    // Before anything else, so that no signal is missed while starting.
    let mut signals = Signals::listen()?;
    let closed = args.until_stdin_closes.then(stdin_closed);
    let settings = Settings::load(dir, &args)?;
    let api_addr = settings.api_addr()?;
    let _lock = lock(dir).await?;
    let config = settings.into_config(dir, Purpose::Daemon)?;
    let node = OwnNode::start(dir, config).await?;
    let outcome = serve(dir, &node, api_addr, output, &mut signals, closed).await;
    // From here on a second signal ends everything at once.
    tokio::select! {
        () = signals.next() => std::process::exit(INTERRUPTED),
        stopped = tokio::time::timeout(SHUTDOWN_TIMEOUT, node.shutdown()) => {
            if stopped.is_err() {
                tracing::warn!("the node took too long to end");
            }
        }
    }
    outcome
}

/// The directory's lock. A process that was just killed keeps it until the system
/// has taken it apart, so a restart waits a little.
async fn lock(dir: &DataDir) -> ServiceResult<Lock> {
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        if let Some(lock) = dir.try_lock("node")? {
            return Ok(lock);
        }
        if Instant::now() > deadline {
            return Err(dir.in_use().into());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Answers over the local API until asked to end.
async fn serve(
    dir: &DataDir,
    node: &OwnNode,
    api_addr: SocketAddr,
    output: &Output,
    signals: &mut Signals,
    closed: Option<oneshot::Receiver<()>>,
) -> ServiceResult<()> {
    let random = random_bytes::<32>().map_err(|error| ServiceError::new("io", error))?;
    let token = data_encoding::HEXLOWER.encode(&random);
    let api = ApiServer::start(node.service(), api_addr, &token).await.map_err(|error| {
        let text = format!("the local API cannot listen on {api_addr}: {error}; choose with --api");
        ServiceError::new("io", text)
    })?;
    dir.write_api_file(&ApiFile { addr: api.addr(), token, pid: std::process::id() })?;
    let bootstrap = node.bootstrap();
    let ready = NodeReady {
        node_id: node.node_id().to_string(),
        addr: bootstrap.map(|b| b.addr.to_string()).unwrap_or_default(),
        api: api.addr().to_string(),
        bootstrap: bootstrap.map(|b| b.to_string()).unwrap_or_default(),
    };
    output.result("ready", &ready, || {
        let NodeReady { node_id, api, bootstrap, .. } = &ready;
        format!("node {node_id} is ready; local API on {api}; others join with\n  --bootstrap {bootstrap}")
    });
    tokio::select! {
        () = signals.next() => output.say("ending; once more to end at once"),
        () = until(closed) => {}
    }
    dir.remove_api_file()?;
    tokio::select! {
        () = signals.next() => std::process::exit(INTERRUPTED),
        () = api.shutdown(API_GRACE) => Ok(()),
    }
}

/// Waits for the event, or for ever where there is none to wait for.
async fn until(event: Option<oneshot::Receiver<()>>) {
    match event {
        // A dropped sender is the event too: the thread ended.
        Some(event) => drop(event.await),
        None => std::future::pending().await,
    }
}

/// Tells when standard input ends. On a thread of its own: a pending read of
/// the runtime would keep the process from ending.
fn stdin_closed() -> oneshot::Receiver<()> {
    let (closed, event) = oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        drop(closed);
    });
    event
}

/// Ctrl-C and, on Unix, SIGTERM.
pub(crate) struct Signals {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    /// Takes them over from now on.
    pub(crate) fn listen() -> ServiceResult<Self> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            let cannot =
                |error| ServiceError::new("io", format!("cannot wait for signals: {error}"));
            let interrupt = signal(SignalKind::interrupt()).map_err(cannot)?;
            let terminate = signal(SignalKind::terminate()).map_err(cannot)?;
            Ok(Self { interrupt, terminate })
        }
        #[cfg(not(unix))]
        Ok(Self {})
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) {
        #[cfg(unix)]
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
        #[cfg(not(unix))]
        let _ = tokio::signal::ctrl_c().await;
    }
}
