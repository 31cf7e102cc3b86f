//! A table is read again beside the stream: whatever the stores have missed, they end equal.

use crate::support::services;
use crate::support::world::{World, parked};

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
    status_says(&world, "done").await;
    world.run("UPDATE t SET v = 'seen' WHERE id = 1").await;
    world.must(&["snapshot", "public.t"]).await;
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
    refused(&["snapshot", "public.log"], "append-only").await;
    refused(&["snapshot", "public.t", "--key", "[1"], "array of texts").await;
    refused(&["snapshot", "pause", "public.t"], "none was asked for").await;
    world.must(&["snapshot", "public.t", "public.other"]).await;
    world.must(&["snapshot", "pause"]).await;
    let status = world.must(&["snapshot", "status"]).await;
    assert_eq!(status.matches("paused").count(), 2, "{status}");
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
