//! From runs of chunks to verified bytes in order: fetch ahead, decompress,
//! check every MiB against the ContentID, hand out.
//!
//! A byte that did not verify never reaches the sink.

use std::{ops::Range, sync::Arc};

use echonet_protocol::{
    data::{self, GROUP_BYTES, StoredCodec},
    manifest::Extent,
    params,
};
use futures::{StreamExt, stream};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use super::{
    FetchError,
    manifest::{ChunkRun, LoadedPage, Manifest, ManifestError, Reader, runs},
    segment::{Account, SegmentBytes},
};

/// Runs fetched ahead: bounds memory at about so many segments and their parity.
const RUNS_AHEAD: usize = 2;

/// Where verified bytes go, and what is told on the way.
pub struct Delivery<'a> {
    /// Takes the bytes of the wanted range, in order.
    pub sink: &'a mut (dyn AsyncWrite + Send + Unpin),
    /// The bytes of the content that are still wanted.
    pub wanted: Range<u64>,
    /// Told after each delivery: bytes delivered up to here.
    pub on_progress: &'a mut (dyn FnMut(u64) + Send),
}

impl Delivery<'_> {
    /// Hands out the part of verified `bytes`, which begin at `offset` of the
    /// content, that is wanted.
    ///
    /// # Errors
    /// [`FetchError::Sink`].
    pub async fn deliver(&mut self, offset: u64, bytes: &[u8]) -> Result<(), FetchError> {
        let end = offset + bytes.len() as u64;
        let from = self.wanted.start.clamp(offset, end);
        let to = self.wanted.end.clamp(offset, end);
        if from < to {
            // Both are within `bytes`: they were clamped to it.
            let part = &bytes[(from - offset) as usize..(to - offset) as usize];
            self.sink.write_all(part).await.map_err(FetchError::Sink)?;
            self.wanted.start = to;
            (self.on_progress)(to);
        }
        Ok(())
    }
}

/// A run's chunks.
struct Chunks {
    content_offset: u64,
    segment: SegmentBytes,
    plain: Vec<Plain>,
}

/// A chunk's plain bytes.
enum Plain {
    /// Decompressed.
    Made(Vec<u8>),
    /// As they lie in the segment: what is stored raw is not copied.
    Stored { offset: usize, len: usize },
}

impl Chunks {
    /// A chunk's plain bytes, in pieces.
    fn pieces<'a>(&'a self, plain: &'a Plain) -> Option<Vec<&'a [u8]>> {
        match plain {
            Plain::Made(bytes) => Some(vec![bytes]),
            Plain::Stored { offset, len } => self.segment.parts(*offset, *len),
        }
    }
}

/// Streams the wanted bytes of a paged manifest.
///
/// # Errors
/// [`FetchError`]; what was delivered before is right.
pub async fn stream_pages(
    reader: &Reader<'_>,
    manifest: &Manifest,
    delivery: &mut Delivery<'_>,
    account: &mut Account,
) -> Result<(), FetchError> {
    while !delivery.wanted.is_empty() {
        let index = u32::try_from(delivery.wanted.start / params::PAGE_CONTENT_BYTES)
            .map_err(|_| FetchError::Manifest(ManifestError::Bad("a page out of bounds".into())))?;
        let loaded = reader.page(manifest, index, account).await.map_err(FetchError::Manifest)?;
        stream_page(reader, &loaded, delivery, account).await?;
    }
    Ok(())
}

async fn stream_page(
    reader: &Reader<'_>,
    loaded: &Arc<LoadedPage>,
    delivery: &mut Delivery<'_>,
    account: &mut Account,
) -> Result<(), FetchError> {
    let page_start = u64::from(loaded.page.index) * params::PAGE_CONTENT_BYTES;
    let page_end = page_start + u64::from(loaded.page.length);
    let end = delivery.wanted.end.min(page_end);
    // Whole MiBs are fetched, because whole MiBs are verified.
    let start = delivery.wanted.start / GROUP_BYTES * GROUP_BYTES;
    let groups_end = end.next_multiple_of(GROUP_BYTES).min(page_end);
    let runs = runs(&loaded.page, start..groups_end);
    let segments: Vec<_> = runs.iter().map(|run| run.segment).collect();
    reader.locator.prefetch(reader.core, &segments).await;
    let fetches = runs.into_iter().map(|run| fetch_run(reader, run));
    let mut arriving = stream::iter(fetches).buffered(RUNS_AHEAD);
    let mut groups = Groups::new(loaded, start);
    while let Some((chunks, of_run)) = arriving.next().await {
        // Who was caught is told also where nothing came of it.
        account.sources.extend(&of_run.sources);
        account.findings.extend(of_run.findings);
        let chunks = chunks?;
        let mut offset = chunks.content_offset;
        for plain in &chunks.plain {
            for piece in chunks.pieces(plain).ok_or_else(missing)? {
                groups.push(offset, piece, delivery).await?;
                offset += piece.len() as u64;
            }
        }
    }
    // Every wanted byte of the page lies in a MiB that was pushed: what is left is the next page's.
    if delivery.wanted.start < end {
        return Err(missing());
    }
    Ok(())
}

