//! Writes the batches of one table to its index.
//!
//! ```text
//! batch ─▶ last change of each key ─▶ concurrent bulks ─▶ delete-below ─▶ cursor in every shard
//! ```
//!
//! The invariant: a cursor is written only when all that lies before it is in the index and
//! durable (`index.translog.durability` is `request`).
//!
//! # Why a stopped worker does no harm
//!
//! Elasticsearch knows no owner of an index, so a worker that lost its partition may still have
//! requests under way when its successor writes. Each of them is harmless by itself:
//!
//! * Rows and deletes carry the row's version, which the server compares (`external_gte`). One key
//!   never comes twice with one version, since batches end where a version ends: an equal version
//!   is the same change, an older one is refused, by the document or by its tombstone. (The one
//!   exception is a transaction with more parts than a version can count: see
//!   [`anabranch_core::ROW_PART_MAX`].)
//! * Tombstones are forgotten after `index.gc_deletes`. No request is sent after the deadline of
//!   its batch, which is at most a twelfth of that, and the server is told not to wait for a shard
//!   any longer; so none arrives after its tombstone is gone. (A node that restarts forgets them
//!   too, but with them the requests it was working on.)
//! * A delete-below removes only what lies below it ([`crate::delete_below`]).
//! * A cursor is replaced only by the worker that read or wrote it last ([`crate::cursor`]).
//!
//! A successor whose cursor stands inside a transaction needs no wait either: its cursor stands at
//! the border of two versions, and what its predecessor may still write has the lower one.

use std::collections::BTreeMap;
use std::sync::Arc;

use anabranch_core::{
    Assignment, Batch, DeleteBelow, Error, ErrorKind, Result, RowOp, Sink, StoreCursor, Table,
};
use futures::future::try_join_all;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};

use crate::ElasticsearchConfig;
use crate::bulk::{ChunkWriter, Guard};
use crate::client::Client;
use crate::cursor::Cursors;
use crate::delete_below::delete_below;
use crate::document::Documents;
use crate::error::Failure;
use crate::index::Index;
use crate::names::{Names, document_id};
use crate::write::Writer;

/// Fewer rows than this are not worth another request.
const LANE_ROWS_MIN: usize = 500;

/// A worker's hold on one table's index.
#[derive(Debug)]
pub struct ElasticsearchSink {
    client: Client,
    config: ElasticsearchConfig,
    assignment: Assignment,
    names: Names,
    /// The schema version that the index is known to have fields for.
    mapped: Option<Arc<Table>>,
    /// Absent until the cursor was read, and after any write of it that was not seen to succeed.
    cursors: Option<Cursors>,
}

impl ElasticsearchSink {
    /// Checks the settings. The server is first asked by [`Sink::cursor`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] names the setting that is wrong.
    pub fn open(config: &ElasticsearchConfig, assignment: Assignment) -> Result<Self> {
        let client = Client::new(config, &assignment.sink)?;
        let names = Names::new(config, &assignment.table, assignment.generation);
        Ok(Self { client, config: config.clone(), assignment, names, mapped: None, cursors: None })
    }

    /// The alias that users search.
    #[must_use]
    pub fn alias(&self) -> &str {
        &self.names.alias
    }

    /// The index behind it that this worker writes.
    #[must_use]
    pub fn index(&self) -> &str {
        &self.names.index
    }

    fn error(&self, failure: Failure, verb: &str) -> Error {
        failure.during(&self.client.sink, format!("{verb} index {}", self.names.index))
    }

