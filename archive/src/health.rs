//! How endangered a segment is, what a repair of it rebuilds, and when it is due
//! (design 8).
//!
//! Unreachable is not lost: a shard is lost when its holder says so, fails an
//! audit of it, or has been unreachable for the grace. It never decides on
//! anybody's hearsay: what is passed in was seen by the caller's own probes.

use echonet_protocol::{machine::Millis, network::Timing, segment::Scheme};

/// One shard, as the caller's own probes, audits and records show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shard {
    /// Its holder answers.
    Reachable,
    /// Its holder has not answered since then. Kept until the grace is over.
    Unreachable {
        /// When it answered last, or was first asked in vain.
        since: Millis,
    },
    /// There is no holder, or it said so, or it failed an audit of this shard.
    Lost,
}

impl Shard {
    /// Whether it counts as kept.
    #[must_use]
    pub const fn is_kept(self, now: Millis, grace_ms: u64) -> bool {
        match self {
            Self::Reachable => true,
            Self::Unreachable { since } => now.since(since) < grace_ms,
            Self::Lost => false,
        }
    }
}

/// A segment at one moment, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// Shards that are not lost, by distinct index: spares do not count twice.
    pub kept: usize,
    /// Those of them whose holders answer now.
    pub reachable: usize,
    /// Whether the loss of any one datacenter leaves k of the kept ones. True as
    /// well where the network has no better place for them, or the segment would
    /// be repaired for ever and nothing gained.
    pub datacenter_safe: bool,
}

impl View {
    /// Counts one state per index.
    #[must_use]
    pub fn of(
        shards: impl IntoIterator<Item = Shard>,
        now: Millis,
        grace_ms: u64,
        datacenter_safe: bool,
    ) -> Self {
        let mut view = Self { kept: 0, reachable: 0, datacenter_safe };
        for shard in shards {
            view.kept += usize::from(shard.is_kept(now, grace_ms));
            view.reachable += usize::from(shard == Shard::Reachable);
        }
        view
    }
}

/// When the first of these shards becomes lost by the grace, if nothing changes.
#[must_use]
pub fn next_loss(
    shards: impl IntoIterator<Item = Shard>,
    now: Millis,
    grace_ms: u64,
) -> Option<Millis> {
    let unreachable = shards.into_iter().filter_map(|shard| match shard {
        Shard::Unreachable { since } if now.since(since) < grace_ms => Some(since.after(grace_ms)),
        _ => None,
    });
    unreachable.min()
}

/// How endangered a segment is; the later, the worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Health {
    /// All n are kept and enough of them answer: nothing to do.
    Whole,
    /// Fewer than n are kept: filled up at low priority.
    TopUp,
    /// Kept at the queue mark or below.
    Queued,
    /// Reachable at the urgent mark or below, or not datacenter-safe.
    Urgent,
    /// Fewer than k are reachable: nobody can rebuild anything until one returns.
    Critical,
    /// Fewer than k are kept. A holder that returns may still bring it back.
    Lost,
}

impl Health {
    /// Whether a repair can be done now and is wanted, sooner or later.
    #[must_use]
    pub const fn wants_repair(self) -> bool {
        matches!(self, Self::TopUp | Self::Queued | Self::Urgent)
    }

    /// Which shards a repair in this state rebuilds: lost ones always, those
    /// within their grace only when it is urgent (their holders' return makes
    /// spares of them).
    #[must_use]
    pub const fn rebuilds(self, shard: Shard, now: Millis, grace_ms: u64) -> bool {
        match self {
            Self::TopUp | Self::Queued => !shard.is_kept(now, grace_ms),
            Self::Urgent => !matches!(shard, Shard::Reachable),
            Self::Whole | Self::Critical | Self::Lost => false,
        }
    }
}

/// The marks and delays that decide about a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Its scheme.
    pub scheme: Scheme,
    /// Urgent when this many or fewer are reachable.
    pub urgent_mark: usize,
    /// Queued when this many or fewer are kept.
    pub queue_mark: usize,
    /// Unreachable for this long is lost, milliseconds.
    pub grace_ms: u64,
    /// Urgent for this long before a repair starts, milliseconds.
    pub urgent_ms: u64,
    /// A segment below n is filled up within this time, milliseconds; none: never
    /// for that reason alone.
    pub top_up_ms: Option<u64>,
}

impl Policy {
    /// The design's policy in a network with these timings. A segment with all
    /// its shards is never urgent, even where k+1 is n.
    #[must_use]
    pub fn of(scheme: Scheme, timing: &Timing) -> Self {
        let ms = |seconds: u64| seconds.saturating_mul(1000);
        Self {
            scheme,
            urgent_mark: scheme.urgent_mark().min(scheme.n() - 1),
            queue_mark: scheme.repair_mark(),
            grace_ms: ms(timing.grace_s),
            urgent_ms: ms(timing.urgent_s),
            top_up_ms: Some(ms(timing.top_up_s)),
        }
    }

