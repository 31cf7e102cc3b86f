//! Rows: from values in text or binary form to the Avro records of the log.
//!
//! ```text
//! values in column order ── RowLayout ──▶ row: key columns T, the others ["null", T]
//!                                    └──▶ key: the key's columns in the key's order
//! ```
//!
//! Equal keys have equal bytes, whatever else is in the row.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use anabranch_core::{Error, ErrorKind, Table};
use bytes::{Bytes, BytesMut};

use crate::pgoutput::Value;
use crate::stats::SourceStats;
use crate::value::{
    Codec, Context, Misfit, ValueError, ValuePolicies, literal, write_optional, write_required,
};

/// Bytes that rows are cut from: fewer allocations than rows.
const ARENA_BYTES: usize = 256 << 10;
/// Characters of a key that an error shows.
const SHOWN_KEY_CHARS_MAX: usize = 200;

/// What a row of one schema version is made of.
#[derive(Clone, Debug)]
pub(crate) struct RowLayout {
    table: Arc<Table>,
    columns: Vec<(Codec, bool)>,
    /// The columns of the key stand together in the row, in the order of the key.
    key_is_slice: bool,
}

/// A column whose value cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadValue {
    pub(crate) place: usize,
    pub(crate) cause: ValueError,
}

/// Makes records out of values, and says which of them did not fit.
#[derive(Debug, Default)]
pub(crate) struct RowWriter {
    context: Context,
    stats: Arc<SourceStats>,
    /// Columns that somebody was told of, by table and place.
    told: HashSet<(u32, usize)>,
    scratch: Vec<u8>,
    /// Where the columns of the key are in it.
    key_span: Range<usize>,
    arena: BytesMut,
}

impl RowLayout {
    /// `codecs` has one for each column of the table.
    pub(crate) fn new(table: Arc<Table>, codecs: Vec<Codec>) -> Self {
        let column = |(place, codec)| (codec, table.is_key(place));
        let columns = codecs.into_iter().enumerate().map(column).collect();
        let key_is_slice = table.key.is_sorted_by(|one, next| one + 1 == *next);
        Self { table, columns, key_is_slice }
    }

    /// How the column at `place` is read.
    pub(crate) fn codec(&self, place: usize) -> Option<&Codec> {
        self.columns.get(place).map(|(codec, _)| codec)
    }

    /// How each column is read.
    pub(crate) fn codecs(&self) -> impl Iterator<Item = &Codec> {
        self.columns.iter().map(|(codec, _)| codec)
    }
}

impl RowWriter {
    pub(crate) fn new(policies: ValuePolicies, stats: Arc<SourceStats>) -> Self {
        Self { context: Context::new(policies), stats, ..Self::default() }
    }

    /// The record of a whole row. A column without a value is null; an unchanged one must have
    /// been filled in before.
    pub(crate) fn row<'a>(
        &mut self,
        layout: &RowLayout,
        mut values: impl Iterator<Item = Value<'a>>,
    ) -> Result<Bytes, BadValue> {
        self.scratch.clear();
        self.key_span = 0..0;
        for (place, (codec, is_key)) in layout.columns.iter().enumerate() {
            let value = values.next().unwrap_or(Value::Null);
            self.context.enter(*is_key);
            let (start, bad) = (self.scratch.len(), |cause| BadValue { place, cause });
            if *is_key {
                write_required(&mut self.context, &mut self.scratch, codec, value).map_err(bad)?;
                if self.key_span.is_empty() {
                    self.key_span.start = start;
                }
                self.key_span.end = self.scratch.len();
                continue;
            }
            write_optional(&mut self.context, &mut self.scratch, codec, value).map_err(bad)?;
            if let Some(changed) = self.context.take_changed() {
                self.tell(&layout.table, place, changed);
            }
        }
        Ok(self.cut())
    }

    /// The records of a whole row and of its key, which most often is a part of it.
    pub(crate) fn row_and_key<'a, V: Iterator<Item = Value<'a>>>(
        &mut self,
        layout: &RowLayout,
        values: impl Fn() -> V,
    ) -> Result<(Bytes, Bytes), BadValue> {
        let row = self.row(layout, values())?;
        let key = if layout.key_is_slice {
            row.slice(self.key_span.clone())
        } else {
            self.key(layout, |place| values().nth(place))?
        };
        Ok((row, key))
    }

    /// The record of a key, from the values of a whole row.
    pub(crate) fn key<'a>(
        &mut self,
        layout: &RowLayout,
        value: impl Fn(usize) -> Option<Value<'a>>,
    ) -> Result<Bytes, BadValue> {
        self.scratch.clear();
        self.context.enter(true);
        for place in &layout.table.key {
            let bad = |cause| BadValue { place: *place, cause };
            let (Some(value), Some(codec)) = (value(*place), layout.codec(*place)) else {
                return Err(bad(ValueError::NullKey));
            };
            write_required(&mut self.context, &mut self.scratch, codec, value).map_err(bad)?;
        }
        Ok(self.cut())
    }

    /// Counts values that were changed, and says so once for each column.
    fn tell(&mut self, table: &Table, place: usize, (misfit, count): (Misfit, usize)) {
        self.stats.misfits(misfit, count);
        if !self.told.insert((table.oid, place)) {
            return;
        }
        let column = table.columns.get(place).map_or("?", |column| &column.name);
        tracing::warn!(
            table = table.full_name(),
            column,
            setting = misfit.name(),
            "the log gets another value or null in place of {misfit}; [source.values] decides"
        );
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
        layout: &RowLayout,
        value: impl Fn(usize) -> Option<Value<'a>>,
    ) -> Error {
        let table = &layout.table;
        let column = table.columns.get(self.place).map_or("?", |column| &column.name);
        let key: Vec<String> = table
            .key
            .iter()
            .map(|place| match value(*place) {
                Some(Value::Text(text)) => shown(&String::from_utf8_lossy(text)),
                Some(Value::Binary(bytes)) => {
                    let text = layout.codec(*place).and_then(|codec| literal(codec, bytes));
                    shown(&text.unwrap_or_else(|| "?".to_owned()))
                }
                Some(Value::Null | Value::Unchanged) | None => "null".to_owned(),
            })
            .collect();
        let action = format!(
            "encode column {column} of {} with key ({})",
            table.full_name(),
            key.join(", ")
        );
        Error::new(ErrorKind::Rejected, action).with_source(self.cause).with_help(
            "change the value in the source, or choose in [source.values] what becomes of it; \
                 in a key nothing is changed",
        )
    }
}

