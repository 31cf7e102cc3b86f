//! Snapshots of single tables beside the stream: whatever happens meanwhile, the log ends equal.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anabranch_core::{SnapshotState, TableSnapshot};
use anabranch_postgres::{SnapshotRequest, SnapshotRequests, SnapshotScope};
use bytes::Bytes;
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::support::{Cluster, Database, Follower, Replica, assert_equal, truth};

pub(crate) const TABLE: &str = "
    create table t (id int primary key, n int not null default 0, body text);
    insert into t select g, 0, 'body ' || g from generate_series(1, 5000) g";

fn request(table: &str, scope: SnapshotScope) -> SnapshotRequest {
    let id = Uuid::new_v4();
    SnapshotRequest { id, table: table.into(), scope, paused: false, cancelled: false }
}

pub(crate) fn whole(table: &str) -> SnapshotRequest {
    request(table, SnapshotScope::Table)
}

/// Follows from the first copy on.
pub(crate) async fn followed(database: &Database) -> Follower {
    let mut follower = Follower::start(database, Replica::default()).await;
    follower.catch_up(database).await;
    follower
}

/// Takes a snapshot, and what came with it.
async fn taken(
    follower: &mut Follower,
    database: &Database,
    asked: &SnapshotRequest,
) -> TableSnapshot {
    follower.ask(std::slice::from_ref(asked));
    let record = follower.ended(asked).await;
    follower.catch_up(database).await;
    record
}

/// What a store lost, and what it never got rid of.
fn damage(replica: &mut Replica) {
    let keys: Vec<_> = replica.rows.keys().cloned().collect();
    for (oid, key) in keys.iter().step_by(3) {
        replica.rows.remove(&(*oid, key.clone()));
    }
    if let Some(((oid, _), held)) = replica.rows.clone().pop_first() {
        replica.rows.insert((oid, Bytes::from_static(b"\xfe\xff\xff\xff\x0f")), held);
    }
}

#[tokio::test]
async fn a_table_that_is_read_again_is_equal_and_nothing_else_is_touched() {
    let sql =
        format!("{TABLE}; create table other (id int primary key); insert into other values (1)");
    let database = Database::new(&sql, &["public.t", "public.other"]).await;
    let mut follower = followed(&database).await;
    let other = follower.replica.tables.values().find(|table| table.name == "other").unwrap().oid;
    follower.replica.rows.retain(|(oid, _), _| *oid != other);
    damage(&mut follower.replica);
    database.run("update t set n = 1 where id % 7 = 0; delete from t where id % 11 = 0").await;
    let asked = whole("public.t");
    let record = taken(&mut follower, &database, &asked).await;
    assert_eq!((record.state, record.rows), (SnapshotState::Done, 5000 - 454));
    let mut expected = truth(&database).await;
    expected.retain(|(oid, _), _| *oid != other);
    assert_eq!(follower.replica.present(), expected);
    assert_eq!(follower.replica.letters().matches('m').count(), 1, "one sweep");
    // Asked for under the same id, it is done.
    let events = follower.replica.events.len();
    let mut follower = Follower::start(&database, follower.release(&database).await).await;
    let empty = whole("public.other");
    follower.ask(&[asked, empty.clone()]);
    assert_eq!(follower.ended(&empty).await.rows, 1);
    assert_eq!(follower.replica.events.len(), events + 2, "a row and a sweep");
    drop(follower);
    database.drop().await;
}

