//! The source as the loop sees it: a lock, and one run at a time.
//!
//! ```text
//! open ── advisory lock ──▶ seek ── plan ──▶ run (a task) ── batches ──▶ next
//!                                             ▲
//!                             confirm ────────┘ the position record is durable
//! ```
//!
//! The run is a task of its own, so a call of `next` may be cancelled at any point, and rows are
//! read and encoded while the batch before is being written. Dropping the source ends everything.

mod plan;
mod run;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::{
    Error, ErrorKind, LogBatch, LogHistory, OpenWork, Phase, Result, Source, SourceCursor, Table,
    TableSnapshot,
};
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::absent;
use crate::binary::TextOnly;
use crate::blind;
use crate::catalog::{Catalog, KnownTables, RawTable, Types, load_by_name};
use crate::columns::RuleBook;
use crate::config::{PostgresConfig, TableName};
use crate::dropped::DroppedSlots;
use crate::error::{Context, bug, history_lost};
use crate::history::{Plan, begin};
use crate::incremental::{Requests, SnapshotRequests};
use crate::loss::Acceptance;
use crate::pgwire::{Durable, Identity, ReplicationConnection};
use crate::publication::{Publication, Wanted};
use crate::scope::{self, Logged, Scope};
use crate::server::Server;
use crate::session::Session;
use crate::snapshot;
use crate::stats::SourceStats;
use crate::tls;
use crate::value::Codec;
use crate::watchdog::{self, Pulse};
pub(crate) use plan::Gathered;
use plan::Witnesses;
pub(crate) use run::{Item, Run, abandoned};

/// Batches that wait for the loop: one, so that the next is made while it is written.
const BATCHES_MAX: usize = 1;
/// Time between two tries for the lock. Waiting inside PostgreSQL would hold back its vacuum.
const LOCK_INTERVAL: Duration = Duration::from_millis(200);
/// How long a slot may stay in use before that is an error: a predecessor that was killed is gone
/// as soon as the server has read from its socket.
const SLOT_WAIT_MAX: Duration = Duration::from_secs(5);
const SLOT_INTERVAL: Duration = Duration::from_millis(50);

/// The changes of the configured tables, from a snapshot on.
pub struct PostgresSource {
    config: Arc<PostgresConfig>,
    lock: Session,
    known: KnownTables,
    history: Option<Arc<dyn LogHistory>>,
    dropped: Option<Arc<dyn DroppedSlots>>,
    accepted: Vec<Acceptance>,
    requests: Requests,
    stats: Arc<SourceStats>,
    text_only: TextOnly,
    running: Option<Running>,
}

/// The run after the last `seek`.
struct Running {
    inbox: mpsc::Receiver<Item>,
    /// Whether the record that says `starting` is durable.
    started: watch::Sender<bool>,
    durable: Durable,
    pulse: Pulse,
    _task: AbortOnDropHandle<()>,
}

impl std::fmt::Debug for PostgresSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresSource").field("config", &self.config).finish_non_exhaustive()
    }
}

impl PostgresSource {
    /// Takes the lock on the source, which one process has at a time; waits for it as standby, as
    /// long as it takes.
    ///
    /// # Errors
    ///
    /// `Config` if the configuration or the server's answer is wrong, `Transient` if the server
    /// cannot be reached.
    pub async fn open(config: PostgresConfig) -> Result<Self> {
        Self::open_with(config, Arc::default()).await
    }

    /// The same, with figures that go on from an earlier attempt.
    ///
    /// # Errors
    ///
    /// As [`PostgresSource::open`].
    pub async fn open_with(config: PostgresConfig, stats: Arc<SourceStats>) -> Result<Self> {
        config.validate()?;
        let lock = Session::open(&config).await?;
        let mut told = false;
        while !try_lock(&lock, &config.slot).await? {
            if !told {
                tracing::info!(slot = config.slot, "another process reads this source: waiting");
                told = true;
            }
            tokio::time::sleep(LOCK_INTERVAL).await;
        }
        Ok(Self {
            config: Arc::new(config),
            lock,
            known: KnownTables::default(),
            history: None,
            dropped: None,
            accepted: Vec::new(),
            requests: watch::channel(SnapshotRequests::default()).1,
            text_only: stats.text_only(),
            stats,
            running: None,
        })
    }

