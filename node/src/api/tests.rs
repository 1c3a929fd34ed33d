//! The local API from both ends, with a node that only pretends.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use echonet_protocol::content_id::ContentId;
use futures::future::BoxFuture;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{client::ApiClient, server::ApiServer};
use crate::{
    datadir::ApiFile,
    service::{
        Drained, Fetched, GetRequest, Kept, NodeStatus, Peer, Progress, ProgressSender,
        PublishRequest, Published, ReceiptCount, Replayed, Service, ServiceError, ServiceResult,
        Sink, Unpublished, VerdictInfo, Work, WorkStatus,
    },
};

const TOKEN: &str = "the right token";
const BLOCK_BYTES: usize = 1 << 20;

/// Pretends: content of as many MiB as its range says, or an error.
#[derive(Debug, Default)]
struct Fake {
    blocks_written: AtomicUsize,
    dropped: AtomicBool,
}

/// Notes that an operation was given up.
struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn published() -> Published {
    Published {
        content_id: "id".into(),
        size: 1,
        segments: 2,
        stored_bytes: 3,
        deduplicated_bytes: 4,
        receipts: ReceiptCount { want: 5, have: 6 },
        survives_datacenter: true,
        live: true,
        notes: vec!["note".into()],
    }
}

fn block(index: usize) -> Vec<u8> {
    vec![index as u8; BLOCK_BYTES]
}

impl Service for Fake {
    fn publish(
        &self,
        request: PublishRequest,
        progress: ProgressSender,
    ) -> BoxFuture<'_, ServiceResult<Published>> {
        Box::pin(async move {
            for done in 0..10 {
                let _ = progress.send(Progress::Storing { done, total: 10 }).await;
            }
            match request.path.to_str() {
                Some("/good") => Ok(published()),
                _ => Err(ServiceError::new("file_changed", "it changed")),
            }
        })
    }

    fn get<'a>(
        &'a self,
        request: GetRequest,
        mut sink: Sink<'a>,
        progress: ProgressSender,
    ) -> BoxFuture<'a, ServiceResult<Fetched>> {
        Box::pin(async move {
            let _guard = OnDrop(&self.dropped);
            let (from, to) = request.range.unwrap_or((0, 3));
            for index in from..to {
                let io = |e: std::io::Error| ServiceError::new("io", e);
                sink.write_all(&block(index as usize)).await.map_err(io)?;
                self.blocks_written.fetch_add(1, Ordering::SeqCst);
                let _ = progress.try_send(Progress::Fetching { done: index, total: to });
            }
            if request.content_id == "bad" {
                return Err(ServiceError::new("unavailable", "8 of 10 shards answered"));
            }
            let content_id = request.content_id;
            Ok(Fetched { content_id, size: to - from, seconds: 0.5, sources: vec!["n".into()] })
        })
    }

    fn unpublish(&self, _: ContentId) -> BoxFuture<'_, ServiceResult<Unpublished>> {
        Box::pin(async { Err(ServiceError::new("not_found", "not published from here")) })
    }

    fn keep(&self, content: ContentId, _: ProgressSender) -> BoxFuture<'_, ServiceResult<Kept>> {
        Box::pin(async move {
            Ok(Kept {
                content_id: content.to_string(),
                size: 5,
                segments: 2,
                receipts: ReceiptCount { want: 32, have: 30 },
                survives_datacenter: true,
                until_unix_s: 1_800_000_000,
            })
        })
    }

    fn work_status(&self, content: ContentId) -> BoxFuture<'_, ServiceResult<WorkStatus>> {
        let content_id = content.to_string();
        Box::pin(async { Ok(WorkStatus { content_id, segments: Vec::new() }) })
    }

    fn node_status(&self) -> BoxFuture<'_, ServiceResult<NodeStatus>> {
        Box::pin(async { Err(ServiceError::new("unavailable", "starting")) })
    }

    fn works(&self) -> BoxFuture<'_, ServiceResult<Vec<Work>>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn drain(&self, _: ProgressSender) -> BoxFuture<'_, ServiceResult<Drained>> {
        Box::pin(async { Ok(Drained { shards: 3, bytes: 300 }) })
    }

    fn peers(&self) -> BoxFuture<'_, ServiceResult<Vec<Peer>>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn verdicts(&self, _: usize) -> BoxFuture<'_, ServiceResult<Vec<VerdictInfo>>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn replay(&self, verdict: String) -> BoxFuture<'_, ServiceResult<Replayed>> {
        Box::pin(async move { Err(ServiceError::new("not_found", verdict)) })
    }
}

