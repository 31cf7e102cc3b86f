//! Locks on tables, against what rewrites them.
//!
//! Whoever stands in line for a lock while it holds others may be half of a deadlock, and the server
//! then ends whoever it likes, which may be a migration of the application's. So nothing of ours stands
//! in line: a lock that is not to be had at once is asked for again.

use std::time::Duration;

use anabranch_core::Result;
use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::error::Context;

/// The first wait for a lock.
const BACKOFF_MIN: Duration = Duration::from_millis(2);
/// The longest: a statement that changes a table takes its time.
const BACKOFF_MAX: Duration = Duration::from_millis(200);
/// A wait that somebody should know of.
const LONG_WAIT: Duration = Duration::from_secs(10);

/// A wait for a lock that another session has.
#[derive(Debug)]
pub(crate) struct Wait {
    began: Instant,
    backoff: Duration,
    told: bool,
}

impl Default for Wait {
    fn default() -> Self {
        Self { began: Instant::now(), backoff: BACKOFF_MIN, told: false }
    }
}

impl Wait {
    /// Waits for a while, longer each time. `error` is what the server said, and names the table.
    pub(crate) async fn pause(&mut self, error: &tokio_postgres::Error) {
        if !self.told && self.began.elapsed() > LONG_WAIT {
            let error = error.as_db_error().map_or_else(|| error.to_string(), |e| e.to_string());
            tracing::warn!(error, "a table is being altered: waiting until that has ended");
            self.told = true;
        }
        tokio::time::sleep(self.backoff).await;
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
    }
}

/// The statement that locks `tables`, each as SQL has it, or fails at once.
pub(crate) fn lock_sql(tables: &[String]) -> String {
    format!("lock table {} in access share mode nowait", tables.join(", "))
}

/// Whether another session has a lock that is in the way.
pub(crate) fn is_taken(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE)
}

/// Locks `tables` in the open transaction of `client`, whose snapshot stays as it is.
pub(crate) async fn lock(client: &Client, tables: &[String], action: fn() -> String) -> Result<()> {
    client.batch_execute("savepoint locks").await.doing(action)?;
    let mut wait = Wait::default();
    loop {
        match client.batch_execute(&lock_sql(tables)).await {
            Err(error) if is_taken(&error) => {
                client.batch_execute("rollback to savepoint locks").await.doing(action)?;
                wait.pause(&error).await;
            }
            locked => return locked.doing(action),
        }
    }
}
