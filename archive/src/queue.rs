//! Which repair comes next, and whether there is room for it: a bounded queue
//! with a limit on repairs at once and a cap on bytes per second.
//!
//! Most endangered first, then recently read, then oldest. However much low
//! priority work there is, it never pushes an urgent repair out, never takes the
//! last place to run, and never uses up the bytes an urgent one needs to start.
//! It moves no byte itself.

use std::collections::BTreeMap;

use echonet_protocol::{machine::Millis, segment::SegmentId};

use crate::{
    bucket::{self, Bucket},
    health::Health,
};

/// What the queue holds itself to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Repairs that wait, at most.
    pub waiting_max: usize,
    /// Repairs that run at once, at most. Below urgent, one place fewer where
    /// there are several.
    pub running_max: usize,
    /// Bytes per second, read and written, over any longer time.
    pub bytes_per_s: u64,
    /// Bytes that may be used at once after a rest; urgent repairs may take as
    /// much again in advance.
    pub burst_bytes: u64,
}

/// A repair that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repair {
    /// Of which segment.
    pub segment: SegmentId,
    /// How endangered it is.
    pub health: Health,
    /// Shards that can go before it cannot be rebuilt, as parts of a thousand of
    /// those it can lose in all ([`spare_permille`]).
    pub spare_permille: u16,
    /// When it was last read; none: not as far as anyone here knows.
    pub read: Option<Millis>,
    /// Since when it has been due.
    pub since: Millis,
    /// What it will read and write, bytes.
    pub bytes: u64,
}

/// How far above k a segment is: (left - k) / m in thousandths; 0 at k and below.
#[must_use]
pub fn spare_permille(left: usize, k: usize, m: usize) -> u16 {
    let above = left.saturating_sub(k).min(m);
    u16::try_from(above * 1000 / m.max(1)).unwrap_or(1000)
}

/// The order of repairs; the least comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    health: std::cmp::Reverse<Health>,
    spare_permille: u16,
    read: std::cmp::Reverse<Option<Millis>>,
    since: Millis,
    segment: SegmentId,
}

impl Repair {
    const fn rank(&self) -> Rank {
        Rank {
            health: std::cmp::Reverse(self.health),
            spare_permille: self.spare_permille,
            read: std::cmp::Reverse(self.read),
            since: self.since,
            segment: self.segment,
        }
    }

    fn is_urgent(&self) -> bool {
        self.health >= Health::Urgent
    }
}

/// What became of a repair that was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offered {
    /// It waits.
    Waits,
    /// It waits, and this less endangered one does so no longer: offer it again.
    Displaced(SegmentId),
    /// The queue is full of more endangered ones: offer it again.
    Refused,
    /// The segment is being repaired already.
    Running,
}

/// A bounded queue of repairs, without a clock.
#[derive(Debug, Clone)]
pub struct RepairQueue {
    limits: Limits,
    waiting: BTreeMap<Rank, Repair>,
    ranks: BTreeMap<SegmentId, Rank>,
    running: BTreeMap<SegmentId, Repair>,
    bucket: Bucket,
}

impl RepairQueue {
    /// An empty queue, its burst unused.
    #[must_use]
    pub const fn new(limits: Limits, now: Millis) -> Self {
        Self {
            limits,
            waiting: BTreeMap::new(),
            ranks: BTreeMap::new(),
            running: BTreeMap::new(),
            bucket: Bucket::full(limits.burst_bytes, now),
        }
    }

    /// Changes the limits from `now` on. What waits or runs goes on.
    pub fn set_limits(&mut self, limits: Limits, now: Millis) {
        self.bucket.refill(self.limits.bytes_per_s, self.limits.burst_bytes, now);
        self.limits = limits;
    }

    /// Repairs that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Repairs that run.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Takes a repair, or what is now known about one that waits already.
    pub fn offer(&mut self, repair: Repair) -> Offered {
        if self.running.contains_key(&repair.segment) {
            return Offered::Running;
        }
        self.withdraw(&repair.segment);
        let rank = repair.rank();
        let mut displaced = None;
        if self.waiting.len() >= self.limits.waiting_max {
            match self.waiting.last_key_value() {
                Some((last, _)) if rank < *last => displaced = Some(last.segment),
                _ => return Offered::Refused,
            }
        }
        if let Some(segment) = displaced {
            self.withdraw(&segment);
        }
        self.ranks.insert(repair.segment, rank);
        self.waiting.insert(rank, repair);
        displaced.map_or(Offered::Waits, Offered::Displaced)
    }

    /// Forgets a repair that waits: the segment recovered, or is somebody
    /// else's. One that runs is not stopped.
    pub fn withdraw(&mut self, segment: &SegmentId) -> Option<Repair> {
        let rank = self.ranks.remove(segment)?;
        self.waiting.remove(&rank)
    }

