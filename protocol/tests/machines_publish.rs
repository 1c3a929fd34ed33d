//! The order of a publish: nothing is announced too early, whatever happens.

use std::collections::{BTreeMap, BTreeSet};

use echonet_protocol::{
    identity::NodeId,
    machine::{Draws, Machine, Millis},
    publish::{
        Publish, PublishConfig, PublishFailure, PublishInput, PublishOutcome, PublishOutput,
        PublishStage, StoredSegment,
    },
    segment::{Scheme, SegmentId},
};

fn node(number: u8) -> NodeId {
    NodeId([number; 32])
}

fn stored(number: u8, scheme: Scheme, receipts: usize, first_node: u8) -> StoredSegment {
    let holders = (0..=u8::MAX).take(receipts).map(|i| (i, node(first_node.wrapping_add(i))));
    StoredSegment {
        segment: SegmentId([number; 32]),
        scheme,
        holders: holders.collect(),
        survives_datacenter: true,
        notes: vec![],
    }
}

/// A driver in a faulty world, and what truly happened in it.
struct World {
    draws: Draws,
    fail_percent: u64,
    garbage_percent: u64,
    config: PublishConfig,
    publish: Publish,
    now: Millis,
    events: BTreeMap<(Millis, u64), PublishInput>,
    sequence: u64,
    segments: BTreeMap<SegmentId, StoredSegment>,
    content_over: bool,
    manifest_over: bool,
    /// Who acknowledged durably what.
    sealed: BTreeMap<SegmentId, BTreeSet<NodeId>>,
    sealing: BTreeMap<NodeId, Vec<SegmentId>>,
    recorded: BTreeMap<SegmentId, usize>,
    announced: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut draws = Draws::new(seed);
        let config = PublishConfig {
            seal_batch_max: 1 + draws.below(4) as usize,
            seal_parallel_max: 1 + draws.below(20) as usize,
            record_batch_max: 1 + draws.below(4) as usize,
            ..PublishConfig::default()
        };
        let (fail_percent, garbage_percent) =
            ([0, 5, 30][draws.below(3) as usize], [0, 0, 3][draws.below(3) as usize]);
        Self {
            draws,
            fail_percent,
            garbage_percent,
            config,
            publish: Publish::new(config),
            now: Millis(0),
            events: BTreeMap::new(),
            sequence: 0,
            segments: BTreeMap::new(),
            content_over: false,
            manifest_over: false,
            sealed: BTreeMap::new(),
            sealing: BTreeMap::new(),
            recorded: BTreeMap::new(),
            announced: false,
        }
    }

    fn fails(&mut self) -> bool {
        self.draws.below(100) < self.fail_percent
    }

    fn event(&mut self, delay_ms: u64, input: PublishInput) {
        self.sequence += 1;
        self.events.insert((self.now.after(delay_ms), self.sequence), input);
    }

    /// Stores a few segments and reports them in any order, then their count.
    fn store(&mut self, first: u8, count: u8, end: fn(usize) -> PublishInput) {
        for number in first..first + count {
            let scheme = [Scheme::SMALL, Scheme::DEFAULT][self.draws.below(2) as usize];
            let lacking = self.draws.below(3) as usize;
            let first_node = self.draws.below(12) as u8;
            let segment = stored(number, scheme, scheme.n() - lacking, first_node);
            self.segments.insert(segment.segment, segment.clone());
            let delay_ms = self.draws.below(100);
            self.event(delay_ms, PublishInput::SegmentStored(segment));
        }
        self.event(1_000, end(count.into()));
    }

    fn seal(&mut self, node: NodeId, segments: Vec<SegmentId>) {
        assert!(self.manifest_over, "sealed before all is stored");
        assert!(segments.len() <= self.config.seal_batch_max && !segments.is_empty());
        for segment in &segments {
            assert!(self.segments[segment].holders.values().any(|n| *n == node));
        }
        assert_eq!(self.sealing.insert(node, segments.clone()), None, "two seals to one node");
        assert!(self.sealing.len() <= self.config.seal_parallel_max);
        let delay_ms = self.draws.below(200);
        match self.draws.below(3) {
            0 if self.fails() => {}
            1 if self.fails() => {
                self.event(delay_ms, PublishInput::SealFailed { node, reason: "no".into() });
            }
            2 if self.fails() => {
                // Some took effect, in any order.
                let durable = self.draws.below(segments.len() as u64) as usize;
                self.event(delay_ms, PublishInput::Sealed { node, durable });
            }
            _ => self.event(delay_ms, PublishInput::Sealed { node, durable: segments.len() }),
        }
    }

    fn output(&mut self, output: &PublishOutput) {
        match output {
            PublishOutput::StoreManifest => {
                assert!(self.content_over);
                let count = 1 + self.draws.below(3) as u8;
                self.store(100, count, |segments| PublishInput::ManifestStored { segments });
            }
            PublishOutput::Seal { node, segments } => self.seal(*node, segments.clone()),
            PublishOutput::CancelSeal { node } => {
                assert!(self.sealing.remove(node).is_some());
            }
            PublishOutput::PutRecords { segments } => {
                self.check_sealed();
                assert!(segments.len() <= self.config.record_batch_max && !segments.is_empty());
                for &segment in segments {
                    let kept = if self.fails() { self.draws.below(2) as usize } else { 3 };
                    if !self.fails() {
                        let delay_ms = self.draws.below(50);
                        self.event(delay_ms, PublishInput::RecordPut { segment, kept });
                    }
                }
            }
            PublishOutput::Announce => {
                self.check_sealed();
                for segment in self.segments.keys() {
                    let kept = self.recorded.get(segment).copied().unwrap_or(0);
                    assert!(kept >= self.config.record_copies_min, "announced without records");
                }
                let kept = if self.fails() { 0 } else { 2 };
                self.event(10, PublishInput::Announced { kept });
            }
            PublishOutput::CheckLive => {
                assert!(self.announced);
                let live = PublishInput::Live;
                let not = PublishInput::NotLive { reason: "nobody else is there".into() };
                let input = if self.fails() { not } else { live };
                self.event(10, input);
            }
            PublishOutput::Done(_) | PublishOutput::Failed(_) => {}
        }
    }

    fn check_sealed(&self) {
        assert!(self.content_over && self.manifest_over);
        for (segment, stored) in &self.segments {
            let have = self.sealed.get(segment).map_or(0, BTreeSet::len);
            assert!(have >= stored.scheme.write_quorum(), "{have} seals of {segment}");
        }
    }

    /// What truly happens when `input` is reported.
    fn note(&mut self, input: &PublishInput) {
        match input {
            PublishInput::ContentStored { .. } => self.content_over = true,
            PublishInput::ManifestStored { .. } => self.manifest_over = true,
            PublishInput::Sealed { node, durable } => {
                if let Some(batch) = self.sealing.remove(node) {
                    for segment in batch.into_iter().take(*durable) {
                        self.sealed.entry(segment).or_default().insert(*node);
                    }
                }
            }
            PublishInput::SealFailed { node, .. } => {
                self.sealing.remove(node);
            }
            PublishInput::RecordPut { segment, kept } => {
                let before = self.recorded.entry(*segment).or_default();
                *before = (*kept).max(*before);
            }
            PublishInput::Announced { kept } => {
                self.announced |= *kept >= self.config.record_copies_min;
            }
            _ => {}
        }
    }

    /// Something that no driver should say now.
    fn garbage(&mut self) -> PublishInput {
        let node = node(self.draws.below(20) as u8);
        let segment = SegmentId([self.draws.below(5) as u8; 32]);
        match self.draws.below(6) {
            0 => PublishInput::Announced { kept: 0 },
            1 => PublishInput::Live,
            2 => PublishInput::RecordPut { segment, kept: 0 },
            3 => PublishInput::SealFailed { node, reason: "late".into() },
            4 => PublishInput::Tick,
            _ => PublishInput::NotLive { reason: "garbage".into() },
        }
    }

    fn run(&mut self) -> Result<PublishOutcome, PublishFailure> {
        let count = self.draws.below(6) as u8;
        self.store(1, count, |segments| PublishInput::ContentStored { segments });
        for _step in 0..10_000 {
            while let Some(output) = self.publish.poll() {
                self.output(&output);
                match output {
                    PublishOutput::Done(outcome) => return Ok(outcome),
                    PublishOutput::Failed(failure) => return Err(failure),
                    _ => {}
                }
            }
            let tick = self.publish.timeout();
            assert!(tick.is_none_or(|tick| tick > self.now), "a timeout in the past spins");
            let event = self.events.first_key_value().map(|(&(at, _), _)| at);
            let input = if self.draws.below(100) < self.garbage_percent {
                self.garbage()
            } else if let Some(at) = event.filter(|&at| tick.is_none_or(|tick| at <= tick)) {
                self.now = at;
                self.events.pop_first().expect("in a test world").1
            } else {
                self.now = tick.expect("waits for ever");
                PublishInput::Tick
            };
            self.note(&input);
            self.publish.handle(self.now, input);
        }
        panic!("no end");
    }
}

