//! The rows of a batch as a data file holds them, and the hashes of their keys.
//!
//! ```text
//! Batch ── last change of each key ──▶ columns of the Delta table, _v, _p ──▶ hashes of keys
//! ```
//!
//! A key is hashed as its stored columns, so that a row read back from a file, in another
//! process, by whatever tool it was rewritten, has the hash of the row that was written.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use anabranch_core::{Batch, ColumnType, Member, RowMeta, Table, value};
use arrow_array::builder::StringBuilder;
use arrow_array::cast::AsArray;
use arrow_array::{
    Array, ArrayRef, Int32Array, Int64Array, ListArray, RecordBatch, StructArray, UInt32Array,
    new_null_array,
};
use arrow_schema::{ArrowError, DataType, Field, SchemaRef};
use deltalake::arrow::compute::{cast, take_record_batch};
use deltalake::arrow::row::{RowConverter, SortField};

use crate::error::Cause;
use crate::key_index::KeyHash;
use crate::schema::{PARTITION_COLUMN, StoredSchema, VERSION_COLUMN};

/// The last changes of a batch, in the columns of the Delta table.
#[derive(Debug)]
pub(crate) struct LastChanges {
    /// One row for each change; a delete fills the key alone.
    pub(crate) rows: RecordBatch,
    /// One for each row.
    pub(crate) meta: Vec<RowMeta>,
}

/// Takes the last change of each key out of `batch`.
pub(crate) fn last_changes(batch: &Batch, schema: &StoredSchema) -> Result<LastChanges, Cause> {
    let places = batch.last_of_each_key();
    let meta: Vec<RowMeta> =
        places.iter().filter_map(|place| batch.meta.get(*place).cloned()).collect();
    let rows = if places.len() == batch.rows.num_rows() {
        batch.rows.clone()
    } else {
        pick(&batch.rows, places)?
    };
    let rows = store(&batch.table, &rows, &meta, schema.arrow())?;
    Ok(LastChanges { rows, meta })
}

/// The rows at `places`.
pub(crate) fn pick(
    rows: &RecordBatch,
    places: impl IntoIterator<Item = usize>,
) -> Result<RecordBatch, Cause> {
    let places = places.into_iter().map(u32::try_from).collect::<Result<Vec<_>, _>>();
    let places = places.map_err(|error| ArrowError::InvalidArgumentError(error.to_string()))?;
    Ok(take_record_batch(rows, &UInt32Array::from(places))?)
}

fn store(
    table: &Table,
    rows: &RecordBatch,
    meta: &[RowMeta],
    schema: &SchemaRef,
) -> Result<RecordBatch, Cause> {
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        columns.push(match field.name().as_str() {
            VERSION_COLUMN => {
                let versions = meta.iter().map(|meta| meta.version.to_i64());
                Arc::new(Int64Array::from_iter_values(versions))
            }
            PARTITION_COLUMN => {
                Arc::new(Int32Array::from_iter_values(meta.iter().map(|meta| meta.partition)))
            }
            name => match table.columns.iter().position(|column| column.name == name) {
                Some(place) => {
                    let kind = table.columns.get(place).map(|column| &column.kind);
                    stored(rows.column(place), kind, field.data_type())?
                }
                None => new_null_array(field.data_type(), rows.num_rows()),
            },
        });
    }
    Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
}

