//! What commands ask of the log while no daemon runs: how far it is, whether it would run, and
//! how it is taken away.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anabranch_core::{Finding, Level, Result, SourceCursor, TableSnapshot};
use rdkafka::admin::AdminOptions;
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};
use uuid::Uuid;

use crate::context::{Quiet, Trouble};
use crate::names::{key_subject, value_subject};
use crate::progress::Records;
use crate::reader::{self, BROKER_TIMEOUT, Borders, Reader};
use crate::repairs::{TableRepairs, summary};
use crate::schemas::SchemaRecord;
use crate::stats::UnitLag;
use crate::topics::{Admin, Topic};
use crate::{KafkaConfig, Names, Registry, RegistryConfig, error, progress, topics};

/// How long one look for a record waits.
const POLL: Duration = Duration::from_millis(50);

/// Reads how far the log is in the source; `None` if nobody has written to it yet.
///
/// # Errors
///
/// [`anabranch_core::ErrorKind::Transient`] if Kafka does not answer,
/// [`anabranch_core::ErrorKind::Config`] if it refuses.
pub async fn read_position(kafka: &KafkaConfig) -> Result<Option<SourceCursor>> {
    let config = kafka.clone();
    crate::blocking(move || progress::read_position(&Reader::new(&config)?, &Names::new(&config)))
        .await
}

/// Reads the repairs that are pending in the log, by table.
///
/// # Errors
///
/// As for [`read_position`].
pub async fn repairs(kafka: &KafkaConfig) -> Result<Vec<TableRepairs>> {
    Ok(summary(open_work(kafka).await?.0.iter()))
}

/// Reads the last snapshot beside the stream of every table that ever had one.
///
/// # Errors
///
/// As for [`read_position`].
pub async fn snapshots(kafka: &KafkaConfig) -> Result<Vec<TableSnapshot>> {
    Ok(open_work(kafka).await?.1)
}

/// The work beside the stream of the log that is there.
pub(crate) async fn open_work(kafka: &KafkaConfig) -> Result<Records> {
    let log = read_position(kafka).await?.map(|position| position.log);
    open_work_of(kafka, log).await
}

/// The work beside the stream of the log with this id.
pub(crate) async fn open_work_of(kafka: &KafkaConfig, log: Option<Uuid>) -> Result<Records> {
    let (config, Some(log)) = (kafka.clone(), log) else { return Ok(Records::default()) };
    crate::blocking(move || {
        progress::read_open_work(&Reader::new(&config)?, &Names::new(&config), log)
    })
    .await
}

/// Reads the newest version of every table of the log.
///
/// # Errors
///
/// As for [`read_position`].
pub async fn tables(kafka: &KafkaConfig) -> Result<Vec<Arc<SchemaRecord>>> {
    let config = kafka.clone();
    crate::blocking(move || {
        let (tables, _) = progress::read_tables(&Reader::new(&config)?, &Names::new(&config))?;
        Ok(tables.all().map(Arc::clone).collect())
    })
    .await
}

/// How far a sink is by its committed offsets, which follow its cursor by a second or so.
///
/// # Errors
///
/// As for [`read_position`].
pub async fn lag(kafka: &KafkaConfig, sink: &str, generation: u32) -> Result<Vec<UnitLag>> {
    let tables = tables(kafka).await?;
    let client = kafka.consumer(&Names::new(kafka).group(sink, generation));
    crate::blocking(move || {
        let context = Quiet::default();
        let trouble = context.trouble.clone();
        // It never joins: a consumer without subscription only asks.
        let consumer = BaseConsumer::from_config_and_context(&client, context)
            .map_err(|e| error::classify("make a Kafka consumer", e, &trouble))?;
        let mut units = Vec::new();
        for table in tables {
            units.extend(lag_of(&consumer, &table, &trouble)?);
        }
        Ok(units)
    })
    .await
}

fn lag_of(
    consumer: &BaseConsumer<Quiet>,
    table: &SchemaRecord,
    trouble: &Trouble,
) -> Result<Vec<UnitLag>> {
    let topic = &table.topic;
    let classify =
        |e: KafkaError| error::classify(format!("find the lag in topic {topic}"), e, trouble);
    let partitions: Vec<i32> = (0..table.partitions).collect();
    let borders = reader::borders(consumer, topic, &partitions, trouble)?;
    let mut wanted = TopicPartitionList::new();
    wanted.add_partition_range(topic, 0, table.partitions - 1);
    let committed = consumer.committed_offsets(wanted, BROKER_TIMEOUT).map_err(classify)?;
    let unit = |(partition, Borders { start, end }): (i32, Borders)| {
        let committed = committed.find_partition(topic, partition).map(|unit| unit.offset());
        let next = match committed {
            Some(Offset::Offset(offset)) => offset,
            Some(_) | None => start,
        };
        UnitLag {
            topic: topic.clone(),
            partition,
            next,
            end,
            events: 0,
            caught_up: true,
            applied_us: None,
            waiting_us: None,
        }
    };
    let mut units: Vec<UnitLag> = partitions.into_iter().zip(borders).map(unit).collect();
    find_waiting(consumer, &mut units).map_err(classify)?;
    Ok(units)
}

