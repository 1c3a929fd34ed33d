//! The judges: they see every disk and every agreement, say when something must
//! never have happened, and whether all is whole in the end.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    rc::Rc,
};

use echonet_protocol::{identity::NodeId, machine::Millis, placement_record::Strength};

use super::{
    disk::Disk,
    links::Links,
    message::Notice,
    setup::{Record, Setup},
};

/// Of whom nothing disturbed for so long, everybody knows that it is there.
const SETTLED_MS: u64 = 30_000;
/// How much of a segment's story is kept.
const STORY_MAX: usize = 50;

/// Something that must never happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Violation {
    /// Which rule, always in the same words.
    pub(super) rule: &'static str,
    pub(super) at: Millis,
    pub(super) placement: Option<usize>,
    pub(super) detail: String,
}

/// What the whole run amounted to.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Totals {
    pub(super) events: u64,
    pub(super) began: u64,
    pub(super) committed: u64,
    pub(super) yielded: u64,
    pub(super) failed: u64,
    /// Shards given to new holders by agreed versions.
    pub(super) shards_moved: u64,
    /// Bytes read and written by all tasks.
    pub(super) bytes_moved: u64,
    /// Bytes of shards that faults destroyed.
    pub(super) bytes_lost: u64,
    /// Placements that faults and lies together took below what the promise covers.
    pub(super) beyond_promise: u64,
    /// How often members were probed for what others said.
    pub(super) hints: u64,
    /// How often a node was found down while it ran.
    pub(super) false_downs: u64,
    /// Faults that were left out because they would have broken the promise's premise.
    pub(super) faults_spared: u64,
    /// When all was whole again after the faults, milliseconds.
    pub(super) whole_after_ms: u64,
}

impl Totals {
    /// Adds up.
    pub(super) fn add(&mut self, other: &Self) {
        self.events += other.events;
        self.began += other.began;
        self.committed += other.committed;
        self.yielded += other.yielded;
        self.failed += other.failed;
        self.shards_moved += other.shards_moved;
        self.bytes_moved += other.bytes_moved;
        self.bytes_lost += other.bytes_lost;
        self.beyond_promise += other.beyond_promise;
        self.hints += other.hints;
        self.false_downs += other.false_downs;
        self.faults_spared += other.faults_spared;
        self.whole_after_ms += other.whole_after_ms;
    }
}

/// What is on honest disks of one segment: by index and node, whether it is right.
type Copies = BTreeMap<(u8, usize), bool>;

/// Whether fewer than a quorum made it, or a version before it, as a scheme may allow.
fn is_weak(record: &Record) -> bool {
    record.proof.as_ref().is_some_and(|proof| proof.strength() != Strength::Quorum)
}

/// See the module's documentation.
pub(super) struct Judge {
    pub(super) totals: Totals,
    pub(super) violation: Option<Violation>,
    newest: Vec<Rc<Record>>,
    /// The newest on which no version rests that fewer than a quorum made.
    finals: Vec<Rc<Record>>,
    /// By placement and version.
    committed: BTreeMap<(usize, u64), Rc<Record>>,
    copies: Vec<Copies>,
    is_honest: Vec<bool>,
    is_excused: Vec<bool>,
    story: Vec<VecDeque<(Millis, usize, String)>>,
}

impl Judge {
    pub(super) fn new(setup: &Setup, is_honest: Vec<bool>) -> Self {
        let mut copies = vec![Copies::new(); setup.segments.len()];
        for record in &setup.first {
            let of = &mut copies[setup.placements[record.placement].segment];
            let honest = record.holders.iter().filter(|(_, node)| is_honest[*node]);
            of.extend(honest.map(|(index, node)| ((*index, *node), true)));
        }
        Self {
            totals: Totals::default(),
            violation: None,
            newest: setup.first.clone(),
            finals: setup.first.clone(),
            committed: BTreeMap::new(),
            copies,
            is_honest,
            is_excused: vec![false; setup.placements.len()],
            story: vec![VecDeque::new(); setup.segments.len()],
        }
    }

    fn blame(&mut self, rule: &'static str, at: Millis, placement: Option<usize>, detail: String) {
        if self.violation.is_none() {
            self.violation = Some(Violation { rule, at, placement, detail });
        }
    }

