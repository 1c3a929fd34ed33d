//! Publishing a work (design 5): import, chunk, compress, pack, code, place,
//! store, seal, announce, and have it checked.
//!
//! Memory is bounded by a few segments, whatever the size of the work. Nothing
//! is announced before everything it needs is durable at its holders.

pub(super) mod again;
mod content;
pub(super) mod finish;
mod manifest;
mod pack;
mod pages;
mod resume;
mod source;
pub(crate) mod store;

use std::{collections::BTreeMap, io, path::PathBuf, sync::Arc};

use echonet_protocol::{
    announcement::{Announcement, Location},
    bytes::ManifestHash,
    content_id::ContentId,
    data::compression::CompressError,
    identity::Signed,
    lease::Grant,
    network::Genesis,
    params,
    segment::{Scheme, SegmentId},
    time::{Epoch, UnixSeconds},
};
use echonet_vault::crash_point;

use self::{
    finish::{Work, finish},
    manifest::Stored,
    source::{Source, SourceError, stamp_of},
    store::{Held, Terms},
};
use crate::{
    clock,
    core::Core,
    flow::{endings, issuers, unpublish::unused},
    origin::{Imported, OriginError},
    owner::{
        CatalogError,
        rows::{ChunkRow, SegmentRow, WorkRow, WorkState},
    },
    service::{
        Progress, ProgressSender, PublishRequest, Published, ReceiptCount, ServiceError,
        ServiceResult,
    },
};

/// Why a publish ended early.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The source cannot be read as what it was.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The store of full copies failed.
    #[error(transparent)]
    Origin(#[from] OriginError),
    /// The owner's catalog failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// A segment got too few receipts.
    #[error(
        "segment {} has {reason}; run the same publish again to resume; nothing was announced",
        segment.short()
    )]
    NotStored {
        /// Which.
        segment: SegmentId,
        /// The account of it.
        reason: String,
    },
    /// A later stage did not work.
    #[error("{0}")]
    Unfinished(String),
    /// Nobody grants space.
    #[error("no grant was had: {0}; nothing was stored")]
    NoGrant(String),
    /// The source is not a file.
    #[error("{path} cannot be published: {reason}")]
    NotAFile {
        /// What was named.
        path: PathBuf,
        /// What it is.
        reason: String,
    },
    /// Memory ran out while compressing.
    #[error(transparent)]
    Compress(#[from] CompressError),
    /// The other end of a stage is gone; its own error is the one to tell.
    #[error("the publish was stopped")]
    Stopped,
    /// A defect of this node.
    #[error("internal error: {0}; please report it")]
    Internal(String),
}

impl From<PublishError> for ServiceError {
    fn from(e: PublishError) -> Self {
        let kind = match &e {
            PublishError::Source(SourceError::Changed { .. }) => "file_changed",
            PublishError::Source(SourceError::Io { .. }) | PublishError::NotAFile { .. } => "io",
            PublishError::NotStored { .. } | PublishError::NoGrant(_) => "not_enough_holders",
            PublishError::Unfinished(_) => "network",
            PublishError::Origin(_) | PublishError::Catalog(_) => "io",
            _ => "internal",
        };
        Self::new(kind, e)
    }
}

/// A publish asks for a grant over the longest term, less some epochs for clocks that differ.
const TERM_MARGIN_EPOCHS: u64 = 2;
/// Term of a standing lease, seconds: 30 days. Its holders renew it that often, at the price of some
/// hundred bytes of disk a shard; a lease that is ended early has used a month of its grant at most,
/// and not a year.
const STANDING_TERM_S: u64 = 30 * 24 * 3600;
/// Where the longest term is short, as in trials, this part of it.
const STANDING_PARTS: u64 = 4;
/// How many times the bytes of a work its grant is for: coding, and one holder
/// using at most an eighth of it.
const GRANT_FACTOR: u64 = 4;
/// Bytes hashed between two words about it.
const HASHING_TOLD_BYTES: u64 = 4 << 20;
/// The least that is asked a grant for, bytes.
const GRANT_BYTES_MIN: u64 = 64 << 20;

/// Publishes a file, or goes on with a publish of it that was cut off.
///
/// # Errors
/// [`ServiceError`] made from a [`PublishError`].
pub async fn publish(
    core: &Arc<Core>,
    request: PublishRequest,
    progress: ProgressSender,
) -> ServiceResult<Published> {
    let job = Job { core, request: &request, progress: &progress };
    let outcome = job.run().await;
    if let Err(PublishError::Source(SourceError::Changed { .. })) = &outcome {
        // Whatever the file's times say: the next attempt hashes it again.
        job.distrust_stamps().map_err(PublishError::from)?;
    }
    Ok(outcome?)
}

struct Job<'a> {
    core: &'a Arc<Core>,
    request: &'a PublishRequest,
    progress: &'a ProgressSender,
}

