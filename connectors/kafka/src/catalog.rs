//! The log as a reader knows it: its id and its tables, read again when something new shows up.
//!
//! Blocking: call what reads where blocking is allowed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anabranch_core::selection::takes_in;
use anabranch_core::{Result, Table};
use uuid::Uuid;

use crate::schemas::{SchemaRecord, Tables};
use crate::{KafkaConfig, error, progress};

/// The id and the tables of one log.
#[derive(Debug)]
pub(crate) struct Catalog {
    config: KafkaConfig,
    /// The tables to look at, as [`takes_in`] has them; all if `None`.
    wanted: Option<Vec<String>>,
    pub(crate) log: Uuid,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    tables: Tables,
    /// Where the schemas topic ended when it was read.
    end: i64,
    /// The log has another id now, or none.
    is_replaced: bool,
}

impl Catalog {
    /// Reads both. A log that nobody has written to yet is a transient error.
    pub(crate) fn read(config: &KafkaConfig, wanted: Option<Vec<String>>) -> Result<Self> {
        let progress = progress::read(config)?;
        let Some(position) = progress.position else {
            return Err(error::transient(
                format!("read the log {}", config.prefix),
                "the source has not begun to write it",
            ));
        };
        let (tables, end) = (progress.tables, progress.schemas_end);
        let known = Known { tables, end, is_replaced: false };
        Ok(Self { config: config.clone(), wanted, log: position.log, known: Mutex::new(known) })
    }

    /// Reads the tables again, to the end of the topic, and whether it still is the same log.
    pub(crate) fn refresh(&self) -> Result<()> {
        let progress = progress::read(&self.config)?;
        let is_same = progress.position.is_some_and(|position| position.log == self.log);
        let mut known = self.known();
        if is_same {
            known.tables = progress.tables;
            known.end = progress.schemas_end;
        }
        known.is_replaced = !is_same;
        Ok(())
    }

    /// An error if the log was another one when it was last looked at. All that its readers hold
    /// is void then: they begin anew, and find out what that means for them.
    pub(crate) fn check_same(&self) -> Result<()> {
        if self.known().is_replaced {
            let seen = "it was wiped, and perhaps begun anew, since this process began to read it";
            return Err(error::transient(format!("read the log {}", self.config.prefix), seen));
        }
        Ok(())
    }

    /// Where the schemas topic ended when it was last read.
    pub(crate) fn end(&self) -> i64 {
        self.known().end
    }

    /// The newest version of every wanted table of this log.
    pub(crate) fn all(&self) -> Vec<Arc<SchemaRecord>> {
        let is_wanted = |record: &SchemaRecord| {
            let Table { schema, name, .. } = &*record.table;
            self.wanted.as_ref().is_none_or(|wanted| takes_in(wanted, schema, name))
        };
        let hit = |record: &&Arc<SchemaRecord>| record.log == self.log && is_wanted(record);
        self.known().tables.all().filter(hit).map(Arc::clone).collect()
    }

    /// The newest version of the table in `topic`.
    pub(crate) fn newest(&self, topic: &str) -> Option<Arc<SchemaRecord>> {
        self.known().tables.newest(topic).map(Arc::clone)
    }

    /// The version of the table in `topic` whose values have this schema.
    pub(crate) fn version(&self, topic: &str, value_schema_id: i32) -> Option<Arc<SchemaRecord>> {
        self.known().tables.version(topic, value_schema_id).map(Arc::clone)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