#[tokio::test]
async fn rows_by_key_or_condition_are_read_and_a_missing_key_is_gone() {
    let sql = "create table t (a int, b text, v int, primary key (a, b));
               insert into t select g, 'k' || g % 10, g from generate_series(1, 3000) g";
    let database = Database::new(sql, &["public.t"]).await;
    let mut follower = followed(&database).await;
    damage(&mut follower.replica);
    let before = follower.replica.present().len();
    let keys = (1..1500).map(|key| vec![format!("0{key}"), format!("k{}", key % 10)]);
    let keys: Vec<Vec<String>> = keys.chain([vec!["7".into(), "nowhere".into()]]).collect();
    let asked = request("public.t", SnapshotScope::Keys(keys));
    let record = taken(&mut follower, &database, &asked).await;
    assert_eq!((record.state, record.rows), (SnapshotState::Done, 1500));
    assert_eq!(follower.replica.letters(), "d", "the one that is nowhere");
    let condition = request("public.t", SnapshotScope::Where("v >= 1500 and b <> 'k3'".into()));
    let record = taken(&mut follower, &database, &condition).await;
    assert_eq!((record.state, record.rows), (SnapshotState::Done, 1351));
    let expected = truth(&database).await;
    let present = follower.replica.present();
    let missing = expected.iter().filter(|(key, _)| !present.contains_key(*key)).count();
    assert_eq!((missing, present.len() > before), (50, true), "every third of k3 is left out");
    assert_eq!(follower.replica.letters(), "d", "nothing is swept");
    let bad = request("public.t", SnapshotScope::Where("v >= 1) to program 'true' --".into()));
    let record = taken(&mut follower, &database, &bad).await;
    assert_eq!(record.state, SnapshotState::Failed);
    let bad = request("public.t", SnapshotScope::Keys(vec![vec!["x".into(), "y".into()]]));
    let record = taken(&mut follower, &database, &bad).await;
    assert_eq!(record.state, SnapshotState::Failed);
    assert!(record.trouble.unwrap().contains("invalid input syntax"));
    drop(follower);
    database.drop().await;
}

/// Rows that change while a chunk is read come from the stream alone.
#[tokio::test]
async fn what_changes_while_a_chunk_is_read_is_left_to_the_stream() {
    let database = Database::new(TABLE, &["public.t"]).await;
    let mut follower = followed(&database).await;
    let slow = "id in (1, 2, 3, 4) and pg_sleep(0.3)::text = ''";
    let asked = request("public.t", SnapshotScope::Where(slow.into()));
    follower.ask(std::slice::from_ref(&asked));
    let change = async {
        let reads = "select exists (select from pg_stat_activity where wait_event = 'PgSleep'
                     and datname = current_database())";
        database.wait_for(reads).await;
        let sql = "update t set n = 9 where id = 1; delete from t where id = 2;
                   update t set id = 30000 where id = 3";
        database.run(sql).await;
    };
    let (record, ()) = tokio::join!(follower.ended(&asked), change);
    assert_eq!(record.state, SnapshotState::Done);
    follower.catch_up(&database).await;
    assert_eq!(follower.replica.letters(), "uddc");
    assert_equal(&follower, &database, "after changes in the window").await;
    drop(follower);
    database.drop().await;
}

/// A commit is sent before it is visible while it waits for a synchronous standby. The chunk still
/// reads the row as it was, and must not put that above the change.
#[tokio::test]
async fn a_change_that_was_sent_and_is_not_visible_yet_is_not_undone() {
    let server = Cluster::new(&[]).await;
    let database = server.database(TABLE, &["public.t"]).await;
    let mut follower = followed(&database).await;
    server.set(&[("synchronous_standby_names", "'nobody'")]).await;
    server.wait_for("select current_setting('synchronous_standby_names') = 'nobody'").await;
    for restart in [false, true] {
        let writer = database.connect().await;
        writer.batch_execute("set synchronous_commit = on").await.unwrap();
        let update = tokio::spawn(async move {
            writer.batch_execute("update t set n = n + 1 where id in (1, 77)").await
        });
        let events = follower.replica.events.len();
        while follower.replica.events.len() < events + 2 {
            follower.step().await.unwrap();
        }
        assert_eq!(database.text("select sum(n) from t").await, if restart { "2" } else { "0" });
        if restart {
            let replica = follower.release(&database).await;
            follower = Follower::start(&database, replica).await;
        }
        let asked = whole("public.t");
        follower.ask(std::slice::from_ref(&asked));
        let waits = tokio::time::timeout(Duration::from_secs(2), follower.ended(&asked)).await;
        assert!(
            waits.is_err(),
            "restart: {restart}: it waits until the change can be seen: {waits:?}"
        );
        server.set(&[("synchronous_standby_names", "''")]).await;
        update.await.unwrap().unwrap();
        assert_eq!(follower.ended(&asked).await.state, SnapshotState::Done);
        follower.catch_up(&database).await;
        assert_eq!(follower.replica.present(), truth(&database).await, "restart: {restart}");
        server.set(&[("synchronous_standby_names", "'nobody'")]).await;
        server.wait_for("select current_setting('synchronous_standby_names') = 'nobody'").await;
    }
    server.set(&[("synchronous_standby_names", "''")]).await;
    drop(follower);
    database.drop().await;
}

