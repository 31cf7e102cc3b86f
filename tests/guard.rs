//! The WAL guard in the daemon: what it sees is served, and what it gives up is named for good.

use std::collections::BTreeMap;

use anabranch_postgres::GuardState;

use crate::support::services;
use crate::support::world::World;

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, v text)";

/// Samples by name and labels, from Prometheus' text format; anything else fails.
fn parse(text: &str) -> BTreeMap<String, f64> {
    let (mut samples, mut types) = (BTreeMap::new(), BTreeMap::new());
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let words: Vec<&str> = comment.splitn(3, ' ').collect();
            let [kind, name, rest] = words[..] else { panic!("{line}") };
            match kind {
                "TYPE" => assert!(types.insert(name, rest).is_none(), "{name} comes twice"),
                kind => assert_eq!(kind, "HELP", "{line}"),
            }
            continue;
        }
        let (name, value) = line.rsplit_once(' ').expect("a name and a value");
        let base = name.split('{').next().unwrap();
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        assert!(base.starts_with("anabranch_") && base.chars().all(legal), "{line}");
        let kind = types.get(base).unwrap_or_else(|| panic!("no type: {line}"));
        assert_eq!(*kind == "counter", base.ends_with("_total"), "{line}");
        let value = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
        assert!(samples.insert(name.to_owned(), value).is_none(), "{line} comes twice");
    }
    samples
}

#[tokio::test]
async fn the_figures_of_the_source_are_scraped() {
    let _turn = services::shared().await;
    let mut world = World::new(SCHEMA, &["public.t"]).await;
    world.toml = world.toml.replace(
        "[kafka]",
        "[source.wal_guard]\ninterval_ms = 100\nretained_bytes_max = 1000000000000\n[kafka]",
    );
    world.run("INSERT INTO t SELECT n, repeat('v', 9000) FROM generate_series(1, 3) n").await;
    world.start();
    world.wait_equal().await;
    world.run("UPDATE t SET id = id + 10; INSERT INTO t VALUES (1, 'new')").await;
    world.wait_equal().await;
    let seen = |report: &anabranch::status::Report| {
        let source = report.source.as_ref()?;
        let guard = source.wal_guard.as_ref()?;
        (guard.state == GuardState::Calm
            && guard.active
            && source.figures.silence_seconds.is_some())
        .then_some(())
    };
    let report = world.wait_status("the guard is calm", |report| seen(report).is_some()).await;
    let samples = parse(&world.metrics().await);
    let value = |name: &str| *samples.get(name).unwrap_or_else(|| panic!("{name}: {samples:#?}"));
    assert_eq!(value("anabranch_source_state{state=\"running\"}"), 1.0);
    assert_eq!(value("anabranch_source_state{state=\"parked\"}"), 0.0);
    assert_eq!(value("anabranch_wal_guard_state{state=\"calm\"}"), 1.0);
    assert_eq!(value("anabranch_slot_wal_status{status=\"reserved\"}"), 1.0);
    assert_eq!(value("anabranch_slot_active"), 1.0);
    assert_eq!(value("anabranch_slot_limit_bytes"), 1e12);
    assert_eq!(value("anabranch_source_snapshot_rows_total"), 3.0);
    assert_eq!(value("anabranch_source_rows_total"), 7.0, "a delete and an insert each, and one");
    let figures = report.source.unwrap().figures;
    assert!(value("anabranch_source_durable_lsn") >= figures.durable_lsn.0 as f64);
    for positive in ["source_received_lsn", "slot_retained_bytes", "slot_confirmed_flush_lsn"] {
        assert!(value(&format!("anabranch_{positive}")) > 0.0, "{positive}");
    }
    assert!(value("anabranch_source_connections") >= 4.0);
    assert!(!samples.contains_key("anabranch_slot_safe_wal_bytes"), "the server has no limit");
    let table = world.must(&["status"]).await;
    assert!(table.contains("% of retained_bytes_max (1000000 MB)"), "{table}");
    world.stop().await;
}

