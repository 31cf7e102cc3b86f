//! The columns of a Delta table, and how they follow those of the source.
//!
//! ```text
//! Table ──▶ columns by their Arrow type (what Delta lacks becomes text), then _v and _p
//! ```
//!
//! Columns are only ever added, nullable, at the end. A column keeps its attribute number in its
//! metadata, so that a rename, or a column dropped and added again, is not taken for the column
//! that the files hold.

use std::collections::HashMap;
use std::sync::Arc;

use anabranch_core::{
    Column, ColumnType, Error, ErrorKind, Member, NARROW_PRECISION_MAX, Result, Table,
};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use deltalake::kernel::engine::arrow_conversion::{TryIntoArrow, TryIntoKernel};
use deltalake::kernel::{
    DataType as DeltaType, MetadataValue, PrimitiveType, Protocol, StructField, StructType,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::error::Cause;

/// The column of a row's version.
pub(crate) const VERSION_COLUMN: &str = "_v";
/// The column of a row's log partition.
pub(crate) const PARTITION_COLUMN: &str = "_p";

/// The metadata key of a column's attribute number.
const ATTNUM: &str = "anabranch.attnum";
/// The table property that marks a table as ours: the format of this module.
const FORMAT: &str = "anabranch.format";
/// The table property with the names of the key's columns, as JSON.
const KEY: &str = "anabranch.key";
const FORMAT_NOW: &str = "1";

/// A Delta table's columns and properties.
#[derive(Clone, Debug)]
pub(crate) struct StoredSchema {
    metadata: Metadata,
    fields: Vec<StructField>,
    arrow: SchemaRef,
    key: Vec<String>,
}

/// The `metaData` action. The library's own type hides its fields.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    id: String,
    name: Option<String>,
    description: Option<String>,
    format: serde_json::Value,
    schema_string: String,
    partition_columns: Vec<String>,
    created_time: Option<i64>,
    configuration: HashMap<String, String>,
}

impl StoredSchema {
    /// The schema of a new table. `now_ms` is the time in milliseconds since 1970.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] if Delta cannot hold a table of such columns.
    pub(crate) fn create(table: &Table, id: String, now_ms: i64) -> Result<Self> {
        let mut fields = Vec::with_capacity(table.columns.len() + 2);
        for column in &table.columns {
            fields.push(field(table, column)?);
        }
        fields.push(StructField::nullable(VERSION_COLUMN, DeltaType::LONG));
        fields.push(StructField::nullable(PARTITION_COLUMN, DeltaType::INTEGER));
        let key: Vec<String> = table.key_columns().map(|column| column.name.clone()).collect();
        let configuration = HashMap::from([
            ("delta.enableDeletionVectors".to_owned(), "true".to_owned()),
            ("delta.checkpointInterval".to_owned(), crate::log::CHECKPOINT_EVERY.to_string()),
            (FORMAT.to_owned(), FORMAT_NOW.to_owned()),
            (KEY.to_owned(), json!(key).to_string()),
        ]);
        let metadata = Metadata {
            id,
            name: Some(table.full_name()),
            description: None,
            format: json!({"provider": "parquet", "options": {}}),
            schema_string: String::new(),
            partition_columns: Vec::new(),
            created_time: Some(now_ms),
            configuration,
        };
        Self::assemble(metadata, fields, key).map_err(|cause| cause.while_doing(creating(table)))
    }

    /// Reads what the table's log says.
    pub(crate) fn read(metadata: &deltalake::kernel::Metadata) -> Result<Self, Cause> {
        let metadata: Metadata = serde_json::from_value(serde_json::to_value(metadata)?)?;
        let property = |name: &str| metadata.configuration.get(name).map(String::as_str);
        if property(FORMAT) != Some(FORMAT_NOW) {
            return Err(Cause::NotOurs(format!("table property {FORMAT} is not {FORMAT_NOW}")));
        }
        if !metadata.partition_columns.is_empty() {
            return Err(Cause::Foreign("it has partition columns".to_owned()));
        }
        let key = serde_json::from_str(property(KEY).unwrap_or_default())?;
        let schema: StructType = serde_json::from_str(&metadata.schema_string)?;
        let fields = schema.fields().cloned().collect();
        Self::assemble(metadata, fields, key)
    }

