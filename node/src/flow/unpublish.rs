//! Taking a work down: its announcement is withdrawn, then this owner's leases
//! on what no other work of this owner uses are ended. A work that is
//! only kept is taken down in the same way: its publisher's records stay.
//!
//! It never touches anybody else's lease.

use std::{collections::BTreeSet, sync::Arc};

use echonet_protocol::{
    announcement::{Announcement, RecordKind},
    content_id::ContentId,
    identity::Signed,
    params,
    segment::SegmentId,
    time::UnixSeconds,
};
use echonet_vault::crash_point;

use crate::{
    clock,
    core::Core,
    flow::{discover, endings},
    owner::{
        CatalogError,
        rows::{WorkRow, WorkState},
    },
    service::{ServiceError, ServiceResult, Unpublished, Work},
};

/// How long a withdrawal is kept by others, seconds: longer than any copy of the
/// announcement that it replaces is passed on.
const WITHDRAWN_S: u64 = 30 * 24 * 3600;

impl From<CatalogError> for ServiceError {
    fn from(e: CatalogError) -> Self {
        Self::new("io", e)
    }
}

/// Takes a work down.
///
/// # Errors
/// `not_found` for a work that is not this owner's; `network` when the
/// withdrawal reached nobody.
pub async fn unpublish(core: &Arc<Core>, content: ContentId) -> ServiceResult<Unpublished> {
    let known = core.catalog.work(&content)?;
    let Some(mut row) = known else {
        let reason = format!("{content} was neither published nor kept from this data directory");
        return Err(ServiceError::new("not_found", reason));
    };
    withdraw(core, content, &mut row).await?;
    crash_point("unpublish.withdrawn");
    let over = unused(core, &content, &row)?;
    let told = endings::end(core, &over).await?;
    crash_point("unpublish.ended");
    // What an earlier one could not end.
    endings::retry(core).await?;
    core.catalog.forget_segments(&over)?;
    row.state = WorkState::Withdrawn;
    row.segments = Vec::new();
    core.catalog.put_work(&content, &row)?;
    core.catalog.drop_journal(&content)?;
    Ok(Unpublished {
        work: work(&content, &row),
        holders_told: told.told as u64,
        holders_unreached: told.unreached as u64,
    })
}

/// A work as its owner sees it.
#[must_use]
pub fn work(content: &ContentId, row: &WorkRow) -> Work {
    Work {
        content_id: content.to_string(),
        size: row.size,
        path: row.path.clone(),
        state: row.state.name().to_owned(),
        segments: row.segments.len() as u64,
        published_unix_s: row.published_unix_s,
    }
}

async fn withdraw(core: &Arc<Core>, content: ContentId, row: &mut WorkRow) -> ServiceResult<()> {
    // A publish that never came to its end announced nothing.
    let Some((manifest, location)) = row.manifest else { return Ok(()) };
    let now = clock::now();
    row.sequence = (row.sequence + 1).max(now.0);
    let body = Announcement {
        v: params::FORMAT_VERSION,
        network: core.network,
        content,
        manifest,
        location,
        publisher: core.node_id(),
        sequence: row.sequence,
        expires: UnixSeconds(now.0 + WITHDRAWN_S),
        withdrawn: true,
    };
    let signed = Signed::new(&core.identity, body);
    let record = (RecordKind::Announcement, *content.as_bytes(), signed.encode());
    let kept = discover::put(core, vec![record]).await;
    if kept.first().copied().unwrap_or(0) == 0 {
        let reason = "the withdrawal reached no node; nothing was ended; try again when the network \
                      can be reached";
        return Err(ServiceError::new("network", reason));
    }
    Ok(())
}

/// The work's segments that no other published work of this owner uses.
pub(super) fn unused(
    core: &Core,
    content: &ContentId,
    row: &WorkRow,
) -> Result<Vec<SegmentId>, CatalogError> {
    let works = core.catalog.works()?;
    let others =
        works.iter().filter(|(id, work)| id != content && work.state != WorkState::Withdrawn);
    let used: BTreeSet<SegmentId> =
        others.flat_map(|(_, work)| work.segments.iter().map(|(segment, _)| *segment)).collect();
    let own = row.segments.iter().map(|(segment, _)| *segment);
    Ok(own.filter(|segment| !used.contains(segment)).collect())
}
