//! The initial copy of the tables, as of the point where the slot begins.
//!
//! ```text
//! publication ──▶ slot, exporting its snapshot ──▶ session on that snapshot ──▶ lock ──▶ check ──▶ COPY
//! ```
//!
//! The invariant: a row is either in the snapshot or comes through the slot. The order above makes
//! it so: the publication is there before the slot looks at the first record, the locks keep the
//! tables from being rewritten, and the check finds a rewrite that came before them, under which
//! COPY would find nothing and say nothing.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use anabranch_core::{
    Error, ErrorKind, Lsn, Membership, Phase, Position, Result, SourceCursor, Split,
};
use futures::StreamExt;
use postgres_protocol::escape::{escape_identifier, escape_literal};

use crate::catalog::{RawTable, Relation, load_by_name};
use crate::copying::Copying;
use crate::error::{Context, bug};
use crate::intake::APPEND_ATTNUM;
use crate::membership::Found;
use crate::publication::{self, Publication, Wanted, quoted};
use crate::session::Session;
use crate::slot::Slot;
use crate::source::Run;

/// Rewrites that may come between the slot and the locks before we give up for now.
const ATTEMPTS_MAX: usize = 10;
/// A wait for running transactions that somebody should know of.
const LONG_WAIT: Duration = Duration::from_secs(10);

/// A session on the snapshot of the slot, with the tables locked and checked.
struct Opened {
    session: Session,
    point: Lsn,
    membership: Membership,
    began_us: i64,
    tables: Vec<RawTable>,
}

/// Copies all tables and returns the cursor of the stream that follows. `cursor` is the durable
/// record that a history begins.
pub(crate) async fn copy(run: &mut Run, cursor: SourceCursor) -> Result<SourceCursor> {
    let opened = open(run).await?;
    let mut copying = Copy::new(run, &opened, cursor);
    copying.clear().await?;
    for table in &opened.tables {
        copying.table(&opened.session, table).await?;
    }
    copying.finish().await
}

