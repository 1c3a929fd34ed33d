//! Which manifest to believe: what [`ManifestRace`] decides, carried out. A
//! manifest counts once a MiB that it leads to verified against the ContentID.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use echonet_protocol::{
    announcement::Announcement,
    bytes::ManifestHash,
    content_id::ContentId,
    data::GROUP_BYTES,
    fetch::{
        ManifestCandidate, ManifestRace, RaceConfig, RaceInput, RaceOutput, Trust, mib_to_check,
    },
    identity::Signed,
    machine::Machine,
    manifest::ManifestBody,
};
use futures::{FutureExt, StreamExt, stream::FuturesUnordered};

use super::{
    FetchError,
    manifest::{Manifest, ManifestError, Reader, WARMED_MAX},
    segment::{Account, Liar},
    stream::{Delivery, stream_pages},
};
use crate::{
    core::Core,
    flow::{discover, driver::Stopwatch},
};

/// What the search for a content brought.
#[derive(Debug)]
pub struct Found {
    /// Valid announcements that are not withdrawn.
    pub announcements: Vec<Signed<Announcement>>,
}

/// Finds the announcements of a content.
///
/// # Errors
/// [`FetchError::NotFound`].
pub async fn find(core: &Arc<Core>, content: ContentId) -> Result<Found, FetchError> {
    // Of a small network everybody will be needed: who is dead is found out from the start.
    if core.members.len() <= WARMED_MAX {
        core.members.all().iter().for_each(|m| core.client.warm(&m.descriptor.body.node));
    }
    let announcements = discover::announcements(core, &content).await;
    if announcements.is_empty() {
        return Err(FetchError::NotFound(content, core.members.len()));
    }
    Ok(Found { announcements })
}

/// Finds a manifest to believe among the announced ones.
///
/// # Errors
/// [`FetchError::NoManifest`] with what was found and what is wrong with it.
pub async fn believe(
    reader: &Reader<'_>,
    found: &Found,
    account: &mut Account,
) -> Result<Manifest, FetchError> {
    let watch = Stopwatch::start();
    let seed = u64::from_le_bytes(crate::clock::random());
    let mut race = ManifestRace::new(watch.now(), RaceConfig::default(), seed);
    for announcement in &found.announcements {
        race.handle(watch.now(), RaceInput::Found(candidate(&announcement.body)));
    }
    race.handle(watch.now(), RaceInput::SearchOver);
    let mut trials = FuturesUnordered::new();
    let mut verified: BTreeMap<ManifestHash, Manifest> = BTreeMap::new();
    loop {
        while let Some(output) = race.poll() {
            match output {
                RaceOutput::Try { manifest, seed } => {
                    let announced =
                        found.announcements.iter().find(|a| a.body.manifest == manifest);
                    if let Some(announced) = announced {
                        let trial = trial(reader, &announced.body, seed);
                        trials.push(trial.map(move |outcome| (manifest, outcome)).boxed());
                    }
                }
                // An outcome of one that is given up is ignored by the race.
                RaceOutput::Cancel { .. } => {}
                RaceOutput::Believe { manifest } => {
                    if let Some(manifest) = verified.remove(&manifest) {
                        return Ok(manifest);
                    }
                }
                RaceOutput::Mark { announcers, reason, .. } => {
                    tracing::warn!("a bad manifest was announced by {announcers:?}: {reason}");
                    let liar = |announcer| Liar { announcer, reason: reason.clone() };
                    account.liars.extend(announcers.into_iter().map(liar));
                }
                RaceOutput::Failed(failure) => {
                    return Err(FetchError::NoManifest(failure.to_string()));
                }
            }
        }
        let sleep = async {
            match race.timeout() {
                Some(at) => tokio::time::sleep(watch.until(at)).await,
                None => std::future::pending().await,
            }
        };
        let input = tokio::select! {
            Some((hash, (outcome, of_trial))) = trials.next(), if !trials.is_empty() => {
                account.sources.extend(&of_trial.sources);
                account.findings.extend(of_trial.findings);
                judged(hash, outcome, &mut verified)
            }
            () = sleep => RaceInput::Tick,
        };
        race.handle(watch.now(), input);
    }
}

/// Everybody who announced a manifest that turned out wrong.
pub(super) fn liars(found: &Found, manifest: ManifestHash, reason: &str) -> Vec<Liar> {
    let announced = found.announcements.iter().filter(|a| a.body.manifest == manifest);
    announced.map(|a| Liar { announcer: a.body.publisher, reason: reason.to_owned() }).collect()
}

fn candidate(announcement: &Announcement) -> ManifestCandidate {
    ManifestCandidate {
        manifest: announcement.manifest,
        announcer: announcement.publisher,
        trust: Trust::Stranger,
    }
}

fn judged(
    manifest: ManifestHash,
    outcome: Result<Manifest, FetchError>,
    verified: &mut BTreeMap<ManifestHash, Manifest>,
) -> RaceInput {
    match outcome {
        Ok(found) => {
            verified.insert(manifest, found);
            RaceInput::Verified { manifest }
        }
        Err(FetchError::Manifest(ManifestError::Bad(reason))) => {
            RaceInput::Bad { manifest, reason }
        }
        Err(e) => RaceInput::Unavailable { manifest, reason: e.to_string() },
    }
}

/// Reads a manifest, the MiB that `seed` picks, and the last one: without it the length is but the
/// announcer's word.
async fn trial(
    reader: &Reader<'_>,
    announcement: &Announcement,
    seed: u64,
) -> (Result<Manifest, FetchError>, Account) {
    let mut account = Account::default();
    let outcome = try_manifest(reader, announcement, seed, &mut account).await;
    (outcome, account)
}

async fn try_manifest(
    reader: &Reader<'_>,
    announcement: &Announcement,
    seed: u64,
    account: &mut Account,
) -> Result<Manifest, FetchError> {
    let manifest = reader.root(announcement, account).await.map_err(FetchError::Manifest)?;
    let length = manifest.root.length;
    if matches!(manifest.root.body, ManifestBody::Paged { .. }) {
        let (drawn, last) = (mib_to_check(seed, length), (length - 1) / GROUP_BYTES);
        for group in BTreeSet::from([drawn, last]) {
            let start = group * GROUP_BYTES;
            let wanted = start..(start + GROUP_BYTES).min(length);
            let mut sink = tokio::io::sink();
            let mut on_progress = |_| {};
            let mut delivery = Delivery { sink: &mut sink, wanted, on_progress: &mut on_progress };
            stream_pages(reader, &manifest, &mut delivery, account).await?;
        }
    }
    Ok(manifest)
}
