//! Reads the stream: collects transactions while downstream is busy, hands over when it is not.

use std::sync::Arc;
use std::time::Duration;

use anabranch_core::{Error, ErrorKind, Result, SourceCursor};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::batch::BatchBuilder;
use crate::catalog::{Catalog, load_by_oid};
use crate::config::PostgresConfig;
use crate::error::{Context, from_wire, lost};
use crate::pgoutput::{self, Message, PluginOptions, decode};
use crate::pgwire::{ReplicationStream, Streamed, WireError};
use crate::reread::Reread;
use crate::session::Session;
use crate::source::{Item, Run};
use crate::stats::SourceStats;
use crate::transaction::{Assembler, Step};

/// `undefined_object`: what a publication is that was dropped.
const UNDEFINED_OBJECT: &str = "42704";

/// A running stream and what is made of it.
pub(crate) struct Streaming {
    config: Arc<PostgresConfig>,
    stats: Arc<SourceStats>,
    session: Session,
    stream: ReplicationStream,
    catalog: Catalog,
    assembler: Assembler,
    builder: BatchBuilder,
    reread: Reread,
    out: mpsc::Sender<Item>,
    /// When the last batch was handed over.
    handed_over: Instant,
}

/// Why the loop turns.
enum Turn<'a> {
    Room(mpsc::Permit<'a, Item>),
    Input(Result<Streamed, WireError>),
    Abandoned,
}

impl Streaming {
    /// Starts replication after `cursor`.
    pub(crate) async fn start(run: Run, cursor: SourceCursor) -> Result<Self> {
        let Run {
            config, stats, server_version, session, replication, catalog, durable, out, ..
        } = run;
        // It is in the log's position record already.
        if cursor.phase == anabranch_core::Phase::Streaming {
            durable.confirm(cursor.confirm);
        }
        let options =
            PluginOptions { server_version, streaming: false }.sql(&config.publications());
        let stream = replication
            .start((&config.slot, &options), cursor.confirm, durable)
            .await
            .doing(|| format!("start replication from slot {}", config.slot))?;
        let assembler = Assembler::new(cursor.epoch, cursor.confirm, cursor.split.clone());
        let reread = Reread::new(&config.application_name, cursor.seen);
        let mut builder = BatchBuilder::new(cursor, config.batch_bytes_max);
        // What was announced before the last stop may not have reached the log.
        catalog.unlogged().into_iter().for_each(|table| builder.announce(table));
        let handed_over = Instant::now();
        Ok(Self {
            config,
            stats,
            session,
            stream,
            catalog,
            assembler,
            builder,
            reread,
            out,
            handed_over,
        })
    }

    pub(crate) async fn run(mut self) -> Result<()> {
        let out = self.out.clone();
        loop {
            let idle = Duration::from_millis(self.config.idle_position_ms);
            let idle_at = self.handed_over + idle;
            let idle_due = self.builder.has_idle_progress() && Instant::now() >= idle_at;
            let ready = self.builder.is_ready() || idle_due;
            // Input comes first, so that a batch is as large as what is there; it never waits,
            // since one that would is passed over for room downstream. All are cancel-safe.
            let turn = tokio::select! {
                biased;
                input = self.stream.next(), if !self.builder.is_full() => Turn::Input(input),
                room = out.reserve(), if ready => room.map_or(Turn::Abandoned, Turn::Room),
                () = out.closed() => Turn::Abandoned,
                () = tokio::time::sleep_until(idle_at),
                    if self.builder.has_idle_progress() && !ready => continue,
            };
            match turn {
                Turn::Input(input) => self.take_all(input).await?,
                Turn::Room(permit) => self.hand_over(permit).await?,
                Turn::Abandoned => return Ok(()),
            }
        }
    }

    /// Takes a message, and those that were read with it.
    async fn take_all(&mut self, input: Result<Streamed, WireError>) -> Result<()> {
        let mut input = input.map(Some);
        while let Some(streamed) = input.map_err(|error| self.stream_failed(error))? {
            self.take(streamed).await?;
            if self.builder.is_full() {
                return Ok(());
            }
            input = self.stream.buffered();
        }
        Ok(())
    }

    async fn take(&mut self, streamed: Streamed) -> Result<()> {
        match streamed {
            Streamed::Data(bytes) => self.take_message(&bytes).await,
            Streamed::Keepalive { wal_end } => {
                self.stats.heard();
                self.stats.at_wal_end(wal_end);
                // Nothing that is published lies before it but what is in the drafts.
                if !self.assembler.is_open() {
                    self.assembler.require_nothing_before(wal_end)?;
                    self.builder.border(wal_end);
                }
                Ok(())
            }
        }
    }

    async fn take_message(&mut self, bytes: &Bytes) -> Result<()> {
        let message = decode(bytes).map_err(|error| {
            Error::new(ErrorKind::Bug, format!("decode the stream of slot {}", self.config.slot))
                .with_source(error)
        })?;
        if let Message::Relation(relation) = &message {
            return self.take_relation(relation).await;
        }
        if let Message::TwoPhase(step) = &message {
            return Err(step.refuse(&self.config.slot));
        }
        let before = self.builder.drafts.len();
        let drafts = &mut self.builder.drafts;
        let step = self.assembler.push(message, &self.catalog, drafts)?;
        let added = self.builder.drafts.len() - before;
        if added > 0 {
            self.stats.read_rows(added);
            self.builder.count();
        }
        match step {
            Step::More => {}
            Step::Committed { end_lsn } => {
                self.stats.heard();
                self.stats.committed(end_lsn);
                self.builder.border(end_lsn);
            }
            Step::Passed { lsn } => self.builder.border(lsn),
        }
        Ok(())
    }

    /// A table as the rows that follow have it.
    async fn take_relation(&mut self, message: &pgoutput::Relation) -> Result<()> {
        if !self.catalog.concerns(message) || self.catalog.matches(message) {
            return Ok(());
        }
        let type_oids: Vec<u32> = message.columns.iter().map(|column| column.type_oid).collect();
        let (raw, types) =
            load_by_oid(&self.session, message.oid, &self.config, &type_oids).await?;
        if let Some(table) = self.catalog.adopt_message(message, raw.as_ref(), &types)? {
            tracing::info!(table = table.full_name(), version = table.version, "schema changed");
            self.builder.announce(table);
        }
        Ok(())
    }

    async fn hand_over(&mut self, permit: mpsc::Permit<'_, Item>) -> Result<()> {
        let mut batch = self.builder.take(&mut self.assembler);
        let outcome = self.reread.fill(&self.session, &mut batch.drafts).await?;
        self.stats.reread(outcome.rows, outcome.marked);
        self.builder.learn(outcome.bytes, outcome.values);
        permit.send(Ok(batch.complete(self.reread.seen)));
        self.handed_over = Instant::now();
        Ok(())
    }

    fn stream_failed(&self, error: WireError) -> Error {
        let action = || format!("read slot {}", self.config.slot);
        if let WireError::Server(server) = &error
            && server.code == UNDEFINED_OBJECT
        {
            let why = format!("{server}: the slot cannot pass the place where it is missing");
            return lost(action(), why);
        }
        from_wire(error, action())
    }
}
