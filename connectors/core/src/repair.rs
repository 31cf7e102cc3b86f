//! What the log holds that no later change will mend.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::SnapshotStart;

/// A row, or a table, that has to be read again from the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    /// The table's oid in the source.
    pub oid: u32,
    /// `schema.name`, for people.
    pub table: String,
    /// Avro of the row's key record, without any header; `None` for the whole table.
    pub key: Option<Bytes>,
    /// Why.
    pub reason: RepairReason,
}

/// A repair that is pending in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingRepair {
    /// Of which row, or table.
    pub of: RepairKey,
    /// The commit of the last change that needs it: a read that does not see it repairs nothing.
    pub asked: SnapshotStart,
}

/// What a repair is of: the oid of a table in the source, and Avro of a key, without any header, or
/// `None` for all of its rows.
pub type RepairKey = (u32, Option<Bytes>);

/// Why a repair is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RepairReason {
    /// A column has another type than the change that left its value out.
    TypeChanged,
    /// The key has another type, or its values are written differently, so the row of a change
    /// cannot be found.
    KeyChanged,
    /// The row of a change is gone with its partition, so that no delete will follow.
    PartitionGone,
    /// The row of a change is gone, and its delete is not published.
    DeleteUnpublished,
}

impl RepairReason {
    /// A few words.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::TypeChanged => "a column changed its type",
            Self::KeyChanged => "the key changed its type or its values",
            Self::PartitionGone => "a partition was detached or dropped",
            Self::DeleteUnpublished => "deletes are not published",
        }
    }
}
