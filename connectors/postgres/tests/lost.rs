//! History that is gone is named, with the size of the gap and the ways out, and never papered over.

use anabranch_core::{Epoch, Error, ErrorKind, Lsn, SourceCursor};
use anabranch_postgres::{Acceptance, Diagnosis, WayOn, diagnose, teardown, teardown_plan};

use crate::support::{Cluster, Database, Follower, Replica, truth};

const TABLE: &str = "create table t (id int primary key); insert into t values (1)";

async fn followed() -> (Database, Replica) {
    follow(Database::new(TABLE, &["public.t"]).await).await
}

pub(crate) async fn follow(database: Database) -> (Database, Replica) {
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    let replica = follower.release(&database).await;
    (database, replica)
}

pub(crate) fn from_slot(database: &Database) -> String {
    format!("from pg_replication_slots where slot_name = '{}'", database.config.slot)
}

pub(crate) async fn refused(database: &Database, replica: Replica) -> Error {
    Follower::try_start(database, replica).await.err().expect("it must not go on")
}

pub(crate) fn moved(replica: Replica, change: impl FnOnce(&mut SourceCursor)) -> Replica {
    let mut replica = replica;
    change(replica.cursor.as_mut().unwrap());
    replica
}

/// It is lost under its name, with the size of the gap and the commands that help.
pub(crate) async fn named(
    database: &Database,
    replica: &Replica,
    cause: &str,
    why: &str,
) -> Diagnosis {
    let error = refused(database, replica.twin()).await;
    assert_eq!(error.kind(), ErrorKind::Lost, "{error:?}");
    let report = error.report();
    assert!(report.contains(why), "{why}: {report}");
    assert!(report.contains("anabranch source accept --snapshot"), "{report}");
    let found = diagnose(&database.config, replica.cursor.as_ref().unwrap(), None).await.unwrap();
    let found = found.expect("there is something to accept");
    assert_eq!(found.gap.cause, cause);
    assert!(found.error.report().contains(why), "the daemon and the command say the same");
    found
}

/// Accepted in this way it goes on, in the next epoch of the same log, and that is all that the
/// acceptance is good for.
pub(crate) async fn accepted(
    database: &Database,
    replica: Replica,
    found: &Diagnosis,
    way: WayOn,
) -> Replica {
    assert!(found.ways.contains(&way));
    let all = vec![Acceptance { gap: found.gap.clone(), way }];
    let (epoch, log) = {
        let before = replica.cursor.as_ref().unwrap();
        (before.epoch.next(), before.log)
    };
    let mut follower = Follower::accepting(database, replica, all.clone()).await.unwrap();
    while Some(follower.replica.cursor.as_ref().unwrap().epoch) != epoch {
        follower.step().await.unwrap();
    }
    follower.catch_up(database).await;
    let after = follower.replica.cursor.clone().unwrap();
    assert_eq!((Some(after.epoch), after.log), (epoch, log));
    let replica = follower.release(database).await;
    assert!(diagnose(&database.config, &after, None).await.unwrap().is_none(), "nothing is left");
    let slot = &database.config.slot;
    let twin = replica.twin();
    database.run(&format!("select pg_drop_replication_slot('{slot}')")).await;
    let again = Follower::accepting(database, twin, all).await.err().expect("it fits once");
    assert_eq!(again.kind(), ErrorKind::Lost, "{again:?}");
    replica
}

/// Named; then accepted with a snapshot, after which nothing is missing.
pub(crate) async fn lost_until_snapshot(
    database: Database,
    replica: Replica,
    cause: &str,
    why: &str,
) {
    let found = named(&database, &replica, cause, why).await;
    let replica = accepted(&database, replica, &found, WayOn::Snapshot).await;
    assert_eq!(replica.present(), truth(&database).await);
    database.drop().await;
}

async fn advanced() -> (Database, Replica) {
    let (database, replica) = followed().await;
    database.run("insert into t values (2)").await;
    let advance = "select pg_replication_slot_advance(slot_name, pg_current_wal_lsn())";
    database.run(&format!("{advance} {}", from_slot(&database))).await;
    (database, replica)
}

async fn dropped() -> (Database, Replica) {
    let (database, replica) = followed().await;
    database.run("insert into t values (2)").await;
    database
        .run(&format!("select pg_drop_replication_slot(slot_name) {}", from_slot(&database)))
        .await;
    (database, replica)
}

#[tokio::test]
async fn a_slot_that_was_dropped() {
    let (database, replica) = dropped().await;
    lost_until_snapshot(database, replica, "slot_missing", "of WAL were written since").await;
}