    /// How endangered a segment is at one moment.
    #[must_use]
    pub const fn health(&self, view: View) -> Health {
        let k = self.scheme.k as usize;
        if view.kept < k {
            Health::Lost
        } else if view.reachable < k {
            Health::Critical
        } else if view.reachable <= self.urgent_mark || !view.datacenter_safe {
            Health::Urgent
        } else if view.kept <= self.queue_mark {
            Health::Queued
        } else if view.kept < self.scheme.n() && self.top_up_ms.is_some() {
            Health::TopUp
        } else {
            Health::Whole
        }
    }
}

/// When a repair may start and when it should be over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Due {
    /// Not before this.
    pub from: Millis,
    /// Done by this, as far as bandwidth allows.
    pub by: Millis,
}

/// A segment's health and what follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// How endangered it is.
    pub health: Health,
    /// When to repair it; none: not, or not possible.
    pub due: Option<Due>,
}

/// Remembers since when a segment has been in need. One per segment; tell it
/// about every change.
///
/// Each need has its own clock, so a segment that gets worse does not wait anew,
/// and one that recovers by itself starts from the beginning next time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Watch {
    urgent_since: Option<Millis>,
    queued_since: Option<Millis>,
    below_since: Option<Millis>,
}

impl Watch {
    /// A segment that has been in no need so far.
    #[must_use]
    pub const fn new() -> Self {
        Self { urgent_since: None, queued_since: None, below_since: None }
    }

    /// Takes note of what is seen at `now`, which never goes back.
    pub fn observe(&mut self, policy: &Policy, view: View, now: Millis) -> Verdict {
        let urgent = view.reachable <= policy.urgent_mark || !view.datacenter_safe;
        let queued = view.kept <= policy.queue_mark;
        let below = view.kept < policy.scheme.n();
        let keep = |since: Option<Millis>, holds: bool| holds.then(|| since.unwrap_or(now));
        self.urgent_since = keep(self.urgent_since, urgent);
        self.queued_since = keep(self.queued_since, queued);
        self.below_since = keep(self.below_since, below);
        let health = policy.health(view);
        Verdict { health, due: self.due(policy, health) }
    }

