//! What a node has of audits on disk: verdicts, the cases behind them, digests.
//!
//! One redb file. A witness's own chain is here before anything of it leaves: to go on from less
//! would be a fork, which convicts it. A file that cannot be read is therefore an error, not
//! something to begin anew.

use std::path::{Path, PathBuf};

use echonet_protocol::{
    audit::{AuditDigest, AuditVerdict, Outcome},
    bytes::RecordHash,
    identity::{NodeId, Signed},
    network::NetworkId,
    time::Epoch,
};
use echonet_witness::evidence::Case;
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};

use crate::disk_room;

/// Witness and sequence (big-endian) to the encoded verdict.
const VERDICTS: TableDefinition<'_, &[u8; 40], &[u8]> = TableDefinition::new("verdicts_v1");
/// Epoch (big-endian) and record hash to witness and sequence.
const BY_EPOCH: TableDefinition<'_, &[u8; 40], &[u8; 40]> = TableDefinition::new("by_epoch_v1");
/// Record hash to epoch.
const EPOCHS: TableDefinition<'_, &[u8; 32], u64> = TableDefinition::new("epochs_v1");
/// Epoch (big-endian) and record hash to the encoded case.
const CASES: TableDefinition<'_, &[u8; 40], &[u8]> = TableDefinition::new("cases_v1");
/// Epoch (big-endian) and witness to the encoded digest.
const DIGESTS: TableDefinition<'_, &[u8; 40], &[u8]> = TableDefinition::new("digests_v1");
/// redb's page cache; its default is 1 GiB.
const CACHE_BYTES: usize = 4 << 20;
/// Epochs that proofs of passes are kept, for re-audits.
const PASS_PROOF_EPOCHS: u64 = 2;
/// Seconds that verdicts, and the cases of what is no pass, are kept.
const EVIDENCE_S: u64 = 90 * 86_400;

/// The ledger could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("the ledger of audits {path}: {reason}; check the disk", path = path.display())]
pub(crate) struct LedgerError {
    path: PathBuf,
    reason: String,
}

/// The file.
#[derive(Debug)]
pub(crate) struct Ledger {
    database: Database,
    path: PathBuf,
}

fn key(first: &[u8], second: &[u8]) -> [u8; 40] {
    let mut key = [0; 40];
    key[..first.len()].copy_from_slice(first);
    key[first.len()..].copy_from_slice(second);
    key
}

fn by_epoch(epoch: Epoch, name: &[u8; 32]) -> [u8; 40] {
    key(&epoch.0.to_be_bytes(), name)
}

fn place(witness: &NodeId, sequence: u64) -> [u8; 40] {
    key(&witness.0, &sequence.to_be_bytes())
}

type Verdict = Signed<AuditVerdict>;

