//! From the snapshot to the stream: nothing is missing, and nothing comes twice.

use std::time::Duration;

use anabranch_core::{Change, ErrorKind, Event, Op, Phase, SnapshotState, Source};
use anabranch_postgres::InitialCopy;
use tokio::sync::oneshot;

use crate::support::{Database, Follower, Replica, assert_equal, truth};

const ACCOUNTS: &str = "
    create table accounts (id int primary key, balance int not null, note text);
    insert into accounts select n, 0, repeat('n', n % 50) from generate_series(1, 5000) n";

/// Writes until told to stop; returns the number of transactions.
async fn write(database: &Database, seed: i32, mut stop: oneshot::Receiver<()>) -> usize {
    let client = database.connect().await;
    let mut transactions = 0;
    while stop.try_recv().is_err() {
        let n = seed + i32::try_from(transactions).unwrap() * 7;
        let sql = format!(
            "begin;
             update accounts set balance = balance + 1 where id = {} % 5000 + 1;
             insert into accounts values ({seed}00000 + {transactions}, 1, 'new')
             on conflict do nothing;
             delete from accounts where id = {} % 5000 + 1 and {transactions} % 5 = 0;
             update accounts set id = -id where id = {seed}00000 + {transactions} - 3;
             commit",
            n,
            n + 11
        );
        client.batch_execute(&sql).await.unwrap();
        transactions += 1;
    }
    transactions
}

