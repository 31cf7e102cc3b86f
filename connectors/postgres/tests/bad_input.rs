//! Bad input: one clear line that says what to do, and nothing half-created.

use anabranch_core::{Error, ErrorKind, Level, Source};
use anabranch_postgres::{PostgresConfig, PostgresSource, check};

use crate::support::{Database, Follower, Replica};

const TABLE: &str = "create table t (id int primary key, v text)";

async fn refused(config: PostgresConfig) -> Error {
    let mut source = match PostgresSource::open(config).await {
        Ok(source) => source,
        Err(error) => return error,
    };
    source.seek(None).await.expect_err("it must not start")
}

/// It is refused, with `needle` in the one line, and `check` finds it, too.
async fn refuses(database: &Database, config: PostgresConfig, needle: &str) {
    let error = refused(config.clone()).await;
    assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
    let report = error.report();
    assert!(report.contains(needle) && !report.contains('\n'), "{report}");
    assert!(error.help().is_some(), "{report}");
    let findings = check(&config, None).await;
    let found = |level: Level| findings.iter().filter(move |finding| finding.level == level);
    let text = |f: &anabranch_core::Finding| format!("{} {} {}", f.subject, f.seen, f.help);
    assert!(found(Level::Blocker).any(|f| text(f).contains(needle)), "{findings:?}");
    let nothing = format!(
        "select not exists (select from pg_replication_slots where slot_name = '{}')",
        database.config.slot
    );
    assert_eq!(database.text(&nothing).await, "t");
}

fn with_tables(database: &Database, tables: &[&str]) -> PostgresConfig {
    let tables = tables.iter().map(|name| (*name).to_owned()).collect();
    PostgresConfig { tables, ..database.config.clone() }
}

#[tokio::test]
async fn tables_that_cannot_be_read() {
    let database = Database::new(
        "create table t (id int primary key);
         create table keyless (id int);
         create table late (id int primary key deferrable);
         create table nothing (id int primary key); alter table nothing replica identity nothing;
         create unlogged table fast (id int primary key);
         create table m (id int primary key) partition by hash (id);
         create table m_0 partition of m for values with (modulus 1, remainder 0);
         create view v as select 1 as id",
        &["public.t"],
    )
    .await;
    let cases = [
        ("public.missing", "no such table"),
        ("public.keyless", "ADD PRIMARY KEY"),
        ("public.late", "deferrable"),
        ("public.nothing", "REPLICA IDENTITY DEFAULT"),
        ("public.fast", "SET LOGGED"),
        ("public.m_0", "partition"),
        ("public.v", "not a table"),
        ("t", "schema.table"),
    ];
    for (table, needle) in cases {
        refuses(&database, with_tables(&database, &["public.t", table]), needle).await;
    }
    assert_eq!(database.text("select count(*) from pg_publication").await, "0");
    database.drop().await;
}

#[tokio::test]
async fn publications_that_leave_something_out() {
    let database = Database::new(
        &format!(
            "{TABLE}; create table u (id int primary key);
             create table m (id int primary key) partition by hash (id);
             create publication less for table t, m with (publish = 'insert');
             create publication other for table u"
        ),
        &["public.t"],
    )
    .await;
    let less = |tables: &[&str]| PostgresConfig {
        publication: "less".into(),
        ..with_tables(&database, tables)
    };
    refuses(&database, less(&["public.t"]), "publish = 'insert, update, delete, truncate'").await;
    refuses(&database, less(&["public.m"]), "ALTER PUBLICATION").await;
    let other = PostgresConfig { publication: "other".into(), ..database.config.clone() };
    refuses(&database, other, "does not publish public.t").await;
    database.drop().await;
}

#[tokio::test]
async fn roles_that_may_not() {
    let database = Database::new(TABLE, &["public.t"]).await;
    let role = &database.config.slot;
    let as_role = |password: &str| {
        let url = database.config.url.expose();
        let (_, server) = url.rsplit_once('@').unwrap();
        let url = format!("postgres://{role}:{password}@{server}");
        PostgresConfig { url: url.into(), ..database.config.clone() }
    };
    refuses(&database, as_role("wrong"), "password").await;
    database.run(&format!("create role {role} login password 'p'")).await;
    refuses(&database, as_role("wrong"), "password").await;
    refuses(&database, as_role("p"), &format!("ALTER ROLE \"{role}\" REPLICATION")).await;
    database.run(&format!("alter role {role} replication")).await;
    refuses(&database, as_role("p"), "GRANT SELECT").await;
    database.run(&format!("grant select on t to {role}")).await;
    // The publication is for the owner to create; the refusal comes when it is tried.
    let findings = check(&as_role("p"), None).await;
    let sql = "CREATE PUBLICATION \"anabranch\" FOR TABLE ONLY \"public\".\"t\"";
    assert!(findings.iter().any(|f| f.help.contains(sql)), "{findings:?}");
    database.run("create publication anabranch for table t").await;
    assert!(check(&as_role("p"), None).await.iter().all(|finding| finding.level < Level::Blocker));
    let mut small = database;
    small.config = as_small(&small);
    let mut follower = Follower::start(&small, Replica::default()).await;
    small.run("insert into t values (1, 'a')").await;
    follower.catch_up(&small).await;
    drop(follower);
    let role = small.config.slot.clone();
    small.run(&format!("drop owned by {role}")).await;
    small.run(&format!("alter role {role} nologin")).await;
    small.drop().await;
}

/// The same database as the role of its own that `roles_that_may_not` made.
fn as_small(database: &Database) -> PostgresConfig {
    let (_, server) = database.config.url.expose().rsplit_once('@').unwrap();
    let url = format!("postgres://{}:p@{server}", database.config.slot);
    PostgresConfig { url: url.into(), ..database.config.clone() }
}

#[tokio::test]
async fn a_server_that_is_not_there_may_come_back() {
    let config = PostgresConfig::new("postgres://u:p@127.0.0.1:1/x", vec!["public.t".into()]);
    let error = refused(config.clone()).await;
    assert_eq!(error.kind(), ErrorKind::Transient, "{error:?}");
    assert!(error.report().contains("127.0.0.1:1/x"));
    let findings = check(&config, None).await;
    assert!(findings.iter().any(|finding| finding.level == Level::Blocker), "{findings:?}");
}

#[tokio::test]
async fn a_database_that_is_not_there() {
    let database = Database::new(TABLE, &["public.t"]).await;
    let url = database.config.url.expose().replace("anabranch_test", "nothing_like_it");
    let error = refused(PostgresConfig { url: url.into(), ..database.config.clone() }).await;
    assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
    assert!(error.report().contains("does not exist"), "{error:?}");
    database.drop().await;
}

#[tokio::test]
async fn a_source_in_order_has_no_blocker() {
    let database = Database::new(TABLE, &["public.t"]).await;
    let before = check(&database.config, None).await;
    assert!(before.iter().all(|finding| finding.level < Level::Blocker), "{before:?}");
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    let running = check(&database.config, None).await;
    assert!(running.iter().all(|finding| finding.level < Level::Blocker), "{running:?}");
    assert!(running.iter().any(|finding| finding.seen.contains("in use by anabranch")));
    drop(follower);
    database.drop().await;
}
