//! Reads one chunk of a table, between two edges in the WAL.
//!
//! ```text
//! low edge ─▶ lock ─▶ snapshot ─▶ as the catalog has it ─▶ last key ─▶ COPY ─▶ commit ─▶ high edge
//! ```
//!
//! Source: Andreakis and Papapanagiotou, "DBLog: A Watermark Based Change-Data-Capture Framework",
//! with the snapshot itself handed over, since the watermarks alone do not order what it sees.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;

use anabranch_core::{Error, ErrorKind, Result};
use bytes::Bytes;
use futures::StreamExt;
use uuid::Uuid;

use crate::catalog::{Catalog, KnownTables, RawTable, Relation, Types, load_by_oid};
use crate::columns::RuleBook;
use crate::config::PostgresConfig;
use crate::copy_row::CopyFormat;
use crate::error::{Context, bug};
use crate::heartbeat::{FLUSH_VERSION, PREFIX};
use crate::key_sql::{among, canonical, compared, key_columns, last_key};
use crate::locks;
use crate::pgoutput::{ChunkEdge, Edge};
use crate::reread::{current_names, lock};
use crate::server::Server;
use crate::session::Session;
use crate::snapshot::{CopySql, was_rewritten};
use crate::visibility::Snapshot;
use crate::wait::Wait;

/// Bytes of a chunk beyond which it is read again with fewer rows.
const BYTES_MAX: usize = 8 << 20;

/// What to read.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    /// Counts the chunks of one reader.
    pub(crate) number: u64,
    pub(crate) oid: u32,
    pub(crate) part: Part,
    /// How many rows at most.
    pub(crate) rows: usize,
}

/// Which rows of the table.
#[derive(Clone, Debug)]
pub(crate) enum Part {
    /// The next ones in the order of the key, of those that meet the condition. Where the order is
    /// not the one that it was, all of them again.
    After { key: Option<Vec<String>>, order: String, condition: Option<String> },
    /// Those with these keys.
    Keys(Vec<Vec<String>>),
}

impl Part {
    /// From the first key again, if keys are ordered in another way now.
    fn in_order(self, now: &str) -> Self {
        match self {
            Self::After { order, condition, .. } if order != now => {
                Self::After { key: None, order, condition }
            }
            same @ (Self::After { .. } | Self::Keys(_)) => same,
        }
    }

    /// The keys that are looked for at once; `None` if it is not by keys.
    fn keys(&self, rows_max: usize) -> Option<&[Vec<String>]> {
        match self {
            Self::Keys(keys) => keys.get(..keys.len().min(rows_max)),
            Self::After { .. } => None,
        }
    }
}

/// What was read.
#[derive(Debug)]
pub(crate) struct Chunk {
    /// An id of a transaction that was drawn when the session began.
    pub(crate) next_xid: u64,
    pub(crate) snapshot: Snapshot,
    /// When it was read, microseconds since 1970 UTC.
    pub(crate) began_us: i64,
    /// The table, as the snapshot has it.
    pub(crate) table: RawTable,
    pub(crate) types: Types,
    /// Messages of COPY in text format.
    pub(crate) rows: Vec<Bytes>,
    pub(crate) bytes: usize,
    /// The key of the last row, if there may be rows beyond it.
    pub(crate) end: Option<Vec<String>>,
    /// The keys that were looked for, as the server writes them.
    pub(crate) wanted: Vec<Vec<String>>,
    /// What the order of the keys depends on.
    pub(crate) order: String,
    /// It begins with the first key.
    pub(crate) is_first: bool,
    /// How many rows the server believes are in the table, of the first chunk of all of it.
    pub(crate) expected: Option<u64>,
    /// Rows, or keys that were asked for, that are done with it.
    pub(crate) taken: usize,
}

/// Reads chunks over a session of its own.
pub(crate) struct Reader {
    config: Arc<PostgresConfig>,
    id: Uuid,
    session: Option<Opened>,
}

/// A session, and what is known of the server.
struct Opened {
    session: Session,
    version: u32,
    next_xid: u64,
}

/// What became of a look at the table.
enum Look {
    Chunk(Box<Chunk>),
    /// The table is not there any more.
    Gone,
    /// It was altered just now.
    Altered,
    /// There was room for so many rows only.
    TooLarge(usize),
}

impl Reader {
    pub(crate) fn new(config: Arc<PostgresConfig>, id: Uuid) -> Self {
        Self { config, id, session: None }
    }

    /// Reads a chunk, after its low edge; `None` if there is no such table.
    pub(crate) async fn read(&mut self, task: &Task) -> Result<Option<Box<Chunk>>> {
        let opened = self.opened().await?;
        emit(&opened, self.edge(task.number, Edge::Low)).await?;
        let (mut wait, mut rows) = (Wait::begin(), task.rows);
        let chunk = loop {
            match self.look(&opened, task, (rows, &mut wait)).await? {
                Look::Chunk(chunk) => break Some(chunk),
                Look::Gone => break None,
                Look::Altered => wait.pause().await,
                Look::TooLarge(fitted) => rows = fitted.min(rows / 2).max(1),
            }
        };
        self.session = Some(opened);
        Ok(chunk)
    }

