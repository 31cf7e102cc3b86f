//! One run: from the plan of a `seek` to an error, in a task of its own.

use std::collections::BTreeSet;
use std::sync::Arc;

use anabranch_core::{
    CURSOR_FORMAT, Epoch, Error, ErrorKind, LogBatch, LogHistory, Lsn, OpenWork, Phase, Rereads,
    Result, SourceCursor, Table, TableSnapshot,
};
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use crate::binary::TextOnly;
use crate::catalog::Catalog;
use crate::config::{InitialCopy, PostgresConfig};
use crate::error::{Context, bug};
use crate::history::Plan;
use crate::incremental::Requests;
use crate::membership::Found;
use crate::pgwire::{Durable, Identity, ReplicationConnection};
use crate::row::RowWriter;
use crate::session::Session;
use crate::slot::Slot;
use crate::stats::SourceStats;
use crate::streaming::Streaming;
use crate::watchdog::Pulse;
use crate::{incremental, repair, snapshot};

/// What a run hands over: a batch, or the error that ended it.
pub(crate) type Item = Result<(LogBatch, SourceCursor)>;

/// Everything that a run needs.
pub(crate) struct Run {
    pub(crate) config: Arc<PostgresConfig>,
    pub(crate) stats: Arc<SourceStats>,
    pub(crate) server_version: u32,
    pub(crate) identity: Identity,
    pub(crate) plan: Plan,
    /// Where the log stands.
    pub(crate) after: Option<SourceCursor>,
    /// By which rows the tables were published when the plan was made.
    pub(crate) found: Found,
    /// For the catalog and re-reads.
    pub(crate) session: Session,
    pub(crate) replication: ReplicationConnection,
    pub(crate) catalog: Catalog,
    /// The log, to ask what it was given.
    pub(crate) history: Option<Arc<dyn LogHistory>>,
    /// Whether the stream has its values in binary format.
    pub(crate) binary: bool,
    /// Snapshots of single tables that are asked for, and what the log has of such work.
    pub(crate) requests: Requests,
    pub(crate) work: OpenWork,
    /// Tables that nobody read for a while: their oids and names.
    pub(crate) missed: Vec<(u32, String)>,
    /// Oids of tables that were left out, and somebody was told of.
    pub(crate) unfit: BTreeSet<u32>,
    pub(crate) text_only: TextOnly,
    pub(crate) durable: Durable,
    pub(crate) pulse: Pulse,
    pub(crate) started: watch::Receiver<bool>,
    pub(crate) out: mpsc::Sender<Item>,
}

/// The loop that reads the batches is gone, and so is the reason to go on.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads the source any more")]
struct Abandoned;

impl Run {
    /// Runs until an error, and hands that over, too.
    pub(crate) async fn run(self) {
        let out = self.out.clone();
        if let Err(error) = self.go().await {
            // A receiver that is gone has nobody to tell.
            out.send(Err(error)).await.ok();
        }
    }

    async fn go(mut self) -> Result<()> {
        if let Some(after) = self.after.clone().filter(|_| !self.missed.is_empty()) {
            self.catch_up(after).await?;
        }
        let cursor = match self.plan.clone() {
            Plan::Stream => {
                let cursor = self.after.take();
                let cursor =
                    cursor.ok_or_else(|| bug("go on in the stream", "there is no cursor"))?;
                self.stream(cursor).await?
            }
            Plan::Finish => self.finish().await?,
            Plan::Begin { epoch } => {
                // The copy brings what they were to bring.
                self.work.snapshots.retain(|record| !record.by_itself);
                let cursor = self.announce(epoch).await?;
                Box::pin(snapshot::copy(&mut self, cursor)).await?
            }
            Plan::Turn(cursor) => self.turn(*cursor).await?,
            Plan::Remake(cursor) => {
                let confirm = self.remake_slot().await?;
                self.turn(SourceCursor { confirm, ..*cursor }).await?
            }
        };
        let cursor = Box::pin(repair::repair(&mut self, cursor)).await?;
        Box::pin(Streaming::start(self, cursor)).await?.run().await
    }

    /// Makes it durable that tables are to be read beside the stream, before a position record says
    /// that they are read like any other.
    async fn catch_up(&mut self, cursor: SourceCursor) -> Result<()> {
        for (oid, table) in std::mem::take(&mut self.missed) {
            tracing::info!(
                table,
                "it is new, or was not read for a while: reading it beside the stream"
            );
            self.work.put(self.own_snapshot(oid, table, cursor.log));
        }
        let is_new = |record: &&TableSnapshot| record.by_itself && record.since.is_none();
        let snapshots = self.work.snapshots.iter().filter(is_new).cloned().collect();
        let tables = self.catalog.unlogged();
        self.send(LogBatch { tables, snapshots, ..LogBatch::default() }, cursor).await
    }

