//! The daemon's side of the local API.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::{
    Json, Router,
    body::Body,
    extract::{DefaultBodyLimit, Request, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use bytes::Bytes;
use echonet_protocol::content_id::ContentId;
use futures::{Future, stream};
use serde::Serialize;
use tokio::{
    io::AsyncWrite,
    net::TcpListener,
    sync::{Semaphore, mpsc, oneshot},
    task::JoinHandle,
};
use tokio_util::sync::PollSender;

use super::{
    CONTENT_FRAME_BYTES, FRAMES_QUEUED_MAX, PROGRESS_QUEUED_MAX, REQUEST_BYTES_MAX, REQUESTS_MAX,
    VerdictRequest, VerdictsRequest, WorkRequest,
    frame::{self, FrameKind},
    guard,
    progress::with_progress,
    route,
};
use crate::service::{
    GetRequest, Progress, ProgressSender, PublishRequest, Service, ServiceError, ServiceResult,
};

/// The API of a running daemon. Dropping it ends it at once.
#[derive(Debug)]
pub struct ApiServer {
    addr: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

#[derive(Clone)]
struct Shared {
    service: Arc<dyn Service>,
    token_hash: blake3::Hash,
    slots: Arc<Semaphore>,
}

impl ApiServer {
    /// Listens on `addr` and answers to whoever knows `token`.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn start(
        service: Arc<dyn Service>,
        addr: SocketAddr,
        token: &str,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(addr).await?;
        let addr = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let app = router(service, token);
        let task = tokio::spawn(async move {
            let ended = async move {
                let _ = stopped.await;
            };
            if let Err(error) = axum::serve(listener, app).with_graceful_shutdown(ended).await {
                tracing::error!(%error, "the local API ended");
            }
        });
        Ok(Self { addr, stop: Some(stop), task })
    }

    /// Where it listens.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Takes no more requests and waits up to `grace` for running ones.
    pub async fn shutdown(mut self, grace: std::time::Duration) {
        drop(self.stop.take());
        if tokio::time::timeout(grace, &mut self.task).await.is_err() {
            tracing::warn!("requests over the local API were cut off");
        }
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn router(service: Arc<dyn Service>, token: &str) -> Router {
    let shared = Shared {
        service,
        token_hash: blake3::hash(token.as_bytes()),
        slots: Arc::new(Semaphore::new(REQUESTS_MAX)),
    };
    Router::new()
        .route(route::PUBLISH, post(publish))
        .route(route::GET, post(fetch))
        .route(route::DRAIN, post(drain))
        .route(route::UNPUBLISH, post(unpublish))
        .route(route::KEEP, post(keep))
        .route(route::WORK_STATUS, post(work_status))
        .route(route::NODE_STATUS, get(node_status))
        .route(route::WORKS, get(works))
        .route(route::PEERS, get(peers))
        .route(route::VERDICTS, post(verdicts))
        .route(route::REPLAY, post(replay))
        .fallback(async || failure(StatusCode::NOT_FOUND, "invalid", "no such route"))
        .layer(DefaultBodyLimit::max(REQUEST_BYTES_MAX))
        .layer(middleware::from_fn_with_state(shared.clone(), admit))
        .with_state(shared)
}

/// Refuses whoever may not ask, before anything else of a request is read.
async fn admit(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    if let Err(refusal) = guard::check(request.headers(), &shared.token_hash) {
        return failure(refusal.status(), "invalid", refusal.message());
    }
    let Ok(slot) = shared.slots.clone().try_acquire_owned() else {
        let busy = "the daemon carries out too many requests: try again later";
        return failure(StatusCode::SERVICE_UNAVAILABLE, "unavailable", busy);
    };
    let response = next.run(request).await;
    // The slot is held until the last byte of the answer left.
    let (parts, body) = response.into_parts();
    let body = stream::unfold((body.into_data_stream(), slot), async |(mut body, slot)| {
        let block = futures::StreamExt::next(&mut body).await?;
        Some((block, (body, slot)))
    });
    Response::from_parts(parts, Body::from_stream(body))
}

fn failure(status: StatusCode, kind: &str, message: &str) -> Response {
    (status, Json(ServiceError::new(kind, message))).into_response()
}

fn answer<T: Serialize>(result: ServiceResult<T>) -> Response {
    match result {
        Ok(value) => Json(value).into_response(),
        Err(error) => {
            let status = match error.kind.as_str() {
                "not_found" => StatusCode::NOT_FOUND,
                "invalid" => StatusCode::BAD_REQUEST,
                "unavailable" | "not_enough_holders" => StatusCode::SERVICE_UNAVAILABLE,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            };
            (status, Json(error)).into_response()
        }
    }
}

fn content_id(text: &str) -> ServiceResult<ContentId> {
    text.parse().map_err(|error| ServiceError::new("invalid", error))
}

async fn publish(State(shared): State<Shared>, Json(request): Json<PublishRequest>) -> Response {
    framed(move |_, progress| async move { shared.service.publish(request, progress).await })
}

async fn fetch(State(shared): State<Shared>, Json(request): Json<GetRequest>) -> Response {
    framed(move |frames, progress| async move {
        let sink = FrameSink(PollSender::new(frames));
        shared.service.get(request, Box::new(sink), progress).await
    })
}

async fn drain(State(shared): State<Shared>) -> Response {
    framed(move |_, progress| async move { shared.service.drain(progress).await })
}

async fn unpublish(State(shared): State<Shared>, Json(request): Json<WorkRequest>) -> Response {
    match content_id(&request.content_id) {
        Ok(id) => answer(shared.service.unpublish(id).await),
        Err(error) => answer::<()>(Err(error)),
    }
}

async fn keep(State(shared): State<Shared>, Json(request): Json<WorkRequest>) -> Response {
    match content_id(&request.content_id) {
        Ok(id) => framed(move |_, progress| async move { shared.service.keep(id, progress).await }),
        Err(error) => answer::<()>(Err(error)),
    }
}

async fn work_status(State(shared): State<Shared>, Json(request): Json<WorkRequest>) -> Response {
    match content_id(&request.content_id) {
        Ok(id) => answer(shared.service.work_status(id).await),
        Err(error) => answer::<()>(Err(error)),
    }
}

async fn node_status(State(shared): State<Shared>) -> Response {
    answer(shared.service.node_status().await)
}

async fn works(State(shared): State<Shared>) -> Response {
    answer(shared.service.works().await)
}

async fn peers(State(shared): State<Shared>) -> Response {
    answer(shared.service.peers().await)
}

async fn verdicts(State(shared): State<Shared>, Json(request): Json<VerdictsRequest>) -> Response {
    answer(shared.service.verdicts(request.count_max).await)
}

async fn replay(State(shared): State<Shared>, Json(request): Json<VerdictRequest>) -> Response {
    answer(shared.service.replay(request.verdict).await)
}

/// Ends the operation when its listener went away.
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Answers with the frames of an operation: its progress, its content, and
/// last its result or error. The operation goes no faster than its listener.
fn framed<T, F, Run>(run: Run) -> Response
where
    T: Serialize + Send + 'static,
    F: Future<Output = ServiceResult<T>> + Send + 'static,
    Run: FnOnce(mpsc::Sender<Bytes>, ProgressSender) -> F + Send + 'static,
{
    let (frames, queue) = mpsc::channel(FRAMES_QUEUED_MAX);
    let task = tokio::spawn(async move {
        let (progress, events) = mpsc::channel(PROGRESS_QUEUED_MAX);
        let run = run(frames.clone(), progress);
        let result = with_progress(run, events, |event| send_progress(frames.clone(), event));
        let last = last_frame(result.await);
        // Nobody listening any more is nothing to report to anybody.
        let _ = frames.send(last).await;
    });
    let body = stream::unfold((queue, AbortOnDrop(task)), async |(mut queue, task)| {
        let frame = queue.recv().await?;
        Some((Ok::<_, io::Error>(frame), (queue, task)))
    });
    let kind = [(header::CONTENT_TYPE, "application/x-echonet-frames")];
    (kind, Body::from_stream(body)).into_response()
}

async fn send_progress(frames: mpsc::Sender<Bytes>, event: Progress) {
    let payload = serde_json::to_vec(&event).unwrap_or_default();
    if let Ok(frame) = frame::encode(FrameKind::Progress, &payload) {
        let _ = frames.send(frame).await;
    }
}

fn last_frame<T: Serialize>(result: ServiceResult<T>) -> Bytes {
    let encoded = match &result {
        Ok(value) => json_frame(FrameKind::Result, value),
        Err(error) => json_frame(FrameKind::Error, error),
    };
    encoded.unwrap_or_else(|reason| {
        let error = ServiceError::new("internal", format!("the result cannot be sent: {reason}"));
        json_frame(FrameKind::Error, &error).unwrap_or_default()
    })
}

fn json_frame(kind: FrameKind, value: &impl Serialize) -> Result<Bytes, String> {
    let payload = serde_json::to_vec(value).map_err(|error| error.to_string())?;
    frame::encode(kind, &payload).map_err(|error| error.to_string())
}

/// Turns written bytes into content frames.
struct FrameSink(PollSender<Bytes>);

fn gone<E>(_: E) -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "whoever asked went away")
}

impl AsyncWrite for FrameSink {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.0.poll_reserve(cx)).map_err(gone)?;
        let length = bytes.len().min(CONTENT_FRAME_BYTES);
        let frame = frame::encode(FrameKind::Content, &bytes[..length]).map_err(gone)?;
        self.0.send_item(frame).map_err(gone)?;
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
