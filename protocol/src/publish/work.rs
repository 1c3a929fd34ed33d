//! The order of a whole publish, so that nothing is announced too early.
//!
//! Each phase owns only what it needs, and the next phase is made from the one
//! before: there is no path to the announcement that leaves one out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{
    seal::Sealing,
    work_types::{
        PublishConfig, PublishFailure, PublishInput, PublishOutcome, PublishOutput, PublishStage,
        StoredSegment,
    },
};
use crate::{
    machine::{Machine, Millis},
    segment::SegmentId,
};

/// Notes kept for people, at most.
const NOTES_MAX: usize = 32;

/// Publishes a work whose segments are stored by [`super::SegmentStore`]s
/// (design 5): content, manifest, seal, records, announcement, live check.
#[derive(Debug)]
pub struct Publish {
    config: PublishConfig,
    segments: BTreeMap<SegmentId, StoredSegment>,
    content_segments: usize,
    notes: Vec<String>,
    phase: Phase,
    outputs: VecDeque<PublishOutput>,
}

#[derive(Debug)]
enum Phase {
    Content,
    Manifest,
    Sealing(Sealing),
    Recording(Recording),
    Announcing(Attempt),
    Checking { until: Millis },
    Over,
}

/// Records that too few nodes keep so far.
#[derive(Debug)]
struct Recording {
    waiting: VecDeque<SegmentId>,
    /// The batch under way: how many keep each, once reported.
    batch: BTreeMap<SegmentId, Option<usize>>,
    attempt: Attempt,
}

/// A step that is tried again a few times.
#[derive(Debug, Clone, Copy)]
struct Attempt {
    made: u32,
    /// When under way: until when. When pausing: until when.
    until: Millis,
    under_way: bool,
}

impl Attempt {
    const fn first(now: Millis, timeout_ms: u64) -> Self {
        Self { made: 1, until: now.after(timeout_ms), under_way: true }
    }

    /// After a failure: pauses before the next, or gives up.
    fn pause(&mut self, now: Millis, config: &PublishConfig) -> bool {
        let doublings = self.made.saturating_sub(1).min(16);
        self.until = now.after(config.backoff_ms.saturating_mul(1 << doublings));
        self.under_way = false;
        self.made <= config.retries_max
    }

    const fn again(&mut self, now: Millis, timeout_ms: u64) {
        self.made += 1;
        self.until = now.after(timeout_ms);
        self.under_way = true;
    }
}

impl Publish {
    /// A publish of which nothing is stored yet.
    #[must_use]
    pub const fn new(config: PublishConfig) -> Self {
        Self {
            config,
            segments: BTreeMap::new(),
            content_segments: 0,
            notes: Vec::new(),
            phase: Phase::Content,
            outputs: VecDeque::new(),
        }
    }

    /// How far it is; none: over.
    #[must_use]
    pub const fn stage(&self) -> Option<PublishStage> {
        Some(match self.phase {
            Phase::Content => PublishStage::Content,
            Phase::Manifest => PublishStage::Manifest,
            Phase::Sealing(_) => PublishStage::Seal,
            Phase::Recording(_) => PublishStage::Records,
            Phase::Announcing(_) => PublishStage::Announce,
            Phase::Checking { .. } => PublishStage::Live,
            Phase::Over => return None,
        })
    }

    fn fail(&mut self, reason: impl Into<String>) {
        let Some(stage) = self.stage() else { return };
        let announced = stage >= PublishStage::Announce;
        let reason = reason.into();
        self.phase = Phase::Over;
        self.outputs.push_back(PublishOutput::Failed(PublishFailure { stage, reason, announced }));
    }

