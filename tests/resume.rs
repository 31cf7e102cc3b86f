//! Killed, restored, reset: everything goes on from what the targets hold.

use std::collections::{BTreeMap, HashMap};
use std::process::Command;
use std::time::Duration;

use anabranch_core::memory::Faults;

use crate::support::load::{self, Load};
use crate::support::log::{Record, field, number, read_topic};
use crate::support::world::World;
use crate::support::{backup, services};

const KILLS: usize = 20;

fn rev(record: &Record) -> i64 {
    number(&field(record.after.as_ref().unwrap(), "rev"))
}

fn id(record: &Record) -> i64 {
    number(&field(record.key.as_ref().unwrap(), "id"))
}

/// Kafka holds each change once, and those of a key in commit order.
async fn assert_exactly_once(world: &World, committed: &[load::Committed]) {
    let records = read_topic(&format!("{}.public.orders", world.name)).await;
    let mut seen: HashMap<i64, usize> = HashMap::new();
    let mut last: BTreeMap<i64, (i64, i64)> = BTreeMap::new();
    for record in &records {
        let at = (record.commit_lsn, record.ordinal);
        if let Some(before) = last.insert(id(record), at) {
            assert!(before < at, "key {}: {at:?} after {before:?}", id(record));
        }
        if record.op != "d" {
            *seen.entry(rev(record)).or_default() += 1;
        }
    }
    let wanted: Vec<i64> = committed.iter().flat_map(|writer| writer.revs.clone()).collect();
    let missing: Vec<_> = wanted.iter().filter(|rev| seen.get(rev) != Some(&1)).collect();
    assert!(missing.is_empty(), "not exactly once: {missing:?}");
    assert_eq!(seen.len(), wanted.len(), "nothing else is there");
    let deletes = records.iter().filter(|record| record.op == "d").count();
    assert_eq!(deletes, committed.iter().map(|writer| writer.deletes).sum::<usize>());
}

#[tokio::test]
async fn every_kill_under_load_is_survived() {
    let _turn = services::shared().await;
    let mut world = World::new(load::SCHEMA, &["public.orders", "public.events"]).await;
    let seed = world.number("SELECT (random() * 1e9)::bigint").await as u64;
    println!("seed {seed}");
    let rng = Faults::seeded(seed, 0.0);
    world.start();
    world.wait_equal().await;
    let load = Load::start(&world.name, 3);
    for kill in 0..KILLS {
        tokio::time::sleep(Duration::from_millis(300 + rng.below(1700) as u64)).await;
        world.kill();
        if kill % 4 == 0 {
            world.run("BEGIN; TRUNCATE events; INSERT INTO events SELECT g, g FROM generate_series(1, 300) g; COMMIT").await;
        }
        world.start();
    }
    let committed = load.finish().await;
    assert!(committed.iter().all(|writer| writer.revs.len() > 100), "there was a load");
    world.wait_equal().await;
    assert_exactly_once(&world, &committed).await;
    world.stop().await;
}

/// Kafka's own tool resets a paused sink to the beginning: it replays, also when it is killed
/// while it takes the reset over.
#[tokio::test]
async fn a_reset_by_kafkas_own_tool_replays() {
    let _turn = services::shared().await;
    let schema = "CREATE TABLE t (id int PRIMARY KEY, v text);
                  INSERT INTO t SELECT g, 'v' || g FROM generate_series(1, 3000) g";
    let mut world = World::new(schema, &["public.t"]).await;
    world.start();
    world.wait_equal().await;
    world.run("UPDATE t SET v = 'new' WHERE id % 7 = 0; DELETE FROM t WHERE id % 11 = 0").await;
    world.wait_equal().await;
    for delay_ms in [None, Some(30), Some(300), Some(900)] {
        world.must(&["pause", "cache"]).await;
        world
            .wait_status("cache is paused", |report| report.sinks["cache"].state.word() == "paused")
            .await;
        reset_to_earliest(&format!("{}.cache", world.name)).await;
        // Only a replay can bring this row back.
        backup::delete_redis_row(&world, "t:100").await;
        world.must(&["resume", "cache"]).await;
        if let Some(delay_ms) = delay_ms {
            world
                .wait_status("cache goes on", |report| {
                    report.sinks["cache"].state.word() != "paused"
                })
                .await;
            tokio::time::sleep(Duration::from_millis(delay_ms)).await;
            world.kill();
            world.start();
        }
        world.wait_equal().await;
    }
    world.stop().await;
}

async fn reset_to_earliest(group: &str) {
    let group = group.to_owned();
    let done = tokio::task::spawn_blocking(move || {
        Command::new(services::address("KAFKA_TOOL"))
            .args([
                "consumer-groups",
                "--bootstrap-server",
                &services::address("KAFKA"),
                "--group",
                &group,
            ])
            .args(["--reset-offsets", "--to-earliest", "--all-topics", "--execute"])
            .output()
            .unwrap()
    });
    let done = done.await.unwrap();
    let text =
        String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success() && !text.contains("Error"), "{text}");
}

/// Every store is put back to an older state; one unit has moved since, the others were idle. The
/// daemon is killed right after its first commit.
#[tokio::test]
async fn stores_put_back_to_an_older_state_resume_from_what_they_hold() {
    let _turn = services::shared().await;
    let schema = "CREATE TABLE t (id int PRIMARY KEY, v text);
                  INSERT INTO t SELECT g, 'v' || g FROM generate_series(1, 500) g";
    let mut world = World::new(schema, &["public.t"]).await;
    world.start();
    world.wait_equal().await;
    world.run("UPDATE t SET v = 'second' WHERE id % 3 = 0; DELETE FROM t WHERE id % 50 = 0").await;
    world.wait_equal().await;
    world.stop().await;
    let held = backup::Backup::take(&world, "public.t").await;
    world.start();
    // One key, so one partition: the other units are idle from here on.
    world.run("UPDATE t SET v = 'third' WHERE id = 7").await;
    world.wait_equal().await;
    world.run("DELETE FROM t WHERE id = 7; INSERT INTO t VALUES (7, 'fourth')").await;
    world.wait_equal().await;
    world.stop().await;
    held.put_back(&world).await;
    let version = backup::delta_version(&world, "public.t");
    world.start();
    world
        .wait_until("the first commit", async || {
            backup::delta_version(&world, "public.t") > version
        })
        .await;
    world.kill();
    world.start();
    world.wait_equal().await;
    // Under a daemon that runs and has nothing to do.
    held.put_back(&world).await;
    world.wait_equal().await;
    // And with every unit moving again.
    held.put_back(&world).await;
    world.run("UPDATE t SET v = v || '!'").await;
    world.kill();
    world.start();
    world.wait_equal().await;
    world.stop().await;
}
