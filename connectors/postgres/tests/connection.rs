//! The connections: alive while downstream is blocked, one owner, TLS, and their loss.

use std::time::Duration;

use anabranch_core::{ErrorKind, Source};
use anabranch_postgres::PostgresSource;

use crate::support::{DEADLINE, Database, Follower, Replica, truth};

const TABLE: &str = "create table t (id int primary key, v text)";

/// The walsender of the slot, as an expression.
fn walsender(database: &Database) -> String {
    let slot = &database.config.slot;
    format!("(select active_pid from pg_replication_slots where slot_name = '{slot}')")
}

/// E12: more than `wal_sender_timeout`.
#[tokio::test(flavor = "multi_thread")]
async fn the_server_hears_of_us_while_nobody_reads() {
    let mut database = Database::new(TABLE, &["public.t"]).await;
    database.config.batch_bytes_max = 100_000;
    let name = database.text("select current_database()").await;
    database.run(&format!("alter database {name} set wal_sender_timeout = '2s'")).await;
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    let pid = database.reader().await;
    // More than all buffers between here and there hold.
    let sql = "insert into t select n, repeat('x', 1000) from generate_series(1, 30000) n";
    database.run(sql).await;
    let began = database.text("select now()").await;
    let lives = format!("{} is not distinct from {pid}", walsender(&database));
    let later = format!("now() > '{began}'::timestamptz + interval '6 s'");
    database.wait_for(&format!("select not ({lives}) or {later}")).await;
    let still = database.text(&format!("select {lives}")).await;
    assert_eq!(still, "t", "cut off while nobody was reading");
    follower.catch_up(&database).await;
    assert_eq!(database.text(&format!("select {}", walsender(&database))).await, pid);
    assert_eq!(follower.replica.present(), truth(&database).await);
    drop(follower);
    database.drop().await;
}

/// E11, within one database; beside another: [`crate::positions`].
#[tokio::test]
async fn an_idle_source_lets_the_slot_advance() {
    let database = Database::new(TABLE, &["public.t"]).await;
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    database.run("create table other (v text)").await;
    database.run("insert into other select repeat('o', 500) from generate_series(1, 2000)").await;
    let target = database.text("select pg_current_wal_lsn()").await;
    let slot = &database.config.slot;
    let advanced = format!(
        "select confirmed_flush_lsn >= '{target}' from pg_replication_slots
         where slot_name = '{slot}'"
    );
    let idle = async {
        while database.text(&advanced).await != "t" {
            follower.step().await.unwrap();
        }
    };
    tokio::time::timeout(DEADLINE, idle).await.unwrap();
    assert!(follower.replica.events.is_empty());
    // And no false gap after a restart.
    let replica = follower.kill();
    database.run("insert into t values (1, 'a')").await;
    let mut follower = Follower::start(&database, replica).await;
    follower.catch_up(&database).await;
    assert_eq!(follower.replica.letters(), "c");
    drop(follower);
    database.drop().await;
}

#[tokio::test]
async fn timeouts_that_the_database_sets_do_not_end_us() {
    let database = Database::new(TABLE, &["public.t"]).await;
    let name = database.text("select current_database()").await;
    let is_17 = database.text("show server_version_num").await.as_str() >= "170000";
    for setting in
        ["idle_session_timeout", "transaction_timeout"].iter().take(1 + usize::from(is_17))
    {
        database.run(&format!("alter database {name} set {setting} = '50ms'")).await;
    }
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    // Its decoding takes longer than that, and so does the copy that the truth is.
    let sql = "insert into t select n, repeat('x', 100) from generate_series(1, 100000) n";
    database.run(sql).await;
    follower.catch_up(&database).await;
    let began = database.text("select now()").await;
    database.wait_for(&format!("select now() > '{began}'::timestamptz + interval '0.5 s'")).await;
    database.run("insert into t values (0, 'a')").await;
    follower.catch_up(&database).await;
    assert_eq!(follower.replica.present(), truth(&database).await);
    drop(follower);
    database.drop().await;
}

