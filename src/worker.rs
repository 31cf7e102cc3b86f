//! From configuration to concrete sources and sinks: the only match on kinds of store.
//!
//! Each function is one attempt: it opens what it needs, runs the loop until it is told to stop
//! or something fails, and leaves trying again to the supervisor.

use anabranch_core::{Batch, Result, Sink, StoreCursor};
use anabranch_delta::DeltaSink;
use anabranch_elasticsearch::ElasticsearchSink;
use anabranch_kafka::{Limits, LogSink, TopicSource};
use anabranch_postgres::PostgresSource;
use anabranch_redis::RedisSink;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, StoreConfig};
use crate::pipeline::{self, Report};
use crate::status::Status;

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
    stop: &CancellationToken,
    report: Report<'_>,
) -> Result<()> {
    let database = config.source.database()?;
    let mut source = PostgresSource::open(config.source.clone()).await?;
    status.set_source_stats(source.stats());
    let mut log = LogSink::open(&config.kafka, &config.registry, &database)?;
    // Schema versions are counted in the log, so the source must hear of them before it reads.
    log.cursor().await?;
    source.know(log.tables().cloned());
    Box::pin(pipeline::run(&mut source, &mut log, stop, report)).await
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
    mut sink: K,
    stop: &CancellationToken,
    report: Report<'_>,
) -> Result<()> {
    Box::pin(pipeline::run(source, &mut sink, stop, report)).await
}

/// How large the batches of a store are.
#[must_use]
pub fn limits(store: &StoreConfig) -> Limits {
    match store {
        StoreConfig::Elasticsearch(_) | StoreConfig::Redis(_) => Limits::default(),
        StoreConfig::Delta(_) => Limits { wait: DELTA_WAIT, ..Limits::default() },
    }
}