    /// Writes the high edge of a chunk, once whoever waits for it has the chunk.
    pub(crate) async fn end(&mut self, number: u64) -> Result<()> {
        let opened = self.opened().await?;
        emit(&opened, self.edge(number, Edge::High)).await?;
        self.session = Some(opened);
        Ok(())
    }

    /// The session, which an error ends.
    async fn opened(&mut self) -> Result<Opened> {
        if let Some(opened) = self.session.take().filter(|opened| !opened.session.is_closed()) {
            return Ok(opened);
        }
        let session = Session::open(&self.config).await?;
        let version = Server::read(&session).await?.version;
        let query = "select pg_current_xact_id()::text::int8";
        let next_xid: i64 = session
            .query_one(query, &[])
            .await
            .and_then(|row| row.try_get(0))
            .doing(|| "draw the id of a transaction".to_owned())?;
        Ok(Opened { session, version, next_xid: next_xid.unsigned_abs() })
    }

    fn edge(&self, number: u64, edge: Edge) -> ChunkEdge {
        ChunkEdge { reader: self.id, number, edge }
    }

    async fn look(
        &self,
        Opened { session, next_xid, .. }: &Opened,
        task: &Task,
        (rows_max, wait): (usize, &mut Wait),
    ) -> Result<Look> {
        let names = current_names(session, &BTreeSet::from([task.oid])).await?;
        let Some(from) = names.get(&task.oid) else { return Ok(Look::Gone) };
        // The lock comes before the snapshot, or a rewrite between the two would leave the table empty.
        if let Some(error) = lock(session, &names).await? {
            rollback(session).await?;
            locks::pause(wait, &error).await;
            return Ok(Look::Altered);
        }
        let snapshot = Snapshot::take(session).await?;
        let (table, types) = load_by_oid(session, task.oid, &self.config, &[]).await?;
        let Some(table) = table else {
            rollback(session).await?;
            return Ok(Look::Altered);
        };
        if was_rewritten(session, std::slice::from_ref(&table)).await? {
            rollback(session).await?;
            return Ok(Look::Altered);
        }
        let relation = self.relation(&table, &types)?;
        let began_us = session.now_us().await?;
        let place = Place { session, from, table: &table, relation: &relation };
        let order = place.order().await?;
        let part = task.part.clone().in_order(&order);
        let (conditions, end, wanted) = place.bounds(&part, rows_max).await?;
        let copied = place.copy(&conditions, rows_max).await?;
        let is_first = matches!(part, Part::After { key: None, .. });
        let expected = if matches!(part, Part::After { key: None, condition: None, .. }) {
            Some(expected(session, task.oid).await?)
        } else {
            None
        };
        execute(session, "commit").await?;
        Ok(match copied {
            Err(fitted) => Look::TooLarge(fitted),
            Ok((rows, bytes)) => Look::Chunk(Box::new(Chunk {
                next_xid: *next_xid,
                snapshot,
                began_us,
                table,
                types,
                taken: part.keys(rows_max).map_or(rows.len(), <[_]>::len),
                rows,
                bytes,
                end,
                wanted,
                order,
                is_first,
                expected,
            })),
        })
    }

    /// How the rows are selected; the log's version of the table is looked up when they arrive.
    fn relation(&self, table: &RawTable, types: &Types) -> Result<Arc<Relation>> {
        let action = || format!("read {} beside the stream", table.full_name());
        table.require_readable()?;
        if table.append_only {
            return Err(Error::new(ErrorKind::Config, action())
                .with_source("it has no key, so its rows cannot be told from those of the stream")
                .with_help("`anabranch source accept --snapshot` copies all tables again, where it is offered"));
        }
        if table.published.is_none() {
            return Err(Error::new(ErrorKind::Config, action())
                .with_source("it is not published")
                .with_help("`anabranch check` shows the statement that publishes it"));
        }
        let mut catalog =
            Catalog::new(vec![], KnownTables::default()).with_rules(RuleBook::new(&self.config));
        catalog.adopt(table, types)
    }
}

/// A table that is locked, in the snapshot of a session.
struct Place<'a> {
    session: &'a Session,
    from: &'a str,
    table: &'a RawTable,
    relation: &'a Relation,
}

/// Conditions in SQL, the last key of the part if more may follow, and the keys that are wanted.
type Bounds = (String, Option<Vec<String>>, Vec<Vec<String>>);