struct Pair {
    fake: Arc<Fake>,
    server: ApiServer,
    client: ApiClient,
}

async fn pair() -> Pair {
    let fake = Arc::new(Fake::default());
    let addr = "127.0.0.1:0".parse().unwrap();
    let server = ApiServer::start(fake.clone(), addr, TOKEN).await.unwrap();
    let client = client(&server, TOKEN);
    Pair { fake, server, client }
}

fn client(server: &ApiServer, token: &str) -> ApiClient {
    let api = ApiFile { addr: server.addr(), token: token.to_owned(), pid: 0 };
    ApiClient::new(&api).unwrap()
}

fn progress() -> (ProgressSender, tokio::sync::mpsc::Receiver<Progress>) {
    tokio::sync::mpsc::channel(super::PROGRESS_QUEUED_MAX)
}

fn get_request(content_id: &str, blocks: u64) -> GetRequest {
    GetRequest { content_id: content_id.to_owned(), range: Some((0, blocks)) }
}

fn publish_request(path: &str) -> PublishRequest {
    PublishRequest {
        path: path.into(),
        scheme: Some(echonet_protocol::segment::Scheme::DEFAULT),
        media_type: String::new(),
        spooled: false,
    }
}

#[tokio::test]
async fn a_publish_comes_back_whole_with_its_progress() {
    let pair = pair().await;
    let (sender, mut events) = progress();
    let result = pair.client.publish(publish_request("/good"), sender).await.unwrap();
    assert_eq!(result, published());
    let mut seen = 0;
    while let Ok(event) = events.try_recv() {
        assert_eq!(event, Progress::Storing { done: seen, total: 10 });
        seen += 1;
    }
    assert_eq!(seen, 10);
    let error = pair.client.publish(publish_request("/bad"), progress().0).await.unwrap_err();
    assert_eq!(error, ServiceError::new("file_changed", "it changed"));
}

#[tokio::test]
async fn fetched_bytes_arrive_in_order_and_an_error_after_them_counts() {
    let pair = pair().await;
    let mut bytes = Vec::new();
    let request = get_request("good", 5);
    let fetched = pair.client.get(request, Box::new(&mut bytes), progress().0).await.unwrap();
    assert_eq!(fetched.size, 5);
    assert_eq!(bytes, (0..5).flat_map(block).collect::<Vec<_>>());

    let mut bytes = Vec::new();
    let request = get_request("bad", 2);
    let error = pair.client.get(request, Box::new(&mut bytes), progress().0).await.unwrap_err();
    assert_eq!(error.message, "8 of 10 shards answered");
    assert_eq!(bytes.len(), 2 * BLOCK_BYTES);
}

