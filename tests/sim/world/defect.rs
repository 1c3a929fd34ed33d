//! Defects that can be planted in a world, to see that its judges notice. They are
//! in what stands around the node's machines, never in the machines.

/// What every honest node of a world does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defect {
    /// Keeps what it is given unchecked, and it was damaged on its way.
    TakesWrongBytes,
    /// Deletes shards that it must keep.
    DeletesHeld,
    /// Signs for shards and keeps none.
    KeepsNothing,
    /// Writes down the wrong node for each shard.
    MixesUp,
    /// Names a node for two shards of one segment.
    PlacesTwice,
    /// Takes more than the owner of its disk allows.
    IgnoresQuota,
    /// Agrees to every change as if it were the first.
    AgreesTwice,
    /// Forgets at once what it promised to those who propose.
    ForgetsPromises,
    /// Begins no repair.
    NeverRepairs,
    /// Takes what others say about a node for what it found itself.
    BelievesHints,
    /// Hears nobody in the membership.
    IsDeaf,
}
