//! What the study plays: stressed cases that lose something, published rates,
//! and the loss of a datacenter.

use echonet_protocol::segment::Scheme;

use super::{
    churn::{Churn, Tail, YEAR_H},
    policies::{STORJ, STORJ_PAPER, Thresholds},
    world::Scenario,
};

/// Seed of the first case; each has its own, this and its number.
pub const SEED: u64 = 20_260_101;
/// Bytes of a segment, and of one that is kept as copies.
const SEGMENT_BYTES: u64 = 32 << 20;
const SMALL_SEGMENT_BYTES: u64 = 16 << 10;
/// What a node gives to repairs: 8 Mbit/s.
const NODE_BYTES_PER_S: u64 = 1_000_000;
/// What a node holds: 1 TB.
const HELD_BYTES: u64 = 1_000_000_000_000;
/// Age at which a node is vetted: Storj's three weeks.
const VETTING_H: f64 = 21.0 * 24.0;
/// Connecting and asking, before bytes move: 5 s.
const SETUP_H: f64 = 5.0 / 3600.0;
/// Mean time of a repair in stressed cases, hours.
pub const STRESSED_REPAIR_H: f64 = 24.0;

/// 10+14, for weak holders.
pub(super) const WIDE: Scheme = Scheme { code: 1, k: 10, m: 14, layout: 1 };

/// One thing to play.
#[derive(Debug, Clone)]
pub struct Case {
    /// The scheme.
    pub scheme: Scheme,
    /// When it is repaired.
    pub thresholds: Thresholds,
    /// What is played.
    pub scenario: Scenario,
    /// Whether model and simulation have to agree.
    pub judged: bool,
}

/// How large a study is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// Seconds: a thousand nodes, few cases.
    Quick,
    /// 10,000 nodes.
    Full,
}

fn case(scheme: Scheme, thresholds: Thresholds, churn: Churn) -> Case {
    let small = scheme.k == 1;
    let scenario = Scenario {
        policy: thresholds.policy(scheme),
        churn,
        nodes: 10_000,
        segments: if scheme.n() > 64 { 500 } else { 4_000 },
        years: years_to_play(scheme, thresholds, churn),
        segment_bytes: if small { SMALL_SEGMENT_BYTES } else { SEGMENT_BYTES },
        repair_h: SETUP_H,
        node_bytes_per_s: NODE_BYTES_PER_S,
        held_bytes: HELD_BYTES,
        vetting_h: VETTING_H,
        disaster_year: None,
        seed: SEED,
    };
    Case { scheme, thresholds, scenario, judged: false }
}

/// Half a year shows several repairs of a segment. Less does where repairs never
/// stop; without topping up, it takes longer until the first is due, and Storj's
/// needs several times its long way down from 80 to the mark.
fn years_to_play(scheme: Scheme, thresholds: Thresholds, churn: Churn) -> f64 {
    let weak = scheme.m < 14 && churn.online() < 0.9;
    if scheme.n() > 64 {
        5.0 * churn.lifetime_h / YEAR_H
    } else if weak || thresholds == Thresholds::Eager || churn == Churn::SUPERNODES {
        0.3
    } else if thresholds == Thresholds::Lazy {
        1.0
    } else {
        0.5
    }
}

/// Nodes leave within days and a repair takes a day, whatever its bytes:
/// otherwise nothing would be lost that one could count.
fn stressed(
    scheme: Scheme,
    thresholds: Thresholds,
    churn: Churn,
    days: f64,
    segment_years: f64,
) -> Case {
    let mut case = case(scheme, thresholds, Churn { lifetime_h: days * 24.0, ..churn });
    let scenario = &mut case.scenario;
    scenario.repair_h = STRESSED_REPAIR_H;
    (scenario.node_bytes_per_s, scenario.held_bytes) = (1 << 40, 0);
    scenario.vetting_h = 0.0;
    scenario.segments = (2.0 * segment_years).clamp(200.0, 20_000.0) as usize;
    scenario.years = segment_years / scenario.segments as f64;
    case.judged = churn.tail == Tail::Exponential;
    case
}

fn numbered(mut cases: Vec<Case>, first: u64, size: Size) -> Vec<Case> {
    for (case, number) in cases.iter_mut().zip(first..) {
        case.scenario.seed = SEED + number;
        if size == Size::Quick {
            case.scenario.nodes = 1_000;
            case.scenario.segments = case.scenario.segments.min(500);
        }
    }
    cases
}

