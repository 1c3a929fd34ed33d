//! What a node shows its owner of audits: verdicts, and any of them checked again.

use std::sync::Arc;

use echonet_protocol::{
    audit::{AuditResult, AuditVerdict, Outcome},
    bytes::RecordHash,
    data::rows::Rows,
    identity::Signed,
    params,
};
use echonet_witness::{
    evidence::{Case, Fault},
    verdicts::CheckedVerdict,
};

use super::ledger::LedgerError;
use crate::{
    core::Core,
    service::{AuditFound, Replayed, ServiceError, ServiceResult, VerdictInfo},
};

/// Verdicts shown at once, at most.
const VERDICTS_MAX: usize = 10_000;

fn failed(e: impl std::fmt::Display) -> ServiceError {
    ServiceError::new("io", e)
}

async fn in_ledger<T: Send + 'static>(
    core: &Arc<Core>,
    work: impl FnOnce(&Core) -> Result<T, LedgerError> + Send + 'static,
) -> ServiceResult<T> {
    let core = Arc::clone(core);
    let done = tokio::task::spawn_blocking(move || work(&core)).await;
    done.map_err(failed)?.map_err(failed)
}

/// The newest verdicts, newest first.
pub(crate) async fn verdicts(
    core: &Arc<Core>,
    count_max: usize,
) -> ServiceResult<Vec<VerdictInfo>> {
    let count_max = count_max.min(VERDICTS_MAX);
    let newest =
        in_ledger(core, move |core| core.audit.ledger.newest(&core.network, count_max)).await?;
    Ok(newest.iter().map(info).collect())
}

/// Checks a verdict again, from what is here alone.
pub(crate) async fn replay(core: &Arc<Core>, verdict: String) -> ServiceResult<Replayed> {
    let hash = data_encoding::HEXLOWER_PERMISSIVE.decode(verdict.as_bytes());
    let hash: Option<[u8; 32]> = hash.ok().and_then(|hash| hash.try_into().ok());
    let Some(hash) = hash.map(RecordHash) else {
        return Err(ServiceError::new("invalid", "the name of a verdict is 64 hex digits"));
    };
    let found = in_ledger(core, move |core| {
        let verdict = core.audit.ledger.verdict(&core.network, &hash)?;
        Ok((verdict, core.audit.ledger.case(&hash)?))
    });
    let (found, case) = found.await?;
    let Some(found) = found else {
        let reason = "no such verdict is kept here; ask the witness that made it";
        return Err(ServiceError::new("not_found", reason));
    };
    let (network, verdict) = (core.network, found.clone());
    let checked = tokio::task::spawn_blocking(move || match case {
        Some(case) => {
            let case = Case::decode(&case, &network, &Rows).map_err(|e| e.to_string())?;
            Ok((case.proven, case.faults))
        }
        None => CheckedVerdict::new(found, &network)
            .map(|_| (Vec::new(), Vec::new()))
            .map_err(|e| e.to_string()),
    });
    let (proven, faults) =
        checked.await.map_err(failed)?.map_err(|e| ServiceError::new("invalid", e))?;
    let is_signed_only =
        |result: &&AuditResult| result.outcome == Outcome::Pass && !proven.contains(&result.index);
    let signed_only = verdict.body.results.iter().filter(is_signed_only).map(|r| r.index);
    Ok(Replayed {
        signed_only: signed_only.collect(),
        verdict: info(&verdict),
        faults: faults.iter().map(fault_words).collect(),
        proven,
    })
}

const fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Pass => "pass",
        Outcome::Wrong => "wrong",
        Outcome::Absent => "absent",
        Outcome::Silent => "silent",
    }
}

fn info(verdict: &Signed<AuditVerdict>) -> VerdictInfo {
    let body = &verdict.body;
    let found = |result: &AuditResult| AuditFound {
        index: result.index,
        holder: result.holder.to_string(),
        outcome: outcome_name(result.outcome).to_owned(),
    };
    VerdictInfo {
        verdict: data_encoding::HEXLOWER.encode(&verdict.hash().0),
        witness: body.witness.to_string(),
        sequence: body.sequence,
        epoch: body.challenge.epoch.0,
        segment_id: body.challenge.segment.to_string(),
        leaf: body.leaf,
        inventory: body.challenge.inventory.map(|node| node.to_string()),
        results: body.results.iter().map(found).collect(),
    }
}

fn fault_words(fault: &Fault) -> String {
    match fault {
        Fault::Holder { holder, segment, index, outcome } => format!(
            "holder {holder}: shard {index} of {segment} is {} by its own signature",
            outcome_name(*outcome)
        ),
        Fault::Witness { witness, epoch, offence } => {
            format!("witness {witness}: {offence:?} in epoch {}", epoch.0)
        }
        Fault::Owner { owner, .. } => format!("owner {owner}: used more than it was granted"),
        Fault::Overcommitted { holder, .. } => {
            format!("holder {holder}: took more than 1/{} of a grant", params::GRANT_SHARE_DIVISOR)
        }
        Fault::Publisher { segment } => format!("publisher of {segment}: it is no codeword"),
    }
}
