//! The engine: computers with clocks of their own, a network between them, and
//! one queue of what happens next in virtual time. It knows nothing of what runs
//! on the computers, and draws everything from one seed.

use std::{cmp::Reverse, collections::BinaryHeap};

use echonet_protocol::{
    machine::{Draws, Millis},
    time::UnixSeconds,
};

use super::links::Links;

/// What runs on a computer.
pub(super) trait Node: Sized {
    /// What nodes send to one another.
    type Message: Clone;
    /// What a crash leaves.
    type Disk;
    /// What a node tells the judges.
    type Notice;

    /// Takes note of something at `now` on its own clock.
    fn handle(
        &mut self,
        now: Millis,
        input: Input<Self::Message>,
        io: &mut Io<'_, Self::Message, Self::Notice>,
    );

    /// When it wants a tick at the latest, on its own clock.
    fn wake(&self) -> Option<Millis>;

    /// The process ends here and now: of what was not yet durable the draws decide how much.
    fn crash(self, draws: &mut Draws) -> Self::Disk;
}

/// What happens to a node.
#[derive(Debug, Clone)]
pub(super) enum Input<M> {
    /// The process began.
    Start,
    /// A message came in; who sent it is certain, as on an authenticated connection.
    Message { from: usize, message: M },
    /// The writes up to this one are durable.
    Durable(u64),
    /// Time passed, or somebody wants something: see [`World::poke`].
    Tick,
}

/// A node's way out.
pub(super) struct Io<'a, M, T> {
    links: &'a Links,
    own: usize,
    unix: UnixSeconds,
    sends: Vec<(usize, M, u64)>,
    syncs: Vec<u64>,
    notices: Vec<T>,
}

impl<M, T> Io<'_, M, T> {
    /// Sends a message that takes `extra_ms` longer than the shortest.
    pub(super) fn send(&mut self, to: usize, message: M, extra_ms: u64) {
        self.sends.push((to, message, extra_ms));
    }

    /// Asks for a tick of [`Input::Durable`] once writes up to this one are durable.
    pub(super) fn sync(&mut self, write: u64) {
        self.syncs.push(write);
    }

    /// Tells the judges.
    pub(super) fn note(&mut self, notice: T) {
        self.notices.push(notice);
    }

    /// What the computer's clock on the wall shows.
    pub(super) const fn unix(&self) -> UnixSeconds {
        self.unix
    }

    /// The world's own time, which only a model of something else may look at.
    pub(super) const fn world_now(&self) -> Millis {
        self.links.now
    }

    /// Whether a question to this node would be answered now: what a fitted model of failure
    /// detection, and nothing else, may ask.
    pub(super) fn answers(&self, other: usize) -> bool {
        self.links.answers(self.own, other)
    }
}

/// A clock that is wrong and runs wrong.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    /// What it showed at the beginning of the world.
    pub(super) offset_ms: u64,
    /// Parts per million that it is too fast.
    pub(super) drift_ppm: i64,
    /// By how much the clock on the wall is ahead.
    pub(super) ahead_s: u64,
}

impl Clock {
    const MILLION: i128 = 1_000_000;
    /// When worlds begin.
    const UNIX: u64 = 1_800_000_000;

    fn unix(self, world: Millis) -> UnixSeconds {
        UnixSeconds(Self::UNIX + self.ahead_s + world.0 / 1000)
    }

    fn local(self, world: Millis) -> Millis {
        let rate = Self::MILLION + i128::from(self.drift_ppm);
        let passed = i128::from(world.0) * rate / Self::MILLION;
        Millis(self.offset_ms.saturating_add(u64::try_from(passed).unwrap_or(0)))
    }

    /// The first world time at which it shows at least `local`.
    fn world(self, local: Millis) -> Millis {
        let rate = Self::MILLION + i128::from(self.drift_ppm);
        let passed = i128::from(local.0.saturating_sub(self.offset_ms));
        let at = (passed * Self::MILLION + rate - 1) / rate;
        Millis(u64::try_from(at).unwrap_or(u64::MAX))
    }
}

