//! Storing a segment in small, seeded, faulty worlds.

use std::collections::{BTreeMap, BTreeSet};

use echonet_protocol::{
    identity::NodeId,
    machine::{Draws, Machine, Millis},
    message::{Refusal, RefusalCode},
    network::NetworkId,
    node_descriptor::Labels,
    placement::{Candidate, PlacementPlan, PlacementRequest, Site, Standing, place},
    publish::{NotStored, SegmentStore, StoreConfig, StoreInput, StoreOutput, Stored, Trouble},
    quiet::QuietHours,
    segment::{Scheme, SegmentId},
    time::Epoch,
};

/// How a node behaves towards the attempts to store on it.
#[derive(Debug, Clone, Copy)]
enum Nature {
    /// Stores after so long.
    Good {
        after_ms: u64,
    },
    /// Busy so many times, then good.
    Busy {
        times: u32,
    },
    /// Unreachable so many times, then good.
    Flaky {
        times: u32,
    },
    Refuses(RefusalCode),
    BadReceipt,
    /// Never answers.
    Silent,
    /// Sends bytes for ever.
    Trickles,
    /// Stores, and answers after the attempt was given up.
    Late {
        after_ms: u64,
    },
}

fn nature(draws: &mut Draws, evil_percent: u64) -> Nature {
    if draws.below(100) >= evil_percent {
        return Nature::Good { after_ms: 1 + draws.below(900) };
    }
    match draws.below(9) {
        0 | 1 => Nature::Refuses(RefusalCode::Full),
        2 => Nature::Refuses(RefusalCode::NotGranted),
        3 => Nature::Busy { times: 1 + draws.below(5) as u32 },
        4 => Nature::Flaky { times: 1 + draws.below(5) as u32 },
        5 => Nature::BadReceipt,
        6 => Nature::Silent,
        7 => Nature::Trickles,
        _ => Nature::Late { after_ms: 1_000 + draws.below(8_000) },
    }
}

fn config() -> StoreConfig {
    StoreConfig {
        parallel_max: 10,
        attempt_timeout_ms: 1_000,
        retries_max: 3,
        backoff_ms: 50,
        extra_ms: 500,
        deadline_ms: 1_000_000,
    }
}

fn plan(scheme: Scheme, seed: u64, nodes: u64) -> PlacementPlan {
    let candidate = |number: u64| Candidate {
        node: NodeId(*blake3::hash(&number.to_le_bytes()).as_bytes()),
        site: Site {
            labels: Labels { datacenter: format!("d{}", number % 5), ..Labels::default() },
            observed_prefix: [number as u8; 16],
        },
        capacity_class: 5,
        joined: Epoch(0),
        beacon: [0; 32],
        accepts: true,
        standing: Standing::Full,
        load_permille: 0,
        reliability_permille: 1000,
        latency_ms: 1,
        quiet: QuietHours::NONE,
    };
    let request = PlacementRequest {
        network: NetworkId([1; 32]),
        segment: SegmentId(*blake3::hash(&seed.to_le_bytes()).as_bytes()),
        scheme,
        development: true,
        already: BTreeMap::new(),
        prefer: BTreeMap::new(),
        exclude: BTreeSet::new(),
    };
    place(&request, &(0..nodes).map(candidate).collect::<Vec<_>>())
}

type Receipt = (u8, NodeId);

/// How a run ended, and what was seen on the way.
struct Run {
    end: Result<Stored<Receipt>, NotStored<Receipt>>,
    at: Millis,
    attempts: BTreeMap<NodeId, u32>,
}

struct World {
    natures: BTreeMap<NodeId, Nature>,
    config: StoreConfig,
    scheme: Scheme,
    events: BTreeMap<(Millis, u64), StoreInput<Receipt>>,
    sequence: u64,
    in_flight: BTreeMap<NodeId, u8>,
    bound: BTreeMap<NodeId, u8>,
    refused: BTreeSet<NodeId>,
    attempts: BTreeMap<NodeId, u32>,
    /// Receipts that reached the machine.
    receipts: BTreeSet<u8>,
    quorum_seen: bool,
}

