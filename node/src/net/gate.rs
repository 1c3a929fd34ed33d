//! Counts live connections by peer and observed prefix, and refuses the next one early.
//!
//! A [`ConnectionGate`] belongs to one protocol and is asked after the handshake, when the node id
//! is known; [`incoming_filter`] looks at all gates and at handshake rates before it. Neither ever
//! closes a connection that was admitted.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter};
use iroh::{
    TransportAddr,
    endpoint::{Connection, Incoming},
    protocol::{IncomingFilter, IncomingFilterOutcome},
};

use super::{
    address::{NodeId, ObservedPrefix, prefix_of},
    limits::{ConnectionLimits, HandshakeLimits},
};

/// Who is at the other end of an accepted connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerInfo {
    /// Proven by the TLS handshake.
    pub node_id: NodeId,
    /// Where packets come from: the peer's own address or its relay.
    pub remote: Option<TransportAddr>,
    /// Prefix of `remote`; all zero when nothing was observed.
    pub prefix: ObservedPrefix,
    /// Unique among the connections that are alive now.
    pub connection_id: usize,
}

impl PeerInfo {
    /// What is known of an established connection's peer.
    pub fn observe(connection: &Connection) -> Self {
        let paths = connection.paths();
        let chosen = paths.iter().find(|path| path.is_selected()).or_else(|| paths.iter().next());
        let remote = chosen.map(|path| path.remote_addr().clone());
        Self {
            node_id: *connection.remote_id().as_bytes(),
            prefix: remote.as_ref().map_or([0; 16], prefix_of),
            remote,
            connection_id: connection.stable_id(),
        }
    }
}

/// Why a connection or a request was refused. The codes are part of the protocol: they travel as
/// QUIC application error codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The node has no room for anyone.
    #[error("this node serves too many connections; try another one")]
    TooManyConnections,
    /// The peer has too many connections.
    #[error("you have too many connections to this node; reuse them")]
    TooManyFromPeer,
    /// The peer's network has too many connections.
    #[error("your network has too many connections to this node; wait for one to close")]
    TooManyFromPrefix,
    /// The peer has too many requests open.
    #[error("you have too many requests open; wait for answers")]
    TooManyRequests,
    /// The node serves too many requests.
    #[error("this node is busy; try again later or try another one")]
    Busy,
    /// The peer asks too often.
    #[error("you ask too often; slow down")]
    TooFast,
    /// No request for long.
    #[error("idle; connect again when needed")]
    Idle,
    /// Refusals were ignored too often.
    #[error("refused too often in a row; closing")]
    Ignored,
}

impl Refusal {
    /// The QUIC application error code.
    pub const fn code(self) -> u32 {
        match self {
            Self::Idle => 0x100,
            Self::TooManyConnections => 0x101,
            Self::TooManyFromPeer => 0x102,
            Self::TooManyFromPrefix => 0x103,
            Self::TooManyRequests => 0x104,
            Self::Busy => 0x105,
            Self::TooFast => 0x106,
            Self::Ignored => 0x107,
        }
    }

    /// Closes the connection with this code and text.
    pub fn close(self, connection: &Connection) {
        connection.close(self.code().into(), self.to_string().as_bytes());
    }
}

#[derive(Debug, Default)]
struct Counts {
    total: usize,
    by_peer: HashMap<NodeId, usize>,
    by_prefix: HashMap<ObservedPrefix, usize>,
}

/// Counts the live connections of one protocol against its limits.
#[derive(Debug)]
pub struct ConnectionGate {
    limits: ConnectionLimits,
    counts: Mutex<Counts>,
}

/// Proof of admission; dropping it gives the place back.
#[derive(Debug)]
pub struct Admission {
    gate: Arc<ConnectionGate>,
    peer: NodeId,
    prefix: Option<ObservedPrefix>,
}

impl ConnectionGate {
    /// A gate with nothing admitted.
    pub fn new(limits: ConnectionLimits) -> Arc<Self> {
        Arc::new(Self { limits, counts: Mutex::default() })
    }

    // Counts are only changed in steps that cannot panic.
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Admits an accepted connection.
    ///
    /// # Errors
    /// The [`Refusal`] to tell the peer.
    pub fn admit(
        self: &Arc<Self>,
        peer: NodeId,
        prefix: ObservedPrefix,
    ) -> Result<Admission, Refusal> {
        let mut counts = self.lock();
        if counts.total >= self.limits.total_max {
            return Err(Refusal::TooManyConnections);
        }
        if counts.by_peer.get(&peer).copied().unwrap_or(0) >= self.limits.per_peer_max {
            return Err(Refusal::TooManyFromPeer);
        }
        if counts.by_prefix.get(&prefix).copied().unwrap_or(0) >= self.limits.per_prefix_max {
            return Err(Refusal::TooManyFromPrefix);
        }
        counts.total += 1;
        *counts.by_peer.entry(peer).or_default() += 1;
        *counts.by_prefix.entry(prefix).or_default() += 1;
        Ok(Admission { gate: Arc::clone(self), peer, prefix: Some(prefix) })
    }

