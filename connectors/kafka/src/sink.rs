//! The log as a sink: changes, and the position that covers them, in one Kafka transaction.
//!
//! ```text
//! LogBatch ─▶ new tables: topic, schemas, record ─▶ begin · events · position · commit
//! ```
//!
//! The position record is the only witness of what is in the log. After any failure the producer
//! is dropped; the next one fences it, which settles its transaction, and then reads the record:
//! if that is the batch's cursor the batch is durable, if it is the one before it is written
//! again, and anything else was written by another instance.

use std::sync::Arc;

use anabranch_core::avro::envelope::{self, SourceNames};
use anabranch_core::{
    Change, Error, Event, LogBatch, Position, Result, Sink, SourceCursor, Table, partition,
};
use bytes::Bytes;
use chrono::Utc;
use serde_json::json;

use crate::producer::{Outgoing, Producer};
use crate::progress::{self, POSITION_KEY};
use crate::repairs::{self, RepairRecord, Repairs};
use crate::routes::{Route, Routes};
use crate::snapshots::{self, Snapshots};
use crate::topics::{Admin, Topic};
use crate::{KafkaConfig, Names, RegistryConfig, error};

/// Events between two points where other tasks get a turn.
const EVENTS_PER_TURN: usize = 256;

/// The log, as the source writes it.
#[derive(Debug)]
pub struct LogSink {
    kafka: KafkaConfig,
    names: Names,
    source: SourceNames,
    routes: Routes,
    /// What the log has to be mended by.
    repairs: Arc<Repairs>,
    /// How far snapshots of single tables are.
    snapshots: Arc<Snapshots>,
    /// `None` before [`Sink::cursor`], and after a failure.
    producer: Option<Producer>,
    /// The position record, as far as this sink has written or read it.
    position: Option<SourceCursor>,
    /// The last batch this sink wrote; the one that `position` covers.
    written: Option<Fingerprint>,
    key: Vec<u8>,
    value: Vec<u8>,
}

impl LogSink {
    /// A sink for the changes of `database`. Nothing is touched before [`Sink::cursor`], which
    /// takes the log over from any other instance: hold the lock on the source by then.
    ///
    /// # Errors
    ///
    /// [`anabranch_core::ErrorKind::Config`] if no clients can be made of the configurations.
    pub fn open(kafka: &KafkaConfig, registry: &RegistryConfig, database: &str) -> Result<Self> {
        let source = SourceNames { prefix: kafka.prefix.clone(), database: database.to_owned() };
        Ok(Self {
            kafka: kafka.clone(),
            names: Names::new(kafka),
            source,
            routes: Routes::new(kafka, registry)?,
            repairs: Arc::default(),
            snapshots: Arc::default(),
            producer: None,
            position: None,
            written: None,
            key: Vec::new(),
            value: Vec::new(),
        })
    }

    /// The newest version of every table in the log, as of the last [`Sink::cursor`] or batch.
    pub fn tables(&self) -> impl Iterator<Item = &Arc<Table>> {
        self.routes.tables().all().map(|record| &record.table)
    }

    /// The repairs that are pending in the log, as of the last [`Sink::cursor`] or batch.
    #[must_use]
    pub fn repairs(&self) -> Arc<Repairs> {
        Arc::clone(&self.repairs)
    }

    /// The snapshots of single tables, as of the last [`Sink::cursor`] or batch.
    #[must_use]
    pub fn snapshots(&self) -> Arc<Snapshots> {
        Arc::clone(&self.snapshots)
    }

    /// Fences any other producer, then reads what the log holds.
    async fn take_over(&mut self) -> Result<()> {
        self.producer = None;
        let admin = Admin::new(&self.kafka)?;
        for topic in Topic::internal(&self.names) {
            admin.ensure(&topic).await?;
        }
        let producer = Producer::open(&self.kafka).await?;
        let config = self.kafka.clone();
        let progress = crate::blocking(move || progress::read(&config)).await?;
        let log = progress.position.as_ref().map(|position| position.log);
        let (repairs, snapshots) = crate::admin::open_work_of(&self.kafka, log).await?;
        self.repairs.reset(repairs);
        self.snapshots.reset(snapshots);
        self.routes.reset(admin, progress.tables);
        self.position = progress.position;
        self.written = None;
        self.producer = Some(producer);
        Ok(())
    }

    /// Writes a batch in one transaction. On failure the producer is gone.
    async fn write(&mut self, batch: &LogBatch, upto: &SourceCursor) -> Result<()> {
        let Some(producer) = self.producer.take() else {
            return Err(error::bug("write to the log", "there is no producer"));
        };
        let repairs = self.repairs.records(batch, upto.log, Utc::now().timestamp_micros());
        match self.fill(&producer, batch, (upto, &repairs)).await {
            Ok(()) => self.producer = Some(producer.commit().await?),
            Err(error) => {
                producer.abandon().await;
                return Err(error);
            }
        }
        self.repairs.remove(&batch.repaired);
        self.repairs.add(repairs);
        self.snapshots.add(&batch.snapshots);
        self.position = Some(upto.clone());
        self.written = Some(Fingerprint::of(batch));
        Ok(())
    }

    /// Whether the log holds `batch`: its cursor is the log's.
    fn is_durable(&self, batch: &LogBatch, upto: &SourceCursor) -> Result<bool> {
        if self.position.as_ref() != Some(upto) || batch.events.is_empty() {
            return Ok(false);
        }
        if self.written.as_ref().is_some_and(|written| *written != Fingerprint::of(batch)) {
            let seen = "two batches have one cursor, so nobody could tell which of them is durable";
            return Err(error::bug("write to the log", seen));
        }
        Ok(true)
    }

