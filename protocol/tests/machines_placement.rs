//! Placement: the order is fair and stable, the rules hold wherever the network
//! lets them.

use std::collections::{BTreeMap, BTreeSet};

use echonet_protocol::{
    identity::NodeId,
    machine::Draws,
    network::NetworkId,
    node_descriptor::Labels,
    placement::{
        BrokenRule, Candidate, PlacementRequest, Site, Standing, genesis_beacon, neg_log2,
        observed_prefix, place, rank, survives_datacenter,
    },
    quiet::QuietHours,
    segment::{Scheme, SegmentId},
    time::Epoch,
};

const NETWORK: NetworkId = NetworkId([7; 32]);

fn node(number: u64) -> NodeId {
    NodeId(*blake3::hash(&number.to_le_bytes()).as_bytes())
}

fn segment(number: u64) -> SegmentId {
    SegmentId(*blake3::hash(&(!number).to_le_bytes()).as_bytes())
}

/// A vetted node of class 5 in a place of its own.
fn candidate(number: u64) -> Candidate {
    let ip = std::net::Ipv4Addr::from(
        0x0A00_0000 + (u32::try_from(number).expect("a small number") << 8),
    );
    Candidate {
        node: node(number),
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
        joined: Epoch(3),
        beacon: genesis_beacon(&NETWORK, Epoch(4)),
        accepts: true,
        standing: Standing::Full,
        load_permille: 100,
        reliability_permille: 990,
        latency_ms: 20,
        quiet: QuietHours::NONE,
    }
}

fn request(scheme: Scheme, number: u64) -> PlacementRequest {
    PlacementRequest {
        network: NETWORK,
        segment: segment(number),
        scheme,
        development: false,
        already: BTreeMap::new(),
        prefer: BTreeMap::new(),
        exclude: BTreeSet::new(),
    }
}

/// The nodes of `echonet devnet --nodes 20`: four datacenters, ten operators.
fn devnet(nodes: u64) -> Vec<Candidate> {
    let place = |number: u64| {
        let (datacenter, operator) = (number % 4, number / 4 % 5 / 2 + number % 4 * 3);
        let ip = std::net::Ipv4Addr::new(127, datacenter as u8 + 1, operator as u8, number as u8);
        let mut c = candidate(number);
        c.site.labels.region = format!("r{}", datacenter % 2);
        c.site.labels.datacenter = format!("d{datacenter}");
        c.site.labels.operator = format!("o{operator}");
        c.site.observed_prefix = observed_prefix(ip.into());
        c.standing = Standing::Vetting;
        c
    };
    (0..nodes).map(place).collect()
}

#[test]
fn logarithms_are_exact_where_they_can_be_and_golden_elsewhere() {
    assert_eq!(neg_log2(u64::MAX), 0);
    assert_eq!(neg_log2((1 << 63) - 1), 1 << 40);
    assert_eq!(neg_log2(0), 64 << 40);
    // floor of 2^40 * log2(x) by an independent computation (80 digits).
    for (u, golden) in GOLDEN_LOGS {
        assert_eq!(neg_log2(u), golden, "{u}");
    }
    let mut draws = Draws::new(1);
    for _ in 0..10_000 {
        let (a, b) = (draws.next_u64(), draws.next_u64());
        let (a, b) = (a.min(b), a.max(b));
        assert!(neg_log2(a) >= neg_log2(b), "{a} {b}");
    }
}

const GOLDEN_LOGS: [(u64, u64); 6] = [
    (1, 69_269_232_549_888),
    (2, 68_626_059_478_533),
    (9, 66_716_245_610_700),
    (1_000_000_007, 37_496_257_062_295),
    (0x0123_4567_89AB_CDEF, 8_591_343_276_641),
    (0xFEDC_BA98_7654_3210, 7_065_757_665),
];

#[test]
fn the_order_is_golden() {
    let order = rank(&NETWORK, &segment(1), &(0..12).map(candidate).collect::<Vec<_>>());
    assert_eq!(order, GOLDEN_ORDER);
    let mut mixed: Vec<Candidate> = (0..12).map(candidate).collect();
    for (number, c) in (0..).zip(&mut mixed) {
        c.capacity_class = number;
    }
    assert_eq!(rank(&NETWORK, &segment(1), &mixed), GOLDEN_ORDER_BY_CLASS);
}

