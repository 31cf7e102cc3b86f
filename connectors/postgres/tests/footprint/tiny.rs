//! Thousands of tables with hardly a row, beside a large one: copied, and read again beside the stream.

use std::time::{Duration, Instant};

use anabranch_core::{SnapshotState, TableSnapshot};
use anabranch_postgres::{SnapshotRequest, SnapshotScope};

use super::support::{Cluster, Follower, Replica, assert_equal};

const TABLES: usize = 5_000;
/// For each of the two. A debug build on two busy cores is far below that.
const MAX: Duration = Duration::from_secs(300);

/// All tables end equal, however few rows they have, and each is read over a session that is there.
pub(crate) async fn copied_and_read_again() {
    // As for anything that reads all of so many tables in one transaction.
    let cluster = Cluster::new(&[("max_locks_per_transaction", "256")]).await;
    let sql = format!(
        "create table huge (id int primary key, body text);
         insert into huge select g, repeat('huge ', 20) from generate_series(1, 50000) g;
         do $$ begin for n in 1..{TABLES} loop
           execute format('create table t_%s (id int primary key)', n);
           if n % 2 = 0 then execute format('insert into t_%s values (%s)', n, n); end if;
         end loop; end $$"
    );
    let names = (1..=TABLES).map(|n| format!("public.t_{n}"));
    let names: Vec<String> = names.chain(["public.huge".to_owned()]).collect();
    let tables: Vec<&str> = names.iter().map(String::as_str).collect();
    let database = cluster.database(&sql, &tables).await;
    let began = Instant::now();
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    let copied = began.elapsed();
    assert_eq!(follower.replica.snapshots.len(), TABLES + 1);
    let change = "delete from huge where id % 3 = 0; delete from t_2; insert into t_1 values (1)";
    database.run(change).await;
    let ask = |table: &String| SnapshotRequest {
        id: uuid::Uuid::new_v4(),
        table: table.clone(),
        scope: SnapshotScope::Table,
        paused: false,
        cancelled: false,
    };
    let began = Instant::now();
    follower.ask(&names.iter().map(ask).collect::<Vec<_>>());
    let is_done = |record: &TableSnapshot| !record.by_itself && record.state == SnapshotState::Done;
    while !follower.replica.snapshots.values().all(is_done) {
        follower.step().await.unwrap();
    }
    let again = began.elapsed();
    println!("  {TABLES} tables: copied in {copied:?}, read again in {again:?}");
    assert!(copied < MAX && again < MAX);
    follower.catch_up(&database).await;
    assert_equal(&follower, &database, "after thousands of tables").await;
    drop(follower);
    database.drop().await;
}
