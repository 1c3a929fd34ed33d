//! The schemes and thresholds that are compared.

use echonet_archive::health::Policy;
use echonet_protocol::{network::Timing, segment::Scheme};

/// Timings of a grown-up network (design 8).
pub const TIMING: Timing =
    Timing { probe_s: 60, suspect_s: 120, grace_s: 86_400, urgent_s: 900, top_up_s: 604_800 };

/// Storj's 29 of 80, beyond what EchoNet's own formats allow.
pub const STORJ: Scheme = Scheme { code: 1, k: 29, m: 51, layout: 1 };
/// The largest scheme of Storj's white paper, 30 of 80.
pub const STORJ_PAPER: Scheme = Scheme { code: 1, k: 30, m: 50, layout: 1 };

/// When a network repairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thresholds {
    /// As soon as any holder has not answered for the urgent delay.
    Eager,
    /// As the design has it.
    Design,
    /// As the design has it, but topped up within 60 days and not 7.
    Slow,
    /// Only when two above k are kept; nothing is topped up.
    Lazy,
    /// Lost after 4 hours without contact, repaired at this mark, all of it.
    Storj(usize),
}

impl Thresholds {
    /// For tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Eager => "eager",
            Self::Design => "design",
            Self::Slow => "slow top-up",
            Self::Lazy => "lazy",
            Self::Storj(_) => "Storj's",
        }
    }

    /// The policy for a scheme. Silence is noticed after the time to suspect.
    #[must_use]
    pub fn policy(self, scheme: Scheme) -> Policy {
        let mut policy = Policy::of(scheme, &TIMING);
        policy.urgent_ms += TIMING.suspect_s * 1000;
        let k = scheme.k as usize;
        match self {
            Self::Design => policy,
            Self::Eager => {
                let all_but_one = scheme.n() - 1;
                Policy { urgent_mark: all_but_one, queue_mark: all_but_one, ..policy }
            }
            Self::Slow => Policy { top_up_ms: Some(60 * 86_400_000), ..policy },
            Self::Lazy => Policy { queue_mark: k + 2, top_up_ms: None, ..policy },
            Self::Storj(mark) => {
                let grace_ms = 4 * 3_600_000;
                Policy { queue_mark: mark, top_up_ms: None, grace_ms, ..policy }
            }
        }
    }
}
