//! The server side of `/echonet/node/1`: bounds first, then the caller's handler.
//!
//! It never lets a handler's panic past its own task, and never queues: what is over a bound is
//! refused at once, with the reason.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use iroh::{
    endpoint::{Connection, RecvStream, SendStream},
    protocol::{AcceptError, ProtocolHandler},
};
use tokio::task::{JoinError, JoinSet};
use tracing::{debug, error};

use super::{
    peers::{PeerBudget, Peers},
    stream::NodeStream,
};
use crate::net::{
    address::short,
    gate::{ConnectionGate, PeerInfo, Refusal},
    limits::{RESPONSE_BYTES_MAX, ServerLimits},
};

/// Longest time a refused peer may take to read why, milliseconds.
const REFUSAL_MS_MAX: u64 = 200;

/// Answers requests.
pub trait RequestHandler: Send + Sync + 'static {
    /// Serves one request: read its frame, write the answer, [`NodeStream::finish`].
    fn handle(&self, peer: PeerInfo, stream: NodeStream) -> impl Future<Output = ()> + Send;

    /// The response frame that tells a peer why its request was refused; `None` leaves it at the
    /// stream's error code ([`Refusal::code`]).
    fn refusal(&self, refusal: Refusal) -> Option<Vec<u8>>;
}

struct Shared<H> {
    handler: H,
    limits: ServerLimits,
    gate: Arc<ConnectionGate>,
    peers: Peers,
}

/// Register with `Router::builder(..).accept(ALPN, Guarded(server))`.
pub struct NodeServer<H> {
    shared: Arc<Shared<H>>,
}

impl<H> Clone for NodeServer<H> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<H> fmt::Debug for NodeServer<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeServer").field("gate", &self.shared.gate).finish_non_exhaustive()
    }
}

impl<H: RequestHandler> NodeServer<H> {
    /// A server that answers with `handler` within `limits`.
    pub fn new(handler: H, limits: ServerLimits) -> Self {
        let gate = ConnectionGate::new(limits.connections.clone());
        let peers = Peers::new(&limits);
        Self { shared: Arc::new(Shared { handler, limits, gate, peers }) }
    }

    /// The gate that counts the connections, for [`crate::net::gate::incoming_filter`].
    pub fn gate(&self) -> &Arc<ConnectionGate> {
        &self.shared.gate
    }
}

impl<H: RequestHandler> ProtocolHandler for NodeServer<H> {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        serve(&self.shared, &connection).await;
        Ok(())
    }
}

async fn serve<H: RequestHandler>(shared: &Arc<Shared<H>>, connection: &Connection) {
    let peer = PeerInfo::observe(connection);
    let _admission = match shared.gate.admit(peer.node_id, peer.prefix) {
        Ok(admission) => admission,
        Err(refusal) => return refusal.close(connection),
    };
    let budget = shared.peers.budget(&peer.node_id);
    // Dropping the set ends the requests of a connection that ended.
    let mut requests = JoinSet::new();
    let mut refused_in_a_row = 0;
    let idle = Duration::from_millis(shared.limits.connection_idle_ms_max);
    loop {
        tokio::select! {
            Some(done) = requests.join_next() => report(&peer, done),
            accepted = tokio::time::timeout(idle, connection.accept_bi()) => match accepted {
                Ok(Ok(stream)) => {
                    match admit_request(shared, &budget, &peer, stream, &mut requests).await {
                        Ok(()) => refused_in_a_row = 0,
                        Err(_) => refused_in_a_row += 1,
                    }
                    if refused_in_a_row > shared.limits.refusals_in_a_row_max {
                        return Refusal::Ignored.close(connection);
                    }
                }
                // The connection has ended; the reason is the peer's affair.
                Ok(Err(_)) => return,
                Err(_) if requests.is_empty() => return Refusal::Idle.close(connection),
                Err(_) => {}
            },
        }
    }
}

async fn admit_request<H: RequestHandler>(
    shared: &Arc<Shared<H>>,
    budget: &PeerBudget,
    peer: &PeerInfo,
    stream: (SendStream, RecvStream),
    requests: &mut JoinSet<()>,
) -> Result<(), Refusal> {
    let mut stream = NodeStream::new(stream, shared.limits.stream);
    let place = match shared.peers.take(budget) {
        Ok(place) => place,
        Err(refusal) => {
            debug!(peer = %short(&peer.node_id), %refusal, "request refused");
            refuse(shared, &mut stream, refusal).await;
            return Err(refusal);
        }
    };
    let (shared, peer) = (Arc::clone(shared), peer.clone());
    requests.spawn(async move {
        let _place = place;
        let longest = Duration::from_millis(shared.limits.request_ms_max);
        let node = peer.node_id;
        // Dropping the body resets the stream, which tells the peer that it was cut off.
        if tokio::time::timeout(longest, shared.handler.handle(peer, stream)).await.is_err() {
            debug!(peer = %short(&node), "a request took too long and was ended");
        }
    });
    Ok(())
}

async fn refuse<H: RequestHandler>(shared: &Shared<H>, stream: &mut NodeStream, refusal: Refusal) {
    if let Some(frame) = shared.handler.refusal(refusal) {
        let write = stream.write_frame(&frame, RESPONSE_BYTES_MAX);
        let written = tokio::time::timeout(Duration::from_millis(REFUSAL_MS_MAX), write).await;
        if matches!(written, Ok(Ok(()))) {
            stream.refuse_rest(refusal.code());
            return;
        }
    }
    stream.abort(refusal.code());
}

fn report(peer: &PeerInfo, done: Result<(), JoinError>) {
    if let Err(failed) = done
        && failed.is_panic()
    {
        error!(peer = %short(&peer.node_id), %failed, "a request handler panicked");
    }
}