#[tokio::test]
async fn a_reader_that_does_not_read_stops_the_node_and_one_that_leaves_ends_it() {
    let pair = pair().await;
    // The other end is never read: 64 KiB fit, then nothing moves.
    let (sink, unread) = tokio::io::duplex(64 * 1024);
    let client = pair.client.clone();
    let get = tokio::spawn(async move {
        client.get(get_request("good", 4000), Box::new(sink), progress().0).await
    });
    // Wait until nothing moves any more.
    let mut last = 0;
    let mut still = 0;
    while still < 20 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let now = pair.fake.blocks_written.load(Ordering::SeqCst);
        still = if now > 0 && now == last { still + 1 } else { 0 };
        last = now;
    }
    assert!(last < 100, "{last} MiB were taken from the node with nobody reading");
    drop(unread);
    assert!(get.await.unwrap().is_err());
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !pair.fake.dropped.load(Ordering::SeqCst) {
        assert!(tokio::time::Instant::now() < deadline, "the fetch goes on for nobody");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn plain_routes_answer_and_refuse() {
    let pair = pair().await;
    let id = ContentId::of(b"x");
    assert_eq!(pair.client.work_status(id).await.unwrap().content_id, id.to_string());
    assert_eq!(pair.client.works().await.unwrap(), []);
    assert_eq!(pair.client.peers().await.unwrap(), []);
    assert_eq!(pair.client.verdicts(7).await.unwrap(), []);
    let unknown = pair.client.replay("ab".into()).await.unwrap_err();
    assert_eq!((unknown.kind.as_str(), unknown.message.as_str()), ("not_found", "ab"));
    assert_eq!(pair.client.unpublish(id).await.unwrap_err().kind, "not_found");
    let starting = ServiceError::new("unavailable", "starting");
    assert_eq!(pair.client.node_status().await.unwrap_err(), starting);
}

#[tokio::test]
async fn without_the_token_nothing_is_answered() {
    let pair = pair().await;
    let error = client(&pair.server, "wrong").works().await.unwrap_err();
    assert!(error.message.contains("bearer token"), "{error}");
    let request = get_request("good", 1);
    let wrong = client(&pair.server, "wrong");
    let mut bytes = Vec::new();
    wrong.get(request, Box::new(&mut bytes), progress().0).await.unwrap_err();
    assert!(bytes.is_empty());
    assert_eq!(pair.fake.blocks_written.load(Ordering::SeqCst), 0);
}

/// The answer's first line to a request written by hand.
async fn raw(server: &ApiServer, headers: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(server.addr()).await.unwrap();
    let request = format!("GET /v1/works HTTP/1.1\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(!answer.to_ascii_lowercase().contains("access-control"), "{answer}");
    answer.lines().next().unwrap().to_owned()
}

#[tokio::test]
async fn foreign_hosts_and_origins_are_refused_even_with_the_token() {
    let pair = pair().await;
    let auth = format!("Authorization: Bearer {TOKEN}\r\n");
    let host = format!("Host: {}\r\n", pair.server.addr());
    let ask = async |headers: String| raw(&pair.server, &headers).await;
    assert!(ask(format!("{host}{auth}")).await.contains("200"));
    assert!(
        ask(format!("{host}Origin: http://{}\r\n{auth}", pair.server.addr())).await.contains("200")
    );
    assert!(ask(host.clone()).await.contains("401"));
    assert!(ask(format!("Host: evil.example\r\n{auth}")).await.contains("421"));
    assert!(ask(format!("{host}Origin: http://evil.example\r\n{auth}")).await.contains("403"));
    assert!(ask(format!("{host}Origin: null\r\n{auth}")).await.contains("403"));
}

#[tokio::test]
async fn a_daemon_that_is_gone_is_said_to_be() {
    let pair = pair().await;
    let client = pair.client.clone();
    pair.server.shutdown(Duration::from_secs(5)).await;
    let error = client.works().await.unwrap_err();
    assert_eq!(error.kind, "unavailable");
    assert!(error.message.contains("does not answer"), "{error}");
}

/// A server that answers every request with `body` and hangs up.
async fn answers_with(body: Vec<u8>) -> ApiClient {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 4096];
        let _ = stream.read(&mut request).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").await.unwrap();
        stream.write_all(&body).await.unwrap();
    });
    ApiClient::new(&ApiFile { addr, token: TOKEN.into(), pid: 0 }).unwrap()
}

#[tokio::test]
async fn an_answer_that_stops_early_is_no_short_success() {
    use super::frame::{FrameKind, encode};
    let content = encode(FrameKind::Content, b"some").unwrap().to_vec();
    for cut in [0, 3, content.len()] {
        let client = answers_with(content[..cut].to_vec()).await;
        let mut bytes = Vec::new();
        let request = get_request("good", 1);
        let error = client.get(request, Box::new(&mut bytes), progress().0).await.unwrap_err();
        assert!(error.message.contains("stopped before its result"), "{error}");
    }
    let huge = vec![3, 0xff, 0xff, 0xff, 0xff];
    let client = answers_with(huge).await;
    let error = client.publish(publish_request("/good"), progress().0).await.unwrap_err();
    assert!(error.message.contains("bound"), "{error}");
}
