//! The SQL of a re-read: by oid and attribute number, under whatever names they have now.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write;

use anabranch_core::{RepairReason, Result};
use bytes::Bytes;
use postgres_protocol::escape::{escape_identifier, escape_literal};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::{Found, FoundRows, Wanted, WantedRows};
use crate::error::{Context, bug, is_unfit};
use crate::key_sql::KEYS_MAX;
use crate::locks::{is_taken, lock_sql};

/// A column of a row as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Current {
    /// Its type and modifier, which may not be those of the event, and the text; `None` is null.
    Value {
        type_oid: u32,
        typmod: i32,
        text: Option<Bytes>,
    },
    Dropped,
}

/// Tables by oid, under their names of now; a table that was dropped is not among them.
pub(crate) type Names = HashMap<u32, String>;

/// A column by (relation, attribute number): its name, type and modifier now.
type Columns = HashMap<(u32, i16), Column>;

struct Column {
    name: String,
    type_oid: u32,
    typmod: i32,
    type_name: String,
}

fn action() -> String {
    "re-read unchanged values".to_owned()
}

pub(crate) async fn current_names(client: &Client, oids: &BTreeSet<u32>) -> Result<Names> {
    let oids: Vec<u32> = oids.iter().copied().collect();
    // ONLY keeps the children of a table that is inherited from out; partitions belong to theirs.
    let query = "
        select c.oid, case c.relkind when 'p' then '' else 'only ' end
               || quote_ident(n.nspname) || '.' || quote_ident(c.relname)
        from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where c.oid = any($1) and c.relkind in ('r', 'p')";
    let rows = client.query(query, &[&oids]).await.doing(action)?;
    let pairs = rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?)));
    pairs.collect::<Result<_, tokio_postgres::Error>>().doing(action)
}

/// Begins a transaction and locks the tables; its snapshot is not taken yet. `Some` if they are not
/// to be had now: somebody alters one of them, or has renamed or dropped it. Roll back then, and look
/// again.
pub(crate) async fn lock(client: &Client, names: &Names) -> Result<Option<tokio_postgres::Error>> {
    client.batch_execute("begin isolation level repeatable read read only").await.doing(action)?;
    let names: Vec<String> = names.values().cloned().collect();
    if names.is_empty() {
        return Ok(None);
    }
    match client.batch_execute(&lock_sql(&names)).await {
        Ok(()) => Ok(None),
        Err(error) if is_taken(&error) || is_gone(&error) => Ok(Some(error)),
        Err(error) => Err(error).doing(action),
    }
}

fn is_gone(error: &tokio_postgres::Error) -> bool {
    matches!(error.code(), Some(&SqlState::UNDEFINED_TABLE | &SqlState::INVALID_SCHEMA_NAME))
}

/// What a look at the rows brought.
pub(super) enum LookedUp {
    Rows(FoundRows),
    /// Keys of this table have values that its key cannot have any more: an enum's label that
    /// was renamed, a domain that was narrowed. The transaction is void.
    Unfit(u32),
}

/// Looks every row up in the open transaction, but for those of tables that are `unfit`.
pub(super) async fn look_up(
    client: &Client,
    names: &Names,
    wanted: &WantedRows,
    unfit: &BTreeSet<u32>,
) -> Result<LookedUp> {
    let oids: Vec<u32> = names.keys().copied().collect();
    let columns = columns(client, &oids).await?;
    let mut found: FoundRows = wanted.keys().map(|key| (key.clone(), Found::Gone)).collect();
    for (oid, name) in names {
        let rows: Vec<(&(u32, Bytes), &Wanted)> =
            wanted.iter().filter(|((relation, _), _)| relation == oid).collect();
        // Each was changed under a schema of its own time.
        let has_key = |(_, wanted): &(&(u32, Bytes), &Wanted)| wanted.has_key(&columns);
        let (rows, others) =
            rows.into_iter().partition::<Vec<_>, _>(|row| !unfit.contains(oid) && has_key(row));
        let changed = Found::Unknown(RepairReason::KeyChanged);
        found.extend(others.into_iter().map(|(key, _)| (key.clone(), changed.clone())));
        for chunk in rows.chunks(KEYS_MAX) {
            let wanted: Vec<&Wanted> = chunk.iter().map(|(_, wanted)| *wanted).collect();
            let query = Query::new(*oid, name, &wanted, &columns);
            let query = query.ok_or_else(|| bug(action(), "its key is no text"))?;
            let rows = match query.run(client).await {
                Err(error) if is_unfit(&error) => return Ok(LookedUp::Unfit(*oid)),
                rows => rows.doing(action)?,
            };
            for (place, row) in rows {
                if let Some(((oid, key), _)) = chunk.get(place) {
                    found.insert((*oid, key.clone()), Found::Row(row));
                }
            }
        }
    }
    Ok(LookedUp::Rows(found))
}

