//! PostgreSQL's changes through the daemon's own loop: into nothing, and into Kafka.
//!
//! The slot of each stage is a copy of one slot, so each reads the same WAL from the same place.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anabranch::pipeline;
use anabranch_core::{
    Change, Error, LogBatch, Lsn, Phase, Result as CoreResult, Sink, SnapshotState, SourceCursor,
    Table,
};
use anabranch_kafka::LogSink;
use anabranch_postgres::{
    InitialCopy, PostgresSource, SnapshotRequest, SnapshotRequests, SnapshotScope,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::Result;
use crate::records::id_of_key;
use crate::scene::{Begun, DATABASE, Scene};
use crate::stage::Outcome;
use crate::usage::{Meter, cpu_seconds_of};
use crate::workload::Tally;

/// What a walsender is called in `/proc`.
const WALSENDER: &str = "postgres";

/// Begins the log as the daemon does, with a slot and a snapshot of the empty table.
pub(crate) async fn begin(scene: &Scene) -> Result<Begun> {
    let (stop, retries) = (CancellationToken::new(), Retries::default());
    let mut source = PostgresSource::open(scene.source(DATABASE)?).await?;
    let mut sink = First { stop: stop.clone(), ..First::default() };
    pipeline::run(&mut source, &mut sink, &stop, &|error| retries.note(error)).await?;
    retries.none()?;
    let cursor = sink.cursor.ok_or("the source did not begin")?;
    Ok(Begun { tables: sink.tables, cursor })
}

/// The source's first copy, into nothing.
pub(crate) async fn snapshot(scene: &Scene, slot: &str) -> Result<Outcome> {
    let meter = Meter::start(None)?;
    let mut source = PostgresSource::open(scene.source(slot)?).await?;
    let tally = until(&mut source, Nothing(None), End::Streaming).await?;
    Ok(Outcome { tally, usage: meter.stop()? })
}

/// The source's first copy into Kafka, as `run_source` of the daemon does it.
pub(crate) async fn snapshot_to_kafka(scene: &Scene, slot: &str, log: &str) -> Result<Outcome> {
    let meter = Meter::start(scene.server_pid("kafka"))?;
    let mut source = PostgresSource::open(scene.source(slot)?).await?;
    let sink = LogSink::open(&scene.kafka(log), &scene.registry(), DATABASE)?;
    let tally = until(&mut source, sink, End::Streaming).await?;
    Ok(Outcome { tally, usage: meter.stop()? })
}

/// The table in chunks beside the stream, in which nothing else comes, into nothing.
pub(crate) async fn chunks(scene: &Scene, slot: &str) -> Result<Outcome> {
    let id = Uuid::new_v4();
    let (table, scope) = (scene.table_name()?.to_owned(), SnapshotScope::Table);
    let request = SnapshotRequest { id, table, scope, paused: false, cancelled: false };
    let asked = SnapshotRequests { requests: Some(vec![request]), held: false };
    let (_asks, requests) = watch::channel(asked);
    let meter = Meter::start(None)?;
    let mut config = scene.source(slot)?;
    config.initial_copy = InitialCopy::None;
    let mut source = PostgresSource::open(config).await?;
    source.follow(requests);
    let tally = until(&mut source, Nothing(None), End::Read(id)).await?;
    Ok(Outcome { tally, usage: meter.stop()? })
}

/// Copies the run's slot.
pub(crate) async fn copy_slot(scene: &Scene, slot: &str) -> Result<()> {
    let client = anabranch_postgres::connect(&scene.source(DATABASE)?).await?;
    let copy = "SELECT pg_copy_logical_replication_slot($1, $2)";
    client.execute(copy, &[&DATABASE, &slot]).await?;
    Ok(())
}

/// Drops a copy; returns how many transactions were decoded for it.
pub(crate) async fn drop_slot(scene: &Scene, slot: &str) -> Result<u64> {
    let client = anabranch_postgres::connect(&scene.source(DATABASE)?).await?;
    let decoded = "SELECT total_txns FROM pg_stat_replication_slots WHERE slot_name = $1";
    let decoded: i64 = client.query_one(decoded, &[&slot]).await?.try_get(0)?;
    // The server may still be noticing that its client has gone.
    let free = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = $1 AND NOT active";
    while client.query_one(free, &[&slot]).await?.try_get::<_, i64>(0)? == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    client.execute("SELECT pg_drop_replication_slot($1)", &[&slot]).await?;
    Ok(u64::try_from(decoded)?)
}

/// The source into nothing.
pub(crate) async fn null(scene: &Scene, slot: &str) -> Result<Outcome> {
    let held = SourceCursor { slot: slot.to_owned(), ..scene.begun()?.cursor.clone() };
    let end = End::Beyond(scene.truth()?.end);
    let meter = Meter::start(None)?;
    let mut source = PostgresSource::open(scene.source(slot)?).await?;
    source.know(scene.begun()?.tables.iter().cloned());
    let tally = until(&mut source, Nothing(Some(held)), end).await?;
    let walsender = walsender_cpu(scene, slot).await?;
    let mut usage = meter.stop()?;
    usage.server_cpu = walsender;
    Ok(Outcome { tally, usage })
}

/// Gives a log its topics, and the position record that the stream goes on from.
pub(crate) async fn begin_log(scene: &Scene, slot: &str, log: &str) -> Result<()> {
    let mut sink = LogSink::open(&scene.kafka(log), &scene.registry(), DATABASE)?;
    if sink.cursor().await?.is_some() {
        return Err(format!("the log {log} is not empty").into());
    }
    let Begun { tables, cursor } = scene.begun()?;
    let cursor = SourceCursor { slot: slot.to_owned(), ..cursor.clone() };
    let batch = LogBatch { tables: tables.clone(), ..LogBatch::default() };
    sink.apply(&batch, &cursor).await?;
    Ok(())
}

/// The source into Kafka, as `run_source` of the daemon does it.
pub(crate) async fn kafka(scene: &Scene, slot: &str, log: &str) -> Result<Outcome> {
    let end = End::Beyond(scene.truth()?.end);
    let meter = Meter::start(scene.server_pid("kafka"))?;
    let mut source = PostgresSource::open(scene.source(slot)?).await?;
    let mut sink = LogSink::open(&scene.kafka(log), &scene.registry(), DATABASE)?;
    sink.cursor().await?;
    source.know(sink.tables().cloned());
    let tally = until(&mut source, sink, end).await?;
    Ok(Outcome { tally, usage: meter.stop()? })
}

/// Runs the source into `sink` until `end` is durable there; returns the rows.
async fn until<K: Sink<LogBatch, SourceCursor>>(
    source: &mut PostgresSource,
    sink: K,
    end: End,
) -> Result<Tally> {
    let (stop, retries) = (CancellationToken::new(), Retries::default());
    let mut sink = Until { sink, end, stop: stop.clone(), tally: Tally::default() };
    pipeline::run(source, &mut sink, &stop, &|error| retries.note(error)).await?;
    retries.none()?;
    Ok(sink.tally)
}

/// CPU-seconds of the server process that feeds a slot in use.
async fn walsender_cpu(scene: &Scene, slot: &str) -> Result<Option<f64>> {
    let client = anabranch_postgres::connect(&scene.server()?).await?;
    let pid = walsender(&client, slot).await?;
    Ok(pid.and_then(|pid| cpu_seconds_of(pid, WALSENDER)))
}

/// The process id of the server process that feeds a slot, as the server says it.
pub(crate) async fn walsender(client: &tokio_postgres::Client, slot: &str) -> Result<Option<u32>> {
    let query = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = $1";
    let pid: Option<i32> = client.query_one(query, &[&slot]).await?.try_get(0)?;
    Ok(pid.map(u32::try_from).transpose()?)
}

/// Whether anything had to be tried again: a service was restarted meanwhile, say.
#[derive(Debug, Default)]
pub(crate) struct Retries(AtomicBool);

impl Retries {
    /// Says on standard error what failed.
    pub(crate) fn note(&self, error: Option<&Error>) {
        if let Some(error) = error {
            self.0.store(true, Ordering::Relaxed);
            crate::say(&error.report());
        }
    }

    /// Fails if there were any, since the figures are then of something else.
    pub(crate) fn none(&self) -> Result<()> {
        let any = self.0.load(Ordering::Relaxed);
        if any { Err("something had to be tried again: measure once more".into()) } else { Ok(()) }
    }
}

/// Takes the beginning of a log.
#[derive(Default)]
struct First {
    tables: Vec<Arc<Table>>,
    cursor: Option<SourceCursor>,
    stop: CancellationToken,
}

impl Sink<LogBatch, SourceCursor> for First {
    async fn cursor(&mut self) -> CoreResult<Option<SourceCursor>> {
        Ok(self.cursor.clone())
    }

    async fn apply(&mut self, batch: &LogBatch, upto: &SourceCursor) -> CoreResult<()> {
        for table in &batch.tables {
            if !self.tables.contains(table) {
                self.tables.push(Arc::clone(table));
            }
        }
        self.cursor = Some(upto.clone());
        if upto.phase == Phase::Streaming {
            self.stop.cancel();
        }
        Ok(())
    }
}

/// A log that forgets everything but where it stands.
struct Nothing(Option<SourceCursor>);

impl Sink<LogBatch, SourceCursor> for Nothing {
    async fn cursor(&mut self) -> CoreResult<Option<SourceCursor>> {
        Ok(self.0.clone())
    }

    async fn apply(&mut self, _: &LogBatch, upto: &SourceCursor) -> CoreResult<()> {
        self.0 = Some(upto.clone());
        Ok(())
    }
}

/// What a run is finished with.
#[derive(Clone, Copy, Debug)]
enum End {
    /// Everything before a place in the WAL.
    Beyond(Lsn),
    /// The first copy.
    Streaming,
    /// The snapshot with this id.
    Read(Uuid),
}

impl End {
    fn is_in(self, batch: &LogBatch, upto: &SourceCursor) -> bool {
        match self {
            Self::Beyond(lsn) => upto.confirm > lsn,
            Self::Streaming => upto.phase == Phase::Streaming,
            Self::Read(id) => {
                batch.snapshots.iter().any(|it| it.id == id && it.state != SnapshotState::Running)
            }
        }
    }
}

/// Counts what the sink has made durable, and stops the run at its end.
struct Until<K> {
    sink: K,
    end: End,
    stop: CancellationToken,
    tally: Tally,
}

impl<K: Sink<LogBatch, SourceCursor>> Sink<LogBatch, SourceCursor> for Until<K> {
    async fn cursor(&mut self) -> CoreResult<Option<SourceCursor>> {
        self.sink.cursor().await
    }

    async fn apply(&mut self, batch: &LogBatch, upto: &SourceCursor) -> CoreResult<()> {
        self.sink.apply(batch, upto).await?;
        for event in &batch.events {
            if let Change::Row { key, .. } = &event.change {
                self.tally.events += 1;
                self.tally.ids += id_of_key(key).unwrap_or_default();
            }
        }
        if self.end.is_in(batch, upto) {
            self.stop.cancel();
        }
        Ok(())
    }
}
