//! An iroh connection as libp2p sees it: a source of bidirectional substreams.
//!
//! QUIC multiplexes already, so this only forwards; it never buffers and never opens a stream that
//! libp2p did not ask for.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use futures::{FutureExt, future::BoxFuture};
use iroh::endpoint::{Connection, RecvStream, SendStream, VarInt};
use libp2p_core::muxing::{StreamMuxer, StreamMuxerEvent};
use tokio::io::Join;
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};

use crate::net::gate::Admission;

/// One substream.
pub(super) type Substream = Compat<Join<RecvStream, SendStream>>;

type Opening = BoxFuture<'static, io::Result<Substream>>;

/// See the module's documentation. Holds the connection's place in the gate while it lives.
pub(super) struct Muxer {
    connection: Connection,
    inbound: Option<Opening>,
    outbound: Option<Opening>,
    _admission: Admission,
}

impl Muxer {
    pub(super) fn new(connection: Connection, admission: Admission) -> Self {
        Self { connection, inbound: None, outbound: None, _admission: admission }
    }
}

fn substream((send, recv): (SendStream, RecvStream)) -> Substream {
    tokio::io::join(recv, send).compat()
}

impl StreamMuxer for Muxer {
    type Substream = Substream;
    type Error = io::Error;

    fn poll_inbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<Substream>> {
        let connection = self.connection.clone();
        let opening = self.inbound.get_or_insert_with(|| {
            async move { connection.accept_bi().await.map(substream).map_err(io::Error::other) }
                .boxed()
        });
        let ready = std::task::ready!(opening.poll_unpin(cx));
        self.inbound = None;
        Poll::Ready(ready)
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Substream>> {
        let connection = self.connection.clone();
        let opening = self.outbound.get_or_insert_with(|| {
            async move { connection.open_bi().await.map(substream).map_err(io::Error::other) }
                .boxed()
        });
        let ready = std::task::ready!(opening.poll_unpin(cx));
        self.outbound = None;
        Poll::Ready(ready)
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.connection.close(VarInt::from_u32(0), b"done");
        Poll::Ready(Ok(()))
    }

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<StreamMuxerEvent>> {
        // Nothing to drive: iroh runs the connection, and a dead one fails `poll_inbound`.
        Poll::Pending
    }
}
