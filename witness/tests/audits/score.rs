//! The fold: numbers by hand, orders that must not matter, and every standing.

use echonet_protocol::{
    audit::{Maintenance, Outcome, Outcome::*},
    identity::Signed,
    time::Epoch,
};
use echonet_witness::score::{Fold, Reason, Rules, ScoreEvent, SealedSet, Standing, Word};
use proptest::prelude::*;

use crate::rig::{Report, Said, World, chains, due, holder, made_up, said, seal, world};

pub(crate) fn rules(world: &World) -> Rules {
    Rules { network: world.network, rates: world.rates, holders_max: Rules::HOLDERS_MAX }
}

/// A world that is folded from epoch 0 on, by what honest askers find.
pub(crate) struct Run {
    pub(crate) fold: Fold,
    chains: Vec<echonet_witness::verdicts::Chain>,
    pub(crate) epoch: u64,
}

impl Run {
    pub(crate) fn new() -> Self {
        Self::at(0)
    }

    pub(crate) fn at(epoch: u64) -> Self {
        let fold = Fold::new(rules(world()), Epoch(epoch));
        Self { fold, chains: chains(world()), epoch }
    }

    /// Folds an epoch in which holder 0 is asked so often, each time with that outcome.
    pub(crate) fn epoch(&mut self, outcomes: &[Outcome]) -> Vec<ScoreEvent> {
        let segments = due(world(), self.epoch, 0, outcomes.len());
        let reports: Vec<Report> = segments
            .iter()
            .zip(outcomes)
            .flat_map(|(segment, outcome)| report(self.epoch, *segment, *outcome, None))
            .collect();
        self.fold_reports(&reports)
    }

    /// The same as an inventory, over segments of a series, due or not.
    pub(crate) fn inventory(&mut self, outcomes: &[Outcome]) -> Vec<ScoreEvent> {
        let reports: Vec<Report> = outcomes
            .iter()
            .zip(0..)
            .flat_map(|(outcome, n)| report(self.epoch, made_up(77 << 32 | n), *outcome, Some(0)))
            .collect();
        self.fold_reports(&reports)
    }

    pub(crate) fn fold_reports(&mut self, reports: &[Report]) -> Vec<ScoreEvent> {
        let said = said(world(), &mut self.chains, self.epoch, reports);
        self.fold_set(&seal(world(), self.epoch, &said))
    }

    pub(crate) fn fold_set(&mut self, set: &SealedSet) -> Vec<ScoreEvent> {
        self.epoch += 1;
        self.fold.fold(&world().sets, set).unwrap()
    }

    pub(crate) fn idle(&mut self, epochs: u64) {
        for _ in 0..epochs {
            let set = SealedSet::new(world().network, Epoch(self.epoch), None);
            self.fold_set(&set);
        }
    }

    pub(crate) fn word(&self) -> Word {
        self.fold.word(&holder(0).node_id())
    }
}

/// What honest witnesses say of holder 0: its asker, and of silence the whole committee.
fn report(
    epoch: u64,
    segment: echonet_protocol::segment::SegmentId,
    outcome: Outcome,
    inventory: Option<usize>,
) -> Vec<Report> {
    let committee = world().committee(epoch, &segment);
    let says = if outcome == Silent { committee } else { committee[..1].to_vec() };
    says.into_iter()
        .map(|w| Report { inventory, ..Report::new(w, segment, vec![(0, 0, outcome)]) })
        .collect()
}

#[test]
fn a_score_moves_as_computed_by_hand() {
    let mut run = Run::new();
    assert_eq!((run.word().audit, run.word().online), (10_000, 10_000));
    let events = run.epoch(&[Absent]);
    // a = floor(1000 * 2^20 * 999 / 1000), b = 2^20: 999 of 1000.
    assert_eq!(run.word().audit, 9_990);
    assert_eq!(events.len(), 1);
    run.epoch(&[Pass]);
    // a = 999 * 0.999 + 1 = 999.001, b = 0.999.
    assert_eq!(run.word().audit, 9_990);
    run.epoch(&[Pass; 30]);
    // b = 0.999^31 = 0.9695 of 1000.
    assert_eq!(run.word().audit, 9_990);
    assert_eq!(run.word().passes, 31);
}

