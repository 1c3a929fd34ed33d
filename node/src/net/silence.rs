//! Who was asked something and has said nothing, and how long others take to answer.
//!
//! What is kept here ranks: a silent node is asked after others and not waited for. It never
//! refuses anybody, and forgets within seconds: a node that answers anything is heard again.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{address::NodeId, limits::SilenceLimits};

/// What is known of one node that does not answer.
#[derive(Debug, Default, Clone, Copy)]
struct Quiet {
    /// Questions that are open.
    open: usize,
    /// Since when: the oldest open question, or what was heard after it.
    since: Option<Instant>,
    /// When a question was given up, or a dial failed.
    failed: Option<Instant>,
}

#[derive(Debug, Default)]
struct State {
    nodes: HashMap<NodeId, Quiet>,
    /// Times of the latest answers, milliseconds.
    answers: VecDeque<u64>,
}

/// See the module's documentation. Shared by everything that asks other nodes.
#[derive(Debug)]
pub struct Silence {
    limits: SilenceLimits,
    state: Mutex<State>,
}

/// One open question. Dropping it means that it was given up.
#[derive(Debug)]
pub struct Question {
    silence: Arc<Silence>,
    node: NodeId,
    begun: Instant,
    is_answered: bool,
}

impl Silence {
    /// Nobody is silent yet.
    pub fn new(limits: SilenceLimits) -> Arc<Self> {
        Arc::new(Self { limits, state: Mutex::default() })
    }

    // Nothing panics while the lock is held, and what is kept only ranks.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a node is asked something that it answers at once.
    pub fn ask(self: &Arc<Self>, node: &NodeId, now: Instant) -> Question {
        let mut state = self.lock();
        state.make_room(self.limits.nodes_max, node);
        let quiet = state.nodes.entry(*node).or_default();
        quiet.open += 1;
        quiet.since.get_or_insert(now);
        Question { silence: Arc::clone(self), node: *node, begun: now, is_answered: false }
    }

    /// Notes that a node could not be dialled.
    pub fn failed(&self, node: &NodeId, now: Instant) {
        let mut state = self.lock();
        state.make_room(self.limits.nodes_max, node);
        state.nodes.entry(*node).or_default().failed = Some(now);
    }

    /// Whether a node has left a question open for longer than others take, or lately did.
    pub fn is_silent(&self, node: &NodeId, now: Instant) -> bool {
        let state = self.lock();
        let Some(quiet) = state.nodes.get(node) else { return false };
        let ago = |at: Instant| now.saturating_duration_since(at);
        let patience = Duration::from_millis(state.patience_ms(&self.limits));
        let forget = Duration::from_millis(self.limits.forget_ms);
        quiet.since.is_some_and(|since| ago(since) >= patience)
            || quiet.failed.is_some_and(|failed| ago(failed) < forget)
    }

    /// How long nearly all answers of late took, doubled, within bounds: who has said nothing for
    /// longer is late.
    pub fn patience_ms(&self) -> u64 {
        self.lock().patience_ms(&self.limits)
    }

    fn closed(&self, question: &Question, now: Instant) {
        let mut state = self.lock();
        let waited = now.saturating_duration_since(question.begun);
        let patience = Duration::from_millis(state.patience_ms(&self.limits));
        if question.is_answered {
            if state.answers.len() >= self.limits.answers_max {
                state.answers.pop_front();
            }
            state.answers.push_back(u64::try_from(waited.as_millis()).unwrap_or(u64::MAX));
        }
        let Some(quiet) = state.nodes.get_mut(&question.node) else { return };
        quiet.open = quiet.open.saturating_sub(1);
        if question.is_answered {
            // It is there: what else it was asked gets the full time again.
            (quiet.since, quiet.failed) = ((quiet.open > 0).then_some(now), None);
        } else {
            if waited >= patience && quiet.since.is_none_or(|since| since <= question.begun) {
                quiet.failed = Some(now);
            }
            if quiet.open == 0 {
                quiet.since = None;
            }
        }
        if quiet.open == 0 && quiet.failed.is_none() {
            state.nodes.remove(&question.node);
        }
    }
}

impl State {
    fn patience_ms(&self, limits: &SilenceLimits) -> u64 {
        let mut times: Vec<u64> = self.answers.iter().copied().collect();
        times.sort_unstable();
        // The 95th percentile.
        let usual = times.get((times.len() * 95 / 100).min(times.len().saturating_sub(1)));
        usual.map_or(limits.patience_ms_max, |ms| {
            ms.saturating_mul(2).clamp(limits.patience_ms_min, limits.patience_ms_max)
        })
    }

