//! How a simulated node learns who can be reached: by the real prober, or in large
//! worlds by a model fitted to it.

mod model;
mod probing;

use echonet_archive::keeper::Presence;
use echonet_protocol::{identity::NodeId, machine::Millis, network::Timing};

use self::{model::Model, probing::Probing};
use super::{node::Out, setup::Setup};

/// See the module's documentation.
pub(super) enum Detector {
    /// Sends nothing.
    Model(Box<Model>),
    /// The node's own machine.
    Prober(Box<Probing>),
}

/// What a look at the others showed.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) changed: Vec<(usize, Presence)>,
    /// Whether this node rather than the others seems to be cut off, where that is news.
    pub(super) is_isolated: Option<bool>,
}

impl Detector {
    pub(super) fn model(timing: &Timing, seed: u64) -> Self {
        Self::Model(Box::new(Model::new(timing, seed)))
    }

    pub(super) fn prober(now: Millis, timing: &Timing, seed: u64) -> Self {
        Self::Prober(Box::new(Probing::new(now, timing, seed)))
    }

    pub(super) fn watch(&mut self, setup: &Setup, id: NodeId, now: Millis) {
        match self {
            Self::Model(model) => model.watch(setup.numbers[&id], now),
            Self::Prober(probing) => probing.watch(id, now),
        }
    }

    pub(super) fn unwatch(&mut self, setup: &Setup, id: NodeId, now: Millis) {
        match self {
            Self::Model(model) => model.unwatch(setup.numbers[&id]),
            Self::Prober(probing) => probing.unwatch(setup.numbers[&id], id, now),
        }
    }

    /// Somebody said something about it.
    pub(super) fn hint(&mut self, id: NodeId, now: Millis) {
        if let Self::Prober(probing) = self {
            probing.hint(id, now);
        }
    }

    /// It answered something else.
    pub(super) fn heard(&mut self, id: NodeId, now: Millis) {
        if let Self::Prober(probing) = self {
            probing.heard(id, now);
        }
    }

    /// Takes a node for gone because others say so: what must never be, for worlds with that
    /// defect.
    pub(super) fn believe(&mut self, setup: &Setup, id: NodeId, now: Millis) {
        if let (Self::Prober(probing), Some(number)) = (self, setup.numbers.get(&id)) {
            probing.believe(*number, now);
        }
    }

    /// It answered a probe.
    pub(super) fn answered(&mut self, setup: &Setup, number: usize, nonce: u64, now: Millis) {
        if let Self::Prober(probing) = self {
            probing.answered(setup, number, nonce, now);
        }
    }

    /// What own probes say of a node; none: nothing.
    pub(super) fn presence(&self, number: usize) -> Option<Presence> {
        match self {
            Self::Model(model) => model.presence(number),
            Self::Prober(probing) => probing.presence(number),
        }
    }

    pub(super) fn wake(&self) -> Option<Millis> {
        match self {
            Self::Model(model) => model.wake(),
            Self::Prober(probing) => probing.wake(),
        }
    }

    pub(super) fn look(&mut self, setup: &Setup, now: Millis, io: &mut Out<'_>) -> Seen {
        match self {
            Self::Model(model) => model.look(now, io),
            Self::Prober(probing) => probing.look(setup, now, io),
        }
    }
}