#[test]
fn nothing_is_announced_too_early_in_any_world() {
    let (mut done, mut failed) = (0, 0);
    for seed in 0..4_000 {
        let mut world = World::new(seed);
        let (clean, config) = (world.fail_percent + world.garbage_percent == 0, world.config);
        match world.run() {
            Ok(outcome) => {
                done += 1;
                assert!(world.announced, "seed {seed}");
                assert_eq!(outcome.segments, world.segments.len());
                let have: usize = world.segments.values().map(|s| s.holders.len()).sum();
                assert_eq!(outcome.receipts_have, have);
                assert!(outcome.live || !outcome.notes.is_empty());
            }
            Err(failure) => {
                failed += 1;
                assert!(!clean, "seed {seed}: {failure}");
                assert!(failure.announced || !world.announced, "seed {seed}: {failure}");
                assert!(failure.stage <= PublishStage::Announce);
                assert!(config.retries_max > 0);
            }
        }
        assert_eq!(world.publish.stage(), None);
        assert_eq!((world.publish.poll(), world.publish.timeout()), (None, None));
        // Nothing wakes it up again.
        world.publish.handle(world.now, PublishInput::Announced { kept: 9 });
        world.publish.handle(world.now, PublishInput::ContentStored { segments: 0 });
        assert_eq!(world.publish.poll(), None);
    }
    assert!(done > 1_000 && failed > 200, "{done} {failed}");
}

