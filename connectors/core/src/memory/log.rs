//! The log: partitions of records, a position record, and group offsets.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use uuid::Uuid;

use super::{Fault, Faults, lock, transient};
use crate::resume::Committed;
use crate::{Change, LogBatch, Lsn, Position, Result, Sink, SourceCursor, Version};

/// A log in memory; clones share it.
#[derive(Clone, Debug)]
pub struct MemoryLog(Arc<Mutex<State>>);

#[derive(Debug)]
pub(super) struct State {
    pub(super) cursor: Option<SourceCursor>,
    pub(super) partitions: Vec<Vec<LogRecord>>,
    pub(super) committed: Vec<Option<Committed>>,
    /// The producer that may write; an older one is fenced.
    producer: u64,
    /// A transaction whose commit was asked for and not answered.
    pending: Option<(LogBatch, SourceCursor)>,
}

/// A record of a partition. Its offset is its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRecord {
    /// Where the change stands.
    pub position: Position,
    /// What stores compare.
    pub version: Version,
    /// The key and the value (`None` deletes); `None` for a truncate.
    pub row: Option<(i64, Option<i64>)>,
}

impl MemoryLog {
    /// An empty log.
    #[must_use]
    pub fn new(partitions: usize) -> Self {
        Self(Arc::new(Mutex::new(State {
            cursor: None,
            partitions: vec![Vec::new(); partitions],
            committed: vec![None; partitions],
            producer: 0,
            pending: None,
        })))
    }

    /// The id in its position record.
    #[must_use]
    pub fn id(&self) -> Option<Uuid> {
        lock(&self.0).cursor.as_ref().map(|cursor| cursor.log)
    }

    /// The LSN that its position record lets the source forget; 0 without one.
    #[must_use]
    pub fn confirm(&self) -> Lsn {
        lock(&self.0).cursor.as_ref().map_or(Lsn(0), |cursor| cursor.confirm)
    }

    /// The records of each partition.
    #[must_use]
    pub fn records(&self) -> Vec<Vec<LogRecord>> {
        lock(&self.0).partitions.clone()
    }

    /// Sets a group offset as a standard tool does: without our mark.
    pub fn reset(&self, partition: usize, offset: i64) {
        if let Some(committed) = lock(&self.0).committed.get_mut(partition) {
            *committed = Some(Committed { offset, mark: None });
        }
    }

    /// Whether a reset has not been taken over by the store yet.
    #[must_use]
    pub fn has_unmarked(&self) -> bool {
        lock(&self.0).committed.iter().flatten().any(|committed| committed.mark.is_none())
    }

    pub(super) fn state(&self) -> std::sync::MutexGuard<'_, State> {
        lock(&self.0)
    }
}

impl State {
    fn append(&mut self, batch: &LogBatch, upto: &SourceCursor) {
        let count = self.partitions.len();
        for event in &batch.events {
            let (position, version) = (event.position, event.version());
            match &event.change {
                Change::Row { key, after, .. } => {
                    let id = number(key);
                    let row = Some((id, after.as_ref().map(number)));
                    let place = partition(id, count);
                    if let Some(records) = self.partitions.get_mut(place) {
                        records.push(LogRecord { position, version, row });
                    }
                }
                Change::Truncate | Change::Sweep => {
                    for records in &mut self.partitions {
                        records.push(LogRecord { position, version, row: None });
                    }
                }
            }
        }
        self.cursor = Some(upto.clone());
    }
}

fn number(bytes: &Bytes) -> i64 {
    i64::from_be_bytes(bytes.as_ref().try_into().unwrap_or_default())
}

/// The partition of a key.
pub(super) fn partition(id: i64, count: usize) -> usize {
    usize::try_from(id.unsigned_abs()).unwrap_or(0) % count.max(1)
}

/// Writes to a [`MemoryLog`] in transactions, as one of several producers of which the newest
/// fences the others.
#[derive(Debug)]
pub struct MemoryLogSink {
    log: MemoryLog,
    faults: Faults,
    producer: u64,
}

impl MemoryLogSink {
    /// A producer that has not been initialised: [`Sink::cursor`] does it.
    #[must_use]
    pub fn new(log: MemoryLog, faults: Faults) -> Self {
        Self { log, faults, producer: 0 }
    }
}

impl Sink<LogBatch, SourceCursor> for MemoryLogSink {
    async fn cursor(&mut self) -> Result<Option<SourceCursor>> {
        tokio::task::yield_now().await;
        let landed = self.faults.below(2) == 0;
        let mut state = self.log.state();
        state.producer += 1;
        self.producer = state.producer;
        if let Some((batch, upto)) = state.pending.take()
            && landed
        {
            state.append(&batch, &upto);
        }
        Ok(state.cursor.clone())
    }

    async fn apply(&mut self, batch: &LogBatch, upto: &SourceCursor) -> Result<()> {
        tokio::task::yield_now().await;
        let fault = self.faults.draw();
        let mut state = self.log.state();
        if state.producer != self.producer || state.pending.is_some() {
            return Err(transient("write to the log: fenced"));
        }
        match fault {
            Fault::None | Fault::LostAnswer => state.append(batch, upto),
            Fault::Late => state.pending = Some((batch.clone(), upto.clone())),
            Fault::Before => {}
        }
        if fault == Fault::None { Ok(()) } else { Err(transient("commit to the log")) }
    }
}