impl World {
    fn event(&mut self, at: Millis, input: StoreInput<Receipt>) {
        self.sequence += 1;
        self.events.insert((at, self.sequence), input);
    }

    fn store(&mut self, now: Millis, index: u8, node: NodeId) {
        assert!(!self.quorum_seen || self.receipts.len() < self.scheme.n());
        assert_eq!(*self.bound.entry(node).or_insert(index), index, "two shards for one node");
        assert_eq!(self.in_flight.insert(node, index), None);
        assert!(self.in_flight.len() <= self.config.parallel_max);
        assert!(!self.refused.contains(&node), "asked again after a final refusal");
        let attempts = self.attempts.entry(node).or_default();
        *attempts += 1;
        let attempt = *attempts;
        assert!(attempt <= 1 + self.config.retries_max);
        let receipt = StoreInput::Receipt { index, node, receipt: (index, node) };
        let refusal = |code| StoreInput::Refused { index, node, refusal: Refusal::new(code, "no") };
        let failed = |trouble| StoreInput::Failed { index, node, trouble, reason: "x".into() };
        match self.natures[&node] {
            Nature::Good { after_ms } | Nature::Late { after_ms } => {
                self.event(now.after(after_ms), receipt);
            }
            Nature::Busy { times } if attempt <= times => {
                self.event(now.after(5), refusal(RefusalCode::Busy));
            }
            Nature::Flaky { times } if attempt <= times => {
                self.event(now.after(5), failed(Trouble::Unreachable));
            }
            Nature::Busy { .. } | Nature::Flaky { .. } => self.event(now.after(10), receipt),
            Nature::Refuses(code) => {
                self.refused.insert(node);
                self.event(now.after(5), refusal(code));
            }
            Nature::BadReceipt => {
                self.refused.insert(node);
                self.event(now.after(5), failed(Trouble::BadReceipt));
            }
            Nature::Silent => {}
            Nature::Trickles => {
                for tick in 1..5 {
                    self.event(now.after(tick * 700), StoreInput::Progress { index, node });
                }
            }
        }
    }

    fn output(&mut self, now: Millis, output: &StoreOutput<Receipt>) {
        match output {
            StoreOutput::Store { index, node } => self.store(now, *index, *node),
            StoreOutput::Cancel { index, node } => {
                assert_eq!(self.in_flight.remove(node), Some(*index), "cancelled what is not");
            }
            StoreOutput::Quorum => {
                assert!(!self.quorum_seen, "quorum twice");
                assert!(self.receipts.len() >= self.scheme.write_quorum(), "a false quorum");
                self.quorum_seen = true;
            }
            StoreOutput::Done(_) | StoreOutput::Failed(_) => {
                assert!(self.in_flight.is_empty(), "left under way: {:?}", self.in_flight);
            }
        }
    }

    /// What the machine is about to be told.
    fn note(&mut self, input: &StoreInput<Receipt>) {
        match input {
            StoreInput::Receipt { index, node, .. } => {
                self.receipts.insert(*index);
                self.in_flight.remove(node);
            }
            StoreInput::Refused { node, .. } | StoreInput::Failed { node, .. } => {
                self.in_flight.remove(node);
            }
            StoreInput::Progress { .. } | StoreInput::Tick => {}
        }
    }
}

fn run(natures: BTreeMap<NodeId, Nature>, config: StoreConfig, plan: PlacementPlan) -> Run {
    let mut world = World {
        natures,
        config,
        scheme: plan.scheme(),
        events: BTreeMap::new(),
        sequence: 0,
        in_flight: BTreeMap::new(),
        bound: BTreeMap::new(),
        refused: BTreeSet::new(),
        attempts: BTreeMap::new(),
        receipts: BTreeSet::new(),
        quorum_seen: false,
    };
    let mut now = Millis(1_000);
    let mut store = SegmentStore::new(now, config, plan, BTreeMap::new());
    for _step in 0..20_000 {
        while let Some(output) = store.poll() {
            world.output(now, &output);
            let end = match output {
                StoreOutput::Done(stored) => Ok(stored),
                StoreOutput::Failed(not_stored) => Err(not_stored),
                _ => continue,
            };
            assert_eq!(store.poll(), None, "something after the end");
            assert_eq!(store.timeout(), None);
            return Run { end, at: now, attempts: world.attempts };
        }
        let tick = store.timeout().expect("waits for ever");
        assert!(tick > now, "a timeout in the past spins");
        let input = match world.events.first_key_value() {
            Some((&(at, _), _)) if at <= tick => {
                let ((at, _), input) = world.events.pop_first().expect("in a test world");
                now = at;
                input
            }
            _ => {
                now = tick;
                StoreInput::Tick
            }
        };
        world.note(&input);
        store.handle(now, input);
    }
    panic!("no end");
}

