//! What members ask each other. Every message carries a few claims.

use serde::{Deserialize, Serialize};

use super::claim::Claim;
use crate::{
    identity::{NodeId, Signed},
    list, params,
};

/// A question between members; enums grow at the end only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// Are you there?
    Ping {
        /// At most [`params::CLAIMS_MAX`].
        #[serde(deserialize_with = "list::bounded::<{ params::CLAIMS_MAX }, _, _>")]
        claims: Vec<Signed<Claim>>,
    },
    /// Is that node there? I got no answer.
    PingFor {
        /// Whom to ask.
        node: NodeId,
        /// At most [`params::CLAIMS_MAX`].
        #[serde(deserialize_with = "list::bounded::<{ params::CLAIMS_MAX }, _, _>")]
        claims: Vec<Signed<Claim>>,
    },
}

/// The answer; enums grow at the end only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// To [`Ask::Ping`]: here.
    Pong {
        /// At most [`params::CLAIMS_MAX`], the answerer's own word first.
        #[serde(deserialize_with = "list::bounded::<{ params::CLAIMS_MAX }, _, _>")]
        claims: Vec<Signed<Claim>>,
    },
    /// To [`Ask::PingFor`].
    Tried {
        /// Whether the node answered here in time; then its fresh word is among
        /// the claims, without which this is worth nothing. False too when this
        /// node was too busy to try.
        reached: bool,
        /// At most [`params::CLAIMS_MAX`].
        #[serde(deserialize_with = "list::bounded::<{ params::CLAIMS_MAX }, _, _>")]
        claims: Vec<Signed<Claim>>,
    },
}

impl Ask {
    /// The claims that it carries.
    #[must_use]
    pub fn claims(&self) -> &[Signed<Claim>] {
        match self {
            Self::Ping { claims } | Self::PingFor { claims, .. } => claims,
        }
    }
}

impl Answer {
    /// The claims that it carries.
    #[must_use]
    pub fn claims(&self) -> &[Signed<Claim>] {
        match self {
            Self::Pong { claims } | Self::Tried { claims, .. } => claims,
        }
    }
}
