//! Asking other nodes: one typed call per request of the node protocol.
//!
//! Every answer is checked for its kind here and for its meaning by the caller;
//! shard and content bytes are verified before this module returns them.

mod answers;

use std::{
    future::Future,
    time::{Duration, Instant},
};

use bytes::Bytes;
use echonet_protocol::{
    agreement,
    announcement::{LiveCheck, RecordKind},
    audit,
    content_id::ContentId,
    data::verified::{SliceDecoder, SliceError, slice_len},
    identity::{NodeId, Signed},
    lease::{Grant, Lease, LeaseEnd, Receipt},
    membership::{Answer, Ask},
    message::{self, Envelope, Refusal, Request, Response, SliceSpec},
    network::NetworkId,
    node_descriptor::NodeDescriptor,
    params,
    segment::{SegmentDescriptor, SegmentId},
    time::{Epoch, UnixSeconds},
};

use self::answers::{broken, done, finish, parse, receipt, senseless, unreachable};
use crate::net::{
    address::NodeAddr,
    node_protocol::{pool::ConnectionPool, stream::NodeStream},
};

/// Bulk bytes read or written at once.
const BULK_STEP_BYTES: usize = 256 * 1024;
/// Longest wait for a small answer.
const CALL_MS_MAX: u64 = 8_000;

/// Why a call brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The node was not reached, or the exchange broke off.
    #[error("{node} was not reached: {reason}")]
    Unreachable {
        /// Which node.
        node: NodeId,
        /// What happened.
        reason: String,
    },
    /// The node said no.
    #[error("{node} refused: {refusal}")]
    Refused {
        /// Which node.
        node: NodeId,
        /// Its words.
        refusal: Refusal,
    },
    /// The node's bytes do not verify: its fault.
    #[error("{node} sent bytes that do not verify: {reason}")]
    Corrupt {
        /// Which node.
        node: NodeId,
        /// What does not verify.
        reason: String,
    },
    /// The answer is of another kind, or of a later version.
    #[error("{node} gave an answer that makes no sense here: {reason}")]
    Senseless {
        /// Which node.
        node: NodeId,
        /// What came.
        reason: String,
    },
}

impl CallError {
    /// The refusal, where the node said no.
    #[must_use]
    pub const fn refusal(&self) -> Option<&Refusal> {
        if let Self::Refused { refusal, .. } = self { Some(refusal) } else { None }
    }
}

/// What a `Hello` brought.
#[derive(Debug, Clone)]
pub struct HelloAnswer {
    /// The other's epoch.
    pub epoch: Epoch,
    /// Its clock.
    pub now: UnixSeconds,
    /// Its descriptor, not yet verified.
    pub descriptor: Option<Signed<NodeDescriptor>>,
}

/// A lease with the grant it names.
#[derive(Debug, Clone)]
pub struct LeaseClaim {
    /// The owner's wish.
    pub lease: Signed<Lease>,
    /// The right to the space.
    pub grant: Option<Signed<Grant>>,
}

/// What is fetched by a slice, and how it is verified.
#[derive(Debug, Clone, Copy)]
pub struct SliceWanted {
    /// BLAKE3 root of the whole.
    pub root: [u8; 32],
    /// Bytes of the whole.
    pub total: u64,
    /// The range and its form.
    pub spec: SliceSpec,
}

impl SliceWanted {
    /// All of a whole of `total` bytes with hash `root`, without a tree.
    #[must_use]
    pub const fn whole(root: [u8; 32], total: u64) -> Self {
        let spec = SliceSpec { offset: 0, length: total, group_log: SliceSpec::WHOLE };
        Self { root, total, spec }
    }
}

/// Makes calls in one network.
#[derive(Debug, Clone)]
pub struct Client {
    pool: ConnectionPool,
    network: NetworkId,
}

impl Client {
    /// A client over a pool.
    #[must_use]
    pub const fn new(pool: ConnectionPool, network: NetworkId) -> Self {
        Self { pool, network }
    }