/// Looks at the first record after each committed offset: where there is only the marker of a
/// transaction, nothing waits.
fn find_waiting(consumer: &BaseConsumer<Quiet>, units: &mut [UnitLag]) -> Result<(), KafkaError> {
    let mut behind = TopicPartitionList::new();
    for unit in units.iter().filter(|unit| unit.next < unit.end) {
        behind.add_partition_offset(&unit.topic, unit.partition, Offset::Offset(unit.next))?;
    }
    let mut open = behind.count();
    consumer.assign(&behind)?;
    let deadline = Instant::now() + BROKER_TIMEOUT;
    while open > 0 && Instant::now() < deadline {
        match consumer.poll(POLL) {
            None => {}
            Some(Ok(record)) => {
                let at = |unit: &&mut UnitLag| unit.partition == record.partition();
                if let Some(unit) = units.iter_mut().find(at).filter(|unit| unit.caught_up) {
                    unit.caught_up = false;
                    unit.events = unit.end - unit.next;
                    let written = record.timestamp().to_millis();
                    unit.waiting_us = written.map(|ms| ms.saturating_mul(1000));
                    open -= 1;
                }
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                let at = |unit: &UnitLag| unit.partition == partition && unit.caught_up;
                open -= usize::from(units.iter().any(at));
            }
            Some(Err(e)) if error::kind(&e) == anabranch_core::ErrorKind::Lost => {
                // Its records have expired: it is behind by all that is left.
                open -= 1;
            }
            Some(Err(e)) => return Err(e),
        }
    }
    consumer.unassign()
}

/// What a teardown removes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Teardown {
    /// Consumer groups of the sinks.
    pub groups: Vec<String>,
    /// Topics of the tables that the log recorded.
    pub topics: Vec<String>,
    /// Subjects of those topics.
    pub subjects: Vec<String>,
    /// The topics of the log itself, last: they say what else there is.
    pub internal: Vec<String>,
}

impl fmt::Display for Teardown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let topics = self.topics.iter().chain(&self.internal);
        self.groups.iter().try_for_each(|group| writeln!(f, "delete consumer group {group}"))?;
        self.subjects.iter().try_for_each(|subject| writeln!(f, "delete subject {subject}"))?;
        topics.into_iter().try_for_each(|topic| writeln!(f, "delete topic {topic}"))
    }
}

/// Finds what [`teardown`] would remove: what the log recorded, and the groups of these sinks.
///
/// # Errors
///
/// As for [`read_position`].
pub async fn plan_teardown(kafka: &KafkaConfig, sinks: &[String]) -> Result<Teardown> {
    let tables = tables(kafka).await?;
    let names = Names::new(kafka);
    let groups: Vec<String> = sinks.iter().map(|sink| names.group(sink, 1)).collect();
    let config = kafka.clone();
    crate::blocking(move || {
        let reader = Reader::new(&config)?;
        let is_there = |topic: &String| -> Result<bool> { Ok(reader.partitions(topic)?.is_some()) };
        let mut plan = Teardown { groups: reader.existing_groups(groups)?, ..Teardown::default() };
        for table in &tables {
            plan.subjects.extend([key_subject(&table.topic), value_subject(&table.topic)]);
            if is_there(&table.topic)? {
                plan.topics.push(table.topic.clone());
            }
        }
        for topic in Topic::internal(&names) {
            if is_there(&topic.name)? {
                plan.internal.push(topic.name);
            }
        }
        Ok(plan)
    })
    .await
}

/// Removes what `plan` says. One that was interrupted can be planned and run again.
///
/// # Errors
///
/// [`anabranch_core::ErrorKind::Config`] if a group still has members; nothing is removed then.
/// Else as for [`read_position`].
pub async fn teardown(
    kafka: &KafkaConfig,
    registry: &RegistryConfig,
    plan: &Teardown,
) -> Result<()> {
    let admin = Admin::new(kafka)?;
    delete_groups(&admin, &plan.groups).await?;
    let registry = Registry::new(registry)?;
    for subject in &plan.subjects {
        registry.delete(subject).await?;
    }
    delete_topics(&admin, &plan.topics).await?;
    delete_topics(&admin, &plan.internal).await
}