    /// Says what the log holds, in any order and any number of versions; the numbering goes on
    /// from there. To be called before the first `seek` if the log is not empty.
    pub fn know(&mut self, tables: impl IntoIterator<Item = Arc<Table>>) {
        tables.into_iter().for_each(|table| self.known.logged(table));
    }

    /// Whom to ask what the log holds, when the history is not what it was.
    pub fn remember(&mut self, history: Arc<dyn LogHistory>) {
        self.history = Some(history);
    }

    /// Whom to ask whether the WAL guard has dropped the slot, when it is missing.
    pub fn ask_of_drops(&mut self, dropped: Arc<dyn DroppedSlots>) {
        self.dropped = Some(dropped);
    }

    /// What people have accepted.
    pub fn accept(&mut self, accepted: Vec<Acceptance>) {
        self.accepted = accepted;
    }

    /// Which snapshots of single tables are asked for, all of them.
    pub fn follow(&mut self, requests: watch::Receiver<SnapshotRequests>) {
        self.requests = requests;
    }

    /// Figures of this source; they go on across `seek`.
    #[must_use]
    pub fn stats(&self) -> Arc<SourceStats> {
        Arc::clone(&self.stats)
    }

    /// Has the lock again if its session was lost.
    async fn relock(&mut self) -> Result<()> {
        if !self.lock.is_closed() {
            return Ok(());
        }
        let lock = Session::open(&self.config).await?;
        if !try_lock(&lock, &self.config.slot).await? {
            return Err(lost_lock()
                .with_source(
                    "another session has it now: a process that waited, or our own, which the \
                     server has not given up yet",
                )
                .with_help("there is nothing to do: it is tried again"));
        }
        self.lock = lock;
        Ok(())
    }

    /// A session with a server that can be read from; a log that `has_begun` waits for a promotion.
    async fn connect(&self, has_begun: bool) -> Result<(Session, Server)> {
        let session = Session::open(&self.config).await?;
        let server = Server::read(&session).await?;
        if server.is_standby && has_begun {
            return Err(Error::new(ErrorKind::Transient, "replicate from this server")
                .with_source("it is a standby, and not promoted yet")
                .with_help("promote it, or point [source] url at the primary"));
        }
        server.require(&self.config.application_name)?;
        Ok((session, server))
    }

    /// Connects, decides how to go on, and makes the run that does it.
    async fn prepare(
        &self,
        after: Option<SourceCursor>,
    ) -> Result<(Run, mpsc::Receiver<Item>, watch::Sender<bool>)> {
        let (session, server) = self.connect(after.is_some()).await?;
        let (mut replication, identity) = connect_replication(&self.config).await?;
        same_server(&server, identity)?;
        let facts = (identity, after.as_ref());
        let logged = Logged::new(&self.known, after.as_ref(), identity.system_id);
        let mut scope = scope::resolve(&session, &self.config, &logged).await?;
        let mut gathered = Gathered::read(&scope.config, &session, &mut replication, facts).await?;
        let witnesses = Witnesses {
            history: self.history.as_deref(),
            dropped: self.dropped.as_deref(),
            accepted: &self.accepted,
            stuck_at: self.stats.stuck_at(),
        };
        let plan =
            plan::plan(&scope.config, &session, &mut gathered, after.as_ref(), witnesses).await?;
        let (mut tables, mut types) = self.tables(&session, &scope.config).await?;
        let work = match &self.history {
            Some(history) if after.is_some() => history.open_work().await?,
            Some(_) | None => OpenWork::default(),
        };
        let plan = finishable(plan, (&tables, &work.snapshots, after.as_ref()), &self.config.slot)?;
        let begins = matches!(plan, Plan::Begin { .. });
        if begins && after.is_some() && !self.config.schemas().is_empty() {
            scope = scope::resolve(&session, &self.config, &logged.beginning()).await?;
            (tables, types) = self.tables(&session, &scope.config).await?;
        }
        if begins {
            scope.require_some()?;
        }
        scope.tell();
        let Scope { config, unfit, .. } = scope;
        let config = &Arc::new(config);
        let mut missed = Vec::new();
        if let (false, Some(after)) = (begins, &after) {
            missed = blind::missed(&tables, &self.known, after)?;
        }
        check_publications(config, &session, &tables).await?;
        let catalog = self.catalog((&tables, &types), begins)?;
        let binary = self.chooses_binary(&tables, &types);
        let (out, inbox) = mpsc::channel(BATCHES_MAX);
        let (started, is_started) = watch::channel(false);
        let run = Run {
            config: Arc::clone(config),
            stats: Arc::clone(&self.stats),
            server_version: server.version,
            identity,
            plan,
            after,
            found: gathered.found,
            session,
            replication,
            catalog,
            history: self.history.clone(),
            binary,
            requests: self.requests.clone(),
            work,
            missed,
            unfit: unfit.into_iter().map(|unfit| unfit.oid).collect(),
            text_only: self.text_only.clone(),
            durable: Durable::default(),
            pulse: Pulse::default(),
            started: is_started,
            out,
        };
        Ok((run, inbox, started))
    }

