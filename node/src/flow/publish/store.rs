//! Storing one segment: code it, write its recipe down, get its shards to
//! holders as [`SegmentStore`] decides, and keep their receipts.
//!
//! No shard leaves before the recipe is durable; no receipt counts before it
//! verified.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use echonet_protocol::{
    bytes::{Nonce, ShardHash},
    content_id::ContentId,
    data::erasure::{ErasureCode, data_shard},
    identity::{NodeId, Signed},
    lease::{Grant, Lease, Receipt, ReceiptWanted},
    machine::Machine,
    node_descriptor::Roles,
    params,
    placement::{Candidate, PlacementRequest, Site, Standing, genesis_beacon, place},
    publish::{
        NotStored, SegmentStore, StoreConfig, StoreInput, StoreOutput, Stored, StoredSegment,
        Trouble,
    },
    segment::{Scheme, SegmentDescriptor, SegmentId},
    time::Epoch,
};
use echonet_vault::crash_point;

use super::PublishError;
use crate::{
    client::{CallError, LeaseClaim},
    clock,
    core::Core,
    flow::driver::{Attempts, Stopwatch},
    members::{Member, Reach},
    owner::rows::{JournalKey, RecipeChunk, RecipeRow},
};

/// Slowest upload of a shard that is waited for, bytes per millisecond.
const SLOWEST_BYTES_PER_MS: u64 = 16;
/// What the round trip to a node in its quiet hours counts as: others are chosen first.
const QUIET_LATENCY_MS: u32 = 60_000;
/// The version of the placement that a publish makes.
pub(in crate::flow) const FIRST_PLACEMENT: u64 = 1;

/// Under what a publish stores.
#[derive(Debug, Clone)]
pub(in crate::flow) struct Terms {
    /// The work.
    pub(in crate::flow) content: ContentId,
    /// The scheme asked for.
    pub(in crate::flow) scheme: Scheme,
    /// The grant to use; none: the free pools.
    pub(in crate::flow) grant: Option<Signed<Grant>>,
    /// First epoch of new leases.
    pub(in crate::flow) from: Epoch,
    /// First epoch after new leases, of the first of their terms.
    pub(in crate::flow) until: Epoch,
}

impl Terms {
    /// The epoch to which what is leased under these terms is kept.
    #[must_use]
    pub(in crate::flow) fn kept_until(&self) -> Epoch {
        self.grant.as_ref().map_or(self.until, |grant| grant.body.until)
    }
}

/// A segment that is ready to be sent.
pub(super) struct Coded {
    /// What it is.
    pub(in crate::flow) descriptor: SegmentDescriptor,
    /// Its name.
    pub(super) segment: SegmentId,
    /// Its shards, by index.
    pub(super) shards: Vec<Bytes>,
    /// Its chunks; empty for manifest segments.
    pub(super) chunks: Vec<RecipeChunk>,
}

/// A segment with its lease and receipts.
#[derive(Debug, Clone)]
pub(in crate::flow) struct Held {
    /// What it is.
    pub(in crate::flow) descriptor: SegmentDescriptor,
    /// The lease.
    pub(in crate::flow) lease: Signed<Lease>,
    /// The grant that the lease names.
    pub(in crate::flow) grant: Option<Signed<Grant>>,
    /// Receipts by index.
    pub(in crate::flow) receipts: BTreeMap<u8, Signed<Receipt>>,
    /// What a person should know.
    pub(in crate::flow) notes: Vec<String>,
    /// Whether any one datacenter may be lost.
    pub(in crate::flow) survives_datacenter: bool,
    /// Shard bytes that were sent, not found in place.
    pub(in crate::flow) sent_bytes: u64,
}

impl Held {
    /// For the machine that orders the publish.
    #[must_use]
    pub(super) fn summary(&self) -> StoredSegment {
        StoredSegment {
            segment: self.descriptor.segment_id(),
            scheme: self.descriptor.scheme,
            holders: self.receipts.iter().map(|(i, r)| (*i, r.body.holder)).collect(),
            survives_datacenter: self.survives_datacenter,
            notes: self.notes.clone(),
        }
    }
}

/// Codes a segment: hashes and parity. Takes a while; not for async threads.
///
/// # Errors
/// [`PublishError::Internal`] for a scheme that the code does not know.
pub(super) fn code(
    bytes: Vec<u8>,
    wanted: Scheme,
    chunks: Vec<RecipeChunk>,
) -> Result<Coded, PublishError> {
    let internal = |e: &dyn std::fmt::Display| PublishError::Internal(e.to_string());
    let scheme = Scheme::for_segment(wanted, bytes.len());
    let (k, m) = (usize::from(scheme.k), usize::from(scheme.m));
    let coder = ErasureCode::shared(k, m).map_err(|e| internal(&e))?;
    let shard_len = scheme.shard_len(bytes.len());
    let mut parity = vec![vec![0; shard_len]; m];
    coder.encode(&bytes, &mut parity).map_err(|e| internal(&e))?;
    let bytes = Bytes::from(bytes);
    let mut shards: Vec<Bytes> = (0..k)
        .map(|i| {
            let (start, end) = (i * shard_len, (i + 1) * shard_len);
            // Only the last shards may need padding; the others are views of the segment.
            if end <= bytes.len() {
                bytes.slice(start..end)
            } else {
                data_shard(&bytes, k, i).into_owned().into()
            }
        })
        .collect();
    shards.extend(parity.into_iter().map(Bytes::from));
    let hashes = shards.iter().map(|s| ShardHash(*blake3::hash(s).as_bytes())).collect();
    let length = u32::try_from(bytes.len()).map_err(|e| internal(&e))?;
    let descriptor =
        SegmentDescriptor { v: params::FORMAT_VERSION, scheme, length, shards: hashes };
    descriptor.check().map_err(|e| internal(&e))?;
    let segment = descriptor.segment_id();
    Ok(Coded { descriptor, segment, shards, chunks })
}

