//! Quiet hours: the hours of a week in which a node caps its bandwidth, as it tells others.
//! Weeks begin on Monday at 00:00 UTC. No clock here.

use crate::{bytes::fixed_bytes, time::UnixSeconds};

/// Hours of a week.
pub const WEEK_HOURS: u8 = 168;
/// The hour of the week in which 1970 began: a Thursday.
const UNIX_HOUR_OF_WEEK: u64 = 3 * 24;

fixed_bytes! {
    /// A bit for each hour of the week: hour h, counted from Monday 00:00 UTC, is bit h mod 8
    /// (from the lowest) of byte h / 8 (SPEC.md, "Node descriptors").
    QuietHours, 21
}

impl Default for QuietHours {
    fn default() -> Self {
        Self::NONE
    }
}

impl QuietHours {
    /// Never quiet.
    pub const NONE: Self = Self([0; Self::LEN]);

    /// The hour of the week of a time, 0 to 167.
    #[must_use]
    pub fn hour_of(at: UnixSeconds) -> u8 {
        // Below 168.
        ((at.0 / 3_600 % u64::from(WEEK_HOURS) + UNIX_HOUR_OF_WEEK) % u64::from(WEEK_HOURS)) as u8
    }

    /// Whether an hour is quiet; hours past the week's end are not.
    #[must_use]
    pub fn has(&self, hour: u8) -> bool {
        self.0.get(usize::from(hour / 8)).is_some_and(|byte| byte >> (hour % 8) & 1 == 1)
    }

    /// Whether it is quiet at a time.
    #[must_use]
    pub fn is_quiet(&self, at: UnixSeconds) -> bool {
        self.has(Self::hour_of(at))
    }

    /// Makes an hour quiet, counted on into the next week past this one's end.
    pub fn add(&mut self, hour: u8) {
        let hour = hour % WEEK_HOURS;
        self.0[usize::from(hour / 8)] |= 1 << (hour % 8);
    }

    /// Whether no hour is quiet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::NONE
    }

    /// The quiet hours, ascending.
    pub fn hours(&self) -> impl Iterator<Item = u8> + '_ {
        (0..WEEK_HOURS).filter(|hour| self.has(*hour))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weeks_begin_on_monday_at_midnight() {
        // 2026-01-05 was a Monday.
        let monday = 1_767_571_200;
        assert_eq!(QuietHours::hour_of(UnixSeconds(monday)), 0);
        assert_eq!(QuietHours::hour_of(UnixSeconds(monday + 3_599)), 0);
        assert_eq!(QuietHours::hour_of(UnixSeconds(monday - 1)), 167);
        assert_eq!(QuietHours::hour_of(UnixSeconds(monday + 7 * 86_400 + 25 * 3_600)), 25);
        assert_eq!(QuietHours::hour_of(UnixSeconds(0)), 72);
        assert!(QuietHours::hour_of(UnixSeconds(u64::MAX)) < WEEK_HOURS);
    }

    #[test]
    fn every_hour_has_a_bit_of_its_own() {
        let mut all = QuietHours::NONE;
        for hour in 0..WEEK_HOURS {
            let mut one = QuietHours::NONE;
            one.add(hour);
            assert_eq!(one.hours().collect::<Vec<_>>(), [hour]);
            assert!(!all.has(hour));
            all.add(hour + if hour < 80 { WEEK_HOURS } else { 0 });
            assert_eq!(all.hours().count(), usize::from(hour) + 1);
        }
        assert_eq!(all.0, [0xff; QuietHours::LEN]);
        assert!(!all.has(WEEK_HOURS) && !all.has(u8::MAX));
        assert!(QuietHours::default().is_empty() && !all.is_empty());
    }
}
