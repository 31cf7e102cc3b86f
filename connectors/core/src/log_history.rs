//! What the log itself remembers, for a source whose history is not what it was.
//!
//! ```text
//! source ── since when? ──▶ log, read backwards ──▶ the keys that it was given since
//! ```

use std::collections::BTreeSet;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;

use crate::{Epoch, Lsn, PendingRepair, Result, SourceCursor, Table, TableSnapshot};

/// An answer of the log, which takes a while.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// The log, asked by the source that writes it.
pub trait LogHistory: fmt::Debug + Send + Sync {
    /// The position record as it is now.
    fn position(&self) -> Answer<'_, Option<SourceCursor>>;

    /// What the log has of work beside the stream.
    fn open_work(&self) -> Answer<'_, OpenWork>;

    /// For each of `tables`, what the log was given of it by transactions of the history `epoch`
    /// that committed at or after `since`, and by all of later histories.
    fn delivered<'a>(
        &'a self,
        tables: &'a [Arc<Table>],
        since: (Epoch, Lsn),
    ) -> Answer<'a, Vec<Delivered>>;
}

/// What a log has of work beside the stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenWork {
    /// The last snapshot of each table that ever had one.
    pub snapshots: Vec<TableSnapshot>,
    /// Rows and tables that are to be read again.
    pub repairs: Vec<PendingRepair>,
}

impl OpenWork {
    /// Takes in a snapshot: the last one of its table.
    pub fn put(&mut self, snapshot: TableSnapshot) {
        self.snapshots.retain(|other| other.oid != snapshot.oid);
        self.snapshots.push(snapshot);
    }
}

/// What the log was given of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// Changes of rows with these keys: Avro of the key records, without header.
    Keys(BTreeSet<Bytes>),
    /// A TRUNCATE, more keys than are worth looking up one by one, or what is not there any more.
    Unbounded,
}

impl Delivered {
    /// Keys of one table that are looked up one by one; beyond that a copy of it is cheaper.
    pub const KEYS_MAX: usize = 100_000;

    /// Nothing so far.
    #[must_use]
    pub fn nothing() -> Self {
        Self::Keys(BTreeSet::new())
    }

    /// Takes in a change of a row.
    pub fn add(&mut self, key: Bytes) {
        if let Self::Keys(keys) = self {
            keys.insert(key);
            if keys.len() > Self::KEYS_MAX {
                *self = Self::Unbounded;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_keys_have_no_bound() {
        let mut delivered = Delivered::nothing();
        for key in 0..=Delivered::KEYS_MAX {
            assert_ne!(delivered, Delivered::Unbounded);
            delivered.add(Bytes::copy_from_slice(&key.to_be_bytes()));
        }
        assert_eq!(delivered, Delivered::Unbounded);
    }
}
