//! What `anabranch check` finds on live servers: each trouble with the SQL that mends it.

mod pooler;

use anabranch_core::{Finding, Level};
use anabranch_postgres::{PostgresConfig, check};

use crate::support::{Cluster, Database, Follower, Replica};

const TABLE: &str = "create table t (id int primary key, v text)";

/// There is a finding of this level and subject that has `needle` in what was seen or what helps.
#[track_caller]
pub(crate) fn finds(findings: &[Finding], (level, subject): (Level, &str), needle: &str) {
    let subject = format!("source: {subject}");
    let found = findings.iter().any(|found| {
        found.level == level
            && found.subject == subject
            && (found.seen.contains(needle) || found.help.contains(needle))
            && (found.help.is_empty() == (level == Level::Fine))
    });
    assert!(found, "{level} {subject} {needle}: {findings:#?}");
}

/// As a role of the database's own, made by `sql` in which `ROLE` stands for it.
async fn as_role(database: &Database, sql: &str) -> PostgresConfig {
    let role = database.config.slot.clone();
    database.run(&sql.replace("ROLE", &role)).await;
    let (_, server) = database.config.url.expose().rsplit_once('@').unwrap();
    let url = format!("postgres://{role}:p@{server}").into();
    PostgresConfig { url, ..database.config.clone() }
}

/// The SQL for the publication can be run, and does the application no harm, whatever else is to be
/// mended.
#[tokio::test]
async fn the_sql_for_a_publication_leaves_out_what_must_be_mended_first() {
    let database = Database::new(
        "create table t (id int primary key); create table keyless (id int);
         create unlogged table u (id int primary key); create view w as select 1 as id;
         insert into keyless values (1)",
        &["public.t", "public.keyless", "public.u", "public.w"],
    )
    .await;
    let grants = "create role ROLE login replication password 'p';
        grant select on all tables in schema public to ROLE";
    let config = as_role(&database, grants).await;
    let findings = check(&config, None).await;
    let without = "without public.keyless, public.u, public.w: mend that first";
    finds(&findings, (Level::Blocker, "publication"), without);
    let help = findings.iter().find_map(|found| found.help.split_once("on the database: "));
    let sql = help.unwrap().1.split_once(';').unwrap().0;
    database.run(&format!("{sql}; update keyless set id = 2")).await;
    let role = &database.config.slot;
    database.run(&format!("drop owned by {role}; drop role {role}")).await;
    database.drop().await;
}

#[tokio::test]
async fn settings_of_the_server() {
    let mut cluster = Cluster::new(&[
        ("wal_level", "replica"),
        ("wal_sender_timeout", "2s"),
        ("logical_decoding_work_mem", "64kB"),
        ("max_replication_slots", "1"),
        ("synchronous_standby_names", "'*'"),
        ("synchronous_commit", "local"),
    ])
    .await;
    let database = cluster.database(TABLE, &["public.t"]).await;
    let findings = check(&database.config, None).await;
    finds(&findings, (Level::Blocker, "server"), "ALTER SYSTEM SET wal_level = logical");
    finds(&findings, (Level::Blocker, "server"), "synchronous_standby_names");
    finds(&findings, (Level::Risk, "wal_sender_timeout"), "wal_sender_timeout = '60s'");
    finds(&findings, (Level::Risk, "logical_decoding_work_mem"), "'64MB'");
    finds(&findings, (Level::Risk, "max_slot_wal_keep_size"), "fills the disk");
    finds(&findings, (Level::Fine, "max_replication_slots"), "1 of 1 free");
    finds(&findings, (Level::Fine, "pooler"), "PostgreSQL itself");
    finds(&findings, (Level::Fine, "failover"), "no standby");
    cluster.run("select pg_create_physical_replication_slot('taken')").await;
    let mut config = database.config.clone();
    config.wal_guard.retained_bytes_max = Some(1 << 30);
    config.wal_guard.drop_slot = true;
    let findings = check(&config, None).await;
    finds(&findings, (Level::Blocker, "max_replication_slots"), "max_replication_slots = '10'");
    finds(&findings, (Level::Fine, "max_slot_wal_keep_size"), "the WAL guard drops the slot");
    cluster.stop().await;
    cluster
        .set(&[
            ("wal_level", "logical"),
            ("synchronous_standby_names", "''"),
            ("max_slot_wal_keep_size", "100MB"),
            ("wal_sender_timeout", "0"),
        ])
        .await;
    cluster.start().await;
    let findings = check(&database.config, None).await;
    finds(&findings, (Level::Fine, "server"), "wal_level logical");
    finds(&findings, (Level::Risk, "max_slot_wal_keep_size"), "a short stop");
    finds(&findings, (Level::Risk, "wal_sender_timeout"), "off");
}

