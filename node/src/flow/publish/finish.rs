//! The last stages of a publish, in the order that [`Publish`] decides: seal,
//! put placement records, announce, have it checked.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use echonet_protocol::{
    announcement::{Announcement, RecordKind},
    identity::{NodeId, Signed},
    machine::Machine,
    placement_record::{FirstPlacement, PlacementRecord},
    publish::{Publish, PublishConfig, PublishInput, PublishOutcome, PublishOutput},
    segment::SegmentId,
};
use echonet_vault::crash_point;

use super::{PublishError, store::Held};
use crate::{
    core::Core,
    flow::{
        discover,
        driver::{Attempts, Stopwatch},
        live,
    },
    service::{Progress, ProgressSender},
};

/// Everything that is to be sealed and announced.
pub(super) struct Work {
    /// The announcement.
    pub(super) announcement: Signed<Announcement>,
    /// Every segment with its receipts.
    pub(super) held: BTreeMap<SegmentId, Held>,
    /// Bytes of content.
    pub(super) size: u64,
    /// Which of these are content's, not the manifest's.
    pub(super) content: BTreeSet<SegmentId>,
}

/// The first placement record of a segment.
pub(in crate::flow) fn placement(core: &Core, held: &Held) -> PlacementRecord {
    let first = FirstPlacement {
        descriptor: held.descriptor.clone(),
        lease: held.lease.clone(),
        grant: held.grant.clone(),
        receipts: held.receipts.values().cloned().collect(),
    };
    PlacementRecord::first(&core.identity, first)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Effect {
    Seal(NodeId),
    Records(u32),
    Announce(u32),
    Live,
}

/// Seals, records, announces and has a work checked.
///
/// # Errors
/// [`PublishError::Unfinished`] with what did not work.
pub(super) async fn finish(
    core: &Arc<Core>,
    work: &Work,
    progress: &ProgressSender,
) -> Result<PublishOutcome, PublishError> {
    let records: BTreeMap<SegmentId, Vec<u8>> = work
        .held
        .iter()
        .map(|(segment, held)| (*segment, placement(core, held).encode()))
        .collect();
    let mut machine = Publish::new(PublishConfig::default());
    let watch = Stopwatch::start();
    let (content, manifest): (Vec<_>, Vec<_>) =
        work.held.iter().partition(|(segment, _)| work.content.contains(segment));
    let content_stored = PublishInput::ContentStored { segments: content.len() };
    let manifest_stored = PublishInput::ManifestStored { segments: manifest.len() };
    for (held, all_stored) in [(content, content_stored), (manifest, manifest_stored)] {
        for (_, held) in held {
            machine.handle(watch.now(), PublishInput::SegmentStored(held.summary()));
        }
        machine.handle(watch.now(), all_stored);
    }
    let finishing = Finishing {
        core,
        work,
        records,
        machine,
        watch,
        effects: Attempts::default(),
        rounds: 0,
        progress,
    };
    finishing.drive().await
}

struct Finishing<'a> {
    core: &'a Arc<Core>,
    work: &'a Work,
    records: BTreeMap<SegmentId, Vec<u8>>,
    machine: Publish,
    watch: Stopwatch,
    effects: Attempts<Effect, Vec<PublishInput>>,
    rounds: u32,
    progress: &'a ProgressSender,
}

impl Finishing<'_> {
    async fn drive(mut self) -> Result<PublishOutcome, PublishError> {
        loop {
            while let Some(output) = self.machine.poll() {
                match output {
                    // Both stages were reported before this began.
                    PublishOutput::StoreManifest => {}
                    PublishOutput::Seal { node, segments } => self.seal(node, &segments),
                    PublishOutput::CancelSeal { node } => self.effects.cancel(&Effect::Seal(node)),
                    PublishOutput::PutRecords { segments } => self.put_records(&segments),
                    PublishOutput::Announce => self.announce(),
                    PublishOutput::CheckLive => self.check_live(),
                    PublishOutput::Done(outcome) => return Ok(outcome),
                    PublishOutput::Failed(failure) => {
                        return Err(PublishError::Unfinished(failure.to_string()));
                    }
                }
            }
            let inputs = match self.effects.next(&self.watch, self.machine.timeout()).await {
                Some((_, inputs)) => inputs,
                None => vec![PublishInput::Tick],
            };
            for input in inputs {
                self.machine.handle(self.watch.now(), input);
            }
        }
    }

    fn tell(&self, stage: &str, detail: String) {
        let _ = self.progress.try_send(Progress::Stage { stage: stage.into(), detail });
    }

    fn records_of(&self, segments: &[SegmentId]) -> Vec<(SegmentId, Vec<u8>)> {
        segments.iter().filter_map(|s| Some((*s, self.records.get(s)?.clone()))).collect()
    }

    fn seal(&mut self, node: NodeId, segments: &[SegmentId]) {
        crash_point("publish.seal.before");
        let core = Arc::clone(self.core);
        let placements = self.records_of(segments).into_iter().map(|(_, bytes)| bytes).collect();
        self.effects.begin(Effect::Seal(node), async move {
            vec![match core.client.seal(&node, placements).await {
                Ok(durable) => PublishInput::Sealed { node, durable },
                Err(e) => PublishInput::SealFailed { node, reason: e.to_string() },
            }]
        });
    }

    fn put_records(&mut self, segments: &[SegmentId]) {
        crash_point("publish.records.before");
        let core = Arc::clone(self.core);
        let records: Vec<_> = self
            .records_of(segments)
            .into_iter()
            .map(|(segment, bytes)| (RecordKind::Placement, segment.0, bytes))
            .collect();
        self.rounds += 1;
        self.effects.begin(Effect::Records(self.rounds), async move {
            let names: Vec<_> = records.iter().map(|(_, id, _)| SegmentId(*id)).collect();
            let kept = discover::put(&core, records).await;
            let input = |(segment, kept)| PublishInput::RecordPut { segment, kept };
            names.into_iter().zip(kept).map(input).collect()
        });
    }

    fn announce(&mut self) {
        crash_point("publish.announce.before");
        self.tell("announcing", "every segment is held, sealed and recorded".into());
        let core = Arc::clone(self.core);
        let announcement = self.work.announcement.clone();
        self.rounds += 1;
        self.effects.begin(Effect::Announce(self.rounds), async move {
            let id = *announcement.body.content.as_bytes();
            let record = (RecordKind::Announcement, id, announcement.encode());
            let kept = discover::put(&core, vec![record]).await;
            vec![PublishInput::Announced { kept: kept.first().copied().unwrap_or(0) }]
        });
    }

    fn check_live(&mut self) {
        crash_point("publish.live.before");
        self.tell("checking", "asking nodes that took no part".into());
        let core = Arc::clone(self.core);
        let content = self.work.announcement.body.content;
        let manifest = self.work.announcement.body.manifest;
        let size = self.work.size;
        let holders: BTreeMap<SegmentId, Vec<NodeId>> = self
            .work
            .held
            .iter()
            .map(|(segment, held)| {
                (*segment, held.receipts.values().map(|r| r.body.holder).collect())
            })
            .collect();
        self.effects.begin(Effect::Live, async move {
            vec![match live::ask(&core, content, manifest, size, holders).await {
                Ok(()) => PublishInput::Live,
                Err(reason) => PublishInput::NotLive { reason },
            }]
        });
    }
}