    /// Something that a node says of itself.
    pub(super) fn note(
        &mut self,
        setup: &Setup,
        links: &Links,
        now: Millis,
        node: usize,
        notice: &Notice,
    ) {
        self.tell(setup, now, node, notice);
        match notice {
            Notice::Stored { segment, index, is_right } if self.is_honest[node] => {
                self.copies[*segment].insert((*index, node), *is_right);
                if !is_right {
                    let detail = format!("node {node}, segment {segment}, shard {index}");
                    self.blame("an honest node took a wrong byte", now, None, detail);
                }
            }
            Notice::Removed { segment, index } if self.is_honest[node] => {
                self.removed(setup, now, node, *segment, *index);
            }
            Notice::Committed(record) => {
                self.committed(setup, &|number| links.is_live(number), now, record);
            }
            Notice::Began { placement, gone, .. } => {
                self.totals.began += 1;
                self.taken_for_gone(links, now, node, *placement, gone);
            }
            Notice::FoundDown { node } => {
                self.totals.false_downs += u64::from(links.is_live(*node));
            }
            Notice::Ended { how, bytes, replaced, .. } => {
                self.totals.bytes_moved += bytes;
                match *how {
                    "committed" => {
                        self.totals.committed += 1;
                        self.totals.shards_moved += *replaced as u64;
                    }
                    "yielded" => self.totals.yielded += 1,
                    _ => self.totals.failed += 1,
                }
            }
            Notice::Hinted => self.totals.hints += 1,
            Notice::OverQuota if self.is_honest[node] => {
                self.blame("a quota was passed", now, None, format!("node {node}"));
            }
            _ => {}
        }
    }

    /// Honest nodes that nothing disturbs reach one another, whatever others say of them.
    fn taken_for_gone(
        &mut self,
        links: &Links,
        now: Millis,
        node: usize,
        placement: usize,
        gone: &[usize],
    ) {
        let is_undoubted =
            |number: usize| self.is_honest[number] && links.is_settled(number, SETTLED_MS);
        if !is_undoubted(node) {
            return;
        }
        if let Some(holder) = gone.iter().find(|holder| is_undoubted(**holder)) {
            let detail = format!("holder {holder}, by node {node}");
            self.blame("a reachable holder was taken for gone", now, Some(placement), detail);
        }
    }

    fn removed(&mut self, setup: &Setup, now: Millis, node: usize, segment: usize, index: u8) {
        let was_right = self.copies[segment].remove(&(index, node)).unwrap_or(false);
        for placement in &setup.of_segment[segment] {
            let is_named = self.newest[*placement].holders.contains(&(index, node));
            if is_named && was_right {
                let detail = format!("node {node}, shard {index}");
                let rule = "an honest holder deleted a shard that it must keep";
                self.blame(rule, now, Some(*placement), detail);
                return;
            }
        }
    }

    fn committed(
        &mut self,
        setup: &Setup,
        live: &dyn Fn(usize) -> bool,
        now: Millis,
        record: &Rc<Record>,
    ) {
        let placement = record.placement;
        let before = Rc::clone(&self.newest[placement]);
        let known = self.committed.entry((placement, record.version));
        let first = Rc::clone(known.or_insert_with(|| Rc::clone(record)));
        if !(first.is_same(record) || is_weak(record) || is_weak(&first)) {
            let (one, other) = (&first.holders, &record.holders);
            let detail = format!("version {}: {one:?}, {other:?}", record.version);
            self.blame("a version was committed twice", now, Some(placement), detail);
            return;
        }
        if !is_weak(record) && record.wins_over(&self.finals[placement]) {
            self.finals[placement] = Rc::clone(record);
        }
        if !record.wins_over(&before) {
            return;
        }
        let scheme = setup.segment_of(placement).scheme;
        let nodes: BTreeSet<usize> = record.holders.iter().map(|(_, node)| *node).collect();
        let indices: BTreeSet<u8> = record.holders.iter().map(|(index, _)| *index).collect();
        let is_sound = nodes.len() == record.holders.len()
            && indices.len() == record.holders.len()
            && indices.iter().all(|index| usize::from(*index) < scheme.n())
            && record.holders.len() >= usize::from(scheme.k);
        if !is_sound {
            let detail = format!("{:?}", record.holders);
            self.blame("a hard constraint is broken", now, Some(placement), detail);
        }
        let k = usize::from(scheme.k);
        let live_before = self.right(setup, &before, live);
        self.newest[placement] = Rc::clone(record);
        let right = self.right(setup, record, &|_| true);
        if right < k && live_before < k {
            self.excuse(placement);
        } else if right < k {
            let detail = format!("{right} right shards named, {live_before} live before");
            self.blame(
                "an agreed version names fewer than k right shards",
                now,
                Some(placement),
                detail,
            );
        }
    }

