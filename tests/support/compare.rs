//! The oracle: what the source holds, as text, against what each store holds.

use std::collections::BTreeMap;

use anabranch_core::{ColumnType, value};
use arrow_array::Float64Array;

use super::stores;
use super::world::World;

/// A row: column to canonical text, `None` for null.
pub type Row = BTreeMap<String, Option<String>>;
/// The rows of a table by the text of their key.
pub type Rows = BTreeMap<String, Row>;

/// What differs first, in any table of these sinks.
pub async fn difference(world: &World, sinks: &[&str]) -> Option<String> {
    for table in &world.tables {
        let wanted = source_rows(world, table).await;
        for sink in sinks {
            let held = match stores::rows(world, sink, table).await {
                Ok(held) => held,
                Err(error) => return Some(format!("{sink} {table}: {error}")),
            };
            if let Some(difference) = first_difference(&wanted, &held) {
                return Some(format!("{sink} {table}: {difference}"));
            }
        }
    }
    None
}

/// The first row that is not in both, or not the same in both.
pub fn first_difference(wanted: &Rows, held: &Rows) -> Option<String> {
    let (of, there) = (wanted.len(), held.len());
    for (key, row) in wanted {
        match held.get(key) {
            None => return Some(format!("row {key} is missing ({there} of {of} rows)")),
            Some(other) => {
                if let Some(column) = different_column(row, other) {
                    let (value, other) = (&row[column], other.get(column));
                    return Some(format!(
                        "row {key}, column {column}: {other:.99?}, not {value:.99?}"
                    ));
                }
            }
        }
    }
    let extra = held.keys().find(|key| !wanted.contains_key(*key))?;
    Some(format!("row {extra} is in the store alone ({there} rows, not {of})"))
}

/// The first column of `row` that `held` has otherwise.
pub fn different_column<'a>(row: &'a Row, held: &Row) -> Option<&'a String> {
    let other = |column| held.get(column).and_then(Option::as_ref);
    row.iter().find(|(column, value)| other(*column) != value.as_ref()).map(|(column, _)| column)
}

/// What the source holds.
pub async fn source_rows(world: &World, table: &str) -> Rows {
    let columns = columns(world, table).await;
    let list: Vec<_> = columns.iter().map(|column| format!("{} AS c", column.expression)).collect();
    let rows =
        world.sql.query(&format!("SELECT {} FROM {table}", list.join(", ")), &[]).await.unwrap();
    let mut found = Rows::new();
    for row in rows {
        let text = |(place, column): (usize, &SourceColumn)| {
            let text: Option<String> = row.get(place);
            if column.float { text.map(|text| float(&text)) } else { text }
        };
        let texts: Vec<Option<String>> = columns.iter().enumerate().map(text).collect();
        let key = columns.iter().zip(&texts).filter(|(column, _)| column.key);
        let parts: Vec<_> = key.map(|(_, text)| text.clone().unwrap_or_default()).collect();
        let cells = columns.iter().zip(texts).map(|(column, text)| (column.name.clone(), text));
        found.insert(key_text(&parts), cells.collect());
    }
    found
}

/// PostgreSQL writes 4 where the canonical text is 4.0; the digits are the same.
fn float(text: &str) -> String {
    let array = Float64Array::from(vec![text.parse::<f64>().unwrap()]);
    let mut canonical = String::new();
    value::text(&mut canonical, &array, 0, &ColumnType::Float64).unwrap();
    canonical
}

/// The text of a key: composite keys are joined with `:` after escaping.
fn key_text(parts: &[String]) -> String {
    match parts {
        [one] => one.clone(),
        many => {
            let escaped = many.iter().map(|part| part.replace('\\', "\\\\").replace(':', "\\:"));
            escaped.collect::<Vec<_>>().join(":")
        }
    }
}

struct SourceColumn {
    name: String,
    /// SQL that gives the canonical text.
    expression: String,
    key: bool,
    float: bool,
}

async fn columns(world: &World, table: &str) -> Vec<SourceColumn> {
    let query = "SELECT a.attname::text, t.typname::text,
            CASE WHEN t.typcategory = 'A' THEN 'a' ELSE t.typtype::text END,
            coalesce(a.attnum = ANY (i.indkey), false)
        FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
        LEFT JOIN pg_index i ON i.indrelid = a.attrelid AND i.indisprimary
        WHERE a.attrelid = $1::text::regclass AND a.attnum > 0 AND NOT a.attisdropped
        ORDER BY a.attnum";
    let rows = world.sql.query(query, &[&table]).await.unwrap();
    let column = |row: &tokio_postgres::Row| {
        let (name, kind, class): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        let expression = expression(&format!("\"{name}\""), &kind, &class);
        let float = matches!(kind.as_str(), "float4" | "float8");
        SourceColumn { name, expression, key: row.get(3), float }
    };
    rows.iter().map(column).collect()
}

/// SQL that gives the canonical text of a column of type `kind`; `class` is its `typtype`, or `a`.
fn expression(quoted: &str, kind: &str, class: &str) -> String {
    match (kind, class) {
        ("timestamptz", _) => {
            format!("to_char({quoted} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')")
        }
        ("timestamp", _) => format!("to_char({quoted}, 'YYYY-MM-DD\"T\"HH24:MI:SS.US')"),
        ("time", _) => format!("to_char({quoted}, 'HH24:MI:SS.US')"),
        ("bytea", _) => format!("translate(encode({quoted}, 'base64'), E'\\n', '')"),
        ("money", _) => format!("{quoted}::numeric::text"),
        ("hstore", _) => format!(
            "CASE WHEN {quoted} IS NOT NULL THEN (SELECT '{{' || coalesce(string_agg(to_json(key)::text || ':'
             || coalesce(to_json(value)::text, 'null'), ','), '') || '}}' FROM each({quoted})) END"
        ),
        (_, "r") => format!("CASE WHEN {quoted} IS NOT NULL THEN {} END", range(quoted, kind)),
        (kind, "m" | "a") if kind.ends_with("range") => format!(
            "CASE WHEN {quoted} IS NOT NULL THEN (SELECT '[' || coalesce(string_agg(
             coalesce({}, 'null'), ','), '') || ']' FROM unnest({quoted}) r) END",
            range("r", kind)
        ),
        (_, "a" | "c") => format!("to_json({quoted})::text"),
        ("bool", _) => format!("{quoted}::text"),
        // What the type's output function gives: a cast would drop padding and add masks.
        _ => format!("CASE WHEN {quoted} IS NOT NULL THEN format('%s', {quoted}) END"),
    }
}

/// SQL that gives a range as the JSON that stores hold. Numbers without a precision are texts.
fn range(value: &str, kind: &str) -> String {
    let cast = if kind == "numrange" { "::text" } else { "" };
    let bound = |name: &str| format!("coalesce(to_json({name}({value}){cast})::text, 'null')");
    format!(
        "'{{\"lower\":' || {} || ',\"upper\":' || {} || ',\"lower_inc\":' || lower_inc({value})::text
         || ',\"upper_inc\":' || upper_inc({value})::text || ',\"empty\":' || isempty({value})::text || '}}'",
        bound("lower"),
        bound("upper")
    )
}