impl Job<'_> {
    async fn run(&self) -> Result<Published, PublishError> {
        let (imported, mut row) = self.import().await?;
        crash_point("publish.imported");
        let Imported { content, len, mib_cvs } = imported;
        let text = content.to_string();
        let identified = Progress::Identified { content_id: text.clone(), size: len };
        let _ = self.progress.send(identified).await;
        let terms = self.terms(content, len, &mut row).await?;
        self.core.catalog.put_work(&content, &row)?;
        crash_point("publish.begun");
        let source = Arc::new(Source::open(&self.request.path, len, mib_cvs.clone())?);
        let stored =
            manifest::store_all(self.core, &terms, source, &mib_cvs, self.request, self.progress)
                .await?;
        crash_point("publish.stored");
        let announcement = self.announcement(content, &row, &stored, terms.kept_until());
        let held = &stored.held;
        let work =
            Work { announcement, held: held.clone(), size: len, content: stored.content.clone() };
        let outcome = finish(self.core, &work, self.progress).await?;
        crash_point("publish.announced");
        self.remember(&content, row, &stored, &work.announcement.body)?;
        endings::retry(self.core).await?;
        Ok(Published {
            content_id: text,
            size: len,
            segments: outcome.segments as u64,
            stored_bytes: held.values().map(|h| h.sent_bytes).sum(),
            deduplicated_bytes: stored.deduplicated_bytes,
            receipts: ReceiptCount {
                want: outcome.receipts_want as u64,
                have: outcome.receipts_have as u64,
            },
            survives_datacenter: outcome.survives_datacenter,
            live: outcome.live,
            notes: outcome.notes,
        })
    }

    fn distrust_stamps(&self) -> Result<(), CatalogError> {
        for (content, mut row) in self.core.catalog.works()? {
            if row.state == WorkState::Publishing && row.path == self.request.path {
                row.stamp = (0, 0, 0);
                self.core.catalog.put_work(&content, &row)?;
            }
        }
        Ok(())
    }

    /// First pass over the source: its ContentID. A publish that was cut off and
    /// whose source is untouched is not hashed again.
    async fn import(&self) -> Result<(Imported, WorkRow), PublishError> {
        let path = &self.request.path;
        let not_a_file = |reason: String| PublishError::NotAFile { path: path.clone(), reason };
        let meta = std::fs::metadata(path).map_err(|e| not_a_file(e.to_string()))?;
        if !meta.is_file() {
            return Err(not_a_file(
                "it is not a regular file; name one, or - for standard input".into(),
            ));
        }
        let stamp = stamp_of(path).map_err(|e: io::Error| not_a_file(e.to_string()))?;
        let scheme = self.request.scheme.unwrap_or(Scheme::DEFAULT);
        let resumable = self.core.catalog.works()?.into_iter().find(|(_, work)| {
            let is_begun = work.state == WorkState::Publishing && work.scheme == scheme;
            is_begun && work.path == *path && work.stamp == stamp
        });
        if let Some((content, row)) = resumable
            && let Ok(mib_cvs) = self.core.origin.mib_cvs(&content, row.size)
        {
            self.tell("resumed", "going on where the last attempt ended");
            return Ok((Imported { content, len: row.size, mib_cvs }, row));
        }
        let total = meta.len();
        let progress = self.progress;
        let mut told = 0;
        let imported = self.core.origin.import(path, move |done| {
            // The store tells of every 16 KiB.
            if done - told >= HASHING_TOLD_BYTES || done == total {
                told = done;
                let _ = progress.try_send(Progress::Hashing { done, total });
            }
        });
        let imported = imported.await?;
        let known = self.core.catalog.work(&imported.content)?;
        if known.as_ref().is_some_and(|known| known.scheme != scheme) {
            // Segments that were begun under another scheme are of no use to this one.
            self.core.catalog.drop_journal(&imported.content)?;
        }
        let row = WorkRow {
            size: imported.len,
            stamp,
            path: path.clone(),
            spooled: self.request.spooled,
            state: WorkState::Publishing,
            scheme,
            published_unix_s: 0,
            manifest: None,
            sequence: known.as_ref().map_or(0, |k| k.sequence),
            segments: known.as_ref().map(|k| k.segments.clone()).unwrap_or_default(),
            grant: known.and_then(|k| k.grant),
        };
        Ok((imported, row))
    }

    fn tell(&self, stage: &str, detail: &str) {
        let (stage, detail) = (stage.to_owned(), detail.to_owned());
        let _ = self.progress.try_send(Progress::Stage { stage, detail });
    }

    /// Term, grant and scheme of the leases of this publish.
    async fn terms(
        &self,
        content: ContentId,
        len: u64,
        row: &mut WorkRow,
    ) -> Result<Terms, PublishError> {
        let scheme = row.scheme;
        let stored =
            len.max(GRANT_BYTES_MIN).saturating_mul(scheme.n() as u64) / u64::from(scheme.k);
        let terms = terms_for(self.core, content, scheme, stored, row.grant.take()).await?;
        row.grant = terms.grant.clone();
        Ok(terms)
    }

    fn announcement(
        &self,
        content: ContentId,
        row: &WorkRow,
        stored: &Stored,
        until: Epoch,
    ) -> Signed<Announcement> {
        let body = Announcement {
            v: params::FORMAT_VERSION,
            network: self.core.network,
            content,
            manifest: stored.manifest,
            location: stored.location,
            publisher: self.core.node_id(),
            sequence: (row.sequence + 1).max(clock::now().0),
            expires: self.core.genesis.epoch_start(until).max(UnixSeconds(clock::now().0 + 1)),
            withdrawn: false,
        };
        Signed::new(&self.core.identity, body)
    }

    /// Leases of earlier publishes that this one's stand for, and those on segments that it has no
    /// use for, are to end: nobody else would ever end them.
    fn end_what_was(
        &self,
        content: &ContentId,
        row: &WorkRow,
        stored: &Stored,
    ) -> Result<(), PublishError> {
        let catalog = &self.core.catalog;
        let mut over = Vec::new();
        for (segment, held) in &stored.held {
            let old = catalog.segment(segment)?;
            over.extend(old.filter(|old| old.lease.hash() != held.lease.hash()));
        }
        let mut dropped = unused(self.core, content, row)?;
        dropped.retain(|segment| !stored.used.contains_key(segment));
        for segment in &dropped {
            over.extend(catalog.segment(segment)?);
        }
        endings::replaced(self.core, &over)?;
        Ok(catalog.forget_segments(&dropped)?)
    }

    /// The catalog after an announced publish; the journal goes last.
    fn remember(
        &self,
        content: &ContentId,
        mut row: WorkRow,
        stored: &Stored,
        announced: &Announcement,
    ) -> Result<(), PublishError> {
        let catalog = &self.core.catalog;
        self.end_what_was(content, &row, stored)?;
        let rows: Vec<_> = stored.held.iter().map(|(s, held)| (*s, segment_row(held))).collect();
        catalog.put_segments(&rows)?;
        let chunk_rows: Vec<_> = stored.chunks.iter().map(|(hash, row)| (*hash, *row)).collect();
        catalog.put_chunks(&chunk_rows)?;
        row.state = WorkState::Published;
        row.published_unix_s = clock::now().0;
        row.manifest = Some((announced.manifest, announced.location));
        row.sequence = announced.sequence;
        row.segments = stored.used.iter().map(|(s, bytes)| (*s, *bytes)).collect();
        catalog.put_work(content, &row)?;
        crash_point("publish.remembered");
        catalog.drop_journal(content)?;
        Ok(())
    }
}

