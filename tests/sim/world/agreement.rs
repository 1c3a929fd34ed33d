//! Stands in for the agreement of holders: it knows everything and commits at most
//! one next version, where enough holders of the one before could be asked.

use std::{collections::BTreeMap, rc::Rc};

use echonet_protocol::machine::Millis;

use super::setup::Record;

/// A claim that is not used any more is over after so long.
const CLAIM_MS: u64 = 30_000;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Oracle {
    newest: BTreeMap<usize, Rc<Record>>,
    /// Who is at which version, until when.
    claims: BTreeMap<usize, (usize, u64, Millis)>,
}

/// What somebody who wants to follow a version is told.
#[derive(Debug, Clone)]
pub(super) enum Answer {
    Granted,
    /// There is a newer version.
    Newer(Rc<Record>),
    /// Another holder is at it.
    Busy,
    /// Too few holders could be asked.
    Few,
}

impl Oracle {
    pub(super) fn begin(&mut self, record: Rc<Record>) {
        self.newest.insert(record.placement, record);
    }

    /// Somebody wants to work on the version after this one, for a while.
    pub(super) fn claim(
        &mut self,
        now: Millis,
        record: &Record,
        who: usize,
        live: usize,
        quorum: usize,
    ) -> Answer {
        if let Some(answer) = self.refused(record, live, quorum) {
            return answer;
        }
        match self.claims.get(&record.placement) {
            Some((other, version, until))
                if *version == record.version && *other != who && now < *until =>
            {
                Answer::Busy
            }
            _ => {
                let claim = (who, record.version, now.after(CLAIM_MS));
                self.claims.insert(record.placement, claim);
                Answer::Granted
            }
        }
    }

    /// Who claimed it does not go on.
    pub(super) fn release(&mut self, placement: usize, who: usize) {
        if self.claims.get(&placement).is_some_and(|(other, ..)| *other == who) {
            self.claims.remove(&placement);
        }
    }

    /// The version after `record`.
    pub(super) fn commit(
        &mut self,
        record: &Record,
        next: &Rc<Record>,
        live: usize,
        quorum: usize,
    ) -> Answer {
        if let Some(answer) = self.refused(record, live, quorum) {
            return answer;
        }
        self.newest.insert(record.placement, Rc::clone(next));
        self.claims.remove(&record.placement);
        Answer::Granted
    }

    fn refused(&self, record: &Record, live: usize, quorum: usize) -> Option<Answer> {
        if live < quorum {
            return Some(Answer::Few);
        }
        let newest = self.newest.get(&record.placement)?;
        newest.wins_over(record).then(|| Answer::Newer(Rc::clone(newest)))
    }
}
