//! `[kafka]` and `[registry]` of `anabranch.toml`, and what librdkafka is told of them.
//!
//! Three layers make a client's settings: our defaults, the user's `options`, and last what
//! correctness rests on, which no option can change.

use std::collections::BTreeMap;

use anabranch_core::Secret;
use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use serde::Deserialize;

/// The largest record, in bytes: a row with its old image. Topics are created for it, too.
///
/// The default of consumers (`receive.message.max.bytes`, 100 MB) still takes one.
pub const RECORD_BYTES_MAX: usize = 64 << 20;

/// Memory for records that wait to be sent: four transactions of the default size.
const PRODUCER_QUEUE_KIB_MAX: usize = 64 << 10;

/// Fetched records that wait to be read, for each partition, in KiB: eight partitions hold 32 MiB.
const CONSUMER_QUEUE_KIB_MAX: usize = 4 << 10;

/// How often a client asks who leads its partitions, whatever it believes.
///
/// By itself librdkafka asks when a leader is gone, but not while it takes an earlier question to be
/// under way. A question that is lost with its connection counts as such for a minute, and so long
/// nothing would be written to a broker that was frozen, fenced and elected again.
const METADATA_INTERVAL_MS: &str = "10000";

/// How long a broker holds a fetch that finds nothing, which is also how long the last group of
/// records waits until the end of its partition is known: less than a batch waits for others.
const FETCH_WAIT_MS_MAX: usize = 100;

/// `[kafka]`: the log.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaConfig {
    /// `host:port` of some brokers, separated by commas.
    pub brokers: String,
    /// The first part of every topic's and group's name, and of the transactional id.
    #[serde(default = "default_prefix")]
    pub prefix: String,
    /// Partitions of a new table's topic.
    #[serde(default = "default_partitions")]
    pub partitions: i32,
    /// Replicas of a new topic.
    #[serde(default = "default_replication")]
    pub replication: i32,
    /// How long a table's topic keeps its records, in milliseconds; -1 is for ever.
    #[serde(default = "default_retention_ms")]
    pub retention_ms: i64,
    /// Settings handed to librdkafka as they are, for security and tuning.
    #[serde(default)]
    pub options: BTreeMap<String, Secret>,
}

/// `[registry]`: a schema registry that speaks Confluent's API.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistryConfig {
    /// Where its API begins: what `/subjects` is appended to.
    pub url: String,
    /// User of HTTP basic authentication.
    #[serde(default)]
    pub username: Option<String>,
    /// Password of that user.
    #[serde(default)]
    pub password: Option<Secret>,
}

fn default_prefix() -> String {
    "anabranch".to_owned()
}

const fn default_partitions() -> i32 {
    8
}

const fn default_replication() -> i32 {
    1
}

const fn default_retention_ms() -> i64 {
    30 * 24 * 60 * 60 * 1000
}

impl KafkaConfig {
    /// A configuration with nothing but the defaults.
    #[must_use]
    pub fn new(brokers: impl Into<String>) -> Self {
        Self {
            brokers: brokers.into(),
            prefix: default_prefix(),
            partitions: default_partitions(),
            replication: default_replication(),
            retention_ms: default_retention_ms(),
            options: BTreeMap::new(),
        }
    }

    /// The settings of a client that neither produces nor consumes.
    pub(crate) fn client(&self) -> ClientConfig {
        self.layers(&[], &[])
    }

    /// The settings of the one transactional producer.
    pub(crate) fn producer(&self, transactional_id: &str) -> ClientConfig {
        let record_bytes = RECORD_BYTES_MAX.to_string();
        let queue_kib = PRODUCER_QUEUE_KIB_MAX.to_string();
        let defaults = [
            ("compression.codec", "lz4"),
            ("linger.ms", "2"),
            ("message.max.bytes", &record_bytes),
            ("queue.buffering.max.kbytes", &queue_kib),
            ("transaction.timeout.ms", "60000"),
        ];
        let required = [
            ("transactional.id", transactional_id),
            ("enable.idempotence", "true"),
            ("acks", "all"),
        ];
        self.layers(&defaults, &required)
    }

    /// The settings of a consumer that reads what is committed, and nothing it was not told to.
    pub(crate) fn consumer(&self, group: &str) -> ClientConfig {
        let queue_kib = CONSUMER_QUEUE_KIB_MAX.to_string();
        let fetch_wait_ms = FETCH_WAIT_MS_MAX.to_string();
        let defaults = [
            ("fetch.wait.max.ms", fetch_wait_ms.as_str()),
            // The default of a second would idle a partition each time its queue is full.
            ("fetch.queue.backoff.ms", "5"),
            ("queued.max.messages.kbytes", &queue_kib),
            // A killed process's partitions are free after this long.
            ("session.timeout.ms", "6000"),
            ("heartbeat.interval.ms", "1500"),
            ("partition.assignment.strategy", "cooperative-sticky"),
        ];
        let required = [
            ("group.id", group),
            ("isolation.level", "read_committed"),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("enable.partition.eof", "true"),
            ("auto.offset.reset", "error"),
            ("allow.auto.create.topics", "false"),
        ];
        self.layers(&defaults, &required)
    }

    fn layers(&self, defaults: &[(&str, &str)], required: &[(&str, &str)]) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set_log_level(RDKafkaLogLevel::Info);
        config.set("client.id", "anabranch");
        config.set("topic.metadata.refresh.interval.ms", METADATA_INTERVAL_MS);
        for (key, value) in defaults {
            config.set(*key, *value);
        }
        for (key, value) in &self.options {
            config.set(key, value.expose());
        }
        for (key, value) in required {
            config.set(*key, *value);
        }
        config.set("bootstrap.servers", &self.brokers);
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_change_defaults_but_not_what_correctness_rests_on() {
        let mut config = KafkaConfig::new("a:1");
        for (key, value) in [("linger.ms", "50"), ("enable.idempotence", "false")] {
            config.options.insert(key.to_owned(), Secret::from(value.to_owned()));
        }
        let producer = config.producer("p.source");
        assert_eq!(producer.get("linger.ms"), Some("50"));
        assert_eq!(producer.get("enable.idempotence"), Some("true"));
        let consumer = config.consumer("p.search");
        assert_eq!(consumer.get("isolation.level"), Some("read_committed"));
        assert!(!format!("{config:?}").contains("50"), "options may hold passwords");
    }

    #[test]
    fn unknown_keys_are_refused() {
        let json = r#"{"brokers": "a:1", "partition": 3}"#;
        assert!(serde_json::from_str::<KafkaConfig>(json).is_err());
        let config: KafkaConfig = serde_json::from_str(r#"{"brokers": "a:1"}"#).unwrap();
        assert_eq!((config.prefix.as_str(), config.partitions), ("anabranch", 8));
    }
}
