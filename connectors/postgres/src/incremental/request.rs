//! What people ask for: a snapshot of one table.

use uuid::Uuid;

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
