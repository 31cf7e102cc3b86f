//! Where a change stands in the source's history, and what stores compare.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A WAL location.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

/// Counts the histories of one log: it grows when the source's history forks or restarts.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Epoch(pub u8);

/// The total order of row changes: epoch, then commit, then place in the transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The history this change belongs to.
    pub epoch: Epoch,
    /// LSN of the commit record. Transactions arrive in this order.
    pub commit_lsn: Lsn,
    /// Counts the row and truncate messages of the transaction from 1. Both halves of a key
    /// change share it.
    pub ordinal: u64,
}

/// What a store compares: epoch (8 bits), commit LSN ÷ 32 (47), part (8), as a 63-bit number.
///
/// Commit records lie at least 40 bytes apart, so the division keeps them distinct. Where a
/// 64-bit integer is not to be had (Lua, JSON) it is written as 16 hex digits, never as a double.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(into = "String", try_from = "String")]
pub struct Version(u64);

/// Bytes of WAL that share one version.
const LSN_UNIT: u64 = 32;
const LSN_BITS: u32 = 47;
const PART_BITS: u32 = 8;

impl Lsn {
    /// The WAL that a [`Version`] tells apart within an epoch: 4 PiB. Each time a history gets past
    /// a multiple of it, its next epoch begins.
    pub const VERSION_LIMIT: Self = Self(LSN_UNIT << LSN_BITS);

    /// How often a history that has got here has got past [`Lsn::VERSION_LIMIT`].
    #[must_use]
    pub fn lap(self) -> u64 {
        self.0 / Self::VERSION_LIMIT.0
    }

    /// Where the rows of a snapshot stand that is consistent at this point: below every transaction
    /// that it does not hold. No record lies in the first bytes of a lap, which are a page's header.
    #[must_use]
    pub fn before(self) -> Self {
        let lap = self.lap().saturating_mul(Self::VERSION_LIMIT.0);
        Self(self.0.saturating_sub(LSN_UNIT).max(lap))
    }
}

impl Epoch {
    /// The next history, or `None` after the 256th.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        self.0.checked_add(1).map(Self)
    }

    /// The epoch of a commit at `lsn`, where the history of this one stands at `here`; `None` after
    /// the 256th.
    #[must_use]
    pub fn at(self, here: Lsn, lsn: Lsn) -> Option<Self> {
        let laps = u8::try_from(lsn.lap().saturating_sub(here.lap())).ok()?;
        self.0.checked_add(laps).map(Self)
    }
}

impl Version {
    /// The version of a change in `part` of the transaction that committed at `commit_lsn`. An LSN
    /// counts within its [lap](Lsn::lap): each has an epoch of its own.
    #[must_use]
    pub fn new(epoch: Epoch, commit_lsn: Lsn, part: u8) -> Self {
        let unit = commit_lsn.0 / LSN_UNIT % (1 << LSN_BITS);
        Self(u64::from(epoch.0) << (LSN_BITS + PART_BITS) | unit << PART_BITS | u64::from(part))
    }

    /// The version of rows read by a snapshot that is consistent at `point`: below the version
    /// of every transaction that the snapshot does not hold.
    #[must_use]
    pub fn snapshot(epoch: Epoch, point: Lsn) -> Self {
        Self::new(epoch, point.before(), 0)
    }

    /// The number itself, for stores with 64-bit integers.
    #[must_use]
    pub fn to_i64(self) -> i64 {
        i64::try_from(self.0).unwrap_or(i64::MAX)
    }

    /// Reads what [`Version::to_i64`] gave; `None` if it is negative.
    #[must_use]
    pub fn from_i64(value: i64) -> Option<Self> {
        u64::try_from(value).ok().map(Self)
    }

    /// The version just below this one.
    #[must_use]
    pub fn below(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// A text that is no WAL location.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not an LSN such as 16/B374D848")]
pub struct BadLsn(String);

impl FromStr for Lsn {
    type Err = BadLsn;

    fn from_str(text: &str) -> Result<Self, BadLsn> {
        let bad = || BadLsn(text.to_owned());
        let (high, low) = text.split_once('/').ok_or_else(bad)?;
        let high = u32::from_str_radix(high, 16).map_err(|_| bad())?;
        let low = u32::from_str_radix(low, 16).map_err(|_| bad())?;
        Ok(Self(u64::from(high) << 32 | u64::from(low)))
    }
}

impl Serialize for Lsn {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Lsn {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A text that is no version.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a version of 16 hex digits")]
pub struct BadVersion(String);

impl FromStr for Version {
    type Err = BadVersion;

    fn from_str(text: &str) -> Result<Self, BadVersion> {
        let parsed =
            u64::from_str_radix(text, 16).ok().filter(|v| text.len() == 16 && v >> 63 == 0);
        parsed.map(Self).ok_or_else(|| BadVersion(text.to_owned()))
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.to_string()
    }
}

impl TryFrom<String> for Version {
    type Error = BadVersion;

    fn try_from(text: String) -> Result<Self, BadVersion> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_order_by_epoch_then_commit_then_part() {
        let v = |epoch, lsn, part| Version::new(Epoch(epoch), Lsn(lsn), part);
        let ordered = [
            Version::snapshot(Epoch(0), Lsn(0x15_0000)),
            v(0, 0x15_0000, 0),
            v(0, 0x15_0000, 255),
            v(0, 0x15_0028, 0),
            v(0, Lsn::VERSION_LIMIT.0 - 1, 255),
            v(1, 0x100, 0),
            v(1, Lsn::VERSION_LIMIT.0 - 1, 255),
            Version::snapshot(Epoch(2), Lsn::VERSION_LIMIT),
            v(2, Lsn::VERSION_LIMIT.0 + 40, 0),
            v(255, Lsn::VERSION_LIMIT.0 - 1, 255),
        ];
        assert!(ordered.is_sorted_by(|a, b| a < b));
        assert!(
            ordered
                .iter()
                .all(|v| v.to_i64() >= 0 && v.to_string().parse::<Version>().unwrap() == *v)
        );
        assert!(
            ordered.is_sorted_by(|a, b| a.to_string() < b.to_string()),
            "hex orders as the number"
        );
    }

    #[test]
    fn an_epoch_begins_with_each_lap() {
        let limit = Lsn::VERSION_LIMIT.0;
        let at = |epoch, here, lsn| Epoch(epoch).at(Lsn(here), Lsn(lsn));
        assert_eq!(at(3, 5, limit - 1), Some(Epoch(3)));
        assert_eq!(at(3, 5, limit), Some(Epoch(4)));
        assert_eq!(at(3, limit, limit + 9), Some(Epoch(3)));
        assert_eq!(at(3, limit, 9), Some(Epoch(3)), "what is behind is in the log already");
        assert_eq!(at(254, 0, 2 * limit), None);
        assert_eq!(Lsn(0x1000).before(), Lsn(0xFE0));
        assert_eq!(Lsn(limit + 8).before(), Lsn(limit));
    }

    #[test]
    fn lsn_text_round_trips() {
        for text in ["0/0", "16/B374D848", "FFFFFFFF/FFFFFFFF"] {
            assert_eq!(text.parse::<Lsn>().unwrap().to_string(), text);
        }
        for bad in ["", "16", "16/", "G/0", "1/123456789"] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad}");
        }
    }
}