impl Terms {
    /// Whether a lease of an earlier attempt is one of these terms and not over:
    /// the record of what it holds shows the grant that it names.
    #[must_use]
    pub(super) fn still_hold(&self, core: &Core, lease: &Signed<Lease>) -> bool {
        let lease = &lease.body;
        lease.until > core.epoch() && lease.grant == self.grant.as_ref().map(Signed::hash)
    }

    /// A lease on a segment under these terms.
    #[must_use]
    pub(in crate::flow) fn lease(&self, core: &Core, segment: SegmentId) -> Signed<Lease> {
        let body = Lease {
            v: params::FORMAT_VERSION,
            network: core.network,
            segment,
            owner: core.node_id(),
            from: self.from,
            until: self.until,
            grant: self.grant.as_ref().map(Signed::hash),
            nonce: Nonce(clock::random()),
            // On the free pools nothing lasts longer than its term.
            standing: self.grant.is_some(),
        };
        Signed::new(&core.identity, body)
    }
}

/// Members of the network that may hold shards.
#[must_use]
pub(crate) fn snapshot(core: &Core) -> Vec<Candidate> {
    let storage = |m: &Member| m.descriptor.body.roles.has(Roles::STORAGE);
    core.members.all().into_iter().filter(storage).map(|m| candidate(core, m)).collect()
}

/// This node, as others would see it; none for a client.
pub(crate) fn own_candidate(core: &Core) -> Option<Candidate> {
    let member = Member {
        descriptor: core.descriptor()?,
        reach: Reach::Reachable,
        since: clock::now(),
        latency_ms: 0,
        epoch: None,
        reliability_permille: 1000,
    };
    Some(candidate(core, member))
}

fn candidate(core: &Core, member: Member) -> Candidate {
    let observed_prefix = member.prefix();
    let body = member.descriptor.body;
    let is_down = member.reach == Reach::Unreachable;
    let is_quiet = body.quiet.is_quiet(clock::now());
    Candidate {
        node: body.node,
        site: Site { labels: body.labels, observed_prefix },
        capacity_class: body.capacity_class,
        joined: body.joined,
        beacon: genesis_beacon(&core.network, Epoch(body.joined.0 + 1)),
        accepts: body.accepts && !is_down,
        // Without witnesses nobody is vetted, and nobody can be told apart.
        standing: Standing::Full,
        load_permille: 0,
        reliability_permille: u16::try_from(member.reliability_permille).unwrap_or(1000),
        latency_ms: if is_quiet { QUIET_LATENCY_MS } else { member.latency_ms },
        quiet: body.quiet,
    }
}

/// Stores a coded segment. `resumed` is its recipe, where an earlier attempt
/// wrote one.
///
/// # Errors
/// [`PublishError::NotStored`] when too few holders took it; what they took
/// stays for resuming.
pub(super) async fn store(
    core: &Arc<Core>,
    terms: &Terms,
    coded: Coded,
    resumed: Option<RecipeRow>,
) -> Result<Held, PublishError> {
    let key = JournalKey { content: terms.content, segment: coded.segment };
    let planned: BTreeMap<NodeId, u8> =
        resumed.iter().flat_map(|r| &r.planned).map(|(index, node)| (*node, *index)).collect();
    let lease = match &resumed {
        // Until all is sealed nobody renews it.
        Some(recipe) if terms.still_hold(core, &recipe.lease) => recipe.lease.clone(),
        _ => terms.lease(core, coded.segment),
    };
    let request = PlacementRequest {
        network: core.network,
        segment: coded.segment,
        scheme: coded.descriptor.scheme,
        development: core.genesis.development,
        already: BTreeMap::new(),
        prefer: planned,
        exclude: [core.node_id()].into(),
    };
    let plan = place(&request, &snapshot(core));
    let mut recipe = RecipeRow {
        chunks: coded.chunks.clone(),
        descriptor: coded.descriptor.clone(),
        lease: lease.clone(),
        planned: plan.holders().iter().map(|(index, node)| (*index, *node)).collect(),
        receipts: Vec::new(),
        stored: false,
    };
    crash_point("publish.segment.coded");
    core.catalog.put_recipe(key, &recipe)?;
    crash_point("publish.segment.journaled");
    let shard_len = coded.descriptor.shard_len() as u64;
    let base = StoreConfig::default();
    let config = StoreConfig {
        attempt_timeout_ms: base.attempt_timeout_ms + shard_len / SLOWEST_BYTES_PER_MS,
        ..base
    };
    let watch = Stopwatch::start();
    let machine = SegmentStore::new(watch.now(), config, plan, BTreeMap::new());
    let claim = LeaseClaim { lease, grant: terms.grant.clone() };
    let sending = Sending { core, claim, coded, machine, watch, attempts: Attempts::default() };
    let held = sending.drive().await?;
    recipe.receipts = held.receipts.values().cloned().collect();
    recipe.stored = true;
    core.catalog.put_recipe(key, &recipe)?;
    crash_point("publish.segment.stored");
    Ok(held)
}

