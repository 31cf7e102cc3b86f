//! A table is read again beside the stream: whatever the stores have missed, they end equal.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anabranch::status::Report;
use anabranch_core::memory::Faults;
use anabranch_core::{Phase, SnapshotState, TableSnapshot};

use crate::support::load::{self, Load};
use crate::support::services;
use crate::support::world::{World, connect, parked};

const SCHEMA: &str = "
    CREATE TABLE t (id int PRIMARY KEY, v text);
    INSERT INTO t SELECT g, repeat('row ', 200) FROM generate_series(1, 4000) g;
    CREATE TABLE other (id int PRIMARY KEY);
    INSERT INTO other VALUES (1);
    CREATE TABLE log (v text)";

/// A world whose stores have missed changes of `t`: somebody dropped the slot, and a person went on.
async fn with_a_gap() -> World {
    let mut world = World::new(SCHEMA, &["public.t", "public.other"]).await;
    world.start();
    world.wait_equal().await;
    world.stop().await;
    world.run("SELECT pg_drop_replication_slot(current_database())").await;
    world.run("DELETE FROM t WHERE id % 5 = 0; UPDATE t SET v = 'unseen' WHERE id % 7 = 0").await;
    world.run("INSERT INTO t SELECT g, 'unseen' FROM generate_series(5001, 5100) g").await;
    world.start();
    world.wait_status("the source is parked", |report| parked(report).is_some()).await;
    world.must(&["source", "accept", "--gap", "--yes"]).await;
    world
        .wait_status("the source goes on", |report| {
            report.source.as_ref().is_some_and(|source| source.state.word() == "running")
        })
        .await;
    world
}

async fn status_says(world: &World, word: &str) {
    let says = async || world.must(&["snapshot", "status"]).await.contains(word);
    world.wait_until(&format!("the snapshot is {word}"), says).await;
}

#[tokio::test]
async fn a_gap_is_closed_by_a_snapshot_of_the_table() {
    let _turn = services::shared().await;
    let mut world = with_a_gap().await;
    let asked = world.must(&["snapshot", "public.t", "--key", "5", "--key", "7"]).await;
    assert!(asked.contains("anabranch snapshot status"), "{asked}");
    world.run("UPDATE t SET v = 'seen' WHERE id = 1").await;
    let is_asked =
        async || world.anabranch(&["snapshot", "public.t"]).await.status.code() == Some(0);
    world.wait_until("the first one is over, and another is asked for", is_asked).await;
    // It is killed on its way, or before it, or after it.
    world.run("INSERT INTO t VALUES (6000, 'beside')").await;
    world.kill();
    world.start();
    world
        .run("UPDATE t SET v = 'beside' WHERE id BETWEEN 100 AND 200; DELETE FROM t WHERE id = 8")
        .await;
    status_says(&world, "done").await;
    world.wait_equal().await;
    let rows = world.number("SELECT count(*) FROM t").await;
    let status = world.must(&["snapshot", "status", "--json"]).await;
    assert!(status.contains("\"state\": \"done\"") && rows > 3000, "{status}");
    world.stop().await;
    // Without a daemon the log itself says it.
    status_says(&world, "done").await;
}

/// A table that is named in the configuration of a log that is there is read by itself.
#[tokio::test]
async fn a_table_is_added_to_a_log_that_is_there() {
    let _turn = services::shared().await;
    let mut world = World::new(SCHEMA, &["public.t"]).await;
    world.start();
    world.wait_equal().await;
    world.stop().await;
    world.tables.push("public.other".into());
    world.toml = world.toml.replacen("[\"public.t\"]", "[\"public.t\", \"public.other\"]", 1);
    let add = format!("ALTER PUBLICATION {} ADD TABLE other", world.name);
    world.run(&format!("INSERT INTO other VALUES (2); {add}; INSERT INTO other VALUES (3)")).await;
    world.start();
    world.run("INSERT INTO other VALUES (4)").await;
    world.wait_equal().await;
    let status = world.must(&["snapshot", "status"]).await;
    assert!(status.contains("public.other") && status.contains("done"), "{status}");
    world.stop().await;
}