const GOLDEN_ORDER: [usize; 12] = [3, 7, 11, 8, 5, 6, 0, 9, 2, 4, 1, 10];
const GOLDEN_ORDER_BY_CLASS: [usize; 12] = [11, 8, 7, 9, 10, 6, 5, 3, 4, 2, 0, 1];

#[test]
fn a_node_that_joins_or_leaves_moves_only_itself() {
    let all: Vec<Candidate> = (0..60).map(candidate).collect();
    for number in 0..50 {
        let gone = (number % 60) as usize;
        let full: Vec<NodeId> =
            rank(&NETWORK, &segment(number), &all).into_iter().map(|at| all[at].node).collect();
        let mut fewer = all.clone();
        fewer.remove(gone);
        let rest: Vec<NodeId> =
            rank(&NETWORK, &segment(number), &fewer).into_iter().map(|at| fewer[at].node).collect();
        let expected: Vec<NodeId> = full.into_iter().filter(|n| *n != all[gone].node).collect();
        assert_eq!(rest, expected);
    }
}

#[test]
fn a_node_that_grows_only_moves_forward_and_shares_follow_the_class() {
    let mut all: Vec<Candidate> = (0..40).map(candidate).collect();
    for (at, c) in all.iter_mut().enumerate() {
        c.capacity_class = 4 + (at % 3) as u8;
    }
    let mut firsts = [0_u32; 3];
    let segments = 20_000;
    for number in 0..segments {
        firsts[rank(&NETWORK, &segment(number), &all)[0] % 3] += 1;
    }
    // Weights 1, 2 and 4; 14, 13 and 13 nodes.
    let sum = 14.0 + 26.0 + 52.0;
    for (count, weight) in firsts.into_iter().zip([14.0, 26.0, 52.0]) {
        let expected = f64::from(u32::try_from(segments).unwrap()) * weight / sum;
        let deviation = (f64::from(count) - expected).abs();
        assert!(deviation < 5.0 * expected.sqrt(), "{firsts:?}: {count} for {expected}");
    }
    let position = |all: &[Candidate], number| {
        rank(&NETWORK, &segment(number), all).iter().position(|&at| at == 0).unwrap()
    };
    let mut grown = all.clone();
    grown[0].capacity_class += 1;
    assert!((0..200).all(|number| position(&grown, number) <= position(&all, number)));
}

#[test]
fn joining_beacons_change_the_order_so_that_keys_cannot_be_ground() {
    let all: Vec<Candidate> = (0..30).map(candidate).collect();
    let mut later = all.clone();
    later[0].beacon = genesis_beacon(&NETWORK, Epoch(5));
    let differs =
        |number| rank(&NETWORK, &segment(number), &all) != rank(&NETWORK, &segment(number), &later);
    assert!((0..50).any(differs));
}

#[test]
fn a_plan_does_not_depend_on_the_order_of_the_snapshot() {
    let mut all: Vec<Candidate> = (0..80).map(candidate).collect();
    let mut draws = Draws::new(5);
    for number in 0..20 {
        let first = place(&request(Scheme::DEFAULT, number), &all);
        draws.shuffle(&mut all);
        let second = place(&request(Scheme::DEFAULT, number), &all);
        assert_eq!(first.holders(), second.holders());
        assert_eq!(first.spares(), second.spares());
    }
}

#[test]
fn half_of_the_holders_are_the_first_in_rendezvous_order_and_the_rest_the_best() {
    let mut all: Vec<Candidate> = (0..200).map(candidate).collect();
    let mut draws = Draws::new(8);
    for c in &mut all {
        c.site.labels.datacenter = c.site.labels.operator.clone();
        c.load_permille = draws.below(900) as u16;
        c.latency_ms = draws.below(300) as u32;
    }
    for number in 0..20 {
        let plan = place(&request(Scheme::DEFAULT, number), &all);
        let holders: BTreeSet<NodeId> = plan.holders().values().copied().collect();
        let order = rank(&NETWORK, &segment(number), &all);
        assert!(order[..8].iter().all(|&at| holders.contains(&all[at].node)));
        // The other half are the best of the first 3n by the criteria.
        let score = |at: &usize| echonet_protocol::placement::score(&all[*at]);
        let mut pool: Vec<usize> = order[8..48].to_vec();
        pool.sort_by_key(|at| std::cmp::Reverse(score(at)));
        let worst_chosen = holders
            .iter()
            .filter_map(|h| pool.iter().find(|at| all[**at].node == *h))
            .map(score)
            .min()
            .unwrap();
        assert_eq!(worst_chosen, score(&pool[7]));
        assert!(plan.broken().is_empty(), "{:?}", plan.broken());
    }
}

