//! What the parts of a running node share. It does nothing by itself.

use std::sync::{Arc, Mutex, PoisonError};

use echonet_protocol::{
    identity::{Identity, NodeId, Signed},
    network::{Genesis, NetworkId},
    node_descriptor::NodeDescriptor,
    time::{Epoch, epoch_for_ending},
};
use echonet_vault::Vault;
use tokio::sync::Semaphore;

use crate::{
    audit::Audit,
    client::Client,
    clock,
    config::NodeConfig,
    keep::{Keep, Outbox, Swim, Votes},
    members::{Member, Members},
    net::{
        address::AddressRules, bandwidth::Bandwidth, endpoint::NodeEndpoint, kad::KadRouting,
        records::store::RecordStore, routing::ContentRouting as _,
    },
    origin::Origin,
    owner::Catalog,
    serve::{bulk::Bulk, trees::Trees},
};

/// Peers that must have been heard before anything is ended by epoch.
const ENDING_PEERS_MIN: usize = 3;
/// The same on a development network.
const ENDING_PEERS_MIN_DEVELOPMENT: usize = 1;

/// A descriptor that says the same is signed anew after this, seconds: everybody verifies each
/// new one.
const DESCRIPTOR_S_MAX: u64 = 300;

/// The shared parts of a running node.
#[derive(Debug)]
pub struct Core {
    /// Its key.
    pub identity: Identity,
    /// Its network's constitution.
    pub genesis: Genesis,
    /// Its network.
    pub network: NetworkId,
    /// What it was told.
    pub config: NodeConfig,
    /// The epoch it first started in: placement hashes the beacon of the one after.
    pub joined: Epoch,
    /// Its socket.
    pub endpoint: NodeEndpoint,
    /// Calls to others.
    pub client: Client,
    /// Who is close to a key.
    pub routing: Arc<KadRouting>,
    /// Records kept for others.
    pub records: RecordStore,
    /// Who is in the network.
    pub members: Members,
    /// Shards held for others; none unless the role is storage.
    pub vault: Option<Vault>,
    /// What the owner published.
    pub catalog: Catalog,
    /// Full copies of the owner's works.
    pub origin: Origin,
    /// Bytes per second that others may cost: everything bulky that is done for them asks here.
    pub bandwidth: Bandwidth,
    /// Bulk bytes that may be in memory on behalf of others.
    pub bulk: Bulk,
    /// What it said about itself last.
    pub said: Mutex<Option<Signed<NodeDescriptor>>>,
    /// Hash trees of shards that parts are asked of.
    pub trees: Trees,
    /// Keeping whole what it holds.
    pub(crate) keep: Keep,
    /// New placement records on their way to those who keep records.
    pub(crate) outbox: Outbox,
    /// Its vote on placements.
    pub(crate) votes: Votes,
    /// Membership of the nodes that keep things.
    pub(crate) swim: Swim,
    /// Its part in audits.
    pub(crate) audit: Audit,
    /// Live checks that may run at once on behalf of others.
    pub live_checks: Arc<Semaphore>,
}

impl Core {
    /// Its NodeID.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.identity.node_id()
    }

    /// The epoch by the local clock.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.genesis.epoch_at(clock::now())
    }

    /// The epoch by which things may be ended, when enough peers agree.
    #[must_use]
    pub fn ending_epoch(&self) -> Option<Epoch> {
        let peers_min =
            if self.genesis.development { ENDING_PEERS_MIN_DEVELOPMENT } else { ENDING_PEERS_MIN };
        epoch_for_ending(self.epoch(), &self.members.epochs(), peers_min)
    }

    /// Whether other nodes are served: whether it has a role.
    #[must_use]
    pub fn serves(&self) -> bool {
        self.config.roles.0 != 0
    }

    /// What it says about itself; none for a client.
    #[must_use]
    pub fn descriptor(&self) -> Option<Signed<NodeDescriptor>> {
        use echonet_protocol::{node_descriptor::Roles, params};
        if !self.serves() {
            return None;
        }
        let mut addrs = self.endpoint.bound();
        addrs.retain(|a| !a.ip().is_unspecified());
        addrs.extend(self.endpoint.addr().direct);
        addrs.sort_unstable();
        addrs.dedup();
        addrs.truncate(params::NODE_ADDRS_MAX);
        let body = NodeDescriptor {
            v: params::FORMAT_VERSION,
            network: self.network,
            node: self.node_id(),
            sequence: clock::now().0,
            roles: self.config.roles,
            labels: self.config.labels.clone(),
            capacity_class: NodeDescriptor::class_of(self.config.quota_bytes),
            addrs,
            relays: self.config.relays.iter().take(2).cloned().collect(),
            joined: self.joined,
            issues_grants: self.config.issuer_secret.is_some(),
            accepts: self.config.roles.has(Roles::STORAGE) && !self.keep.is_draining(),
            quiet: self.config.caps.quiet_hours,
        };
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let still_holds = |old: &&Signed<NodeDescriptor>| {
            let sequence = old.body.sequence;
            body.sequence.saturating_sub(sequence) < DESCRIPTOR_S_MAX
                && NodeDescriptor { sequence, ..body.clone() } == old.body
        };
        if let Some(old) = said.as_ref().filter(still_holds) {
            return Some(old.clone());
        }
        let signed = Signed::new(&self.identity, body);
        *said = Some(signed.clone());
        Some(signed)
    }

    /// Which addresses told by others may be dialled.
    #[must_use]
    pub fn address_rules(&self) -> AddressRules {
        let relays = self.config.relays.iter().filter_map(|url| url.parse().ok()).collect();
        let development = self.genesis.development;
        AddressRules { loopback: development, private: development, relays }
    }

    /// Takes in a descriptor that somebody handed over, if it verifies: into the
    /// member table, the address book and, for nodes that serve, the router.
    pub fn learn(&self, descriptor: Signed<NodeDescriptor>) -> bool {
        use crate::{members::Learned, net::address::NodeAddr};
        let node = descriptor.body.node;
        // What brings nothing new is not worth the verification: pages of members come again and
        // again, and each signature costs what 100 KB of hashing do.
        let is_known = |m: Member| m.descriptor.body.sequence >= descriptor.body.sequence;
        if node == self.node_id()
            || self.members.get(&node).is_some_and(is_known)
            || descriptor.verify(&self.network).is_err()
        {
            return false;
        }
        let relays = descriptor.body.relays.iter().filter_map(|url| url.parse().ok()).collect();
        let addr = NodeAddr { direct: descriptor.body.addrs.clone(), relays };
        let addr = addr.filtered(&self.address_rules());
        let learned = self.members.learn(descriptor, clock::now());
        if matches!(learned, Learned::New | Learned::Updated) {
            // An address that cannot be used leaves the member known and unreachable.
            let _ = self.endpoint.learn(&node.0, &addr);
            let _ = self.routing.add_peer(node.0, addr);
        }
        learned == Learned::New
    }
}