/// Cases that lose at least a hundred segments, to hold the model against.
#[must_use]
pub fn stressed_cases(size: Size) -> Vec<Case> {
    use Thresholds::{Design, Eager, Lazy, Storj};
    let (small, ten, year) = (Scheme::SMALL, Scheme::DEFAULT, Churn::YEAR);
    if size == Size::Quick {
        let cases = vec![
            stressed(small, Design, year, 5.0, 500.0),
            stressed(ten, Design, year, 20.0, 250.0),
            stressed(WIDE, Design, year, 10.0, 300.0),
        ];
        let mut cases = numbered(cases, 100, size);
        cases
            .iter_mut()
            .zip([0.4, 0.25, 0.35])
            .for_each(|(case, years)| case.scenario.years = years);
        return cases;
    }
    let heavy = Churn { tail: Tail::Heavy, ..year };
    let cases = vec![
        stressed(small, Design, year, 5.0, 500.0),
        stressed(small, Design, year, 8.0, 2_000.0),
        stressed(small, Design, year, 12.0, 8_000.0),
        stressed(ten, Design, year, 20.0, 400.0),
        stressed(ten, Design, year, 40.0, 3_000.0),
        stressed(ten, Design, year, 60.0, 14_000.0),
        stressed(ten, Eager, year, 15.0, 1_000.0),
        stressed(ten, Lazy, year, 20.0, 100.0),
        stressed(ten, Lazy, year, 60.0, 4_000.0),
        stressed(WIDE, Design, year, 10.0, 300.0),
        stressed(WIDE, Design, year, 18.0, 6_000.0),
        stressed(WIDE, Design, Churn::DESKTOPS, 15.0, 1_500.0),
        stressed(STORJ, Storj(35), year, 20.0, 600.0),
        stressed(STORJ, Storj(35), year, 30.0, 3_000.0),
        stressed(ten, Design, heavy, 20.0, 4_000.0),
    ];
    numbered(cases, 100, size)
}

/// The rates that were measured, with the bandwidth that nodes have.
#[must_use]
pub fn published_cases(size: Size) -> Vec<Case> {
    use Thresholds::{Design, Eager, Lazy, Slow, Storj};
    let (small, ten, year) = (Scheme::SMALL, Scheme::DEFAULT, Churn::YEAR);
    if size == Size::Quick {
        let cases = [Eager, Design, Lazy].map(|thresholds| case(ten, thresholds, year));
        let mut cases = numbered(cases.to_vec(), 200, size);
        cases.iter_mut().for_each(|case| case.scenario.years = 0.25);
        return cases;
    }
    let cases = vec![
        case(small, Design, Churn::STORJ_2023),
        case(ten, Design, Churn::STORJ_2023),
        case(WIDE, Design, Churn::STORJ_2023),
        case(STORJ, Storj(35), Churn::STORJ_2023),
        case(small, Design, year),
        case(ten, Eager, year),
        case(ten, Design, year),
        case(ten, Slow, year),
        case(ten, Lazy, year),
        case(WIDE, Design, year),
        case(STORJ, Storj(35), year),
        case(STORJ_PAPER, Storj(45), year),
        case(ten, Design, Churn::DESKTOPS),
        case(WIDE, Eager, Churn::DESKTOPS),
        case(WIDE, Design, Churn::DESKTOPS),
        case(WIDE, Slow, Churn::DESKTOPS),
        case(WIDE, Lazy, Churn::DESKTOPS),
        case(ten, Design, Churn::SUPERNODES),
        case(WIDE, Design, Churn::SUPERNODES),
    ];
    numbered(cases, 200, size)
}

/// The largest datacenter is lost for ever, at published rates.
#[must_use]
pub fn disaster_cases(size: Size) -> Vec<Case> {
    let schemes = [Scheme::SMALL, Scheme::DEFAULT, WIDE];
    let cases = schemes.map(|scheme| {
        let mut case = case(scheme, Thresholds::Design, Churn::YEAR);
        case.scenario.disaster_year = Some(0.25);
        case.scenario.years = 0.5;
        case
    });
    let count = if size == Size::Quick { 0 } else { cases.len() };
    numbered(cases[..count].to_vec(), 300, size)
}
