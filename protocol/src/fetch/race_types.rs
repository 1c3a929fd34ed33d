//! What goes into and comes out of [`super::ManifestRace`].

use crate::{bytes::ManifestHash, identity::NodeId};

/// Limits of the race.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RaceConfig {
    /// Manifests tried at once, at most.
    pub parallel_max: usize,
    /// Manifests remembered, at most; the best ranked stay.
    pub candidates_max: usize,
    /// Announcers remembered for one manifest, at most.
    pub announcers_max: usize,
    /// A manifest that is not verified after this long makes room.
    pub attempt_timeout_ms: u64,
    /// Until one is believed. It starts again when the believed one turns out bad.
    pub deadline_ms: u64,
}

impl Default for RaceConfig {
    fn default() -> Self {
        Self {
            parallel_max: 2,
            candidates_max: 64,
            announcers_max: 16,
            attempt_timeout_ms: 4_000,
            deadline_ms: 9_500,
        }
    }
}

/// How much an announcement is worth before anything was verified; best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trust {
    /// The link itself names this manifest.
    Linked,
    /// Its publisher is known to the reader.
    Known,
    /// Its publisher is a vetted node.
    Vetted,
    /// Anybody.
    Stranger,
}

/// An announcement's manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ManifestCandidate {
    /// The manifest.
    pub manifest: ManifestHash,
    /// Who announced it.
    pub announcer: NodeId,
    /// How much that is worth.
    pub trust: Trust,
}

/// What happened in the race.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RaceInput {
    /// An announcement was found.
    Found(ManifestCandidate),
    /// The search for announcements is over.
    SearchOver,
    /// A MiB at the place given by [`super::mib_to_check`] verified against the
    /// ContentID; or the manifest is inline, which proves itself.
    Verified {
        /// Which.
        manifest: ManifestHash,
    },
    /// Its bytes, or those it leads to, are wrong. Also for the believed one,
    /// later: the race then goes on.
    Bad {
        /// Which.
        manifest: ManifestHash,
        /// In words.
        reason: String,
    },
    /// It, or what it leads to, cannot be had.
    Unavailable {
        /// Which.
        manifest: ManifestHash,
        /// In words ("manifest found, 8 of 10 needed shards answered").
        reason: String,
    },
    /// Time went by.
    Tick,
}

/// What to do in the race.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RaceOutput {
    /// Get the manifest, then the MiB at [`super::mib_to_check`] of `seed`.
    Try {
        /// Which.
        manifest: ManifestHash,
        /// Picks the MiB.
        seed: u64,
    },
    /// Stop trying it.
    Cancel {
        /// Which.
        manifest: ManifestHash,
    },
    /// Believe this manifest, until it is reported bad.
    Believe {
        /// Which.
        manifest: ManifestHash,
    },
    /// These announced a bad manifest: rank them last from now on.
    Mark {
        /// Which.
        manifest: ManifestHash,
        /// Who.
        announcers: Vec<NodeId>,
        /// In words.
        reason: String,
    },
    /// The end: none can be believed.
    Failed(RaceFailure),
}

/// Why no manifest is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RaceFailure {
    /// Manifests that were announced.
    pub found: usize,
    /// Of these, proven bad.
    pub bad: usize,
    /// Words of the best ranked one that could not be had, or of a bad one.
    pub reason: String,
    /// Whether the time was over.
    pub timed_out: bool,
}

impl std::fmt::Display for RaceFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.found == 0 {
            return f.write_str("no announcement of this content was found");
        }
        write!(f, "{} manifests announced", self.found)?;
        if self.bad > 0 {
            write!(f, ", {} of them proven bad", self.bad)?;
        }
        if !self.reason.is_empty() {
            write!(f, ": {}", self.reason)?;
        }
        if self.timed_out {
            f.write_str("; the time was over")?;
        }
        Ok(())
    }
}

impl std::error::Error for RaceFailure {}
