//! The driver of the keeper: events in, effects out.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use echonet_archive::keeper::{
    Keeper, KeeperConfig, KeeperInput, KeeperOutput, Key as PlacementName, Outcome, Presence, Task,
};
use echonet_protocol::{
    identity::NodeId,
    machine::{Machine as _, Millis},
    membership::{Health, Pace, ProbeResult, Prober, ProberInput, ProberOutput},
    placement_record::PlacementRecord,
    segment::SegmentId,
    time::UnixSeconds,
};
use echonet_vault::{Key, PlacementKey, Vault};
use tokio::{sync::mpsc, task::JoinSet};

use super::{Event, heal, name_of, own_record, placed, task};
use crate::{
    clock,
    core::Core,
    flow::{driver::Stopwatch, join},
    net::bandwidth::Way,
};

/// Placements read from the vault at once.
const PAGE: usize = 256;
/// How often at least the keeper's counts are told to whoever asks for the status.
const TOLD_MS: u64 = 500;

/// What an effect came to.
enum Finished {
    Probed { node: NodeId, result: ProbeResult },
    Asked { node: NodeId, shards: Vec<(SegmentId, u8)>, has: Option<Vec<bool>> },
    Task { key: PlacementName, outcome: Outcome, bytes: u64 },
    Healed { key: Key, outcome: Result<u64, String> },
}

struct Driver {
    core: Arc<Core>,
    keeper: Keeper,
    prober: Prober,
    pace: Pace,
    watch: Stopwatch,
    effects: JoinSet<Finished>,
    /// Nodes of which the keeper was told where they are.
    sited: BTreeSet<NodeId>,
    /// The wall clock at the last look: a monotonic one does not show that the machine slept.
    clock: UnixSeconds,
    /// Whether its hours are quiet, as the keeper was told last.
    is_quiet: Option<bool>,
}

/// Keeps until the node stops.
pub(crate) async fn run(core: Arc<Core>) {
    let (Some(events), Some(vault)) = (core.keep.take_events(), core.vault.clone()) else { return };
    let watch = *core.keep.watch();
    let timing = core.genesis.timing.clone();
    let config = KeeperConfig::of(&timing);
    let pace = Pace::of(&timing);
    let keeper = Keeper::new(watch.now(), core.node_id(), timing, config);
    let mut driver = Driver {
        prober: Prober::new(watch.now(), pace, clock::random_u64()),
        pace,
        core,
        keeper,
        watch,
        effects: JoinSet::new(),
        sited: BTreeSet::new(),
        clock: clock::now(),
        is_quiet: None,
    };
    driver.load(&vault).await;
    driver.drive(events).await;
}

impl Driver {
    fn now(&self) -> Millis {
        self.watch.now()
    }

    fn tell(&mut self, input: KeeperInput) {
        self.keeper.handle(self.watch.now(), input);
        self.act();
    }

    /// Tells the keeper of everything in the vault.
    async fn load(&mut self, vault: &Vault) {
        let mut after = None;
        loop {
            let vault = vault.clone();
            let page = tokio::task::spawn_blocking(move || read_page(&vault, after));
            let Ok((last, records)) = page.await else { return };
            for record in records {
                self.held(&record);
            }
            if last.is_none() {
                return;
            }
            after = last;
        }
    }

    /// A record in the vault: held where it names this node.
    fn held(&mut self, record: &PlacementRecord) {
        if record.body.index_of(&self.core.node_id()).is_some() {
            self.tell(KeeperInput::Held(placed(record)));
        } else {
            self.tell(KeeperInput::Dropped(name_of(record)));
        }
    }

    async fn drive(&mut self, mut events: mpsc::Receiver<Event>) {
        loop {
            self.tick();
            self.report();
            let at = [self.keeper.timeout(), self.prober.timeout()].into_iter().flatten().min();
            let most = self.now().after(TOLD_MS);
            let wait = self.watch.until(at.map_or(most, |at| at.min(most)));
            tokio::select! {
                event = events.recv() => match event {
                    Some(event) => self.event(event).await,
                    None => return,
                },
                Some(done) = self.effects.join_next() => {
                    // A panicking effect leaves its task running; its record is looked at again
                    // after a restart.
                    if let Ok(done) = done {
                        self.finished(done).await;
                    }
                }
                () = tokio::time::sleep(wait.max(Duration::from_millis(1))) => {}
            }
        }
    }

