//! Every period and every bound of membership and probing, derived from the
//! network's timing.

use crate::{network::Timing, params};

/// Periods (milliseconds) and bounds (see [`Pace::of`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Between two rounds; each asks one member in turn.
    pub probe_ms: u64,
    /// A member that has not answered by then is asked through others.
    pub direct_ms: u64,
    /// A probe without any answer has failed after this.
    pub probe_fails_ms: u64,
    /// From a first failed probe to `Down`, if nothing is heard meanwhile.
    pub suspect_ms: u64,
    /// Failed probes in a row before `Down`, at least.
    pub failures_min: u32,
    /// Others that are asked to try.
    pub helpers: usize,
    /// In one of so many rounds a member that is down is asked too.
    pub down_every: u64,
    /// A driver that was silent for this long was asleep.
    pub asleep_ms: u64,

    /// Claims in a message.
    pub claims_max: usize,
    /// Others' claims about one member that are kept and passed on.
    pub claims_about_max: usize,
    /// Claims that one claimant may make at once...
    pub claimant_burst: u32,
    /// ...and the time after which it may make one more.
    pub claimant_refill_ms: u64,
    /// A claim about another is worth nothing when it is older than this, or
    /// this far ahead; seconds.
    pub claim_age_s: u64,
    /// Each piece of news is sent this many times the logarithm (base 2) of the
    /// number of members.
    pub sends_factor: u32,
    /// Pieces of news that are passed on at a time.
    pub news_max: usize,
    /// Members asked beside the round's while there is news of a suspicion.
    pub spread: usize,

    /// Members.
    pub members_max: usize,
    /// Probes under way.
    pub probes_max: usize,
    /// Probes in a round that hints and suspicions may cause.
    pub rechecks_per_round: u32,
    /// Probes under way for others.
    pub errands_max: usize,
    /// Probes under way for one other.
    pub errands_per_asker_max: usize,
    /// Questions of which an answer may still come.
    pub asks_max: usize,

    /// Nodes that are watched by the prober.
    pub watched_max: usize,
    /// Between two probes of a watched node that answers.
    pub watch_ms: u64,
    /// Between two probes of one that does not.
    pub watch_failing_ms: u64,
    /// Probes of watched nodes in a second.
    pub watch_rate: u64,
    /// Probes of watched nodes under way.
    pub watch_running_max: usize,
    /// A probe of which nothing was reported for this long is given up.
    pub watch_answer_ms: u64,
    /// Nodes that fell silent within this time count when a node asks itself
    /// whether it is the one that is cut off.
    pub watch_memory_ms: u64,
}

impl Pace {
    /// The pace of a network.
    ///
    /// A probe asks directly for half a period, then through others for one
    /// more, so that a failure is known after one and a half. With `suspect_s`
    /// beyond that, a member of which nothing is heard has failed three probes
    /// when it is called down.
    #[must_use]
    pub fn of(timing: &Timing) -> Self {
        let probe_ms = timing.probe_s.max(1).saturating_mul(1000);
        let suspect_ms = timing.suspect_s.saturating_mul(1000).max(probe_ms);
        let grace_ms = timing.grace_s.saturating_mul(1000).max(suspect_ms);
        let urgent_ms = timing.urgent_s.saturating_mul(1000);
        // Several failed probes fit into every span by which a repair is decided.
        let watch_failing_ms = (grace_ms.min(urgent_ms) / 6).clamp(probe_ms, 600_000);
        Self {
            probe_ms,
            direct_ms: probe_ms / 2,
            probe_fails_ms: probe_ms + probe_ms / 2,
            suspect_ms,
            failures_min: 3,
            helpers: 3,
            down_every: 4,
            asleep_ms: probe_ms.saturating_mul(3).max(5_000),
            claims_max: params::CLAIMS_MAX,
            claims_about_max: 3,
            claimant_burst: 16,
            claimant_refill_ms: probe_ms / 2,
            claim_age_s: timing.suspect_s.saturating_mul(10).max(120),
            sends_factor: 3,
            news_max: 512,
            spread: 2,
            members_max: 4096,
            probes_max: 32,
            rechecks_per_round: 16,
            errands_max: 64,
            errands_per_asker_max: 8,
            asks_max: 1024,
            watched_max: 65_536,
            watch_ms: (grace_ms.min(urgent_ms) / 2).clamp(probe_ms, 600_000),
            watch_failing_ms,
            watch_rate: 16,
            watch_running_max: 64,
            watch_answer_ms: suspect_ms.max(10_000),
            watch_memory_ms: grace_ms.saturating_mul(2),
        }
    }
}