    fn note(&mut self, note: String) {
        if self.notes.len() < NOTES_MAX && !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    fn segment_stored(&mut self, stored: StoredSegment) {
        if !matches!(self.phase, Phase::Content | Phase::Manifest) {
            return self.fail(format!("segment {} was stored too late", stored.segment.short()));
        }
        let (have, want) = (stored.holders.len(), stored.scheme.write_quorum());
        let distinct = stored.holders.values().collect::<BTreeSet<_>>().len() == have;
        let in_scheme = stored.holders.keys().all(|&i| (i as usize) < stored.scheme.n());
        if have < want || !distinct || !in_scheme {
            let segment = stored.segment.short();
            return self.fail(format!("segment {segment} has {have} of {want} needed receipts"));
        }
        for note in &stored.notes {
            self.note(note.clone());
        }
        self.segments.insert(stored.segment, stored);
    }

    fn content_stored(&mut self, segments: usize) {
        let have = self.segments.len();
        if !matches!(self.phase, Phase::Content) || segments != have {
            return self.fail(format!("{have} of {segments} content segments are stored"));
        }
        self.content_segments = have;
        self.phase = Phase::Manifest;
        self.outputs.push_back(PublishOutput::StoreManifest);
    }

    fn manifest_stored(&mut self, now: Millis, segments: usize) {
        let have = self.segments.len() - self.content_segments;
        if !matches!(self.phase, Phase::Manifest) || segments != have || segments == 0 {
            return self.fail(format!("{have} of {segments} manifest segments are stored"));
        }
        let sealing = Sealing::new(now, self.config, self.segments.values());
        self.phase = Phase::Sealing(sealing);
        self.seal(now);
    }

    /// Goes on sealing, and to the records once every segment is sealed.
    fn seal(&mut self, now: Millis) {
        let Phase::Sealing(sealing) = &mut self.phase else { return };
        let outcome = sealing.advance(now, &mut self.outputs);
        match outcome {
            None => {}
            Some(Err(reason)) => self.fail(reason),
            Some(Ok(notes)) => {
                notes.into_iter().for_each(|note| self.note(note));
                self.phase = Phase::Recording(Recording {
                    waiting: self.segments.keys().copied().collect(),
                    batch: BTreeMap::new(),
                    attempt: Attempt::first(now, 0),
                });
                self.next_batch(now);
            }
        }
    }

    fn next_batch(&mut self, now: Millis) {
        let config = self.config;
        let Phase::Recording(recording) = &mut self.phase else { return };
        let size = config.record_batch_max.max(1).min(recording.waiting.len());
        if size == 0 {
            self.phase = Phase::Announcing(Attempt::first(now, config.record_timeout_ms));
            self.outputs.push_back(PublishOutput::Announce);
            return;
        }
        let segments: Vec<_> = recording.waiting.drain(..size).collect();
        recording.batch = segments.iter().map(|&s| (s, None)).collect();
        recording.attempt = Attempt::first(now, config.record_timeout_ms);
        self.outputs.push_back(PublishOutput::PutRecords { segments });
    }

    fn record_put(&mut self, now: Millis, segment: SegmentId, kept: usize) {
        let Phase::Recording(recording) = &mut self.phase else { return };
        if let Some(count) = recording.batch.get_mut(&segment) {
            *count = Some(kept.max(count.unwrap_or(0)));
        }
        let copies_min = self.config.record_copies_min;
        if recording.batch.values().all(|kept| kept.is_some_and(|k| k >= copies_min)) {
            self.next_batch(now);
        } else if recording.attempt.under_way && recording.batch.values().all(Option::is_some) {
            self.retry_records(now);
        }
    }

    /// After a failed batch: a pause, or the end.
    fn retry_records(&mut self, now: Millis) {
        let Phase::Recording(recording) = &mut self.phase else { return };
        let copies_min = self.config.record_copies_min;
        recording.batch.retain(|_, kept| kept.is_none_or(|k| k < copies_min));
        if recording.attempt.pause(now, &self.config) {
            return;
        }
        let reason = recording.batch.iter().next().map_or_else(String::new, |(segment, kept)| {
            format!(
                "the placement record of segment {} is kept by {} of {copies_min} needed nodes",
                segment.short(),
                kept.unwrap_or(0)
            )
        });
        self.fail(reason);
    }

    fn announced(&mut self, now: Millis, kept: usize) {
        let Phase::Announcing(attempt) = &mut self.phase else { return };
        let want = self.config.record_copies_min;
        if kept >= want {
            let until = now.after(self.config.live_timeout_ms);
            self.phase = Phase::Checking { until };
            self.outputs.push_back(PublishOutput::CheckLive);
        } else if attempt.under_way && !attempt.pause(now, &self.config) {
            self.fail(format!("the announcement is kept by {kept} of {want} needed nodes"));
        }
    }

    fn done(&mut self, not_live: Option<String>) {
        if !matches!(self.phase, Phase::Checking { .. }) {
            return;
        }
        let live = not_live.is_none();
        if let Some(reason) = not_live {
            // Never lost among other notes: it says why the result is not live.
            self.notes.insert(0, format!("not checked to be live: {reason}"));
        }
        self.phase = Phase::Over;
        let segments = || self.segments.values();
        self.outputs.push_back(PublishOutput::Done(PublishOutcome {
            segments: self.segments.len(),
            receipts_want: segments().map(|s| s.scheme.n()).sum(),
            receipts_have: segments().map(|s| s.holders.len()).sum(),
            survives_datacenter: segments().all(|s| s.survives_datacenter),
            live,
            notes: std::mem::take(&mut self.notes),
        }));
    }

    fn tick(&mut self, now: Millis) {
        let timeout_ms = self.config.record_timeout_ms;
        match &mut self.phase {
            Phase::Sealing(_) => self.seal(now),
            Phase::Recording(recording) if recording.attempt.until <= now => {
                if recording.attempt.under_way {
                    return self.retry_records(now);
                }
                recording.attempt.again(now, timeout_ms);
                recording.batch.values_mut().for_each(|kept| *kept = None);
                let segments = recording.batch.keys().copied().collect();
                self.outputs.push_back(PublishOutput::PutRecords { segments });
            }
            Phase::Announcing(attempt) if attempt.until <= now => {
                if attempt.under_way {
                    return self.announced(now, 0);
                }
                attempt.again(now, timeout_ms);
                self.outputs.push_back(PublishOutput::Announce);
            }
            Phase::Checking { until } if *until <= now => {
                self.done(Some("no answer in time".to_owned()));
            }
            _ => {}
        }
    }
}

impl Machine for Publish {
    type Input = PublishInput;
    type Output = PublishOutput;

