//! Rows that are read from tables, on their way into batches of the log.
//!
//! ```text
//! row of COPY ─── Copying::row ──▶ op r ─┐
//! key not found ─ Copying::gone ─▶ op d ─┼─▶ Copying::take ──▶ LogBatch
//! table ───────── Copying::clear ▶ op t ─┘
//! ```
//!
//! All of them stand at one commit LSN, below every transaction that follows, and no two rows have one
//! ordinal.

use std::sync::Arc;

use anabranch_core::{Change, Event, LogBatch, Op, Position, Result, Table, Transaction};
use bytes::Bytes;

use crate::catalog::Relation;
use crate::copy_row::{CopyFormat, CopyRow};
use crate::error::bug;
use crate::intake::append_key;
use crate::pgoutput::Value;
use crate::row::RowWriter;

/// What is read, and not handed over yet.
pub(crate) struct Copying {
    /// Of the last row.
    pub(crate) position: Position,
    /// Of the rows that follow.
    pub(crate) part: u8,
    /// From one row to the next.
    stride: u64,
    transaction: Arc<Transaction>,
    writer: RowWriter,
    row: CopyRow,
    batch: LogBatch,
    bytes: usize,
}

impl Copying {
    /// Begins after `position`; the first batch announces `tables`. The snapshot that is read began
    /// at `began_us`.
    pub(crate) fn new(position: Position, began_us: i64, tables: Vec<Arc<Table>>) -> Self {
        let commit_lsn = position.commit_lsn;
        Self {
            position,
            part: 0,
            transaction: Arc::new(Transaction { xid: 0, commit_lsn, commit_us: began_us }),
            stride: 1,
            writer: RowWriter::default(),
            row: CopyRow::default(),
            batch: LogBatch { tables, ..LogBatch::default() },
            bytes: 0,
        }
    }

    /// The same, with the rows written by `writer`.
    pub(crate) fn with_writer(self, writer: RowWriter) -> Self {
        Self { writer, ..self }
    }

    /// The same, as one of `count` that copy at once: each numbers its rows as no other does.
    pub(crate) fn one_of(mut self, (place, count): (u64, u64)) -> Self {
        self.position.ordinal += place;
        Self { stride: count, ..self }
    }

    /// Every row that the log has of `table` is void.
    pub(crate) fn clear(&mut self, table: Arc<Table>) {
        self.push(table, Change::Truncate);
    }

    /// Takes a message of COPY; returns the key of the row, or `None` if there is none in it.
    pub(crate) fn row(
        &mut self,
        relation: &Arc<Relation>,
        format: CopyFormat,
        message: &[u8],
    ) -> Result<Option<&Bytes>> {
        let action = || format!("read a copied row of {}", relation.table.full_name());
        self.row.clear(format);
        let own_key = usize::from(relation.is_append_only());
        let next = Position { ordinal: self.position.ordinal + self.stride, ..self.position };
        if own_key > 0 {
            self.row.push_text(append_key(next).as_bytes());
        }
        let is_row = self.row.read(message, |place, text| relation.mask(place + own_key, text));
        match is_row {
            Ok(true) if self.row.len() == relation.table.columns.len() => {}
            Ok(true) => return Err(bug(action(), "it has another number of columns")),
            Ok(false) => return Ok(None),
            Err(bad) => return Err(bug(action(), bad.to_string())),
        }
        self.position = next;
        let value = |place: usize| self.row.values(message).nth(place);
        let both = self.writer.row_and_key(&relation.layout, || self.row.values(message));
        let (row, key) = both.map_err(|bad| bad.error(&relation.layout, value))?;
        let (after, unchanged) = (Some(row), Vec::new());
        let change = Change::Row { op: Op::Read, key, before: None, after, unchanged };
        self.push(Arc::clone(&relation.table), change);
        Ok(self.batch.events.last().and_then(|event| match &event.change {
            Change::Row { key, .. } => Some(key),
            Change::Truncate | Change::Sweep => None,
        }))
    }

    /// A row that was looked for is not there.
    pub(crate) fn gone(&mut self, table: &Arc<Table>, key: Bytes) {
        self.position.ordinal += self.stride;
        let (op, unchanged) = (Op::Delete, Vec::new());
        self.push(Arc::clone(table), Change::Row { op, key, before: None, after: None, unchanged });
    }

    /// The record of the key among `values`, which are texts in the order of the columns.
    pub(crate) fn key(&mut self, relation: &Relation, values: &[Option<Bytes>]) -> Result<Bytes> {
        let value = |place: usize| {
            let text = values.get(place)?;
            Some(text.as_ref().map_or(Value::Null, |text| Value::Text(text)))
        };
        let key = self.writer.key(&relation.layout, value);
        key.map_err(|bad| bad.error(&relation.layout, value))
    }

    /// What wrote the rows.
    pub(crate) fn into_writer(self) -> RowWriter {
        self.writer
    }

    /// Bytes that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes what waits.
    pub(crate) fn take(&mut self) -> LogBatch {
        self.bytes = 0;
        std::mem::take(&mut self.batch)
    }

    fn push(&mut self, table: Arc<Table>, change: Change) {
        let transaction = Arc::clone(&self.transaction);
        let event = Event { table, position: self.position, part: self.part, transaction, change };
        self.bytes += event.size();
        self.batch.events.push(event);
    }
}
