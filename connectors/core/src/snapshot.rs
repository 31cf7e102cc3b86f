//! A snapshot of one table that is read beside the stream, as the log remembers it.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Epoch, Lsn};

/// The format number of [`TableSnapshot`] (`docs/formats.md`).
pub const SNAPSHOT_FORMAT: u16 = 1;

/// How far the snapshot of a table is: written to the log in the transaction of the rows it counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableSnapshot {
    /// [`SNAPSHOT_FORMAT`].
    pub format: u16,
    /// The log it belongs to.
    pub log: Uuid,
    /// Drawn by whoever asked for it: it is carried out once.
    pub id: Uuid,
    /// The table's oid in the source.
    pub oid: u32,
    /// `schema.name`, as it was called then.
    pub table: String,
    /// The source has begun it by itself, of the whole table; else somebody has asked for it.
    #[serde(default)]
    pub by_itself: bool,
    /// What became of it.
    pub state: SnapshotState,
    /// Why it ended before its end.
    pub trouble: Option<String>,
    /// Where its first chunk began: rows of the whole table that the log has from before are gone,
    /// unless the snapshot has found them.
    pub since: Option<SnapshotStart>,
    /// The texts of the key of the last row that was read; `None` before the first.
    pub after: Option<Vec<String>>,
    /// What the order of the keys depends on: where that is another now, all is read again.
    #[serde(default)]
    pub order: String,
    /// Rows that were read, and keys that were looked for and not found.
    pub rows: u64,
    /// How many rows the server expected at the beginning; 0 if that is not known.
    #[serde(default)]
    pub expected: u64,
    /// When its first chunk was read, by the source's clock: microseconds since 1970 UTC; 0 before.
    pub began_us: i64,
    /// When its last chunk was read, by the same.
    pub changed_us: i64,
}

/// A place in the source's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SnapshotStart {
    /// The history.
    pub epoch: Epoch,
    /// Everything that committed before this was in the log.
    pub lsn: Lsn,
}

/// What became of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotState {
    /// It is under way, or stands still because that was asked.
    Running,
    /// Every row is in the log.
    Done,
    /// Somebody asked for its end.
    Cancelled,
    /// It cannot go on, and says why.
    Failed,
}

impl SnapshotState {
    /// One word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Cancelled => "cancelled",
            Self::Failed => "FAILED",
        }
    }
}

impl TableSnapshot {
    /// One of the table `oid` before its first chunk, as `id` asks for it, in the log `log`.
    #[must_use]
    pub fn begin((id, log): (Uuid, Uuid), oid: u32, table: String) -> Self {
        Self {
            format: SNAPSHOT_FORMAT,
            log,
            id,
            oid,
            table,
            by_itself: false,
            state: SnapshotState::Running,
            trouble: None,
            since: None,
            after: None,
            order: String::new(),
            rows: 0,
            expected: 0,
            began_us: 0,
            changed_us: 0,
        }
    }

    /// Percent of the rows that were expected; `None` if nothing was.
    #[must_use]
    pub fn percent(&self) -> Option<u64> {
        let percent = self.rows.saturating_mul(100).checked_div(self.expected)?;
        // The expectation is a guess.
        Some(if self.state == SnapshotState::Done { 100 } else { percent.min(99) })
    }

    /// Rows in a second, from the first chunk to the last one; `None` before there are two.
    #[must_use]
    pub fn rows_per_second(&self) -> Option<u64> {
        let us = u64::try_from(self.changed_us - self.began_us).ok()?;
        self.rows.saturating_mul(1_000_000).checked_div(us)
    }

    /// Seconds until its end at the speed so far.
    #[must_use]
    pub fn seconds_left(&self) -> Option<u64> {
        let left = self.expected.checked_sub(self.rows)?;
        left.checked_div(self.rows_per_second()?)
    }
}

/// How far and how fast it is, for a line in a log.
impl fmt::Display for TableSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rows", self.rows)?;
        if let Some(percent) = self.percent() {
            write!(f, ", {percent} %")?;
        }
        if let Some(rate) = self.rows_per_second() {
            write!(f, ", {rate} rows/s")?;
        }
        self.seconds_left().map_or(Ok(()), |left| write!(f, ", about {left} s left"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_a_guess_until_its_end() {
        let (rows, expected, began_us, changed_us) = (500, 2000, 1_000_000, 3_000_000);
        let begun = TableSnapshot::begin((Uuid::nil(), Uuid::nil()), 1, "public.t".into());
        let record = TableSnapshot { rows, expected, began_us, changed_us, ..begun };
        assert_eq!(record.percent(), Some(25));
        assert_eq!((record.rows_per_second(), record.seconds_left()), (Some(250), Some(6)));
        assert_eq!(record.to_string(), "500 rows, 25 %, 250 rows/s, about 6 s left");
        let more = TableSnapshot { rows: 3000, ..record.clone() };
        assert_eq!((more.percent(), more.seconds_left()), (Some(99), None));
        let done = TableSnapshot { state: SnapshotState::Done, ..record.clone() };
        assert_eq!(done.percent(), Some(100));
        let first = TableSnapshot { changed_us: 1_000_000, expected: 0, ..record };
        assert_eq!((first.percent(), first.rows_per_second()), (None, None));
        assert_eq!(first.to_string(), "500 rows");
    }
}
