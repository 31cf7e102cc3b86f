//! Turns the messages of transactions into events with positions and parts.
//!
//! ```text
//! Begin, rows, TRUNCATEs, Commit ── Assembler ──▶ Draft (an event, perhaps with values to re-read)
//! ```
//!
//! Pure. The invariants: positions are a function of the source's history alone, so that a replay
//! gives the same; a row is in a higher part than the TRUNCATE, the split or the row of another
//! schema version before it; and of a transaction that was split, what the log has is skipped and
//! the parts go on.

mod parts;

use std::collections::BTreeMap;
use std::sync::Arc;

use anabranch_core::{Change, Epoch, Event, Lsn, Op, Position, Result, Split, Transaction};
use bytes::Bytes;

use crate::catalog::{Catalog, Relation};
use crate::error::{bug, lost};
use crate::loss::Loss;
use crate::pgoutput::{Begin, Commit, Message, OldTuple, Tuple, Value};
use crate::row::{BadValue, RowWriter};
use crate::value::literal;
use parts::Parts;

/// Reads transactions in the order of their commits.
#[derive(Debug)]
pub(crate) struct Assembler {
    /// The epoch of what committed just after `begun`.
    epoch: Epoch,
    begun: Lsn,
    /// Transactions that committed before this are in the log.
    delivered: Lsn,
    /// The transaction that is partly in the log.
    resumed: Option<Split>,
    open: Option<Open>,
    writer: RowWriter,
}

/// The transaction that is being read.
#[derive(Debug)]
struct Open {
    epoch: Epoch,
    transaction: Arc<Transaction>,
    /// The ordinal of the last row or TRUNCATE.
    ordinal: u64,
    /// Events up to this ordinal are in the log.
    skip_to: u64,
    /// All of it is in the log.
    delivered: bool,
    parts: Parts,
}

/// An event, and what is missing in it.
#[derive(Debug)]
pub(crate) struct Draft {
    /// Its `after` is `None` as long as something is missing.
    pub(crate) event: Event,
    pub(crate) missing: Option<Box<Missing>>,
}

/// A new row of which unchanged values were not sent.
#[derive(Debug)]
pub(crate) struct Missing {
    pub(crate) relation: Arc<Relation>,
    /// The texts of the key, as the source has them.
    pub(crate) key: Vec<Bytes>,
    pub(crate) new: Tuple,
    pub(crate) old: Option<OldTuple>,
    /// Places of the columns without a value.
    pub(crate) places: Vec<usize>,
}

/// What a message means to whoever collects drafts.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Go on.
    More,
    /// Everything before `end_lsn` was read.
    Committed { end_lsn: Lsn },
    /// No transaction is open, and everything before `lsn` was read.
    Passed { lsn: Lsn },
}

impl Assembler {
    /// Goes on after `delivered`, within `split` if that is set.
    pub(crate) fn new(epoch: Epoch, delivered: Lsn, split: Option<Split>) -> Self {
        let writer = RowWriter::default();
        Self { epoch, begun: delivered, delivered, resumed: split, open: None, writer }
    }

    /// The same, with the rows written by `writer`.
    pub(crate) fn with_writer(self, writer: RowWriter) -> Self {
        Self { writer, ..self }
    }

    /// Whether a transaction has begun that has not committed yet.
    pub(crate) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// The server says that it has sent everything before `lsn`: the rest of a transaction that is
    /// partly in the log must have been among it.
    pub(crate) fn require_nothing_before(&self, lsn: Lsn) -> Result<()> {
        match &self.resumed {
            Some(split) if split.commit_lsn < lsn => Err(lost(
                format!("go on in the transaction that committed at {}", split.commit_lsn),
                format!("the server has sent everything before {lsn}, and not that"),
            )),
            Some(_) | None => Ok(()),
        }
    }

