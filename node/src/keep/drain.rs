//! Draining: every shard is handed over by copy, and the node takes no new ones.

use std::{sync::Arc, time::Duration};

use super::Event;
use crate::{
    core::Core,
    service::{Drained, Progress, ProgressSender, ServiceError, ServiceResult},
};

/// How often it is looked how far the draining is.
const LOOK: Duration = Duration::from_millis(300);
/// Without a single shard handed over for so long, it is said that it does not go on.
const STUCK_MAX: Duration = Duration::from_secs(120);

/// Hands over everything this node holds; returns once others answer for all of it.
///
/// # Errors
/// `unavailable` where nobody takes what is left; what was handed over stays so.
pub(crate) async fn drain(core: &Arc<Core>, progress: ProgressSender) -> ServiceResult<Drained> {
    if core.vault.is_none() {
        let text = "this node holds no shards for others: it can be ended at any time";
        return Err(ServiceError::new("invalid", text));
    }
    let before = core.keep.status();
    core.keep.start_draining();
    core.keep.tell(Event::Drain).await;
    let (mut last, mut stuck) = (u64::MAX, Duration::ZERO);
    loop {
        tokio::time::sleep(LOOK).await;
        let status = core.keep.status();
        let done = status.handed_over_shards - before.handed_over_shards;
        // The driver told what is left after it was told to drain.
        if status.segments == 0 && core.keep.has_settled() && core.outbox.is_empty() {
            let bytes = status.handed_over_bytes - before.handed_over_bytes;
            return Ok(Drained { shards: done, bytes });
        }
        let _ = progress.try_send(Progress::Draining { left: status.segments, done });
        stuck = if status.segments < last { Duration::ZERO } else { stuck + LOOK };
        last = status.segments;
        if stuck > STUCK_MAX {
            let text = format!(
                "{last} shards are left that nobody took for {} s; this node goes on trying: leave \
                 it running, see `echonet status`, and add nodes or wait for others to come back",
                STUCK_MAX.as_secs()
            );
            return Err(ServiceError::new("unavailable", text));
        }
    }
}
