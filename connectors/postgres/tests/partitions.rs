//! Partitions, children, filters, column lists, generated columns and TRUNCATE: what a publication
//! makes of a table.

use anabranch_core::{Change, ErrorKind, Event};
use anabranch_postgres::check;

use crate::support::{Database, Follower, Replica, truth};

async fn follow(sql: &str, tables: &[&str]) -> (Database, Follower) {
    let database = Database::new(sql, tables).await;
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    (database, follower)
}

async fn equal(database: Database, mut follower: Follower, letters: &str) {
    follower.catch_up(&database).await;
    assert_eq!(follower.replica.letters(), letters);
    assert_eq!(follower.replica.present(), truth(&database).await);
    drop(follower);
    database.drop().await;
}

async fn is_version(database: &Database, version: u32) -> bool {
    let query = format!("select current_setting('server_version_num')::int >= {version}");
    database.text(&query).await == "t"
}

fn columns(replica: &Replica) -> Vec<String> {
    let table = replica.tables.values().next_back().unwrap();
    table.columns.iter().map(|column| column.name.clone()).collect()
}

fn shows(event: &Event, needle: &str) -> bool {
    let Change::Row { before, after, .. } = &event.change else { return false };
    let needle = needle.as_bytes();
    let holds = |row: &bytes::Bytes| row.windows(needle.len()).any(|window| window == needle);
    before.iter().chain(after).any(holds)
}

/// E27, of a partition: it decides what its own changes say of the old row.
#[tokio::test]
async fn a_partition_whose_identity_becomes_an_index_stops_by_name() {
    let sql = "create table m (id int, code int not null, d int, note text, primary key (id, d))
            partition by range (d);
        create table m_1 partition of m for values from (0) to (100);
        create unique index m_1_code on m_1 (code, d);
        insert into m values (1, 10, 1, 'a'), (2, 20, 2, 'b')";
    let (database, mut follower) = follow(sql, &["public.m"]).await;
    database.run("alter table m_1 replica identity using index m_1_code").await;
    // A key of the table that is no part of the index: the old one is not sent.
    database.run("update m set id = 7 where id = 1").await;
    let error = follower.failure().await;
    assert_eq!(error.kind(), ErrorKind::Lost, "{error:?}");
    let report = error.report();
    assert!(report.contains("public.m_1") && report.contains("REPLICA IDENTITY DEFAULT"));
    assert_eq!(follower.replica.letters(), "", "nothing of it is in the log");
    drop(follower);
    database.drop().await;
}

/// E32: one message, several tables, a cascade; nothing of what was rolled back.
#[tokio::test]
async fn a_truncate_takes_its_tables_and_no_more() {
    let sql = "create table p (id serial primary key, n int);
        create table c (id int primary key, p int references p);
        create table other (id int primary key);
        insert into p (n) values (1), (2); insert into c values (1, 1); insert into other values (1)";
    let tables = ["public.p", "public.c", "public.other"];
    let (database, mut follower) = follow(sql, &tables).await;
    database.run("begin; truncate other; rollback").await;
    database.run("begin; savepoint s; truncate other; rollback to s; commit").await;
    database.run("truncate p restart identity cascade").await;
    follower.catch_up(&database).await;
    assert_eq!(follower.replica.letters(), "tt");
    assert_eq!(follower.replica.present().len(), 1, "the other table");
    database
        .run(
            "begin; insert into p (n) values (3); truncate p, other cascade;
             insert into p (n) values (4); insert into other values (5); commit;
             insert into c values (7, 2)",
        )
        .await;
    equal(database, follower, "ttctttccc").await;
}

/// E32: a TRUNCATE that comes again does not take the rows that were inserted after it.
#[tokio::test]
async fn a_truncate_that_is_delivered_again_keeps_later_rows() {
    let sql = "create table t (id int primary key, n int); insert into t values (1, 1), (2, 2)";
    let (database, mut follower) = follow(sql, &["public.t"]).await;
    let before = follower.replica.cursor.clone();
    database
        .run("begin; insert into t values (3, 3); truncate t; insert into t values (4, 4); commit")
        .await;
    database.run("insert into t values (5, 5)").await;
    while follower.replica.letters().len() < 4 {
        follower.take().await.unwrap();
    }
    let rows = follower.replica.present();
    assert_eq!(rows.len(), 2);
    let mut follower = Follower::start(&database, follower.kill().back_at(before)).await;
    while follower.replica.letters().len() < 8 {
        follower.take().await.unwrap();
        let held = follower.replica.present();
        assert!(rows.iter().all(|(key, row)| held.get(key) == Some(row)));
    }
    assert_eq!(follower.replica.present(), truth(&database).await);
    drop(follower);
    database.drop().await;
}