#[tokio::test]
async fn a_standby_and_what_it_lacks_for_a_failover() {
    let cluster = Cluster::new(&[]).await;
    let standby = cluster.standby("second", &[("hot_standby_feedback", "off")]).await;
    let database = cluster.database(TABLE, &["public.t"]).await;
    standby.has_replayed(&cluster.position().await).await;
    let there = PostgresConfig { url: standby.url().into(), ..database.config.clone() };
    let findings = check(&there, None).await;
    finds(&findings, (Level::Blocker, "server"), "it is a standby");
    let findings = check(&database.config, None).await;
    let version: u32 = cluster.text("show server_version_num").await.parse().unwrap();
    if version < 170_000 {
        finds(&findings, (Level::Risk, "failover"), "PostgreSQL 17");
        return;
    }
    finds(&findings, (Level::Risk, "failover"), "synchronized_standby_slots = 'second'");
    finds(&findings, (Level::Risk, "failover"), "hot_standby_feedback = on");
    let slot = &database.config.slot;
    cluster.set(&[("synchronized_standby_slots", "'second'")]).await;
    standby.set(&[("hot_standby_feedback", "on")]).await;
    cluster
        .wait_for("select xmin is not null from pg_replication_slots where slot_name = 'second'")
        .await;
    cluster.wait_for("select current_setting('synchronized_standby_slots') = 'second'").await;
    let ready = check(&database.config, None).await;
    finds(&ready, (Level::Fine, "failover"), "sync_replication_slots");
    database.run(&format!("select pg_create_logical_replication_slot('{slot}', 'pgoutput')")).await;
    let findings = check(&database.config, None).await;
    finds(&findings, (Level::Risk, "failover"), "FAILOVER true");
}

/// E28: whoever made it, a publication under which the application's own changes fail is named,
/// and every table with it.
#[tokio::test]
async fn publications_that_harm_the_application() {
    let database = Database::new(
        &format!(
            "{TABLE};
             create table keyless (id int);
             create table late (id int primary key deferrable);
             create table bare (id int primary key); alter table bare replica identity nothing;
             create table gone (id int not null unique);
             alter table gone replica identity using index gone_id_key;
             alter table gone drop constraint gone_id_key;
             create table whole (id int); alter table whole replica identity full;
             create publication all_of_them for all tables;
             create publication inserts for table keyless with (publish = 'insert')"
        ),
        &["public.t"],
    )
    .await;
    for table in ["keyless", "late", "bare", "gone"] {
        let error = database.client.batch_execute(&format!("delete from {table}")).await;
        let error = error.expect_err("the server refuses it").as_db_error().unwrap().to_string();
        assert!(error.contains("replica identity"), "{error}");
    }
    let findings = check(&database.config, None).await;
    let subject = (Level::Risk, "publication all_of_them");
    for table in ["bare", "gone", "keyless", "late"] {
        let sql = format!("ALTER TABLE public.{table} REPLICA IDENTITY FULL;");
        finds(&findings, subject, &sql);
    }
    finds(&findings, subject, "FOR ALL TABLES");
    let harmless = |name: &str| !findings.iter().any(|found| found.subject.contains(name));
    assert!(harmless("publication inserts"), "{findings:#?}");
    let named = findings.iter().filter(|found| found.seen.contains("fail on"));
    assert!(named.clone().count() == 1 && !named.clone().any(|f| f.help.contains("whole")));
    // Doing what it says helps.
    for found in named {
        let (_, sql) = found.help.split_once("or: ").unwrap();
        database.run(sql).await;
    }
    database.run("delete from keyless; delete from late; delete from bare; delete from gone").await;
    let config = PostgresConfig { publication: "all_of_them".into(), ..database.config.clone() };
    let findings = check(&config, None).await;
    finds(&findings, subject, "made later");
    database.run("drop publication all_of_them; drop publication inserts").await;
    database.drop().await;
}

