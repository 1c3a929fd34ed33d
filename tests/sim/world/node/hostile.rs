//! What a hostile node does otherwise.

use echonet_protocol::machine::Draws;

/// In which ways a node cannot be trusted; in none: it is honest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Nature {
    /// It says that it has every shard it is asked about.
    pub(crate) lies: bool,
    /// It sends other bytes than it was given.
    pub(crate) corrupts: bool,
    /// It signs for shards and keeps none.
    pub(crate) forgets: bool,
    /// It answers probes and nothing else.
    pub(crate) stalls: bool,
    /// It says now that it has a shard and now that it has not.
    pub(crate) wavers: bool,
}

impl Nature {
    pub(crate) const HONEST: Self =
        Self { lies: false, corrupts: false, forgets: false, stalls: false, wavers: false };

    /// Bad in at least one way.
    pub(crate) fn hostile(draws: &mut Draws) -> Self {
        let mut some = || draws.below(3) == 0;
        let (lies, corrupts, forgets) = (some(), some(), some());
        let (stalls, wavers) = (some(), some());
        let is_bad = lies || corrupts || forgets || stalls || wavers;
        Self { lies: lies || !is_bad, corrupts, forgets, stalls, wavers }
    }

    pub(crate) fn is_honest(self) -> bool {
        self == Self::HONEST
    }
}