struct Computer<N: Node> {
    node: Option<N>,
    /// One more with each process; what belonged to an earlier one is ignored.
    life: u32,
    clock: Clock,
    paused_until: Millis,
    /// Added to everything that it does.
    slow_ms: u64,
    /// How long a sync takes at most.
    sync_ms: u64,
    wake_at: Option<Millis>,
}

enum Happening<M> {
    Message { from: usize, to: usize, message: M },
    Durable { node: usize, life: u32, write: u64 },
    Wake { node: usize, life: u32 },
    Poke { node: usize },
    Call(usize),
}

impl<M> Happening<M> {
    const fn node(&self) -> Option<usize> {
        match self {
            Self::Message { to, .. } => Some(*to),
            Self::Durable { node, .. } | Self::Wake { node, .. } | Self::Poke { node } => {
                Some(*node)
            }
            Self::Call(_) => None,
        }
    }
}

struct Entry<M> {
    at: Millis,
    sequence: u64,
    happening: Happening<M>,
}

impl<M> PartialEq for Entry<M> {
    fn eq(&self, other: &Self) -> bool {
        self.sequence == other.sequence
    }
}

impl<M> Eq for Entry<M> {}

impl<M> PartialOrd for Entry<M> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<M> Ord for Entry<M> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

/// What a step was.
pub(super) enum Stepped {
    /// A node took something in.
    Node,
    /// What [`World::call_at`] asked for.
    Call(usize),
    /// Nothing of interest.
    Nothing,
}

/// All computers and what happens next.
pub(super) struct World<N: Node> {
    pub(super) now: Millis,
    pub(super) links: Links,
    pub(super) notices: Vec<(usize, N::Notice)>,
    /// How many things happened.
    pub(super) events: u64,
    computers: Vec<Computer<N>>,
    queue: BinaryHeap<Reverse<Entry<N::Message>>>,
    sequence: u64,
    draws: Draws,
}

impl<N: Node> World<N> {
    pub(super) fn new(seed: u64, links: Links) -> Self {
        Self {
            now: Millis(0),
            links,
            notices: Vec::new(),
            events: 0,
            computers: Vec::new(),
            queue: BinaryHeap::new(),
            sequence: 0,
            draws: Draws::new(seed),
        }
    }

    /// Adds a computer that is switched off; its number.
    pub(super) fn add(&mut self, clock: Clock, sync_ms: u64) -> usize {
        self.links.add();
        self.computers.push(Computer {
            node: None,
            life: 0,
            clock,
            paused_until: Millis(0),
            slow_ms: 0,
            sync_ms,
            wake_at: None,
        });
        self.computers.len() - 1
    }

    /// What its clock shows.
    pub(super) fn local(&self, number: usize) -> Millis {
        self.computers[number].clock.local(self.now)
    }

    pub(super) fn node(&self, number: usize) -> Option<&N> {
        self.computers[number].node.as_ref()
    }

    pub(super) fn node_mut(&mut self, number: usize) -> Option<&mut N> {
        self.computers[number].node.as_mut()
    }

    /// A process begins.
    pub(super) fn start(&mut self, number: usize, node: N) {
        let computer = &mut self.computers[number];
        assert!(computer.node.is_none(), "it runs already");
        computer.node = Some(node);
        computer.life += 1;
        computer.wake_at = None;
        computer.paused_until = Millis(0);
        self.links.set_up(number, true);
        self.put_in(number, Input::Start);
    }

    /// A process ends without warning.
    pub(super) fn crash(&mut self, number: usize) -> Option<N::Disk> {
        let node = self.computers[number].node.take()?;
        self.links.set_up(number, false);
        Some(node.crash(&mut self.draws))
    }

    /// It neither hears nor does anything until then.
    pub(super) fn pause(&mut self, number: usize, until: Millis) {
        self.computers[number].paused_until = until;
        self.links.set_paused(number, until);
    }

