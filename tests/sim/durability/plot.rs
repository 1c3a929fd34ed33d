//! The study's plot: chances of loss over the mean life of nodes, and the traffic
//! of schemes and thresholds.

use super::{
    churn::Churn,
    markov::Model,
    policies::{STORJ_PAPER, Thresholds},
    stats::short,
    study::{Played, Study},
    svg::Svg,
};

const WIDTH: f64 = 920.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 790.0;
const TOP: f64 = 96.0;
const BOTTOM: f64 = 500.0;
/// Mean lives on the axis, days.
const DAYS: (f64, f64) = (5.0, 2000.0);
/// Exponents on the axis of chances.
const LEAST: i32 = -30;
/// Points of a curve.
const STEPS: usize = 14;
/// Rows of the bars, pixels.
const ROW: f64 = 22.0;
/// Where bars begin, and bytes per byte at both ends of their axis.
const BARS_LEFT: f64 = 190.0;
const TRAFFIC: (f64, f64) = (0.01, 10.0);
/// Storj's white paper about 30 of 80, repaired at 45: chance of loss, and bytes
/// moved per byte of content and month.
const PAPER: (f64, f64) = (1e-25, 0.31);

fn x(days: f64) -> f64 {
    LEFT + (RIGHT - LEFT) * (days / DAYS.0).ln() / (DAYS.1 / DAYS.0).ln()
}

fn y(chance: f64) -> f64 {
    TOP + (BOTTOM - TOP) * chance.log10() / f64::from(LEAST)
}

fn bar_x(traffic: f64) -> f64 {
    let part = (traffic.max(TRAFFIC.0) / TRAFFIC.0).ln() / (TRAFFIC.1 / TRAFFIC.0).ln();
    BARS_LEFT + (RIGHT - BARS_LEFT) * part
}

/// The class that colours a scheme.
fn class(played: &Played) -> &'static str {
    match (played.case.scheme.k, played.case.scheme.m) {
        (1, _) => "s0",
        (10, 6) => "s1",
        (10, _) => "s2",
        _ => "s3",
    }
}

/// Draws it.
#[must_use]
pub(super) fn svg(study: &Study) -> String {
    let groups = groups(&study.published);
    let rows = study.published.len() + groups.len();
    let height = BOTTOM + 150.0 + rows as f64 * ROW;
    let title = "Annual chance of losing a segment, and repair traffic";
    let mut svg = Svg::new(WIDTH, height, title);
    axes(&mut svg);
    lives(&mut svg);
    curves(&mut svg, study);
    points(&mut svg, &study.stressed);
    bounds(&mut svg, &study.published);
    bars(&mut svg, &groups);
    svg.finish()
}

fn axes(svg: &mut Svg) {
    svg.text("ink title", (LEFT - 50.0, 28.0), "Annual chance that a segment is lost");
    let legend =
        "dots: simulated, repairs take a day, with 95 % limits · dashed: model of the same";
    svg.text("soft", (LEFT - 50.0, 48.0), legend);
    let legend = "arrows: simulated, nothing lost, 95 % bound · solid: model, repairs as long as simulated; an extrapolation";
    svg.text("soft", (LEFT - 50.0, 66.0), legend);
    for exponent in (LEAST..=0).rev().step_by(5) {
        let at = y(10_f64.powi(exponent));
        svg.line("grid", (LEFT, at), (RIGHT, at));
        let label = if exponent == 0 { "1".into() } else { format!("1e{exponent}") };
        svg.text("soft end", (LEFT - 8.0, at + 4.0), &label);
    }
    for days in [5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0] {
        let at = x(days);
        svg.line("axis", (at, BOTTOM), (at, BOTTOM + 5.0));
        svg.text("soft middle", (at, BOTTOM + 21.0), &format!("{days}"));
    }
    svg.line("axis", (LEFT, BOTTOM), (RIGHT, BOTTOM));
    let label = "mean life of a node in days; holders are on 95 % of the time";
    svg.text("soft middle", (f64::midpoint(LEFT, RIGHT), BOTTOM + 44.0), label);
}

/// Where the published lifetimes are.
fn lives(svg: &mut Svg) {
    let lives = [
        (Churn::SUPERNODES, "Skype", "middle"),
        (Churn::DESKTOPS, "desktops", "end"),
        (Churn::YEAR, "12 months", "start"),
        (Churn::STORJ_2023, "Storj 2023", "middle"),
    ];
    for (churn, name, anchor) in lives {
        let at = x(churn.lifetime_h / 24.0);
        svg.line("mark", (at, TOP - 12.0), (at, BOTTOM));
        svg.text(&format!("soft {anchor}"), (at, TOP - 18.0), name);
    }
}