/// Writes until it is told to stop, by a seed.
struct Traffic {
    stop: Arc<AtomicBool>,
    task: JoinHandle<u64>,
}

impl Traffic {
    /// Every kind of change that leaves the bytes of a row as they are: rows, keys, TRUNCATE,
    /// rewrites, another name, another integer.
    async fn begin(database: &Database, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (client, is_over) = (database.connect().await, Arc::clone(&stop));
        let task = tokio::spawn(async move {
            let (mut state, mut count) = (seed | 1, 0);
            let mut draw = |bound: u64| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state % bound
            };
            while !is_over.load(Ordering::Relaxed) {
                let (id, other) = (draw(8000), draw(8000));
                let sql = match draw(400) {
                    0 => "truncate t; insert into t select g, 1, 'again' from generate_series(1, 3000) g".into(),
                    1 => "alter table t rename body to text; update t set n = 3 where id < 50; \
                          alter table t rename text to body"
                        .into(),
                    2 => "alter table t alter n type bigint; update t set n = 4 where id < 50; \
                          alter table t alter n type int"
                        .into(),
                    3 => "vacuum full t".into(),
                    4..60 => format!("delete from t where id between {id} and {}", id + draw(40)),
                    60..130 => format!("update t set id = {other} where id = {id} and not exists (select from t where id = {other})"),
                    130..250 => format!("insert into t values ({id}, 2, 'new') on conflict do nothing"),
                    _ => format!("update t set n = n + 1 where id between {id} and {}", id + draw(30)),
                };
                for statement in sql.split("; ") {
                    client.batch_execute(statement).await.unwrap();
                }
                count += 1;
            }
            count
        });
        Self { stop, task }
    }

    /// Ends it; how many times it has written.
    async fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

#[tokio::test]
async fn under_every_kind_of_change_it_ends_equal() {
    let seed: u64 = rand::random();
    let database = Database::new(TABLE, &["public.t"]).await;
    let mut follower = followed(&database).await;
    let traffic = Traffic::begin(&database, seed).await;
    for round in 0..4 {
        damage(&mut follower.replica);
        let asked = whole("public.t");
        follower.ask(std::slice::from_ref(&asked));
        let record = follower.ended(&asked).await;
        assert_eq!(record.state, SnapshotState::Done, "seed {seed}, round {round}: {record:?}");
    }
    let written = traffic.end().await;
    follower.catch_up(&database).await;
    assert_equal(&follower, &database, &format!("seed {seed}, after {written} writes")).await;
    drop(follower);
    database.drop().await;
}

/// A commit record may begin where the high edge ends: it is above the rows of the chunk, and comes after
/// a stop just there.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_right_behind_an_edge_is_not_passed_over() {
    let database = Database::new(TABLE, &["public.t"]).await;
    let mut follower = followed(&database).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for writer in 1..=4 {
        let (client, stop) = (database.connect().await, Arc::clone(&stop));
        client.batch_execute("set synchronous_commit = off").await.unwrap();
        writers.push(tokio::spawn(async move {
            let mut id = writer * 10_000_000;
            while !stop.load(Ordering::Relaxed) {
                id += 1;
                client.batch_execute(&format!("insert into t values ({id})")).await.unwrap();
            }
        }));
    }
    for _ in 0..30 {
        let asked = request("public.t", SnapshotScope::Keys(vec![vec!["7".into()]]));
        follower.ask(std::slice::from_ref(&asked));
        follower.ended(&asked).await;
        follower = Follower::start(&database, follower.release(&database).await).await;
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    follower.catch_up(&database).await;
    assert_equal(&follower, &database, "what was written meanwhile").await;
    drop(follower);
    database.drop().await;
}

