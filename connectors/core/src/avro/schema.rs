//! The Avro schemas of a table's topic, for the registry and for every other reader of the log.
//!
//! Names follow Debezium: `<topic>.Key`, `<topic>.Envelope` and, in it, `<topic>.Value`. Every
//! column but the key's is `["null", T]` with default null, so a column that comes or goes keeps
//! the schema compatible, backward and forward. A record within a row is named by its place,
//! `<topic>.Value.<column>.<attribute>`: unique, and the same in every version.

use serde::Serialize;

use super::name::escape;
use crate::{Column, ColumnType, Member, Table};

/// The schema of the key records of `table` in `topic`, as JSON.
#[must_use]
pub fn key_schema(table: &Table, topic: &str) -> String {
    let within = format!("{}.Key", namespace(topic));
    let fields = table.key_columns().map(|column| column_field(column, true, &within)).collect();
    Record::of_table(table, topic, "Key", fields).to_json()
}

/// The schema of the values of `table` in `topic`, as JSON: Debezium's envelope.
#[must_use]
pub fn envelope_schema(table: &Table, topic: &str) -> String {
    let within = format!("{}.Value", namespace(topic));
    let column = |(place, column)| column_field(column, table.is_key(place), &within);
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

fn column_field(column: &Column, is_key: bool, within: &str) -> Field {
    member_field((&column.name, &column.kind), !is_key, within)
}

/// A field of a record whose full name is `within`.
fn member_field((source_name, kind): (&str, &ColumnType), nullable: bool, within: &str) -> Field {
    let name = escape(source_name);
    let kind = column_type(kind, &name, within);
    let field = if nullable { Field::nullable(&name, kind) } else { Field::required(&name, kind) };
    Field { source_name: (name != source_name).then(|| source_name.to_owned()), ..field }
}

/// The type of field `name` of the record `within`.
fn column_type(kind: &ColumnType, name: &str, within: &str) -> Type {
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
            Type::array(Type::optional(column_type(element, name, within)))
        }
        ColumnType::Map => {
            Type::Map { of: "map", values: Box::new(Type::optional(Type::named("string"))) }
        }
        ColumnType::Interval | ColumnType::Range(_) | ColumnType::Record(_) => {
            let inside = format!("{within}.{name}");
            let members = kind.members();
            let field =
                |part: &Member<'_>| member_field((part.name, part.kind), part.nullable, &inside);
            let fields = members.iter().map(field).collect();
            Type::Record(Box::new(Record::new(within.to_owned(), name, fields)))
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
    Map {
        #[serde(rename = "type")]
        of: &'static str,
        values: Box<Self>,
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
    name: String,
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

    fn optional(kind: Self) -> Self {
        Self::Union(vec![Self::named("null"), kind])
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
        Self { default: Some(()), ..Self::required(name, Type::optional(kind)) }
    }
}

impl Record {
    fn new(namespace: String, name: &str, fields: Vec<Field>) -> Self {
        let connect_name = format!("{namespace}.{name}");
        let name = name.to_owned();
        Self { of: "record", name, namespace, fields, connect_name, table: None }
    }

    fn of_table(table: &Table, topic: &str, name: &str, fields: Vec<Field>) -> Self {
        let spelt = topic.ends_with(&format!(".{}", table.full_name()));
        let table = (!spelt || namespace(topic) != topic).then(|| table.full_name());
        Self { table, ..Self::new(namespace(topic), name, fields) }
    }

    fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings, numbers and nulls have a JSON form")
    }
}