/// `column` with the type that it is stored with. Values of `kind` that Delta has no type for become
/// their texts.
fn stored(
    column: &ArrayRef,
    kind: Option<&ColumnType>,
    wanted: &DataType,
) -> Result<ArrayRef, Cause> {
    match (kind, wanted) {
        (_, wanted) if column.data_type() == wanted => Ok(Arc::clone(column)),
        (Some(kind), DataType::Utf8) if *kind != ColumnType::Text => texts(column, kind),
        (Some(ColumnType::Array(kind)), DataType::List(element)) => {
            let list = column.as_list::<i32>();
            let values = stored(list.values(), Some(kind), element.data_type())?;
            let (offsets, nulls) = (list.offsets().clone(), list.nulls().cloned());
            Ok(Arc::new(ListArray::try_new(Arc::clone(element), offsets, values, nulls)?))
        }
        (Some(kind), DataType::Struct(fields)) => {
            let record = column.as_struct();
            let members = kind.members();
            let part = |((array, member), field): ((&ArrayRef, &Member<'_>), &Arc<Field>)| {
                stored(array, Some(member.kind), field.data_type())
            };
            let parts = record.columns().iter().zip(&members).zip(fields);
            let parts = parts.map(part).collect::<Result<Vec<_>, _>>()?;
            Ok(Arc::new(StructArray::try_new(fields.clone(), parts, record.nulls().cloned())?))
        }
        (_, wanted) => Ok(cast(column, wanted)?),
    }
}

/// Values as their texts.
fn texts(column: &ArrayRef, kind: &ColumnType) -> Result<ArrayRef, Cause> {
    let mut texts = StringBuilder::with_capacity(column.len(), column.len() * 15);
    let mut text = String::new();
    for row in 0..column.len() {
        if column.is_null(row) {
            texts.append_null();
            continue;
        }
        text.clear();
        value::text(&mut text, column, row, kind)?;
        texts.append_value(&text);
    }
    Ok(Arc::new(texts.finish()))
}

/// Hashes keys, under keys of its own drawn at random.
#[derive(Debug)]
pub(crate) struct KeyHasher {
    high: RandomState,
    low: RandomState,
    columns: Vec<String>,
    types: Vec<DataType>,
    converter: RowConverter,
}

impl KeyHasher {
    pub(crate) fn new(schema: &StoredSchema) -> Result<Self, Cause> {
        let types = schema.key().iter().map(|name| {
            let field = schema.arrow().field_with_name(name)?;
            Ok::<_, ArrowError>(field.data_type().clone())
        });
        let types = types.collect::<Result<Vec<_>, _>>()?;
        let fields = types.iter().map(|kind| SortField::new(kind.clone())).collect();
        Ok(Self {
            high: RandomState::new(),
            low: RandomState::new(),
            columns: schema.key().to_vec(),
            types,
            converter: RowConverter::new(fields)?,
        })
    }

    /// The columns it reads.
    pub(crate) fn key_fields(&self) -> Vec<Field> {
        let columns = self.columns.iter().zip(&self.types);
        columns.map(|(name, kind)| Field::new(name, kind.clone(), true)).collect()
    }

    /// The hash of each row's key.
    pub(crate) fn hash(&self, rows: &RecordBatch) -> Result<Vec<KeyHash>, Cause> {
        let mut keys = Vec::with_capacity(self.columns.len());
        for (name, kind) in self.columns.iter().zip(&self.types) {
            let column = rows.column_by_name(name).ok_or_else(|| {
                ArrowError::SchemaError(format!("the key column {name} is missing"))
            })?;
            keys.push(stored(column, None, kind)?);
        }
        let encoded = self.converter.convert_columns(&keys)?;
        let hash = |key: &[u8]| {
            KeyHash::from(self.high.hash_one(key)) << 64 | KeyHash::from(self.low.hash_one(key))
        };
        Ok(encoded.iter().map(|key| hash(key.data())).collect())
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::Time64MicrosecondArray;
    use deltalake::arrow::buffer::OffsetBuffer;

    use super::*;

    #[test]
    fn times_become_text_also_within_arrays() {
        let times = Time64MicrosecondArray::from(vec![Some(0), None, Some(45_296_000_789)]);
        let times: ArrayRef = Arc::new(times);
        let texts = stored(&times, Some(&ColumnType::Time), &DataType::Utf8).unwrap();
        let found: Vec<_> = texts.as_string::<i32>().iter().collect();
        assert_eq!(found, [Some("00:00:00.000000"), None, Some("12:34:56.000789")]);
        let element = |kind: DataType| Arc::new(Field::new("element", kind, true));
        let lengths = OffsetBuffer::from_lengths([2, 1]);
        let list = ListArray::new(element(times.data_type().clone()), lengths, times, None);
        let list: ArrayRef = Arc::new(list);
        let kind = ColumnType::Array(Box::new(ColumnType::Time));
        let wanted = DataType::List(element(DataType::Utf8));
        let stored = stored(&list, Some(&kind), &wanted).unwrap();
        assert_eq!(stored.as_list::<i32>().value(1).as_string::<i32>().value(0), "12:34:56.000789");
    }
}
