//! The initial copy of the tables, as of the point where the slot begins.
//!
//! ```text
//! publication ──▶ slot, exporting its snapshot ──▶ sessions on that snapshot ──▶ lock ──▶ check ──▶ COPY
//! ```
//!
//! The invariant: a row is either in the snapshot or comes through the slot. The order above makes
//! it so: the publication is there before the slot looks at the first record, the locks keep the
//! tables from being rewritten, and the check finds a rewrite that came before them, under which
//! COPY would find nothing and say nothing.

mod crew;
mod progress;
mod ranges;

use std::collections::BTreeMap;
use std::fmt;
use std::pin::pin;
use std::time::Duration;

use anabranch_core::{
    Error, ErrorKind, LogBatch, Lsn, Membership, Phase, Position, Result, SnapshotStart,
    SnapshotState, SourceCursor, Split, TableSnapshot,
};
use futures::future::try_join_all;
use postgres_protocol::escape::{escape_identifier, escape_literal};
use tokio::time::Instant;

use crate::catalog::{RawTable, Relation, Types, load_by_name};
use crate::config::InitialCopy;
use crate::copy_row::CopyFormat;
use crate::copying::Copying;
use crate::error::{Context, from_plain};
use crate::guard;
use crate::intake::{APPEND_ATTNUM, Intake};
use crate::locks;
use crate::membership::Found;
use crate::pgwire::CopyConnection;
use crate::publication::{self, Publication, Wanted, quoted};
use crate::session::Session;
use crate::slot::Slot;
use crate::source::Run;
use crate::tls;
use crate::value::Codec;
use crew::{Crew, Work};
pub(crate) use progress::Progress;
pub use progress::{CopyFigures, TableCopy, bar};
use ranges::{Range, Source};

/// Rewrites that may come between the slot and the locks before we give up for now.
const ATTEMPTS_MAX: usize = 10;
/// What helps where tables are rewritten all the time.
pub(crate) const LET_REST: &str =
    "let ALTER TABLE, TRUNCATE, CLUSTER and VACUUM FULL rest for a moment";
/// Time between two lines in the log that say how far the copy is.
const TELL_INTERVAL: Duration = Duration::from_secs(10);
/// Time between two looks at how much WAL the slot keeps meanwhile.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// Percent of what the slot may keep, from which on the rest is read beside the stream.
const KEPT_PERCENT_MAX: u64 = 50;
/// Pieces of a batch that each session makes.
const PIECES: usize = 2;
/// How long a connection that copies waits for a table: whoever else is to have it stands before us in
/// line, and waits for our locks. Then the copy ends, and what is left of it is read beside the stream.
const LOCK_WAIT: &str = "10s";
/// A wait for running transactions that somebody should know of.
const LONG_WAIT: Duration = Duration::from_secs(10);

/// Connections on the snapshot of the slot, with the tables locked and checked.
struct Opened {
    /// Has the locks.
    locks: Session,
    /// They copy.
    sessions: Vec<CopyConnection>,
    point: Lsn,
    membership: Membership,
    began_us: i64,
    sources: Vec<Source>,
    ranges: Vec<Range>,
}

/// Copies all tables and returns the cursor of the stream that follows. `cursor` is the durable
/// record that a history begins.
pub(crate) async fn copy(run: &mut Run, cursor: SourceCursor) -> Result<SourceCursor> {
    let mut opened = open(run).await?;
    let mut copy = Copy::new(run, &opened, cursor);
    let start =
        Position { epoch: copy.cursor.epoch, commit_lsn: opened.point.before(), ordinal: 0 };
    let rows = || Copying::new(start, opened.began_us, vec![]).with_writer(run.row_writer());
    copy.clear(rows()).await?;
    let (now, beside) = ranges::divide(opened.ranges, &opened.sources, &run.config);
    opened.ranges = now;
    copy.beside = beside;
    copy.left = ranges::counts(&opened.ranges, &opened.sources);
    let sessions: Vec<_> = opened.sessions.into_iter().map(|session| (session, rows())).collect();
    let piece_bytes = batch_bytes(run).div_ceil(sessions.len().max(1) * PIECES);
    let work = Work::new((opened.sources, opened.ranges), run.text_only.clone(), piece_bytes);
    run.stats.copying(work.progress());
    copy.rows(Crew::begin(opened.locks, sessions, work)).await?;
    let (cursor, beside) = copy.finish().await?;
    beside.into_iter().for_each(|own| run.work.put(own));
    Ok(cursor)
}

