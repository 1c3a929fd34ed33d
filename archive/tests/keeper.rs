//! The keeper, driven by hand: who repairs what, when, and when not.

use echonet_archive::keeper::{
    JOINERS_BYTES_PER_S, Keeper, KeeperConfig, KeeperInput, KeeperOutput, Key, Outcome, Placed,
    Presence, Task,
};
use echonet_protocol::{
    agreement::VoterConfig,
    identity::NodeId,
    machine::{Machine, Millis},
    network::Timing,
    segment::{Scheme, SegmentId},
};

const TIMING: Timing = Timing::DEVELOPMENT;

const fn node(number: u8) -> NodeId {
    NodeId([number; 32])
}

const fn key(number: u8) -> Key {
    Key { segment: SegmentId([number; 32]), owner: node(200) }
}

/// A placement on the nodes 1 to n.
fn placed(number: u8, version: u64, scheme: Scheme) -> Placed {
    let holders = (0..scheme.n() as u8).map(|index| (index, node(index + 1))).collect();
    Placed { key: key(number), version, sequence: version, scheme, shard_bytes: 1000, holders }
}

/// A keeper at node 1 whose ticks come when it asks for them.
struct Rig {
    keeper: Keeper,
    now: Millis,
    started: Vec<(Millis, Key, Task)>,
}

impl Rig {
    fn new() -> Self {
        let config = KeeperConfig::of(&TIMING);
        let keeper = Keeper::new(Millis(0), node(1), TIMING, config);
        Self { keeper, now: Millis(0), started: Vec::new() }
    }

    fn put(&mut self, input: KeeperInput) {
        self.keeper.handle(self.now, input);
        while let Some(output) = self.keeper.poll() {
            if let KeeperOutput::Start { key, task, .. } = output {
                self.started.push((self.now, key, task));
            }
        }
    }

    fn pass(&mut self, ms: u64) {
        let until = self.now.after(ms);
        while let Some(at) = self.keeper.timeout().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.put(KeeperInput::Tick);
        }
        self.now = until;
    }

    fn gone(&mut self, numbers: impl IntoIterator<Item = u8>) {
        for number in numbers {
            let presence = Presence::Unreachable { since: self.now };
            self.put(KeeperInput::Peer { node: node(number), presence });
        }
    }

    fn back(&mut self, number: u8) {
        let presence = Presence::Reachable;
        self.put(KeeperInput::Peer { node: node(number), presence });
    }

    fn done(&mut self, number: u8, outcome: Outcome) {
        self.put(KeeperInput::Done { key: key(number), outcome, bytes: 0 });
    }

    /// Begins of tasks that were not asked for before.
    fn take(&mut self) -> Vec<(Millis, Key, Task)> {
        std::mem::take(&mut self.started)
    }
}

/// A segment for which node 1 has this rank when all are reachable.
fn ranked(wanted: u64, scheme: Scheme) -> u8 {
    let step_ms = KeeperConfig::of(&TIMING).timing.step_ms;
    (1..=250)
        .find(|number| {
            let mut rig = Rig::new();
            rig.put(KeeperInput::Held(placed(*number, 1, scheme)));
            let lost = KeeperInput::Says {
                node: node(2),
                segment: key(*number).segment,
                index: 1,
                has: false,
            };
            rig.put(lost);
            rig.pass(100_000);
            let due_ms = TIMING.top_up_s * 1000 / 2;
            let at = rig.started.first().map_or(u64::MAX, |(at, ..)| at.0);
            at >= due_ms + wanted * step_ms && at < due_ms + (wanted + 1) * step_ms
        })
        .expect("such a node")
}

#[test]
fn an_urgent_repair_replaces_what_is_within_its_grace() {
    let mut rig = Rig::new();
    let number = ranked(0, Scheme::DEFAULT);
    rig.put(KeeperInput::Held(placed(number, 1, Scheme::DEFAULT)));
    rig.gone(12..=16);
    rig.pass(TIMING.urgent_s * 1000 - 100);
    assert_eq!(rig.take(), []);
    rig.pass(4_000);
    let started = rig.take();
    let expected = Task::Repair { lost: vec![11, 12, 13, 14, 15], is_urgent: true };
    assert_eq!(started.iter().map(|(_, _, task)| task).collect::<Vec<_>>(), [&expected]);
}