    /// Beyond the bound, who failed longest ago is forgotten, then anybody without a question.
    fn make_room(&mut self, max: usize, newcomer: &NodeId) {
        if self.nodes.len() < max || self.nodes.contains_key(newcomer) {
            return;
        }
        let idle = self.nodes.iter().filter(|(_, quiet)| quiet.open == 0);
        if let Some(oldest) = idle.min_by_key(|(_, quiet)| quiet.failed).map(|(node, _)| *node) {
            self.nodes.remove(&oldest);
        }
    }
}

impl Question {
    /// The node began to answer.
    pub fn answered(mut self) {
        self.is_answered = true;
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        self.silence.closed(self, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = [1; 32];
    const OTHER: NodeId = [2; 32];

    fn silence() -> Arc<Silence> {
        Silence::new(SilenceLimits {
            patience_ms_min: 100,
            patience_ms_max: 500,
            answers_max: 4,
            forget_ms: 10_000,
            nodes_max: 4,
        })
    }

    /// A time so many milliseconds ago: what a question that began then has waited by now.
    fn ago(ms: u64) -> Instant {
        Instant::now().checked_sub(Duration::from_millis(ms)).unwrap()
    }

    #[test]
    fn an_open_question_makes_silent_once_others_would_have_answered() {
        let silence = silence();
        let (begun, later) = (ago(0), |ms| Instant::now() + Duration::from_millis(ms));
        let question = silence.ask(&NODE, begun);
        assert!(!silence.is_silent(&NODE, later(300)));
        assert!(silence.is_silent(&NODE, later(501)));
        assert!(!silence.is_silent(&OTHER, later(501)));
        // Others answer quickly: the same silence says more.
        silence.ask(&OTHER, ago(1)).answered();
        assert_eq!(silence.patience_ms(), 100);
        assert!(silence.is_silent(&NODE, later(300)));
        question.answered();
        assert!(!silence.is_silent(&NODE, later(300)));
        assert!(silence.lock().nodes.is_empty());
    }

    #[test]
    fn a_question_given_up_early_says_nothing_and_late_is_remembered_for_a_while() {
        let silence = silence();
        drop(silence.ask(&NODE, ago(10)));
        assert!(!silence.is_silent(&NODE, Instant::now()));
        drop(silence.ask(&NODE, ago(600)));
        assert!(silence.is_silent(&NODE, Instant::now()));
        assert!(!silence.is_silent(&NODE, Instant::now() + Duration::from_millis(10_001)));
        silence.ask(&NODE, ago(1)).answered();
        assert!(!silence.is_silent(&NODE, Instant::now()));
    }

    #[test]
    fn who_answers_one_question_is_not_silent_for_the_others() {
        let silence = silence();
        let open = silence.ask(&NODE, ago(5_000));
        assert!(silence.is_silent(&NODE, Instant::now()));
        silence.ask(&NODE, ago(1)).answered();
        assert!(!silence.is_silent(&NODE, Instant::now()));
        drop(open);
        assert!(!silence.is_silent(&NODE, Instant::now()), "it was heard after that question");
    }

    #[test]
    fn slow_networks_get_more_patience_within_the_bound() {
        let silence = silence();
        assert_eq!(silence.patience_ms(), 500, "nothing is known yet");
        for waited in [10, 120] {
            silence.ask(&NODE, ago(waited)).answered();
        }
        let patience = silence.patience_ms();
        assert!((240..400).contains(&patience), "{patience}");
        for _ in 0..10 {
            silence.ask(&NODE, ago(3_000)).answered();
        }
        assert_eq!(silence.patience_ms(), 500);
        assert_eq!(silence.lock().answers.len(), 4);
    }

    #[test]
    fn the_memory_is_bounded_and_open_questions_stay() {
        let silence = silence();
        let _open = silence.ask(&NODE, ago(1_000));
        for i in 10..30 {
            silence.failed(&[i; 32], ago(u64::from(40 - i)));
        }
        assert_eq!(silence.lock().nodes.len(), 4);
        assert!(silence.is_silent(&NODE, Instant::now()));
        assert!(silence.is_silent(&[29; 32], Instant::now()));
    }
}
