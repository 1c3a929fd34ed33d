//! Amounts as people write them: byte sizes (`10GiB`) and times (`60s`).
//!
//! Never guesses: an unknown unit is an error, not a byte or a second.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A number of bytes. `K`, `M`, `G`, `T` (with or without `B`) are powers of
/// 1000, `KiB`, `MiB`, `GiB`, `TiB` powers of 1024; case does not matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// Text that is not a byte size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a size: write a whole number and a unit, such as 10GiB, 200G or 512MiB \
     (GiB = 2^30 bytes, G and GB = 10^9 bytes)"
)]
pub struct ParseSizeError(String);

/// The units of a size in bytes.
const SIZE_UNITS: [(&str, u64); 14] = [
    ("", 1),
    ("b", 1),
    ("k", 1000),
    ("kb", 1000),
    ("kib", 1 << 10),
    ("m", 1_000_000),
    ("mb", 1_000_000),
    ("mib", 1 << 20),
    ("g", 1_000_000_000),
    ("gb", 1_000_000_000),
    ("gib", 1 << 30),
    ("t", 1_000_000_000_000),
    ("tb", 1_000_000_000_000),
    ("tib", 1 << 40),
];

/// The units of a time in seconds.
const TIME_UNITS: [(&str, u64); 5] = [("", 1), ("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)];

/// A whole number and a unit, multiplied; none where either is unknown or the
/// product passes 64 bits.
fn amount(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim().to_ascii_lowercase();
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

impl FromStr for ByteSize {
    type Err = ParseSizeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        amount(text, &SIZE_UNITS)
            .map(Self)
            .ok_or_else(|| ParseSizeError(text.chars().take(40).collect()))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
        for (name, shift) in UNITS {
            if self.0 >> shift > 0 {
                let whole = self.0 >> shift;
                let rest = self.0 & ((1 << shift) - 1);
                // One decimal, rounded down; at most 40 + 4 bits.
                let tenth = (rest * 10) >> shift;
                return match tenth {
                    0 => write!(f, "{whole} {name}"),
                    _ => write!(f, "{whole}.{tenth} {name}"),
                };
            }
        }
        write!(f, "{} bytes", self.0)
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_u64(self.0)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = ByteSize;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as \"10GiB\" or a number of bytes")
            }

            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<ByteSize, E> {
                Ok(ByteSize(bytes))
            }

            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<ByteSize, E> {
                u64::try_from(bytes).map(ByteSize).map_err(|_| E::custom("a size is not negative"))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
                text.parse().map_err(E::custom)
            }
        }
        d.deserialize_any(Visitor)
    }
}

/// Text that is not a time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a time: write a whole number and s, m, h or d, such as 60s or 24h")]
pub struct ParseTimeError(String);

/// Reads a time such as `60s`, `5m`, `24h` or `7d`; a bare number is seconds.
///
/// # Errors
/// [`ParseTimeError`] when it is none of these.
pub fn parse_time(text: &str) -> Result<Duration, ParseTimeError> {
    amount(text, &TIME_UNITS)
        .map(Duration::from_secs)
        .ok_or_else(|| ParseTimeError(text.chars().take(40).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("17", 17),
            ("512MiB", 512 << 20),
            ("10GiB", 10 << 30),
            ("10 gib", 10 << 30),
            ("200G", 200_000_000_000),
            ("200GB", 200_000_000_000),
            ("3k", 3000),
            ("1TiB", 1 << 40),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_and_says_how_to_write_one() {
        for text in ["", "GiB", "-1", "1.5GiB", "10 GiX", "1e9", "99999999999TiB", "١GiB"] {
            let error = text.parse::<ByteSize>().unwrap_err().to_string();
            assert!(error.contains("10GiB"), "{text}: {error}");
        }
    }

    #[test]
    fn sizes_print_rounded_down() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1024, "1 KiB"),
            ((3 << 20) / 2, "1.5 MiB"),
            ((1 << 30) - 1, "1023.9 MiB"),
            (u64::MAX, "16777215.9 TiB"),
        ] {
            assert_eq!(ByteSize(bytes).to_string(), text);
        }
    }

    #[test]
    fn times_need_a_known_unit() {
        assert_eq!(parse_time("60s"), Ok(Duration::from_secs(60)));
        assert_eq!(parse_time("24h"), Ok(Duration::from_secs(86_400)));
        assert_eq!(parse_time("5"), Ok(Duration::from_secs(5)));
        for text in ["", "s", "1w", "1.5h", "-3s"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }
}