#[test]
fn where_there_is_one_datacenter_nothing_is_urgent_for_that() {
    for scheme in [Scheme::DEFAULT, Scheme::SMALL] {
        let mut rig = Rig::new();
        let number = ranked(0, scheme);
        rig.put(KeeperInput::Held(placed(number, 1, scheme)));
        for holder in 1..=scheme.n() as u8 {
            rig.put(KeeperInput::Site { node: node(holder), datacenter: 1 });
        }
        rig.gone([3]);
        rig.pass(TIMING.grace_s * 1000 - 100);
        assert_eq!(rig.take(), [], "{scheme}: within its grace nothing is made again");
    }
}

#[test]
fn what_can_be_made_datacenter_safe_is_urgent() {
    let mut rig = Rig::new();
    let number = ranked(0, Scheme::DEFAULT);
    rig.put(KeeperInput::Held(placed(number, 1, Scheme::DEFAULT)));
    for holder in 1..=16 {
        rig.put(KeeperInput::Site { node: node(holder), datacenter: u64::from(holder % 3) });
    }
    // One of 16 is past its grace: 15 are kept, and 6 of them in one datacenter.
    rig.gone([3]);
    rig.pass((TIMING.grace_s + TIMING.urgent_s) * 1000 + 2_000);
    let expected = Task::Repair { lost: vec![2], is_urgent: true };
    assert_eq!(rig.take().iter().map(|(_, _, task)| task).collect::<Vec<_>>(), [&expected]);
}

#[test]
fn every_version_begins_with_the_first_in_rank() {
    let number = ranked(3, Scheme::DEFAULT);
    let step_ms = KeeperConfig::of(&TIMING).timing.step_ms;
    let mut rig = Rig::new();
    rig.put(KeeperInput::Held(placed(number, 1, Scheme::DEFAULT)));
    for (index, holder) in [(4, 5), (5, 6), (6, 7)] {
        let segment = key(number).segment;
        rig.put(KeeperInput::Says { node: node(holder), segment, index, has: false });
    }
    // The first in rank replaces one of three just before this node's turn; two are still lost.
    rig.pass(3 * step_ms - 100);
    let mut second = placed(number, 2, Scheme::DEFAULT);
    second.holders[4].1 = node(77);
    rig.put(KeeperInput::Held(second));
    rig.pass(2 * step_ms);
    assert_eq!(rig.take(), [], "it is not its turn again yet");
    rig.pass(20 * step_ms);
    assert!(!rig.take().is_empty(), "its turn came");
}

#[test]
fn a_convicted_shard_is_lost_whatever_its_holder_says() {
    let number = ranked(0, Scheme::DEFAULT);
    let mut rig = Rig::new();
    rig.put(KeeperInput::Held(placed(number, 1, Scheme::DEFAULT)));
    let segment = key(number).segment;
    for (index, holder) in [(4, 5), (5, 6), (6, 7)] {
        rig.put(KeeperInput::Convicted { node: node(holder), segment, index });
        rig.put(KeeperInput::Says { node: node(holder), segment, index, has: true });
    }
    rig.pass(20 * KeeperConfig::of(&TIMING).timing.step_ms);
    assert!(!rig.take().is_empty(), "it was believed again");
}

#[test]
fn who_comes_back_ends_the_pause_after_failures() {
    let number = ranked(0, Scheme::DEFAULT);
    let mut rig = Rig::new();
    rig.put(KeeperInput::Held(placed(number, 1, Scheme::DEFAULT)));
    rig.gone(12..=16);
    rig.pass(30_000);
    assert_eq!(rig.take().len(), 1);
    for _ in 0..7 {
        rig.done(number, Outcome::Failed);
        rig.pass(130_000);
        assert_eq!(rig.take().len(), 1);
    }
    rig.done(number, Outcome::Failed);
    rig.take();
    rig.back(12);
    rig.pass(1_000);
    rig.gone([12]);
    rig.pass(10_000);
    assert_eq!(rig.take().len(), 1, "two minutes are not waited for");
}

#[test]
fn a_record_of_an_earlier_version_may_win() {
    let mut rig = Rig::new();
    let weak = Placed { sequence: 10, ..placed(1, 3, Scheme::SMALL) };
    let strong = Placed { sequence: 20, ..placed(1, 2, Scheme::SMALL) };
    rig.put(KeeperInput::Held(weak.clone()));
    rig.put(KeeperInput::Held(strong));
    assert_eq!(rig.keeper.version(&key(1)), Some(2));
    rig.put(KeeperInput::Held(weak));
    assert_eq!(rig.keeper.version(&key(1)), Some(2), "what lost is not taken again");
}