    /// Begins the stream where the first copy began; what that has not finished is read beside it.
    async fn finish(&mut self) -> Result<SourceCursor> {
        let cursor = self.after.take().ok_or_else(|| bug("finish a copy", "there is no cursor"))?;
        let mut left = self.catalog.tables();
        if self.config.initial_copy == InitialCopy::None {
            left.clear();
        }
        left.retain(|table| !snapshot::is_copied(&self.work.snapshots, &cursor, table.oid));
        tracing::warn!(
            tables = left.len(),
            "a copy was cut off: reading the rest beside the stream"
        );
        let own = |table: &Arc<Table>| self.own_snapshot(table.oid, table.full_name(), cursor.log);
        let snapshots: Vec<TableSnapshot> = left.iter().map(own).collect();
        snapshots.iter().cloned().for_each(|own| self.work.put(own));
        let cursor = self.carry(SourceCursor { phase: Phase::Streaming, split: None, ..cursor });
        let tables = self.catalog.unlogged();
        self.send(LogBatch { tables, snapshots, ..LogBatch::default() }, cursor.clone()).await?;
        Ok(cursor)
    }

    /// A snapshot that we begin ourselves.
    pub(crate) fn own_snapshot(&self, oid: u32, table: String, log: Uuid) -> TableSnapshot {
        let before = self.work.snapshots.iter().find(|record| record.oid == oid);
        incremental::own(before, (oid, table), log)
    }

    /// Makes it durable that a history begins, before anything of it exists.
    async fn announce(&mut self, epoch: Epoch) -> Result<SourceCursor> {
        // Which tables were read so far, also after a crash.
        let same = self.after.as_ref().filter(|at| at.system_id == self.identity.system_id);
        let membership = same.and_then(|at| at.membership.clone());
        let cursor = SourceCursor {
            format: CURSOR_FORMAT,
            log: self.after.as_ref().map_or_else(Uuid::new_v4, |after| after.log),
            slot: self.config.slot.clone(),
            epoch,
            system_id: self.identity.system_id,
            timeline: self.identity.timeline,
            phase: Phase::Starting,
            confirm: Lsn::default(),
            seen: Lsn::default(),
            split: None,
            rereads: Rereads::default(),
            fork: None,
            membership,
        };
        let batch = LogBatch { tables: self.catalog.tables(), ..LogBatch::default() };
        self.send(batch, cursor.clone()).await?;
        let started = self.started.wait_for(|started| *started).await;
        started.map_err(|_| abandoned())?;
        Ok(cursor)
    }

    /// Goes on; a record that says nothing of the publication yet does so before anything else, or
    /// what differs from it at the first look would be as it always was at the next start.
    async fn stream(&self, cursor: SourceCursor) -> Result<SourceCursor> {
        let says_nothing = cursor.membership.is_none();
        let cursor = self.carry(cursor);
        if says_nothing && cursor.membership.is_some() {
            self.send(LogBatch::default(), cursor.clone()).await?;
        }
        Ok(cursor)
    }

    /// Writes the first position record of another epoch, before anything else in it.
    async fn turn(&self, cursor: SourceCursor) -> Result<SourceCursor> {
        let cursor = self.carry(cursor);
        let SourceCursor { epoch, timeline, confirm, .. } = &cursor;
        tracing::warn!(epoch = epoch.0, timeline, %confirm, "another epoch of the history begins");
        self.send(LogBatch::default(), cursor.clone()).await?;
        Ok(cursor)
    }

    /// The same position with what was found of the publication.
    fn carry(&self, cursor: SourceCursor) -> SourceCursor {
        SourceCursor { membership: self.found.carry(cursor.membership), ..cursor }
    }

    /// Makes the slot anew for a history with a gap. If we are killed before the log knows, the gap
    /// is found again, as one of a slot that is ahead.
    async fn remake_slot(&mut self) -> Result<Lsn> {
        let name = self.config.slot.clone();
        if let Some(slot) = Slot::read(&self.session, &name).await? {
            slot.drop(&self.session).await?;
        }
        let created = self.replication.create_slot(&name, self.server_version).await;
        created.map(|(point, _)| point).doing(|| format!("create slot {name}"))
    }

    /// Writes rows by the policies of the configuration, and counts what they change.
    pub(crate) fn row_writer(&self) -> RowWriter {
        RowWriter::new(self.config.values, Arc::clone(&self.stats))
    }

    pub(crate) async fn send(&self, batch: LogBatch, cursor: SourceCursor) -> Result<()> {
        self.out.send(Ok((batch, cursor))).await.map_err(|_| abandoned())
    }
}

pub(crate) fn abandoned() -> Error {
    Error::new(ErrorKind::Transient, "hand over a batch").with_source(Abandoned)
}
