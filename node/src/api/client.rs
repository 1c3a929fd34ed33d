//! The command's side of the local API.

use std::time::Duration;

use echonet_protocol::content_id::ContentId;
use futures::{StreamExt as _, future::BoxFuture};
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::AsyncWriteExt as _;

use super::{
    ANSWER_BYTES_MAX, VerdictRequest, VerdictsRequest, WorkRequest,
    frame::{FrameError, FrameReader, Part},
    route,
};
use crate::{
    datadir::ApiFile,
    service::{
        Drained, Fetched, GetRequest, Kept, NodeStatus, Peer, ProgressSender, PublishRequest,
        Published, Replayed, Service, ServiceError, ServiceResult, Sink, Unpublished, VerdictInfo,
        Work, WorkStatus,
    },
};

/// How long the daemon may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The running daemon of a data directory.
#[derive(Debug, Clone)]
pub struct ApiClient {
    http: reqwest::Client,
    base: String,
    token: String,
}

impl ApiClient {
    /// The daemon that `api` points to; nothing is sent yet.
    ///
    /// # Errors
    /// Kind `internal` when no HTTP client can be made.
    pub fn new(api: &ApiFile) -> ServiceResult<Self> {
        let internal = |error: &dyn std::fmt::Display| ServiceError::new("internal", error);
        // Never used over loopback, but iroh builds reqwest with TLS and without
        // a default for it, and reqwest then refuses to start.
        let tls = iroh::tls::CaTlsConfig::embedded()
            .client_config(iroh::tls::default_provider())
            .map_err(|error| internal(&error))?;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| internal(&error))?;
        Ok(Self { http, base: format!("http://{}", api.addr), token: api.token.clone() })
    }

    /// Sends a request; a refusal comes back as its error.
    async fn send(&self, request: reqwest::RequestBuilder) -> ServiceResult<reqwest::Response> {
        let response = request.bearer_auth(&self.token).send().await.map_err(unreachable)?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = bounded_body(response).await?;
        Err(serde_json::from_slice(&body).unwrap_or_else(|_| {
            ServiceError::new("internal", format!("the daemon answered {status} without a reason"))
        }))
    }

    async fn ask<T: DeserializeOwned>(&self, request: reqwest::RequestBuilder) -> ServiceResult<T> {
        parse(&bounded_body(self.send(request).await?).await?)
    }

    async fn get_json<T: DeserializeOwned>(&self, route: &str) -> ServiceResult<T> {
        self.ask(self.http.get(format!("{}{route}", self.base))).await
    }

    async fn about_work<T: DeserializeOwned>(
        &self,
        route: &str,
        content: ContentId,
    ) -> ServiceResult<T> {
        let body = WorkRequest { content_id: content.to_string() };
        self.ask(self.http.post(format!("{}{route}", self.base)).json(&body)).await
    }

    /// Carries out a streamed request: progress to `progress`, content to
    /// `sink`, the result back.
    async fn streamed<T: DeserializeOwned>(
        &self,
        route: &str,
        body: &(impl Serialize + Sync),
        mut sink: Option<Sink<'_>>,
        progress: ProgressSender,
    ) -> ServiceResult<T> {
        let request = self.http.post(format!("{}{route}", self.base)).json(body);
        let response = self.send(request).await?;
        let mut reader = FrameReader::new(response.bytes_stream());
        loop {
            match reader.next().await? {
                Part::Progress(event) => {
                    if let Ok(event) = serde_json::from_slice(&event) {
                        // A slow listener loses progress, never results.
                        let _ = progress.try_send(event);
                    }
                }
                Part::Content(bytes) => match &mut sink {
                    Some(sink) => sink.write_all(&bytes).await.map_err(cannot_write)?,
                    None => return Err(ServiceError::new("internal", "content came unasked")),
                },
                Part::Result(result) => {
                    if let Some(sink) = &mut sink {
                        sink.flush().await.map_err(cannot_write)?;
                    }
                    return parse(&result);
                }
                Part::Error(error) => return Err(parse(&error)?),
            }
        }
    }
}

