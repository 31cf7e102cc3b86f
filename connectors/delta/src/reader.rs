//! Reads a whole table, as any reader of Delta would: for tests and comparisons.

use anabranch_core::{Result, Table};
use arrow_array::{BooleanArray, RecordBatch};
use deltalake::arrow::compute::filter_record_batch;
use futures::TryStreamExt;
use std::sync::Arc;

use crate::config::{DeltaConfig, table_url};
use crate::data_file;
use crate::error::Cause;
use crate::log::Log;
use crate::state::TableState;
use crate::storage::Storage;

/// The rows of `table` below `config`'s root, `_v` and `_p` included, in no particular order.
/// Empty if there is no Delta table.
///
/// # Errors
///
/// Whatever keeps the table from being read.
pub async fn read_table(config: &DeltaConfig, table: &Table) -> Result<Vec<RecordBatch>> {
    let action = || format!("read Delta table {}", table.full_name());
    let url = table_url(&config.root_url()?, &table.schema, &table.name)?;
    let storage = Storage::open(url).map_err(|cause| cause.while_doing(action()))?;
    let log = Log::new(storage, table.full_name());
    match log.load(None).await? {
        Some(state) => {
            read_state(log.storage(), &state).await.map_err(|cause| cause.while_doing(action()))
        }
        None => Ok(Vec::new()),
    }
}

pub(crate) async fn read_state(
    storage: &Storage,
    state: &TableState,
) -> Result<Vec<RecordBatch>, Cause> {
    let mut found = Vec::new();
    for add in state.adds.values() {
        let dead = data_file::read_vector(storage, add).await?;
        let schema = Arc::clone(state.schema.arrow());
        let mut batches = data_file::read(storage, add, schema).await?;
        let mut first = 0_u32;
        while let Some(batch) = batches.try_next().await? {
            let count = u32::try_from(batch.num_rows()).unwrap_or(u32::MAX);
            let end = first.saturating_add(count);
            let live: BooleanArray = (first..end).map(|row| Some(!dead.contains(row))).collect();
            found.push(filter_record_batch(&batch, &live)?);
            first = end;
        }
    }
    Ok(found)
}
