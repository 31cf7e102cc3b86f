//! A table as one version of its schema describes it.

use arrow_schema::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
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
    /// `numeric(precision, scale)` with precision at most [`PRECISION_MAX`] and
    /// 0 ≤ scale ≤ precision; `money`.
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
    /// `interval`: months, days and microseconds, each with its own sign.
    Interval,
    /// `hstore`: texts by text; a value may be null.
    Map,
    /// A one-dimensional array; elements may be null. A multirange is an array of ranges.
    Array(Box<Self>),
    /// A range over a type.
    Range(Box<Self>),
    /// A composite type, by its attributes. Never empty.
    Record(Vec<Attribute>),
}

/// An attribute of a composite type; its value may be null.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attribute {
    /// Its name.
    pub name: String,
    /// How its values travel.
    #[serde(rename = "type")]
    pub kind: ColumnType,
}

/// A part of a value that is a record in the log and a struct in a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member<'a> {
    /// Its name.
    pub name: &'a str,
    /// How its values travel.
    pub kind: &'a ColumnType,
    /// Whether it may be null, and has a branch in the log.
    pub nullable: bool,
}

/// The most digits of a [`ColumnType::Decimal`]: what 256 bits hold.
pub const PRECISION_MAX: u8 = 76;
/// The most digits that 128 bits hold.
pub const NARROW_PRECISION_MAX: u8 = 38;

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
                let scale = i8::try_from(*scale).unwrap_or(i8::MAX);
                match *precision {
                    ..=NARROW_PRECISION_MAX => DataType::Decimal128(*precision, scale),
                    _ => DataType::Decimal256(*precision, scale),
                }
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
            Self::Map => DataType::Map(Arc::new(map_entries()), false),
            Self::Interval | Self::Range(_) | Self::Record(_) => DataType::Struct(self.fields()),
        }
    }

    /// The parts of a value that is a record; nothing of any other.
    #[must_use]
    pub fn members(&self) -> Vec<Member<'_>> {
        let member = |nullable| move |(name, kind)| Member { name, kind, nullable };
        match self {
            Self::Interval => {
                let parts = [("months", &Self::Int32), ("days", &Self::Int32)];
                let parts = parts.into_iter().chain([("micros", &Self::Int64)]);
                parts.map(member(false)).collect()
            }
            Self::Range(bound) => {
                let bounds = [("lower", bound.as_ref()), ("upper", bound.as_ref())];
                let flags = ["lower_inc", "upper_inc", "empty"].map(|name| (name, &Self::Bool));
                let bounds = bounds.into_iter().map(member(true));
                bounds.chain(flags.into_iter().map(member(false))).collect()
            }
            Self::Record(attributes) => {
                let parts = attributes.iter().map(|part| (part.name.as_str(), &part.kind));
                parts.map(member(true)).collect()
            }
            Self::Bool
            | Self::Int16
            | Self::Int32
            | Self::Int64
            | Self::Float32
            | Self::Float64
            | Self::Decimal { .. }
            | Self::Text
            | Self::Json
            | Self::Bytes
            | Self::Uuid
            | Self::Date
            | Self::Time
            | Self::Timestamp
            | Self::TimestampTz
            | Self::Map
            | Self::Array(_) => Vec::new(),
        }
    }

    /// Whether a column of the key can be of this type: one whose values are not made of parts.
    #[must_use]
    pub fn can_be_key(&self) -> bool {
        !matches!(self, Self::Map | Self::Array(_)) && self.members().is_empty()
    }

    /// The fields of the struct that a value is in a batch; all nullable, since the struct is.
    pub(crate) fn fields(&self) -> Fields {
        let members = self.members();
        members.iter().map(|part| Field::new(part.name, part.kind.arrow(), true)).collect()
    }
}

/// The entries of a [`ColumnType::Map`] in a batch.
pub(crate) fn map_entries() -> Field {
    let fields =
        [Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Utf8, true)];
    Field::new("key_value", DataType::Struct(fields.into_iter().collect()), false)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What the schemas topic holds from releases before: it must be read for ever.
    #[test]
    fn types_are_read_as_they_were_written() {
        let attribute = |name: &str, kind| Attribute { name: name.to_owned(), kind };
        let cases = [
            (r#""bool""#, ColumnType::Bool),
            (r#""timestamp_tz""#, ColumnType::TimestampTz),
            (
                r#"{"decimal":{"precision":38,"scale":4}}"#,
                ColumnType::Decimal { precision: 38, scale: 4 },
            ),
            (r#"{"array":"int32"}"#, ColumnType::Array(Box::new(ColumnType::Int32))),
            (r#""interval""#, ColumnType::Interval),
            (r#""map""#, ColumnType::Map),
            (r#"{"range":"date"}"#, ColumnType::Range(Box::new(ColumnType::Date))),
            (
                r#"{"record":[{"name":"a","type":"int32"}]}"#,
                ColumnType::Record(vec![attribute("a", ColumnType::Int32)]),
            ),
        ];
        for (json, kind) in cases {
            assert_eq!(serde_json::from_str::<ColumnType>(json).unwrap(), kind);
            assert_eq!(serde_json::to_string(&kind).unwrap(), json);
        }
    }
}
