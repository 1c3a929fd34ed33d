//! Fetching a range of a segment in small, seeded, faulty worlds.

use std::collections::{BTreeMap, BTreeSet};

use echonet_protocol::{
    fetch::{
        DecodeResult, Evidence, FailureCause, Fault, FetchConfig, FetchFailure, FetchInput,
        FetchOutput, FetchRequest, Holder, SegmentFetch,
    },
    identity::NodeId,
    machine::{Draws, Machine, Millis},
    segment::Scheme,
};

/// How a holder of one shard behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nature {
    Good {
        after_ms: u64,
    },
    /// Does not connect so many times, then good.
    Flaky {
        times: u32,
    },
    /// Begins to answer, and is done later.
    Chatty {
        heard_ms: u64,
        after_ms: u64,
    },
    /// Sends a part now and then, and is done after so many.
    Slow {
        parts: u64,
    },
    Missing,
    Corrupt,
    Silent,
    /// Refuses to connect, for ever.
    Down,
}

fn nature(draws: &mut Draws, evil_percent: u64, slowest_ms: u64) -> Nature {
    if draws.below(100) >= evil_percent {
        return Nature::Good { after_ms: 1 + draws.below(slowest_ms) };
    }
    match draws.below(7) {
        6 => Nature::Chatty { heard_ms: draws.below(slowest_ms), after_ms: slowest_ms },
        0 => Nature::Flaky { times: 1 + draws.below(5) as u32 },
        1 => Nature::Missing,
        2 => Nature::Corrupt,
        3 => Nature::Silent,
        4 => Nature::Slow { parts: 1 + draws.below(6) },
        _ => Nature::Down,
    }
}

struct World {
    scheme: Scheme,
    config: FetchConfig,
    natures: BTreeMap<(u8, NodeId), Nature>,
    /// Shards whose committed bytes are not those of the codeword.
    off_code: BTreeSet<u8>,
    /// Whether the manifest promises other bytes.
    manifest_lies: bool,
    events: BTreeMap<(Millis, u64), FetchInput>,
    sequence: u64,
    in_flight: BTreeSet<(u8, NodeId)>,
    attempts: BTreeMap<(u8, NodeId), u32>,
    got: BTreeSet<u8>,
    /// When a verified byte arrived last.
    last_byte: Millis,
    corrupt_seen: BTreeSet<(u8, NodeId)>,
    faults: Vec<Fault>,
    gets: usize,
    decodes: usize,
    decode_right: bool,
    proofs: usize,
}

/// How a run ended.
struct Run {
    end: Result<(), FetchFailure>,
    took_ms: u64,
    quiet_ms: u64,
    faults: Vec<Fault>,
    gets: usize,
    decodes: usize,
    asked: BTreeSet<(u8, NodeId)>,
}

impl World {
    fn new(scheme: Scheme, config: FetchConfig, natures: BTreeMap<(u8, NodeId), Nature>) -> Self {
        Self {
            scheme,
            config,
            natures,
            off_code: BTreeSet::new(),
            manifest_lies: false,
            events: BTreeMap::new(),
            sequence: 0,
            in_flight: BTreeSet::new(),
            attempts: BTreeMap::new(),
            got: BTreeSet::new(),
            last_byte: Millis(77),
            corrupt_seen: BTreeSet::new(),
            faults: Vec::new(),
            gets: 0,
            decodes: 0,
            decode_right: false,
            proofs: 0,
        }
    }

    fn event(&mut self, at: Millis, input: FetchInput) {
        self.sequence += 1;
        self.events.insert((at, self.sequence), input);
    }