    /// Whether the stream is to have its values in binary format.
    fn chooses_binary(&self, tables: &[RawTable], types: &Types) -> bool {
        let columns = tables.iter().flat_map(RawTable::published_columns);
        let codecs: Vec<Codec> =
            columns.map(|column| types.codec(column.type_oid, column.typmod)).collect();
        self.text_only.chooses_binary(&self.config, &codecs)
    }

    /// The configured tables; each must be fit to be read, and be there unless it was dropped.
    async fn tables(
        &self,
        session: &Session,
        config: &PostgresConfig,
    ) -> Result<(Vec<RawTable>, Types)> {
        let (named, names) = (self.config.single_tables(), config.table_names()?);
        let (tables, types) = load_by_name(session, config).await?;
        let book = RuleBook::new(config);
        let by_name = tables.iter().map(|table| (table.name(), table));
        let by_name: BTreeMap<TableName, &RawTable> = by_name.collect();
        for name in names {
            // It was there, and fit, a moment ago.
            let is_found = !named.contains(&name.to_string());
            let Some(table) = by_name.get(&name) else {
                if is_found {
                    return Err(passing(&name));
                }
                let known = self.known.named(&name.schema, &name.name);
                absent::obstacle(session, &name, &known).await?.map_or(Ok(()), Err)?;
                tracing::warn!(table = %name, "{}; {}", absent::DROPPED, absent::LET_GO);
                continue;
            };
            let broken = || book.obstacles(table, &types).into_iter().next();
            match table.obstacle().or_else(broken) {
                Some(_) if is_found && self.known.get(table.oid).is_none() => {
                    return Err(passing(&name));
                }
                Some(error) => return Err(error),
                None => {}
            }
        }
        Ok((tables, types))
    }

    /// The tables as they are, or, unless a history begins, as the log has them.
    fn catalog(&self, (tables, types): (&[RawTable], &Types), begins: bool) -> Result<Catalog> {
        // Only names that a person wrote: another table of a name that a schema brought in is a new one, for
        // the next look to judge, and no loss.
        let mut catalog = Catalog::new(self.config.table_names()?, self.known.clone())
            .with_rules(RuleBook::new(&self.config));
        for table in tables {
            if begins || !catalog.resume(table, types) {
                catalog.adopt(table, types)?;
            }
        }
        Ok(catalog)
    }
}

impl Source for PostgresSource {
    type Batch = LogBatch;
    type Cursor = SourceCursor;

