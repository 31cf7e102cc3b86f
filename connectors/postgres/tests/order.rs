//! The order of the changes, and what tells two changes of one key apart.

use std::collections::BTreeMap;

use anabranch_core::{Change, Phase, Version};

use crate::support::{Database, Follower, Replica, truth};

/// E2, where the two transactions write one row: what is there in the end depends on it.
#[tokio::test(flavor = "multi_thread")]
async fn the_commit_decides_and_not_the_place_of_the_row() {
    // The index that sleeps is maintained before the primary key: the insert has written its row
    // long before the delete that it waits for.
    let database = Database::new(
        "create table k (id int, v text);
         create function slow(t text) returns text immutable language plpgsql as
           $$ begin if t = 'second' then perform pg_sleep(1); end if; return t; end $$;
         create index on k (slow(v));
         alter table k add primary key (id);
         insert into k values (1, 'first')",
        &["public.k"],
    )
    .await;
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    let inserter = database.connect().await;
    let insert = inserter.batch_execute("insert into k values (1, 'second')");
    let delete = async {
        let sleeps = "select exists (select from pg_stat_activity where wait_event = 'PgSleep'
                      and datname = current_database())";
        database.wait_for(sleeps).await;
        database.run("delete from k where id = 1").await;
    };
    let (inserted, ()) = tokio::join!(insert, delete);
    inserted.unwrap();
    follower.catch_up(&database).await;
    assert_eq!(follower.replica.letters(), "dc");
    assert_eq!(follower.replica.present().len(), 1);
    assert_eq!(follower.replica.present(), truth(&database).await);
    drop(follower);
    database.drop().await;
}

#[tokio::test]
async fn a_truncate_stands_between_the_rows_of_its_transaction() {
    let database = Database::new(
        "create table p (id int primary key); create table c (id int primary key references p)",
        &["public.p", "public.c"],
    )
    .await;
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    database
        .run(
            "begin; insert into p values (1); insert into c values (1); truncate p cascade;
             insert into p values (2); savepoint s; insert into p values (3);
             rollback to s; insert into p values (4); commit",
        )
        .await;
    database.run("begin; truncate p cascade; rollback").await;
    follower.catch_up(&database).await;
    assert_eq!(follower.replica.letters(), "ccttcc");
    let parts: Vec<u8> = follower.replica.events.iter().map(|event| event.part).collect();
    assert_eq!(parts, [0, 0, 2, 2, 2, 2]);
    assert_eq!(follower.replica.present().len(), 2);
    assert_eq!(follower.replica.present(), truth(&database).await);
    drop(follower);
    database.drop().await;
}

/// What a large transaction does: keys repeat, and a TRUNCATE is in the middle.
const LARGE: &str = "
    begin;
    insert into t select n % 700, 'a' || n from generate_series(1, 4000) n
      on conflict (id) do update set v = excluded.v where t.v <> excluded.v;
    update t set v = v || 'b'; update t set v = v || 'c'; update t set id = -id where id > 600;
    truncate t;
    insert into t select n, 'd' || n from generate_series(1, 2000) n;
    update t set v = v || 'e'; delete from t where id % 3 = 0;
    commit";

/// One row a statement, since a statement cannot touch a row twice.
fn large() -> String {
    LARGE.replace(
        "insert into t select n % 700, 'a' || n from generate_series(1, 4000) n
      on conflict (id) do update set v = excluded.v where t.v <> excluded.v;",
        "insert into t select n, 'a' || n from generate_series(1, 700) n;",
    )
}

/// E9, within a transaction.
#[tokio::test]
async fn a_split_transaction_is_resumed_in_the_middle() {
    let mut database =
        Database::new("create table t (id int primary key, v text)", &["public.t"]).await;
    database.config.batch_bytes_max = 30_000;
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    let before = follower.replica.cursor.clone().unwrap().confirm;
    database.run(&large()).await;
    let mut replica = follower.kill();
    let mut splits = 0;
    // Killed at each batch: the next one comes from a new start.
    loop {
        let mut follower = Follower::start(&database, replica).await;
        follower.step().await.unwrap();
        while follower.replica.cursor.as_ref().unwrap().split.is_none()
            && follower.replica.events.is_empty()
        {
            follower.step().await.unwrap();
        }
        let held = follower.replica.events.len();
        while follower.replica.events.len() == held
            && follower.replica.cursor.as_ref().unwrap().split.is_some()
        {
            follower.step().await.unwrap();
        }
        replica = follower.kill();
        let cursor = replica.cursor.as_ref().unwrap();
        assert_eq!(cursor.phase, Phase::Streaming);
        if cursor.split.is_none() {
            break;
        }
        splits += 1;
        assert!(cursor.confirm >= before);
        let confirmed = format!(
            "select coalesce(confirmed_flush_lsn <= '{}', false) from pg_replication_slots
             where slot_name = '{}'",
            cursor.confirm, database.config.slot
        );
        assert_eq!(database.text(&confirmed).await, "t");
    }
    assert!(splits > 10, "{splits}");
    let mut follower = Follower::start(&database, replica).await;
    follower.catch_up(&database).await;
    whole_and_in_order(&follower.replica);
    assert_eq!(follower.replica.present(), truth(&database).await);
    drop(follower);
    database.drop().await;
}

/// Every message of the transaction once, in parts that never fall for a table.
fn whole_and_in_order(replica: &Replica) {
    let mut ordinals: Vec<u64> = replica.events.iter().map(|e| e.position.ordinal).collect();
    ordinals.dedup();
    assert!(ordinals.iter().copied().eq(1..=ordinals.len().try_into().unwrap()));
    let mut of_key: BTreeMap<_, Version> = BTreeMap::new();
    let mut rows_below = Version::default();
    for event in &replica.events {
        let version = event.version();
        match &event.change {
            Change::Truncate | Change::Sweep => assert!(version.below() > rows_below),
            Change::Row { key, .. } => {
                let before = of_key.insert(key.clone(), version);
                assert!(before.is_none_or(|before| before <= version));
                rows_below = rows_below.max(version);
            }
        }
    }
}
