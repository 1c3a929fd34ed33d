//! The flows: what the protocol's machines decide, carried out with real
//! effects.

pub mod adopt;
pub mod discover;
pub mod driver;
pub mod endings;
pub mod fetch;
pub mod issuers;
pub mod join;
pub mod live;
pub mod maintain;
pub mod publish;
pub mod status;
pub mod unpublish;
pub mod votes;