impl From<FrameError> for ServiceError {
    fn from(error: FrameError) -> Self {
        Self::new("network", error)
    }
}

fn cannot_write(error: std::io::Error) -> ServiceError {
    ServiceError::new("io", format!("cannot write the output: {error}"))
}

fn unreachable(error: reqwest::Error) -> ServiceError {
    // The URL is this machine's own; what is of interest is the cause.
    let mut cause: &dyn std::error::Error = &error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    let text = format!(
        "the daemon of this data directory does not answer ({cause}): \
         see whether it still runs, or end it and try again"
    );
    ServiceError::new("unavailable", text)
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> ServiceResult<T> {
    serde_json::from_slice(body).map_err(|error| {
        let text =
            format!("the daemon's answer is not understood ({error}): it may run another version");
        ServiceError::new("internal", text)
    })
}

/// A whole answer within the bound.
async fn bounded_body(response: reqwest::Response) -> ServiceResult<Vec<u8>> {
    let mut body = Vec::new();
    let mut blocks = response.bytes_stream();
    while let Some(block) = blocks.next().await {
        let block = block.map_err(unreachable)?;
        if body.len() + block.len() > ANSWER_BYTES_MAX {
            return Err(ServiceError::new("internal", "the daemon's answer is too long"));
        }
        body.extend_from_slice(&block);
    }
    Ok(body)
}

impl Service for ApiClient {
    fn publish(
        &self,
        request: PublishRequest,
        progress: ProgressSender,
    ) -> BoxFuture<'_, ServiceResult<Published>> {
        Box::pin(async move { self.streamed(route::PUBLISH, &request, None, progress).await })
    }

    fn get<'a>(
        &'a self,
        request: GetRequest,
        sink: Sink<'a>,
        progress: ProgressSender,
    ) -> BoxFuture<'a, ServiceResult<Fetched>> {
        Box::pin(async move { self.streamed(route::GET, &request, Some(sink), progress).await })
    }

    fn unpublish(&self, content: ContentId) -> BoxFuture<'_, ServiceResult<Unpublished>> {
        Box::pin(self.about_work(route::UNPUBLISH, content))
    }

    fn keep(
        &self,
        content: ContentId,
        progress: ProgressSender,
    ) -> BoxFuture<'_, ServiceResult<Kept>> {
        let request = WorkRequest { content_id: content.to_string() };
        Box::pin(async move { self.streamed(route::KEEP, &request, None, progress).await })
    }

    fn work_status(&self, content: ContentId) -> BoxFuture<'_, ServiceResult<WorkStatus>> {
        Box::pin(self.about_work(route::WORK_STATUS, content))
    }

    fn node_status(&self) -> BoxFuture<'_, ServiceResult<NodeStatus>> {
        Box::pin(self.get_json(route::NODE_STATUS))
    }

    fn works(&self) -> BoxFuture<'_, ServiceResult<Vec<Work>>> {
        Box::pin(self.get_json(route::WORKS))
    }

    fn drain(&self, progress: ProgressSender) -> BoxFuture<'_, ServiceResult<Drained>> {
        Box::pin(async move { self.streamed(route::DRAIN, &(), None, progress).await })
    }

    fn peers(&self) -> BoxFuture<'_, ServiceResult<Vec<Peer>>> {
        Box::pin(self.get_json(route::PEERS))
    }

    fn verdicts(&self, count_max: usize) -> BoxFuture<'_, ServiceResult<Vec<VerdictInfo>>> {
        let request = self.http.post(format!("{}{}", self.base, route::VERDICTS));
        Box::pin(self.ask(request.json(&VerdictsRequest { count_max })))
    }

    fn replay(&self, verdict: String) -> BoxFuture<'_, ServiceResult<Replayed>> {
        let request = self.http.post(format!("{}{}", self.base, route::REPLAY));
        Box::pin(self.ask(request.json(&VerdictRequest { verdict })))
    }
}