/// Whether the copy that `cursor` is in has finished the table `oid`: `records` say so.
pub(crate) fn is_copied(records: &[TableSnapshot], cursor: &SourceCursor, oid: u32) -> bool {
    let begun = Some(start(cursor));
    records.iter().any(|record| {
        record.oid == oid && record.state == SnapshotState::Done && record.since == begun
    })
}

/// Where a copy begins.
fn start(cursor: &SourceCursor) -> SnapshotStart {
    SnapshotStart { epoch: cursor.epoch, lsn: cursor.confirm }
}

async fn open(run: &mut Run) -> Result<Opened> {
    for _ in 0..ATTEMPTS_MAX {
        if let Some(slot) = Slot::read(&run.session, &run.config.slot).await? {
            slot.drop(&run.session).await?;
        }
        ensure_publications(run).await?;
        let (point, snapshot) = create_slot(run).await?;
        if let Some(opened) = import(run, point, &snapshot).await? {
            let (tables, sessions) = (opened.sources.len(), opened.sessions.len());
            tracing::info!(%point, tables, sessions, "copying the tables");
            return Ok(opened);
        }
        tracing::info!("a table was rewritten while the snapshot began: beginning again");
    }
    Err(Error::new(ErrorKind::Transient, "begin a snapshot")
        .with_source("tables were rewritten each time")
        .with_help(LET_REST))
}

async fn ensure_publications(run: &Run) -> Result<()> {
    let (tables, _) = load_by_name(&run.session, &run.config).await?;
    for name in run.config.publications() {
        if Publication::read(&run.session, &run.config, &name).await?.is_none() {
            publication::create(&run.session, &Wanted::new(&run.config, &name, &tables)).await?;
        }
    }
    Ok(())
}

/// Creates the slot, which waits until every transaction that runs now has ended.
async fn create_slot(run: &mut Run) -> Result<(Lsn, String)> {
    let slot = run.config.slot.clone();
    let mut creating = pin!(run.replication.create_slot(&slot, run.server_version));
    let created = match tokio::time::timeout(LONG_WAIT, creating.as_mut()).await {
        Ok(created) => created,
        Err(_elapsed) => {
            tracing::info!(slot, "creating the slot waits for transactions that are running");
            creating.await
        }
    };
    created.doing(|| format!("create slot {slot}"))
}

/// What lets a session see `snapshot` and nothing else.
fn begin_in(snapshot: &str) -> String {
    format!(
        "begin isolation level repeatable read read only; set transaction snapshot {}",
        escape_literal(snapshot)
    )
}

/// What [`begin_in`] is for.
fn opening() -> String {
    "open the snapshot of the slot".to_owned()
}

/// `count` connections in the snapshot that copy.
async fn join(run: &Run, snapshot: &str, count: usize) -> Result<Vec<CopyConnection>> {
    let endpoint = run.config.endpoint()?;
    let tls = tls::client_config(&endpoint, run.config.ca_file.as_deref())?;
    let connecting = || format!("connect to PostgreSQL at {}", endpoint.name());
    let join = || async {
        let opened = CopyConnection::open(&endpoint, &run.config.application_name, tls.clone());
        let mut connection = opened.await.map_err(|error| from_plain(error, connecting()))?;
        let begin = format!("{}; set local lock_timeout = '{LOCK_WAIT}'", begin_in(snapshot));
        let begun = connection.execute(&begin).await;
        begun.map_err(|error| from_plain(error, opening())).map(|()| connection)
    };
    try_join_all((0..count).map(|_| join())).await
}

