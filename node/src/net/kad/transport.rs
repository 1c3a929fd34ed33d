//! A libp2p `Transport` over the node's iroh endpoint: no socket, no handshake of its own.
//!
//! Every dial that kad wants passes through here: addresses that the rules refuse are not dialled
//! (kad would dial whatever a stranger reports), a dead peer costs at most the dial timeout, and
//! connections are counted. It never listens; accepted connections arrive through [`KadHandler`].

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{
    FutureExt,
    future::{BoxFuture, Ready, ready},
};
use iroh::{
    endpoint::Connection,
    protocol::{AcceptError, ProtocolHandler},
};
use libp2p_core::{
    Multiaddr,
    multiaddr::Protocol,
    muxing::StreamMuxerBox,
    transport::{DialOpts, ListenerId, Transport, TransportError, TransportEvent},
};
use libp2p_identity::PeerId;
use tokio::sync::mpsc;

use super::{
    ALPN, AddressFilter,
    ids::{from_multiaddr, peer_id},
    muxer::Muxer,
};
use crate::net::{
    address::{NodeAddr, NodeId},
    endpoint::NodeEndpoint,
    gate::{Admission, ConnectionGate, PeerInfo, Refusal},
};

type Output = (PeerId, StreamMuxerBox);

/// A connection that was let in, on its way to the swarm.
pub(super) struct Accepted {
    connection: Connection,
    admission: Admission,
}

/// Register with `Router::builder(..).accept(kad::ALPN, Guarded(handler))`.
#[derive(Debug, Clone)]
pub struct KadHandler {
    gate: Arc<ConnectionGate>,
    inbox: mpsc::Sender<Accepted>,
}

impl KadHandler {
    pub(super) fn new(
        gate: Arc<ConnectionGate>,
        inbox_max: usize,
    ) -> (Self, mpsc::Receiver<Accepted>) {
        let (inbox, accepted) = mpsc::channel(inbox_max.max(1));
        (Self { gate, inbox }, accepted)
    }

    /// The gate that counts kad's connections, for [`crate::net::gate::incoming_filter`].
    pub fn gate(&self) -> &Arc<ConnectionGate> {
        &self.gate
    }
}

impl ProtocolHandler for KadHandler {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        let peer = PeerInfo::observe(&connection);
        let admission = match self.gate.admit(peer.node_id, peer.prefix) {
            Ok(admission) => admission,
            Err(refusal) => {
                refusal.close(&connection);
                return Ok(());
            }
        };
        // When the swarm is slow, new connections are dropped instead of queued.
        if let Err(error) = self.inbox.try_send(Accepted { connection, admission }) {
            let (mpsc::error::TrySendError::Full(refused)
            | mpsc::error::TrySendError::Closed(refused)) = error;
            Refusal::Busy.close(&refused.connection);
        }
        Ok(())
    }
}

/// See the module's documentation.
pub(super) struct IrohTransport {
    endpoint: NodeEndpoint,
    gate: Arc<ConnectionGate>,
    accepted: mpsc::Receiver<Accepted>,
    filter: AddressFilter,
    dial_patience: Duration,
    listener: Option<ListenerId>,
}

impl IrohTransport {
    pub(super) fn new(
        endpoint: NodeEndpoint,
        gate: Arc<ConnectionGate>,
        accepted: mpsc::Receiver<Accepted>,
        filter: AddressFilter,
        dial_patience: Duration,
    ) -> Self {
        Self { endpoint, gate, accepted, filter, dial_patience, listener: None }
    }
}

async fn dial(
    endpoint: NodeEndpoint,
    gate: Arc<ConnectionGate>,
    node: NodeId,
    addr: NodeAddr,
    patience: Duration,
) -> io::Result<Output> {
    // Admitted before dialling, so that dials in progress count as well.
    let admission = gate.admit_own(node).map_err(io::Error::other)?;
    let connection = endpoint.dial(&node, &addr, ALPN, patience).await.map_err(io::Error::other)?;
    // The address answered with the right key, so it is worth remembering.
    endpoint.learn(&node, &addr).map_err(io::Error::other)?;
    let peer = peer_id(&node).map_err(io::Error::other)?;
    Ok((peer, StreamMuxerBox::new(Muxer::new(connection, admission))))
}

impl Transport for IrohTransport {
    type Output = Output;
    type Error = io::Error;
    type ListenerUpgrade = Ready<io::Result<Output>>;
    type Dial = BoxFuture<'static, io::Result<Output>>;

    fn listen_on(&mut self, id: ListenerId, _: Multiaddr) -> Result<(), TransportError<io::Error>> {
        if self.listener.is_some() {
            return Err(TransportError::Other(io::Error::other("there is one listener only")));
        }
        self.listener = Some(id);
        Ok(())
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        let ours = self.listener == Some(id);
        if ours {
            self.listener = None;
        }
        ours
    }

    fn dial(
        &mut self,
        addr: Multiaddr,
        _: DialOpts,
    ) -> Result<Self::Dial, TransportError<io::Error>> {
        let target = from_multiaddr(&addr).and_then(|t| Some((t.node?, t.addr?)));
        let Some((node, place)) = target else {
            return Err(TransportError::MultiaddrNotSupported(addr));
        };
        if !(self.filter)(&node, &place) {
            return Err(TransportError::MultiaddrNotSupported(addr));
        }
        let place = NodeAddr::from_transports([&place]);
        let (endpoint, gate) = (self.endpoint.clone(), Arc::clone(&self.gate));
        Ok(dial(endpoint, gate, node, place, self.dial_patience).boxed())
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, io::Error>> {
        let Some(listener_id) = self.listener else { return Poll::Pending };
        loop {
            let Some(accepted) = std::task::ready!(self.accepted.poll_recv(cx)) else {
                // The router is gone; the swarm's owner will end soon as well.
                return Poll::Pending;
            };
            let node = *accepted.connection.remote_id().as_bytes();
            // TLS proved the key, so it is valid; otherwise there is nothing to hand over.
            let Ok(peer) = peer_id(&node) else { continue };
            self.endpoint.dials().forget(&node);
            let muxer = Muxer::new(accepted.connection, accepted.admission);
            return Poll::Ready(TransportEvent::Incoming {
                listener_id,
                upgrade: ready(Ok((peer, StreamMuxerBox::new(muxer)))),
                local_addr: Multiaddr::empty(),
                send_back_addr: Multiaddr::empty().with(Protocol::P2p(peer)),
            });
        }
    }
}