#[tokio::test(flavor = "multi_thread")]
async fn the_snapshot_and_the_stream_add_up_under_writers() {
    let database = Database::new(ACCOUNTS, &["public.accounts"]).await;
    let (stops, stopped): (Vec<_>, Vec<_>) = (0..2).map(|_| oneshot::channel()).unzip();
    let mut stopped = stopped.into_iter();
    let (first, second) = (stopped.next().unwrap(), stopped.next().unwrap());
    let writers = async { tokio::join!(write(&database, 1, first), write(&database, 2, second)) };
    let follow = async {
        let mut follower = Follower::start(&database, Replica::default()).await;
        while follower.replica.events.len() < 9_000 {
            follower.step().await.unwrap();
        }
        stops.into_iter().for_each(|stop| stop.send(()).unwrap());
        follower
    };
    let (written, mut follower) = tokio::join!(writers, follow);
    assert!(written.0 + written.1 > 100, "{written:?}");
    follower.catch_up(&database).await;
    assert_eq!(follower.replica.present(), truth(&database).await);
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_killed_at_any_batch_goes_on_where_the_log_is() {
    let mut database = Database::new(ACCOUNTS, &["public.accounts"]).await;
    database.config.batch_bytes_max = 40_000;
    let mut replica = Replica::default();
    let mut epochs = Vec::new();
    for round in 0..12_i32 {
        let mut follower = Follower::start(&database, replica).await;
        // Killed after a few batches, and without the last confirmation.
        for step in 0..=round {
            database
                .run(&format!(
                    "update accounts set balance = balance + 1 where id % 12 = {step};
                     insert into accounts values ({round}00000 + {step}, 0, null)"
                ))
                .await;
            follower.step().await.unwrap();
        }
        follower.take().await.unwrap();
        replica = follower.kill();
        epochs.push(replica.cursor.as_ref().unwrap().epoch.0);
    }
    assert_eq!(epochs, [0; 12], "it never begins again");
    let mut follower = Follower::start(&database, replica).await;
    follower.settle().await;
    follower.catch_up(&database).await;
    assert_eq!(follower.replica.present(), truth(&database).await);
    drop(follower);
    database.drop().await;
}

#[tokio::test]
async fn nothing_exists_on_the_server_before_the_log_says_starting() {
    let database = Database::new(ACCOUNTS, &["public.accounts"]).await;
    let exists = format!(
        "select exists (select from pg_replication_slots where slot_name = '{}')
         or exists (select from pg_publication)",
        database.config.slot
    );
    let mut follower = Follower::start(&database, Replica::default()).await;
    let cursor = follower.take().await.unwrap();
    assert_eq!(cursor.phase, Phase::Starting);
    let soon = tokio::time::timeout(std::time::Duration::from_millis(300), follower.source.next());
    assert!(soon.await.is_err(), "it waits for the confirmation, and may be cancelled");
    assert_eq!(database.text(&exists).await, "f");
    follower.source.confirm(cursor).await.unwrap();
    follower.catch_up(&database).await;
    assert_eq!(database.text(&exists).await, "t");
    drop(follower);
    database.drop().await;
}

#[tokio::test]
async fn a_large_table_is_read_beside_the_stream_from_the_start() {
    let sql = format!(
        "{ACCOUNTS}; create table small (id int primary key); insert into small values (1)"
    );
    let mut database = Database::new(&sql, &["public.accounts", "public.small"]).await;
    database.config.copy_bytes_max = 100_000;
    let mut follower = Follower::start(&database, Replica::default()).await;
    database.run("update accounts set balance = 7 where id < 10").await;
    follower.settle().await;
    follower.catch_up(&database).await;
    let mut records: Vec<_> = follower.replica.snapshots.values().collect();
    records.sort_by_key(|record| record.table.clone());
    let is_swept = follower.replica.letters().contains('m');
    assert_eq!((records.len(), records[0].by_itself, is_swept), (2, true, true));
    assert!(records[0].after.is_some() && records[1].after.is_none(), "by key, and by page");
    database.config.copy_bytes_max = u64::MAX;
    assert_equal(&follower, &database, "after both kinds of reading").await;
    drop(follower);
    database.drop().await;
}

#[tokio::test]
async fn a_log_may_begin_without_what_is_there() {
    let mut database = Database::new(ACCOUNTS, &["public.accounts"]).await;
    database.config.initial_copy = InitialCopy::None;
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    assert!(follower.replica.present().is_empty());
    assert_eq!(follower.replica.tables.len(), 1, "but with the table");
    database.run("update accounts set balance = 7 where id < 10").await;
    follower.catch_up(&database).await;
    let changed = database.text("select count(*) from accounts where balance = 7").await;
    assert_eq!(follower.replica.present().len().to_string(), changed);
    drop(follower);
    database.drop().await;
}

/// The slot keeps all WAL while the copy lasts: long before that is too much, the rest is read beside the
/// stream. A table without a key cannot be, and is copied all the same.
#[tokio::test]
async fn a_copy_that_lasts_too_long_for_the_wal_is_cut_short() {
    let table = |n: usize| {
        format!(
            "create table t_{n} (id int primary key, v text);
         insert into t_{n} select g, repeat('v', 500) from generate_series(1, 1000) g;"
        )
    };
    let all: String = (0..10).map(table).collect();
    let sql = format!("{all} create table log (v text); insert into log values ('a'), ('b')");
    let names: Vec<String> = (0..10).map(|n| format!("public.t_{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).chain(["public.log"]).collect();
    let mut database = Database::new(&sql, &names).await;
    database.config.append_only = vec!["public.log".into()];
    database.config.batch_bytes_max = 30_000;
    database.config.snapshot_sessions = 1.try_into().unwrap();
    database.config.wal_guard.retained_bytes_max = Some(40 << 20);
    let mut follower = Follower::start(&database, Replica::default()).await;
    let (mut batches, mut is_written) = (0, false);
    while follower.replica.cursor.as_ref().is_none_or(|cursor| cursor.phase != Phase::Streaming) {
        follower.step().await.unwrap();
        batches += 1;
        if !is_written && !follower.replica.snapshots.is_empty() {
            is_written = true;
            database.run("update t_3 set v = 'new'; delete from t_9 where id < 10").await;
            let message = "pg_logical_emit_message(false, 'test', repeat('x', 1000000))";
            database.run(&format!("select count({message}) from generate_series(1, 30)")).await;
        }
        // A log that is slow.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let own =
        follower.replica.snapshots.values().filter(|record| record.state == SnapshotState::Running);
    assert!(batches < 400 && own.count() > 0, "all was copied, in {batches} batches");
    database.run("truncate t_8").await;
    follower.settle().await;
    follower.catch_up(&database).await;
    let records = follower.replica.snapshots.values();
    let (by_key, by_page): (Vec<_>, Vec<_>) = records.partition(|record| record.after.is_some());
    let is_log = |record: &&anabranch_core::TableSnapshot| record.table == "public.log";
    assert!(by_page.iter().any(is_log) && by_page.len() > 1, "{by_page:?}");
    assert_eq!(by_key.len() + by_page.len(), 11);
    database.config.wal_guard.retained_bytes_max = None;
    let keyed = names.len() - 1;
    database.config.tables.truncate(keyed);
    database.config.append_only.clear();
    let log = follower.replica.tables.values().find(|table| table.name == "log").unwrap().oid;
    assert_eq!(follower.replica.present().keys().filter(|(oid, _)| *oid == log).count(), 2);
    follower.replica.rows.retain(|(oid, _), _| *oid != log);
    assert_equal(&follower, &database, "after a copy that was cut short").await;
    drop(follower);
    database.drop().await;
}

/// A copy that is killed on its way.
async fn cut_off() -> (Database, Replica) {
    let sql = format!(
        "{ACCOUNTS}; create table small (id int primary key); insert into small values (1)"
    );
    let mut database = Database::new(&sql, &["public.accounts", "public.small"]).await;
    database.config.batch_bytes_max = 100_000;
    database.config.snapshot_sessions = 2.try_into().unwrap();
    let mut follower = Follower::start(&database, Replica::default()).await;
    while follower.replica.rows.len() < 1_000 || follower.replica.snapshots.is_empty() {
        follower.step().await.unwrap();
    }
    let replica = follower.release(&database).await;
    assert_eq!(replica.cursor.as_ref().unwrap().phase, Phase::Snapshot);
    database.run("delete from accounts where id < 500; insert into small values (2)").await;
    (database, replica)
}

#[tokio::test]
async fn an_unfinished_copy_goes_on_beside_the_stream() {
    let (database, replica) = cut_off().await;
    let copied: Vec<_> = replica.snapshots.values().cloned().collect();
    assert_eq!((copied.len(), copied[0].table.as_str()), (1, "public.small"), "it was finished");
    let before = replica.cursor.clone().unwrap();
    let mut follower = Follower::start(&database, replica).await;
    // It is killed once more, before it has read anything.
    follower.step().await.unwrap();
    let replica = follower.release(&database).await;
    let mut follower = Follower::start(&database, replica).await;
    follower.settle().await;
    follower.catch_up(&database).await;
    let cursor = follower.replica.cursor.clone().unwrap();
    assert_eq!((cursor.epoch, cursor.log), (before.epoch, before.log));
    assert_eq!(follower.replica.snapshots[&copied[0].oid], copied[0], "nobody read it again");
    assert_equal(&follower, &database, "after a copy that was cut off").await;
    drop(follower);
    database.drop().await;
}

#[tokio::test]
async fn an_unfinished_copy_without_its_slot_begins_again_and_takes_the_old_rows_back() {
    let (database, replica) = cut_off().await;
    let log = replica.cursor.as_ref().unwrap().log;
    database.run(&format!("select pg_drop_replication_slot('{}')", database.config.slot)).await;
    let mut follower = Follower::start(&database, replica).await;
    follower.catch_up(&database).await;
    let cursor = follower.replica.cursor.clone().unwrap();
    assert_eq!((cursor.epoch.0, cursor.log), (1, log));
    assert_equal(&follower, &database, "after a copy that was cut off").await;
    drop(follower);
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_rewritten_between_slot_and_copy_is_copied_all_the_same() {
    let database = Database::new(ACCOUNTS, &["public.accounts"]).await;
    let mut follower = Follower::start(&database, Replica::default()).await;
    // The slot has its point, and the session that copies is still on its way to the lock.
    let complete = format!(
        "select exists (select from pg_replication_slots
         where slot_name = '{}' and confirmed_flush_lsn is not null)",
        database.config.slot
    );
    let rewrite = async {
        database.wait_for(&complete).await;
        database.run("alter table accounts alter column balance type bigint").await;
    };
    tokio::join!(rewrite, follower.catch_up(&database));
    assert_eq!(follower.replica.present().len(), 5_000);
    assert_eq!(follower.replica.present(), truth(&database).await);
    drop(follower);
    database.drop().await;
}

/// Two ranges of a table, three of two partitions, one of what is small.
const LARGE: &str = "
    create table big (id int primary key, body text);
    insert into big select n, repeat(md5(n::text), 62) from generate_series(1, 45000) n;
    create table parted (id int primary key, body text) partition by range (id);
    create table parted_1 partition of parted for values from (0) to (40000);
    create table parted_2 partition of parted for values from (40000) to (100000);
    insert into parted select n, repeat(md5(n::text), 62) from generate_series(1, 41000) n;
    create table small (id int primary key, body text);
    create table empty (id int primary key)";

const COPYING: &str = "from pg_stat_activity
    where datname = current_database() and state = 'active' and query like 'copy (%'";

/// Every row once, though it is written to meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn large_tables_are_copied_in_ranges_by_several_sessions() {
    let tables = ["public.big", "public.parted", "public.small", "public.empty"];
    let database = Database::new(LARGE, &tables).await;
    let mut follower = Follower::start(&database, Replica::default()).await;
    let (stats, mut shown) = (follower.source.stats(), Vec::new());
    let write = async {
        database.wait_for(&format!("select count(*) > 2 {COPYING}")).await;
        database
            .run(
                "update big set id = -id where id % 1000 = 0; delete from parted where id % 7 = 0;
                 insert into big select n, 'new' from generate_series(100000, 100500) n;
                 insert into small values (1, 'new')",
            )
            .await;
    };
    let read = async {
        while follower.replica.cursor.as_ref().is_none_or(|c| c.phase != Phase::Streaming) {
            follower.step().await.unwrap();
            shown.extend(stats.figures().copy);
        }
    };
    tokio::join!(write, read);
    assert!(stats.figures().copy.is_none());
    let last = shown.last().unwrap();
    let names: Vec<&str> = last.tables.iter().map(|table| table.table.as_str()).collect();
    assert_eq!(names[..2], ["public.big", "public.parted"], "the largest first");
    assert!(last.bytes().1 > 150 << 20 && last.finished() >= 2, "{last}");
    assert!(shown.is_sorted_by_key(|copy| (copy.rows(), copy.bytes().0)));
    let is_read = |event: &&Event| matches!(event.change, Change::Row { op: Op::Read, .. });
    assert_eq!(follower.replica.events.iter().filter(is_read).count(), 86_000);
    follower.catch_up(&database).await;
    assert_eq!(follower.replica.present(), truth(&database).await);
    drop(follower);
    database.drop().await;
}

/// One session of many is as good as all: without it nothing is finished.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ends_while_it_copies_ends_the_copy() {
    let database = Database::new(LARGE, &["public.big", "public.parted"]).await;
    let mut follower = Follower::start(&database, Replica::default()).await;
    let end = async {
        database.wait_for(&format!("select count(*) > 2 {COPYING}")).await;
        let end = format!(
            "select count(pg_terminate_backend(pid)) from (select pid {COPYING}
             order by backend_start desc limit 1) one"
        );
        assert_eq!(database.text(&end).await, "1");
    };
    let ((), error) = tokio::join!(end, follower.failure());
    assert_eq!(error.kind(), ErrorKind::Transient, "{error:?}");
    assert_eq!(follower.replica.cursor.as_ref().unwrap().phase, Phase::Snapshot);
    let mut follower = Follower::start(&database, follower.kill()).await;
    follower.settle().await;
    follower.catch_up(&database).await;
    assert_eq!(follower.replica.cursor.as_ref().unwrap().epoch.0, 0);
    assert_eq!(follower.replica.present(), truth(&database).await);
    drop(follower);
    database.drop().await;
}

#[tokio::test]
async fn partitions_come_as_their_table() {
    let database = Database::new(
        "create table m (id int, day date, note text, primary key (id, day))
             partition by range (day);
         create table m_1 partition of m for values from ('2026-01-01') to ('2026-02-01');
         create table m_2 (note text, day date not null, id int not null);
         alter table m attach partition m_2 for values from ('2026-02-01') to ('2026-03-01');
         insert into m values (1, '2026-01-05', 'a'), (2, '2026-02-05', 'b')",
        &["public.m"],
    )
    .await;
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    assert_eq!(follower.replica.present().len(), 2);
    database.run("insert into m values (3, '2026-02-07', 'c')").await;
    database.run("update m set day = '2026-02-06' where id = 1").await;
    follower.catch_up(&database).await;
    assert_eq!(follower.replica.letters(), "cdc");
    assert_eq!(follower.replica.present(), truth(&database).await);
    database.run("truncate m").await;
    follower.catch_up(&database).await;
    assert!(follower.replica.present().is_empty());
    drop(follower);
    database.drop().await;
}

#[tokio::test]
async fn columns_may_come_and_go() {
    let database = Database::new(ACCOUNTS, &["public.accounts"]).await;
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    database
        .run(
            "alter table accounts add column city text;
             update accounts set city = 'Bern' where id = 1;
             alter table accounts drop column note;
             update accounts set city = 'Basel' where id = 2",
        )
        .await;
    follower.catch_up(&database).await;
    let versions: Vec<u32> = follower.replica.tables.keys().map(|(_, version)| *version).collect();
    assert_eq!(versions, [1, 2, 3]);
    let newest = follower.replica.tables.values().last().unwrap();
    let names: Vec<&str> = newest.columns.iter().map(|column| column.name.as_str()).collect();
    assert_eq!(names, ["id", "balance", "city"]);
    let attnums: Vec<i16> = newest.columns.iter().map(|column| column.attnum).collect();
    assert_eq!(attnums, [1, 2, 4]);
    // A restart finds the schema as the log knows it.
    let replica = follower.kill();
    database.run("update accounts set city = 'Chur' where id = 3").await;
    // Nobody reads while this happens: the row above still has the type of before.
    database.run("alter table accounts alter column balance type bigint").await;
    database.run("update accounts set city = 'Visp' where id = 3").await;
    let mut follower = Follower::start(&database, replica).await;
    follower.catch_up(&database).await;
    let events = &follower.replica.events;
    let versions: Vec<u32> = events.iter().rev().take(2).map(|event| event.table.version).collect();
    assert_eq!(versions, [4, 3]);
    // A changed key is another matter.
    database
        .run(
            "alter table accounts drop constraint accounts_pkey;
             alter table accounts add primary key (id, balance);
             update accounts set city = 'Genf' where id = 4",
        )
        .await;
    let error = loop {
        if let Err(error) = follower.step().await {
            break error;
        }
    };
    assert_eq!(error.kind(), ErrorKind::Lost, "{error:?}");
    assert!(error.report().contains("public.accounts") && error.report().contains("key"));
    drop(follower);
    database.drop().await;
}