    /// Takes the next message; adds what it changes to `drafts`.
    pub(crate) fn push(
        &mut self,
        message: Message,
        catalog: &Catalog,
        drafts: &mut Vec<Draft>,
    ) -> Result<Step> {
        match message {
            Message::Begin(begin) => self.begin(begin)?,
            Message::Commit(commit) => return self.commit(commit),
            Message::Insert { relation, new } => {
                self.row(catalog.relation(relation), (Op::Create, None, Some(new)), drafts)?;
            }
            Message::Update { relation, old, new } => {
                self.row(catalog.relation(relation), (Op::Update, old, Some(new)), drafts)?;
            }
            Message::Delete { relation, old } => {
                self.row(catalog.relation(relation), (Op::Delete, Some(old), None), drafts)?;
            }
            Message::Truncate { relations } => self.truncate(&relations, catalog, drafts)?,
            Message::Logical(message) if !message.transactional && self.open.is_none() => {
                self.require_nothing_before(message.lsn)?;
                return Ok(Step::Passed { lsn: message.lsn });
            }
            Message::TwoPhase(step) => {
                return Err(bug("read the stream", format!("{} is prepared in it", step.gid)));
            }
            Message::StreamStart(_)
            | Message::StreamStop
            | Message::StreamCommit(_)
            | Message::StreamAbort(_) => {
                return Err(bug("read the stream", "a block of a transaction in progress"));
            }
            Message::Origin | Message::Relation(_) | Message::Type | Message::Logical(_) => {}
        }
        Ok(Step::More)
    }

    /// Ends a batch within the open transaction: what follows is in higher parts. Returns what
    /// the log has then.
    pub(crate) fn split(&mut self) -> Option<Split> {
        let open = self.open.as_mut()?;
        open.parts.split();
        Some(Split {
            commit_lsn: open.transaction.commit_lsn,
            ordinal: open.ordinal,
            parts: open.parts.next(),
        })
    }

    fn begin(&mut self, begin: Begin) -> Result<()> {
        let lsn = begin.commit_lsn;
        if self.open.is_some() {
            return Err(bug("read the stream", format!("transaction {lsn} begins in another")));
        }
        let epoch = self.epoch.at(self.begun, lsn).ok_or_else(|| {
            let why = "256 epochs have begun in this log, and its versions can tell no more apart";
            lost(format!("number the changes at {lsn}"), why).with_help(Loss::EpochsUsedUp.help())
        })?;
        let resumed = match self.resumed.take() {
            Some(split) if split.commit_lsn == lsn => Some(split),
            Some(split) if split.commit_lsn > lsn && lsn < self.delivered => {
                self.resumed = Some(split);
                None
            }
            Some(split) => {
                return Err(lost(
                    format!("go on in the transaction that committed at {}", split.commit_lsn),
                    format!("the server sent {lsn} in its place"),
                ));
            }
            None => None,
        };
        let (skip_to, parts) =
            resumed.map_or_else(|| (0, BTreeMap::new()), |split| (split.ordinal, split.parts));
        let transaction =
            Transaction { xid: begin.xid, commit_lsn: lsn, commit_us: begin.commit_us };
        self.open = Some(Open {
            epoch,
            transaction: Arc::new(transaction),
            ordinal: 0,
            skip_to,
            delivered: lsn < self.delivered,
            parts: Parts::new(parts),
        });
        Ok(())
    }

    fn commit(&mut self, commit: Commit) -> Result<Step> {
        match self.open.take() {
            Some(open)
                if open.transaction.commit_lsn == commit.commit_lsn
                    && commit.commit_lsn < commit.end_lsn =>
            {
                self.delivered = self.delivered.max(commit.end_lsn);
                Ok(Step::Committed { end_lsn: commit.end_lsn })
            }
            Some(_) | None => {
                Err(bug("read the stream", format!("{} commits out of turn", commit.commit_lsn)))
            }
        }
    }

    /// Counts a message; `None` if the log has it.
    fn count(&mut self) -> Result<Option<&mut Open>> {
        let open = self.open.as_mut();
        let open = open.ok_or_else(|| bug("read the stream", "a change outside a transaction"))?;
        open.ordinal += 1;
        Ok((!open.delivered && open.ordinal > open.skip_to).then_some(open))
    }

