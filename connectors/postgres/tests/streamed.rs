//! Transactions that the server sends before they commit: read as if it did not.

use std::collections::BTreeMap;
use std::time::Duration;

use anabranch_core::{Change, Event, Op, RepairReason, Source};
use anabranch_postgres::{PostgresConfig, PostgresSource, StreamingMode};
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio_postgres::Client;

use crate::rereads::PARTITIONED;
use crate::support::{Database, Follower, Replica, truth};

const TABLE: &str = "create table t (id int primary key, note text)";

/// A database whose walsenders stream what is larger than the least that they can be told to, or,
/// from PostgreSQL 16 on, everything.
async fn database(sql: &str, tables: &[&str]) -> Database {
    let mut database = Database::new(sql, tables).await;
    let version: u32 = database.text("show server_version_num").await.parse().unwrap();
    let mut settings = vec!["logical_decoding_work_mem = '64kB'"];
    if version >= 160_000 {
        settings.push("debug_logical_replication_streaming = immediate");
    }
    for setting in settings {
        let name = database.config.database().unwrap();
        database.run(&format!("alter database {name} set {setting}")).await;
    }
    database.config.streaming = StreamingMode::On;
    database.config.spool.memory_bytes_max = 50_000;
    database
}

async fn follow(config: PostgresConfig) -> Follower {
    let mut source = PostgresSource::open(config).await.unwrap();
    source.seek(None).await.unwrap();
    Follower::of(source, Replica::default())
}

/// Whether the server has streamed a transaction to this slot.
async fn was_streamed(database: &Database) {
    let streamed = format!(
        "select stream_txns > 0 from pg_stat_replication_slots where slot_name = '{}'",
        database.config.slot
    );
    database.wait_for(&streamed).await;
}

/// The events since the snapshot.
fn changes(replica: &Replica) -> Vec<Event> {
    let read = |event: &&Event| !matches!(event.change, Change::Row { op: Op::Read, .. });
    replica.events.iter().filter(read).cloned().collect()
}

#[tokio::test]
async fn a_rolled_back_savepoint_of_a_streamed_transaction_was_never_there() {
    let database = database(TABLE, &["public.t"]).await;
    let mut follower = follow(database.config.clone()).await;
    follower.catch_up(&database).await;
    database
        .run(
            "begin;
             insert into t select n, repeat('a', 100) from generate_series(1, 600) n;
             savepoint s;
             insert into t select n, repeat('b', 100) from generate_series(1001, 1600) n;
             rollback to s;
             insert into t values (2000, 'last');
             commit",
        )
        .await;
    follower.catch_up(&database).await;
    was_streamed(&database).await;
    let events = changes(&follower.replica);
    let ordinals: Vec<u64> = events.iter().map(|event| event.position.ordinal).collect();
    assert_eq!(ordinals, (1..=601).collect::<Vec<_>>());
    assert_eq!(follower.replica.present(), truth(&database).await);
    drop(follower);
    database.drop().await;
}

#[tokio::test]
async fn a_streamed_transaction_that_is_rolled_back_is_nothing() {
    let database = database(TABLE, &["public.t"]).await;
    let mut follower = follow(database.config.clone()).await;
    follower.catch_up(&database).await;
    database
        .run(
            "begin;
             insert into t select n, repeat('a', 100) from generate_series(1, 3000) n;
             rollback;
             insert into t values (1, 'after')",
        )
        .await;
    follower.catch_up(&database).await;
    was_streamed(&database).await;
    assert_eq!(follower.replica.letters(), "c");
    assert_eq!(follower.replica.present(), truth(&database).await);
    drop(follower);
    database.drop().await;
}

