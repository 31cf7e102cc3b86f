//! Slots that others hold, that were invalidated, or that do not belong to the log any more.

use anabranch_core::{Error, ErrorKind, Level, Phase};
use anabranch_postgres::check;

use crate::check::finds;
use crate::support::{Cluster, Database, Follower, Replica, Walsender, truth};

const TABLE: &str = "create table t (id int primary key, v text); insert into t values (1, 'a')";

async fn followed(cluster: &Cluster) -> (Database, Replica) {
    let database = cluster.database(TABLE, &["public.t"]).await;
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    let replica = follower.release(&database).await;
    (database, replica)
}

fn slot(database: &Database) -> String {
    format!("from pg_replication_slots where slot_name = '{}'", database.config.slot)
}

async fn refused(database: &Database, replica: Replica) -> Error {
    Follower::try_start(database, replica).await.err().expect("it must not go on")
}

/// E8. The message names who has the slot; nobody is cut off for it, and when it is free, it is
/// taken.
#[tokio::test]
async fn a_slot_that_another_program_reads_is_waited_for() {
    let cluster = Cluster::new(&[]).await;
    let (database, replica) = followed(&cluster).await;
    let other = Walsender::start(&database, "other_program").await;
    let error = refused(&database, replica.fork()).await;
    assert_eq!(error.kind(), ErrorKind::Transient, "{error:?}");
    let report = error.report();
    assert!(report.contains("in use by other_program from 127.0.0.1, process"), "{report}");
    assert_eq!(database.text(&format!("select active {}", slot(&database))).await, "t");
    drop(other);
    let mut follower = Follower::start(&database, replica).await;
    database.run("insert into t values (2, 'b')").await;
    follower.catch_up(&database).await;
    assert_eq!(follower.replica.present(), truth(&database).await);
}

/// Writes more than a slot may keep, and has the server find that out.
async fn overflow(database: &Database) {
    database.run("insert into t select n, repeat('x', 1000) from generate_series(10, 50) n").await;
    for _ in 0..6 {
        database
            .run("create table w as select repeat('w', 1000) from generate_series(1, 9000)")
            .await;
        database.run("drop table w; select pg_switch_wal(); checkpoint").await;
    }
    let lost = format!("select wal_status = 'lost' {}", slot(database));
    database.wait_for(&lost).await;
}

/// E10. The slot is invalidated while nobody reads it: the error names why, and how much is gone.
/// (The guard that warns before it happens has tests of its own.)
#[tokio::test]
async fn a_slot_that_kept_too_much_is_lost_by_name() {
    let cluster = Cluster::new(&[("max_slot_wal_keep_size", "32MB")]).await;
    let (database, replica) = followed(&cluster).await;
    overflow(&database).await;
    let error = refused(&database, replica).await;
    assert_eq!(error.kind(), ErrorKind::Lost, "{error:?}");
    let report = error.report();
    assert!(report.contains("max_slot_wal_keep_size") && error.help().is_some(), "{report}");
}

/// E10, while it is being read, slower than it is written.
#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_is_lost_while_it_is_read_is_lost_by_name() {
    let cluster = Cluster::new(&[("max_slot_wal_keep_size", "32MB")]).await;
    let (mut database, replica) = followed(&cluster).await;
    database.config.batch_bytes_max = 1_000;
    let mut follower = Follower::start(&database, replica).await;
    overflow(&database).await;
    let error = loop {
        if let Err(error) = follower.step().await {
            break error;
        }
    };
    assert!(matches!(error.kind(), ErrorKind::Transient | ErrorKind::Lost), "{error:?}");
    let error = refused(&database, follower.kill()).await;
    assert_eq!(error.kind(), ErrorKind::Lost, "{error:?}");
    assert!(error.report().contains("max_slot_wal_keep_size"), "{error:?}");
}

/// E10, before the stream begins: nobody reads the slot while the tables are copied.
#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_is_lost_while_the_tables_are_copied_is_lost_by_name() {
    let cluster = Cluster::new(&[("max_slot_wal_keep_size", "32MB")]).await;
    let sql = format!("{TABLE}; insert into t select n, 'x' from generate_series(100, 999) n");
    let mut database = cluster.database(&sql, &["public.t"]).await;
    database.config.batch_bytes_max = 1_000;
    let mut follower = Follower::start(&database, Replica::default()).await;
    while follower.replica.rows.is_empty() {
        follower.step().await.unwrap();
    }
    let phase = |follower: &Follower| follower.replica.cursor.as_ref().unwrap().phase;
    assert_eq!(phase(&follower), Phase::Snapshot);
    overflow(&database).await;
    let error = follower.failure().await;
    assert_eq!(error.kind(), ErrorKind::Transient, "{error:?}");
    assert_eq!(phase(&follower), Phase::Streaming);
    let error = refused(&database, follower.kill()).await;
    assert_eq!(error.kind(), ErrorKind::Lost, "{error:?}");
    assert!(error.report().contains("max_slot_wal_keep_size"), "{error:?}");
}

/// Names of slots are those of the whole server: ours may be taken, by another database of ours.
#[tokio::test]
async fn a_slot_of_another_database_is_somebody_elses() {
    let cluster = Cluster::new(&[]).await;
    let (first, _) = followed(&cluster).await;
    let mut second = cluster.database(TABLE, &["public.t"]).await;
    second.config.slot.clone_from(&first.config.slot);
    let error = refused(&second, Replica::default()).await;
    assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
    let report = error.report();
    assert!(report.contains("made by somebody else") && report.contains("[source] slot"));
    let findings = check(&second.config, None).await;
    finds(&findings, (Level::Blocker, "slot"), "made by somebody else");
}

/// E4. A backup of the server is put back: its slot and its WAL are behind the log. (Promoted
/// standbys: see the tests of failovers.)
#[tokio::test]
async fn a_server_put_back_to_a_backup_is_refused() {
    let mut cluster = Cluster::new(&[]).await;
    let (database, replica) = followed(&cluster).await;
    cluster.stop().await;
    let backup = cluster.backup();
    cluster.start().await;
    let database = database.on(&cluster).await;
    let mut follower = Follower::start(&database, replica).await;
    database.run("insert into t select n, 'x' from generate_series(10, 3000) n").await;
    follower.catch_up(&database).await;
    let replica = follower.kill();
    cluster.stop().await;
    cluster.put_back(backup);
    cluster.start().await;
    let database = database.on(&cluster).await;
    let error = refused(&database, replica).await;
    assert_eq!(error.kind(), ErrorKind::Lost, "{error:?}");
    assert!(error.report().contains("ahead of the server"), "{error:?}");
}
