//! What the plugin sends beside rows: messages of `pg_logical_emit_message`, and the steps of
//! two-phase commits.

use anabranch_core::{Change, ErrorKind, Level};
use anabranch_postgres::check;

use crate::check::finds;
use crate::support::{Database, Follower, Replica, truth};

const TABLE: &str = "create table t (id int primary key)";

/// The ids of table `t` in the order of the events since the snapshot.
fn ids(replica: &Replica) -> Vec<u8> {
    let id = |event: &anabranch_core::Event| match &event.change {
        // A small Avro int is twice its value.
        Change::Row { key, .. } => Some(key[0] / 2),
        Change::Truncate | Change::Sweep => None,
    };
    replica.events.iter().filter_map(id).collect()
}

#[tokio::test]
async fn rows_beside_the_messages_of_others_are_read_and_numbered_as_ever() {
    let database = Database::new(TABLE, &["public.t"]).await;
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    let message = |transactional: bool, size: usize| {
        format!("select pg_logical_emit_message({transactional}, 'theirs', repeat('x', {size}))")
    };
    database
        .run(&format!(
            "begin; insert into t values (1); {}; {}; insert into t values (2); commit",
            message(true, 1_000_000),
            message(false, 10)
        ))
        .await;
    database
        .run(&format!(
            "begin; insert into t values (9); {}; {}; rollback",
            message(true, 10),
            message(false, 10)
        ))
        .await;
    database.run(&message(false, 10)).await;
    // Read, and not confirmed.
    while ids(&follower.replica).len() < 2 {
        follower.take().await.unwrap();
    }
    let replica = follower.kill();
    database.run("insert into t values (3)").await;
    let mut follower = Follower::start(&database, replica).await;
    follower.catch_up(&database).await;
    assert_eq!(ids(&follower.replica), [1, 2, 3]);
    let ordinals: Vec<u64> =
        follower.replica.events.iter().map(|event| event.position.ordinal).collect();
    assert_eq!(ordinals, [1, 2, 1]);
    drop(follower);
    database.drop().await;
}

#[tokio::test]
async fn a_message_of_others_moves_the_position_of_an_idle_source() {
    let database = Database::new(TABLE, &["public.t"]).await;
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    let sql = "select pg_logical_emit_message(false, 'theirs', 'x')";
    let mut before = follower.replica.cursor.as_ref().unwrap().confirm;
    for _ in 0..3 {
        let end = database.text(sql).await.parse().unwrap();
        // It is flushed, and so sent, with the next commit.
        database.run("select pg_logical_emit_message(true, 'theirs', 'x')").await;
        while follower.replica.cursor.as_ref().unwrap().confirm < end {
            follower.step().await.unwrap();
        }
        let now = follower.replica.cursor.as_ref().unwrap().confirm;
        assert!(now > before && follower.replica.events.is_empty());
        before = now;
    }
    drop(follower);
    database.drop().await;
}

#[tokio::test]
async fn a_slot_made_with_two_phase_is_refused_and_mended_without_loss() {
    let database = Database::new(TABLE, &["public.t"]).await;
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    let mut replica = follower.kill();
    let slot = database.config.slot.clone();
    let free =
        format!("select active_pid is null from pg_replication_slots where slot_name = '{slot}'");
    database.wait_for(&free).await;
    let remade = format!(
        "select pg_drop_replication_slot('{slot}');
         select lsn from pg_create_logical_replication_slot('{slot}', 'pgoutput', false, true)"
    );
    // As if it had been so from the beginning.
    replica.cursor.as_mut().unwrap().confirm = database.text(&remade).await.parse().unwrap();
    database.run(&format!("begin; insert into t values (1); prepare transaction '{slot}'")).await;
    database.run("insert into t values (2)").await;
    // PostgreSQL 14 has such slots, and its plugin pays no heed.
    if database.version().await >= 15 {
        let error = Follower::try_start(&database, replica.twin()).await.err().unwrap();
        let report = error.report();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(report.contains("two_phase = true") && report.contains(&slot), "{report}");
        let findings = check(&database.config, None).await;
        finds(&findings, (Level::Blocker, "slot"), "two_phase = true");
        let sql = report.split_once("loses nothing: ").unwrap().1;
        let sql = sql.split_once("; if it had failover").unwrap().0;
        for statement in sql.split("; ") {
            database.run(statement).await;
        }
    }
    let mut follower = Follower::start(&database, replica).await;
    follower.catch_up(&database).await;
    assert_eq!(ids(&follower.replica), [2], "what is prepared is not committed");
    database.run(&format!("commit prepared '{slot}'")).await;
    follower.catch_up(&database).await;
    assert_eq!(ids(&follower.replica), [2, 1]);
    assert_eq!(follower.replica.present(), truth(&database).await);
    drop(follower);
    database.drop().await;
}