    fn handle(&mut self, now: Millis, input: PublishInput) {
        match input {
            PublishInput::SegmentStored(stored) => self.segment_stored(stored),
            PublishInput::SegmentFailed { segment, reason } => {
                self.fail(format!("segment {} has {reason}", segment.short()));
            }
            PublishInput::ContentStored { segments } => self.content_stored(segments),
            PublishInput::ManifestStored { segments } => self.manifest_stored(now, segments),
            PublishInput::Sealed { node, durable } => {
                if let Phase::Sealing(sealing) = &mut self.phase {
                    sealing.sealed(now, node, durable);
                }
            }
            PublishInput::SealFailed { node, reason } => {
                if let Phase::Sealing(sealing) = &mut self.phase {
                    sealing.failed(now, node, reason);
                }
            }
            PublishInput::RecordPut { segment, kept } => self.record_put(now, segment, kept),
            PublishInput::Announced { kept } => self.announced(now, kept),
            PublishInput::Live => self.done(None),
            PublishInput::NotLive { reason } => self.done(Some(reason)),
            // Once announced, the work is out: what is left is only the check.
            PublishInput::Abort { reason } => match self.phase {
                Phase::Checking { .. } => self.done(Some(reason)),
                _ => self.fail(reason),
            },
            PublishInput::Tick => {}
        }
        self.tick(now);
    }

    fn poll(&mut self) -> Option<PublishOutput> {
        self.outputs.pop_front()
    }

    fn timeout(&self) -> Option<Millis> {
        match &self.phase {
            Phase::Sealing(sealing) => sealing.timeout(),
            Phase::Recording(Recording { attempt, .. }) | Phase::Announcing(attempt) => {
                Some(attempt.until)
            }
            Phase::Checking { until } => Some(*until),
            Phase::Content | Phase::Manifest | Phase::Over => None,
        }
    }
}
