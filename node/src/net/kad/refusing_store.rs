//! The record store that kad is given: it holds nothing and refuses everything.
//!
//! Records travel over `/echonet/node/1` into our own store. With kad's own store any peer could
//! overwrite any key, and with its record filter the sender would be told "stored" for something
//! that was dropped. A refusal from here resets the sender's stream, so nobody is lied to.

use std::{borrow::Cow, iter};

use libp2p_identity::PeerId;
use libp2p_kad::{
    ProviderRecord, Record, RecordKey,
    store::{Error, RecordStore, Result},
};

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct RefusingStore;

impl RecordStore for RefusingStore {
    type RecordsIter<'a> = iter::Empty<Cow<'a, Record>>;
    type ProvidedIter<'a> = iter::Empty<Cow<'a, ProviderRecord>>;

    fn get(&self, _: &RecordKey) -> Option<Cow<'_, Record>> {
        None
    }

    fn put(&mut self, _: Record) -> Result<()> {
        Err(Error::MaxRecords)
    }

    fn remove(&mut self, _: &RecordKey) {}

    fn records(&self) -> Self::RecordsIter<'_> {
        iter::empty()
    }

    fn add_provider(&mut self, _: ProviderRecord) -> Result<()> {
        Err(Error::MaxProvidedKeys)
    }

    fn providers(&self, _: &RecordKey) -> Vec<ProviderRecord> {
        Vec::new()
    }

    fn provided(&self) -> Self::ProvidedIter<'_> {
        iter::empty()
    }

    fn remove_provider(&mut self, _: &RecordKey, _: &PeerId) {}
}
