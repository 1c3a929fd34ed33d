//! What a node does for others: answers about its shards, serves and takes them,
//! and deletes what nobody needs it to keep.

use std::rc::Rc;

use echonet_archive::keeper::KeeperInput;
use echonet_protocol::machine::Machine;

use super::{Out, SimNode};
use crate::world::{
    defect::Defect,
    disk::{Shard, Write},
    message::{Bytes, Message},
    setup::Record,
};

/// A shard's way takes so much longer than a short message's, milliseconds a MiB.
const MS_PER_MIB: u64 = 40;

pub(in crate::world) fn way_ms(bytes: u32) -> u64 {
    (u64::from(bytes) * MS_PER_MIB) >> 20
}

impl SimNode {
    pub(super) fn asked(
        &mut self,
        from: usize,
        shards: &[(usize, u8)],
        versions: &[Rc<Record>],
        io: &mut Out<'_>,
    ) {
        if self.nature.stalls {
            return;
        }
        let has: Vec<(usize, u8, bool)> = shards
            .iter()
            .map(|(segment, index)| {
                let has = self.has(*segment, *index) && self.knows_all(*segment, versions);
                let has = has || self.nature.lies;
                let has = if self.nature.wavers { self.draws.below(2) == 0 } else { has };
                (*segment, *index, has)
            })
            .collect();
        io.send(from, Message::Has(Rc::new(has)), 0);
        for theirs in versions {
            let placement = theirs.placement;
            match self.known.get(&placement) {
                Some(known) if known.wins_over(theirs) => {
                    io.send(from, Message::Record(Rc::clone(known)), 0);
                }
                Some(known) if known.is_same(theirs) => {}
                _ => io.send(from, Message::Tell { placement }, 0),
            }
        }
    }

    /// Whether it knows of every placement of a segment that the asker knows of: the shard may
    /// be kept for another one only, and go when that one moves on.
    fn knows_all(&self, segment: usize, versions: &[Rc<Record>]) -> bool {
        let of = &self.setup().of_segment[segment];
        let mut asked = versions.iter().filter(|record| of.contains(&record.placement));
        asked.all(|record| self.known.contains_key(&record.placement))
    }

    pub(super) fn read(
        &mut self,
        from: usize,
        nonce: u64,
        segment: usize,
        index: u8,
        io: &mut Out<'_>,
    ) {
        if self.nature.stalls {
            return;
        }
        let bytes = match self.disk.shards.get(&(segment, index)) {
            Some(shard) if shard.is_right && !self.nature.corrupts => Bytes::Right,
            Some(_) => Bytes::Wrong,
            None if self.nature.lies => Bytes::Wrong,
            None => Bytes::Absent,
        };
        let extra_ms = way_ms(self.setup().segments[segment].shard_bytes);
        io.send(from, Message::Shard { nonce, index, bytes }, extra_ms);
    }

    /// Takes a shard to keep it for the next version of a record.
    pub(super) fn put(
        &mut self,
        from: usize,
        nonce: u64,
        record: &Rc<Record>,
        index: u8,
        is_right: bool,
        io: &mut Out<'_>,
    ) {
        if self.nature.stalls {
            return;
        }
        let (placement, version) = (record.placement, record.version + 1);
        let sign = || self.setup().receipt(placement, index, self.own, version);
        let receipt = self.setup().has_voters.then(|| Rc::new(sign()));
        let answer = |is_kept| {
            let receipt = receipt.clone().filter(|_| is_kept);
            Message::Receipt { nonce, index, is_kept, receipt }
        };
        if self.nature.forgets || self.common.has(Defect::KeepsNothing) {
            io.send(from, answer(true), 0);
            return;
        }
        let segment = self.setup().placements[record.placement].segment;
        let bytes = self.setup().segments[segment].shard_bytes;
        let has_room = self.disk.used() + u64::from(bytes) <= self.disk.quota_bytes
            || self.common.has(Defect::IgnoresQuota);
        let is_new = !self.has(segment, index);
        // A shard is checked against the descriptor before anything is signed.
        let is_unchecked = self.common.has(Defect::TakesWrongBytes);
        let is_right = (is_right || self.nature.lies) && !is_unchecked;
        if !(is_right || is_unchecked) || self.is_draining || (is_new && !has_room) {
            io.send(from, answer(false), 0);
            return;
        }
        let shard = Shard { is_right, bytes };
        self.disk.write(Write::Shard { segment, index, shard, placement, version });
        self.learn_of(record);
        self.say_when_durable(from, answer(true));
    }

    /// Remembers where to ask later about a placement that may name this node soon.
    fn learn_of(&mut self, record: &Rc<Record>) {
        let known = self.known.get(&record.placement);
        if known.is_none_or(|known| record.wins_over(known)) {
            self.known.insert(record.placement, Rc::clone(record));
            self.disk.write(Write::Record(Rc::clone(record)));
            self.hold(record);
        }
    }

    /// Finds shards that went bad, and deletes what nobody needs this node to keep.
    pub(super) fn keep_house(&mut self, io: &mut Out<'_>) {
        let bad: Vec<(usize, u8)> =
            self.disk.shards.iter().filter(|(_, s)| !s.is_right).map(|(at, _)| *at).collect();
        for (segment, index) in bad {
            self.disk.write(Write::Remove { segment, index });
            let (node, id) = (self.id(self.own), self.setup().segments[segment].id);
            let says = KeeperInput::Says { node, segment: id, index, has: false };
            self.keeper.handle(self.now, says);
        }
        let pledges: Vec<((usize, u8), u64)> =
            self.disk.pledges.iter().map(|(at, version)| (*at, *version)).collect();
        for ((placement, index), version) in pledges {
            let Some(known) = self.known.get(&placement).map(Rc::clone) else { continue };
            if known.index_of(self.own) == Some(index) {
                continue;
            }
            // The version that the receipt was for came about without it, or something later.
            if known.version >= version {
                self.disk.write(Write::Unpledge { placement, index });
            } else {
                for (_, holder) in &known.holders {
                    io.send(*holder, Message::Tell { placement }, 0);
                }
            }
        }
        self.delete_spares();
    }

    /// Shards that no receipt of this node is about any more.
    fn delete_spares(&mut self) {
        let spare: Vec<(usize, u8)> = self
            .disk
            .shards
            .keys()
            .filter(|(segment, index)| {
                let of = &self.setup().of_segment[*segment];
                let is_named = |p: &usize| {
                    self.known.get(p).and_then(|r| r.index_of(self.own)) == Some(*index)
                };
                self.common.has(Defect::DeletesHeld)
                    || !of
                        .iter()
                        .any(|p| self.disk.pledges.contains_key(&(*p, *index)) || is_named(p))
            })
            .copied()
            .collect();
        for (segment, index) in spare {
            if !self.disk.is_pending((segment, index)) {
                self.disk.write(Write::Remove { segment, index });
            }
        }
        let forgotten: Vec<usize> = self
            .known
            .values()
            .filter(|r| !r.names(self.own) && !self.pledges(r))
            .map(|r| r.placement)
            .collect();
        for placement in forgotten {
            if self.disk.records.contains_key(&placement) {
                self.known.remove(&placement);
                self.disk.write(Write::Forget { placement });
            }
        }
    }
}