/// One pair of curves per scheme.
fn curves(svg: &mut Svg, study: &Study) {
    let normal = |played: &&Played| {
        played.case.scenario.churn == Churn::YEAR
            && matches!(played.case.thresholds, Thresholds::Design | Thresholds::Storj(35))
    };
    for played in study.published.iter().filter(normal) {
        let class = class(played);
        let policy = &played.case.scenario.policy;
        let curve = |repair_h: f64| -> Vec<(f64, f64)> {
            (0..=STEPS)
                .map(|step| DAYS.0 * (DAYS.1 / DAYS.0).powf(step as f64 / STEPS as f64))
                .map(|days| {
                    let churn = Churn { lifetime_h: days * 24.0, ..Churn::YEAR };
                    (days, chance(Model::new(policy, &churn, repair_h).losses_per_year()))
                })
                .filter(|(_, chance)| *chance > 10_f64.powi(LEAST))
                .map(|(days, chance)| (x(days), y(chance)))
                .collect()
        };
        let solid = curve(played.repair_h);
        svg.path(&format!("line {class}"), &solid);
        svg.path(&format!("dash {class}"), &curve(super::cases::STRESSED_REPAIR_H));
        if let Some(&(at, height)) = solid.last() {
            let name = if class == "s3" {
                "Storj's 29 of 80".into()
            } else {
                played.case.scheme.to_string()
            };
            svg.text(&format!("name {class}"), (at + 8.0, height + 4.0), &name);
        }
    }
}

/// The chance of at least one loss in a year.
fn chance(rate: f64) -> f64 {
    -(-rate).exp_m1()
}

fn points(svg: &mut Svg, stressed: &[Played]) {
    for played in stressed {
        let churn = Churn { lifetime_h: played.case.scenario.churn.lifetime_h, ..Churn::YEAR };
        let same = churn == played.case.scenario.churn;
        if !same || matches!(played.case.thresholds, Thresholds::Eager | Thresholds::Lazy) {
            continue;
        }
        let class = class(played);
        let at = x(churn.lifetime_h / 24.0);
        let (low, high) = played.limits();
        svg.line(&format!("err {class}"), (at, y(chance(low))), (at, y(chance(high))));
        svg.dot(&format!("dot {class}"), (at, y(chance(played.outcome.loss_rate()))));
    }
}

/// Where nothing was lost: below which chance the simulation says it is.
fn bounds(svg: &mut Svg, published: &[Played]) {
    let usual = |played: &&Played| {
        let thresholds = played.case.thresholds;
        played.outcome.losses == 0
            && matches!(thresholds, Thresholds::Design | Thresholds::Storj(35))
    };
    for played in published.iter().filter(usual) {
        let class = class(played);
        // Next to one another: they are equal but for the size of the sample.
        let aside = ["s0", "s1", "s2"].iter().position(|name| *name == class).unwrap_or(3);
        let at = x(played.case.scenario.churn.lifetime_h / 24.0) + 7.0 * aside as f64 - 10.5;
        let top = y(chance(played.limits().1));
        svg.line(&format!("err {class}"), (at, top), (at, top + 16.0));
        svg.path(
            &format!("err {class}"),
            &[(at - 3.0, top + 11.0), (at, top + 16.0), (at + 3.0, top + 11.0)],
        );
    }
    let at = (x(Churn::YEAR.lifetime_h / 24.0), y(PAPER.0));
    svg.dot("ring", at);
    svg.text("soft end", (at.0 - 10.0, at.1 + 4.0), "Storj's white paper");
}

/// Cases under the name of their churn, in order.
fn groups(published: &[Played]) -> Vec<(&'static str, Vec<&Played>)> {
    let mut groups: Vec<(&'static str, Vec<&Played>)> = Vec::new();
    for played in published {
        let name = played.case.scenario.churn.name;
        match groups.last_mut() {
            Some((last, members)) if *last == name => members.push(played),
            _ => groups.push((name, vec![played])),
        }
    }
    groups
}

fn bars(svg: &mut Svg, groups: &[(&str, Vec<&Played>)]) {
    let top = BOTTOM + 90.0;
    svg.text(
        "ink title",
        (LEFT - 50.0, top),
        "Bytes that repairs move, per byte of content and month (simulated; logarithmic)",
    );
    let rows: usize = groups.iter().map(|(_, members)| members.len() + 1).sum();
    let bottom = top + 22.0 + rows as f64 * ROW;
    for exponent in -2..=1 {
        let traffic = 10_f64.powi(exponent);
        let at = bar_x(traffic);
        svg.line("grid", (at, top + 14.0), (at, bottom));
        svg.text("soft middle", (at, bottom + 18.0), &format!("{traffic}"));
    }
    let mut at = top + 14.0;
    for (name, members) in groups {
        at += ROW;
        svg.text("ink", (LEFT - 50.0, at - 4.0), name);
        for played in members {
            at += ROW;
            let case = &played.case;
            let label = format!("{} {}", case.scheme, case.thresholds.name());
            svg.text("soft end", (BARS_LEFT - 10.0, at - 5.0), &label);
            let traffic = played.outcome.traffic(&case.scenario);
            let end = bar_x(traffic);
            let class = format!("bar {}", class(played));
            svg.bar(&class, (BARS_LEFT, at - ROW + 4.0), end - BARS_LEFT, ROW - 7.0);
            svg.text("ink", (end + 6.0, at - 5.0), &short(traffic));
            if case.scheme == STORJ_PAPER {
                let end = bar_x(PAPER.1);
                svg.line("axis", (end, at - ROW + 1.0), (end, at));
                let text = format!("white paper: {}", PAPER.1);
                svg.text("soft", (end + 50.0, at - 5.0), &text);
            }
        }
    }
}