    /// Starts the next repair, if there is room; call again until it gives none.
    pub fn start(&mut self, now: Millis) -> Option<Repair> {
        self.bucket.refill(self.limits.bytes_per_s, self.limits.burst_bytes, now);
        let (_, next) = self.waiting.first_key_value()?;
        let next = *next;
        let fits = self.has_place(&next) && self.missing(&self.bucket, &next) == 0;
        if !fits {
            return None;
        }
        self.withdraw(&next.segment);
        self.bucket.take(next.bytes);
        self.running.insert(next.segment, next);
        Some(next)
    }

    /// A repair is over, however it ended, after `bytes` read and written. Those
    /// it announced and did not use are given back, or more are charged.
    pub fn finish(&mut self, segment: &SegmentId, bytes: u64) {
        if let Some(repair) = self.running.remove(segment) {
            self.bucket.give_back(repair.bytes);
            self.bucket.take(bytes);
        }
    }

    /// When the next repair may start; none: nothing waits, or a running one has
    /// to be over first.
    #[must_use]
    pub fn timeout(&self, now: Millis) -> Option<Millis> {
        let (_, next) = self.waiting.first_key_value()?;
        if !self.has_place(next) {
            return None;
        }
        let mut bucket = self.bucket;
        bucket.refill(self.limits.bytes_per_s, self.limits.burst_bytes, now);
        bucket::wait_ms(self.missing(&bucket, next), self.limits.bytes_per_s)
            .map(|ms| now.after(ms))
    }

    /// What the bucket lacks for a repair to start, thousandths of a byte. A repair larger than
    /// the burst starts on a full bucket and leaves a debt; an urgent one starts up to a burst
    /// earlier.
    fn missing(&self, bucket: &Bucket, next: &Repair) -> u128 {
        let burst = self.limits.burst_bytes;
        bucket.missing(next.bytes.min(burst), if next.is_urgent() { burst } else { 0 })
    }

