//! The tables of the log: a record for each version of each table's schema in the schemas topic.
//!
//! ```text
//! LogSink ── SchemaRecord ──▶ <prefix>.schemas ──▶ Tables: (topic, value schema id) ─▶ table
//! ```
//!
//! A record is durable before the first event that needs it, and names the partition count and
//! the key schema that its topic was created with: these never change in a generation.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use anabranch_core::{ErrorKind, Result, Table};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error;

/// The format number of [`SchemaRecord`] (`docs/formats.md`).
pub const SCHEMA_FORMAT: u16 = 1;

/// One version of a table's schema, as the log knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaRecord {
    /// [`SCHEMA_FORMAT`].
    pub format: u16,
    /// The log it belongs to.
    pub log: Uuid,
    /// The generation of the topic, from 1.
    pub generation: u32,
    /// The topic of the table's changes.
    pub topic: String,
    /// How many partitions it was created with.
    pub partitions: i32,
    /// The registry's id of the schema of its keys.
    pub key_schema_id: i32,
    /// The registry's id of the schema of its values in this version.
    pub value_schema_id: i32,
    /// The table in this version.
    pub table: Arc<Table>,
}

impl SchemaRecord {
    /// The key of the record in the schemas topic: a later one with the same key replaces it.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}/{}", self.topic, self.value_schema_id)
    }

    pub(crate) fn parse(value: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Format {
            format: u16,
        }
        let action = "read a record of the schemas topic";
        let malformed = |e: serde_json::Error| {
            anabranch_core::Error::new(ErrorKind::Rejected, action).with_source(e)
        };
        let format = serde_json::from_slice::<Format>(value).map_err(malformed)?.format;
        if format > SCHEMA_FORMAT {
            let seen =
                format!("it has format {format}, and this release reads up to {SCHEMA_FORMAT}");
            return Err(error::config(
                action,
                seen,
                "run the release that wrote it, or a newer one",
            ));
        }
        serde_json::from_slice(value).map_err(malformed)
    }
}

/// Every table of the log.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    topics: BTreeMap<String, Versions>,
}

#[derive(Clone, Debug)]
struct Versions {
    newest: Arc<SchemaRecord>,
    by_value_schema: HashMap<i32, Arc<SchemaRecord>>,
}

impl Tables {
    /// Takes in the next record of the schemas topic.
    pub(crate) fn add(&mut self, record: SchemaRecord) {
        let record = Arc::new(record);
        let id = record.value_schema_id;
        match self.topics.get_mut(&record.topic) {
            Some(versions) if versions.newest.log == record.log => {
                versions.by_value_schema.insert(id, Arc::clone(&record));
                versions.newest = record;
            }
            // What was known of another log's topic says nothing about this one.
            Some(_) | None => {
                let by_value_schema = HashMap::from([(id, Arc::clone(&record))]);
                let topic = record.topic.clone();
                self.topics.insert(topic, Versions { newest: record, by_value_schema });
            }
        }
    }

    /// The newest version of the table in `topic`.
    #[must_use]
    pub fn newest(&self, topic: &str) -> Option<&Arc<SchemaRecord>> {
        self.topics.get(topic).map(|versions| &versions.newest)
    }

    /// The version of the table in `topic` whose values have this schema.
    #[must_use]
    pub fn version(&self, topic: &str, value_schema_id: i32) -> Option<&Arc<SchemaRecord>> {
        self.topics.get(topic)?.by_value_schema.get(&value_schema_id)
    }

    /// The newest version of every table, by topic.
    pub fn all(&self) -> impl Iterator<Item = &Arc<SchemaRecord>> {
        self.topics.values().map(|versions| &versions.newest)
    }
}

/// Whether two versions of a table are the same but for their number.
pub(crate) fn is_same(one: &Table, other: &Table) -> bool {
    let Table { oid, version: _, schema, name, columns, key } = one;
    (oid, schema, name, columns, key)
        == (&other.oid, &other.schema, &other.name, &other.columns, &other.key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(log: u128, value_schema_id: i32, version: u32) -> SchemaRecord {
        let (schema, name) = ("public".to_owned(), "orders".to_owned());
        let table = Table { oid: 1, version, schema, name, columns: Vec::new(), key: vec![0] };
        SchemaRecord {
            format: SCHEMA_FORMAT,
            log: Uuid::from_u128(log),
            generation: 1,
            topic: "t".to_owned(),
            partitions: 4,
            key_schema_id: 1,
            value_schema_id,
            table: Arc::new(table),
        }
    }

    #[test]
    fn the_last_record_is_the_newest_version_and_older_ones_stay_readable() {
        let mut tables = Tables::default();
        for (id, version) in [(7, 1), (8, 2), (7, 3)] {
            tables.add(record(1, id, version));
        }
        let version = |record: &Arc<SchemaRecord>| record.table.version;
        assert_eq!(tables.newest("t").map(version), Some(3));
        assert_eq!(tables.version("t", 8).map(version), Some(2));
        assert_eq!(tables.version("t", 7).map(version), Some(3));
        assert!(tables.version("t", 9).is_none() && tables.version("u", 7).is_none());
    }

    #[test]
    fn another_log_starts_anew() {
        let mut tables = Tables::default();
        tables.add(record(1, 7, 1));
        tables.add(record(2, 8, 1));
        assert!(tables.version("t", 7).is_none());
        assert_eq!(tables.all().count(), 1);
    }

    #[test]
    fn records_round_trip_and_newer_formats_are_refused() {
        let mut written = record(1, 7, 1);
        let bytes = serde_json::to_vec(&written).unwrap();
        assert_eq!(SchemaRecord::parse(&bytes).unwrap(), written);
        written.format = SCHEMA_FORMAT + 1;
        let bytes = serde_json::to_vec(&written).unwrap();
        assert_eq!(SchemaRecord::parse(&bytes).unwrap_err().kind(), ErrorKind::Config);
        assert_eq!(SchemaRecord::parse(b"{}").unwrap_err().kind(), ErrorKind::Rejected);
    }

    #[test]
    fn a_number_alone_makes_no_new_version() {
        let (one, two) = (record(1, 7, 1), record(1, 7, 2));
        assert!(is_same(&one.table, &two.table));
        let renamed = Table { name: "o".to_owned(), ..(*one.table).clone() };
        assert!(!is_same(&one.table, &renamed));
    }
}
