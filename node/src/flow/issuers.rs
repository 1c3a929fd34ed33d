//! Getting a grant: issuers among the known nodes are asked in turn.
//!
//! A grant is used only after it verified.

use echonet_protocol::{
    identity::{NodeId, Signed},
    lease::Grant,
    time::Epoch,
};

use crate::core::Core;

/// Issuers asked at most.
const ASKED_MAX: usize = 8;

/// A grant of at least `byte_epochs` that lasts until `until`; or why there is
/// none, in words.
///
/// # Errors
/// In words, the last trouble met.
pub async fn request(core: &Core, byte_epochs: u64, until: Epoch) -> Result<Signed<Grant>, String> {
    let members = core.members.all();
    let issuers = members.iter().map(|m| &m.descriptor.body).filter(|d| d.issues_grants);
    let issuers: Vec<NodeId> = issuers.map(|d| d.node).take(ASKED_MAX).collect();
    let mut last = "no known node issues grants; ask the network's issuer for one".to_owned();
    for node in issuers {
        match core.client.request_grant(&node, byte_epochs, until).await {
            Ok(grant) => match check(core, &grant, byte_epochs, until) {
                Ok(()) => return Ok(grant),
                Err(reason) => last = format!("{node} gave a useless grant: {reason}"),
            },
            Err(e) => last = e.to_string(),
        }
    }
    Err(last)
}

fn check(core: &Core, grant: &Signed<Grant>, byte_epochs: u64, until: Epoch) -> Result<(), String> {
    grant.verify(&core.network).map_err(|e| e.to_string())?;
    let body = &grant.body;
    let is_good = body.owner == core.node_id()
        && body.byte_epochs >= byte_epochs
        && body.until >= until
        && core.genesis.issuers.contains(&body.issuer);
    if is_good { Ok(()) } else { Err("it is not what was asked for".into()) }
}
