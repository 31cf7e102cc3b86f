//! How far a target is, as the target itself remembers it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Epoch, Lsn, Membership, Rereads, Version};

/// The format number of [`UnitCursor`] and [`SourceCursor`] (`docs/formats.md`).
pub const CURSOR_FORMAT: u16 = 1;

/// How far a store is in one topic: a cursor for each partition it has one for.
pub type StoreCursor = BTreeMap<i32, UnitCursor>;

/// How far a store is in one partition of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitCursor {
    /// [`CURSOR_FORMAT`].
    pub format: u16,
    /// The log this counts in. Offsets and versions of two logs cannot be compared.
    pub log: Uuid,
    /// The generation of the sink.
    pub generation: u32,
    /// How many times a person reset the group's offset.
    pub resets: u32,
    /// The next offset to apply.
    pub next: i64,
    /// The last record applied; `None` before the first and after a reset.
    pub last: Option<LastRecord>,
}

/// A record that a store remembers, to recognise its log by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRecord {
    /// Its offset.
    pub offset: i64,
    /// Its version.
    pub version: Version,
}

/// How far the log is in the source: the position record, written to the log in the
/// transaction of the events it covers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceCursor {
    /// [`CURSOR_FORMAT`].
    pub format: u16,
    /// A random id, drawn for the log's first position record.
    pub log: Uuid,
    /// The replication slot.
    pub slot: String,
    /// The history being read.
    pub epoch: Epoch,
    /// `IDENTIFY_SYSTEM`'s system identifier; 0 before it is known.
    pub system_id: u64,
    /// `IDENTIFY_SYSTEM`'s timeline; 0 before it is known.
    pub timeline: u32,
    /// What the source is at.
    pub phase: Phase,
    /// The LSN that may be confirmed to PostgreSQL: the end of the newest transaction that is
    /// wholly in the log, or a later point before which nothing is missing.
    pub confirm: Lsn,
    /// The highest insert LSN that a re-read of unchanged columns has seen.
    pub seen: Lsn,
    /// Set while a transaction larger than a batch is partly in the log.
    pub split: Option<Split>,
    /// How far ahead of their events re-reads of this history have looked.
    #[serde(default, skip_serializing_if = "Rereads::is_empty")]
    pub rereads: Rereads,
    /// Set while rows are read again that a branch of the history, now lost, has left in the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fork: Option<Fork>,
    /// By which rows the tables are published, as far as the history goes; `None` before that was
    /// looked at. What differs from it has not been accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub membership: Option<Membership>,
}

/// What has to be read again after the history forked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fork {
    /// Every row that the log was given from here on, in this history or a later one…
    pub epoch: Epoch,
    /// …by a transaction that committed at or after this.
    pub since: Lsn,
    /// Rows that were read again and are in the log.
    pub rows: u64,
}

/// What the source is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The slot is about to be created.
    Starting,
    /// The initial snapshot is being copied.
    Snapshot,
    /// Changes are being read from the slot.
    Streaming,
}

/// How much of a split transaction is in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    /// Its commit record.
    pub commit_lsn: Lsn,
    /// The ordinal of the last event in the log; of a snapshot, how many of its rows are there.
    pub ordinal: u64,
    /// For each table (by oid) the part that its next row is in.
    pub parts: BTreeMap<u32, u8>,
}
