//! Fetching a work by its ContentID (design 6): find announcements, take it from
//! a full copy where there is one, else through its manifest from the holders.
//!
//! Nothing is handed out, and no length told, before it verified.

pub mod copy;
pub mod manifest;
pub mod proof;
pub mod race;
pub mod segment;
pub mod stream;

use std::{
    io,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use echonet_protocol::{
    content_id::ContentId,
    fetch::{Fault, FetchConfig},
    identity::NodeId,
    manifest::ManifestBody,
    params,
};
use futures::future::{Either, select};

use self::{
    manifest::{Locator, Manifest, ManifestError, Reader},
    race::Found,
    segment::{Account, Liar},
    stream::{Delivery, stream_pages},
};
use crate::{
    core::Core,
    service::{Fetched, GetRequest, Progress, ProgressSender, ServiceError, ServiceResult, Sink},
};

/// Why a fetch ended early.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Nobody announces it.
    #[error(
        "{0} was not found: no announcement of it is known to the {1} nodes asked; check the \
         ContentID, or try again when its publisher is online"
    )]
    NotFound(ContentId, usize),
    /// It is announced and cannot be had, or its manifest is wrong.
    #[error("{0}")]
    Manifest(ManifestError),
    /// No manifest can be believed.
    #[error("{0}")]
    NoManifest(String),
    /// The range lies outside of the content.
    #[error("bytes {start}..{end} are not within the {length} bytes of this content")]
    Range {
        /// First byte asked for.
        start: u64,
        /// One past the last.
        end: u64,
        /// The content's length.
        length: u64,
    },
    /// The bytes could not be handed out.
    #[error("the fetched bytes could not be written: {0}")]
    Sink(io::Error),
    /// A defect of this node.
    #[error("internal error: {0}; please report it")]
    Internal(String),
}

impl From<segment::SegmentError> for FetchError {
    fn from(e: segment::SegmentError) -> Self {
        Self::Manifest(ManifestError::Unavailable(e))
    }
}

impl From<FetchError> for ServiceError {
    fn from(e: FetchError) -> Self {
        let kind = match &e {
            FetchError::NotFound(..) => "not_found",
            FetchError::Manifest(_) | FetchError::NoManifest(_) => "unavailable",
            FetchError::Range { .. } => "invalid",
            FetchError::Sink(_) => "io",
            FetchError::Internal(_) => "internal",
        };
        Self::new(kind, e)
    }
}

/// Shard ranges of one segment under way at once.
const PARALLEL_MAX: usize = 10;
/// The slowest network for which a whole shard's attempt is not given up.
const SLOWEST_BYTES_PER_MS: u64 = 256;

/// Limits of one segment's fetch: patient with much, quick with little.
#[must_use]
pub fn fetch_config(bytes: u64) -> FetchConfig {
    let extra_ms = bytes / SLOWEST_BYTES_PER_MS;
    let base = FetchConfig::default();
    FetchConfig {
        parallel_max: PARALLEL_MAX,
        attempt_timeout_ms: base.attempt_timeout_ms + extra_ms,
        deadline_ms: base.deadline_ms + extra_ms,
        // Who did not answer a moment ago is not dialled again within seconds anyway.
        retries_max: 1,
        ..base
    }
}

/// Fetches a content into `sink`.
///
/// # Errors
/// [`ServiceError`] made from a [`FetchError`].
pub async fn get(
    core: &Arc<Core>,
    request: GetRequest,
    mut sink: Sink<'_>,
    progress: ProgressSender,
) -> ServiceResult<Fetched> {
    let content: ContentId =
        request.content_id.parse().map_err(|e| ServiceError::new("invalid", e))?;
    let begun = Instant::now();
    let mut account = Account::default();
    let fetch = Fetch { core, content, range: request.range, progress: &progress };
    let outcome = fetch.run(&mut *sink, &mut account).await;
    fetch.report(&account).await;
    let size = outcome?;
    tokio::io::AsyncWriteExt::flush(&mut sink)
        .await
        .map_err(|e| ServiceError::from(FetchError::Sink(e)))?;
    Ok(Fetched {
        content_id: content.to_string(),
        size,
        seconds: begun.elapsed().as_secs_f64(),
        sources: account.sources.iter().map(ToString::to_string).collect(),
    })
}

/// Where the bytes come from.
enum Way {
    /// A full copy.
    Copy(copy::FullCopy),
    /// The holders, by a manifest that is believed, if there is any.
    Manifest(Result<Box<Manifest>, FetchError>),
}

impl Way {
    fn manifest(believed: Result<Manifest, FetchError>) -> Self {
        Self::Manifest(believed.map(Box::new))
    }
}

struct Fetch<'a> {
    core: &'a Arc<Core>,
    content: ContentId,
    range: Option<(u64, u64)>,
    progress: &'a ProgressSender,
}

