//! A log into a store, by the daemon's own worker, until there is nothing left to apply.

use std::collections::BTreeMap;
use std::time::Duration;

use anabranch::config::StoreConfig;
use anabranch::worker;
use anabranch_core::{Error, Table};
use anabranch_kafka::{Group, GroupEvent, GroupStats, Limits, TopicSource};
use arrow_array::RecordBatch;
use arrow_array::cast::AsArray as _;
use arrow_array::types::{Int32Type, Int64Type};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::Result;
use crate::scene::{PREFIX, Scene, Store};
use crate::source::Retries;
use crate::stage::Outcome;
use crate::usage::Meter;
use crate::workload::{Held, Tally};

/// Between two looks at the progress.
const LOOK: Duration = Duration::from_millis(20);
/// The generation of a sink until there are more.
const GENERATION: u32 = 1;
/// Keys that one command of a check looks at.
const SCAN_KEYS: usize = 2000;

/// Applies the log to the store.
pub(crate) async fn run(scene: &Scene, log: &str, store: Store) -> Result<Outcome> {
    let config = scene.store(store)?;
    // A backlog fills batches; the wait of a Delta table would only be added at the end.
    let (kafka, limits) = (scene.kafka(log), Limits::default());
    let mut group = Group::join(&kafka, store.name(), GENERATION, limits, None).await?;
    let stats = group.stats();
    let mut source = assigned(&mut group).await?;
    let meter = Meter::start(scene.server_pid(store.name()))?;
    let (stop, retries) = (CancellationToken::new(), Retries::default());
    let report = |error: Option<&Error>| retries.note(error);
    let applied = worker::run_table(&config, &mut source, &stop, &report);
    let watched = watch(&mut group, &stats, kafka.partitions, &stop);
    let (applied, watched) = tokio::join!(async { applied.await.map_err(Into::into) }, watched);
    let usage = meter.stop()?;
    applied.and(watched).and(retries.none())?;
    group.leave().await?;
    Ok(Outcome { tally: Tally { ids: 0, ..scene.truth()?.changes }, usage })
}

async fn assigned(group: &mut Group) -> Result<TopicSource> {
    match group.next().await? {
        GroupEvent::Assigned(source) => Ok(source),
        GroupEvent::Revoked { topic } => Err(format!("{topic} was taken away").into()),
    }
}

/// Stops the run once every partition is applied; an error of the group stops it, too.
async fn watch(
    group: &mut Group,
    stats: &GroupStats,
    partitions: i32,
    stop: &CancellationToken,
) -> Result<()> {
    let _stop = stop.clone().drop_guard();
    let partitions = usize::try_from(partitions)?;
    loop {
        // Both are cancel-safe. The worker may fail, which the group does not hear of.
        tokio::select! {
            biased;
            event = group.next() => match event? {
                GroupEvent::Assigned(_) => return Err("a second topic was assigned".into()),
                GroupEvent::Revoked { topic } => return Err(format!("{topic} was taken away").into()),
            },
            () = tokio::time::sleep(LOOK) => {
                let units = stats.units();
                let done = units.iter().filter(|unit| unit.caught_up && unit.applied_us.is_some());
                if done.count() == partitions {
                    return Ok(());
                }
            }
        }
    }
}

/// What the store holds.
pub(crate) async fn held(scene: &Scene, store: Store) -> Result<Held> {
    let table = scene.table()?;
    match scene.store(store)? {
        StoreConfig::Elasticsearch(config) => {
            let alias = format!("{}{}", config.index_prefix, table.name);
            search_held(&config.url, &alias).await
        }
        StoreConfig::Redis(_) => redis_held(scene).await,
        StoreConfig::Delta(config) => {
            let batches = anabranch_delta::read_table(&config, table).await?;
            batches.iter().try_fold(Held::default(), |held, batch| add(held, batch, table))
        }
    }
}

