//! Who carries a command out: the running daemon of the data directory, or a
//! node in this process.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{args::NetworkArgs, start::OwnNode};
use crate::{
    api::{PROGRESS_QUEUED_MAX, client::ApiClient, progress::with_progress},
    cli::CliOutput,
    datadir::{DataDir, Lock},
    service::{ProgressSender, Service, ServiceResult},
    settings::{Purpose, Settings},
};

/// How long a daemon that is starting may take until its API answers.
const DAEMON_START_TIMEOUT: Duration = Duration::from_secs(20);

/// Whoever carries out a command.
pub(super) struct Backend {
    service: Arc<dyn Service>,
    own: Option<(OwnNode, Lock)>,
}

impl Backend {
    /// The daemon where one runs, else a node of our own for this command.
    pub(super) async fn connect(
        dir: &DataDir,
        network: &NetworkArgs,
        command: &str,
    ) -> ServiceResult<Self> {
        let deadline = Instant::now() + DAEMON_START_TIMEOUT;
        loop {
            if let Some(lock) = dir.try_lock(command)? {
                let config = Settings::load(dir, network)?.into_config(dir, Purpose::Command)?;
                let node = OwnNode::start(dir, config).await?;
                return Ok(Self { service: node.service(), own: Some((node, lock)) });
            }
            if let Some(client) = daemon(dir)? {
                return Ok(Self { service: Arc::new(client), own: None });
            }
            // Either a daemon that is starting, or another command, which is
            // not to be waited for.
            let starting = dir.lock_holder().is_none_or(|h| h.command == "node");
            if !starting || Instant::now() >= deadline {
                return Err(dir.in_use().into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The daemon if one says that it runs, or nothing: for what needs no
    /// network. Whether it answers shows when it is asked.
    pub(super) fn daemon_only(dir: &DataDir) -> ServiceResult<Option<Self>> {
        Ok(daemon(dir)?.map(|client| Self { service: Arc::new(client), own: None }))
    }

    pub(super) fn service(&self) -> &dyn Service {
        &*self.service
    }

    /// Carries out `run` with its progress shown.
    pub(super) async fn run<'a, T, F>(
        &'a self,
        output: &'a CliOutput,
        run: impl FnOnce(&'a dyn Service, ProgressSender) -> F,
    ) -> ServiceResult<T>
    where
        F: Future<Output = ServiceResult<T>> + 'a,
    {
        let (progress, events) = tokio::sync::mpsc::channel(PROGRESS_QUEUED_MAX);
        let run = run(self.service(), progress);
        with_progress(run, events, |event| {
            output.progress(&event);
            async {}
        })
        .await
    }

    /// Ends a node of our own.
    pub(super) async fn close(self) {
        if let Some((node, _lock)) = self.own {
            node.shutdown().await;
        }
    }
}

/// The daemon that holds the lock, once it said where it answers.
fn daemon(dir: &DataDir) -> ServiceResult<Option<ApiClient>> {
    let Some(api) = dir.api_file()? else { return Ok(None) };
    // A file left behind by an earlier daemon points nowhere.
    if dir.lock_holder().is_some_and(|holder| holder.pid != api.pid) {
        return Ok(None);
    }
    ApiClient::new(&api).map(Some)
}
