//! Positions, order and restart: what a place in the stream means, and what a kill may not change.

use anabranch_core::{Event, Phase, Position, Version};
use bytes::Bytes;
use futures::SinkExt;

use crate::support::{Cluster, Database, Follower, Replica, key, truth};

const TABLE: &str = "create table a (id int primary key, v text)";

async fn followed(config: impl FnOnce(&mut Database)) -> (Database, Follower) {
    let mut database = Database::new(TABLE, &["public.a"]).await;
    config(&mut database);
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    (database, follower)
}

fn positions(events: &[Event]) -> Vec<Position> {
    events.iter().map(|event| event.position).collect()
}

async fn copy_in(database: &Database, lines: &str) {
    let sink = database.client.copy_in("copy a from stdin").await.unwrap();
    let mut sink = Box::pin(sink);
    sink.send(Bytes::copy_from_slice(lines.as_bytes())).await.unwrap();
    sink.as_mut().finish().await.unwrap();
}

/// E1. All rows of a COPY have one LSN: they are told apart by their ordinals, and have the same
/// ones when they come again.
#[tokio::test]
async fn rows_of_a_copy_have_positions_of_their_own() {
    let (database, follower) = followed(|database| database.config.batch_bytes_max = 1).await;
    copy_in(&database, "1\tx\n2\ty\n3\tz\n").await;
    let before = follower.kill();
    let mut lost = Follower::start(&database, before.fork()).await;
    lost.catch_up(&database).await;
    let first_time = positions(&lost.kill().events);
    let ordinals: Vec<u64> = first_time.iter().map(|position| position.ordinal).collect();
    assert_eq!(ordinals, [1, 2, 3]);
    // Killed after the first event is durable.
    let mut follower = Follower::start(&database, before.fork()).await;
    while follower.replica.events.is_empty() {
        follower.step().await.unwrap();
    }
    assert_eq!(follower.replica.events.len(), 1);
    let mut follower = Follower::start(&database, follower.kill()).await;
    follower.catch_up(&database).await;
    assert_eq!(positions(&follower.replica.events), first_time);
    assert_eq!(follower.replica.present(), truth(&database).await);
    drop(follower);
    database.drop().await;
}

/// E2. The row of the longer transaction is written before that of the shorter one, and comes
/// after it. A version made of the place of the row would be lower.
#[tokio::test]
async fn the_order_is_that_of_the_commits() {
    let (database, mut follower) = followed(|_| {}).await;
    let long = database.connect().await;
    long.batch_execute("begin; insert into a values (1, 'long')").await.unwrap();
    database.run("insert into a values (2, 'short')").await;
    long.batch_execute("insert into a values (3, 'long'); commit").await.unwrap();
    follower.catch_up(&database).await;
    let events = &follower.replica.events;
    let keys: Vec<&[u8]> = events.iter().map(key).collect();
    assert_eq!(keys, [[4], [2], [6]], "2, 1, 3 as Avro has them");
    assert!(positions(events).is_sorted());
    let versions: Vec<Version> = events.iter().map(Event::version).collect();
    assert!(versions[0] < versions[1] && versions[1] == versions[2], "{versions:?}");
    drop(follower);
    database.drop().await;
}

/// E9, as far as it is the source's; with Kafka and a real `kill -9`: `tests/resume.rs`. Killed
/// after a batch was received, after it was durable, and after it was confirmed, again and again.
#[tokio::test]
async fn a_kill_between_any_two_steps_repeats_nothing_and_skips_nothing() {
    let (database, follower) = followed(|database| database.config.batch_bytes_max = 300).await;
    let mut replica = follower.kill();
    let mut written = 0;
    for round in 0..12 {
        let mut follower = Follower::start(&database, replica).await;
        written += 4;
        database
            .run(&format!(
                "insert into a values ({round}0, 'x');
                 begin; insert into a select {round}0 + n, 'y' from generate_series(1, 3) n; commit"
            ))
            .await;
        match round % 3 {
            // Received, and lost with the process.
            0 => drop(follower.receive().await),
            // Durable, and PostgreSQL does not know.
            1 => drop(follower.take().await.unwrap()),
            _ => follower.step().await.unwrap(),
        }
        replica = follower.kill();
    }
    let mut follower = Follower::start(&database, replica).await;
    follower.catch_up(&database).await;
    assert_eq!(follower.replica.letters(), "c".repeat(written));
    assert_eq!(follower.replica.present(), truth(&database).await);
    drop(follower);
    database.drop().await;
}

/// E11. Nothing is said of the captured tables while another database writes: the slot moves on by
/// keepalives alone, nothing is written to the source, and the lag is none.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_database_beside_a_busy_one_keeps_no_wal() {
    let server = Cluster::new(&[("autovacuum", "off")]).await;
    let database = server.database(TABLE, &["public.a"]).await;
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    let busy = server.database("create table b (v text)", &["public.b"]).await;
    // Sees whatever is written to the source, messages too.
    database.run("select pg_create_logical_replication_slot('witness', 'pgoutput')").await;
    let next_xid = "select pg_snapshot_xmax(pg_current_snapshot())";
    let before: u64 = database.text(next_xid).await.parse().unwrap();
    busy.run("insert into b select repeat('b', 500) from generate_series(1, 5000)").await;
    let target = busy.text("select pg_current_wal_lsn()").await.parse().unwrap();
    let stats = follower.source.stats();
    let slot = &database.config.slot;
    let confirmed = format!(
        "select confirmed_flush_lsn >= '{target}' from pg_replication_slots
         where slot_name = '{slot}'"
    );
    while stats.durable_lsn() < target || database.text(&confirmed).await != "t" {
        follower.step().await.unwrap();
    }
    let cursor = follower.replica.cursor.as_ref().unwrap();
    assert_eq!((cursor.phase, follower.replica.events.len()), (Phase::Streaming, 0));
    assert!(stats.wal_end() <= stats.durable_lsn(), "no lag");
    let after: u64 = database.text(next_xid).await.parse().unwrap();
    assert_eq!(after - before, 1, "the transaction of the other database");
    let witnessed =
        "select count(*) from pg_logical_slot_peek_binary_changes('witness', null, null,
        'proto_version', '1', 'publication_names', 'anabranch', 'messages', 'true')";
    assert_eq!(database.text(witnessed).await, "0");
}