async fn search_held(url: &str, alias: &str) -> Result<Held> {
    let client = http()?;
    let refreshed = client.post(format!("{url}/{alias}/_refresh")).send().await?;
    refreshed.error_for_status()?;
    let sum = |field: &str| json!({"sum": {"field": field}});
    let query = json!({"size": 0, "track_total_hits": true,
        "aggs": {"ids": sum("id"), "revisions": sum("revision")}});
    let search = client.post(format!("{url}/{alias}/_search")).json(&query).send().await?;
    let answer: Value = search.error_for_status()?.json().await?;
    let number = |path: &str| {
        let number = answer.pointer(path).and_then(Value::as_f64);
        // Whole and far below 2^53.
        let whole = number.map(|number| format!("{number:.0}").parse::<i64>());
        whole.ok_or_else(|| format!("no {path} in the answer"))
    };
    Ok(Held {
        rows: number("/hits/total/value")??,
        ids: number("/aggregations/ids/value")??,
        revisions: number("/aggregations/revisions/value")??,
    })
}

async fn redis_held(scene: &Scene) -> Result<Held> {
    let mut connection = redis_connection(scene).await?;
    let mut held = Held::default();
    let (pattern, mut cursor) = (format!("{PREFIX}:seq200:*"), 0_u64);
    loop {
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(SCAN_KEYS);
        let (next, keys): (u64, Vec<String>) = scan.query_async(&mut connection).await?;
        let mut read = redis::pipe();
        for key in &keys {
            read.cmd("HMGET").arg(key).arg("id").arg("revision");
        }
        // SCAN may give a key twice only while the table of keys grows or shrinks.
        let rows: Vec<(i64, i64)> = read.query_async(&mut connection).await?;
        for (id, revision) in rows {
            held.rows += 1;
            held.ids += id;
            held.revisions += revision;
        }
        cursor = next;
        if cursor == 0 {
            return Ok(held);
        }
    }
}

fn add(held: Held, batch: &RecordBatch, table: &Table) -> Result<Held> {
    let missing = |name: &str| format!("{} has no column {name}", table.full_name());
    let ids = batch.column_by_name("id").and_then(|column| column.as_primitive_opt::<Int64Type>());
    let ids = ids.ok_or_else(|| missing("id"))?;
    let revisions = batch.column_by_name("revision");
    let revisions = revisions.and_then(|column| column.as_primitive_opt::<Int32Type>());
    let revisions = revisions.ok_or_else(|| missing("revision"))?;
    Ok(Held {
        rows: held.rows + i64::try_from(batch.num_rows())?,
        ids: held.ids + ids.values().iter().sum::<i64>(),
        revisions: held.revisions + revisions.values().iter().copied().map(i64::from).sum::<i64>(),
    })
}

/// Removes what runs have left in the store.
pub(crate) async fn clear(scene: &Scene, store: Store) -> Result<()> {
    match store {
        Store::Elasticsearch => clear_search(scene.elasticsearch_url()).await,
        Store::Redis => clear_redis(scene).await,
        // The folder is the run's own.
        Store::Delta => Ok(()),
    }
}

async fn clear_search(url: &str) -> Result<()> {
    let client = http()?;
    let indices = client.get(format!("{url}/{PREFIX}-*")).send().await?;
    let indices: BTreeMap<String, Value> = indices.error_for_status()?.json().await?;
    for index in indices.keys() {
        client.delete(format!("{url}/{index}")).send().await?.error_for_status()?;
    }
    Ok(())
}

async fn clear_redis(scene: &Scene) -> Result<()> {
    let mut connection = redis_connection(scene).await?;
    let (pattern, mut cursor) = (format!("{PREFIX}:*"), 0_u64);
    loop {
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(SCAN_KEYS);
        let (next, keys): (u64, Vec<String>) = scan.query_async(&mut connection).await?;
        if !keys.is_empty() {
            redis::cmd("UNLINK").arg(&keys).exec_async(&mut connection).await?;
        }
        cursor = next;
        if cursor == 0 {
            return Ok(());
        }
    }
}

async fn redis_connection(scene: &Scene) -> Result<redis::aio::MultiplexedConnection> {
    let client = redis::Client::open(scene.redis_url())?;
    Ok(client.get_multiplexed_async_connection().await?)
}

/// A client for Elasticsearch, whatever proxy the environment names.
pub(crate) fn http() -> Result<reqwest::Client> {
    Ok(reqwest::Client::builder().no_proxy().build()?)
}