    async fn fill(
        &mut self,
        producer: &Producer,
        batch: &LogBatch,
        (upto, asked): (&SourceCursor, &[RepairRecord]),
    ) -> Result<()> {
        producer.begin()?;
        let now_us = Utc::now().timestamp_micros();
        for (place, event) in batch.events.iter().enumerate() {
            if place % EVENTS_PER_TURN == EVENTS_PER_TURN - 1 {
                tokio::task::yield_now().await;
            }
            let route = self.routes.get(&event.table)?;
            send(producer, event, route, (&self.source, now_us), (&mut self.key, &mut self.value))
                .await?;
        }
        if batch.events.is_empty() {
            let heartbeat = json!({ "confirm": upto.confirm, "time_us": now_us });
            self.send_json(producer, &self.names.heartbeat(), "source", &heartbeat).await?;
        }
        // Before those that are asked for: one that is asked for again is not over.
        for of in &batch.repaired {
            let (topic, key) = (self.names.progress(), repairs::record_key(of));
            let (topic, key) = (topic.as_str(), Some(key.as_bytes()));
            let done = Outgoing { topic, partition: 0, key, value: None, control: None };
            producer.send(done).await?;
        }
        for repair in asked {
            let key = repair.record_key();
            self.send_json(producer, &self.names.progress(), &key, repair).await?;
        }
        for snapshot in &batch.snapshots {
            let key = snapshots::record_key(snapshot);
            self.send_json(producer, &self.names.progress(), &key, snapshot).await?;
        }
        self.send_json(producer, &self.names.progress(), POSITION_KEY, upto).await
    }

    async fn send_json(
        &self,
        producer: &Producer,
        topic: &str,
        key: &str,
        value: &(impl serde::Serialize + Sync),
    ) -> Result<()> {
        let value = serde_json::to_vec(value)
            .map_err(|e| error::bug(format!("encode the {key} record"), e.to_string()))?;
        let key = Some(key.as_bytes());
        let value = Some(value.as_slice());
        let record = Outgoing { topic, partition: 0, key, value, control: None };
        producer.send(record).await
    }

    /// Makes sure that the log knows every table of the batch before the first event needs it.
    async fn announce(&mut self, batch: &LogBatch, upto: &SourceCursor) -> Result<()> {
        let new = self.routes.missing(batch);
        if new.is_empty() {
            return Ok(());
        }
        let records = self.routes.prepare(&new, upto.log).await?;
        if !records.is_empty() {
            let Some(producer) = self.producer.take() else {
                return Err(error::bug("record a table in the log", "there is no producer"));
            };
            let sent = async {
                producer.begin()?;
                for record in &records {
                    self.send_json(&producer, &self.names.schemas(), &record.key(), record).await?;
                }
                Ok(())
            };
            if let Err(error) = sent.await {
                producer.abandon().await;
                return Err(error);
            }
            self.producer = Some(producer.commit().await?);
        }
        self.routes.learn(&new, records)
    }
}

impl Sink<LogBatch, SourceCursor> for LogSink {
    async fn cursor(&mut self) -> Result<Option<SourceCursor>> {
        self.take_over().await?;
        Ok(self.position.clone())
    }

    async fn apply(&mut self, batch: &LogBatch, upto: &SourceCursor) -> Result<()> {
        if self.producer.is_none() {
            let before = self.position.clone();
            let now = self.cursor().await?;
            if now != before && now.as_ref() != Some(upto) {
                self.producer = None;
                return Err(taken_over());
            }
        }
        if self.is_durable(batch, upto)? {
            return Ok(());
        }
        self.announce(batch, upto).await?;
        self.write(batch, upto).await
    }
}

/// Tells one batch from another.
#[derive(Debug, PartialEq, Eq)]
struct Fingerprint {
    events: usize,
    ends: Option<(Position, Position)>,
    last_key: Option<Bytes>,
}

impl Fingerprint {
    fn of(batch: &LogBatch) -> Self {
        let ends = batch.events.first().zip(batch.events.last());
        let last_key = batch.events.last().and_then(|event| match &event.change {
            Change::Row { key, .. } => Some(key.clone()),
            Change::Truncate | Change::Sweep => None,
        });
        let ends = ends.map(|(first, last)| (first.position, last.position));
        Self { events: batch.events.len(), ends, last_key }
    }
}

/// The log is not where this instance left it.
fn taken_over() -> Error {
    error::fenced("write to the log")
        .with_source("the position record was written by another instance")
}

async fn send(
    producer: &Producer,
    event: &Event,
    route: &Route,
    (source, now_us): (&SourceNames, i64),
    (key_buffer, value): (&mut Vec<u8>, &mut Vec<u8>),
) -> Result<()> {
    value.clear();
    value.extend_from_slice(&envelope::header(route.value_schema_id));
    envelope::encode(event, source, now_us, value);
    let topic = &route.topic;
    match &event.change {
        Change::Row { key, .. } => {
            key_buffer.clear();
            key_buffer.extend_from_slice(&envelope::header(route.key_schema_id));
            key_buffer.extend_from_slice(key);
            let (partition, value) = (partition(key, route.partitions), Some(value.as_slice()));
            let key = Some(key_buffer.as_slice());
            producer.send(Outgoing { topic, partition, key, value, control: None }).await
        }
        Change::Truncate | Change::Sweep => {
            let is_sweep = matches!(event.change, Change::Sweep);
            let control = Some(if is_sweep { "sweep" } else { "truncate" });
            let value = Some(value.as_slice());
            for partition in 0..route.partitions {
                producer.send(Outgoing { topic, partition, key: None, value, control }).await?;
            }
            Ok(())
        }
    }
}
