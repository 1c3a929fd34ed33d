//! Certificates (SPEC_WITNESS.md, section 10): a file that shows offline that a work was placed,
//! promised and asked for.
//!
//! Everything in a certificate is signed or hashed by something else in it, up to a genesis that
//! its reader has. Without one it is consistent with itself and anchored to nothing. It never
//! proves that the bytes are there now.

use std::collections::{BTreeMap, BTreeSet};

use echonet_protocol::{
    announcement::Announcement,
    audit::{AuditVerdict, Outcome, WitnessSet, WitnessSetError, WitnessSets},
    bytes::{BeaconSignature, ManifestHash},
    codec::{self, DecodeError},
    content_id::ContentId,
    data::verified::{ContentShape, OutboardError, PageCvs},
    identity::{NodeId, RecordError, Signed},
    manifest::{ManifestBody, ManifestPage, ManifestRoot},
    network::{Genesis, NetworkId},
    params,
    placement_record::PlacementRecord,
    segment::SegmentId,
    time::Epoch,
};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::{
    beacon::{Beacon, BeaconError, Beacons},
    draw::{self, Draw, Rates},
    verdicts::{CheckedVerdict, VerdictError},
};

/// Verdicts about one placement at most.
const VERDICTS_MAX: usize = 16;

/// One placement of a segment with what witnesses said about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertifiedSegment {
    /// The encoded placement record.
    #[serde(with = "serde_bytes")]
    pub placement: Vec<u8>,
    /// The latest of each witness, ascending by witness; at most 16.
    pub verdicts: Vec<Signed<AuditVerdict>>,
}

/// The file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// Format version.
    pub v: u8,
    /// The network.
    pub network: NetworkId,
    /// The work.
    pub content: ContentId,
    /// Its publisher's word on which manifest, and where that lies.
    pub announcement: Signed<Announcement>,
    /// The manifest's root page.
    #[serde(with = "serde_bytes")]
    pub manifest: Vec<u8>,
    /// The manifest's further pages, in order.
    pub pages: Vec<ByteBuf>,
    /// Of every segment that the manifest names or lies in, ascending by segment and owner.
    pub segments: Vec<CertifiedSegment>,
    /// The witness sets from number 1 on.
    pub sets: Vec<WitnessSet>,
    /// The beacons of the verdicts' epochs, ascending.
    pub beacons: Vec<(Epoch, BeaconSignature)>,
}

/// Something that a certificate proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// The manifest is the content's.
    Content {
        /// The work.
        content: ContentId,
        /// Its bytes.
        length: u64,
        /// The manifest's name.
        manifest: ManifestHash,
        /// Who announced it.
        publisher: NodeId,
    },
    /// These nodes signed that they keep the segment's shards.
    Promised {
        /// The segment.
        segment: SegmentId,
        /// For whom.
        owner: NodeId,
        /// Version of the placement.
        version: u64,
        /// Who promised which shard.
        holders: Vec<(u8, NodeId)>,
        /// Shards that are enough to read it.
        needed: u8,
        /// First epoch after what was promised; a standing lease is renewed beyond.
        until: Epoch,
    },
    /// A witness asked a holder, who signed its answer.
    Asked {
        /// The segment.
        segment: SegmentId,
        /// Which shard.
        index: u8,
        /// Who answered.
        holder: NodeId,
        /// In which epoch.
        epoch: Epoch,
        /// Who asked.
        witness: NodeId,
        /// What the witness found; never `Silent`, which proves nothing.
        outcome: Outcome,
    },
}

/// What a certificate proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proven {
    /// Whether it was checked against a genesis; else it is only consistent with itself, and who
    /// the witnesses are is its own word.
    pub is_anchored: bool,
    /// In the order of the file.
    pub facts: Vec<Fact>,
    /// Epoch of the latest answer in it.
    pub latest: Option<Epoch>,
}

