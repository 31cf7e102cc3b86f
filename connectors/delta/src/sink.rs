//! One table in Delta, kept equal to its topic.
//!
//! ```text
//! batch ─▶ last change per key ─▶ where are those keys? ─▶ data files, deletion vectors
//!                                                                   │
//!              rows and cursor, together, in one commit ◀───────────┘
//! ```
//!
//! A commit is made only where every commit before it has been looked at, and where the table's
//! cursor is the one that this worker last saw. So a worker that wakes up late finds the version
//! taken, finds the cursor moved, and gives its batch up.

use std::path::PathBuf;
use std::time::Duration;

use anabranch_core::{Assignment, Batch, Error, ErrorKind, Result, Sink, StoreCursor, Table};
use deltalake::kernel::Action;
use rand::Rng;
use uuid::Uuid;

use crate::config::{DeltaConfig, table_url};
use crate::error::Cause;
use crate::log::{Log, Purpose, transaction_actions};
use crate::restore::{self, Restored};
use crate::row_index::RowIndex;
use crate::schema::StoredSchema;
use crate::state::{Origin, TableState};
use crate::storage::{Storage, Written};
use crate::units;
use crate::write;

/// Commits of others that a batch gives way to, before it is left to the caller's backoff.
const ATTEMPTS_MAX: u32 = 20;
/// The longest first wait after somebody else's commit; it grows with each.
const BACKOFF_MS: u64 = 10;

/// Writes one table.
#[derive(Debug)]
pub struct DeltaSink {
    log: Log,
    assignment: Assignment,
    index_dir: PathBuf,
    /// The table as far as it has been followed; `None` before it is there.
    table: Option<Followed>,
    /// The cursor that this worker's next batch follows; `None` before it has asked.
    pub(crate) known: Option<StoreCursor>,
    /// An attempt has ended without an answer: its commit may be in the log.
    pub(crate) is_unsure: bool,
}

/// A table as far as its log has been followed.
#[derive(Debug)]
struct Followed {
    state: TableState,
    /// A RESTORE in what was followed, about which nothing has been done yet.
    restored: Option<Restored>,
    /// Where the keys are, for `state` or an earlier version. `None` until it is needed, and after an attempt that was
    /// cut short.
    rows: Option<RowIndex>,
}

/// How an attempt to commit ended.
enum Attempt {
    Done,
    /// The log has gone on otherwise: look at it, then try again.
    Outrun,
}

impl DeltaSink {
    /// A writer of the table of `assignment`. Neither the table nor its folder need exist, and
    /// nothing is read or written yet.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] if the root is no folder of this machine.
    pub fn open(config: &DeltaConfig, assignment: Assignment) -> Result<Self> {
        let table = &assignment.table;
        let url = table_url(&config.root_url()?, &table.schema, &table.name)?;
        let storage = Storage::open(url).map_err(|cause| {
            cause.while_doing(format!("open Delta table {}", table.full_name()))
        })?;
        Ok(Self {
            log: Log::new(storage, table.full_name()),
            assignment,
            index_dir: config.index_dir(),
            table: None,
            known: None,
            is_unsure: false,
        })
    }

    /// Reads what the log has got since, and rewinds the cursor if the table was restored.
    ///
    /// Cancel-safe: what is read is kept, and a rewind that may have been made is looked for.
    async fn follow(&mut self) -> Result<Restart> {
        let mut restart = Restart::No;
        loop {
            let Some(followed) = self.read_on().await? else { return Ok(restart) };
            let Some(restored) = followed.restored else { return Ok(restart) };
            restart = Restart::Yes;
            let then = restore::transactions(&self.log, restored).await?;
            let Some(followed) = &mut self.table else { return Ok(restart) };
            let rewind = units::rewind(&followed.state.transactions, &then);
            let now_ms = now_ms();
            let actions = transaction_actions(rewind, now_ms).collect();
            let how = (Purpose::Rewind, now_ms);
            if self.log.append(&mut followed.state, actions, how).await? == Written::Durable {
                tracing::info!(table = self.log.name(), ?restored, "a Delta table was restored");
                followed.restored = None;
                self.log.checkpoint_if_due(followed.state.version).await;
                return Ok(restart);
            }
        }
    }

