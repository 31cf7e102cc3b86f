//! Reads again what a lost branch of the history has left in the log.
//!
//! ```text
//! log, backwards ──▶ keys ──▶ one snapshot of the server ──▶ found: op r · not found: op d
//!                └─▶ TRUNCATE, too many keys, a key that is none any more ──▶ op t, then the whole table
//! ```
//!
//! The rows stand in the new epoch, just below the point from which the stream goes on. *Why that is
//! right:* they are above everything that the log had. The snapshot sees every transaction before
//! that point, for the server has recovered them all; whatever newer it sees comes again in the
//! stream, above them, and is certain to come, for nothing is handed over before the server has
//! flushed all that was there to be seen.
//!
//! *Why it may be killed at any point:* its first position record says, in the new epoch, what is to
//! be repaired, and its last one that it is done. What is begun again in between begins at the front,
//! in the same epoch, with the next ordinals. A row may come twice with one version then, and the two
//! differ only by what the stream brings again. If the server was replaced meanwhile, its history is
//! another fork: another epoch, with the same keys and those of the rows below.

use std::collections::{BTreeSet, HashMap};
use std::pin::pin;
use std::sync::Arc;

use anabranch_core::{
    Delivered, Error, ErrorKind, LogBatch, Lsn, Position, Result, SourceCursor, TRUNCATE_PARTS,
};
use bytes::Bytes;
use futures::StreamExt;

use crate::catalog::{RawTable, Relation, load_by_name};
use crate::copy_row::CopyFormat;
use crate::copying::Copying;
use crate::error::{Context, bug, is_unfit, sql_cause};
use crate::key_sql::{KEYS_MAX, among, key_columns};
use crate::key_text::key_texts;
use crate::reread::wait_for_flush;
use crate::session::Session;
use crate::snapshot::{CopySql, LET_REST, from, hold};
use crate::source::Run;

/// Rewrites that may come between the snapshot and the locks before we give up for now.
const ATTEMPTS_MAX: usize = 10;

/// What is to be read again of a table.
type Ghosts = HashMap<u32, Delivered>;

/// Repairs what the position record says, and returns the cursor of the stream that follows.
pub(crate) async fn repair(run: &mut Run, cursor: SourceCursor) -> Result<SourceCursor> {
    let Some(wanted) = cursor.fork else { return Ok(cursor) };
    let history = run.history.clone();
    let history = history.ok_or_else(|| bug("repair a fork", "the log cannot be asked"))?;
    let tables = run.catalog.tables();
    let delivered = history.delivered(&tables, (wanted.epoch, wanted.since)).await?;
    let is_ghost = |found: &Delivered| *found != Delivered::nothing();
    let pairs = tables.iter().map(|table| table.oid).zip(delivered);
    let ghosts: Ghosts = pairs.filter(|(_, found)| is_ghost(found)).collect();
    let cursor = if ghosts.is_empty() { cursor } else { read_again(run, cursor, ghosts).await? };
    let cursor = SourceCursor { fork: None, ..cursor };
    run.send(LogBatch::default(), cursor.clone()).await?;
    Ok(cursor)
}

/// A session in a snapshot, with the tables locked and checked.
struct Opened {
    session: Session,
    began_us: i64,
    tables: Vec<RawTable>,
}

async fn read_again(
    run: &mut Run,
    mut cursor: SourceCursor,
    ghosts: Ghosts,
) -> Result<SourceCursor> {
    let opened = open(run, &ghosts).await?;
    // The snapshot was taken before, so this covers all that it sees.
    let seen = wait_for_flush(&run.session).await?;
    let before = cursor.confirm.before();
    cursor.seen = cursor.seen.max(seen);
    cursor.rereads.add(before, seen);
    let ordinal = cursor.fork.map_or(0, |fork| fork.rows);
    let position = Position { epoch: cursor.epoch, commit_lsn: before, ordinal };
    let rows = Copying::new(position, opened.began_us, run.catalog.unlogged())
        .with_writer(run.row_writer());
    let mut repairing = Repairing { run, cursor, rows };
    for table in &opened.tables {
        let name = table.full_name();
        match ghosts.get(&table.oid) {
            Some(Delivered::Keys(keys)) => {
                tracing::warn!(
                    table = name,
                    rows = keys.len(),
                    "reading rows of a lost branch again"
                );
                repairing.rows_of(&opened.session, table, keys).await?;
            }
            Some(Delivered::Unbounded) => {
                tracing::warn!(table = name, "copying a table of a lost branch again");
                repairing.whole(&opened.session, table).await?;
            }
            None => {}
        }
    }
    repairing.hand_over().await?;
    Ok(repairing.cursor)
}

async fn open(run: &mut Run, ghosts: &Ghosts) -> Result<Opened> {
    let action = || "open a snapshot for a repair".to_owned();
    let session = Session::open(&run.config).await?;
    for _ in 0..ATTEMPTS_MAX {
        let begin = "begin isolation level repeatable read read only";
        session.batch_execute(begin).await.doing(action)?;
        let (mut tables, types) = load_by_name(&session, &run.config).await?;
        tables.retain(|table| ghosts.contains_key(&table.oid));
        if tables.len() < ghosts.len() {
            return Err(Error::new(ErrorKind::Transient, action())
                .with_source("a table that the lost branch has rows of came or went just now"));
        }
        if let Some(began_us) = hold(&session, &tables, action).await? {
            for table in &tables {
                run.catalog.adopt(table, &types)?;
            }
            return Ok(Opened { session, began_us, tables });
        }
        session.batch_execute("rollback").await.doing(action)?;
    }
    Err(Error::new(ErrorKind::Transient, action())
        .with_source("tables were rewritten each time")
        .with_help(LET_REST))
}

