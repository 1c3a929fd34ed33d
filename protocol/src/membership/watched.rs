//! One node that is watched: what the probes of it found.

use super::{
    pace::Pace,
    prober_types::{Health, ProbeResult},
};
use crate::machine::Millis;

/// Failed probes before silence counts as established, and before it may count as loss.
const FAILURES_SILENT: u32 = 2;
const FAILURES_LOST: u32 = 4;

/// Probes that failed without an answer in between.
#[derive(Debug, Clone, Copy)]
pub(super) struct Silence {
    /// The first of them.
    pub(super) since: Millis,
    last: Millis,
    failures: u32,
}

#[derive(Debug)]
pub(super) struct Watched {
    pub(super) health: Health,
    /// When it became so; of silence, see [`Silence::since`].
    pub(super) since: Millis,
    pub(super) silence: Option<Silence>,
    /// When its next probe is due.
    pub(super) due: Millis,
    /// When it last answered.
    pub(super) heard: Option<Millis>,
    pub(super) is_hinted: bool,
}

impl Watched {
    pub(super) const fn new(now: Millis) -> Self {
        Self {
            health: Health::Unknown,
            since: now,
            silence: None,
            due: now,
            heard: None,
            is_hinted: false,
        }
    }

    /// It answered; whether that changes anything.
    pub(super) fn answers(&mut self, now: Millis, health: Health) -> bool {
        self.silence = None;
        self.heard = Some(now);
        let is_changed = self.health != health;
        if is_changed {
            (self.health, self.since) = (health, now);
        }
        is_changed
    }

    /// It did not; whether that changes anything. Probes further apart than
    /// `gap_ms` say nothing about the time between them.
    pub(super) fn fails(
        &mut self,
        now: Millis,
        result: ProbeResult,
        pace: &Pace,
        gap_ms: u64,
    ) -> bool {
        let fresh = Silence { since: now, last: now, failures: 0 };
        let silence = self.silence.get_or_insert(fresh);
        if now.since(silence.last) > gap_ms {
            *silence = fresh;
        }
        silence.failures = silence.failures.saturating_add(1);
        silence.last = now;
        let silence = *silence;
        let is_established =
            silence.failures >= FAILURES_SILENT && now.since(silence.since) >= pace.suspect_ms;
        if !is_established && !self.health.is_silent() {
            return false;
        }
        let health = match result {
            ProbeResult::Mute => Health::Mute,
            _ => Health::Unreachable,
        };
        let before = (self.health, self.since);
        (self.health, self.since) = (health, silence.since);
        before != (self.health, self.since)
    }

    /// What failed so far may have been this node's fault: the silence begins
    /// anew. Whether that changes what is told.
    pub(super) const fn begin_anew(&mut self, now: Millis) -> bool {
        if self.silence.is_none() {
            return false;
        }
        self.silence = Some(Silence { since: now, last: now, failures: 0 });
        if self.health.is_silent() {
            self.since = now;
        }
        self.health.is_silent()
    }

    /// Whether it was silent for all of `grace_ms`, by several probes up to now.
    pub(super) fn is_lost(&self, now: Millis, grace_ms: u64, gap_ms: u64) -> bool {
        self.health.is_silent()
            && self.silence.is_some_and(|s| {
                s.failures >= FAILURES_LOST
                    && now.since(s.since) >= grace_ms
                    && now.since(s.last) <= gap_ms
            })
    }
}
