//! Tables that the configuration names and the database has not any more.

use std::time::Duration;

use anabranch_core::{ErrorKind, Level, Phase, SnapshotState};
use anabranch_postgres::{LogState, SnapshotRequests, check};

use crate::incremental::{TABLE, followed, whole};
use crate::support::{Database, Follower, Replica, assert_equal};

const BOTH: [&str; 2] = ["public.t", "public.u"];

/// Its rows are nothing that could be compared any more.
fn forget(replica: &mut Replica, name: &str) {
    let tables = replica.tables.values().filter(|table| table.name == name);
    let oids: Vec<u32> = tables.map(|table| table.oid).collect();
    replica.rows.retain(|(oid, _), _| !oids.contains(oid));
}

fn schema() -> String {
    format!("{TABLE}; create table u (id int primary key); insert into u values (1)")
}

/// In the middle of the first copy.
async fn half_copied() -> (Database, Follower) {
    let mut database = Database::new(&schema(), &BOTH).await;
    database.config.batch_bytes_max = 100_000;
    let mut follower = Follower::start(&database, Replica::default()).await;
    while follower.replica.rows.len() < 1_000 {
        follower.step().await.unwrap();
    }
    assert_eq!(follower.replica.cursor.as_ref().unwrap().phase, Phase::Snapshot);
    (database, follower)
}

/// Its lock waits for the copy, and then it is gone: what it had stays, and the rest goes on.
#[tokio::test]
async fn a_table_that_is_dropped_while_it_is_copied_is_let_go_of() {
    let (database, mut follower) = half_copied().await;
    let read = async {
        database.wait_for("select count(*) > 0 from pg_locks where not granted").await;
        follower.settle().await;
    };
    // Over a connection of its own, since it waits.
    let dropper = database.connect().await;
    let (dropped, ()) = tokio::join!(dropper.batch_execute("drop table t"), read);
    dropped.unwrap();
    database.run("insert into u values (2)").await;
    follower.catch_up(&database).await;
    assert_eq!(follower.replica.present().len(), 5002, "what it had is there");
    let mut follower = Follower::start(&database, follower.release(&database).await).await;
    database.run("insert into u values (3)").await;
    follower.catch_up(&database).await;
    assert_eq!(follower.replica.present().len(), 5003);
    drop(follower);
    database.drop().await;
}

#[tokio::test]
async fn a_table_that_is_dropped_while_nobody_reads_is_let_go_of_before_it_is_copied() {
    let (mut database, follower) = half_copied().await;
    let replica = follower.release(&database).await;
    // What it wrote since is still in the WAL.
    database.run("insert into t values (9000)").await;
    database.run("drop table t; insert into u values (2)").await;
    let mut follower = Follower::start(&database, replica).await;
    follower.settle().await;
    follower.catch_up(&database).await;
    database.config.tables.remove(0);
    forget(&mut follower.replica, "t");
    assert_equal(&follower, &database, "without the table that was dropped").await;
    drop(follower);
    database.drop().await;
}

#[tokio::test]
async fn a_snapshot_of_a_table_that_is_dropped_ends_and_is_not_begun_again() {
    let mut database = Database::new(&schema(), &BOTH).await;
    database.config.copy_bytes_max = 10_000;
    database.config.snapshot_rows_per_second_max = 1_000.try_into().ok();
    let mut follower = Follower::start(&database, Replica::default()).await;
    while !follower.replica.snapshots.values().any(|record| record.by_itself && record.rows > 0) {
        follower.step().await.unwrap();
    }
    database.run("drop table t").await;
    follower.settle().await;
    let begun = follower.replica.snapshots.values().find(|record| record.by_itself);
    let begun = begun.unwrap().clone();
    assert_eq!((begun.state, &begun.trouble), (SnapshotState::Cancelled, &None));
    let mut replica = follower.release(&database).await;
    // As if it had been dropped after the last chunk, while nobody read.
    replica.snapshots.get_mut(&begun.oid).unwrap().state = SnapshotState::Running;
    replica.log.records(replica.snapshots.values().cloned().collect());
    let mut follower = Follower::start(&database, replica).await;
    follower.ask(&[whole("public.t")]);
    follower.settle().await;
    assert_eq!(follower.replica.snapshots[&begun.oid].state, SnapshotState::Cancelled);
    drop(follower);
    database.drop().await;
}

