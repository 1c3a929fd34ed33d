//! A daemon whose node only pretends: it has one work per length, and fails
//! where it is told to.

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use echonet_node::{
    api::server::ApiServer,
    datadir::{ApiFile, DataDir, Lock},
    service::{
        Drained, Fetched, GetRequest, Kept, LimitsStatus, NodeStatus, Peer, Progress,
        ProgressSender, PublishRequest, Published, ReceiptCount, Replayed, SegmentStatus, Service,
        ServiceError, ServiceResult, ShardStatus, Sink, Unpublished, VerdictInfo, Work, WorkStatus,
    },
};
use echonet_protocol::content_id::ContentId;
use futures::future::{BoxFuture, ready};
use tokio::io::AsyncWriteExt as _;

/// Lengths of the works that it has.
const LENGTHS: [usize; 3] = [1 << 20, 2 << 20, 5 << 20];

/// Bytes of a work; different in every MiB.
pub(crate) fn content(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect()
}

/// The ContentID of the work of that length.
pub(crate) fn content_id(length: usize) -> String {
    ContentId::of(&content(length)).to_string()
}

#[derive(Debug, Default)]
struct Heard {
    publish: Option<PublishRequest>,
    range: Option<(u64, u64)>,
    fail_after: Option<usize>,
}

#[derive(Debug, Clone, Default)]
struct Fake(Arc<Mutex<Heard>>);

/// A running daemon on a data directory.
pub(crate) struct Daemon {
    fake: Fake,
    _server: ApiServer,
    _lock: Lock,
}

impl Daemon {
    pub(crate) async fn start(data: &Path) -> Self {
        let dir = DataDir::open(data).unwrap();
        let lock = dir.lock("node").unwrap();
        let fake = Fake::default();
        let addr = "127.0.0.1:0".parse().unwrap();
        let server = ApiServer::start(Arc::new(fake.clone()), addr, "token").await.unwrap();
        let (addr, token) = (server.addr(), "token".to_owned());
        dir.write_api_file(&ApiFile { addr, token, pid: std::process::id() }).unwrap();
        Self { fake, _server: server, _lock: lock }
    }

    /// Fetches end with an error after so many bytes.
    pub(crate) fn fail_after(&self, bytes: usize) {
        self.fake.0.lock().unwrap().fail_after = Some(bytes);
    }

    pub(crate) fn last_publish(&self) -> PublishRequest {
        self.fake.0.lock().unwrap().publish.clone().unwrap()
    }

    pub(crate) fn last_range(&self) -> Option<(u64, u64)> {
        self.fake.0.lock().unwrap().range
    }
}

fn work(length: usize, state: &str) -> Work {
    Work {
        content_id: content_id(length),
        size: length as u64,
        path: "/works/one".into(),
        state: state.to_owned(),
        segments: 2,
        published_unix_s: 1_700_000_000,
    }
}

impl Service for Fake {
    fn publish(
        &self,
        request: PublishRequest,
        progress: ProgressSender,
    ) -> BoxFuture<'_, ServiceResult<Published>> {
        Box::pin(async move {
            let _ = progress.send(Progress::Storing { done: 0, total: 1 }).await;
            let fails = request.media_type == "fail/quorum";
            self.0.lock().unwrap().publish = Some(request);
            if fails {
                let text = "13 of 14 nodes took a shard: start more nodes";
                return Err(ServiceError::new("not_enough_holders", text));
            }
            Ok(Published {
                content_id: content_id(1 << 20),
                size: 1 << 20,
                segments: 2,
                stored_bytes: 2 << 20,
                deduplicated_bytes: 0,
                receipts: ReceiptCount { want: 23, have: 23 },
                survives_datacenter: true,
                live: true,
                notes: Vec::new(),
            })
        })
    }

    fn get<'a>(
        &'a self,
        request: GetRequest,
        mut sink: Sink<'a>,
        _: ProgressSender,
    ) -> BoxFuture<'a, ServiceResult<Fetched>> {
        Box::pin(async move {
            let known =
                LENGTHS.into_iter().find(|length| content_id(*length) == request.content_id);
            let Some(length) = known else {
                return Err(ServiceError::new("not_found", "nobody announces it"));
            };
            let fail_after = {
                let mut heard = self.0.lock().unwrap();
                heard.range = request.range;
                heard.fail_after.unwrap_or(usize::MAX)
            };
            let (from, to) = request.range.unwrap_or((0, u64::MAX));
            let (from, to) = (from as usize, usize::try_from(to).unwrap().min(length));
            if from > length {
                return Err(ServiceError::new("invalid", "the range is behind the end"));
            }
            let end = to.min(fail_after);
            sink.write_all(&content(length)[from..end]).await.unwrap();
            if end < to {
                let text = "manifest found, 8 of 10 needed shards answered";
                return Err(ServiceError::new("unavailable", text));
            }
            let (content_id, size) = (request.content_id, (to - from) as u64);
            Ok(Fetched { content_id, size, seconds: 0.1, sources: vec!["n".to_owned()] })
        })
    }

    fn unpublish(&self, content: ContentId) -> BoxFuture<'_, ServiceResult<Unpublished>> {
        if content.to_string() != content_id(LENGTHS[1]) {
            let error = ServiceError::new("not_found", "not published from here");
            return Box::pin(ready(Err(error)));
        }
        let work = Work { state: "withdrawn".to_owned(), ..work(LENGTHS[1], "kept") };
        Box::pin(ready(Ok(Unpublished { work, holders_told: 13, holders_unreached: 2 })))
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
        let shard = |index| ShardStatus { index, holder: "h".to_owned(), alive: index == 0 };
        let segment = SegmentStatus {
            segment_id: "00".repeat(32),
            scheme: "1+6".to_owned(),
            shard_bytes: 4,
            placements: Vec::new(),
            shards: vec![shard(0), shard(1)],
        };
        let content_id = content.to_string();
        Box::pin(ready(Ok(WorkStatus { content_id, segments: vec![segment] })))
    }

    fn node_status(&self) -> BoxFuture<'_, ServiceResult<NodeStatus>> {
        Box::pin(ready(Ok(NodeStatus {
            node_id: "11".repeat(32),
            network_id: "22".repeat(32),
            roles: vec!["storage".to_owned()],
            addrs: vec!["127.1.2.3:4700".to_owned()],
            peers: 3,
            epoch: 4,
            limits: LimitsStatus {
                upload_cap: Some(2 << 20),
                download_cap: None,
                quiet_cap: 64 << 10,
                quiet_hours: 50,
                quiet_now: true,
            },
            vault: None,
            repair: None,
            works: 0,
        })))
    }

    fn works(&self) -> BoxFuture<'_, ServiceResult<Vec<Work>>> {
        let works = vec![work(LENGTHS[0], "published"), work(LENGTHS[1], "kept")];
        Box::pin(ready(Ok(works)))
    }

    fn drain(&self, _: ProgressSender) -> BoxFuture<'_, ServiceResult<Drained>> {
        Box::pin(async { Ok(Drained { shards: 3, bytes: 300 }) })
    }

    fn peers(&self) -> BoxFuture<'_, ServiceResult<Vec<Peer>>> {
        Box::pin(ready(Ok(Vec::new())))
    }

    fn verdicts(&self, _: usize) -> BoxFuture<'_, ServiceResult<Vec<VerdictInfo>>> {
        Box::pin(ready(Ok(Vec::new())))
    }

    fn replay(&self, _: String) -> BoxFuture<'_, ServiceResult<Replayed>> {
        Box::pin(ready(Err(ServiceError::new("not_found", "no such verdict is kept here"))))
    }
}