#[test]
fn forty_one_failures_in_a_row_disqualify_and_forty_do_not() {
    let mut run = Run::new();
    for failures in 1..=41_u64 {
        // Far apart, so that no inventory is in between; each another shard.
        let segment = due(world(), run.epoch, failures, 1)[0];
        let events = run.fold_reports(&report(run.epoch, segment, Absent, None));
        let is_out = run.word().standing == Standing::Disqualified;
        assert_eq!(is_out, failures == 41, "{failures}: {:?}", run.word());
        assert_eq!(events[0].after.standing == Standing::Disqualified, is_out);
        assert_eq!(run.word().audit <= 9_600, is_out);
    }
}

#[test]
fn every_change_names_its_verdict() {
    let mut run = Run::new();
    let events = run.epoch(&[Pass, Absent, Silent]);
    assert_eq!(events.len(), 3);
    let mut before = Run::new().word();
    for event in &events {
        let source = event.source.unwrap();
        assert_eq!((event.holder, event.epoch), (holder(0).node_id(), Epoch(0)));
        assert_eq!(event.before, before, "events in a row");
        before = event.after;
        let reason = match source.outcome {
            Pass => Reason::Passed,
            Silent => Reason::Silent,
            _ => Reason::Lost,
        };
        assert_eq!(event.reason, reason);
    }
    assert_eq!(before, run.word());
}

#[test]
fn vetting_ends_with_the_hundredth_pass() {
    let mut run = Run::new();
    run.epoch(&[Pass; 99]);
    assert_eq!(run.word().standing, Standing::Vetting);
    let events = run.epoch(&[Pass]);
    assert_eq!(run.word().standing, Standing::Full);
    let last = events.last().unwrap();
    assert_eq!((last.reason, last.before.standing), (Reason::Standing, Standing::Vetting));
    assert_eq!(last.source, events[0].source, "it names the pass");
}

#[test]
fn silence_costs_the_online_score_alone() {
    let mut run = Run::new();
    run.epoch(&[Silent; 19]);
    let word = run.word();
    assert_eq!((word.audit, word.online, word.standing), (10_000, 0, Standing::Vetting));
    run.epoch(&[Silent]);
    assert_eq!(run.word().standing, Standing::Suspended, "at the twentieth question");
    // Back at 6000: of three windows 0, 1, 1 are 6666.
    run.idle(22);
    run.epoch(&[Pass]);
    assert_eq!((run.word().online, run.word().standing), (5_000, Standing::Suspended));
    run.idle(11);
    run.epoch(&[Pass]);
    assert_eq!((run.word().online, run.word().standing), (6_666, Standing::Vetting));
}

#[test]
fn the_online_score_forgets_after_sixty_windows_asked() {
    let mut run = Run::new();
    run.epoch(&[Silent, Pass, Pass, Pass]);
    assert_eq!(run.word().online, 7_500);
    for _ in 0..60 {
        run.idle(11);
        run.epoch(&[Pass]);
    }
    assert_eq!(run.word().online, 10_000);
}