#[tokio::test]
async fn what_is_confirmed_while_a_transaction_is_half_received_loses_none_of_it() {
    let database = database(TABLE, &["public.t"]).await;
    let mut follower = follow(database.config.clone()).await;
    follower.catch_up(&database).await;
    let writer = database.connect().await;
    writer
        .batch_execute(
            "begin; insert into t select n, repeat('a', 100) from generate_series(1, 3000) n",
        )
        .await
        .unwrap();
    database.run("insert into t values (5000, 'beside')").await;
    follower.catch_up(&database).await;
    was_streamed(&database).await;
    // The position goes past the rows of the open transaction, and the server may forget it.
    let passed = database.text("select pg_current_wal_insert_lsn()").await;
    follower.catch_up(&database).await;
    let moved = format!(
        "select confirmed_flush_lsn >= '{passed}' from pg_replication_slots where slot_name = '{}'",
        database.config.slot
    );
    database.wait_for(&moved).await;
    let replica = follower.kill();
    assert_eq!(replica.letters(), "c");
    let mut follower = Follower::start(&database, replica).await;
    follower.catch_up(&database).await;
    writer.batch_execute("insert into t values (6000, 'last'); commit").await.unwrap();
    follower.catch_up(&database).await;
    assert_eq!(changes(&follower.replica).len(), 3002);
    assert_eq!(follower.replica.present(), truth(&database).await);
    drop((follower, writer));
    database.drop().await;
}

#[tokio::test]
async fn a_streamed_transaction_goes_on_where_a_kill_cut_it() {
    let mut database = database(TABLE, &["public.t"]).await;
    database.config.batch_bytes_max = 100_000;
    let mut follower = follow(database.config.clone()).await;
    follower.catch_up(&database).await;
    database
        .run(
            "begin;
             insert into t select n, repeat('a', 100) from generate_series(1, 2000) n;
             truncate t;
             insert into t select n, repeat('b', 100) from generate_series(1, 4000) n;
             update t set note = note || 'c' where id % 2 = 0;
             commit",
        )
        .await;
    let mut replica = follower.kill();
    let mut cuts = 0;
    for _ in 0..4 {
        let mut follower = Follower::start(&database, replica).await;
        for _ in 0..4 {
            follower.take().await.unwrap();
        }
        replica = follower.kill();
        cuts += usize::from(replica.cursor.as_ref().unwrap().split.is_some());
    }
    assert!(cuts > 1, "killed within it");
    let mut follower = Follower::start(&database, replica).await;
    follower.catch_up(&database).await;
    was_streamed(&database).await;
    let ordinals: Vec<u64> =
        changes(&follower.replica).iter().map(|event| event.position.ordinal).collect();
    assert_eq!(ordinals, (1..=8001).collect::<Vec<_>>());
    assert_eq!(follower.replica.present(), truth(&database).await);
    drop(follower);
    database.drop().await;
}

/// Writes transactions with savepoints, changes of the schema and rollbacks to a table of its own,
/// and to one that all share.
struct Writer {
    number: i32,
    random: StdRng,
    client: Client,
    next_id: i32,
    columns: usize,
}

impl Writer {
    async fn run(&mut self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        // Others get their turn within this transaction.
        tokio::time::sleep(Duration::from_millis(self.random.random_range(0..3))).await;
    }

    async fn transaction(&mut self) {
        self.run("begin").await;
        let mut depth = 0;
        for _ in 0..self.random.random_range(1..12) {
            match self.random.random_range(0..8) {
                0 => {
                    depth += 1;
                    self.run(&format!("savepoint s{depth}")).await;
                }
                1 if depth > 0 => {
                    self.run(&format!("rollback to s{depth}")).await;
                    self.run(&format!("release s{depth}")).await;
                    depth -= 1;
                }
                2 if depth > 0 => {
                    self.run(&format!("release s{depth}")).await;
                    depth -= 1;
                }
                _ => self.change().await,
            }
        }
        let end = if self.random.random_range(0..5) == 0 { "rollback" } else { "commit" };
        self.run(end).await;
    }

