//! What of a chunk goes to the log, once its high edge has come.

use std::collections::HashSet;
use std::sync::Arc;

use anabranch_core::{
    Change, Event, Lsn, Position, Result, SnapshotStart, SnapshotState, Table, Transaction,
};
use bytes::Bytes;
use tokio::time::Instant;

use super::{Chunk, Incremental, Job, SnapshotScope, Step, Trouble, Window};
use crate::batch::BatchBuilder;
use crate::catalog::{Catalog, Relation};
use crate::copy_row::CopyFormat;
use crate::copying::Copying;
use crate::error::lost;
use crate::loss::Loss;
use crate::row::RowWriter;
use crate::transaction::Draft;

impl Incremental {
    /// The high edge of the chunk of `job` came; `lsn` is where it ends.
    pub(super) fn high_edge(
        &mut self,
        place: usize,
        lsn: Lsn,
        (catalog, builder): (&mut Catalog, &mut BatchBuilder),
    ) {
        let Some(job) = self.jobs.get_mut(place) else { return };
        let (Some(chunk), Some(window)) = (job.chunk.take(), job.window.take()) else {
            job.step = Step::Next(Instant::now());
            return;
        };
        self.recent.begin(chunk.next_xid);
        let is_seen = self.recent.are_seen(&chunk.snapshot, window.delivered);
        if window.altered || !is_seen {
            // What was read for nothing counts, too.
            let now = Instant::now();
            let pause = job.pause().max(self.pace.take(chunk.rows.len(), now));
            job.step = Step::Next(now + pause);
            return;
        }
        job.waits = None;
        let rows = job.rows_of(&chunk, &window, (lsn, &mut self.writer), (catalog, builder));
        let table = match rows {
            Ok((table, drafts)) => {
                builder.drafts.extend(drafts);
                table
            }
            Err(error) => {
                job.trouble = Some(Trouble::Failed(error.report()));
                self.is_due = true;
                return;
            }
        };
        let count = chunk.rows.len().max(chunk.taken);
        job.resize(chunk.rows.len(), chunk.bytes);
        let began_us = chunk.began_us;
        if !chunk.is_first && chunk.end.is_some() && chunk.end == job.record.after {
            let why = "its chunks do not advance: is the condition one expression?";
            job.trouble = Some(Trouble::Failed(why.to_owned()));
            self.is_due = true;
            return;
        }
        let is_done = job.advance(*chunk, window.start);
        if let (true, SnapshotScope::Table, Some(since)) =
            (is_done, &job.request.scope, job.record.since)
        {
            builder.drafts.push(sweep(table, since, began_us));
        }
        job.step = Step::HandOver(count);
        let mut record = job.record.clone();
        let is_repair = job.repairs.is_some();
        if is_done {
            record.state = SnapshotState::Done;
            tracing::info!(table = record.table, rows = record.rows, "its snapshot is complete");
            let mut job = self.jobs.swap_remove(place);
            job.worker.rest();
            if let (true, Some(since)) = (job.is_repairing(), record.since) {
                let keys = job.repairs.as_deref();
                builder.repaired(self.repairs.mended(record.oid, since, keys));
            }
            self.idle.push(job.worker);
            self.is_due = true;
        }
        if !is_repair {
            self.keep(record, builder);
        }
        builder.count();
        // The message ends there, and nothing else does: no batch before has this position.
        builder.border(lsn);
    }
}

impl Job {
    /// Whether it reads rows of which repairs may be pending, all of them.
    fn is_repairing(&self) -> bool {
        self.repairs.is_some() || self.request.scope == SnapshotScope::Table
    }