/// Old rows have the default of a new column without a word in the WAL.
#[tokio::test]
async fn the_default_of_a_new_column_comes_with_a_snapshot() {
    let database = Database::new(TABLE, &["public.t"]).await;
    let mut follower = followed(&database).await;
    database.run("alter table t add column c int default 7, drop column n").await;
    let record = taken(&mut follower, &database, &whole("public.t")).await;
    assert_eq!(record.state, SnapshotState::Done);
    assert_equal(&follower, &database, "after an ALTER").await;
    database.run("update t set c = 8 where id = 5").await;
    follower.catch_up(&database).await;
    assert_equal(&follower, &database, "after another change").await;
    drop(follower);
    database.drop().await;
}

#[tokio::test]
async fn killed_anywhere_it_goes_on_where_it_was() {
    let seed: u64 = rand::random();
    let database = Database::new(TABLE, &["public.t"]).await;
    let mut follower = followed(&database).await;
    damage(&mut follower.replica);
    let traffic = Traffic::begin(&database, seed).await;
    let asked = whole("public.t");
    let mut before = 0;
    for kill in 0..10 {
        follower.ask(std::slice::from_ref(&asked));
        for _ in 0..=(seed >> kill) % 4 {
            follower.step().await.unwrap();
        }
        // One more is on its way, and lost.
        drop(follower.receive().await.unwrap());
        let replica = follower.release(&database).await;
        let rows = replica.snapshots.values().next().map_or(0, |record| record.rows);
        assert!(rows >= before, "seed {seed}: it never goes back");
        before = rows;
        follower = Follower::start(&database, replica).await;
    }
    follower.ask(std::slice::from_ref(&asked));
    assert_eq!(follower.ended(&asked).await.state, SnapshotState::Done);
    traffic.end().await;
    follower.catch_up(&database).await;
    assert_equal(&follower, &database, &format!("seed {seed}")).await;
    drop(follower);
    database.drop().await;
}

#[tokio::test]
async fn it_stands_still_goes_on_and_ends_as_it_is_told() {
    let sql = "create table t (id int primary key, body text);
               insert into t select g, repeat('x', 2000) from generate_series(1, 20000) g";
    let database = Database::new(sql, &["public.t"]).await;
    let mut follower = followed(&database).await;
    let asked = whole("public.t");
    let rows = |follower: &Follower| {
        let mut records = follower.replica.snapshots.values();
        records.find(|record| record.id == asked.id).map_or(0, |record| record.rows)
    };
    // As the WAL guard holds it, it does not even begin.
    let requests = Some(vec![asked.clone()]);
    follower.ask_all(SnapshotRequests { requests, held: true });
    for _ in 0..10 {
        follower.catch_up(&database).await;
    }
    assert_eq!(rows(&follower), 0);
    follower.ask(std::slice::from_ref(&asked));
    while rows(&follower) == 0 {
        follower.step().await.unwrap();
    }
    assert_eq!(rows(&follower), 256, "the first of its keys, in their own order");
    let paused = SnapshotRequest { paused: true, ..asked.clone() };
    follower.ask(std::slice::from_ref(&paused));
    // What is under way comes yet; then nobody reads the table any more.
    // There are the session of the lock, that of the stream, and ours.
    let nobody = "select count(*) = 3 from pg_stat_activity
                  where datname = current_database() and backend_type = 'client backend'";
    let following = async {
        loop {
            follower.step().await.unwrap();
        }
    };
    tokio::select! {
        () = database.wait_for(nobody) => {}
        never = following => never,
    }
    follower.catch_up(&database).await;
    let stands = rows(&follower);
    assert!(stands > 0 && stands < 20_000, "it was paused on its way: {stands}");
    follower.catch_up(&database).await;
    assert_eq!(rows(&follower), stands);
    follower.ask(std::slice::from_ref(&asked));
    while rows(&follower) == stands {
        follower.step().await.unwrap();
    }
    follower.ask(&[SnapshotRequest { cancelled: true, ..asked.clone() }]);
    assert_eq!(follower.ended(&asked).await.state, SnapshotState::Cancelled);
    let letters = follower.replica.letters();
    assert_eq!(letters, "", "nothing is swept");
    drop(follower);
    database.drop().await;
}

