//! Rows that are read from tables, on their way into batches of the log.
//!
//! ```text
//! line of COPY ── Copying::row ──▶ op r ─┐
//! key not found ─ Copying::gone ─▶ op d ─┼─▶ Copying::take ──▶ LogBatch
//! table ───────── Copying::clear ▶ op t ─┘
//! ```
//!
//! All of them stand at one commit LSN, below every transaction that follows, and count from 1.

use std::borrow::Cow;
use std::sync::Arc;

use anabranch_core::{Change, Event, LogBatch, Op, Position, Result, Table, Transaction};
use bytes::Bytes;

use crate::catalog::Relation;
use crate::copy_text;
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
    transaction: Arc<Transaction>,
    writer: RowWriter,
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
            writer: RowWriter::default(),
            batch: LogBatch { tables, ..LogBatch::default() },
            bytes: 0,
        }
    }

    /// The same, with the rows written by `writer`.
    pub(crate) fn with_writer(self, writer: RowWriter) -> Self {
        Self { writer, ..self }
    }

    /// Every row that the log has of `table` is void.
    pub(crate) fn clear(&mut self, table: Arc<Table>) {
        self.push(table, Change::Truncate);
    }

    /// Takes a line of COPY; returns the key of the row.
    pub(crate) fn row(&mut self, relation: &Arc<Relation>, line: &Bytes) -> Result<Bytes> {
        self.position.ordinal += 1;
        let own_key = relation.is_append_only().then(|| append_key(self.position));
        let own_key = own_key.map(|key| Some(Cow::Owned(key.into_bytes())));
        let texts: Vec<Option<Cow<'_, [u8]>>> = own_key
            .into_iter()
            .chain(copy_text::values(line))
            .enumerate()
            .map(|(place, text)| text.map(|text| mask(relation, place, text)))
            .collect();
        if texts.len() != relation.table.columns.len() {
            return Err(bug("read a copied row", "it has another number of columns"));
        }
        let values: Vec<Value<'_>> =
            texts.iter().map(|text| text.as_deref().map_or(Value::Null, Value::Text)).collect();
        let value = |place: usize| values.get(place).copied();
        let table = &relation.table;
        let both = self.writer.row_and_key(&relation.layout, || values.iter().copied());
        let (row, key) = both.map_err(|bad| bad.error(&relation.layout, value))?;
        let (after, unchanged) = (Some(row), Vec::new());
        let change = Change::Row { op: Op::Read, key: key.clone(), before: None, after, unchanged };
        self.push(Arc::clone(table), change);
        Ok(key)
    }

    /// A row that was looked for is not there.
    pub(crate) fn gone(&mut self, table: &Arc<Table>, key: Bytes) {
        self.position.ordinal += 1;
        let (op, unchanged) = (Op::Delete, Vec::new());
        self.push(Arc::clone(table), Change::Row { op, key, before: None, after: None, unchanged });
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

fn mask<'a>(relation: &Relation, place: usize, text: Cow<'a, [u8]>) -> Cow<'a, [u8]> {
    match text {
        Cow::Borrowed(text) => relation.mask(place, text),
        Cow::Owned(text) => Cow::Owned(relation.mask(place, &text).into_owned()),
    }
}