    async fn change(&mut self) {
        let (number, count) = (self.number, self.random.random_range(1..400));
        let from = self.next_id;
        let sql = match self.random.random_range(0..8) {
            0..=2 => {
                self.next_id += count;
                format!(
                    "insert into own_{number} (id, note) select n, repeat('a', n % 150)
                     from generate_series({from}, {from} + {count} - 1) n"
                )
            }
            3 => {
                self.next_id += count;
                format!(
                    "insert into shared select n * 4 + {number}, 'x'
                     from generate_series({from}, {from} + {count} - 1) n"
                )
            }
            4 => format!("update own_{number} set note = note || 'u' where id % 7 = {count} % 7"),
            5 => format!("delete from own_{number} where id % 11 = {count} % 11"),
            6 if count % 3 == 0 => format!("truncate own_{number}"),
            6 => format!("update own_{number} set id = -id where id % 13 = {count} % 13"),
            _ if self.columns < 20 => {
                self.columns += 1;
                format!("alter table own_{number} add column c_{} int default 5", self.columns)
            }
            _ => format!("select pg_logical_emit_message(true, 'theirs', '{count}')"),
        };
        self.run(&sql).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn random_transactions_are_the_same_streamed_and_not() {
    let seed: u64 = rand::random();
    let tables = ["public.own_0", "public.own_1", "public.own_2", "public.shared"];
    let database = database(
        "create table own_0 (id int primary key, note text);
         create table own_1 (id int primary key, note text);
         create table own_2 (id int primary key, note text);
         create table shared (id int primary key, note text)",
        &tables,
    )
    .await;
    let mut streamed = follow(database.config.clone()).await;
    streamed.catch_up(&database).await;
    let mut plain_config = database.other_config("plain");
    plain_config.streaming = StreamingMode::Off;
    let mut plain = follow(plain_config).await;
    plain.catch_up(&database).await;
    let writing = async {
        let mut writers = Vec::new();
        for (number, offset) in (0..3_i32).zip(0..) {
            let random = StdRng::seed_from_u64(seed.wrapping_add(offset));
            let client = database.connect().await;
            writers.push(Writer { number, random, client, next_id: 1, columns: 0 });
        }
        let run = |mut writer: Writer| async move {
            for _ in 0..40 {
                writer.transaction().await;
            }
        };
        futures::future::join_all(writers.into_iter().map(run)).await;
    };
    writing.await;
    // A walsender may fall over a table's storage that is rolled back while it is looked for.
    tokio::join!(streamed.catch_up_in_the_end(&database), plain.catch_up(&database));
    was_streamed(&database).await;
    let (streamed_events, plain_events) = (changes(&streamed.replica), changes(&plain.replica));
    assert_eq!(streamed_events.len(), plain_events.len(), "seed {seed}");
    for (streamed, plain) in streamed_events.iter().zip(&plain_events) {
        // Position, part, schema, transaction and every byte.
        assert_eq!(format!("{streamed:?}"), format!("{plain:?}"), "seed {seed}");
    }
    assert_eq!(streamed.replica.tables, plain.replica.tables, "seed {seed}");
    // Rows that were there before a column came are not written again: their bytes are older.
    let keys = |rows: BTreeMap<(u32, Bytes), Bytes>| rows.into_keys().collect::<Vec<_>>();
    assert!(keys(streamed.replica.present()) == keys(truth(&database).await), "seed {seed}");
    drop((streamed, plain));
    database.drop().await;
}

/// A partition that left is known to have been there, though it was described while its transaction
/// was in progress. (As `rereads` has it of what is not streamed.)
#[tokio::test]
async fn a_row_that_left_with_its_partition_is_repaired() {
    let database = database(PARTITIONED, &["public.m"]).await;
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    let replica = follower.release(&database).await;
    // The first change of each partition is rolled back.
    database
        .run(
            "begin; savepoint s; update m set n = 7; rollback to s;
             insert into m select n, 0, repeat('x', 1000) from generate_series(1, 98) n;
             insert into m select n, 0, repeat('y', 1000) from generate_series(102, 199) n; commit",
        )
        .await;
    database.run("update m set n = 1 where id between 99 and 101").await;
    database.run("alter table m detach partition m_2").await;
    let mut follower = Follower::start(&database, replica).await;
    follower.catch_up(&database).await;
    was_streamed(&database).await;
    let asked: Vec<_> = follower
        .replica
        .repairs
        .iter()
        .map(|repair| (repair.reason, repair.key.is_some()))
        .collect();
    assert_eq!(asked, [(RepairReason::PartitionGone, true); 2]);
    drop(follower);
    database.drop().await;
}