impl Fetch<'_> {
    async fn run(
        &self,
        sink: &mut (dyn tokio::io::AsyncWrite + Send + Unpin),
        account: &mut Account,
    ) -> Result<u64, FetchError> {
        let locator = Locator::default();
        let reader = Reader { core: self.core, locator: &locator, config: fetch_config(0) };
        let found = race::find(self.core, self.content).await?;
        tracing::debug!("{} announcements found", found.announcements.len());
        let (mut done, mut wanted, mut believed) = (0, None, None);
        let way = self.choose(&reader, &found, account).await;
        if let Way::Copy(copy) = way {
            let range = self.wanted(copy.total)?;
            let mut tell = self.teller(range.end);
            let mut delivery = Delivery { sink, wanted: range.clone(), on_progress: &mut tell };
            let outcome = copy::stream(self.core, &copy, &mut delivery).await;
            let left = delivery.wanted;
            if left.start > range.start {
                account.sources.insert(copy.node);
            }
            done = left.start - range.start;
            match outcome {
                Ok(()) => return Ok(done),
                Err(e @ FetchError::Sink(_)) => return Err(e),
                Err(e) => tracing::debug!("the full copy broke off: {e}"),
            }
            wanted = Some(left);
        } else if let Way::Manifest(outcome) = way {
            believed = Some(*outcome?);
        }
        Ok(done + self.read_holders(&reader, (found, believed), wanted, sink, account).await?)
    }

    /// A full copy or the holders. Whoever announced it may be gone and silent: the way to the
    /// holders is looked for meanwhile, and taken where it is found first.
    async fn choose(&self, reader: &Reader<'_>, found: &Found, account: &mut Account) -> Way {
        let mut find = std::pin::pin!(copy::find(self.core, &found.announcements));
        let patience = Duration::from_millis(self.core.client.patience_ms());
        match tokio::time::timeout(patience, &mut find).await {
            Ok(Some(copy)) => return Way::Copy(copy),
            Ok(None) => return Way::manifest(race::believe(reader, found, account).await),
            Err(_) => {}
        }
        let believe = std::pin::pin!(race::believe(reader, found, account));
        match select(find, believe).await {
            Either::Left((Some(copy), _)) => Way::Copy(copy),
            Either::Left((None, believe)) => Way::manifest(believe.await),
            Either::Right((Err(failure), find)) => {
                find.await.map_or_else(|| Way::manifest(Err(failure)), Way::Copy)
            }
            Either::Right((believed, _)) => Way::manifest(believed),
        }
    }

    /// Reads from holders by one manifest after the other: what one of them turns
    /// out not to give, another may.
    async fn read_holders(
        &self,
        reader: &Reader<'_>,
        (mut found, believed): (Found, Option<Manifest>),
        wanted: Option<Range<u64>>,
        sink: &mut (dyn tokio::io::AsyncWrite + Send + Unpin),
        account: &mut Account,
    ) -> Result<u64, FetchError> {
        let patient = Reader { config: fetch_config(params::SEGMENT_BYTES_MAX as u64), ..*reader };
        let mut manifest = match believed {
            Some(manifest) => manifest,
            None => race::believe(reader, &found, account).await?,
        };
        let wanted = match wanted {
            Some(wanted) => wanted,
            None => self.wanted(manifest.root.length)?,
        };
        tracing::debug!(
            "a manifest is believed: {size} bytes to be read",
            size = wanted.end - wanted.start
        );
        let size = wanted.end - wanted.start;
        let mut tell = self.teller(wanted.end);
        let mut delivery = Delivery { sink, wanted, on_progress: &mut tell };
        loop {
            let outcome = stream_content(&patient, &manifest, &mut delivery, account).await;
            let failure = match outcome {
                Ok(()) => return Ok(size),
                Err(e @ (FetchError::Sink(_) | FetchError::Internal(_))) => return Err(e),
                Err(e) => e,
            };
            if let FetchError::Manifest(ManifestError::Bad(reason)) = &failure {
                account.liars.extend(race::liars(&found, manifest.hash, reason));
            }
            found.announcements.retain(|a| a.body.manifest != manifest.hash);
            if found.announcements.is_empty() {
                return Err(failure);
            }
            tracing::debug!("another manifest is tried: {failure}");
            // Where no other can be had, why the first one failed says more.
            manifest = race::believe(reader, &found, account).await.map_err(|_| failure)?;
        }
    }

    fn wanted(&self, length: u64) -> Result<Range<u64>, FetchError> {
        match self.range {
            None => Ok(0..length),
            // A reader may not know the length: what lies past the end is not asked for.
            Some((start, end)) if start <= end && start <= length => Ok(start..end.min(length)),
            Some((start, end)) => Err(FetchError::Range { start, end, length }),
        }
    }

    fn teller(&self, total: u64) -> impl FnMut(u64) + Send + use<'_> {
        let progress = self.progress;
        move |done| {
            // A listener that is behind misses progress, not bytes.
            let _ = progress.try_send(Progress::Fetching { done, total });
        }
    }

    /// Tells who was caught at fault on the way.
    async fn report(&self, account: &Account) {
        for finding in &account.findings {
            let segment = finding.segment;
            let (node, what): (Option<NodeId>, String) = match finding.fault {
                Fault::Holder { index, node } => {
                    (Some(node), format!("sent shard {index} of segment {segment} damaged"))
                }
                Fault::Publisher => (
                    None,
                    format!("segment {segment} is not a codeword: its publisher is at fault"),
                ),
                Fault::Manifest => (
                    None,
                    format!("the manifest does not fit segment {segment}: its author is at fault"),
                ),
            };
            let proof = finding.proof.as_ref().map(|p| data_encoding::HEXLOWER.encode(&p.encode()));
            let node_id = node.map(|n| n.to_string()).unwrap_or_default();
            let _ = self.progress.send(Progress::Fault { node_id, detail: what, proof }).await;
        }
        for Liar { announcer, reason } in &account.liars {
            let node_id = announcer.to_string();
            let detail = format!("announced a manifest that is wrong: {reason}");
            let _ = self.progress.send(Progress::Fault { node_id, detail, proof: None }).await;
        }
    }
}

/// Streams what the delivery wants, by a manifest that is believed.
async fn stream_content(
    reader: &Reader<'_>,
    manifest: &Manifest,
    delivery: &mut Delivery<'_>,
    account: &mut Account,
) -> Result<(), FetchError> {
    match &manifest.root.body {
        ManifestBody::Inline(bytes) => delivery.deliver(0, bytes).await,
        ManifestBody::Paged { .. } => stream_pages(reader, manifest, delivery, account).await,
    }
}
