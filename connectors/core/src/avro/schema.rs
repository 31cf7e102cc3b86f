//! The Avro schemas of a table's topic, for the registry and for every other reader of the log.
//!
//! Names follow Debezium: `<topic>.Key`, `<topic>.Envelope` and, in it, `<topic>.Value`. Every
//! column but the key's is `["null", T]` with default null, so a column that comes or goes keeps
//! the schema compatible, backward and forward.

use serde::Serialize;

use super::name::escape;
use crate::{Column, ColumnType, Table};

/// The schema of the key records of `table` in `topic`, as JSON.
#[must_use]
pub fn key_schema(table: &Table, topic: &str) -> String {
    let fields = table.key_columns().map(|column| column_field(column, true)).collect();
    Record::of_table(table, topic, "Key", fields).to_json()
}

/// The schema of the values of `table` in `topic`, as JSON: Debezium's envelope.
#[must_use]
pub fn envelope_schema(table: &Table, topic: &str) -> String {
    let column = |(place, column)| column_field(column, table.is_key(place));
    let columns = table.columns.iter().enumerate().map(column).collect();
    let row = Record::of_table(table, topic, "Value", columns);
    let fields = vec![
        Field::nullable("before", Type::Record(Box::new(row))),
        Field::nullable("after", Type::named("Value")),
        Field::required("source", Type::Record(Box::new(source()))),
        Field::required("op", Type::named("string")),
        Field::nullable("ts_ms", Type::named("long")),
        Field::nullable("transaction", Type::Record(Box::new(transaction()))),
        Field::nullable("unchanged", Type::array(Type::named("string"))),
    ];
    Record::of_table(table, topic, "Envelope", fields).to_json()
}

/// Debezium's fields first; `epoch` and what follows are ours.
fn source() -> Record {
    let required = |name, kind| Field::required(name, Type::named(kind));
    let fields = vec![
        required("version", "string"),
        required("connector", "string"),
        required("name", "string"),
        required("ts_ms", "long"),
        required("snapshot", "string"),
        required("db", "string"),
        Field::nullable("ts_us", Type::named("long")),
        required("schema", "string"),
        required("table", "string"),
        Field::nullable("txId", Type::named("long")),
        Field::nullable("lsn", Type::named("long")),
        required("epoch", "int"),
        required("commit_lsn", "long"),
        required("ordinal", "long"),
        required("part", "int"),
    ];
    Record::new("io.debezium.connector.postgresql".to_owned(), "Source", fields)
}

fn transaction() -> Record {
    let fields = vec![
        Field::required("id", Type::named("string")),
        Field::required("total_order", Type::named("long")),
        Field::required("data_collection_order", Type::named("long")),
    ];
    Record::new("event".to_owned(), "block", fields)
}

fn column_field(column: &Column, is_key: bool) -> Field {
    let name = escape(&column.name);
    let source_name = (name != column.name).then(|| column.name.clone());
    let kind = column_type(&column.kind);
    let field = if is_key { Field::required(&name, kind) } else { Field::nullable(&name, kind) };
    Field { source_name, ..field }
}

fn column_type(kind: &ColumnType) -> Type {
    match kind {
        ColumnType::Bool => Type::named("boolean"),
        ColumnType::Int16 | ColumnType::Int32 => Type::named("int"),
        ColumnType::Int64 => Type::named("long"),
        ColumnType::Float32 => Type::named("float"),
        ColumnType::Float64 => Type::named("double"),
        ColumnType::Decimal { precision, scale } => Type::Logical(Logical {
            precision: Some(*precision),
            scale: Some(*scale),
            ..Logical::new("bytes", "decimal")
        }),
        ColumnType::Text => Type::named("string"),
        ColumnType::Json => Type::Connect { of: "string", connect_name: "io.debezium.data.Json" },
        ColumnType::Bytes => Type::named("bytes"),
        ColumnType::Uuid => Type::logical("string", "uuid"),
        ColumnType::Date => Type::logical("int", "date"),
        ColumnType::Time => Type::logical("long", "time-micros"),
        ColumnType::Timestamp => Type::logical("long", "local-timestamp-micros"),
        ColumnType::TimestampTz => Type::logical("long", "timestamp-micros"),
        ColumnType::Array(element) => {
            Type::array(Type::Union(vec![Type::named("null"), column_type(element)]))
        }
    }
}

/// The topic as an Avro namespace. What a topic may hold is more than Avro allows.
fn namespace(topic: &str) -> String {
    topic.split('.').map(escape).collect::<Vec<_>>().join(".")
}

#[derive(Serialize)]
#[serde(untagged)]
enum Type {
    Named(&'static str),
    Connect {
        #[serde(rename = "type")]
        of: &'static str,
        #[serde(rename = "connect.name")]
        connect_name: &'static str,
    },
    Logical(Logical),
    Array {
        #[serde(rename = "type")]
        of: &'static str,
        items: Box<Self>,
    },
    Union(Vec<Self>),
    Record(Box<Record>),
}

#[derive(Serialize)]
struct Logical {
    #[serde(rename = "type")]
    of: &'static str,
    #[serde(rename = "logicalType")]
    logical: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    precision: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scale: Option<u8>,
}

#[derive(Serialize)]
struct Record {
    #[serde(rename = "type")]
    of: &'static str,
    name: &'static str,
    namespace: String,
    fields: Vec<Field>,
    #[serde(rename = "connect.name")]
    connect_name: String,
    /// The table's name, where the topic does not spell it.
    #[serde(rename = "anabranch.table", skip_serializing_if = "Option::is_none")]
    table: Option<String>,
}

#[derive(Serialize)]
struct Field {
    name: String,
    #[serde(rename = "type")]
    kind: Type,
    /// `Some(())` is a default of null.
    #[serde(skip_serializing_if = "Option::is_none")]
    default: Option<()>,
    /// The column's name, where Avro cannot spell it.
    #[serde(rename = "anabranch.column", skip_serializing_if = "Option::is_none")]
    source_name: Option<String>,
}

impl Type {
    fn named(name: &'static str) -> Self {
        Self::Named(name)
    }

    fn logical(of: &'static str, logical: &'static str) -> Self {
        Self::Logical(Logical::new(of, logical))
    }

    fn array(items: Self) -> Self {
        Self::Array { of: "array", items: Box::new(items) }
    }
}

impl Logical {
    fn new(of: &'static str, logical: &'static str) -> Self {
        Self { of, logical, precision: None, scale: None }
    }
}

impl Field {
    fn required(name: &str, kind: Type) -> Self {
        Self { name: name.to_owned(), kind, default: None, source_name: None }
    }

    fn nullable(name: &str, kind: Type) -> Self {
        let kind = Type::Union(vec![Type::named("null"), kind]);
        Self { default: Some(()), ..Self::required(name, kind) }
    }
}

impl Record {
    fn new(namespace: String, name: &'static str, fields: Vec<Field>) -> Self {
        let connect_name = format!("{namespace}.{name}");
        Self { of: "record", name, namespace, fields, connect_name, table: None }
    }

    fn of_table(table: &Table, topic: &str, name: &'static str, fields: Vec<Field>) -> Self {
        let spelt = topic.ends_with(&format!(".{}", table.full_name()));
        let table = (!spelt || namespace(topic) != topic).then(|| table.full_name());
        Self { table, ..Self::new(namespace(topic), name, fields) }
    }

    fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings, numbers and nulls have a JSON form")
    }
}
