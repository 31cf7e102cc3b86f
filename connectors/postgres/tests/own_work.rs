//! What the source reads beside the stream by itself: tables that it has missed, and repairs.

use std::time::Duration;

use anabranch_core::{SnapshotState, TableSnapshot};
use anabranch_postgres::{ColumnRules, SnapshotRequest, SnapshotRequests};

use crate::incremental::{TABLE, followed, whole};
use crate::support::{Database, Follower, Replica, assert_equal, truth};

/// A transaction that had written to a table before that was published: nothing of it is sent, and it
/// may commit in the middle of the snapshot.
#[tokio::test]
async fn a_table_that_is_added_is_read_by_itself() {
    let sql = format!(
        "{TABLE}; create table u (id int primary key, v int);
                       insert into u select g, 0 from generate_series(1, 1000) g"
    );
    let mut database = Database::new(&sql, &["public.t"]).await;
    let follower = followed(&database).await;
    let writer = database.connect().await;
    writer.batch_execute("begin; update u set v = 1 where id <= 10").await.unwrap();
    database.run("alter publication anabranch add table u").await;
    database.config.tables.push("public.u".into());
    let mut follower = Follower::start(&database, follower.release(&database).await).await;
    database.run("update u set v = 2 where id between 11 and 20").await;
    follower.step().await.unwrap();
    let is_open = |record: &&TableSnapshot| record.state == SnapshotState::Running;
    let open: Vec<_> = follower.replica.snapshots.values().filter(is_open).collect();
    assert_eq!(
        (open.len(), open[0].table.as_str()),
        (1, "public.u"),
        "the other one is not read again"
    );
    let waits = tokio::time::timeout(Duration::from_secs(2), follower.settle()).await;
    assert!(waits.is_err(), "what was written before is not seen yet");
    writer.batch_execute("commit").await.unwrap();
    follower.settle().await;
    follower.catch_up(&database).await;
    assert_eq!(follower.replica.present(), truth(&database).await);
    // Left out of the configuration for a while, it has a gap.
    database.config.tables.pop();
    let mut follower = Follower::start(&database, follower.release(&database).await).await;
    database.run("update u set v = 3 where id = 30; delete from u where id = 31").await;
    follower.catch_up(&database).await;
    database.config.tables.push("public.u".into());
    let mut follower = Follower::start(&database, follower.release(&database).await).await;
    follower.step().await.unwrap();
    follower.settle().await;
    follower.catch_up(&database).await;
    assert_equal(&follower, &database, "after a while without it").await;
    drop(follower);
    database.drop().await;
}

/// A repair that was asked for is carried out by whoever reads the slot next.
#[tokio::test]
async fn a_repair_that_is_pending_is_done_after_a_restart() {
    let sql = format!(
        "{TABLE}; alter table t alter body set storage external;
                       update t set body = repeat('x', 9000) where id <= 3"
    );
    let database = Database::new(&sql, &["public.t"]).await;
    let follower = followed(&database).await;
    let replica = follower.release(&database).await;
    database.run("update t set n = 1 where id <= 3").await;
    database.run("alter table t alter body type bytea using body::bytea").await;
    let mut follower = Follower::start(&database, replica).await;
    while follower.replica.log.pending().is_empty() {
        follower.step().await.unwrap();
    }
    let replica = follower.release(&database).await;
    assert_eq!(replica.log.pending().len(), 3);
    database.run("delete from t where id = 2").await;
    let mut follower = Follower::start(&database, replica).await;
    follower.mend().await;
    follower.catch_up(&database).await;
    let keys: Vec<String> = (1..=3).map(|id| id.to_string()).collect();
    for id in keys {
        let is_there = database.text(&format!("select count(*) from t where id = {id}")).await;
        let key = [u8::try_from(id.parse::<i32>().unwrap() * 2).unwrap()];
        let held = follower.replica.present().keys().filter(|(_, held)| held[..] == key).count();
        assert_eq!(held.to_string(), is_there, "row {id}");
    }
    let differing = follower.replica.present().values().filter(|row| row.len() > 8000).count();
    assert_eq!(differing, 2, "the long values are there");
    drop(follower);
    database.drop().await;
}

