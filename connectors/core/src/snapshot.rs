//! A snapshot of one table that is read beside the stream, as the log remembers it.

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
    /// What became of it.
    pub state: SnapshotState,
    /// Why it ended before its end.
    pub trouble: Option<String>,
    /// Where its first chunk began: rows of the whole table that the log has from before are gone,
    /// unless the snapshot has found them.
    pub since: Option<SnapshotStart>,
    /// The texts of the key of the last row that was read; `None` before the first.
    pub after: Option<Vec<String>>,
    /// Rows that were read, and keys that were looked for and not found.
    pub rows: u64,
    /// When its first chunk was read, by the source's clock: microseconds since 1970 UTC; 0 before.
    pub began_us: i64,
    /// When its last chunk was read, by the same.
    pub changed_us: i64,
}

/// A place in the source's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
