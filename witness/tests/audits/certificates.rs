//! Certificates: what they prove, and that nothing in them can be changed.

use echonet_protocol::{
    announcement::{Announcement, Location},
    audit::{Outcome, WitnessSet, WitnessSetBody},
    bytes::{ChunkHash, ManifestHash, RecordHash},
    content_id::ContentId,
    data::{
        GROUP_BYTES,
        verified::{ContentOutboardBuilder, ContentShape, group_cv},
    },
    identity::{Identity, Signed},
    manifest::{Extent, ManifestBody, ManifestPage, ManifestRoot, PageRef},
    time::{Epoch, UnixSeconds},
};
use echonet_witness::certificate::{Certificate, CertifiedSegment, Fact, Proven};
use serde_bytes::ByteBuf;

use crate::rig::{Placed, audit, chains, holder, honest, identity, slow_world, world};

/// A placed segment that is due in an epoch.
fn placed(name: &str, epoch: u64, holders: usize) -> Placed {
    let holders: Vec<Identity> = (0..holders).map(holder).collect();
    let all = (0..).map(|n| world().placed(&format!("{name} {n}"), &holders));
    let mut due = all.filter(|placed| world().is_due(epoch, &placed.segment(), 2500));
    due.next().unwrap()
}

/// What witnesses say about a segment in an epoch: the first two of its committee.
fn certified(placed: &Placed, epoch: u64, witnesses: usize) -> CertifiedSegment {
    let mut verdicts = Vec::new();
    for witness in &world().committee(epoch, &placed.segment())[..witnesses] {
        let mut chain = chains(world()).remove(*witness);
        let give = |index, leaf| Some(placed.slice(index, leaf));
        verdicts.push(audit(world(), &mut chain, (*witness, epoch), placed, give, honest).0);
    }
    verdicts.sort_by_key(|verdict| verdict.body.witness);
    CertifiedSegment { placement: placed.record.encode(), verdicts }
}

fn announcement(root: &ManifestRoot, segment: &Placed, withdrawn: bool) -> Signed<Announcement> {
    let bytes = root.encode();
    let body = Announcement {
        v: 1,
        network: world().network,
        content: root.content,
        manifest: ManifestHash(*blake3::hash(&bytes).as_bytes()),
        location: Location { segment: segment.segment(), offset: 0, length: bytes.len() as u32 },
        publisher: identity(2).node_id(),
        sequence: 1,
        expires: UnixSeconds(1_767_830_400),
        withdrawn,
    };
    Signed::new(&identity(2), body)
}

/// A short text inside its manifest, which two nodes hold and one witness asked for.
pub(crate) fn small() -> Certificate {
    let root = ManifestRoot {
        v: 1,
        content: ContentId::of(b"hello"),
        length: 5,
        media_type: "text/plain".into(),
        body: ManifestBody::Inline(b"hello".to_vec()),
    };
    let placed = placed("small", 5, 2);
    Certificate {
        v: 1,
        network: world().network,
        content: root.content,
        announcement: announcement(&root, &placed, false),
        manifest: root.encode(),
        pages: vec![],
        segments: vec![certified(&placed, 5, 1)],
        sets: vec![],
        beacons: vec![(Epoch(5), *world().beacon(5).signature())],
    }
}

/// 1.5 MB in a segment of its own, with its manifest in another; two witnesses each.
fn large() -> Certificate {
    let bytes = vec![0x5a; 1_500_000];
    let mut builder = ContentOutboardBuilder::new(ContentShape::new(1_500_000).unwrap());
    let mut outboard = Vec::new();
    for (group, part) in bytes.chunks(GROUP_BYTES as usize).enumerate() {
        let cv = group_cv(part, group as u64, false).unwrap();
        outboard = builder.push(cv).unwrap().map_or(outboard, |part| part.nodes);
    }
    let content = ContentId::new(builder.finish().unwrap().root);
    let (of_pages, of_data) = (placed("pages", 5, 5), placed("data", 6, 5));
    let extent = Extent {
        segment: 0,
        offset: 0,
        stored: 1_500_000,
        plain: 1_500_000,
        codec: 0,
        chunk: ChunkHash(*blake3::hash(&bytes).as_bytes()),
    };
    let page = ManifestPage {
        v: 1,
        content,
        index: 0,
        length: 1_500_000,
        segments: vec![of_data.segment()],
        extents: vec![extent],
        outboard,
    };
    let page = page.encode();
    let hash = ManifestHash(*blake3::hash(&page).as_bytes());
    let location = Location { segment: of_pages.segment(), offset: 900, length: page.len() as u32 };
    let root = ManifestRoot {
        v: 1,
        content,
        length: 1_500_000,
        media_type: "video/mp4".into(),
        body: ManifestBody::Paged { outboard: vec![], pages: vec![PageRef { hash, location }] },
    };
    let mut segments = vec![
        (of_pages.segment(), certified(&of_pages, 5, 2)),
        (of_data.segment(), certified(&of_data, 6, 2)),
    ];
    segments.sort_by_key(|(segment, _)| *segment);
    Certificate {
        v: 1,
        network: world().network,
        content,
        announcement: announcement(&root, &of_pages, false),
        manifest: root.encode(),
        pages: vec![ByteBuf::from(page)],
        segments: segments.into_iter().map(|(_, segment)| segment).collect(),
        sets: vec![],
        beacons: [5, 6].map(|epoch| (Epoch(epoch), *world().beacon(epoch).signature())).to_vec(),
    }
}