    fn get(&mut self, now: Millis, index: u8, node: NodeId) {
        assert!(!self.got.contains(&index), "asked for what is there");
        assert!(self.in_flight.insert((index, node)), "asked twice at once");
        assert!(self.in_flight.len() <= 2 * self.config.parallel_max);
        self.gets += 1;
        let attempt = self.attempts.entry((index, node)).or_default();
        *attempt += 1;
        let (attempt, delay) = (*attempt, |ms| now.after(ms));
        match self.natures[&(index, node)] {
            Nature::Good { after_ms } => {
                self.event(delay(after_ms), FetchInput::Got { index, node })
            }
            Nature::Chatty { heard_ms, after_ms } => {
                self.event(delay(heard_ms), FetchInput::Heard { index, node });
                self.event(delay(after_ms), FetchInput::Got { index, node });
            }
            Nature::Flaky { times } if attempt > times => {
                self.event(delay(3), FetchInput::Got { index, node });
            }
            Nature::Flaky { .. } | Nature::Down => {
                self.event(delay(2), FetchInput::Unreachable { index, node });
            }
            Nature::Slow { parts } => {
                for part in 1..=parts {
                    self.event(delay(part * 700), FetchInput::Progress { index, node });
                }
                self.event(delay(parts * 700 + 1), FetchInput::Got { index, node });
            }
            Nature::Missing => self.event(delay(2), FetchInput::Missing { index, node }),
            Nature::Corrupt => self.event(delay(4), FetchInput::Corrupt { index, node }),
            Nature::Silent => {}
        }
    }

    fn decode(&mut self, now: Millis, have: &[u8], want: &[u8]) {
        self.decodes += 1;
        let distinct: BTreeSet<u8> = have.iter().copied().collect();
        assert_eq!(distinct.len(), have.len());
        assert!(distinct.is_subset(&self.got), "made from what is not there");
        assert!(have == want || have.len() == self.scheme.k as usize, "{have:?} for {want:?}");
        self.decode_right = !self.manifest_lies && distinct.is_disjoint(&self.off_code);
        let result = if self.decode_right { DecodeResult::Ok } else { DecodeResult::Mismatch };
        self.event(now.after(1), FetchInput::Decoded(result));
    }

    fn prove(&mut self, now: Millis, indices: &[u8]) {
        self.proofs += 1;
        let distinct: BTreeSet<u8> = indices.iter().copied().collect();
        assert_eq!(distinct.len(), self.scheme.k as usize + 1);
        assert!(distinct.is_subset(&self.got));
        let off = !distinct.is_disjoint(&self.off_code);
        let evidence = if off { Evidence::Inconsistent } else { Evidence::Consistent };
        self.event(now.after(1), FetchInput::Proven(evidence));
    }

    fn output(&mut self, now: Millis, output: FetchOutput) -> Option<Result<(), FetchFailure>> {
        match output {
            FetchOutput::Get { index, node } => self.get(now, index, node),
            FetchOutput::Cancel { index, node } => {
                assert!(self.in_flight.remove(&(index, node)), "cancelled what is not");
            }
            FetchOutput::Decode { have, want } => self.decode(now, &have, &want),
            FetchOutput::ProveInconsistent { indices } => self.prove(now, &indices),
            FetchOutput::Fault(fault) => {
                if let Fault::Holder { index, node } = fault {
                    assert!(self.corrupt_seen.contains(&(index, node)), "an innocent holder");
                }
                self.faults.push(fault);
            }
            FetchOutput::Complete => {
                assert!(self.decode_right, "complete with wrong bytes");
                return Some(Ok(()));
            }
            FetchOutput::Failed(failure) => return Some(Err(failure)),
        }
        None
    }

    fn note(&mut self, now: Millis, input: FetchInput) {
        if matches!(input, FetchInput::Got { .. } | FetchInput::Progress { .. }) {
            self.last_byte = now;
        }
        match input {
            FetchInput::Got { index, node } => {
                self.got.insert(index);
                self.in_flight.remove(&(index, node));
            }
            FetchInput::Corrupt { index, node } => {
                self.corrupt_seen.insert((index, node));
                self.in_flight.remove(&(index, node));
            }
            FetchInput::Missing { index, node } | FetchInput::Unreachable { index, node } => {
                self.in_flight.remove(&(index, node));
            }
            _ => {}
        }
    }

