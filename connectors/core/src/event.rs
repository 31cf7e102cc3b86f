//! What a source hands to the log: row changes, already encoded.

use std::sync::Arc;

use bytes::Bytes;

use crate::{Lsn, Position, Repair, RepairKey, Table, TableSnapshot, Version};

/// A run of changes that becomes durable in the log together, with the source's cursor.
#[derive(Clone, Debug, Default)]
pub struct LogBatch {
    /// Tables that the log must know from here on, even if no row of theirs follows.
    pub tables: Vec<Arc<Table>>,
    /// The changes, in strictly increasing order of position but for the two halves of a key
    /// change, the rows of a first copy, and sweeps, which stand where their snapshot began.
    pub events: Vec<Event>,
    /// What these changes leave to be mended.
    pub repairs: Vec<Repair>,
    /// Repairs that are done with these changes.
    pub repaired: Vec<RepairKey>,
    /// How far snapshots of single tables are with these changes.
    pub snapshots: Vec<TableSnapshot>,
}

/// One change.
#[derive(Clone, Debug)]
pub struct Event {
    /// The table, in the schema version that the rows below are encoded with.
    pub table: Arc<Table>,
    /// Where it stands.
    pub position: Position,
    /// The part of its transaction it is in: see [`Version`].
    pub part: u8,
    /// The transaction it belongs to.
    pub transaction: Arc<Transaction>,
    /// What changed.
    pub change: Change,
}

/// How far a TRUNCATE that follows rows of its transaction raises the part.
///
/// Two, so that a version is left between those rows and it: a store that removes the rows under
/// [`Version::below`] then leaves a tombstone that is above each of them, and a late write of one
/// cannot bring it back. (With one, the simulation's seed 2212 did.)
pub const TRUNCATE_PARTS: u8 = 2;

/// The highest part that rows begin by themselves; those above are kept for TRUNCATEs.
///
/// From here on a part has no bound, so its rows may be cut into several batches.
pub const ROW_PART_MAX: u8 = 239;

/// What is known of a transaction.
#[derive(Clone, Copy, Debug, Default)]
pub struct Transaction {
    /// The 32-bit id; 0 for a snapshot.
    pub xid: u32,
    /// LSN of the commit record; for a snapshot the consistent point − 32.
    pub commit_lsn: Lsn,
    /// Commit time, microseconds since 1970 UTC; for a snapshot, when it began.
    pub commit_us: i64,
}

/// What changed.
#[derive(Clone, Debug)]
pub enum Change {
    /// A row.
    Row {
        /// How.
        op: Op,
        /// Avro of the key record (`avro::schema`), without any header.
        key: Bytes,
        /// Avro of the old row, where the source has it. Columns it does not have are null.
        before: Option<Bytes>,
        /// Avro of the new row; `None` for a delete.
        after: Option<Bytes>,
        /// Names of columns of `after` whose values could not be had, because the row or the
        /// table is gone since. Stores leave such an event out.
        unchanged: Vec<String>,
    },
    /// Every row of the table written below this event's version is gone.
    Truncate,
    /// The same, at the end of a snapshot of the whole table: rows that it has not found are gone.
    /// Its position is where the snapshot began, so what came since stays.
    Sweep,
}

/// How a row changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Inserted, or moved here from another key.
    Create,
    /// Updated.
    Update,
    /// Deleted, or moved away to another key.
    Delete,
    /// Read by a snapshot.
    Read,
}

impl Op {
    /// Debezium's letter.
    #[must_use]
    pub fn letter(self) -> &'static str {
        match self {
            Self::Create => "c",
            Self::Update => "u",
            Self::Delete => "d",
            Self::Read => "r",
        }
    }
}

impl Event {
    /// What stores compare.
    #[must_use]
    pub fn version(&self) -> Version {
        Version::new(self.position.epoch, self.position.commit_lsn, self.part)
    }

    /// Roughly the bytes it takes in memory and in the log.
    #[must_use]
    pub fn size(&self) -> usize {
        const FIXED: usize = 160;
        match &self.change {
            Change::Row { key, before, after, .. } => {
                let row = |row: &Option<Bytes>| row.as_ref().map_or(0, Bytes::len);
                FIXED + key.len() + row(before) + row(after)
            }
            Change::Truncate | Change::Sweep => FIXED,
        }
    }
}