    async fn event(&mut self, event: Event) {
        match event {
            Event::Held(record) => self.held(&record),
            Event::Damaged(key) => self.damaged(key).await,
            Event::Collected => self.reconcile().await,
            Event::Read(segment) => self.tell(KeeperInput::Read(segment)),
            Event::Hint(node) => self.tell_prober(ProberInput::Hint(node)),
            Event::Heard(node) => self.tell_prober(ProberInput::Observed(node)),
            Event::Convicted { holder, segment, index } => {
                self.tell(KeeperInput::Convicted { node: holder, segment, index });
            }
            Event::Joined { to, key } => {
                self.tell(KeeperInput::Joined { node: to, keys: vec![key] });
            }
            Event::Drain => {
                self.tell(KeeperInput::Drain);
                self.report();
                self.core.keep.settled();
            }
        }
    }

    /// A shard of this node's own is damaged: it is made again in place, first of all.
    async fn damaged(&mut self, key: Key) {
        self.core.keep.count(|status| status.damaged_shards += 1);
        let Some(record) = self.any_record(key).await else {
            self.own_word(key, false);
            return;
        };
        let core = Arc::clone(&self.core);
        self.effects.spawn(async move {
            let outcome = heal::heal(&core, &record, key.index).await;
            Finished::Healed { key, outcome }
        });
    }

    /// Some owner's record of a segment that names this node for this shard.
    async fn any_record(&self, key: Key) -> Option<PlacementRecord> {
        let (vault, own) = (self.core.vault.clone()?, self.core.node_id());
        let read = tokio::task::spawn_blocking(move || {
            let found = vault.placements(&key.segment).ok()?;
            let records = found.iter().filter_map(|p| PlacementRecord::decode_own(&p.record).ok());
            records.into_iter().find(|r| r.body.index_of(&own) == Some(key.index))
        });
        read.await.ok().flatten()
    }

    fn own_word(&mut self, key: Key, has: bool) {
        let (node, segment) = (self.core.node_id(), SegmentId(key.segment));
        self.tell(KeeperInput::Says { node, segment, index: key.index, has });
    }

    /// Forgets what the vault has no record of any more.
    async fn reconcile(&mut self) {
        let Some(vault) = self.core.vault.clone() else { return };
        let known: Vec<PlacementName> = self.keeper.keys().collect();
        let gone = tokio::task::spawn_blocking(move || {
            let is_gone = |key: &PlacementName| {
                let name = PlacementKey { segment: key.segment.0, owner: key.owner.0 };
                matches!(vault.placement(&name), Ok(None))
            };
            known.into_iter().filter(is_gone).collect::<Vec<_>>()
        });
        for key in gone.await.unwrap_or_default() {
            self.tell(KeeperInput::Dropped(key));
        }
    }

    async fn finished(&mut self, done: Finished) {
        match done {
            Finished::Probed { node, result } => self.probed(node, result),
            Finished::Asked { node, shards, has } => {
                for ((segment, index), has) in shards.into_iter().zip(has.unwrap_or_default()) {
                    self.tell(KeeperInput::Says { node, segment, index, has });
                }
            }
            Finished::Task { key, outcome, bytes } => {
                // What became known on the way is told first.
                if let Some(record) = own_record(&self.core, key).await {
                    self.held(&record);
                }
                self.tell(KeeperInput::Done { key, outcome, bytes });
            }
            Finished::Healed { key, outcome } => match outcome {
                Ok(read_bytes) => {
                    let segment = SegmentId(key.segment);
                    tracing::info!("shard {} of segment {segment} was made whole again", key.index);
                    self.core.keep.count(|status| {
                        status.healed_shards += 1;
                        status.read_bytes += read_bytes;
                    });
                    self.own_word(key, true);
                }
                Err(reason) => {
                    let segment = SegmentId(key.segment);
                    tracing::error!(
                        "shard {} of segment {segment} stays damaged: {reason}",
                        key.index
                    );
                    self.own_word(key, false);
                }
            },
        }
    }

    /// Time passed.
    fn tick(&mut self) {
        let clock = clock::now();
        if clock != self.clock {
            self.clock = clock;
            self.tell_prober(ProberInput::Clock(clock));
            self.limit();
        }
        self.tell_prober(ProberInput::Tick);
        self.tell(KeeperInput::Tick);
    }

    /// What the owner allows now.
    fn limit(&mut self) {
        let is_quiet = self.core.bandwidth.is_quiet();
        if self.is_quiet.replace(is_quiet) == Some(is_quiet) {
            return;
        }
        let caps = [Way::Up, Way::Down].map(|way| self.core.bandwidth.bytes_per_s(way));
        let usual = KeeperConfig::of(&self.core.genesis.timing).repairs.bytes_per_s;
        let rate = caps.into_iter().flatten().fold(usual, u64::min);
        self.keeper.set_rate(self.watch.now(), rate);
        self.tell(KeeperInput::Quiet(is_quiet));
    }