    fn run(mut self, request: &FetchRequest) -> Run {
        let mut now = Millis(77);
        let mut fetch = SegmentFetch::new(now, self.config, request);
        for _step in 0..5_000 {
            while let Some(output) = fetch.poll() {
                let Some(end) = self.output(now, output) else { continue };
                assert!(self.in_flight.is_empty(), "left under way: {:?}", self.in_flight);
                assert_eq!((fetch.poll(), fetch.timeout()), (None, None));
                let asked = self.attempts.keys().copied().collect();
                let took_ms = now.since(Millis(77));
                let quiet_ms = now.since(self.last_byte);
                let Self { faults, gets, decodes, .. } = self;
                return Run { end, took_ms, quiet_ms, faults, gets, decodes, asked };
            }
            let useless = self.in_flight.iter().find(|(index, _)| self.got.contains(index));
            assert_eq!(useless, None, "still asked for what is there");
            let tick = fetch.timeout();
            assert!(tick.is_none_or(|tick| tick > now), "a timeout in the past spins");
            let next = self.events.first_key_value().map(|(&(at, _), _)| at);
            let input = match next {
                Some(at) if tick.is_none_or(|tick| at <= tick) => {
                    now = at;
                    self.events.pop_first().expect("in a test world").1
                }
                _ => {
                    now = tick.expect("waits for ever");
                    FetchInput::Tick
                }
            };
            self.note(now, input);
            fetch.handle(now, input);
        }
        panic!("no end");
    }
}

fn node(number: u64) -> NodeId {
    NodeId(*blake3::hash(&number.to_le_bytes()).as_bytes())
}

fn request(
    scheme: Scheme,
    natures: &BTreeMap<(u8, NodeId), Nature>,
    want: impl IntoIterator<Item = u8>,
    seed: u64,
) -> FetchRequest {
    let mut holders = BTreeMap::<u8, Vec<Holder>>::new();
    for &(index, node) in natures.keys() {
        let holder = Holder { node, latency_ms: 10, is_silent: false };
        holders.entry(index).or_default().push(holder);
    }
    FetchRequest { scheme, holders, want: want.into_iter().collect(), seed }
}

/// One holder for each index, of the given nature.
fn one_each(scheme: Scheme, nature: impl Fn(u8) -> Nature) -> BTreeMap<(u8, NodeId), Nature> {
    (0..=u8::MAX).take(scheme.n()).map(|i| ((i, node(i.into())), nature(i))).collect()
}

const GOOD: Nature = Nature::Good { after_ms: 20 };

/// A world with at most a few holders for each index, from a seed.
fn random_world(
    draws: &mut Draws,
    scheme: Scheme,
    slowest_ms: u64,
) -> BTreeMap<(u8, NodeId), Nature> {
    let evil_percent = draws.below(100);
    let mut natures = BTreeMap::new();
    for index in 0..scheme.n() as u8 {
        for copy in 0..[0, 1, 1, 1, 1, 1, 1, 2][draws.below(8) as usize] {
            let nature = nature(draws, evil_percent, slowest_ms);
            natures.insert((index, node(u64::from(index) + 1000 * copy)), nature);
        }
    }
    natures
}

fn random_scheme(draws: &mut Draws) -> Scheme {
    let (k, m) = [(10, 6), (1, 6), (3, 2), (10, 14)][draws.below(4) as usize];
    Scheme::new(k, m).expect("in a test world")
}