/// Where the configuration takes in a schema, a table that is published is read while the daemon runs.
#[tokio::test]
async fn a_table_that_is_published_is_in_every_store_without_a_restart() {
    let _turn = services::shared().await;
    let mut world = World::new(SCHEMA, &["public.t", "public.other"]).await;
    world.toml = world.toml.replacen("[\"public.t\", \"public.other\"]", "[\"public.*\"]", 1);
    world.start();
    world.wait_equal().await;
    let late =
        "CREATE TABLE late (id int PRIMARY KEY, v text); INSERT INTO late VALUES (1, 'before')";
    let publish = format!("ALTER PUBLICATION {} ADD TABLE late", world.name);
    world.run(&format!("{late}; {publish}; INSERT INTO late VALUES (2, 'after')")).await;
    world.tables.push("public.late".into());
    world.wait_equal().await;
    world.run("UPDATE late SET v = 'changed' WHERE id = 1; DELETE FROM late WHERE id = 2").await;
    world.wait_equal().await;
    let status = world.must(&["snapshot", "status"]).await;
    assert!(status.contains("public.late") && status.contains("done"), "{status}");
    world.stop().await;
}

#[tokio::test]
async fn snapshots_are_asked_for_changed_and_refused_by_name() {
    let _turn = services::shared().await;
    let mut world = World::new(SCHEMA, &["public.t", "public.other"]).await;
    world.toml = world.toml.replacen("slot =", "append_only = [\"public.log\"]\nslot =", 1);
    world.toml = world.toml.replacen("\"public.other\"]", "\"public.other\", \"public.log\"]", 1);
    assert_eq!(world.must(&["snapshot", "status"]).await, "there is none\n");
    let refused = async |arguments: &[&str], word: &str| {
        let done = world.anabranch(arguments).await;
        let text = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.code() == Some(2) && text.contains(word), "{text}");
    };
    refused(&["snapshot", "public.nosuch"], "[source] tables").await;
    refused(&["snapshot", "public.*"], "single tables").await;
    refused(&["snapshot", "public.log"], "append-only").await;
    refused(&["snapshot", "public.t", "--key", "[1"], "array of texts").await;
    refused(&["snapshot", "pause", "public.t"], "none waits or is under way").await;
    world.must(&["snapshot", "public.t", "public.other"]).await;
    world.must(&["snapshot", "pause"]).await;
    let status = world.must(&["snapshot", "status"]).await;
    assert_eq!(status.matches("paused").count(), 2, "{status}");
    refused(&["snapshot", "public.t", "--key", "1"], "a snapshot of it waits").await;
    world.start();
    world.wait_equal_in(&["cache"]).await;
    world.must(&["snapshot", "resume", "public.other"]).await;
    let is_done = async || {
        let status = world.must(&["snapshot", "status"]).await;
        status.lines().any(|line| line.contains("public.other") && line.contains("done"))
            && status.lines().any(|line| line.contains("public.t") && line.contains("paused"))
    };
    world.wait_until("one is done and the other waits", is_done).await;
    world.must(&["snapshot", "cancel", "public.t"]).await;
    status_says(&world, "cancelled").await;
    world.must(&["snapshot", "public.t", "--where", "no_such_column = 1"]).await;
    status_says(&world, "FAILED").await;
    let status = world.must(&["status"]).await;
    assert!(
        status.contains("snapshot of public.t") && status.contains("no_such_column"),
        "{status}"
    );
    world.wait_equal_in(&["search", "cache"]).await;
    world.stop().await;
}