#[test]
fn thousands_of_worlds_keep_the_rules_and_end_as_they_must() {
    let (mut done, mut failed) = (0, 0);
    for seed in 0..4_000 {
        let mut draws = Draws::new(seed);
        let scheme =
            [Scheme::DEFAULT, Scheme::SMALL, Scheme::new(4, 3).unwrap()][draws.below(3) as usize];
        let plan = plan(scheme, seed, draws.below(45));
        let evil_percent = draws.below(90);
        let nodes: Vec<NodeId> = plan.holders().values().chain(plan.spares()).copied().collect();
        let natures: BTreeMap<NodeId, Nature> =
            nodes.iter().map(|&n| (n, nature(&mut draws, evil_percent))).collect();
        let mut config = config();
        config.parallel_max = 1 + draws.below(12) as usize;
        let hurried = draws.below(4) == 0;
        if hurried {
            config.deadline_ms = 100 + draws.below(3_000);
        }
        let quorum = scheme.write_quorum();
        let run = run(natures.clone(), config, plan);
        assert!(run.at.since(Millis(1_000)) <= config.deadline_ms, "seed {seed}");
        let sure = |n: &&Nature| match n {
            Nature::Good { after_ms } => *after_ms < 1_000,
            Nature::Busy { times } => *times <= config.retries_max,
            _ => false,
        };
        let sure_count = natures.values().filter(sure).count();
        let late = natures.values().filter(|n| matches!(n, Nature::Late { .. })).count();
        // Two of these may have been asked for one index, and no other any more.
        let flaky = natures.values().filter(|n| matches!(n, Nature::Flaky { .. })).count();
        match run.end {
            Ok(stored) => {
                done += 1;
                assert!(sure_count + late + flaky >= quorum, "seed {seed}");
                check_stored(scheme, &stored, &natures);
            }
            Err(not_stored) => {
                failed += 1;
                // A late receipt may make the effort of a good node useless.
                assert!(hurried || sure_count < quorum + late, "seed {seed}: {not_stored}");
                assert!(not_stored.held.len() < quorum);
                assert_eq!(not_stored.want, quorum);
                let asked: u32 = not_stored.troubles.0.values().sum();
                assert!(asked as usize <= run.attempts.len());
            }
        }
    }
    assert!(done > 500 && failed > 500, "{done} {failed}");
}

fn check_stored(scheme: Scheme, stored: &Stored<Receipt>, natures: &BTreeMap<NodeId, Nature>) {
    assert!(stored.held.len() >= scheme.write_quorum());
    let nodes: BTreeSet<NodeId> = stored.held.values().map(|(node, _)| *node).collect();
    assert_eq!(nodes.len(), stored.held.len(), "two shards on one node");
    for (index, (node, receipt)) in &stored.held {
        assert_eq!(*receipt, (*index, *node), "another's receipt");
        let never = matches!(
            natures[node],
            Nature::Silent | Nature::Refuses(_) | Nature::BadReceipt | Nature::Trickles
        );
        assert!(!never, "{:?} stored nothing", natures[node]);
    }
    let missing: BTreeSet<u8> = stored.missing.iter().map(|m| m.index).collect();
    assert_eq!(missing.len() + stored.held.len(), scheme.n());
    assert!(missing.iter().all(|index| !stored.held.contains_key(index)));
}