fn outputs(publish: &mut Publish) -> Vec<PublishOutput> {
    std::iter::from_fn(|| publish.poll()).collect()
}

fn failure(publish: &mut Publish) -> PublishFailure {
    match outputs(publish).pop() {
        Some(PublishOutput::Failed(failure)) => failure,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_failure_says_what_to_do() {
    let mut publish = Publish::new(PublishConfig::default());
    let segment = SegmentId([0xAB; 32]);
    let reason = "12 of 14 needed receipts: 3 holders full, 1 unreachable".to_owned();
    publish.handle(Millis(0), PublishInput::SegmentFailed { segment, reason });
    let failure = failure(&mut publish);
    assert_eq!(
        failure.to_string(),
        "segment ababababab has 12 of 14 needed receipts: 3 holders full, 1 unreachable; \
         run the same publish again to resume; nothing was announced"
    );
    assert_eq!((failure.stage, failure.announced), (PublishStage::Content, false));
}

#[test]
fn miscounts_and_false_receipts_stop_a_publish() {
    let few = stored(1, Scheme::DEFAULT, 13, 0);
    let mut same_node = stored(1, Scheme::DEFAULT, 14, 0);
    same_node.holders.insert(3, node(4));
    let mut out_of_scheme = stored(1, Scheme::DEFAULT, 13, 0);
    out_of_scheme.holders.insert(16, node(99));
    for bad in [few, same_node, out_of_scheme] {
        let mut publish = Publish::new(PublishConfig::default());
        publish.handle(Millis(0), PublishInput::SegmentStored(bad));
        assert!(!failure(&mut publish).announced);
    }
    let good = || PublishInput::SegmentStored(stored(1, Scheme::DEFAULT, 14, 0));
    let mut publish = Publish::new(PublishConfig::default());
    publish.handle(Millis(0), good());
    publish.handle(Millis(0), PublishInput::ContentStored { segments: 2 });
    assert!(failure(&mut publish).reason.contains("1 of 2 content segments"));
    // A manifest always has a segment of its own.
    let mut publish = Publish::new(PublishConfig::default());
    publish.handle(Millis(0), good());
    publish.handle(Millis(0), PublishInput::ContentStored { segments: 1 });
    assert_eq!(outputs(&mut publish), [PublishOutput::StoreManifest]);
    publish.handle(Millis(0), PublishInput::ManifestStored { segments: 0 });
    assert!(failure(&mut publish).reason.contains("manifest"));
}

#[test]
fn a_file_that_changes_stops_a_publish() {
    let mut publish = Publish::new(PublishConfig::default());
    publish.handle(Millis(0), PublishInput::Abort { reason: "file changed".into() });
    let text = failure(&mut publish).to_string();
    assert!(text.starts_with("file changed") && text.ends_with("nothing was announced"), "{text}");
}

#[test]
fn holders_that_do_not_answer_a_seal_end_it_with_a_reason() {
    let config = PublishConfig { retries_max: 1, ..PublishConfig::default() };
    let mut publish = Publish::new(config);
    publish.handle(Millis(0), PublishInput::ContentStored { segments: 0 });
    publish.handle(Millis(0), PublishInput::SegmentStored(stored(1, Scheme::SMALL, 5, 0)));
    publish.handle(Millis(0), PublishInput::ManifestStored { segments: 1 });
    let seals = outputs(&mut publish);
    assert_eq!(seals.len(), 1 + 5);
    for number in 0..4 {
        publish.handle(Millis(1), PublishInput::Sealed { node: node(number), durable: 1 });
    }
    let mut ends = vec![];
    while let Some(at) = publish.timeout() {
        publish.handle(at, PublishInput::Tick);
        ends.extend(outputs(&mut publish));
    }
    let Some(PublishOutput::Failed(failure)) = ends.pop() else { panic!("{ends:?}") };
    assert_eq!(failure.stage, PublishStage::Seal);
    assert!(failure.reason.contains("sealed by 4 of 5 needed holders"), "{failure}");
}