    async fn exchange(
        &self,
        node: &NodeId,
        request: Request,
    ) -> Result<(Response, NodeStream), CallError> {
        let version = params::NODE_PROTOCOL_VERSION;
        let envelope = Envelope { network: self.network, version, request };
        // What a node answers from memory, or nearly so, shows whether it is there.
        let is_quick = is_quick(&envelope.request);
        let question = is_quick.then(|| self.pool.silence().ask(&node.0, Instant::now()));
        let bytes = message::encode(&envelope);
        let hint = NodeAddr::default();
        let sent = self.pool.request(&node.0, &hint, &bytes, params::RESPONSE_BYTES_MAX).await;
        let (frame, stream) = sent.map_err(|e| unreachable(node, &e))?;
        if let Some(question) = question {
            question.answered();
        }
        Ok((parse(node, &frame)?, stream))
    }

    /// A request that is answered with one frame.
    async fn call(&self, node: &NodeId, request: Request) -> Result<Response, CallError> {
        let call = async {
            let (response, mut stream) = self.exchange(node, request).await?;
            finish(&mut stream);
            Ok(response)
        };
        within(node, CALL_MS_MAX, call).await
    }

    /// Has a connection ready for when it is needed.
    pub fn warm(&self, node: &NodeId) {
        self.pool.warm(&node.0);
    }

    /// Whether a node left a question open for longer than others take, lately or now.
    #[must_use]
    pub fn is_silent(&self, node: &NodeId) -> bool {
        self.pool.silence().is_silent(&node.0, Instant::now())
    }

    /// How long a node has to begin its answer before it is late.
    #[must_use]
    pub fn patience_ms(&self) -> u64 {
        self.pool.silence().patience_ms()
    }