/// The repair under way.
struct Repairing<'a> {
    run: &'a Run,
    cursor: SourceCursor,
    rows: Copying,
}

impl Repairing<'_> {
    /// Always in a part above the rows by their keys: this repair, or one before it that was killed,
    /// may have handed some over, under keys that are none any more.
    async fn whole(&mut self, session: &Session, table: &RawTable) -> Result<()> {
        let relation = self.relation(table)?;
        self.rows.position.ordinal += 1;
        self.rows.part = TRUNCATE_PARTS;
        self.rows.clear(Arc::clone(&relation.table));
        self.copy(session, (table, &relation), None).await?;
        self.rows.part = 0;
        Ok(())
    }

    async fn rows_of(
        &mut self,
        session: &Session,
        table: &RawTable,
        keys: &BTreeSet<Bytes>,
    ) -> Result<()> {
        let relation = self.relation(table)?;
        if relation.is_append_only() {
            return self.take_back(&relation, keys);
        }
        if !relation.has_plain_key() {
            return self.whole(session, table).await;
        }
        let texts: Option<Vec<_>> =
            keys.iter().map(|key| Some((key, key_texts(&relation.table, key)?))).collect();
        // A key that cannot be looked for is among all of them.
        let Some(texts) = texts else { return self.whole(session, table).await };
        // A statement that fails ends a transaction, but for what was before a savepoint: the snapshot.
        execute(session, "savepoint keys").await?;
        match self.look_for(session, (table, &relation), &texts).await {
            // The TRUNCATE takes away what was handed over before, and the copy, which comes after
            // it and of the same snapshot, brings back every such row that is there.
            Err(error) if sql_cause(&error).is_some_and(is_unfit) => {
                let name = table.full_name();
                tracing::warn!(table = name, "its keys are none any more: copying it again");
                execute(session, "rollback to savepoint keys").await?;
                self.whole(session, table).await
            }
            looked => {
                looked?;
                execute(session, "release savepoint keys").await
            }
        }
    }

    async fn look_for(
        &mut self,
        session: &Session,
        (table, relation): (&RawTable, &Arc<Relation>),
        texts: &[(&Bytes, Vec<String>)],
    ) -> Result<()> {
        for chunk in texts.chunks(KEYS_MAX) {
            let wanted: Vec<&Vec<String>> = chunk.iter().map(|(_, texts)| texts).collect();
            let key = key_columns(table, &relation.table)
                .ok_or_else(|| bug("repair a fork", "a column of a key is not in the catalog"))?;
            let condition = among(&key, &wanted);
            let found = self.copy(session, (table, relation), Some(&condition)).await?;
            for (key, _) in chunk {
                if !found.contains(*key) {
                    self.rows.gone(&relation.table, Bytes::clone(key));
                }
            }
        }
        Ok(())
    }

    /// A row of an append-only table has its position for a key: what stands beyond the point where
    /// the stream goes on is not there, and what stands before it is as it was.
    fn take_back(&mut self, relation: &Arc<Relation>, keys: &BTreeSet<Bytes>) -> Result<()> {
        let split = self.cursor.split.as_ref().map(|split| split.commit_lsn);
        for key in keys {
            let position =
                key_texts(&relation.table, key).and_then(|texts| append_position(&texts));
            let lsn = position.ok_or_else(|| bug("repair a fork", "a key is no position"))?;
            if lsn >= self.cursor.confirm && Some(lsn) != split {
                self.rows.gone(&relation.table, Bytes::clone(key));
            }
        }
        Ok(())
    }

    fn relation(&self, table: &RawTable) -> Result<Arc<Relation>> {
        let relation = self.run.catalog.relation(table.oid).cloned();
        relation.ok_or_else(|| bug("repair a fork", "a table is not in the catalog"))
    }

    /// Copies rows, and returns their keys.
    async fn copy(
        &mut self,
        session: &Session,
        (table, relation): (&RawTable, &Arc<Relation>),
        condition: Option<&str>,
    ) -> Result<BTreeSet<Bytes>> {
        let action = || format!("read rows of {} again", relation.table.full_name());
        let (from, format) = (&from(table), CopyFormat::Text);
        let sql = CopySql { table, relation, from, condition, format }.to_string();
        let mut keys = BTreeSet::new();
        let mut rows = pin!(session.copy_out(&sql).await.doing(action)?);
        while let Some(row) = rows.next().await {
            let key = self.rows.row(relation, format, &row.doing(action)?)?;
            // Of a whole table nobody asks for them.
            if keys.len() < KEYS_MAX {
                keys.extend(key.cloned());
            }
            if self.rows.bytes() >= self.run.config.batch_bytes_max {
                self.hand_over().await?;
            }
        }
        Ok(keys)
    }

    async fn hand_over(&mut self) -> Result<()> {
        let batch = self.rows.take();
        self.run.stats.repaired_rows(batch.events.len());
        // No two batches have one cursor: by it the log knows whether a batch is durable.
        if let Some(fork) = &mut self.cursor.fork {
            fork.rows = self.rows.position.ordinal;
        }
        self.run.send(batch, self.cursor.clone()).await
    }
}

async fn execute(session: &Session, sql: &str) -> Result<()> {
    session.batch_execute(sql).await.doing(|| "look for rows of a lost branch".to_owned())
}

/// The commit LSN in the key of an append-only row.
fn append_position(texts: &[String]) -> Option<Lsn> {
    let [text] = texts else { return None };
    let lsn = text.split('-').nth(1)?;
    u64::from_str_radix(lsn, 16).ok().map(Lsn)
}