    fn excuse(&mut self, placement: usize) {
        if !self.is_excused[placement] {
            self.is_excused[placement] = true;
            self.totals.beyond_promise += 1;
        }
    }

    /// Right shards on honest disks that a record names, of those nodes that count.
    fn right(&self, setup: &Setup, record: &Record, counts: &dyn Fn(usize) -> bool) -> usize {
        let copies = &self.copies[setup.placements[record.placement].segment];
        let named = record.holders.iter().filter(|(_, node)| counts(*node));
        named.filter(|at| copies.get(at).copied().unwrap_or(false)).count()
    }

    /// Whether the promise's premise, k honest holders live, holds without these shards of a
    /// node: those for which `is_hit` says so.
    pub(super) fn may_hit(
        &self,
        setup: &Setup,
        live: &dyn Fn(usize) -> bool,
        node: usize,
        is_hit: &dyn Fn(usize, u8) -> bool,
    ) -> bool {
        self.newest.iter().all(|record| {
            let segment = setup.placements[record.placement].segment;
            let of_node = self.copies[segment]
                .range((0, 0)..)
                .filter(|((i, n), right)| *n == node && **right && is_hit(segment, *i));
            let mut hits = of_node.map(|((index, _), _)| *index).peekable();
            if hits.peek().is_none() || self.is_excused[record.placement] {
                return true;
            }
            let named = hits.filter(|index| record.holders.contains(&(*index, node))).count();
            // A spare may be a shard that a version on its way will name.
            let spare = usize::from(named == 0);
            let k = usize::from(setup.segments[segment].scheme.k);
            let left = self.right(setup, record, live);
            left >= k + usize::from(live(node)) * named + spare
        })
    }

    /// A fault destroyed a shard, or changed it.
    pub(super) fn hit(
        &mut self,
        setup: &Setup,
        node: usize,
        segment: usize,
        index: u8,
        is_there: bool,
    ) {
        if !self.is_honest[node] {
            return;
        }
        self.totals.bytes_lost += u64::from(setup.segments[segment].shard_bytes);
        if is_there {
            self.copies[segment].insert((index, node), false);
        } else {
            self.copies[segment].remove(&(index, node));
        }
    }

    /// A crash left this on a node's disk: writes that nobody was told of may have happened.
    pub(super) fn left(&mut self, setup: &Setup, now: Millis, node: usize, disk: &Disk) {
        if !self.is_honest[node] {
            return;
        }
        for (segment, index) in self.of_node(node) {
            if !disk.shards.contains_key(&(segment, index)) {
                self.removed(setup, now, node, segment, index);
            }
        }
        for ((segment, index), shard) in &disk.shards {
            self.copies[*segment].insert((*index, node), shard.is_right);
        }
    }

    /// Honest copies on a node.
    pub(super) fn of_node(&self, node: usize) -> Vec<(usize, u8)> {
        let all = self.copies.iter().enumerate();
        all.flat_map(|(segment, copies)| copies.keys().map(move |(i, n)| (segment, *i, *n)))
            .filter(|(_, _, n)| *n == node)
            .map(|(segment, index, _)| (segment, index))
            .collect()
    }

