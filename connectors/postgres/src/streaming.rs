//! Reads the stream: collects transactions while downstream is busy, hands over when it is not.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::{Error, ErrorKind, Lsn, Rereads, Result, SourceCursor};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::batch::BatchBuilder;
use crate::binary::{NO_BINARY_FORM, TextOnly};
use crate::catalog::{Catalog, load_by_oid};
use crate::config::{OnLost, PostgresConfig, StreamingMode};
use crate::error::{Context, from_wire, history_lost, lost, sql_cause};
use crate::feed::{Fed, Feed, FeedError};
use crate::incremental::Incremental;
use crate::locks::is_taken;
use crate::loss::Loss;
use crate::membership::{self, Found};
use crate::pgoutput::{self, Message, Ours, PluginOptions};
use crate::pgwire::WireError;
use crate::publication;
use crate::reread::Reread;
use crate::row::RowWriter;
use crate::scope;
use crate::session::Session;
use crate::source::{Item, Run};
use crate::spool::Spool;
use crate::stats::SourceStats;
use crate::transaction::{Assembler, Step};
use crate::watchdog::{Pulse, Watchdog};

/// Time between two looks at the publication: nothing in the stream says that a table left it.
const PUBLICATION_INTERVAL: Duration = Duration::from_secs(5);

/// A look at the publication waits no longer than this for a lock.
const NO_WAIT: &str = "set lock_timeout = '100ms'";

/// A running stream and what is made of it.
pub(crate) struct Streaming {
    config: Arc<PostgresConfig>,
    stats: Arc<SourceStats>,
    session: Session,
    feed: Feed,
    pulse: Pulse,
    /// Looks at the pulse.
    _watchdog: Watchdog,
    catalog: Catalog,
    assembler: Assembler,
    builder: BatchBuilder,
    reread: Reread,
    /// How far ahead of their events the re-reads of this history have looked.
    rereads: Rereads,
    /// Snapshots of single tables.
    incremental: Incremental,
    binary: bool,
    text_only: TextOnly,
    out: mpsc::Sender<Item>,
    /// Oids of tables that were left out, and somebody was told of.
    unfit: BTreeSet<u32>,
    /// Where this stream has begun.
    began_at: Lsn,
    /// When the last batch was handed over.
    handed_over: Instant,
    /// When the publication is looked at again.
    look_at: Instant,
}

/// Why the loop turns.
enum Turn<'a> {
    Room(mpsc::Permit<'a, Item>),
    Input(Result<Fed, FeedError>),
    Abandoned,
}

/// A slot that was lost while the tables were copied, or since the plan was made, is found by the
/// plan of the next attempt, and lost by its name.
fn not_started(error: WireError, slot: &str) -> Error {
    let action = format!("start replication from slot {slot}");
    if error.is_lost_slot() {
        return Error::new(ErrorKind::Transient, action).with_source(error);
    }
    from_wire(error, action)
}

impl Streaming {
    /// Starts replication after `cursor`.
    pub(crate) async fn start(run: Run, cursor: SourceCursor) -> Result<Self> {
        let Run {
            config,
            stats,
            server_version,
            session,
            replication,
            catalog,
            durable,
            pulse,
            out,
            binary,
            text_only,
            requests,
            work,
            unfit,
            ..
        } = run;
        // The log's position record says it, or nothing that the slot has not confirmed itself.
        if cursor.phase == anabranch_core::Phase::Streaming {
            durable.confirm(cursor.confirm);
        }
        let streaming = config.streaming == StreamingMode::On && !stats.waits_for_commits();
        let spool = Spool::open(&config.spool, streaming).await?;
        let options =
            PluginOptions { server_version, streaming, binary }.sql(&config.publications());
        let socket = replication.socket().doing(|| "look after the connection".to_owned())?;
        let stream = replication
            .start((&config.slot, &options), cursor.confirm, durable)
            .await
            .map_err(|error| not_started(error, &config.slot))?;
        let watchdog = pulse.guard(config.watchdog, socket)?;
        let writer = || RowWriter::new(config.values, Arc::clone(&stats));
        let assembler = Assembler::new(cursor.epoch, cursor.confirm, cursor.split.clone())
            .with_writer(writer());
        let reread = Reread::new(&config, writer(), cursor.seen);
        let mut rereads = cursor.rereads.clone();
        if rereads.is_empty() && cursor.seen > Lsn::default() {
            // A release that kept no list has read again: any event may have been concerned.
            rereads.add(Lsn::default(), cursor.seen);
        }
        let incremental = Incremental::new(Arc::clone(&config), writer(), (requests, work));
        let ours = catalog.tables().iter().map(|table| table.oid).collect();
        let began_at = cursor.confirm;
        let mut builder = BatchBuilder::new(cursor, config.batch_bytes_max);
        // What was announced before the last stop may not have reached the log.
        catalog.unlogged().into_iter().for_each(|table| builder.announce(table));
        let now = Instant::now();
        Ok(Self {
            config,
            stats,
            session,
            feed: Feed::new(stream, spool, ours),
            pulse,
            _watchdog: watchdog,
            catalog,
            assembler,
            builder,
            reread,
            rereads,
            incremental,
            binary,
            text_only,
            out,
            unfit,
            began_at,
            handed_over: now,
            look_at: now + PUBLICATION_INTERVAL,
        })
    }

