//! Reads the log as any consumer would: rdkafka, `apache-avro`, the registry's schemas.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Duration;

use apache_avro::types::Value;
use apache_avro::{Schema, from_avro_datum};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use super::services::address;

/// Longest wait for one record; the topics of tests are small.
const POLL: Duration = Duration::from_secs(10);

/// A change event, as a stranger reads it.
#[derive(Clone, Debug)]
pub struct Record {
    /// Debezium's letter.
    pub op: String,
    /// The transaction's commit LSN.
    pub commit_lsn: i64,
    /// The place in the transaction.
    pub ordinal: i64,
    /// The key, if it has one.
    pub key: Option<Value>,
    /// The new row.
    pub after: Option<Value>,
}

/// The field of a record.
pub fn field(value: &Value, name: &str) -> Value {
    let Value::Record(fields) = value else { panic!("{value:?} is no record") };
    let found = fields.iter().find(|(field, _)| field == name);
    let Value::Union(_, inner) = &found.unwrap_or_else(|| panic!("no {name}: {value:?}")).1 else {
        return found.unwrap().1.clone();
    };
    (**inner).clone()
}

/// A whole number.
pub fn number(value: &Value) -> i64 {
    match value {
        Value::Long(long) => *long,
        Value::Int(int) => i64::from(*int),
        other => panic!("{other:?} is no number"),
    }
}

/// `None` for Avro's null.
fn some(value: Value) -> Option<Value> {
    (value != Value::Null).then_some(value)
}

/// Every committed record of `topic`, in the order of each partition.
pub async fn read_topic(topic: &str) -> Vec<Record> {
    let raw = raw_records(topic).await;
    let mut schemas = HashMap::new();
    let mut records = Vec::new();
    for (key, value) in raw {
        let value = decode(&value, &mut schemas).await;
        let key = match key {
            Some(key) => Some(decode(&key, &mut schemas).await),
            None => None,
        };
        let source = field(&value, "source");
        let Value::String(op) = field(&value, "op") else { panic!("op is a string") };
        records.push(Record {
            op,
            commit_lsn: number(&field(&source, "commit_lsn")),
            ordinal: number(&field(&source, "ordinal")),
            key,
            after: some(field(&value, "after")),
        });
    }
    records
}

/// The topics whose names begin with `prefix`.
pub async fn topics(prefix: &str) -> Vec<String> {
    let prefix = prefix.to_owned();
    let listed = tokio::task::spawn_blocking(move || {
        let client = ClientConfig::new().set("bootstrap.servers", address("KAFKA")).clone();
        let consumer: BaseConsumer = client.create().unwrap();
        let metadata = consumer.fetch_metadata(None, POLL).unwrap();
        let names = metadata.topics().iter().map(|topic| topic.name().to_owned());
        names.filter(|name| name.starts_with(&prefix)).collect()
    });
    listed.await.unwrap()
}

/// Key and value of a record, as they lie in Kafka; a tombstone's value is empty.
pub type Raw = (Option<Vec<u8>>, Vec<u8>);

/// Every committed record of `topic`.
pub async fn raw_records(topic: &str) -> Vec<Raw> {
    let topic = topic.to_owned();
    tokio::task::spawn_blocking(move || read_raw(&topic)).await.unwrap()
}

fn read_raw(topic: &str) -> Vec<Raw> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", address("KAFKA"))
        .set("group.id", "anabranch-test-reader")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "true")
        .create()
        .unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), POLL).unwrap();
    let mut all = TopicPartitionList::new();
    let count = metadata.topics()[0].partitions().len();
    for partition in 0..count {
        all.add_partition_offset(topic, partition as i32, Offset::Beginning).unwrap();
    }
    consumer.assign(&all).unwrap();
    let (mut ended, mut found) = (0, Vec::new());
    while ended < count {
        match consumer.poll(POLL).expect("a record or the end of a partition in time") {
            Ok(message) => {
                found.push((
                    message.key().map(<[u8]>::to_vec),
                    message.payload().unwrap_or_default().to_vec(),
                ));
            }
            Err(KafkaError::PartitionEOF(_)) => ended += 1,
            Err(error) => panic!("{error}"),
        }
    }
    found
}

async fn decode(bytes: &[u8], schemas: &mut HashMap<u32, Schema>) -> Value {
    assert_eq!(bytes[0], 0, "Confluent's magic byte");
    let id = u32::from_be_bytes(bytes[1..5].try_into().unwrap());
    let known = match schemas.entry(id) {
        Entry::Occupied(known) => known.into_mut(),
        Entry::Vacant(unknown) => unknown.insert(schema(id).await),
    };
    from_avro_datum(known, &mut &bytes[5..], None).unwrap()
}

async fn schema(id: u32) -> Schema {
    let url = format!("{}/schemas/ids/{id}", address("REGISTRY_URL"));
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer: serde_json::Value = client.get(url).send().await.unwrap().json().await.unwrap();
    Schema::parse_str(answer["schema"].as_str().unwrap()).unwrap()
}