    /// Reads what the log has got since, or all of it if that is gone: this worker has slept
    /// longer than the log is kept.
    async fn read_on(&mut self) -> Result<Option<&mut Followed>> {
        if let Some(followed) = &self.table
            && !self.log.holds(followed.state.version).await?
        {
            self.table = None;
        }
        if self.table.is_none() {
            let Some(state) = self.log.load(None).await? else { return Ok(None) };
            let restored = restore::pending(&self.log, &state).await?;
            self.table = Some(Followed { state, restored, rows: None });
        }
        let Some(followed) = &mut self.table else { return Ok(None) };
        while let Some(commit) = self.log.read(followed.state.version + 1).await? {
            let (version, origin) = (commit.version, commit.origin());
            let advanced = followed.state.advance(commit);
            advanced.map_err(|cause| {
                cause.while_doing(format!("follow the log of Delta table {}", self.log.name()))
            })?;
            match origin {
                Origin::Ours => followed.restored = None,
                Origin::Restore(target) => followed.restored = Some(Restored { version, target }),
                Origin::Foreign => {}
            }
        }
        Ok(Some(followed))
    }

    /// The cursor that the table holds.
    fn held(&self) -> StoreCursor {
        let transactions = self.table.as_ref().map(|followed| &followed.state.transactions);
        transactions.map(|all| units::read(all, &self.assignment)).unwrap_or_default()
    }

    /// Whether the table's cursor is still the one that the next batch follows. If it is `upto`,
    /// an attempt has landed whose answer was lost.
    fn compare(&self, known: &StoreCursor, upto: &StoreCursor, restart: Restart) -> Result<Place> {
        let held = self.held();
        let mut wanted = known.clone();
        wanted.extend(upto.iter().map(|(partition, unit)| (*partition, unit.clone())));
        let action = || format!("write rows to Delta table {}", self.log.name());
        if restart == Restart::Yes {
            let why = "the table was restored to an earlier version";
            return Err(Error::new(ErrorKind::Transient, action()).with_source(why));
        }
        if held == *known {
            Ok(Place::Before)
        } else if held == wanted {
            Ok(Place::After)
        } else {
            let why = "taken over by another worker";
            Err(Error::new(ErrorKind::Transient, action()).with_source(why))
        }
    }

    /// Creates the table, unless it was there when this worker last looked.
    async fn create(&mut self, table: &Table) -> Result<Attempt> {
        if self.table.is_some() {
            return Ok(Attempt::Done);
        }
        let now_ms = now_ms();
        let schema = StoredSchema::create(table, Uuid::new_v4().to_string(), now_ms)?;
        let action = || format!("create Delta table {}", self.log.name());
        let protocol = schema.protocol().map_err(|cause| cause.while_doing(action()))?;
        let metadata = schema.action().map_err(|cause| cause.while_doing(action()))?;
        let actions = vec![Action::Protocol(protocol), Action::Metadata(metadata)];
        self.log.create(actions, now_ms).await?;
        // Whoever has created it, others may have written to it since: look first.
        Ok(Attempt::Outrun)
    }

    /// Adds the columns of `table` that the Delta table lacks.
    async fn evolve(&mut self, table: &Table) -> Result<Attempt> {
        let Some(Followed { state, .. }) = &mut self.table else { return Ok(Attempt::Outrun) };
        let Some(schema) = state.schema.evolve(table)? else { return Ok(Attempt::Done) };
        let action = || format!("add columns to Delta table {}", self.log.name());
        let actions = || -> Result<Vec<Action>, Cause> {
            let protocol = state.protocol.with(&schema.protocol()?)?;
            let metadata = Action::Metadata(schema.action()?);
            Ok(protocol.map(Action::Protocol).into_iter().chain([metadata]).collect())
        };
        let actions = actions().map_err(|cause| cause.while_doing(action()))?;
        match self.log.append(state, actions, (Purpose::Schema, now_ms())).await? {
            Written::Durable => {
                self.log.checkpoint_if_due(state.version).await;
                Ok(Attempt::Done)
            }
            Written::Taken => Ok(Attempt::Outrun),
        }
    }

