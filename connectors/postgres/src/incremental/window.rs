//! What the stream says of a table between the edges of a chunk.

use std::collections::HashSet;

use anabranch_core::{Change, SnapshotStart};
use bytes::Bytes;

use crate::transaction::Draft;

/// Changes after the low edge: they are newer than the chunk, or it has them.
#[derive(Debug)]
pub(crate) struct Window {
    oid: u32,
    /// Its low edge; `None` if the log can tell no more histories apart.
    pub(crate) start: Option<SnapshotStart>,
    /// How many transactions were delivered before it.
    pub(crate) delivered: usize,
    keys: HashSet<Bytes>,
    truncated: bool,
    /// The table has other columns now.
    pub(crate) altered: bool,
}

impl Window {
    pub(crate) fn open(oid: u32, start: Option<SnapshotStart>, delivered: usize) -> Self {
        Self { oid, start, delivered, keys: HashSet::new(), truncated: false, altered: false }
    }

    /// Takes notice of changes.
    pub(crate) fn note(&mut self, drafts: &[Draft]) {
        for draft in drafts.iter().filter(|draft| draft.event.table.oid == self.oid) {
            match &draft.event.change {
                Change::Row { key, .. } => drop(self.keys.insert(key.clone())),
                Change::Truncate | Change::Sweep => self.truncated = true,
            }
        }
    }

    /// Whether a row of the chunk is as the table has it at the high edge.
    pub(crate) fn leaves(&self, key: &[u8]) -> bool {
        !self.truncated && !self.keys.contains(key)
    }
}
