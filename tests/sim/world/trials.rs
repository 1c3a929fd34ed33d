//! Particular worlds: members who only talk, and nodes with a planted defect.

use echonet_protocol::{
    machine::{Draws, Millis},
    network::Timing,
};

use super::{
    defect::Defect,
    judge::Totals,
    links::Weather,
    plan::{Fault, Plan},
    scene::{Script, play},
    setup::Size,
};

/// Of a hundred nodes so many only talk.
const TALKERS_PERCENT: u64 = 15;

/// What members who declare others dead, tell old deaths again and make members up bring about.
#[derive(Debug, Clone)]
pub struct Talk {
    /// What must never happen and did.
    pub failure: Option<String>,
    /// Bytes of all repairs.
    pub bytes_moved: u64,
    /// How often members were probed for what others said.
    pub hints: u64,
}

/// Plays a world in which some nodes crash, for less than the grace, and no message is lost;
/// in it some members only talk, or everybody is honest.
#[must_use]
pub fn talk(seed: u64, nodes: usize, has_talkers: bool) -> Talk {
    let percent = if has_talkers { TALKERS_PERCENT } else { 0 };
    let ended = play(&talk_script(seed, nodes, percent));
    let Totals { bytes_moved, hints, .. } = ended.totals;
    let failure = ended.violation.map(|violation| format!("{violation:?}"));
    Talk { failure, bytes_moved, hints }
}

/// Which rule the judges find broken in a world whose honest nodes all have this defect.
#[must_use]
pub fn noticed(seed: u64, nodes: usize, defect: Defect) -> Option<&'static str> {
    let script = match defect {
        Defect::BelievesHints => talk_script(seed, nodes, TALKERS_PERCENT),
        Defect::IsDeaf => talk_script(seed, nodes, 0),
        _ => Script::new(seed, nodes),
    };
    let ended = play(&Script { defect: Some(defect), ..script });
    ended.violation.map(|violation| violation.rule)
}

fn talk_script(seed: u64, nodes: usize, hostile_percent: u64) -> Script {
    let mut draws = Draws::new(seed);
    let crash = |draws: &mut Draws| {
        let node = draws.below(nodes as u64) as usize;
        (Millis(20_000 + draws.below(60_000)), Fault::Crash { node, down_ms: 4_000 })
    };
    let mut faults: Vec<(Millis, Fault)> = (0..5).map(|_| crash(&mut draws)).collect();
    faults.sort_by_key(|(at, _)| *at);
    Script {
        seed,
        size: Size { nodes, joiners: 0, segments: nodes, has_voters: false, has_probers: true },
        hostile_percent,
        is_talk: true,
        weather: Weather {
            latency_ms: 20,
            jitter_ms: 60,
            loss_permille: 0,
            twice_permille: 10,
            late_permille: 0,
        },
        has_wrong_clocks: true,
        timing: Timing::DEVELOPMENT,
        plan: Plan { faults, calm_at: Millis(120_000), whole_by: Millis(480_000) },
        defect: None,
    }
}
