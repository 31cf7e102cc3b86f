//! A [`MemoryLog`] as the source of one store.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::{LogRecord, MemoryLog, batch, key};
use crate::resume::{Committed, Mark, Partition, Resume, resume};
use crate::{
    Batch, CURSOR_FORMAT, DeleteBelow, Error, ErrorKind, LastRecord, Result, RowMeta, RowOp,
    Source, StoreCursor, UnitCursor,
};

/// Reads every partition of a log, whole groups at a time.
#[derive(Debug)]
pub struct MemoryTopic {
    log: MemoryLog,
    batch_max: usize,
    units: StoreCursor,
    reset_to: BTreeMap<i32, i64>,
    /// Resets that the target has not been told of yet.
    announce: bool,
}

impl MemoryTopic {
    /// Batches end at the first group border at or after `batch_max` rows.
    #[must_use]
    pub fn new(log: MemoryLog, batch_max: usize) -> Self {
        let (units, reset_to) = (BTreeMap::new(), BTreeMap::new());
        Self { log, batch_max, units, reset_to, announce: false }
    }

    fn start(&mut self, unit: i32, id: Uuid, held: Option<&UnitCursor>) -> Result<UnitCursor> {
        let state = self.log.state();
        let place = usize::try_from(unit).unwrap_or(0);
        let records: &[LogRecord] = state.partitions.get(place).map_or(&[], Vec::as_slice);
        let committed = state.committed.get(place).copied().flatten();
        let end = i64::try_from(records.len()).unwrap_or(i64::MAX);
        let facts = Partition { name: "memory", log: id, generation: 1, start: 0, end };
        let marked = committed.and_then(|committed| committed.mark);
        self.reset_to.insert(unit, marked.map_or(0, |mark| mark.reset_to));
        let begin = |next, resets, last| UnitCursor {
            format: CURSOR_FORMAT,
            log: id,
            generation: 1,
            resets,
            next,
            last,
        };
        match resume(held, committed, &facts)? {
            Resume::At { next, check } => {
                if let Some(last) = check {
                    let there = usize::try_from(last.offset).ok().and_then(|at| records.get(at));
                    if there.is_none_or(|record| record.version != last.version) {
                        return Err(Error::new(ErrorKind::Lost, "recognise the last record"));
                    }
                }
                let (resets, last) = held.map_or((0, None), |held| (held.resets, held.last));
                Ok(begin(next, resets, last))
            }
            Resume::Reset { next, resets } => {
                self.announce = true;
                self.reset_to.insert(unit, next);
                Ok(begin(next, resets, None))
            }
        }
    }
}

/// The group at `from`: the rows of one commit and part, or a truncate, which comes before them.
fn group(records: &[LogRecord], from: usize) -> &[LogRecord] {
    let rest = records.get(from..).unwrap_or_default();
    let kind = |record: &LogRecord| (record.version, record.row.is_some());
    let same = |record: &&LogRecord| rest.first().is_some_and(|first| kind(first) == kind(record));
    let len = rest.iter().take_while(same).count();
    rest.get(..len).unwrap_or_default()
}

impl Source for MemoryTopic {
    type Batch = Batch;
    type Cursor = StoreCursor;

    async fn seek(&mut self, after: Option<StoreCursor>) -> Result<()> {
        tokio::task::yield_now().await;
        let Some(id) = self.log.id() else {
            return Err(Error::new(ErrorKind::Transient, "read a log without a position record"));
        };
        self.announce = false;
        let held = after.unwrap_or_default();
        let count = i32::try_from(self.log.records().len()).unwrap_or(i32::MAX);
        let units: Result<_> =
            (0..count).map(|unit| Ok((unit, self.start(unit, id, held.get(&unit))?))).collect();
        self.units = units?;
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<(Batch, StoreCursor)>> {
        tokio::task::yield_now().await;
        if std::mem::take(&mut self.announce) {
            return Ok(Some((batch(&[], Vec::new(), Vec::new()), self.units.clone())));
        }
        let (mut rows, mut meta, mut below) = (Vec::new(), Vec::new(), Vec::new());
        let state = self.log.state();
        for (unit, cursor) in &mut self.units {
            let records = state.partitions.get(usize::try_from(*unit).unwrap_or(0));
            let records = records.map_or(&[][..], Vec::as_slice);
            while rows.len() < self.batch_max {
                let group = group(records, usize::try_from(cursor.next).unwrap_or(0));
                let Some(last) = group.last() else { break };
                let (version, partition) = (last.version, *unit);
                for (id, value) in group.iter().filter_map(|record| record.row) {
                    let op = if value.is_some() { RowOp::Upsert } else { RowOp::Delete };
                    rows.push((id, value));
                    meta.push(RowMeta { op, partition, version, key: key(id) });
                }
                cursor.next += i64::try_from(group.len()).unwrap_or(0);
                cursor.last = Some(LastRecord { offset: cursor.next - 1, version });
                if last.row.is_none() {
                    below.push(DeleteBelow { partition, version });
                    break;
                }
            }
        }
        drop(state);
        if rows.is_empty() && below.is_empty() {
            return Ok(None);
        }
        Ok(Some((batch(&rows, meta, below), self.units.clone())))
    }

    async fn confirm(&mut self, upto: StoreCursor) -> Result<()> {
        let mut state = self.log.state();
        for (unit, cursor) in &upto {
            let reset_to = self.reset_to.get(unit).copied().unwrap_or(0);
            let (log, generation, resets) = (cursor.log, cursor.generation, cursor.resets);
            let mark = Some(Mark { log, generation, resets, reset_to });
            let place = usize::try_from(*unit).unwrap_or(0);
            if let Some(committed) = state.committed.get_mut(place) {
                *committed = Some(Committed { offset: cursor.next, mark });
            }
        }
        Ok(())
    }
}
