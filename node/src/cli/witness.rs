//! `echonet witness log|replay|stats`: what witnesses found, as far as it is kept here.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::json;

use super::{
    args::{NetworkArgs, WitnessCommand},
    backend::Backend,
    output::Output,
};
use crate::{
    datadir::DataDir,
    service::{Replayed, ServiceResult, VerdictInfo},
};

/// Verdicts that figures are made of.
const STATS_VERDICTS: usize = 10_000;

/// What a witness, or all of them about one holder, found.
#[derive(Debug, Default, Clone, Copy, Serialize)]
struct Count {
    verdicts: u64,
    pass: u64,
    wrong: u64,
    absent: u64,
    silent: u64,
}

impl Count {
    fn take(&mut self, outcome: &str) {
        match outcome {
            "pass" => self.pass += 1,
            "wrong" => self.wrong += 1,
            "absent" => self.absent += 1,
            _ => self.silent += 1,
        }
    }

    fn words(&self) -> String {
        let Self { verdicts, pass, wrong, absent, silent } = self;
        format!(
            "{verdicts:6} rows {pass:7} pass {wrong:5} wrong {absent:5} absent {silent:5} silent"
        )
    }
}

pub(super) async fn run(
    dir: &DataDir,
    network: NetworkArgs,
    command: WitnessCommand,
    output: &Output,
) -> ServiceResult<()> {
    let backend = Backend::connect(dir, &network, "witness").await?;
    let outcome = match command {
        WitnessCommand::Log { count } => backend.service().verdicts(count).await.map(|verdicts| {
            output.result("verdicts", &json!({ "verdicts": verdicts }), || log_words(&verdicts));
        }),
        WitnessCommand::Replay { verdict } => {
            backend.service().replay(verdict).await.map(|replayed| {
                output.result("replayed", &replayed, || replay_words(&replayed));
            })
        }
        WitnessCommand::Stats => backend.service().verdicts(STATS_VERDICTS).await.map(|verdicts| {
            let (witnesses, holders) = counts(&verdicts);
            let value = json!({ "witnesses": witnesses, "holders": holders });
            output.result("stats", &value, || stats_words(&witnesses, &holders));
        }),
    };
    backend.close().await;
    outcome
}

type Counts = BTreeMap<String, Count>;

fn counts(verdicts: &[VerdictInfo]) -> (Counts, Counts) {
    let (mut witnesses, mut holders) = (Counts::new(), Counts::new());
    for verdict in verdicts {
        let witness = witnesses.entry(verdict.witness.clone()).or_default();
        witness.verdicts += 1;
        for result in &verdict.results {
            witness.take(&result.outcome);
            let holder = holders.entry(result.holder.clone()).or_default();
            holder.verdicts += 1;
            holder.take(&result.outcome);
        }
    }
    (witnesses, holders)
}

fn log_words(verdicts: &[VerdictInfo]) -> String {
    if verdicts.is_empty() {
        return "no verdicts are kept here: they are where witnesses run".to_owned();
    }
    let line = |verdict: &VerdictInfo| {
        let count = |outcome: &str| {
            verdict.results.iter().filter(|result| result.outcome == outcome).count()
        };
        let odd = verdict.results.iter().filter(|result| result.outcome != "pass");
        let odd = odd.map(|r| format!("  {} shard {} {}", r.outcome, r.index, r.holder));
        format!(
            "{}  epoch {}  segment {}  leaf {}  {} of {} pass{}",
            verdict.verdict,
            verdict.epoch,
            verdict.segment_id,
            verdict.leaf,
            count("pass"),
            verdict.results.len(),
            odd.collect::<String>()
        )
    };
    verdicts.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn replay_words(replayed: &Replayed) -> String {
    let Replayed { verdict, proven, signed_only, faults } = replayed;
    let mut lines = vec![
        log_words(std::slice::from_ref(verdict)),
        format!("every signature in it verifies; it is number {} of its witness", verdict.sequence),
        format!("{} proofs are kept and verify again", proven.len()),
    ];
    if !signed_only.is_empty() {
        lines.push(format!(
            "{} passes are by their holders' signatures only: their proofs are not kept any more",
            signed_only.len()
        ));
    }
    lines.extend(faults.iter().map(|fault| format!("convicts {fault}")));
    lines.join("\n")
}

fn stats_words(witnesses: &Counts, holders: &Counts) -> String {
    let lines = |counts: &Counts| {
        counts
            .iter()
            .map(|(node, count)| format!("{node}  {}\n", count.words()))
            .collect::<String>()
    };
    format!("by witness\n{}by holder\n{}", lines(witnesses), lines(holders))
}