    fn prepared(&self) -> Index<'_> {
        let Self { client, config, assignment, names, .. } = self;
        Index { client, config, assignment, names }
    }

    async fn read_cursor(&mut self) -> Result<Option<StoreCursor>> {
        self.cursors = None;
        let routings = self.prepared().prepare().await?;
        self.mapped = Some(Arc::clone(&self.assignment.table));
        let cursors = Cursors::read(
            &self.client,
            &self.names,
            &self.config.cursor_field,
            (&self.assignment.partitions, routings),
            self.client.deadline(),
        )
        .await
        .map_err(|failure| self.error(failure, "read the cursor of"))?;
        let held = cursors.held().clone();
        self.cursors = Some(cursors);
        Ok((!held.is_empty()).then_some(held))
    }

    async fn write_batch(&mut self, batch: &Batch, upto: &StoreCursor) -> Result<()> {
        self.map(&batch.table).await?;
        self.write_rows(batch).await?;
        self.delete_below(&batch.delete_below).await?;
        // Taken out: if the write fails or is dropped half-way, nobody knows what is there.
        let mut cursors = self.cursors.take().ok_or_else(|| {
            Error::new(ErrorKind::Transient, format!("write index {}", self.names.index))
                .with_source("its cursor must be read first")
        })?;
        let written = cursors.write(self.writer(), upto).await;
        written.map_err(|failure| self.error(failure, "write the cursor of"))?;
        self.cursors = Some(cursors);
        Ok(())
    }

    /// Sees to it that the index has a field for every column of `table`.
    async fn map(&mut self, table: &Arc<Table>) -> Result<()> {
        let known = self.mapped.as_ref();
        if known.is_none_or(|known| !Arc::ptr_eq(known, table) && known.columns != table.columns) {
            self.prepared().grow(table).await?;
        }
        self.mapped = Some(Arc::clone(table));
        Ok(())
    }

    /// Every key is in the batch once, so that the order of the requests does not matter.
    async fn write_rows(&self, batch: &Batch) -> Result<()> {
        let documents = Documents::new(batch, &self.config);
        let rows = batch.last_of_each_key();
        let lane_rows = rows.len().div_ceil(self.config.concurrent_bulks).max(LANE_ROWS_MIN);
        let writer = self.writer();
        let lanes = rows.chunks(lane_rows).map(|rows| self.write_lane(&documents, rows, writer));
        try_join_all(lanes).await.map(drop)
    }

    async fn write_lane(
        &self,
        documents: &Documents<'_>,
        rows: &[usize],
        writer: Writer<'_>,
    ) -> Result<()> {
        let table = || self.assignment.table.full_name();
        let error = |failure: Failure| {
            let action = format!("write table {} to index {}", table(), self.names.index);
            failure.during(&self.client.sink, action)
        };
        let mut chunk = ChunkWriter::default();
        for row in rows {
            let meta = documents.meta(*row)?;
            let key = documents.key(*row)?;
            let id = document_id(&key);
            match meta.op {
                RowOp::Upsert => {
                    chunk.index(&id, meta.version, |out| documents.write(*row, out))?;
                }
                RowOp::Delete => chunk.delete(&id, meta.version, Guard::NotOlder),
            }
            if chunk.size() >= self.config.bulk_bytes_max {
                writer.write(chunk.take()).await.map_err(error)?;
            }
        }
        writer.write(chunk.take()).await.map_err(error)
    }

    /// Of several bounds of a partition the highest covers the others.
    async fn delete_below(&self, bounds: &[DeleteBelow]) -> Result<()> {
        let mut highest = BTreeMap::new();
        for DeleteBelow { partition, version } in bounds {
            let bound = highest.entry(*partition).or_insert(*version);
            *bound = (*bound).max(*version);
        }
        stream::iter(highest)
            .map(|(partition, version)| DeleteBelow { partition, version })
            .map(|below| delete_below(&self.client, &self.names, &self.config, below))
            .buffer_unordered(self.config.concurrent_bulks)
            .try_collect::<()>()
            .await
            .map_err(|failure| self.error(failure, "delete old rows of"))
    }

    /// Writes until the deadline of what begins now.
    fn writer(&self) -> Writer<'_> {
        let deadline = self.client.deadline();
        Writer { client: &self.client, alias: &self.names.write, deadline }
    }
}

impl Sink<Batch, StoreCursor> for ElasticsearchSink {
    async fn cursor(&mut self) -> Result<Option<StoreCursor>> {
        self.read_cursor().await
    }

    async fn apply(&mut self, batch: &Batch, upto: &StoreCursor) -> Result<()> {
        self.write_batch(batch, upto).await
    }
}