async fn columns(client: &Client, oids: &[u32]) -> Result<Columns> {
    let query = "
        select attrelid, attnum, attname::text, atttypid, atttypmod, format_type(atttypid, atttypmod)
        from pg_attribute where attrelid = any($1) and attnum > 0 and not attisdropped";
    let rows = client.query(query, &[&oids]).await.doing(action)?;
    let pairs = rows.iter().map(|row| {
        let column = Column {
            name: row.try_get(2)?,
            type_oid: row.try_get(3)?,
            typmod: row.try_get(4)?,
            type_name: row.try_get(5)?,
        };
        Ok(((row.try_get(0)?, row.try_get(1)?), column))
    });
    pairs.collect::<Result<_, tokio_postgres::Error>>().doing(action)
}

impl Wanted {
    /// Whether its key is of the types that it was of.
    fn has_key(&self, columns: &Columns) -> bool {
        let table = &self.relation.table;
        let is_same = |column: &anabranch_core::Column| {
            let now = columns.get(&(table.oid, column.attnum));
            now.is_some_and(|now| self.relation.has_type(column.attnum, now.type_oid, None))
        };
        table.key_columns().all(is_same)
    }
}

/// One query for many rows of one table.
struct Query<'a> {
    sql: String,
    /// The columns it selects.
    selected: Vec<(i16, &'a Column)>,
    /// Columns that are gone.
    dropped: Vec<i16>,
}

impl<'a> Query<'a> {
    /// `None` if a key cannot be written into it.
    fn new(oid: u32, table: &str, wanted: &[&Wanted], columns: &'a Columns) -> Option<Self> {
        let key = wanted.first()?.relation.table.key_columns();
        let key: Vec<&Column> =
            key.map(|column| columns.get(&(oid, column.attnum))).collect::<Option<_>>()?;
        let (mut selected, mut dropped) = (Vec::new(), Vec::new());
        let mut select = String::new();
        for attnum in wanted.iter().flat_map(|row| &row.attnums).collect::<BTreeSet<_>>() {
            let Some(now) = columns.get(&(oid, *attnum)) else {
                dropped.push(*attnum);
                continue;
            };
            write!(select, ", t.{}", escape_identifier(&now.name)).ok()?;
            selected.push((*attnum, now));
        }
        let sql = format!(
            "select k.n{select} from (values {}) k(n{}) join {table} t on {}",
            values(wanted, &key)?,
            (0..key.len()).map(|place| format!(", k{place}")).collect::<String>(),
            key.iter()
                .enumerate()
                .map(|(place, column)| format!(
                    "t.{} = k.k{place}",
                    escape_identifier(&column.name)
                ))
                .collect::<Vec<_>>()
                .join(" and "),
        );
        Some(Self { sql, selected, dropped })
    }

    /// The rows that are there, by their place among those that were asked for.
    async fn run(
        &self,
        client: &Client,
    ) -> Result<Vec<(usize, HashMap<i16, Current>)>, tokio_postgres::Error> {
        let mut rows = Vec::new();
        // The simple protocol gives values in text form, as the stream does.
        for message in client.simple_query(&self.sql).await? {
            let SimpleQueryMessage::Row(row) = message else { continue };
            let place = row.try_get(0)?.and_then(|place| place.parse().ok());
            let dropped = self.dropped.iter().map(|attnum| (*attnum, Current::Dropped));
            let mut values: HashMap<i16, Current> = dropped.collect();
            for (field, (attnum, column)) in self.selected.iter().enumerate() {
                let text = row.try_get(field + 1)?;
                let text = text.map(|text| Bytes::copy_from_slice(text.as_bytes()));
                let Column { type_oid, typmod, .. } = **column;
                values.insert(*attnum, Current::Value { type_oid, typmod, text });
            }
            rows.extend(place.map(|place: usize| (place, values)));
        }
        Ok(rows)
    }
}

/// `(0, 'key'::type, ..), (1, ..)`.
fn values(wanted: &[&Wanted], key: &[&Column]) -> Option<String> {
    let mut sql = String::new();
    for (place, row) in wanted.iter().enumerate() {
        let separator = if place == 0 { "" } else { ", " };
        write!(sql, "{separator}({place}").ok()?;
        for (text, column) in row.key.iter().zip(key) {
            let text = std::str::from_utf8(text).ok()?;
            write!(sql, ", {}::{}", escape_literal(text), column.type_name).ok()?;
        }
        sql.push(')');
    }
    Some(sql)
}
