//! Signing grants for who asks: what an issuer of a development network does.
//!
//! It never grants on a network that is not one for development, and never more
//! than a bound per request.

use echonet_protocol::{
    identity::{Identity, NodeId, Signed},
    lease::Grant,
    message::{Refusal, RefusalCode, Response},
    params,
    time::Epoch,
};

use super::refuse;
use crate::{clock, core::Core, net::gate::PeerInfo};

/// Most byte-epochs of one grant: 1 PiB for a year of hours.
const BYTE_EPOCHS_MAX: u64 = (1 << 50) * 8_766;

pub(super) fn grant(
    core: &Core,
    peer: &PeerInfo,
    byte_epochs: u64,
    until: Epoch,
) -> Result<Response, Refusal> {
    let Some(secret) = core.config.issuer_secret.filter(|_| core.genesis.development) else {
        return Err(refuse(
            RefusalCode::NotMyRole,
            "this node does not sign grants; ask an issuer",
        ));
    };
    if byte_epochs == 0 || byte_epochs > BYTE_EPOCHS_MAX {
        let reason =
            format!("{byte_epochs} byte-epochs; between 1 and {BYTE_EPOCHS_MAX} are granted");
        return Err(refuse(RefusalCode::Invalid, reason));
    }
    let issuer = Identity::from_secret(&secret);
    let serial = u64::from_le_bytes(clock::random());
    let body = Grant {
        v: params::FORMAT_VERSION,
        network: core.network,
        issuer: issuer.node_id(),
        owner: NodeId(peer.node_id),
        byte_epochs,
        until,
        serial,
    };
    Ok(Response::Grant(Signed::new(&issuer, body)))
}
