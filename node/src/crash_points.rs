//! The named places outside of the vault where a test can have this process
//! killed (`ECHONET_CRASH_AT`), to prove that a crash there loses nothing.

/// In the order in which a publish passes them, then a holder, then an unpublish.
pub const NODE_CRASH_POINTS: [&str; 15] = [
    "publish.imported",
    "publish.begun",
    "publish.segment.coded",
    "publish.segment.journaled",
    "publish.segment.stored",
    "publish.stored",
    "publish.seal.before",
    "publish.records.before",
    "publish.announce.before",
    "publish.live.before",
    "publish.announced",
    "publish.remembered",
    "holder.receipt.before",
    "unpublish.withdrawn",
    "unpublish.ended",
];
