//! Sources that take in whole schemas: what is published of them is read, and what comes later, too.

use std::collections::BTreeSet;

use anabranch_core::{Epoch, Error, ErrorKind, Finding, Level};
use anabranch_postgres::{ColumnRules, LogState, OnLost, check};

use crate::support::{Database, Follower, Replica, assert_equal};

const TABLES: &str = "
    create schema shop;
    create table shop.orders (id int primary key, note text);
    create table shop.lines (id int primary key, v int) partition by range (id);
    create table shop.lines_1 partition of shop.lines for values from (0) to (1000);
    create table shop.audit (id int primary key);
    create table shop.keyless (id int);
    create unlogged table shop.scratch (id int primary key);
    create view shop.seen as select * from shop.audit;
    create table other (id int primary key);
    insert into shop.orders select g, 'note' from generate_series(1, 300) g;
    insert into shop.lines select g, g from generate_series(1, 20) g";

/// It takes in what comes by itself.
const ALL: &str = "create publication anabranch for all tables";

async fn database(sql: &str) -> Database {
    Database::new(&format!("{TABLES}; {sql}"), &["shop.*", "!shop.audit"]).await
}

async fn followed(sql: &str) -> (Database, Follower) {
    let database = database(sql).await;
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    (database, follower)
}

/// Names of the tables that the log has.
fn tables(replica: &Replica) -> Vec<String> {
    let mut names: Vec<String> = replica.tables.values().map(|table| table.full_name()).collect();
    names.sort();
    names.dedup();
    names
}

/// The stream ends because another table came, and only for that; then it goes on with it.
async fn taken_in(database: &Database, mut follower: Follower, name: &str) -> Follower {
    let error = follower.failure().await;
    assert_eq!(error.kind(), ErrorKind::Transient, "{error:?}");
    assert!(error.report().starts_with(&format!("cannot begin with {name}: ")), "{error:?}");
    let mut follower = Follower::start(database, follower.kill()).await;
    follower.catch_up(database).await;
    follower.settle().await;
    follower
}

fn log(replica: &Replica) -> LogState {
    let tables = replica.tables.values().cloned().collect();
    LogState { position: replica.cursor.clone(), tables }
}

/// What `check` says of a table that is left out.
async fn left_out(database: &Database, replica: &Replica, name: &str) -> Finding {
    let subject = format!("source: table {name}, left out");
    let found = check(&database.config, Some(&log(replica))).await.into_iter();
    let mut found = found.filter(|found| found.level == Level::Risk && found.subject == subject);
    found.next().expect("a finding")
}

async fn refused(database: &Database, replica: Replica) -> Error {
    Follower::try_start(database, replica).await.err().unwrap()
}

/// Without a publication one is made of all that can be read.
#[tokio::test]
async fn what_can_be_read_of_a_schema_is_read() {
    let (database, mut follower) = followed("").await;
    assert_eq!(tables(&follower.replica), ["shop.lines", "shop.orders"]);
    database.run("insert into shop.orders values (900); delete from shop.lines where id = 3").await;
    follower.catch_up(&database).await;
    assert_equal(&follower, &database, "the schema").await;
    drop(follower);
    database.drop().await;
}

/// A table that comes is read as one that was named: what is in it, and what happens to it.
#[tokio::test]
async fn a_table_that_is_added_to_the_publication_is_read() {
    let (database, follower) = followed("").await;
    database
        .run(
            "create table shop.late (id int primary key, v int);
             insert into shop.late select g, 1 from generate_series(1, 500) g;
             alter publication anabranch add table shop.late;
             update shop.late set v = 2 where id <= 100; delete from shop.late where id = 400",
        )
        .await;
    let mut follower = taken_in(&database, follower, "shop.late").await;
    database
        .run("update shop.late set v = 3 where id = 7; insert into shop.late values (501)")
        .await;
    follower.catch_up(&database).await;
    assert_eq!(tables(&follower.replica), ["shop.late", "shop.lines", "shop.orders"]);
    assert_equal(&follower, &database, "with the new table").await;
    drop(follower);
    database.drop().await;
}

/// Such a table must not be missed in silence, as if it were not published.
#[tokio::test]
async fn a_partitioned_table_that_comes_by_its_partitions_is_left_out_by_name() {
    let (database, follower) = followed(ALL).await;
    assert_eq!(tables(&follower.replica), ["shop.orders"]);
    let found = left_out(&database, &follower.replica, "shop.lines").await;
    assert!(found.help.contains("publish_via_partition_root = true"), "{found:?}");
    drop(follower);
    database.drop().await;
}