    /// Whether everything is whole: the first thing that is not.
    pub(super) fn unwhole(
        &self,
        setup: &Setup,
        is_up: &dyn Fn(usize) -> bool,
        knows: &dyn Fn(usize, usize) -> Option<u64>,
    ) -> Option<(usize, String)> {
        self.newest.iter().filter(|record| !self.is_excused[record.placement]).find_map(|record| {
            let placement = record.placement;
            let scheme = setup.segment_of(placement).scheme;
            let rival = &self.finals[placement];
            let goes_by = |node: usize, record: &Record| {
                self.is_honest[node] && knows(node, placement) == Some(record.version)
            };
            // While a quorum goes by the version before, a weak one of the others is no obligation.
            let stayed = rival.holders.iter().filter(|(_, n)| is_up(*n) && goes_by(*n, rival));
            let is_passed_over = is_weak(record) && stayed.count() >= scheme.change_quorum();
            let due = if is_passed_over { rival } else { record };
            if due.holders.len() < scheme.n() {
                let detail = format!("{} holders of {}", due.holders.len(), scheme.n());
                return Some((placement, detail));
            }
            due.holders.iter().find_map(|(index, node)| {
                let is_fine = goes_by(*node, due) || (is_passed_over && goes_by(*node, record));
                let wrong = self.wrong_with(setup, due, (*index, *node), is_up(*node), is_fine)?;
                let (version, known) = (due.version, knows(*node, placement));
                Some((
                    placement,
                    format!(
                        "version {version}: holder {node} of shard {index} {wrong} (knows {known:?})"
                    ),
                ))
            })
        })
    }

    fn wrong_with(
        &self,
        setup: &Setup,
        record: &Record,
        (index, node): (u8, usize),
        is_up: bool,
        is_newest: bool,
    ) -> Option<&'static str> {
        let copies = &self.copies[setup.placements[record.placement].segment];
        let has = copies.get(&(index, node)).copied().unwrap_or(false);
        match self.is_honest[node] {
            _ if !is_up => Some("is gone"),
            true if !has => Some("lacks its shard"),
            true if !is_newest => Some("does not know the newest version"),
            _ => None,
        }
    }

    /// An honest node that runs and is down in the view of another: who, by whom.
    pub(super) fn down(
        &self,
        setup: &Setup,
        is_up: &dyn Fn(usize) -> bool,
        views: &dyn Fn(usize) -> Vec<NodeId>,
    ) -> Option<(usize, usize)> {
        let honest = |number: &usize| self.is_honest[*number] && is_up(*number);
        (0..self.is_honest.len()).filter(honest).find_map(|by| {
            let all = views(by).into_iter().filter_map(|id| setup.numbers.get(&id).copied());
            all.filter(honest).map(|whom| (whom, by)).next()
        })
    }

    /// It was not whole in time.
    pub(super) fn never_whole(&mut self, now: Millis, placement: usize, detail: String) {
        self.blame("a segment did not return to n", now, Some(placement), detail);
    }

    /// Somebody stays down in the view of another.
    pub(super) fn stays_down(&mut self, now: Millis, whom: usize, by: usize) {
        let detail = format!("node {whom}, by node {by}");
        self.blame("a node that runs stays down for another", now, None, detail);
    }

    fn tell(&mut self, setup: &Setup, now: Millis, node: usize, notice: &Notice) {
        let segment = match notice {
            Notice::Stored { segment, .. } | Notice::Removed { segment, .. } => *segment,
            Notice::Committed(record) | Notice::Learned(record) => {
                setup.placements[record.placement].segment
            }
            Notice::Began { placement, .. }
            | Notice::Ended { placement, .. }
            | Notice::Refused { placement, .. } => setup.placements[*placement].segment,
            Notice::OverQuota | Notice::FoundDown { .. } | Notice::Hinted => return,
        };
        let text = match notice {
            Notice::Learned(record) => format!("learned version {}", record.version),
            Notice::Began { placement, what, gone } => {
                format!("began {what} of {placement}; gone: {gone:?}")
            }
            Notice::Committed(record) => {
                format!("committed version {}: {:?}", record.version, record.holders)
            }
            Notice::Refused { placement, why } => format!("placement {placement}: {why}"),
            other => format!("{other:?}"),
        };
        let story = &mut self.story[segment];
        story.push_back((now, node, text));
        story.drain(..story.len().saturating_sub(STORY_MAX));
    }

    /// The last things that happened to a placement's segment.
    pub(super) fn story(&self, setup: &Setup, placement: usize) -> Vec<String> {
        let of = &self.story[setup.placements[placement].segment];
        of.iter()
            .map(|(at, node, text)| format!("{:>8} ms  node {node:>3}  {text}", at.0))
            .collect()
    }
}