const ORDERS: &str = "
    create table m (id int, day date, note text, primary key (id, day)) partition by range (day);
    create table m_1 partition of m for values from ('2026-01-01') to ('2026-02-01');
    create table m_2 (note text, gone int, day date not null, id int not null);
    alter table m_2 drop column gone;
    alter table m attach partition m_2 for values from ('2026-02-01') to ('2026-03-01');
    insert into m values (1, '2026-01-05', 'a'), (2, '2026-02-05', 'b')";

/// E33: rows come under the root, in its order; one that moves is deleted and created.
#[tokio::test]
async fn partitions_are_one_table() {
    let (database, follower) = follow(ORDERS, &["public.m"]).await;
    database
        .run("insert into m values (3, '2026-02-07', 'c'); update m set note = 'B' where id = 2")
        .await;
    database.run("update m set day = '2026-02-05' where id = 1; delete from m where id = 3").await;
    assert_eq!(columns(&follower.replica), ["id", "day", "note"]);
    equal(database, follower, "cudcd").await;
}

/// E33: a publication that sends partitions under their own names is refused, whenever that begins.
#[tokio::test]
async fn partitions_under_their_own_names_are_refused() {
    let sql = format!("{ORDERS}; create publication anabranch for table m");
    let database = Database::new(&sql, &["public.m"]).await;
    let error = Follower::try_start(&database, Replica::default()).await.err().unwrap();
    let mend = "SET (publish_via_partition_root = true);";
    assert!(error.report().contains("public.m") && error.report().contains(mend), "{error:?}");
    assert!(check(&database.config, None).await.iter().any(|finding| finding.help.contains(mend)));
    database.run("alter publication anabranch set (publish_via_partition_root = true)").await;
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    database.run("alter publication anabranch set (publish_via_partition_root = false)").await;
    database.run("insert into m values (9, '2026-02-07', 'lost?')").await;
    let error = loop {
        if let Err(error) = follower.step().await {
            break error;
        }
    };
    assert_eq!(error.kind(), ErrorKind::Lost);
    assert!(error.report().contains("partition public.m_2"), "{error:?}");
    assert_eq!(follower.replica.letters(), "", "not passed over");
    drop(follower);
    database.drop().await;
}

/// E33, E34: what happens to a partition as a whole is not sent. Nothing wrong is made of that: no row
/// is invented, and what comes later is right. The difference itself is for a repair to mend.
#[tokio::test]
async fn whole_partitions_come_and_go_without_a_wrong_event() {
    let (database, mut follower) = follow(ORDERS, &["public.m"]).await;
    database
        .run(
            "create table m_3 (id int not null, day date not null, note text);
             insert into m_3 values (30, '2026-03-05', 'c');
             alter table m attach partition m_3 for values from ('2026-03-01') to ('2026-04-01')",
        )
        .await;
    if !is_version(&database, 150_000).await {
        // A walsender of 14 that has met a table before it was attached does not learn that it was.
        follower.catch_up(&database).await;
        follower = Follower::start(&database, follower.kill()).await;
    }
    database.run("update m set note = 'C' where id = 30").await;
    follower.catch_up(&database).await;
    assert_eq!(follower.replica.letters(), "u");
    database
        .run("alter table m detach partition m_1; insert into m_1 values (4, '2026-01-06', 'x')")
        .await;
    database.run("update m_1 set note = 'apart'; truncate m_2; drop table m_3").await;
    database.run("insert into m values (5, '2026-02-06', 'later')").await;
    follower.catch_up(&database).await;
    assert_eq!(follower.replica.letters(), "uc", "the rows that left are still there, and no more");
    assert_eq!(follower.replica.present().len(), 4);
    assert!(!follower.replica.events.iter().any(|event| shows(event, "apart")));
    database.run("truncate m").await;
    equal(database, follower, "uct").await;
}

