//! A table as one version of its schema describes it.

use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// One version of a table's schema.
///
/// A column's place in `columns` is its place in the rows of the log (Avro) and of a batch
/// (Arrow). `key` holds such places, in the order of the key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// The table's oid in the source: its identity, whatever it is called.
    pub oid: u32,
    /// Counts this table's schema versions from 1.
    pub version: u32,
    /// PostgreSQL schema.
    pub schema: String,
    /// Table name.
    pub name: String,
    /// Columns, in the order of their attribute numbers.
    pub columns: Vec<Column>,
    /// Places in `columns` of the columns that identify a row. Never empty.
    pub key: Vec<usize>,
}

/// A column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Attribute number: the column's identity, whatever it is called.
    pub attnum: i16,
    /// Column name.
    pub name: String,
    /// The source's name of the type, as `format_type` prints it, for people.
    pub source_type: String,
    /// How its values travel.
    #[serde(rename = "type")]
    pub kind: ColumnType,
}

/// How the values of a column travel in the log and in a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnType {
    /// `bool`.
    Bool,
    /// `int2`.
    Int16,
    /// `int4`.
    Int32,
    /// `int8`.
    Int64,
    /// `float4`, NaN and infinities included.
    Float32,
    /// `float8`, NaN and infinities included.
    Float64,
    /// `numeric(precision, scale)` with precision at most 38 and 0 ≤ scale ≤ precision.
    Decimal {
        /// Digits in all.
        precision: u8,
        /// Digits after the point.
        scale: u8,
    },
    /// Text, and every type not named here, by its text form; an unbounded `numeric` too.
    Text,
    /// `json` and `jsonb`: the text, byte for byte.
    Json,
    /// `bytea`.
    Bytes,
    /// `uuid`, as its 36 characters.
    Uuid,
    /// `date`: days since 1970.
    Date,
    /// `time`: microseconds since midnight.
    Time,
    /// `timestamp`: microseconds since 1970, no zone.
    Timestamp,
    /// `timestamptz`: microseconds since 1970 UTC.
    TimestampTz,
    /// A one-dimensional array; elements may be null.
    Array(Box<Self>),
}

impl ColumnType {
    /// The Arrow type of this column in a batch.
    #[must_use]
    pub fn arrow(&self) -> DataType {
        match self {
            Self::Bool => DataType::Boolean,
            Self::Int16 => DataType::Int16,
            Self::Int32 => DataType::Int32,
            Self::Int64 => DataType::Int64,
            Self::Float32 => DataType::Float32,
            Self::Float64 => DataType::Float64,
            Self::Decimal { precision, scale } => {
                DataType::Decimal128(*precision, i8::try_from(*scale).unwrap_or(i8::MAX))
            }
            Self::Text | Self::Json | Self::Uuid => DataType::Utf8,
            Self::Bytes => DataType::Binary,
            Self::Date => DataType::Date32,
            Self::Time => DataType::Time64(TimeUnit::Microsecond),
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            Self::TimestampTz => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Self::Array(element) => {
                DataType::List(Arc::new(Field::new("element", element.arrow(), true)))
            }
        }
    }
}

impl Table {
    /// `schema.name`, for people and for the topic.
    #[must_use]
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }

    /// The columns of the key, in its order.
    pub fn key_columns(&self) -> impl Iterator<Item = &Column> {
        self.key.iter().filter_map(|place| self.columns.get(*place))
    }

    /// Whether the column at `place` is part of the key.
    #[must_use]
    pub fn is_key(&self, place: usize) -> bool {
        self.key.contains(&place)
    }

    /// The Arrow schema of a batch of this table: every column, all nullable, since a delete
    /// fills its key alone.
    #[must_use]
    pub fn arrow(&self) -> SchemaRef {
        let field = |column: &Column| Field::new(&column.name, column.kind.arrow(), true);
        Arc::new(Schema::new(self.columns.iter().map(field).collect::<Vec<_>>()))
    }
}