#[test]
fn a_holder_named_again_after_unseen_versions_has_its_shard() {
    let number = ranked(0, Scheme::DEFAULT);
    let segment = key(number).segment;
    for (version, repairs) in [(2, 1), (3, 0)] {
        let mut rig = Rig::new();
        rig.put(KeeperInput::Held(placed(number, 1, Scheme::DEFAULT)));
        rig.put(KeeperInput::Says { node: node(5), segment, index: 4, has: false });
        rig.put(KeeperInput::Held(placed(number, version, Scheme::DEFAULT)));
        rig.pass(60_000);
        assert_eq!(rig.take().len(), repairs, "version {version}");
    }
}

#[test]
fn who_is_not_relieved_keeps_what_it_has() {
    let mut rig = Rig::new();
    rig.put(KeeperInput::Held(placed(1, 1, Scheme::DEFAULT)));
    rig.put(KeeperInput::Joined { node: node(99), keys: vec![key(1), key(2)] });
    let hand_over = |to| Task::HandOver { index: 0, to };
    let started = rig.take();
    assert_eq!(started.len(), 1, "of a placement that is not its own it hands nothing over");
    assert_eq!(started[0].2, hand_over(Some(node(99))));
    assert_eq!(rig.keeper.counts().waiting, 1);
    rig.done(1, Outcome::Failed);
    rig.pass(600_000);
    assert_eq!(rig.take(), []);
    assert_eq!(rig.keeper.counts().waiting, 0);
}

#[test]
fn who_was_only_slower_is_relieved_later() {
    let mut rig = Rig::new();
    rig.put(KeeperInput::Held(placed(1, 1, Scheme::DEFAULT)));
    rig.put(KeeperInput::Joined { node: node(99), keys: vec![key(1)] });
    rig.take();
    rig.done(1, Outcome::Yielded);
    rig.pass(600_000);
    let started = rig.take();
    assert_eq!(started.len(), 1);
    assert_eq!(started[0].2, Task::HandOver { index: 0, to: Some(node(99)) });
}

#[test]
fn joiners_are_given_bytes_at_the_rate_and_who_leaves_does_not_wait_for_it() {
    const SHARD_BYTES: u64 = 3 << 20;
    let mut rig = Rig::new();
    let keys: Vec<Key> = (1..=250).map(key).collect();
    for number in 1..=250 {
        let shard_bytes = SHARD_BYTES as u32;
        rig.put(KeeperInput::Held(Placed { shard_bytes, ..placed(number, 1, Scheme::DEFAULT) }));
    }
    rig.put(KeeperInput::Joined { node: node(99), keys });
    let mut given = 0;
    while rig.now < Millis(60_000) {
        for (_, key, _) in rig.take() {
            given += SHARD_BYTES;
            rig.put(KeeperInput::Dropped(key));
            rig.put(KeeperInput::Done { key, outcome: Outcome::Committed, bytes: SHARD_BYTES });
        }
        rig.pass(100);
    }
    // A minute at the rate, the burst, and what was on its way. At least 10 GB an hour.
    let (burst, rate) = (64 << 20, JOINERS_BYTES_PER_S);
    assert!(given <= 60 * rate + burst + SHARD_BYTES, "{given}");
    assert!(given >= 10_000_000_000 / 60, "{given}");
    assert!(rig.keeper.counts().placements > 0, "it gave all it had: the rate was not tested");
    rig.put(KeeperInput::Drain);
    let mut left = rig.keeper.counts().placements;
    for _ in 0..20 {
        for (_, key, _) in rig.take() {
            left -= 1;
            rig.put(KeeperInput::Dropped(key));
            rig.put(KeeperInput::Done { key, outcome: Outcome::Committed, bytes: SHARD_BYTES });
        }
        rig.pass(100);
    }
    assert_eq!(left, 0, "leaving waited for the rate");
}