impl Place<'_> {
    async fn bounds(&self, part: &Part, rows: usize) -> Result<Bounds> {
        let key = key_columns(self.table, &self.relation.table)
            .ok_or_else(|| bug("read a chunk", "a column of the key is not in the catalog"))?;
        match part {
            Part::Keys(_) => {
                let keys = part.keys(rows).unwrap_or_default();
                let wanted = texts(self.session, &canonical(&key, keys)?, key.len()).await?;
                let each: Vec<&Vec<String>> = wanted.iter().collect();
                Ok((among(&key, &each), None, wanted))
            }
            Part::After { key: after, condition, .. } => {
                let after = after.as_ref().map(|after| compared(&key, ">", after));
                let mut conditions: Vec<String> = after.into_iter().collect();
                if let Some(condition) = condition {
                    self.require_expression(condition).await?;
                }
                let sql = last_key(self.from, &key, &conditions, rows);
                let end = texts(self.session, &sql, key.len()).await?.pop();
                conditions.extend(end.as_ref().map(|end| compared(&key, "<=", end)));
                // Only here: a chunk is no longer where few rows meet it.
                conditions.extend(condition.iter().map(|condition| format!("({condition})")));
                let all = if conditions.is_empty() {
                    "true".to_owned()
                } else {
                    conditions.join(" and ")
                };
                Ok((all, end, Vec::new()))
            }
        }
    }

    /// Types and collations of the key, with their versions.
    async fn order(&self) -> Result<String> {
        let attnums: Vec<i16> = self.relation.table.key_columns().map(|c| c.attnum).collect();
        let query = "
            select coalesce(string_agg(concat_ws('/', a.atttypid, a.atttypmod, a.attcollation,
                       c.collversion), ',' order by k.place), '')
            from unnest($2::int2[]) with ordinality k(attnum, place)
            join pg_attribute a on a.attrelid = $1 and a.attnum = k.attnum
            left join pg_collation c on c.oid = a.attcollation";
        let row = self.session.query_one(query, &[&self.table.oid, &attnums]).await;
        row.and_then(|row| row.try_get(0)).doing(|| "look up the order of keys".to_owned())
    }

    /// What is no expression by itself is refused before it is part of a statement.
    async fn require_expression(&self, condition: &str) -> Result<()> {
        let sql = format!("select from {} where ({condition})", self.from);
        let prepared = self.session.prepare(&sql).await;
        prepared
            .map(drop)
            .doing(|| format!("read the rows of {} where {condition}", self.table.full_name()))
    }

    /// The rows and their bytes; how many there were room for, if that is not all.
    async fn copy(
        &self,
        condition: &str,
        rows_max: usize,
    ) -> Result<std::result::Result<(Vec<Bytes>, usize), usize>> {
        let action = || format!("read a chunk of {}", self.table.full_name());
        let Self { session, from, table, relation } = self;
        let (condition, format) = (Some(condition), CopyFormat::Text);
        let sql = CopySql { table, relation, from, condition, format }.to_string();
        let mut stream = pin!(session.copy_out(&sql).await.doing(action)?);
        let (mut rows, mut bytes, mut count) = (Vec::new(), 0, 0);
        while let Some(row) = stream.next().await {
            let row = row.doing(action)?;
            bytes += row.len();
            count += 1;
            if bytes <= BYTES_MAX || rows_max == 1 {
                rows.push(row);
            } else {
                // The rest is read, or the session could not go on, and not kept.
                rows.clear();
            }
        }
        if rows.len() < count {
            // Half of what fits: rows are not alike.
            return Ok(Err(count * (BYTES_MAX / 2) / bytes));
        }
        Ok(Ok((rows, bytes)))
    }
}

/// Writes an edge. Before version 17 a commit flushes it.
async fn emit(Opened { session, version, .. }: &Opened, edge: ChunkEdge) -> Result<()> {
    let is_end = edge.edge == Edge::High;
    let flush = if is_end && *version >= FLUSH_VERSION { ", true" } else { "" };
    let mut sql = format!("select pg_logical_emit_message(false, '{PREFIX}', '{edge}'{flush})");
    if is_end && *version < FLUSH_VERSION {
        sql.push_str(&format!("; select pg_logical_emit_message(true, '{PREFIX}', 'flush')"));
    }
    execute(session, &sql).await
}

async fn execute(session: &Session, sql: &str) -> Result<()> {
    session.batch_execute(sql).await.doing(|| "read a chunk of a table".to_owned())
}

async fn rollback(session: &Session) -> Result<()> {
    execute(session, "rollback").await
}

/// Rows of the table and its partitions, as of the last ANALYZE.
async fn expected(session: &Session, oid: u32) -> Result<u64> {
    let query = "
        with recursive tree(oid) as (
          select $1::oid union select i.inhrelid from pg_inherits i join tree on i.inhparent = tree.oid)
        select coalesce(sum(greatest(c.reltuples, 0)), 0)::int8
        from tree join pg_class c on c.oid = tree.oid where c.relkind = 'r'";
    let row = session.query_one(query, &[&oid]).await;
    let rows: i64 =
        row.and_then(|row| row.try_get(0)).doing(|| "look up how large a table is".to_owned())?;
    Ok(rows.unsigned_abs())
}

/// Rows of `width` texts.
async fn texts(session: &Session, sql: &str, width: usize) -> Result<Vec<Vec<String>>> {
    let action = || "look up keys of a chunk".to_owned();
    let rows = session.query(sql, &[]).await.doing(action)?;
    let row = |row: &tokio_postgres::Row| (0..width).map(|place| row.try_get(place)).collect();
    rows.iter().map(row).collect::<Result<_, tokio_postgres::Error>>().doing(action)
}
