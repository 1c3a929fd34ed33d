//! Keeps a panicking protocol handler from taking the node down.
//!
//! iroh's `Router` ends its accept loop, shuts every handler down and closes the endpoint when one
//! `accept` panics. [`Guarded`] runs the body in a task of its own, so that a panic costs one
//! connection. It never hides a panic: each is logged as an error.

use iroh::{
    endpoint::{Accepting, Connection},
    protocol::{AcceptError, ProtocolHandler},
};
use tokio_util::task::AbortOnDropHandle;
use tracing::error;

use super::address::short;

/// Wrap every handler given to a `Router` in this, foreign ones (iroh-blobs) too.
#[derive(Debug, Clone)]
pub struct Guarded<H>(pub H);

impl<H: ProtocolHandler + Clone> ProtocolHandler for Guarded<H> {
    async fn on_accepting(&self, accepting: Accepting) -> Result<Connection, AcceptError> {
        self.0.on_accepting(accepting).await
    }

    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        let peer = *connection.remote_id().as_bytes();
        let handler = self.0.clone();
        // Aborted on drop: a router that shuts down must not leave bodies running.
        let body = tokio::spawn(async move { handler.accept(connection).await });
        match AbortOnDropHandle::new(body).await {
            Ok(outcome) => outcome,
            Err(failed) if failed.is_panic() => {
                let protocol = std::any::type_name::<H>();
                error!(peer = %short(&peer), protocol, %failed, "a protocol handler panicked");
                Ok(())
            }
            Err(_) => Ok(()),
        }
    }

    async fn shutdown(&self) {
        self.0.shutdown().await;
    }
}
