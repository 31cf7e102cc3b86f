//! One run: from the plan of a `seek` to an error, in a task of its own.

use std::sync::Arc;

use anabranch_core::{
    CURSOR_FORMAT, Epoch, Error, ErrorKind, LogBatch, Lsn, Phase, Result, SourceCursor,
};
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use crate::catalog::Catalog;
use crate::config::PostgresConfig;
use crate::error::{bug, lost};
use crate::pgwire::{Durable, Identity, ReplicationConnection};
use crate::session::Session;
use crate::slot::Plan;
use crate::snapshot;
use crate::stats::SourceStats;
use crate::streaming::Streaming;
use crate::watchdog::Pulse;

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
    /// For the catalog and re-reads.
    pub(crate) session: Session,
    pub(crate) replication: ReplicationConnection,
    pub(crate) catalog: Catalog,
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
        let cursor = match self.plan {
            Plan::Stream => {
                let cursor = self.after.take();
                cursor.ok_or_else(|| bug("go on in the stream", "there is no cursor"))?
            }
            Plan::Begin { epoch } => {
                let cursor = self.announce(epoch).await?;
                Box::pin(snapshot::copy(&mut self, cursor)).await?
            }
        };
        Box::pin(Streaming::start(self, cursor)).await?.run().await
    }

    /// Makes it durable that a history begins, before anything of it exists.
    async fn announce(&mut self, epoch: Epoch) -> Result<SourceCursor> {
        if self.identity.flushed >= Lsn::VERSION_LIMIT {
            return Err(lost(
                "begin a history",
                format!("the server is at {}, past what versions can hold", self.identity.flushed),
            ));
        }
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
        };
        let batch = LogBatch { tables: self.catalog.tables(), ..LogBatch::default() };
        self.send(batch, cursor.clone()).await?;
        let started = self.started.wait_for(|started| *started).await;
        started.map_err(|_| abandoned())?;
        Ok(cursor)
    }

    pub(crate) async fn send(&self, batch: LogBatch, cursor: SourceCursor) -> Result<()> {
        self.out.send(Ok((batch, cursor))).await.map_err(|_| abandoned())
    }
}

pub(crate) fn abandoned() -> Error {
    Error::new(ErrorKind::Transient, "hand over a batch").with_source(Abandoned)
}