    async fn seek(&mut self, after: Option<SourceCursor>) -> Result<()> {
        // The run before holds the slot.
        self.running = None;
        self.relock().await?;
        let (run, inbox, started) = Box::pin(self.prepare(after)).await?;
        let (durable, pulse) = (run.durable.clone(), run.pulse.clone());
        let task = spawn(run);
        self.running = Some(Running { inbox, started, durable, pulse, _task: task });
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<(LogBatch, SourceCursor)>> {
        let Some(running) = &mut self.running else {
            return Err(bug("read the source", "next before seek, or after an error"));
        };
        // The lock comes first: without it nothing may be handed over. All are cancel-safe.
        let item = tokio::select! {
            biased;
            () = self.lock.closed() => Some(Err(lost_lock())),
            item = running.inbox.recv() => item,
            () = running.pulse.stalled() => {
                Some(Err(watchdog::stalled(self.config.watchdog)))
            },
        };
        match item {
            Some(Ok(item)) => Ok(Some(item)),
            Some(Err(error)) => {
                self.running = None;
                Err(error)
            }
            None => Err(bug("read the source", "its task ended without a word")),
        }
    }

    async fn confirm(&mut self, upto: SourceCursor) -> Result<()> {
        let Some(running) = &self.running else { return Ok(()) };
        match upto.phase {
            Phase::Starting => {
                running.started.send_replace(true);
            }
            Phase::Snapshot => {}
            Phase::Streaming => {
                running.durable.confirm(upto.confirm);
                self.stats.durable(upto.confirm);
            }
        }
        Ok(())
    }
}

async fn check_publications(
    config: &PostgresConfig,
    session: &Session,
    tables: &[RawTable],
) -> Result<()> {
    for name in config.publications() {
        let wanted = Wanted::new(config, &name, tables);
        let publication = Publication::read(session, config, &name).await?;
        let obstacle = publication.and_then(|found| found.obstacles(&wanted).into_iter().next());
        obstacle.map_or(Ok(()), Err)?;
    }
    Ok(())
}

fn passing(name: &TableName) -> Error {
    Error::new(ErrorKind::Transient, format!("begin with {name}"))
        .with_source("it came, went or was altered just now")
}

/// A connection for replication, and whom it leads to.
pub(crate) async fn connect_replication(
    config: &PostgresConfig,
) -> Result<(ReplicationConnection, Identity)> {
    let endpoint = config.endpoint()?;
    let tls = tls::client_config(&endpoint, config.ca_file.as_deref())?;
    let action = || format!("connect to PostgreSQL at {} for replication", endpoint.name());
    let opened = ReplicationConnection::open(&endpoint, &config.application_name, tls).await;
    let mut replication = opened.doing(action)?;
    let identity = replication.identify().await.doing(|| "identify the server".to_owned())?;
    Ok((replication, identity))
}

/// A copy that was cut off begins again where a table cannot be read beside the stream.
fn finishable(
    plan: Plan,
    (tables, snapshots, after): (&[RawTable], &[TableSnapshot], Option<&SourceCursor>),
    slot: &str,
) -> Result<Plan> {
    let (Plan::Finish, Some(after)) = (&plan, after) else { return Ok(plan) };
    let is_left =
        |table: &RawTable| table.append_only && !snapshot::is_copied(snapshots, after, table.oid);
    if tables.iter().any(is_left) {
        return begin(after).map_err(|loss| history_lost(slot, loss));
    }
    Ok(plan)
}

#[expect(clippy::disallowed_methods, reason = "the handle is owned and aborts on drop")]
fn spawn(run: Run) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(run.run()))
}

async fn try_lock(session: &Session, slot: &str) -> Result<bool> {
    let action = || format!("lock the source of slot {slot}");
    let query = "select pg_try_advisory_lock(hashtextextended('anabranch source ' || $1, 0))";
    session.query_one(query, &[&slot]).await.and_then(|row| row.try_get(0)).doing(action)
}

fn lost_lock() -> Error {
    Error::new(ErrorKind::Transient, "keep the lock on the source: its session ended")
}

/// Re-reads and replication must be about one history.
fn same_server(server: &Server, identity: Identity) -> Result<()> {
    if (server.system_id, server.timeline) == (identity.system_id, identity.timeline) {
        return Ok(());
    }
    // A promotion shows up in one of them first.
    let promoted = server.system_id == identity.system_id;
    let kind = if promoted { ErrorKind::Transient } else { ErrorKind::Config };
    Err(Error::new(kind, "read and replicate from one server")
        .with_source(format!(
            "system {} on timeline {} answers queries, system {} on timeline {} replicates",
            server.system_id, server.timeline, identity.system_id, identity.timeline
        ))
        .with_help("point [source] url at the primary itself, not at a balancer"))
}
