//! The key of a row as one text: document ids and Redis keys.

use arrow_array::RecordBatch;

use crate::{Error, ErrorKind, Result, Table, value};

/// The canonical texts of the key's columns at `row`, in the order of the key.
///
/// Several columns are joined by `:`, with `\` and `:` in them escaped by `\`, so that distinct
/// keys have distinct texts; a single column stands as it is.
///
/// # Errors
///
/// [`ErrorKind::Bug`] if `rows` is no batch of `table`, or a column of the key is null.
pub fn text(rows: &RecordBatch, row: usize, table: &Table) -> Result<String> {
    let mut key = String::new();
    if let [place] = table.key.as_slice() {
        append(&mut key, rows, (row, *place), table)?;
        return Ok(key);
    }
    let mut part = String::new();
    for (nth, place) in table.key.iter().enumerate() {
        if nth > 0 {
            key.push(':');
        }
        part.clear();
        append(&mut part, rows, (row, *place), table)?;
        escape(&mut key, &part);
    }
    Ok(key)
}

fn append(
    out: &mut String,
    rows: &RecordBatch,
    (row, place): (usize, usize),
    table: &Table,
) -> Result<()> {
    let bug = || Error::new(ErrorKind::Bug, format!("find the key of {}", table.full_name()));
    let column = table.columns.get(place).ok_or_else(bug)?;
    let array = rows.columns().get(place).ok_or_else(bug)?;
    if row < array.len() && array.is_null(row) {
        return Err(bug());
    }
    value::text(out, array.as_ref(), row, &column.kind)
}

fn escape(out: &mut String, part: &str) {
    for character in part.chars() {
        if matches!(character, ':' | '\\') {
            out.push('\\');
        }
        out.push(character);
    }
}
