//! A source over a fixed history of transactions, resumed like a replication slot.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use super::{key, table};
use crate::{
    CURSOR_FORMAT, Change, Epoch, Event, LogBatch, Lsn, Op, Phase, Position, Rereads, Result,
    Source, SourceCursor, Split, TRUNCATE_PARTS, Transaction,
};

/// Rows of a transaction that share a part: few, so that small tests have several.
pub const PART_ROWS: usize = 4;

/// A committed transaction.
#[derive(Clone, Debug)]
pub struct MemoryTransaction {
    /// Its commit record; they ascend by at least 40.
    pub commit_lsn: Lsn,
    /// Its changes.
    pub changes: Vec<MemoryChange>,
}

/// A change of [`super::table`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryChange {
    /// The row has this value from now on.
    Put(i64, i64),
    /// The row is gone.
    Delete(i64),
    /// Every row is gone.
    Truncate,
}

/// Serves a history in batches.
#[derive(Debug)]
pub struct MemoryHistory {
    history: Arc<Vec<MemoryTransaction>>,
    batch_max: usize,
    log: Uuid,
    cursor: Option<SourceCursor>,
    confirmed: Lsn,
}

impl MemoryHistory {
    /// Serves `history` in batches of at most `batch_max` events, to a log that will have the id
    /// `log` if it has none yet.
    #[must_use]
    pub fn new(history: Arc<Vec<MemoryTransaction>>, batch_max: usize, log: Uuid) -> Self {
        Self { history, batch_max, log, cursor: None, confirmed: Lsn(0) }
    }

    /// What the log has confirmed.
    #[must_use]
    pub fn confirmed(&self) -> Lsn {
        self.confirmed
    }

    fn begin(&self) -> SourceCursor {
        SourceCursor {
            format: CURSOR_FORMAT,
            log: self.log,
            slot: "memory".to_owned(),
            epoch: Epoch(0),
            system_id: 1,
            timeline: 1,
            phase: Phase::Streaming,
            confirm: Lsn(0),
            seen: Lsn(0),
            split: None,
            rereads: Rereads::default(),
            fork: None,
            membership: None,
        }
    }
}

/// The events of a transaction after `split`, and the part that the next one would be in.
fn events(transaction: &MemoryTransaction, split: Option<&Split>, max: usize) -> (Vec<Event>, u8) {
    let (done, mut part) = split.map_or((0, 0), |split| {
        (
            usize::try_from(split.ordinal).unwrap_or(usize::MAX),
            split.parts.values().copied().next().unwrap_or(0),
        )
    });
    let table = table();
    let info = Transaction { xid: 1, commit_lsn: transaction.commit_lsn, commit_us: 0 };
    let info = Arc::new(info);
    let (mut events, mut rows) = (Vec::new(), 0);
    for (place, change) in transaction.changes.iter().enumerate().skip(done).take(max) {
        let row = |op, id: i64, value: Option<i64>| Change::Row {
            op,
            key: key(id),
            before: None,
            after: value.map(|value| Bytes::copy_from_slice(&value.to_be_bytes())),
            unchanged: Vec::new(),
        };
        let is_truncate = *change == MemoryChange::Truncate;
        if is_truncate && place > 0 {
            part += TRUNCATE_PARTS;
            rows = 0;
        } else if rows == PART_ROWS {
            part += 1;
            rows = 0;
        }
        rows += usize::from(!is_truncate);
        events.push(Event {
            table: Arc::clone(&table),
            position: Position {
                epoch: Epoch(0),
                commit_lsn: transaction.commit_lsn,
                ordinal: u64::try_from(place).unwrap_or(u64::MAX) + 1,
            },
            part,
            transaction: Arc::clone(&info),
            change: match *change {
                MemoryChange::Put(id, value) => row(Op::Update, id, Some(value)),
                MemoryChange::Delete(id) => row(Op::Delete, id, None),
                MemoryChange::Truncate => Change::Truncate,
            },
        });
    }
    (events, part + 1)
}

impl Source for MemoryHistory {
    type Batch = LogBatch;
    type Cursor = SourceCursor;

    async fn seek(&mut self, after: Option<SourceCursor>) -> Result<()> {
        tokio::task::yield_now().await;
        if let Some(after) = &after {
            assert!(after.confirm >= self.confirmed, "only what is in the log was confirmed");
            self.confirmed = after.confirm;
        }
        self.cursor = after;
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<(LogBatch, SourceCursor)>> {
        tokio::task::yield_now().await;
        let mut cursor = self.cursor.clone().unwrap_or_else(|| self.begin());
        let mut batch = LogBatch { tables: vec![table()], ..LogBatch::default() };
        let from = cursor.confirm;
        for transaction in self.history.iter().filter(|t| t.commit_lsn >= from) {
            let room = self.batch_max.saturating_sub(batch.events.len());
            let whole = transaction.changes.len() <= room;
            if !whole && !batch.events.is_empty() {
                break;
            }
            let (events, part) = events(transaction, cursor.split.as_ref(), room);
            let last = events.last().map_or(0, |event| event.position.ordinal);
            batch.events.extend(events);
            if usize::try_from(last).is_ok_and(|last| last < transaction.changes.len()) {
                let parts = BTreeMap::from([(table().oid, part)]);
                let commit_lsn = transaction.commit_lsn;
                cursor.split = Some(Split { commit_lsn, ordinal: last, parts });
                break;
            }
            cursor.split = None;
            cursor.confirm = Lsn(transaction.commit_lsn.0 + 8);
        }
        if batch.events.is_empty() {
            return Ok(None);
        }
        self.cursor = Some(cursor.clone());
        Ok(Some((batch, cursor)))
    }

    async fn confirm(&mut self, upto: SourceCursor) -> Result<()> {
        assert!(self.confirmed <= upto.confirm, "receipts arrive in order");
        self.confirmed = upto.confirm;
        Ok(())
    }
}
