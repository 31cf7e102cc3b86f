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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{Int64Array, StringArray};

    use super::*;
    use crate::{Column, ColumnType};

    fn rows(key: Vec<usize>) -> (Table, RecordBatch) {
        let column = |name: &str, kind| Column {
            attnum: 1,
            name: name.to_owned(),
            source_type: String::new(),
            kind,
        };
        let columns = vec![column("id", ColumnType::Int64), column("code", ColumnType::Text)];
        let (schema, name) = ("shop".to_owned(), "orders".to_owned());
        let table = Table { oid: 1, version: 1, schema, name, columns, key };
        let ids = Int64Array::from(vec![Some(7), None]);
        let codes = StringArray::from(vec!["a:b\\c", "x"]);
        let batch = RecordBatch::try_new(table.arrow(), vec![Arc::new(ids), Arc::new(codes)]);
        (table, batch.unwrap())
    }

    #[test]
    fn a_single_column_stands_as_it_is() {
        let (table, rows) = rows(vec![1]);
        assert_eq!(text(&rows, 0, &table).unwrap(), "a:b\\c");
    }

    #[test]
    fn several_columns_are_escaped_and_joined_in_key_order() {
        let (table, rows) = rows(vec![1, 0]);
        assert_eq!(text(&rows, 0, &table).unwrap(), "a\\:b\\\\c:7");
    }

    #[test]
    fn a_key_without_a_value_is_a_bug() {
        let (table, rows) = rows(vec![0]);
        for row in [1, 2] {
            assert_eq!(text(&rows, row, &table).unwrap_err().kind(), ErrorKind::Bug);
        }
    }
}
