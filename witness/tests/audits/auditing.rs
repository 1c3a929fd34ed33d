//! The auditor driven through an epoch: whom it asks, when, how often, and what it finds.

use std::collections::{BTreeMap, BTreeSet};

use echonet_protocol::{
    audit::{AuditChallenge, Outcome},
    data::rows::Rows,
    identity::{Identity, NodeId, Signed},
    machine::{Machine as _, Millis},
    segment::SegmentId,
};
use echonet_witness::{
    auditor::{AskId, Auditor, DuePlacement, EpochBegun, Found, Input, Output, reaudits},
    draw::{self, Rates},
    verdicts::{Chain, CheckedVerdict},
    verify::slice_hash,
};

use crate::rig::{Placed, Report, chains, due, holder, holder_of, say, world};

const START: Millis = Millis(10_000_000);
const EPOCH: u64 = 5;

/// Placed segments that are due in the epoch and the first member's turn.
fn placements(count: usize, holders: impl Fn(usize) -> Vec<Identity>) -> Vec<Placed> {
    let all = (0..).map(|n| world().placed(&format!("row {n}"), &holders(n)));
    let mine = all.filter(|placed| {
        let segment = placed.segment();
        world().is_due(EPOCH, &segment, 2500) && world().asker(EPOCH, &segment) == 0
    });
    mine.take(count).collect()
}

fn five(_: usize) -> Vec<Identity> {
    (0..5).map(holder).collect()
}

fn begun(placed: &[Placed]) -> EpochBegun {
    EpochBegun {
        beacon: world().beacon(EPOCH),
        started: START,
        members: world().members().to_vec(),
        due: placed.iter().map(|placed| DuePlacement::new(&placed.record, None)).collect(),
        inventories: BTreeSet::new(),
        excluded: BTreeSet::new(),
        held_bytes: BTreeMap::new(),
    }
}

fn auditor(member: usize) -> Auditor<Rows> {
    Auditor::new(world().witnesses[member].clone(), world().network, world().rates, Rows)
}

/// A question as it came out.
#[derive(Clone)]
struct Question {
    ask: AskId,
    holder: NodeId,
    challenge: Signed<AuditChallenge>,
    index: u8,
    at: Millis,
}

/// What an auditor did.
#[derive(Default)]
struct Done {
    asked: Vec<Question>,
    looks: Vec<(Vec<NodeId>, Signed<AuditChallenge>, u8)>,
    found: Vec<Found>,
    under_way_most: usize,
}

/// What a holder does with a question: the delay, and what it signs and sends.
type Behaviour<'a> = dyn Fn(&Question) -> Option<(u64, Option<Vec<u8>>)> + 'a;

/// Drives an auditor to the end of the epoch.
fn drive(auditor: &mut Auditor<Rows>, mut now: Millis, holders: &Behaviour<'_>) -> Done {
    let (mut done, mut answers, mut open) = (Done::default(), BTreeMap::new(), BTreeSet::new());
    loop {
        while let Some(output) = auditor.poll() {
            match output {
                Output::Ask { ask, holder, challenge, index, deadline } => {
                    assert_eq!(deadline, now.after(world().rates.deadline_ms()));
                    let question = Question { ask, holder, challenge, index, at: now };
                    if let Some((delay, slice)) = holders(&question) {
                        answers.insert((now.after(delay), ask.0), (question.clone(), slice));
                    }
                    open.insert((ask, deadline));
                    done.asked.push(question);
                }
                Output::Look { members, challenge, index } => {
                    done.looks.push((members, challenge, index));
                }
                Output::Found(found) => done.found.push(*found),
            }
        }
        open.retain(|(_, deadline)| *deadline > now);
        done.under_way_most = done.under_way_most.max(open.len());
        let answer = answers.keys().next().copied();
        let next = [auditor.timeout(), answer.map(|(at, _)| at)].into_iter().flatten().min();
        let Some(next) = next.filter(|next| *next < START.after(3_600_000)) else {
            auditor.handle(START.after(3_600_000), Input::Ended);
            while let Some(output) = auditor.poll() {
                if let Output::Found(found) = output {
                    done.found.push(*found);
                }
            }
            return done;
        };
        assert!(next >= now, "time goes on");
        now = next;
        let due_answer = answer.filter(|(at, _)| *at <= now).and_then(|key| answers.remove(&key));
        let Some((question, slice)) = due_answer else {
            auditor.handle(now, Input::Tick);
            continue;
        };
        open.retain(|(ask, _)| *ask != question.ask);
        auditor.handle(now, answered(&question, slice));
    }
}

