//! Rows: from values in text form to the Avro records of the log.
//!
//! ```text
//! values in column order ── RowLayout ──▶ row: key columns T, the others ["null", T]
//!                                    └──▶ key: the key's columns in the key's order
//! ```
//!
//! Equal keys have equal bytes, whatever else is in the row.

use anabranch_core::avro::write;
use anabranch_core::{ColumnType, Error, ErrorKind, Table};
use bytes::{Bytes, BytesMut};

use crate::pgoutput::Value;
use crate::value::{ValueError, write_value};

/// Bytes that rows are cut from: fewer allocations than rows.
const ARENA_BYTES: usize = 256 << 10;
/// Characters of a key that an error shows.
const SHOWN_KEY_CHARS_MAX: usize = 200;

/// What a row of one schema version is made of.
#[derive(Clone, Debug)]
pub(crate) struct RowLayout {
    columns: Vec<(ColumnType, bool)>,
    key: Vec<usize>,
}

/// A column whose value cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadValue {
    pub(crate) place: usize,
    pub(crate) cause: ValueError,
}

/// Makes records out of values.
#[derive(Debug, Default)]
pub(crate) struct RowWriter {
    scratch: Vec<u8>,
    arena: BytesMut,
}

impl RowLayout {
    pub(crate) fn new(table: &Table) -> Self {
        let column = |(place, column): (usize, &anabranch_core::Column)| {
            (column.kind.clone(), table.is_key(place))
        };
        Self {
            columns: table.columns.iter().enumerate().map(column).collect(),
            key: table.key.clone(),
        }
    }
}

impl RowWriter {
    /// The record of a whole row. A column without a value is null; an unchanged one must have
    /// been filled in before.
    pub(crate) fn row<'a>(
        &mut self,
        layout: &RowLayout,
        mut values: impl Iterator<Item = Value<'a>>,
    ) -> Result<Bytes, BadValue> {
        self.scratch.clear();
        for (place, (kind, is_key)) in layout.columns.iter().enumerate() {
            let bad = |cause| BadValue { place, cause };
            match (values.next().unwrap_or(Value::Null), is_key) {
                (Value::Text(text), true) => {
                    write_value(&mut self.scratch, kind, text).map_err(bad)?;
                }
                (Value::Text(text), false) => {
                    write::value_branch(&mut self.scratch);
                    write_value(&mut self.scratch, kind, text).map_err(bad)?;
                }
                (Value::Null | Value::Unchanged, true) => return Err(bad(ValueError::NullKey)),
                (Value::Null | Value::Unchanged, false) => write::null_branch(&mut self.scratch),
            }
        }
        Ok(self.cut())
    }

    /// The record of a key, from the values of a whole row.
    pub(crate) fn key<'a>(
        &mut self,
        layout: &RowLayout,
        value: impl Fn(usize) -> Option<Value<'a>>,
    ) -> Result<Bytes, BadValue> {
        self.scratch.clear();
        for place in &layout.key {
            let bad = |cause| BadValue { place: *place, cause };
            let (Some(Value::Text(text)), Some((kind, _))) =
                (value(*place), layout.columns.get(*place))
            else {
                return Err(bad(ValueError::NullKey));
            };
            write_value(&mut self.scratch, kind, text).map_err(bad)?;
        }
        Ok(self.cut())
    }

    fn cut(&mut self) -> Bytes {
        if self.arena.capacity() < self.scratch.len() {
            self.arena = BytesMut::with_capacity(ARENA_BYTES.max(self.scratch.len()));
        }
        self.arena.extend_from_slice(&self.scratch);
        self.arena.split().freeze()
    }
}

impl BadValue {
    /// The error that says which row it is.
    pub(crate) fn error<'a>(
        self,
        table: &Table,
        value: impl Fn(usize) -> Option<Value<'a>>,
    ) -> Error {
        let column = table.columns.get(self.place).map_or("?", |column| &column.name);
        let key: Vec<String> = table
            .key
            .iter()
            .map(|place| match value(*place) {
                Some(Value::Text(text)) => {
                    String::from_utf8_lossy(text).chars().take(SHOWN_KEY_CHARS_MAX).collect()
                }
                Some(Value::Null | Value::Unchanged) | None => "null".to_owned(),
            })
            .collect();
        let action = format!(
            "encode column {column} of {} with key ({})",
            table.full_name(),
            key.join(", ")
        );
        Error::new(ErrorKind::Rejected, action)
            .with_source(self.cause)
            .with_help("change the value in the source, or declare the column as text")
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use anabranch_core::Column;

    /// `shop.orders (id int4, region text, total numeric(10,2), body text)`.
    pub(crate) fn orders(key: &[usize]) -> Table {
        let column = |attnum, name: &str, kind| Column {
            attnum,
            name: name.into(),
            source_type: String::new(),
            kind,
        };
        Table {
            oid: 7,
            version: 1,
            schema: "shop".into(),
            name: "orders".into(),
            columns: vec![
                column(1, "id", ColumnType::Int32),
                column(2, "region", ColumnType::Text),
                column(3, "total", ColumnType::Decimal { precision: 10, scale: 2 }),
                column(5, "body", ColumnType::Text),
            ],
            key: key.to_vec(),
        }
    }

    fn text(text: &str) -> Value<'_> {
        Value::Text(text.as_bytes())
    }

    #[test]
    fn key_columns_are_plain_and_the_others_nullable() {
        let layout = RowLayout::new(&orders(&[0]));
        let mut writer = RowWriter::default();
        let row = [text("1"), Value::Null, text("1.50"), text("x")];
        let row = writer.row(&layout, row.into_iter()).unwrap();
        assert_eq!(row, [&[2_u8, 0, 2, 4, 0, 150, 2, 2][..], b"x"].concat());
    }

    #[test]
    fn a_key_follows_its_own_order_and_a_row_the_tables() {
        let layout = RowLayout::new(&orders(&[1, 0]));
        let mut writer = RowWriter::default();
        let row = [text("1"), text("eu"), Value::Null, Value::Null];
        let key = writer.key(&layout, |place| row.get(place).copied()).unwrap();
        assert_eq!(&key[..], b"\x04eu\x02");
        assert_eq!(&writer.row(&layout, row.into_iter()).unwrap()[..], b"\x02\x04eu\0\0");
    }

    #[test]
    fn a_value_that_does_not_fit_names_its_row() {
        let table = orders(&[0]);
        let row = [text("41"), Value::Null, text("NaN"), Value::Null];
        let bad = RowWriter::default().row(&RowLayout::new(&table), row.into_iter()).unwrap_err();
        let error = bad.error(&table, |place| row.get(place).copied());
        assert_eq!(error.kind(), ErrorKind::Rejected);
        assert!(error.report().contains("total of shop.orders with key (41)"), "{error:?}");
    }

    #[test]
    fn a_null_key_is_refused() {
        let layout = RowLayout::new(&orders(&[0]));
        let mut writer = RowWriter::default();
        assert!(writer.row(&layout, [Value::Null].into_iter()).is_err());
        assert!(writer.key(&layout, |_| Some(Value::Unchanged)).is_err());
    }
}
