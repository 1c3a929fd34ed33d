//! Fetching a range of a segment whose holders do not answer: what waiting for them costs, and that
//! those who are slow are still used where they are needed.

use std::collections::{BTreeMap, BTreeSet};

use echonet_protocol::{
    fetch::{
        DecodeResult, FetchConfig, FetchInput, FetchOutput, FetchRequest, Holder, SegmentFetch,
    },
    identity::NodeId,
    machine::{Machine, Millis},
    segment::Scheme,
};

/// What a holder does once asked, in milliseconds from then.
#[derive(Debug, Clone, Copy, Default)]
struct Manner {
    /// Begins to answer.
    heard: Option<u64>,
    /// Has sent the range.
    done: Option<u64>,
    /// Is said to be silent.
    is_silent: bool,
}

const DEAD: Manner = Manner { heard: None, done: None, is_silent: false };
const QUICK: Manner = Manner { heard: Some(5), done: Some(20), is_silent: false };

/// When it was complete, and which indices were asked.
#[derive(Debug)]
struct Outcome {
    took_ms: Option<u64>,
    asked: BTreeSet<u8>,
}

fn node(index: u8) -> NodeId {
    NodeId([index + 1; 32])
}

const CONFIG: FetchConfig = FetchConfig {
    parallel_max: 10,
    attempt_timeout_ms: 2_500,
    hedge_after_ms: 500,
    first_word_ms: 100,
    deadline_ms: 8_000,
    total_max_ms: 600_000,
    retries_max: 1,
    backoff_ms: 200,
    subsets_max: 32,
    investigate: true,
};

fn run(scheme: Scheme, want: &[u8], manner: impl Fn(u8) -> Manner) -> Outcome {
    let holder = |i| vec![Holder { node: node(i), latency_ms: 10, is_silent: manner(i).is_silent }];
    let holders: BTreeMap<u8, Vec<Holder>> =
        (0..=u8::MAX).take(scheme.n()).map(|i| (i, holder(i))).collect();
    let want = want.iter().copied().collect();
    let request = FetchRequest { scheme, holders, want, seed: 1 };
    let mut now = Millis(0);
    let mut fetch = SegmentFetch::new(now, CONFIG, &request);
    let mut outcome = Outcome { took_ms: None, asked: BTreeSet::new() };
    let mut events = BTreeSet::<(Millis, bool, u8)>::new();
    for _step in 0..1_000 {
        while let Some(output) = fetch.poll() {
            match output {
                FetchOutput::Get { index, .. } => {
                    outcome.asked.insert(index);
                    let Manner { heard, done, .. } = manner(index);
                    events.extend(heard.map(|ms| (now.after(ms), false, index)));
                    events.extend(done.map(|ms| (now.after(ms), true, index)));
                }
                FetchOutput::Cancel { index, .. } => events.retain(|(.., i)| *i != index),
                FetchOutput::Decode { .. } => {
                    fetch.handle(now, FetchInput::Decoded(DecodeResult::Ok));
                }
                FetchOutput::Complete => {
                    outcome.took_ms = Some(now.0);
                    return outcome;
                }
                FetchOutput::Failed(_) => return outcome,
                other => panic!("{other:?} in an honest world"),
            }
        }
        let tick = fetch.timeout().expect("under way");
        let input = match events.first().copied().filter(|(at, ..)| *at <= tick) {
            Some(event @ (at, is_done, index)) => {
                events.remove(&event);
                now = at;
                let node = node(index);
                if is_done {
                    FetchInput::Got { index, node }
                } else {
                    FetchInput::Heard { index, node }
                }
            }
            None => {
                now = tick;
                FetchInput::Tick
            }
        };
        fetch.handle(now, input);
    }
    panic!("no end");
}

const ALL: [u8; 10] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];

#[test]
fn holders_known_to_be_silent_cost_no_waiting_and_are_not_asked() {
    for want in [&ALL[..], &[2], &[2, 3]] {
        let dead = |i: u8| i.is_multiple_of(2) && i < 12;
        let manner = |i| if dead(i) { Manner { is_silent: true, ..DEAD } } else { QUICK };
        let outcome = run(Scheme::DEFAULT, want, manner);
        assert_eq!(outcome.took_ms, Some(20), "{want:?}");
        assert!(!outcome.asked.iter().any(|i| dead(*i)), "{outcome:?}");
    }
}

#[test]
fn holders_that_say_nothing_are_replaced_after_the_first_word_time() {
    // The dead among the wanted, and then among those that replace them.
    let dead = [0, 1, 2, 3, 10, 11];
    let manner = |i| if dead.contains(&i) { DEAD } else { QUICK };
    let outcome = run(Scheme::DEFAULT, &ALL, manner);
    assert_eq!(outcome.took_ms, Some(2 * CONFIG.first_word_ms + 20), "{outcome:?}");
}

#[test]
fn a_slow_holder_that_began_to_answer_is_waited_for_as_before() {
    // 300 ms of round trip, and a range that takes its time: no competitor is asked.
    let far = Manner { heard: Some(90), done: Some(450), is_silent: false };
    let outcome = run(Scheme::DEFAULT, &ALL, |_| far);
    assert_eq!((outcome.took_ms, outcome.asked.len()), (Some(450), 10), "{outcome:?}");
    // One that began and hangs is replaced after the hedge time, not before.
    let hung = Manner { heard: Some(5), done: None, is_silent: false };
    let outcome = run(Scheme::DEFAULT, &ALL, |i| if i == 4 { hung } else { QUICK });
    assert_eq!(outcome.took_ms, Some(CONFIG.hedge_after_ms + 20), "{outcome:?}");
}

#[test]
fn silent_holders_are_used_where_the_others_are_too_few() {
    // Nine answer; the tenth must come from who was silent, at once.
    let slow = Manner { heard: Some(700), done: Some(900), is_silent: true };
    let outcome = run(Scheme::DEFAULT, &ALL, |i| if i < 7 { slow } else { QUICK });
    assert_eq!(outcome.took_ms, Some(900), "{outcome:?}");
    // All were silent: all that are wanted are asked at once, and their answers are taken.
    let outcome = run(Scheme::DEFAULT, &ALL, |_| slow);
    assert_eq!(outcome.took_ms, Some(900), "{outcome:?}");
    // Those that seemed fine go silent under way: the others get their chance.
    let back = Manner { is_silent: true, ..QUICK };
    let outcome = run(Scheme::DEFAULT, &ALL, |i| if i < 6 { DEAD } else { back });
    assert_eq!(outcome.took_ms, Some(20), "{outcome:?}");
}

#[test]
fn late_holders_take_no_place_of_others() {
    // Ten wanted ones hang, as many as may run at once; ten others have everything.
    let scheme = Scheme::new(10, 14).unwrap();
    let outcome = run(scheme, &ALL, |i| if i < 10 { DEAD } else { QUICK });
    assert_eq!(outcome.took_ms, Some(CONFIG.first_word_ms + 20), "{outcome:?}");
    assert!(outcome.asked.len() <= 20, "{outcome:?}");
}

#[test]
fn healthy_holders_are_not_competed_with() {
    for want in [&ALL[..], &[7]] {
        let outcome = run(Scheme::DEFAULT, want, |_| QUICK);
        assert_eq!(outcome.asked, want.iter().copied().collect(), "{outcome:?}");
    }
}