fn answered(question: &Question, slice: Option<Vec<u8>>) -> Input {
    let by = holder_of(&question.holder);
    let hash = slice.as_deref().map(slice_hash);
    let answer = world().answer(&by, &question.challenge, question.index, hash);
    Input::Answered { ask: question.ask, answer: Box::new(answer), slice }
}

fn begin(auditor: &mut Auditor<Rows>, begun: EpochBegun) {
    auditor.handle(START, Input::Begun(Box::new(begun)));
}

/// The right slice for a question.
fn right(placed: &[Placed], question: &Question) -> Vec<u8> {
    let segment = question.challenge.body.segment;
    let placed = placed.iter().find(|placed| placed.segment() == segment).unwrap();
    placed.slice(question.index, draw::leaf(&question.challenge, 2500))
}

#[test]
fn an_honest_row_passes_at_its_time() {
    let placed = placements(3, five);
    let mut auditor = auditor(0);
    begin(&mut auditor, begun(&placed));
    let done = drive(&mut auditor, START, &|q| Some((40, Some(right(&placed, q)))));
    assert_eq!((done.asked.len(), done.found.len(), done.looks.len()), (15, 3, 0));
    for question in &done.asked {
        let segment = question.challenge.body.segment;
        let draw = draw::Draw::new(&world().beacon(EPOCH), &segment);
        assert!(question.at >= START.after(draw.asks_after_ms(&world().rates)));
        assert!(question.at < START.after(1_800_000));
        assert_eq!(question.challenge.body.witness, world().witnesses[0].node_id());
    }
    let mut chain = Chain::new(world().witnesses[0].clone(), world().network);
    for found in done.found {
        assert!(found.inconsistency.is_none() && found.slices.len() == 5);
        let verdict = CheckedVerdict::new(chain.push(found.finding), &world().network).unwrap();
        assert!(verdict.body().results.iter().all(|r| r.outcome == Outcome::Pass));
    }
}

#[test]
fn each_answer_gets_its_outcome() {
    let placed = placements(1, five);
    let mut auditor = auditor(0);
    begin(&mut auditor, begun(&placed));
    let done = drive(&mut auditor, START, &|q| match q.index {
        0 => Some((40, None)),
        1 => Some((40, Some(vec![7; 100]))),
        2 => None,
        // Just too late, both times.
        3 => Some((20_000, Some(right(&placed, q)))),
        _ => Some((19_999, Some(right(&placed, q)))),
    });
    let outcomes: Vec<Outcome> =
        done.found[0].finding.results.iter().map(|result| result.outcome).collect();
    use Outcome::{Absent, Pass, Silent, Wrong};
    assert_eq!(outcomes, [Absent, Wrong, Silent, Silent, Pass]);
    assert_eq!(done.asked.len(), 7, "a second try of those who were silent, and no third");
    let tries: Vec<Millis> =
        done.asked.iter().filter(|q| q.index == 2).map(|question| question.at).collect();
    assert_eq!(tries[1].since(tries[0]), 20_000, "when the first is given up");
    let looked: Vec<u8> = done.looks.iter().map(|(_, _, index)| *index).collect();
    assert_eq!(looked, [2, 3]);
    assert_eq!(done.looks[0].0.len(), 6, "the rest of the committee");
    let slices: Vec<u8> = done.found[0].slices.iter().map(|slice| slice.index).collect();
    assert_eq!(slices, [1, 4]);
}

