//! Leasing a segment again that this owner stored before: what makes a chunk in
//! it worth referring to.

use std::{collections::BTreeMap, sync::Arc};

use echonet_protocol::{
    placement::{Site, survives_datacenter},
    publish::StoreInput,
    segment::SegmentId,
};
use futures::{StreamExt, stream};

use super::{
    PublishError,
    store::{FIRST_PLACEMENT, Held, Terms, judge},
};
use crate::{client::LeaseClaim, core::Core, owner::rows::SegmentRow};

/// Holders asked at once.
const PARALLEL: usize = 16;

/// Gets receipts for a segment under a lease that lasts as long as the terms
/// say; none when too few holders give one.
///
/// # Errors
/// [`PublishError`] of the catalog.
pub(super) async fn lease_again(
    core: &Arc<Core>,
    terms: &Terms,
    segment: SegmentId,
) -> Result<Option<Held>, PublishError> {
    let Some(row) = core.catalog.segment(&segment)? else { return Ok(None) };
    let claim = claim_for(core, terms, segment, &row);
    let holders: Vec<_> = row.receipts.iter().map(|r| (r.body.index, r.body.holder)).collect();
    let (claim, descriptor) = (&claim, &row.descriptor);
    let asked = stream::iter(holders).map(|(index, node)| async move {
        let answer = core.client.add_lease(&node, claim, index, FIRST_PLACEMENT).await;
        judge(&core.members, claim, descriptor, (index, node), answer)
    });
    let mut receipts = BTreeMap::new();
    for answer in asked.buffer_unordered(PARALLEL).collect::<Vec<_>>().await {
        if let StoreInput::Receipt { index, receipt, .. } = answer {
            receipts.insert(index, receipt);
        }
    }
    if receipts.len() < descriptor.scheme.write_quorum() {
        return Ok(None);
    }
    let sites: Vec<Site> =
        receipts.values().filter_map(|r| site_of(core, &r.body.holder)).collect();
    // The first version under a lease is said once: whoever does not answer now gave
    // its word then.
    if claim.lease == row.lease {
        receipts = row.receipts.iter().map(|r| (r.body.index, r.clone())).collect();
    }
    Ok(Some(Held {
        survives_datacenter: survives_datacenter(descriptor.scheme, &sites),
        descriptor: row.descriptor.clone(),
        lease: claim.lease.clone(),
        grant: claim.grant.clone(),
        receipts,
        notes: Vec::new(),
        sent_bytes: 0,
    }))
}

/// The lease it has, if that lasts long enough, else a new one.
fn claim_for(core: &Core, terms: &Terms, segment: SegmentId, row: &SegmentRow) -> LeaseClaim {
    // Its holders renew it as long.
    if row.lease.body.ends_at_latest(row.grant.as_ref()) >= terms.kept_until() {
        return LeaseClaim { lease: row.lease.clone(), grant: row.grant.clone() };
    }
    LeaseClaim { lease: terms.lease(core, segment), grant: terms.grant.clone() }
}

pub(in crate::flow) fn site_of(
    core: &Core,
    node: &echonet_protocol::identity::NodeId,
) -> Option<Site> {
    let member = core.members.get(node)?;
    let observed_prefix = member.prefix();
    Some(Site { labels: member.descriptor.body.labels, observed_prefix })
}
