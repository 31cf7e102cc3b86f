//! Data files and their deletion vectors: Parquet in, Parquet out.
//!
//! ```text
//! rows of one partition ──▶ part-….parquet, statistics that show `_p` and bound `_v`
//! file, columns ──▶ batches with the types of the table, absent columns null
//! ```

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Date32Type;
use arrow_array::{Array, ArrayRef, RecordBatch, new_null_array};
use arrow_schema::{DataType, SchemaRef};
use deltalake::Path;
use deltalake::arrow::compute::{cast, max, min};
use deltalake::datafile::writer::{DeltaWriter, WriterConfig};
use deltalake::kernel::{Add, DeletionVectorDescriptor, Remove};
use deltalake::operations::get_num_idx_cols_and_stats_columns;
use deltalake::parquet::arrow::ProjectionMask;
use deltalake::parquet::arrow::async_reader::ParquetRecordBatchStreamBuilder;
use deltalake::parquet::basic::{Compression, ZstdLevel};
use deltalake::parquet::file::properties::WriterProperties;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use roaring::RoaringBitmap;
use serde_json::Value;

use crate::deletion_vector::{Place, decode, locate, unframe};
use crate::error::Cause;
use crate::object_reader::ObjectReader;
use crate::schema::{PARTITION_COLUMN, VERSION_COLUMN};
use crate::storage::Storage;

/// Columns of the user that statistics are kept for: what Delta does by default.
const STATISTICS_COLUMNS_MAX: usize = 32;
/// Digits that the statistics' numbers hold exactly.
const EXACT_DIGITS: u8 = 15;
/// Days from 1970 that the writer of statistics can name: it panics beyond the year 262,142, and
/// PostgreSQL's dates, `infinity` among them, go further.
const DAYS_MAX: u32 = 90_000_000;
/// Rows that are read at a time.
const READ_ROWS: usize = 8192;

/// What the statistics of a file say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Statistics {
    /// How many rows it has, those that are gone included.
    pub(crate) rows: Option<u64>,
    /// The partition of all its rows.
    pub(crate) partition: Option<i32>,
    /// No row has a higher version.
    pub(crate) version_max: Option<i64>,
}

impl Statistics {
    /// Reads what a file's `Add` says. Nothing is known of a file without statistics.
    pub(crate) fn of(add: &Add) -> Self {
        let text = add.stats.as_deref().unwrap_or_default();
        let Ok(stats) = serde_json::from_str::<Value>(text) else { return Self::default() };
        let bound = |which: &str, column: &str| stats.get(which)?.get(column)?.as_i64();
        let nulls = |column: &str| stats.get("nullCount")?.get(column)?.as_i64();
        let least = bound("minValues", PARTITION_COLUMN);
        let most = bound("maxValues", PARTITION_COLUMN);
        let is_whole = |column| nulls(column) == Some(0);
        Self {
            rows: stats.get("numRecords").and_then(Value::as_u64),
            partition: most
                .filter(|_| least == most && is_whole(PARTITION_COLUMN))
                .and_then(|partition| i32::try_from(partition).ok()),
            version_max: bound("maxValues", VERSION_COLUMN).filter(|_| is_whole(VERSION_COLUMN)),
        }
    }
}

/// Writes `rows`, all of one partition, as one file. [`Storage::sync`] makes it durable.
pub(crate) async fn write(storage: &Storage, rows: &RecordBatch) -> Result<Add, Cause> {
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_created_by(concat!("anabranch ", env!("CARGO_PKG_VERSION")).to_owned())
        .build();
    let (column_count, _) = get_num_idx_cols_and_stats_columns(None, HashMap::new());
    let schema = rows.schema();
    let statistics = Some(statistics_columns(rows));
    let config = WriterConfig::new(
        schema,
        Vec::new(),
        Some(properties),
        None,
        None,
        column_count,
        statistics,
    );
    let mut writer = DeltaWriter::new(storage.objects(), config);
    writer.write(rows).await.map_err(Cause::Write)?;
    let adds = writer.close().await.map_err(Cause::Write)?;
    let count = adds.len();
    let one: Result<[Add; 1], _> = adds.try_into();
    let [add] = one.map_err(|_| Cause::Foreign(format!("{count} files were written, not one")))?;
    Ok(add)
}

/// The columns that statistics are kept for, as the writer wants them: SQL identifiers.
fn statistics_columns(rows: &RecordBatch) -> Vec<String> {
    let schema = rows.schema_ref();
    let columns = schema.fields().iter().zip(rows.columns());
    let ours = [VERSION_COLUMN, PARTITION_COLUMN];
    let users = columns.filter(|(field, _)| !ours.contains(&field.name().as_str()));
    let bounded = users.take(STATISTICS_COLUMNS_MAX).filter(|(_, column)| has_bounds(column));
    let names = bounded.map(|(field, _)| field.name().as_str()).chain(ours);
    names.map(|name| format!("\"{}\"", name.replace('"', "\"\""))).collect()
}

