//! A week's quiet hours as people write them (`mon-fri 08:00-18:00` at `+02:00`), turned into the
//! hours of UTC that are told to others.
//!
//! A time zone is a fixed distance from UTC: nothing here knows daylight saving. Hours that are
//! quiet in part are quiet: what is announced is what is done.

use std::str::FromStr;

use echonet_protocol::quiet::{QuietHours, WEEK_HOURS};
use serde::{Deserialize, Serialize, de};

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const HOUR_MIN: u16 = 60;
const DAY_MIN: u16 = 24 * HOUR_MIN;
const WEEK_MIN: i32 = 7 * DAY_MIN as i32;
/// No inhabited place is further from UTC.
const OFFSET_MIN_MAX: u16 = 14 * HOUR_MIN;

/// Text that is no window of quiet hours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no window of quiet hours: write days and times such as \"mon-fri 08:00-18:00\", \
     \"sat 22:00-06:00\" or \"mon-sun 00:00-24:00\""
)]
pub struct ParseWindowError(String);

/// Text that is no distance from UTC.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no distance from UTC: write it such as +02:00 or -05:30")]
pub struct ParseOffsetError(String);

/// Some days of the week, and a time of each of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuietWindow {
    /// First day, Monday being 0, and how many days.
    first_day: u8,
    days: u8,
    /// Minutes of the day; an end at or before the start is on the next day.
    from_min: u16,
    until_min: u16,
}

/// Local time is UTC and so many minutes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UtcOffset {
    minutes: i32,
}

fn start(text: &str) -> String {
    text.chars().take(40).collect()
}

/// `HH:MM`, up to `most` minutes.
fn minutes(text: &str, most: u16) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |digits: &str| {
        let plain = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| digits.parse::<u16>().ok()).flatten()
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    let all = hours * HOUR_MIN + minutes;
    (minutes < HOUR_MIN && all <= most).then_some(all)
}

fn day(text: &str) -> Option<u8> {
    let text = text.trim().to_ascii_lowercase();
    (0..7).find(|day| DAYS[usize::from(*day)] == text)
}

impl FromStr for QuietWindow {
    type Err = ParseWindowError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (days, times) = text.trim().split_once(char::is_whitespace)?;
            let (first_day, last_day) = match days.split_once('-') {
                Some((first, last)) => (day(first)?, day(last)?),
                None => (day(days)?, day(days)?),
            };
            let (from, until) = times.trim().split_once('-')?;
            let from_min = minutes(from.trim(), DAY_MIN - 1)?;
            let until_min = minutes(until.trim(), DAY_MIN)?;
            let days = (last_day + 7 - first_day) % 7 + 1;
            (from_min != until_min).then_some(Self { first_day, days, from_min, until_min })
        };
        parse().ok_or_else(|| ParseWindowError(start(text)))
    }
}

impl FromStr for UtcOffset {
    type Err = ParseOffsetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let text = text.trim();
            let (sign, rest) = text.split_at_checked(1)?;
            let sign = match sign {
                "+" => 1,
                "-" => -1,
                _ => return None,
            };
            Some(Self { minutes: sign * i32::from(minutes(rest, OFFSET_MIN_MAX)?) })
        };
        parse().ok_or_else(|| ParseOffsetError(start(text)))
    }
}

impl std::fmt::Display for QuietWindow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = |day: u8| DAYS[usize::from(day % 7)];
        f.write_str(name(self.first_day))?;
        if self.days > 1 {
            write!(f, "-{}", name(self.first_day + self.days - 1))?;
        }
        let (from, until) = (self.from_min, self.until_min);
        let hour = |min: u16| (min / HOUR_MIN, min % HOUR_MIN);
        let ((h0, m0), (h1, m1)) = (hour(from), hour(until));
        write!(f, " {h0:02}:{m0:02}-{h1:02}:{m1:02}")
    }
}

impl std::fmt::Display for UtcOffset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sign = if self.minutes < 0 { '-' } else { '+' };
        let (hours, minutes) = (self.minutes.abs() / 60, self.minutes.abs() % 60);
        write!(f, "{sign}{hours:02}:{minutes:02}")
    }
}

