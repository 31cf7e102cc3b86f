//! Locks on tables, against what rewrites them.
//!
//! Whoever stands in line for a lock while it holds others may be half of a deadlock, and the server
//! then ends whoever it likes, which may be a migration of the application's. So nothing of ours stands
//! in line: a lock that is not to be had at once is asked for again.

use anabranch_core::Result;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::error::Context;
use crate::wait::Wait;

/// The statement that locks `tables`, each as SQL has it, or fails at once.
pub(crate) fn lock_sql(tables: &[String]) -> String {
    format!("lock table {} in access share mode nowait", tables.join(", "))
}

/// Whether another session has a lock that is in the way.
pub(crate) fn is_taken(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE)
}

/// Waits before a lock is asked for again. `error` is what the server said, and names the table.
pub(crate) async fn pause(wait: &mut Wait, error: &tokio_postgres::Error) {
    if wait.is_to_be_told() {
        let error = error.as_db_error().map_or_else(|| error.to_string(), ToString::to_string);
        tracing::warn!(error, "a table is being altered: waiting until that has ended");
    }
    wait.pause().await;
}

/// Locks `tables` in the open transaction of `client`, whose snapshot stays as it is.
pub(crate) async fn lock(client: &Client, tables: &[String], action: fn() -> String) -> Result<()> {
    client.batch_execute("savepoint locks").await.doing(action)?;
    let mut wait = Wait::begin();
    loop {
        match client.batch_execute(&lock_sql(tables)).await {
            Err(error) if is_taken(&error) => {
                client.batch_execute("rollback to savepoint locks").await.doing(action)?;
                pause(&mut wait, &error).await;
            }
            locked => return locked.doing(action),
        }
    }
}