    /// Are you there; here is who I am.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn hello(
        &self,
        node: &NodeId,
        epoch: Epoch,
        descriptor: Option<Signed<NodeDescriptor>>,
    ) -> Result<HelloAnswer, CallError> {
        match self.call(node, Request::Hello { epoch, descriptor }).await? {
            Response::Hello { epoch, now, descriptor } => {
                Ok(HelloAnswer { epoch, now, descriptor })
            }
            other => Err(senseless(node, &other)),
        }
    }

    /// The genesis file's bytes; the caller checks their hash.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn genesis(&self, node: &NodeId) -> Result<Vec<u8>, CallError> {
        match self.call(node, Request::Genesis).await? {
            Response::Genesis(bytes) => Ok(bytes.into_vec()),
            other => Err(senseless(node, &other)),
        }
    }

    /// A page of the nodes that a node knows, unverified, and whether there are more.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn members(
        &self,
        node: &NodeId,
        after: Option<NodeId>,
    ) -> Result<(Vec<Signed<NodeDescriptor>>, bool), CallError> {
        match self.call(node, Request::Members { after }).await? {
            Response::Members { descriptors, more } => Ok((descriptors, more)),
            other => Err(senseless(node, &other)),
        }
    }

    /// Encoded records kept under ids, unverified, and how many ids were looked at.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn get_records(
        &self,
        node: &NodeId,
        kind: RecordKind,
        ids: Vec<[u8; 32]>,
    ) -> Result<(Vec<Vec<u8>>, usize), CallError> {
        match self.call(node, Request::GetRecords { kind, ids }).await? {
            Response::Records { records, looked_at } => {
                Ok((records.into_iter().map(|r| r.into_vec()).collect(), looked_at.into()))
            }
            other => Err(senseless(node, &other)),
        }
    }

    /// Asks a node to keep records; per record, none when kept, else why not.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn put_records(
        &self,
        node: &NodeId,
        records: Vec<(RecordKind, Vec<u8>)>,
    ) -> Result<Vec<Option<String>>, CallError> {
        let records = records.into_iter().map(|(kind, bytes)| (kind, bytes.into())).collect();
        match self.call(node, Request::PutRecords { records }).await? {
            Response::Put(outcomes) => Ok(outcomes),
            other => Err(senseless(node, &other)),
        }
    }

    /// Sends a shard; its receipt comes back, unverified.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn store_shard(
        &self,
        node: &NodeId,
        claim: &LeaseClaim,
        descriptor: &SegmentDescriptor,
        index: u8,
        placement_version: u64,
        shard: Bytes,
    ) -> Result<Signed<Receipt>, CallError> {
        let request = Request::StoreShard {
            lease: claim.lease.clone(),
            grant: claim.grant.clone(),
            descriptor: descriptor.clone(),
            index,
            placement_version,
        };
        let (response, mut stream) = self.exchange(node, request).await?;
        let response = match response {
            Response::Ready => {
                stream.write_all(shard).await.map_err(|e| broken(node, &e))?;
                finish(&mut stream);
                let frame = stream.read_frame(params::RESPONSE_BYTES_MAX).await;
                parse(node, &frame.map_err(|e| broken(node, &e))?)?
            }
            other => other,
        };
        receipt(node, response)
    }

    /// Asks for a receipt for a shard that the node has already.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn add_lease(
        &self,
        node: &NodeId,
        claim: &LeaseClaim,
        index: u8,
        placement_version: u64,
    ) -> Result<Signed<Receipt>, CallError> {
        let LeaseClaim { lease, grant } = claim.clone();
        receipt(
            node,
            self.call(node, Request::AddLease { lease, grant, index, placement_version }).await?,
        )
    }

    /// Hands a holder the placement records that name it; how many it keeps, durably.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn seal(&self, node: &NodeId, placements: Vec<Vec<u8>>) -> Result<usize, CallError> {
        let placements = placements.into_iter().map(Into::into).collect();
        done(node, self.call(node, Request::Seal { placements }).await?)
    }

    /// Ends leases; how many took effect, durably.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn end_leases(
        &self,
        node: &NodeId,
        ends: Vec<Signed<LeaseEnd>>,
    ) -> Result<usize, CallError> {
        done(node, self.call(node, Request::EndLeases { ends }).await?)
    }

    /// Which of these shards a node says it has.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn has_shards(
        &self,
        node: &NodeId,
        shards: Vec<(SegmentId, u8)>,
    ) -> Result<Vec<bool>, CallError> {
        let asked = shards.len();
        match self.call(node, Request::HasShards { shards }).await? {
            Response::Has(has) if has.len() == asked => Ok(has),
            other => Err(senseless(node, &other)),
        }
    }

    /// A question between holders of a placement; nothing in the answer is verified yet.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn agree(
        &self,
        node: &NodeId,
        ask: agreement::Ask,
    ) -> Result<agreement::Answer, CallError> {
        match self.call(node, Request::Agree(Box::new(ask))).await? {
            Response::Agree(answer) => Ok(*answer),
            other => Err(senseless(node, &other)),
        }
    }

    /// A question between members; nothing in the answer is verified yet.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn membership(&self, node: &NodeId, ask: Ask) -> Result<Answer, CallError> {
        match self.call(node, Request::Membership(ask)).await? {
            Response::Membership(answer) => Ok(answer),
            other => Err(senseless(node, &other)),
        }
    }

    /// A question about audits; the answer is not yet verified.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn witness(
        &self,
        node: &NodeId,
        ask: audit::Ask,
    ) -> Result<audit::Answer, CallError> {
        match self.call(node, Request::Witness(ask)).await? {
            Response::Witness(answer) => Ok(answer),
            other => Err(senseless(node, &other)),
        }
    }

    /// Asks an issuer for a grant; not yet verified.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn request_grant(
        &self,
        node: &NodeId,
        byte_epochs: u64,
        until: Epoch,
    ) -> Result<Signed<Grant>, CallError> {
        match self.call(node, Request::RequestGrant { byte_epochs, until }).await? {
            Response::Grant(grant) => Ok(grant),
            other => Err(senseless(node, &other)),
        }
    }

    /// Asks a node that took no part to check a work; not yet verified.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn check_live(
        &self,
        node: &NodeId,
        content: ContentId,
        segments: Vec<SegmentId>,
        mib: u32,
        patience: Duration,
    ) -> Result<Signed<LiveCheck>, CallError> {
        let ask = async {
            let request = Request::CheckLive { content, segments, mib };
            let (response, mut stream) = self.exchange(node, request).await?;
            finish(&mut stream);
            match response {
                Response::Ready => {
                    let frame =
                        stream.read_frame_within(params::RESPONSE_BYTES_MAX, patience).await;
                    parse(node, &frame.map_err(|e| broken(node, &e))?)
                }
                other => Ok(other),
            }
        };
        let patience_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        match within(node, patience_ms, ask).await? {
            Response::Live(check) => Ok(check),
            other => Err(senseless(node, &other)),
        }
    }

    /// Fetches a verified range of a shard into `out`, which has the range's length. `on_answer`
    /// is called once the node begins to answer.
    ///
    /// # Errors
    /// [`CallError`]; `out` holds nothing to be used then.
    pub async fn get_shard(
        &self,
        node: &NodeId,
        shard: (SegmentId, u8),
        wanted: SliceWanted,
        out: &mut [u8],
        on_answer: impl FnOnce() + Send,
    ) -> Result<(), CallError> {
        let (segment, index) = shard;
        let request = Request::GetShard { segment, index, slice: wanted.spec };
        let (response, stream) = self.exchange(node, request).await?;
        on_answer();
        receive_slice(node, response, stream, wanted, out).await
    }

    /// How long a node says that a content is: not proven by anything yet.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn content_length_claim(
        &self,
        node: &NodeId,
        content: ContentId,
    ) -> Result<u64, CallError> {
        let slice = SliceSpec { offset: 0, length: 1, group_log: 0 };
        match self.exchange(node, Request::GetContent { content, slice }).await?.0 {
            Response::Slice { total, .. } => Ok(total),
            other => Err(senseless(node, &other)),
        }
    }

    /// Fetches a verified range of a content from a full copy.
    ///
    /// # Errors
    /// [`CallError`]; `out` holds nothing to be used then.
    pub async fn get_content(
        &self,
        node: &NodeId,
        content: ContentId,
        wanted: SliceWanted,
        out: &mut [u8],
    ) -> Result<(), CallError> {
        let request = Request::GetContent { content, slice: wanted.spec };
        let (response, stream) = self.exchange(node, request).await?;
        receive_slice(node, response, stream, wanted, out).await
    }
}

