//! One sample of every message, with the numbers that another implementation needs.

use echonet_protocol::{
    agreement,
    announcement::{RecordKey, RecordKind},
    audit,
    bytes::{BeaconSignature, SliceHash},
    content_id::ContentId,
    membership::{Answer, Ask},
    message::{
        Envelope, Refusal, RefusalCode, Request, Response, SliceSpec, decode_request,
        decode_response, encode,
    },
    params,
    time::{Epoch, UnixSeconds},
};
use serde_bytes::ByteBuf;

use crate::{audit as samples, sample};

/// The number of a request. A new variant does not compile until it is listed here.
pub(crate) const fn request_number(request: &Request) -> u8 {
    match request {
        Request::Hello { .. } => 0,
        Request::Genesis => 1,
        Request::Members { .. } => 2,
        Request::GetRecords { .. } => 3,
        Request::PutRecords { .. } => 4,
        Request::StoreShard { .. } => 5,
        Request::AddLease { .. } => 6,
        Request::Seal { .. } => 7,
        Request::EndLeases { .. } => 8,
        Request::HasShards { .. } => 9,
        Request::GetShard { .. } => 10,
        Request::GetContent { .. } => 11,
        Request::RequestGrant { .. } => 12,
        Request::CheckLive { .. } => 13,
        Request::Membership(_) => 14,
        Request::Agree(_) => 15,
        Request::Witness(_) => 16,
    }
}

/// The number of a response.
pub(crate) const fn response_number(response: &Response) -> u8 {
    match response {
        Response::Refused(_) => 0,
        Response::Unsupported { .. } => 1,
        Response::Hello { .. } => 2,
        Response::Genesis(_) => 3,
        Response::Members { .. } => 4,
        Response::Records { .. } => 5,
        Response::Put(_) => 6,
        Response::Ready => 7,
        Response::Receipt(_) => 8,
        Response::Done(_) => 9,
        Response::Has(_) => 10,
        Response::Slice { .. } => 11,
        Response::Grant(_) => 12,
        Response::Live(_) => 13,
        Response::Membership(_) => 14,
        Response::Agree(_) => 15,
        Response::Witness(_) => 16,
    }
}

/// The number of a refusal's code.
const fn code_number(code: RefusalCode) -> u8 {
    match code {
        RefusalCode::WrongNetwork => 0,
        RefusalCode::Invalid => 1,
        RefusalCode::NotFound => 2,
        RefusalCode::Busy => 3,
        RefusalCode::Full => 4,
        RefusalCode::NotGranted => 5,
        RefusalCode::NotMyRole => 6,
        RefusalCode::Internal => 7,
        RefusalCode::Inconsistent => 8,
        RefusalCode::NoLease => 9,
    }
}

const CODES: [RefusalCode; 10] = [
    RefusalCode::WrongNetwork,
    RefusalCode::Invalid,
    RefusalCode::NotFound,
    RefusalCode::Busy,
    RefusalCode::Full,
    RefusalCode::NotGranted,
    RefusalCode::NotMyRole,
    RefusalCode::Internal,
    RefusalCode::Inconsistent,
    RefusalCode::NoLease,
];