    /// Admits a connection that this node dialled: only the total counts, the choice was ours.
    ///
    /// # Errors
    /// [`Refusal::TooManyConnections`].
    pub fn admit_own(self: &Arc<Self>, peer: NodeId) -> Result<Admission, Refusal> {
        let mut counts = self.lock();
        if counts.total >= self.limits.total_max {
            return Err(Refusal::TooManyConnections);
        }
        counts.total += 1;
        Ok(Admission { gate: Arc::clone(self), peer, prefix: None })
    }

    /// Live connections.
    pub fn live(&self) -> usize {
        self.lock().total
    }

    /// The most that are admitted.
    pub fn total_max(&self) -> usize {
        self.limits.total_max
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut counts = self.gate.lock();
        counts.total = counts.total.saturating_sub(1);
        let Some(prefix) = self.prefix else { return };
        decrement(&mut counts.by_peer, &self.peer);
        decrement(&mut counts.by_prefix, &prefix);
    }
}

fn decrement<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

/// Handshake rates, in total and by prefix.
struct Rates {
    total: DefaultDirectRateLimiter,
    by_prefix: DefaultKeyedRateLimiter<ObservedPrefix>,
    prefixes_max: usize,
}

impl Rates {
    fn new(limits: &HandshakeLimits) -> Self {
        Self {
            total: RateLimiter::direct(per_second(limits.total_per_s_max)),
            by_prefix: RateLimiter::keyed(per_second(limits.per_prefix_per_s_max)),
            prefixes_max: limits.prefixes_max,
        }
    }

    fn allow(&self, prefix: &ObservedPrefix) -> bool {
        if self.by_prefix.len() > self.prefixes_max {
            self.by_prefix.retain_recent();
        }
        self.by_prefix.len() <= self.prefixes_max
            && self.by_prefix.check_key(prefix).is_ok()
            && self.total.check().is_ok()
    }
}

struct HandshakeGate {
    gates: Vec<Arc<ConnectionGate>>,
    /// Sources that proved their address have a budget of their own: packets with forged
    /// addresses spend the other one, and a Retry leads from there to here.
    proven: Rates,
    unproven: Rates,
}

impl HandshakeGate {
    fn judge(&self, incoming: &Incoming) -> IncomingFilterOutcome {
        let live: usize = self.gates.iter().map(|gate| gate.live()).sum();
        let max: usize = self.gates.iter().map(|gate| gate.total_max()).sum();
        if live >= max {
            return IncomingFilterOutcome::Reject;
        }
        let prefix = prefix_of(&TransportAddr::from(incoming.remote_addr()));
        if incoming.remote_addr_validated() {
            return match self.proven.allow(&prefix) {
                true => IncomingFilterOutcome::Accept,
                false => IncomingFilterOutcome::Ignore,
            };
        }
        let busy = live >= max / 2;
        if busy || !self.unproven.allow(&prefix) {
            return IncomingFilterOutcome::Retry;
        }
        IncomingFilterOutcome::Accept
    }
}

fn per_second(rate: u32) -> Quota {
    Quota::per_second(NonZeroU32::new(rate).unwrap_or(NonZeroU32::MIN))
}

/// The filter for `RouterBuilder::incoming_filter`: refuses when all protocols together are full,
/// and slows down sources that start handshakes too fast, before any cryptography is done.
pub fn incoming_filter(
    gates: Vec<Arc<ConnectionGate>>,
    limits: &HandshakeLimits,
) -> IncomingFilter {
    let (proven, unproven) = (Rates::new(limits), Rates::new(limits));
    let gate = HandshakeGate { gates, proven, unproven };
    Arc::new(move |incoming| gate.judge(incoming))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate() -> Arc<ConnectionGate> {
        ConnectionGate::new(ConnectionLimits { total_max: 4, per_peer_max: 2, per_prefix_max: 3 })
    }

    #[test]
    fn each_bound_refuses_with_its_own_reason_and_places_come_back() {
        let gate = gate();
        let a1 = gate.admit([1; 32], [1; 16]).unwrap();
        let _a2 = gate.admit([1; 32], [1; 16]).unwrap();
        assert_eq!(gate.admit([1; 32], [2; 16]).unwrap_err(), Refusal::TooManyFromPeer);
        let _b = gate.admit([2; 32], [1; 16]).unwrap();
        assert_eq!(gate.admit([3; 32], [1; 16]).unwrap_err(), Refusal::TooManyFromPrefix);
        let _c = gate.admit([3; 32], [2; 16]).unwrap();
        assert_eq!(gate.admit([4; 32], [3; 16]).unwrap_err(), Refusal::TooManyConnections);
        drop(a1);
        let _a3 = gate.admit([1; 32], [1; 16]).unwrap();
        assert_eq!(gate.live(), 4);
    }

    #[test]
    fn counts_do_not_outlive_connections() {
        let gate = gate();
        for i in 0..100u8 {
            drop(gate.admit([i; 32], [i; 16]).unwrap());
            drop(gate.admit_own([i; 32]).unwrap());
        }
        let counts = gate.lock();
        assert_eq!((counts.total, counts.by_peer.len(), counts.by_prefix.len()), (0, 0, 0));
    }
}