#[test]
fn it_completes_exactly_when_k_honest_holders_answer() {
    let (mut complete, mut failed) = (0, 0);
    for seed in 0..6_000 {
        let mut draws = Draws::new(seed);
        let scheme = random_scheme(&mut draws);
        let natures = random_world(&mut draws, scheme, 900);
        let config = FetchConfig {
            parallel_max: 1 + draws.below(14) as usize,
            attempt_timeout_ms: 1_000,
            hedge_after_ms: 50 + draws.below(500),
            first_word_ms: 20 + draws.below(500),
            deadline_ms: 1_000_000,
            total_max_ms: 1_000_000,
            ..FetchConfig::default()
        };
        let want: BTreeSet<u8> = (0..1 + draws.below(scheme.k.into()))
            .map(|_| draws.below(scheme.k.into()) as u8)
            .collect();
        let honest: BTreeSet<u8> = natures
            .iter()
            .filter(|(_, nature)| match nature {
                Nature::Good { .. } | Nature::Chatty { .. } | Nature::Slow { .. } => true,
                Nature::Flaky { times } => *times <= config.retries_max,
                _ => false,
            })
            .map(|((index, _), _)| *index)
            .collect();
        let possible = want.is_subset(&honest) || honest.len() >= scheme.k.into();
        let mut request = request(scheme, &natures, want, seed);
        // Whatever is said of them: who is needed is asked.
        let silent_percent = [0, 30, 100][draws.below(3) as usize];
        for holder in request.holders.values_mut().flatten() {
            holder.is_silent = draws.below(100) < silent_percent;
        }
        let run = World::new(scheme, config, natures.clone()).run(&request);
        match run.end {
            Ok(()) => {
                complete += 1;
                assert!(possible, "seed {seed}");
            }
            Err(failure) => {
                failed += 1;
                assert!(!possible, "seed {seed}: {failure:?}");
                check_counts(scheme, &failure, &honest);
            }
        }
        let corrupt = natures.values().filter(|n| **n == Nature::Corrupt).count();
        assert!(run.faults.len() <= corrupt);
    }
    assert!(complete > 1_000 && failed > 1_000, "{complete} {failed}");
}

fn check_counts(scheme: Scheme, failure: &FetchFailure, honest: &BTreeSet<u8>) {
    assert_eq!(failure.cause, FailureCause::TooFew);
    let FetchFailure { answered, unreachable, missing, corrupt, unasked, unknown, .. } = *failure;
    assert_eq!(answered + unreachable + missing + corrupt + unasked + unknown, scheme.n());
    assert!(answered <= honest.len() && honest.len() <= answered + unasked + unreachable);
    assert_eq!(failure.needed, scheme.k as usize);
    assert!(answered < failure.needed);
}

#[test]
fn hurried_fetches_end_in_time_whatever_the_holders_do() {
    for seed in 0..3_000 {
        let mut draws = Draws::new(seed);
        let scheme = random_scheme(&mut draws);
        let natures = random_world(&mut draws, scheme, 8_000);
        let total_max_ms = 3_000 + draws.below(20_000);
        let config = FetchConfig { parallel_max: 4, total_max_ms, ..FetchConfig::default() };
        let request = request(scheme, &natures, 0..scheme.k, seed);
        let run = World::new(scheme, config, natures).run(&request);
        assert!(run.quiet_ms <= config.deadline_ms + 50, "seed {seed}: {} ms", run.quiet_ms);
        assert!(run.took_ms <= config.total_max_ms + 50, "seed {seed}: {} ms", run.took_ms);
    }
}

#[test]
fn a_healthy_range_costs_only_its_own_shards() {
    for want in [vec![4], vec![2, 7], (0..10).collect()] {
        let natures = one_each(Scheme::DEFAULT, |_| GOOD);
        let request = request(Scheme::DEFAULT, &natures, want.clone(), 1);
        let run = World::new(Scheme::DEFAULT, FetchConfig::default(), natures).run(&request);
        assert!(run.end.is_ok());
        let asked: Vec<u8> = run.asked.iter().map(|(index, _)| *index).collect();
        assert_eq!((asked, run.gets, run.decodes), (want.clone(), want.len(), 1));
    }
}

#[test]
fn six_of_sixteen_dead_cost_a_hedge_and_not_a_timeout() {
    let natures =
        one_each(Scheme::DEFAULT, |i| if i % 2 == 0 && i < 12 { Nature::Silent } else { GOOD });
    let request = request(Scheme::DEFAULT, &natures, 0..10, 1);
    let run = World::new(Scheme::DEFAULT, FetchConfig::default(), natures).run(&request);
    assert!(run.end.is_ok());
    // The hedge, then its own hedge for the dead among the others.
    assert!(run.took_ms <= 1_100, "{}", run.took_ms);
}