#[test]
fn another_answer_than_the_one_asked_for_is_silence() {
    let placed = placements(2, five);
    let answer_for = |change: &dyn Fn(&mut Question, &mut Option<Vec<u8>>)| {
        let mut auditor = auditor(0);
        begin(&mut auditor, begun(&placed[..1]));
        let mut found = Vec::new();
        let mut now = START;
        while found.is_empty() {
            now = auditor.timeout().unwrap().max(now);
            auditor.handle(now, Input::Tick);
            let outputs: Vec<Output> = std::iter::from_fn(|| auditor.poll()).collect();
            for output in outputs {
                let Output::Ask { ask, holder, challenge, index, .. } = output else { continue };
                let question = Question { ask, holder, challenge, index, at: now };
                let mut slice = Some(right(&placed, &question));
                let mut answered_as = question.clone();
                change(&mut answered_as, &mut slice);
                auditor.handle(now, answered(&answered_as, slice));
            }
            while let Some(output) = auditor.poll() {
                if let Output::Found(row) = output {
                    found.push(*row);
                }
            }
        }
        found[0].finding.results[0].outcome
    };
    assert_eq!(answer_for(&|_, _| {}), Outcome::Pass);
    assert_eq!(answer_for(&|q, _| q.index += 1), Outcome::Silent, "another index");
    let other = world().challenge(1, EPOCH, placed[0].segment(), None);
    assert_eq!(answer_for(&|q, _| q.challenge = other.clone()), Outcome::Silent, "a replay");
    let next = world().challenge(0, EPOCH + 1, placed[0].segment(), None);
    assert_eq!(answer_for(&|q, _| q.challenge = next.clone()), Outcome::Silent, "another epoch's");
    let stranger = holder(9).node_id();
    assert_eq!(answer_for(&|q, _| q.holder = stranger), Outcome::Silent, "another holder's");
    assert_eq!(answer_for(&|_, slice| *slice = Some(vec![0; 1793])), Outcome::Silent, "too long");
}

#[test]
fn a_slice_that_is_not_the_one_signed_is_silence() {
    let placed = placements(1, five);
    let mut auditor = auditor(0);
    begin(&mut auditor, begun(&placed));
    let mut now = START;
    for _ in 0..2 {
        now = auditor.timeout().unwrap_or(now).max(now);
        auditor.handle(now, Input::Tick);
        let outputs: Vec<Output> = std::iter::from_fn(|| auditor.poll()).collect();
        for output in outputs {
            let Output::Ask { ask, holder, challenge, index, .. } = output else { continue };
            let question = Question { ask, holder, challenge, index, at: now };
            let Input::Answered { ask, answer, slice } =
                answered(&question, Some(right(&placed, &question)))
            else {
                unreachable!()
            };
            let slice = slice.map(|mut slice| {
                slice[0] ^= 1;
                slice
            });
            // Nothing at all is no answer either.
            let slice = slice.filter(|_| index > 0);
            auditor.handle(now, Input::Answered { ask, answer, slice });
        }
    }
    auditor.handle(now, Input::Ended);
    let found = std::iter::from_fn(|| auditor.poll()).find_map(|output| match output {
        Output::Found(found) => Some(found),
        _ => None,
    });
    let found = found.unwrap();
    assert!(found.finding.results.iter().all(|r| r.outcome == Outcome::Silent));
    assert!(found.slices.is_empty());
}