/// Reads of the first copy take a while, and what is left of it beside the stream takes longer.
const COPY_SCHEMA: &str = "
    CREATE TABLE t (id int PRIMARY KEY, v text);
    INSERT INTO t SELECT g, repeat('row ', 100) FROM generate_series(1, 30000) g";

/// Ten times in the first copy and ten times beside the stream, at random moments, under load.
#[tokio::test]
async fn every_kill_of_a_snapshot_is_survived() {
    const KILLS: usize = 10;
    let _turn = services::shared().await;
    let schema = format!("{}; {COPY_SCHEMA}", load::SCHEMA);
    let mut world = World::new(&schema, &["public.orders", "public.events", "public.t"]).await;
    world.toml = world.toml.replacen(
        "slot =",
        "on_lost = \"snapshot\"\nsnapshot_rows_per_second_max = 10000\nslot =",
        1,
    );
    let seed = world.number("SELECT (random() * 1e9)::bigint").await as u64;
    println!("seed {seed}");
    let rng = Faults::seeded(seed, 0.0);
    let load = Load::start(&world.name, 2);
    let (mut in_copy, mut beside) = (0, 0);
    for _ in 0..KILLS {
        world.start();
        world.wait_status("it copies", |report| is_copying(report) || streams(report)).await;
        tokio::time::sleep(Duration::from_millis(rng.below(300) as u64)).await;
        world.kill();
        in_copy += usize::from(phase(&world).await == Phase::Snapshot);
        world.start();
        world.wait_status("the stream goes on", streams).await;
        if !recorded(&world).await.iter().any(is_running) {
            world.must(&["snapshot", "public.t"]).await;
            let is_read = |report: &Report| report.snapshots.iter().any(is_running);
            world.wait_status("it is read", is_read).await;
        }
        tokio::time::sleep(Duration::from_millis(rng.below(300) as u64)).await;
        world.kill();
        beside += usize::from(recorded(&world).await.iter().any(is_running));
        change_beside(&world, &rng).await;
        // Its history is lost: all is copied again, in the same log.
        let drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
                    WHERE slot_name = current_database()";
        world
            .wait_until("the slot is let go of", async || {
                world.sql.batch_execute(drop).await.is_ok()
            })
            .await;
    }
    println!("killed {in_copy} times in a copy and {beside} times beside the stream");
    assert!(in_copy > KILLS / 3 && beside > KILLS / 3, "{in_copy} and {beside}");
    world.start();
    load.finish().await;
    world.wait_equal().await;
    world.stop().await;
}

/// Rows that are read move, go and come back.
async fn change_beside(world: &World, rng: &Faults) {
    let id = rng.below(29_000);
    world
        .run(&format!(
            "UPDATE t SET id = -id WHERE id BETWEEN {id} AND {id} + 50; DELETE FROM t WHERE id = {id} + 60;
             INSERT INTO t VALUES ({id} + 60, 'back') ON CONFLICT DO NOTHING;
             UPDATE t SET id = -id WHERE id < 0 AND id % 2 = 0"
        ))
        .await;
}

fn is_copying(report: &Report) -> bool {
    report.source.as_ref().is_some_and(|source| source.figures.copy.is_some())
}

fn streams(report: &Report) -> bool {
    report.source.as_ref().is_some_and(|source| source.figures.silence_seconds.is_some())
}

fn is_running(record: &TableSnapshot) -> bool {
    record.table == "public.t" && record.state == SnapshotState::Running
}

async fn phase(world: &World) -> Phase {
    let position = anabranch_kafka::admin::read_position(&world.config().kafka).await.unwrap();
    position.unwrap().phase
}

async fn recorded(world: &World) -> Vec<TableSnapshot> {
    anabranch_kafka::admin::snapshots(&world.config().kafka).await.unwrap()
}

