//! The index as a table wants it: settings, mappings, and how they may grow. Nothing here does I/O.
//!
//! ```text
//! Table ─▶ creation() ─▶ PUT index
//! Table + GET mapping ─▶ growth() ─▶ PUT mapping, or the column whose type does not fit
//! ```
//!
//! The invariant: a value of the source never makes a document fail that its column's type allows.
//! What a field cannot index (`NaN`, the year 294276, `infinity`) stays in `_source` and is listed
//! in the document's `_ignored`.

use anabranch_core::{Assignment, ColumnType, Error, ErrorKind, Member, Result, Table};
use serde_json::{Map, Value, json};

use crate::ElasticsearchConfig;

/// The format of the index: fields, ids, cursors (`docs/formats.md`).
pub(crate) const FORMAT: u64 = 1;
/// How long the server remembers the version of a deleted document. It must outlive every write
/// that can still arrive, that is [`ElasticsearchConfig::request_timeout_ms`] many times.
pub(crate) const GC_DELETES: &str = "1h";
/// The longest text that its `keyword` field holds, in characters; the server's own default.
const KEYWORD_CHARS_MAX: u32 = 256;
/// Fields beyond the columns that an index may get, by later columns or by a person.
const SPARE_FIELDS: usize = 200;
/// The server's own limit, which is never lowered.
const FIELDS_MIN: usize = 1000;

/// The body of the request that creates the index. `alias` is given while it is free.
pub(crate) fn creation(
    config: &ElasticsearchConfig,
    assignment: &Assignment,
    alias: Option<&str>,
    write: &str,
) -> Value {
    let table = &assignment.table;
    let mut fields = own_fields(config);
    fields.extend(table.columns.iter().map(|c| (c.name.clone(), field(&c.kind))));
    let leaves: usize = table.columns.iter().map(|column| leaves(&column.kind)).sum();
    let limit = (leaves * 2 + SPARE_FIELDS).max(FIELDS_MIN);
    let mut settings = json!({
        "number_of_shards": config.shards,
        "number_of_replicas": config.replicas,
        "gc_deletes": GC_DELETES,
        "translog.durability": "request",
        "mapping.total_fields.limit": limit,
    });
    if let (Some(interval), Some(settings)) = (&config.refresh_interval, settings.as_object_mut()) {
        settings.insert("refresh_interval".to_owned(), Value::from(interval.as_str()));
    }
    let mut aliases = Map::new();
    aliases.insert(write.to_owned(), json!({"is_hidden": true}));
    if let Some(alias) = alias {
        aliases.insert(alias.to_owned(), json!({"filter": filter(config)}));
    }
    json!({
        "settings": {"index": settings},
        "aliases": aliases,
        "mappings": {
            "dynamic": "strict",
            "_meta": {"anabranch": {
                "format": FORMAT,
                "log": assignment.log,
                "sink": assignment.sink,
                "table": table.full_name(),
                "generation": assignment.generation,
            }},
            "properties": fields,
        },
    })
}

/// What the alias shows: everything but the cursors.
pub(crate) fn filter(config: &ElasticsearchConfig) -> Value {
    json!({"bool": {"must_not": {"exists": {"field": config.cursor_field}}}})
}

/// The first of the sink's own fields that `mappings` does not have as it should: the settings that
/// name them were changed since the index was made.
pub(crate) fn misnamed<'a>(mappings: &Value, config: &'a ElasticsearchConfig) -> Option<&'a str> {
    let own = [
        (config.version_field.as_str(), "long"),
        (config.partition_field.as_str(), "integer"),
        (config.cursor_field.as_str(), "keyword"),
    ];
    let is = |name: &str, kind: &str| present(mappings, name).is_some_and(|f| type_name(f) == kind);
    own.into_iter().find(|(name, kind)| !is(name, kind)).map(|(name, _)| name)
}

fn own_fields(config: &ElasticsearchConfig) -> Map<String, Value> {
    let mut fields = Map::new();
    fields.insert(config.version_field.clone(), json!({"type": "long"}));
    fields.insert(config.partition_field.clone(), json!({"type": "integer"}));
    fields.insert(config.cursor_field.clone(), json!({"type": "keyword", "index": false}));
    fields
}

/// The fields that a column is mapped to.
fn leaves(kind: &ColumnType) -> usize {
    if let ColumnType::Array(element) = kind {
        return leaves(element);
    }
    1 + kind.members().iter().map(|member| leaves(member.kind)).sum::<usize>()
}