fn shown(text: &str) -> String {
    text.chars().take(SHOWN_KEY_CHARS_MAX).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use anabranch_core::{Column, ColumnType};

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

    fn layout(key: &[usize]) -> RowLayout {
        let decimal = Codec::Decimal { precision: 10, scale: 2 };
        let codecs = vec![Codec::Int32, Codec::Text, decimal, Codec::Text];
        RowLayout::new(Arc::new(orders(key)), codecs)
    }

    fn text(text: &str) -> Value<'_> {
        Value::Text(text.as_bytes())
    }

    #[test]
    fn key_columns_are_plain_and_the_others_nullable() {
        let layout = layout(&[0]);
        let mut writer = RowWriter::default();
        let row = [text("1"), Value::Null, text("1.50"), text("x")];
        let row = writer.row(&layout, row.into_iter()).unwrap();
        assert_eq!(row, [&[2_u8, 0, 2, 4, 0, 150, 2, 2][..], b"x"].concat());
    }

    #[test]
    fn a_key_follows_its_own_order_and_a_row_the_tables() {
        let layout = layout(&[1, 0]);
        let mut writer = RowWriter::default();
        let row = [text("1"), text("eu"), Value::Null, Value::Null];
        let key = writer.key(&layout, |place| row.get(place).copied()).unwrap();
        assert_eq!(&key[..], b"\x04eu\x02");
        assert_eq!(&writer.row(&layout, row.into_iter()).unwrap()[..], b"\x02\x04eu\0\0");
    }

    #[test]
    fn a_key_is_the_same_alone_and_as_a_part_of_its_row() {
        let row = [text("1"), text("eu"), text("1.50"), text("x")];
        let mut writer = RowWriter::default();
        let keys: [&[usize]; 7] = [&[0], &[3], &[0, 1], &[1, 2, 3], &[1, 0], &[0, 2], &[0, 1, 3]];
        for key in keys {
            let layout = layout(key);
            let alone = writer.key(&layout, |place| row.get(place).copied()).unwrap();
            let whole = writer.row(&layout, row.into_iter()).unwrap();
            let both = writer.row_and_key(&layout, || row.into_iter()).unwrap();
            assert_eq!(both, (whole, alone), "{key:?}");
        }
    }

    #[test]
    fn a_value_that_does_not_fit_names_its_row() {
        let row = [text("41"), Value::Null, text("NaN"), Value::Null];
        let reject = crate::value::Policy::Reject;
        let policies = ValuePolicies { numbers: reject, ..ValuePolicies::default() };
        let mut writer = RowWriter::new(policies, Arc::default());
        let bad = writer.row(&layout(&[0]), row.into_iter()).unwrap_err();
        let error = bad.error(&layout(&[0]), |place| row.get(place).copied());
        assert_eq!(error.kind(), ErrorKind::Rejected);
        assert!(error.report().contains("total of shop.orders with key (41)"), "{error:?}");
    }

    #[test]
    fn a_value_that_is_changed_is_counted() {
        let stats = Arc::<SourceStats>::default();
        let mut writer = RowWriter::new(ValuePolicies::default(), Arc::clone(&stats));
        let row = [text("1"), Value::Null, text("NaN"), Value::Null];
        for count in 1..3 {
            let row = writer.row(&layout(&[0]), row.into_iter()).unwrap();
            assert_eq!(&row[..], [2, 0, 0, 0]);
            assert_eq!(stats.changed_values(Misfit::Number), count);
        }
        assert_eq!(stats.changed_values(Misfit::Timestamp), 0);
    }

    #[test]
    fn a_null_key_is_refused() {
        let layout = layout(&[0]);
        let mut writer = RowWriter::default();
        assert!(writer.row(&layout, [Value::Null].into_iter()).is_err());
        assert!(writer.key(&layout, |_| Some(Value::Unchanged)).is_err());
    }
}
