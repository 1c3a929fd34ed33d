//! Answering other nodes: each request of the node protocol, checked, carried
//! out, answered.
//!
//! Nothing is trusted before it verified, nothing is answered before it is
//! durable, and every refusal says why. Limits per peer are `net`'s affair.

pub mod bulk;
pub(crate) mod holder;
mod issuer;
mod live;
mod reads;
pub(crate) mod records;
pub mod trees;

use std::sync::Arc;

use echonet_protocol::{
    identity::NodeId,
    message::{self, Envelope, MessageError, Refusal, RefusalCode, Request, Response},
    params,
};
use tracing::debug;

use crate::{
    audit, clock,
    core::Core,
    net::{
        gate::{self, PeerInfo},
        node_protocol::{
            server::RequestHandler,
            stream::{NodeStream, StreamError},
        },
    },
};

/// Descriptors in one page of members.
const MEMBERS_PAGE: usize = 64;

/// Answers requests with a node's means.
#[derive(Debug, Clone)]
pub struct Handler {
    core: Arc<Core>,
}

/// Why a request got no orderly answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    /// Said to the peer.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The peer is gone or too slow; there is nobody to tell.
    #[error(transparent)]
    Stream(#[from] StreamError),
}

type ServeResult<T> = Result<T, ServeError>;

/// A refusal of a kind.
pub(crate) fn refuse(code: RefusalCode, reason: impl std::fmt::Display) -> Refusal {
    Refusal::new(code, reason)
}

/// Told to a peer of whom not everything came that was announced; where the stream itself is
/// gone, the answer goes nowhere.
pub(crate) fn unread(e: StreamError) -> Refusal {
    refuse(RefusalCode::Invalid, e)
}

impl Handler {
    /// A handler for a node.
    #[must_use]
    pub const fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    async fn serve(&self, peer: &PeerInfo, stream: &mut NodeStream) -> ServeResult<()> {
        let frame = stream.read_frame(params::REQUEST_BYTES_MAX).await.map_err(unread)?;
        let envelope = match message::decode_request(&frame) {
            Ok(envelope) => envelope,
            Err(e) => return self.refuse_frame(&e, stream).await,
        };
        let Envelope { network, request, .. } = envelope;
        if network != self.core.network {
            let reason = format!("this node is in network {}, not {network}", self.core.network);
            return Err(refuse(RefusalCode::WrongNetwork, reason).into());
        }
        match request {
            Request::StoreShard { lease, grant, descriptor, index, placement_version } => {
                let wish = holder::StoreWish { lease, grant, descriptor, index, placement_version };
                holder::store(&self.core, peer, wish, stream).await
            }
            Request::GetShard { segment, index, slice } => {
                reads::shard(&self.core, peer, segment, index, slice, stream).await
            }
            Request::GetContent { content, slice } => {
                reads::content(&self.core, peer, content, slice, stream).await
            }
            Request::CheckLive { content, segments, mib } => {
                live::check(&self.core, peer, content, segments, mib, stream).await
            }
            other => {
                let response = self.answer(peer, other).await?;
                reply(stream, &response).await
            }
        }
    }

    /// Requests that are answered with one frame.
    async fn answer(&self, peer: &PeerInfo, request: Request) -> Result<Response, Refusal> {
        let core = &self.core;
        match request {
            Request::Hello { descriptor, .. } => {
                if let Some(descriptor) = descriptor {
                    core.learn(descriptor);
                }
                let (epoch, now) = (core.epoch(), clock::now());
                Ok(Response::Hello { epoch, now, descriptor: core.descriptor() })
            }
            Request::Genesis => Ok(Response::Genesis(core.genesis.encode().into())),
            Request::Members { after } => {
                let (descriptors, more) = core.members.page(after, MEMBERS_PAGE);
                Ok(Response::Members { descriptors, more })
            }
            Request::GetRecords { kind, ids } => records::get(core, kind, &ids),
            Request::PutRecords { records } => records::put(core, peer, records).await,
            Request::AddLease { lease, grant, index, placement_version } => {
                holder::add_lease(core, peer, lease, grant, index, placement_version).await
            }
            Request::Seal { placements } => {
                holder::seal(core, NodeId(peer.node_id), placements).await
            }
            Request::EndLeases { ends } => holder::end_leases(core, ends).await,
            Request::HasShards { shards } => holder::has(core, &shards),
            Request::RequestGrant { byte_epochs, until } => {
                issuer::grant(core, peer, byte_epochs, until)
            }
            Request::Membership(ask) => {
                let answer = core.swim.answer(NodeId(peer.node_id), ask).await?;
                Ok(Response::Membership(answer))
            }
            Request::Agree(ask) => Ok(Response::Agree(Box::new(
                core.votes.answer(core, NodeId(peer.node_id), *ask).await?,
            ))),
            Request::Witness(ask) => audit::serve(core, peer, ask).await,
            Request::StoreShard { .. }
            | Request::GetShard { .. }
            | Request::GetContent { .. }
            | Request::CheckLive { .. } => unreachable!("answered with a stream"),
        }
    }

    /// A frame that is no request: of a later version perhaps, which is told.
    async fn refuse_frame(&self, e: &MessageError, stream: &mut NodeStream) -> ServeResult<()> {
        match e {
            MessageError::Malformed(_) => {
                reply(stream, &Response::Unsupported { max: params::NODE_PROTOCOL_VERSION }).await
            }
            MessageError::TooLong { .. } => Err(refuse(RefusalCode::Invalid, e).into()),
        }
    }
}

/// Sends a frame that ends the exchange.
pub(crate) async fn reply(stream: &mut NodeStream, response: &Response) -> ServeResult<()> {
    say(stream, response).await?;
    stream.finish();
    Ok(())
}

/// Sends a frame after which more follows.
pub(crate) async fn say(stream: &mut NodeStream, response: &Response) -> ServeResult<()> {
    Ok(stream.write_frame(&message::encode(response), params::RESPONSE_BYTES_MAX).await?)
}

impl RequestHandler for Handler {
    async fn handle(&self, peer: PeerInfo, mut stream: NodeStream) {
        match self.serve(&peer, &mut stream).await {
            Ok(()) => {}
            Err(ServeError::Refused(refusal)) => {
                debug!(%refusal, "request refused");
                if let Err(e) = reply(&mut stream, &Response::Refused(refusal)).await {
                    debug!("the refusal was not taken: {e}");
                }
            }
            Err(ServeError::Stream(e)) => debug!("a request broke off: {e}"),
        }
    }

    fn refusal(&self, refusal: gate::Refusal) -> Option<Vec<u8>> {
        let refusal = refuse(RefusalCode::Busy, refusal);
        Some(message::encode(&Response::Refused(refusal)))
    }
}