    fn due(&self, policy: &Policy, health: Health) -> Option<Due> {
        match health {
            Health::Urgent => {
                let at = self.urgent_since?.after(policy.urgent_ms);
                // What was due already does not wait for being urgent as well.
                let from = self.queued_since.map_or(at, |queued| queued.min(at));
                Some(Due { from, by: at })
            }
            Health::Queued => {
                let from = self.queued_since?;
                Some(Due { from, by: from.after(policy.urgent_ms) })
            }
            Health::TopUp => {
                // Waiting gathers losses into one read of k shards; the second
                // half of the time is for doing it.
                let (since, within) = (self.below_since?, policy.top_up_ms?);
                Some(Due { from: since.after(within / 2), by: since.after(within) })
            }
            Health::Whole | Health::Critical | Health::Lost => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMING: Timing =
        Timing { probe_s: 60, suspect_s: 120, grace_s: 1000, urgent_s: 15, top_up_s: 200 };

    fn policy() -> Policy {
        Policy::of(Scheme::DEFAULT, &TIMING)
    }

    fn view(kept: usize, reachable: usize) -> View {
        View { kept, reachable, datacenter_safe: true }
    }

    #[test]
    fn marks_of_the_default_scheme() {
        let policy = policy();
        let expected = [
            (16, 16, Health::Whole),
            (16, 12, Health::Whole),
            (16, 11, Health::Urgent),
            (16, 10, Health::Urgent),
            (16, 9, Health::Critical),
            (15, 15, Health::TopUp),
            (14, 12, Health::TopUp),
            (13, 13, Health::Queued),
            (12, 12, Health::Queued),
            (13, 11, Health::Urgent),
            (10, 10, Health::Urgent),
            (10, 9, Health::Critical),
            (9, 9, Health::Lost),
            (0, 0, Health::Lost),
        ];
        for (kept, reachable, health) in expected {
            assert_eq!(policy.health(view(kept, reachable)), health, "{kept} kept, {reachable}");
        }
    }

    #[test]
    fn marks_of_copies() {
        let policy = Policy::of(Scheme::SMALL, &TIMING);
        let health = |kept, reachable| policy.health(view(kept, reachable));
        assert_eq!(health(7, 3), Health::Whole);
        assert_eq!(health(7, 2), Health::Urgent);
        assert_eq!(health(5, 5), Health::TopUp);
        assert_eq!(health(4, 4), Health::Queued);
        assert_eq!(health(1, 1), Health::Urgent);
        assert_eq!(health(1, 0), Health::Critical);
        assert_eq!(health(0, 0), Health::Lost);
    }

    #[test]
    fn a_whole_segment_with_one_parity_shard_is_not_urgent() {
        let policy = Policy::of(Scheme::new(4, 1).unwrap(), &TIMING);
        assert_eq!(policy.health(view(5, 5)), Health::Whole);
        assert_eq!(policy.health(view(5, 4)), Health::Urgent);
    }

    #[test]
    fn what_does_not_survive_a_datacenter_is_urgent() {
        let unsafe_view = View { datacenter_safe: false, ..view(15, 15) };
        assert_eq!(policy().health(unsafe_view), Health::Urgent);
        let few = View { datacenter_safe: false, ..view(12, 9) };
        assert_eq!(policy().health(few), Health::Critical);
    }

    #[test]
    fn unreachable_is_lost_only_after_the_grace() {
        let shards = [
            Shard::Reachable,
            Shard::Unreachable { since: Millis(500) },
            Shard::Unreachable { since: Millis(0) },
            Shard::Lost,
        ];
        let at = |now| View::of(shards, Millis(now), 1000, true);
        assert_eq!((at(999).kept, at(999).reachable), (3, 1));
        assert_eq!((at(1000).kept, at(1000).reachable), (2, 1));
        assert_eq!(next_loss(shards, Millis(999), 1000), Some(Millis(1000)));
        assert_eq!(next_loss(shards, Millis(1000), 1000), Some(Millis(1500)));
        assert_eq!(next_loss(shards, Millis(1500), 1000), None);
    }

    #[test]
    fn only_urgent_repairs_rebuild_what_is_within_its_grace() {
        let (now, grace_ms) = (Millis(100), 1000);
        let away = Shard::Unreachable { since: Millis(0) };
        let gone = Shard::Unreachable { since: Millis(0) };
        assert!(Health::Urgent.rebuilds(away, now, grace_ms));
        assert!(!Health::Queued.rebuilds(away, now, grace_ms));
        assert!(Health::TopUp.rebuilds(gone, Millis(1000), grace_ms));
        assert!(Health::Queued.rebuilds(Shard::Lost, now, grace_ms));
        assert!(!Health::Urgent.rebuilds(Shard::Reachable, now, grace_ms));
        assert!(!Health::Critical.rebuilds(Shard::Lost, now, grace_ms));
    }

    #[test]
    fn each_need_has_its_delay() {
        let (policy, mut watch) = (policy(), Watch::new());
        assert_eq!(watch.observe(&policy, view(16, 12), Millis(0)).due, None);
        let top_up = watch.observe(&policy, view(15, 15), Millis(1_000)).due;
        assert_eq!(top_up, Some(Due { from: Millis(101_000), by: Millis(201_000) }));
        // Losing another one does not start the week again.
        assert_eq!(watch.observe(&policy, view(14, 14), Millis(50_000)).due, top_up);
        let queued = watch.observe(&policy, view(13, 13), Millis(60_000)).due.unwrap();
        assert_eq!(queued.from, Millis(60_000));
        // Nor does becoming urgent put off what was due.
        let urgent = watch.observe(&policy, view(13, 11), Millis(70_000));
        assert_eq!(urgent.health, Health::Urgent);
        assert_eq!(urgent.due, Some(Due { from: Millis(60_000), by: Millis(85_000) }));
    }

    #[test]
    fn a_short_absence_repairs_nothing() {
        let (policy, mut watch) = (policy(), Watch::new());
        let due = |watch: &mut Watch, reachable, now| {
            watch.observe(&policy, view(16, reachable), Millis(now)).due.map(|due| due.from)
        };
        assert_eq!(due(&mut watch, 11, 0), Some(Millis(15_000)));
        assert_eq!(due(&mut watch, 12, 14_999), None);
        assert_eq!(due(&mut watch, 11, 20_000), Some(Millis(35_000)));
        // Nothing can be done below k, but the clock runs on.
        assert_eq!(due(&mut watch, 9, 30_000), None);
        assert_eq!(due(&mut watch, 10, 40_000), Some(Millis(35_000)));
    }

    #[test]
    fn without_top_up_nothing_is_due_above_the_queue_mark() {
        let policy = Policy { top_up_ms: None, ..policy() };
        let verdict = Watch::new().observe(&policy, view(14, 14), Millis(0));
        assert_eq!(verdict, Verdict { health: Health::Whole, due: None });
    }
}
