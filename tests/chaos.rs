//! Services stop, freeze and refuse; the parts that do not need them never notice.

use std::time::{Duration, Instant};

use anabranch::status::Report;

use crate::support::load::{self, Load};
use crate::support::services::{self, Back};
use crate::support::world::{World, signal};

/// How far a sink that is not disturbed may fall behind: Delta commits every five seconds.
const FLAT_SECONDS: f64 = 15.0;

fn worst_lag(report: &Report, sink: &str) -> f64 {
    let tables = report.sinks[sink].tables.values();
    tables.flat_map(|table| &table.partitions).map(|unit| unit.lag_seconds).fold(0.0, f64::max)
}

async fn confirmed(world: &World) -> i64 {
    let query = format!(
        "SELECT (confirmed_flush_lsn - '0/0'::pg_lsn)::bigint FROM pg_replication_slots WHERE slot_name = '{}'",
        world.name
    );
    world.number(&query).await
}

/// For as long as `sink`'s store is away, the others' lag stays flat and the slot advances.
async fn others_never_wait(world: &World, sink: &str) {
    let others: Vec<_> =
        ["search", "cache", "lake"].into_iter().filter(|name| *name != sink).collect();
    let report = world
        .wait_status(&format!("{sink} has trouble"), |report| {
            report.sinks[sink].state.error().is_some()
                || report.sinks[sink].tables.values().any(|table| table.state.error().is_some())
        })
        .await;
    drop(report);
    let (begun, before) = (Instant::now(), confirmed(world).await);
    while begun.elapsed() < Duration::from_secs(12) {
        let report = world.status().await.unwrap();
        for other in &others {
            let lag = worst_lag(&report, other);
            assert!(
                lag < FLAT_SECONDS,
                "{other} waits for {sink}: {lag} s behind\n{}",
                world.log()
            );
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert!(confirmed(world).await > before, "the slot stands still");
}

async fn a_store_goes_and_comes_back(service: &'static str, sink: &str) {
    let _turn = services::alone().await;
    let mut world = World::new(load::SCHEMA, &["public.orders"]).await;
    world.start();
    world.wait_equal().await;
    let load = Load::start(&world.name, 1);
    let back = Back::with("start", service);
    services::ask("stop", service).await;
    others_never_wait(&world, sink).await;
    drop(back);
    load.finish().await;
    world.wait_equal().await;
    world.stop().await;
}

#[tokio::test]
async fn redis_goes_and_comes_back() {
    a_store_goes_and_comes_back("redis", "cache").await;
}

#[tokio::test]
async fn elasticsearch_goes_and_comes_back() {
    a_store_goes_and_comes_back("elasticsearch", "search").await;
}

#[tokio::test]
async fn the_lake_goes_and_comes_back() {
    let _turn = services::shared().await;
    let mut world = World::new(load::SCHEMA, &["public.orders"]).await;
    world.run("INSERT INTO orders VALUES (999999, 1, 'first', NULL)").await;
    world.start();
    world.wait_equal().await;
    let load = Load::start(&world.name, 1);
    let (lake, away) = (world.path("lake"), world.path("away"));
    std::fs::rename(&lake, &away).unwrap();
    // Something stands where the folder was, so that no new table can be begun there.
    std::fs::write(&lake, "").unwrap();
    others_never_wait(&world, "lake").await;
    std::fs::remove_file(&lake).unwrap();
    std::fs::rename(&away, &lake).unwrap();
    load.finish().await;
    world.must(&["resume", "lake"]).await;
    world.wait_equal().await;
    world.stop().await;
}

#[tokio::test]
async fn a_store_with_a_wrong_password_is_parked_and_the_rest_runs() {
    let _turn = services::shared().await;
    let mut world = World::new(load::SCHEMA, &["public.orders"]).await;
    let good = world.toml.clone();
    world.toml = good.replace("redis://:secret@", "redis://:wrong@");
    world.start();
    world.run("INSERT INTO orders SELECT g, g, 'note', NULL FROM generate_series(1, 100) g").await;
    world.wait_equal_in(&["search", "lake"]).await;
    let report = world.wait_status("the cache is parked", |report| !report.is_healthy()).await;
    let table = report.sinks["cache"].tables.values().next().unwrap();
    let error = table.state.error().unwrap();
    assert!(error.contains("password") && !error.contains("wrong@"), "{error}");
    assert!(world.must(&["status"]).await.contains("PARKED"));
    world.stop().await;
    world.toml = good;
    world.start();
    world.wait_equal().await;
    world.stop().await;
}

fn rss_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Kafka hangs for several times `wal_sender_timeout`: the walsender stays, memory stays flat.
#[tokio::test]
async fn a_blocked_kafka_neither_cuts_the_connection_nor_fills_memory() {
    let _turn = services::alone().await;
    let mut world =
        World::new("CREATE TABLE wide (id int PRIMARY KEY, pad text)", &["public.wide"]).await;
    world.run(&format!("ALTER DATABASE {} SET wal_sender_timeout = '3s'", world.name)).await;
    world.start();
    world
        .run("INSERT INTO wide SELECT g, repeat('w', 1000) FROM generate_series(1, 30000) g")
        .await;
    world.wait_equal().await;
    let pid = format!(
        "SELECT active_pid::bigint FROM pg_replication_slots WHERE slot_name = '{}'",
        world.name
    );
    let (walsender, before) = (world.number(&pid).await, rss_kib(world.pid()));
    let back = Back::with("unpause", "kafka");
    services::ask("pause", "kafka").await;
    let begun = Instant::now();
    for round in 1..=6 {
        world.run(&format!("INSERT INTO wide SELECT {round}00000 + g, repeat('w', 1000) FROM generate_series(1, 30000) g")).await;
    }
    let mut peak = 0;
    while begun.elapsed() < Duration::from_secs(12) {
        peak = peak.max(rss_kib(world.pid()));
        assert_eq!(world.number(&pid).await, walsender, "the connection was cut\n{}", world.log());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    drop(back);
    assert!(peak < before + 150 * 1024, "memory grew from {before} to {peak} KiB");
    world.wait_equal().await;
    assert_eq!(world.number(&pid).await, walsender, "the connection was cut");
    world.stop().await;
}

/// Two workers for one partition: the first is frozen with work in hand, the second takes over,
/// the first wakes up.
#[tokio::test]
async fn a_worker_that_wakes_up_late_makes_nothing_regress() {
    let _turn = services::shared().await;
    for sink in ["search", "cache", "lake"] {
        let mut world = World::new(load::SCHEMA, &["public.orders"]).await;
        world.start_part(&["run", "source"]);
        let mut first = world.spawn(&["run", "sink", sink]);
        let load = Load::start(&world.name, 2);
        world
            .wait_until("the first worker writes", async || {
                crate::support::stores::rows(&world, sink, "public.orders")
                    .await
                    .is_ok_and(|rows| rows.len() > 50)
            })
            .await;
        signal(first.id(), "STOP");
        let mut second = world.spawn(&["run", "sink", sink]);
        tokio::time::sleep(Duration::from_secs(3)).await;
        load.finish().await;
        world.wait_equal_in(&[sink]).await;
        signal(first.id(), "CONT");
        // It writes what it had in hand, or hears that it lost its partitions; then both go on.
        for round in 0..5 {
            world.run(&format!("UPDATE orders SET rev = -{round} WHERE id % 5 = {round}")).await;
            world.wait_equal_in(&[sink]).await;
        }
        for worker in [&mut first, &mut second] {
            worker.kill().unwrap();
            worker.wait().unwrap();
        }
        world.stop().await;
    }
}