#[tokio::test]
async fn a_slot_that_was_advanced() {
    let (database, replica) = advanced().await;
    lost_until_snapshot(database, replica, "slot_ahead", "beyond the log's position").await;
}

#[tokio::test]
async fn a_gap_that_is_accepted_stays_a_gap() {
    for (database, replica, cause) in
        [(advanced().await, "slot_ahead"), (dropped().await, "slot_missing")]
            .map(|((database, replica), cause)| (database, replica, cause))
    {
        let found = named(&database, &replica, cause, "log's position").await;
        database.run("insert into t values (3)").await;
        let replica = accepted(&database, replica, &found, WayOn::Gap).await;
        // A slot that is made anew begins after everything that was written before.
        let letters = if cause == "slot_ahead" { "c" } else { "" };
        assert_eq!(replica.letters(), letters, "{cause}");
        assert!(replica.present().len() < truth(&database).await.len(), "row 2 is missing");
        database.drop().await;
    }
}

#[tokio::test]
async fn a_slot_that_was_made_again() {
    let (database, replica) = dropped().await;
    let slot = &database.config.slot;
    database.run(&format!("select pg_create_logical_replication_slot('{slot}', 'pgoutput')")).await;
    lost_until_snapshot(database, replica, "slot_ahead", "beyond the log's position").await;
}

#[tokio::test]
async fn a_slot_that_the_server_invalidated() {
    let settings = [("max_slot_wal_keep_size", "1MB"), ("max_wal_size", "32MB")];
    let server = Cluster::new(&settings).await;
    let (database, replica) = follow(server.database(TABLE, &["public.t"]).await).await;
    for n in 2..8 {
        database.run(&format!("insert into t values ({n})")).await;
        database.run("select pg_switch_wal()").await;
    }
    database.run("checkpoint").await;
    let lost = format!("select wal_status = 'lost' {}", from_slot(&database));
    database.wait_for(&lost).await;
    lost_until_snapshot(database, replica, "slot_invalidated", "max_slot_wal_keep_size").await;
}

#[tokio::test]
async fn a_log_that_was_wiped() {
    let (database, _) = followed().await;
    let error = refused(&database, Replica::default()).await;
    assert_eq!(error.kind(), ErrorKind::Lost, "{error:?}");
    let report = error.report();
    assert!(report.contains("wiped") && report.contains("anabranch teardown"), "{report}");
    let plan = teardown_plan(&database.config).await.unwrap();
    assert!(plan.iter().any(|line| line.contains("publication")), "{plan:?}");
    teardown(&database.config).await.unwrap();
    assert!(teardown_plan(&database.config).await.unwrap().is_empty());
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    assert_eq!(follower.replica.present(), truth(&database).await);
    drop(follower);
    database.drop().await;
}

/// E4; with a server that really was: [`crate::slots`].
#[tokio::test]
async fn a_server_that_was_restored() {
    for seen in [false, true] {
        let (database, replica) = followed().await;
        let replica = moved(replica, |cursor| {
            let beyond = Lsn(cursor.confirm.0 + (1 << 40));
            *(if seen { &mut cursor.seen } else { &mut cursor.confirm }) = beyond;
        });
        replica.log.stands_at(replica.cursor.clone());
        lost_until_snapshot(database, replica, "log_ahead", "1099").await;
    }
}

#[tokio::test]
async fn another_server() {
    let (database, replica) = followed().await;
    let replica = moved(replica, |cursor| cursor.system_id += 1);
    lost_until_snapshot(database, replica, "other_system", "this is system").await;
}

#[tokio::test]
async fn another_timeline() {
    let (database, replica) = followed().await;
    let lower = moved(replica, |cursor| cursor.timeline += 1);
    lost_until_snapshot(database, lower, "timeline_lower", "former primary").await;
    let (database, replica) = followed().await;
    let higher = moved(replica, |cursor| cursor.timeline -= 1);
    lost_until_snapshot(database, higher, "timeline_unrelated", "no ancestor").await;
}

#[tokio::test]
async fn a_publication_that_was_dropped() {
    let (database, replica) = followed().await;
    database.run("drop publication anabranch; insert into t values (2)").await;
    lost_until_snapshot(database, replica, "publication_missing", "of WAL were written").await;
}

