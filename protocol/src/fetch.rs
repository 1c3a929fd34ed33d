//! Fetching: state machines from announcements to verified bytes (design 6).
//!
//! [`ManifestRace`] finds a manifest to believe; [`SegmentFetch`] gets one range
//! of one segment from its holders, and finds out who is at fault when it
//! cannot. Neither sees a byte: the driver verifies, rebuilds and reports.

mod doubt;
mod race;
mod race_types;
mod segment;
mod sources;
mod types;

pub use race::{ManifestRace, mib_to_check};
pub use race_types::{ManifestCandidate, RaceConfig, RaceFailure, RaceInput, RaceOutput, Trust};
pub use segment::SegmentFetch;
pub use types::{
    DecodeResult, Evidence, FailureCause, Fault, FetchConfig, FetchFailure, FetchInput,
    FetchOutput, FetchRequest, Holder,
};
