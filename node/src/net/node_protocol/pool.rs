//! The client side of `/echonet/node/1`: one connection per peer, reused, bounded.
//!
//! Concurrent callers for one peer share one dial. It never closes a connection that somebody
//! still uses: letting one go only drops the pool's own handle.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use iroh::endpoint::Connection;
use tokio::sync::{OwnedMutexGuard, Semaphore};
use tokio_util::task::AbortOnDropHandle;

use super::{
    ALPN,
    frame::FrameError,
    stream::{NodeStream, StreamError},
};
use crate::net::{
    address::{NodeAddr, NodeId},
    endpoint::{DialError, NodeEndpoint},
    limits::{PoolLimits, REQUEST_BYTES_MAX, SilenceLimits},
    silence::Silence,
};

/// Why a request got no response.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The peer was not reached.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The connection broke before the stream was open.
    #[error("the connection broke: {0}; it is dialled again for the next request")]
    Connection(String),
    /// The stream ended early.
    #[error(transparent)]
    Stream(#[from] StreamError),
}

/// The place of one peer's connection. Its lock is what makes dialling single-flight.
type Slot = Arc<tokio::sync::Mutex<Option<Connection>>>;

#[derive(Debug)]
struct Entry {
    slot: Slot,
    used: Instant,
}

impl Entry {
    /// False while it is being dialled, too.
    fn is_living(&self) -> bool {
        let place = self.slot.try_lock();
        place.is_ok_and(|place| place.as_ref().is_some_and(|c| c.close_reason().is_none()))
    }
}

#[derive(Debug)]
struct Shared {
    endpoint: NodeEndpoint,
    limits: PoolLimits,
    entries: Mutex<HashMap<NodeId, Entry>>,
    dials: Semaphore,
    silence: Arc<Silence>,
}

/// Connections by node id; cheap to clone.
#[derive(Debug, Clone)]
pub struct ConnectionPool {
    shared: Arc<Shared>,
    _sweeper: Arc<AbortOnDropHandle<()>>,
}

impl ConnectionPool {
    /// An empty pool on an endpoint. Call it inside a tokio runtime: it starts a sweeper.
    pub fn new(endpoint: NodeEndpoint, limits: PoolLimits) -> Self {
        let period = Duration::from_millis((limits.idle_ms_max / 2).max(100));
        let dials = Semaphore::new(limits.dials_max);
        let silence = Silence::new(SilenceLimits::default());
        let entries = Mutex::default();
        let shared = Arc::new(Shared { endpoint, limits, entries, dials, silence });
        let sweeper = tokio::spawn(sweep_regularly(Arc::downgrade(&shared), period));
        Self { shared, _sweeper: Arc::new(AbortOnDropHandle::new(sweeper)) }
    }

    /// The endpoint that the pool dials from.
    pub fn endpoint(&self) -> &NodeEndpoint {
        &self.shared.endpoint
    }

    /// Who of the nodes asked says nothing.
    pub fn silence(&self) -> &Arc<Silence> {
        &self.shared.silence
    }

    /// A living connection to `node`: the pooled one, or a new one to `hint` or to addresses the
    /// endpoint has learnt. A dial goes on when its caller has gone: what comes of it is worth
    /// knowing for the next one, who would otherwise wait for a dead node anew.
    ///
    /// # Errors
    /// [`DialError`]; at once when a dial failed a moment ago.
    pub async fn get(&self, node: &NodeId, hint: &NodeAddr) -> Result<Connection, DialError> {
        let mut place = self.shared.slot(node).lock_owned().await;
        if let Some(connection) = place.as_ref().filter(|c| c.close_reason().is_none()) {
            return Ok(connection.clone());
        }
        *place = None;
        let dial = Arc::clone(&self.shared).dial(place, *node, hint.clone());
        let broken = |e: tokio::task::JoinError| DialError::Failed {
            node: *node,
            reason: format!("the dial ended early: {e}"),
        };
        tokio::spawn(dial).await.map_err(broken)?
    }

    /// Has a connection ready for when it is needed, unless too much is being dialled already.
    pub fn warm(&self, node: &NodeId) {
        // Others that wait for a dial come first.
        if self.shared.dials.available_permits() <= self.shared.limits.dials_max / 2
            || self.is_connected(node)
        {
            return;
        }
        let (pool, node) = (self.clone(), *node);
        tokio::spawn(async move {
            // Whoever needs the node is told why it cannot be had.
            let _ = pool.get(&node, &NodeAddr::default()).await;
        });
    }

    /// Whether there is a living connection to `node`.
    pub fn is_connected(&self, node: &NodeId) -> bool {
        self.shared.entries().get(node).is_some_and(Entry::is_living)
    }

