//! A database whose source has begun while its tables were empty.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anabranch_core::{Lsn, SourceCursor, Table};

use super::reader::{Job, Reader};
use super::support::Database;

/// A database, and what the log has of it.
pub(crate) struct Scene {
    pub(crate) database: Database,
    known: Vec<Arc<Table>>,
    cursor: SourceCursor,
    slots: usize,
    /// From the start of the process to the stream.
    pub(crate) first_start: Duration,
}

impl Scene {
    /// Begins the source on the tables that `sql` makes.
    pub(crate) async fn begin(sql: &str, tables: &[&str]) -> Self {
        let database = Database::new(sql, tables).await;
        let first = Job::new(&database.config);
        let began = Instant::now();
        let mut reader = Reader::spawn(&first);
        let (mut known, mut cursor) = (Vec::new(), None);
        while let Some(progress) = reader.next() {
            known.extend(progress.tables);
            cursor = Some(progress.cursor);
        }
        let first_start = began.elapsed();
        Self { database, known, cursor: cursor.unwrap(), slots: 0, first_start }
    }

    /// A job that reads through a slot of its own what is written from now on.
    pub(crate) async fn job(&mut self) -> Job {
        let slot = self.slot();
        let sql =
            format!("select lsn from pg_create_logical_replication_slot('{slot}', 'pgoutput')");
        let confirm = self.database.text(&sql).await.parse().unwrap();
        let cursor = SourceCursor { slot: slot.clone(), confirm, ..self.cursor.clone() };
        let job = Job::new(&self.database.config);
        Job { slot, known: self.known.clone(), cursor: Some(cursor), ..job }
    }

    /// The same job on a slot of its own.
    pub(crate) async fn copy(&mut self, job: &Job) -> Job {
        let slot = self.slot();
        let sql = format!("select pg_copy_logical_replication_slot('{}', '{slot}')", job.slot);
        self.database.run(&sql).await;
        let cursor = job.cursor.clone().map(|cursor| SourceCursor { slot: slot.clone(), ..cursor });
        Job { slot, cursor, ..job.clone() }
    }

    fn slot(&mut self) -> String {
        self.slots += 1;
        format!("{}_{}", self.database.config.slot, self.slots)
    }

    /// Runs `sql` as one transaction; returns a place before its commit record.
    pub(crate) async fn transaction(&self, sql: &str) -> Lsn {
        let sql = format!("begin; {sql}; select pg_current_wal_insert_lsn(); commit");
        self.database.text(&sql).await.parse().unwrap()
    }
}

/// Whether cases run at their full size.
pub(crate) fn is_full() -> bool {
    std::env::var("ANABRANCH_TEST_SIZE").is_ok_and(|size| size == "full")
}