    /// Reads until an error. Whatever it waits for, it shows that it is alive.
    pub(crate) async fn run(self) -> Result<()> {
        let pulse = self.pulse.clone();
        tokio::select! {
            biased;
            ended = Box::pin(self.turn()) => ended,
            never = pulse.beat_while_waiting() => match never {},
        }
    }

    async fn turn(mut self) -> Result<()> {
        let out = self.out.clone();
        loop {
            self.pulse.beat();
            if Instant::now() >= self.look_at {
                self.look_at_publication().await?;
            }
            if self.incremental.is_due() {
                self.incremental.turn(&self.catalog, &mut self.builder);
            }
            let idle = Duration::from_millis(self.config.idle_position_ms);
            let idle_at = self.handed_over + idle;
            let idle_due = self.builder.has_idle_progress() && Instant::now() >= idle_at;
            let ready = self.builder.is_ready() || idle_due;
            // What is kept until it commits fills no batch, and there may be no end of it.
            if ready
                && self.feed.in_block()
                && let Ok(permit) = out.try_reserve()
            {
                self.hand_over(permit).await?;
                continue;
            }
            // Input comes first, so that a batch is as large as what is there; it never waits,
            // since one that would is passed over for room downstream. All are cancel-safe.
            let turn = tokio::select! {
                biased;
                input = self.feed.next(), if !self.builder.is_full() => Turn::Input(input),
                room = out.reserve(), if ready => room.map_or(Turn::Abandoned, Turn::Room),
                () = out.closed() => Turn::Abandoned,
                () = tokio::time::sleep_until(idle_at),
                    if self.builder.has_idle_progress() && !ready => continue,
                () = tokio::time::sleep_until(self.look_at) => continue,
                () = self.incremental.woken() => continue,
            };
            match turn {
                Turn::Input(input) => {
                    self.take_all(input).await?;
                    self.stats.spooled(self.feed.spooled_bytes());
                }
                Turn::Room(permit) => self.hand_over(permit).await?,
                Turn::Abandoned => return Ok(()),
            }
        }
    }

    /// Takes a message, and those that were read with it.
    async fn take_all(&mut self, input: Result<Fed, FeedError>) -> Result<()> {
        let mut input = input.map(Some);
        while let Some(fed) = input.map_err(|error| self.stream_failed(error))? {
            self.take(fed).await?;
            if self.builder.is_full() {
                return Ok(());
            }
            input = self.feed.buffered();
        }
        Ok(())
    }

    async fn take(&mut self, fed: Fed) -> Result<()> {
        match fed {
            Fed::Message(message) => self.take_message(message).await,
            Fed::Spooled => {
                self.stats.heard();
                Ok(())
            }
            Fed::Keepalive { wal_end } => {
                self.stats.heard();
                self.stats.at_wal_end(wal_end);
                // Nothing that is published lies before it but what is in the drafts; what is kept
                // until it commits does so later.
                if !self.assembler.is_open() {
                    self.assembler.require_nothing_before(wal_end)?;
                    self.builder.border(wal_end);
                }
                Ok(())
            }
        }
    }