#[test]
fn a_seventh_dead_is_told_with_the_right_numbers_and_soon() {
    let nature = |i: u8| match i {
        0..=4 => Nature::Down,
        5 => Nature::Missing,
        6 => Nature::Corrupt,
        _ => GOOD,
    };
    let natures = one_each(Scheme::DEFAULT, nature);
    let request = request(Scheme::DEFAULT, &natures, 0..10, 1);
    let run = World::new(Scheme::DEFAULT, FetchConfig::default(), natures).run(&request);
    assert_eq!(
        run.end.unwrap_err().to_string(),
        "9 of 10 needed shards answered: 5 unreachable, 1 missing, 1 corrupt"
    );
    assert!(run.took_ms < 3_000, "{}", run.took_ms);
    assert_eq!(run.faults, [Fault::Holder { index: 6, node: node(6) }]);
    // Silent ones cost their timeouts, and still end within the deadline.
    let natures = one_each(Scheme::DEFAULT, |i| if i < 7 { Nature::Silent } else { GOOD });
    let run = World::new(Scheme::DEFAULT, FetchConfig::default(), natures).run(&request);
    assert!(run.took_ms <= 7_000, "{}", run.took_ms);
    let text = run.end.unwrap_err().to_string();
    assert!(text.starts_with("9 of 10 needed shards answered: 7 unreachable"), "{text}");
}

#[test]
fn absent_content_fails_at_once() {
    let request = request(Scheme::DEFAULT, &BTreeMap::new(), 0..10, 1);
    let run = World::new(Scheme::DEFAULT, FetchConfig::default(), BTreeMap::new()).run(&request);
    assert_eq!(run.took_ms, 0);
    let text = run.end.unwrap_err().to_string();
    assert_eq!(text, "0 of 10 needed shards answered: 16 without a known holder");
}

#[test]
fn another_holder_of_the_same_shard_is_better_than_rebuilding() {
    let mut natures = one_each(Scheme::DEFAULT, |_| GOOD);
    natures.insert((3, node(3)), Nature::Missing);
    natures.insert((3, node(333)), GOOD);
    let request = request(Scheme::DEFAULT, &natures, [3], 1);
    let run = World::new(Scheme::DEFAULT, FetchConfig::default(), natures).run(&request);
    assert!(run.end.is_ok());
    assert!(run.gets <= 2, "{}", run.gets);
}

fn doubtful(
    scheme: Scheme,
    natures: BTreeMap<(u8, NodeId), Nature>,
    off_code: &[u8],
    manifest_lies: bool,
    seed: u64,
) -> Run {
    let config = FetchConfig { deadline_ms: 100_000, ..FetchConfig::default() };
    let request = request(scheme, &natures, 0..scheme.k, seed);
    let mut world = World::new(scheme, config, natures);
    world.off_code = off_code.iter().copied().collect();
    world.manifest_lies = manifest_lies;
    world.run(&request)
}

