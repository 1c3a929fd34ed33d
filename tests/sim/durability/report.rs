//! The study as markdown tables.

use super::{
    cases::Case,
    markov::Model,
    stats::{binomial_above, percent, poisson_limits, short},
    study::{Played, Study},
};

/// Where the tables begin and end in the document.
const BEGIN: &str = "<!-- tables of the study: begin -->";
const END: &str = "<!-- tables of the study: end -->";
/// Part of all nodes that the largest of 40 datacenters of falling size has.
const LARGEST_DATACENTER: f64 = 0.4 / 4.2785;

/// A case in words.
#[must_use]
pub(super) fn name(case: &Case) -> String {
    let days = case.scenario.churn.lifetime_h / 24.0;
    let tail = match case.scenario.churn.tail {
        super::churn::Tail::Exponential => "",
        super::churn::Tail::Heavy => ", heavy tails",
    };
    format!("{} {}, {days:.0} days{tail}", case.scheme, case.thresholds.name())
}

/// All tables.
#[must_use]
pub fn tables(study: &Study) -> String {
    let mut text = stressed(&study.stressed);
    text.push_str(&published(&study.published));
    text.push_str(&disasters(&study.disasters));
    text
}

/// Puts tables into a document: between its marks, or behind it.
#[must_use]
pub(super) fn insert(document: &str, tables: &str) -> String {
    let block = format!("{BEGIN}\n\n{}\n\n{END}", tables.trim());
    match (document.find(BEGIN), document.find(END)) {
        (Some(begin), Some(end)) if begin < end => {
            format!("{}{block}{}", &document[..begin], &document[end + END.len()..])
        }
        _ => format!("{document}{block}\n"),
    }
}

fn stressed(played: &[Played]) -> String {
    let mut text = String::from(
        "### Stressed: model against simulation\n\n\
         A repair takes a day on average. Losses per segment and year.\n\n\
         | scheme | thresholds | mean life | on | segment years | lost | simulated (95 %) | model | model / simulated | seed |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
    );
    for one in played {
        let (low, high) = one.limits();
        let scenario = &one.case.scenario;
        let tail = if one.case.judged { "" } else { ", heavy tails (not judged)" };
        text.push_str(&format!(
            "| {} | {} | {:.0} d{tail} | {} | {:.0} | {} | {} ({} to {}) | {} | {:.2} | {} |\n",
            one.case.scheme,
            one.case.thresholds.name(),
            scenario.churn.lifetime_h / 24.0,
            percent(scenario.churn.online()),
            one.outcome.segment_years,
            one.outcome.losses,
            short(one.outcome.loss_rate()),
            short(low),
            short(high),
            short(one.model),
            one.model / one.outcome.loss_rate(),
            scenario.seed,
        ));
    }
    text
}

fn published(played: &[Played]) -> String {
    let mut text = String::from("\n### Published rates: loss and traffic\n");
    let mut churn = "";
    for one in played {
        let (scenario, outcome) = (&one.case.scenario, &one.outcome);
        if scenario.churn.name != churn {
            churn = scenario.churn.name;
            text.push_str(&format!(
                "\n**{churn}**\n\n\
                 | scheme | thresholds | stored | lost, simulated | annual loss, simulated (95 %) | annual loss, model | moved per byte and month | urgent | due to repaired, mean | unreadable | spares |\n\
                 |---|---|---|---|---|---|---|---|---|---|---|\n"
            ));
        }
        let (low, high) = one.limits();
        let simulated = if outcome.losses == 0 {
            format!("under {}", short(high))
        } else {
            format!("{} to {}", short(low), short(high))
        };
        let scheme = one.case.scheme;
        text.push_str(&format!(
            "| {scheme} | {} | {:.2} | {} of {:.0} years | {simulated} | {} | {} | {} | {} | {} | {} |\n",
            one.case.thresholds.name(),
            scheme.n() as f64 / f64::from(scheme.k),
            outcome.losses,
            outcome.segment_years,
            short(one.model),
            short(outcome.traffic(scenario)),
            percent(outcome.urgent as f64 / outcome.repairs.max(1) as f64),
            hours(outcome.wait_h),
            percent(outcome.unreadable),
            percent(outcome.spares),
        ));
    }
    text
}

fn hours(h: f64) -> String {
    if h < 0.5 {
        format!("{:.0} s", h * 3600.0)
    } else if h < 48.0 {
        format!("{h:.1} h")
    } else {
        format!("{:.1} d", h / 24.0)
    }
}

fn disasters(played: &[Played]) -> String {
    if played.is_empty() {
        return String::new();
    }
    let mut text = String::from(
        "\n### The largest datacenter is lost for ever\n\n\
         | scheme | segments | shards taken from one: 0, 1, 2, ... | lost | chance of loss, simulated (95 %) | chance of loss, model | placed at random: chance | longest wait: urgent, any |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    for one in played {
        let (outcome, scheme) = (&one.outcome, one.case.scheme);
        let all: u64 = outcome.disaster_hit.iter().sum();
        let last = outcome.disaster_hit.iter().rposition(|&count| count > 0).unwrap_or(0);
        let hit: Vec<String> =
            outcome.disaster_hit[..=last].iter().map(|&c| percent(c as f64 / all as f64)).collect();
        let repair_h = outcome.urgent_wait_h_max.max(one.repair_h);
        let model = Model::new(&one.case.scenario.policy, &one.case.scenario.churn, repair_h);
        let chance: f64 = (0..=last)
            .filter(|&taken| taken > 0 && outcome.disaster_hit[taken] > 0)
            .map(|taken| outcome.disaster_hit[taken] as f64 / all as f64 * model.loss_after(taken))
            .sum();
        let (low, high) = poisson_limits(outcome.disaster_losses);
        let (low, high) = (low / all as f64, high / all as f64);
        let simulated = if outcome.disaster_losses == 0 {
            format!("under {}", short(high))
        } else {
            format!("{} to {}", short(low), short(high))
        };
        let random = binomial_above(scheme.n(), scheme.m as usize, LARGEST_DATACENTER);
        text.push_str(&format!(
            "| {scheme} | {all} | {} | {} | {simulated} | {} | {} | {}, {} |\n",
            hit.join(", "),
            outcome.disaster_losses,
            short(chance),
            short(random),
            hours(outcome.urgent_wait_h_max),
            hours(outcome.wait_h_max),
        ));
    }
    text
}
