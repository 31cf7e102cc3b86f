//! The SQL of a re-read: by oid and attribute number, under whatever names they have now.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write;

use anabranch_core::{RepairReason, Result};
use bytes::Bytes;
use postgres_protocol::escape::{escape_identifier, escape_literal};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::{Found, FoundRows, Wanted, WantedRows};
use crate::error::{Context, is_unfit};

/// Keys in one query: enough to make a round trip cheap, few enough for a plan by index.
const KEYS_MAX: usize = 500;

/// A column of a row as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Current {
    Value(Bytes),
    /// Null, or dropped.
    Null,
    /// Its value has another type than the event's schema says.
    TypeChanged,
}

/// Tables by oid, under their names of now; a table that was dropped is not among them.
pub(super) type Names = HashMap<u32, String>;

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

pub(super) async fn current_names(client: &Client, oids: &BTreeSet<u32>) -> Result<Names> {
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

/// Begins a transaction and locks the tables; its snapshot is not taken yet. `false` if one of them
/// was renamed or dropped meanwhile: roll back and look again.
pub(super) async fn lock(client: &Client, names: &Names) -> Result<bool> {
    let mut sql = "begin isolation level repeatable read read only".to_owned();
    for name in names.values() {
        sql.push_str("; lock table ");
        sql.push_str(name);
        sql.push_str(" in access share mode");
    }
    match client.batch_execute(&sql).await {
        Ok(()) => Ok(true),
        Err(error)
            if matches!(
                error.code(),
                Some(&SqlState::UNDEFINED_TABLE | &SqlState::INVALID_SCHEMA_NAME)
            ) =>
        {
            Ok(false)
        }
        Err(error) => Err(error).doing(action),
    }
}

/// What a look at the rows brought.
pub(super) enum LookedUp {
    Rows(FoundRows),
    /// The keys of this table have values that its key cannot have any more: an enum's label that
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
        for chunk in rows.chunks(KEYS_MAX) {
            let wanted: Vec<&Wanted> = chunk.iter().map(|(_, wanted)| *wanted).collect();
            let query = Query::new(*oid, name, &wanted, &columns);
            let Some(query) = query.filter(|_| !unfit.contains(oid)) else {
                let changed = Found::Unknown(RepairReason::KeyChanged);
                found.extend(chunk.iter().map(|(key, _)| ((*key).clone(), changed.clone())));
                continue;
            };
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

/// One query for many rows of one table.
struct Query {
    sql: String,
    /// The columns it selects.
    attnums: Vec<i16>,
    /// Columns that are not what they were.
    others: HashMap<i16, Current>,
}

impl Query {
    /// `None` if the key is not what it was, so that rows cannot be found by it.
    fn new(oid: u32, table: &str, wanted: &[&Wanted], columns: &Columns) -> Option<Self> {
        let relation = &wanted.first()?.relation;
        let mut key = Vec::new();
        for column in relation.table.key_columns() {
            let now = columns.get(&(oid, column.attnum))?;
            relation.has_type(column.attnum, now.type_oid, None).then_some(())?;
            key.push(now);
        }
        let mut others = HashMap::new();
        let mut attnums = Vec::new();
        let mut select = String::new();
        for attnum in wanted.iter().flat_map(|row| &row.attnums).collect::<BTreeSet<_>>() {
            match columns.get(&(oid, *attnum)) {
                None => drop(others.insert(*attnum, Current::Null)),
                Some(now) if relation.has_type(*attnum, now.type_oid, Some(now.typmod)) => {
                    write!(select, ", t.{}", escape_identifier(&now.name)).ok()?;
                    attnums.push(*attnum);
                }
                Some(_) => drop(others.insert(*attnum, Current::TypeChanged)),
            }
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
        Some(Self { sql, attnums, others })
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
            let mut values = self.others.clone();
            for (field, attnum) in self.attnums.iter().enumerate() {
                let value = row.try_get(field + 1)?;
                let current = value.map_or(Current::Null, |value| {
                    Current::Value(Bytes::copy_from_slice(value.as_bytes()))
                });
                values.insert(*attnum, current);
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
