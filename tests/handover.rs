//! The source changes hands: to another process that waits, and past a gap that a person accepts.

use std::time::{Duration, Instant};

use crate::support::services;
use crate::support::world::{World, parked};

const SCHEMA: &str = "
    CREATE TABLE t (id int PRIMARY KEY, v text);
    INSERT INTO t SELECT g, 'copied' FROM generate_series(1, 50) g";
/// From the death of the first daemon until a change of after it is durable in the log.
const TAKE_OVER_MAX: Duration = Duration::from_secs(5);

/// The slot moves past what was written only when that is durable in the log.
async fn wait_durable(world: &World) {
    let written = world.number("SELECT (pg_current_wal_lsn() - '0/0')::bigint").await;
    let moved = format!(
        "SELECT count(*) FROM pg_replication_slots
         WHERE slot_name = '{}' AND active AND confirmed_flush_lsn - '0/0' >= {written}",
        world.name
    );
    world.wait_until("the change is durable", async || world.number(&moved).await > 0).await;
}

#[tokio::test]
async fn a_daemon_that_waits_takes_over_within_five_seconds() {
    // By the clock, so nothing else is to be busy.
    let _turn = services::alone().await;
    let mut world = World::new(SCHEMA, &["public.t"]).await;
    world.start_part(&["run", "source"]);
    wait_durable(&world).await;
    let mut second = world.spawn(&["run", "source"]);
    let waits = async || world.log().contains("another process reads this source: waiting");
    world.wait_until("the second waits", waits).await;
    let died = Instant::now();
    world.kill();
    world.run("INSERT INTO t VALUES (0, 'after the death')").await;
    wait_durable(&world).await;
    let took = died.elapsed();
    println!("took over in {took:?}");
    assert!(took < TAKE_OVER_MAX, "{took:?}\n{}", world.log());
    second.kill().unwrap();
    second.wait().unwrap();
    // And what it wrote is what there is.
    world.start();
    world.wait_equal().await;
    world.stop().await;
}

/// Somebody drops the slot. The source is parked by name; told to, it copies again into the same log,
/// and what was deleted while nobody looked leaves the stores.
#[tokio::test]
async fn a_gap_that_a_person_accepts_ends_with_equal_stores() {
    let _turn = services::shared().await;
    let mut world = World::new(SCHEMA, &["public.t"]).await;
    world.start();
    world.wait_equal().await;
    world.stop().await;
    world.run("SELECT pg_drop_replication_slot(current_database())").await;
    world.run("DELETE FROM t WHERE id < 20; UPDATE t SET v = 'unseen' WHERE id > 40").await;
    world.start();
    let report = world.wait_status("the source is parked", |report| parked(report).is_some()).await;
    let error = parked(&report).unwrap();
    assert!(error.contains("the slot does not exist"), "{error}");
    assert!(error.contains("anabranch source accept"), "{error}");
    // Looking changes nothing.
    let said = world.must(&["source", "accept", "--snapshot"]).await;
    assert!(said.contains("copies every table") && said.contains("nothing was done"), "{said}");
    assert!(world.status().await.as_ref().and_then(parked).is_some());
    world.must(&["source", "accept", "--snapshot", "--yes"]).await;
    world.wait_equal().await;
    world.run("INSERT INTO t VALUES (100, 'and goes on')").await;
    world.wait_equal().await;
    world.stop().await;
    let done = world.anabranch(&["source", "accept", "--snapshot", "--yes"]).await;
    let error = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!(done.status.code(), Some(2), "{error}");
    assert!(error.contains("there is none"), "{error}");
}
