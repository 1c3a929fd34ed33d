//! New placement records on their way to the nodes that keep records: many
//! together, because finding those nodes takes longer than telling them.
//!
//! Nothing depends on their arrival but how soon a reader finds the new holders;
//! the old ones keep their shards meanwhile, and draining waits for it.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use echonet_protocol::{announcement::RecordKind, segment::SegmentId};
use tokio::sync::mpsc;

use crate::{core::Core, flow::discover};

/// Records that wait, at most; whoever has more waits.
const WAITING_MAX: usize = 512;
/// Records put together, at most.
const GROUP_MAX: usize = 64;

type Record = (SegmentId, Vec<u8>);

/// The way out.
#[derive(Debug)]
pub(crate) struct Outbox {
    records: mpsc::Sender<Record>,
    waiting: Mutex<Option<mpsc::Receiver<Record>>>,
    /// Records given in and not yet put.
    open: AtomicUsize,
}

impl Default for Outbox {
    fn default() -> Self {
        let (records, waiting) = mpsc::channel(WAITING_MAX);
        Self { records, waiting: Mutex::new(Some(waiting)), open: AtomicUsize::new(0) }
    }
}

impl Outbox {
    /// Has a record put.
    pub(super) async fn put(&self, segment: SegmentId, bytes: Vec<u8>) {
        self.open.fetch_add(1, Ordering::Relaxed);
        // Only at the end of the node there is nobody to take it.
        let _ = self.records.send((segment, bytes)).await;
    }

    /// Whether all were put.
    pub(super) fn is_empty(&self) -> bool {
        self.open.load(Ordering::Relaxed) == 0
    }
}

/// Puts records until the node stops.
pub(crate) async fn run(core: Arc<Core>) {
    let records = core.outbox.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(mut records) = records else { return };
    let mut group = Vec::new();
    while records.recv_many(&mut group, GROUP_MAX).await > 0 {
        let count = group.len();
        let named = group.drain(..).map(|(id, bytes)| (RecordKind::Placement, id.0, bytes));
        discover::put(&core, named.collect()).await;
        core.outbox.open.fetch_sub(count, Ordering::Relaxed);
    }
}