#[test]
fn a_few_dead_nodes_cost_little_while_there_are_spares() {
    let plan = plan(Scheme::DEFAULT, 1, 40);
    let mut natures: BTreeMap<NodeId, Nature> = plan
        .holders()
        .values()
        .chain(plan.spares())
        .map(|&n| (n, Nature::Good { after_ms: 100 }))
        .collect();
    for index in [0, 5, 11, 15] {
        natures.insert(plan.holders()[&index], Nature::Silent);
    }
    let run = run(natures, config(), plan);
    assert_eq!(run.end.unwrap().held.len(), 16);
    // One attempt timeout, then a replacement: no backing off at the dead.
    assert!(run.at.since(Millis(1_000)) <= 1_300, "{:?}", run.at);
    assert!(run.attempts.values().all(|&attempts| attempts == 1));
}

#[test]
fn the_write_quorum_is_enough_and_the_rest_is_named() {
    let plan = plan(Scheme::DEFAULT, 2, 16);
    let natures: BTreeMap<NodeId, Nature> = plan
        .holders()
        .iter()
        .map(|(&index, &node)| match index {
            3 => (node, Nature::Refuses(RefusalCode::Full)),
            7 => (node, Nature::Silent),
            _ => (node, Nature::Good { after_ms: 10 }),
        })
        .collect();
    let stored = run(natures, config(), plan).end.unwrap();
    assert_eq!(stored.held.len(), 14);
    let missing: Vec<_> = stored.missing.iter().map(|m| (m.index, m.trouble)).collect();
    assert_eq!(missing, [(3, Some(Trouble::Full)), (7, Some(Trouble::TooSlow))]);
    assert!(stored.survives_datacenter);
}

#[test]
fn too_few_say_how_many_and_why() {
    let plan_of_16 = plan(Scheme::DEFAULT, 3, 16);
    let natures: BTreeMap<NodeId, Nature> = plan_of_16
        .holders()
        .iter()
        .map(|(&index, &node)| match index {
            3..=5 => (node, Nature::Refuses(RefusalCode::Full)),
            7 => (node, Nature::Flaky { times: 100 }),
            _ => (node, Nature::Good { after_ms: 1 }),
        })
        .collect();
    let failure = run(natures, config(), plan_of_16).end.unwrap_err().to_string();
    assert!(failure.contains(" of 14 needed receipts: 3 holders full"), "{failure}");
    // Hopeless from the start: nothing is sent at all.
    let tiny = plan(Scheme::DEFAULT, 4, 9);
    let run = run(BTreeMap::new(), config(), tiny);
    assert_eq!((run.at, run.attempts.len()), (Millis(1_000), 0));
    let text = run.end.unwrap_err().to_string();
    assert_eq!(text, "0 of 14 needed receipts; only 9 nodes can be asked");
}

#[test]
fn resuming_sends_only_what_is_lacking() {
    let base = plan(Scheme::DEFAULT, 5, 30);
    let already: BTreeMap<u8, (NodeId, Receipt)> =
        base.holders().iter().take(13).map(|(&i, &n)| (i, (n, (i, n)))).collect();
    let mut store = SegmentStore::new(Millis(0), config(), base.clone(), already);
    let mut asked = BTreeSet::new();
    while let Some(output) = store.poll() {
        let StoreOutput::Store { index, node } = output else { panic!("{output:?}") };
        asked.insert(index);
        store.handle(Millis(1), StoreInput::Receipt { index, node, receipt: (index, node) });
        if asked.len() == 3 {
            break;
        }
    }
    assert_eq!(asked, BTreeSet::from([13, 14, 15]));
    assert_eq!(store.poll(), Some(StoreOutput::Quorum));
    assert!(matches!(store.poll(), Some(StoreOutput::Done(s)) if s.held.len() == 16));
}

#[test]
fn receipts_of_strangers_and_for_other_shards_do_not_count() {
    let plan = plan(Scheme::SMALL, 6, 20);
    let holders = plan.holders().clone();
    let mut store = SegmentStore::new(Millis(0), config(), plan, BTreeMap::new());
    while store.poll().is_some() {}
    for node in [holders[&1], NodeId([9; 32])] {
        store.handle(Millis(1), StoreInput::Receipt { index: 0, node, receipt: (0, node) });
    }
    assert_eq!(store.held().len(), 0);
    assert_eq!(store.poll(), None);
}
