//! Audits, carried out (SPEC_WITNESS.md): has or makes the epoch's beacon, answers the questions of
//! witnesses from the vault, says which placements are due, and, with the role witness, asks,
//! writes down what was found, and tells those whom it concerns.
//!
//! What is due, right, and worth what is decided by `echonet-witness`; nothing leaves before it is
//! durable here.

mod answer;
mod ask;
mod beacon;
mod cases;
mod digests;
mod due;
mod gather;
mod ledger;
pub(crate) mod report;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use echonet_protocol::{
    audit::{Answer, Ask, AuditChallenge, WitnessSets},
    bytes::BeaconSignature,
    identity::{Identity, NodeId, Signed},
    message::{Refusal, RefusalCode, Response},
    network::Genesis,
    time::Epoch,
};
use echonet_witness::{
    answering::Answering,
    beacon::{Beacon, BeaconShare, Beacons},
    draw::Rates,
};
use tokio::sync::mpsc;

pub(crate) use self::{ask::run as ask, beacon::run as have_beacons, digests::run as exchange};
use self::{due::DueHere, ledger::Ledger};
use crate::{
    clock,
    core::Core,
    net::gate::PeerInfo,
    serve::refuse,
    service::{ServiceError, ServiceResult},
};

/// Beacons of so many epochs are remembered.
const BEACONS_MAX: usize = 64;
/// Looks that wait for the asker's loop, at most; what is over is left to other members.
const LOOKS_MAX: usize = 256;

/// Another member heard nothing of a holder.
#[derive(Debug)]
pub(crate) struct Look {
    challenge: Box<Signed<AuditChallenge>>,
    index: u8,
}

/// A node's part in audits.
#[derive(Debug)]
pub(crate) struct Audit {
    beacons: Beacons,
    rates: Rates,
    sets: WitnessSets,
    /// Its place in set 0 and its share of the threshold beacon, where it has one.
    share: Option<(u8, BeaconShare)>,
    known: Mutex<BTreeMap<Epoch, Beacon>>,
    /// Parts of beacons that are not known yet, checked.
    parts: Mutex<BTreeMap<Epoch, BTreeMap<u8, BeaconSignature>>>,
    answering: Mutex<Answering>,
    due: DueHere,
    ledger: Ledger,
    looks: mpsc::Sender<Look>,
    waiting: Mutex<Option<mpsc::Receiver<Look>>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Audit {
    /// A node's part in the audits of its network.
    ///
    /// # Errors
    /// `invalid` for keys that are none, `io` where what it wrote down cannot be read.
    pub(crate) fn open(
        data: &Path,
        genesis: &Genesis,
        identity: &Identity,
        share: Option<&[u8; 32]>,
    ) -> ServiceResult<Self> {
        let invalid = |e: &dyn std::fmt::Display| ServiceError::new("invalid", e);
        let beacons = Beacons::new(genesis).map_err(|e| invalid(&e))?;
        let (rates, sets) = (Rates::new(genesis), WitnessSets::new(genesis));
        let me = identity.node_id();
        let share = share.map(|secret| own_share(genesis, &me, secret)).transpose()?;
        let ledger = Ledger::open(&data.join("audit.redb"));
        let ledger = ledger.map_err(|e| ServiceError::new("io", e))?;
        let (looks, waiting) = mpsc::channel(LOOKS_MAX);
        Ok(Self {
            answering: Mutex::new(Answering::new(me, genesis.network_id(), rates, beacons.clone())),
            beacons,
            rates,
            sets,
            share,
            known: Mutex::default(),
            parts: Mutex::default(),
            due: DueHere::default(),
            ledger,
            looks,
            waiting: Mutex::new(Some(waiting)),
        })
    }

    /// Whether anything is audited in this network.
    fn is_audited(&self) -> bool {
        self.beacons.message(Epoch(u64::MAX / 2)).is_ok()
    }

    /// The beacon of an epoch, where it is known.
    fn beacon(&self, epoch: Epoch) -> Option<Beacon> {
        locked(&self.known).get(&epoch).copied()
    }

    /// Remembers a beacon, which verified.
    fn remember(&self, beacon: Beacon) {
        let mut known = locked(&self.known);
        known.insert(beacon.epoch(), beacon);
        while known.len() > BEACONS_MAX {
            known.pop_first();
        }
        locked(&self.parts).retain(|epoch, _| *epoch > beacon.epoch());
    }
}

/// The share of a member, with its place; refused where it is another's.
fn own_share(
    genesis: &Genesis,
    me: &NodeId,
    secret: &[u8; 32],
) -> ServiceResult<(u8, BeaconShare)> {
    let invalid = |reason: &str| ServiceError::new("invalid", format!("beacon_share: {reason}"));
    let share = BeaconShare::from_secret(secret).ok_or_else(|| invalid("no scalar"))?;
    let place = genesis.witness.set.iter().position(|member| member == me);
    let place = place.and_then(|place| u8::try_from(place).ok());
    let place = place.ok_or_else(|| invalid("this node is no member of the witness set"))?;
    if genesis.witness.beacon_shares.get(usize::from(place)) != Some(&share.public()) {
        return Err(invalid("of another member, or of another network"));
    }
    Ok((place, share))
}

/// A member of an epoch's witness set that is not this node, another each time.
fn any_other_member(core: &Core, epoch: Epoch) -> Option<NodeId> {
    let members = core.audit.sets.at(epoch).iter().copied();
    let others: Vec<NodeId> = members.filter(|member| *member != core.node_id()).collect();
    let at = clock::random_u64().checked_rem(others.len() as u64)?;
    others.get(usize::try_from(at).ok()?).copied()
}

/// Answers another node.
pub(crate) async fn serve(
    core: &Arc<Core>,
    peer: &PeerInfo,
    ask: Ask,
) -> Result<Response, Refusal> {
    let audit = &core.audit;
    let from = NodeId(peer.node_id);
    let answer = match ask {
        Ask::Beacon { epoch } => Answer::Beacon(audit.beacon(epoch).map(|b| *b.signature())),
        Ask::Part { epoch, index, part } => {
            beacon::take_part(core, from, epoch, index, part).await?;
            Answer::Done
        }
        Ask::Audit { challenge, index } => answer::answer(core, peer, *challenge, index).await?,
        Ask::Look { challenge, index } => {
            // Whoever asks too much is not looked after; the others are.
            let _ = audit.looks.try_send(Look { challenge, index });
            Answer::Done
        }
        Ask::Due { epoch, beacon, inventory, after } => {
            due::answer(core, epoch, beacon, inventory, after).await?
        }
        Ask::Digests { epochs } => digests::answer(core, &epochs).await?,
        Ask::PutDigests { digests } => {
            digests::take(core, digests).await?;
            Answer::Done
        }
        Ask::Verdicts { witness, from } => digests::verdicts(core, witness, from).await?,
        Ask::Case { verdict } => cases::answer(core, verdict).await?,
        Ask::PutCase { case } => {
            cases::take(core, case.into_vec()).await?;
            Answer::Done
        }
        Ask::PutMaintenance { .. } => {
            return Err(refuse(RefusalCode::NotMyRole, "maintenances are not taken here yet"));
        }
    };
    Ok(Response::Witness(answer))
}
