//! Records of one table's topic, decoded once into the rows of a store batch.
//!
//! ```text
//! key, value ──▶ Decoder::push ──▶ columns ──▶ Decoder::finish ──▶ RecordBatch, RowMeta
//!      value ──▶ Decoder::peek ──▶ Header: where the record stands, without its rows
//! ```
//!
//! A record is appended whole or not at all: whatever is wrong with it, the rows before it stay as
//! they are. No bytes make this panic.

mod column;
mod input;
mod skip;
mod tail;

use std::mem;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::SchemaRef;
use bytes::Bytes;

use self::column::Column;
use self::input::Input;
use self::skip::Skip;
use self::tail::Tail;
use super::Malformed;
use crate::{Error, ErrorKind, Position, Result, RowMeta, RowOp, Table, Version};

/// Decodes the records of one table in one version of its schema.
#[derive(Debug)]
pub struct Decoder {
    table: Arc<Table>,
    schema: SchemaRef,
    /// How to pass over a row image and over a key.
    row: Vec<Skip>,
    key: Vec<Skip>,
    columns: Vec<Column>,
    /// What a row takes in memory, without what varies.
    row_bytes: usize,
    bytes: usize,
    rows: Vec<Row>,
    /// The keys of `rows`, one after another.
    keys: Vec<u8>,
}

#[derive(Debug)]
struct Row {
    op: RowOp,
    partition: i32,
    version: Version,
    key_end: usize,
}

/// Where a record stands and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Where the change stands in the source's history.
    pub position: Position,
    /// The part of its transaction it is in.
    pub part: u8,
    /// What stores compare.
    pub version: Version,
    /// When the source committed it, microseconds since 1970 UTC.
    pub commit_us: i64,
    /// Whether a snapshot read it. Rows of one snapshot share a version, and each of their keys
    /// is there once.
    pub snapshot: bool,
    /// What it says.
    pub kind: Kind,
}

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The row is as `after` says.
    Upsert,
    /// The row of this key is gone.
    Delete,
    /// A row that is not whole (`unchanged`): no store takes it.
    Marked,
    /// Every row of the partition with a version below this record's is gone.
    Truncate,
    /// The same, where a snapshot of the table has ended: it stands where that began, below records
    /// that come before it.
    Sweep,
}

impl Decoder {
    /// Compiles the layout of `table`.
    #[must_use]
    pub fn new(table: Arc<Table>) -> Self {
        let nullable = |place: usize| !table.is_key(place);
        let kinds = || table.columns.iter().map(|column| &column.kind).enumerate();
        let row = kinds().map(|(place, kind)| Skip::compile(kind, nullable(place))).collect();
        let columns = kinds().map(|(place, kind)| Column::new(kind, nullable(place))).collect();
        let key = table.key_columns().map(|column| Skip::compile(&column.kind, false)).collect();
        let row_bytes = mem::size_of::<RowMeta>()
            + table.columns.iter().map(|column| column::cell_bytes(&column.kind)).sum::<usize>();
        let schema = table.arrow();
        let (rows, keys) = (Vec::new(), Vec::new());
        Self { table, schema, row, key, columns, row_bytes, bytes: 0, rows, keys }
    }

    /// The table, in the version this decodes.
    #[must_use]
    pub fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// Rows buffered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether no row is buffered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Roughly the bytes that the buffered rows take in memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Appends the row of a record, if it is a [`Kind::Upsert`] or a [`Kind::Delete`]. A delete
    /// has the columns of the key alone. `key` and `value` are payloads, without header.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Rejected`] if the bytes are not such a record; nothing is appended then.
    pub fn push(&mut self, key: &[u8], value: &[u8], partition: i32) -> Result<Header> {
        match self.append(key, value) {
            Ok((header, Some(op))) => {
                self.keys.extend_from_slice(key);
                let (version, key_end) = (header.version, self.keys.len());
                self.rows.push(Row { op, partition, version, key_end });
                self.bytes += self.row_bytes + key.len() + value.len();
                Ok(header)
            }
            Ok((header, None)) => {
                self.roll_back();
                Ok(header)
            }
            Err(malformed) => {
                self.roll_back();
                Err(self.rejected(malformed))
            }
        }
    }