#[tokio::test]
async fn empty_partitioned_and_many_tables_are_read_and_keyless_ones_refused() {
    let sql = "
        create table empty (id int primary key);
        create table parted (id int, region text, v int, primary key (region, id))
            partition by list (region);
        create table parted_a partition of parted for values in ('a');
        create table parted_b partition of parted for values in ('b', 'c');
        insert into parted select g, chr(97 + g % 3), g from generate_series(1, 2000) g;
        create table keyless (v int);
        insert into keyless values (1);
        create table gone (id int primary key);
        do $$ begin for n in 1..30 loop
            execute format('create table tiny%s (id int primary key)', n);
            execute format('insert into tiny%s select generate_series(1, %s)', n, n);
        end loop; end $$";
    let tiny: Vec<String> = (1..=30).map(|n| format!("public.tiny{n}")).collect();
    let mut names = vec!["public.empty", "public.parted", "public.keyless", "public.gone"];
    names.extend(tiny.iter().map(String::as_str));
    let mut database = Database::new(sql, &names).await;
    database.config.append_only = vec!["public.keyless".into()];
    let mut follower = followed(&database).await;
    let (keyless, gone) = (whole("public.keyless"), whole("public.gone"));
    let fine: Vec<SnapshotRequest> = names
        .iter()
        .filter(|name| !["public.keyless", "public.gone"].contains(name))
        .map(|name| whole(name))
        .collect();
    let key = follower.replica.tables.values().find(|table| table.name == "keyless").unwrap().oid;
    follower.replica.rows.retain(|(oid, _), _| *oid == key);
    database.run("drop table gone").await;
    let all: Vec<_> = fine.iter().chain([&keyless, &gone]).cloned().collect();
    follower.ask(&all);
    for asked in &fine {
        assert_eq!(follower.ended(asked).await.state, SnapshotState::Done, "{}", asked.table);
    }
    let refused = follower.ended(&keyless).await;
    assert_eq!(refused.state, SnapshotState::Failed);
    assert!(refused.trouble.unwrap().contains("it has no key"));
    assert_eq!(follower.ended(&gone).await.trouble.unwrap(), "the table is gone");
    let counts = |oid: u32| follower.replica.present().keys().filter(|(o, _)| *o == oid).count();
    for table in follower.replica.tables.values().filter(|table| table.name != "gone") {
        let count = database.text(&format!("select count(*) from {}", table.name)).await;
        assert_eq!(counts(table.oid).to_string(), count, "{}", table.name);
    }
    drop(follower);
    database.drop().await;
}

/// Keys that are ordered in another way from some moment on: what came first may come last.
#[tokio::test]
async fn a_key_of_another_type_is_read_from_its_beginning_again() {
    let database = Database::new(TABLE, &["public.t"]).await;
    let mut follower = followed(&database).await;
    damage(&mut follower.replica);
    let asked = whole("public.t");
    follower.ask(std::slice::from_ref(&asked));
    let has_begun = |record: &TableSnapshot| record.id == asked.id && record.rows > 0;
    while !follower.replica.snapshots.values().any(has_begun) {
        follower.step().await.unwrap();
    }
    let rows = follower.replica.snapshots.values().find(|record| has_begun(record)).unwrap().rows;
    assert!(rows < 5000, "it is under way");
    let replica = follower.release(&database).await;
    database.run("alter table t alter id type text using id::text").await;
    let mut follower = Follower::start(&database, replica).await;
    follower.ask(std::slice::from_ref(&asked));
    let record = follower.ended(&asked).await;
    assert_eq!(
        (record.state, record.rows),
        (SnapshotState::Done, 5000),
        "all of it again: {record:?}"
    );
    follower.catch_up(&database).await;
    assert_equal(&follower, &database, "after another type of the key").await;
    drop(follower);
    database.drop().await;
}