/// Opens sessions on the snapshot; `None` if a table was rewritten before it could be locked.
async fn import(run: &mut Run, point: Lsn, snapshot: &str) -> Result<Option<Opened>> {
    let session = Session::open(&run.config).await?;
    session.batch_execute(&begin_in(snapshot)).await.doing(opening)?;
    let (tables, types) = load_by_name(&session, &run.config).await?;
    if tables.len() != run.catalog.tables().len() {
        return Err(Error::new(ErrorKind::Transient, opening())
            .with_source("a table came or went just now"));
    }
    let Some(began_us) = hold(&session, &tables, opening).await? else { return Ok(None) };
    // In the snapshot: as the slot begins.
    let found = Found::in_snapshot(&session, &run.config, &tables, point).await?;
    let membership = found.membership().ok_or_else(|| {
        Error::new(ErrorKind::Transient, opening())
            .with_source("a publication was altered just now")
    })?;
    let sources = tables.into_iter().map(|table| source(run, table, &types));
    let sources = sources.collect::<Result<Vec<Source>>>()?;
    // How large they are is no matter of the snapshot, and which partitions they have is as the
    // locks keep it.
    let ranges = ranges::of(&run.session, &sources).await?;
    let count = run.config.snapshot_sessions.get().min(ranges.len());
    let sessions = join(run, snapshot, count).await?;
    Ok(Some(Opened { locks: session, sessions, point, membership, began_us, sources, ranges }))
}

/// A table as it is copied.
fn source(run: &mut Run, table: RawTable, types: &Types) -> Result<Source> {
    let relation = run.catalog.adopt(&table, types)?;
    let codecs: Vec<Codec> = relation.layout.codecs().cloned().collect();
    let is_binary = relation.intake.as_ref().is_none_or(Intake::keeps_values)
        && run.text_only.reads_binary(&run.config, &codecs);
    let format = if is_binary { CopyFormat::Binary } else { CopyFormat::Text };
    Ok(Source { table, relation, format })
}

/// Locks `tables` against being rewritten, in the transaction of `session`, which began at the time
/// that is returned, in microseconds since 1970. `None` if one was rewritten since its snapshot was
/// taken.
pub(crate) async fn hold(
    session: &Session,
    tables: &[RawTable],
    action: fn() -> String,
) -> Result<Option<i64>> {
    let names: Vec<String> = tables.iter().map(from).collect();
    locks::lock(session, &names, action).await?;
    if was_rewritten(session, tables).await? {
        return Ok(None);
    }
    session.now_us().await.map(Some)
}

/// Whether a table has other storage now than in the snapshot: then its rows in the snapshot are
/// not to be had any more.
pub(crate) async fn was_rewritten(session: &Session, tables: &[RawTable]) -> Result<bool> {
    let oids: Vec<u32> = tables.iter().map(|table| table.oid).collect();
    let query = "
        with recursive tree(oid) as (
          select unnest($1::oid[])
          union select i.inhrelid from pg_inherits i join tree on i.inhparent = tree.oid)
        select exists (
          select from tree join pg_class c on c.oid = tree.oid
          where c.relkind = 'r' and c.relfilenode is distinct from pg_relation_filenode(c.oid))";
    session
        .query_one(query, &[&oids])
        .await
        .and_then(|row| row.try_get(0))
        .doing(|| "compare the storage of the tables".to_owned())
}

/// What to read from: a partitioned table with its partitions, any other without its children.
pub(crate) fn from(table: &RawTable) -> String {
    let only = if table.kind == 'p' { "" } else { "only " };
    format!("{only}{}", quoted(table))
}

