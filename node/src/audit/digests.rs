//! Digests and verdicts of witnesses: given out, taken, asked for. Everybody keeps the digests;
//! verdicts are fetched by whoever folds them.

use std::{sync::Arc, time::Duration};

use echonet_protocol::{
    audit::{Answer, Ask, AuditDigest, AuditVerdict},
    identity::{NodeId, Signed},
    message::{Refusal, RefusalCode},
    network::NetworkId,
    params,
    time::Epoch,
};
use futures::{StreamExt as _, stream};

use super::{
    any_other_member,
    ledger::{Ledger, LedgerError},
};
use crate::{core::Core, serve::refuse};

/// Nodes told at once.
const PARALLEL: usize = 16;
/// Epochs back for which digests are asked: later ones change no score any more.
const EPOCHS_BACK: u64 = 16;
/// How often a node asks for digests: as often as epochs end, and not more often than this.
const ASK_EVERY_MIN: Duration = Duration::from_secs(2);

/// A witness's own verdicts that its chain goes on from: those of the open epoch, or the last.
pub(super) fn own_open(
    ledger: &Ledger,
    network: &NetworkId,
    me: &NodeId,
    open: Epoch,
) -> Result<Vec<Signed<AuditVerdict>>, LedgerError> {
    let Some(last) = ledger.last(network, me)? else { return Ok(Vec::new()) };
    let mut from = last.body.sequence;
    let mut own = vec![last];
    while from > 1 && own[0].body.challenge.epoch == open {
        from = from.saturating_sub(params::BATCH_ITEMS_MAX as u64).max(1);
        let wanted = usize::try_from(own[0].body.sequence - from).unwrap_or(usize::MAX);
        let mut before = ledger.verdicts(network, me, from, wanted)?;
        before.append(&mut own);
        own = before;
    }
    let is_open = |verdict: &Signed<AuditVerdict>| verdict.body.challenge.epoch == open;
    let first = own.iter().position(is_open).unwrap_or(own.len() - 1);
    Ok(own.split_off(first))
}

/// Gives a digest to the other witnesses; the rest asks.
pub(super) async fn give_out(core: &Arc<Core>, digest: Signed<AuditDigest>) {
    let members = core.audit.sets.at(digest.body.epoch).to_vec();
    let others = members.into_iter().filter(|member| *member != core.node_id());
    let told = stream::iter(others).map(|member| {
        let (core, digests) = (Arc::clone(core), vec![digest.clone()]);
        // Who is not reached asks when it is back.
        async move { drop(core.client.witness(&member, Ask::PutDigests { digests }).await) }
    });
    told.buffer_unordered(PARALLEL).collect::<Vec<()>>().await;
}

async fn in_ledger<T: Send + 'static>(
    core: &Arc<Core>,
    work: impl FnOnce(&Ledger, &NetworkId) -> Result<T, LedgerError> + Send + 'static,
) -> Result<T, Refusal> {
    let core = Arc::clone(core);
    let done = tokio::task::spawn_blocking(move || work(&core.audit.ledger, &core.network)).await;
    let done = done.map_err(|e| refuse(RefusalCode::Internal, e))?;
    done.map_err(|e| refuse(RefusalCode::Internal, e))
}

/// Takes digests of members, from anybody.
pub(super) async fn take(
    core: &Arc<Core>,
    digests: Vec<Signed<AuditDigest>>,
) -> Result<(), Refusal> {
    let (network, now) = (core.network, core.epoch());
    let sets = core.audit.sets.clone();
    let is_right = move |digest: &Signed<AuditDigest>| {
        let (epoch, witness) = (digest.body.epoch, &digest.body.witness);
        epoch <= now
            && now.0 - epoch.0 <= EPOCHS_BACK
            && sets.at(epoch).contains(witness)
            && digest.verify(&network).is_ok()
    };
    in_ledger(core, move |ledger, _| {
        let right: Vec<_> = digests.into_iter().filter(is_right).collect();
        if right.is_empty() { Ok(()) } else { ledger.put_digests(&right) }
    })
    .await
}

pub(super) async fn answer(core: &Arc<Core>, epochs: &[Epoch]) -> Result<Answer, Refusal> {
    let epochs: Vec<Epoch> = epochs.to_vec();
    let digests = in_ledger(core, move |ledger, network| {
        let mut digests = Vec::new();
        for epoch in epochs {
            digests.extend(ledger.digests(network, epoch)?);
        }
        digests.truncate(params::LIST_ITEMS_MAX);
        Ok(digests)
    });
    Ok(Answer::Digests { digests: digests.await? })
}

pub(super) async fn verdicts(
    core: &Arc<Core>,
    witness: NodeId,
    from: u64,
) -> Result<Answer, Refusal> {
    let verdicts = in_ledger(core, move |ledger, network| {
        let mut verdicts = ledger.verdicts(network, &witness, from, params::BATCH_ITEMS_MAX)?;
        let mut bytes = 0;
        let fits = |verdict: &&Signed<AuditVerdict>| {
            bytes += verdict.encode().len();
            bytes <= params::BATCH_BYTES_MAX
        };
        let count = verdicts.iter().take_while(fits).count();
        verdicts.truncate(count);
        Ok(verdicts)
    });
    Ok(Answer::Verdicts { verdicts: verdicts.await? })
}

/// Asks a witness, another each time, for the digests of the last epochs, until the node stops.
pub(crate) async fn run(core: Arc<Core>) {
    if !core.audit.is_audited() {
        return;
    }
    let every = Duration::from_secs(core.genesis.epoch_s).max(ASK_EVERY_MIN);
    loop {
        tokio::time::sleep(every).await;
        let now = core.epoch();
        let Some(member) = any_other_member(&core, now) else { continue };
        let epochs = (now.0.saturating_sub(EPOCHS_BACK)..now.0).map(Epoch).collect();
        let answer = core.client.witness(&member, Ask::Digests { epochs }).await;
        if let Ok(Answer::Digests { digests }) = answer
            && let Err(e) = take(&core, digests).await
        {
            tracing::warn!("digests were not kept: {e}");
        }
    }
}