/// Something that was asked for and cancelled before it began is nothing, least of all the end of what
/// is under way; neither is another name of the table.
#[tokio::test]
async fn what_the_source_has_begun_by_itself_is_finished_whatever_is_asked() {
    let sql = "create table t (id int primary key, body text);
               insert into t select g, repeat('x', 2000) from generate_series(1, 8000) g";
    let mut database = Database::new(sql, &["public.t"]).await;
    database.config.copy_bytes_max = 1000;
    let mut follower = Follower::start(&database, Replica::default()).await;
    let has_begun = |record: &TableSnapshot| record.by_itself && record.rows > 0;
    while !follower.replica.snapshots.values().any(has_begun) {
        follower.step().await.unwrap();
    }
    let never = SnapshotRequest { cancelled: true, ..whole("public.t") };
    follower.ask(std::slice::from_ref(&never));
    let replica = follower.release(&database).await;
    assert!(replica.snapshots.values().next().unwrap().rows < 8000, "it is under way");
    database.run("alter table t rename to renamed").await;
    database.config.tables = vec!["public.renamed".into()];
    let mut follower = Follower::start(&database, replica).await;
    follower.ask(&[SnapshotRequest { table: "public.renamed".into(), ..never }]);
    follower.settle().await;
    follower.catch_up(&database).await;
    let record = follower.replica.snapshots.values().next().unwrap().clone();
    assert_eq!((record.state, record.rows), (SnapshotState::Done, 8000));
    assert_eq!(follower.replica.present().len(), 8000);
    drop(follower);
    database.drop().await;
}

/// A failure of ours is tried again at the next start, and one that somebody asked for is not.
#[tokio::test]
async fn what_has_failed_by_itself_is_tried_again_at_the_next_start() {
    let mut database = Database::new(TABLE, &["public.t"]).await;
    database.config.copy_bytes_max = 1000;
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.step().await.unwrap();
    let held = SnapshotRequests { held: true, ..SnapshotRequests::default() };
    follower.ask_all(held);
    while follower.replica.snapshots.is_empty() {
        follower.step().await.unwrap();
    }
    let mut replica = follower.release(&database).await;
    let record = replica.snapshots.values_mut().next().unwrap();
    (record.state, record.trouble) = (SnapshotState::Failed, Some("permission denied".into()));
    replica.log.records(replica.snapshots.values().cloned().collect());
    let mut follower = Follower::start(&database, replica).await;
    while follower.replica.snapshots.values().any(|record| record.state != SnapshotState::Done) {
        follower.step().await.unwrap();
    }
    follower.catch_up(&database).await;
    assert_eq!(follower.replica.present().len(), 5000);
    drop(follower);
    database.drop().await;
}

/// A key that is hashed on its way cannot be looked for: the whole table is.
#[tokio::test]
async fn a_repair_of_a_hashed_key_reads_the_table() {
    let sql = "create table t (id text primary key, n int, body text);
               alter table t alter body set storage external;
               insert into t select 'k' || g, 0, repeat('x', 9000) from generate_series(1, 20) g";
    let mut database = Database::new(sql, &["public.t"]).await;
    let rules = ColumnRules { hash: vec!["id".into()], ..ColumnRules::default() };
    database.config.columns.insert("public.t".into(), rules);
    database.config.hash_key = Some("0123456789abcdef".to_owned().into());
    let follower = followed(&database).await;
    let replica = follower.release(&database).await;
    database.run("update t set n = 1 where id in ('k1', 'k2')").await;
    database.run("alter table t alter body type bytea using body::bytea").await;
    let mut follower = Follower::start(&database, replica).await;
    while follower.replica.repairs.is_empty() {
        follower.step().await.unwrap();
    }
    follower.mend().await;
    follower.catch_up(&database).await;
    assert_equal(&follower, &database, "after a repair of hashed keys").await;
    drop(follower);
    database.drop().await;
}