#[test]
fn the_development_network_is_placed_without_breaking_a_rule() {
    let nodes = devnet(20);
    for number in 0..100 {
        let mut request = request(Scheme::DEFAULT, number);
        request.development = true;
        let plan = place(&request, &nodes);
        assert_eq!(plan.holders().len(), 16);
        assert_eq!(plan.broken(), [], "segment {number}");
        assert!(plan.survives_datacenter(plan.holders().values().copied()));
        // Without the exemption, the many unvetted ones are reported.
        request.development = false;
        assert_eq!(place(&request, &nodes).broken(), [BrokenRule::Unvetted { count: 16 }]);
    }
}

#[test]
fn what_the_network_forces_is_reported() {
    let mut all: Vec<Candidate> = (0..30).map(candidate).collect();
    for c in &mut all {
        c.site.labels.datacenter = "only".into();
        c.site.labels.region = "one".into();
    }
    let plan = place(&request(Scheme::DEFAULT, 1), &all);
    let over = BrokenRule::DatacenterOverParity { datacenter: "only".into(), count: 16, limit: 6 };
    let expected =
        [over, BrokenRule::FewDatacenters { count: 1 }, BrokenRule::FewRegions { count: 1 }];
    assert_eq!(plan.broken(), expected);
    assert!(!plan.survives_datacenter(plan.holders().values().copied()));
    let few = place(&request(Scheme::DEFAULT, 1), &all[..9]);
    assert_eq!((few.holders().len(), few.spares().len()), (9, 0));
    assert!(place(&request(Scheme::DEFAULT, 1), &[]).holders().is_empty());
}

#[test]
fn who_may_not_be_chosen_is_not_chosen() {
    let mut all: Vec<Candidate> = (0..40).map(candidate).collect();
    all[0].accepts = false;
    all[1].standing = Standing::Out;
    all[2].load_permille = 1000;
    for number in 0..50 {
        let mut request = request(Scheme::DEFAULT, number);
        request.exclude.insert(node(3));
        let plan = place(&request, &all);
        let chosen: Vec<NodeId> = plan.holders().values().chain(plan.spares()).copied().collect();
        assert!((0..4).all(|n| !chosen.contains(&node(n))));
        let distinct: BTreeSet<NodeId> = chosen.iter().copied().collect();
        assert_eq!(distinct.len(), chosen.len());
    }
}

#[test]
fn who_holds_stays_and_who_may_hold_comes_first() {
    let all: Vec<Candidate> = (0..60).map(candidate).collect();
    for number in 0..50 {
        let mut request = request(Scheme::DEFAULT, number);
        request.already = BTreeMap::from([(3, node(1)), (9, node(2))]);
        request.prefer = BTreeMap::from([(node(10), 5), (node(11), 5), (node(12), 3)]);
        let plan = place(&request, &all);
        assert_eq!((plan.holders()[&3], plan.holders()[&9]), (node(1), node(2)));
        assert!([node(10), node(11)].contains(&plan.holders()[&5]));
        let holders: BTreeSet<NodeId> = plan.holders().values().copied().collect();
        assert_eq!(holders.len(), 16);
        assert!((10..13).all(|n| holders.contains(&node(n))));
        assert_eq!(plan.broken(), []);
        // A holder unknown to the snapshot stays, too.
        request.already.insert(0, node(999));
        assert_eq!(place(&request, &all).holders()[&0], node(999));
    }
}

#[test]
fn replacements_break_what_must_be_broken_only() {
    let all: Vec<Candidate> = (0..60).map(candidate).collect();
    for number in 0..30 {
        let plan = place(&request(Scheme::DEFAULT, number), &all);
        let mut holders = plan.holders().clone();
        let mut tried: BTreeSet<NodeId> = holders.values().copied().collect();
        for index in 0..10 {
            let gone = holders.remove(&index).unwrap();
            let next = plan.replacement(holders.values().copied(), &tried).unwrap();
            assert!(next != gone && tried.insert(next));
            holders.insert(index, next);
            assert_eq!(plan.broken_by(holders.values().copied()), []);
        }
    }
}