struct Sending<'a> {
    core: &'a Arc<Core>,
    claim: LeaseClaim,
    coded: Coded,
    machine: SegmentStore<Signed<Receipt>>,
    watch: Stopwatch,
    attempts: Attempts<(u8, NodeId), Result<Signed<Receipt>, CallError>>,
}

impl Sending<'_> {
    async fn drive(mut self) -> Result<Held, PublishError> {
        loop {
            while let Some(output) = self.machine.poll() {
                match output {
                    StoreOutput::Store { index, node } => self.send(index, node),
                    StoreOutput::Cancel { index, node } => self.attempts.cancel(&(index, node)),
                    StoreOutput::Quorum => {}
                    StoreOutput::Done(stored) => return Ok(self.held(stored)),
                    StoreOutput::Failed(not_stored) => return Err(self.failed(&not_stored)),
                }
            }
            let input = match self.attempts.next(&self.watch, self.machine.timeout()).await {
                Some(((index, node), result)) => self.judge(index, node, result),
                None => StoreInput::Tick,
            };
            self.machine.handle(self.watch.now(), input);
        }
    }

    fn send(&mut self, index: u8, node: NodeId) {
        let (core, claim) = (Arc::clone(self.core), self.claim.clone());
        let descriptor = self.coded.descriptor.clone();
        let Some(shard) = self.coded.shards.get(usize::from(index)).cloned() else { return };
        self.attempts.begin((index, node), async move {
            core.client.store_shard(&node, &claim, &descriptor, index, FIRST_PLACEMENT, shard).await
        });
    }

    fn judge(
        &self,
        index: u8,
        node: NodeId,
        result: Result<Signed<Receipt>, CallError>,
    ) -> StoreInput<Signed<Receipt>> {
        judge(&self.core.members, &self.claim, &self.coded.descriptor, (index, node), result)
    }

    fn held(self, stored: Stored<Signed<Receipt>>) -> Held {
        let mut notes: Vec<String> = stored.broken.iter().map(ToString::to_string).collect();
        if !stored.missing.is_empty() {
            let segment = self.coded.segment.short();
            let n = stored.missing.len();
            notes.push(format!("segment {segment} is stored without {n} of its shards"));
        }
        let sent_bytes = stored.held.len() as u64 * self.coded.descriptor.shard_len() as u64;
        Held {
            descriptor: self.coded.descriptor,
            lease: self.claim.lease,
            grant: self.claim.grant,
            receipts: stored.held.into_iter().map(|(i, (_, receipt))| (i, receipt)).collect(),
            notes,
            survives_datacenter: stored.survives_datacenter,
            sent_bytes,
        }
    }

    fn failed(&self, not_stored: &NotStored<Signed<Receipt>>) -> PublishError {
        PublishError::NotStored { segment: self.coded.segment, reason: not_stored.to_string() }
    }
}

/// What an answer to a store or lease request means.
pub(in crate::flow) fn judge(
    members: &crate::members::Members,
    claim: &LeaseClaim,
    descriptor: &SegmentDescriptor,
    (index, node): (u8, NodeId),
    result: Result<Signed<Receipt>, CallError>,
) -> StoreInput<Signed<Receipt>> {
    let failed = |trouble, reason| StoreInput::Failed { index, node, trouble, reason };
    match result {
        Ok(receipt) => {
            let wanted = ReceiptWanted {
                lease: &claim.lease,
                index,
                shard: descriptor.shards[usize::from(index)],
                // Bounded by the descriptor's check.
                length: descriptor.shard_len() as u32,
                holder: node,
                placement_version: FIRST_PLACEMENT,
            };
            match wanted.check(&receipt) {
                Ok(()) => StoreInput::Receipt { index, node, receipt },
                Err(reason) => failed(Trouble::BadReceipt, reason),
            }
        }
        Err(CallError::Refused { refusal, .. }) => StoreInput::Refused { index, node, refusal },
        Err(e @ CallError::Unreachable { .. }) => {
            members.failed(&node, clock::now());
            failed(Trouble::Unreachable, e.to_string())
        }
        Err(e) => failed(Trouble::Internal, e.to_string()),
    }
}