/// A slot that keeps too much WAL holds snapshots back; what is asked for comes when it is calm.
#[tokio::test]
async fn a_slot_at_its_limit_holds_snapshots_back() {
    let _turn = services::shared().await;
    let mut world = World::new(SCHEMA, &["public.t"]).await;
    let calm = world.toml.clone();
    world.run("INSERT INTO t SELECT n, 'v' FROM generate_series(1, 100) n").await;
    world.toml = calm.replace(
        "[kafka]",
        "[source.wal_guard]\ninterval_ms = 100\nretained_bytes_max = 1\n[kafka]",
    );
    world.start();
    world.wait_equal().await;
    world
        .wait_status("the limit is reached", |report| {
            let guard = report.source.as_ref().and_then(|source| source.wal_guard.as_ref());
            guard.is_some_and(|guard| guard.state == GuardState::Full)
        })
        .await;
    world.must(&["snapshot", "public.t"]).await;
    // What is asked of a sink later is read with it, or after it.
    for (verb, word) in [("pause", "paused"), ("resume", "running")] {
        world.must(&[verb, "cache"]).await;
        world
            .wait_status(&format!("the sink is {word}"), |report| {
                report.sinks.get("cache").is_some_and(|sink| sink.state.word() == word)
            })
            .await;
    }
    let status = world.must(&["snapshot", "status"]).await;
    assert!(status.contains("waiting"), "{status}");
    world.stop().await;
    world.toml = calm;
    world.start();
    let is_done = async || {
        let status = world.must(&["snapshot", "status"]).await;
        status.contains("done") && !status.contains("waiting")
    };
    world.wait_until("the snapshot is done", is_done).await;
    world.wait_equal().await;
    world.stop().await;
}

/// The policy gives the slot up; the source is parked, says why, and says so again at each start,
/// until a person says how to go on. `on_lost` is no person.
#[tokio::test]
async fn a_slot_that_the_policy_dropped_is_named_at_every_start() {
    let _turn = services::shared().await;
    let mut world = World::new(SCHEMA, &["public.t"]).await;
    let calm = world.toml.clone();
    world.run("INSERT INTO t VALUES (1, 'a')").await;
    world.start();
    world.wait_equal().await;
    world.stop().await;
    world.run("INSERT INTO t VALUES (2, 'b')").await;
    world.toml = calm.replace(
        "[kafka]",
        "[source.wal_guard]\ninterval_ms = 100\nretained_bytes_max = 1\ndrop_slot = true\n[kafka]",
    );
    let named = "the WAL guard dropped it at";
    world.start();
    let parked = world
        .wait_status("the source is parked by name", |report| {
            report.source.as_ref().is_some_and(|source| {
                source.state.word() == "PARKED" && source.state.error().unwrap().contains(named)
            })
        })
        .await;
    assert_eq!(parked.source.unwrap().wal_guard.unwrap().state, GuardState::Dropped);
    world.stop().await;
    let slots = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = current_database()";
    assert_eq!(world.number(slots).await, 0);
    // Without the policy, in another process: it is lost still, by the same name.
    world.toml = calm.replace("[source]", "[source]\non_lost = \"snapshot\"");
    let done = world.anabranch(&["run", "source"]).await;
    let error = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!(done.status.code(), Some(3), "{error}");
    assert!(error.contains(named) && error.contains("it kept"), "{error}");
    assert_eq!(world.number(slots).await, 0, "nothing was begun anew");
    world.toml = calm;
    let found = world.must(&["source", "accept"]).await;
    let ways = ["--snapshot  begins", "--gap       begins"];
    assert!(found.contains(named) && ways.iter().all(|way| found.contains(way)), "{found}");
    world.must(&["source", "accept", "--snapshot", "--yes"]).await;
    world.start();
    world
        .wait_status("the source runs again", |report| {
            report.source.as_ref().is_some_and(|source| source.figures.snapshot_rows >= 2)
        })
        .await;
    world.wait_equal().await;
    world.stop().await;
    // Dropped by somebody else, in a later history: the old cause is not this one's.
    world.run("SELECT pg_drop_replication_slot(current_database())").await;
    let done = world.anabranch(&["run", "source"]).await;
    let error = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(error.contains("the slot does not exist") && !error.contains(named), "{error}");
}