    fn truncate(&mut self, oids: &[u32], catalog: &Catalog, drafts: &mut Vec<Draft>) -> Result<()> {
        let Some(open) = self.count()? else { return Ok(()) };
        for relation in oids.iter().filter_map(|oid| catalog.relation(*oid)) {
            let part = open.parts.truncate(relation.table.oid).ok_or_else(|| {
                lost(
                    format!("number a TRUNCATE of {}", relation.table.full_name()),
                    format!("transaction {} has too many parts", open.transaction.xid),
                )
            })?;
            let event = open.event(relation, part, Change::Truncate);
            drafts.push(Draft { event, missing: None });
        }
        Ok(())
    }

    fn row(
        &mut self,
        relation: Option<&Arc<Relation>>,
        (op, old, new): (Op, Option<OldTuple>, Option<Tuple>),
        drafts: &mut Vec<Draft>,
    ) -> Result<()> {
        if self.count()?.is_none() {
            return Ok(());
        }
        // A table that is published but not configured counts, and that is all.
        let (Some(relation), Some(open)) = (relation, self.open.as_mut()) else { return Ok(()) };
        if relation.is_append_only() && op != Op::Create {
            return Ok(());
        }
        let part = open.parts.row(relation.table.oid, relation.table.version);
        let position = open.position();
        let row = RowChange::admitted(relation, (op, old, new), position)?;
        row.changes(&mut self.writer, |change, missing| {
            let event = open.event(relation, part, change);
            drafts.push(Draft { event, missing });
        })
    }
}

impl Open {
    fn position(&self) -> Position {
        let commit_lsn = self.transaction.commit_lsn;
        Position { epoch: self.epoch, commit_lsn, ordinal: self.ordinal }
    }

    fn event(&self, relation: &Relation, part: u8, change: Change) -> Event {
        Event {
            table: Arc::clone(&relation.table),
            position: self.position(),
            part,
            transaction: Arc::clone(&self.transaction),
            change,
        }
    }
}

/// One row message.
struct RowChange<'a> {
    relation: &'a Arc<Relation>,
    op: Op,
    old: Option<OldTuple>,
    new: Option<Tuple>,
    /// Both as they were sent, if they are not what was.
    sent: Option<(Option<OldTuple>, Option<Tuple>)>,
}

impl<'a> RowChange<'a> {
    /// With what may be seen of the tuples.
    fn admitted(
        relation: &'a Arc<Relation>,
        (op, old, new): (Op, Option<OldTuple>, Option<Tuple>),
        position: Position,
    ) -> Result<Self> {
        let action = || format!("read a row of {}", relation.table.full_name());
        let width = |tuple: &Tuple| {
            bug(action(), format!("{} values are not those of its columns", tuple.len()))
        };
        let Some(intake) = &relation.intake else {
            let columns = relation.table.columns.len();
            let mut tuples = old.iter().map(OldTuple::tuple).chain(&new);
            return match tuples.find(|tuple| tuple.len() != columns) {
                Some(tuple) => Err(width(tuple)),
                None => Ok(Self { relation, op, old, new, sent: None }),
            };
        };
        let admit = |tuple: &Tuple| intake.admit(tuple, position).ok_or_else(|| width(tuple));
        let admit_old = |old: &OldTuple| match old {
            OldTuple::Key(tuple) => admit(tuple).map(OldTuple::Key),
            OldTuple::Full(tuple) => admit(tuple).map(OldTuple::Full),
        };
        let admitted_old = old.as_ref().map(admit_old).transpose()?;
        let admitted_new = new.as_ref().map(admit).transpose()?;
        Ok(Self { relation, op, old: admitted_old, new: admitted_new, sent: Some((old, new)) })
    }