    async fn take_message(&mut self, message: Message) -> Result<()> {
        if let Message::Relation(relation) = &message {
            self.take_relation(relation).await?;
            self.catalog.observe(&message);
            return Ok(());
        }
        self.catalog.observe(&message);
        if let Message::TwoPhase(step) = &message {
            return Err(step.refuse(&self.config.slot));
        }
        let ours = message.ours();
        if let Some(Ours::Heartbeat(id)) = ours {
            self.stats.heartbeat_arrived(id);
        }
        if let Message::Begin(begin) = &message {
            self.incremental.delivered(begin.xid);
        }
        let before = self.builder.drafts.len();
        let drafts = &mut self.builder.drafts;
        let step = self.assembler.push(message, &self.catalog, drafts)?;
        let added = self.builder.drafts.len() - before;
        if added > 0 {
            self.incremental.note(self.builder.drafts.get(before..).unwrap_or_default());
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
            Step::Passed { lsn } => {
                self.builder.border(lsn);
                if let Some(Ours::Chunk(edge)) = ours {
                    self.incremental.edge(edge, lsn, (&mut self.catalog, &mut self.builder));
                }
            }
        }
        Ok(())
    }

    /// A table as the rows that follow have it.
    async fn take_relation(&mut self, message: &pgoutput::Relation) -> Result<()> {
        if !self.catalog.concerns(message) {
            return self.require_root(message).await;
        }
        if self.catalog.matches(message) {
            return Ok(());
        }
        let type_oids: Vec<u32> = message.columns.iter().map(|column| column.type_oid).collect();
        let (raw, types) =
            load_by_oid(&self.session, message.oid, &self.config, &type_oids).await?;
        let codec = |c: &pgoutput::RelationColumn| types.codec(c.type_oid, c.typmod);
        if self.binary && !message.columns.iter().map(codec).all(|codec| codec.is_binary()) {
            let name = format!("{}.{}", message.schema, message.name);
            let why = format!("{name} has a column now that cannot be read in it");
            return Err(self.text_only.fall_back(why));
        }
        if let Some(table) = self.catalog.adopt_message(message, raw.as_ref(), &types)? {
            tracing::info!(table = table.full_name(), version = table.version, "schema changed");
            self.incremental.altered(table.oid);
            self.builder.announce(table);
        }
        Ok(())
    }

    /// A partition of a table of ours comes behind that table, or its rows would be passed over.
    async fn require_root(&self, message: &pgoutput::Relation) -> Result<()> {
        if let Some(root) = self.catalog.leaves.expected_of() {
            return self.require_key_of(root, message).await;
        }
        let action = || format!("go on with partition {}.{}", message.schema, message.name);
        let query = "
            select pg_partition_root($1::oid::regclass)::oid from pg_publication
            where pubname = any($2) and not pubviaroot limit 1";
        let publications = self.config.publications();
        let row = self.session.query_opt(query, &[&message.oid, &publications]).await;
        let row = row.doing(action)?;
        let root: Option<Option<u32>> = row.map(|row| row.try_get(0)).transpose().doing(action)?;
        match root.flatten().and_then(|root| self.catalog.relation(root)) {
            None => Ok(()),
            Some(root) => {
                let why =
                    format!("it comes under its own name, not that of {}", root.table.full_name());
                let sql = "ALTER PUBLICATION .. SET (publish_via_partition_root = true);";
                Err(lost(action(), why).with_help(format!(
                    "run `anabranch teardown`, then, if the publication is still there, {sql}, and \
                     start again"
                )))
            }
        }
    }

    /// A leaf says of an old row what its own identity has, and the table's says nothing of that: by
    /// an index, an update of the key would leave the row under its old key behind.
    async fn require_key_of(&self, root: u32, leaf: &pgoutput::Relation) -> Result<()> {
        let root = self.catalog.relation(root).filter(|root| !root.is_append_only());
        let Some(root) = root.filter(|_| leaf.replica_identity == 'i') else { return Ok(()) };
        let name = format!("{}.{}", leaf.schema, leaf.name);
        let action = || format!("go on with partition {name}");
        // Behind a table that is truncated with others there is another, and no leaf.
        let query = "select pg_partition_root($1::oid::regclass)::oid is not distinct from $2";
        let row = self.session.query_one(query, &[&leaf.oid, &root.table.oid]).await;
        if !row.and_then(|row| row.try_get::<_, bool>(0)).doing(action)? {
            return Ok(());
        }
        let why = format!(
            "its replica identity is an index, and not the key of {}",
            root.table.full_name()
        );
        Err(lost(action(), why).with_help(format!(
            "ALTER TABLE {name} REPLICA IDENTITY DEFAULT; then run `anabranch teardown`, and start \
             again: what it sent meanwhile says too little of the rows"
        )))
    }

