//! Questions with one answer.

use std::time::Duration;

use tokio_postgres::{Client, SimpleQueryMessage};

use super::DEADLINE;

/// What the last row of `sql` has in its first column.
pub(crate) async fn text(client: &Client, sql: &str) -> String {
    let mut value = None;
    for message in &client.simple_query(sql).await.unwrap() {
        if let SimpleQueryMessage::Row(row) = message {
            value = row.get(0).map(str::to_owned);
        }
    }
    value.unwrap_or_default()
}

/// Waits until `sql` says `t`.
pub(crate) async fn wait_for(client: &Client, sql: &str) {
    let wait = async {
        while text(client, sql).await != "t" {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("never: {sql}"));
}