/// Every request.
pub(crate) fn requests() -> Vec<(&'static str, Request)> {
    let content = ContentId::of(b"hello");
    let segment = sample::placed().segment_id();
    let slice = SliceSpec { offset: 1024, length: 70_000, group_log: 4 };
    let whole = SliceSpec { offset: 0, length: 2500, group_log: SliceSpec::WHOLE };
    let bytes = |bytes: Vec<u8>| ByteBuf::from(bytes);
    let ids = vec![*content.as_bytes(), [0; 32]];
    let records = vec![
        (RecordKind::Announcement, bytes(sample::announcement(false).encode())),
        (RecordKind::Placement, bytes(vec![])),
    ];
    let lease = sample::lease(Some(sample::grant().hash()));
    let store = Request::StoreShard {
        lease,
        grant: Some(sample::grant()),
        descriptor: sample::placed(),
        index: 4,
        placement_version: 1,
    };
    let (lease, grant) = (sample::lease(None), None);
    let kind = RecordKind::Announcement;
    let hello = Some(sample::node_descriptor());
    vec![
        ("hello", Request::Hello { epoch: Epoch(300), descriptor: hello }),
        ("hello of a reader", Request::Hello { epoch: Epoch(0), descriptor: None }),
        ("genesis", Request::Genesis),
        ("members", Request::Members { after: None }),
        ("members after one", Request::Members { after: Some(sample::node_id(5)) }),
        ("get records", Request::GetRecords { kind, ids }),
        ("put records", Request::PutRecords { records }),
        ("store shard", store),
        ("add lease", Request::AddLease { lease, grant, index: 0, placement_version: 300 }),
        ("seal", Request::Seal { placements: vec![bytes(vec![0xa0; 130])] }),
        ("end leases", Request::EndLeases { ends: vec![sample::lease_end()] }),
        ("has shards", Request::HasShards { shards: vec![(segment, 0), (segment, 63)] }),
        ("get shard", Request::GetShard { segment, index: 3, slice }),
        ("get whole shard", Request::GetShard { segment, index: 3, slice: whole }),
        ("get content", Request::GetContent { content, slice }),
        ("request grant", Request::RequestGrant { byte_epochs: u64::MAX, until: Epoch(128) }),
        ("check live", Request::CheckLive { content, segments: vec![segment], mib: 64 }),
        ("ping", Request::Membership(Ask::Ping { claims: vec![sample::word(), sample::doubt()] })),
        (
            "ping for",
            Request::Membership(Ask::PingFor { node: sample::node_id(5), claims: vec![] }),
        ),
        (
            "agree",
            Request::Agree(Box::new(agreement::Ask::Promise {
                record: sample::placement().encode().into(),
                ballot: 66,
                lost: vec![1],
            })),
        ),
    ]
    .into_iter()
    .chain(asks().into_iter().map(|(name, ask)| (name, Request::Witness(ask))))
    .collect()
}

/// Every response.
pub(crate) fn responses() -> Vec<(&'static str, Response)> {
    let (epoch, now) = (Epoch(300), UnixSeconds(1_768_305_600));
    let descriptor = Some(sample::node_descriptor());
    let descriptors = vec![sample::node_descriptor()];
    let records = vec![ByteBuf::from(sample::announcement(false).encode())];
    let refusal = Refusal::new(RefusalCode::NoLease, "the lease is over; publish again");
    vec![
        ("refused", Response::Refused(refusal)),
        ("unsupported", Response::Unsupported { max: 1 }),
        ("hello", Response::Hello { epoch, now, descriptor }),
        ("genesis", Response::Genesis(ByteBuf::from(sample::genesis().encode()))),
        ("members", Response::Members { descriptors, more: true }),
        ("records", Response::Records { records, looked_at: 2 }),
        ("put", Response::Put(vec![None, Some("quota".into())])),
        ("ready", Response::Ready),
        ("receipt", Response::Receipt(sample::receipt(4))),
        ("done", Response::Done(64)),
        ("has", Response::Has(vec![true, false])),
        ("slice", Response::Slice { total: 3_355_444, encoded: 1 << 33 }),
        ("grant", Response::Grant(sample::grant())),
        ("live", Response::Live(sample::live_check())),
        ("pong", Response::Membership(Answer::Pong { claims: vec![sample::goodbye()] })),
        (
            "tried",
            Response::Membership(Answer::Tried { reached: true, claims: vec![sample::word()] }),
        ),
        ("held", Response::Agree(Box::new(agreement::Answer::Held { for_ms: 2_500 }))),
    ]
    .into_iter()
    .chain(answers().into_iter().map(|(name, answer)| (name, Response::Witness(answer))))
    .collect()
}

