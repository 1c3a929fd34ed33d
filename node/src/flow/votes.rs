//! In which order records are looked at, when more were found than are: those
//! that more nodes gave come first.
//!
//! A flood can fill what single nodes keep beside an honest record, each with
//! something else; it cannot be everywhere at once and many.

use std::collections::{BTreeMap, BTreeSet};

/// Records, and how many nodes gave each.
#[derive(Debug, Default)]
pub struct Votes {
    counts: BTreeMap<Vec<u8>, usize>,
}

impl Votes {
    /// Takes one node's answer: each record counts once. `is_wanted` is asked
    /// about records not seen before.
    pub fn take(&mut self, answer: Vec<Vec<u8>>, mut is_wanted: impl FnMut(&[u8]) -> bool) {
        for record in answer.into_iter().collect::<BTreeSet<_>>() {
            if let Some(count) = self.counts.get_mut(&record) {
                *count += 1;
            } else if is_wanted(&record) {
                self.counts.insert(record, 1);
            }
        }
    }

    /// How many different records there are.
    #[must_use]
    pub fn distinct(&self) -> usize {
        self.counts.len()
    }

    /// The records, those of most nodes first, ties by their bytes.
    #[must_use]
    pub fn ranked(self) -> Vec<Vec<u8>> {
        let mut ranked: Vec<_> = self.counts.into_iter().collect();
        ranked.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        ranked.into_iter().map(|(record, _)| record).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_many_gave_comes_before_what_one_repeats() {
        let mut votes = Votes::default();
        let mut asked = Vec::new();
        for node in 0..3u8 {
            let answer = vec![vec![255], vec![node], vec![node], vec![node], vec![9]];
            votes.take(answer, |record| {
                asked.push(record.to_vec());
                record != [9]
            });
        }
        assert_eq!(asked.iter().filter(|r| **r == [255]).count(), 1, "verified once");
        assert_eq!(votes.distinct(), 4);
        assert_eq!(votes.ranked(), [vec![255], vec![0], vec![1], vec![2]]);
    }
}
