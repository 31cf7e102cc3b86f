//! Where the changes of a table go: topic, partitions and schemas, for each version of the table.
//!
//! ```text
//! table ─▶ recorded like this? ─ yes ─▶ Route
//!                │ no
//!                └─▶ topic there, count and key as recorded? ─▶ register schemas ─▶ SchemaRecord
//! ```

use std::collections::HashMap;
use std::sync::Arc;

use anabranch_core::avro::schema::{envelope_schema, key_schema};
use anabranch_core::{Error, LogBatch, Result, Table};
use uuid::Uuid;

use crate::names::{key_subject, value_subject};
use crate::reader::Reader;
use crate::schemas::{SCHEMA_FORMAT, SchemaRecord, Tables, is_same};
use crate::topics::{self, Admin, Topic};
use crate::{KafkaConfig, Names, Registry, RegistryConfig, error};

/// Versions of tables whose routes are kept; after that they are looked up anew.
const ROUTES_MAX: usize = 10_000;

/// Where the changes of one version of a table go.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    table: Arc<Table>,
    pub(crate) topic: Arc<str>,
    pub(crate) partitions: i32,
    pub(crate) key_schema_id: i32,
    pub(crate) value_schema_id: i32,
}

/// The routes of all tables.
#[derive(Debug)]
pub(crate) struct Routes {
    kafka: KafkaConfig,
    names: Names,
    registry: Registry,
    admin: Option<Admin>,
    /// What the schemas topic holds.
    tables: Tables,
    by_version: HashMap<(u32, u32), Route>,
}

impl Routes {
    pub(crate) fn new(kafka: &KafkaConfig, registry: &RegistryConfig) -> Result<Self> {
        Ok(Self {
            kafka: kafka.clone(),
            names: Names::new(kafka),
            registry: Registry::new(registry)?,
            admin: None,
            tables: Tables::default(),
            by_version: HashMap::new(),
        })
    }

    /// Forgets all, but for what was just read from the log.
    pub(crate) fn reset(&mut self, admin: Admin, tables: Tables) {
        self.admin = Some(admin);
        self.tables = tables;
        self.by_version.clear();
    }

    pub(crate) fn tables(&self) -> &Tables {
        &self.tables
    }

    /// The route of a version that [`Routes::learn`] was told of.
    pub(crate) fn get(&self, table: &Arc<Table>) -> Result<&Route> {
        self.known(table).ok_or_else(|| {
            error::bug(format!("write to table {}", table.full_name()), "it was not announced")
        })
    }

    /// The versions of tables in `batch` that have no route yet, in their order.
    pub(crate) fn missing(&mut self, batch: &LogBatch) -> Vec<Arc<Table>> {
        if self.by_version.len() > ROUTES_MAX {
            self.by_version.clear();
        }
        let mut missing: Vec<Arc<Table>> = Vec::new();
        let mut last: Option<&Arc<Table>> = None;
        for table in batch.tables.iter().chain(batch.events.iter().map(|event| &event.table)) {
            if last.is_some_and(|last| Arc::ptr_eq(last, table)) {
                continue;
            }
            last = Some(table);
            if self.known(table).is_none() && !missing.contains(table) {
                missing.push(Arc::clone(table));
            }
        }
        missing
    }

    /// Makes topics and schemas for `new` and returns the records that the log lacks.
    pub(crate) async fn prepare(&self, new: &[Arc<Table>], log: Uuid) -> Result<Vec<SchemaRecord>> {
        let mut records: Vec<SchemaRecord> = Vec::new();
        for table in new {
            let topic = self.names.topic(table);
            let before = records.iter().rev().find(|record| record.topic == topic);
            let before = before.or(self.tables.newest(&topic).map(Arc::as_ref));
            if let Some(record) = before
                && record.log != log
            {
                return Err(foreign(&topic, "the log's records of it are those of another log"));
            }
            let partitions = self.partitions(&topic, before).await?;
            if before.is_some_and(|record| is_same(&record.table, table)) {
                continue;
            }
            let record = self.register(table, topic, partitions, log).await?;
            if let Some(before) = before
                && before.key_schema_id != record.key_schema_id
            {
                return Err(other_key(&record.topic, table));
            }
            records.push(record);
        }
        Ok(records)
    }