fn has_bounds(column: &ArrayRef) -> bool {
    let kind = column.data_type();
    if let DataType::Decimal128(precision, _) = kind {
        return *precision <= EXACT_DIGITS;
    }
    if *kind == DataType::Date32 {
        let days = column.as_primitive::<Date32Type>();
        return [min(days), max(days)].iter().flatten().all(|day| day.abs_diff(0) <= DAYS_MAX);
    }
    kind.is_primitive() || *kind == DataType::Utf8 || *kind == DataType::Boolean
}

/// The file with another vector.
pub(crate) fn with_vector(add: &Add, vector: DeletionVectorDescriptor) -> Result<Add, Cause> {
    let mut add = add.clone();
    if let Some(text) = &add.stats {
        let mut stats: Value = serde_json::from_str(text)?;
        if let Some(stats) = stats.as_object_mut() {
            // The bounds still hold, though rows at them may be gone.
            stats.insert("tightBounds".to_owned(), Value::Bool(false));
        }
        add.stats = Some(stats.to_string());
    }
    add.deletion_vector = Some(vector);
    add.data_change = true;
    Ok(add)
}

/// What takes the file, with its vector, out of the table.
pub(crate) fn removal(add: &Add, now_ms: i64) -> Remove {
    Remove {
        path: add.path.clone(),
        data_change: true,
        deletion_timestamp: Some(now_ms),
        extended_file_metadata: Some(true),
        partition_values: Some(add.partition_values.clone()),
        size: Some(add.size),
        tags: add.tags.clone(),
        deletion_vector: add.deletion_vector.clone(),
        base_row_id: add.base_row_id,
        default_row_commit_version: add.default_row_commit_version,
    }
}

/// The rows of the file that are gone.
pub(crate) async fn read_vector(storage: &Storage, add: &Add) -> Result<RoaringBitmap, Cause> {
    let Some(descriptor) = &add.deletion_vector else { return Ok(RoaringBitmap::new()) };
    match locate(descriptor)? {
        Place::Inline(body) => Ok(decode(&body, descriptor)?),
        Place::File { path, offset, length } => {
            let framed = storage.read_range(&path, offset, length).await?;
            Ok(decode(unframe(&framed)?, descriptor)?)
        }
    }
}

/// Batches of one file.
pub(crate) type Rows = BoxStream<'static, Result<RecordBatch, Cause>>;

/// Reads the columns of `wanted`, in the order of the file's rows, those that are gone included.
pub(crate) async fn read(storage: &Storage, add: &Add, wanted: SchemaRef) -> Result<Rows, Cause> {
    let reader = ObjectReader::open(storage.objects(), Path::parse(&add.path)?).await?;
    let builder = ParquetRecordBatchStreamBuilder::new(reader).await?;
    let roots: Vec<usize> = wanted
        .fields()
        .iter()
        .filter_map(|field| builder.schema().fields().iter().position(|f| f.name() == field.name()))
        .collect();
    let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
    let batches = builder.with_projection(mask).with_batch_size(READ_ROWS).build()?;
    let conform = move |batch: RecordBatch| conform(&batch, &wanted);
    Ok(batches.map_err(Cause::from).map(move |batch| conform(batch?)).boxed())
}

/// Gives `rows` the columns of `wanted`: a tool that rewrote the file may have chosen other
/// types of Arrow, and a file older than a column lacks it.
fn conform(rows: &RecordBatch, wanted: &SchemaRef) -> Result<RecordBatch, Cause> {
    let column = |field: &Arc<arrow_schema::Field>| -> Result<ArrayRef, Cause> {
        match rows.column_by_name(field.name()) {
            Some(column) if column.data_type() == field.data_type() => Ok(Arc::clone(column)),
            Some(column) => Ok(cast(column, field.data_type())?),
            None => Ok(new_null_array(field.data_type(), rows.num_rows())),
        }
    };
    let columns = wanted.fields().iter().map(column).collect::<Result<Vec<_>, _>>()?;
    let options = arrow_array::RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(wanted), columns, &options)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statistics(text: &str) -> Statistics {
        Statistics::of(&Add { stats: Some(text.to_owned()), ..Add::default() })
    }

    #[test]
    fn only_what_statistics_prove_is_believed() {
        let whole = r#"{"numRecords":3,"minValues":{"_p":4,"_v":1},"maxValues":{"_p":4,"_v":9},
                        "nullCount":{"_p":0,"_v":0}}"#;
        let proven = Statistics { rows: Some(3), partition: Some(4), version_max: Some(9) };
        assert_eq!(statistics(whole), proven);
        let mixed = whole.replacen("\"_p\":4", "\"_p\":3", 1);
        assert_eq!(statistics(&mixed).partition, None);
        let with_nulls = whole.replace("\"_p\":0,\"_v\":0", "\"_p\":1,\"_v\":1");
        let unproven = Statistics { partition: None, version_max: None, ..proven };
        assert_eq!(statistics(&with_nulls), unproven);
        for nothing in ["", "{}", "[]", "no JSON"] {
            assert_eq!(statistics(nothing), Statistics::default(), "{nothing}");
        }
    }
}