#[test]
fn no_more_is_under_way_than_allowed() {
    // All placements have holder 0; the others differ.
    let holders = |n: usize| [0].into_iter().chain(4 * n + 1..4 * n + 5).map(holder).collect();
    let placed = placements(30, holders);
    let mut begun = begun(&placed);
    // Everything at once: the auditor hears of the epoch when half of it is over.
    begun.started = Millis(START.0 - 1_800_000);
    begun.held_bytes = BTreeMap::from([(holder(0).node_id(), u64::MAX)]);
    let mut auditor = auditor(0);
    begin(&mut auditor, begun);
    let mut by_holder: BTreeMap<NodeId, usize> = BTreeMap::new();
    while let Some(output) = auditor.poll() {
        if let Output::Ask { holder, .. } = output {
            *by_holder.entry(holder).or_default() += 1;
        }
    }
    assert_eq!(by_holder.values().sum::<usize>(), 64);
    assert_eq!(by_holder[&holder(0).node_id()], 4);
    let done = drive(&mut auditor, START, &|q| Some((40, Some(right(&placed, q)))));
    assert!(done.under_way_most <= 64);
    assert_eq!(
        done.asked.len() + 64,
        30 * 5 + 64,
        "those 64 were never answered and are asked again"
    );
    assert_eq!(done.found.len(), 30);
}

#[test]
fn a_budget_leaves_out_the_highest_draws() {
    let placed = placements(40, five);
    let mut auditor = auditor(0);
    begin(&mut auditor, begun(&placed));
    let done = drive(&mut auditor, START, &|q| Some((40, Some(right(&placed, q)))));
    let asked: BTreeSet<SegmentId> =
        done.asked.iter().map(|question| question.challenge.body.segment).collect();
    let order = |segment: &SegmentId| draw::Draw::new(&world().beacon(EPOCH), segment).by_segment;
    let mut all: Vec<SegmentId> = placed.iter().map(Placed::segment).collect();
    all.sort_by_key(order);
    assert_eq!(asked, all[..32].iter().copied().collect());
}

#[test]
fn some_holders_are_left_to_others() {
    let placed = placements(2, five);
    let mut begun = begun(&placed);
    begun.excluded = BTreeSet::from([holder(1).node_id(), holder(4).node_id()]);
    let mut auditor = auditor(0);
    begin(&mut auditor, begun);
    let done = drive(&mut auditor, START, &|q| Some((40, Some(right(&placed, q)))));
    let indices: BTreeSet<u8> = done.asked.iter().map(|question| question.index).collect();
    assert_eq!(indices, BTreeSet::from([0, 2, 3]));
}

#[test]
fn an_inventory_asks_one_holder_and_needs_to_be_due() {
    let placed = world().placed("an inventory", &five(0));
    let node = holder(2).node_id();
    let asker = world().asker(EPOCH, &placed.segment());
    let run = |inventories: BTreeSet<NodeId>| {
        let mut begun = begun(&[]);
        begun.due = vec![DuePlacement::new(&placed.record, Some(node))];
        begun.inventories = inventories;
        let mut auditor = auditor(asker);
        begin(&mut auditor, begun);
        drive(&mut auditor, START, &|q| Some((40, Some(right(std::slice::from_ref(&placed), q)))))
    };
    let done = run(BTreeSet::from([node]));
    assert_eq!(done.asked.len(), 1);
    assert_eq!(done.asked[0].challenge.body.inventory, Some(node));
    assert_eq!(done.found[0].finding.results[0].holder, node);
    assert!(run(BTreeSet::new()).asked.is_empty());
}

#[test]
fn a_looker_asks_by_itself_if_the_asker_had_the_turn() {
    let placed = placements(1, five);
    let committee = world().committee(EPOCH, &placed[0].segment());
    let look = |member: usize, asker: usize, epoch: u64, index: u8| {
        let mut auditor = auditor(member);
        begin(&mut auditor, begun(&[]));
        let challenge = world().challenge(asker, epoch, placed[0].segment(), None);
        let placement = DuePlacement::new(&placed[0].record, None);
        for _ in 0..2 {
            auditor.handle(
                START,
                Input::Look {
                    challenge: Box::new(challenge.clone()),
                    index,
                    placement: Box::new(placement.clone()),
                },
            );
        }
        drive(&mut auditor, START, &|_| None)
    };
    let done = look(committee[1], committee[0], EPOCH, 3);
    assert_eq!(done.asked.len(), 2, "asked twice in all, however often it is told");
    assert_eq!(done.asked[0].challenge.body.witness, world().witnesses[committee[1]].node_id());
    assert!(done.looks.is_empty(), "a look has no looks");
    let results = &done.found[0].finding.results;
    assert_eq!((results.len(), results[0].index, results[0].outcome), (1, 3, Outcome::Silent));
    assert!(look(committee[2], committee[1], EPOCH, 3).asked.is_empty(), "not the asker");
    assert!(look(committee[1], committee[0], EPOCH + 1, 3).asked.is_empty(), "another epoch");
    assert!(look(committee[1], committee[0], EPOCH, 9).asked.is_empty(), "no such shard");
    assert!(look(committee[0], committee[0], EPOCH, 3).asked.is_empty(), "itself");
}