/// A repair that cannot be carried out any more is not tried for ever.
#[tokio::test]
async fn a_repair_of_a_table_that_is_dropped_is_forgotten() {
    let sql = format!(
        "{}; alter table t alter body set storage external;
         update t set body = repeat('x', 9000) where id <= 3",
        schema()
    );
    let database = Database::new(&sql, &BOTH).await;
    let replica = followed(&database).await.release(&database).await;
    database.run("update t set n = 1 where id <= 3").await;
    database.run("alter table t alter body type bytea using body::bytea").await;
    let mut follower = Follower::start(&database, replica).await;
    follower.ask_all(SnapshotRequests { held: true, ..SnapshotRequests::default() });
    while follower.replica.log.pending().is_empty() {
        follower.step().await.unwrap();
    }
    database.run("drop table t").await;
    follower.ask_all(SnapshotRequests::default());
    let mended = tokio::time::timeout(Duration::from_secs(60), follower.mend());
    mended.await.expect("it is given up");
    database.run("insert into u values (2)").await;
    follower.catch_up(&database).await;
    drop(follower);
    database.drop().await;
}

/// Whoever waits for a table that the copy has locked stands before its next range in line.
#[tokio::test]
async fn a_migration_that_waits_for_the_copy_ends_it_and_the_rest_is_read_beside_the_stream() {
    let sql = format!(
        "{}; create table later (id int primary key, v text);
         insert into later select g, repeat('v', 20) from generate_series(1, 2000) g",
        schema()
    );
    let mut database = Database::new(&sql, &["public.t", "public.later"]).await;
    database.config.batch_bytes_max = 30_000;
    database.config.snapshot_sessions = 1.try_into().unwrap();
    let mut follower = Follower::start(&database, Replica::default()).await;
    while follower.replica.rows.is_empty() {
        follower.step().await.unwrap();
    }
    let migrator = database.connect().await;
    let copied = async {
        database.wait_for("select count(*) > 0 from pg_locks where not granted").await;
        follower.failure().await
    };
    let migrate = "truncate later; alter table later add column added int default 7;
                   insert into later values (1, 'new')";
    let (migrated, error) = tokio::join!(migrator.batch_execute(migrate), copied);
    migrated.unwrap();
    assert_eq!(error.kind(), ErrorKind::Transient, "{error:?}");
    assert!(error.report().contains("lock timeout"), "{error:?}");
    let mut follower = Follower::start(&database, follower.release(&database).await).await;
    follower.settle().await;
    follower.catch_up(&database).await;
    assert_eq!(follower.replica.cursor.as_ref().unwrap().epoch.0, 0, "not from the beginning");
    assert_equal(&follower, &database, "after a migration in the copy").await;
    drop(follower);
    database.drop().await;
}

/// A name that is gone says nothing of the table, which may have another one now.
#[tokio::test]
async fn a_table_that_was_renamed_is_not_taken_for_one_that_was_dropped() {
    let mut database = Database::new(&schema(), &BOTH).await;
    let follower = followed(&database).await;
    let log = LogState {
        position: follower.replica.cursor.clone(),
        tables: follower.replica.tables.values().cloned().collect(),
    };
    let replica = follower.release(&database).await;
    let found = async |database: &Database| {
        let found = check(&database.config, Some(&log)).await;
        found.into_iter().find(|found| found.subject == "source: table public.t").unwrap()
    };
    database.run("alter table t rename to t2").await;
    let error = Follower::try_start(&database, replica.fork()).await.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.report().contains("its name is public.t2 now"), "{error:?}");
    let blocker = found(&database).await;
    assert!(blocker.level == Level::Blocker && blocker.help.contains("public.t2"), "{blocker:?}");
    database.run("insert into t2 values (9000)").await;
    database.run("drop table t2").await;
    let risk = found(&database).await;
    assert!(risk.level == Level::Risk && risk.seen.contains("dropped"), "{risk:?}");
    let mut follower = Follower::start(&database, replica).await;
    follower.catch_up(&database).await;
    let log = follower.release(&database).await;
    // One that was never there is a mistake.
    database.config.tables.push("public.v".into());
    let error = Follower::try_start(&database, log.fork()).await.map(drop).unwrap_err();
    assert!(error.report().contains("there is no such table"), "{error:?}");
    database.config.tables.retain(|table| table == "public.u");
    let mut follower = Follower::start(&database, log).await;
    database.run("insert into u values (2)").await;
    follower.catch_up(&database).await;
    forget(&mut follower.replica, "t");
    assert_equal(&follower, &database, "without the table that was dropped").await;
    drop(follower);
    database.drop().await;
}