/// Every question of audits, in the order of its number.
fn asks() -> Vec<(&'static str, audit::Ask)> {
    use audit::Ask;
    let (beacon, epoch) = (BeaconSignature([0x42; 48]), Epoch(130));
    let challenge = || Box::new(samples::challenge());
    let inventory = vec![sample::node_id(5)];
    let after = Some(RecordKey([6; 32]));
    vec![
        ("beacon of an epoch", Ask::Beacon { epoch }),
        ("part of a beacon", Ask::Part { epoch, index: 255, part: beacon }),
        ("audit", Ask::Audit { challenge: challenge(), index: 4 }),
        ("look", Ask::Look { challenge: challenge(), index: 4 }),
        ("due", Ask::Due { epoch, beacon, inventory, after }),
        ("digests", Ask::Digests { epochs: vec![epoch, Epoch(131)] }),
        ("put digests", Ask::PutDigests { digests: vec![samples::digest()] }),
        ("verdicts", Ask::Verdicts { witness: sample::node_id(200), from: 300 }),
        ("case", Ask::Case { verdict: samples::verdict().hash() }),
        ("put case", Ask::PutCase { case: ByteBuf::from(vec![0xa0; 130]) }),
        ("put maintenance", Ask::PutMaintenance { maintenance: samples::maintenance() }),
    ]
}

/// Every answer of audits, in the order of its number.
fn answers() -> Vec<(&'static str, audit::Answer)> {
    use audit::Answer;
    let bytes = |len| ByteBuf::from(vec![0xa0; len]);
    let slice_hash = Some(SliceHash([1; 32]));
    let answered = |slice_hash, slice| Answer::Answer {
        answer: Box::new(samples::answer(4, slice_hash)),
        slice,
    };
    let next = Some(RecordKey([6; 32]));
    vec![
        ("the beacon", Answer::Beacon(Some(BeaconSignature([0x42; 48])))),
        ("no beacon", Answer::Beacon(None)),
        ("noted", Answer::Done),
        ("answer", answered(slice_hash, Some(bytes(1024)))),
        ("answer of none", answered(None, None)),
        ("placements due", Answer::Due { placements: vec![bytes(130)], next }),
        ("digests", Answer::Digests { digests: vec![samples::digest()] }),
        ("verdicts", Answer::Verdicts { verdicts: vec![samples::verdict()] }),
        ("a case", Answer::Case(Some(bytes(5)))),
        ("no case", Answer::Case(None)),
    ]
}

/// A request as it is sent.
pub(crate) fn envelope(request: Request) -> Envelope {
    Envelope { network: sample::network(), version: 1, request }
}

#[test]
fn the_numbers_are_those_of_the_table_and_none_is_missing() {
    let mut requests: Vec<u8> = requests().iter().map(|(_, r)| request_number(r)).collect();
    requests.dedup();
    assert_eq!(requests, (0..17).collect::<Vec<u8>>());
    for (name, request) in self::requests() {
        // The network with its length in front, and the version.
        assert_eq!(encode(&envelope(request.clone()))[34], request_number(&request), "{name}");
    }
    let responses = responses();
    let mut numbers: Vec<u8> = responses.iter().map(|(_, r)| response_number(r)).collect();
    numbers.dedup();
    assert_eq!(numbers, (0..17).collect::<Vec<u8>>());
    for (name, response) in responses {
        assert_eq!(encode(&response)[0], response_number(&response), "{name}");
    }
    for code in CODES {
        assert_eq!(encode(&code), [code_number(code)], "{code:?}");
    }
    let kinds = [RecordKind::Announcement, RecordKind::Placement];
    assert_eq!(kinds.map(|kind| encode(&kind)), [vec![0], vec![1]]);
    assert_eq!(kinds.map(RecordKind::number), [1, 2]);
}

#[test]
fn a_variant_of_a_later_version_is_no_message() {
    let mut request = encode(&envelope(Request::Genesis));
    *request.last_mut().unwrap() = 14;
    assert!(decode_request(&request).is_err());
    assert!(decode_response(&[14]).is_err());
}

#[test]
fn numbers_have_one_form() {
    assert!(decode_response(&[9, 0x40]).is_ok());
    assert!(decode_response(&[9, 0xc0, 0x00]).is_err(), "64 in two bytes");
}

#[test]
fn frames_over_their_bound_are_refused_unread() {
    let fits = params::REQUEST_BYTES_MAX;
    let seal = |len| envelope(Request::Seal { placements: vec![ByteBuf::from(vec![0; len])] });
    let overhead = encode(&seal(fits - 100)).len() - (fits - 100);
    assert!(decode_request(&encode(&seal(fits - overhead))).is_ok());
    assert!(decode_request(&encode(&seal(fits - overhead + 1))).is_err());
    let ready = Response::Genesis(ByteBuf::from(vec![0; params::RESPONSE_BYTES_MAX]));
    assert!(decode_response(&encode(&ready)).is_err());
}