fn check(bytes: &[u8]) -> Result<Proven, String> {
    let certificate = Certificate::decode(bytes).map_err(|e| e.to_string())?;
    certificate.check(Some(&world().genesis)).map_err(|e| e.to_string())
}

#[test]
fn a_certificate_proves_content_promises_and_answers() {
    let proven = check(&small().encode()).unwrap();
    assert!(proven.is_anchored);
    assert_eq!(proven.latest, Some(Epoch(5)));
    assert!(matches!(&proven.facts[0], Fact::Content { length: 5, .. }));
    assert!(
        matches!(&proven.facts[1], Fact::Promised { needed: 2, until: Epoch(168), holders, .. } if holders.len() == 2)
    );
    for (fact, n) in proven.facts[2..].iter().zip(0..) {
        let Fact::Asked { index, holder: by, outcome, .. } = fact else { panic!("{fact:?}") };
        assert_eq!((*index, *by), (n, holder(usize::from(n)).node_id()));
        assert_eq!(*outcome, Outcome::Pass);
    }
    assert_eq!(proven.facts.len(), 4);
    let large = check(&large().encode()).unwrap();
    assert_eq!((large.facts.len(), large.latest), (1 + 2 + 20, Some(Epoch(6))));
    let alone = small().check(None).unwrap();
    assert_eq!((alone.is_anchored, alone.facts), (false, proven.facts));
}

#[test]
fn every_changed_bit_of_a_certificate_is_refused() {
    let bytes = small().encode();
    for bit in 0..bytes.len() * 8 {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let error = check(&changed).err();
        assert!(error.is_some_and(|e| !e.is_empty()), "bit {bit} went unseen");
    }
    let bytes = large().encode();
    for bit in (0..bytes.len() * 8).step_by(101) {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(check(&changed).is_err(), "bit {bit} of the large one went unseen");
    }
}

#[test]
fn what_is_missing_or_too_much_is_named() {
    let refused = |change: &dyn Fn(&mut Certificate), reason: &str| {
        let mut certificate = large();
        change(&mut certificate);
        let error = check(&certificate.encode()).unwrap_err();
        assert!(error.contains(reason), "{error}");
    };
    let without = |c: &mut Certificate| {
        c.segments.truncate(1);
        c.segments[0].verdicts.clear();
        c.beacons.clear();
    };
    refused(&without, "no placement of segment");
    refused(&|c| c.segments.push(small().segments.remove(0)), "segment");
    refused(&|c| c.segments.swap(0, 1), "ascending");
    refused(&|c| c.segments[0].verdicts.swap(0, 1), "ascending");
    refused(&|c| c.pages.clear(), "0 pages");
    refused(&|c| c.pages[0].push(0), "page 0");
    refused(&|c| c.beacons.truncate(1), "beacons");
    refused(&|c| c.beacons[1].1 = c.beacons[0].1, "beacons");
    refused(&|c| c.announcement = small().announcement, "announces");
    refused(&|c| c.content = ContentId::of(b"other"), "announces");
    refused(&|c| c.manifest = small().manifest, "not the one announced");
    refused(&|c| c.v = 2, "version 2");
    let swapped = |c: &mut Certificate| {
        let (first, second) = c.segments.split_at_mut(1);
        std::mem::swap(&mut first[0].verdicts, &mut second[0].verdicts);
    };
    refused(&swapped, "another segment");
}

#[test]
fn verdicts_are_of_members_that_were_drawn_for_what_was_due() {
    let placed = placed("small", 5, 2);
    let with = |certified: CertifiedSegment, epoch: u64| {
        let mut certificate = small();
        certificate.segments = vec![certified];
        certificate.beacons = vec![(Epoch(epoch), *world().beacon(epoch).signature())];
        certificate
    };
    let idle = (6..).find(|epoch| !world().is_due(*epoch, &placed.segment(), 2500)).unwrap();
    let error = check(&with(certified(&placed, idle, 1), idle).encode()).unwrap_err();
    assert!(error.contains("was not due"), "{error}");
    // A set that the genesis does not know of, by members of nobody.
    let mut certificate = small();
    let body = WitnessSetBody {
        v: 1,
        network: world().network,
        number: 1,
        previous: RecordHash(world().network.0),
        members: world().members().to_vec(),
        from: Epoch(1),
    };
    let signatures = world().witnesses.iter().map(|w| body.sign(w)).collect();
    certificate.sets = vec![WitnessSet { body, signatures }];
    assert!(check(&certificate.encode()).unwrap_err().contains("cannot change"));
    // The genesis of another network.
    let error = small().check(Some(&slow_world().genesis)).unwrap_err().to_string();
    assert!(error.contains("is of network"), "{error}");
}

#[test]
fn a_withdrawn_work_is_not_certified() {
    let mut certificate = small();
    let placed = placed("small", 5, 2);
    let root = ManifestRoot::decode(&certificate.manifest, &certificate.content).unwrap();
    certificate.announcement = announcement(&root, &placed, true);
    assert!(check(&certificate.encode()).unwrap_err().contains("withdrawal"));
}
