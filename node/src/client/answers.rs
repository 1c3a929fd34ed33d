//! What an answer says, and the words for one that makes no sense.

use echonet_protocol::{
    identity::{NodeId, Signed},
    lease::Receipt,
    message::{self, Refusal, Response},
};

use super::CallError;
use crate::net::node_protocol::{
    pool::RequestError,
    stream::{NodeStream, StreamError},
};

pub(super) fn parse(node: &NodeId, frame: &[u8]) -> Result<Response, CallError> {
    match message::decode_response(frame) {
        // Cut again: the bound on reasons is the sender's word.
        Ok(Response::Refused(Refusal { code, reason })) => {
            Err(CallError::Refused { node: *node, refusal: Refusal::new(code, reason) })
        }
        Ok(Response::Unsupported { max }) => Err(CallError::Senseless {
            node: *node,
            reason: format!("it speaks protocol version {max} at most"),
        }),
        Ok(response) => Ok(response),
        Err(e) => Err(CallError::Senseless { node: *node, reason: e.to_string() }),
    }
}

pub(super) fn receipt(node: &NodeId, response: Response) -> Result<Signed<Receipt>, CallError> {
    match response {
        Response::Receipt(receipt) => Ok(receipt),
        other => Err(senseless(node, &other)),
    }
}

pub(super) fn done(node: &NodeId, response: Response) -> Result<usize, CallError> {
    match response {
        Response::Done(n) => Ok(n.into()),
        other => Err(senseless(node, &other)),
    }
}

pub(super) fn senseless(node: &NodeId, response: &Response) -> CallError {
    let mut reason = format!("{response:?}");
    reason.truncate(reason.char_indices().nth(120).map_or(reason.len(), |(i, _)| i));
    CallError::Senseless { node: *node, reason }
}

pub(super) fn unreachable(node: &NodeId, error: &RequestError) -> CallError {
    CallError::Unreachable { node: *node, reason: error.to_string() }
}

pub(super) fn broken(node: &NodeId, error: &StreamError) -> CallError {
    CallError::Unreachable { node: *node, reason: error.to_string() }
}

/// Tells the server that nothing follows. A stream that is gone already needs no telling.
pub(super) fn finish(stream: &mut NodeStream) {
    stream.finish();
}
