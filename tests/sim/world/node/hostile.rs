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
    /// It says of everybody that it is down.
    pub(crate) slanders: bool,
    /// It tells again what others said long ago: of deaths, and of lives.
    pub(crate) replays: bool,
    /// It makes members up.
    pub(crate) floods: bool,
}

impl Nature {
    pub(crate) const HONEST: Self = Self {
        lies: false,
        corrupts: false,
        forgets: false,
        stalls: false,
        wavers: false,
        slanders: false,
        replays: false,
        floods: false,
    };

    /// Bad in at least one way.
    pub(crate) fn hostile(draws: &mut Draws) -> Self {
        let mut some = || draws.below(3) == 0;
        let (lies, corrupts, forgets) = (some(), some(), some());
        let (stalls, wavers) = (some(), some());
        let (slanders, replays, floods) = (some(), some(), some());
        let nature = Self { lies, corrupts, forgets, stalls, wavers, slanders, replays, floods };
        Self { lies: lies || nature.is_honest(), ..nature }
    }

    /// It keeps what it promised, and says about others what it likes.
    pub(crate) fn talkative(draws: &mut Draws) -> Self {
        let (replays, floods) = (draws.below(2) == 0, draws.below(2) == 0);
        Self { slanders: true, replays, floods, ..Self::HONEST }
    }

    /// Whether what it says of other members is made up.
    pub(crate) const fn talks(self) -> bool {
        self.slanders || self.replays || self.floods
    }

    pub(crate) fn is_honest(self) -> bool {
        self == Self::HONEST
    }
}
