//! The records of a log, read by a plain consumer: to check a log, and to make a floor's payloads.

use std::time::{Duration, Instant};

use anabranch_core::avro::envelope::split_header;
use anabranch_kafka::{Names, admin};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::{Offset, TopicPartitionList};

use crate::Result;
use crate::scene::{PREFIX, Scene, Store};
use crate::workload::Tally;

/// Longer than a broker takes to answer on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The id in the payload of a key record: one Avro long.
pub(crate) fn id_of_key(payload: &[u8]) -> Option<i64> {
    let mut zigzag = 0_u64;
    for (place, byte) in (0_u32..).zip(payload) {
        zigzag |= u64::from(byte & 0x7f) << (7 * place).min(63);
        if byte & 0x80 == 0 {
            let half = i64::try_from(zigzag >> 1).ok()?;
            return Some(if zigzag & 1 == 0 { half } else { -half - 1 });
        }
    }
    None
}

/// Settings of a plain client.
pub(crate) fn client(scene: &Scene) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set_log_level(RDKafkaLogLevel::Error);
    config.set("bootstrap.servers", scene.kafka("any").brokers);
    config
}

/// What a log holds, as any consumer sees it.
pub(crate) fn tally(scene: &Scene, log: &str) -> Result<Tally> {
    let mut tally = Tally::default();
    read(scene, log, |record| {
        let (_, key) = split_header(record.key().unwrap_or_default())?;
        tally.events += 1;
        tally.ids += id_of_key(key).ok_or("a key is no id")?;
        Ok(true)
    })?;
    Ok(tally)
}

/// Reads every committed record of the table's topic, partition by partition mixed, until `take`
/// has enough or there is no more.
pub(crate) fn read(
    scene: &Scene,
    log: &str,
    mut take: impl FnMut(&BorrowedMessage<'_>) -> Result<bool>,
) -> Result<()> {
    let kafka = scene.kafka(log);
    let topic = Names::new(&kafka).topic(scene.table()?);
    let mut config = client(scene);
    config
        .set("group.id", format!("{PREFIX}.reader"))
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "true")
        .set("enable.auto.commit", "false");
    let consumer: BaseConsumer = config.create()?;
    let mut assignment = TopicPartitionList::new();
    for partition in 0..kafka.partitions {
        assignment.add_partition_offset(&topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&assignment)?;
    let (mut ended, mut heard) = (0, Instant::now());
    while ended < kafka.partitions {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(record)) => {
                if !take(&record)? {
                    return Ok(());
                }
            }
            Some(Err(KafkaError::PartitionEOF(_))) => ended += 1,
            Some(Err(error)) => return Err(error.into()),
            None if heard.elapsed() > PATIENCE => return Err(format!("{topic} is silent").into()),
            None => continue,
        }
        heard = Instant::now();
    }
    Ok(())
}

/// Removes the logs of every run: topics, groups and subjects, as `anabranch teardown` does, and the
/// topics of the floor.
pub(crate) async fn remove_logs(scene: &Scene) -> Result<()> {
    let client: AdminClient<_> = client(scene).create()?;
    let sinks = Store::ALL.map(|store| store.name().to_owned());
    for topic in topics(&client)? {
        let log = topic.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(".progress"));
        if let Some(log) = log.and_then(|log| log.strip_prefix('.')) {
            let kafka = scene.kafka(log);
            let plan = admin::plan_teardown(&kafka, &sinks).await?;
            admin::teardown(&kafka, &scene.registry(), &plan).await?;
        }
    }
    let left = topics(&client)?;
    if !left.is_empty() {
        let left: Vec<&str> = left.iter().map(String::as_str).collect();
        client.delete_topics(&left, &AdminOptions::new()).await?;
    }
    Ok(())
}

/// The topics of every run.
fn topics(client: &AdminClient<DefaultClientContext>) -> Result<Vec<String>> {
    let metadata = client.inner().fetch_metadata(None, PATIENCE)?;
    let names = metadata.topics().iter().map(|topic| topic.name().to_owned());
    Ok(names.filter(|name| name.starts_with(&format!("{PREFIX}."))).collect())
}