/// Why a certificate proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Not a certificate, or a part of it is not what it should be.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// A record in it does not verify.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The manifest's hash tree does not lead to the content.
    #[error(transparent)]
    Outboard(#[from] OutboardError),
    /// A witness set does not follow.
    #[error(transparent)]
    Set(#[from] WitnessSetError),
    /// A beacon does not verify.
    #[error(transparent)]
    Beacon(#[from] BeaconError),
    /// A verdict does not verify.
    #[error(transparent)]
    Verdict(#[from] VerdictError),
    /// Its parts do not belong together.
    #[error("certificate: {0}")]
    Mismatch(String),
}

fn ensure(condition: bool, reason: impl FnOnce() -> String) -> Result<(), CertificateError> {
    if condition { Ok(()) } else { Err(CertificateError::Mismatch(reason())) }
}

/// What a genesis says, made ready for checking.
struct Anchor {
    sets: WitnessSets,
    rates: Rates,
    beacons: BTreeMap<Epoch, Beacon>,
}

impl Certificate {
    /// Deterministic bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Reads a certificate; what it proves is for [`Self::check`] to say.
    ///
    /// # Errors
    /// [`DecodeError`]: too long or malformed.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        codec::decode("certificate", bytes, params::CERTIFICATE_BYTES_MAX)
    }

    /// Checks everything, against a genesis where the reader has one.
    ///
    /// # Errors
    /// The first thing that does not hold.
    pub fn check(&self, genesis: Option<&Genesis>) -> Result<Proven, CertificateError> {
        ensure(self.v == params::FORMAT_VERSION, || format!("version {} unknown", self.v))?;
        let network = genesis.map_or(self.network, Genesis::network_id);
        ensure(self.network == network, || {
            format!("is of network {}, the genesis is that of {network}", self.network)
        })?;
        self.check_beacons()?;
        let mut facts = Vec::new();
        let wanted = self.check_manifest(&mut facts)?;
        self.check_segments(&wanted, &mut facts)?;
        // Beacons last: they cost most.
        if let Some(genesis) = genesis {
            let anchor = self.anchor(genesis)?;
            self.verdicts().try_for_each(|verdict| anchor.check(&verdict.body))?;
        }
        let latest = facts.iter().filter_map(|fact| match fact {
            Fact::Asked { epoch, .. } => Some(*epoch),
            _ => None,
        });
        Ok(Proven { is_anchored: genesis.is_some(), latest: latest.max(), facts })
    }

    fn verdicts(&self) -> impl Iterator<Item = &Signed<AuditVerdict>> {
        self.segments.iter().flat_map(|segment| &segment.verdicts)
    }

    fn check_segments(
        &self,
        wanted: &BTreeSet<SegmentId>,
        facts: &mut Vec<Fact>,
    ) -> Result<(), CertificateError> {
        let mut found = BTreeSet::new();
        let mut last = None;
        for segment in &self.segments {
            let record = PlacementRecord::decode(&segment.placement, &self.network)?;
            let place = (record.body.segment, record.body.owner);
            ensure(last < Some(place), || {
                "segments not in ascending order of segment and owner".into()
            })?;
            last = Some(place);
            ensure(wanted.contains(&place.0), || {
                format!("segment {} is none of the manifest's", place.0)
            })?;
            found.insert(place.0);
            facts.push(promised(&record));
            self.check_verdicts(&record, &segment.verdicts, facts)?;
        }
        match wanted.iter().find(|segment| !found.contains(segment)) {
            Some(missing) => ensure(false, || format!("no placement of segment {missing}")),
            None => Ok(()),
        }
    }

    fn anchor(&self, genesis: &Genesis) -> Result<Anchor, CertificateError> {
        let mut sets = WitnessSets::new(genesis);
        self.sets.iter().try_for_each(|set| sets.push(set))?;
        let mut beacons = BTreeMap::new();
        if !self.beacons.is_empty() {
            let source = Beacons::new(genesis)?;
            for (epoch, signature) in &self.beacons {
                beacons.insert(*epoch, source.verify(*epoch, signature)?);
            }
        }
        Ok(Anchor { sets, rates: Rates::new(genesis), beacons })
    }

    /// That there is exactly one beacon for each epoch of the verdicts, and theirs.
    fn check_beacons(&self) -> Result<(), CertificateError> {
        let mut used = BTreeMap::new();
        for verdict in self.verdicts() {
            let challenge = &verdict.body.challenge;
            let before = used.insert(challenge.epoch, challenge.beacon);
            ensure(before.is_none_or(|beacon| beacon == challenge.beacon), || {
                format!("two beacons of epoch {}", challenge.epoch.0)
            })?;
        }
        ensure(self.beacons.iter().copied().eq(used), || {
            "its beacons are not those of its verdicts' epochs, ascending".into()
        })
    }

    /// Checks announcement, manifest and pages; returns the segments that they need.
    fn check_manifest(
        &self,
        facts: &mut Vec<Fact>,
    ) -> Result<BTreeSet<SegmentId>, CertificateError> {
        self.announcement.verify(&self.network)?;
        let said = &self.announcement.body;
        ensure(said.content == self.content, || format!("announces {}", said.content))?;
        ensure(!said.withdrawn, || "the announcement is a withdrawal".into())?;
        let manifest = ManifestHash(*blake3::hash(&self.manifest).as_bytes());
        let is_announced =
            said.manifest == manifest && said.location.length as usize == self.manifest.len();
        ensure(is_announced, || "the manifest is not the one announced".into())?;
        let root = ManifestRoot::decode(&self.manifest, &self.content)?;
        let mut wanted = BTreeSet::from([said.location.segment]);
        match &root.body {
            ManifestBody::Inline(_) => {
                ensure(self.pages.is_empty(), || "pages of an inline manifest".into())?;
            }
            ManifestBody::Paged { outboard, pages } => {
                ensure(pages.len() == self.pages.len(), || {
                    format!("{} pages, the manifest has {}", self.pages.len(), pages.len())
                })?;
                let shape = ContentShape::new(root.length)
                    .map_err(|e| CertificateError::Mismatch(e.to_string()))?;
                let cvs = PageCvs::verify(self.content.as_bytes(), shape, outboard)?;
                for ((page, bytes), index) in pages.iter().zip(&self.pages).zip(0..) {
                    let is_page = page.hash.0 == *blake3::hash(bytes).as_bytes()
                        && page.location.length as usize == bytes.len();
                    ensure(is_page, || format!("page {index} is not the one that the root names"))?;
                    let read = ManifestPage::decode(bytes, &root, index)?;
                    cvs.verify_page(u64::from(index), &read.outboard)?;
                    wanted.insert(page.location.segment);
                    wanted.extend(read.segments);
                }
            }
        }
        let (content, length, publisher) = (self.content, root.length, said.publisher);
        facts.push(Fact::Content { content, length, manifest, publisher });
        Ok(wanted)
    }

    fn check_verdicts(
        &self,
        record: &PlacementRecord,
        verdicts: &[Signed<AuditVerdict>],
        facts: &mut Vec<Fact>,
    ) -> Result<(), CertificateError> {
        ensure(verdicts.len() <= VERDICTS_MAX, || {
            format!("{} verdicts about one placement, at most {VERDICTS_MAX}", verdicts.len())
        })?;
        ensure(verdicts.windows(2).all(|p| p[0].body.witness < p[1].body.witness), || {
            "verdicts not in ascending order of witness, one of each".into()
        })?;
        for verdict in verdicts {
            let checked = CheckedVerdict::new(verdict.clone(), &self.network)?;
            let body = checked.body();
            let (segment, witness) = (body.challenge.segment, body.witness);
            let is_about = segment == record.body.segment
                && body.length as usize == record.descriptor.shard_len();
            ensure(is_about, || format!("a verdict of {witness} about another segment"))?;
            let epoch = body.challenge.epoch;
            for result in body.results.iter().filter(|result| result.outcome.is_signed()) {
                let (index, holder, outcome) = (result.index, result.holder, result.outcome);
                // An earlier version may have named others, who prove nothing about this one.
                if record.body.holder(index) == Some(holder) {
                    facts.push(Fact::Asked { segment, index, holder, epoch, witness, outcome });
                }
            }
        }
        Ok(())
    }
}

impl Anchor {
    /// That a verdict is of a member that the epoch's beacon drew, for a segment that was due.
    fn check(&self, verdict: &AuditVerdict) -> Result<(), CertificateError> {
        let (challenge, witness) = (&verdict.challenge, verdict.witness);
        let epoch = challenge.epoch;
        let beacon = self.beacons.get(&epoch);
        let beacon = beacon.filter(|beacon| *beacon.signature() == challenge.beacon);
        let Some(beacon) = beacon else {
            return ensure(false, || format!("no beacon of epoch {}", epoch.0));
        };
        let draw = Draw::new(beacon, &challenge.segment);
        let is_due = draw.is_due(&self.rates, u64::from(verdict.length));
        ensure(is_due || challenge.inventory.is_some(), || {
            format!("segment {} was not due in epoch {}", challenge.segment, epoch.0)
        })?;
        let members = self.sets.at(epoch);
        let committee = draw::committee(beacon, &challenge.segment, members, &self.rates);
        ensure(committee.contains(&witness), || {
            format!("{witness} was not on the segment's committee in epoch {}", epoch.0)
        })
    }
}

fn promised(record: &PlacementRecord) -> Fact {
    Fact::Promised {
        segment: record.body.segment,
        owner: record.body.owner,
        version: record.body.version,
        holders: record.body.holders.clone(),
        needed: record.descriptor.scheme.k,
        until: record.lease.body.until,
    }
}