    fn has_place(&self, next: &Repair) -> bool {
        let kept_free = usize::from(!next.is_urgent() && self.limits.running_max > 1);
        self.running.len() + kept_free < self.limits.running_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits =
        Limits { waiting_max: 100, running_max: 2, bytes_per_s: 1000, burst_bytes: 1000 };

    fn repair(number: u8, health: Health, spare_permille: u16) -> Repair {
        Repair {
            segment: SegmentId([number; 32]),
            health,
            spare_permille,
            read: None,
            since: Millis(u64::from(number)),
            bytes: 0,
        }
    }

    fn order(limits: Limits, repairs: &[Repair]) -> Vec<u8> {
        let mut queue = RepairQueue::new(limits, Millis(0));
        repairs.iter().for_each(|r| assert_eq!(queue.offer(*r), Offered::Waits));
        let mut started = Vec::new();
        while let Some(next) = queue.start(Millis(0)) {
            started.push(next.segment.0[0]);
            queue.finish(&next.segment, next.bytes);
        }
        assert_eq!((queue.waiting(), queue.running()), (0, 0));
        started
    }

    #[test]
    fn endangered_then_read_then_old() {
        let read = |repair: Repair, at| Repair { read: Some(Millis(at)), ..repair };
        let repairs = [
            repair(1, Health::TopUp, 800),
            repair(2, Health::Queued, 500),
            read(repair(3, Health::Queued, 500), 10),
            read(repair(4, Health::Queued, 500), 20),
            repair(5, Health::Queued, 333),
            repair(6, Health::Urgent, 900),
            repair(7, Health::Urgent, 0),
            repair(8, Health::Queued, 500),
        ];
        assert_eq!(order(LIMITS, &repairs), [7, 6, 5, 4, 3, 2, 8, 1]);
    }

    #[test]
    fn spare_is_relative_to_what_may_be_lost() {
        assert_eq!(spare_permille(16, 10, 6), 1000);
        assert_eq!(spare_permille(11, 10, 6), 166);
        assert_eq!(spare_permille(10, 10, 6), 0);
        assert_eq!(spare_permille(3, 10, 6), 0);
        // One above k is more dangerous with many shards at stake than with few.
        assert!(spare_permille(30, 29, 51) < spare_permille(11, 10, 6));
    }

    #[test]
    fn a_flood_of_low_priority_displaces_nothing_urgent() {
        let mut queue = RepairQueue::new(Limits { waiting_max: 3, ..LIMITS }, Millis(0));
        queue.offer(repair(1, Health::Urgent, 166));
        queue.offer(repair(2, Health::TopUp, 800));
        queue.offer(repair(3, Health::TopUp, 800));
        for number in 4..100 {
            assert_eq!(queue.offer(repair(number, Health::TopUp, 800)), Offered::Refused);
        }
        let more = repair(200, Health::Urgent, 0);
        assert_eq!(queue.offer(more), Offered::Displaced(SegmentId([3; 32])));
        assert_eq!(queue.waiting(), 3);
        assert_eq!(queue.start(Millis(0)).unwrap().segment.0[0], 200);
        assert_eq!(queue.start(Millis(0)).unwrap().segment.0[0], 1);
    }

    #[test]
    fn one_place_to_run_is_kept_for_urgent_ones() {
        let mut queue = RepairQueue::new(LIMITS, Millis(0));
        queue.offer(repair(1, Health::TopUp, 800));
        queue.offer(repair(2, Health::Queued, 500));
        assert_eq!(queue.start(Millis(0)).unwrap().segment.0[0], 2);
        assert_eq!(queue.start(Millis(0)), None);
        assert_eq!(queue.timeout(Millis(0)), None, "waits for a running one, not for time");
        queue.offer(repair(3, Health::Urgent, 166));
        assert_eq!(queue.start(Millis(0)).unwrap().segment.0[0], 3);
        queue.offer(repair(4, Health::Urgent, 0));
        assert_eq!(queue.start(Millis(0)), None, "two run");
        queue.finish(&SegmentId([3; 32]), 0);
        assert_eq!(queue.start(Millis(0)).unwrap().segment.0[0], 4);
        let alone = Limits { running_max: 1, ..LIMITS };
        assert_eq!(order(alone, &[repair(1, Health::TopUp, 800)]), [1]);
    }

    #[test]
    fn bytes_are_capped_over_time() {
        let mut queue = RepairQueue::new(Limits { running_max: 100, ..LIMITS }, Millis(0));
        for number in 0..50 {
            queue.offer(Repair { bytes: 700, ..repair(number, Health::Queued, 500) });
        }
        let (mut now, mut bytes) = (Millis(0), 0);
        while now.0 <= 20_000 {
            while let Some(next) = queue.start(now) {
                bytes += next.bytes;
                queue.finish(&next.segment, next.bytes);
            }
            let wake = queue.timeout(now).unwrap();
            assert!(wake > now, "at {now:?} it says now, and nothing starts");
            now = wake;
        }
        // 20 s at 1000 a second, a burst of 1000, and what is on its way.
        assert!((20_000..=21_700).contains(&bytes), "{bytes}");
    }

    #[test]
    fn low_priority_leaves_bytes_for_an_urgent_start() {
        let mut queue = RepairQueue::new(Limits { running_max: 100, ..LIMITS }, Millis(0));
        for number in 0..10 {
            queue.offer(Repair { bytes: 1000, ..repair(number, Health::TopUp, 800) });
        }
        assert!(queue.start(Millis(0)).is_some());
        assert_eq!(queue.start(Millis(0)), None);
        queue.offer(Repair { bytes: 5000, ..repair(99, Health::Urgent, 0) });
        assert_eq!(queue.start(Millis(0)).unwrap().segment.0[0], 99);
        // Its debt is paid before anything else starts.
        assert_eq!(queue.timeout(Millis(0)), Some(Millis(6000)));
        assert_eq!(queue.start(Millis(5999)), None);
        assert!(queue.start(Millis(6000)).is_some());
    }

    #[test]
    fn unused_bytes_are_given_back_and_more_are_charged() {
        let mut queue = RepairQueue::new(LIMITS, Millis(0));
        let due = |number| Repair { bytes: 1000, ..repair(number, Health::Queued, 500) };
        queue.offer(due(1));
        queue.start(Millis(0)).unwrap();
        queue.finish(&SegmentId([1; 32]), 100);
        queue.offer(due(2));
        assert_eq!(queue.timeout(Millis(0)), Some(Millis(100)));
        queue.start(Millis(100)).unwrap();
        queue.finish(&SegmentId([2; 32]), 3000);
        queue.offer(due(3));
        assert_eq!(queue.timeout(Millis(100)), Some(Millis(3100)));
    }

    #[test]
    fn a_segment_is_repaired_once_at_a_time_and_can_be_withdrawn() {
        let mut queue = RepairQueue::new(LIMITS, Millis(0));
        queue.offer(repair(1, Health::Queued, 500));
        queue.offer(repair(1, Health::Urgent, 166));
        assert_eq!(queue.waiting(), 1);
        let running = queue.start(Millis(0)).unwrap();
        assert_eq!(running.health, Health::Urgent, "what is known last counts");
        assert_eq!(queue.offer(repair(1, Health::Urgent, 0)), Offered::Running);
        queue.offer(repair(2, Health::TopUp, 800));
        assert!(queue.withdraw(&SegmentId([2; 32])).is_some());
        assert_eq!(queue.start(Millis(0)), None);
        queue.finish(&SegmentId([1; 32]), 0);
        assert_eq!((queue.waiting(), queue.running()), (0, 0));
    }
}