/// E6; made again: [`crate::publications`].
#[tokio::test]
async fn a_publication_that_was_dropped_while_it_is_read() {
    let (database, replica) = followed().await;
    let mut follower = Follower::start(&database, replica).await;
    follower.step().await.unwrap();
    database.run("drop publication anabranch; insert into t values (2)").await;
    // It is there again, and the slot comes by the place where it was not.
    database.run("create publication anabranch for table t").await;
    let error = follower.failure().await;
    assert_eq!(error.kind(), ErrorKind::Lost, "{error:?}");
    let report = error.report();
    assert!(report.contains("even after it is created again"), "{report}");
    assert!(report.contains("anabranch source accept --snapshot"), "{report}");
    let replica = follower.release(&database).await;
    let found =
        diagnose(&database.config, replica.cursor.as_ref().unwrap(), None).await.unwrap().unwrap();
    assert_eq!(
        (found.gap.cause.as_str(), found.ways.as_slice()),
        ("publication_missing", &[WayOn::Snapshot][..])
    );
    let replica = accepted(&database, replica, &found, WayOn::Snapshot).await;
    assert_eq!(replica.present(), truth(&database).await);
    database.drop().await;
}

#[tokio::test]
async fn nothing_is_accepted_where_slot_and_log_agree() {
    let (database, replica) = followed().await;
    let at = replica.cursor.clone().unwrap();
    assert!(diagnose(&database.config, &at, None).await.unwrap().is_none());
    let mut follower = Follower::start(&database, replica).await;
    follower.step().await.unwrap();
    let error = diagnose(&database.config, &at, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient, "somebody reads it: {error:?}");
    drop(follower);
    database.drop().await;
}

/// The other instance wrote to the log after we had read it, confirmed that, and died before we looked
/// at the slot.
#[tokio::test]
async fn a_slot_that_moved_before_we_looked_at_it_is_not_lost() {
    let (database, replica) = followed().await;
    let old = replica.twin();
    let old_lsn = old.cursor.as_ref().unwrap().confirm;
    let mut first = Follower::start(&database, replica).await;
    database.run("insert into t values (2)").await;
    first.catch_up(&database).await;
    let moved = format!("select confirmed_flush_lsn > '{old_lsn}' {}", from_slot(&database));
    database.wait_for(&moved).await;
    let replica = first.kill();
    database.wait_for(&format!("select not active {}", from_slot(&database))).await;
    let error = Follower::accepting(&database, old, Vec::new()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Transient, "{error:?}");
    assert!(error.report().contains("reading the log again"), "{error:?}");
    let mut second = Follower::start(&database, replica).await;
    second.catch_up(&database).await;
    assert_eq!(second.replica.cursor.as_ref().unwrap().epoch, Epoch(0));
    assert_eq!(second.replica.present(), truth(&database).await);
    drop(second);
    database.drop().await;
}

#[tokio::test]
async fn a_table_that_was_made_again() {
    let (database, replica) = followed().await;
    database.run("drop table t; create table t (id int primary key)").await;
    database.run("alter publication anabranch add table t").await;
    let error = refused(&database, replica).await;
    assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
    assert!(error.report().contains("public.t") && error.report().contains("teardown"));
    database.drop().await;
}

#[tokio::test]
async fn a_slot_in_use_is_not_torn_down() {
    let (database, replica) = followed().await;
    let mut follower = Follower::start(&database, replica).await;
    follower.step().await.unwrap();
    let error = teardown(&database.config).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.report().contains("anabranch run"), "{error:?}");
    assert_eq!(database.text("select count(*) from pg_publication").await, "1");
    drop(follower);
    database.drop().await;
}

#[tokio::test]
async fn a_slot_that_moved_while_another_instance_read_is_not_lost() {
    let (database, replica) = followed().await;
    let old = replica.fork();
    let old_lsn = replica.cursor.as_ref().unwrap().confirm;
    let mut first = Follower::start(&database, replica).await;
    database.run("insert into t values (2)").await;
    first.catch_up(&database).await;
    let moved = format!("select confirmed_flush_lsn > '{old_lsn}' {}", from_slot(&database));
    database.wait_for(&moved).await;
    // Only its lock goes; what reads the slot stays.
    let kill_lock = "select pg_terminate_backend(pid) from pg_locks
        where locktype = 'advisory' and pid <> pg_backend_pid()
        and database = (select oid from pg_database where datname = current_database())";
    database.run(kill_lock).await;
    let error = refused(&database, old).await;
    assert_eq!(error.kind(), ErrorKind::Transient, "{error:?}");
    let report = error.report();
    assert!(report.contains("in use by anabranch from 127.0.0.1, process"), "{report}");
    assert!(report.contains("SELECT pg_terminate_backend("), "{report}");
    let mut second = Follower::start(&database, first.kill()).await;
    second.catch_up(&database).await;
    assert_eq!(second.replica.present(), truth(&database).await);
    drop(second);
    database.drop().await;
}