    /// A table that was taken out sends nothing any more, and looks as if nothing changed; one that
    /// was added again looks as if it had been there all the time.
    ///
    /// It does not wait for whoever alters a table, or the stream of all would stand still with it.
    async fn look_at_publication(&mut self) -> Result<()> {
        self.look_at = Instant::now() + PUBLICATION_INTERVAL;
        let action = || "look at the publication".to_owned();
        self.session.batch_execute(NO_WAIT).await.doing(action)?;
        let tables = membership::wanted(&self.catalog);
        let found = self.published(&tables).await;
        let new = if found.is_ok() { self.news(&tables).await } else { Vec::new() };
        self.session.batch_execute("reset lock_timeout").await.doing(action)?;
        match found {
            Err(error) if sql_cause(&error).is_some_and(is_taken) => return Ok(()),
            found => self.builder.look(&found?).map_or(Ok(()), |loss| Err(self.lost(loss)))?,
        }
        // A run that never got anywhere would begin again for ever.
        if new.is_empty() || self.builder.confirmed() <= self.began_at {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Transient, format!("begin with {}", new.join(", ")))
            .with_source("the publication has it now, so the stream begins again with it"))
    }

    /// The names of tables that came into the scope of the configuration since the stream began. Whoever
    /// alters or drops one just now is no matter of ours: the next look sees what became of it.
    async fn news(&mut self, read: &[membership::Wanted]) -> Vec<String> {
        if self.config.schemas().is_empty() {
            return Vec::new();
        }
        let read = read.iter().map(|(oid, _)| *oid).collect();
        match scope::news(&self.session, &self.config, (self.catalog.known(), &read)).await {
            Ok((new, mut unfit)) => {
                unfit.retain(|table| self.unfit.insert(table.oid));
                scope::tell(&unfit);
                new
            }
            Err(error) => {
                tracing::debug!("{}; looking again later", error.report());
                Vec::new()
            }
        }
    }

    /// By which rows the tables are published, all of them.
    async fn published(&self, tables: &[membership::Wanted]) -> Result<Found> {
        let oids: Vec<u32> = tables.iter().map(|(oid, _)| *oid).collect();
        publication::require_published(&self.session, &self.config.publications(), &oids).await?;
        Found::read(&self.session, &self.config, tables).await
    }

    /// What the policy accepts is found again, and accepted, by the next attempt.
    fn lost(&self, loss: Loss) -> Error {
        if self.config.on_lost == OnLost::Park || !loss.is_left_to_policy() {
            return history_lost(&self.config.slot, loss);
        }
        if let Loss::PublicationMissing { log, .. } = loss {
            self.stats.stuck(self.builder.epoch(), log);
        }
        let action = format!("go on with slot {}", self.config.slot);
        Error::new(ErrorKind::Transient, action).with_source(loss)
    }

    async fn hand_over(&mut self, permit: mpsc::Permit<'_, Item>) -> Result<()> {
        let mut batch = self.builder.take(&mut self.assembler);
        self.incremental.handed_over();
        let reread_from = batch.reread_from();
        let began = Instant::now();
        let leaves = &mut self.catalog.leaves;
        let outcome = self.reread.fill(&self.session, &mut batch.drafts, leaves).await?;
        if let Some(from) = reread_from {
            self.rereads.add(from, self.reread.seen);
        }
        if outcome.rows > 0 {
            self.stats.reread_took(began.elapsed(), outcome.waited);
        }
        self.stats.reread(outcome.rows, outcome.marked);
        self.builder.learn(outcome.bytes, outcome.values);
        let seen = self.reread.seen;
        let repairs = self.incremental.ask_repairs(outcome.repairs, batch.end());
        permit.send(Ok(batch.complete(seen, &self.rereads, repairs)));
        self.handed_over = Instant::now();
        Ok(())
    }

    fn stream_failed(&self, error: FeedError) -> Error {
        let action = || format!("read slot {}", self.config.slot);
        if matches!(&error, FeedError::Wire(wire) if wire.is_missing_publication()) {
            tracing::error!(slot = self.config.slot, "the publication is missing");
            let (log, end) = (self.builder.confirmed(), self.stats.wal_end());
            return self.lost(Loss::PublicationMissing { log, end });
        }
        if let FeedError::Wire(WireError::Server(server)) = &error
            && server.code == NO_BINARY_FORM
            && self.binary
        {
            return self.text_only.fall_back(server.to_string());
        }
        if matches!(&error, FeedError::Wire(wire) if wire.is_unmapped()) {
            tracing::warn!("transactions are read when they have committed from now on: {error}");
            self.stats.wait_for_commits();
        }
        error.classify(action())
    }
}