    /// Takes in what is recorded by now, and routes `new`.
    pub(crate) fn learn(&mut self, new: &[Arc<Table>], records: Vec<SchemaRecord>) -> Result<()> {
        for table in new {
            let topic = self.names.topic(table);
            let written = records.iter().find(|r| r.topic == topic && is_same(&r.table, table));
            let newest = self.tables.newest(&topic).map(Arc::as_ref);
            let Some(record) = written.or(newest.filter(|r| is_same(&r.table, table))) else {
                return Err(error::bug(format!("route topic {topic}"), "it was not recorded"));
            };
            let route = Route {
                table: Arc::clone(table),
                topic: topic.into(),
                partitions: record.partitions,
                key_schema_id: record.key_schema_id,
                value_schema_id: record.value_schema_id,
            };
            self.by_version.insert((table.oid, table.version), route);
        }
        for record in records {
            self.tables.add(record);
        }
        Ok(())
    }

    fn known(&self, table: &Arc<Table>) -> Option<&Route> {
        let route = self.by_version.get(&(table.oid, table.version))?;
        (Arc::ptr_eq(&route.table, table) || route.table == *table).then_some(route)
    }

    /// The partition count of a topic: as recorded, or as it was just created.
    async fn partitions(&self, topic: &str, recorded: Option<&SchemaRecord>) -> Result<i32> {
        let Some(admin) = &self.admin else {
            return Err(error::bug(format!("use topic {topic}"), "the log was not opened"));
        };
        if let Some(record) = recorded {
            return match admin.wait_for(topic).await? {
                None => Err(topics::missing(topic)),
                Some(found) if found == record.partitions => Ok(found),
                Some(found) => Err(topics::wrong_count(topic, record.partitions, found)),
            };
        }
        let found = admin.ensure(&Topic::of_table(&self.kafka, topic.to_owned())).await?;
        if found != self.kafka.partitions {
            let seen = format!("it has {found} partitions and no record in the log");
            return Err(foreign(topic, &seen));
        }
        if self.has_records(topic, found).await? {
            return Err(foreign(topic, "it holds records and the log knows nothing of it"));
        }
        Ok(found)
    }

    /// Records come after the topic's own record, even those of an aborted transaction.
    async fn has_records(&self, topic: &str, partitions: i32) -> Result<bool> {
        let (kafka, topic) = (self.kafka.clone(), topic.to_owned());
        crate::blocking(move || {
            let all: Vec<i32> = (0..partitions).collect();
            let borders = Reader::new(&kafka)?.borders(&topic, &all)?;
            Ok(borders.iter().any(|borders| borders.end > 0))
        })
        .await
    }

    async fn register(
        &self,
        table: &Arc<Table>,
        topic: String,
        partitions: i32,
        log: Uuid,
    ) -> Result<SchemaRecord> {
        let (key, value) = (key_schema(table, &topic), envelope_schema(table, &topic));
        let key_schema_id = self.registry.register(&key_subject(&topic), &key).await?;
        let value_schema_id = self.registry.register(&value_subject(&topic), &value).await?;
        Ok(SchemaRecord {
            format: SCHEMA_FORMAT,
            log,
            generation: 1,
            topic,
            partitions,
            key_schema_id,
            value_schema_id,
            table: Arc::clone(table),
        })
    }
}

/// The topic is there, and is not this log's.
fn foreign(topic: &str, seen: &str) -> Error {
    error::config(
        format!("use topic {topic}"),
        seen,
        "choose another [kafka] prefix, or delete the topic if it is a leftover",
    )
}

fn other_key(topic: &str, table: &Table) -> Error {
    error::config(
        format!("use topic {topic}"),
        format!("the key of table {} is another one than its topic's", table.full_name()),
        "a topic's key is fixed: run `anabranch teardown` and start again",
    )
}
