//! Publishing: state machines from coded segments to a work that is *live*
//! (design 5).
//!
//! [`SegmentStore`] gets one segment's shards to distinct holders;
//! [`Publish`] keeps the order of the whole: nothing is announced before every
//! segment, the manifest's included, is held, sealed and recorded. Neither sends
//! a byte or verifies a signature: that is the driver's.

mod seal;
mod segment_store;
mod store_types;
mod work;
mod work_types;

pub use segment_store::SegmentStore;
pub use store_types::{
    MissingShard, NotStored, StoreConfig, StoreInput, StoreOutput, Stored, Trouble, Troubles,
};
pub use work::Publish;
pub use work_types::{
    PublishConfig, PublishFailure, PublishInput, PublishOutcome, PublishOutput, PublishStage,
    StoredSegment,
};
