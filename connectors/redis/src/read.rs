//! Looks at what is in Redis without owning it, and takes it away.

use std::collections::BTreeMap;

use anabranch_core::{Assignment, Result, StoreCursor, Table};
use futures::future::try_join_all;
use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, RedisError, cmd};
use serde_json::value::RawValue;

use crate::chunk::Layout;
use crate::connection::Server;
use crate::error::Failure;
use crate::scan::Scan;
use crate::script::{Args, Scripts, run};
use crate::sink::parse;
use crate::{RedisConfig, RowFormat};

/// A row as Redis holds it: the text of its key, and its fields with version and partition. A
/// null has no field, in either format; a string in JSON comes without its quotes.
pub type StoredRow = (String, BTreeMap<String, String>);

/// Reads every row of `table`, by key. For tests and comparisons: all of them are in memory.
///
/// # Errors
///
/// As of any command: `Transient` if Redis does not answer, `Config` if it refuses us.
pub async fn read_all(config: &RedisConfig, table: &Table) -> Result<Vec<StoredRow>> {
    let layout = Layout::new(config, table);
    let mut server = Server::new(config)?;
    let action = format!("read {} from {}", table.full_name(), server.name());
    let connection = server.connection().await?;
    let mut rows = BTreeMap::new();
    let mut scan = Scan::new(connection.clone(), &layout.start);
    while let Some(page) = scan.page().await.map_err(|failure| failure.at(&*action))? {
        let reads = page.iter().map(|key| row(connection.clone(), &layout, key));
        let read = try_join_all(reads).await.map_err(|failure| failure.at(&*action))?;
        rows.extend(read.into_iter().flatten());
    }
    Ok(rows.into_iter().collect())
}

/// Reads the cursors of the units of `assignment`, and leaves their owner alone.
///
/// # Errors
///
/// As [`read_all`], and `Config` if a cursor is of another release.
pub async fn read_cursors(config: &RedisConfig, assignment: &Assignment) -> Result<StoreCursor> {
    let mut connection = Server::new(config)?.connection().await?;
    let mut cursors = StoreCursor::new();
    for partition in &assignment.partitions {
        let unit = config.key.unit(&assignment.sink, &assignment.topic, *partition);
        let held = cmd("HGET").arg(&unit).arg("cursor").query_async(&mut connection).await;
        let cursor = held
            .map_err(Failure::from)
            .and_then(|held: Option<String>| parse(&held.unwrap_or_default()));
        let cursor = cursor.map_err(|failure| failure.at(format!("read {unit}")))?;
        cursors.extend(cursor.map(|cursor| (*partition, cursor)));
    }
    Ok(cursors)
}

/// Takes away the cursors of the units of `assignment`, then the rows of its table: a worker begins
/// at the beginning then. Stop its workers first. Returns how many rows are gone.
///
/// Killed half-way it leaves rows without a cursor, never a cursor without its rows: run it again.
///
/// # Errors
///
/// As [`read_all`].
pub async fn clear(config: &RedisConfig, assignment: &Assignment) -> Result<u64> {
    let layout = Layout::new(config, &assignment.table);
    let mut server = Server::new(config)?;
    let mut connection = server.connection().await?;
    let table = assignment.table.full_name();
    let failed = |failure: Failure| failure.at(format!("clear {table} in {}", server.name()));
    for partition in &assignment.partitions {
        let unit = config.key.unit(&assignment.sink, &assignment.topic, *partition);
        let gone = cmd("DEL").arg(unit).query_async::<()>(&mut connection).await;
        gone.map_err(|error| failed(error.into()))?;
    }
    let clear = Scripts::new().clear;
    let words = Args::new(layout.words());
    let mut rows = 0;
    let mut scan = Scan::new(connection.clone(), &layout.start);
    while let Some(page) = scan.page().await.map_err(failed)? {
        let keys = Args::new(page.iter().map(String::as_str));
        let gone = run(&mut connection, &clear, &keys, &[&words]).await.map_err(failed)?;
        rows += gone.and_then(|count| count.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(rows)
}

/// The row at `key`, or `None` if what is there is no row of ours, or is gone by now.
async fn row(
    mut connection: MultiplexedConnection,
    layout: &Layout,
    key: &str,
) -> Result<Option<StoredRow>, Failure> {
    let fields = match layout.format {
        RowFormat::Hash => {
            let held = cmd("HGETALL").arg(key).query_async(&mut connection).await;
            hash(unless_other_type(held)?.unwrap_or_default())
        }
        RowFormat::Json => {
            let held = cmd("GET").arg(key).query_async(&mut connection).await;
            object(&unless_other_type::<Option<Vec<u8>>>(held)?.flatten().unwrap_or_default())
        }
    };
    let text = key.strip_prefix(&layout.start).unwrap_or(key).to_owned();
    Ok(layout.has_own_fields(&fields).then_some((text, fields)))
}

fn unless_other_type<T: FromRedisValue>(
    held: Result<T, RedisError>,
) -> Result<Option<T>, RedisError> {
    match held {
        Err(error) if error.code() == Some("WRONGTYPE") => Ok(None),
        held => held.map(Some),
    }
}

fn hash(held: Vec<(Vec<u8>, Vec<u8>)>) -> BTreeMap<String, String> {
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    held.into_iter().map(|(name, value)| (text(name), text(value))).collect()
}

fn object(held: &[u8]) -> BTreeMap<String, String> {
    let members: BTreeMap<String, &RawValue> = serde_json::from_slice(held).unwrap_or_default();
    let text = |raw: &RawValue| match serde_json::from_str(raw.get()) {
        Ok(serde_json::Value::String(text)) => text,
        _ => raw.get().to_owned(),
    };
    let there = members.into_iter().filter(|(_, raw)| raw.get() != "null");
    there.map(|(name, raw)| (name, text(raw))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_reads_as_a_hash_would() {
        let fields =
            object(br#"{"_v":"00ff","_p":3,"a":"x\"y","b":null,"c":12.50,"d":{"k": [1]}}"#);
        let wanted =
            [("_p", "3"), ("_v", "00ff"), ("a", "x\"y"), ("c", "12.50"), ("d", "{\"k\": [1]}")];
        let seen: Vec<_> = fields.iter().map(|(name, text)| (&**name, &**text)).collect();
        assert_eq!(seen, wanted);
        assert!(object(b"not ours").is_empty());
    }
}