    fn tell_prober(&mut self, input: ProberInput) {
        self.prober.handle(self.watch.now(), input);
        while let Some(output) = self.prober.poll() {
            match output {
                ProberOutput::Probe(node) => self.probe(node),
                ProberOutput::Changed { node, health, since } => self.changed(node, health, since),
                ProberOutput::Isolated(is_isolated) => {
                    tracing::info!("this node seems to be cut off: {is_isolated}");
                    self.tell(KeeperInput::Isolated(is_isolated));
                }
            }
        }
    }

    fn probe(&mut self, node: NodeId) {
        let core = Arc::clone(&self.core);
        let patience = Duration::from_millis(self.pace.watch_answer_ms / 2);
        self.effects.spawn(async move {
            let greeting = tokio::time::timeout(patience, join::greet(&core, &node)).await;
            let result = match greeting {
                Ok(true) if core.keep.is_sick(&node) => ProbeResult::DiskSick,
                Ok(true) => ProbeResult::Healthy,
                // Whether a connection came about is the pool's knowledge; what counts is that no
                // answer did.
                _ => ProbeResult::Unreachable,
            };
            Finished::Probed { node, result }
        });
    }

    fn probed(&mut self, node: NodeId, result: ProbeResult) {
        self.tell_prober(ProberInput::Probed { node, result });
        if result != ProbeResult::Unreachable && self.sited.insert(node) {
            self.site(node);
        }
    }

    /// A holder whose disk fails still answers: what it lost it says itself when asked.
    fn changed(&mut self, node: NodeId, health: Health, since: Millis) {
        tracing::debug!("{node}: {health:?}");
        let presence =
            if health.is_silent() { Presence::Unreachable { since } } else { Presence::Reachable };
        self.core.keep.set_presence(node, Some(presence));
        self.tell(KeeperInput::Peer { node, presence });
        if health == Health::DiskSick {
            self.tell(KeeperInput::Doubt(node));
        }
    }

    /// Tells the keeper where a node is.
    fn site(&mut self, node: NodeId) {
        let Some(site) = task::site_of(&self.core, &node) else { return };
        let name = echonet_protocol::placement::datacenter_name(&site);
        let mut number = [0; 8];
        number.copy_from_slice(&blake3::hash(name.as_bytes()).as_bytes()[..8]);
        let datacenter = u64::from_le_bytes(number);
        self.tell(KeeperInput::Site { node, datacenter });
    }

    /// Carries out what the keeper wants.
    fn act(&mut self) {
        while let Some(output) = self.keeper.poll() {
            match output {
                KeeperOutput::Watch(node) => {
                    self.core.keep.set_presence(node, Some(Presence::Reachable));
                    self.tell_prober(ProberInput::Watch(node));
                }
                KeeperOutput::Unwatch(node) => {
                    self.tell_prober(ProberInput::Unwatch(node));
                    self.core.keep.set_presence(node, None);
                    self.sited.remove(&node);
                }
                KeeperOutput::AskHas { node, shards } => self.ask(node, shards),
                KeeperOutput::Start { key, version, task } => self.start(key, version, task),
            }
        }
    }

    fn ask(&mut self, node: NodeId, shards: Vec<(SegmentId, u8)>) {
        let core = Arc::clone(&self.core);
        self.effects.spawn(async move {
            let has = core.client.has_shards(&node, shards.clone()).await.ok();
            Finished::Asked { node, shards, has }
        });
    }

    fn start(&mut self, key: PlacementName, version: u64, task: Task) {
        let core = Arc::clone(&self.core);
        self.effects.spawn(async move {
            let (outcome, bytes) = task::carry_out(&core, key, version, task).await;
            Finished::Task { key, outcome, bytes }
        });
    }

    /// What `status` shows.
    fn report(&self) {
        let counts = self.keeper.counts();
        self.core.keep.count(|status| {
            status.segments = counts.placements;
            status.whole = counts.whole;
            status.waiting = counts.waiting;
        });
    }
}

/// The records after a key, and the last key; none at the end.
pub(super) fn read_page(
    vault: &Vault,
    after: Option<PlacementKey>,
) -> (Option<PlacementKey>, Vec<PlacementRecord>) {
    let keys = vault.placement_keys(after, PAGE).unwrap_or_else(|e| {
        tracing::error!("what this node holds cannot be listed: {e}");
        Vec::new()
    });
    let read = |(key, _): &(PlacementKey, u64)| {
        let (_, bytes) = vault.placement(key).ok().flatten()?;
        PlacementRecord::decode_own(&bytes).ok()
    };
    (keys.last().map(|(key, _)| *key), keys.iter().filter_map(read).collect())
}
