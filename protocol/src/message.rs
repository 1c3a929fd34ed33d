//! Messages between two nodes over `/echonet/node/1` (SPEC.md, "Node
//! protocol"): one request a stream, postcard, enums growing at the end only.
//!
//! Bulk bytes never ride in a message; they follow it on the same stream.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_bytes::ByteBuf;

use crate::{
    agreement,
    announcement::{LiveCheck, RecordKind},
    audit,
    content_id::ContentId,
    identity::{NodeId, Signed},
    lease::{Grant, Lease, LeaseEnd, Receipt},
    list, membership,
    network::NetworkId,
    node_descriptor::NodeDescriptor,
    params,
    segment::{SegmentDescriptor, SegmentId},
    time::{Epoch, UnixSeconds},
};

/// A request with what every request says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// The network that the sender means.
    pub network: NetworkId,
    /// The sender's highest protocol version.
    pub version: u16,
    /// What is asked.
    pub request: Request,
}

/// What a node may ask another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Are you there; what epoch is it with you; here is who I am.
    Hello {
        /// The sender's epoch.
        epoch: Epoch,
        /// The sender's descriptor, unless it serves nothing.
        descriptor: Option<Signed<NodeDescriptor>>,
    },
    /// The genesis file.
    Genesis,
    /// Known nodes in ascending order of NodeID, after one.
    Members {
        /// The last one had already.
        after: Option<NodeId>,
    },
    /// Records kept under these ids (ContentIDs or SegmentIDs).
    GetRecords {
        /// Which kind.
        kind: RecordKind,
        /// At most [`params::BATCH_ITEMS_MAX`].
        #[serde(deserialize_with = "list::bounded::<{ params::LIST_ITEMS_MAX }, _, _>")]
        ids: Vec<[u8; 32]>,
    },
    /// Keep these records; encoded signed records.
    PutRecords {
        /// Kind and bytes, at most [`params::BATCH_ITEMS_MAX`].
        #[serde(deserialize_with = "list::bounded::<{ params::LIST_ITEMS_MAX }, _, _>")]
        records: Vec<(RecordKind, ByteBuf)>,
    },
    /// Keep this shard. After [`Response::Ready`] its bytes follow.
    StoreShard {
        /// The wish of its owner.
        lease: Signed<Lease>,
        /// The right to the space, where the lease names one.
        grant: Option<Signed<Grant>>,
        /// What the segment is.
        descriptor: SegmentDescriptor,
        /// Which shard of it.
        index: u8,
        /// Goes into the receipt.
        placement_version: u64,
    },
    /// Keep a shard that you have for this lease too.
    AddLease {
        /// The wish of its owner.
        lease: Signed<Lease>,
        /// The right to the space, where the lease names one.
        grant: Option<Signed<Grant>>,
        /// Which shard.
        index: u8,
        /// Goes into the receipt.
        placement_version: u64,
    },
    /// These placement records name you as holder: keep what they name for its
    /// whole term. Encoded placement records.
    Seal {
        /// At most [`params::BATCH_ITEMS_MAX`] and [`params::BATCH_BYTES_MAX`].
        #[serde(deserialize_with = "list::bounded::<{ params::LIST_ITEMS_MAX }, _, _>")]
        placements: Vec<ByteBuf>,
    },
    /// These leases of mine are over.
    EndLeases {
        /// At most [`params::BATCH_ITEMS_MAX`].
        #[serde(deserialize_with = "list::bounded::<{ params::LIST_ITEMS_MAX }, _, _>")]
        ends: Vec<Signed<LeaseEnd>>,
    },
    /// Which of these shards do you have?
    HasShards {
        /// At most [`params::BATCH_ITEMS_MAX`].
        #[serde(deserialize_with = "list::bounded::<{ params::LIST_ITEMS_MAX }, _, _>")]
        shards: Vec<(SegmentId, u8)>,
    },
    /// A range of a shard, as a verified slice; its bytes follow
    /// [`Response::Slice`].
    GetShard {
        /// The segment.
        segment: SegmentId,
        /// Which shard of it.
        index: u8,
        /// The range and its form.
        slice: SliceSpec,
    },
    /// A range of a content that you have in full, as a verified slice.
    GetContent {
        /// The content.
        content: ContentId,
        /// The range and its form.
        slice: SliceSpec,
    },
    /// May I have a grant?
    RequestGrant {
        /// Stored bytes times epochs.
        byte_epochs: u64,
        /// First epoch in which it is worth nothing.
        until: Epoch,
    },
    /// Check that this content is there, starting from its ContentID alone.
    CheckLive {
        /// The content.
        content: ContentId,
        /// The segments to check rows of; at most [`params::BATCH_ITEMS_MAX`].
        #[serde(deserialize_with = "list::bounded::<{ params::LIST_ITEMS_MAX }, _, _>")]
        segments: Vec<SegmentId>,
        /// How many MiB of content to read through random k-subsets.
        mib: u32,
    },
    /// Are you there, or is another; and what is known of members (SPEC.md, "Membership").
    Membership(membership::Ask),
    /// Holders of a placement agreeing on its next version.
    Agree(Box<agreement::Ask>),
    /// Between witnesses, holders and keepers of records; SPEC_WITNESS.md.
    Witness(audit::Ask),
}

/// Which bytes, and in groups of how many leaves they are proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SliceSpec {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// A group has 2^group_log leaves of 1,024 bytes.
    pub group_log: u8,
}

impl SliceSpec {
    /// A `group_log` for all of it, as one group of any length: just the bytes, which the receiver
    /// checks by their hash.
    pub const WHOLE: u8 = u8::MAX;
}