#[test]
fn an_announced_maintenance_costs_nothing_and_is_bounded() {
    let announce = |run: &mut Run, from, until| {
        let body = Maintenance {
            v: 1,
            network: world().network,
            node: holder(0).node_id(),
            from: Epoch(from),
            until: Epoch(until),
        };
        let mut set = SealedSet::new(world().network, Epoch(run.epoch), None);
        set.announce(&Signed::new(&holder(0), body)).unwrap();
        run.fold_set(&set);
    };
    let mut run = Run::new();
    announce(&mut run, 1, 13);
    assert!(run.epoch(&[Silent; 30]).is_empty());
    assert_eq!(run.word(), Run::new().word());
    run.idle(11);
    assert_eq!(run.epoch(&[Silent]).len(), 1, "epoch 13 is after it");
    let mut late = Run::new();
    announce(&mut late, 0, 12);
    assert_eq!(late.epoch(&[Silent]).len(), 1, "announced when it had begun");
    let mut never = Run::new();
    announce(&mut never, u64::MAX - 24, u64::MAX);
    assert_eq!(never.epoch(&[Silent]).len(), 1, "at the end of all epochs");
    let mut greedy = Run::new();
    announce(&mut greedy, 10, 34);
    announce(&mut greedy, 3, 4);
    greedy.idle(1);
    assert_eq!(greedy.epoch(&[Silent]).len(), 1, "more than 24 epochs of 720");
}

#[test]
fn an_inventory_follows_a_loss_and_not_too_often() {
    let mut run = Run::new();
    let me = holder(0).node_id();
    run.epoch(&[Pass]);
    assert!(run.fold.inventories().is_empty());
    run.epoch(&[Absent]);
    assert_eq!(run.fold.inventories(), [me]);
    let mut turns = [0_u64; 7];
    (0..50).for_each(|n| turns[world().asker(run.epoch, &made_up(77 << 32 | n))] += 1);
    turns.sort_unstable();
    run.inventory(&[Pass; 50]);
    let capped: u64 = turns.iter().map(|count| (*count).min(turns[4])).sum();
    assert_eq!(run.word().held, capped, "of the two with most no more than of the third");
    assert!(run.fold.inventories().is_empty());
    run.epoch(&[Absent]);
    assert!(run.fold.inventories().is_empty(), "had one in the last 24 epochs");
    // An inventory that is not due does not count.
    assert!(run.inventory(&[Pass; 5]).is_empty());
    run.idle(22);
    run.epoch(&[Absent]);
    assert_eq!(run.fold.inventories(), [me]);
}

#[test]
fn more_than_half_a_percent_lost_disqualifies_from_three_on() {
    let of = |lost: usize, held: usize| {
        let mut run = Run::new();
        run.epoch(&[Absent]);
        // The shard of the first loss is one of them.
        let mut outcomes = vec![Absent; lost - 1];
        outcomes.resize(held, Pass);
        run.inventory(&outcomes);
        (run.word().lost, run.word().standing == Standing::Disqualified)
    };
    assert_eq!(of(2, 30), (2, false), "two are never enough");
    assert_eq!(of(3, 30), (3, true));
    let mut run = Run::new();
    run.epoch(&[Absent]);
    run.inventory(&[Pass; 300]);
    let held = run.word().held;
    assert!((250..=300).contains(&held), "{held}");
    assert_eq!(run.word().standing, Standing::Full);
}

#[test]
fn the_disqualified_begin_anew_after_720_epochs() {
    let mut run = Run::new();
    run.epoch(&[Pass; 100]);
    run.epoch(&[Absent; 60]);
    assert_eq!(run.word().standing, Standing::Disqualified);
    run.idle(719);
    assert_eq!(run.word().standing, Standing::Disqualified);
    let set = SealedSet::new(world().network, Epoch(run.epoch), None);
    let events = run.fold_set(&set);
    assert_eq!(events.len(), 1);
    assert_eq!((events[0].reason, events[0].source), (Reason::Rehabilitated, None));
    let word = run.word();
    assert_eq!((word.audit, word.passes, word.lost), (10_000, 0, 0));
    assert_eq!(word.standing, Standing::Rehabilitating);
    run.epoch(&[Pass; 99]);
    assert_eq!(run.word().standing, Standing::Rehabilitating);
    run.epoch(&[Pass]);
    assert_eq!(run.word().standing, Standing::Full);
}

#[test]
fn every_epoch_is_folded_once_and_in_order() {
    let mut fold = Fold::new(rules(world()), Epoch(3));
    for wrong in [2, 4] {
        let set = SealedSet::new(world().network, Epoch(wrong), None);
        let before = fold.checkpoint();
        assert!(fold.fold(&world().sets, &set).is_err());
        assert_eq!(fold.checkpoint(), before);
    }
}

