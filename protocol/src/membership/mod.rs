//! Who is there (SPEC.md, "Membership"): SWIM among the nodes that keep things,
//! with signed claims; and each keeper's own probing of the nodes it depends on.
//!
//! [`Membership`] spreads what is known and asks members in turn; what others
//! say is a hint to ask, never a fact. [`Prober`] watches the holders of one's
//! own segments: only what it found itself may begin a repair. Neither opens a
//! connection or reads a clock.

mod claim;
mod hearing;
mod machine;
mod member;
mod members;
mod messages;
mod news;
mod pace;
mod prober;
mod prober_types;
mod probing;
mod types;
mod watched;

pub use claim::{Claim, DiskHealth, Life};
pub use machine::Membership;
pub use messages::{Answer, Ask};
pub use pace::Pace;
pub use prober::Prober;
pub use prober_types::{Health, ProbeResult, ProberInput, ProberOutput, ProberSizes};
pub use types::{Evidence, MembershipInput, MembershipOutput, MembershipStart, Sizes, View};