    /// One change; two if the key changed: the old key goes, then the new one comes.
    fn changes(
        self,
        writer: &mut RowWriter,
        mut push: impl FnMut(Change, Option<Box<Missing>>),
    ) -> Result<()> {
        let (before, old_key) =
            self.old.as_ref().map(|old| self.records(writer, old)).transpose()?.unzip();
        let Self { relation, op, old, new, sent } = self;
        let Some(new) = new else {
            let key = old_key.ok_or_else(|| bug("read the stream", "a delete without a key"))?;
            push(row_change(Op::Delete, key, before, None), None);
            return Ok(());
        };
        let merged = Merged { new: &new, old: old.as_ref(), relation };
        let value = |place: usize| merged.value(place);
        let bad = |bad: BadValue| bad.error(&relation.layout, value);
        let places = merged.unchanged();
        let (key, after) = if places.is_empty() {
            let both = writer.row_and_key(&relation.layout, || merged.values());
            let (row, key) = both.map_err(bad)?;
            (key, Some(row))
        } else {
            (writer.key(&relation.layout, value).map_err(bad)?, None)
        };
        let full = matches!(old, Some(OldTuple::Full(_)));
        let missing = (!places.is_empty()).then(|| {
            let key = match &sent {
                Some((sent_old, Some(sent_new))) => key_texts(relation, sent_old, sent_new),
                Some((_, None)) | None => key_texts(relation, &old, &new),
            };
            Box::new(Missing { relation: Arc::clone(relation), key, new, old, places })
        });
        match old_key.filter(|old_key| *old_key != key) {
            Some(old_key) => {
                push(row_change(Op::Delete, old_key, before, None), None);
                push(row_change(Op::Create, key, None, after), missing);
            }
            None => push(row_change(op, key, before.filter(|_| full), after), missing),
        }
        Ok(())
    }

    /// The records of the row as it was, and of its key.
    fn records(&self, writer: &mut RowWriter, old: &OldTuple) -> Result<(Bytes, Bytes)> {
        let both = writer.row_and_key(&self.relation.layout, || old.tuple().values());
        both.map_err(|bad| bad.error(&self.relation.layout, |place| old.tuple().value(place)))
    }
}

fn row_change(op: Op, key: Bytes, before: Option<Bytes>, after: Option<Bytes>) -> Change {
    Change::Row { op, key, before, after, unchanged: Vec::new() }
}

/// The texts of the key in a row as it was sent, for a look at it in the source.
fn key_texts(relation: &Relation, old: &Option<OldTuple>, new: &Tuple) -> Vec<Bytes> {
    let text = |column: &usize| {
        let column = *column;
        let place = relation.intake.as_ref().map_or(Some(column), |i| i.sent_place(column))?;
        let new = new.value(place)?;
        let old = || old.as_ref()?.tuple().value(place);
        match if new == Value::Unchanged { old()? } else { new } {
            Value::Text(text) => Some(Bytes::copy_from_slice(text)),
            Value::Binary(bytes) => literal(relation.layout.codec(column)?, bytes).map(Bytes::from),
            Value::Null | Value::Unchanged => None,
        }
    };
    relation.table.key.iter().map(|place| text(place).unwrap_or_default()).collect()
}

/// A new row whose unchanged values come from the old one where that has them.
pub(crate) struct Merged<'a> {
    pub(crate) new: &'a Tuple,
    pub(crate) old: Option<&'a OldTuple>,
    pub(crate) relation: &'a Relation,
}

impl<'a> Merged<'a> {
    pub(crate) fn value(&self, place: usize) -> Option<Value<'a>> {
        self.new.value(place).map(|value| self.fill(place, value))
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = Value<'a>> {
        self.new.values().enumerate().map(|(place, value)| self.fill(place, value))
    }

    /// Places of the columns that neither has.
    fn unchanged(&self) -> Vec<usize> {
        if !self.new.has_unchanged() {
            return Vec::new();
        }
        let unchanged = |(place, value)| (value == Value::Unchanged).then_some(place);
        self.values().enumerate().filter_map(unchanged).collect()
    }

    fn fill(&self, place: usize, value: Value<'a>) -> Value<'a> {
        if value != Value::Unchanged {
            return value;
        }
        let old = match self.old {
            Some(OldTuple::Full(old)) => old.value(place),
            Some(OldTuple::Key(old)) if self.relation.table.is_key(place) => old.value(place),
            Some(OldTuple::Key(_)) | None => None,
        };
        old.unwrap_or(Value::Unchanged)
    }
}

#[cfg(test)]
mod tests;