/// While one table is read again, changes of another are as soon in the store as before.
#[tokio::test]
async fn a_snapshot_of_one_table_leaves_the_lag_of_others_flat() {
    // By the clock, so nothing else is to be busy.
    let _turn = services::alone().await;
    let schema = format!("{COPY_SCHEMA}; CREATE TABLE other (id int PRIMARY KEY, v text)");
    let mut world = World::new(&schema, &["public.t", "public.other"]).await;
    world.toml = world.toml.replacen("slot =", "snapshot_rows_per_second_max = 3000\nslot =", 1);
    world.start();
    world.wait_equal().await;
    let client = connect(&world.name).await;
    let stop = AtomicBool::new(false);
    let write = async {
        while !stop.load(Ordering::Relaxed) {
            let insert = "INSERT INTO other SELECT coalesce(max(id), 0) + 1, 'v' FROM other";
            client.batch_execute(insert).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let measure = async {
        let before = lags(&world, |_, samples| samples >= 60).await;
        world.must(&["snapshot", "public.t"]).await;
        world.wait_status("it is read", |report| report.snapshots.iter().any(is_running)).await;
        let ended = |report: &Report, _| !report.snapshots.iter().any(is_running);
        let during = lags(&world, ended).await;
        stop.store(true, Ordering::Relaxed);
        (before, during)
    };
    let ((), (before, during)) = tokio::join!(write, measure);
    println!("lag of the other table, median and highest: {before:?} before, {during:?} during");
    assert!(during.0 < before.0 + 1.0, "{before:?} {during:?}");
    world.wait_equal_in(&["cache"]).await;
    world.stop().await;
}

/// The median and the highest lag of the other table in Redis, in seconds, until `ended`.
async fn lags(world: &World, ended: impl Fn(&Report, usize) -> bool) -> (f64, f64) {
    let mut lags = Vec::new();
    loop {
        let report = world.status().await.unwrap();
        let tables = &report.sinks["cache"].tables;
        let other = tables.iter().find(|(topic, _)| topic.ends_with(".other")).unwrap().1;
        lags.push(other.partitions.iter().map(|unit| unit.lag_seconds).fold(0.0, f64::max));
        if ended(&report, lags.len()) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    lags.sort_by(f64::total_cmp);
    (lags[lags.len() / 2], lags[lags.len() - 1])
}

/// What the source has begun by itself stands still, goes on and ends as people say.
#[tokio::test]
async fn a_snapshot_that_nobody_asked_for_can_be_paused_and_ended() {
    let _turn = services::shared().await;
    let mut world = World::new(COPY_SCHEMA, &["public.t"]).await;
    world.toml = world.toml.replacen(
        "slot =",
        "copy_bytes_max = 100000\nsnapshot_rows_per_second_max = 2000\nslot =",
        1,
    );
    world.start();
    let rows = |report: &Report| report.snapshots.first().map_or(0, |record| record.rows);
    world.wait_status("it is read", |report| rows(report) > 0).await;
    let metrics = world.metrics().await;
    assert!(metrics.contains("anabranch_snapshots{state=\"running\"} 1"), "{metrics}");
    assert!(metrics.contains("anabranch_snapshot_rows{table=\"public.t\"}"), "{metrics}");
    world.must(&["snapshot", "pause"]).await;
    status_says(&world, "paused").await;
    // The word of people is asked for every second; one that is obeyed shows in rows that stay.
    let mut last = 0;
    world
        .wait_until("it stands still", async || {
            tokio::time::sleep(Duration::from_secs(2)).await;
            let now = world.status().await.map_or(0, |report| rows(&report));
            std::mem::replace(&mut last, now) == now
        })
        .await;
    assert!(last < 30_000, "it was paused on its way");
    world.must(&["snapshot", "resume", "public.t"]).await;
    world.wait_status("it goes on", |report| rows(report) > last).await;
    world.must(&["snapshot", "cancel", "public.t"]).await;
    status_says(&world, "cancelled").await;
    world.must(&["snapshot", "public.t"]).await;
    status_says(&world, "done").await;
    world.wait_equal().await;
    world.stop().await;
}
