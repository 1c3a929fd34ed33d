//! Witnesses over real processes: what was promised is audited, honest holders pass, what a
//! witness says is checked again, and a holder that is gone is silent and nothing worse.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use echonet_tests::support::{
    cli,
    devnet::{Devnet, Node, Options},
    figure,
    keeping::{fetch_all, publish_many, wait_whole},
    turn, wait_until,
};
use serde_json::Value;

/// Nodes that hold works.
const NODES: u32 = 18;
/// Witnesses: one of them may lie.
const WITNESSES: usize = 4;
/// How long audits may take to get round, on a machine that may be busy.
const AUDITED_WITHIN: Duration = Duration::from_secs(240);

fn ask(node: &Node, words: &[&str]) -> Value {
    let command = ["witness"].iter().chain(words).chain(&["--json", "--data"]).copied();
    let mut command = cli::command(command);
    command.arg(&node.data);
    let (event, wanted) = match words[0] {
        "log" => ("verdicts", "verdicts"),
        _ => ("replayed", ""),
    };
    let result = cli::run(command, Duration::from_secs(60)).result(event);
    if wanted.is_empty() { result } else { result[wanted].clone() }
}

/// Every verdict of every witness.
fn verdicts(devnet: &Devnet) -> Vec<Value> {
    let of_one = |witness: &Node| ask(witness, &["log", "--count", "10000"]);
    let all = devnet.witnesses.iter().map(of_one);
    all.flat_map(|verdicts| verdicts.as_array().cloned().unwrap_or_default()).collect()
}

/// How often each outcome was found, by holder.
fn outcomes(verdicts: &[Value]) -> BTreeMap<String, BTreeMap<String, u64>> {
    let mut by_holder: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
    for result in verdicts.iter().filter_map(|verdict| verdict["results"].as_array()).flatten() {
        let text = |name: &str| result[name].as_str().expect("text").to_owned();
        *by_holder.entry(text("holder")).or_default().entry(text("outcome")).or_default() += 1;
    }
    by_holder
}

fn sum(by_holder: &BTreeMap<String, BTreeMap<String, u64>>, outcome: &str) -> u64 {
    by_holder.values().filter_map(|counts| counts.get(outcome)).sum()
}

/// Chains without gaps, forks or verdicts of others.
fn assert_chains(devnet: &Devnet, verdicts: &[Value]) {
    for witness in &devnet.witnesses {
        let own = verdicts.iter().filter(|v| v["witness"] == witness.node_id.as_str());
        let sequences: BTreeSet<u64> = own.clone().filter_map(|v| v["sequence"].as_u64()).collect();
        assert_eq!(sequences.len(), own.count(), "two verdicts in one place of a chain");
        assert_eq!(sequences.last().copied().unwrap_or(0), sequences.len() as u64, "a gap");
    }
}

/// The newest verdict of each witness, checked again from what it kept.
fn assert_replays(devnet: &Devnet) {
    for witness in &devnet.witnesses {
        let newest = ask(witness, &["log", "--count", "1"]);
        let name = newest[0]["verdict"].as_str().expect("a verdict").to_owned();
        let replayed = ask(witness, &["replay", &name]);
        assert_eq!(replayed["verdict"], name.as_str());
        let count = |field: &str| replayed[field].as_array().map_or(0, Vec::len);
        assert!(count("proven") > 0, "no proof was kept: {replayed}");
        assert_eq!(count("faults"), 0, "{replayed}");
    }
}

#[test]
fn honest_holders_pass_and_a_dead_one_is_silent() {
    let _turn = turn();
    let flags = ["--witnesses", "4", "--audit-percent", "100"].map(str::to_owned).to_vec();
    let options = Options { epoch_s: Some(5), flags, ..Options::new(NODES) };
    let devnet = Devnet::start(&options);
    assert_eq!(devnet.witnesses.len(), WITNESSES);
    let (_publishers, works) = publish_many(&devnet, 6, 21_000);
    wait_whole(&devnet, &works, "publishing");
    let start = Instant::now();
    let mut found = Vec::new();
    wait_until("every holder to be audited by every witness", AUDITED_WITHIN, || {
        found = verdicts(&devnet);
        let mut asked: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for verdict in &found {
            let witness = verdict["witness"].as_str().expect("a witness");
            let passes = verdict["results"].as_array().into_iter().flatten();
            for result in passes.filter(|result| result["outcome"] == "pass") {
                asked
                    .entry(result["holder"].as_str().expect("a holder"))
                    .or_default()
                    .insert(witness);
            }
        }
        asked.len() == NODES as usize && asked.values().all(|by| by.len() == WITNESSES)
    });
    let by_holder = outcomes(&found);
    figure(
        "audits",
        format_args!(
            "{} rows, {} passes, {} silent after {:.1?}",
            found.len(),
            sum(&by_holder, "pass"),
            sum(&by_holder, "silent"),
            start.elapsed()
        ),
    );
    assert_eq!((sum(&by_holder, "wrong"), sum(&by_holder, "absent")), (0, 0), "{by_holder:?}");
    assert_chains(&devnet, &found);

    assert_replays(&devnet);

    let gone = devnet.nodes[5].node_id.clone();
    devnet.kill(&gone);
    wait_until("the dead holder to be silent", AUDITED_WITHIN, || {
        let found = outcomes(&verdicts(&devnet));
        found.get(&gone).is_some_and(|counts| counts.contains_key("silent"))
    });
    let after = outcomes(&verdicts(&devnet));
    assert_eq!((sum(&after, "wrong"), sum(&after, "absent")), (0, 0), "silence is no loss");
    wait_whole(&devnet, &works, "a holder died");
    fetch_all(&devnet, &works);
}