/// The statement that copies a table: all that is published of it, or the rows that also meet
/// `condition`. Only what stays is selected: what is left out does not even leave the server.
pub(crate) struct CopySql<'a> {
    pub(crate) table: &'a RawTable,
    pub(crate) relation: &'a Relation,
    /// The table, or a part of it.
    pub(crate) from: &'a str,
    pub(crate) condition: Option<&'a str>,
    pub(crate) format: CopyFormat,
}

impl fmt::Display for CopySql<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.relation.table.columns.iter();
        let columns: Vec<String> = columns
            .filter(|column| column.attnum != APPEND_ATTNUM)
            .map(|column| escape_identifier(&column.name))
            .collect();
        let filter = self.table.published.as_ref().and_then(|published| published.filter.as_ref());
        let conditions: Vec<&str> =
            filter.map(String::as_str).into_iter().chain(self.condition).collect();
        write!(f, "copy (select {} from {}", columns.join(", "), self.from)?;
        if !conditions.is_empty() {
            write!(f, " where {}", conditions.join(" and "))?;
        }
        write!(f, ") to stdout")?;
        if self.format == CopyFormat::Binary {
            write!(f, " (format binary)")?;
        }
        Ok(())
    }
}

/// The copy under way.
struct Copy<'a> {
    run: &'a Run,
    cursor: SourceCursor,
    batch: LogBatch,
    bytes: usize,
    /// Rows that were handed over.
    rows: u64,
    /// The oid and name of each table, and its ranges that are not finished.
    left: Vec<(u32, String, usize)>,
    /// Tables that are to be read beside the stream.
    beside: Vec<(u32, String)>,
}

impl<'a> Copy<'a> {
    fn new(run: &'a Run, opened: &Opened, cursor: SourceCursor) -> Self {
        let cursor = SourceCursor {
            phase: Phase::Snapshot,
            confirm: opened.point,
            membership: Some(opened.membership.clone()),
            ..cursor
        };
        Self {
            run,
            cursor,
            batch: LogBatch::default(),
            bytes: 0,
            rows: 0,
            left: Vec::new(),
            beside: Vec::new(),
        }
    }

    /// Takes back what the log has of an earlier epoch: an unfinished snapshot, or all of it.
    async fn clear(&mut self, mut rows: Copying) -> Result<()> {
        // What is not copied is not taken back either.
        if self.cursor.epoch.0 > 0 && self.run.config.initial_copy == InitialCopy::All {
            self.run.catalog.tables().into_iter().for_each(|table| rows.clear(table));
        }
        // The tables may have changed since they were announced.
        self.batch = LogBatch { tables: self.run.catalog.tables(), ..rows.take() };
        // The record that a snapshot is under way comes before its first row in any case.
        self.hand_over().await
    }

    /// Hands over what the sessions read, while they read on.
    async fn rows(&mut self, mut crew: Crew) -> Result<()> {
        let (mut told, mut looked) = (Instant::now(), Instant::now());
        while let Some(piece) = crew.next().await? {
            self.bytes += piece.bytes;
            self.batch.events.extend(piece.rows.events);
            piece.finished.into_iter().for_each(|place| self.finished(place));
            if self.bytes >= batch_bytes(self.run) {
                self.hand_over().await?;
            }
            if looked.elapsed() >= LOOK_INTERVAL {
                looked = Instant::now();
                self.look_at_wal(&crew).await;
            }
            if told.elapsed() >= TELL_INTERVAL
                && let Some(copy) = self.run.stats.figures().copy
            {
                told = Instant::now();
                tracing::info!("copying: {copy}");
            }
        }
        Ok(())
    }

