//! What simulated nodes say to one another and to the judges.

use std::rc::Rc;

use echonet_protocol::{
    agreement::{Answer, Ask},
    identity::{NodeId, Signed},
    lease, membership,
};

use super::setup::Record;

/// What a reader gets for a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bytes {
    /// Those that its hash names.
    Right,
    /// Others: the reader notices.
    Wrong,
    /// None: the holder says that it has no such shard.
    Absent,
}

/// Between nodes. Segments, placements and nodes are named by their numbers.
#[derive(Debug, Clone)]
pub(super) enum Message {
    /// A probe.
    Ping { nonce: u64 },
    /// Its answer.
    Pong { nonce: u64 },
    /// Which of these shards do you have? Which records the asker goes by rides along: in place
    /// of a record its hash and sequence.
    Ask { shards: Rc<Vec<(usize, u8)>>, versions: Rc<Vec<Rc<Record>>> },
    /// A node's own word about shards.
    Has(Rc<Vec<(usize, u8, bool)>>),
    /// Tell me your newest record of this placement.
    Tell { placement: usize },
    /// Here is a record; what it is worth, it proves itself.
    Record(Rc<Record>),
    /// Send me a shard.
    Read { nonce: u64, segment: usize, index: u8 },
    /// A shard that was asked for.
    Shard { nonce: u64, index: u8, bytes: Bytes },
    /// Keep this shard, for the version after this record.
    Put { nonce: u64, record: Rc<Record>, index: u8, is_right: bool },
    /// It is durable, or it was refused.
    Receipt { nonce: u64, index: u8, is_kept: bool, receipt: Option<Rc<Signed<lease::Receipt>>> },
    /// A proposer asks a holder.
    Vote { nonce: u64, ask: Rc<Ask> },
    /// The holder's word, durable.
    Voted { nonce: u64, answer: Rc<Answer> },
    /// A member asks another, under its own number.
    Swim { id: u64, ask: Rc<membership::Ask> },
    /// The answer.
    Swum { id: u64, answer: Rc<membership::Answer> },
    /// These nodes joined, somebody says.
    Introduce(Rc<Vec<NodeId>>),
}

/// To the judges.
#[derive(Debug, Clone)]
pub(super) enum Notice {
    /// A shard became durable.
    Stored { segment: usize, index: u8, is_right: bool },
    /// A node deleted a shard of its own accord.
    Removed { segment: usize, index: u8 },
    /// The holders agreed on a version.
    Committed(Rc<Record>),
    /// A node takes this for the newest version.
    Learned(Rc<Record>),
    /// A task began; which of the holders that are to be replaced the node takes for gone.
    Began { placement: usize, what: &'static str, gone: Vec<usize> },
    /// A task ended.
    Ended { placement: usize, how: &'static str, bytes: u64, replaced: usize },
    /// The others did not go along.
    Refused { placement: usize, why: String },
    /// More bytes are kept than the owner of the disk allowed.
    OverQuota,
    /// A member found another down.
    FoundDown { node: usize },
    /// Somebody said something about a member, which is therefore probed.
    Hinted,
}