/// What a node answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// No, and why.
    Refused(Refusal),
    /// The request is of a later version.
    Unsupported {
        /// The highest version known here.
        max: u16,
    },
    /// Answer to [`Request::Hello`].
    Hello {
        /// The answerer's epoch.
        epoch: Epoch,
        /// Its clock.
        now: UnixSeconds,
        /// Its descriptor, unless it serves nothing.
        descriptor: Option<Signed<NodeDescriptor>>,
    },
    /// Answer to [`Request::Genesis`].
    Genesis(ByteBuf),
    /// Answer to [`Request::Members`].
    Members {
        /// In ascending order of NodeID.
        #[serde(deserialize_with = "list::bounded::<{ params::LIST_ITEMS_MAX }, _, _>")]
        descriptors: Vec<Signed<NodeDescriptor>>,
        /// Whether there are more after the last.
        more: bool,
    },
    /// Answer to [`Request::GetRecords`]: the records, and how many of the ids
    /// were looked at (the rest is to be asked for again).
    Records {
        /// Encoded signed records.
        #[serde(deserialize_with = "list::bounded::<{ params::LIST_ITEMS_MAX }, _, _>")]
        records: Vec<ByteBuf>,
        /// Ids looked at, from the first.
        looked_at: u16,
    },
    /// Answer to [`Request::PutRecords`]: per record, none when kept, else why
    /// not.
    Put(
        #[serde(deserialize_with = "list::bounded::<{ params::LIST_ITEMS_MAX }, _, _>")]
        Vec<Option<String>>,
    ),
    /// To [`Request::StoreShard`]: send the shard's bytes. To [`Request::CheckLive`]: begun, the
    /// answer follows on this stream.
    Ready,
    /// The shard is durable.
    Receipt(Signed<Receipt>),
    /// Answer to [`Request::Seal`] and [`Request::EndLeases`]: how many took
    /// effect, durably.
    Done(u16),
    /// Answer to [`Request::HasShards`], in the order asked.
    Has(#[serde(deserialize_with = "list::bounded::<{ params::LIST_ITEMS_MAX }, _, _>")] Vec<bool>),
    /// The encoded slice follows.
    Slice {
        /// Bytes of the shard or content.
        total: u64,
        /// Bytes that follow.
        encoded: u64,
    },
    /// Answer to [`Request::RequestGrant`].
    Grant(Signed<Grant>),
    /// Answer to [`Request::CheckLive`].
    Live(Signed<LiveCheck>),
    /// Answer to [`Request::Membership`].
    Membership(membership::Answer),
    /// Answer to [`Request::Agree`].
    Agree(Box<agreement::Answer>),
    /// Answer to [`Request::Witness`].
    Witness(audit::Answer),
}

/// A refusal: a code for programs, words for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    /// What kind.
    pub code: RefusalCode,
    /// What happened, to what, and what to do next.
    pub reason: String,
}

impl Refusal {
    /// A refusal; the reason is cut at [`params::REASON_BYTES_MAX`].
    #[must_use]
    pub fn new(code: RefusalCode, reason: impl std::fmt::Display) -> Self {
        let mut reason = reason.to_string();
        let mut end = reason.len().min(params::REASON_BYTES_MAX);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        reason.truncate(end);
        Self { code, reason }
    }
}

/// Kinds of refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefusalCode {
    /// Another network.
    WrongNetwork,
    /// Malformed, out of bounds, or a signature that does not verify.
    Invalid,
    /// Not here.
    NotFound,
    /// Too many requests or too much at once; later perhaps.
    Busy,
    /// No space, or quota reached.
    Full,
    /// No grant, an unknown issuer, or a grant used up.
    NotGranted,
    /// This node does not do that.
    NotMyRole,
    /// An error of this node's own.
    Internal,
    /// The segment is proven not to be a codeword.
    Inconsistent,
    /// The lease is over or was never here.
    NoLease,
}

/// Bytes of a message.
///
/// # Panics
/// Never: these types always encode, and memory does not fail.
#[must_use]
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    postcard::to_stdvec(message).expect("messages always encode")
}

/// Why a frame is not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Longer than allowed.
    #[error("a message of {len} bytes; at most {max} are allowed")]
    TooLong {
        /// Bytes given.
        len: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// Not a message of this version.
    #[error("not a message of a protocol version known here: {0}")]
    Malformed(String),
}

fn decode<T: Serialize + DeserializeOwned>(bytes: &[u8], max: usize) -> Result<T, MessageError> {
    if bytes.len() > max {
        return Err(MessageError::TooLong { len: bytes.len(), max });
    }
    let (message, rest) =
        postcard::take_from_bytes(bytes).map_err(|e| MessageError::Malformed(e.to_string()))?;
    if !rest.is_empty() {
        return Err(MessageError::Malformed(format!("{} bytes too many", rest.len())));
    }
    // Postcard itself takes numbers with needless bytes.
    if encode(&message) != bytes {
        return Err(MessageError::Malformed("not in its shortest form".to_owned()));
    }
    Ok(message)
}

/// Reads a request frame.
///
/// # Errors
/// [`MessageError`] when too long or not a request.
pub fn decode_request(bytes: &[u8]) -> Result<Envelope, MessageError> {
    decode(bytes, params::REQUEST_BYTES_MAX)
}

/// Reads a response frame.
///
/// # Errors
/// [`MessageError`] when too long or not a response.
pub fn decode_response(bytes: &[u8]) -> Result<Response, MessageError> {
    decode(bytes, params::RESPONSE_BYTES_MAX)
}