/// What the rules say of some holders, counted in the most obvious way: per
/// rule, in order of weight.
fn penalty(scheme: Scheme, holders: &[&Candidate]) -> [usize; 8] {
    let count = |key: &dyn Fn(&Candidate) -> Option<String>| {
        let mut counts = BTreeMap::<String, usize>::new();
        holders.iter().filter_map(|c| key(c)).for_each(|k| *counts.entry(k).or_default() += 1);
        counts
    };
    let over = |counts: &BTreeMap<String, usize>, max: usize| -> usize {
        counts.values().map(|c| c.saturating_sub(max)).sum()
    };
    let named = |s: &str| (!s.is_empty()).then(|| s.to_owned());
    let prefix = |c: &Candidate| format!("{:?}", c.site.observed_prefix);
    let datacenter = |c: &Candidate| named(&c.site.labels.datacenter).or_else(|| Some(prefix(c)));
    let datacenters = count(&datacenter);
    let racks =
        count(&|c| named(&c.site.labels.rack).map(|rack| format!("{:?}/{rack}", datacenter(c))));
    let regions = count(&|c| Some(c.site.labels.region.clone()));
    let m = scheme.m as usize;
    [
        over(&datacenters, m),
        over(&count(&|c| named(&c.site.labels.operator)), 2)
            + over(&count(&|c| Some(prefix(c))), 2),
        3.min(holders.len()).saturating_sub(datacenters.len()),
        over(&datacenters, m.saturating_sub(2).max(1)),
        (0..168)
            .map(|hour| holders.iter().filter(|c| c.quiet.has(hour)).count())
            .map(|quiet| quiet.saturating_sub(m.saturating_sub(3).max(1)))
            .sum(),
        holders.iter().filter(|c| c.standing == Standing::Vetting).count().saturating_sub(2),
        2.min(holders.len()).saturating_sub(regions.len()),
        over(&racks, 1),
    ]
}

#[test]
fn no_more_holders_are_quiet_at_once_than_may_be() {
    // Some spares are awake in every pool.
    let mut all: Vec<Candidate> = (0..150).map(candidate).collect();
    for (number, c) in (0_u64..).zip(&mut all) {
        c.site.labels.datacenter = c.site.labels.operator.clone();
        // Half are quiet at night, in two time zones whose nights overlap.
        if number % 4 < 2 {
            let from = 20 + 4 * (number % 4) as u8;
            (0..7).flat_map(|day| (0..8).map(move |h| 24 * day + from + h)).for_each(|hour| {
                c.quiet.add(hour);
            });
        }
    }
    let quiet_at_once = |holders: &[NodeId]| {
        let of = |n: &NodeId| all.iter().find(|c| c.node == *n).unwrap().quiet;
        (0..168).map(|hour| holders.iter().filter(|n| of(n).has(hour)).count()).max().unwrap()
    };
    for number in 0..30 {
        let plan = place(&request(Scheme::DEFAULT, number), &all);
        let mut holders: Vec<NodeId> = plan.holders().values().copied().collect();
        assert_eq!(plan.broken(), [], "segment {number}");
        assert!(quiet_at_once(&holders) <= 3, "segment {number}");
        // Who steps in keeps to it, too.
        let mut tried: BTreeSet<NodeId> = holders.iter().copied().collect();
        for _ in 0..4 {
            holders.remove(0);
            let next = plan.replacement(holders.iter().copied(), &tried).unwrap();
            tried.insert(next);
            holders.push(next);
            assert!(quiet_at_once(&holders) <= 3, "segment {number}");
        }
    }
    // Where there are only quiet nodes, they are taken, and that is said.
    all.retain(|c| !c.quiet.is_empty());
    let plan = place(&request(Scheme::DEFAULT, 1), &all);
    assert_eq!(plan.holders().len(), 16);
    let [BrokenRule::Quiet { hours, count, limit: 3 }] = plan.broken()[..] else {
        panic!("{:?}", plan.broken())
    };
    // Both nights overlap for four hours a day.
    assert!((28..=84).contains(&hours) && count >= 8, "{hours} {count}");
}

