//! A history, a log and three kinds of store in memory, with faults, for tests of what is above.
//!
//! ```text
//! MemoryHistory ──▶ MemoryLog ──▶ MemoryStore (by token · by version · by commit)
//! ```
//!
//! They keep the contracts that the real ones keep, and break in the ways the real ones break:
//! a request fails before it is written, is written and its answer is lost, or lands late, after
//! its retry, its successors, or its sender's death.

mod fault;
mod history;
mod log;
mod store;
mod topic;

pub use fault::{Fault, Faults};
pub use history::{MemoryChange, MemoryHistory, MemoryTransaction, PART_ROWS};
pub use log::{LogRecord, MemoryLog, MemoryLogSink};
pub use store::{MemorySink, MemoryStore, Protocol};
pub use topic::MemoryTopic;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow_array::{Int64Array, RecordBatch};
use bytes::Bytes;

use crate::{Batch, Column, ColumnType, DeleteBelow, Error, ErrorKind, RowMeta, Table};

/// The one table there is: `t (id bigint primary key, value bigint)`.
#[must_use]
pub fn table() -> Arc<Table> {
    let column = |attnum, name: &str| Column {
        attnum,
        name: name.to_owned(),
        source_type: "bigint".to_owned(),
        kind: ColumnType::Int64,
    };
    Arc::new(Table {
        oid: 16_384,
        version: 1,
        schema: "public".to_owned(),
        name: "t".to_owned(),
        columns: vec![column(1, "id"), column(2, "value")],
        key: vec![0],
    })
}

/// The key payload of row `id` of [`table`].
#[must_use]
pub fn key(id: i64) -> Bytes {
    Bytes::copy_from_slice(&id.to_be_bytes())
}

/// A batch of [`table`]: `id`, its value (`None` deletes) and the rest of its meta.
#[must_use]
pub fn batch(rows: &[(i64, Option<i64>)], meta: Vec<RowMeta>, below: Vec<DeleteBelow>) -> Batch {
    let table = table();
    let ids: Int64Array = rows.iter().map(|(id, _)| Some(*id)).collect();
    let values: Int64Array = rows.iter().map(|(_, value)| *value).collect();
    let rows = RecordBatch::try_new(table.arrow(), vec![Arc::new(ids), Arc::new(values)]);
    let rows = rows.unwrap_or_else(|_| RecordBatch::new_empty(table.arrow()));
    Batch { table, rows, meta, delete_below: below }
}

fn transient(action: &str) -> Error {
    Error::new(ErrorKind::Transient, action)
}

fn lock<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
