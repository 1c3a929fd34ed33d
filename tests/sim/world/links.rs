//! The network between the computers: latency, loss, duplication, reordering and
//! partitions. Messages between two that are cut off from one another are lost.
//! It remembers since when nothing disturbs whom, for the judges.

use echonet_protocol::machine::{Draws, Millis};

/// How bad the network is at its best.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Weather {
    /// Shortest way, milliseconds.
    pub(super) latency_ms: u64,
    /// Drawn evenly on top of it for each message, so that they overtake one another.
    pub(super) jitter_ms: u64,
    /// Of a thousand messages so many are lost.
    pub(super) loss_permille: u64,
    /// Of a thousand so many arrive twice.
    pub(super) twice_permille: u64,
    /// Of a thousand so many come very late.
    pub(super) late_permille: u64,
}

/// How late those come, at most.
const LATE_MS_MAX: u64 = 8_000;

/// A cut between two groups.
#[derive(Debug, Clone)]
pub(super) struct Cut {
    /// Its number, to be mended by.
    pub(super) number: usize,
    /// Of each computer, whether it is on the far side.
    pub(super) far: Vec<bool>,
    /// Whether messages from the far side still come through.
    pub(super) is_one_way: bool,
}

/// All links.
#[derive(Debug)]
pub(super) struct Links {
    pub(super) now: Millis,
    usual: Weather,
    weather: Weather,
    cuts: Vec<Cut>,
    is_up: Vec<bool>,
    is_slow: Vec<bool>,
    paused_until: Vec<Millis>,
    /// When something about all links, or about one computer, last changed.
    changed: Millis,
    disturbed: Vec<Millis>,
}

impl Links {
    pub(super) const fn new(weather: Weather) -> Self {
        Self {
            now: Millis(0),
            usual: weather,
            weather,
            cuts: Vec::new(),
            is_up: Vec::new(),
            is_slow: Vec::new(),
            paused_until: Vec::new(),
            changed: Millis(0),
            disturbed: Vec::new(),
        }
    }

    pub(super) fn add(&mut self) {
        self.is_up.push(false);
        self.is_slow.push(false);
        self.paused_until.push(Millis(0));
        self.disturbed.push(Millis(0));
    }

    pub(super) fn set_up(&mut self, number: usize, is_up: bool) {
        self.is_up[number] = is_up;
        self.paused_until[number] = Millis(0);
        self.disturbed[number] = self.now;
    }

    pub(super) fn set_slow(&mut self, number: usize, is_slow: bool) {
        self.is_slow[number] = is_slow;
        self.disturbed[number] = self.now;
    }

    pub(super) fn set_paused(&mut self, number: usize, until: Millis) {
        self.paused_until[number] = until;
        self.disturbed[number] = self.now.max(until);
    }

    /// None: as it usually is.
    pub(super) fn set_weather(&mut self, weather: Option<Weather>) {
        self.weather = weather.unwrap_or(self.usual);
        self.changed = self.now;
    }

    pub(super) fn cut(&mut self, cut: Cut) {
        self.cuts.push(cut);
        self.changed = self.now;
    }

    pub(super) fn mend(&mut self, number: usize) {
        self.cuts.retain(|cut| cut.number != number);
        self.changed = self.now;
    }

    /// Whether every message to and from a computer came through, in good time, for so long.
    pub(super) fn is_settled(&self, number: usize, for_ms: u64) -> bool {
        let is_over = |at: Millis| at <= self.now && self.now.since(at) >= for_ms;
        let Weather { loss_permille, late_permille, .. } = self.usual;
        let is_fair = self.weather == self.usual && (loss_permille, late_permille) == (0, 0);
        is_fair
            && self.cuts.is_empty()
            && self.is_up[number]
            && !self.is_slow[number]
            && is_over(self.changed)
            && is_over(self.disturbed[number])
    }

    /// Whether a computer runs and is on the near side of every cut.
    pub(super) fn is_live(&self, number: usize) -> bool {
        let is_far = |cut: &Cut| cut.far.get(number).copied().unwrap_or(false);
        self.is_up[number] && self.paused_until[number] <= self.now && !self.cuts.iter().any(is_far)
    }

