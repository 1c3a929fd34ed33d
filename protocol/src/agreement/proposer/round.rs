//! One round of a proposer: the same question to many, and what came of it.

use std::collections::BTreeMap;

use crate::{identity::NodeId, machine::Millis};

/// Why a node does not go along; the first matters most.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Why {
    /// It is in a higher ballot.
    Higher,
    /// Another proposer has its turn.
    Held,
    /// It does not see it so.
    No(String),
    /// It does not answer.
    Silent,
}

/// How often one node is led up to a ballot, at most.
const LED_MAX: u32 = 1024;

/// Answers to one question.
#[derive(Debug)]
pub(super) struct Round<T> {
    /// Who was asked and did not answer yet; how often it was led on.
    open: BTreeMap<NodeId, u32>,
    accepted: BTreeMap<NodeId, T>,
    refused: BTreeMap<NodeId, Why>,
    needed: usize,
    deadline: Millis,
    /// When there were enough.
    enough_at: Option<Millis>,
}

impl<T> Round<T> {
    pub(super) fn new(asked: Vec<NodeId>, needed: usize, deadline: Millis) -> Self {
        Self {
            open: asked.into_iter().map(|node| (node, 0)).collect(),
            accepted: BTreeMap::new(),
            refused: BTreeMap::new(),
            needed,
            deadline,
            enough_at: None,
        }
    }

    pub(super) fn awaits(&self, node: &NodeId) -> bool {
        self.open.contains_key(node)
    }

    pub(super) fn accept(&mut self, node: NodeId, answer: T) {
        if self.open.remove(&node).is_some() {
            self.accepted.insert(node, answer);
        }
    }

    pub(super) fn refuse(&mut self, node: NodeId, why: Why) {
        if self.open.remove(&node).is_some() {
            self.refused.insert(node, why);
        }
    }

    /// Whether a node may be led on once more.
    pub(super) fn may_lead(&mut self, node: &NodeId) -> bool {
        let Some(led) = self.open.get_mut(node) else { return false };
        *led += 1;
        *led <= LED_MAX
    }

    pub(super) const fn accepted(&self) -> &BTreeMap<NodeId, T> {
        &self.accepted
    }

    pub(super) fn into_accepted(self) -> BTreeMap<NodeId, T> {
        self.accepted
    }

    pub(super) fn is_enough(&self) -> bool {
        self.accepted.len() >= self.needed
    }

    /// Whether nothing more is to come.
    pub(super) fn is_settled(&self, now: Millis) -> bool {
        self.open.is_empty() || now >= self.deadline
    }

    /// Whether there were enough for a while.
    pub(super) fn has_lingered(&self, now: Millis, linger_ms: u64) -> bool {
        self.enough_at.is_some_and(|at| now.since(at) >= linger_ms)
    }

    /// When there will have been enough for a while; never, if there are not.
    pub(super) fn lingers(&self, linger_ms: u64) -> Millis {
        self.enough_at.map_or(Millis(u64::MAX), |at| at.after(linger_ms))
    }

    pub(super) const fn deadline(&self) -> Millis {
        self.deadline
    }

    /// Why the round cannot succeed any more, with how many went along of how many
    /// needed; none while it can, or when it has.
    pub(super) fn verdict(&mut self, now: Millis) -> Option<(Why, usize, usize)> {
        if self.is_enough() {
            self.enough_at.get_or_insert(now);
            return None;
        }
        let open = if now >= self.deadline { 0 } else { self.open.len() };
        if self.accepted.len() + open >= self.needed {
            return None;
        }
        let why = self.refused.values().min().cloned().unwrap_or(Why::Silent);
        Some((why, self.accepted.len(), self.needed))
    }
}