/// All ways to pick n of the candidates.
fn least_penalty(scheme: Scheme, all: &[Candidate]) -> [usize; 8] {
    let n = scheme.n().min(all.len());
    (0_u32..1 << all.len())
        .filter(|set| set.count_ones() as usize == n)
        .map(|set| {
            let picked: Vec<&Candidate> = all
                .iter()
                .enumerate()
                .filter(|(at, _)| set >> at & 1 == 1)
                .map(|(_, c)| c)
                .collect();
            penalty(scheme, &picked)
        })
        .min()
        .expect("some way")
}

#[test]
fn rules_are_broken_only_as_far_as_brute_force_breaks_them() {
    let mut broken_count = 0;
    for seed in 0..1_500 {
        let mut draws = Draws::new(seed);
        let mut below = |bound: u64| draws.below(bound);
        let scheme = Scheme::new(1 + below(4) as u8, 1 + below(3) as u8).unwrap();
        let size = 1 + below(12);
        let (operators, datacenters) = (1 + below(6), 1 + below(5));
        let all: Vec<Candidate> = (0..size)
            .map(|number| {
                let mut c = candidate(number);
                let label =
                    |kind: &str, n: u64| if n == 0 { String::new() } else { format!("{kind}{n}") };
                c.site.labels = Labels {
                    region: label("r", below(3)),
                    datacenter: label("d", below(datacenters + 1)),
                    rack: label("k", below(4)),
                    operator: label("o", below(operators + 1)),
                };
                c.site.observed_prefix = [below(operators * 2) as u8; 16];
                c.standing = if below(3) == 0 { Standing::Vetting } else { Standing::Full };
                c.load_permille = below(1000) as u16;
                if below(3) == 0 {
                    // One of three days, some of its hours, in and out of others'.
                    let (from, count) = (24 * below(3) as u8 + below(6) as u8, below(6) as u8);
                    (from..from + count).for_each(|hour| c.quiet.add(hour));
                }
                c
            })
            .collect();
        let plan = place(&request(scheme, seed), &all);
        let holders: Vec<&Candidate> = plan
            .holders()
            .values()
            .map(|node| all.iter().find(|c| c.node == *node).unwrap())
            .collect();
        assert_eq!(holders.len(), scheme.n().min(all.len()), "seed {seed}");
        let found = penalty(scheme, &holders);
        assert_eq!(found, least_penalty(scheme, &all), "seed {seed}");
        assert_eq!(plan.broken().is_empty(), found == [0; 8], "seed {seed}");
        broken_count += usize::from(found != [0; 8]);
        let sites = holders.iter().map(|c| &c.site);
        let nodes = plan.holders().values().copied();
        assert_eq!(survives_datacenter(scheme, sites), plan.survives_datacenter(nodes));
    }
    // The test tests both.
    assert!((100..1_400).contains(&broken_count), "{broken_count}");
}

/// Sixteen nodes that keep every rule, hidden among others that crowd the same
/// operators, datacenters and racks: too many for brute force.
#[test]
fn a_way_to_keep_the_rules_is_mostly_found_in_larger_networks() {
    let mut found = 0;
    for seed in 0..300 {
        let mut draws = Draws::new(seed);
        let mut all: Vec<Candidate> = (0..48).map(candidate).collect();
        for (number, c) in (0_u64..).zip(&mut all) {
            let planted = number < 16;
            let mut pick = |own: u64, among: u64| if planted { own } else { draws.below(among) };
            let datacenter = pick(number % 4, 2);
            c.site.labels = Labels {
                region: format!("r{}", datacenter % 2),
                datacenter: format!("d{datacenter}"),
                rack: format!("k{}", pick(number, 6)),
                operator: format!("o{}", pick(number / 2, 5)),
            };
        }
        found += usize::from(place(&request(Scheme::DEFAULT, seed), &all).broken().is_empty());
    }
    // It was 147 when an exchange had to be better at once; all would take an
    // exact search.
    assert!(found >= 260, "{found}");
}

#[test]
fn prefixes_are_those_of_24_and_48_bits() {
    let prefix = |text: &str| observed_prefix(text.parse().unwrap());
    assert_eq!(prefix("10.1.2.3"), prefix("10.1.2.200"));
    assert_eq!(prefix("10.1.2.3"), prefix("::ffff:10.1.2.9"));
    assert_ne!(prefix("10.1.2.3"), prefix("10.1.3.3"));
    assert_eq!(prefix("2001:db8:1:2::3"), prefix("2001:db8:1:ffff::"));
    assert_ne!(prefix("2001:db8:1::"), prefix("2001:db8:2::"));
}