#[test]
fn whose_disk_fails_is_asked_at_once_about_all_it_has() {
    let mut rig = Rig::new();
    for number in 1..=3 {
        rig.put(KeeperInput::Held(placed(number, 1, Scheme::DEFAULT)));
    }
    let asked = |rig: &mut Rig, input| {
        rig.keeper.handle(rig.now, input);
        let mut shards = Vec::new();
        while let Some(output) = rig.keeper.poll() {
            if let KeeperOutput::AskHas { node: asked, shards: about } = output {
                assert_eq!(asked, node(5));
                shards.extend(about);
            }
        }
        shards
    };
    let about: Vec<_> = (1..=3).map(|number| (key(number).segment, 4)).collect();
    assert_eq!(asked(&mut rig, KeeperInput::Doubt(node(5))), about);
    assert_eq!(asked(&mut rig, KeeperInput::Doubt(node(99))), [], "of whom it knows nothing");
}

#[test]
fn a_quiet_node_does_what_is_urgent_only() {
    let number = ranked(0, Scheme::DEFAULT);
    let mut rig = Rig::new();
    rig.put(KeeperInput::Quiet(true));
    rig.put(KeeperInput::Held(placed(number, 1, Scheme::DEFAULT)));
    rig.put(KeeperInput::Joined { node: node(99), keys: vec![key(number)] });
    rig.gone([16]);
    rig.pass(600_000);
    assert_eq!(rig.take(), []);
    rig.gone(12..=15);
    rig.pass(30_000);
    assert!(matches!(rig.take()[..], [(_, _, Task::Repair { is_urgent: true, .. })]));
    rig.done(number, Outcome::Committed);
    rig.put(KeeperInput::Quiet(false));
    rig.pass(1_000);
    let hand_over = Task::HandOver { index: 0, to: Some(node(99)) };
    assert!(rig.take().iter().any(|(_, _, task)| *task == hand_over));
}

#[test]
fn draining_goes_on_until_nothing_is_left() {
    let number = ranked(0, Scheme::DEFAULT);
    let mut rig = Rig::new();
    rig.put(KeeperInput::Held(placed(number, 1, Scheme::DEFAULT)));
    rig.gone(12..=16);
    rig.pass(30_000);
    assert!(matches!(rig.take()[0].2, Task::Repair { .. }));
    // Shards of no code word can be copied all the same.
    rig.done(number, Outcome::Inconsistent);
    rig.put(KeeperInput::Drain);
    for _ in 0..3 {
        rig.pass(300_000);
        let started = rig.take();
        assert_eq!(started.len(), 1);
        assert_eq!(started[0].2, Task::HandOver { index: 0, to: None });
        rig.done(number, Outcome::Failed);
    }
    rig.pass(300_000);
    rig.put(KeeperInput::Dropped(key(number)));
    rig.done(number, Outcome::Committed);
    assert_eq!((rig.keeper.counts().waiting, rig.keeper.counts().placements), (0, 0));
}

#[test]
fn a_draining_node_leaves_repairs_to_others() {
    let config = KeeperConfig::of(&TIMING);
    let limits = echonet_archive::queue::Limits { running_max: 0, ..config.repairs };
    let config = KeeperConfig { repairs: limits, hand_overs_max: 0, ..config };
    let keeper = Keeper::new(Millis(0), node(1), TIMING, config);
    let mut rig = Rig { keeper, now: Millis(0), started: Vec::new() };
    let number = ranked(0, Scheme::DEFAULT);
    rig.put(KeeperInput::Held(placed(number, 1, Scheme::DEFAULT)));
    rig.gone(12..=16);
    rig.pass(30_000);
    assert_eq!(rig.keeper.counts().waiting, 1);
    rig.put(KeeperInput::Drain);
    assert_eq!(rig.keeper.counts().waiting, 2, "the repair and the hand-over");
    rig.pass(1_000);
    assert_eq!(rig.keeper.counts().waiting, 1, "the hand-over");
}

#[test]
fn who_yielded_comes_back_when_nobody_is_kept_out_by_it() {
    let hold_ms = VoterConfig::default().hold_ms;
    let pause_ms = |rank| {
        let number = ranked(rank, Scheme::DEFAULT);
        let mut rig = Rig::new();
        rig.put(KeeperInput::Held(placed(number, 1, Scheme::DEFAULT)));
        rig.gone(12..=16);
        rig.pass(200_000);
        assert_eq!(rig.take().len(), 1);
        let yielded = rig.now;
        rig.done(number, Outcome::Yielded);
        rig.pass(200_000);
        rig.take()[0].0.since(yielded)
    };
    let (first, second) = (pause_ms(0), pause_ms(1));
    assert!(first > hold_ms && second > first + hold_ms, "{first} {second}");
}