#[tokio::test]
async fn nothing_is_confirmed_that_is_not_durable() {
    let database = Database::new(TABLE, &["public.t"]).await;
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    let slot = &database.config.slot;
    let confirmed =
        format!("select confirmed_flush_lsn from pg_replication_slots where slot_name = '{slot}'");
    database.run("insert into t values (1, 'a')").await;
    let after = database.text("select pg_current_wal_lsn()").await;
    // Delivered, and never confirmed, for longer than it takes to say so.
    let cursor = loop {
        let cursor = follower.take().await.unwrap();
        if !follower.replica.events.is_empty() {
            break cursor;
        }
    };
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let held = database.text(&format!("select '{after}'::pg_lsn > ({confirmed})")).await;
    assert_eq!(held, "t");
    let upto = cursor.confirm;
    follower.source.confirm(cursor).await.unwrap();
    database.wait_for(&format!("select ({confirmed}) >= '{upto}'")).await;
    drop(follower);
    database.drop().await;
}

/// E8, with a second one of ours; with another program: [`crate::slots`].
#[tokio::test]
async fn one_process_reads_and_the_next_waits() {
    let database = Database::new(TABLE, &["public.t"]).await;
    let first = PostgresSource::open(database.config.clone()).await.unwrap();
    let mut second = Box::pin(PostgresSource::open(database.config.clone()));
    let waited = tokio::time::timeout(Duration::from_millis(1500), second.as_mut()).await;
    assert!(waited.is_err(), "two at once");
    drop(first);
    tokio::time::timeout(DEADLINE, second).await.unwrap().unwrap();
    database.drop().await;
}

#[tokio::test]
async fn lost_connections_are_transient_and_made_again() {
    let database = Database::new(TABLE, &["public.t"]).await;
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    let kill_walsender = format!("select pg_terminate_backend({})", walsender(&database));
    let kill_lock = "select pg_terminate_backend(pid) from pg_locks
        where locktype = 'advisory' and pid <> pg_backend_pid()
        and database = (select oid from pg_database where datname = current_database())";
    for (id, kill) in [(1, kill_walsender.as_str()), (2, kill_lock)] {
        database.reader().await;
        database.run(kill).await;
        let error = loop {
            if let Err(error) = follower.step().await {
                break error;
            }
        };
        assert_eq!(error.kind(), ErrorKind::Transient, "{error:?}");
        database.run(&format!("insert into t values ({id}, 'x')")).await;
        follower.source.seek(follower.replica.cursor.clone()).await.unwrap();
        follower.catch_up(&database).await;
    }
    assert_eq!(follower.replica.letters(), "cc");
    drop(follower);
    database.drop().await;
}

#[tokio::test]
async fn tls_is_checked_as_far_as_sslmode_says() {
    let ca_file = std::env::var("ANABRANCH_TEST_POSTGRES_CA")
        .expect("set ANABRANCH_TEST_POSTGRES_CA to the authority of the test server");
    let mut database = Database::new(TABLE, &["public.t"]).await;
    let plain = database.config.url.expose().to_owned();
    let named = plain.replace("127.0.0.1", "localhost");
    let wrong = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(wrong.path(), include_str!("support/other-authority.pem")).unwrap();
    let trusted = Some(ca_file.into());
    let untrusted = Some(wrong.path().to_owned());
    let cases = [
        (&plain, "disable", None, true),
        (&plain, "prefer", None, true),
        (&plain, "require", None, true),
        (&plain, "require", untrusted.clone(), false),
        (&plain, "verify-ca", trusted.clone(), true),
        (&plain, "verify-ca", untrusted.clone(), false),
        (&named, "verify-full", trusted, true),
        (&named, "verify-full", untrusted, false),
        (&named, "verify-full", None, false),
    ];
    for (url, mode, ca_file, good) in cases {
        database.config.url = format!("{url}?sslmode={mode}").into();
        database.config.ca_file = ca_file;
        let opened = PostgresSource::open(database.config.clone()).await;
        match opened {
            Ok(mut source) => {
                assert!(good, "{mode} must not trust this server");
                source.seek(None).await.unwrap();
                source.next().await.unwrap().unwrap();
            }
            Err(error) => {
                assert!(!good, "{mode}: {error:?}");
                assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
            }
        }
    }
    database.drop().await;
}