/// Terms for `stored` bytes of shards: under this grant if it lasts, else under a new one.
///
/// # Errors
/// [`PublishError::NoGrant`].
pub(super) async fn terms_for(
    core: &Core,
    content: ContentId,
    scheme: Scheme,
    stored: u64,
    grant: Option<Signed<Grant>>,
) -> Result<Terms, PublishError> {
    let from = core.epoch();
    let longest = core.genesis.lease_epochs_max.saturating_sub(TERM_MARGIN_EPOCHS).max(1);
    let lasts = |grant: &Signed<Grant>| grant.body.until.0 > from.0 + longest / 2;
    let grant = match grant.filter(lasts) {
        Some(grant) => grant,
        None => {
            let stored = stored.max(GRANT_BYTES_MIN);
            let byte_epochs = stored.saturating_mul(GRANT_FACTOR).saturating_mul(longest);
            issuers::request(core, byte_epochs, Epoch(from.0 + longest))
                .await
                .map_err(PublishError::NoGrant)?
        }
    };
    let until = grant.body.until.min(Epoch(from.0 + standing_term(&core.genesis, longest)));
    Ok(Terms { content, scheme, grant: Some(grant), from, until })
}

/// The term of a standing lease, epochs: never shorter than a publish may take.
fn standing_term(genesis: &Genesis, longest: u64) -> u64 {
    let usual = (STANDING_TERM_S / genesis.epoch_s.max(1)).min(longest / STANDING_PARTS);
    usual.max(genesis.unsealed_epochs).clamp(1, longest)
}

pub(super) fn segment_row(held: &Held) -> SegmentRow {
    SegmentRow {
        descriptor: held.descriptor.clone(),
        lease: held.lease.clone(),
        grant: held.grant.clone(),
        receipts: held.receipts.values().cloned().collect(),
        sealed: true,
    }
}

/// Where a manifest's root page lies, by hash.
type RootPlace = (ManifestHash, Location);
/// What this owner knows of chunks.
type ChunkRows = BTreeMap<echonet_protocol::bytes::ChunkHash, ChunkRow>;