    /// Reads where a record stands and what it is, passing over its rows.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Rejected`] if the bytes are not such a record, as far as they are looked at.
    pub fn peek(&self, value: &[u8]) -> Result<Header> {
        self.read_header(value).map_err(|malformed| self.rejected(malformed))
    }

    /// Takes the buffered rows, in the order in which they were pushed.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Bug`] if they do not make a batch of the table; they are gone then.
    pub fn finish(&mut self) -> Result<(RecordBatch, Vec<RowMeta>)> {
        let arrays: std::result::Result<Vec<ArrayRef>, _> =
            self.columns.iter_mut().map(Column::finish).collect();
        let rows = mem::take(&mut self.rows);
        let keys = Bytes::from(mem::take(&mut self.keys));
        self.bytes = 0;
        let batch = arrays
            .and_then(|arrays| RecordBatch::try_new(Arc::clone(&self.schema), arrays))
            .map_err(|error| {
                let action = format!("build a batch of {}", self.table.full_name());
                Error::new(ErrorKind::Bug, action).with_source(error)
            })?;
        let mut key_start = 0;
        let meta = rows.into_iter().map(|Row { op, partition, version, key_end }| {
            let key = keys.slice(key_start..key_end);
            key_start = key_end;
            RowMeta { op, partition, version, key }
        });
        Ok((batch, meta.collect()))
    }

    /// Decodes into the columns, which hold one row more than `rows` after an upsert or a delete.
    fn append(
        &mut self,
        key: &[u8],
        value: &[u8],
    ) -> std::result::Result<(Header, Option<RowOp>), Malformed> {
        let mut input = Input::new(value);
        skip_image(&self.row, &mut input)?;
        let has_after = input.branch()?;
        if has_after {
            for column in &mut self.columns {
                column.read(&mut input)?;
            }
        }
        let header = Tail::read(&mut input)?.header(has_after)?;
        match header.kind {
            Kind::Upsert => {
                self.check_key(key)?;
                Ok((header, Some(RowOp::Upsert)))
            }
            Kind::Delete => {
                self.append_key(key)?;
                Ok((header, Some(RowOp::Delete)))
            }
            Kind::Marked | Kind::Truncate | Kind::Sweep => Ok((header, None)),
        }
    }

    fn check_key(&self, key: &[u8]) -> std::result::Result<(), Malformed> {
        let mut input = Input::new(key);
        for column in &self.key {
            column.skip(&mut input)?;
        }
        input.end()
    }

    fn append_key(&mut self, key: &[u8]) -> std::result::Result<(), Malformed> {
        let mut input = Input::new(key);
        for place in &self.table.key {
            if let Some(column) = self.columns.get_mut(*place) {
                column.read(&mut input)?;
            }
        }
        input.end()?;
        let filled = self.rows.len() + 1;
        for column in &mut self.columns {
            if column.len() < filled {
                column.push_null();
            }
        }
        Ok(())
    }

    fn read_header(&self, value: &[u8]) -> std::result::Result<Header, Malformed> {
        let mut input = Input::new(value);
        skip_image(&self.row, &mut input)?;
        let has_after = skip_image(&self.row, &mut input)?;
        Tail::read(&mut input)?.header(has_after)
    }

    fn roll_back(&mut self) {
        for column in &mut self.columns {
            column.truncate(self.rows.len());
        }
    }

    fn rejected(&self, malformed: Malformed) -> Error {
        let version = self.table.version;
        let name = self.table.full_name();
        Error::new(ErrorKind::Rejected, format!("decode a record of {name}, schema {version}"))
            .with_source(malformed)
            .with_help("look at what else writes to this topic")
    }
}

/// Passes over `before` or `after`, and says whether it was there.
fn skip_image(row: &[Skip], input: &mut Input<'_>) -> std::result::Result<bool, Malformed> {
    let is_there = input.branch()?;
    if is_there {
        for column in row {
            column.skip(input)?;
        }
    }
    Ok(is_there)
}