/// Whether a node answers this at once: without waiting for its disk, or for others.
const fn is_quick(request: &Request) -> bool {
    matches!(
        request,
        Request::Hello { .. }
            | Request::Genesis
            | Request::Members { .. }
            | Request::GetRecords { .. }
            | Request::GetShard { .. }
            | Request::GetContent { .. }
    )
}

async fn receive_slice(
    node: &NodeId,
    response: Response,
    mut stream: NodeStream,
    wanted: SliceWanted,
    out: &mut [u8],
) -> Result<(), CallError> {
    let SliceWanted { root, total, spec } = wanted;
    let range = spec.offset..spec.offset + spec.length;
    assert_eq!(out.len() as u64, spec.length, "a buffer of another length than the range");
    let Response::Slice { total: said_total, encoded } = response else {
        return Err(senseless(node, &response));
    };
    let corrupt = |reason: String| CallError::Corrupt { node: *node, reason };
    if said_total != total {
        return Err(corrupt(format!("a whole of {said_total} bytes, not {total}")));
    }
    if spec.group_log == SliceSpec::WHOLE {
        if encoded != total {
            return Err(corrupt(format!("{encoded} bytes for a whole of {total}")));
        }
        for part in out.chunks_mut(BULK_STEP_BYTES) {
            stream.read_exact(part).await.map_err(|e| broken(node, &e))?;
            // Lets the connection's driver run between large reads: without it one stream gets
            // less than half of the throughput.
            tokio::task::yield_now().await;
        }
        let found = blake3::hash(out);
        let is_same = found.as_bytes() == &root;
        return if is_same { Ok(()) } else { Err(corrupt("another hash".into())) };
    }
    let bad = |e: SliceError| corrupt(e.to_string());
    let expected =
        slice_len(total, range.clone(), spec.group_log).map_err(|e| corrupt(e.to_string()))?;
    if encoded != expected {
        return Err(corrupt(format!("a slice of {encoded} bytes, not {expected}")));
    }
    let mut decoder = SliceDecoder::new(&root, total, range, spec.group_log).map_err(bad)?;
    // As long as its longest part: most slices of a live check are a single leaf.
    let mut buffer = Vec::new();
    loop {
        let want = decoder.next_len(BULK_STEP_BYTES);
        if want == 0 {
            return Ok(());
        }
        buffer.resize(buffer.len().max(want), 0);
        let part = &mut buffer[..want];
        stream.read_exact(part).await.map_err(|e| broken(node, &e))?;
        tokio::task::yield_now().await;
        decoder
            .push(part, |offset, bytes| {
                let at = usize::try_from(offset - spec.offset).unwrap_or(usize::MAX);
                out[at..at + bytes.len()].copy_from_slice(bytes);
            })
            .map_err(bad)?;
    }
}

async fn within<T>(
    node: &NodeId,
    ms: u64,
    call: impl Future<Output = Result<T, CallError>>,
) -> Result<T, CallError> {
    tokio::time::timeout(Duration::from_millis(ms), call).await.unwrap_or_else(|_| {
        Err(CallError::Unreachable { node: *node, reason: format!("no answer within {ms} ms") })
    })
}
