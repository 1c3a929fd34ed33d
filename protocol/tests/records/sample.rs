//! One small, complete world: a network, an owner, holders, and one of everything that they say.

use std::sync::LazyLock;

use echonet_protocol::{
    announcement::{Announcement, LiveCheck, Location},
    bytes::{ManifestHash, Nonce, RecordHash, ShardHash},
    content_id::ContentId,
    data::erasure::{ErasureCode, data_shard},
    identity::{Identity, NodeId, Signed, sign_body},
    lease::{Grant, Lease, LeaseEnd, Receipt},
    membership::{Claim, DiskHealth, Life},
    network::{Genesis, NetworkId, Timing, WitnessParams},
    node_descriptor::{Labels, NodeDescriptor, Roles},
    placement_record::{FirstPlacement, Placement, PlacementRecord, PlacementSignature},
    quiet::QuietHours,
    segment::{Scheme, SegmentDescriptor},
    time::{Epoch, UnixSeconds},
};

/// Reproducible bytes: BLAKE3's extendable output of the label.
pub(crate) fn stream(label: &str, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(label.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// The key whose 32 secret bytes are all `n`.
pub(crate) fn identity(n: u8) -> Identity {
    Identity::from_secret(&[n; 32])
}

/// Who grants.
pub(crate) fn issuer() -> Identity {
    identity(1)
}

/// Who publishes.
pub(crate) fn owner() -> Identity {
    identity(2)
}

/// Who holds the shard of an index.
pub(crate) fn holder(index: u8) -> Identity {
    identity(100 + index)
}

pub(crate) fn genesis() -> Genesis {
    Genesis {
        v: 1,
        name: "vectors".into(),
        created: UnixSeconds(1_767_225_600),
        salt: (0..16).collect(),
        development: true,
        epoch_s: 3600,
        segment_bytes: 32 << 20,
        volume_bytes: 64 << 20,
        unsealed_epochs: 24,
        collect_grace_epochs: 24,
        lease_epochs_max: 8760,
        free_lease_epochs_max: 168,
        issuers: vec![issuer().node_id()],
        timing: Timing { probe_s: 2, suspect_s: 2, grace_s: 10, urgent_s: 5, top_up_s: 20 },
        witness: WitnessParams { committee_max: 7, ..WitnessParams::none() },
    }
}

pub(crate) fn network() -> NetworkId {
    static NETWORK: LazyLock<NetworkId> = LazyLock::new(|| genesis().network_id());
    *NETWORK
}

/// All shards of a segment.
pub(crate) fn shards(scheme: Scheme, segment: &[u8]) -> Vec<Vec<u8>> {
    let (k, m) = (usize::from(scheme.k), usize::from(scheme.m));
    let mut parity = vec![vec![0; scheme.shard_len(segment.len())]; m];
    ErasureCode::new(k, m).unwrap().encode(segment, &mut parity).unwrap();
    (0..k).map(|index| data_shard(segment, k, index).into_owned()).chain(parity).collect()
}

/// The descriptor of shards that a segment of `length` bytes became.
pub(crate) fn descriptor_of(
    scheme: Scheme,
    length: usize,
    shards: &[Vec<u8>],
) -> SegmentDescriptor {
    let hash = |shard: &Vec<u8>| ShardHash(*blake3::hash(shard).as_bytes());
    let length = u32::try_from(length).unwrap();
    SegmentDescriptor { v: 1, scheme, length, shards: shards.iter().map(hash).collect() }
}

/// A real segment's descriptor: bytes `echonet segment`.
pub(crate) fn descriptor(k: u8, m: u8, length: usize) -> SegmentDescriptor {
    let scheme = Scheme::new(k, m).unwrap();
    let segment = stream("echonet segment", length);
    descriptor_of(scheme, length, &shards(scheme, &segment))
}

pub(crate) fn grant() -> Signed<Grant> {
    let body = Grant {
        v: 1,
        network: network(),
        issuer: issuer().node_id(),
        owner: owner().node_id(),
        byte_epochs: 1 << 40,
        until: Epoch(9000),
        serial: 7,
    };
    Signed::new(&issuer(), body)
}

/// A lease on the segment that [`placement`] places.
pub(crate) fn lease(grant: Option<RecordHash>) -> Signed<Lease> {
    let body = Lease {
        v: 1,
        network: network(),
        segment: placed().segment_id(),
        owner: owner().node_id(),
        from: Epoch(100),
        until: Epoch(268),
        grant,
        nonce: Nonce([9; 16]),
        standing: false,
    };
    Signed::new(&owner(), body)
}

/// The same under the grant, renewed by its holders.
pub(crate) fn standing_lease() -> Signed<Lease> {
    let mut body = lease(Some(grant().hash())).body;
    body.standing = true;
    Signed::new(&owner(), body)
}

pub(crate) fn lease_end() -> Signed<LeaseEnd> {
    let lease = lease(Some(grant().hash()));
    let body = LeaseEnd {
        v: 1,
        network: network(),
        lease: lease.hash(),
        segment: lease.body.segment,
        owner: owner().node_id(),
    };
    Signed::new(&owner(), body)
}

/// The segment that is placed: 2+3 shards of 5,000 bytes.
pub(crate) fn placed() -> SegmentDescriptor {
    static PLACED: LazyLock<SegmentDescriptor> = LazyLock::new(|| descriptor(2, 3, 5000));
    PLACED.clone()
}

/// The receipt for a shard of [`placed`], by some node.
pub(crate) fn receipt_by(signer: &Identity, index: u8, placement_version: u64) -> Signed<Receipt> {
    let (lease, descriptor) = (lease(Some(grant().hash())), placed());
    let body = Receipt {
        v: 1,
        network: network(),
        lease: lease.hash(),
        segment: descriptor.segment_id(),
        index,
        shard: descriptor.shards[usize::from(index)],
        length: u32::try_from(descriptor.shard_len()).unwrap(),
        holder: signer.node_id(),
        from: lease.body.from,
        until: lease.body.until,
        placement_version,
    };
    Signed::new(signer, body)
}

/// The receipt of the usual holder of an index.
pub(crate) fn receipt(index: u8) -> Signed<Receipt> {
    receipt_by(&holder(index), index, 1)
}

/// What [`placement`] is made of: the shards 0, 1, 2 and 4.
pub(crate) fn first_placement() -> FirstPlacement {
    let grant = Some(grant());
    FirstPlacement {
        descriptor: placed(),
        lease: lease(grant.as_ref().map(Signed::hash)),
        grant,
        receipts: [0, 1, 2, 4].map(receipt).to_vec(),
    }
}

/// Version 1 with the shards 0, 1, 2 and 4.
pub(crate) fn placement() -> PlacementRecord {
    PlacementRecord::first(&owner(), first_placement())
}

/// The receipts of version 2: shard 1 moved to another holder.
pub(crate) fn second_receipts() -> Vec<Signed<Receipt>> {
    let mut receipts = placement().receipts;
    receipts[1] = receipt_by(&identity(150), 1, 2);
    receipts
}

/// Signatures under a body, in no order.
pub(crate) fn signatures(
    body: &Placement,
    ballot: Option<u64>,
    signers: &[Identity],
) -> Vec<PlacementSignature> {
    signers.iter().map(|identity| PlacementSignature::new(identity, body, ballot)).collect()
}

/// The owner's under a version 1.
pub(crate) fn owners_signature(body: &Placement) -> PlacementSignature {
    PlacementSignature { signer: owner().node_id(), sig: sign_body(&owner(), body) }
}

/// Version 2, by the three holders of version 1 that are left.
pub(crate) fn placement_second() -> PlacementRecord {
    let (first, receipts) = (placement(), second_receipts());
    let body = first.next_body(&receipts);
    let signatures = signatures(&body, Some(64), &[0, 2, 4].map(holder));
    first.succeeded(body, receipts, Some(64), signatures).unwrap()
}

/// Version 3, after shard 3 was made again: too few who signed were there in
/// version 1, so version 2 is told.
pub(crate) fn placement_third() -> PlacementRecord {
    let second = placement_second();
    let mut receipts = second.receipts.clone();
    receipts.insert(3, receipt_by(&identity(151), 3, 3));
    let body = second.next_body(&receipts);
    let signatures = signatures(&body, Some(1), &[holder(0), identity(150), holder(4)]);
    second.succeeded(body, receipts, Some(1), signatures).unwrap()
}

pub(crate) fn location() -> Location {
    Location { segment: placed().segment_id(), offset: 120, length: 345 }
}

pub(crate) fn announcement(withdrawn: bool) -> Signed<Announcement> {
    let body = Announcement {
        v: 1,
        network: network(),
        content: ContentId::of(b"hello"),
        manifest: ManifestHash([0x4d; 32]),
        location: location(),
        publisher: owner().node_id(),
        sequence: if withdrawn { 2 } else { 1 },
        expires: UnixSeconds(1_767_830_400),
        withdrawn,
    };
    Signed::new(&owner(), body)
}

pub(crate) fn live_check() -> Signed<LiveCheck> {
    let checker = identity(4);
    let body = LiveCheck {
        v: 1,
        network: network(),
        content: ContentId::of(b"hello"),
        manifest: ManifestHash([0x4d; 32]),
        checker: checker.node_id(),
        at: UnixSeconds(1_767_225_700),
        segments: vec![placed().segment_id(), descriptor(1, 6, 11).segment_id()],
        rows: 16,
        mib: 4,
    };
    Signed::new(&checker, body)
}

pub(crate) fn node_descriptor() -> Signed<NodeDescriptor> {
    let node = holder(0);
    let label = str::to_owned;
    let body = NodeDescriptor {
        v: 1,
        network: network(),
        node: node.node_id(),
        sequence: 1_767_225_601,
        roles: Roles::ORIGIN.with(Roles::STORAGE),
        labels: Labels {
            region: label("eu"),
            datacenter: label("eu-1"),
            rack: String::new(),
            operator: label("Ann \u{e9}"),
        },
        capacity_class: NodeDescriptor::class_of(10 << 30),
        addrs: vec!["127.1.0.1:4700".parse().unwrap(), "[2001:db8::1]:4700".parse().unwrap()],
        relays: vec![label("https://relay.example./")],
        joined: Epoch(3),
        issues_grants: false,
        accepts: true,
        quiet: quiet_hours(),
    };
    Signed::new(&node, body)
}

/// Mondays from 8:00 to 10:00, and the last hour of the week.
pub(crate) fn quiet_hours() -> QuietHours {
    let mut quiet = QuietHours::NONE;
    [8, 9, 167].into_iter().for_each(|hour| quiet.add(hour));
    quiet
}

fn claim(by: u8, about: u8, life: Life, disk: Option<DiskHealth>) -> Signed<Claim> {
    let claimant = holder(by);
    let body = Claim {
        v: 1,
        network: network(),
        claimant: claimant.node_id(),
        about: holder(about).node_id(),
        incarnation: 1_767_225_601,
        life,
        disk,
        at: UnixSeconds(1_767_225_700),
    };
    Signed::new(&claimant, body)
}

/// A node's word about itself.
pub(crate) fn word() -> Signed<Claim> {
    claim(0, 0, Life::Alive, Some(DiskHealth::Sick))
}

/// Its last word.
pub(crate) fn goodbye() -> Signed<Claim> {
    claim(0, 0, Life::Left, None)
}

/// What another says about it.
pub(crate) fn doubt() -> Signed<Claim> {
    claim(1, 0, Life::Suspect, None)
}

/// Any node's key.
pub(crate) fn node_id(n: u8) -> NodeId {
    identity(n).node_id()
}
