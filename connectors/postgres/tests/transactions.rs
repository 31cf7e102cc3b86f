//! What of a transaction comes, and when: savepoints, two-phase commits, messages, no-ops.

use anabranch_core::Event;

use crate::support::{Database, Follower, Replica, key, truth};

const TABLE: &str = "create table t (id int primary key, v text)";

async fn followed() -> (Database, Follower) {
    let database = Database::new(TABLE, &["public.t"]).await;
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    (database, follower)
}

/// The keys of the events, as numbers below 64.
fn keys(replica: &Replica) -> Vec<u8> {
    replica.events.iter().map(|event| key(event)[0] / 2).collect()
}

async fn equal(database: Database, follower: Follower) {
    assert_eq!(follower.replica.present(), truth(&database).await);
    drop(follower);
    database.drop().await;
}

/// E14.
#[tokio::test]
async fn what_a_savepoint_took_back_never_comes() {
    let (database, mut follower) = followed().await;
    database
        .run(
            "begin; insert into t values (1); savepoint s; insert into t values (2);
             rollback to s; insert into t values (3); commit",
        )
        .await;
    follower.catch_up(&database).await;
    assert_eq!(keys(&follower.replica), [1, 3]);
    let ordinals: Vec<u64> = follower.replica.events.iter().map(|e| e.position.ordinal).collect();
    assert_eq!(ordinals, [1, 2]);
    equal(database, follower).await;
}

/// E18. A prepared transaction is there from COMMIT PREPARED on, after those that committed before,
/// also across a restart between the two; and never after ROLLBACK PREPARED. (One that is left
/// lying is `check`'s to find.)
#[tokio::test]
async fn a_prepared_transaction_counts_from_its_second_commit() {
    let (database, mut follower) = followed().await;
    let name = database.config.slot.clone();
    database.run(&format!("begin; insert into t values (1); prepare transaction '{name}'")).await;
    let undone = format!("begin; insert into t values (9); prepare transaction '{name}_'");
    database.run(&undone).await;
    database.run("insert into t values (2)").await;
    follower.catch_up(&database).await;
    assert_eq!(keys(&follower.replica), [2], "not before its second commit");
    let mut follower = Follower::start(&database, follower.kill()).await;
    database.run(&format!("commit prepared '{name}'")).await;
    database.run(&format!("rollback prepared '{name}_'")).await;
    follower.catch_up(&database).await;
    assert_eq!(keys(&follower.replica), [2, 1], "in the order in which they became true");
    let versions: Vec<_> = follower.replica.events.iter().map(Event::version).collect();
    assert!(versions.is_sorted());
    equal(database, follower).await;
}

/// E19. Messages of others are ignored, transactional or not, and hide nothing: the row after one
/// comes also if the source is killed in between.
#[tokio::test]
async fn messages_of_others_move_the_position_and_hide_no_row() {
    let (database, follower) = followed().await;
    let mut replica = follower.kill();
    let steps = [
        "begin; select pg_logical_emit_message(true, 'other', 'in'); insert into t values (1); commit",
        "select pg_logical_emit_message(false, 'other', 'out'); insert into t values (2)",
        "begin; select pg_logical_emit_message(false, 'other', 'stays');
         select pg_logical_emit_message(true, 'other', 'goes'); insert into t values (3); rollback",
        "select pg_logical_emit_message(true, 'other', 'alone')",
        "begin; insert into t values (4); select pg_logical_emit_message(true, 'other', 'after');
         select pg_logical_emit_message(false, 'other', repeat('x', 100000)); commit",
    ];
    for sql in steps {
        let mut follower = Follower::start(&database, replica).await;
        let before = follower.replica.cursor.clone().unwrap().confirm;
        database.run(sql).await;
        // Killed as soon as the position moved.
        while follower.replica.cursor.as_ref().unwrap().confirm <= before {
            follower.step().await.unwrap();
        }
        replica = follower.kill();
    }
    let mut follower = Follower::start(&database, replica).await;
    follower.catch_up(&database).await;
    assert_eq!(keys(&follower.replica), [1, 2, 4]);
    equal(database, follower).await;
}

/// E21.
#[tokio::test]
async fn a_statement_that_changes_nothing_is_told_as_it_happened() {
    let (database, mut follower) = followed().await;
    database.run("insert into t values (1, 'a')").await;
    database.run("update t set v = v").await;
    database.run("insert into t values (1, 'b') on conflict do nothing").await;
    database.run("update t set v = 'c' where id = 7; delete from t where id = 7").await;
    database.run("begin; commit").await;
    follower.catch_up(&database).await;
    assert_eq!(follower.replica.letters(), "cu");
    if database.version().await >= 15 {
        let merge = "merge into t using (values (1, 'm'), (2, 'n')) as s (id, v) on t.id = s.id
             when matched then update set v = s.v when not matched then insert values (s.id, s.v)";
        database.run(merge).await;
        follower.catch_up(&database).await;
        assert_eq!(follower.replica.letters(), "cuuc");
    }
    equal(database, follower).await;
}
