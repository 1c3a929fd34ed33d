//! Attraction: a node that joins gets its share of what is there already, from
//! the holders that the order likes least, and nothing else moves.

use std::collections::{BTreeMap, BTreeSet};

use echonet_protocol::{
    identity::NodeId,
    network::NetworkId,
    node_descriptor::Labels,
    placement::{
        Attracting, Attraction, Candidate, PlacementRequest, Site, Standing, genesis_beacon,
        observed_prefix, place, rank,
    },
    quiet::QuietHours,
    segment::{Scheme, SegmentId},
    time::Epoch,
};

const NETWORK: NetworkId = NetworkId([7; 32]);
const SCHEME: Scheme = Scheme::DEFAULT;
const NODES: u64 = 60;
const SEGMENTS: u64 = 400;
const MADE: Epoch = Epoch(3);
const NOW: Epoch = Epoch(6);

fn hash(number: u64) -> [u8; 32] {
    *blake3::hash(&number.to_le_bytes()).as_bytes()
}

fn candidate(number: u64, joined: Epoch) -> Candidate {
    let ip = std::net::Ipv4Addr::from([10, 1, u8::try_from(number).expect("small"), 1]);
    Candidate {
        node: NodeId(hash(number)),
        site: Site {
            labels: Labels {
                region: format!("r{}", number % 3),
                datacenter: format!("d{}", number % 7),
                rack: String::new(),
                operator: format!("o{number}"),
            },
            observed_prefix: observed_prefix(ip.into()),
        },
        capacity_class: 5,
        joined,
        beacon: genesis_beacon(&NETWORK, Epoch(joined.0 + 1)),
        accepts: true,
        standing: Standing::Full,
        load_permille: 0,
        reliability_permille: 1000,
        latency_ms: 1,
        quiet: QuietHours::NONE,
    }
}

/// A network of old nodes, its placements, and new nodes.
struct World {
    all: Vec<Candidate>,
    placements: Vec<(SegmentId, Vec<(u8, NodeId)>)>,
}

fn world(joiners: impl IntoIterator<Item = Candidate>) -> World {
    let mut all: Vec<Candidate> = (0..NODES).map(|number| candidate(number, Epoch(0))).collect();
    let placed = |number: u64| {
        let segment = SegmentId(hash(1_000_000 + number));
        let request = PlacementRequest {
            network: NETWORK,
            segment,
            scheme: SCHEME,
            development: true,
            already: BTreeMap::new(),
            prefer: BTreeMap::new(),
            exclude: BTreeSet::new(),
        };
        (segment, place(&request, &all).holders().clone().into_iter().collect())
    };
    let placements = (0..SEGMENTS).map(placed).collect();
    all.extend(joiners);
    World { all, placements }
}

impl World {
    fn attraction(&self) -> Attraction {
        Attraction::new(NETWORK, true, self.all.clone(), Epoch(0), NOW)
    }

    /// Who gives way to whom.
    fn moves(&self, segment: SegmentId, made: Epoch, holders: &[(u8, NodeId)]) -> Moves {
        let attraction = self.attraction();
        let owner = NodeId([9; 32]);
        let placement = Attracting { segment, scheme: SCHEME, owner, made, holders };
        let relief = |(_, own): &(u8, NodeId)| Some((*own, attraction.relief(&placement, *own)?));
        holders.iter().filter_map(relief).collect()
    }

    fn rank_of(&self, segment: SegmentId, node: NodeId) -> usize {
        let order = rank(&NETWORK, &segment, &self.all);
        order.iter().position(|at| self.all[*at].node == node).expect("a member")
    }
}

type Moves = BTreeMap<NodeId, NodeId>;

#[test]
fn one_that_joins_gets_its_share_and_nothing_else_moves() {
    let joiner = candidate(100, Epoch(5));
    let world = world([joiner.clone()]);
    let mut moved = 0;
    for (segment, holders) in &world.placements {
        let moves = world.moves(*segment, MADE, holders);
        assert!(moves.len() <= 1, "one node takes one shard");
        for (from, to) in moves {
            assert_eq!(to, joiner.node);
            let ranks = holders.iter().map(|(_, node)| world.rank_of(*segment, *node));
            assert_eq!(ranks.max(), Some(world.rank_of(*segment, from)), "the last gives way");
            assert!(world.rank_of(*segment, to) < SCHEME.n());
            moved += 1;

            let after: Vec<(u8, NodeId)> =
                holders.iter().map(|(i, n)| (*i, if *n == from { to } else { *n })).collect();
            assert_eq!(
                world.moves(*segment, MADE, &after),
                Moves::new(),
                "and then all is settled"
            );
        }
    }
    // 16 of 61 draw among the first n; a few keep a rule or are hardly better.
    let share = SEGMENTS * 16 / 61;
    assert!((share * 7 / 10..=share * 12 / 10).contains(&moved), "{moved} of {share}");
}

#[test]
fn who_could_have_been_chosen_attracts_nothing() {
    let world = world([candidate(100, MADE)]);
    let in_time = world.placements.iter();
    assert!(in_time.clone().all(|(s, holders)| world.moves(*s, MADE, holders).is_empty()));
    let before: usize = in_time.map(|(s, h)| world.moves(*s, Epoch(MADE.0 - 1), h).len()).sum();
    assert!(before > 0, "the same node, had it come later");
}

#[test]
fn a_node_whose_beacon_is_not_known_yet_or_that_is_full_waits() {
    for joiner in [candidate(100, NOW), Candidate { accepts: false, ..candidate(100, Epoch(5)) }] {
        assert!(world([joiner]).attraction().is_empty());
    }
    assert!(!world([candidate(100, Epoch(5))]).attraction().is_empty());
}

#[test]
fn two_that_join_relieve_two() {
    let world = world([candidate(100, Epoch(5)), candidate(102, Epoch(5))]);
    let mut both = 0;
    for (segment, holders) in &world.placements {
        let moves = world.moves(*segment, MADE, holders);
        let takers: BTreeSet<NodeId> = moves.values().copied().collect();
        assert_eq!(takers.len(), moves.len(), "nobody takes two shards");
        both += usize::from(takers.len() == 2);
    }
    assert!(both > 0);
}

#[test]
fn no_rule_is_broken_for_a_better_place() {
    // Its operator has its two holders in most placements already.
    let mut joiner = candidate(100, Epoch(5));
    joiner.site.labels.operator = "o1".to_owned();
    let mut world = world([joiner.clone()]);
    for number in [2, 4] {
        world.all[number].site.labels.operator = "o1".to_owned();
    }
    let of_operator = |nodes: &[(u8, NodeId)]| {
        let is_one = |(_, node): &&(u8, NodeId)| {
            world.all.iter().any(|c| c.node == *node && c.site.labels.operator == "o1")
        };
        nodes.iter().filter(is_one).count()
    };
    let mut full = 0;
    for (segment, holders) in &world.placements {
        let moves = world.moves(*segment, MADE, holders);
        let before = of_operator(holders);
        full += usize::from(before >= 2);
        for (from, to) in moves {
            let after: Vec<_> =
                holders.iter().map(|(i, n)| (*i, if *n == from { to } else { *n })).collect();
            assert!(of_operator(&after) <= before.max(2));
        }
    }
    assert!(full > 0, "the rule was never tight");
}