impl Ledger {
    /// Opens or creates the file.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub(crate) fn open(path: &Path) -> Result<Self, LedgerError> {
        let open = || -> Result<Database, redb::Error> {
            let database = Database::builder().set_cache_size(CACHE_BYTES).create(path)?;
            let transaction = database.begin_write()?;
            transaction.open_table(VERDICTS)?;
            transaction.open_table(BY_EPOCH)?;
            transaction.open_table(EPOCHS)?;
            transaction.open_table(CASES)?;
            transaction.open_table(DIGESTS)?;
            transaction.commit()?;
            Ok(database)
        };
        let failed = |e: redb::Error| LedgerError { path: path.to_owned(), reason: e.to_string() };
        Ok(Self { database: open().map_err(failed)?, path: path.to_owned() })
    }

    fn failed(&self, reason: impl std::fmt::Display) -> LedgerError {
        LedgerError { path: self.path.clone(), reason: reason.to_string() }
    }

    fn write<T>(
        &self,
        change: impl FnOnce(&redb::WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, LedgerError> {
        let write = || {
            disk_room::check(&self.path).map_err(redb::Error::Io)?;
            let transaction = self.database.begin_write()?;
            let done = change(&transaction)?;
            transaction.commit()?;
            Ok(done)
        };
        write().map_err(|e: redb::Error| self.failed(e))
    }

    fn read<T>(
        &self,
        look: impl FnOnce(&redb::ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, LedgerError> {
        let read = || look(&self.database.begin_read()?);
        read().map_err(|e: redb::Error| self.failed(e))
    }

    /// Keeps verdicts, which verified, and the case of one where it is at hand.
    pub(super) fn put(&self, verdicts: &[(Verdict, Option<Case>)]) -> Result<(), LedgerError> {
        self.write(|transaction| {
            let mut table = transaction.open_table(VERDICTS)?;
            let mut places = transaction.open_table(BY_EPOCH)?;
            let mut epochs = transaction.open_table(EPOCHS)?;
            let mut cases = transaction.open_table(CASES)?;
            for (verdict, case) in verdicts {
                let (epoch, hash) = (verdict.body.challenge.epoch, verdict.hash());
                let place = place(&verdict.body.witness, verdict.body.sequence);
                table.insert(&place, verdict.encode().as_slice())?;
                places.insert(&by_epoch(epoch, &hash.0), &place)?;
                epochs.insert(&hash.0, epoch.0)?;
                if let Some(case) = case {
                    cases.insert(&by_epoch(epoch, &hash.0), case.encode().as_slice())?;
                }
            }
            Ok(())
        })
    }

    /// Keeps digests, which verified. One of each witness and epoch: the first stays.
    pub(super) fn put_digests(&self, digests: &[Signed<AuditDigest>]) -> Result<(), LedgerError> {
        self.write(|transaction| {
            let mut table = transaction.open_table(DIGESTS)?;
            for digest in digests {
                let key = by_epoch(digest.body.epoch, &digest.body.witness.0);
                if table.get(&key)?.is_none() {
                    table.insert(&key, digest.encode().as_slice())?;
                }
            }
            Ok(())
        })
    }

    /// The digests of an epoch.
    pub(super) fn digests(
        &self,
        network: &NetworkId,
        epoch: Epoch,
    ) -> Result<Vec<Signed<AuditDigest>>, LedgerError> {
        self.read(|transaction| {
            let table = transaction.open_table(DIGESTS)?;
            let range = by_epoch(epoch, &[0; 32])..=by_epoch(epoch, &[0xff; 32]);
            let mut digests = Vec::new();
            for row in table.range::<&[u8; 40]>(&range.start().clone()..=&range.end().clone())? {
                digests.extend(Signed::decode(row?.1.value(), network).ok());
            }
            Ok(digests)
        })
    }

    /// A witness's verdicts from a sequence on, in order, as far as they are here without a gap.
    pub(super) fn verdicts(
        &self,
        network: &NetworkId,
        witness: &NodeId,
        from: u64,
        count_max: usize,
    ) -> Result<Vec<Verdict>, LedgerError> {
        self.read(|transaction| {
            let table = transaction.open_table(VERDICTS)?;
            let (first, last) = (place(witness, from), place(witness, u64::MAX));
            let mut verdicts: Vec<Verdict> = Vec::new();
            for row in table.range::<&[u8; 40]>(&first..=&last)?.take(count_max) {
                let Ok(verdict) = Verdict::decode(row?.1.value(), network) else { break };
                if verdict.body.sequence != from + verdicts.len() as u64 {
                    break;
                }
                verdicts.push(verdict);
            }
            Ok(verdicts)
        })
    }

    /// The last verdict of a witness.
    pub(super) fn last(
        &self,
        network: &NetworkId,
        witness: &NodeId,
    ) -> Result<Option<Verdict>, LedgerError> {
        self.read(|transaction| {
            let table = transaction.open_table(VERDICTS)?;
            let (first, last) = (place(witness, 0), place(witness, u64::MAX));
            let row = table.range::<&[u8; 40]>(&first..=&last)?.next_back().transpose()?;
            Ok(row.and_then(|(_, bytes)| Verdict::decode(bytes.value(), network).ok()))
        })
    }

    /// The newest verdicts, newest first.
    pub(super) fn newest(
        &self,
        network: &NetworkId,
        count_max: usize,
    ) -> Result<Vec<Verdict>, LedgerError> {
        self.read(|transaction| {
            let places = transaction.open_table(BY_EPOCH)?;
            let table = transaction.open_table(VERDICTS)?;
            let mut verdicts = Vec::new();
            for row in places.iter()?.rev().take(count_max) {
                let row = table.get(row?.1.value())?;
                verdicts.extend(row.and_then(|row| Verdict::decode(row.value(), network).ok()));
            }
            Ok(verdicts)
        })
    }

    /// One verdict.
    pub(super) fn verdict(
        &self,
        network: &NetworkId,
        hash: &RecordHash,
    ) -> Result<Option<Verdict>, LedgerError> {
        self.read(|transaction| {
            let Some(epoch) = transaction.open_table(EPOCHS)?.get(&hash.0)? else {
                return Ok(None);
            };
            let places = transaction.open_table(BY_EPOCH)?;
            let Some(place) = places.get(&by_epoch(Epoch(epoch.value()), &hash.0))? else {
                return Ok(None);
            };
            let row = transaction.open_table(VERDICTS)?;
            let row = row.get(place.value())?;
            Ok(row.and_then(|row| Verdict::decode(row.value(), network).ok()))
        })
    }

    /// The case of a verdict.
    pub(super) fn case(&self, verdict: &RecordHash) -> Result<Option<Vec<u8>>, LedgerError> {
        self.read(|transaction| {
            let Some(epoch) = transaction.open_table(EPOCHS)?.get(&verdict.0)? else {
                return Ok(None);
            };
            let cases = transaction.open_table(CASES)?;
            let case = cases.get(&by_epoch(Epoch(epoch.value()), &verdict.0))?;
            Ok(case.map(|case| case.value().to_vec()))
        })
    }

    /// Forgets what is too old: proofs of passes after two epochs, everything but digests after
    /// 90 days.
    pub(super) fn prune(
        &self,
        network: &NetworkId,
        now: Epoch,
        epoch_s: u64,
    ) -> Result<(), LedgerError> {
        let old = |epochs: u64| by_epoch(Epoch(now.0.saturating_sub(epochs)), &[0; 32]);
        let evidence_epochs = EVIDENCE_S.div_ceil(epoch_s.max(1));
        self.write(|transaction| {
            let mut cases = transaction.open_table(CASES)?;
            let mut verdicts = transaction.open_table(VERDICTS)?;
            let mut places = transaction.open_table(BY_EPOCH)?;
            let mut epochs = transaction.open_table(EPOCHS)?;
            let is_gone = |key: &[u8; 40], place: &[u8; 40]| -> Result<bool, redb::Error> {
                if *key < old(evidence_epochs) {
                    return Ok(true);
                }
                let row = verdicts.get(place)?;
                let verdict = row.and_then(|row| Verdict::decode(row.value(), network).ok());
                Ok(verdict.is_none_or(|verdict| is_pass(&verdict)))
            };
            let mut gone = Vec::new();
            for row in cases.range::<&[u8; 40]>(..&old(PASS_PROOF_EPOCHS))? {
                let key = *row?.0.value();
                let place = places.get(&key)?.map(|place| *place.value());
                if place.is_none_or(|place| is_gone(&key, &place).unwrap_or(false)) {
                    gone.push(key);
                }
            }
            for key in gone {
                cases.remove(&key)?;
            }
            let mut over = Vec::new();
            for row in places.range::<&[u8; 40]>(..&old(evidence_epochs))? {
                let (key, place) = row?;
                over.push((*key.value(), *place.value()));
            }
            for (key, place) in over {
                places.remove(&key)?;
                verdicts.remove(&place)?;
                let mut hash = [0; 32];
                hash.copy_from_slice(&key[8..]);
                epochs.remove(&hash)?;
            }
            Ok(())
        })
    }
}

/// Whether a verdict reports nothing but passes.
fn is_pass(verdict: &Verdict) -> bool {
    verdict.body.results.iter().all(|result| result.outcome == Outcome::Pass)
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