    fn assemble(
        mut metadata: Metadata,
        fields: Vec<StructField>,
        key: Vec<String>,
    ) -> Result<Self, Cause> {
        let schema = StructType::try_new(fields.iter().cloned())
            .map_err(|error| Cause::Foreign(error.to_string()))?;
        metadata.schema_string = serde_json::to_string(&schema)?;
        let arrow: Schema = (&schema).try_into_arrow()?;
        // Files carry names and types alone, so that equal columns have equal Arrow fields.
        let plain = arrow
            .fields()
            .iter()
            .map(|field| Field::new(field.name(), field.data_type().clone(), field.is_nullable()));
        let arrow = Arc::new(Schema::new(plain.collect::<Vec<_>>()));
        Ok(Self { metadata, fields, arrow, key })
    }

    /// The columns of a data file.
    pub(crate) fn arrow(&self) -> &SchemaRef {
        &self.arrow
    }

    /// The names of the key's columns, in the order of the key.
    pub(crate) fn key(&self) -> &[String] {
        &self.key
    }

    /// The `metaData` action.
    pub(crate) fn action(&self) -> Result<deltalake::kernel::Metadata, Cause> {
        Ok(serde_json::from_value(serde_json::to_value(&self.metadata)?)?)
    }

    /// What a reader and a writer of the table must know.
    pub(crate) fn protocol(&self) -> Result<Protocol, Cause> {
        let has_timestamp_ntz = self.fields.iter().any(|field| holds_ntz(field.data_type()));
        let mut features = vec!["deletionVectors"];
        features.extend(has_timestamp_ntz.then_some("timestampNtz"));
        Ok(serde_json::from_value(json!({
            "minReaderVersion": 3,
            "minWriterVersion": 7,
            "readerFeatures": features,
            "writerFeatures": features,
        }))?)
    }

    /// The schema with the columns of `table` that are new, or `None` if there are none.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] if anything else has changed.
    pub(crate) fn evolve(&self, table: &Table) -> Result<Option<Self>> {
        if !table.key_columns().map(|column| &column.name).eq(&self.key) {
            let seen = format!("its key is no longer ({})", self.key.join(", "));
            return Err(changed(table, &seen));
        }
        let mut fields = self.fields.clone();
        for column in &table.columns {
            let wanted = field(table, column)?;
            let named = self.fields.iter().find(|known| known.name == column.name);
            let numbered = self.fields.iter().find(|known| attnum(known) == Some(column.attnum));
            match (named, numbered) {
                (Some(known), _) if known.data_type() != wanted.data_type() => {
                    let types = (known.data_type(), wanted.data_type());
                    let seen = format!("column {} was {} and is {}", column.name, types.0, types.1);
                    return Err(changed(table, &seen));
                }
                (Some(known), _) if attnum(known) != Some(column.attnum) => {
                    let seen = format!("column {} was dropped and added again", column.name);
                    return Err(changed(table, &seen));
                }
                (Some(_), _) => {}
                (None, Some(known)) => {
                    let seen = format!("column {} was renamed to {}", known.name, column.name);
                    return Err(changed(table, &seen));
                }
                (None, None) => fields.push(wanted),
            }
        }
        if fields.len() == self.fields.len() {
            return Ok(None);
        }
        let evolved = Self::assemble(self.metadata.clone(), fields, self.key.clone());
        evolved.map(Some).map_err(|cause| cause.while_doing(creating(table)))
    }
}

fn creating(table: &Table) -> String {
    format!("give the Delta table of {} its columns", table.full_name())
}

fn changed(table: &Table, seen: &str) -> Error {
    let action = format!("write the rows of {} to its Delta table", table.full_name());
    Error::new(ErrorKind::Config, action).with_source(seen.to_owned()).with_help(
        "rebuild the table: stop the sink, move the table's folder away, and reset the sink's \
         offsets to the earliest (or take a new snapshot)",
    )
}