#[test]
fn the_guilty_are_found_and_nobody_else() {
    let mut outcomes = [0; 4];
    for seed in 0..4_000 {
        let mut draws = Draws::new(seed);
        let scheme =
            [Scheme::DEFAULT, Scheme::new(3, 2).unwrap(), Scheme::SMALL][seed as usize % 3];
        let natures = random_world(&mut draws, scheme, 300);
        let lies = draws.below(3) == 0;
        let mut off_code = Vec::new();
        // Copies with different hashes are refused when parsed.
        if scheme.k > 1 && draws.below(2) == 0 {
            let count = 1 + draws.below(scheme.m.into());
            off_code.extend((0..count).map(|_| draws.below(scheme.n() as u64) as u8));
        }
        let run = doubtful(scheme, natures, &off_code, lies, seed);
        assert!(run.decodes <= 2 + 32, "{}", run.decodes);
        let count = |fault: Fault| run.faults.iter().filter(|f| **f == fault).count();
        assert!(count(Fault::Publisher) <= usize::from(!off_code.is_empty()), "seed {seed}");
        assert!(count(Fault::Manifest) <= usize::from(lies), "seed {seed}");
        if let Err(failure) = run.end {
            assert!(lies || !off_code.is_empty() || failure.cause == FailureCause::TooFew);
            assert_eq!(failure.inconsistent, count(Fault::Publisher) > 0);
            outcomes[3] += 1;
        } else {
            assert!(!lies);
            outcomes[usize::from(!off_code.is_empty()) + count(Fault::Publisher)] += 1;
        }
    }
    // All honest; off code and not noticed; off code, proven, and got; failed.
    assert!(outcomes.iter().all(|&count| count > 50), "{outcomes:?}");
}

#[test]
fn an_inconsistent_segment_is_proven_and_still_read_through_another_subset() {
    for bad in 0..10 {
        let run = doubtful(Scheme::DEFAULT, one_each(Scheme::DEFAULT, |_| GOOD), &[bad], false, 5);
        assert!(run.end.is_ok());
        assert_eq!(run.faults, [Fault::Publisher]);
    }
}

#[test]
fn a_lying_manifest_is_blamed_once_the_shards_are_known_to_be_a_codeword() {
    let run = doubtful(Scheme::DEFAULT, one_each(Scheme::DEFAULT, |_| GOOD), &[], true, 5);
    assert_eq!(run.faults, [Fault::Manifest]);
    let failure = run.end.unwrap_err();
    assert_eq!((failure.cause, failure.answered), (FailureCause::Mismatch, 16));
    assert_eq!(run.decodes, 1);
    let copies = doubtful(Scheme::SMALL, one_each(Scheme::SMALL, |_| GOOD), &[], true, 5);
    assert_eq!((copies.faults, copies.gets), (vec![Fault::Manifest], 1));
}

#[test]
fn a_race_may_leave_the_investigation_out() {
    let natures = one_each(Scheme::DEFAULT, |_| GOOD);
    let config = FetchConfig { investigate: false, ..FetchConfig::default() };
    let request = request(Scheme::DEFAULT, &natures, [2], 1);
    let mut world = World::new(Scheme::DEFAULT, config, natures);
    world.manifest_lies = true;
    let run = world.run(&request);
    assert_eq!(run.end.unwrap_err().cause, FailureCause::Mismatch);
    assert_eq!((run.gets, run.faults), (1, vec![]));
}

#[test]
fn wanting_nothing_is_complete_and_strange_indices_are_ignored() {
    let mut natures = one_each(Scheme::DEFAULT, |_| GOOD);
    natures.insert((200, node(200)), GOOD);
    let mut request = request(Scheme::DEFAULT, &natures, [12, 200], 1);
    let mut fetch = SegmentFetch::new(Millis(0), FetchConfig::default(), &request);
    assert_eq!(fetch.poll(), Some(FetchOutput::Complete));
    request.want = BTreeSet::from([1]);
    let mut fetch = SegmentFetch::new(Millis(0), FetchConfig::default(), &request);
    let first = FetchOutput::Get { index: 1, node: node(1) };
    assert_eq!((fetch.poll(), fetch.poll()), (Some(first), None));
    // Answers that nobody asked for change nothing.
    for index in [3, 200, 255] {
        fetch.handle(Millis(1), FetchInput::Got { index, node: node(index.into()) });
        fetch.handle(Millis(1), FetchInput::Corrupt { index, node: node(index.into()) });
    }
    fetch.handle(Millis(1), FetchInput::Decoded(DecodeResult::Ok));
    fetch.handle(Millis(1), FetchInput::Proven(Evidence::Inconsistent));
    assert_eq!(fetch.poll(), None);
}