#[test]
fn those_with_the_fewest_events_leave_first() {
    let rules = Rules { holders_max: 2, ..rules(world()) };
    let mut fold = Fold::new(rules, Epoch(0));
    let mut chains = chains(world());
    let segments = due(world(), 0, 0, 3);
    let results = |n: usize| (0..3).filter(move |i| *i != n).map(|i| (i as u8, i, Pass)).collect();
    // Holders 1 and 2 three and two times, holder 0 once.
    let reports = [
        Report::new(world().asker(0, &segments[0]), segments[0], results(0)),
        Report::new(world().asker(0, &segments[1]), segments[1], results(0)),
        Report::new(world().asker(0, &segments[2]), segments[2], results(2)),
    ];
    let said = said(world(), &mut chains, 0, &reports);
    fold.fold(&world().sets, &seal(world(), 0, &said)).unwrap();
    let left: Vec<_> = fold.words().map(|(id, _)| id).collect();
    let mut expected = [holder(1).node_id(), holder(2).node_id()];
    expected.sort_unstable();
    assert_eq!(left, expected);
}

/// Any report: witness, segment, index, holder, outcome.
type Any = (usize, u64, u8, usize, u8);

/// What eight epochs bring: for each some reports by anybody about anybody.
fn any_epochs() -> impl Strategy<Value = Vec<Vec<Any>>> {
    let report = (0..7_usize, 0..6_u64, 0..3_u8, 0..4_usize, 0..4_u8);
    prop::collection::vec(prop::collection::vec(report, 0..12), 8)
}

fn all_said(epochs: &[Vec<Any>]) -> Vec<Vec<Said>> {
    let mut chains = chains(world());
    let mut all = Vec::new();
    for (epoch, reports) in (0..).zip(epochs) {
        let segments = due(world(), epoch, 3, 6);
        let reports: Vec<Report> = reports
            .iter()
            .map(|(witness, segment, index, who, outcome)| {
                let outcome = [Pass, Absent, Silent, Silent][usize::from(*outcome)];
                let inventory = (*who == 3).then_some(3);
                let segment = segments[usize::try_from(*segment).unwrap()];
                let results = vec![(*index, *who, outcome)];
                Report { inventory, ..Report::new(*witness, segment, results) }
            })
            .collect();
        all.push(said(world(), &mut chains, epoch, &reports));
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn the_order_of_arrival_changes_nothing(epochs in any_epochs(), turn in 0..7_usize) {
        let said = all_said(&epochs);
        let fold = |turn: usize, is_reversed: bool| {
            let mut fold = Fold::new(rules(world()), Epoch(0));
            let mut events = Vec::new();
            for (epoch, said) in (0..).zip(&said) {
                let mut said = said.clone();
                said.rotate_left(turn);
                if is_reversed {
                    said.reverse();
                }
                let set = seal(world(), epoch, &said);
                events.extend(fold.fold(&world().sets, &set).unwrap());
            }
            (fold.checkpoint(), events)
        };
        prop_assert_eq!(fold(0, false), fold(turn, true));
    }

    #[test]
    fn a_checkpoint_in_between_changes_nothing(epochs in any_epochs(), at in 0..8_usize) {
        let said = all_said(&epochs);
        let mut whole = Fold::new(rules(world()), Epoch(0));
        let mut split = whole.clone();
        for (epoch, said) in (0..).zip(&said) {
            if epoch == at as u64 {
                split = Fold::restore(rules(world()), &split.checkpoint()).unwrap();
            }
            let set = seal(world(), epoch, said);
            let events = whole.fold(&world().sets, &set).unwrap();
            prop_assert_eq!(split.fold(&world().sets, &set).unwrap(), events);
        }
        prop_assert_eq!(split.checkpoint(), whole.checkpoint());
    }
}