fn missing() -> FetchError {
    FetchError::Manifest(ManifestError::Bad("chunks are missing".into()))
}

async fn fetch_run(reader: &Reader<'_>, run: ChunkRun) -> (Result<Chunks, FetchError>, Account) {
    let mut account = Account::default();
    let chunks = fetch_chunks(reader, run, &mut account).await;
    (chunks, account)
}

async fn fetch_chunks(
    reader: &Reader<'_>,
    run: ChunkRun,
    account: &mut Account,
) -> Result<Chunks, FetchError> {
    let located = reader.locator.locate(reader.core, run.segment).await?;
    if run.stored.end > located.descriptor.length as usize {
        let reason = "a chunk outside of its segment".to_owned();
        return Err(FetchError::Manifest(ManifestError::Bad(reason)));
    }
    let shard_len = located.descriptor.shard_len();
    let is_one_shard = run.stored.start / shard_len == (run.stored.end - 1) / shard_len;
    let extents = run.extents.clone();
    let is_content = move |part: &SegmentBytes| {
        // Whole shards were checked against the descriptor; parts of shards are by their chunks.
        !is_one_shard || extents.iter().all(|extent| unpack(part, extent, true).is_ok())
    };
    let part = reader.part(&located, &run.stored, &is_content, account).await?;
    let (extents, segment) = (run.extents, part.clone());
    let unpacked = tokio::task::spawn_blocking(move || {
        extents.iter().map(|extent| plain_of(&part, extent)).collect::<Result<Vec<_>, _>>()
    });
    let plain = unpacked
        .await
        .map_err(|e| FetchError::Internal(e.to_string()))?
        .map_err(|reason| FetchError::Manifest(ManifestError::Bad(reason)))?;
    Ok(Chunks { content_offset: run.content_offset, segment, plain })
}

fn plain_of(part: &SegmentBytes, extent: &Extent) -> Result<Plain, String> {
    let (offset, len) = (extent.offset as usize, extent.stored as usize);
    if extent.codec == StoredCodec::Raw as u8 && extent.stored == extent.plain {
        return Ok(Plain::Stored { offset, len });
    }
    Ok(Plain::Made(unpack(part, extent, false)?))
}

fn unpack(part: &SegmentBytes, extent: &Extent, check_hash: bool) -> Result<Vec<u8>, String> {
    let stored = part.get(extent.offset as usize, extent.stored as usize);
    let stored = stored.ok_or("a chunk that is not there")?;
    let codec = StoredCodec::try_from(extent.codec).map_err(|e| e.to_string())?;
    let plain =
        data::decompress(codec, &stored, extent.plain as usize).map_err(|e| e.to_string())?;
    if check_hash && blake3::hash(&plain).as_bytes() != &extent.chunk.0 {
        return Err(format!("chunk {} has another hash", extent.chunk.short()));
    }
    Ok(plain)
}

/// Gathers chunks into MiBs and verifies each.
struct Groups<'a> {
    loaded: &'a LoadedPage,
    /// First content byte of the MiB being gathered.
    start: u64,
    bytes: Vec<u8>,
}

impl<'a> Groups<'a> {
    fn new(loaded: &'a LoadedPage, start: u64) -> Self {
        Self { loaded, start, bytes: Vec::with_capacity(GROUP_BYTES as usize) }
    }

    fn group_len(&self) -> usize {
        let page_start = u64::from(self.loaded.page.index) * params::PAGE_CONTENT_BYTES;
        let page_end = page_start + u64::from(self.loaded.page.length);
        usize::try_from((page_end - self.start).min(GROUP_BYTES)).unwrap_or(0)
    }

    async fn push(
        &mut self,
        offset: u64,
        mut plain: &[u8],
        delivery: &mut Delivery<'_>,
    ) -> Result<(), FetchError> {
        // The first chunk may begin before the first wanted MiB.
        let before = self.start.saturating_sub(offset).min(plain.len() as u64);
        if self.bytes.is_empty() && offset < self.start {
            plain = &plain[usize::try_from(before).unwrap_or(plain.len())..];
        }
        while !plain.is_empty() {
            let room = self.group_len() - self.bytes.len();
            let (now, rest) = plain.split_at(room.min(plain.len()));
            plain = rest;
            if self.bytes.is_empty() && now.len() == self.group_len() {
                self.hand_out(now, delivery).await?;
            } else {
                self.bytes.extend_from_slice(now);
                if self.bytes.len() == self.group_len() {
                    let bytes = std::mem::take(&mut self.bytes);
                    self.hand_out(&bytes, delivery).await?;
                    self.bytes = bytes;
                    self.bytes.clear();
                }
            }
            if self.group_len() == 0 {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn hand_out(
        &mut self,
        bytes: &[u8],
        delivery: &mut Delivery<'_>,
    ) -> Result<(), FetchError> {
        let group = self.start / GROUP_BYTES;
        let verified = self.loaded.groups.verify(group, bytes);
        verified.map_err(|e| FetchError::Manifest(ManifestError::Bad(e.to_string())))?;
        delivery.deliver(self.start, bytes).await?;
        self.start += bytes.len() as u64;
        Ok(())
    }
}