    /// Opens a stream for one request.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn open(&self, node: &NodeId, hint: &NodeAddr) -> Result<NodeStream, RequestError> {
        Ok(self.open_on(node, hint).await?.0)
    }

    async fn open_on(
        &self,
        node: &NodeId,
        hint: &NodeAddr,
    ) -> Result<(NodeStream, Connection), RequestError> {
        let connection = self.get(node, hint).await?;
        let patience = Duration::from_millis(self.shared.limits.stream.frame_ms_max);
        // Waits when the peer's bound on open streams is reached.
        let opened = tokio::time::timeout(patience, connection.open_bi()).await;
        let reason = match opened {
            Ok(Ok(halves)) => {
                return Ok((NodeStream::new(halves, self.shared.limits.stream), connection));
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no stream became free in time".to_owned(),
        };
        self.discard(node, &connection).await;
        Err(RequestError::Connection(reason))
    }

    /// Sends a request frame and reads the response frame of at most `response_bytes_max` bytes.
    /// The stream comes back for bulk bytes. The sending side stays open: call
    /// [`NodeStream::finish`] when nothing follows, or the server cannot tell the end.
    ///
    /// # Errors
    /// [`RequestError`]. A peer that does not answer in time loses its pooled connection, so that
    /// the next request dials again: after a crash the old one looks alive for many seconds.
    pub async fn request(
        &self,
        node: &NodeId,
        hint: &NodeAddr,
        request: &[u8],
        response_bytes_max: usize,
    ) -> Result<(Vec<u8>, NodeStream), RequestError> {
        let (mut stream, connection) = self.open_on(node, hint).await?;
        let exchange = async {
            match stream.write_frame(request, REQUEST_BYTES_MAX).await {
                // A server that refuses does not read the request; its reason may be here first.
                Err(stopped @ StreamError::Frame(FrameError::Io(_))) => {
                    stream.read_frame(response_bytes_max).await.map_err(|_| stopped)
                }
                Err(error) => Err(error),
                Ok(()) => stream.read_frame(response_bytes_max).await,
            }
        };
        let outcome = exchange.await;
        match outcome {
            Ok(response) => Ok((response, stream)),
            Err(error) => {
                if matches!(error, StreamError::FrameTimeout { .. }) {
                    self.discard(node, &connection).await;
                }
                Err(error.into())
            }
        }
    }

    /// Lets a connection go that turned out to be useless, unless it was replaced already.
    pub async fn discard(&self, node: &NodeId, connection: &Connection) {
        let slot = self.shared.slot(node);
        let mut place = slot.lock().await;
        if place.as_ref().is_some_and(|c| c.stable_id() == connection.stable_id()) {
            *place = None;
        }
    }

    /// Connections held now, living or not.
    pub fn len(&self) -> usize {
        self.shared.entries().len()
    }

    /// True when none is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Shared {
    async fn dial(
        self: Arc<Self>,
        mut place: OwnedMutexGuard<Option<Connection>>,
        node: NodeId,
        hint: NodeAddr,
    ) -> Result<Connection, DialError> {
        let busy = || DialError::TooMany { max: self.limits.dials_max };
        let patience = Duration::from_millis(self.limits.dial_ms_max);
        let permit = tokio::time::timeout(patience, self.dials.acquire()).await;
        let _permit = permit.map_err(|_| busy())?.map_err(|_| busy())?;
        let question = self.silence.ask(&node, Instant::now());
        match self.endpoint.dial(&node, &hint, ALPN, patience).await {
            Ok(connection) => {
                question.answered();
                *place = Some(connection.clone());
                Ok(connection)
            }
            Err(error) => {
                self.silence.failed(&node, Instant::now());
                Err(error)
            }
        }
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<NodeId, Entry>> {
        // The map stays consistent: nothing panics while the lock is held.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(&self, node: &NodeId) -> Slot {
        let now = Instant::now();
        let mut entries = self.entries();
        if let Some(entry) = entries.get_mut(node) {
            entry.used = now;
            return Arc::clone(&entry.slot);
        }
        if entries.len() >= self.limits.connections_max {
            // Slots that somebody holds are being dialled; they keep their place, and there are
            // at most as many of them as callers.
            let free = entries.iter().filter(|(_, e)| Arc::strong_count(&e.slot) == 1);
            // What leads nowhere goes before what works.
            let oldest = free.min_by_key(|(_, e)| (e.is_living(), e.used)).map(|(node, _)| *node);
            if let Some(oldest) = oldest {
                entries.remove(&oldest);
            }
        }
        let slot = Slot::default();
        entries.insert(*node, Entry { slot: Arc::clone(&slot), used: now });
        slot
    }

    /// Lets go of what is dead or unused.
    fn sweep(&self, now: Instant) {
        let idle = Duration::from_millis(self.limits.idle_ms_max);
        self.entries().retain(|_, entry| {
            let being_dialled = Arc::strong_count(&entry.slot) > 1;
            being_dialled || entry.is_living() && now.saturating_duration_since(entry.used) < idle
        });
    }
}

async fn sweep_regularly(pool: Weak<Shared>, period: Duration) {
    loop {
        tokio::time::sleep(period).await;
        let Some(pool) = pool.upgrade() else { return };
        pool.sweep(Instant::now());
    }
}
