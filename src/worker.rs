//! From configuration to concrete sources and sinks: the only match on kinds of store.
//!
//! Each function is one attempt: it opens what it needs, runs the loop until it is told to stop
//! or something fails, and leaves trying again to the supervisor.

use std::sync::Arc;

use anabranch_core::{
    Batch, Error, ErrorKind, Finding, Level, Result, Sink, StoreCursor, UnitCursor,
};
use anabranch_delta::DeltaSink;
use anabranch_elasticsearch::ElasticsearchSink;
use anabranch_kafka::{Limits, LogScan, LogSink, TopicSource};
use anabranch_postgres::{Acceptance, PostgresConfig, PostgresSource, SnapshotRequests};
use anabranch_redis::RedisSink;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, StoreConfig};
use crate::control::Control;
use crate::guard;
use crate::pipeline::{self, Report};
use crate::status::Status;

/// How long the control schema may take to answer.
const CONTROL_WAIT_MAX: std::time::Duration = std::time::Duration::from_secs(10);

/// How long a commit of a Delta table collects changes: each one adds files to the table.
const DELTA_WAIT: std::time::Duration = std::time::Duration::from_secs(5);

/// PostgreSQL → log. The advisory lock comes first: who lacks it waits here and touches nothing;
/// then the producer, which fences a holder that lost its session; then the loop.
///
/// # Errors
///
/// As [`pipeline::run`].
pub async fn run_source(
    config: &Config,
    status: &Status,
    snapshots: watch::Receiver<SnapshotRequests>,
    (stop, report): (&CancellationToken, Report<'_>),
) -> Result<()> {
    let database = config.source.database()?;
    let mut source =
        PostgresSource::open_with(config.source.clone(), status.source_stats()).await?;
    if anabranch_kafka::admin::read_position(&config.kafka).await?.is_none() {
        first_look(&config.source).await?;
    }
    let mut log = LogSink::open(&config.kafka, &config.registry, &database)?;
    // Schema versions are counted in the log, so the source must hear of them before it reads.
    log.cursor().await?;
    status.set_work(log.repairs(), log.snapshots());
    source.know(log.tables().cloned());
    source.remember(Arc::new(LogScan::new(&config.kafka)));
    source.ask_of_drops(Arc::new(guard::Traces(config.clone())));
    source.accept(accepted(config).await);
    source.follow(snapshots);
    Box::pin(pipeline::run(&mut source, &mut log, stop, report)).await
}

/// What people have accepted of lost history. Without the control schema that is nothing: the source
/// stands still then, and is told again.
async fn accepted(config: &Config) -> Vec<Acceptance> {
    let read = async { Control::open(config).await?.accepted().await };
    match tokio::time::timeout(CONTROL_WAIT_MAX, read).await {
        Ok(Ok(accepted)) => accepted,
        Ok(Err(error)) => {
            tracing::warn!("{}; nothing counts as accepted", error.report());
            Vec::new()
        }
        Err(_elapsed) => {
            tracing::warn!("the control schema does not answer; nothing counts as accepted");
            Vec::new()
        }
    }
}

/// Before anything is made for the first time: what `check` calls a blocker ends it here, so that
/// nothing is left half made. What it says of the slot is for the source to judge.
async fn first_look(source: &PostgresConfig) -> Result<()> {
    let blocks =
        |finding: &Finding| finding.level == Level::Blocker && finding.subject != "source: slot";
    match anabranch_postgres::check(source, None).await.into_iter().find(blocks) {
        Some(Finding { subject, seen, help, .. }) => {
            let error = Error::new(ErrorKind::Config, format!("begin with the {subject}"));
            Err(error.with_source(seen).with_help(help))
        }
        None => Ok(()),
    }
}

/// Log → one table of one store.
///
/// # Errors
///
/// As [`pipeline::run`].
pub async fn run_table(
    store: &StoreConfig,
    source: &mut TopicSource,
    stop: &CancellationToken,
    report: Report<'_>,
) -> Result<()> {
    let assignment = source.assignment();
    match store {
        StoreConfig::Elasticsearch(config) => {
            let sink = ElasticsearchSink::open(config, assignment)?;
            run_store(source, sink, stop, report).await
        }
        StoreConfig::Redis(config) => {
            let sink = RedisSink::open(config, assignment).await?;
            run_store(source, sink, stop, report).await
        }
        StoreConfig::Delta(config) => {
            let sink = DeltaSink::open(config, assignment)?;
            run_store(source, sink, stop, report).await
        }
    }
}

async fn run_store<K: Sink<Batch, StoreCursor>>(
    source: &mut TopicSource,
    sink: K,
    stop: &CancellationToken,
    report: Report<'_>,
) -> Result<()> {
    let mut store = Store { sink, held: StoreCursor::new() };
    Box::pin(pipeline::run(source, &mut store, stop, report)).await
}

/// A store that can be asked whether it still stands where it was left.
struct Store<K> {
    sink: K,
    held: StoreCursor,
}

/// The units that have moved at all: a store need not hold a cursor for the others.
fn moved(cursor: &StoreCursor) -> StoreCursor {
    let has_moved = |unit: &UnitCursor| unit.next > 0 || unit.resets > 0;
    let moved = cursor.iter().filter(|(_, unit)| has_moved(unit));
    moved.map(|(partition, unit)| (*partition, unit.clone())).collect()
}

impl<K: Sink<Batch, StoreCursor>> Sink<Batch, StoreCursor> for Store<K> {
    async fn cursor(&mut self) -> Result<Option<StoreCursor>> {
        let held = self.sink.cursor().await?;
        self.held = held.as_ref().map(moved).unwrap_or_default();
        Ok(held)
    }

    async fn apply(&mut self, batch: &Batch, upto: &StoreCursor) -> Result<()> {
        self.sink.apply(batch, upto).await?;
        self.held = moved(upto);
        Ok(())
    }

    async fn recheck(&mut self) -> Result<()> {
        let now = self.sink.cursor().await?.as_ref().map(moved).unwrap_or_default();
        if now == self.held {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Transient, "go on from where the store was left")
            .with_source("it was put back to another state, or written by another worker"))
    }
}

/// How large the batches of a store are.
#[must_use]
pub fn limits(store: &StoreConfig) -> Limits {
    match store {
        StoreConfig::Elasticsearch(_) | StoreConfig::Redis(_) => Limits::default(),
        StoreConfig::Delta(_) => Limits { wait: DELTA_WAIT, ..Limits::default() },
    }
}
