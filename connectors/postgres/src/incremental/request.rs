//! What people ask for, and the source by itself: a snapshot of one table.

use anabranch_core::{SnapshotState, TableSnapshot};
use uuid::Uuid;

/// Everything that is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotRequests {
    /// The last request of each table; `None` as long as nobody knows.
    pub requests: Option<Vec<SnapshotRequest>>,
    /// No chunk is to be read for now, whoever asked for it.
    pub held: bool,
}

/// A snapshot that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotRequest {
    /// Carried out once under this id.
    pub id: Uuid,
    /// `schema.name`.
    pub table: String,
    /// Which rows.
    pub scope: SnapshotScope,
    /// It stands still.
    pub paused: bool,
    /// It is to end.
    pub cancelled: bool,
}

/// Which rows of a table are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotScope {
    /// All of them; those that the log has and the table has not are gone at the end.
    Table,
    /// Those that meet a condition in SQL.
    Where(String),
    /// Those with these keys, each the texts of its columns; one that is not found is gone.
    Keys(Vec<Vec<String>>),
}

impl SnapshotRequest {
    /// Whether snapshots of its table stand still.
    pub(super) fn is_paused(&self) -> bool {
        self.paused && !self.cancelled
    }

    /// What the source has begun by itself, and not finished, with the oid of its table: that may have
    /// another name by now.
    pub(super) fn own(record: &TableSnapshot) -> Option<(u32, Self)> {
        let is_open = record.by_itself && record.state == SnapshotState::Running;
        let own = || Self {
            id: record.id,
            table: record.table.clone(),
            scope: SnapshotScope::Table,
            paused: false,
            cancelled: false,
        };
        is_open.then(|| (record.oid, own()))
    }

    /// How it begins, of the table `oid`, in the log `log`.
    pub(super) fn begin(&self, oid: u32, log: Uuid) -> TableSnapshot {
        let expected = match &self.scope {
            SnapshotScope::Keys(keys) => u64::try_from(keys.len()).unwrap_or_default(),
            SnapshotScope::Table | SnapshotScope::Where(_) => 0,
        };
        TableSnapshot { expected, ..TableSnapshot::begin((self.id, log), oid, self.table.clone()) }
    }
}

/// A snapshot of a whole table that we begin ourselves; `before` is the last one of that table. What
/// was asked for before stays done, and that somebody has ended it says nothing of this one.
pub(crate) fn own(
    before: Option<&TableSnapshot>,
    (oid, table): (u32, String),
    log: Uuid,
) -> TableSnapshot {
    let before = before.filter(|record| record.state != SnapshotState::Cancelled);
    let id = before.map_or_else(Uuid::new_v4, |record| record.id);
    TableSnapshot { by_itself: true, ..TableSnapshot::begin((id, log), oid, table) }
}
