//! The WAL guard on a live server: it warns before anything is lost, and gives up by policy alone.

use std::time::Duration;

use anabranch_core::{ErrorKind, Finding, Level};
use anabranch_postgres::{
    GuardReport, GuardState, GuardWatch, Limit, PostgresConfig, WalGuard, WalGuardConfig, check,
    has_slot,
};

use crate::support::{Cluster, DEADLINE, Database, Follower, Replica};

const TABLE: &str = "create table t (id int primary key, v text)";
const KEYS: &str = "insert into t select n, '' from generate_series(1, 10) n";

/// A guard that looks often, and its limit.
fn guarded(config: &PostgresConfig, retained_bytes_max: u64, drop_slot: bool) -> PostgresConfig {
    let wal_guard = WalGuardConfig {
        interval_ms: 20,
        retained_bytes_max: Some(retained_bytes_max),
        warn_seconds: 0,
        drop_slot,
        ..WalGuardConfig::default()
    };
    PostgresConfig { wal_guard, ..config.clone() }
}

/// Waits for a look that satisfies `wanted`.
async fn seen(
    watch: &GuardWatch,
    wanted: impl Fn(&GuardReport) -> bool + Send + Sync,
) -> GuardReport {
    let wait = async {
        loop {
            let report = watch.report();
            if wanted(&report) {
                return report;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let in_time = tokio::time::timeout(DEADLINE, wait).await;
    in_time.unwrap_or_else(|_| panic!("never: {:?}", watch.report()))
}

/// A source that has stopped, and left its slot.
async fn left_behind() -> (Database, Replica) {
    let database = Database::new(&format!("{TABLE}; {KEYS}"), &["public.t"]).await;
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    (database, follower.kill())
}

#[tokio::test]
async fn what_the_slot_keeps_is_seen_while_nobody_reads_it() {
    let database = Database::new(TABLE, &["public.t"]).await;
    let mut guard = WalGuard::new(guarded(&database.config, 1 << 40, false));
    let watch = guard.watch();
    assert_eq!(watch.report().age_seconds, None, "nothing was looked at yet");
    let guarding = tokio::spawn(async move { guard.next().await });
    let absent = seen(&watch, |report| report.age_seconds.is_some()).await;
    assert_eq!((absent.state, absent.retained_bytes), (GuardState::Absent, None));
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    let active = seen(&watch, |report| report.active).await;
    // Lock, SQL and replication of the source, the guard, and the two of the test.
    assert!((4..=7).contains(&active.connections), "{active:?}");
    drop(follower);
    let before = seen(&watch, |report| report.state == GuardState::Calm && !report.active).await;
    database
        .run("insert into t select n, repeat('v', 1000) from generate_series(11, 2000) n")
        .await;
    let after = seen(&watch, |report| {
        report.retained_bytes > before.retained_bytes.map(|bytes| bytes + 2_000_000)
    })
    .await;
    assert_eq!(after.limit, Some(Limit::Configured));
    assert!(after.unconfirmed_bytes.unwrap() >= 2_000_000, "{after:?}");
    assert!(after.confirmed_flush_lsn.unwrap() < after.wal_lsn.unwrap(), "{after:?}");
    assert!(after.catalog_xmin_age.unwrap() >= 1, "{after:?}");
    guarding.abort();
    database.drop().await;
}

#[tokio::test]
async fn a_guard_goes_on_after_its_session_was_ended() {
    let (database, _) = left_behind().await;
    let mut config = guarded(&database.config, 1 << 40, false);
    config.application_name = format!("{}_guard", config.slot);
    let name = config.application_name.clone();
    let mut guard = WalGuard::new(config);
    let watch = guard.watch();
    let guarding = tokio::spawn(async move { guard.next().await });
    seen(&watch, |report| report.state == GuardState::Calm).await;
    database
        .run(&format!(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = '{name}'"
        ))
        .await;
    let now = database.text("select pg_current_wal_lsn()").await.parse().unwrap();
    let later = seen(&watch, |report| report.wal_lsn >= Some(now) && report.error.is_none()).await;
    assert_eq!(later.state, GuardState::Calm);
    guarding.abort();
    database.drop().await;
}

#[tokio::test]
async fn the_policy_drops_the_slot_under_its_reader_and_the_source_is_lost() {
    let (database, replica) = left_behind().await;
    let mut follower = Follower::start(&database, replica).await;
    follower.step().await.unwrap();
    // Without the policy a limit that is reached is only told of.
    let mut told = WalGuard::new(guarded(&database.config, 1, false));
    let watch = told.watch();
    let telling = tokio::spawn(async move { told.next().await });
    let full = seen(&watch, |report| report.state == GuardState::Full).await;
    assert!(full.help.unwrap().contains("retained_bytes_max"));
    assert!(has_slot(&database.config).await.unwrap());
    telling.abort();

    let mut guard = WalGuard::new(guarded(&database.config, 1, true));
    let mut watch = guard.watch();
    let cause = guard.next().await;
    assert_eq!((cause.slot.as_str(), cause.retained_bytes_max), (&*database.config.slot, 1));
    assert!(has_slot(&database.config).await.unwrap(), "the trace comes first");
    assert!(guard.drop_slot(&cause).await.unwrap());
    assert!(!has_slot(&database.config).await.unwrap());
    assert_eq!(watch.report().state, GuardState::Dropped);
    let paused = tokio::time::timeout(Duration::from_millis(50), watch.snapshots_may_run());
    assert!(paused.await.is_err(), "no snapshot goes on");
    let error = loop {
        if let Err(error) = follower.step().await {
            break error;
        }
    };
    assert_eq!(error.kind(), ErrorKind::Transient, "{error:?}");
    let error = Follower::try_start(&database, follower.kill()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Lost, "{error:?}");
    assert!(error.report().contains("does not exist"), "{error:?}");
    database.drop().await;
}

/// What was seen a while ago is no reason any more when its reader has caught up since.
#[tokio::test]
async fn a_slot_that_has_caught_up_is_not_dropped() {
    const LIMIT: u64 = 8_000_000;
    let (database, _) = left_behind().await;
    let write = "insert into t select n, repeat('v', 1000) from generate_series(11, 10000) n";
    database.run(write).await;
    let mut guard = WalGuard::new(guarded(&database.config, LIMIT, true));
    let cause = guard.next().await;
    assert!(cause.retained_bytes >= LIMIT, "{cause:?}");
    let slot = &database.config.slot;
    let advance = async {
        loop {
            // The server lets go of WAL up to a list of what runs, which a checkpoint writes.
            database.run("checkpoint").await;
            let advance = format!(
                "select pg_replication_slot_advance('{slot}', pg_current_wal_lsn()) is not null"
            );
            database.text(&advance).await;
            let kept = format!(
                "select pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) < {LIMIT} / 2
                 from pg_replication_slots where slot_name = '{slot}'"
            );
            if database.text(&kept).await == "t" {
                return;
            }
        }
    };
    tokio::time::timeout(DEADLINE, advance).await.expect("the slot follows");
    assert!(!guard.drop_slot(&cause).await.unwrap());
    assert!(has_slot(&database.config).await.unwrap());
    database.run(&format!("select pg_drop_replication_slot('{slot}')")).await;
    database.drop().await;
}

#[tokio::test]
async fn the_slot_of_somebody_else_is_left_alone() {
    let database = Database::new(TABLE, &["public.t"]).await;
    let slot = &database.config.slot;
    database.run(&format!("select pg_create_physical_replication_slot('{slot}', true)")).await;
    let mut guard = WalGuard::new(guarded(&database.config, 1, true));
    let watch = guard.watch();
    let guarding = tokio::spawn(async move { guard.next().await });
    let report = seen(&watch, |report| report.age_seconds.is_some()).await;
    assert_eq!(report.state, GuardState::Absent, "{report:?}");
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!guarding.is_finished());
    guarding.abort();
    database.run(&format!("select pg_drop_replication_slot('{slot}')")).await;
    database.drop().await;
}

/// R3 and E11: keepalives alone let go of what a busy neighbour writes, restart point and all, and
/// nothing is lost of the source. (That nothing is written to it, see the tests of positions.)
#[tokio::test]
async fn a_busy_neighbour_does_not_move_the_restart_point_away() {
    let (database, replica) = left_behind().await;
    let neighbour = Database::new("create table busy (v text)", &["public.busy"]).await;
    let mut follower = Follower::start(&database, replica).await;
    follower.step().await.unwrap();
    let write = "insert into busy select repeat('v', 1000) from generate_series(1, 20000)";
    neighbour.run(write).await;
    let end = neighbour.text("select pg_current_wal_lsn()").await;
    let restart = format!(
        "select confirmed_flush_lsn >= '{end}' and restart_lsn >= '{end}'
         from pg_replication_slots where slot_name = '{}'",
        database.config.slot
    );
    let step = async {
        while database.text(&restart).await != "t" {
            follower.step().await.unwrap();
        }
    };
    tokio::time::timeout(DEADLINE, step).await.expect("the slot follows");
    let events = follower.replica.events.len();
    database.run("insert into t values (11, 'after')").await;
    follower.catch_up(&database).await;
    assert_eq!(follower.replica.events.len(), events + 1);
    drop(follower);
    database.drop().await;
    neighbour.drop().await;
}

/// E10: the server gives the slot up when it keeps too much, in one step; the guard has warned
/// before, and paused snapshots.
#[tokio::test]
async fn the_warning_comes_before_the_server_gives_the_slot_up() {
    let cluster = Cluster::new(&[
        ("max_slot_wal_keep_size", "64MB"),
        ("min_wal_size", "32MB"),
        ("max_wal_size", "64MB"),
    ])
    .await;
    let database = cluster.database(&format!("{TABLE}; {KEYS}"), &["public.t"]).await;
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    let replica = follower.kill();
    let wal_guard = WalGuardConfig { interval_ms: 20, ..WalGuardConfig::default() };
    let mut guard = WalGuard::new(PostgresConfig { wal_guard, ..database.config.clone() });
    let watch = guard.watch();
    let guarding = tokio::spawn(async move { guard.next().await });
    let mut reports: Vec<GuardReport> = Vec::new();
    // A megabyte at a time, each of them looked at: 200 would be three times the limit.
    for _ in 0..200 {
        let write = "insert into t select (select max(id) from t) + n, repeat('v', 1000)
                     from generate_series(1, 1000) n; checkpoint";
        database.run(write).await;
        let end = database.text("select pg_current_wal_lsn()").await.parse().unwrap();
        reports.push(seen(&watch, |report| report.wal_lsn >= Some(end)).await);
        if reports.last().unwrap().state == GuardState::Lost {
            break;
        }
    }
    let mut states: Vec<GuardState> = reports.iter().map(|report| report.state).collect();
    states.dedup();
    let lost = states.pop();
    assert_eq!(lost, Some(GuardState::Lost), "{states:?}");
    assert!(
        states.contains(&GuardState::Warn) && states.contains(&GuardState::Pause),
        "{states:?}"
    );
    assert!(states.is_sorted(), "{states:?}");
    let warned = reports.iter().find(|report| report.state == GuardState::Warn).unwrap();
    assert_eq!(warned.limit, Some(Limit::Server), "{warned:?}");
    assert!(warned.safe_wal_bytes.unwrap() > 10_000_000, "there is time left: {warned:?}");
    assert!(warned.full_in_seconds.is_some(), "{warned:?}");
    assert!(warned.help.as_ref().unwrap().contains("max_slot_wal_keep_size = "), "{warned:?}");
    guarding.abort();
    let error = Follower::try_start(&database, replica).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Lost, "{error:?}");
    let findings = check(&database.config, None).await;
    let gone =
        |found: &Finding| found.level == Level::Blocker && found.seen.contains("its WAL is gone");
    assert!(findings.iter().any(gone), "{findings:?}");
}