    /// Tries once to commit `batch` on top of what has been followed.
    async fn attempt(&mut self, batch: &Batch, upto: &StoreCursor) -> Result<Attempt> {
        if let Attempt::Outrun = self.create(&batch.table).await? {
            return Ok(Attempt::Outrun);
        }
        if let Attempt::Outrun = self.evolve(&batch.table).await? {
            return Ok(Attempt::Outrun);
        }
        let Some(followed) = &mut self.table else { return Ok(Attempt::Outrun) };
        let action = || format!("write rows to Delta table {}", self.log.name());
        let storage = self.log.storage();
        // The index is taken out: if this is cut short it is built anew.
        let rows = match followed.rows.take() {
            Some(rows) if rows.version() == followed.state.version => Ok(rows),
            Some(rows) => rows.follow(storage, &followed.state).await,
            None => {
                let partitions = &self.assignment.partitions;
                RowIndex::build(&self.index_dir, partitions, storage, &followed.state).await
            }
        };
        let rows = rows.map_err(|cause| cause.while_doing(action()))?;
        let now_ms = now_ms();
        let prepared = write::prepare(storage, &followed.state, (rows, batch), now_ms).await;
        let (rows, mut prepared) = prepared.map_err(|cause| cause.while_doing(action()))?;
        let transactions = units::write(upto, &self.assignment.topic);
        prepared.actions.extend(transaction_actions(transactions, now_ms));
        let how = (Purpose::Batch, now_ms);
        let written = self.log.append(&mut followed.state, prepared.actions, how).await;
        match written {
            Ok(Written::Durable) => {
                let rows = rows.committed(&followed.state, prepared.change).await;
                // The commit is made; an index that could not follow is built anew.
                followed.rows = rows
                    .inspect_err(|error| tracing::warn!(%error, "the key index is built anew"))
                    .ok();
                Ok(Attempt::Done)
            }
            Ok(Written::Taken) => {
                followed.rows = Some(rows);
                Ok(Attempt::Outrun)
            }
            Err(error) => {
                followed.rows = Some(rows);
                Err(error)
            }
        }
    }

    async fn commit(&mut self, batch: &Batch, upto: &StoreCursor) -> Result<()> {
        let known = match &self.known {
            Some(known) => known.clone(),
            None => {
                self.follow().await?;
                self.held()
            }
        };
        self.known = Some(known.clone());
        let mut is_behind = self.is_unsure;
        self.is_unsure = true;
        for attempt in 0..ATTEMPTS_MAX {
            if is_behind {
                let restart = self.follow().await?;
                if let Place::After = self.compare(&known, upto, restart)? {
                    return Ok(());
                }
            }
            if let Attempt::Done = self.attempt(batch, upto).await? {
                return Ok(());
            }
            is_behind = true;
            let longest = BACKOFF_MS * u64::from(attempt + 1);
            let wait = rand::rng().random_range(0..=longest);
            tokio::time::sleep(Duration::from_millis(wait)).await;
        }
        let action = format!("write rows to Delta table {}", self.log.name());
        let why = format!("other writers were faster {ATTEMPTS_MAX} times");
        Err(Error::new(ErrorKind::Transient, action).with_source(why))
    }

    fn check_partitions(&self, batch: &Batch, upto: &StoreCursor) -> Result<()> {
        let in_rows = batch.meta.iter().map(|meta| meta.partition);
        let in_bounds = batch.delete_below.iter().map(|below| below.partition);
        let mut all = in_rows.chain(in_bounds).chain(upto.keys().copied());
        match all.find(|partition| !self.assignment.partitions.contains(partition)) {
            Some(partition) => {
                let action = format!("write rows to Delta table {}", self.log.name());
                let why = format!("partition {partition} does not belong to this worker");
                Err(Error::new(ErrorKind::Bug, action).with_source(why))
            }
            None => Ok(()),
        }
    }
}

/// Whether the worker must begin again from the table's cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Restart {
    No,
    Yes,
}

/// Where the table stands with regard to a batch.
enum Place {
    /// The batch comes next.
    Before,
    /// The batch is in it.
    After,
}

impl Sink<Batch, StoreCursor> for DeltaSink {
    async fn cursor(&mut self) -> Result<Option<StoreCursor>> {
        self.follow().await?;
        let held = self.held();
        self.known = Some(held.clone());
        self.is_unsure = false;
        Ok(Some(held).filter(|held| !held.is_empty()))
    }

    async fn apply(&mut self, batch: &Batch, upto: &StoreCursor) -> Result<()> {
        self.check_partitions(batch, upto)?;
        self.commit(batch, upto).await?;
        if let Some(known) = &mut self.known {
            known.extend(upto.iter().map(|(partition, unit)| (*partition, unit.clone())));
        }
        self.is_unsure = false;
        if let Some(followed) = &self.table {
            self.log.checkpoint_if_due(followed.state.version).await;
        }
        Ok(())
    }
}

fn now_ms() -> i64 {
    chrono::Utc::now().timestamp_millis()
}