/// Where the publication takes in what comes by itself, nobody has to do anything.
#[tokio::test]
async fn a_table_that_is_created_is_read() {
    let (database, follower) =
        followed(&format!("{ALL} with (publish_via_partition_root = true)")).await;
    assert_eq!(tables(&follower.replica), ["shop.lines", "shop.orders"]);
    // Not ours: what is left out, what is elsewhere, and what cannot be followed.
    database
        .run(
            "create table public.more (id int primary key); create table shop.more (id int);
             create table shop.new (id int primary key); insert into shop.new values (1), (2)",
        )
        .await;
    let mut follower = taken_in(&database, follower, "shop.new").await;
    assert_eq!(tables(&follower.replica), ["shop.lines", "shop.new", "shop.orders"]);
    // And one that can be followed from now on.
    database
        .run("insert into shop.more values (1); alter table shop.more add primary key (id)")
        .await;
    follower = taken_in(&database, follower, "shop.more").await;
    database.run("delete from shop.new where id = 1; insert into shop.more values (2)").await;
    follower.catch_up(&database).await;
    assert_equal(&follower, &database, "with both tables").await;
    drop(follower);
    database.drop().await;
}

/// What the log has is not let go of in silence, as what it has not is passed over.
#[tokio::test]
async fn a_table_that_was_read_is_followed_or_named() {
    let (database, follower) = followed("").await;
    let replica = follower.release(&database).await;
    database.run("alter publication anabranch drop table shop.lines").await;
    let error = refused(&database, replica.twin()).await;
    assert!(error.report().contains("ADD TABLE \"shop\".\"lines\""), "{error:?}");
    database
        .run("alter publication anabranch drop table shop.orders; alter table shop.orders set unlogged")
        .await;
    let error = refused(&database, replica.twin()).await;
    assert!(error.report().contains("SET LOGGED"), "{error:?}");
    database
        .run("alter table shop.orders set logged; alter table shop.orders set schema public")
        .await;
    let error = refused(&database, replica.twin()).await;
    assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
    assert!(error.report().contains("its name is public.orders now"), "{error:?}");
    database.run("alter table public.orders set schema shop; drop table shop.orders").await;
    // Nobody has named that one, so there is nothing to take out.
    let mut database = database;
    database.config.tables.push("!shop.lines".into());
    let mut follower = Follower::start(&database, replica).await;
    follower.catch_up(&database).await;
    drop(follower);
    database.drop().await;
}

/// The log has the new name by the next start; the old one is what was to be read.
#[tokio::test]
async fn a_table_that_leaves_the_schema_while_it_is_read_is_named_at_the_next_start() {
    let (mut database, mut follower) = followed("").await;
    database
        .run("alter table shop.orders set schema public; insert into orders values (900)")
        .await;
    follower.catch_up(&database).await;
    assert_eq!(tables(&follower.replica), ["public.orders", "shop.lines", "shop.orders"]);
    let replica = follower.release(&database).await;
    let error = refused(&database, replica.twin()).await;
    assert!(error.report().contains("its name is public.orders now"), "{error:?}");
    let found = check(&database.config, Some(&log(&replica))).await;
    let is_said = |found: &Finding| found.seen.contains("its name is public.orders now");
    assert!(found.iter().any(is_said), "{found:?}");
    assert!(found.iter().any(|found| found.subject == "source: slot"), "{found:?}");
    let named = replica.twin();
    named.log.stands_at(named.cursor.clone());
    database.config.tables.push("!shop.orders".into());
    let mut follower = Follower::start(&database, named).await;
    follower.catch_up(&database).await;
    drop(follower);
    database.drop().await;
}

/// Rules are found by name: under another one, what is left out would come.
#[tokio::test]
async fn a_table_is_not_read_without_the_rules_of_its_old_name() {
    let mut database = database("").await;
    let rules = ColumnRules { exclude: vec!["note".into()], ..ColumnRules::default() };
    database.config.columns.insert("shop.orders".into(), rules);
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    database
        .run("alter table shop.orders rename to sales; insert into shop.sales values (900)")
        .await;
    follower.catch_up(&database).await;
    let columns = follower.replica.tables.values().flat_map(|table| &table.columns);
    assert!(columns.into_iter().all(|column| column.name != "note"));
    let error = refused(&database, follower.release(&database).await).await;
    assert!(error.report().contains("its name is shop.sales now"), "{error:?}");
    database.drop().await;
}

