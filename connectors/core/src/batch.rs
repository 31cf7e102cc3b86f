//! What the log hands to a store: decoded rows of one table.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::RecordBatch;
use bytes::Bytes;

use crate::{Table, Version};

/// Changes of one table, from any of its partitions.
///
/// It ends at a transaction border in each partition, or at a part where the transaction is
/// larger than a batch, so a key never reaches a store twice with one version. Rows come first,
/// then `delete_below`: in no partition does a row follow a delete-below within one batch.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The table, in the schema version of `rows`.
    pub table: Arc<Table>,
    /// The rows, with the columns of `table` in their order. A delete fills the key alone.
    pub rows: RecordBatch,
    /// One for each row.
    pub meta: Vec<RowMeta>,
    /// What is gone once the rows are written.
    pub delete_below: Vec<DeleteBelow>,
}

/// What a row of a batch is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowMeta {
    /// Whether the row is there from now on.
    pub op: RowOp,
    /// The log partition it came from.
    pub partition: i32,
    /// What stores compare.
    pub version: Version,
    /// Avro of the key record, without a header: equal keys have equal bytes.
    pub key: Bytes,
}

/// What a store does with a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowOp {
    /// Write it, unless the store holds a newer one.
    Upsert,
    /// Remove it, unless the store holds a newer one.
    Delete,
}

/// The rows of one partition with a version below this one are gone (TRUNCATE, sweep).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeleteBelow {
    /// The log partition.
    pub partition: i32,
    /// The bound, itself not included.
    pub version: Version,
}

impl Batch {
    /// A batch of `table` without rows: it only moves the cursor.
    #[must_use]
    pub fn empty(table: Arc<Table>) -> Self {
        let rows = RecordBatch::new_empty(table.arrow());
        Self { table, rows, meta: Vec::new(), delete_below: Vec::new() }
    }

    /// The last change of each key: places in `meta` and `rows`, in their order.
    ///
    /// A row that a delete-below of this batch removes is kept: it is written first, then removed
    /// with what the store held before, so that no older row of the store survives in its place.
    #[must_use]
    pub fn last_of_each_key(&self) -> Vec<usize> {
        let mut last: HashMap<&[u8], usize> = HashMap::with_capacity(self.meta.len());
        for (place, meta) in self.meta.iter().enumerate() {
            last.insert(&meta.key, place);
        }
        let mut places: Vec<usize> = last.into_values().collect();
        places.sort_unstable();
        places
    }
}
