//! What a stage cannot beat: the same payloads, made ready before, and sent without looking at them.
//!
//! ```text
//! records of the log ─▶ memory ─▶ bare producer                        the floor of the log
//!                       memory ─▶ HSET and DEL, one pipelined socket   of Redis
//!                              ─▶ bulk bodies, two at a time           of Elasticsearch
//!                              ─▶ one Parquet file                     of Delta: it looks up nothing
//! ```
//!
//! Every change is sent: nothing is folded and nothing is compared with what is there.

mod redis;
mod search;

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::avro::envelope::split_header;
use anabranch_core::avro::read::Decoder;
use anabranch_core::{Batch, Result as CoreResult};
use deltalake::parquet::arrow::ArrowWriter;
use deltalake::parquet::basic::{Compression, ZstdLevel};
use deltalake::parquet::file::properties::WriterProperties;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};

use crate::Result;
use crate::records;
use crate::scene::{Scene, Store};
use crate::stage::Outcome;
use crate::usage::{Meter, Usage};
use crate::workload::Tally;

/// Records that the bare producer sends again and again: enough that no two batches are alike, and
/// little enough that a run of any size fits into memory.
const SAMPLE_MAX: usize = 200_000;
/// Rows of a batch, as a store's worker has them.
const BATCH_ROWS: usize = 16_384;
/// How long the last records may take to reach the broker.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(60);

/// Sends as many records as the workload has changes, of the same sizes, with the log's own
/// settings but for transactions.
pub(crate) async fn produce(scene: &Scene, log: &str) -> Result<Outcome> {
    let mut sample = Vec::new();
    records::read(scene, log, |record| {
        let payload = |bytes: Option<&[u8]>| bytes.unwrap_or_default().to_vec();
        sample.push((payload(record.key()), payload(record.payload())));
        Ok(sample.len() < SAMPLE_MAX)
    })?;
    // A consumer gets a partition's records in long runs, a producer has them in turn.
    let partitions = 0..scene.kafka(log).partitions;
    let records = partitions.cycle().zip(sample.iter().cycle());
    let topic = format!("{}.floor", scene.kafka(log).prefix);
    create_topic(scene, log, &topic).await?;
    let mut config = records::client(scene);
    config
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("compression.codec", "lz4")
        .set("linger.ms", "2")
        .set("queue.buffering.max.kbytes", "65536");
    let events = scene.truth()?.changes.events;
    let meter = Meter::start(scene.server_pid("kafka"))?;
    let producer: ThreadedProducer<DefaultProducerContext> = config.create()?;
    for (_, (partition, (key, payload))) in (0..events).zip(records) {
        let record = || BaseRecord::to(&topic).partition(partition).key(key).payload(payload);
        while let Err((error, _)) = producer.send(record()) {
            if error != KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) {
                return Err(error.into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    producer.flush(FLUSH_TIMEOUT)?;
    let usage = Usage { peak_mib: None, ..meter.stop()? };
    Ok(Outcome { tally: Tally { events, ids: 0 }, usage })
}

async fn create_topic(scene: &Scene, log: &str, topic: &str) -> Result<()> {
    use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
    let admin: AdminClient<_> = records::client(scene).create()?;
    let topic = NewTopic::new(topic, scene.kafka(log).partitions, TopicReplication::Fixed(1));
    for created in admin.create_topics([&topic], &AdminOptions::new()).await? {
        created.map_err(|(topic, error)| format!("cannot create {topic}: {error}"))?;
    }
    Ok(())
}

/// Sends the rows of a log to a store.
pub(crate) async fn store(scene: &Scene, log: &str, store: Store) -> Result<Outcome> {
    let batches = batches(scene, log)?;
    let usage = match store {
        Store::Redis => redis::replay(scene, &batches)?,
        Store::Elasticsearch => search::replay(scene, batches).await?,
        Store::Delta => append(scene, &batches)?,
    };
    // The memory is that of what was made ready before.
    let usage = Usage { peak_mib: None, ..usage };
    Ok(Outcome { tally: Tally { ids: 0, ..scene.truth()?.changes }, usage })
}

/// Every row of the log, decoded.
fn batches(scene: &Scene, log: &str) -> Result<Vec<Batch>> {
    let table = scene.table()?;
    let mut decoder = Decoder::new(Arc::clone(table));
    let mut batches = Vec::new();
    let take = |decoder: &mut Decoder| -> CoreResult<Batch> {
        let (rows, meta) = decoder.finish()?;
        Ok(Batch { table: Arc::clone(table), rows, meta, delete_below: Vec::new() })
    };
    records::read(scene, log, |record| {
        let (_, key) = split_header(record.key().unwrap_or_default())?;
        let (_, value) = split_header(record.payload().unwrap_or_default())?;
        decoder.push(key, value, record.partition())?;
        if decoder.len() == BATCH_ROWS {
            batches.push(take(&mut decoder)?);
        }
        Ok(true)
    })?;
    batches.push(take(&mut decoder)?);
    Ok(batches)
}

/// Writes one Parquet file on one thread.
fn append(scene: &Scene, batches: &[Batch]) -> Result<Usage> {
    let path = scene.folder.join("floor.parquet");
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .build();
    let meter = Meter::start(None)?;
    let file = File::create(&path)?;
    let mut writer = ArrowWriter::try_new(file, scene.table()?.arrow(), Some(properties))?;
    for batch in batches {
        writer.write(&batch.rows)?;
    }
    writer.close()?;
    let usage = meter.stop()?;
    std::fs::remove_file(path)?;
    Ok(usage)
}