    /// The slot keeps all WAL while the copy lasts. Long before that is too much, tables that nobody
    /// has begun, or finished, are left to chunks beside the stream.
    async fn look_at_wal(&self, crew: &Crew) {
        let percent = match guard::look(&self.run.session, &self.run.config).await {
            Ok(report) => report.used_percent.unwrap_or_default(),
            // Whoever needs the session next has the same error.
            Err(error) => return tracing::warn!("{}; the copy goes on", error.report()),
        };
        if percent >= KEPT_PERCENT_MAX && crew.cut_short() {
            tracing::warn!(
                percent,
                "the slot keeps much of the WAL that it may: the rest is read beside the stream"
            );
        }
    }

    /// All rows of a range are in this batch or in an earlier one.
    fn finished(&mut self, source: usize) {
        let Some((oid, table, left)) = self.left.get_mut(source) else { return };
        *left = left.saturating_sub(1);
        if *left == 0 {
            let record = self.run.own_snapshot(*oid, table.clone(), self.cursor.log);
            self.batch.snapshots.push(TableSnapshot {
                state: SnapshotState::Done,
                since: Some(start(&self.cursor)),
                ..record
            });
        }
    }

    async fn hand_over(&mut self) -> Result<()> {
        let batch = std::mem::take(&mut self.batch);
        self.bytes = 0;
        self.run.stats.copied(batch.events.len());
        self.rows += u64::try_from(batch.events.len()).unwrap_or(u64::MAX);
        // No two batches have one cursor: by it the log knows whether a batch is durable.
        self.cursor.split = (self.cursor.phase == Phase::Snapshot).then(|| Split {
            commit_lsn: self.cursor.confirm.before(),
            ordinal: self.rows,
            parts: BTreeMap::new(),
        });
        self.run.send(batch, self.cursor.clone()).await
    }

    /// From here on the stream goes on; what is read beside it is begun.
    async fn finish(mut self) -> Result<(SourceCursor, Vec<TableSnapshot>)> {
        self.cursor.phase = Phase::Streaming;
        let own = |(oid, table)| self.run.own_snapshot(oid, table, self.cursor.log);
        let unfinished = self.left.iter().filter(|(_, _, ranges)| *ranges > 0);
        let unfinished = unfinished.map(|(oid, table, _)| (*oid, table.clone()));
        let beside: Vec<TableSnapshot> =
            std::mem::take(&mut self.beside).into_iter().chain(unfinished).map(own).collect();
        self.batch.snapshots.extend(beside.iter().cloned());
        self.hand_over().await?;
        Ok((self.cursor, beside))
    }
}

/// Bytes of a batch: four are in memory, one with us, one that waits here, one in the loop and one that
/// is written.
fn batch_bytes(run: &Run) -> usize {
    run.config.batch_bytes_max.div_ceil(3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::tests::raw_orders;
    use crate::catalog::{Catalog, KnownTables};

    fn sql(table: &RawTable, condition: Option<&str>) -> String {
        let mut catalog = Catalog::new(vec![], KnownTables::default());
        let relation = &catalog.adopt(table, &Types::default()).unwrap();
        let (from, format) = (&from(table), CopyFormat::Text);
        CopySql { table, relation, from, condition, format }.to_string()
    }

    #[test]
    fn a_copy_lists_its_columns_and_filters() {
        assert_eq!(
            sql(&raw_orders(), None),
            "copy (select \"id\", \"note\" from only \"shop\".\"orders\") to stdout"
        );
        let published = crate::catalog::Published {
            columns: vec!["id".into()],
            filter: Some("(id > 5)".into()),
        };
        let partitioned = RawTable { kind: 'p', published: Some(published), ..raw_orders() };
        assert_eq!(
            sql(&partitioned, None),
            "copy (select \"id\" from \"shop\".\"orders\" where (id > 5)) to stdout"
        );
        assert!(sql(&raw_orders(), Some("(id = 7)")).ends_with(" where (id = 7)) to stdout"));
        let both = sql(&partitioned, Some("(id = 7)"));
        assert!(both.ends_with(" where (id > 5) and (id = 7)) to stdout"), "{both}");
    }
}