async fn open(run: &mut Run) -> Result<Opened> {
    for _ in 0..ATTEMPTS_MAX {
        if let Some(slot) = Slot::read(&run.session, &run.config.slot).await? {
            slot.drop(&run.session).await?;
        }
        ensure_publications(run).await?;
        let (point, snapshot) = create_slot(run).await?;
        if let Some(opened) = import(run, point, &snapshot).await? {
            tracing::info!(%point, tables = opened.tables.len(), "copying the tables");
            return Ok(opened);
        }
        tracing::info!("a table was rewritten while the snapshot began: beginning again");
    }
    Err(Error::new(ErrorKind::Transient, "begin a snapshot")
        .with_source("tables were rewritten each time")
        .with_help("let ALTER TABLE, TRUNCATE, CLUSTER and VACUUM FULL rest for a moment"))
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

/// Opens a session on the snapshot; `None` if a table was rewritten before it could be locked.
async fn import(run: &mut Run, point: Lsn, snapshot: &str) -> Result<Option<Opened>> {
    let action = || "open the snapshot of the slot".to_owned();
    let session = Session::open(&run.config).await?;
    let begin = format!(
        "begin isolation level repeatable read read only; set transaction snapshot {}",
        escape_literal(snapshot)
    );
    session.batch_execute(&begin).await.doing(action)?;
    let (tables, types) = load_by_name(&session, &run.config).await?;
    if tables.len() != run.config.table_names()?.len() {
        return Err(
            Error::new(ErrorKind::Transient, action()).with_source("a table came or went just now")
        );
    }
    let locked: Vec<String> = tables.iter().map(from).collect();
    let lock = format!("lock table {} in access share mode", locked.join(", "));
    session.batch_execute(&lock).await.doing(action)?;
    if was_rewritten(&session, &tables).await? {
        return Ok(None);
    }
    for table in &tables {
        run.catalog.adopt(table, &types)?;
    }
    // In the snapshot: as the slot begins.
    let found = Found::in_snapshot(&session, &run.config, &tables, point).await?;
    let membership = found.membership().ok_or_else(|| {
        Error::new(ErrorKind::Transient, action()).with_source("a publication was altered just now")
    })?;
    let query = "select (extract(epoch from now()) * 1000000)::int8";
    let began = session.query_one(query, &[]).await.and_then(|row| row.try_get(0)).doing(action)?;
    Ok(Some(Opened { session, point, membership, began_us: began, tables }))
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

/// What is to be copied of a table: all that is published, or the rows that also meet `condition`.
/// Only what stays is selected: what is left out does not even leave the server.
pub(crate) fn copy_sql(table: &RawTable, relation: &Relation, condition: Option<&str>) -> String {
    let columns = relation.table.columns.iter();
    let columns: Vec<String> = columns
        .filter(|column| column.attnum != APPEND_ATTNUM)
        .map(|column| escape_identifier(&column.name))
        .collect();
    let filter = table.published.as_ref().and_then(|published| published.filter.as_ref());
    let conditions: Vec<&str> = filter.map(String::as_str).into_iter().chain(condition).collect();
    let filter = if conditions.is_empty() { "" } else { " where " };
    let filter = format!("{filter}{}", conditions.join(" and "));
    format!("copy (select {} from {}{filter}) to stdout", columns.join(", "), from(table))
}

/// The copy under way.
struct Copy<'a> {
    run: &'a Run,
    cursor: SourceCursor,
    rows: Copying,
}

impl<'a> Copy<'a> {
    fn new(run: &'a Run, opened: &Opened, cursor: SourceCursor) -> Self {
        let commit_lsn = opened.point.before();
        let cursor = SourceCursor {
            phase: Phase::Snapshot,
            confirm: opened.point,
            membership: Some(opened.membership.clone()),
            ..cursor
        };
        let position = Position { epoch: cursor.epoch, commit_lsn, ordinal: 0 };
        // The tables may have changed since they were announced.
        let rows = Copying::new(position, opened.began_us, run.catalog.tables())
            .with_writer(run.row_writer());
        Self { run, cursor, rows }
    }

    /// Takes back what the log has of an earlier epoch: an unfinished snapshot, or all of it.
    async fn clear(&mut self) -> Result<()> {
        if self.cursor.epoch.0 > 0 {
            self.run.catalog.tables().into_iter().for_each(|table| self.rows.clear(table));
        }
        // The record that a snapshot is under way comes before its first row in any case.
        self.hand_over().await
    }

    async fn table(&mut self, session: &Session, table: &RawTable) -> Result<()> {
        let name = table.full_name();
        let action = || format!("copy {name}");
        let relation = self.run.catalog.relation(table.oid).cloned();
        let relation = relation.ok_or_else(|| bug(action(), "it is not in the catalog"))?;
        let mut rows =
            pin!(session.copy_out(&copy_sql(table, &relation, None)).await.doing(action)?);
        while let Some(line) = rows.next().await {
            self.rows.row(&relation, &line.doing(action)?)?;
            if self.rows.bytes() >= self.run.config.batch_bytes_max {
                self.hand_over().await?;
            }
        }
        let rows = self.rows.position.ordinal;
        tracing::info!(table = name, rows, "copied, rows in all so far");
        Ok(())
    }

    async fn hand_over(&mut self) -> Result<()> {
        let batch = self.rows.take();
        self.run.stats.copied(batch.events.len());
        let position = self.rows.position;
        // No two batches have one cursor: by it the log knows whether a batch is durable.
        self.cursor.split = (self.cursor.phase == Phase::Snapshot).then(|| Split {
            commit_lsn: position.commit_lsn,
            ordinal: position.ordinal,
            parts: BTreeMap::new(),
        });
        self.run.send(batch, self.cursor.clone()).await
    }

    /// From here on the stream goes on.
    async fn finish(mut self) -> Result<SourceCursor> {
        self.cursor.phase = Phase::Streaming;
        self.hand_over().await?;
        Ok(self.cursor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::tests::raw_orders;
    use crate::catalog::{Catalog, KnownTables, Types};

    fn sql(table: &RawTable, condition: Option<&str>) -> String {
        let mut catalog = Catalog::new(vec![], KnownTables::default());
        copy_sql(table, &catalog.adopt(table, &Types::default()).unwrap(), condition)
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
