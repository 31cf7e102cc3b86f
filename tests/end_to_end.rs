//! A row committed in PostgreSQL arrives in every store, as it is.

use apache_avro::types::Value;

use crate::support::log::{field, read_topic};
use crate::support::services;
use crate::support::stores;
use crate::support::world::{World, connect};

/// Every type that travels as itself, arrays of some, and others as their text.
const TYPES: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
    CREATE DOMAIN positive AS int CHECK (value > 0);
    CREATE TABLE kinds (
        id bigint PRIMARY KEY, b bool, i2 int2, i4 int4, i8 int8, f4 float4, f8 float8,
        n numeric(20,4), free numeric, t text, v varchar(20), c char(5), raw bytea, u uuid,
        d date, tod time, ts timestamp, tz timestamptz, j json, jb jsonb, m mood, p positive,
        ia int[], ta text[], na numeric(8,2)[], span interval, net inet, r int4range
    );";

const VALUES: &str = r#"
    INSERT INTO kinds VALUES
    (1, true, -32768, 2147483647, -9223372036854775808, 0.1, 1e308, -1234567890123456.7891,
     0.00000000000000000001, 'ünïcode 🐘', 'v', 'ab', '\x00ff27', '3b241101-e2bb-4255-8caf-4136c566a962',
     '0001-01-01', '23:59:59.999999', '2026-11-21 10:00:00.123456', '9999-12-31 23:59:59+00',
     '{"a":1 ,"n":9007199254740993}', '{"b": [1.10, null], "a": "x"}', 'happy', 7,
     '{1,NULL,3}', '{"a\"b","",NULL,"c,d"}', '{1.50,-2.25}', '1 year 2 mons -3 days', '10.1.2.3/8', '[1,5)'),
    (2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
     NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
    (3, false, 0, 0, 0, -0.0, 5e-324, 0, 123456789012345678901234567890.5, '', '', '', '', gen_random_uuid(),
     '2000-02-29', '00:00', '1969-12-31 23:59:59.999999', '0001-01-01 00:00:00+00', '1.50', '7', 'sad', 1,
     '{}', '{}', '{}', '0', '::1', 'empty')"#;

#[tokio::test]
async fn snapshot_and_stream_reach_every_store_exactly() {
    let _turn = services::shared().await;
    let mut world = World::new(TYPES, &["public.kinds"]).await;
    world.run(VALUES).await;
    world.start();
    world.wait_equal().await;
    world.run("INSERT INTO kinds SELECT id + 10, b, i2, i4, i8, f4, f8, n, free, t, v, c, raw, u, d, tod, ts, tz, j, jb, m, p, ia, ta, na, span, net, r FROM kinds").await;
    world.run("UPDATE kinds SET t = NULL, jb = '[]', ia = '{9}' WHERE id = 1; DELETE FROM kinds WHERE id = 2").await;
    world.run("UPDATE kinds SET id = 77 WHERE id = 13").await;
    world.wait_equal().await;
    assert_eq!(world.number("SELECT count(*) FROM kinds").await, 5);
    world.stop().await;
}

/// Elasticsearch refuses JSON with a key twice: that table is parked there, named with its key and
/// the reason, and nobody else notices.
#[tokio::test]
async fn a_row_that_a_store_refuses_parks_that_table_alone() {
    let _turn = services::shared().await;
    let schema =
        "CREATE TABLE bad (id int PRIMARY KEY, j json); CREATE TABLE good (id int PRIMARY KEY)";
    let mut world = World::new(schema, &["public.bad", "public.good"]).await;
    world.start();
    world.wait_equal().await;
    world
        .run("INSERT INTO bad VALUES (41, '{\"a\": 1, \"a\": 2}'); INSERT INTO good VALUES (1)")
        .await;
    world.wait_equal_in(&["cache", "lake"]).await;
    let report = world.wait_status("search is parked", |report| !report.is_healthy()).await;
    for (topic, table) in &report.sinks["search"].tables {
        let error = table.state.error().unwrap_or_default();
        let named = error.contains("\"41\"") && error.contains("Duplicate field");
        assert_eq!(named, topic.ends_with(".bad"), "{topic}: {error}");
    }
    world.tables = vec!["public.good".to_owned()];
    world.wait_equal().await;
    world.stop().await;
}

#[tokio::test]
async fn composite_keys_and_awkward_texts_arrive() {
    let _turn = services::shared().await;
    let schema = "CREATE TABLE pairs (a text, b int, \"MixedName\" text, PRIMARY KEY (a, b));
                  INSERT INTO pairs VALUES ('x:y', 1, 'one'), ('x', 2, 'a\"b'), ('\\', 3, NULL)";
    let mut world = World::new(schema, &["public.pairs"]).await;
    world.start();
    world.wait_equal().await;
    world.run("UPDATE pairs SET a = 'x:y:z' WHERE b = 1; DELETE FROM pairs WHERE b = 3").await;
    world.wait_equal().await;
    world.stop().await;
}

/// An update that leaves a large column alone, and a key change: with and without FULL, the event
/// in Kafka and every store have the value.
#[tokio::test]
async fn unchanged_toast_is_never_missing() {
    let _turn = services::shared().await;
    let schema = "
        CREATE TABLE plain (id int PRIMARY KEY, n int, body text);
        CREATE TABLE full_id (id int PRIMARY KEY, n int, body text);
        ALTER TABLE plain ALTER body SET STORAGE EXTERNAL;
        ALTER TABLE full_id ALTER body SET STORAGE EXTERNAL;
        ALTER TABLE full_id REPLICA IDENTITY FULL;
        INSERT INTO plain SELECT g, 0, repeat('x' || g, 20000) FROM generate_series(1, 5) g;
        INSERT INTO full_id SELECT * FROM plain";
    let mut world = World::new(schema, &["public.plain", "public.full_id"]).await;
    world.start();
    world.wait_equal().await;
    for table in ["plain", "full_id"] {
        world.run(&format!("UPDATE {table} SET n = n + 1 WHERE id < 3; UPDATE {table} SET id = 100 WHERE id = 4")).await;
        // The second update is committed before the first one is decoded: a newer value is safe.
        world.run(&format!("UPDATE {table} SET n = 7 WHERE id = 5; UPDATE {table} SET body = 'short' WHERE id = 5")).await;
        world
            .run(&format!(
                "UPDATE {table} SET n = 8 WHERE id = 3; DELETE FROM {table} WHERE id = 3"
            ))
            .await;
    }
    world.wait_equal().await;
    for table in ["plain", "full_id"] {
        let records = read_topic(&format!("{}.public.{table}", world.name)).await;
        let mut looked = 0;
        for record in records.iter().filter(|record| record.op == "u" || record.op == "c") {
            let after = record.after.as_ref().unwrap();
            let (id, body) = (field(after, "id"), field(after, "body"));
            if id == Value::Int(3) {
                continue; // Its row was deleted at once: the event may be marked instead.
            }
            let Value::String(body) = body else { panic!("{table} {id:?}: body is {body:?}") };
            assert!(body.len() >= 40_000 || body == "short", "{table} {id:?}: {}", body.len());
            looked += 1;
        }
        assert!(looked >= 5, "{table}: {looked} events with a row");
    }
    world.stop().await;
}

/// `postgres.md` §4.2: the row's LSN is not an order. T2 writes its row first, then waits for T1's
/// lock; T1 deletes the same key and commits first.
#[tokio::test]
async fn commits_order_changes_not_row_lsns() {
    let _turn = services::shared().await;
    let schema = "CREATE TABLE a (id int PRIMARY KEY, t text, u int UNIQUE);
                  INSERT INTO a VALUES (1, 'old', 1), (9, 'other', 9)";
    let mut world = World::new(schema, &["public.a"]).await;
    world.start();
    world.wait_equal().await;
    let (one, two) = (connect(&world.name).await, connect(&world.name).await);
    // T1 begins first and commits last; its second row's LSN is below T2's commit.
    one.batch_execute("BEGIN; INSERT INTO a VALUES (2, 'T1 first', 2)").await.unwrap();
    two.batch_execute("INSERT INTO a VALUES (3, 'T2', 3)").await.unwrap();
    one.batch_execute("INSERT INTO a VALUES (4, 'T1 second', 4); COMMIT").await.unwrap();
    // T1 deletes key 1; T2's insert of key 1 is in the heap before, and waits for T1.
    one.batch_execute("BEGIN; UPDATE a SET t = 'locked' WHERE id = 1").await.unwrap();
    let insert = two.batch_execute("INSERT INTO a VALUES (1, 'new', 1)");
    let delete = async {
        world.wait_until("T2 waits", async || {
            world.number("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'INSERT INTO a VALUES (1,%'").await == 1
        }).await;
        one.batch_execute("DELETE FROM a WHERE id = 1; COMMIT").await.unwrap();
    };
    let (inserted, ()) = tokio::join!(insert, delete);
    inserted.unwrap();
    world.wait_equal().await;
    let held = stores::rows(&world, "cache", "public.a").await.unwrap();
    assert_eq!(held["1"]["t"].as_deref(), Some("new"));
    world.stop().await;
}

/// One transaction; the index refreshes every 30 seconds, so what a TRUNCATE must find is not
/// visible to a search by itself.
#[tokio::test]
async fn insert_truncate_insert_leaves_the_last() {
    let _turn = services::shared().await;
    let schema = "CREATE TABLE t (id int PRIMARY KEY, v text);
                  INSERT INTO t SELECT g, 'snapshot' FROM generate_series(1, 50) g";
    let mut world = World::new(schema, &["public.t"]).await;
    world.toml = world.toml.replace("shards = 2", "shards = 2\nrefresh_interval = \"30s\"");
    world.start();
    world.wait_equal().await;
    world.run("BEGIN; INSERT INTO t VALUES (60, 'gone'); TRUNCATE t; INSERT INTO t VALUES (1, 'kept'), (61, 'kept'); COMMIT").await;
    world.wait_equal().await;
    world
        .run("INSERT INTO t VALUES (70, 'gone'); TRUNCATE t; INSERT INTO t VALUES (71, 'kept')")
        .await;
    // The worker dies in between, wherever it is by now.
    world.kill();
    world.run("BEGIN; INSERT INTO t VALUES (80, 'gone'); TRUNCATE t; INSERT INTO t VALUES (80, 'kept'); TRUNCATE t; INSERT INTO t VALUES (81, 'kept'); COMMIT").await;
    world.start();
    world.wait_equal().await;
    assert_eq!(world.number("SELECT count(*) FROM t").await, 1);
    world.stop().await;
}

/// A transaction larger than a batch, with keys that it changes again and again.
#[tokio::test]
async fn a_transaction_larger_than_a_batch_arrives_whole() {
    let _turn = services::shared().await;
    let schema = "CREATE TABLE big (id int PRIMARY KEY, n int, pad text);
        CREATE TABLE old (id int PRIMARY KEY, pad text);
        INSERT INTO old SELECT g, repeat('o', 100) FROM generate_series(1, 20000) g";
    let mut world = World::new(schema, &["public.big", "public.old"]).await;
    world.toml =
        world.toml.replace("idle_position_ms", "batch_bytes_max = 262144\nidle_position_ms");
    world.start();
    // A daemon that dies in its first snapshot takes another, with the transaction in its rows.
    world.wait_equal().await;
    world
        .run(
            "BEGIN;
        INSERT INTO big SELECT g, 0, repeat('p', 100) FROM generate_series(1, 20000) g;
        UPDATE big SET n = n + 1 WHERE id % 3 = 0; UPDATE big SET n = n + 1 WHERE id % 6 = 0;
        DELETE FROM big WHERE id % 5 = 0; INSERT INTO big VALUES (5, 55, 'again');
        COMMIT",
        )
        .await;
    world.kill();
    world.start();
    world.wait_equal().await;
    let records = read_topic(&format!("{}.public.big", world.name)).await;
    assert_eq!(records.len(), 20_000 + 6_666 + 3_333 + 4_000 + 1);
    let mut ordinals: Vec<_> = records.iter().map(|record| record.ordinal).collect();
    ordinals.sort_unstable();
    assert!((1..).zip(&ordinals).all(|(wanted, ordinal)| wanted == *ordinal), "each exactly once");
    world.stop().await;
}

/// A column is added while the stream runs.
#[tokio::test]
async fn an_added_column_arrives() {
    let _turn = services::shared().await;
    let schema = "CREATE TABLE grow (id int PRIMARY KEY, a text); INSERT INTO grow VALUES (1, 'a')";
    let mut world = World::new(schema, &["public.grow"]).await;
    world.start();
    world.wait_equal().await;
    world.run("ALTER TABLE grow ADD COLUMN b int; INSERT INTO grow VALUES (2, 'b', 2); UPDATE grow SET b = 1 WHERE id = 1").await;
    world.wait_equal().await;
    world.kill();
    world.run("INSERT INTO grow VALUES (3, 'c', 3)").await;
    world.start();
    world.wait_equal().await;
    world.stop().await;
}

/// A sink that names its tables follows those alone.
#[tokio::test]
async fn a_sink_follows_the_tables_it_names() {
    let _turn = services::shared().await;
    let schema = "CREATE TABLE one (id int PRIMARY KEY); CREATE TABLE two (id int PRIMARY KEY);
                  INSERT INTO one VALUES (1); INSERT INTO two VALUES (2)";
    let mut world = World::new(schema, &["public.one", "public.two"]).await;
    world.toml =
        world.toml.replace("kind = \"redis\"", "kind = \"redis\"\ntables = [\"public.two\"]");
    world.start();
    world.wait_equal_in(&["search", "lake"]).await;
    world.tables = vec!["public.two".to_owned()];
    world.wait_equal().await;
    assert!(stores::rows(&world, "cache", "public.one").await.unwrap().is_empty());
    world.stop().await;
}

/// Idle beside a busy neighbour: the slot follows, nothing is written to the source, and a
/// restart sees no gap.
#[tokio::test]
async fn an_idle_source_advances_and_restarts_without_a_false_gap() {
    let _turn = services::shared().await;
    let mut world = World::new("CREATE TABLE quiet (id int PRIMARY KEY)", &["public.quiet"]).await;
    world.start();
    world
        .wait_status("running", |report| {
            report
                .source
                .as_ref()
                .is_some_and(|s| s.figures.rows == 0 && s.figures.durable_lsn.0 > 0)
        })
        .await;
    let neighbour = connect("postgres").await;
    let name = format!("busy_{}", world.name);
    for _ in 0..3 {
        neighbour.batch_execute(&format!("CREATE TABLE {name} AS SELECT g FROM generate_series(1, 50000) g; DROP TABLE {name}")).await.unwrap();
        let now: String =
            neighbour.query_one("SELECT pg_current_wal_lsn()::text", &[]).await.unwrap().get(0);
        let followed = format!(
            "SELECT count(*) FROM pg_replication_slots
             WHERE slot_name = '{}' AND confirmed_flush_lsn >= '{now}'",
            world.name
        );
        world.wait_until("the slot follows", async || world.number(&followed).await == 1).await;
        world.kill();
        world.start();
    }
    world.run("INSERT INTO quiet VALUES (1)").await;
    world.wait_equal().await;
    world.stop().await;
}
