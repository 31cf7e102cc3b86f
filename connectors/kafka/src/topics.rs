//! Creates topics, and makes sure that what is there is what was recorded.
//!
//! A topic's partition count decides where a key's changes lie, so a count that is not the
//! recorded one stops everything: the changes of a key would be in two partitions.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anabranch_core::{Error, ErrorKind, Result};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use crate::context::{Quiet, Trouble};
use crate::reader::BROKER_TIMEOUT;
use crate::{KafkaConfig, Names, RECORD_BYTES_MAX, error};

/// How long after its creation a topic may be unknown to a broker.
const CREATION_TIMEOUT: Duration = Duration::from_secs(15);

/// Between two looks at whether a broker knows a topic.
const CREATION_POLL: Duration = Duration::from_millis(20);

/// A topic to create: name, partitions, settings.
#[derive(Clone, Debug)]
pub(crate) struct Topic {
    pub(crate) name: String,
    pub(crate) partitions: i32,
    settings: Vec<(&'static str, String)>,
}

/// A client for topics and groups.
#[derive(Clone)]
pub(crate) struct Admin {
    client: Arc<AdminClient<Quiet>>,
    trouble: Trouble,
    replication: i32,
}

impl Topic {
    /// The topic of a table's changes.
    pub(crate) fn of_table(config: &KafkaConfig, name: String) -> Self {
        let settings = vec![
            ("cleanup.policy", "delete".to_owned()),
            ("retention.ms", config.retention_ms.to_string()),
            ("max.message.bytes", RECORD_BYTES_MAX.to_string()),
        ];
        Self { name, partitions: config.partitions, settings }
    }

    /// The topics of the log itself. Small segments keep the compacted ones quick to read.
    pub(crate) fn internal(names: &Names) -> [Self; 3] {
        let compacted = |name| {
            let settings = vec![
                ("cleanup.policy", "compact".to_owned()),
                ("segment.bytes", (4 << 20).to_string()),
                ("segment.ms", (600 * 1000).to_string()),
                ("min.cleanable.dirty.ratio", "0.1".to_owned()),
                ("max.message.bytes", RECORD_BYTES_MAX.to_string()),
            ];
            Self { name, partitions: 1, settings }
        };
        let heartbeat = vec![
            ("cleanup.policy", "delete".to_owned()),
            ("retention.ms", (24 * 3600 * 1000).to_string()),
            ("segment.bytes", (4 << 20).to_string()),
        ];
        [
            compacted(names.progress()),
            compacted(names.schemas()),
            Self { name: names.heartbeat(), partitions: 1, settings: heartbeat },
        ]
    }
}

impl Admin {
    pub(crate) fn new(config: &KafkaConfig) -> Result<Self> {
        let context = Quiet::default();
        let trouble = context.trouble.clone();
        let client = AdminClient::from_config_and_context(&config.client(), context)
            .map_err(|e| error::classify("make a Kafka client", e, &trouble))?;
        Ok(Self { client: Arc::new(client), trouble, replication: config.replication })
    }

    pub(crate) fn client(&self) -> &AdminClient<Quiet> {
        &self.client
    }

    pub(crate) fn classify(&self, action: impl Into<String>, error: KafkaError) -> Error {
        error::classify(action, error, &self.trouble)
    }

    /// How many partitions `topic` has; `None` if there is no such topic.
    pub(crate) async fn partitions(&self, topic: &str) -> Result<Option<i32>> {
        let (admin, topic) = (self.clone(), topic.to_owned());
        crate::blocking(move || {
            let action = || format!("look at topic {topic}");
            let client = admin.client.inner();
            let metadata = client
                .fetch_metadata(Some(&topic), BROKER_TIMEOUT)
                .map_err(|e| admin.classify(action(), e))?;
            error::topic_partitions(&metadata, &topic).map_err(|e| admin.classify(action(), e))
        })
        .await
    }

    /// Creates `topic` unless it is there, waits until it is known, and returns its partitions.
    pub(crate) async fn ensure(&self, topic: &Topic) -> Result<i32> {
        if let Some(count) = self.partitions(&topic.name).await? {
            return Ok(count);
        }
        self.create(topic, false).await?;
        tracing::info!(topic = topic.name, partitions = topic.partitions, "created a topic");
        let seen = "it was created, and the broker does not know it yet";
        let unknown = || error::transient(format!("create topic {}", topic.name), seen);
        self.wait_for(&topic.name).await?.ok_or_else(unknown)
    }

    /// How many partitions a topic has that was created, perhaps just now.
    pub(crate) async fn wait_for(&self, topic: &str) -> Result<Option<i32>> {
        let deadline = Instant::now() + CREATION_TIMEOUT;
        while Instant::now() < deadline {
            if let Some(count) = self.partitions(topic).await?
                && count > 0
            {
                return Ok(Some(count));
            }
            tokio::time::sleep(CREATION_POLL).await;
        }
        Ok(None)
    }

    /// Creates `topic`, or with `only_try` finds out whether that would go.
    pub(crate) async fn create(&self, topic: &Topic, only_try: bool) -> Result<()> {
        let replication = TopicReplication::Fixed(self.replication);
        let mut new = NewTopic::new(&topic.name, topic.partitions, replication);
        for (key, value) in &topic.settings {
            new = new.set(key, value);
        }
        let options = AdminOptions::new()
            .operation_timeout(Some(BROKER_TIMEOUT))
            .request_timeout(Some(BROKER_TIMEOUT))
            .validate_only(only_try);
        let action = || format!("create topic {}", topic.name);
        let results = self
            .client
            .create_topics([&new], &options)
            .await
            .map_err(|e| self.classify(action(), e))?;
        for result in results {
            match result {
                Ok(_) | Err((_, Code::TopicAlreadyExists)) => {}
                Err((_, code)) => return Err(self.classify(action(), KafkaError::AdminOp(code))),
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Admin")
    }
}

/// The topic has another number of partitions than was recorded when it was created.
pub(crate) fn wrong_count(topic: &str, recorded: i32, found: i32) -> Error {
    let seen = format!(
        "it was created with {recorded} partitions and has {found}: \
         the changes of one key would lie in two of them"
    );
    error::config(
        format!("use topic {topic}"),
        seen,
        "a topic's partition count is fixed: run `anabranch teardown` and start again",
    )
}

/// The topic is recorded, and is not there.
pub(crate) fn missing(topic: &str) -> Error {
    Error::new(ErrorKind::Lost, format!("use topic {topic}"))
        .with_source("the log has recorded it, and it does not exist: somebody deleted it")
        .with_help("run `anabranch teardown` and start again")
}