#[test]
fn lists_are_bounded_beyond_their_bytes() {
    let most = params::LIST_ITEMS_MAX;
    let put = |len| Response::Put(vec![None; len]);
    assert_eq!(decode_response(&encode(&put(most))), Ok(put(most)));
    assert!(decode_response(&encode(&put(most + 1))).is_err());
    let seal = |len| envelope(Request::Seal { placements: vec![ByteBuf::new(); len] });
    assert!(decode_request(&encode(&seal(most))).is_ok());
    assert!(decode_request(&encode(&seal(most + 1))).is_err());
    let ping = |len| envelope(Request::Membership(Ask::Ping { claims: vec![sample::word(); len] }));
    assert!(decode_request(&encode(&ping(params::CLAIMS_MAX))).is_ok());
    assert!(decode_request(&encode(&ping(params::CLAIMS_MAX + 1))).is_err());
    let tried = |len| {
        let claims = vec![sample::doubt(); len];
        Response::Membership(Answer::Tried { reached: false, claims })
    };
    assert!(decode_response(&encode(&tried(params::CLAIMS_MAX))).is_ok());
    assert!(decode_response(&encode(&tried(params::CLAIMS_MAX + 1))).is_err());
    let mut descriptor = sample::node_descriptor();
    descriptor.body.relays = vec![String::new(); 3];
    let hello = |d| envelope(Request::Hello { epoch: Epoch(0), descriptor: Some(d) });
    assert!(decode_request(&encode(&hello(descriptor.clone()))).is_err());
    descriptor.body.relays = vec![];
    descriptor.body.addrs = vec!["127.0.0.1:1".parse().unwrap(); 9];
    assert!(decode_request(&encode(&hello(descriptor))).is_err());
}

#[test]
fn a_reason_is_cut_between_characters() {
    let refusal = Refusal::new(RefusalCode::Busy, "\u{20ac}".repeat(300));
    assert_eq!(refusal.reason.len(), 510);
}

#[test]
fn questions_and_answers_of_audits_have_their_numbers_and_bounds() {
    let numbers = |encoded: Vec<Vec<u8>>, at: usize| {
        let mut numbers: Vec<u8> = encoded.iter().map(|bytes| bytes[at]).collect();
        numbers.dedup();
        numbers
    };
    let encoded = asks().into_iter().map(|(_, ask)| encode(&envelope(Request::Witness(ask))));
    assert_eq!(numbers(encoded.collect(), 35), (0..11).collect::<Vec<u8>>());
    let encoded = answers().into_iter().map(|(_, answer)| encode(&Response::Witness(answer)));
    assert_eq!(numbers(encoded.collect(), 1), (0..7).collect::<Vec<u8>>());
    let ask = |ask| decode_request(&encode(&envelope(Request::Witness(ask)))).is_ok();
    let epochs = |len| audit::Ask::Digests { epochs: vec![Epoch(1); len] };
    assert!(ask(epochs(64)) && !ask(epochs(65)));
    let due = |len| audit::Ask::Due {
        epoch: Epoch(1),
        beacon: BeaconSignature([0; 48]),
        inventory: vec![sample::node_id(5); len],
        after: None,
    };
    assert!(ask(due(16)) && !ask(due(17)));
    let put = |len| audit::Ask::PutDigests { digests: vec![samples::digest(); len] };
    assert!(ask(put(64)) && !ask(put(65)));
    let case = |len| audit::Ask::PutCase { case: ByteBuf::from(vec![0; len]) };
    assert!(ask(case(params::CASE_BYTES_MAX)) && !ask(case(params::REQUEST_BYTES_MAX)));
    let verdicts = |len| {
        let verdicts = vec![samples::verdict(); len];
        decode_response(&encode(&Response::Witness(audit::Answer::Verdicts { verdicts }))).is_ok()
    };
    assert!(verdicts(64) && !verdicts(65));
}