#[tokio::test]
async fn filters_lists_and_schemas() {
    let database = Database::new(TABLE, &["public.t"]).await;
    let version: u32 = database.text("show server_version_num").await.parse().unwrap();
    if version >= 150_000 {
        database
            .run(
                "create schema shop; create table shop.keyless (id int);
                 create publication anabranch for table t where (v <> 'x');
                 create publication listed for table t (v);
                 create publication schemas for tables in schema shop",
            )
            .await;
        let findings = check(&database.config, None).await;
        finds(&findings, (Level::Risk, "publication anabranch"), "the row filter uses v");
        finds(&findings, (Level::Risk, "publication anabranch"), "public.t REPLICA IDENTITY FULL");
        finds(&findings, (Level::Risk, "publication listed"), "\"id\" in the column list");
        finds(&findings, (Level::Risk, "publication schemas"), "IN SCHEMA");
        let listed = PostgresConfig { publication: "listed".into(), ..database.config.clone() };
        finds(&check(&listed, None).await, (Level::Blocker, "publication listed"), "leaves out id");
        database.run("drop publication listed; drop publication schemas").await;
        database.run("alter publication anabranch set table t where (id > 5)").await;
        let findings = check(&database.config, None).await;
        assert!(findings.iter().all(|found| !found.seen.contains("fail on")), "{findings:#?}");
    }
    database.drop().await;
}

#[tokio::test]
async fn rights_that_are_missing() {
    let sql = "create schema shop; create table shop.t (id int primary key);
               alter table shop.t enable row level security";
    let database = Database::new(sql, &["shop.t"]).await;
    let role = database.config.slot.clone();
    let config = as_role(&database, "create role ROLE login replication password 'p'").await;
    let findings = check(&config, None).await;
    let subject = (Level::Blocker, "table shop.t");
    let usage = format!("GRANT USAGE ON SCHEMA \"shop\" TO \"{role}\";");
    let select = format!("GRANT SELECT ON \"shop\".\"t\" TO \"{role}\";");
    let rows = format!("ALTER ROLE \"{role}\" BYPASSRLS;");
    for sql in [&usage, &select, &rows] {
        finds(&findings, subject, sql);
        database.run(sql).await;
    }
    let create = "CREATE PUBLICATION \"anabranch\" FOR TABLE ONLY \"shop\".\"t\"";
    finds(&findings, (Level::Blocker, "publication"), create);
    database.run("create publication anabranch for table shop.t").await;
    let findings = check(&config, None).await;
    finds(&findings, (Level::Fine, "privileges"), "every row");
    assert!(findings.iter().all(|found| found.level < Level::Blocker), "{findings:#?}");
    let limit = as_role(&database, "alter role ROLE connection limit 2").await;
    finds(&check(&limit, None).await, (Level::Blocker, "connection limit"), "CONNECTION LIMIT -1");
    database.run(&format!("drop owned by {role}; alter role {role} nologin")).await;
    database.drop().await;
}

#[tokio::test]
async fn partitions_children_and_generated_columns() {
    let sql = "
        create table m (id int primary key, n int) partition by range (id);
        create table m_1 partition of m for values from (0) to (10);
        create unlogged table m_2 partition of m for values from (10) to (20);
        create table m_3 partition of m for values from (20) to (30);
        alter table m_3 replica identity nothing;
        create table parent (id int primary key, twice int generated always as (id * 2) stored);
        create table child () inherits (parent)";
    let database = Database::new(sql, &["public.m", "public.parent"]).await;
    let findings = check(&database.config, None).await;
    let partitioned = (Level::Blocker, "table public.m");
    finds(&findings, partitioned, "ALTER TABLE public.m_2 SET LOGGED;");
    finds(&findings, partitioned, "ALTER TABLE public.m_3 REPLICA IDENTITY DEFAULT;");
    let parent = (Level::Risk, "table public.parent");
    finds(&findings, parent, "public.child");
    finds(&findings, parent, "twice");
    database.run("alter table m_2 set logged; alter table m_3 replica identity default").await;
    let findings = check(&database.config, None).await;
    finds(&findings, (Level::Fine, "table public.m"), "primary key");
    database.drop().await;
}

#[tokio::test]
async fn what_holds_the_slot_back() {
    let cluster = Cluster::new(&[]).await;
    let database = cluster.database(TABLE, &["public.t"]).await;
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    finds(&check(&database.config, None).await, (Level::Fine, "prepared transactions"), "none");
    database.run("begin; insert into t values (1, 'a'); prepare transaction 'left'").await;
    let findings = check(&database.config, None).await;
    finds(&findings, (Level::Fine, "prepared transactions"), "the oldest is");
    finds(&findings, (Level::Fine, "slot"), "in use by anabranch");
    database.run("rollback prepared 'left'").await;
    database.run("drop publication anabranch").await;
    finds(
        &check(&database.config, None).await,
        (Level::Blocker, "publication"),
        "cannot go on without",
    );
}