impl Serialize for QuietWindow {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl Serialize for UtcOffset {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for UtcOffset {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}

/// The hours of UTC that any of the windows touches.
#[must_use]
pub fn quiet_hours(windows: &[QuietWindow], offset: UtcOffset) -> QuietHours {
    let mut quiet = QuietHours::NONE;
    for window in windows {
        let next_day = if window.until_min <= window.from_min { DAY_MIN } else { 0 };
        let length = window.until_min + next_day - window.from_min;
        for day in window.first_day..window.first_day + window.days {
            let local = i32::from(day % 7) * i32::from(DAY_MIN) + i32::from(window.from_min);
            let from = (local - offset.minutes).rem_euclid(WEEK_MIN);
            let until = from + i32::from(length);
            // Less than two weeks of minutes: hours below 336.
            let hours = from / 60..(until + 59) / 60;
            hours.for_each(|hour| quiet.add((hour % i32::from(WEEK_HOURS)) as u8));
        }
    }
    quiet
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hours(windows: &[&str], offset: &str) -> Vec<u8> {
        let windows: Vec<QuietWindow> = windows.iter().map(|w| w.parse().unwrap()).collect();
        quiet_hours(&windows, offset.parse().unwrap()).hours().collect()
    }

    #[test]
    fn windows_become_hours_of_utc() {
        assert_eq!(hours(&["mon 08:00-10:00"], "+00:00"), [8, 9]);
        assert_eq!(hours(&["mon-tue 08:00-09:00"], "+02:00"), [6, 30]);
        assert_eq!(hours(&["Sun 22:00-02:00"], "+00:00"), [0, 1, 166, 167], "into the next week");
        assert_eq!(hours(&["mon 00:00-01:00"], "+01:00"), [167], "into the week before");
        assert_eq!(hours(&["sat-mon 12:00-13:00"], "+00:00"), [12, 132, 156], "over the weekend");
        assert_eq!(hours(&["mon 08:00-10:00", "mon 09:00-11:00"], "+00:00"), [8, 9, 10]);
        assert_eq!(hours(&["mon-sun 00:00-24:00"], "-11:30").len(), 168);
        assert_eq!(hours(&["tue 00:00-24:00"], "+00:00"), (24..48).collect::<Vec<u8>>());
        assert_eq!(hours(&[], "+14:00"), Vec::<u8>::new());
    }

    #[test]
    fn hours_that_are_quiet_in_part_are_quiet() {
        assert_eq!(hours(&["mon 08:00-10:00"], "+05:30"), [2, 3, 4]);
        assert_eq!(hours(&["wed 23:59-00:01"], "+00:00"), [71, 72]);
    }

    #[test]
    fn what_is_printed_is_read_again() {
        for text in ["mon-fri 08:00-18:00", "sun 23:30-00:30", "sat-mon 00:00-24:00"] {
            assert_eq!(text.parse::<QuietWindow>().unwrap().to_string(), text);
        }
        for text in ["+00:00", "-05:30", "+14:00"] {
            assert_eq!(text.parse::<UtcOffset>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let long = "mon ".repeat(1000);
        for text in [
            "",
            "mon",
            "mon 08:00",
            "08:00-10:00",
            "mon 8-10",
            "mon 08:00-08:00",
            "mon 24:00-08:00",
            "mon 08:60-09:00",
            "mon 08:00-24:01",
            "monday 08:00-09:00",
            "mon-fri-sat 08:00-09:00",
            "mon +8:00-09:00",
            "mon 008:00-09:00",
            &long,
        ] {
            let error = text.parse::<QuietWindow>().unwrap_err().to_string();
            assert!(error.contains("mon-fri 08:00-18:00") && error.len() < 300, "{error}");
        }
        for text in ["", "2", "02:00", "+2", "+2:00", "+14:01", "UTC+2", "Z", "\u{e9}02:00"] {
            assert!(text.parse::<UtcOffset>().is_err(), "{text}");
        }
    }
}