/// It can be followed from the first start only; what the others need is not asked for, either.
#[tokio::test]
async fn a_rule_for_a_table_that_comes_too_late_changes_nothing() {
    let (mut database, follower) = followed("").await;
    let replica = follower.release(&database).await;
    database.config.append_only = vec!["shop.keyless".into()];
    let mut follower = Follower::start(&database, replica).await;
    database.run("insert into shop.keyless values (1); insert into shop.orders values (900)").await;
    follower.catch_up(&database).await;
    assert_eq!(tables(&follower.replica), ["shop.lines", "shop.orders"]);
    let found = check(&database.config, Some(&log(&follower.replica))).await;
    let is_named = |found: &Finding| found.seen.contains("a rule for shop.keyless");
    assert!(found.iter().any(is_named), "{found:?}");
    drop(follower);
    database.drop().await;
}

/// A history that begins copies what is there, as if it had been named; and no more than was read.
#[tokio::test]
async fn a_history_that_begins_again_has_the_tables_of_the_schema() {
    let (mut database, follower) = followed("").await;
    let replica = follower.release(&database).await;
    database
        .run(
            "select pg_drop_replication_slot(current_database()); drop publication anabranch;
             drop table shop.lines; create table shop.lines (id int primary key);
             insert into shop.lines values (5); create table shop.more (id int primary key)",
        )
        .await;
    database.config.on_lost = OnLost::Snapshot;
    let mut follower = Follower::start(&database, replica).await;
    follower.catch_up(&database).await;
    assert_eq!(follower.replica.cursor.as_ref().unwrap().epoch, Epoch(1));
    let published =
        "select string_agg(tablename, ',' order by tablename) from pg_publication_tables";
    assert_eq!(database.text(published).await, "orders", "nobody has published the others");
    let replica = follower.release(&database).await;
    database
        .run(
            "alter publication anabranch add table shop.lines;
             select pg_drop_replication_slot(current_database())",
        )
        .await;
    let mut follower = Follower::start(&database, replica).await;
    follower.catch_up(&database).await;
    assert_eq!(follower.replica.cursor.as_ref().unwrap().epoch, Epoch(2));
    let lines = follower.replica.tables.values().filter(|table| table.name == "lines");
    let oids: BTreeSet<u32> = lines.map(|table| table.oid).collect();
    assert_eq!(oids.len(), 2, "the table, and the one before it");
    let keys = follower.replica.present().into_keys();
    let oid: u32 = database.text("select 'shop.lines'::regclass::oid").await.parse().unwrap();
    assert_eq!(keys.filter(|(table, _)| *table == oid).count(), 1);
    drop(follower);
    database.drop().await;
}

/// A table of a name that the log has ends nothing: whoever made it may not know of us.
#[tokio::test]
async fn a_table_that_is_created_again_is_left_out() {
    let (database, mut follower) = followed("").await;
    // While it is read, and while it is not.
    database
        .run(
            "drop table shop.lines; create table shop.lines (id int primary key);
             alter publication anabranch add table shop.lines; insert into shop.lines values (5);
             insert into shop.orders values (901)",
        )
        .await;
    follower.catch_up(&database).await;
    let replica = follower.release(&database).await;
    database.run("insert into shop.lines values (6)").await;
    follower = Follower::start(&database, replica).await;
    follower.catch_up(&database).await;
    let found = left_out(&database, &follower.replica, "shop.lines").await;
    assert!(found.seen.contains("another table of that name"), "{found:?}");
    assert!(found.help.contains("\"!shop.lines\""), "{found:?}");
    drop(follower);
    database.drop().await;
}

#[tokio::test]
async fn a_schema_without_a_table_to_read_is_refused() {
    let database = Database::new("create schema shop", &["shop.*"]).await;
    let error = refused(&database, Replica::default()).await;
    assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
    assert!(error.report().contains("there is none that is published"), "{error:?}");
    database.run("create table shop.keyless (id int)").await;
    let error = refused(&database, Replica::default()).await;
    assert!(error.report().contains("shop.keyless"), "{error:?}");
    let found = check(&database.config, None).await;
    let is_blocked =
        |found: &Finding| found.level == Level::Blocker && found.subject == "source: tables";
    assert!(found.iter().any(is_blocked), "{found:?}");
    database.drop().await;
}