/// How a column is mapped. An array is mapped as its elements are, a range or composite as an
/// object with a field for each part.
fn field(kind: &ColumnType) -> Value {
    match kind {
        ColumnType::Bool => json!({"type": "boolean"}),
        ColumnType::Int16 => json!({"type": "short"}),
        ColumnType::Int32 => json!({"type": "integer"}),
        ColumnType::Int64 => json!({"type": "long"}),
        ColumnType::Float32 => json!({"type": "float", "ignore_malformed": true}),
        ColumnType::Float64 | ColumnType::Decimal { .. } => {
            json!({"type": "double", "ignore_malformed": true})
        }
        ColumnType::Text => json!({
            "type": "text",
            "fields": {"keyword": {"type": "keyword", "ignore_above": KEYWORD_CHARS_MAX}},
        }),
        // Anyone may put any name into these.
        ColumnType::Json | ColumnType::Map => json!({"type": "object", "enabled": false}),
        ColumnType::Bytes => json!({"type": "binary"}),
        ColumnType::Uuid | ColumnType::Time | ColumnType::Interval => json!({"type": "keyword"}),
        // Milliseconds in the index, the exact text in `_source`. `date_nanos` ends in 2262.
        ColumnType::Date | ColumnType::Timestamp | ColumnType::TimestampTz => json!({
            "type": "date",
            "format": "strict_date_optional_time_nanos",
            "ignore_malformed": true,
        }),
        ColumnType::Array(element) => field(element),
        ColumnType::Range(_) | ColumnType::Record(_) => {
            let members = kind.members();
            let member = |part: &Member<'_>| (part.name.to_owned(), field(part.kind));
            json!({"properties": members.iter().map(member).collect::<Map<_, _>>()})
        }
    }
}

/// The fields that `table` needs and `mappings` (of `GET index`) lacks.
///
/// # Errors
///
/// [`ErrorKind::Config`] names the column whose values the present field cannot hold.
pub(crate) fn growth(mappings: &Value, table: &Table, index: &str) -> Result<Map<String, Value>> {
    let wanted = table.columns.iter().map(|column| (column.name.clone(), field(&column.kind)));
    missing(mappings, &wanted.collect(), "", index)
}

/// The same for the fields of the object `within`, which ends in a dot.
fn missing(
    level: &Value,
    wanted: &Map<String, Value>,
    within: &str,
    index: &str,
) -> Result<Map<String, Value>> {
    let mut missing_fields = Map::new();
    for (name, wanted) in wanted {
        let full_name = format!("{within}{name}");
        match (present(level, name), parts(wanted)) {
            (None, _) => {
                missing_fields.insert(name.clone(), wanted.clone());
            }
            (Some(present), Some(wanted)) if parts(present).is_some() => {
                let grown = missing(present, wanted, &format!("{full_name}."), index)?;
                if !grown.is_empty() {
                    missing_fields.insert(name.clone(), json!({"properties": grown}));
                }
            }
            (Some(present), _) if holds(present, wanted) => {}
            (Some(present), _) => return Err(misfit(index, &full_name, present, wanted)),
        }
    }
    Ok(missing_fields)
}

/// The fields of an object.
fn parts(field: &Value) -> Option<&Map<String, Value>> {
    field.get("properties").and_then(Value::as_object)
}

fn misfit(index: &str, column: &str, present: &Value, wanted: &Value) -> Error {
    let action = format!("map column {column} to index {index}");
    let seen = format!("it is {} there, and must be {}", type_name(present), type_name(wanted));
    Error::new(ErrorKind::Config, action).with_source(seen).with_help(
        "a field's type cannot be changed: fill a new generation of this sink, or delete the index \
         to have it made and filled anew",
    )
}

/// The mapping of a field. A dot in a name is a level, as the server reads it.
fn present<'a>(mappings: &'a Value, name: &str) -> Option<&'a Value> {
    name.split('.').try_fold(mappings, |level, part| level.get("properties")?.get(part))
}

fn type_name(field: &Value) -> &str {
    field.get("type").and_then(Value::as_str).unwrap_or("object")
}