#[test]
fn a_row_that_is_no_codeword_is_reported_and_blames_no_holder() {
    let mut shards = placements(1, five).remove(0).shards;
    let mut asker = 0;
    // All three leaves of a parity shard, so that any row shows it.
    let bad = (0..=255_u8).find_map(|salt| {
        for leaf in 0..3 {
            shards[4][leaf * 1024] = shards[4][leaf * 1024].wrapping_add(1);
        }
        shards[4][7] ^= salt;
        let bad = world().place(shards.clone(), &five(0));
        asker = world().asker(EPOCH, &bad.segment());
        world().is_due(EPOCH, &bad.segment(), 2500).then_some(bad)
    });
    let bad = [bad.unwrap()];
    let mut auditor = auditor(asker);
    begin(&mut auditor, begun(&bad));
    let done = drive(&mut auditor, START, &|q| Some((40, Some(right(&bad, q)))));
    assert!(done.found[0].inconsistency.is_some());
    assert!(done.found[0].finding.results.iter().all(|r| r.outcome == Outcome::Pass));
}

#[test]
fn an_epoch_that_ends_blames_nobody_for_what_is_under_way() {
    let placed = placements(1, five);
    let mut auditor = auditor(0);
    begin(&mut auditor, begun(&placed));
    let at = auditor.timeout().unwrap();
    auditor.handle(at, Input::Tick);
    let mut asked = Vec::new();
    while let Some(output) = auditor.poll() {
        if let Output::Ask { ask, holder, challenge, index, .. } = output {
            asked.push(Question { ask, holder, challenge, index, at });
        }
    }
    let slice = right(&placed, &asked[2]);
    auditor.handle(at, answered(&asked[2], Some(slice)));
    auditor.handle(at, Input::Ended);
    let Some(Output::Found(found)) = auditor.poll() else { panic!("nothing found") };
    assert_eq!(found.finding.results.len(), 1);
    assert_eq!(auditor.timeout(), None);
    // What comes later is about things that are over.
    let slice = right(&placed, &asked[0]);
    auditor.handle(at, answered(&asked[0], Some(slice)));
    assert!(auditor.poll().is_none());
}

#[test]
fn reaudits_are_the_second_members() {
    let segments = due(world(), EPOCH, 0, 200);
    let mut chain = chains(world()).remove(0);
    let verdicts: Vec<_> = segments
        .iter()
        .map(|s| say(world(), &mut chain, EPOCH, &Report::new(0, *s, vec![(0, 0, Outcome::Pass)])))
        .collect();
    let (before, beacon, rates): (_, _, Rates) =
        (world().beacon(EPOCH), world().beacon(EPOCH + 1), world().rates);
    let mut all = BTreeSet::new();
    for member in 0..7 {
        let me = world().members()[member];
        for hash in reaudits(&me, &rates, &beacon, &before, world().members(), &verdicts) {
            let verdict = verdicts.iter().find(|verdict| verdict.hash() == hash).unwrap();
            assert_eq!(world().committee(EPOCH, &verdict.body.challenge.segment)[1], member);
            assert!(all.insert(hash), "one member's");
        }
    }
    let drawn = verdicts.iter().filter(|v| draw::is_reaudited(&beacon, &v.hash())).count();
    assert_eq!(all.len(), drawn);
    assert!((3..30).contains(&drawn), "{drawn}");
}