    /// Whether a message gets through at all.
    fn connects(&self, from: usize, to: usize) -> bool {
        let is_far = |cut: &Cut, number: usize| cut.far.get(number).copied().unwrap_or(false);
        !self.cuts.iter().any(|cut| {
            let (from, to) = (is_far(cut, from), is_far(cut, to));
            from != to && !(cut.is_one_way && from)
        })
    }

    /// Whether a question from one to the other would be answered now.
    pub(super) fn answers(&self, from: usize, to: usize) -> bool {
        self.is_up[to]
            && self.paused_until[to] <= self.now
            && self.connects(from, to)
            && self.connects(to, from)
    }

    /// When the copies of a message arrive, from now, milliseconds.
    pub(super) fn copies(&self, from: usize, to: usize, draws: &mut Draws) -> [Option<u64>; 2] {
        let Weather { latency_ms, jitter_ms, loss_permille, twice_permille, late_permille } =
            self.weather;
        if !self.connects(from, to) || draws.below(1000) < loss_permille {
            return [None, None];
        }
        let delay_ms = |draws: &mut Draws| {
            let late = draws.below(1000) < late_permille;
            1 + latency_ms
                + draws.below(jitter_ms)
                + if late { draws.below(LATE_MS_MAX) } else { 0 }
        };
        let first = Some(delay_ms(draws));
        let second = (draws.below(1000) < twice_permille).then(|| delay_ms(draws));
        [first, second]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALM: Weather = Weather {
        latency_ms: 5,
        jitter_ms: 1,
        loss_permille: 0,
        twice_permille: 0,
        late_permille: 0,
    };

    #[test]
    fn one_way_cuts_let_the_far_side_speak() {
        let mut links = Links::new(CALM);
        (0..3).for_each(|_| links.add());
        (0..3).for_each(|number| links.set_up(number, true));
        let far = vec![false, false, true];
        links.cut(Cut { number: 7, far, is_one_way: true });
        let mut draws = Draws::new(1);
        assert_eq!(links.copies(0, 2, &mut draws), [None, None]);
        assert_eq!(links.copies(2, 0, &mut draws), [Some(6), None]);
        assert!(!links.answers(2, 0) && !links.answers(0, 2) && links.answers(0, 1));
        links.mend(7);
        assert!(links.answers(0, 2));
        links.set_up(2, false);
        assert!(!links.answers(0, 2));
    }

    #[test]
    fn who_was_disturbed_is_not_settled_for_a_while() {
        let mut links = Links::new(CALM);
        (0..2).for_each(|_| links.add());
        (0..2).for_each(|number| links.set_up(number, true));
        let settled = |links: &Links| [0, 1].map(|number| links.is_settled(number, 100));
        links.now = Millis(100);
        assert_eq!(settled(&links), [true, true]);
        links.set_slow(0, true);
        links.set_paused(1, Millis(150));
        links.now = Millis(240);
        assert_eq!(settled(&links), [false, false], "slow, and just awake");
        links.now = Millis(250);
        assert_eq!(settled(&links), [false, true]);
        links.set_weather(Some(Weather { loss_permille: 1, ..CALM }));
        links.now = Millis(900);
        assert_eq!(settled(&links), [false, false]);
        links.set_weather(None);
        links.set_slow(0, false);
        links.now = Millis(1_000);
        assert_eq!(settled(&links), [true, true]);
        links.cut(Cut { number: 1, far: vec![false; 2], is_one_way: false });
        links.now = Millis(2_000);
        assert_eq!(settled(&links), [false, false]);
        links.set_up(0, false);
        links.mend(1);
        links.now = Millis(3_000);
        assert_eq!(settled(&links), [false, true]);
    }

    #[test]
    fn loss_and_copies_are_as_often_as_said() {
        let mut links = Links::new(Weather { loss_permille: 100, twice_permille: 200, ..CALM });
        (0..2).for_each(|_| links.add());
        let mut draws = Draws::new(3);
        let all: Vec<_> = (0..10_000).map(|_| links.copies(0, 1, &mut draws)).collect();
        let lost = all.iter().filter(|c| c[0].is_none()).count();
        let twice = all.iter().filter(|c| c[1].is_some()).count();
        assert!((800..1200).contains(&lost) && (1600..2000).contains(&twice), "{lost} {twice}");
    }
}