    /// All that it does takes longer.
    pub(super) fn slow(&mut self, number: usize, slow_ms: u64) {
        self.computers[number].slow_ms = slow_ms;
        self.links.set_slow(number, slow_ms > 0);
    }

    /// Has a node look around, now.
    pub(super) fn poke(&mut self, number: usize) {
        self.push(self.now, Happening::Poke { node: number });
    }

    /// Has [`Self::step`] return this at that time.
    pub(super) fn call_at(&mut self, at: Millis, call: usize) {
        self.push(at, Happening::Call(call));
    }

    fn push(&mut self, at: Millis, happening: Happening<N::Message>) {
        self.sequence += 1;
        self.queue.push(Reverse(Entry { at, sequence: self.sequence, happening }));
    }

    /// The next thing happens; none: nothing ever will.
    pub(super) fn step(&mut self) -> Option<Stepped> {
        let Reverse(Entry { at, happening, .. }) = self.queue.pop()?;
        self.now = self.now.max(at);
        self.links.now = self.now;
        self.events += 1;
        let Some(number) = happening.node() else {
            let Happening::Call(call) = happening else { return Some(Stepped::Nothing) };
            return Some(Stepped::Call(call));
        };
        let computer = &mut self.computers[number];
        if computer.node.is_none() {
            return Some(Stepped::Nothing);
        }
        if computer.paused_until > self.now {
            let until = computer.paused_until;
            self.push(until, happening);
            return Some(Stepped::Nothing);
        }
        let input = match happening {
            Happening::Message { from, message, .. } => Input::Message { from, message },
            Happening::Durable { life, write, .. } if life == computer.life => {
                Input::Durable(write)
            }
            Happening::Wake { life, .. } if life == computer.life => {
                if computer.wake_at.is_none_or(|at| at > self.now) {
                    return Some(Stepped::Nothing);
                }
                computer.wake_at = None;
                Input::Tick
            }
            Happening::Poke { .. } => Input::Tick,
            _ => return Some(Stepped::Nothing),
        };
        self.put_in(number, input);
        Some(Stepped::Node)
    }

    fn put_in(&mut self, number: usize, input: Input<N::Message>) {
        let computer = &mut self.computers[number];
        let Some(node) = computer.node.as_mut() else { return };
        let mut io = Io {
            links: &self.links,
            own: number,
            unix: computer.clock.unix(self.now),
            sends: Vec::new(),
            syncs: Vec::new(),
            notices: Vec::new(),
        };
        node.handle(computer.clock.local(self.now), input, &mut io);
        let Io { sends, syncs, notices, .. } = io;
        let wake = node.wake().map(|local| computer.clock.world(local).max(self.now.after(1)));
        let (life, slow_ms, sync_ms) = (computer.life, computer.slow_ms, computer.sync_ms);
        if let Some(at) = wake
            && computer.wake_at.is_none_or(|known| at < known)
        {
            computer.wake_at = Some(at);
            self.push(at, Happening::Wake { node: number, life });
        }
        for write in syncs {
            let at = self.now.after(1 + slow_ms + self.draws.below(sync_ms));
            self.push(at, Happening::Durable { node: number, life, write });
        }
        for (to, message, extra_ms) in sends {
            let copies = self.links.copies(number, to, &mut self.draws);
            for delay_ms in copies.into_iter().flatten() {
                let at = self.now.after(delay_ms + extra_ms + slow_ms);
                let message = message.clone();
                self.push(at, Happening::Message { from: number, to, message });
            }
        }
        self.notices.extend(notices.into_iter().map(|notice| (number, notice)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_that_are_wrong_wake_in_time() {
        for drift_ppm in [-10_000, 0, 137, 10_000] {
            let clock = Clock { offset_ms: 5_000, drift_ppm, ahead_s: 0 };
            for local in (5_000..2_000_000).step_by(997) {
                let at = clock.world(Millis(local));
                assert!(clock.local(at) >= Millis(local), "{drift_ppm} {local}");
                assert!(at.0 == 0 || clock.local(Millis(at.0 - 1)) < Millis(local));
            }
        }
    }
}