    /// What the log does not have yet, in the version of the table that the chunk was read in.
    fn rows_of(
        &self,
        chunk: &Chunk,
        window: &Window,
        (lsn, writer): (Lsn, &mut RowWriter),
        (catalog, builder): (&mut Catalog, &mut BatchBuilder),
    ) -> Result<(Arc<Table>, Vec<Draft>)> {
        let known = catalog.relation(self.record.oid).map(|relation| relation.table.version);
        let relation = catalog.adopt(&chunk.table, &chunk.types)?;
        if known != Some(relation.table.version) {
            builder.announce(Arc::clone(&relation.table));
        }
        // Within the message, which is longer than that: the next record, which may be a commit, begins
        // where it ends.
        let commit_lsn = lsn.before();
        let epoch = builder.epoch_at(commit_lsn).ok_or_else(|| {
            let why = "256 epochs have begun in this log";
            lost(format!("number rows at {lsn}"), why).with_help(Loss::EpochsUsedUp.help())
        })?;
        let position = Position { epoch, commit_lsn, ordinal: 0 };
        let mut rows =
            Copying::new(position, chunk.began_us, vec![]).with_writer(std::mem::take(writer));
        let read = read(&mut rows, chunk, &relation);
        let events = rows.take().events;
        *writer = rows.into_writer();
        read?;
        let stays = |event: &Event| match &event.change {
            Change::Row { key, .. } => window.leaves(key),
            Change::Truncate | Change::Sweep => true,
        };
        let drafts = events.into_iter().filter(stays).map(|event| Draft { event, missing: None });
        Ok((Arc::clone(&relation.table), drafts.collect()))
    }

    /// Counts a chunk; whether it was the last one.
    fn advance(&mut self, chunk: Chunk, start: Option<SnapshotStart>) -> bool {
        if chunk.is_first {
            (self.record.rows, self.record.after, self.record.since) = (0, None, start);
        }
        self.record.since = self.record.since.or(start);
        self.record.order = chunk.order;
        self.record.rows += u64::try_from(chunk.taken).unwrap_or(u64::MAX);
        let done = usize::try_from(self.record.rows).unwrap_or(usize::MAX);
        let is_last = match &self.request.scope {
            SnapshotScope::Keys(keys) => done >= keys.len(),
            SnapshotScope::Table | SnapshotScope::Where(_) => chunk.end.is_none(),
        };
        self.record.changed_us = chunk.began_us;
        if self.record.began_us == 0 {
            self.record.began_us = chunk.began_us;
        }
        if let Some(expected) = chunk.expected {
            self.record.expected = expected;
        }
        self.record.after = chunk.end.or(self.record.after.take());
        is_last
    }
}

fn read(rows: &mut Copying, chunk: &Chunk, relation: &Arc<Relation>) -> Result<()> {
    let mut found = HashSet::new();
    for row in &chunk.rows {
        let key = rows.row(relation, CopyFormat::Text, row)?;
        if !chunk.wanted.is_empty() {
            found.extend(key.cloned());
        }
    }
    for texts in &chunk.wanted {
        let key = rows.key(relation, &key_values(relation, texts))?;
        if !found.contains(&key) {
            rows.gone(&relation.table, key);
        }
    }
    Ok(())
}

/// The values of a row of which nothing but the key is known.
fn key_values(relation: &Relation, texts: &[String]) -> Vec<Option<Bytes>> {
    let mut values = vec![None; relation.table.columns.len()];
    for (place, text) in relation.table.key.iter().zip(texts) {
        if let Some(value) = values.get_mut(*place) {
            *value = Some(Bytes::from(relation.mask(*place, text.as_bytes()).into_owned()));
        }
    }
    values
}

/// Rows that the log has from before, and the snapshot has not met, are gone.
fn sweep(table: Arc<Table>, since: SnapshotStart, commit_us: i64) -> Draft {
    let SnapshotStart { epoch, lsn: commit_lsn } = since;
    let transaction = Arc::new(Transaction { xid: 0, commit_lsn, commit_us });
    let position = Position { epoch, commit_lsn, ordinal: 0 };
    let event = Event { table, position, part: 0, transaction, change: Change::Sweep };
    Draft { event, missing: None }
}