/// The type that values of `kind` have in a data file; what Delta has no type for is text.
pub(crate) fn stored_type(kind: &ColumnType) -> DataType {
    match kind {
        // Delta has no time of day and no interval.
        ColumnType::Time | ColumnType::Interval => DataType::Utf8,
        ColumnType::Decimal { precision, .. } if *precision > NARROW_PRECISION_MAX => {
            DataType::Utf8
        }
        ColumnType::Array(element) => {
            DataType::List(Arc::new(Field::new("element", stored_type(element), true)))
        }
        ColumnType::Range(_) | ColumnType::Record(_) => {
            let members = kind.members();
            if !members.iter().all(|part| is_fit(part.name)) || meet(&members) {
                return DataType::Utf8;
            }
            let field = |part: &Member<'_>| Field::new(part.name, stored_type(part.kind), true);
            DataType::Struct(members.iter().map(field).collect())
        }
        ColumnType::Bool
        | ColumnType::Int16
        | ColumnType::Int32
        | ColumnType::Int64
        | ColumnType::Float32
        | ColumnType::Float64
        | ColumnType::Decimal { .. }
        | ColumnType::Text
        | ColumnType::Json
        | ColumnType::Bytes
        | ColumnType::Uuid
        | ColumnType::Date
        | ColumnType::Timestamp
        | ColumnType::TimestampTz
        | ColumnType::Map => kind.arrow(),
    }
}

/// Whether Delta takes it as the name of a column.
fn is_fit(name: &str) -> bool {
    !name.contains([' ', ',', ';', '{', '}', '(', ')', '\n', '\t', '='])
}

/// Whether two names differ by upper and lower case at most.
fn meet(members: &[Member<'_>]) -> bool {
    let mut names: Vec<String> = members.iter().map(|part| part.name.to_lowercase()).collect();
    names.sort_unstable();
    names.dedup();
    names.len() < members.len()
}

fn field(table: &Table, column: &Column) -> Result<StructField> {
    let refuse = |why: String| {
        Error::new(ErrorKind::Config, creating(table))
            .with_source(why)
            .with_help("rename the column in the source, or leave the table out of this sink")
    };
    let name = column.name.as_str();
    if [VERSION_COLUMN, PARTITION_COLUMN].iter().any(|ours| name.eq_ignore_ascii_case(ours)) {
        return Err(refuse(format!("column {name} has the name of a column of ours")));
    }
    if !is_fit(name) {
        return Err(refuse(format!("column {name:?} has a character that Delta does not take")));
    }
    let is_same = |other: &&Column| other.name.to_lowercase() == name.to_lowercase();
    if table.columns.iter().filter(is_same).count() > 1 {
        return Err(refuse(format!("two columns are called {name}, but for upper and lower case")));
    }
    let kind: DeltaType = (&stored_type(&column.kind))
        .try_into_kernel()
        .map_err(|error: arrow_schema::ArrowError| refuse(error.to_string()))?;
    let attnum = MetadataValue::Number(i64::from(column.attnum));
    Ok(StructField::nullable(name, kind).with_metadata([(ATTNUM, attnum)]))
}

fn attnum(field: &StructField) -> Option<i16> {
    match field.metadata.get(ATTNUM)? {
        MetadataValue::Number(number) => i16::try_from(*number).ok(),
        MetadataValue::String(text) => text.parse().ok(),
        MetadataValue::Boolean(_) | MetadataValue::Other(_) => None,
    }
}

fn holds_ntz(kind: &DeltaType) -> bool {
    match kind {
        DeltaType::Primitive(primitive) => *primitive == PrimitiveType::TimestampNtz,
        DeltaType::Array(array) => holds_ntz(array.element_type()),
        DeltaType::Struct(parts) => parts.fields().any(|part| holds_ntz(part.data_type())),
        DeltaType::Map(_) | DeltaType::Variant(_) => false,
    }
}