async fn delete_groups(admin: &Admin, groups: &[String]) -> Result<()> {
    if groups.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = groups.iter().map(String::as_str).collect();
    let results = admin.client().delete_groups(&names, &AdminOptions::new()).await;
    for result in results.map_err(|e| admin.classify("delete consumer groups", e))? {
        match result {
            Ok(_) | Err((_, Code::GroupIdNotFound)) => {}
            Err((group, Code::NonEmptyGroup)) => {
                let seen = "it still has members";
                let action = format!("delete consumer group {group}");
                return Err(error::config(action, seen, "stop the daemon first"));
            }
            Err((group, code)) => {
                let action = format!("delete consumer group {group}");
                return Err(admin.classify(action, KafkaError::AdminOp(code)));
            }
        }
    }
    Ok(())
}

async fn delete_topics(admin: &Admin, topics: &[String]) -> Result<()> {
    if topics.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = topics.iter().map(String::as_str).collect();
    let results = admin.client().delete_topics(&names, &AdminOptions::new()).await;
    for result in results.map_err(|e| admin.classify("delete topics", e))? {
        match result {
            Ok(_) | Err((_, Code::UnknownTopicOrPartition)) => {}
            Err((topic, code)) => {
                let action = format!("delete topic {topic}");
                return Err(admin.classify(action, KafkaError::AdminOp(code)));
            }
        }
    }
    Ok(())
}

/// Looks at whether the log would run: brokers, rights, topics, registry. Changes nothing.
pub async fn check(kafka: &KafkaConfig, registry: &RegistryConfig) -> Vec<Finding> {
    let mut findings = match check_brokers(kafka).await {
        Ok(findings) => findings,
        Err(error) => vec![blocker("kafka: brokers", &error)],
    };
    if findings.iter().all(|finding| finding.level != Level::Blocker) {
        findings.push(outcome("kafka: create topics", try_create(kafka).await, |()| {
            "allowed".to_owned()
        }));
        findings.push(outcome("kafka: topics", check_topics(kafka).await, |count| {
            format!("{count} tables in the log, with the partitions they were created with")
        }));
    }
    let reached = match Registry::new(registry) {
        Ok(registry) => registry.reach().await,
        Err(error) => Err(error),
    };
    findings.push(outcome("registry: url", reached, |count| format!("{count} subjects")));
    findings
}

async fn check_brokers(kafka: &KafkaConfig) -> Result<Vec<Finding>> {
    let admin = Admin::new(kafka)?;
    let action = format!("reach the brokers at {}", kafka.brokers);
    let brokers = crate::blocking(move || {
        let metadata = admin.client().inner().fetch_metadata(None, BROKER_TIMEOUT);
        metadata.map(|metadata| metadata.brokers().len()).map_err(|e| admin.classify(action, e))
    })
    .await?;
    let reachable = Finding::fine("kafka: brokers", format!("{brokers} brokers"));
    let wanted = usize::try_from(kafka.replication).unwrap_or(0);
    let seen = format!("replication {wanted} of {brokers} brokers");
    let subject = "kafka: replication";
    let replication = if wanted == 0 || wanted > brokers {
        let help = format!("set [kafka] replication to at most {brokers}");
        Finding::trouble(Level::Blocker, subject, seen, help)
    } else if wanted == 1 && brokers > 1 {
        let help = "set [kafka] replication = 3: a lost disk is a lost log";
        Finding::trouble(Level::Risk, subject, seen, help)
    } else {
        Finding::fine(subject, seen)
    };
    Ok(vec![reachable, replication])
}

async fn try_create(kafka: &KafkaConfig) -> Result<()> {
    let admin = Admin::new(kafka)?;
    for topic in Topic::internal(&Names::new(kafka)) {
        admin.create(&topic, true).await?;
    }
    admin.create(&Topic::of_table(kafka, format!("{}.check.check", kafka.prefix)), true).await
}

async fn check_topics(kafka: &KafkaConfig) -> Result<usize> {
    let tables = tables(kafka).await?;
    let admin = Admin::new(kafka)?;
    for table in &tables {
        match admin.partitions(&table.topic).await? {
            None => return Err(topics::missing(&table.topic)),
            Some(found) if found != table.partitions => {
                return Err(topics::wrong_count(&table.topic, table.partitions, found));
            }
            Some(_) => {}
        }
    }
    Ok(tables.len())
}

fn outcome<T>(subject: &str, result: Result<T>, seen: impl FnOnce(T) -> String) -> Finding {
    match result {
        Ok(value) => Finding::fine(subject, seen(value)),
        Err(error) => blocker(subject, &error),
    }
}

fn blocker(subject: &str, error: &anabranch_core::Error) -> Finding {
    Finding::blocker(subject, error, "see what Kafka and the registry log")
}