/// A table that inherits is another table, whose rows are its own.
#[tokio::test]
async fn children_of_an_inherited_table_are_tables_of_their_own() {
    let sql = "create table parent (id int primary key, n int);
        create table child (extra text) inherits (parent);
        insert into parent values (1, 1); insert into child values (1, 1, 'keyless')";
    let (database, follower) = follow(sql, &["public.parent"]).await;
    // It has no key, and its updates would fail if it were published along with its parent.
    database
        .run("update child set n = 2; delete from child; insert into child values (2, 2, 'x')")
        .await;
    database.run("update parent set n = n + 1").await;
    let published = "select string_agg(tablename, ',') from pg_publication_tables";
    assert_eq!(database.text(published).await, "parent");
    equal(database, follower, "u").await;
}

/// E35: under FULL a filter may look at any column; rows enter and leave it.
#[tokio::test]
async fn rows_enter_and_leave_a_filter() {
    let sql = "create table f (id int primary key, st text); alter table f replica identity full;
               insert into f values (1, 'live'), (2, 'draft')";
    let database = Database::new(sql, &["public.f"]).await;
    if !is_version(&database, 150_000).await {
        return database.drop().await;
    }
    database.run("create publication anabranch for table f where (st = 'live')").await;
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    assert_eq!(follower.replica.present().len(), 1);
    database
        .run("update f set st = 'draft' where id = 1; update f set st = 'live' where id = 2")
        .await;
    database.run("update f set id = 3 where id = 2; insert into f values (4, 'draft')").await;
    equal(database, follower, "dcdc").await;
}

/// E36: a column that is not in the list is nowhere, and an update of it alone is an update.
#[tokio::test]
async fn a_column_list_is_followed() {
    let sql = "create table s (id int primary key, a text, secret text);
               insert into s values (1, 'a', 'SECRET'), (2, 'b', 'SECRET')";
    let database = Database::new(sql, &["public.s"]).await;
    if !is_version(&database, 150_000).await {
        return database.drop().await;
    }
    database.run("create publication anabranch for table s (a)").await;
    let error = Follower::try_start(&database, Replica::default()).await.err().unwrap();
    assert!(error.report().contains("a column of its key is not published"), "{error:?}");
    database.run("alter publication anabranch set table s (id, a)").await;
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    database
        .run("update s set secret = 'SECRET too' where id = 1; delete from s where id = 2")
        .await;
    database.run("alter table s add column later int; update s set a = 'c' where id = 1").await;
    follower.catch_up(&database).await;
    assert_eq!(columns(&follower.replica), ["id", "a"]);
    assert!(!follower.replica.events.iter().any(|event| shows(event, "SECRET")));
    equal(database, follower, "udu").await;
}

/// E37: generated columns are not there, until a publication sends the stored ones (PostgreSQL 18).
#[tokio::test]
async fn generated_columns_come_if_they_are_published() {
    let sql =
        "create table g (id int primary key, n int, twice int generated always as (n * 2) stored,
                 big text generated always as (repeat('x', 100) || n::text) stored, note text);
               insert into g (id, n) values (1, 1), (2, 2)";
    let (database, mut follower) = follow(sql, &["public.g"]).await;
    assert_eq!(columns(&follower.replica), ["id", "n", "note"]);
    database.run("update g set n = 5 where id = 1").await;
    if !is_version(&database, 180_000).await {
        return equal(database, follower, "u").await;
    }
    follower.catch_up(&database).await;
    assert_eq!(follower.replica.letters(), "u");
    drop(follower);
    database.drop().await;
    let sql =
        "create table g (id int primary key, n int, twice int generated always as (n * 2) stored,
                 v int generated always as (n * 3) virtual,
                 big text generated always as (repeat('x' || id, 9000)) stored);
               alter table g alter column big set storage external;
               insert into g (id, n) values (1, 1), (2, 2);
               create publication anabranch for table g with (publish_generated_columns = stored)";
    let (database, mut follower) = follow(sql, &["public.g"]).await;
    assert_eq!(columns(&follower.replica), ["id", "n", "twice", "big"]);
    database.run("update g set n = 5 where id = 1").await;
    follower.catch_up(&database).await;
    assert!(follower.replica.repairs.is_empty());
    // It ends, and begins again, while the stream runs.
    database.run("alter publication anabranch set (publish_generated_columns = none)").await;
    database.run("update g set n = 6 where id = 1").await;
    follower.catch_up(&database).await;
    assert_eq!(columns(&follower.replica), ["id", "n"]);
    database.run("alter publication anabranch set (publish_generated_columns = stored)").await;
    database.run("update g set n = 7").await;
    follower.catch_up(&database).await;
    assert_eq!(columns(&follower.replica), ["id", "n", "twice", "big"]);
    equal(database, follower, "uuuu").await;
}