/// Whether `present` takes every value that `wanted` takes.
fn holds(present: &Value, wanted: &Value) -> bool {
    let disabled = |field: &Value| field.get("enabled").and_then(Value::as_bool) == Some(false);
    let (present_type, wanted_type) = (type_name(present), type_name(wanted));
    if disabled(present) || disabled(wanted) {
        return disabled(present);
    }
    if parts(present).is_some() || parts(wanted).is_some() {
        return false;
    }
    let whole = ["short", "integer", "long"];
    let rank = |name| whole.iter().position(|other| *other == name);
    match (rank(present_type), rank(wanted_type)) {
        (Some(present), Some(wanted)) => present >= wanted,
        (_, Some(_)) if present_type == "double" => true,
        _ => {
            present_type == wanted_type
                || matches!(present_type, "text" | "keyword")
                || (present_type, wanted_type) == ("double", "float")
        }
    }
}

#[cfg(test)]
mod tests {
    use anabranch_core::{Attribute, Column};

    use super::*;

    fn table(columns: &[(&str, ColumnType)]) -> Table {
        let column = |(attnum, (name, kind)): (i16, &(&str, ColumnType))| Column {
            attnum,
            name: (*name).to_owned(),
            source_type: String::new(),
            kind: kind.clone(),
        };
        Table {
            oid: 1,
            version: 1,
            schema: "public".to_owned(),
            name: "orders".to_owned(),
            columns: (1..).zip(columns).map(column).collect(),
            key: vec![0],
        }
    }

    #[test]
    fn only_new_columns_are_added() {
        let mappings = json!({"properties": {
            "id": {"type": "long"},
            "a": {"properties": {"b": {"type": "keyword"}}},
        }});
        let table = table(&[
            ("id", ColumnType::Int32),
            ("a.b", ColumnType::Text),
            ("tags", ColumnType::Array(Box::new(ColumnType::Uuid))),
        ]);
        let grown = growth(&mappings, &table, "orders-1").unwrap();
        assert_eq!(Value::Object(grown), json!({"tags": {"type": "keyword"}}));
    }

    #[test]
    fn an_object_grows_by_its_parts() {
        let attribute = |name: &str, kind| Attribute { name: name.to_owned(), kind };
        let inner = ColumnType::Record(vec![
            attribute("x", ColumnType::Int32),
            attribute("y", ColumnType::Int32),
        ]);
        let kind = ColumnType::Record(vec![
            attribute("a", ColumnType::Text),
            attribute("b", ColumnType::Array(Box::new(inner))),
        ]);
        let table = table(&[("c", kind)]);
        let held = json!({"properties": {"c": {"properties": {
            "a": {"type": "text"},
            "b": {"properties": {"x": {"type": "integer"}}},
        }}}});
        let grown = growth(&held, &table, "orders-1").unwrap();
        let wanted =
            json!({"c": {"properties": {"b": {"properties": {"y": {"type": "integer"}}}}}});
        assert_eq!(Value::Object(grown), wanted);
        let other = json!({"properties": {"c": {"properties": {"a": {"type": "long"}}}}});
        let error = growth(&other, &table, "orders-1").unwrap_err();
        assert!(error.report().contains("column c.a"), "{error:?}");
        let text = json!({"properties": {"c": {"type": "text"}}});
        assert!(growth(&text, &table, "orders-1").is_err(), "a text was mapped before");
    }

    #[test]
    fn a_type_that_does_not_fit_is_named() {
        let mappings = json!({"properties": {"total": {"type": "integer"}}});
        for kind in [ColumnType::Int64, ColumnType::Float64, ColumnType::Text, ColumnType::Json] {
            let error = growth(&mappings, &table(&[("total", kind)]), "orders-1").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.report().contains("column total to index orders-1"), "{error:?}");
        }
    }

    #[test]
    fn wider_fields_hold_narrower_values() {
        let fits = |present: Value, kind: ColumnType| holds(&present, &field(&kind));
        assert!(fits(json!({"type": "long"}), ColumnType::Int16));
        assert!(!fits(json!({"type": "short"}), ColumnType::Int32));
        assert!(fits(json!({"type": "text"}), ColumnType::Timestamp));
        assert!(!fits(json!({"type": "text"}), ColumnType::Json));
        assert!(fits(json!({"enabled": false, "type": "object"}), ColumnType::Json));
        assert!(fits(json!({"type": "double"}), ColumnType::Float32));
        assert!(!fits(json!({"type": "float"}), ColumnType::Float64));
        assert!(!fits(json!({"properties": {}}), ColumnType::Text));
    }
}
