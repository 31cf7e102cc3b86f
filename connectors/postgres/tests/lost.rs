//! History that is gone is named, never papered over, and `teardown` is the way out.

use anabranch_core::{Error, ErrorKind, Lsn, SourceCursor};
use anabranch_postgres::{teardown, teardown_plan};

use crate::support::{Database, Follower, Replica, truth};

const TABLE: &str = "create table t (id int primary key); insert into t values (1)";

async fn followed() -> (Database, Replica) {
    let database = Database::new(TABLE, &["public.t"]).await;
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    let replica = follower.kill();
    database.wait_for(&format!("select not active {}", from_slot(&database))).await;
    (database, replica)
}

fn from_slot(database: &Database) -> String {
    format!("from pg_replication_slots where slot_name = '{}'", database.config.slot)
}

async fn refused(database: &Database, replica: Replica) -> Error {
    Follower::try_start(database, replica).await.err().expect("it must not go on")
}

/// It is lost, says why and what to do, and doing that helps.
async fn lost_until_torn_down(database: Database, replica: Replica, why: &str) {
    let error = refused(&database, replica).await;
    assert_eq!(error.kind(), ErrorKind::Lost, "{error:?}");
    let report = error.report();
    assert!(report.contains(why) && report.contains("anabranch teardown"), "{report}");
    let plan = teardown_plan(&database.config).await.unwrap();
    assert!(plan.iter().any(|line| line.contains("publication")), "{plan:?}");
    teardown(&database.config).await.unwrap();
    assert!(teardown_plan(&database.config).await.unwrap().is_empty());
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    assert_eq!(follower.replica.present(), truth(&database).await);
    drop(follower);
    database.drop().await;
}

fn moved(replica: Replica, change: impl FnOnce(&mut SourceCursor)) -> Replica {
    let mut replica = replica;
    change(replica.cursor.as_mut().unwrap());
    replica
}

#[tokio::test]
async fn a_slot_that_was_dropped() {
    let (database, replica) = followed().await;
    database
        .run(&format!("select pg_drop_replication_slot(slot_name) {}", from_slot(&database)))
        .await;
    lost_until_torn_down(database, replica, "does not exist").await;
}

/// E3.
#[tokio::test]
async fn a_slot_that_was_advanced() {
    let (database, replica) = followed().await;
    database.run("insert into t values (2)").await;
    let advance = "select pg_replication_slot_advance(slot_name, pg_current_wal_lsn())";
    database.run(&format!("{advance} {}", from_slot(&database))).await;
    lost_until_torn_down(database, replica, "beyond the log's position").await;
}

#[tokio::test]
async fn a_slot_that_was_made_again() {
    let (database, replica) = followed().await;
    let slot = &database.config.slot;
    database.run(&format!("select pg_drop_replication_slot('{slot}')")).await;
    database.run("insert into t values (2)").await;
    database.run(&format!("select pg_create_logical_replication_slot('{slot}', 'pgoutput')")).await;
    lost_until_torn_down(database, replica, "beyond the log's position").await;
}

#[tokio::test]
async fn a_log_that_was_wiped() {
    let (database, _) = followed().await;
    lost_until_torn_down(database, Replica::default(), "wiped").await;
}

/// E4; with a server that really was: [`crate::slots`].
#[tokio::test]
async fn a_server_that_was_restored() {
    let (database, replica) = followed().await;
    let replica = moved(replica, |cursor| cursor.confirm = Lsn(cursor.confirm.0 + (1 << 40)));
    lost_until_torn_down(database, replica, "ahead of the server").await;
}

#[tokio::test]
async fn a_reread_that_saw_more_than_the_server_has() {
    let (database, replica) = followed().await;
    let replica = moved(replica, |cursor| cursor.seen = Lsn(cursor.confirm.0 + (1 << 40)));
    lost_until_torn_down(database, replica, "ahead of the server").await;
}

#[tokio::test]
async fn another_server() {
    let (database, replica) = followed().await;
    let replica = moved(replica, |cursor| cursor.system_id += 1);
    lost_until_torn_down(database, replica, "this is system").await;
}

#[tokio::test]
async fn another_timeline() {
    let (database, replica) = followed().await;
    let lower = moved(replica, |cursor| cursor.timeline += 1);
    let error = refused(&database, lower).await;
    assert!(error.report().contains("former primary"), "{error:?}");
    let (other, replica) = followed().await;
    let higher = moved(replica, |cursor| cursor.timeline -= 1);
    lost_until_torn_down(other, higher, "promoted").await;
    database.drop().await;
}

#[tokio::test]
async fn a_publication_that_was_dropped() {
    let (database, replica) = followed().await;
    database.run("drop publication anabranch").await;
    let error = refused(&database, replica).await;
    assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
    assert!(error.report().contains("teardown"), "{error:?}");
    database.drop().await;
}

/// E6; made again: [`crate::publications`].
#[tokio::test]
async fn a_publication_that_was_dropped_while_it_is_read() {
    let (database, replica) = followed().await;
    let mut follower = Follower::start(&database, replica).await;
    follower.step().await.unwrap();
    database.run("drop publication anabranch; insert into t values (2)").await;
    let error = loop {
        if let Err(error) = follower.step().await {
            break error;
        }
    };
    assert_eq!(error.kind(), ErrorKind::Lost, "{error:?}");
    drop(follower);
    database.drop().await;
}

#[tokio::test]
async fn a_table_that_was_made_again() {
    let (database, replica) = followed().await;
    database.run("drop table t; create table t (id int primary key)").await;
    database.run("alter publication anabranch add table t").await;
    let error = refused(&database, replica).await;
    assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
    assert!(error.report().contains("public.t") && error.report().contains("teardown"));
    database.drop().await;
}

#[tokio::test]
async fn a_slot_in_use_is_not_torn_down() {
    let (database, replica) = followed().await;
    let mut follower = Follower::start(&database, replica).await;
    follower.step().await.unwrap();
    let error = teardown(&database.config).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.report().contains("anabranch run"), "{error:?}");
    assert_eq!(database.text("select count(*) from pg_publication").await, "1");
    drop(follower);
    database.drop().await;
}

#[tokio::test]
async fn a_slot_that_moved_while_another_instance_read_is_not_lost() {
    let (database, replica) = followed().await;
    let old = replica.fork();
    let old_lsn = replica.cursor.as_ref().unwrap().confirm;
    let mut first = Follower::start(&database, replica).await;
    database.run("insert into t values (2)").await;
    first.catch_up(&database).await;
    let moved = format!("select confirmed_flush_lsn > '{old_lsn}' {}", from_slot(&database));
    database.wait_for(&moved).await;
    // Only its lock goes; what reads the slot stays.
    let kill_lock = "select pg_terminate_backend(pid) from pg_locks
        where locktype = 'advisory' and pid <> pg_backend_pid()
        and database = (select oid from pg_database where datname = current_database())";
    database.run(kill_lock).await;
    let error = refused(&database, old).await;
    assert_eq!(error.kind(), ErrorKind::Transient, "{error:?}");
    let mut second = Follower::start(&database, first.kill()).await;
    second.catch_up(&database).await;
    assert_eq!(second.replica.present(), truth(&database).await);
    drop(second);
    database.drop().await;
}
